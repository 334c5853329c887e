//! `evaluate`: how well a model does on a task's examples, item by item (docs/method.md, section 7). Leaves comparing
//! several models to `sql` and `report`.
//!
//! Batches of losses and of generated answers are put aside as they are finished, so that a long evaluation goes on
//! after a kill where it was.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, StringArray, UInt32Array};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finished::Finished;
use super::learning::{device, encode_examples, open, phase_cost};
use super::{Context, Cost, Kind, Needs, ParameterProblem, Process, Progress};
use crate::corpus::{Codec, Example, Extract, Scored, Sequence, Task, read_task};
use crate::error::{Context as _, Problem, Result};
use crate::lm::Model;
use crate::table;
use crate::training::memory;
use crate::training::scoring::{best_choice, last_number, mean_and_error, strict_number, token_mean_and_error};
use crate::training::validation::{RowLoss, ValidationSet};

pub struct Evaluate;

/// Which examples of the task are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The examples that no stage trains on or selects with.
    #[default]
    Test,
    /// The examples that rewards come from.
    Validation,
}

/// A way of scoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Mean loss per token of the reference response.
    Loss,
    /// The most likely of several choices: `acc`, and `acc_norm` by the choice's length in characters.
    Choice,
    /// Greedy generation compared with the reference: `exact_match`, and `flexible_match` for numbers.
    Match,
}

/// Parameters of an `evaluate` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose model is scored.
    pub model: String,
    /// The stage whose examples it is scored on.
    pub task: String,
    /// `test` or `validation`.
    #[serde(default)]
    pub split: Split,
    /// Ways of scoring; by default the loss, and what the task says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// Score the first so many examples only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// A forward pass holds at most this many tokens.
    #[serde(default = "default_batch_tokens")]
    pub batch_tokens: usize,
    /// Examples generate together, so many at a time.
    #[serde(default = "default_generate_rows")]
    pub generate_rows: usize,
    /// Longer sequences are cut at this many tokens.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
}

fn default_batch_tokens() -> usize {
    8192
}

fn default_generate_rows() -> usize {
    32
}

fn default_max_tokens() -> usize {
    1024
}

impl Kind for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Scores a model on a task: loss, multiple choice, match of generated answers.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["scores"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/model", &parameters.model, "model");
        needs.stage("/task", &parameters.task, "task");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        match parameters {
            Parameters { limit: Some(0), .. } => Err(ParameterProblem::new("/limit", "0 examples give no score")),
            Parameters { generate_rows: 0, .. } => Err(ParameterProblem::new("/generate_rows", "must be at least 1")),
            _ => Ok(()),
        }
    }

    fn run(parameters: Parameters, context: &Context) -> Result<()> {
        let task = read_task(context.input("/task")?)?;
        let examples = chosen(&task, &parameters)?;
        let metrics = metrics_of(&task, &parameters, &examples)?;
        let folder = context.input("/model")?;
        let loading = memory::Meter::start(device(context)?);
        let model = open(folder, context)?;
        context.cost(phase_cost("load", loading.stop()));
        let codec = Codec::load(folder)?;
        let run = Run { context, parameters: &parameters, task: &task, model, codec, examples };
        let mut results = Results { rows: Vec::new(), items: vec![Item::default(); run.examples.len()] };
        for metric in metrics {
            match metric {
                Metric::Loss => run.loss(&mut results)?,
                Metric::Choice => run.choice(&mut results)?,
                Metric::Match => run.generation(&mut results)?,
            }
        }
        run.write(&results)?;
        copy_summary(folder, context)
    }
}

/// The examples of the split, with a clear word where there are none.
fn chosen(task: &Task, parameters: &Parameters) -> Result<Vec<Example>> {
    let all = match parameters.split {
        Split::Test => &task.test,
        Split::Validation => &task.validation,
    };
    if all.is_empty() {
        let problem =
            Problem::new(format!("the task `{}` has no {} example", parameters.task, parameters.split.name()));
        return Err(problem.hint("give the task stage a `test` count or a `test_source`").into());
    }
    Ok(all.iter().take(parameters.limit.unwrap_or(usize::MAX)).cloned().collect())
}

/// What to compute: as the parameters say, or the loss and what the task is scored by.
fn metrics_of(task: &Task, parameters: &Parameters, examples: &[Example]) -> Result<Vec<Metric>> {
    let mut metrics = parameters.metrics.clone();
    if metrics.is_empty() {
        metrics.push(Metric::Loss);
        match task.scoring.by {
            Scored::Loss => {}
            Scored::Choice => metrics.push(Metric::Choice),
            Scored::Match => metrics.push(Metric::Match),
        }
    }
    metrics.dedup();
    let without = examples.iter().find(|example| example.choices.is_empty() || example.answer.is_none());
    if let (true, Some(example)) = (metrics.contains(&Metric::Choice), without) {
        let problem = format!("example {} of `{}` has no choices or no answer", example.id, parameters.task);
        return Err(Problem::new(problem).hint("name the `choices` and `answer` columns in the task stage").into());
    }
    Ok(metrics)
}

/// One line of the `metrics` table.
struct Score {
    metric: &'static str,
    value: f64,
    standard_error: f64,
}

/// One line of the `items` table.
#[derive(Clone, Debug, Default)]
struct Item {
    loss: Option<f64>,
    tokens: Option<u32>,
    correct: Option<bool>,
    correct_norm: Option<bool>,
    prediction: Option<String>,
}

struct Results {
    rows: Vec<Score>,
    items: Vec<Item>,
}

struct Run<'a> {
    context: &'a Context,
    parameters: &'a Parameters,
    task: &'a Task,
    model: Model,
    codec: Codec,
    examples: Vec<Example>,
}

impl Run<'_> {
    fn loss(&self, results: &mut Results) -> Result<()> {
        let sequences = encode_examples(&self.codec, &self.examples, self.parameters.max_tokens)?;
        let rows: Vec<&Sequence> = sequences.iter().collect();
        let set = ValidationSet::new(&rows, None, self.parameters.batch_tokens, device(self.context)?)?;
        let losses = self.row_losses("loss", &set)?;
        for (item, loss) in results.items.iter_mut().zip(&losses) {
            (item.loss, item.tokens) = (Some(loss.mean()), Some(loss.tokens as u32));
        }
        let (value, standard_error) = token_mean_and_error(&losses);
        results.rows.push(Score { metric: "loss", value, standard_error });
        Ok(())
    }

    fn choice(&self, results: &mut Results) -> Result<()> {
        let mut sequences = Vec::new();
        for example in &self.examples {
            for choice in &example.choices {
                // Context and choice are encoded whole; only the choice's own text carries a loss.
                let sequence = self.codec.choice(example, choice, self.parameters.max_tokens)?;
                let sequence = sequence.ok_or_else(|| {
                    let what = format!("example {} leaves no room for the choice `{choice}`", example.id);
                    Problem::new(what).hint("raise max_tokens")
                })?;
                sequences.push(sequence);
            }
        }
        // The choices of a question begin alike: that part is computed once.
        let mut rest = sequences.iter();
        let families: Vec<Vec<&Sequence>> =
            self.examples.iter().map(|example| rest.by_ref().take(example.choices.len()).collect()).collect();
        let families: Vec<Vec<&Sequence>> = families.into_iter().filter(|family| !family.is_empty()).collect();
        let set = ValidationSet::of_families(&families, self.parameters.batch_tokens, device(self.context)?)?;
        let losses = self.row_losses("choices", &set)?;
        let (mut correct, mut correct_norm) = (Vec::new(), Vec::new());
        let mut start = 0;
        for (example, item) in self.examples.iter().zip(&mut results.items) {
            let end = start + example.choices.len();
            let best = best_choice(&losses[start..end], &example.choices);
            start = end;
            let is_right = |chosen: usize| example.answer == Some(chosen);
            let Some(best) = best else { continue };
            (item.correct, item.correct_norm) = (Some(is_right(best.by_sum)), Some(is_right(best.by_length)));
            item.prediction = example.choices.get(best.by_sum).cloned();
            correct.push(f64::from(u8::from(is_right(best.by_sum))));
            correct_norm.push(f64::from(u8::from(is_right(best.by_length))));
        }
        results.push_mean("acc", &correct);
        results.push_mean("acc_norm", &correct_norm);
        Ok(())
    }

    fn generation(&self, results: &mut Results) -> Result<()> {
        let numbers = self.task.scoring.extract == Some(Extract::Gsm8k);
        let prompts =
            self.examples.iter().map(|example| self.codec.prompt(&example.messages)).collect::<Result<Vec<_>>>()?;
        // Prompts of similar length generate together.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&row| (prompts[row].len(), row));
        let (mut exact, mut flexible) = (vec![0.0; prompts.len()], vec![0.0; prompts.len()]);
        let (start, mut tokens, mut done) = (Instant::now(), 0, 0);
        let mut finished = Finished::<Vec<Vec<u32>>>::open(&self.context.work(), "generation")?;
        for rows in order.chunks(self.parameters.generate_rows) {
            let chosen: Vec<Vec<u32>> = rows.iter().map(|&row| prompts[row].clone()).collect();
            let limit = self.task.scoring.max_new_tokens;
            let answers = finished.next(|| self.model.generate(&chosen, limit, self.codec.stop_tokens()))?;
            for ((&row, prompt), answer) in rows.iter().zip(&chosen).zip(answers) {
                tokens += (prompt.len() + answer.len()) as u64;
                let text = self.codec.decode(&answer)?;
                let reference = &self.examples[row].response;
                let (is_exact, is_flexible) =
                    if numbers { numbers_agree(&text, reference) } else { (text.trim() == reference.trim(), false) };
                exact[row] = f64::from(u8::from(is_exact));
                flexible[row] = f64::from(u8::from(is_flexible));
                let item = &mut results.items[row];
                item.correct = Some(is_exact);
                item.correct_norm = numbers.then_some(is_flexible);
                item.prediction = Some(text);
            }
            done += rows.len();
            self.progress("generation", done, prompts.len(), tokens, start);
        }
        self.cost("generation", start, tokens, 0);
        results.push_mean("exact_match", &exact);
        if numbers {
            results.push_mean("flexible_match", &flexible);
        }
        Ok(())
    }

    fn row_losses(&self, phase: &str, set: &ValidationSet) -> Result<Vec<RowLoss>> {
        let start = Instant::now();
        // As bits: a number that went through decimal digits need not be the same.
        let mut finished = Finished::<Vec<u64>>::open(&self.context.work(), phase)?;
        let part = |work: &dyn Fn() -> Result<Vec<f64>>| {
            let bits = finished.next(|| Ok(work()?.into_iter().map(f64::to_bits).collect()))?;
            Ok(bits.into_iter().map(f64::from_bits).collect())
        };
        let losses = set.row_losses(&self.model, part, |rows_done, tokens| {
            self.progress(phase, rows_done, set.rows(), tokens as u64, start);
        })?;
        self.cost(phase, start, set.tokens() as u64, set.supervised_tokens() as u64);
        Ok(losses)
    }

    fn progress(&self, phase: &str, done: usize, total: usize, tokens: u64, start: Instant) {
        self.context.progress(Progress {
            phase: phase.to_owned(),
            done: done as u64,
            total: total as u64,
            unit: "examples".to_owned(),
            tokens_per_second: Some(tokens as f64 / start.elapsed().as_secs_f64().max(1e-9)),
            detail: String::new(),
        });
    }

    fn cost(&self, phase: &str, start: Instant, tokens: u64, supervised_tokens: u64) {
        self.context.cost(Cost {
            phase: phase.to_owned(),
            seconds: start.elapsed().as_secs_f64(),
            tokens,
            supervised_tokens,
            flops: tokens as f64 * self.model.flops_per_token(false),
            peak_bytes: memory::peak(self.model.device()),
        });
    }

    fn write(&self, results: &Results) -> Result<()> {
        let Results { rows, items } = results;
        let count = self.examples.len() as u32;
        let split = self.parameters.split.name();
        let floats =
            |of: &dyn Fn(&Score) -> f64| Arc::new(rows.iter().map(|row| Some(of(row))).collect::<Float64Array>());
        self.context.write_table(
            "metrics",
            &table::batch(vec![
                ("split", Arc::new(StringArray::from_iter_values(rows.iter().map(|_| split))) as ArrayRef),
                ("metric", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.metric)))),
                ("value", floats(&|row| row.value)),
                ("n", Arc::new(UInt32Array::from_iter_values(rows.iter().map(|_| count)))),
                ("standard_error", floats(&|row| row.standard_error)),
            ])?,
        )?;
        let texts: StringArray = items.iter().map(|item| item.prediction.as_deref()).collect();
        self.context.write_table(
            "items",
            &table::batch(vec![
                ("id", Arc::new(UInt32Array::from_iter_values(self.examples.iter().map(|it| it.id))) as ArrayRef),
                ("loss", Arc::new(items.iter().map(|item| item.loss).collect::<Float64Array>())),
                ("tokens", Arc::new(items.iter().map(|item| item.tokens).collect::<UInt32Array>())),
                ("correct", Arc::new(items.iter().map(|item| item.correct).collect::<BooleanArray>())),
                ("correct_norm", Arc::new(items.iter().map(|item| item.correct_norm).collect::<BooleanArray>())),
                ("prediction", Arc::new(texts)),
            ])?,
        )
    }
}

impl Results {
    fn push_mean(&mut self, metric: &'static str, values: &[f64]) {
        let (value, standard_error) = mean_and_error(values);
        self.rows.push(Score { metric, value, standard_error });
    }
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Validation => "validation",
        }
    }
}

/// Strict and flexible match of a generated answer with the reference's number.
fn numbers_agree(answer: &str, reference: &str) -> (bool, bool) {
    let Some(expected) = strict_number(reference).or_else(|| last_number(reference)) else { return (false, false) };
    (strict_number(answer).as_ref() == Some(&expected), last_number(answer).as_ref() == Some(&expected))
}

/// How the model came about, where it says so: reports label its scores with it.
fn copy_summary(model: &Path, context: &Context) -> Result<()> {
    let summary = model.join("summary.json");
    if summary.is_file() {
        let target = context.out().join("model_summary.json");
        std::fs::copy(&summary, &target).with_context(|| format!("cannot copy {}", summary.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::fixture::Store;
    use crate::table::column;
    use serde_json::json;

    #[test]
    fn a_task_scored_by_match_gives_loss_and_matches_item_by_item() -> Result<()> {
        let store = Store::new()?;
        std::fs::write(store.artifact("model").join("summary.json"), "{\"method\": \"none\"}\n")?;
        let context = store.context("evaluate", "run", &[("/model", "model"), ("/task", "task")], &[])?;
        Evaluate::run(serde_json::from_value(json!({"model": "model", "task": "task"}))?, &context)?;
        let metrics = store.table("run", "metrics")?;
        let names: &StringArray = column(&metrics, "metric")?;
        assert_eq!(names.iter().flatten().collect::<Vec<_>>(), ["loss", "exact_match", "flexible_match"]);
        let items = store.table("run", "items")?;
        let (losses, tokens): (&Float64Array, &UInt32Array) = (column(&items, "loss")?, column(&items, "tokens")?);
        let total: f64 =
            losses.values().iter().zip(tokens.values()).map(|(loss, &tokens)| loss * f64::from(tokens)).sum();
        let mean = total / f64::from(tokens.values().iter().sum::<u32>());
        let values: &Float64Array = column(&metrics, "value")?;
        assert!((values.value(0) - mean).abs() < 1e-9);
        assert!((mean - 260f64.ln()).abs() < 0.3, "an untrained model is close to uniform: {mean}");
        assert!(store.written("run")?.contains_key("model_summary.json"));
        Ok(())
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "the mean of zeros is zero")]
    fn choices_are_ranked_by_their_own_tokens() -> Result<()> {
        let store = Store::new()?;
        let context = store.context("evaluate", "run", &[("/model", "model"), ("/task", "task")], &[])?;
        let parameters =
            json!({"model": "model", "task": "task", "metrics": ["choice"], "split": "validation", "limit": 2});
        Evaluate::run(serde_json::from_value(parameters)?, &context)?;
        let metrics = store.table("run", "metrics")?;
        let values: &Float64Array = column(&metrics, "value")?;
        // A nearly uniform model prefers the shorter choice, which is wrong.
        assert_eq!(values.value(0), 0.0);
        assert_eq!(store.table("run", "items")?.num_rows(), 2);
        Ok(())
    }

    /// Every metric, in parts of a row or two.
    fn in_parts() -> Result<Parameters> {
        let metrics = json!(["loss", "choice", "match"]);
        let value = json!({"model": "model", "task": "task", "metrics": metrics, "split": "validation",
            "generate_rows": 1, "batch_tokens": 20});
        Ok(serde_json::from_value(value)?)
    }

    #[test]
    fn an_evaluation_killed_after_any_part_goes_on_to_the_same_bytes() -> Result<()> {
        let store = Store::new()?;
        let context = |folder: &str| store.context("evaluate", folder, &[("/model", "model"), ("/task", "task")], &[]);
        let undisturbed = context("undisturbed")?;
        Evaluate::run(in_parts()?, &undisturbed)?;
        for phase in ["loss", "choices", "generation"] {
            let name = format!("{phase}.jsonl");
            let parts = std::fs::read(undisturbed.work().join(&name))?;
            let ends: Vec<usize> = (0..parts.len()).filter(|&place| parts[place] == b'\n').collect();
            assert!(ends.len() > 1, "{phase} has {} parts", ends.len());
            for end in ends {
                // In the middle of the part after this one.
                let killed = context("killed")?;
                std::fs::write(killed.work().join(&name), &parts[..(end + 9).min(parts.len())])?;
                Evaluate::run(in_parts()?, &killed)?;
                assert_eq!(store.written("undisturbed")?, store.written("killed")?, "{phase}");
                std::fs::remove_dir_all(killed.work())?;
            }
        }
        Ok(())
    }

    #[test]
    fn what_was_finished_before_a_kill_is_not_computed_again() -> Result<()> {
        let store = Store::new()?;
        let context = store.context("evaluate", "run", &[("/model", "model"), ("/task", "task")], &[])?;
        // An answer that this model would not give.
        let mut finished = Finished::<Vec<Vec<u32>>>::open(&context.work(), "generation")?;
        finished.next(|| Ok(vec![vec![u32::from(b'y'); 3]]))?;
        Evaluate::run(in_parts()?, &context)?;
        let items = store.table("run", "items")?;
        let predictions: &StringArray = column(&items, "prediction")?;
        assert!(predictions.iter().flatten().any(|prediction| prediction == "yyy"), "{predictions:?}");
        Ok(())
    }

    #[test]
    fn a_number_counts_strictly_after_the_marker_and_flexibly_anywhere() {
        assert_eq!(numbers_agree("so it is\n#### 1,200", "#### 1200"), (true, true));
        assert_eq!(numbers_agree("it is 12", "#### 12"), (false, true));
        assert_eq!(numbers_agree("#### 13", "#### 12"), (false, false));
    }
}
