//! `raisin explain`: explains what a selector learned. The plan names the artifacts; raisin-data reads and explains them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::PipelineArguments;
use raisin_base::error::{Problem, Result};
use raisin_base::say;
use raisin_contract::explain::{DeployedRun, ExplainOptions, SelectorArtifacts};
use raisin_engine::{self as engine, Options, Plan, PlannedStage, Status};
use raisin_pipeline::{Pipeline, Stage};
use raisin_store::Store;

const SELECTOR: &str = "selector";

/// Show what a selector learned: which columns and clusters drive the choice when, and why an instruction is picked.
///
/// Effects are in standard deviations of the measured effects, at the start, in the middle and at the end of a
/// training, each with its 95 % interval. The command runs no stage: it reads the artifact of a selector that was built.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// The stage of kind `selector`; the command explains all its variants.
    stage: String,
    /// Explain the instruction with this `id`: its rank, its expected effect, and how often it was picked. May be given
    /// several times.
    #[arg(long, value_name = "N")]
    id: Vec<u32>,
    /// Show also the effects at this step of a training, from 1, and order by them.
    #[arg(long, value_name = "T")]
    step: Option<u32>,
}

const EXAMPLES: &str = "\
Examples:
  raisin explain pipelines/quickstart.toml selector
  raisin explain pipelines/quickstart.toml selector --set pipeline.seed=18 --step 10
  raisin explain pipelines/quickstart.toml selector --id 12 --id 400";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = arguments.pipeline.options();
    let pipeline = arguments.pipeline.load()?;
    let stage = arguments.stage.as_str();
    let stages = pipeline.variants.iter().flat_map(|variant| &variant.stages);
    let mut kinds = stages.filter(|found| found.name == stage).map(|found| found.declaration.name);
    if let Some(other) = kinds.find(|kind| *kind != SELECTOR) {
        return Err(not_a_selector(&pipeline, stage, other).into());
    }
    let cache = options.cache.clone();
    let mut plan = engine::plan(&pipeline, &options)?;
    if plan.stages.iter().all(|planned| planned.stage != stage) {
        // If the pipeline has no such stage, this error names the nearest name. Otherwise --only left the stage out.
        plan = engine::plan(&pipeline, &Options { only: vec![stage.to_owned()], ..options })?;
    }
    let store = Store::open(&cache)?;
    let built = BuiltStages { pipeline: &pipeline, plan: &plan, store: &store };
    let (mut selectors, mut missing) = (Vec::new(), Vec::new());
    for planned in plan.stages.iter().filter(|planned| planned.stage == stage) {
        match built.artifacts(planned) {
            Ok(artifacts) => selectors.push(artifacts),
            Err(label) => missing.push(label),
        }
    }
    let file = arguments.pipeline.file().display();
    missing.dedup();
    let missing = missing.join(", ");
    if selectors.is_empty() {
        let problem = Problem::usage(format!("there is nothing to explain yet; not built: {missing}"));
        let hint = format!("`raisin build {file}` builds it, and `raisin why {file} {stage}` says why it would run");
        return Err(problem.hint(hint).into());
    }
    if !missing.is_empty() {
        say!("left out, because not built: {missing}");
    }
    let options = ExplainOptions { selectors, ids: arguments.id.clone(), step: arguments.step };
    super::answer::hand_over_explanation(&options)
}

fn not_a_selector(pipeline: &Pipeline, stage: &str, kind: &str) -> Problem {
    let mut selectors: Vec<&str> = Vec::new();
    for found in pipeline.variants.iter().flat_map(|variant| &variant.stages) {
        if found.declaration.name == SELECTOR && !selectors.contains(&found.name.as_str()) {
            selectors.push(&found.name);
        }
    }
    let problem =
        Problem::usage(format!("the stage `{stage}` is of kind {kind}; only a stage of kind selector is explained"));
    match selectors.as_slice() {
        [] => problem.hint("the pipeline has no stage of kind selector"),
        selectors => problem.hint(format!("of kind selector: {}", selectors.join(", "))),
    }
}

struct BuiltStages<'a> {
    pipeline: &'a Pipeline,
    plan: &'a Plan,
    store: &'a Store,
}

impl BuiltStages<'_> {
    /// The artifacts of a selector and of the stages around it.
    ///
    /// # Errors
    /// The label of the first of these stages that is not built.
    fn artifacts(&self, planned: &PlannedStage) -> Result<SelectorArtifacts, String> {
        let folder = |planned: &PlannedStage| self.folder(planned).ok_or_else(|| planned.label.clone());
        let artifact = folder(planned)?;
        let variant = planned.variants.first().ok_or_else(|| planned.label.clone())?;
        let stage = self.stage(planned, variant).ok_or_else(|| planned.label.clone())?;
        let input = |pointer: &str| {
            let need = stage.resolved.needs.stages.iter().find(|need| need.pointer == pointer);
            let found = need.and_then(|need| {
                self.plan.stages.iter().find(|it| it.stage == need.stage && it.variants.contains(variant))
            });
            folder(found.ok_or_else(|| format!("the input {pointer} of {}", planned.label))?)
        };
        let mut deployed = Vec::new();
        for other in self.plan.stages.iter().filter(|other| other.kind == "finetune") {
            let shared = other.variants.iter().find(|variant| planned.variants.contains(variant));
            let uses = shared.and_then(|variant| self.stage(other, variant)).is_some_and(|stage| {
                let mut needs = stage.resolved.needs.stages.iter();
                needs.any(|need| need.provides == Some("policy") && need.stage == planned.stage)
            });
            if uses && let Some(artifact) = self.folder(other) {
                deployed.push(DeployedRun { label: other.label.clone(), artifact });
            }
        }
        Ok(SelectorArtifacts {
            label: planned.label.clone(),
            artifact,
            instructions: input("/instructions")?,
            clusters: input("/features")?,
            deployed,
        })
    }

    fn stage(&self, planned: &PlannedStage, variant: &str) -> Option<&Stage> {
        let variant = self.pipeline.variants.iter().find(|known| known.name == variant)?;
        variant.stages.iter().find(|stage| stage.name == planned.stage)
    }

    fn folder(&self, planned: &PlannedStage) -> Option<PathBuf> {
        match &planned.status {
            Status::Cached { artifact, .. } => Some(self.store.artifact_folder(*artifact)),
            Status::WouldFetch { .. } | Status::WouldRun { .. } => None,
        }
    }
}
