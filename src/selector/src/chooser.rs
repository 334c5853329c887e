//! Every method of selection behind one trait: which instructions form the next batch?
//!
//! A method is a score over cached per-candidate artifacts plus a way to choose by it, so that all methods run through
//! the same code with the same budget (docs/method.md, section 6). A score that cannot be computed excludes the
//! candidate, which is counted; it is never replaced by a number.

use serde_json::Value;

use super::baselines;
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_settings::{SelectionMethod, Third};

/// The cached per-candidate columns that scores are made of. Columns are as long as `ids`, or empty where the run
/// has no such artifact; an entry that could not be computed is `None`.
#[derive(Clone, Debug, Default)]
pub struct CandidateColumns {
    pub ids: Vec<u32>,
    pub response_tokens: Vec<Option<u32>>,
    /// Sum of log p(y|x) over the response.
    pub logp_conditional: Vec<Option<f64>>,
    /// Sum of log p(y) over the response.
    pub logp_unconditional: Vec<Option<f64>>,
    /// Tokens of the response alone, which that sum is over.
    pub unconditional_tokens: Vec<Option<u32>>,
    /// Position-weighted mean hidden states, one a candidate.
    pub embeddings: Vec<Option<Vec<f32>>>,
    /// The same of the validation examples.
    pub validation_embeddings: Vec<Vec<f32>>,
    /// External scores.
    pub scores: Vec<Option<f64>>,
    /// Ground truth of synthetic data.
    pub labels: Vec<Option<String>>,
    pub clusters: Vec<Option<u32>>,
}

impl CandidateColumns {
    /// A column, or what to do where the run lacks it.
    pub(crate) fn column<'a, T>(&self, column: &'a [T], what: &str, method: SelectionMethod) -> Result<&'a [T]> {
        if column.len() == self.ids.len() && !column.is_empty() {
            return Ok(column);
        }
        let hint = match method {
            SelectionMethod::Scores => "name a file with the columns `id` and `score` in `select.scores`",
            SelectionMethod::Oracle => "only generated (synthetic) instructions have labels",
            _ => "give the stage a `features` input",
        };
        Err(Problem::new(format!("method `{}` needs {what}, which this run has not", method.name())).hint(hint).into())
    }

    pub(crate) fn cluster(&self, position: usize) -> Option<u32> {
        self.clusters.get(position).copied().flatten()
    }
}

/// All that a method may need.
pub struct ChooserInputs<'a> {
    pub pool: &'a CandidateColumns,
    pub batch_size: usize,
    pub total_steps: usize,
    pub seed: Seed,
    pub third: Third,
}

/// When a batch is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepContext {
    /// Counts from 0.
    pub step: usize,
    pub total_steps: usize,
    /// P(M_step), the performance before this step; `None` if nobody measured it. The base model's is that of step 0.
    pub performance: Option<f64>,
}

/// One selected instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelectedCandidate {
    pub id: u32,
    pub cluster: Option<u32>,
    /// The higher, the sooner chosen; its unit is the method's.
    pub score: Option<f64>,
    /// Of this draw, given the ones before it in the batch; of methods that draw by a softmax.
    pub log_prob: Option<f64>,
}

/// A method in the middle of a run.
pub trait Chooser {
    /// The next batch, exactly `batch_size` choices.
    fn choose(&mut self, moment: &StepContext) -> Result<Vec<SelectedCandidate>>;

    /// Whether [`StepContext::performance`] matters to this method: if not, nobody need evaluate during training.
    fn wants_performance(&self) -> bool {
        false
    }

    /// Candidates that cannot be chosen, by reason: for a line to the person.
    fn excluded(&self) -> Vec<(String, usize)> {
        Vec::new()
    }

    /// Everything that changes from step to step, so that a run goes on after a kill as if undisturbed.
    fn state(&self) -> Value;

    fn restore(&mut self, state: &Value) -> Result<()>;
}

/// The chooser of a baseline method. The trained policy's own is [`super::Raise`].
pub fn chooser(method: SelectionMethod, inputs: &ChooserInputs) -> Result<Box<dyn Chooser>> {
    baselines::chooser(method, inputs)
}
