//! The loop between a build and the shared cache: reads requests from standard input, one JSON line each, and writes
//! replies to standard output. The side of the build is engine/src/remote.rs.

use std::future::Future;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::session::{RemoteSession, RemoteTrouble, add};
use super::write::Pushed;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, bail, render};
use raisin_contract::remote::{RemoteReply, RemoteRequest, RemoteSettings, RemoteTally};
use serde_json::Value;

/// Runs something that waits for the network and for threads.
///
/// # Errors
/// The operating system refuses a thread, or the errors of `run`.
pub fn run<T>(run: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().context("cannot start a thread")?;
    let result = runtime.block_on(run);
    // A thread may still wait for a server. Nobody needs its answer.
    runtime.shutdown_background();
    result
}

/// Serves a build until it asks to finish or ends.
///
/// # Errors
/// Standard input has something that is no request.
pub async fn serve() -> Result<()> {
    let (sender, mut requests) = mpsc::unbounded_channel();
    std::thread::Builder::new().spawn(move || read_requests(&sender)).context("cannot start a thread")?;
    let session = match requests.recv().await {
        Some(Ok(RemoteRequest::Open { cache, settings })) => open(&cache, settings),
        Some(Err(error)) => return Err(error),
        Some(Ok(_)) => bail!("the first request opens the shared cache"),
        None => return Ok(()),
    };
    let Some(session) = session else {
        // The build knows that it cannot use the shared cache.
        while let Some(request) = requests.recv().await {
            if matches!(request?, RemoteRequest::Finish { .. }) {
                reply(&RemoteReply::Finished(RemoteTally::default()));
                break;
            }
        }
        return Ok(());
    };
    let mut tasks = JoinSet::new();
    while let Some(request) = requests.recv().await {
        match request? {
            RemoteRequest::Open { .. } => bail!("the shared cache is open already"),
            RemoteRequest::Finish { leaves } => {
                if leaves {
                    let uploads = &session.uploads;
                    let left = uploads.asked.load(Ordering::Relaxed) - uploads.ended.load(Ordering::Relaxed);
                    add(&session.counts.unsent, left);
                } else {
                    while tasks.join_next().await.is_some() {}
                }
                session.tell(RemoteReply::Finished(session.tally()));
                break;
            }
            request => {
                if let RemoteRequest::Push { .. } = request {
                    add(&session.uploads.asked, 1);
                }
                tasks.spawn(answer(Arc::clone(&session), request));
                while tasks.try_join_next().is_some() {}
            }
        }
    }
    Ok(())
}

fn read_requests(requests: &mpsc::UnboundedSender<Result<RemoteRequest>>) {
    for line in std::io::stdin().lock().lines() {
        let request = line
            .map_err(Into::into)
            .and_then(|line| serde_json::from_str(&line).with_context(|| format!("this line is no request: {line}")));
        if requests.send(request).is_err() {
            return;
        }
    }
}

fn reply(reply: &RemoteReply) {
    if let Ok(text) = serde_json::to_string(reply) {
        // If the build has ended, nobody reads.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}

fn open(cache: &Path, settings: RemoteSettings) -> Option<Arc<RemoteSession>> {
    match RemoteSession::open(cache, settings, Box::new(|told| reply(&told))) {
        Ok(session) => Some(Arc::new(session)),
        Err(error) => {
            let text = render(&error);
            let cause = text.strip_prefix("error: ").unwrap_or(&text).to_owned();
            reply(&RemoteReply::Down { cause });
            None
        }
    }
}

/// Answers one request. A request about a node gets exactly one answer, unless the store is down.
async fn answer(session: Arc<RemoteSession>, request: RemoteRequest) {
    let own = Arc::clone(&session);
    let (node, key) = match &request {
        RemoteRequest::Look { node, key, .. } | RemoteRequest::Want { node, key, .. } => (Some(*node), *key),
        RemoteRequest::Push { key } => (None, *key),
        RemoteRequest::Open { .. } | RemoteRequest::Finish { .. } => return,
    };
    let work = tokio::spawn(async move {
        match request {
            RemoteRequest::Look { node, key, action } => look(&own, node, key, &action).await,
            RemoteRequest::Want { node, key, action } => want(&own, node, key, &action).await,
            RemoteRequest::Push { key } => push(&own, key).await,
            RemoteRequest::Open { .. } | RemoteRequest::Finish { .. } => {}
        }
    });
    if let Err(error) = work.await {
        let reason = format!("raisin-remote itself failed: {error}");
        match node {
            Some(node) => session.tell(RemoteReply::Absent { node, reason: Some(reason) }),
            None => session.tell(RemoteReply::Warning { text: format!("warning: {}: {reason}", key.short()) }),
        }
    }
}

async fn look(session: &RemoteSession, node: usize, key: Digest, action: &Value) {
    if session.is_down() {
        return;
    }
    match session.look(key, Some(action)).await {
        Ok(Some((artifact, bytes))) => session.tell(RemoteReply::Found { node, artifact, bytes }),
        Ok(None) => session.tell(RemoteReply::Absent { node, reason: None }),
        Err(trouble) => absent(session, node, &trouble),
    }
}

async fn want(session: &RemoteSession, node: usize, key: Digest, action: &Value) {
    if session.is_down() {
        return;
    }
    match session.fetch(key, Some(action), node).await {
        Ok(Some(fetched)) => session.tell(RemoteReply::Fetched {
            node,
            artifact: fetched.artifact,
            bytes: fetched.bytes,
            received: fetched.received,
            seconds: fetched.seconds,
        }),
        Ok(None) => session.tell(RemoteReply::Absent { node, reason: None }),
        Err(trouble) => absent(session, node, &trouble),
    }
}

fn absent(session: &RemoteSession, node: usize, trouble: &RemoteTrouble) {
    let reason = match trouble {
        RemoteTrouble::Store(error) => {
            session.read_failed(error);
            None
        }
        RemoteTrouble::Content(_) | RemoteTrouble::Local(_) => {
            add(&session.counts.failures, 1);
            Some(trouble.text())
        }
    };
    session.tell(RemoteReply::Absent { node, reason });
}

/// Uploads an action, and tells what a person should know.
pub async fn push(session: &RemoteSession, key: Digest) {
    let counts = &session.counts;
    if !session.can_write() {
        add(&counts.unsent, 1);
        return add(&session.uploads.ended, 1);
    }
    match session.push(key).await {
        Ok(Pushed::Written) => add(&counts.uploaded, 1),
        Ok(Pushed::Known) => add(&counts.known, 1),
        Ok(Pushed::LeftOut(text)) => {
            add(&counts.left_out, 1);
            session.tell(RemoteReply::Note { text: format!("not uploaded: {text}") });
        }
        Err(trouble) => {
            add(&counts.unsent, 1);
            match &trouble {
                RemoteTrouble::Store(error) => session.write_failed(error),
                RemoteTrouble::Content(text) => {
                    session.tell(RemoteReply::Note { text: format!("not uploaded: {text}") });
                }
                RemoteTrouble::Local(error) => {
                    session.tell(RemoteReply::Warning { text: format!("warning: not uploaded: {error:#}") });
                }
            }
        }
    }
    add(&session.uploads.ended, 1);
    session.tell_uploads();
}
