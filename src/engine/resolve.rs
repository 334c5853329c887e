//! From the graph to actions: what each stage's action is, and whether the store has its artifact.

use serde_json::{Map, Value};

use super::action::{action, artifact_value, artifacts_value, key_of};
use super::device::Devices;
use super::graph::{Graph, Need, NodeId, common_values};
use super::inputs::Inputs;
use super::{Options, difference::Difference};
use crate::digest::Digest;
use crate::error::Result;
use crate::pipeline::Pipeline;
use crate::stages::Environment;
use crate::store::{ActionRecord, Lookup, Store};

/// An artifact that a gathering stage sees, and the sweep's values that it stands for.
pub struct GatheredEntry {
    pub stage: String,
    pub variant: Map<String, Value>,
    /// `None` while it is still to be made.
    pub artifact: Option<Digest>,
}

/// The action of a node; without a key while an input is still to be made.
pub struct Resolved {
    pub action: Value,
    pub key: Option<Digest>,
}

/// Knows the artifacts of a graph as far as they are known.
pub struct Resolver<'a> {
    pub graph: Graph<'a>,
    pub store: Store,
    pub inputs: Inputs,
    pub devices: Devices,
    artifacts: Vec<Option<Digest>>,
}

/// What the store said about a key.
pub enum Found {
    Hit(Box<ActionRecord>),
    Miss(Option<Difference>),
}

impl<'a> Resolver<'a> {
    pub fn new(pipeline: &'a Pipeline, options: &Options) -> Result<Self> {
        let graph = Graph::of(pipeline, &options.only)?;
        let store = Store::open(&options.cache)?;
        let inputs = Inputs::of(&graph, &store)?;
        let devices = Devices::choose(options.device)?;
        let artifacts = vec![None; graph.nodes.len()];
        Ok(Self { graph, store, inputs, devices, artifacts })
    }

    pub fn artifact(&self, id: NodeId) -> Option<Digest> {
        self.artifacts[id]
    }

    pub fn settle(&mut self, id: NodeId, artifact: Digest) {
        self.artifacts[id] = Some(artifact);
    }

    pub fn resolve(&self, id: NodeId) -> Result<Resolved> {
        let node = &self.graph.nodes[id];
        let declaration = node.stage.declaration;
        let mut inputs = Vec::with_capacity(node.needs.len());
        for need in &node.needs {
            let value = if declaration.gathers {
                artifacts_value(&self.gathered(need))
            } else {
                artifact_value(need.nodes.first().and_then(|input| self.artifacts[*input]))
            };
            inputs.push((need.pointer.clone(), value));
        }
        for need in &node.stage.resolved.needs.files {
            inputs.push((need.pointer.clone(), self.inputs.value(need)?));
        }
        let seed = self.graph.variant(id)?.seed;
        let action = action(declaration, &node.stage.resolved, inputs, seed, &self.environment(id)?)?;
        let complete = node.needs.iter().flat_map(|need| &need.nodes).all(|input| self.artifacts[*input].is_some());
        let key = complete.then(|| key_of(&action));
        Ok(Resolved { action, key })
    }

    /// What a gathering stage sees of one input stage: one entry for each distinct artifact, in the sweep's order,
    /// with the values that are common to all variants that share it.
    pub fn gathered(&self, need: &Need) -> Vec<GatheredEntry> {
        let mut groups: Vec<(Option<Digest>, Vec<usize>)> = Vec::new();
        for input in &need.nodes {
            let (artifact, variants) = (self.artifacts[*input], &self.graph.nodes[*input].variants);
            match groups.iter_mut().find(|(known, _)| artifact.is_some() && *known == artifact) {
                Some((_, group)) => group.extend(variants),
                None => groups.push((artifact, variants.clone())),
            }
        }
        let variants = &self.graph.pipeline.variants;
        groups
            .into_iter()
            .map(|(artifact, group)| GatheredEntry {
                stage: need.stage.clone(),
                variant: common_values(group.iter().map(|index| &variants[*index])),
                artifact,
            })
            .collect()
    }

    pub fn environment(&self, id: NodeId) -> Result<Environment> {
        let dtype = self.graph.variant(id)?.dtype.unwrap_or_else(|| self.devices.default_dtype());
        Ok(Environment { device: self.devices.kind, device_index: 0, dtype })
    }

    /// Asks the store; a hit settles the node.
    pub fn lookup(&mut self, id: NodeId, key: Digest) -> Result<Found> {
        match self.store.lookup(key)? {
            Lookup::Hit(record) => {
                self.settle(id, record.artifact);
                Ok(Found::Hit(record))
            }
            Lookup::Miss => Ok(Found::Miss(None)),
            Lookup::Damaged(reason) => Ok(Found::Miss(Some(Difference::Lost { reason }))),
        }
    }
}
