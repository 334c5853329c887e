//! Why a stage would run: its action against the nearest earlier one.

use serde_json::Value;

use super::difference::{Difference, differences};
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
}

impl History {
    /// The differences to the nearest earlier action: of the same stage of the same pipeline if there is any, else of
    /// the same kind. Nearest is the one with the fewest differences, then the same variant's, then the newest.
    pub fn explain(&mut self, store: &Store, question: &Question<'_>) -> Result<Vec<Difference>> {
        let records = match &mut self.records {
            Some(records) => records,
            none => none.insert(store.actions()?),
        };
        // Through text and back, as the earlier action went: the two are then equal wherever their texts are.
        let action: Value = serde_json::from_str(&question.action.to_string())?;
        let same_stage = |record: &&ActionRecord| {
            record.pipeline == question.pipeline && record.stage == question.stage && record.kind == question.kind
        };
        let nearest = closest(records.iter().filter(same_stage), question, &action)
            .or_else(|| closest(records.iter().filter(|record| record.kind == question.kind), question, &action));
        Ok(nearest.unwrap_or_else(|| vec![Difference::NeverBuilt]))
    }
}

fn closest<'r>(
    records: impl DoubleEndedIterator<Item = &'r ActionRecord>,
    question: &Question<'_>,
    action: &Value,
) -> Option<Vec<Difference>> {
    records
        .rev()
        .map(|record| (differences(&record.action, action), record.variant != question.variant))
        .min_by_key(|(found, other_variant)| (found.len(), *other_variant))
        .map(|(found, _)| if found.is_empty() { vec![lost()] } else { found })
}

fn lost() -> Difference {
    Difference::Lost { reason: "its record or artifact was lost".to_owned() }
}
