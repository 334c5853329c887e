//! A build: looks up all stages, runs the stages that are not cached, and updates the links. The decisions which stage
//! starts next (schedule.rs), how one action is made (execute.rs) and what is printed (told.rs) are in other files.

mod looking;
mod on_cluster;
mod sharing;

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::Options;
use super::child::{self, Children};
use super::difference::ActionDifference;
use super::execute::{Check, Job, JobMessage, JobNews, MadeAction, Mode, plain};
use super::explain::ActionHistory;
use super::graph::{NodeId, StageNode};
use super::interrupt::{GRACE, Interrupt, end_in_time};
use super::job::{JobOrder, assemble};
use super::jobs::{JobQueue, LeftRunning};
use super::links::{self, LinkUpdate, LinkWait};
use super::out_check;
use super::outcome;
use super::plan_file::PlanFile;
use super::remote::{RemoteCache, RemoteProcess};
use super::resolve::Resolver;
use super::resources::Capacity;
use super::schedule::{Scheduler, StageState};
use super::silence;
use super::summary::{Failure, Summary};
use super::told::{News, Told};
use super::worker_pool::WorkerPool;
use on_cluster::JobsEnd;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, bail, render};
use raisin_base::panics::caught;
use raisin_contract::{Action, Process};
use raisin_pipeline::{JobRequest, Pipeline};
use raisin_store::Store;

/// The longest time between two looks at signals and at silent stages.
const TICK: Duration = Duration::from_millis(50);
/// The same while stages run and the shared cache is asked: its replies have a channel of their own.
const TICK_WITH_REMOTE: Duration = Duration::from_millis(5);

/// The time for which an interrupted build waits for another process that updates the same links.
const LINKS_PATIENCE: Duration = Duration::from_millis(500);

/// Builds the pipeline. The summary lists the stages that failed. An error means that the build itself could not work.
pub fn build(pipeline: &Pipeline, options: &Options) -> Result<Summary> {
    build_with(pipeline, options, None)
}

/// Builds the stages of a plan file. `pipeline` is the pipeline that the plan file contains. The options of the plan
/// replace the given ones where the plan sets them.
///
/// # Errors
/// The errors of [`build`]. Also an error if something changed since the plan was made; this error comes before any
/// stage runs.
pub fn build_planned(plan: &PlanFile, pipeline: &Pipeline, options: &Options) -> Result<Summary> {
    build_with(pipeline, &plan.options(options.clone()), Some(plan))
}

fn build_with(pipeline: &Pipeline, options: &Options, plan: Option<&PlanFile>) -> Result<Summary> {
    let began = Instant::now();
    let interrupt = Interrupt::watch()?;
    let store = Store::open(&options.cache)?;
    let _shared = store.share()?;
    let mut resolver = Resolver::of(pipeline, options, store)?;
    resolver.index.note_use();
    if let Some(plan) = plan {
        plan.check(&resolver)?;
    }
    options.force.check(&resolver.graph)?;
    let mut told = Told::new(&resolver.store, &resolver.graph, options)?;
    told.begins(pipeline, options, resolver.devices.kind);
    let mut build = Build::new(resolver, options, plan, &interrupt, &mut told)?;
    build.look_up_ready();
    if build.scheduler.count(|state| matches!(state, StageState::Queued | StageState::Asked)) == 0 {
        return build.finish(began);
    }
    build.check_executables()?;
    out_check::check(pipeline, &options.out)?;
    build.told.ask_git(pipeline);
    build.tell_cached();
    build.run_and_finish(began)
}

/// What a build knows about a node, besides its state in the scheduler.
#[derive(Default)]
struct Work<'a> {
    /// Set when all inputs of the node are known.
    key: Option<Digest>,
    /// Set when the local look-up of the node is a miss.
    action: Option<Action<'a>>,
    /// Why the node is a miss, if the store had its artifact before.
    lost: Option<ActionDifference>,
}

struct Build<'a> {
    options: &'a Options,
    resolver: Resolver<'a>,
    plan: Option<&'a PlanFile>,
    interrupt: &'a Interrupt,
    scheduler: Scheduler,
    history: ActionHistory,
    told: &'a mut Told,
    /// One entry for each node.
    work: Vec<Work<'a>>,
    /// What the job of each node asks of a cluster; `None` for a node that runs on this machine.
    requests: Vec<Option<JobRequest>>,
    remote: RemoteCache,
    ran: u64,
    fetched: u64,
    /// The failed nodes with the reasons, in the order of the failures.
    failures: Vec<(NodeId, String)>,
    interrupted: bool,
    /// The number of jobs that go on without this build.
    left: u64,
    /// The build ended before its jobs, because the user wanted it so.
    is_detached: bool,
}

impl<'a> Build<'a> {
    fn new(
        resolver: Resolver<'a>,
        options: &'a Options,
        plan: Option<&'a PlanFile>,
        interrupt: &'a Interrupt,
        told: &'a mut Told,
    ) -> Result<Self> {
        let graph = &resolver.graph;
        let capacity = Capacity::of(options, resolver.devices);
        let requests = on_cluster::requests(&resolver, options)?;
        let demand = |(node, request): (&StageNode<'_>, &Option<JobRequest>)| {
            (capacity.demand(node.stage, request.as_ref()), node.dependents.clone())
        };
        let nodes = graph.nodes.iter().zip(&requests).map(demand);
        let scheduler = Scheduler::new(nodes, capacity);
        let work = graph.nodes.iter().map(|_| Work::default()).collect();
        Ok(Self {
            options,
            plan,
            interrupt,
            scheduler,
            history: ActionHistory::default(),
            told,
            work,
            requests,
            remote: RemoteCache::new(options.remote.clone()),
            ran: 0,
            fetched: 0,
            failures: Vec::new(),
            interrupted: false,
            left: 0,
            is_detached: false,
            resolver,
        })
    }

    fn tell(&mut self, id: NodeId, news: News<'_>) {
        self.told.tell(&self.resolver.graph, id, news);
    }

    /// Checks before the first stage that the executables of all stages that may run exist. Otherwise a missing
    /// executable could be reported only after hours of other stages.
    ///
    /// # Errors
    /// An executable is missing.
    fn check_executables(&self) -> Result<()> {
        let mut found: Vec<Process> = Vec::new();
        for (id, node) in self.resolver.graph.nodes.iter().enumerate() {
            let process = node.stage.declaration.process;
            let may_run =
                !matches!(self.scheduler.state(id), StageState::Done | StageState::Failed | StageState::Skipped);
            // With `executor.raisin`, the executables of jobs lie elsewhere.
            let is_elsewhere = self.requests[id].is_some() && self.resolver.graph.pipeline.executor.raisin.is_some();
            if may_run && !is_elsewhere && !found.contains(&process) {
                child::check(process, self.options.executables.as_deref())
                    .with_context(|| format!("stage `{}` cannot run", self.label(id)))?;
                found.push(process);
            }
        }
        Ok(())
    }

    /// Runs stages until no further stage can run, and updates the links.
    fn run_and_finish(mut self, began: Instant) -> Result<Summary> {
        let interrupt = self.interrupt;
        interrupt.be_busy();
        self.resolver.index.look_again();
        let silence_limit = silence::limit()?;
        let children = Children::default();
        let queue = self.job_queue()?;
        let store = self.resolver.store.clone();
        let (sender, receiver) = channel();
        std::thread::scope(|scope| {
            let (_over, end) = channel();
            let (children, queue) = (&children, queue.as_ref());
            let _guard = queue.map(|queue| queue.start(scope)).transpose()?;
            let watch = move || end_in_time(interrupt, &end, children);
            std::thread::Builder::new().spawn_scoped(scope, watch).context("cannot start a thread")?;
            let pool = WorkerPool::new(scope, &store, children, sender, queue);
            let driven = caught(|| self.drive(pool, children, &receiver, silence_limit, queue)).flatten();
            driven.inspect_err(|failure| {
                // Nothing reads the messages of the stages any more, so the stages end as after an interrupt: what is
                // finished and all checkpoints stay.
                interrupt.fail(failure.to_string());
                self.told.raisin_failed();
                children.end(GRACE);
            })?;
            self.finish(began)
        })
    }

    /// The only loop of a build that waits. An error ends the stage to which it belongs, and no other stage.
    ///
    /// # Errors
    /// Raisin itself failed in another thread.
    fn drive(
        &mut self,
        mut pool: WorkerPool<'_, '_>,
        children: &Children,
        receiver: &Receiver<JobMessage>,
        silence_limit: Duration,
        queue: Option<&JobQueue>,
    ) -> Result<()> {
        let interrupt = self.interrupt;
        let mut looked = Instant::now();
        let mut stopped: Option<Instant> = None;
        let mut jobs_end = JobsEnd::default();
        let mut remote: Option<RemoteProcess<'_>> = None;
        loop {
            self.send_to_remote(&mut remote, children);
            let go_on =
                stopped.is_none() && !jobs_end.is_decided() && (self.failures.is_empty() || self.options.keep_going);
            while go_on && let Some((id, gpu)) = self.scheduler.start() {
                match self.job(id, gpu).and_then(|job| pool.start(job, gpu)) {
                    Ok(()) => self.tell(id, News::Begins),
                    Err(error) => self.failed(id, &error),
                }
            }
            let asks = go_on && !self.remote.asked.is_empty();
            if self.scheduler.running() == 0 && !asks {
                break;
            }
            let patience = if self.remote.asked.is_empty() { TICK } else { TICK_WITH_REMOTE };
            match receiver.recv_timeout(if self.scheduler.running() == 0 { Duration::ZERO } else { patience }) {
                Ok(message) => {
                    if let JobNews::Ended(_) = message.news {
                        pool.ended(message.id);
                    }
                    self.receive(message);
                }
                Err(RecvTimeoutError::Timeout) => self.told.tick(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.hear_remote(remote.as_ref(), if self.scheduler.running() == 0 { patience } else { Duration::ZERO });
            if let Some(failure) = interrupt.failure() {
                bail!(failure.to_owned());
            }
            if looked.elapsed() >= silence_limit / 20 {
                looked = Instant::now();
                children.kill_silent(silence_limit);
            }
            if stopped.is_none() && interrupt.count() > 0 {
                self.interrupted = true;
                stopped = Some(Instant::now());
                self.told.stopping();
                children.stop();
                queue.into_iter().for_each(|queue| jobs_end.interrupted(self, queue));
            }
            if let Some(queue) = queue {
                jobs_end.hear(interrupt, queue);
                jobs_end.detached(self, queue);
            }
            // A second signal means that the user does not want to wait for an orderly end.
            if stopped.is_some_and(|moment| moment.elapsed() >= GRACE || interrupt.count() > 1) {
                children.kill();
            }
        }
        interrupt.wait_for_jobs(false);
        self.finish_uploads(remote);
        Ok(())
    }

    fn job(&self, id: NodeId, gpu: Option<usize>) -> Result<Job> {
        let work = &self.work[id];
        let key = work.key.context("a stage without a key cannot run")?;
        let action = work.action.as_ref().context("a stage without an action cannot run")?;
        let mode = Mode {
            executables: self.options.executables.clone(),
            anew: self.is_forced(id),
            check: self.options.check,
            fresh_worker: self.options.fresh_workers,
        };
        let threads = self.scheduler.demand(id).threads;
        let order =
            JobOrder { key, action, run: self.told.run(), threads, gpu, request: self.requests[id].as_ref(), mode };
        assemble(&self.resolver, id, order)
    }

    fn receive(&mut self, JobMessage { id, news }: JobMessage) {
        match news {
            JobNews::Waiting(words) => self.tell(id, News::Waits(&words)),
            JobNews::Started => {
                if let Some(key) = self.work[id].key {
                    let threads = self.scheduler.demand(id).counted_threads();
                    self.tell(id, News::Started { key, threads });
                }
            }
            JobNews::Event(event) => self.tell(id, News::Said(&event)),
            JobNews::Ended(result) => {
                self.tell(id, News::Ended);
                match *result {
                    Ok(made) => self.succeeded(id, &made),
                    Err(error) => match error.downcast_ref::<LeftRunning>() {
                        Some(left) => self.leaves(id, left),
                        None => self.failed(id, &error),
                    },
                }
            }
        }
    }

    fn succeeded(&mut self, id: NodeId, made: &MadeAction) {
        let MadeAction { record, ran, check } = made;
        let (key, artifact) = (record.key, record.artifact);
        if *ran {
            self.tell(id, News::Ran { record, check });
            self.ran += 1;
            if !matches!(check, Check::Failed(_)) {
                self.remote.push(key);
            }
        } else {
            self.tell(id, News::Hit { key, artifact });
            self.tell(id, News::MadeByAnotherBuild);
        }
        self.has_artifact(id, key, artifact);
        if let Check::Failed(reason) = check {
            // The artifact of the first run stays in the store and stays valid.
            self.note_failure(id, reason.clone(), false);
        }
    }

    /// The node has its artifact now, and so have the nodes that wait for the same action.
    fn has_artifact(&mut self, id: NodeId, key: Digest, artifact: Digest) {
        self.resolver.artifacts[id] = Some(artifact);
        for follower in self.scheduler.followers(id) {
            self.tell(follower, News::Hit { key, artifact });
            self.resolver.artifacts[follower] = Some(artifact);
            self.scheduler.done(follower);
        }
        self.scheduler.done(id);
        for hit in self.look_up_ready() {
            self.tell(hit, News::Cached);
        }
    }

    fn failed(&mut self, id: NodeId, error: &raisin_base::error::Error) {
        let followers = self.scheduler.followers(id);
        self.scheduler.failed(id);
        followers.into_iter().for_each(|follower| self.scheduler.failed(follower));
        self.note_failure(id, plain(error), self.interrupted);
    }

    fn note_failure(&mut self, id: NodeId, reason: String, interrupted: bool) {
        let key = self.work[id].key;
        self.tell(id, News::Failed { key, reason: &reason, interrupted });
        if !interrupted {
            self.failures.push((id, reason));
        }
    }

    /// Reports the cached stages before the first stage runs.
    fn tell_cached(&mut self) {
        for id in 0..self.work.len() {
            if self.scheduler.state(id) == StageState::Done {
                self.tell(id, News::Cached);
            }
        }
    }

    /// Updates the links and the index, and reports the end of the build. The report also comes if the links cannot be
    /// updated, because the stages that ran are kept nevertheless.
    fn finish(&mut self, began: Instant) -> Result<Summary> {
        if self.failures.is_empty() && !self.interrupted && !self.is_detached {
            // Check this before any link is changed.
            let settled = |id: &NodeId| matches!(self.scheduler.state(*id), StageState::Done | StageState::Skipped);
            if let Some(id) = (0..self.work.len()).find(|id| !settled(id)) {
                bail!("raisin itself failed: `{}` was neither found nor made", self.label(id));
            }
        }
        let work = self.work.iter().enumerate();
        let keys = work.map(|(id, work)| work.key.filter(|_| self.scheduler.state(id) == StageState::Done));
        let keys: Vec<Option<Digest>> = keys.collect();
        let update = self.update_links(&keys);
        let LinkUpdate { changed, earlier, notes } = match &update {
            Ok(update) => update.clone(),
            Err(_) => LinkUpdate { changed: true, ..LinkUpdate::default() },
        };
        notes.iter().for_each(|note| self.told.warn(note));
        if changed {
            self.told.describe(&self.resolver.graph);
        }
        if (changed || self.ran > 0 || self.resolver.found_in_store > 0 || self.resolver.index.has_changed())
            && let Err(error) = self.remember(&keys, self.options.only.is_empty())
        {
            self.told.warn(&format!("warning: {error:#}"));
        }
        let is_accepted = |(id, key): (usize, &Option<Digest>)| {
            let key = (*key)?;
            self.resolver.index.is_accepted(&self.resolver.store, key).then(|| self.label(id))
        };
        let accepted = keys.iter().enumerate().filter_map(is_accepted).collect();
        let (results, unread) = match &update {
            Ok(_) if !self.interrupted && !self.is_detached => outcome::collect(&self.resolver, &self.options.out),
            _ => Default::default(),
        };
        unread.iter().for_each(|note| self.told.note(note));
        let failure = |(id, reason): &(NodeId, String)| Failure { stage: self.label(*id), reason: reason.clone() };
        let pipeline = self.resolver.graph.pipeline.name.clone();
        let summary = Summary {
            out: self.options.out.join(&pipeline),
            pipeline,
            ran: self.ran,
            fetched: self.fetched,
            cached: self.scheduler.count(|state| state == StageState::Done) - self.ran - self.fetched,
            skipped: self.scheduler.count(|state| !matches!(state, StageState::Done | StageState::Failed)),
            earlier,
            accepted,
            failures: self.failures.iter().map(failure).collect(),
            interrupted: self.interrupted,
            left: self.left,
            is_detached: self.is_detached,
            seconds: began.elapsed().as_secs_f64(),
            remote: self.remote.tally.clone(),
            fetch_seconds: self.remote.seconds(),
            results,
        };
        self.told.ends(&summary, changed, update.is_err());
        match update {
            // The interrupt or the failed stage decides the exit code.
            Err(error) if summary.exit_code() != 0 => {
                self.told.warn(&render(&error));
                Ok(summary)
            }
            update => update.map(|_| summary),
        }
    }

    /// Updates the links. While another process updates them, a signal ends the wait. After an interrupt, the wait ends
    /// without a further signal, because an interrupted build must end soon.
    fn update_links(&mut self, keys: &[Option<Digest>]) -> Result<LinkUpdate> {
        let (began, before, told) = (Instant::now(), self.interrupt.count(), &*self.told);
        let gives_up = || self.interrupt.count() > before || (before > 0 && began.elapsed() >= LINKS_PATIENCE);
        let wait = LinkWait { say: &|words| told.note(&words), gives_up: &gives_up };
        if let Some(update) = links::update(&mut self.resolver, keys, &self.options.out, &wait)? {
            return Ok(update);
        }
        self.interrupted = true;
        let note = "the links are as before, because another process is updating them; the next build updates them";
        Ok(LinkUpdate { notes: vec![note.to_owned()], ..LinkUpdate::default() })
    }

    /// Writes an index for the next build, with all actions that this build looked up or made.
    fn remember(&mut self, keys: &[Option<Digest>], all: bool) -> Result<()> {
        let wanted: HashSet<Digest> = keys.iter().copied().flatten().collect();
        let Resolver { index, store, .. } = &mut self.resolver;
        for key in &wanted {
            if index.untouched(store, *key).is_none() {
                index.learn(store, *key);
            }
        }
        let kept = if all { index.keep(store, |key| wanted.contains(&key)) } else { Ok(()) };
        index.save();
        kept
    }

    fn label(&self, id: NodeId) -> String {
        self.resolver.graph.label(id)
    }
}
