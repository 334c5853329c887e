//! The engine's side of the shared cache: the process `raisin-remote`, which reads and writes the object store. The
//! process starts at the first request. What the requests and replies mean is in raisin-contract; the other side is
//! src/remote.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use super::child::{self, ChildProcess, Children};
use super::graph::NodeId;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};
use raisin_contract::remote::{EXECUTABLE, RemoteMode, RemoteReply, RemoteRequest, RemoteSettings, RemoteTally};
use raisin_store::Store;
use serde_json::Value;

/// The process and the way to talk to it. Dropping the handle kills the process; an object or an artifact that it
/// writes at this moment is whole or absent.
pub struct RemoteProcess<'c> {
    process: ChildProcess<'c>,
    /// `None` after a failed write: the process has ended.
    requests: Option<ChildStdin>,
    replies: Receiver<RemoteReply>,
}

impl<'c> RemoteProcess<'c> {
    /// Starts the process. The calling thread must outlive it.
    ///
    /// # Errors
    /// The executable does not exist or cannot be started.
    pub fn start(
        children: &'c Children,
        store: &Store,
        folder: Option<&Path>,
        settings: &RemoteSettings,
    ) -> Result<Self> {
        let mut command = Command::new(child::executable_named(EXECUTABLE, folder)?);
        command.arg("serve");
        let log = store.root().join("logs/remote.log");
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let (process, requests, answers) = children.start(command, &log)?;
        let (sender, replies) = channel();
        // The thread ends with the process.
        std::thread::Builder::new().spawn(move || read(answers, &sender)).context("cannot start a thread")?;
        let mut remote = Self { process, requests: Some(requests), replies };
        remote.send(&RemoteRequest::Open { cache: store.root().to_owned(), settings: settings.clone() })?;
        Ok(remote)
    }

    pub fn send(&mut self, request: &RemoteRequest) -> Result<()> {
        let line = serde_json::to_string(request)?;
        if let Some(requests) = &mut self.requests
            && writeln!(requests, "{line}").is_err()
        {
            // The replies end too, and the reader of the replies reports the end.
            self.requests = None;
        }
        Ok(())
    }

    pub fn replies(&self) -> &Receiver<RemoteReply> {
        &self.replies
    }
}

impl Drop for RemoteProcess<'_> {
    fn drop(&mut self) {
        self.process.kill();
        // The process was killed. If waiting for the process fails, nothing more can be done.
        let _ = self.process.wait();
    }
}

/// Passes the replies on. If the process ends before it has finished, the shared cache is down.
fn read(answers: ChildStdout, replies: &Sender<RemoteReply>) {
    for line in BufReader::new(answers).lines().map_while(Result::ok) {
        let Ok(reply) = serde_json::from_str::<RemoteReply>(&line) else { continue };
        let is_last = matches!(reply, RemoteReply::Finished(_));
        if replies.send(reply).is_err() || is_last {
            return;
        }
    }
    let cause = format!("{EXECUTABLE} ended; logs/remote.log of the cache may say why");
    // If nobody waits any more, the build has ended.
    let _ = replies.send(RemoteReply::Down { cause });
}

/// What a build asks of the shared cache, and what it knows of it.
#[derive(Default)]
pub struct RemoteCache {
    settings: Option<RemoteSettings>,
    /// Requests that are not sent yet.
    outbox: Vec<RemoteRequest>,
    /// The nodes whose look-up is not answered yet.
    pub asked: BTreeSet<NodeId>,
    /// The nodes whose files arrive.
    pub arriving: BTreeSet<NodeId>,
    is_down: bool,
    /// The uploads that were asked for.
    pub pushes: u64,
    pub tally: RemoteTally,
    /// When the first request was made, and the last answer about a stage came.
    span: Option<(Instant, Instant)>,
}

impl RemoteCache {
    pub fn new(settings: Option<RemoteSettings>) -> Self {
        Self { settings, ..Self::default() }
    }

    pub fn settings(&self) -> Option<&RemoteSettings> {
        self.settings.as_ref()
    }

    pub fn is_usable(&self) -> bool {
        self.settings.is_some() && !self.is_down
    }

    pub fn want(&mut self, node: NodeId, key: Digest, action: Value) {
        self.outbox.push(RemoteRequest::Want { node, key, action });
        self.asked.insert(node);
        let now = Instant::now();
        self.span.get_or_insert((now, now));
    }

    /// Notes that a node has its answer. Returns false if the node waits for none.
    pub fn answers(&mut self, node: NodeId) -> bool {
        if let Some((_, last)) = &mut self.span {
            *last = Instant::now();
        }
        self.asked.remove(&node)
    }

    /// The time from the first request to the last answer about a stage.
    pub fn seconds(&self) -> f64 {
        self.span.map_or(0.0, |(first, last)| (last - first).as_secs_f64())
    }

    pub fn push(&mut self, key: Digest) {
        if self.settings.as_ref().is_some_and(|settings| settings.mode == RemoteMode::ReadWrite) {
            self.pushes += 1;
            if !self.is_down {
                self.outbox.push(RemoteRequest::Push { key });
            }
        }
    }

    /// Nothing more is asked. Returns the nodes that wait for an answer.
    pub fn goes_down(&mut self) -> Vec<NodeId> {
        self.is_down = true;
        self.outbox.clear();
        std::mem::take(&mut self.asked).into_iter().collect()
    }

    /// The requests that are not sent yet.
    pub fn take_outbox(&mut self) -> Vec<RemoteRequest> {
        std::mem::take(&mut self.outbox)
    }
}
