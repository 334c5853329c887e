//! Finds out how an artifact or an action record was made, and prepares the same action again.
//!
//! An action record has the whole action, but no path of an input file. The paths come from the pipeline files that the
//! journal names, as they are now. A path is used only if it leads to the content that the action names. Without an
//! action record, the action is looked for among the stages of these pipeline files.

mod input_files;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;

use serde_json::{Value, json};

use crate::execute::{Job, Mode, plain};
use crate::graph::NodeId;
use crate::inputs::JobInput;
use crate::job::empty_record;
use crate::resolve::Resolver;
use crate::resources::{Capacity, limit};
use crate::{DeviceChoice, Options, device::Devices};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result, anyhow};
use raisin_contract::{
    ACTION_FORMAT, Action, Assignment, DType, Declaration, DeviceKind, Environment, Input, InputArtifact, Process,
    ResolvedParameters,
};
use raisin_pipeline::{self as pipeline, Override, Pipeline, Stage};
use raisin_store::{ActionRecord, FileDigests, JournalEvent, JournalLine, RunStart, Store};

/// How a lost artifact or action record was made, or why that is not known.
pub enum Way {
    /// The action that makes it. The result fields of the record are those of the last time, or empty.
    Record(Box<ActionRecord>),
    /// An input must be made first; the text says which.
    Waits(String),
    None(String),
}

pub enum PreparedJob {
    Job(Box<RepairJob>),
    /// An input must be made first; the text says which.
    Waits(String),
}

/// An action that is ready to run.
pub struct RepairJob {
    pub record: ActionRecord,
    /// The pipeline of the run that made the action; empty if the journal does not name it.
    pub origin: Rc<RunOrigin>,
    process: Process,
    computes: bool,
    assignment: Assignment,
    inputs: Vec<JobInput>,
    executables: Option<PathBuf>,
}

/// The pipeline file of a run, with the flags that changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunOrigin {
    pub folder: String,
    pub file: String,
    pub overrides: Vec<String>,
}

/// What the store and the journal know about the making of artifacts.
pub struct Makings<'s> {
    store: &'s Store,
    kinds: &'static [Declaration],
    options: Options,
    records: Vec<ActionRecord>,
    journal: Vec<JournalLine>,
    /// The origin and the pipeline name of each run.
    runs: HashMap<String, (Rc<RunOrigin>, String)>,
    /// The pipelines that were loaded, or why they cannot be loaded.
    pipelines: BTreeMap<Rc<RunOrigin>, Result<Rc<Pipeline>, String>>,
    digests: FileDigests,
}

impl<'s> Makings<'s> {
    pub fn of(store: &'s Store, kinds: &'static [Declaration], options: &Options) -> Result<Self> {
        let journal = store.journal()?;
        let mut runs = HashMap::new();
        for line in &journal {
            if let JournalEvent::RunStarted(RunStart { pipeline, file, folder, overrides, .. }) = &line.event {
                let (folder, file, overrides) = (folder.clone(), file.clone(), overrides.clone());
                runs.insert(line.run.clone(), (Rc::new(RunOrigin { folder, file, overrides }), pipeline.clone()));
            }
        }
        Ok(Self {
            store,
            kinds,
            options: options.clone(),
            records: store.actions()?,
            journal,
            runs,
            pipelines: BTreeMap::new(),
            digests: FileDigests::load(store),
        })
    }

    /// Saves the digests of the input files that were read.
    pub fn save(&mut self) {
        self.digests.save();
    }

    /// The actions that made this artifact, the newest first.
    pub fn of_artifact(&mut self, artifact: Digest) -> Result<Vec<Way>> {
        let of_it = self.records.iter().rev().filter(|record| record.artifact == artifact);
        let (accepted, made): (Vec<_>, Vec<_>) = of_it.partition(|record| record.accepted.is_some());
        if !made.is_empty() {
            return Ok(made.into_iter().map(|record| Way::Record(Box::new(record.clone()))).collect());
        }
        let is_accepted = !accepted.is_empty();
        let mut keys: Vec<Digest> = Vec::new();
        for line in self.journal.iter().rev() {
            if let JournalEvent::Finished { key, artifact: made, .. } = &line.event
                && *made == artifact
                && !keys.contains(key)
            {
                keys.push(*key);
            }
        }
        if keys.is_empty() {
            let reason = if is_accepted {
                "it was accepted for another action, and neither an action record nor the journal names the action \
                 that made it"
            } else {
                "neither an action record nor the journal names the action that made it"
            };
            return Ok(vec![Way::None(reason.to_owned())]);
        }
        let mut ways = Vec::new();
        for key in keys {
            for way in self.of_record(key)? {
                // The journal knows what the action made.
                ways.push(match way {
                    Way::Record(record) => Way::Record(Box::new(ActionRecord { artifact, ..*record })),
                    other => other,
                });
            }
        }
        Ok(ways)
    }

    /// The action with this key, from the pipeline files of the runs that had the action.
    pub fn of_record(&mut self, key: Digest) -> Result<Vec<Way>> {
        let mut places: Vec<(Rc<RunOrigin>, String, String)> = Vec::new();
        for line in self.journal.iter().rev() {
            let stage = match &line.event {
                JournalEvent::Hit { stage, key: of, .. }
                | JournalEvent::Miss { stage, key: of, .. }
                | JournalEvent::Started { stage, key: of, .. }
                | JournalEvent::Finished { stage, key: of, .. }
                    if *of == key =>
                {
                    stage
                }
                _ => continue,
            };
            if let Some((origin, _)) = self.runs.get(&line.run)
                && !places.iter().any(|(known, name, _)| known == origin && name == stage)
            {
                places.push((Rc::clone(origin), stage.clone(), line.run.clone()));
            }
        }
        if places.is_empty() {
            let reason = "its action record is lost, and the journal names no run that had its action";
            return Ok(vec![Way::None(reason.to_owned())]);
        }
        let mut ways = Vec::new();
        for (origin, stage, run) in places {
            match self.in_pipeline(key, &origin, &stage) {
                Ok(Way::Record(record)) => {
                    return Ok(vec![Way::Record(Box::new(ActionRecord { run, ..*record }))]);
                }
                Ok(way) => ways.push(way),
                Err(error) => ways.push(Way::None(plain(&error))),
            }
        }
        Ok(ways)
    }

    /// The artifact that the action with this key made the last time, according to the journal.
    pub fn artifact_of(&self, key: Digest) -> Option<Digest> {
        self.journal.iter().rev().find_map(|line| match &line.event {
            JournalEvent::Finished { key: of, artifact, .. } if *of == key => Some(*artifact),
            _ => None,
        })
    }

    /// Looks for the action among the stages of a pipeline file that have this name.
    fn in_pipeline(&mut self, key: Digest, origin: &Rc<RunOrigin>, stage: &str) -> Result<Way> {
        let pipeline = self.pipeline(origin)?;
        let mut waits = false;
        for device in [DeviceChoice::Cpu, DeviceChoice::Cuda] {
            if Devices::choose(device).is_err() {
                continue;
            }
            let options = Options { device, only: vec![stage.to_owned()], ..self.options.clone() };
            let mut resolver = Resolver::of(&pipeline, &options, self.store.clone())?;
            for id in 0..resolver.graph.nodes.len() {
                let action = resolver.action(id)?;
                match action.key() {
                    Some(found) if found == key => {
                        return Ok(Way::Record(Box::new(empty_record(&resolver.graph, id, &action, key))));
                    }
                    Some(found) => drop(resolver.find(id, found)?),
                    None => waits = true,
                }
            }
        }
        let file = pipeline.file.display();
        Ok(if waits {
            Way::Waits(format!("its action record is lost, and inputs of stage `{stage}` of {file} are not there"))
        } else {
            Way::None(format!(
                "its action record is lost, and stage `{stage}` of {file} has another action now: the pipeline file, \
                 an input file or the version of a kind has changed since"
            ))
        })
    }

    /// The pipeline of a run, as its file is now.
    fn pipeline(&mut self, origin: &Rc<RunOrigin>) -> Result<Rc<Pipeline>> {
        if let Some(known) = self.pipelines.get(origin) {
            return known.clone().map_err(|reason| anyhow!("{reason}"));
        }
        let load = || -> Result<Pipeline> {
            // Older versions did not note the folder. Then the paths are taken from the current directory.
            let current = std::env::current_dir().context("cannot tell the current directory")?;
            let folder = current.join(&origin.folder);
            let overrides = origin.overrides.iter().map(|flag| Ok(flag.parse()?)).collect::<Result<Vec<Override>>>()?;
            let file = folder.join(&origin.file);
            pipeline::load_from(folder, &file, &overrides, self.kinds, &self.options.cache)
        };
        let loaded = load().map(Rc::new).map_err(|error| plain(&error));
        self.pipelines.insert(Rc::clone(origin), loaded.clone());
        loaded.map_err(|reason| anyhow!("{reason}"))
    }

    /// Prepares the action of a record.
    ///
    /// # Errors
    /// The action cannot be made here: its kind or its device is not there, or an input file is gone or has changed.
    pub fn prepare(&mut self, record: &ActionRecord) -> Result<PreparedJob> {
        let action = Action::of_json(&record.action)?;
        let (kind, then) = (&record.kind, action.kind_version);
        let declaration = self.kinds.iter().find(|declaration| declaration.name == action.kind);
        let declaration = declaration.ok_or_else(|| Problem::new(format!("this raisin has no kind `{kind}`")))?;
        if declaration.version != then || action.format != ACTION_FORMAT {
            let now = declaration.version;
            let message = format!("version {then} of the kind `{kind}` made it, and this raisin has version {now}");
            return Err(Problem::new(message).into());
        }
        let inputs = action.parameters.inputs();
        for digest in inputs.iter().flat_map(|(_, input)| artifacts(input)).chain(record.references.values().copied()) {
            match self.store.inspect(digest) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(PreparedJob::Waits(format!("its input {} is not there", digest.short()))),
                Err(error) => {
                    return Ok(PreparedJob::Waits(format!("its input {} is damaged: {error:#}", digest.short())));
                }
            }
        }
        let devices = self.devices(&action)?;
        let dtype = action.environment.map_or(DType::F32, |environment| environment.dtype);
        let environment = Environment { device: devices.kind, device_index: devices.index(0), dtype };
        let mut resolved = self.parameters(record, declaration, &inputs)?;
        let mut found = Vec::new();
        for need in &mut resolved.needs.files {
            let wanted = inputs.iter().find(|(pointer, _)| *pointer == need.pointer);
            let (_, wanted) = wanted.with_context(|| format!("the action has no file at {}", need.pointer))?;
            let (file, written) = self.input_file(record, need, wanted)?;
            found.push(JobInput { pointer: need.pointer.clone(), file });
            if let Some(place) = resolved.parameters.pointer_mut(&need.pointer) {
                *place = json!(written);
            }
            need.path = written;
        }
        let entries = inputs.iter().map(|(pointer, input)| (pointer.as_str(), (*input).clone()));
        // What a program printed then is in the action. The program itself is not.
        let printed = resolved.needs.printed.iter().map(|need| {
            let lines = record.action.pointer(&format!("/parameters{}", need.pointer)).cloned().unwrap_or_default();
            (need.pointer.as_str(), Input::Plain(Cow::Owned(lines)))
        });
        let entries = entries.chain(printed);
        let seed = action.seed.unwrap_or_default();
        if Action::of(declaration, &resolved, entries, seed, &environment)?.key() != Some(record.key) {
            let message = format!("this raisin reads the parameters of its kind `{kind}` in another way");
            return Err(Problem::new(message).into());
        }
        let mut stages = BTreeMap::new();
        for need in &resolved.needs.stages {
            let input = inputs.iter().find(|(pointer, _)| *pointer == need.pointer).map(|(_, input)| *input);
            stages.insert(need.pointer.clone(), self.input_artifacts(&need.stage, input)?);
        }
        let (process, computes) = (declaration.process, declaration.computes);
        let stage = self.stage(record, declaration, &resolved, seed);
        let threads = self.threads(record, &stage, devices);
        let record = ActionRecord { costs: Vec::new(), notes: Vec::new(), accepted: None, ..record.clone() };
        let assignment = Assignment {
            kind: record.kind.clone(),
            kind_version: then,
            stage: record.stage.clone(),
            parameters: resolved.parameters,
            stages,
            // The paths of the files are known when execute.rs has linked them into the staging folder.
            files: BTreeMap::new(),
            seed,
            environment,
            threads,
            gpu: None,
            memory: limit(&stage),
            folder: self.store.staging_folder(record.key),
            tokens: Some(self.store.tokens_folder()),
            own_folder: false,
        };
        let origin = self.runs.get(&record.run).map(|(origin, _)| Rc::clone(origin)).unwrap_or_default();
        let executables = self.options.executables.clone();
        let job = RepairJob { record, origin, process, computes, assignment, inputs: found, executables };
        Ok(PreparedJob::Job(Box::new(job)))
    }

    /// The devices of the kind on which the action ran.
    fn devices(&self, action: &Action<'_>) -> Result<Devices> {
        match action.environment.map(|environment| environment.device) {
            None | Some(DeviceKind::Cpu) => Devices::choose(DeviceChoice::Cpu),
            Some(DeviceKind::Cuda) => {
                let choice = match self.options.device {
                    DeviceChoice::CudaAt(index) => DeviceChoice::CudaAt(index),
                    _ => DeviceChoice::Cuda,
                };
                Devices::choose(choice).context("a CUDA device made it")
            }
        }
    }

    /// The parameters of the action in the form that a pipeline file has: names of stages and of files in the place of
    /// their digests.
    fn parameters(
        &self,
        record: &ActionRecord,
        declaration: &Declaration,
        inputs: &[(String, &Input<'_>)],
    ) -> Result<ResolvedParameters> {
        let mut parameters = record.action.get("parameters").cloned().unwrap_or(Value::Null);
        for (pointer, input) in inputs {
            let name = match input {
                Input::Artifact(Some(digest)) => self.stage_of(*digest),
                // Without a name in the action, the result does not depend on the name. The pointer is a name that no
                // other stage has.
                Input::Artifacts(all) => {
                    let name = all.first().map(|one| one.stage.clone()).filter(|name| !name.is_empty());
                    name.unwrap_or_else(|| pointer.clone())
                }
                Input::File { name, .. } => name.clone(),
                _ => ".".to_owned(),
            };
            let place = parameters.pointer_mut(pointer);
            *place.with_context(|| format!("the action has no parameter at {pointer}"))? = json!(name);
        }
        declaration.resolve(parameters).map_err(|problem| Problem::new(problem.message).into())
    }

    /// The name of a stage that made this artifact. The name appears in messages only.
    fn stage_of(&self, artifact: Digest) -> String {
        let record = self.records.iter().find(|record| record.artifact == artifact);
        record.map_or_else(|| "input".to_owned(), |record| record.stage.clone())
    }

    fn input_artifacts(&self, name: &str, input: Option<&Input<'_>>) -> Result<Vec<InputArtifact>> {
        let artifact = |stage: &str, variant, artifact: Option<Digest>| {
            let artifact = artifact.with_context(|| format!("the input `{stage}` is not there"))?;
            Ok(InputArtifact { stage: stage.to_owned(), variant, folder: self.store.artifact_folder(artifact) })
        };
        match input {
            Some(Input::Artifact(one)) => Ok(vec![artifact(name, serde_json::Map::new(), *one)?]),
            Some(Input::Artifacts(all)) => {
                all.iter().map(|one| artifact(name, one.variant.clone(), one.artifact)).collect()
            }
            _ => Err(anyhow!("the action has no artifact of `{name}`")),
        }
    }

    /// The stage of a record, with the resources that its pipeline gives it. Resources are not part of the action.
    fn stage(
        &mut self,
        record: &ActionRecord,
        declaration: &'static Declaration,
        resolved: &ResolvedParameters,
        seed: u64,
    ) -> Stage {
        let origin = self.runs.get(&record.run).map(|(origin, _)| Rc::clone(origin));
        let pipeline = origin.and_then(|origin| self.pipeline(&origin).ok());
        let mut stages = pipeline.iter().flat_map(|pipeline| &pipeline.variants).flat_map(|variant| &variant.stages);
        let resources =
            stages.find(|stage| stage.name == record.stage).map(|stage| stage.resources).unwrap_or_default();
        let (name, resolved, written) = (record.stage.clone(), resolved.clone(), HashMap::new());
        Stage { name, declaration, resolved, resources, seed, written }
    }

    /// The number of threads of the stage: as many as the last time, according to the journal. It is not part of the
    /// action, but with another number the last digit of a sum can differ.
    fn threads(&self, record: &ActionRecord, stage: &Stage, devices: Devices) -> usize {
        let then = self.journal.iter().rev().find_map(|line| match &line.event {
            JournalEvent::Started { key, threads, .. } if *key == record.key => *threads,
            _ => None,
        });
        then.unwrap_or_else(|| Capacity::of(&self.options, devices).demand(stage, None).threads)
    }
}

impl RepairJob {
    pub fn environment(&self) -> &Environment {
        &self.assignment.environment
    }

    /// The threads, if they count.
    pub fn counted_threads(&self) -> Option<usize> {
        self.computes.then_some(self.assignment.threads)
    }

    pub fn into_job(self, id: NodeId) -> Job {
        let Self { record, process, assignment, inputs, executables, .. } = self;
        let mode = Mode { executables, ..Mode::default() };
        Job { id, process, assignment, inputs, record, mode, on_cluster: None }
    }
}

/// The artifacts of an input.
fn artifacts(input: &Input<'_>) -> Vec<Digest> {
    match input {
        Input::Artifact(artifact) => artifact.iter().copied().collect(),
        Input::Artifacts(all) => all.iter().filter_map(|one| one.artifact).collect(),
        _ => Vec::new(),
    }
}
