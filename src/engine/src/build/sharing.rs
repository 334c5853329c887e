//! The part of a build that talks to the shared cache: asks for the artifacts that the local cache does not have, and
//! uploads what the build has made. The process on the other side is in remote.rs.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::super::child::Children;
use super::super::graph::NodeId;
use super::super::progress::{in_seconds, size};
use super::super::remote::RemoteProcess;
use super::super::resolve::StageLookup;
use super::super::schedule::StageState;
use super::super::told::News;
use super::{ActionDifference, Build, TICK};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, render};
use raisin_contract::remote::{RemoteReply, RemoteRequest};
use raisin_contract::{Action, Event, Progress};

impl<'a> Build<'a> {
    /// Asks the shared cache for a node that the local cache does not have. The result is that of `look_up`.
    pub(super) fn ask(
        &mut self,
        id: NodeId,
        key: Digest,
        action: Action<'a>,
        lost: Option<ActionDifference>,
    ) -> Result<Option<(Digest, Digest)>> {
        let after = self.scheduler.ask(id, key);
        if self.scheduler.state(id) == StageState::Asked {
            self.remote.want(id, key, action.to_json());
        }
        (self.work[id].action, self.work[id].lost) = (Some(action), lost);
        self.settle(id, key, after)
    }

    /// Sends the requests that wait, and starts the process for the first one.
    pub(super) fn send_to_remote<'c>(&mut self, process: &mut Option<RemoteProcess<'c>>, children: &'c Children) {
        let requests = self.remote.take_outbox();
        if requests.is_empty() {
            return;
        }
        let sent = self
            .started(process, children)
            .and_then(|process| requests.iter().try_for_each(|request| process.send(request)));
        if let Err(error) = sent {
            let text = render(&error);
            self.goes_down(text.strip_prefix("error: ").unwrap_or(&text));
        }
    }

    fn started<'p, 'c>(
        &self,
        process: &'p mut Option<RemoteProcess<'c>>,
        children: &'c Children,
    ) -> Result<&'p mut RemoteProcess<'c>> {
        if process.is_none() {
            let settings = self.remote.settings().context("there is no shared cache")?;
            let folder = self.options.executables.as_deref();
            *process = Some(RemoteProcess::start(children, &self.resolver.store, folder, settings)?);
        }
        process.as_mut().context("the process was just started")
    }

    /// Takes the replies that are there. If there is none, waits at most `patience` for one.
    pub(super) fn hear_remote(&mut self, process: Option<&RemoteProcess<'_>>, patience: Duration) {
        let Some(process) = process else { return std::thread::sleep(patience) };
        self.told.asking(self.remote.asked.len().saturating_sub(self.remote.arriving.len()));
        match process.replies().recv_timeout(patience) {
            Ok(reply) => self.hear(reply),
            Err(RecvTimeoutError::Timeout) => self.told.tick(),
            // The last reply was heard before.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(patience),
        }
        while let Ok(reply) = process.replies().try_recv() {
            self.hear(reply);
        }
    }

    fn hear(&mut self, reply: RemoteReply) {
        match reply {
            RemoteReply::Progress { node, done, total } => {
                if !self.remote.asked.contains(&node) {
                    return;
                }
                if self.remote.arriving.insert(node) {
                    self.tell(node, News::Begins);
                }
                let phase = format!("fetching {} of {}", size(done), size(total));
                let progress = Progress { phase, ..Progress::default() };
                self.tell(node, News::Said(&Event::Progress(progress)));
            }
            RemoteReply::Fetched { node, received, seconds, .. } => self.fetched(node, received, seconds),
            RemoteReply::Absent { node, reason } => self.absent(node, reason.as_deref()),
            RemoteReply::Note { text } => self.told.note(&text),
            RemoteReply::Warning { text } => self.told.warn(&text),
            RemoteReply::Uploading { artifacts, done, total } => self.told.uploading(artifacts, done, total),
            RemoteReply::Down { cause } => self.goes_down(&cause),
            RemoteReply::Finished(tally) => self.remote.tally = tally,
            // Only a plan looks without fetching.
            RemoteReply::Found { .. } => {}
        }
    }

    fn fetched(&mut self, id: NodeId, received: u64, seconds: f64) {
        if !self.answered(id) {
            return;
        }
        let Some(key) = self.work[id].key else { return };
        // The look-up checks what raisin-remote has put into place.
        match self.resolver.find(id, key) {
            Ok(StageLookup::Hit(artifact)) => {
                // If this build is killed, no index names the artifact. A failure is no error, as in `look_up`.
                let _ = self.resolver.store.note_use(artifact);
                self.tell(id, News::Fetched { key, artifact, bytes: received, seconds: in_seconds(seconds) });
                self.fetched += 1;
                self.remote.tally.received += received;
                self.has_artifact(id, key, artifact);
            }
            Ok(StageLookup::Miss(_)) => self.must_run(id),
            Err(error) => self.failed(id, &error),
        }
    }

    fn absent(&mut self, id: NodeId, reason: Option<&str>) {
        if !self.answered(id) {
            return;
        }
        if let Some(reason) = reason {
            let reason = format!("the shared cache has no usable artifact: {reason}; the stage runs");
            self.tell(id, News::Lost { reason: &reason });
        }
        self.must_run(id);
    }

    /// Notes that the shared cache has answered. Returns false if the node waits for no answer.
    fn answered(&mut self, id: NodeId) -> bool {
        if self.remote.arriving.remove(&id) {
            self.tell(id, News::Ended);
        }
        self.remote.answers(id)
    }

    /// Queues a node for which the shared cache was asked, and explains it and the nodes with the same action.
    fn must_run(&mut self, id: NodeId) {
        for follower in self.scheduler.followers(id) {
            let work = &mut self.work[follower];
            let (key, action, lost) = (work.key, work.action.take(), work.lost.take());
            if let (Some(key), Some(action)) = (key, action) {
                let why = self.explain(follower, &action, lost).unwrap_or_default();
                self.tell(follower, News::Miss { key, why });
                self.work[follower].action = Some(action);
            }
        }
        let work = &mut self.work[id];
        let (key, action, lost) = (work.key, work.action.take(), work.lost.take());
        if let (Some(key), Some(action)) = (key, action)
            && let Err(error) = self.queue(id, key, action, lost)
        {
            self.failed(id, &error);
        }
    }

    /// The shared cache cannot be used any more: the build goes on without it.
    fn goes_down(&mut self, cause: &str) {
        if !self.remote.is_usable() {
            return;
        }
        let address = self.remote.settings().map(|settings| settings.address.clone()).unwrap_or_default();
        let waiting = self.remote.goes_down();
        if !self.interrupted && self.interrupt.count() == 0 {
            self.told.warn(&format!(
                "warning: the shared cache {address} cannot be used: {cause}\nthe build goes on without it"
            ));
        }
        for id in waiting {
            if self.remote.arriving.remove(&id) {
                self.tell(id, News::Ended);
            }
            self.must_run(id);
        }
    }

    /// Waits until everything is uploaded. A signal ends the wait.
    pub(super) fn finish_uploads(&mut self, process: Option<RemoteProcess<'_>>) {
        let received = self.remote.tally.received;
        let leaves = self.options.leave_uploads;
        if let Some(mut process) = process
            && self.remote.is_usable()
            && process.send(&RemoteRequest::Finish { leaves }).is_ok()
        {
            loop {
                if self.interrupt.count() > 0 {
                    self.interrupted = true;
                    break;
                }
                match process.replies().recv_timeout(TICK) {
                    Ok(RemoteReply::Finished(tally)) => {
                        self.remote.tally = tally;
                        break;
                    }
                    Ok(reply) => self.hear(reply),
                    Err(RecvTimeoutError::Timeout) => self.told.tick(),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if !self.remote.is_usable() {
                    break;
                }
            }
        }
        self.told.asking(0);
        self.told.uploading(0, 0, 0);
        let tally = &mut self.remote.tally;
        tally.received = tally.received.max(received);
        let answered = tally.uploaded + tally.known + tally.left_out + tally.unsent;
        tally.unsent += self.remote.pushes.saturating_sub(answered);
    }
}
