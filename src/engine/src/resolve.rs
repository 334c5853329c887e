//! From graph nodes to actions: forms the action of each stage, and looks up whether the store has its artifact.
//! graph.rs builds the graph; build.rs and plan.rs walk over it.

use super::device::{Devices, default_dtype};
use super::graph::{Graph, Need, NodeId, common_values};
use super::inputs::InputFiles;
use super::printed::PrintedLines;
use super::{Options, difference::ActionDifference};
use raisin_base::digest::Digest;
use raisin_base::error::{Result, anyhow};
use raisin_contract::{Action, Environment, GatheredArtifact, Input};
use raisin_pipeline::Pipeline;
use raisin_store::{BuildIndex, Lookup, Store};
use serde_json::Map;

/// Resolves the nodes of a graph to actions and artifacts, as far as the inputs are known.
pub struct Resolver<'a> {
    pub graph: Graph<'a>,
    pub store: Store,
    /// The index that the last build of this pipeline wrote.
    pub index: BuildIndex,
    pub inputs: InputFiles,
    pub printed: PrintedLines,
    pub devices: Devices,
    /// The number of artifacts that the store had and the index did not have. If there are any, a new index is worth
    /// writing.
    pub found_in_store: usize,
    /// The artifact of each node, if it is known.
    pub artifacts: Vec<Option<Digest>>,
}

/// The result of a look-up.
pub enum StageLookup {
    Hit(Digest),
    Miss(Option<ActionDifference>),
}

impl<'a> Resolver<'a> {
    /// Builds the graph, loads the index, and hashes the input files. If the caller needs the artifacts after the
    /// look-up, the caller must hold [`Store::share`] before this call. Otherwise gc could remove an artifact that the
    /// index has just reported.
    pub fn of(pipeline: &'a Pipeline, options: &Options, store: Store) -> Result<Self> {
        let out = options.out.join(&pipeline.name);
        let (graph, index) = std::thread::scope(|scope| {
            let load = || BuildIndex::load(&store, &out);
            let index = std::thread::Builder::new().spawn_scoped(scope, load);
            let graph = Graph::of(pipeline, &options.only);
            // If the operating system refuses a thread, this thread loads the index.
            (graph, index.map_or_else(|_| Ok(load()), std::thread::ScopedJoinHandle::join))
        });
        let graph = graph?;
        let index = index.map_err(|_| anyhow!("the index of {} cannot be loaded", out.display()))?;
        let inputs = InputFiles::of(&graph, &store)?;
        let printed = PrintedLines::of(&graph)?;
        let devices = Devices::choose(options.device)?;
        let artifacts = vec![None; graph.nodes.len()];
        Ok(Self { graph, store, index, inputs, printed, devices, found_in_store: 0, artifacts })
    }

    /// The action of a node, as far as its inputs are known. The action has a key when all inputs are known.
    pub fn action(&self, id: NodeId) -> Result<Action<'a>> {
        let node = &self.graph.nodes[id];
        let (declaration, resolved) = (node.stage.declaration, &node.stage.resolved);
        let mut inputs = Vec::with_capacity(node.needs.len() + resolved.needs.files.len());
        for need in &node.needs {
            let input = if declaration.gathers {
                Input::Artifacts(self.gathered(need))
            } else {
                let artifact = need.nodes.first().and_then(|input| self.artifacts[*input]);
                // The name of a stage that a query names is in the key, also if the stage does not gather.
                let named = |stage| Input::Artifacts(vec![GatheredArtifact { stage, variant: Map::new(), artifact }]);
                if need.by_name { named(need.stage.clone()) } else { Input::Artifact(artifact) }
            };
            inputs.push((need.pointer.as_str(), input));
        }
        for need in &resolved.needs.files {
            inputs.push((need.pointer.as_str(), self.inputs.input(need)?));
        }
        for need in &resolved.needs.printed {
            inputs.push((need.pointer.as_str(), self.printed.input(need)?));
        }
        let seed = node.stage.seed;
        Action::of(declaration, resolved, inputs, seed, &self.environment(id)?)
    }

    /// The artifacts of one input stage, as a gathering stage sees them: one entry for each distinct artifact, in the
    /// order of the sweep, with the sweep values that are common to all variants with this artifact.
    fn gathered(&self, need: &Need) -> Vec<GatheredArtifact> {
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
            .map(|(artifact, group)| GatheredArtifact {
                stage: if need.by_name { need.stage.clone() } else { String::new() },
                variant: common_values(group.iter().map(|index| &variants[*index])),
                artifact,
            })
            .collect()
    }

    pub fn environment(&self, id: NodeId) -> Result<Environment> {
        let executor = &self.graph.pipeline.executor;
        let device = executor.device(self.graph.nodes[id].stage).unwrap_or(self.devices.kind);
        let dtype = self.graph.variant(id)?.dtype.unwrap_or_else(|| default_dtype(device));
        Ok(Environment { device, device_index: 0, dtype })
    }

    /// Looks up the key in the index, and then in the store. A hit sets the artifact of the node.
    pub fn find(&mut self, id: NodeId, key: Digest) -> Result<StageLookup> {
        let artifact = match self.index.untouched(&self.store, key) {
            Some(artifact) => artifact,
            None => match self.store.lookup(key)? {
                Lookup::Hit(record) => {
                    self.found_in_store += 1;
                    record.artifact
                }
                Lookup::Miss => return Ok(StageLookup::Miss(None)),
                Lookup::Lost(reason) => return Ok(StageLookup::Miss(Some(ActionDifference::Lost { reason }))),
            },
        };
        self.artifacts[id] = Some(artifact);
        Ok(StageLookup::Hit(artifact))
    }
}
