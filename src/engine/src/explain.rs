//! Why a stage would run: its action against the nearest earlier one.

use std::collections::HashMap;

use serde_json::Value;

use super::change::changes;
use super::difference::{Difference, differences};
use super::graph::NodeId;
use super::resolve::Resolver;
use raisin_base::digest::Digest;
use raisin_base::error::Result;
use raisin_contract::Action;
use raisin_store::{ActionRecord, Store};

/// How many earlier actions of the same kind are looked at, the newest, for a stage that has none of its own.
const OF_THE_KIND: usize = 50;

/// The earlier actions, read once when the first stage is found that would run.
#[derive(Default)]
pub struct History {
    records: Option<Records>,
}

/// Every record, the oldest first, and which of them there are of each stage and of each kind: a sweep of a thousand
/// stages asks a thousand times.
struct Records {
    all: Vec<Earlier>,
    /// By pipeline, stage and kind.
    of_stages: HashMap<[String; 3], Vec<usize>>,
    of_kinds: HashMap<String, Vec<usize>>,
}

/// An action that was made.
pub struct Earlier {
    pub record: ActionRecord,
    action: Action<'static>,
}

impl Records {
    /// What cannot be read as an action, because another raisin wrote it, explains nothing.
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

    /// Those of the same stage of the same pipeline, the newest first.
    fn of_stage(&self, request: &ExplainRequest<'_>) -> impl Iterator<Item = &Earlier> {
        let stage = [request.pipeline, request.stage, request.kind].map(str::to_owned);
        self.newest_first(self.of_stages.get(&stage))
    }

    /// The newest of the same kind.
    fn of_kind(&self, request: &ExplainRequest<'_>) -> impl Iterator<Item = &Earlier> {
        self.newest_first(self.of_kinds.get(request.kind)).take(OF_THE_KIND)
    }

    fn newest_first(&self, indices: Option<&Vec<usize>>) -> impl Iterator<Item = &Earlier> {
        indices.into_iter().flatten().rev().map(|index| &self.all[*index])
    }
}

/// Whose action is to be explained.
pub struct ExplainRequest<'q> {
    pub pipeline: &'q str,
    pub stage: &'q str,
    pub variant: String,
    pub kind: &'q str,
    pub action: &'q Action<'q>,
    /// The stages that it is made from, by the parameter that names them: `instructions`, `of.0`.
    pub inputs: Vec<(String, &'q str)>,
}

impl<'q> ExplainRequest<'q> {
    pub fn of(resolver: &'q Resolver<'_>, id: NodeId, action: &'q Action<'q>) -> Self {
        let node = &resolver.graph.nodes[id];
        let parameter = |pointer: &str| pointer.trim_start_matches('/').replace('/', ".");
        Self {
            pipeline: &resolver.graph.pipeline.name,
            stage: &node.stage.name,
            variant: resolver.graph.variant_name(id),
            kind: node.stage.declaration.name,
            action,
            inputs: node.needs.iter().map(|need| (parameter(&need.pointer), need.stage.as_str())).collect(),
        }
    }
}

impl History {
    /// The differences to the nearest earlier action: of the same stage of the same pipeline if there is any, else among
    /// the newest of the same kind. Nearest is the one with the fewest differences, then the same variant's, then the
    /// newest.
    pub fn explain(&mut self, store: &Store, request: &ExplainRequest<'_>) -> Result<Vec<Difference>> {
        let action = reread(request.action)?;
        let records = self.records(store)?;
        let nearest = closest(records.of_stage(request), request, &action)
            .or_else(|| closest(records.of_kind(request), request, &action));
        let Some((_, mut found)) = nearest else { return Ok(vec![Difference::NeverBuilt]) };
        if found.is_empty() {
            found.push(Difference::Lost { reason: "its record or artifact was lost".to_owned() });
        }
        found.iter_mut().for_each(|difference| look_closer(difference, store, request));
        found.dedup();
        Ok(found)
    }

    /// The key of the nearest earlier action of the very same stage and variant, for a person to accept its artifact.
    pub fn accept(&mut self, store: &Store, request: &ExplainRequest<'_>) -> Result<Option<(Digest, Vec<Difference>)>> {
        let action = reread(request.action)?;
        let earlier = self.records(store)?.of_stage(request);
        let nearest = closest(earlier.filter(|one| one.record.variant == request.variant), request, &action);
        Ok(nearest.map(|(earlier, mut found)| {
            found.iter_mut().for_each(|difference| look_closer(difference, store, request));
            (earlier.record.key, found)
        }))
    }

    fn records(&mut self, store: &Store) -> Result<&Records> {
        Ok(match &mut self.records {
            Some(records) => records,
            none => none.insert(Records::new(store.actions()?)),
        })
    }
}

/// Through text and back, as the earlier action went: the two are then equal wherever their texts are.
pub fn reread(action: &Action<'_>) -> Result<Action<'static>> {
    let json: Value = serde_json::from_str(&action.to_json().to_string())?;
    Ok(Action::of_json(&json)?.into_owned())
}

/// Of those that are equally near, the first.
fn closest<'r>(
    earlier: impl Iterator<Item = &'r Earlier>,
    request: &ExplainRequest<'_>,
    action: &Action<'_>,
) -> Option<(&'r Earlier, Vec<Difference>)> {
    earlier
        .map(|earlier| (earlier, differences(&earlier.action, action)))
        .min_by_key(|(earlier, found)| (found.len(), earlier.record.variant != request.variant))
}

/// Names an input by its stage, and finds out what changed in it.
fn look_closer(difference: &mut Difference, store: &Store, request: &ExplainRequest<'_>) {
    let stage = |path: &str| request.inputs.iter().find(|(parameter, _)| parameter == path).map(|(_, stage)| *stage);
    match difference {
        Difference::Input { path, name, from, to, changes: found } => {
            if name == path
                && let Some(stage) = stage(path)
            {
                stage.clone_into(name);
            }
            if let (Some(from), Some(to)) = (*from, *to) {
                *found = changes(store, from, to);
            }
        }
        Difference::InputPending { path, name } if name == path => {
            if let Some(stage) = stage(path) {
                stage.clone_into(name);
            }
        }
        _ => {}
    }
}
