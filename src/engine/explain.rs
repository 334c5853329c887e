//! Why a stage would run: its action against the nearest earlier one.

use serde_json::Value;

use super::change::changes;
use super::difference::{Difference, differences};
use super::graph::NodeId;
use super::resolve::Resolver;
use crate::digest::Digest;
use crate::error::Result;
use crate::store::{ActionRecord, Store};

/// The earlier actions, read once when the first stage is found that would run.
#[derive(Default)]
pub struct History {
    records: Option<Vec<ActionRecord>>,
}

/// Whose action is to be explained.
pub struct Question<'q> {
    pub pipeline: &'q str,
    pub stage: &'q str,
    pub variant: &'q str,
    pub kind: &'q str,
    pub action: &'q Value,
    /// The stages that it is made from, by the parameter that names them: `instructions`, `of.0`.
    pub inputs: Vec<(String, &'q str)>,
}

impl<'q> Question<'q> {
    pub fn of(resolver: &'q Resolver<'_>, id: NodeId, action: &'q Value) -> Self {
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

    fn same_stage(&self, record: &ActionRecord) -> bool {
        record.pipeline == self.pipeline && record.stage == self.stage && record.kind == self.kind
    }
}

impl History {
    /// The differences to the nearest earlier action: of the same stage of the same pipeline if there is any, else of
    /// the same kind. Nearest is the one with the fewest differences, then the same variant's, then the newest.
    pub fn explain(&mut self, store: &Store, question: &Question<'_>) -> Result<Vec<Difference>> {
        let action = reread(question.action)?;
        let records = self.records(store)?;
        let same_stage = records.iter().filter(|record| question.same_stage(record));
        let nearest = closest(same_stage, question, &action)
            .or_else(|| closest(records.iter().filter(|record| record.kind == question.kind), question, &action));
        let Some((_, mut found)) = nearest else { return Ok(vec![Difference::NeverBuilt]) };
        if found.is_empty() {
            found.push(Difference::Lost { reason: "its record or artifact was lost".to_owned() });
        }
        found.iter_mut().for_each(|difference| look_closer(difference, store, question));
        found.dedup();
        Ok(found)
    }

    /// The nearest earlier action of the very same stage and variant, for a person to accept its artifact.
    pub fn accept(
        &mut self,
        store: &Store,
        question: &Question<'_>,
    ) -> Result<Option<(ActionRecord, Vec<Difference>)>> {
        let action = reread(question.action)?;
        let same = |record: &&ActionRecord| question.same_stage(record) && record.variant == question.variant;
        let nearest = closest(self.records(store)?.iter().filter(same), question, &action);
        Ok(nearest.map(|(record, mut found)| {
            found.iter_mut().for_each(|difference| look_closer(difference, store, question));
            (record.clone(), found)
        }))
    }

    fn records(&mut self, store: &Store) -> Result<&[ActionRecord]> {
        Ok(match &mut self.records {
            Some(records) => records,
            none => none.insert(store.actions()?),
        })
    }
}

/// Through text and back, as the earlier action went: the two are then equal wherever their texts are.
fn reread(action: &Value) -> Result<Value> {
    Ok(serde_json::from_str(&action.to_string())?)
}

fn closest<'r>(
    records: impl DoubleEndedIterator<Item = &'r ActionRecord>,
    question: &Question<'_>,
    action: &Value,
) -> Option<(&'r ActionRecord, Vec<Difference>)> {
    records
        .rev()
        .map(|record| (record, differences(&record.action, action)))
        .min_by_key(|(record, found)| (found.len(), record.variant != question.variant))
}

/// Names an input by its stage, and finds out what changed in it.
fn look_closer(difference: &mut Difference, store: &Store, question: &Question<'_>) {
    let stage = |path: &str| question.inputs.iter().find(|(parameter, _)| parameter == path).map(|(_, stage)| *stage);
    match difference {
        Difference::Input { path, name, from, to, changes: found } => {
            if name == path
                && let Some(stage) = stage(path)
            {
                stage.clone_into(name);
            }
            let digest = |value: &Value| value.as_str().and_then(|text| text.parse::<Digest>().ok());
            if let (Some(from), Some(to)) = (digest(from), digest(to)) {
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
