//! A build: looks up, runs what is missing, links the result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};

use super::difference::Difference;
use super::explain::{History, Question};
use super::graph::NodeId;
use super::process::{Children, Job, Message, Outcome, make};
use super::progress::{Display, duration, size};
use super::resolve::{Found, Resolver};
use super::schedule::{Schedule, Slots, State};
use super::{Options, links};
use crate::digest::Digest;
use crate::error::{Context as _, Result, render};
use crate::pipeline::Pipeline;
use crate::stages::{Assignment, Event, Source};
use crate::store::{ActionRecord, Journal, JournalEvent};

/// How long children may take to end after they were asked to.
const GRACE: Duration = Duration::from_secs(2);

/// What a build did.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub pipeline: String,
    pub ran: u64,
    pub cached: u64,
    /// Stages that did not run because one that they need failed.
    pub skipped: u64,
    pub failures: Vec<Failure>,
    pub interrupted: bool,
    pub seconds: f64,
    /// The folder with the links.
    pub out: PathBuf,
}

#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The stage, with what tells it from other variants' of the same name.
    pub stage: String,
    pub reason: String,
}

impl Summary {
    /// 0: all is built; 1: a stage failed; 130: interrupted.
    pub fn exit_code(&self) -> u8 {
        match (self.interrupted, self.failures.is_empty()) {
            (true, _) => 130,
            (false, true) => 0,
            (false, false) => 1,
        }
    }
}

/// Builds the pipeline. A stage that fails is in the summary; an error is something that kept the build from working.
pub fn build(pipeline: &Pipeline, options: &Options) -> Result<Summary> {
    let began = Instant::now();
    let resolver = Resolver::new(pipeline, options)?;
    let store = resolver.store.clone();
    let _shared = store.share()?;
    let mut build = Build::new(resolver, options)?;
    build.journal.hold(JournalEvent::RunStarted {
        pipeline: pipeline.name.clone(),
        file: pipeline.file.display().to_string(),
        pid: std::process::id(),
    })?;
    build.look_up_ready()?;
    if build.schedule.count(|state| state == State::Queued) > 0 {
        build.tell_cached();
        build.run()?;
    }
    let summary = build.finish(began, options)?;
    Ok(summary)
}

struct Build<'a> {
    resolver: Resolver<'a>,
    schedule: Schedule,
    history: History,
    journal: Journal,
    display: Display,
    keys: Vec<Option<Digest>>,
    actions: Vec<Option<Value>>,
    threads: usize,
    keep_going: bool,
    executables: Option<PathBuf>,
    ran: u64,
    failures: Vec<Failure>,
    interrupted: bool,
}

impl<'a> Build<'a> {
    fn new(resolver: Resolver<'a>, options: &Options) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let tensor = options.jobs.unwrap_or(resolver.devices.count).max(1);
        let threads = options.threads.unwrap_or(cores / tensor).max(1);
        let count = resolver.graph.nodes.len();
        let nodes = resolver.graph.nodes.iter();
        let nodes = nodes.map(|node| (node.stage.declaration.process, node.dependents.clone()));
        let schedule = Schedule::new(nodes, Slots { light: cores, tensor });
        let width = (0..count).map(|id| resolver.graph.label(id).chars().count()).max().unwrap_or(0);
        Ok(Self {
            schedule,
            history: History::default(),
            journal: Journal::begin(&resolver.store)?,
            display: Display::new(options.quiet, width.min(40)),
            keys: vec![None; count],
            actions: vec![None; count],
            threads,
            keep_going: options.keep_going,
            executables: options.executables.clone(),
            ran: 0,
            failures: Vec::new(),
            interrupted: false,
            resolver,
        })
    }

    /// Looks up every node whose inputs are there, and those that become so by hits.
    fn look_up_ready(&mut self) -> Result<Vec<NodeId>> {
        let mut hits = Vec::new();
        while let Some(id) = self.schedule.next_ready() {
            let resolved = self.resolver.resolve(id)?;
            let key = resolved.key.with_context(|| format!("`{}` is ready without its inputs", self.label(id)))?;
            self.keys[id] = Some(key);
            match self.resolver.lookup(id, key)? {
                Found::Hit(record) => {
                    self.note_hit(id, key, record.artifact)?;
                    self.schedule.done(id);
                    hits.push(id);
                }
                Found::Miss(lost) => {
                    let why = self.explain(id, &resolved.action, lost)?;
                    let (stage, variant, kind) = self.names(id);
                    self.journal.hold(JournalEvent::Miss { stage, variant, kind, key, why })?;
                    self.actions[id] = Some(resolved.action);
                    self.schedule.queue(id, key);
                }
            }
        }
        Ok(hits)
    }

    fn explain(&mut self, id: NodeId, action: &Value, lost: Option<Difference>) -> Result<Vec<String>> {
        if let Some(Difference::Lost { reason }) = &lost {
            self.display.stage_line(&self.label(id), &format!("set aside: {reason}"));
        }
        let why = match lost {
            Some(lost) => vec![lost],
            None => {
                let node = &self.resolver.graph.nodes[id];
                let question = Question {
                    pipeline: &self.resolver.graph.pipeline.name,
                    stage: &node.stage.name,
                    variant: self.resolver.graph.variant_name(id),
                    kind: node.stage.declaration.name,
                    action,
                };
                self.history.explain(&self.resolver.store, &question)?
            }
        };
        Ok(why.iter().map(ToString::to_string).collect())
    }

    /// Runs until nothing more can: the only loop that waits.
    fn run(&mut self) -> Result<()> {
        let interrupt = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupt)).context("cannot watch for signals")?;
        }
        let children = Children::default();
        let store = self.resolver.store.clone();
        let (sender, receiver) = channel();
        std::thread::scope(|scope| {
            let result = self.drive(scope, &store, &children, &sender, &receiver, &interrupt);
            if result.is_err() {
                // Whatever went wrong here, no child is left behind.
                children.stop();
                children.kill();
            }
            result
        })
    }

    fn drive<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        store: &'scope crate::store::Store,
        children: &'scope Children,
        sender: &Sender<Message>,
        receiver: &Receiver<Message>,
        interrupt: &AtomicBool,
    ) -> Result<()> {
        let mut stopped: Option<Instant> = None;
        loop {
            let go_on = stopped.is_none() && (self.failures.is_empty() || self.keep_going);
            while go_on && let Some((id, slot)) = self.schedule.start() {
                let job = self.job(id, slot)?;
                self.display.start(id, &self.label(id));
                let sender = sender.clone();
                scope.spawn(move || {
                    let result = Box::new(make(job, store, children, &sender));
                    drop(sender.send(Message::Ended { id, result }));
                });
            }
            if self.schedule.running() == 0 {
                return Ok(());
            }
            match receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(message) => self.receive(message)?,
                Err(RecvTimeoutError::Timeout) => self.display.tick(),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if stopped.is_none() && interrupt.load(Ordering::Relaxed) {
                self.interrupted = true;
                stopped = Some(Instant::now());
                self.display.line("interrupted: ending the running stages");
                children.stop();
            }
            if stopped.is_some_and(|moment| moment.elapsed() >= GRACE) {
                children.kill();
            }
        }
    }

    fn receive(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Waiting { id, pid } => {
                let who = pid.map_or("another build".to_owned(), |pid| format!("pid {pid}"));
                let stage = self.resolver.graph.nodes[id].stage.name.clone();
                self.display.say(id, &format!("waiting for {who} building {stage}"));
            }
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
                    Ok(Outcome { record, ran }) => self.succeeded(id, &record, ran)?,
                    Err(error) => self.failed(id, &error)?,
                }
            }
        }
        Ok(())
    }

    fn succeeded(&mut self, id: NodeId, record: &ActionRecord, ran: bool) -> Result<()> {
        let label = self.label(id);
        if ran {
            let (stage, variant, _) = self.names(id);
            let (key, artifact) = (record.key, record.artifact);
            let (seconds, bytes) = (record.seconds, record.bytes);
            self.journal.write(JournalEvent::Finished { stage, variant, key, artifact, seconds, bytes })?;
            let took = duration(Duration::from_secs_f64(seconds));
            self.display.stage_line(&label, &format!("ran in {took}, {}", size(bytes)));
            self.ran += 1;
        } else {
            self.note_hit(id, record.key, record.artifact)?;
            self.display.stage_line(&label, "cached: another build made it");
        }
        self.resolver.settle(id, record.artifact);
        for follower in self.schedule.followers(id) {
            self.note_hit(follower, record.key, record.artifact)?;
            self.resolver.settle(follower, record.artifact);
            self.schedule.done(follower);
        }
        self.schedule.done(id);
        for hit in self.look_up_ready()? {
            self.display.stage_line(&self.label(hit), "cached");
        }
        Ok(())
    }

    fn failed(&mut self, id: NodeId, error: &anyhow::Error) -> Result<()> {
        let followers = self.schedule.followers(id);
        self.schedule.failed(id);
        followers.into_iter().for_each(|follower| self.schedule.failed(follower));
        let (stage, variant, _) = self.names(id);
        let reason = render(error);
        let reason = reason.strip_prefix("error: ").unwrap_or(&reason).to_owned();
        self.journal.write(JournalEvent::Failed { stage, variant, key: self.keys[id], reason: reason.clone() })?;
        let label = self.label(id);
        if self.interrupted {
            self.display.stage_line(&label, "interrupted");
        } else {
            self.display.stage_line(&label, &format!("FAILED\n    {reason}"));
            self.failures.push(Failure { stage: label, reason });
        }
        Ok(())
    }

    fn job(&self, id: NodeId, slot: Option<usize>) -> Result<Job> {
        let graph = &self.resolver.graph;
        let store = &self.resolver.store;
        let node = &graph.nodes[id];
        let declaration = node.stage.declaration;
        let key = self.keys[id].context("a stage without a key cannot run")?;
        let mut stages = BTreeMap::new();
        for need in &node.needs {
            let mut sources = Vec::new();
            for entry in self.resolver.gathered(need) {
                let artifact = entry.artifact.with_context(|| format!("the input `{}` is not there", need.stage))?;
                // A stage that does not gather must not know its variant: that is not in its key.
                let variant = if declaration.gathers { entry.variant } else { Map::new() };
                sources.push(Source { stage: entry.stage, variant, folder: store.artifact_folder(artifact) });
            }
            stages.insert(need.pointer.clone(), sources);
        }
        let mut files = BTreeMap::new();
        let mut inputs = Vec::new();
        for need in &node.stage.resolved.needs.files {
            let input = self.resolver.inputs.get(need)?.clone();
            files.insert(need.pointer.clone(), input.path.clone());
            inputs.push(input);
        }
        let mut environment = self.resolver.environment(id)?;
        environment.device_index = self.resolver.devices.index(slot.unwrap_or(0));
        let (stage, variant, kind) = self.names(id);
        let assignment = Assignment {
            kind: kind.clone(),
            stage: stage.clone(),
            parameters: node.stage.resolved.parameters.clone(),
            stages,
            files,
            seed: if declaration.seeded { graph.variant(id)?.seed } else { 0 },
            environment,
            threads: self.threads,
            folder: store.staging_folder(key),
        };
        let record = ActionRecord {
            key,
            action: self.actions[id].clone().context("a stage without an action cannot run")?,
            artifact: key,
            references: BTreeMap::new(),
            kind,
            stage,
            pipeline: graph.pipeline.name.clone(),
            variant,
            run: self.journal.run().to_owned(),
            started: String::new(),
            finished: String::new(),
            seconds: 0.0,
            bytes: 0,
            costs: Vec::new(),
            notes: Vec::new(),
        };
        Ok(Job { id, process: declaration.process, assignment, inputs, executables: self.executables.clone(), record })
    }

    fn note_hit(&mut self, id: NodeId, key: Digest, artifact: Digest) -> Result<()> {
        let (stage, variant, kind) = self.names(id);
        self.journal.hold(JournalEvent::Hit { stage, variant, kind, key, artifact })
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
        let keys = self.keys.iter().enumerate();
        let keys = keys.map(|(id, key)| key.filter(|_| self.schedule.state(id) == State::Done)).collect::<Vec<_>>();
        let out = links::update(&self.resolver, &keys, &options.out, !options.only.is_empty())?;
        let done = self.schedule.count(|state| state == State::Done);
        let took = began.elapsed();
        let summary = Summary {
            pipeline: self.resolver.graph.pipeline.name.clone(),
            ran: self.ran,
            cached: done - self.ran,
            skipped: self.keys.len() as u64 - done - self.failures.len() as u64,
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
        self.journal.write(JournalEvent::RunFinished {
            outcome: outcome.to_owned(),
            ran: summary.ran,
            cached: summary.cached,
            failed: summary.failures.len() as u64,
            seconds: summary.seconds,
        })?;
        let (name, ran, cached, out) = (&summary.pipeline, summary.ran, summary.cached, summary.out.display());
        let took = duration(took);
        self.display.line(&match outcome {
            "built" if ran == 0 => format!("built {name}: nothing to run, {cached} cached, {took}  ->  {out}"),
            "built" => format!("built {name}: {ran} ran, {cached} cached, {took}  ->  {out}"),
            "failed" => {
                let (failed, skipped) = (summary.failures.len(), summary.skipped);
                format!("failed {name}: {failed} failed, {skipped} not run, {ran} ran, {cached} cached, {took}")
            }
            _ => {
                format!("interrupted {name} after {took}: what is finished is kept; the same command goes on from here")
            }
        });
        Ok(summary)
    }

    fn label(&self, id: NodeId) -> String {
        self.resolver.graph.label(id)
    }

    fn names(&self, id: NodeId) -> (String, String, String) {
        let stage = self.resolver.graph.nodes[id].stage;
        let variant = self.resolver.graph.variant_name(id).to_owned();
        (stage.name.clone(), variant, stage.declaration.name.to_owned())
    }
}
