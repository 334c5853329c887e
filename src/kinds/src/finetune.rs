//! The `finetune` kind: trains the target model on batches that a selection method chooses, step by step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::{
    AdaptationSettings, LearningRateSchedule, Overlong, SelectionMethod, SequenceLimit, Third, default_max_tokens,
};

use crate::{is_off, number, numbers, outputs};

pub struct FinetuneKind;

/// How the batches are chosen.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectSettings {
    /// The method that chooses the batches.
    pub method: SelectionMethod,
    /// The selector stage whose policy chooses; for `raise`. A stage with another method ignores this parameter, and
    /// the selector is not an input of the stage. A sweep over methods can therefore keep the parameter. If absent, the
    /// method `raise` is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The number of steps between two measurements of the performance for the policy; for `raise`. The base is
    /// measured too. Between two measurements, the policy uses the last one. A policy whose state has no part `stage`
    /// reads no performance, and then nothing is measured for it.
    #[serde(default = "number::<10>")]
    pub performance_every: usize,
    /// Only this number of the best rows is trained on, pass after pass, in a new random order in each pass. Without it,
    /// a method takes its candidates in the order of their scores, the best first, and goes on to worse rows. Only for
    /// a method with an order by score, such as `length`, `ifd`, `scores` or `rds`. At least `batch_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<usize>,
    /// The third of the candidates, sorted by perplexity; for `perplexity`.
    #[serde(default)]
    pub third: Third,
    /// The stage that provides the scores as columns, such as a `command`; for `scores`. If absent, the method `scores`
    /// needs `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// A CSV or Parquet file of scores; for `scores`. Its column `row` is the position of the record in the pool's
    /// first source file, counted from 0. If absent, the method `scores` needs `stage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// For `scores`, the column of the stage or of the file that holds the score. For `column`, the number of the static state by which
    /// the rows are ordered, such as `influence.relative_drop`: `columns` of the constants.json of the clusters.
    #[serde(default = "default_column")]
    pub column: String,
    /// The digest that the file of scores must have: `raisin digest PATH` prints it. If absent, the file is read
    /// whatever its digest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

/// Parameters of a `finetune` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose instructions are selected from.
    pub instructions: String,
    /// A `clusters` stage. Every method that reads features needs this stage: `raise`, `ifd`, `perplexity`, `sspl`,
    /// `rds`, `column`, `warm-loss`, `less` and `bandit`. The state of the clusters must have the column of `column`,
    /// `warm-loss` and `less`. If absent, only the other methods can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    /// The stage whose model is trained.
    pub model: String,
    /// The task: its validation examples measure the performance.
    pub task: String,
    /// How the batches are chosen.
    pub select: SelectSettings,
    /// The number of steps, as a share of the steps that three epochs over the whole pool take, such as `"1%"`. Give
    /// either `budget` or `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// The number of steps. Give either `steps` or `budget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// The number of instructions in a step.
    #[serde(default = "number::<16>")]
    pub batch_size: usize,
    /// The highest learning rate.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// How the learning rate falls.
    #[serde(default)]
    pub schedule: LearningRateSchedule,
    /// The share of the steps in which the learning rate rises.
    #[serde(default)]
    pub warmup: f64,
    /// The weight decay of AdamW.
    #[serde(default)]
    pub weight_decay: f64,
    /// How the model is adapted.
    #[serde(default)]
    pub adaptation: AdaptationSettings,
    /// The largest number of tokens in a sequence.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// What happens to rows of more than `max_tokens` tokens: `truncate` cuts them, `drop` leaves them out, and with
    /// `error` the stage fails before it computes anything.
    #[serde(default)]
    pub on_overlong: Overlong,
    /// A forward pass holds at most this many tokens. The number changes the memory, but not the results (except for
    /// rounding).
    #[serde(default = "number::<4096>")]
    pub micro_batch_tokens: usize,
    /// The backward pass computes activations again, instead of keeping them: less memory, a third more work.
    #[serde(default, skip_serializing_if = "is_off")]
    pub activation_checkpointing: bool,
    /// The number of steps between two measurements of the validation loss. With 0, the loss is measured only when the
    /// method needs it, and at the end.
    #[serde(default)]
    pub evaluate_every: usize,
    /// After a training with LoRA, the adapter is merged and full weights are written. Otherwise the artifact is an
    /// adapter that refers to its base.
    #[serde(default)]
    pub merge: bool,
}

impl Parameters {
    pub fn sequence_limit(&self) -> SequenceLimit {
        SequenceLimit { max_tokens: self.max_tokens, on_overlong: self.on_overlong }
    }
}

fn default_column() -> String {
    "score".to_owned()
}

fn default_learning_rate() -> f64 {
    2e-4
}

impl Kind for FinetuneKind {
    const NAME: &'static str = "finetune";
    const VERSION: u32 = 9;
    const ABOUT: &'static str = "Trains a model on batches that a method of selection chooses step by step.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["model", "selection"];
    const TABLES: &'static [TableDeclaration] = outputs::finetune::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::finetune::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::finetune::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/instructions", &parameters.instructions, "instructions");
        needs.stage("/model", &parameters.model, "model");
        needs.stage("/task", &parameters.task, "task");
        let select = &parameters.select;
        match &parameters.features {
            Some(features) if uses_features(select.method) => needs.stage("/features", features, "clusters"),
            Some(_) => needs.ignores("/features"),
            None => {}
        }
        match &select.policy {
            Some(policy) if select.method == SelectionMethod::Raise => {
                needs.stage("/select/policy", policy, "policy");
            }
            Some(_) => needs.ignores("/select/policy"),
            None => {}
        }
        match &select.path {
            Some(path) if select.method == SelectionMethod::Scores => {
                needs.file_with_digest("/select", path, select.blake3.as_deref());
            }
            Some(_) => needs.ignores("/select/path"),
            None => {}
        }
        match &select.stage {
            Some(stage) if select.method == SelectionMethod::Scores => {
                needs.stage("/select/stage", stage, "columns");
            }
            Some(_) => needs.ignores("/select/stage"),
            None => {}
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let problem = |pointer: &str, message: &str| Err(ParameterProblem::new(pointer, message));
        let select = &parameters.select;
        match select.method {
            SelectionMethod::Raise if select.policy.is_none() => {
                return Err(ParameterProblem::new("/select", "method `raise` needs the policy of a selector stage")
                    .hint("select = { method = \"raise\", policy = \"selector\" }"));
            }
            SelectionMethod::Scores if select.path.is_none() && select.stage.is_none() => {
                return Err(ParameterProblem::new("/select", "method `scores` needs a stage or a file of scores")
                    .hint("select = { method = \"scores\", stage = \"quality\", column = \"score\" }"));
            }
            SelectionMethod::Scores if select.path.is_some() && select.stage.is_some() => {
                return problem("/select/stage", "give the scores either by `stage` or by `path`, not both");
            }
            method if uses_features(method) && method != SelectionMethod::Length && parameters.features.is_none() => {
                let message = format!("method `{}` needs `features`", method.name());
                return Err(ParameterProblem::new("/select/method", message)
                    .hint("name a clusters stage: features = \"clusters\""));
            }
            _ => {}
        }
        if select.method == SelectionMethod::Column && select.column == default_column() {
            return Err(ParameterProblem::new(
                "/select/column",
                "method `column` needs the name of a column of the state",
            )
            .hint("select = { method = \"column\", column = \"difficulty.response_tokens\" }"));
        }
        match select.top {
            Some(_) if !select.method.has_score_order() => {
                let message = format!("method `{}` has no order by score", select.method.name());
                let hint = "remove `top`, or take a method such as \"rds\", \"length\", \"ifd\" or \"scores\"";
                return Err(ParameterProblem::new("/select/top", message).hint(hint));
            }
            Some(0) => return problem("/select/top", "must be at least 1"),
            Some(top) if top < parameters.batch_size => {
                let message = format!("the best {top} rows do not fill a batch of {}", parameters.batch_size);
                return Err(ParameterProblem::new("/select", message)
                    .hint("raise `top` to at least batch_size, or lower batch_size"));
            }
            _ => {}
        }
        match (&parameters.budget, parameters.steps) {
            (Some(_), Some(_)) => return problem("/steps", "give either `budget` or `steps`, not both"),
            (None, None) if select.method != SelectionMethod::Full => {
                return problem("", "give a `budget`, such as \"1%\", or a number of `steps`");
            }
            (_, Some(0)) => return problem("/steps", "must be at least 1"),
            (Some(budget), None) if share(budget).is_none() => {
                return problem(
                    "/budget",
                    "must be a share of the full training, such as \"1%\", and at most \"100%\"",
                );
            }
            _ => {}
        }
        if let Some((key, message)) = parameters.adaptation.problem() {
            return problem(&format!("/adaptation/{key}"), message);
        }
        let Parameters { batch_size, micro_batch_tokens, max_tokens, .. } = *parameters;
        numbers::counts(&[
            ("batch_size", batch_size),
            ("micro_batch_tokens", micro_batch_tokens),
            ("select/performance_every", select.performance_every),
        ])?;
        numbers::sequence_lengths(&[("max_tokens", max_tokens)])?;
        numbers::positive(&[("learning_rate", parameters.learning_rate)])?;
        numbers::not_negative(&[("weight_decay", parameters.weight_decay)])?;
        numbers::warmup(parameters.warmup)
    }
}

/// Whether a method reads features. A stage with another method does not depend on the clusters. After a change of the
/// clusters, for example, a random baseline therefore does not run again.
pub fn uses_features(method: SelectionMethod) -> bool {
    match method {
        SelectionMethod::Raise
        | SelectionMethod::Length
        | SelectionMethod::Ifd
        | SelectionMethod::Perplexity
        | SelectionMethod::Column
        | SelectionMethod::WarmLoss
        | SelectionMethod::Less
        | SelectionMethod::Bandit
        | SelectionMethod::Sspl
        | SelectionMethod::Rds => true,
        SelectionMethod::Random
        | SelectionMethod::Full
        | SelectionMethod::Scores
        | SelectionMethod::Greats
        | SelectionMethod::Validation
        | SelectionMethod::Oracle => false,
    }
}

/// The share that a text such as `"1%"` names: 0.01.
fn share(budget: &str) -> Option<f64> {
    let percent: f64 = budget.trim().strip_suffix('%')?.trim().parse().ok()?;
    (percent > 0.0 && percent <= 100.0).then_some(percent / 100.0)
}

/// The number of steps of three epochs over `rows` rows, and the number of steps that the parameters ask for.
pub fn step_counts(parameters: &Parameters, rows: usize) -> (usize, usize) {
    let full = rows.div_ceil(parameters.batch_size) * 3;
    let steps = match (parameters.steps, parameters.select.method, &parameters.budget) {
        (Some(steps), _, _) => steps,
        (None, SelectionMethod::Full, _) => full,
        (None, _, budget) => {
            let share = budget.as_deref().and_then(share).unwrap_or(1.0);
            // In f64, 0.01 * 300 is a little more than 3. Without the correction, 1 % of 300 would become 4.
            ((share * full as f64 - 1e-9).ceil() as usize).max(1)
        }
    };
    (full, steps)
}
