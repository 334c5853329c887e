//! `evaluate`: how well a model does on a task's examples, item by item (docs/method.md, section 7). Leaves comparing
//! several models to `sql` and `report`.
//!
//! Batches of losses and of generated answers are put aside as they are finished, so that a long evaluation goes on
//! after a kill where it was.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, StringArray, UInt32Array};

use crate::learning::{device, encode_examples, open, phase_cost};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::finished::Finished;
use raisin_contract::{Context, Cost, Progress};
use raisin_corpus::left_out::leave_out;
use raisin_corpus::{Codec, Example, Extract, Scored, Sequence, Task, read_task};
use raisin_kinds::evaluate::{Metric, Parameters};
use raisin_lm::Model;
use raisin_settings::Split;
use raisin_table::{self as table, WriteTable as _};
use raisin_training::memory;
use raisin_training::scoring::{best_choice, last_number, mean_and_error, strict_number, token_mean_and_error};
use raisin_training::validation::{RowLoss, ValidationSet};

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut task = read_task(context.input("/task")?)?;
    if parameters.overlap.is_some() {
        let count = leave_out(context.input("/overlap")?, parameters.split, &mut task)?;
        let split = parameters.split.name();
        context.note(format!("{count} of the {split} examples overlap the pool and are left out"));
    }
    let examples = chosen(&task, &parameters)?;
    let metrics = metrics_of(&task, &parameters, &examples)?;
    let folder = context.input("/model")?;
    let loading = memory::Meter::start(device(context)?);
    let mut model = open(folder, context)?;
    // An adapter beside its base would cost its products for every token.
    model.freeze()?;
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
    standard_error: Option<f64>,
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
        for ((example, item), loss) in self.examples.iter().zip(&mut results.items).zip(&losses) {
            self.check_finite(example, std::slice::from_ref(loss))?;
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
            self.check_finite(example, &losses[start..end])?;
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
        let mut finished = Finished::<Vec<Vec<u32>>>::open(&self.context.work()?, "generation")?;
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

    /// # Errors
    /// A loss that is no finite number: it compares with none, so that a choice by it would be made up.
    fn check_finite(&self, example: &Example, losses: &[RowLoss]) -> Result<()> {
        let Some(loss) = losses.iter().find(|loss| !loss.sum.is_finite()) else { return Ok(()) };
        let (id, model, sum) = (example.id, &self.parameters.model, loss.sum);
        let problem = format!("the loss of example {id} under the model `{model}` is {sum}");
        Err(Problem::new(problem).hint("the model's training may have diverged: look at its `steps`").into())
    }

    fn row_losses(&self, phase: &str, set: &ValidationSet) -> Result<Vec<RowLoss>> {
        let start = Instant::now();
        // As bits: a number that went through decimal digits need not be the same.
        let mut finished = Finished::<Vec<u64>>::open(&self.context.work()?, phase)?;
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
        let floats = |of: &dyn Fn(&Score) -> Option<f64>| Arc::new(rows.iter().map(of).collect::<Float64Array>());
        self.context.write_table(
            "metrics",
            &table::batch(vec![
                ("split", Arc::new(StringArray::from_iter_values(rows.iter().map(|_| split))) as ArrayRef),
                ("metric", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.metric)))),
                ("value", floats(&|row| Some(row.value))),
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
mod tests;
