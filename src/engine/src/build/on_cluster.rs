//! The part of a build that decides what becomes of the jobs of a cluster when the build ends before them: after Ctrl-C,
//! or with `--detach`.

use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use super::super::graph::NodeId;
use super::super::interrupt::Interrupt;
use super::super::jobs::{Clusters, JobQueue, LeftRunning};
use super::super::schedule::StageState;
use super::super::told::News;
use super::super::{JobsAtInterrupt, Options};
use super::Build;
use raisin_base::error::{Context as _, Result};
use raisin_pipeline::JobRequest;

/// Whether the end of the jobs is decided.
#[derive(Default)]
pub(super) enum JobsEnd {
    #[default]
    Open,
    /// The user was asked; the answer comes from a thread that waits for a line.
    Asked(Receiver<bool>),
    Decided,
}

impl JobsEnd {
    /// Decides after an interrupt what becomes of the jobs, or asks.
    pub(super) fn interrupted(&mut self, build: &Build<'_>, queue: &JobQueue) {
        let live = queue.live();
        build.interrupt.wait_for_jobs(live > 0);
        match build.options.jobs_at_interrupt {
            JobsAtInterrupt::Ask if live > 0 && std::io::stdin().is_terminal() && std::io::stderr().is_terminal() => {
                let jobs =
                    if live == 1 { "1 job runs or waits".to_owned() } else { format!("{live} jobs run or wait") };
                build.told.note(&format!(
                    "{jobs} on the cluster. Cancel? [y/N]  (otherwise they go on, and the next build finds them)"
                ));
                *self = answer().map_or(Self::Decided, Self::Asked);
                if let Self::Decided = self {
                    queue.end(false);
                }
            }
            decided => self.decide(queue, decided == JobsAtInterrupt::Cancel),
        }
    }

    /// Takes the answer of the user, if it is there. A second signal means that the user does not want to answer.
    pub(super) fn hear(&mut self, interrupt: &Interrupt, queue: &JobQueue) {
        let Self::Asked(answer) = self else { return };
        match answer.try_recv() {
            Ok(cancel) => self.decide(queue, cancel),
            Err(TryRecvError::Empty) if interrupt.count() < 2 => {}
            Err(_) => self.decide(queue, false),
        }
    }

    fn decide(&mut self, queue: &JobQueue, cancel: bool) {
        queue.end(cancel);
        *self = Self::Decided;
    }

    /// With `--detach`, ends the watch when nothing but submitted jobs is left to wait for.
    pub(super) fn detached(&mut self, build: &Build<'_>, queue: &JobQueue) {
        let running = build.scheduler.running();
        if matches!(self, Self::Open)
            && build.options.detach
            && running > 0
            && queue.settled() == running
            && build.remote.asked.is_empty()
        {
            self.decide(queue, false);
        }
    }

    pub(super) fn is_decided(&self) -> bool {
        matches!(self, Self::Decided)
    }
}

/// Reads a line in a thread of its own, which nobody waits for: the process can end while it reads.
fn answer() -> Option<Receiver<bool>> {
    let (sender, receiver) = channel();
    let read = move || {
        let mut line = String::new();
        // Without a line, the answer is no.
        let _ = std::io::stdin().read_line(&mut line);
        // If the build has ended, nobody hears the answer.
        let _ = sender.send(matches!(line.trim(), "y" | "Y" | "yes" | "Yes"));
    };
    std::thread::Builder::new().spawn(read).is_ok().then_some(receiver)
}

/// What the job of each node asks of a cluster; `None` for a node that runs on this machine.
pub(super) fn requests(
    resolver: &super::super::resolve::Resolver<'_>,
    options: &Options,
) -> Result<Vec<Option<JobRequest>>> {
    let executor = &resolver.graph.pipeline.executor;
    if executor.is_local() {
        return Ok(vec![None; resolver.graph.nodes.len()]);
    }
    let request = |(id, node): (NodeId, &super::super::graph::StageNode<'_>)| {
        let on_gpu = resolver.environment(id)?.device == raisin_contract::DeviceKind::Cuda;
        Ok(executor.request(node.stage, on_gpu, options.threads))
    };
    resolver.graph.nodes.iter().enumerate().map(request).collect()
}

impl Build<'_> {
    /// The queue of jobs; `None` if all stages that may run do so on this machine.
    ///
    /// # Errors
    /// A command of the scheduler is missing on this machine.
    pub(super) fn job_queue(&self) -> Result<Option<JobQueue>> {
        let may_run = |id: NodeId| {
            !matches!(self.scheduler.state(id), StageState::Done | StageState::Failed | StageState::Skipped)
        };
        let requests = self.requests.iter().enumerate().filter(|(id, _)| may_run(*id));
        let requests = requests.filter_map(|(_, request)| request.as_ref());
        let pipeline = self.resolver.graph.pipeline;
        let store = &self.resolver.store;
        let clusters = Clusters::of(requests, &pipeline.executor, &pipeline.folder, &store.jobs_folder())?;
        if clusters.is_empty() {
            return Ok(None);
        }
        clusters.check().context("the jobs of this pipeline cannot be submitted")?;
        Ok(Some(JobQueue::new(clusters, store.root(), pipeline.executor.interval())))
    }

    /// The build does not wait for the job of this node.
    pub(super) fn leaves(&mut self, id: NodeId, left: &LeftRunning) {
        let followers = self.scheduler.followers(id);
        self.scheduler.failed(id);
        followers.into_iter().for_each(|follower| self.scheduler.failed(follower));
        self.tell(id, News::Left { words: &left.words });
        self.left += u64::from(left.goes_on);
        self.is_detached |= !self.interrupted;
    }
}
