//! Puts together what making one action takes, from the graph and the store: its assignment, its inputs, its record to be.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::graph::NodeId;
use super::make::{Job, Mode};
use super::resolve::Resolver;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};
use raisin_contract::{Assignment, Source};
use raisin_store::ActionRecord;

/// What only the build knows of an action that is to be made.
pub struct Order<'o> {
    pub key: Digest,
    pub action: Value,
    pub run: &'o str,
    pub threads: usize,
    pub gpu: Option<usize>,
    pub mode: Mode,
}

pub fn assemble(resolver: &Resolver<'_>, id: NodeId, order: Order<'_>) -> Result<Job> {
    let (graph, store) = (&resolver.graph, &resolver.store);
    let node = &graph.nodes[id];
    let declaration = node.stage.declaration;
    let mut stages = BTreeMap::new();
    for need in &node.needs {
        let mut sources = Vec::new();
        for entry in resolver.gathered(need) {
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
        let input = resolver.inputs.get(need)?.clone();
        input.assign(&need.pointer, &mut files);
        inputs.push(input);
    }
    let mut environment = resolver.environment(id)?;
    environment.device_index = resolver.devices.index(order.gpu.unwrap_or(0));
    let kind = declaration.name.to_owned();
    let stage = node.stage.name.clone();
    let assignment = Assignment {
        kind: kind.clone(),
        stage: stage.clone(),
        parameters: node.stage.resolved.parameters.clone(),
        stages,
        files,
        seed: if declaration.seeded { graph.variant(id)?.seed } else { 0 },
        environment,
        threads: order.threads,
        folder: store.staging_folder(order.key),
    };
    let record = ActionRecord {
        key: order.key,
        action: order.action,
        artifact: order.key,
        references: BTreeMap::new(),
        kind,
        stage,
        pipeline: graph.pipeline.name.clone(),
        variant: graph.variant_name(id),
        run: order.run.to_owned(),
        started: String::new(),
        finished: String::new(),
        seconds: 0.0,
        bytes: 0,
        costs: Vec::new(),
        notes: Vec::new(),
        accepted: None,
    };
    Ok(Job { id, process: declaration.process, assignment, inputs, record, mode: order.mode })
}
