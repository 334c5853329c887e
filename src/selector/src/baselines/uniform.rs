//! Baselines without a score: all candidates, or the candidates with the label `relevant`, in random order.

use super::queue::{Order, Queue, RankedCandidate};
use crate::chooser::ChooserInputs;
use raisin_base::error::Result;
use raisin_settings::SelectionMethod;

/// The label of a synthetic instruction that helps the target task.
const RELEVANT: &str = "relevant";

/// `random`, `full` and `validation`: draws without replacement from all candidates. `full` has another number of steps than
/// `random`, and ignores weights; the candidates of `validation` are the validation examples.
pub fn everything(method: SelectionMethod, inputs: &ChooserInputs) -> Result<Queue> {
    let entries: Vec<RankedCandidate> =
        (0..inputs.pool.ids.len()).map(|row| RankedCandidate { row, score: None }).collect();
    let queue = Queue::new(method, inputs, &entries, Order::Shuffled(inputs.seed.at(method.name())), Vec::new())?;
    let is_weighted = method == SelectionMethod::Random && !inputs.pool.weights.is_empty();
    Ok(if is_weighted { queue.weighted(inputs.pool.weights.clone()) } else { queue })
}

/// `oracle`: the candidates with the label `relevant`.
pub fn relevant(inputs: &ChooserInputs) -> Result<Queue> {
    let labels = inputs.pool.column(&inputs.pool.labels, "ground-truth labels", SelectionMethod::Oracle)?;
    let entries: Vec<RankedCandidate> = labels
        .iter()
        .enumerate()
        .filter(|(_, label)| label.as_deref() == Some(RELEVANT))
        .map(|(row, _)| RankedCandidate { row, score: None })
        .collect();
    let others = labels.len() - entries.len();
    let excluded = vec![("not labelled `relevant`".to_owned(), others)];
    Queue::new(SelectionMethod::Oracle, inputs, &entries, Order::Shuffled(inputs.seed.at("oracle")), excluded)
}
