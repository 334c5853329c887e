//! From the graph to actions: what each stage's action is, and whether the store has its artifact.

use serde_json::{Map, Value};

use super::action::{ACTION_FORMAT, action, artifact_value, artifacts_value, key_of};
use super::device::Devices;
use super::graph::{Graph, Need, NodeId, common_values};
use super::inputs::Inputs;
use super::{Options, difference::Difference};
use raisin_base::digest::Digest;
use raisin_base::error::{Result, anyhow};
use raisin_contract::{Environment, Process};
use raisin_pipeline::Pipeline;
use raisin_store::{Index, Lookup, Store};

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
    /// What the last build of this pipeline found.
    pub index: Index,
    pub inputs: Inputs,
    pub devices: Devices,
    /// Whether the store had something that the index did not know: worth another index.
    pub found_in_store: bool,
    artifacts: Vec<Option<Digest>>,
}

/// What the store said about a key.
pub enum Found {
    Hit { key: Digest, artifact: Digest },
    Miss(Option<Difference>),
}

impl<'a> Resolver<'a> {
    pub fn new(pipeline: &'a Pipeline, options: &Options) -> Result<Self> {
        Self::of(pipeline, options, Store::open(&options.cache)?)
    }

    /// The same with a store that is open. Who is to build on what this finds holds [`Store::share`] before: gc would
    /// else free what the index was just found to have.
    pub fn of(pipeline: &'a Pipeline, options: &Options, store: Store) -> Result<Self> {
        let out = options.out.join(&pipeline.name);
        let (graph, index) = std::thread::scope(|scope| {
            let index = scope.spawn(|| Index::load(&store, &out));
            let graph = Graph::of(pipeline, &options.only);
            (graph, index.join())
        });
        let graph = graph?;
        let index = index.map_err(|_| anyhow!("the index of {} cannot be loaded", out.display()))?;
        let inputs = Inputs::of(&graph, &store)?;
        let devices = Devices::choose(options.device)?;
        let artifacts = vec![None; graph.nodes.len()];
        Ok(Self { graph, store, index, inputs, devices, found_in_store: false, artifacts })
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

    /// The digest of everything that the action of a node is made of; `None` while an input is still to be made. Two
    /// stages for which it is equal have the same action, so that the index can go by it before there is one.
    pub fn made_of(&self, id: NodeId) -> Result<Option<Digest>> {
        let node = &self.graph.nodes[id];
        let declaration = node.stage.declaration;
        let mut bytes = Vec::with_capacity(512);
        let mut put = |part: &[u8]| {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        };
        put(declaration.name.as_bytes());
        put(&[ACTION_FORMAT, declaration.version].map(u32::to_le_bytes).concat());
        put(Digest::of_value(&node.stage.resolved.parameters).bytes());
        for need in &node.needs {
            put(need.pointer.as_bytes());
            if declaration.gathers {
                for entry in self.gathered(need) {
                    let Some(artifact) = entry.artifact else { return Ok(None) };
                    put(entry.stage.as_bytes());
                    put(Digest::of_value(&Value::Object(entry.variant)).bytes());
                    put(artifact.bytes());
                }
            } else {
                let artifact = need.nodes.first().and_then(|input| self.artifacts[*input]);
                let Some(artifact) = artifact else { return Ok(None) };
                put(artifact.bytes());
            }
        }
        for need in &node.stage.resolved.needs.files {
            put(need.pointer.as_bytes());
            put(Digest::of_value(&self.inputs.value(need)?).bytes());
        }
        if declaration.seeded {
            put(&self.graph.variant(id)?.seed.to_le_bytes());
        }
        if declaration.process == Process::Tensor {
            put(format!("{:?}", self.environment(id)?).as_bytes());
        }
        Ok(Some(Digest::of(&bytes)))
    }

    /// Asks the index; a hit settles the node.
    pub fn known(&mut self, id: NodeId) -> Result<Option<Found>> {
        let Some(made_of) = self.made_of(id)? else { return Ok(None) };
        let Some((key, artifact)) = self.index.untouched(&self.store, made_of) else { return Ok(None) };
        self.settle(id, artifact);
        Ok(Some(Found::Hit { key, artifact }))
    }

    /// Asks the store; a hit settles the node.
    pub fn lookup(&mut self, id: NodeId, key: Digest) -> Result<Found> {
        match self.store.lookup(key)? {
            Lookup::Hit(record) => {
                self.found_in_store = true;
                self.settle(id, record.artifact);
                Ok(Found::Hit { key, artifact: record.artifact })
            }
            Lookup::Miss => Ok(Found::Miss(None)),
            Lookup::Damaged(reason) => Ok(Found::Miss(Some(Difference::Lost { reason }))),
        }
    }
}
