//! A build: looks up, runs what is missing, links the result.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::child::{Children, executable};
use super::difference::{Difference, words};
use super::explain::{History, Question};
use super::graph::NodeId;
use super::interrupt::Interrupt;
use super::job::{Order, assemble};
use super::lanes::Lanes;
use super::make::{Check, Job, Message, Mode, Outcome, plain};
use super::plan_file::PlanFile;
use super::progress::{Display, duration, size};
use super::resolve::{Found, Resolver};
use super::resources::Machine;
use super::schedule::{Schedule, State, Turn};
use super::summary::{Failure, Summary};
use super::{Options, links};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, anyhow, bail};
use raisin_contract::{Action, Event, Process};
use raisin_pipeline::Pipeline;
use raisin_store::{Journal, JournalEvent, Store};

/// How long children may take to end after they were asked to, and then the build itself: all of it has two seconds.
const GRACE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_millis(1800);

const HOW_TO_GO_ON: &str = "what is finished is kept; the same command goes on from here";

/// Builds the pipeline. A stage that fails is in the summary; an error is something that kept the build from working.
pub fn build(pipeline: &Pipeline, options: &Options) -> Result<Summary> {
    build_with(pipeline, options, None)
}

/// Builds what a plan holds; `pipeline` is the one that it gives, and the options begin with those of the plan.
///
/// # Errors
/// As [`build`]; and something that changed since it was planned, before anything runs.
pub fn build_planned(plan: &PlanFile, pipeline: &Pipeline, options: &Options) -> Result<Summary> {
    build_with(pipeline, &plan.options(options.clone()), Some(plan))
}

fn build_with(pipeline: &Pipeline, options: &Options, plan: Option<&PlanFile>) -> Result<Summary> {
    let began = Instant::now();
    let interrupt = Interrupt::watch()?;
    let store = Store::open(&options.cache)?;
    let _shared = store.share()?;
    let resolver = Resolver::of(pipeline, options, store)?;
    if let Some(plan) = plan {
        plan.check(&resolver)?;
    }
    let mut build = Build::new(resolver, options, plan, &interrupt)?;
    build.journal.hold(JournalEvent::RunStarted {
        pipeline: pipeline.name.clone(),
        file: pipeline.file.display().to_string(),
        pid: std::process::id(),
    });
    build.look_up_ready()?;
    if build.schedule.count(|state| state == State::Queued) > 0 {
        build.check_executables()?;
        build.tell_cached();
        build.run()?;
    }
    build.finish(began, options)
}

struct Build<'a> {
    resolver: Resolver<'a>,
    plan: Option<&'a PlanFile>,
    interrupt: &'a Interrupt,
    schedule: Schedule,
    machine: Machine,
    history: History,
    journal: Journal,
    display: Display,
    keys: Vec<Option<Digest>>,
    actions: Vec<Option<Action<'a>>>,
    /// Stages that run though they are cached.
    forced: Vec<bool>,
    mode: Mode,
    keep_going: bool,
    ran: u64,
    failures: Vec<Failure>,
    interrupted: bool,
}

impl<'a> Build<'a> {
    fn new(
        resolver: Resolver<'a>,
        options: &Options,
        plan: Option<&'a PlanFile>,
        interrupt: &'a Interrupt,
    ) -> Result<Self> {
        let graph = &resolver.graph;
        let machine = Machine::of(options, resolver.devices);
        let nodes = graph.nodes.iter().map(|node| (machine.demand(node.stage), node.dependents.clone()));
        let schedule = Schedule::new(nodes, machine);
        let forced = graph.nodes.iter().map(|node| options.force.names(&node.stage.name)).collect();
        options.force.check(graph)?;
        let count = graph.nodes.len();
        let width = (0..count).map(|id| graph.label(id).chars().count()).max().unwrap_or(0);
        Ok(Self {
            plan,
            interrupt,
            schedule,
            machine,
            history: History::default(),
            journal: Journal::begin(&resolver.store)?,
            display: Display::new(options.quiet, width.min(40)),
            keys: vec![None; count],
            actions: (0..count).map(|_| None).collect(),
            forced,
            mode: Mode {
                executables: options.executables.clone(),
                anew: false,
                check: options.check,
                fresh_worker: options.fresh_workers,
            },
            keep_going: options.keep_going,
            ran: 0,
            failures: Vec::new(),
            interrupted: false,
            resolver,
        })
    }

    /// Looks up every node whose inputs are there, and those that become so by hits. What cannot be looked up fails,
    /// as what cannot be made: that ends the stage and not the build.
    fn look_up_ready(&mut self) -> Result<Vec<NodeId>> {
        let mut hits = Vec::new();
        while let Some(id) = self.schedule.next_ready() {
            // One look may read a large artifact again: between two of them it is asked whether anybody waits.
            if self.interrupt.count() > 0 {
                self.interrupted = true;
                break;
            }
            match self.look_up(id) {
                Ok(Some((key, artifact))) => {
                    self.note_hit(id, key, artifact);
                    self.schedule.done(id);
                    hits.push(id);
                }
                Ok(None) => {}
                Err(error) => self.failed(id, &error)?,
            }
        }
        Ok(hits)
    }

    /// The key and artifact of a node, if it need not run. Otherwise it has its turn, or has failed.
    fn look_up(&mut self, id: NodeId) -> Result<Option<(Digest, Digest)>> {
        let action = self.resolver.action(id)?;
        let key = action.key().with_context(|| format!("`{}` is ready without its inputs", self.label(id)))?;
        self.keys[id] = Some(key);
        let found =
            if self.forced[id] { Found::Miss(Some(Difference::Forced)) } else { self.resolver.find(id, key)? };
        let lost = match found {
            Found::Hit(artifact) => return Ok(Some((key, artifact))),
            Found::Miss(lost) => lost,
        };
        let why = self.explain(id, &action, lost)?;
        self.actions[id] = Some(action);
        match self.schedule.queue(id, key) {
            Turn::Waits => {
                let (stage, variant, kind) = self.names(id);
                self.journal.hold(JournalEvent::Miss { stage, variant, kind, key, why });
                Ok(None)
            }
            Turn::WasDone(other) => {
                let artifact = self.resolver.artifact(other).context("a stage that is done has an artifact")?;
                self.resolver.settle(id, artifact);
                Ok(Some((key, artifact)))
            }
            Turn::HasFailed(other) => {
                let label = self.label(other);
                let failure = self.failures.iter().find(|failure| failure.stage == label);
                Err(anyhow!("{}", failure.map_or("it failed before", |failure| failure.reason.as_str())))
            }
        }
    }

    fn explain(&mut self, id: NodeId, action: &Action<'_>, lost: Option<Difference>) -> Result<Vec<String>> {
        if let Some(Difference::Lost { reason }) = &lost {
            self.display.stage_line(&self.label(id), &format!("set aside: {reason}"));
        }
        let why = match (lost, self.plan) {
            (Some(lost), _) => vec![lost],
            (None, Some(plan)) => {
                return Ok(plan.why(id).unwrap_or_else(|| {
                    let text = "was cached when this was planned, and is not any more: it runs";
                    self.display.stage_line(&self.label(id), text);
                    vec!["gone since it was planned".to_owned()]
                }));
            }
            (None, None) => {
                let question = Question::of(&self.resolver, id, action);
                self.history.explain(&self.resolver.store, &question)?
            }
        };
        Ok(words(&why))
    }

    /// Looks for the executables of the stages that may run: a stage that is hours away would else be the first to miss its
    /// own.
    ///
    /// # Errors
    /// One of them is not there.
    fn check_executables(&self) -> Result<()> {
        let mut found: Vec<Process> = Vec::new();
        for (id, node) in self.resolver.graph.nodes.iter().enumerate() {
            let process = node.stage.declaration.process;
            let may_run = !matches!(self.schedule.state(id), State::Done | State::Failed | State::Skipped);
            if may_run && !found.contains(&process) {
                executable(process, self.mode.executables.as_deref())
                    .with_context(|| format!("stage `{}` cannot run", self.label(id)))?;
                found.push(process);
            }
        }
        Ok(())
    }

    /// Runs until nothing more can: the only loop that waits.
    fn run(&mut self) -> Result<()> {
        let interrupt = self.interrupt;
        interrupt.be_busy();
        self.resolver.index.look_again();
        let children = Children::default();
        let store = self.resolver.store.clone();
        let (sender, receiver) = channel();
        std::thread::scope(|scope| {
            let (_over, end) = channel();
            let children = &children;
            scope.spawn(move || {
                if interrupt.outlasts(&end, PATIENCE) {
                    // The loop below does not come to its end: a large artifact is being committed, or read again.
                    // Whatever instant ends that, the store stays whole.
                    children.kill();
                    // A closed standard error is no reason to stay.
                    drop(writeln!(std::io::stderr(), "interrupted: {HOW_TO_GO_ON}"));
                    std::process::exit(130);
                }
            });
            let lanes = Lanes::new(scope, &store, children, sender);
            let result = self.drive(lanes, children, &receiver);
            if result.is_err() {
                // Whatever went wrong here, no child is left behind.
                children.stop();
                children.kill();
            }
            result
        })
    }

    fn drive(&mut self, mut lanes: Lanes<'_, '_>, children: &Children, receiver: &Receiver<Message>) -> Result<()> {
        let interrupt = self.interrupt;
        let mut stopped: Option<Instant> = None;
        loop {
            let go_on = stopped.is_none() && (self.failures.is_empty() || self.keep_going);
            while go_on && let Some((id, gpu)) = self.schedule.start() {
                let job = self.job(id, gpu)?;
                self.display.start(id, &self.label(id));
                lanes.start(job, gpu);
            }
            if self.schedule.running() == 0 {
                return Ok(());
            }
            match receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(message) => {
                    if let Message::Ended { id, .. } = &message {
                        lanes.ended(*id);
                    }
                    self.receive(message)?;
                }
                Err(RecvTimeoutError::Timeout) => self.display.tick(),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if stopped.is_none() && interrupt.count() > 0 {
                self.interrupted = true;
                stopped = Some(Instant::now());
                self.display.line("interrupted: ending the running stages");
                children.stop();
            }
            // Who asks a second time does not want to wait.
            if stopped.is_some_and(|moment| moment.elapsed() >= GRACE || interrupt.count() > 1) {
                children.kill();
            }
        }
    }

    fn job(&self, id: NodeId, gpu: Option<usize>) -> Result<Job> {
        let key = self.keys[id].context("a stage without a key cannot run")?;
        let action = self.actions[id].as_ref().context("a stage without an action cannot run")?;
        let demand = self.machine.demand(self.resolver.graph.nodes[id].stage);
        let mode = Mode { anew: self.forced[id], ..self.mode.clone() };
        let order = Order { key, action, run: self.journal.run(), threads: demand.threads, gpu, mode };
        assemble(&self.resolver, id, order)
    }

    fn receive(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Waiting { id, words } => self.display.say(id, &words),
            Message::Started { id } => {
                let (stage, variant, _) = self.names(id);
                if let Some(key) = self.keys[id] {
                    self.journal.write(JournalEvent::Started { stage, variant, key })?;
                }
            }
            Message::Event { id, event: Event::Progress(progress) } => self.display.progress(id, &progress),
            Message::Event { id, event: Event::Note { text } } => self.display.stage_line(&self.label(id), &text),
            Message::Event { event: Event::Cost(_), .. } => {}
            Message::Ended { id, result } => {
                self.display.end(id);
                match *result {
                    Ok(outcome) => self.succeeded(id, &outcome)?,
                    Err(error) => self.failed(id, &error)?,
                }
            }
        }
        Ok(())
    }

    fn succeeded(&mut self, id: NodeId, outcome: &Outcome) -> Result<()> {
        let Outcome { record, ran, check } = outcome;
        let label = self.label(id);
        if *ran {
            let (stage, variant, _) = self.names(id);
            let (key, artifact) = (record.key, record.artifact);
            let (seconds, bytes) = (record.seconds, record.bytes);
            self.journal.write(JournalEvent::Finished { stage, variant, key, artifact, seconds, bytes })?;
            let took = duration(Duration::from_secs_f64(seconds));
            let checked = if *check == Check::Same { ", twice the same" } else { "" };
            self.display.stage_line(&label, &format!("ran in {took}, {}{checked}", size(bytes)));
            self.ran += 1;
        } else {
            self.note_hit(id, record.key, record.artifact);
            self.display.stage_line(&label, "cached: another build made it");
        }
        self.resolver.settle(id, record.artifact);
        for follower in self.schedule.followers(id) {
            self.note_hit(follower, record.key, record.artifact);
            self.resolver.settle(follower, record.artifact);
            self.schedule.done(follower);
        }
        self.schedule.done(id);
        for hit in self.look_up_ready()? {
            self.display.stage_line(&self.label(hit), "cached");
        }
        if let Check::Failed(reason) = check {
            // What the first run made is kept, and served.
            self.note_failure(id, reason.clone())?;
        }
        Ok(())
    }

    fn failed(&mut self, id: NodeId, error: &raisin_base::error::Error) -> Result<()> {
        let followers = self.schedule.followers(id);
        self.schedule.failed(id);
        followers.into_iter().for_each(|follower| self.schedule.failed(follower));
        let reason = plain(error);
        if self.interrupted {
            let (stage, variant, _) = self.names(id);
            self.display.stage_line(&self.label(id), "interrupted");
            return self.journal.write(JournalEvent::Failed { stage, variant, key: self.keys[id], reason });
        }
        self.note_failure(id, reason)
    }

    fn note_failure(&mut self, id: NodeId, reason: String) -> Result<()> {
        let (stage, variant, _) = self.names(id);
        self.journal.write(JournalEvent::Failed { stage, variant, key: self.keys[id], reason: reason.clone() })?;
        let label = self.label(id);
        self.display.stage_line(&label, &format!("FAILED\n    {reason}"));
        self.failures.push(Failure { stage: label, reason });
        Ok(())
    }

    fn note_hit(&mut self, id: NodeId, key: Digest, artifact: Digest) {
        let (stage, variant, kind) = self.names(id);
        self.journal.hold(JournalEvent::Hit { stage, variant, kind, key, artifact });
    }

    /// Before the first stage runs: which need not.
    fn tell_cached(&self) {
        for id in 0..self.keys.len() {
            if self.schedule.state(id) == State::Done {
                self.display.stage_line(&self.label(id), "cached");
            }
        }
    }

    fn finish(mut self, began: Instant, options: &Options) -> Result<Summary> {
        if self.failures.is_empty() && !self.interrupted {
            // Before any link of it goes.
            let settled = |id: &NodeId| matches!(self.schedule.state(*id), State::Done | State::Skipped);
            if let Some(id) = (0..self.keys.len()).find(|id| !settled(id)) {
                bail!("raisin itself failed: `{}` was neither found nor made", self.label(id));
            }
        }
        let keys = self.keys.iter().enumerate();
        let keys = keys.map(|(id, key)| key.filter(|_| self.schedule.state(id) == State::Done)).collect::<Vec<_>>();
        let links::Update { folder: out, changed, earlier } = links::update(&mut self.resolver, &keys, &options.out)?;
        if changed || self.ran > 0 || self.resolver.found_in_store || self.resolver.index.has_changed() {
            self.remember(&keys, options.only.is_empty());
        }
        let done = self.schedule.count(|state| state == State::Done);
        let took = began.elapsed();
        let summary = Summary {
            pipeline: self.resolver.graph.pipeline.name.clone(),
            ran: self.ran,
            cached: done - self.ran,
            skipped: self.schedule.count(|state| !matches!(state, State::Done | State::Failed)),
            earlier,
            failures: self.failures,
            interrupted: self.interrupted,
            seconds: took.as_secs_f64(),
            out,
        };
        let outcome = match summary.exit_code() {
            0 => "built",
            1 => "failed",
            _ => "interrupted",
        };
        if summary.ran == 0 && summary.exit_code() == 0 && !changed {
            // Found what is linked, all of it: the links say what that is.
            self.journal.forget(|event| matches!(event, JournalEvent::Hit { .. }));
        }
        self.journal.write(JournalEvent::RunFinished {
            outcome: outcome.to_owned(),
            ran: summary.ran,
            cached: summary.cached,
            failed: summary.failures.len() as u64,
            seconds: summary.seconds,
        })?;
        let (name, ran, cached, out) = (&summary.pipeline, summary.ran, summary.cached, summary.out.display());
        let took = duration(took);
        if earlier > 0 {
            let stages = if earlier == 1 { "stage is" } else { "stages are" };
            self.display.line(&format!("{earlier} {stages} of an earlier build in {out}"));
        }
        self.display.line(&match outcome {
            "built" if ran == 0 => format!("built {name}: nothing to run, {cached} cached, {took}  ->  {out}"),
            "built" => format!("built {name}: {ran} ran, {cached} cached, {took}  ->  {out}"),
            "failed" => {
                let (failed, skipped) = (summary.failures.len(), summary.skipped);
                format!("failed {name}: {failed} failed, {skipped} not run, {ran} ran, {cached} cached, {took}")
            }
            _ => {
                format!("interrupted {name} after {took}: {HOW_TO_GO_ON}")
            }
        });
        Ok(summary)
    }

    /// Leaves the next build an index of what this one found and made.
    fn remember(&mut self, keys: &[Option<Digest>], all: bool) {
        let wanted: HashSet<Digest> = keys.iter().copied().flatten().collect();
        let Resolver { index, store, .. } = &mut self.resolver;
        for key in &wanted {
            if index.untouched(store, *key).is_none() {
                index.learn(store, *key);
            }
        }
        if all {
            index.keep(|key| wanted.contains(&key));
        }
        index.save();
    }

    fn label(&self, id: NodeId) -> String {
        self.resolver.graph.label(id)
    }

    fn names(&self, id: NodeId) -> (String, String, String) {
        let stage = self.resolver.graph.nodes[id].stage;
        let variant = self.resolver.graph.variant_name(id);
        (stage.name.clone(), variant, stage.declaration.name.to_owned())
    }
}
