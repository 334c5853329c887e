//! What a build does, as another process sees it: the journal of the cache tells the stages and their ends, and the
//! staging folders of running stages tell how far they are. Nothing is locked and nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Map;

use raisin_base::digest::Digest;
use raisin_base::error::Result;
use raisin_contract::live::StageProgress;
use raisin_contract::ui::{GraphStage, UiOptions};
use raisin_store::{
    BuildDescription, BuiltStage, DESCRIPTION_FORMAT, JournalEvent, JournalLine, JournalTail, Run, Store,
};

/// The number of runs that the page lists.
const MOST_RUNS: usize = 100;

/// The state of a stage in the run that is shown.
#[derive(Clone, Debug, PartialEq)]
pub enum SeenState {
    /// Waits for its inputs, or for a place to run.
    Waiting,
    /// Never built.
    NotBuilt,
    Running(Digest),
    Cached(Digest),
    Fetched(Digest),
    Ran {
        key: Digest,
        artifact: Digest,
        seconds: f64,
    },
    Failed {
        key: Option<Digest>,
        reason: String,
    },
    /// The run ended before the stage began or before it ended.
    NotRun(Option<Digest>),
}

impl SeenState {
    /// The word for the state.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::NotBuilt => "not built",
            Self::Running(_) => "running",
            Self::Cached(_) => "cached",
            Self::Fetched(_) => "fetched",
            Self::Ran { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::NotRun(_) => "not run",
        }
    }

    pub fn artifact(&self) -> Option<Digest> {
        match self {
            Self::Cached(artifact) | Self::Fetched(artifact) | Self::Ran { artifact, .. } => Some(*artifact),
            _ => None,
        }
    }

    /// The key under which the store has the log and the staging folder of the stage.
    pub fn key(&self) -> Option<Digest> {
        match self {
            Self::Running(key) | Self::Ran { key, .. } => Some(*key),
            Self::Failed { key, .. } | Self::NotRun(key) => *key,
            _ => None,
        }
    }
}

/// A stage of the graph with its state.
#[derive(Clone, Debug)]
pub struct SeenStage {
    pub of: GraphStage,
    pub state: SeenState,
    /// What the stage told, while it runs or after it failed.
    pub told: Option<StageProgress>,
}

impl SeenStage {
    pub fn new(of: GraphStage, state: SeenState) -> Self {
        Self { of, state, told: None }
    }

    /// The name of the stage, with its variant if it has one.
    pub fn label(&self) -> String {
        let GraphStage { stage, variant, .. } = &self.of;
        if variant.is_empty() { stage.clone() } else { format!("{stage} [{variant}]") }
    }
}

/// How far the run is that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPhase {
    /// There was no run.
    None,
    Running,
    /// The run wrote its end.
    Ended,
    /// The process of the run is gone, and wrote no end.
    Killed,
}

/// One pipeline at one moment.
#[derive(Clone, Debug)]
pub struct SeenBuild {
    pub pipeline: String,
    /// All pipelines that can be chosen.
    pub pipelines: Vec<String>,
    pub phase: RunPhase,
    /// The last run of the pipeline.
    pub run: Option<Run>,
    pub stages: Vec<SeenStage>,
    /// The store, if there is one.
    pub store: Option<Store>,
    /// The last runs of all pipelines, the newest first.
    pub runs: Vec<Run>,
    /// What cannot be read.
    pub problems: Vec<String>,
}

impl SeenBuild {
    /// The stages that are done, as a build would describe them; `None` if there are none. The journal has the names of
    /// variants, and not the values of the sweep.
    pub fn unfinished(&self) -> Option<BuildDescription> {
        let done = |seen: &SeenStage| {
            let GraphStage { stage, variant, kind, .. } = seen.of.clone();
            let artifact = seen.state.artifact()?;
            let key = seen.state.key().unwrap_or(artifact);
            Some(BuiltStage { stage, kind, variant, values: Map::new(), artifact, key })
        };
        let stages: Vec<BuiltStage> = self.stages.iter().filter_map(done).collect();
        let (format, pipeline) = (DESCRIPTION_FORMAT, self.pipeline.clone());
        (!stages.is_empty()).then_some(BuildDescription { format, pipeline, file: None, stages })
    }
}

/// The journal as it was read so far.
#[derive(Default)]
pub struct BuildWatch {
    tail: JournalTail,
    /// By the id of the run.
    runs: BTreeMap<String, Run>,
    /// The last run with stages of each pipeline.
    shown: BTreeMap<String, ShownRun>,
}

/// The graph and the states of a run.
struct ShownRun {
    run: String,
    /// Whether the run told its stages and their inputs.
    has_graph: bool,
    stages: Vec<SeenStage>,
    places: BTreeMap<(String, String), usize>,
}

impl ShownRun {
    fn new(run: String, graph: Vec<GraphStage>) -> Self {
        let has_graph = !graph.is_empty();
        let places = graph.iter().enumerate().map(|(at, it)| ((it.stage.clone(), it.variant.clone()), at)).collect();
        let stages = graph.into_iter().map(|of| SeenStage::new(of, SeenState::Waiting)).collect();
        Self { run, has_graph, stages, places }
    }

    /// Sets a state. A run of an older version tells its stages only by their events.
    fn set(&mut self, stage: &str, variant: &str, kind: &str, state: SeenState) {
        let place = *self.places.entry((stage.to_owned(), variant.to_owned())).or_insert_with(|| {
            let of = GraphStage { stage: stage.into(), variant: variant.into(), kind: kind.into(), inputs: Vec::new() };
            self.stages.push(SeenStage::new(of, SeenState::Waiting));
            self.stages.len() - 1
        });
        self.stages[place].state = state;
    }

    fn take(&mut self, event: &JournalEvent) {
        match event {
            JournalEvent::Hit { stage, variant, kind, artifact, fetched, .. } => {
                let state =
                    if fetched.is_some() { SeenState::Fetched(*artifact) } else { SeenState::Cached(*artifact) };
                self.set(stage, variant, kind, state);
            }
            JournalEvent::Miss { stage, variant, kind, .. } => self.set(stage, variant, kind, SeenState::Waiting),
            JournalEvent::Started { stage, variant, key, .. } => self.set(stage, variant, "", SeenState::Running(*key)),
            JournalEvent::Finished { stage, variant, key, artifact, seconds, .. } => {
                let state = SeenState::Ran { key: *key, artifact: *artifact, seconds: *seconds };
                self.set(stage, variant, "", state);
            }
            JournalEvent::Failed { stage, variant, key, reason } => {
                self.set(stage, variant, "", SeenState::Failed { key: *key, reason: reason.clone() });
            }
            JournalEvent::RunStarted(_) | JournalEvent::RunFinished(_) => {}
        }
    }
}

impl BuildWatch {
    /// The state of a pipeline now. Without `pipeline`: that of the options, else that of the last run.
    pub fn look(&mut self, options: &UiOptions, pipeline: Option<&str>) -> SeenBuild {
        let mut problems = Vec::new();
        let mut or_problem = |error: raisin_base::error::Error| problems.push(format!("{error:#}"));
        let store = Store::looked_at(&options.cache).map_err(&mut or_problem).ok().flatten();
        match &store {
            Some(store) => self.read(store).unwrap_or_else(&mut or_problem),
            None => *self = Self::default(),
        }
        // The id of a run begins with its time.
        let newest_first = || self.runs.values().rev();
        let built = built_pipelines(&options.out);
        let chosen = options.pipeline.as_ref();
        let last = || newest_first().find_map(|run| run.pipeline.as_deref());
        let first = || built.first().map(String::as_str);
        let name = pipeline.or(chosen.map(|choice| choice.name.as_str())).or_else(last).or_else(first);
        let name = name.unwrap_or_default().to_owned();
        let names = self.runs.values().filter_map(|run| run.pipeline.as_ref()).chain(&built);
        let pipelines: BTreeSet<&String> = names.chain(chosen.map(|choice| &choice.name)).collect();
        let pipelines = pipelines.into_iter().cloned().collect();
        let run = newest_first().find(|run| run.pipeline.as_ref() == Some(&name)).cloned();
        let phase = run.as_ref().map_or(RunPhase::None, phase_of);
        let mut stages = match self.shown.get(&name) {
            Some(shown) => shown.stages.clone(),
            None => without_a_run(options, &name, built.contains(&name)).unwrap_or_else(|error| {
                or_problem(error);
                Vec::new()
            }),
        };
        let is_of_this_run = |shown: &ShownRun| run.as_ref().is_some_and(|run| run.run == shown.run);
        let is_shown = self.shown.get(&name).is_some_and(is_of_this_run);
        for stage in &mut stages {
            if let (Some(store), Some(key)) = (&store, stage.state.key())
                && stage.state.artifact().is_none()
            {
                let places = [store.staging_folder(key), store.job_folder(key)];
                // A stage that ran on this machine once and as a job now has both.
                let told = places.iter().filter_map(|place| StageProgress::read(place));
                stage.told = told.max_by(|one, other| one.began.cmp(&other.began));
            }
            settle(stage, phase, is_shown);
        }
        let runs = newest_first().take(MOST_RUNS).cloned().collect();
        SeenBuild { pipeline: name, pipelines, phase, run, stages, store, runs, problems }
    }

    fn read(&mut self, store: &Store) -> Result<()> {
        let (is_void, lines) = self.tail.next(store)?;
        if is_void {
            self.runs.clear();
            self.shown.clear();
        }
        lines.into_iter().for_each(|line| self.take(line));
        Ok(())
    }

    fn take(&mut self, line: JournalLine) {
        let run = self.runs.entry(line.run.clone()).or_insert_with(|| Run { run: line.run.clone(), ..Run::default() });
        if let JournalEvent::RunStarted(start) = &line.event
            && !start.stages.is_empty()
        {
            self.shown.insert(start.pipeline.clone(), ShownRun::new(line.run.clone(), start.stages.clone()));
        } else if let Some(pipeline) = &run.pipeline {
            let is_of_a_stage = !matches!(line.event, JournalEvent::RunStarted(_) | JournalEvent::RunFinished(_));
            // A repair runs single stages and tells no graph. A run of an older version tells none either, and is shown if
            // there is nothing better.
            let gives_way = |shown: &ShownRun| shown.run < line.run && !shown.has_graph;
            if is_of_a_stage && self.shown.get(pipeline).is_none_or(gives_way) {
                self.shown.insert(pipeline.clone(), ShownRun::new(line.run.clone(), Vec::new()));
            }
            if let Some(shown) = self.shown.get_mut(pipeline).filter(|shown| shown.run == line.run) {
                shown.take(&line.event);
            }
        }
        run.take(line);
        // The states are in `shown`; a journal may have ten thousand runs.
        run.graph.clear();
        run.stages.truncate(1);
    }
}

/// The stages of a pipeline of which the journal knows no stage: those of its file or of its last links.
fn without_a_run(options: &UiOptions, name: &str, is_built: bool) -> Result<Vec<SeenStage>> {
    // The name may be anything that a request has: only the folder of a pipeline is read.
    let described = if is_built { BuildDescription::read(&options.out.join(name))? } else { None };
    let built: Vec<_> = described.into_iter().flat_map(|described| described.stages).collect();
    let of_file = options.pipeline.iter().filter(|choice| choice.name == name).flat_map(|choice| &choice.stages);
    let mut stages: Vec<SeenStage> = of_file
        .map(|of| {
            let artifact = built.iter().find(|it| (&it.stage, &it.variant) == (&of.stage, &of.variant));
            let state = artifact.map_or(SeenState::NotBuilt, |it| SeenState::Cached(it.artifact));
            SeenStage::new(of.clone(), state)
        })
        .collect();
    if stages.is_empty() {
        stages.extend(built.into_iter().map(|it| {
            let of = GraphStage { stage: it.stage, variant: it.variant, kind: it.kind, inputs: Vec::new() };
            SeenStage::new(of, SeenState::Cached(it.artifact))
        }));
    }
    Ok(stages)
}

/// A stage that has not ended has no such state in a run that has. If a later run found everything as it was, all
/// stages that had an artifact are cached.
fn settle(stage: &mut SeenStage, phase: RunPhase, is_of_the_run: bool) {
    if phase != RunPhase::Running || !is_of_the_run {
        match stage.state {
            SeenState::Waiting => stage.state = SeenState::NotRun(None),
            SeenState::Running(key) => stage.state = SeenState::NotRun(Some(key)),
            _ => {}
        }
    }
    if !is_of_the_run && let Some(artifact) = stage.state.artifact() {
        stage.state = SeenState::Cached(artifact);
    }
}

/// Whether a run still works. A process of another machine cannot be looked at: its run counts as running.
pub fn phase_of(run: &Run) -> RunPhase {
    if run.outcome.is_some() {
        return RunPhase::Ended;
    }
    let here = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if run.machine.as_deref().is_some_and(|machine| machine != here.trim()) {
        return RunPhase::Running;
    }
    // The process id may belong to another program by now.
    let name = run.pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    if name.is_some_and(|name| name.trim() == "raisin") { RunPhase::Running } else { RunPhase::Killed }
}

/// The names of the folders in `out/` with a build.json.
fn built_pipelines(out: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join(raisin_store::DESCRIPTION).is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
