//! Assembles a job from the graph and the store: the assignment, the input files and the action record without its
//! results. execute.rs runs the job.

use std::collections::BTreeMap;

use serde_json::Map;

use super::execute::{Job, Mode};
use super::graph::{Graph, NodeId};
use super::inputs::JobInput;
use super::jobs::JobSpec;
use super::resolve::Resolver;
use super::resources::limit;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, anyhow};
use raisin_contract::{Action, Assignment, Input, InputArtifact, Process};
use raisin_pipeline::JobRequest;
use raisin_store::ActionRecord;

/// The facts about a job that only the build knows.
pub struct JobOrder<'o> {
    pub key: Digest,
    pub action: &'o Action<'o>,
    pub run: &'o str,
    pub threads: usize,
    pub gpu: Option<usize>,
    /// What the job of a cluster asks for; `None` for a stage on this machine.
    pub request: Option<&'o JobRequest>,
    pub mode: Mode,
}

pub fn assemble(resolver: &Resolver<'_>, id: NodeId, order: JobOrder<'_>) -> Result<Job> {
    let (graph, store) = (&resolver.graph, &resolver.store);
    let node = &graph.nodes[id];
    let declaration = node.stage.declaration;
    let mut stages = BTreeMap::new();
    for need in &node.needs {
        let source = |stage: &str, variant, artifact: Option<Digest>| {
            let artifact = artifact.with_context(|| format!("the input `{stage}` is not there"))?;
            Ok(InputArtifact { stage: stage.to_owned(), variant, folder: store.artifact_folder(artifact) })
        };
        let sources: Result<Vec<InputArtifact>> = match order.action.input(&need.pointer) {
            // Only a gathering stage sees the variant of its inputs: for other stages the variant is not in the key.
            Some(Input::Artifact(artifact)) => source(&need.stage, Map::new(), *artifact).map(|one| vec![one]),
            Some(Input::Artifacts(all)) => {
                all.iter().map(|one| source(&need.stage, one.variant.clone(), one.artifact)).collect()
            }
            _ => Err(anyhow!("the action has no artifact at {}", need.pointer)),
        };
        stages.insert(need.pointer.clone(), sources?);
    }
    let mut inputs = Vec::new();
    for need in &node.stage.resolved.needs.files {
        inputs.push(JobInput { pointer: need.pointer.clone(), file: resolver.inputs.get(need)?.clone() });
    }
    let mut environment = resolver.environment(id)?;
    // A job sees only the GPUs that it got.
    let takes_gpu = order.request.is_some_and(|request| request.gpus > 0 && declaration.process != Process::Tensor);
    let gpu = match order.request {
        Some(_) => takes_gpu.then_some(0),
        None => order.gpu.map(|gpu| resolver.devices.index(gpu)),
    };
    if order.request.is_none() {
        environment.device_index = resolver.devices.index(order.gpu.unwrap_or(0));
    }
    let on_cluster = order.request.map(|request| JobSpec {
        folder: store.job_folder(order.key),
        stage: node.stage.name.clone(),
        label: graph.label(id),
        name: format!("{}-{}", graph.pipeline.name, node.stage.name),
        request: request.clone(),
    });
    let folder = on_cluster.as_ref().map_or_else(|| store.staging_folder(order.key), |job| job.folder.clone());
    let assignment = Assignment {
        kind: declaration.name.to_owned(),
        kind_version: declaration.version,
        stage: node.stage.name.clone(),
        parameters: node.stage.resolved.parameters.clone(),
        stages,
        // The paths of the files are known when execute.rs has linked them into the staging folder.
        files: BTreeMap::new(),
        seed: order.action.seed.unwrap_or_default(),
        environment,
        threads: order.threads,
        gpu,
        memory: limit(node.stage),
        folder,
        tokens: Some(store.tokens_folder()),
        own_folder: false,
    };
    let record = ActionRecord { run: order.run.to_owned(), ..empty_record(graph, id, order.action, order.key) };
    Ok(Job { id, process: declaration.process, assignment, inputs, record, mode: order.mode, on_cluster })
}

/// The action record of a node, without the run and its results.
pub fn empty_record(graph: &Graph<'_>, id: NodeId, action: &Action<'_>, key: Digest) -> ActionRecord {
    let stage = graph.nodes[id].stage;
    ActionRecord {
        key,
        action: action.to_json(),
        artifact: key,
        references: BTreeMap::new(),
        kind: stage.declaration.name.to_owned(),
        stage: stage.name.clone(),
        pipeline: graph.pipeline.name.clone(),
        variant: graph.variant_name(id),
        run: String::new(),
        started: String::new(),
        finished: String::new(),
        seconds: 0.0,
        bytes: 0,
        costs: Vec::new(),
        notes: Vec::new(),
        accepted: None,
    }
}
