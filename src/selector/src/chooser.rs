//! The trait of all methods of selection: a chooser gives the instructions of the next batch.
//!
//! A baseline is a score over cached columns of the candidates and a rule of choosing by this score. So all methods use
//! the same loop with the same budget (docs/method.md, section 6). If a score cannot be computed, the candidate is
//! excluded and counted; no number replaces the score.

use serde_json::Value;

pub use super::baselines::chooser;
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_settings::{SelectionMethod, Third};

/// The cached columns from which scores are computed. A column is as long as `ids`, or empty if the run has no artifact
/// with this column. An entry that could not be computed is `None`.
#[derive(Clone, Debug, Default)]
pub struct CandidateColumns {
    pub ids: Vec<u32>,
    pub response_tokens: Vec<Option<u32>>,
    /// The sum of log p(y|x) over the `response_tokens` of the response y.
    pub logp_conditional: Vec<Option<f64>>,
    /// The sum of log p(y) over the `unconditional_tokens` of the response without its prompt.
    pub logp_unconditional: Vec<Option<f64>>,
    pub unconditional_tokens: Vec<Option<u32>>,
    /// The cosines with the validation examples ([`CosineTargets::cosines`](crate::CosineTargets::cosines)).
    pub cosines: Vec<Option<Vec<f32>>>,
    /// The scores of the methods that order by a given score: external scores, or a column of the state.
    pub scores: Vec<Option<f64>>,
    /// Ground truth of synthetic data.
    pub labels: Vec<Option<String>>,
    pub clusters: Vec<Option<u32>>,
    /// How likely each candidate comes before another one where the method is `random`. The weights are above 0.
    pub weights: Vec<f64>,
}

impl CandidateColumns {
    /// # Errors
    /// The run has no such column; the hint names the missing input.
    pub(crate) fn column<'a, T>(&self, column: &'a [T], what: &str, method: SelectionMethod) -> Result<&'a [T]> {
        if column.len() == self.ids.len() && !column.is_empty() {
            return Ok(column);
        }
        let hint = match method {
            SelectionMethod::Scores => "name a file of scores in `select.path`, and its column in `select.column`",
            SelectionMethod::Column | SelectionMethod::WarmLoss | SelectionMethod::Less => {
                "name a clusters stage that has the column in its state: features = \"clusters\""
            }
            SelectionMethod::Oracle => "only instructions of a `generate` stage have labels",
            _ => "give the stage a `features` input",
        };
        Err(Problem::new(format!("method `{}` needs {what}, but this run has none", method.name())).hint(hint).into())
    }

    pub(crate) fn cluster(&self, position: usize) -> Option<u32> {
        self.clusters.get(position).copied().flatten()
    }
}

/// The inputs of a baseline.
pub struct ChooserInputs<'a> {
    pub pool: &'a CandidateColumns,
    pub batch_size: usize,
    pub total_steps: usize,
    pub seed: Seed,
    pub third: Third,
    /// Only this number of the best candidates is served, pass after pass, in a new random order in each pass. Only for
    /// a method with an order by score.
    pub top: Option<usize>,
}

/// The step for which a batch is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepContext {
    /// Counts from 0.
    pub step: usize,
    pub total_steps: usize,
    /// P(M_step), the performance before this step; `None` if it was not measured. P(M_0) belongs to the base model.
    pub performance: Option<f64>,
    /// The training loss of the step before, on its batch before the update; `None` at the first step.
    pub last_loss: Option<f64>,
}

/// One selected instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelectedCandidate {
    pub id: u32,
    pub cluster: Option<u32>,
    /// The unit depends on the method.
    pub score: Option<f64>,
    /// The log-probability of this draw, given the earlier draws of the batch; `None` if the method does not draw by a
    /// softmax.
    pub log_prob: Option<f64>,
}

/// Inner products of gradients of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientProducts {
    /// For each row, the product with the gradient of validation examples: how much a step on the row lowers their loss,
    /// to first order and in units of the step.
    pub gains: Vec<f64>,
    /// The products of each two rows.
    pub products: Vec<Vec<f64>>,
    /// The size of a step on one row of a batch: the weight of the products beside the gains.
    pub weight: f64,
}

/// The gradients of a model in training.
pub trait StepGradients {
    /// The products of the gradients of these rows under the present model, before this step.
    fn products(&mut self, ids: &[u32], step: usize) -> Result<GradientProducts>;
}

/// A method in the middle of a run.
pub trait Chooser {
    /// The next batch: exactly `batch_size` candidates.
    fn choose(&mut self, context: &StepContext) -> Result<Vec<SelectedCandidate>>;

    /// As [`Self::choose`], for a method that uses gradients of the model.
    fn choose_by_gradients(
        &mut self,
        context: &StepContext,
        _gradients: &mut dyn StepGradients,
    ) -> Result<Vec<SelectedCandidate>> {
        self.choose(context)
    }

    /// Whether the method needs [`Self::choose_by_gradients`].
    fn wants_gradients(&self) -> bool {
        false
    }

    /// Whether the method uses [`StepContext::performance`]. If not, training need not measure it.
    fn wants_performance(&self) -> bool {
        false
    }

    /// For each reason, how many candidates are excluded: for a note to the user.
    fn excluded(&self) -> Vec<(String, usize)> {
        Vec::new()
    }

    /// What happened so far that the user must know: notes for the end of a run.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The part of the chooser that changes from step to step, for a checkpoint.
    fn state(&self) -> Value;

    /// Restores the result of [`Self::state`]. The next batches are then those of an uninterrupted run.
    fn restore(&mut self, state: &Value) -> Result<()>;
}
