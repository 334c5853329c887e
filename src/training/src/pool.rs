//! The rows that can be trained on: encoded once, found by the id of the instruction.

use tch::Tensor;

use raisin_base::error::{Result, anyhow};
use raisin_corpus::Sequence;
use raisin_lm::proxy::PrefixStates;

/// Sequences by instruction id. A row without a sequence cannot be trained on, because no token of its response is
/// left.
pub struct TrainingPool {
    sequences: Vec<Option<Sequence>>,
    states: Option<PrefixStates>,
    /// Whether the rows are the validation examples of the proxy, and not its pool.
    are_examples: bool,
}

impl TrainingPool {
    /// `states` are the hidden states that a frozen prefix computed for the same rows.
    pub fn new(sequences: Vec<Option<Sequence>>, states: Option<PrefixStates>) -> Self {
        Self { sequences, states, are_examples: false }
    }

    /// The validation examples of a task as rows to train on. `states` are those of a proxy that was made for the task.
    pub fn of_examples(sequences: Vec<Option<Sequence>>, states: Option<PrefixStates>) -> Self {
        Self { sequences, states, are_examples: true }
    }

    /// The number of rows with or without a sequence.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    pub fn get(&self, id: u32) -> Option<&Sequence> {
        self.sequences.get(id as usize)?.as_ref()
    }

    /// The ids of all rows that can be trained on, in ascending order.
    pub fn trainable(&self) -> Vec<u32> {
        (0..).zip(&self.sequences).filter(|(_, sequence)| sequence.is_some()).map(|(id, _)| id).collect()
    }

    pub fn prefix_layers(&self) -> Option<usize> {
        self.states.as_ref().map(|states| states.config.prefix_layers)
    }

    /// The sequences of a batch, and their states if there is a frozen prefix.
    ///
    /// # Errors
    /// A row cannot be trained on, or the states belong to other tokens.
    pub fn rows(&self, ids: &[u32]) -> Result<(Vec<&Sequence>, Option<Vec<Tensor>>)> {
        let sequences = ids
            .iter()
            .map(|&id| self.get(id).ok_or_else(|| anyhow!("instruction {id} has no token that can be trained on")))
            .collect::<Result<Vec<_>>>()?;
        let Some(cached) = &self.states else { return Ok((sequences, None)) };
        let states = ids.iter().zip(&sequences).map(|(&id, sequence)| {
            if self.are_examples {
                return cached.example(id, sequence);
            }
            cached.check(id, sequence)?;
            cached.rows(&[id])
        });
        let states = states.collect::<Result<_>>()?;
        Ok((sequences, Some(states)))
    }
}
