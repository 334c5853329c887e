//! Plan files: a plan in a file, so that a later build runs exactly this plan. plan.rs makes the plan; build.rs runs
//! its stages.
//!
//! A plan file contains the resolved pipeline and the action of every stage. Therefore a build from a plan file reads
//! no pipeline file and computes no explanation again. The actions must still be valid: if an input file, the version
//! of a kind or the numeric environment has changed since, the build is refused before any stage runs. A stage that was
//! cached when the plan was made, and is not cached any more, runs again. An artifact that was made since then is used.
//! Neither changes an action.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::child::Children;
use super::difference::{differences, words};
use super::explain::reread;
use super::plan::{Plan, PlannedStage, Status, plan_with};
use super::pull::RemoteAsker;
use super::resolve::Resolver;
use super::{DeviceChoice, Options};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::files::{if_there, read_up_to};
use raisin_contract::{Action, DType, Declaration};
use raisin_pipeline::{CacheSettings, ExecutorSettings, Pipeline, Resources, Stage, Variant, check_resolved};
use raisin_store::Store;

/// The largest plan file that is read.
const MOST_BYTES: u64 = 1 << 30;

/// The format of plan files.
const FORMAT: u32 = 1;

const AGAIN: &str = "plan again with this raisin: `raisin plan PIPELINE --out FILE`";

/// A plan with all data that a build of the plan needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanFile {
    raisin_plan: u32,
    /// When the plan was made (RFC 3339).
    planned: String,
    /// The device choice; never `auto`. If the user chose one GPU of several, the plan keeps this GPU.
    device: DeviceChoice,
    only: Vec<String>,
    pipeline: KeptPipeline,
    stages: Vec<KeptAction>,
    /// The path from which the plan was read.
    #[serde(skip)]
    path: PathBuf,
    /// The actions of `stages`, if the plan was read from a file.
    #[serde(skip)]
    actions: Vec<Action<'static>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptPipeline {
    name: String,
    seed: u64,
    file: PathBuf,
    sweep: Vec<(String, Vec<Value>)>,
    /// The flags with which the pipeline was planned. A build writes them into the journal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    overrides: Vec<String>,
    #[serde(default)]
    executor: ExecutorSettings,
    variants: Vec<KeptVariant>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptVariant {
    name: String,
    values: Map<String, Value>,
    seed: u64,
    dtype: Option<DType>,
    stages: Vec<KeptStage>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptStage {
    name: String,
    kind: String,
    kind_version: u32,
    parameters: Value,
    resources: Resources,
    /// `None` if the stage has the seed of its variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptAction {
    #[serde(flatten)]
    stage: PlannedStage,
    /// The action as JSON.
    action: Value,
}

impl PlanFile {
    /// Makes a plan, and the plan file for it.
    pub fn make(pipeline: &Pipeline, options: &Options) -> Result<(Plan, Self)> {
        let (store, children) = (Store::open(&options.cache)?, Children::default());
        let mut remote = RemoteAsker::new(options, &store, &children);
        let mut resolver = Resolver::of(pipeline, options, store)?;
        let (plan, actions) = plan_with(&mut resolver, &mut remote)?;
        let stages = plan
            .stages
            .iter()
            .cloned()
            .zip(actions)
            .map(|(stage, action)| KeptAction { stage, action: action.to_json() });
        let file = Self {
            raisin_plan: FORMAT,
            planned: jiff::Timestamp::now().to_string(),
            device: options.device.settled(resolver.devices.kind),
            only: options.only.clone(),
            pipeline: KeptPipeline::of(pipeline),
            stages: stages.collect(),
            path: PathBuf::new(),
            actions: Vec::new(),
        };
        Ok((plan, file))
    }

    pub fn text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Checks that a new plan file at `path` would replace nothing but an earlier plan file. A link is followed.
    ///
    /// # Errors
    /// There is something else, such as the pipeline file or an input file.
    pub fn check_place(path: &Path) -> Result<()> {
        let shown = path.display();
        let cannot = || format!("cannot read {shown}, which the plan would replace");
        let Some(found) = if_there(path.metadata()).with_context(cannot)? else { return Ok(()) };
        let is_plan = found.is_file() && {
            let bytes = std::fs::read(path).with_context(cannot)?;
            // A plan that was cut is still a plan.
            let inside = bytes.trim_ascii_start().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
            bytes.is_empty() || inside.is_some_and(|inside| inside.starts_with(b"\"raisin_plan\""))
        };
        if is_plan {
            return Ok(());
        }
        let problem = Problem::usage(format!("{shown} is there and is no plan file: the plan would replace it"));
        Err(problem.hint("give `--out` the name of a new file, such as plan.json").into())
    }

    /// Reads a plan file. `None` if the file is something else, such as a pipeline.
    ///
    /// # Errors
    /// The plan is damaged, or another version of raisin wrote it.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        // A TOML file cannot begin with a brace. If the file cannot be read, `None` is right: the loader of pipelines
        // reports the error, and it has the smaller limit.
        let Ok(bytes) = read_up_to(path, MOST_BYTES) else { return Ok(None) };
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Ok(None);
        }
        let shown = path.display();
        let again = AGAIN;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::usage(format!("{shown} is neither a pipeline nor a plan: {error}")))?;
        match value.get("raisin_plan").map(Value::as_u64) {
            Some(Some(format)) if format == u64::from(FORMAT) => {}
            Some(format) => {
                let format = format.map_or("another format".to_owned(), |format| format!("format {format}"));
                let message = format!("the plan {shown} has {format}, this raisin reads format {FORMAT}");
                return Err(Problem::usage(message).hint(again).into());
            }
            None => return Err(Problem::usage(format!("{shown} is neither a pipeline nor a plan")).hint(again).into()),
        }
        let damaged = |error: &dyn Display| Problem::usage(format!("the plan {shown} is damaged: {error}")).hint(again);
        let mut plan: Self = serde_json::from_value(value).map_err(|error| damaged(&error))?;
        for kept in &plan.stages {
            plan.actions.push(Action::of_json(&kept.action).map_err(|error| damaged(&error))?.into_owned());
        }
        path.clone_into(&mut plan.path);
        Ok(Some(plan))
    }

    /// The given options, with the device and the stages of the plan.
    pub fn options(&self, options: Options) -> Options {
        Options { device: self.device, only: self.only.clone(), ..options }
    }

    /// The pipeline as it was planned. Relative paths in the pipeline start at the current directory, as in a pipeline
    /// file that is read from there.
    ///
    /// # Errors
    /// A kind does not exist in this raisin, has another version, or reads its parameters in another way; or the plan
    /// contains what no pipeline file can give, such as the name `../x` of a stage.
    pub fn pipeline(&self, kinds: &'static [Declaration]) -> Result<Pipeline> {
        let kept = &self.pipeline;
        let variants = kept.variants.iter().map(|variant| {
            let stages =
                variant.stages.iter().map(|stage| stage.restore(kinds, variant.seed)).collect::<Result<_>>()?;
            let (name, values) = (variant.name.clone(), variant.values.clone());
            Ok(Variant { name, values, seed: variant.seed, dtype: variant.dtype, stages })
        });
        let damaged = |problem: Problem| {
            let message = format!("the plan {} is damaged: {}", self.path.display(), problem.message);
            Problem::usage(message).hint(AGAIN)
        };
        let overrides = kept.overrides.iter().map(|flag| flag.parse().map_err(damaged));
        let pipeline = Pipeline {
            name: kept.name.clone(),
            seed_default: kept.seed,
            file: kept.file.clone(),
            folder: std::env::current_dir().context("cannot tell the current directory")?,
            variants: variants.collect::<Result<_>>()?,
            sweep: kept.sweep.clone(),
            overrides: overrides.collect::<Result<_, _>>()?,
            // A plan file is built where the environment or a flag says which shared cache there is.
            cache: CacheSettings::default(),
            executor: kept.executor.clone(),
        };
        // A plan file can be changed, by mistake or on purpose. Names of it become paths.
        check_resolved(&pipeline).map_err(damaged)?;
        Ok(pipeline)
    }

    /// Compares the planned actions with the current actions, before any stage is looked up or run.
    ///
    /// # Errors
    /// Something changed since the plan was made; the message lists the changes by stage.
    pub(super) fn check(&self, resolver: &Resolver<'_>) -> Result<()> {
        let count = resolver.graph.nodes.len();
        if count != self.actions.len() {
            let message = format!("the plan {} does not fit its own pipeline", self.path.display());
            return Err(Problem::usage(message).hint("plan again").into());
        }
        let mut changed = Vec::new();
        for (id, (kept, planned)) in self.stages.iter().zip(&self.actions).enumerate() {
            let mut found = differences(planned, &reread(&resolver.action(id)?)?);
            // The artifacts of inputs are known only after the earlier stages have run, so these differences are
            // ignored here.
            found.retain(|difference| !difference.is_of_an_artifact());
            changed.extend(words(&found).into_iter().map(|word| format!("\n  {}: {word}", kept.stage.label)));
        }
        if changed.is_empty() {
            return Ok(());
        }
        let message = format!("since {} was planned, something changed{}", self.path.display(), changed.concat());
        let hint = format!("plan again: `raisin plan {} --out {}`", self.pipeline.file.display(), self.path.display());
        Err(Problem::usage(message).hint(hint).into())
    }

    /// The planned reasons why a stage runs; `None` for a stage that was cached.
    pub(super) fn why(&self, id: usize) -> Option<Vec<String>> {
        match &self.stages.get(id)?.stage.status {
            Status::Cached { .. } => None,
            Status::WouldRun { why, .. } => Some(words(why)),
            Status::WouldFetch { .. } => {
                Some(vec!["the shared cache had it when the plan was made, and does not have it now".to_owned()])
            }
        }
    }
}

impl KeptPipeline {
    fn of(pipeline: &Pipeline) -> Self {
        let stage = |stage: &Stage, seed: u64| KeptStage {
            name: stage.name.clone(),
            kind: stage.declaration.name.to_owned(),
            kind_version: stage.declaration.version,
            parameters: stage.resolved.parameters.clone(),
            resources: stage.resources,
            seed: (stage.seed != seed).then_some(stage.seed),
        };
        let variant = |variant: &Variant| KeptVariant {
            name: variant.name.clone(),
            values: variant.values.clone(),
            seed: variant.seed,
            dtype: variant.dtype,
            stages: variant.stages.iter().map(|one| stage(one, variant.seed)).collect(),
        };
        Self {
            name: pipeline.name.clone(),
            seed: pipeline.seed_default,
            file: pipeline.file.clone(),
            sweep: pipeline.sweep.clone(),
            overrides: pipeline.overrides.iter().map(ToString::to_string).collect(),
            executor: pipeline.executor.clone(),
            variants: pipeline.variants.iter().map(variant).collect(),
        }
    }
}

impl KeptStage {
    fn restore(&self, kinds: &'static [Declaration], seed: u64) -> Result<Stage> {
        let refused = |what: String| Problem::usage(what).hint("plan again with this raisin");
        let name = &self.name;
        let declaration = kinds.iter().find(|kind| kind.name == self.kind).ok_or_else(|| {
            refused(format!("stage `{name}` was planned with the kind `{}`, which is not there", self.kind))
        })?;
        let (planned, now) = (self.kind_version, declaration.version);
        if planned != now {
            return Err(refused(format!(
                "stage `{name}` was planned with version {planned} of the kind `{}`, this raisin has version {now}",
                self.kind
            ))
            .into());
        }
        let resolved = declaration.resolve(self.parameters.clone()).map_err(|problem| refused(problem.message))?;
        if resolved.parameters != self.parameters {
            return Err(refused(format!("this raisin reads the parameters of stage `{name}` in another way")).into());
        }
        let (name, resources, written) = (name.clone(), self.resources, HashMap::new());
        Ok(Stage { name, declaration, resolved, resources, seed: self.seed.unwrap_or(seed), written })
    }
}
