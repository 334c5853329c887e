//! Explains why a stage would run: compares its action with the nearest earlier action. difference.rs has the
//! comparison of two actions; change.rs compares artifacts.

use std::collections::HashMap;

use serde_json::Value;

use super::change::changes;
use super::difference::{ActionDifference, differences};
use super::graph::NodeId;
use super::resolve::Resolver;
use raisin_base::digest::Digest;
use raisin_base::error::Result;
use raisin_contract::Action;
use raisin_contract::pointer::dotted;
use raisin_store::{ActionRecord, Store};

/// The maximum number of earlier actions of the same kind that are compared, newest first, if the stage has no earlier
/// action of its own.
const OF_THE_KIND: usize = 50;

/// The earlier actions. They are read from the store once, for the first stage that needs an explanation.
#[derive(Default)]
pub struct ActionHistory {
    records: Option<IndexedRecords>,
}

/// All action records, the oldest first, with an index by stage and by kind. The index is needed because a sweep of a
/// thousand stages asks a thousand times.
struct IndexedRecords {
    all: Vec<Earlier>,
    /// Indices in `all`, by pipeline, stage and kind.
    of_stages: HashMap<[String; 3], Vec<usize>>,
    of_kinds: HashMap<String, Vec<usize>>,
}

/// An action that an earlier run has made.
struct Earlier {
    record: ActionRecord,
    action: Action<'static>,
}

impl IndexedRecords {
    /// Skips records whose action cannot be read, because another version of raisin wrote them.
    fn new(all: Vec<ActionRecord>) -> Self {
        let read = |record: ActionRecord| {
            let action = Action::of_json(&record.action).ok()?.into_owned();
            Some(Earlier { record, action })
        };
        let all: Vec<Earlier> = all.into_iter().filter_map(read).collect();
        let (mut of_stages, mut of_kinds): (HashMap<_, Vec<usize>>, HashMap<_, Vec<usize>>) = Default::default();
        for (index, Earlier { record, .. }) in all.iter().enumerate() {
            let stage = [&record.pipeline, &record.stage, &record.kind].map(String::clone);
            of_stages.entry(stage).or_default().push(index);
            of_kinds.entry(record.kind.clone()).or_default().push(index);
        }
        Self { all, of_stages, of_kinds }
    }

    /// The actions of the same stage of the same pipeline, the newest first.
    fn of_stage(&self, request: &ExplainRequest<'_>) -> impl Iterator<Item = &Earlier> {
        let stage = [request.pipeline, request.stage, request.kind].map(str::to_owned);
        self.newest_first(self.of_stages.get(&stage))
    }

    /// The newest actions of the same kind.
    fn of_kind(&self, request: &ExplainRequest<'_>) -> impl Iterator<Item = &Earlier> {
        self.newest_first(self.of_kinds.get(request.kind)).take(OF_THE_KIND)
    }

    fn newest_first(&self, indices: Option<&Vec<usize>>) -> impl Iterator<Item = &Earlier> {
        indices.into_iter().flatten().rev().map(|index| &self.all[*index])
    }
}

/// A request to explain one action.
struct ExplainRequest<'q> {
    pipeline: &'q str,
    stage: &'q str,
    variant: String,
    kind: &'q str,
    action: Action<'static>,
    /// The input stages, with the parameter that names each: `instructions`, `of.0`.
    inputs: Vec<(String, &'q str)>,
}

impl<'q> ExplainRequest<'q> {
    fn of(resolver: &'q Resolver<'_>, id: NodeId, action: &Action<'_>) -> Result<Self> {
        let node = &resolver.graph.nodes[id];
        Ok(Self {
            pipeline: &resolver.graph.pipeline.name,
            stage: &node.stage.name,
            variant: resolver.graph.variant_name(id),
            kind: node.stage.declaration.name,
            action: reread(action)?,
            inputs: node.needs.iter().map(|need| (dotted(&need.pointer), need.stage.as_str())).collect(),
        })
    }
}

impl ActionHistory {
    /// Returns the differences to the nearest earlier action. Candidates are the earlier actions of the same stage of
    /// the same pipeline. If there are none, the newest actions of the same kind are candidates. The nearest action has
    /// the fewest differences; among equals, an action of the same variant comes first, then the newest action.
    pub fn explain(
        &mut self,
        resolver: &Resolver<'_>,
        id: NodeId,
        action: &Action<'_>,
    ) -> Result<Vec<ActionDifference>> {
        let request = ExplainRequest::of(resolver, id, action)?;
        let records = self.records(&resolver.store)?;
        let nearest =
            closest(records.of_stage(&request), &request).or_else(|| closest(records.of_kind(&request), &request));
        let Some((_, mut found)) = nearest else { return Ok(vec![ActionDifference::NeverBuilt]) };
        if found.is_empty() {
            found.push(ActionDifference::Lost { reason: "its record or artifact was lost".to_owned() });
        }
        found.iter_mut().for_each(|difference| look_closer(difference, &resolver.store, &request));
        found.dedup();
        Ok(found)
    }

    /// Returns the key of the nearest earlier action of the same stage and variant, so that a person can accept its
    /// artifact.
    pub fn accept(
        &mut self,
        resolver: &Resolver<'_>,
        id: NodeId,
        action: &Action<'_>,
    ) -> Result<Option<(Digest, Vec<ActionDifference>)>> {
        let request = ExplainRequest::of(resolver, id, action)?;
        let earlier = self.records(&resolver.store)?.of_stage(&request);
        let nearest = closest(earlier.filter(|one| one.record.variant == request.variant), &request);
        Ok(nearest.map(|(earlier, mut found)| {
            found.iter_mut().for_each(|difference| look_closer(difference, &resolver.store, &request));
            (earlier.record.key, found)
        }))
    }

    fn records(&mut self, store: &Store) -> Result<&IndexedRecords> {
        Ok(match &mut self.records {
            Some(records) => records,
            none => none.insert(IndexedRecords::new(store.actions()?)),
        })
    }
}

/// Converts the action to text and back. The earlier action also went through text, so two actions are equal if their
/// texts are equal.
pub fn reread(action: &Action<'_>) -> Result<Action<'static>> {
    let json: Value = serde_json::from_str(&action.to_json().to_string())?;
    Ok(Action::of_json(&json)?.into_owned())
}

/// The nearest action. Among equally near actions, the first is taken.
fn closest<'r>(
    earlier: impl Iterator<Item = &'r Earlier>,
    request: &ExplainRequest<'_>,
) -> Option<(&'r Earlier, Vec<ActionDifference>)> {
    earlier
        .map(|earlier| (earlier, differences(&earlier.action, &request.action)))
        .min_by_key(|(earlier, found)| (found.len(), earlier.record.variant != request.variant))
}

/// Adds to a difference the name of the input stage, and what changed in the artifact of the input.
fn look_closer(difference: &mut ActionDifference, store: &Store, request: &ExplainRequest<'_>) {
    let stage = |path: &str| request.inputs.iter().find(|(parameter, _)| parameter == path).map(|(_, stage)| *stage);
    match difference {
        ActionDifference::Input { path, name, from, to, changes: found } => {
            if name == path
                && let Some(stage) = stage(path)
            {
                stage.clone_into(name);
            }
            if let (Some(from), Some(to)) = (*from, *to) {
                *found = changes(store, from, to);
            }
        }
        ActionDifference::InputPending { path, name } if name == path => {
            if let Some(stage) = stage(path) {
                stage.clone_into(name);
            }
        }
        _ => {}
    }
}
