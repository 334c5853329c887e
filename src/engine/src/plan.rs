//! Plans: what a build would do and why, without running anything. plan_file.rs keeps a plan in a file; diagram.rs
//! draws a plan.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Options;
use super::child::Children;
use super::difference::{ActionDifference, words};
use super::explain::ActionHistory;
use super::graph::NodeId;
use super::pull::RemoteAsker;
use super::resolve::{Resolver, StageLookup};
use raisin_base::columns::{self, padded};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};
use raisin_base::size::size;
use raisin_contract::Action;
use raisin_pipeline::Pipeline;
use raisin_store::{Accepted, ActionRecord, Store};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub pipeline: String,
    /// The stages, in an order in which they could run. A stage that variants share is listed once.
    pub stages: Vec<PlannedStage>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedStage {
    pub stage: String,
    pub kind: String,
    /// The names of the variants that share the stage.
    pub variants: Vec<String>,
    /// The name of the stage. If not all variants share the stage, with the variant.
    pub label: String,
    /// The labels of the input stages.
    pub inputs: Vec<String>,
    #[serde(flatten)]
    pub status: Status,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Status {
    Cached {
        key: Digest,
        artifact: Digest,
        /// When the artifact was made (RFC 3339), how long that took, and in which run.
        finished: String,
        seconds: f64,
        run: String,
        /// Set if a person accepted the artifact of another action for this stage.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accepted: Option<Accepted>,
    },
    /// The shared cache has the artifact.
    WouldFetch {
        key: Digest,
        artifact: Digest,
        /// The size of the files that a build would fetch.
        bytes: u64,
    },
    /// The key is unknown while an input must still be made. If the input turns out as before, the stage is cached
    /// (early cutoff).
    WouldRun { key: Option<Digest>, why: Vec<ActionDifference> },
}

impl Plan {
    pub fn would_run(&self) -> usize {
        self.stages.iter().filter(|stage| matches!(stage.status, Status::WouldRun { .. })).count()
    }

    /// The number of stages that a build would fetch, and the size of their files.
    pub fn would_fetch(&self) -> (usize, u64) {
        let bytes = |stage: &PlannedStage| match stage.status {
            Status::WouldFetch { bytes, .. } => Some(bytes),
            _ => None,
        };
        self.stages.iter().filter_map(bytes).fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.stages.iter().map(|stage| columns::width(&stage.label)).max().unwrap_or(0);
        for stage in &self.stages {
            match &stage.status {
                Status::Cached { artifact, accepted, .. } => {
                    let accepted = if accepted.is_some() { "  (accepted)" } else { "" };
                    writeln!(f, "  {}  cached     {}{accepted}", padded(&stage.label, width), artifact.short())?;
                }
                Status::WouldFetch { artifact, bytes, .. } => {
                    let (label, artifact) = (padded(&stage.label, width), artifact.short());
                    writeln!(f, "  {label}  would fetch  {artifact}, {}", size(*bytes))?;
                }
                Status::WouldRun { why, .. } => {
                    for (position, reason) in words(why).iter().enumerate() {
                        let (label, word) = if position == 0 { (stage.label.as_str(), "would run") } else { ("", "") };
                        writeln!(f, "  {}  {word:9}  {reason}", padded(label, width))?;
                    }
                }
            }
        }
        let (run, (fetch, bytes)) = (self.would_run(), self.would_fetch());
        let fetched = if fetch > 0 { format!("{fetch} would be fetched ({}), ", size(bytes)) } else { String::new() };
        write!(f, "{}: {run} would run, {fetched}{} cached", self.pipeline, self.stages.len() - run - fetch)
    }
}

/// Looks up every stage, and explains each stage that would run.
pub fn plan(pipeline: &Pipeline, options: &Options) -> Result<Plan> {
    let store = Store::open(&options.cache)?;
    let children = Children::default();
    let mut remote = RemoteAsker::new(options, &store, &children);
    let mut resolver = Resolver::of(pipeline, options, store)?;
    Ok(plan_with(&mut resolver, &mut remote)?.0)
}

/// Returns the plan, and the action of each stage of the plan. The shared cache is asked for all stages of a step at once.
pub(super) fn plan_with<'a>(
    resolver: &mut Resolver<'a>,
    remote: &mut RemoteAsker<'_>,
) -> Result<(Plan, Vec<Action<'a>>)> {
    let mut history = ActionHistory::default();
    let mut planned: Vec<Option<(PlannedStage, Action<'a>)>> = Vec::new();
    planned.resize_with(resolver.graph.nodes.len(), || None);
    for step in resolver.graph.steps() {
        let (mut looked, mut asked) = (Vec::with_capacity(step.len()), Vec::new());
        for id in step {
            let action = resolver.action(id)?;
            let key = action.key();
            let found = key.map_or(Ok(StageLookup::Miss(None)), |key| resolver.find(id, key))?;
            if let (StageLookup::Miss(_), Some(key)) = (&found, key)
                && remote.is_usable()
            {
                asked.push((id, key, action.to_json()));
            }
            looked.push((id, action, key, found));
        }
        let there = remote.look(asked);
        for (id, action, key, found) in looked {
            let status = status(resolver, &mut history, (id, &action, key), found, there.get(&id).copied())?;
            planned[id] = Some((planned_stage(resolver, id, status), action));
        }
    }
    let (stages, actions) = planned.into_iter().flatten().unzip();
    Ok((Plan { pipeline: resolver.graph.pipeline.name.clone(), stages }, actions))
}

/// The status of a node. `there` is its artifact in the shared cache, with the size of what a build would fetch.
fn status(
    resolver: &mut Resolver<'_>,
    history: &mut ActionHistory,
    (id, action, key): (NodeId, &Action<'_>, Option<Digest>),
    found: StageLookup,
    there: Option<(Digest, u64)>,
) -> Result<Status> {
    Ok(match (found, key, there) {
        (StageLookup::Hit(artifact), Some(key), _) => {
            let record = resolver
                .store
                .record(key)?
                .with_context(|| format!("the action record {key} was removed a moment ago"))?;
            let ActionRecord { finished, seconds, run, accepted, .. } = record;
            Status::Cached { key, artifact, finished, seconds, run, accepted }
        }
        (StageLookup::Miss(_), Some(key), Some((artifact, bytes))) => {
            resolver.artifacts[id] = Some(artifact);
            Status::WouldFetch { key, artifact, bytes }
        }
        (StageLookup::Miss(Some(lost)), key, _) => Status::WouldRun { key, why: vec![lost] },
        (_, key, _) => Status::WouldRun { key, why: history.explain(resolver, id, action)? },
    })
}

fn planned_stage(resolver: &Resolver<'_>, id: NodeId, status: Status) -> PlannedStage {
    let node = &resolver.graph.nodes[id];
    let variants = &resolver.graph.pipeline.variants;
    PlannedStage {
        stage: node.stage.name.clone(),
        kind: node.stage.declaration.name.to_owned(),
        variants: node.variants.iter().map(|index| variants[*index].name.clone()).collect(),
        label: resolver.graph.label(id),
        inputs: inputs(resolver, id),
        status,
    }
}

fn inputs(resolver: &Resolver<'_>, id: NodeId) -> Vec<String> {
    let mut nodes: Vec<NodeId> = Vec::new();
    for need in &resolver.graph.nodes[id].needs {
        nodes.extend(need.nodes.iter().filter(|node| !nodes.contains(node)).collect::<Vec<_>>());
    }
    nodes.into_iter().map(|node| resolver.graph.label(node)).collect()
}
