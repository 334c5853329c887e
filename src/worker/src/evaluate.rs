//! Runs a stage of kind `evaluate`: scores a model on the examples of a task, item by item (docs/method.md, section 7). The
//! kinds `sql` and `report` compare models.
//!
//! Every finished batch of losses or of generated answers is saved, so that an evaluation that was killed continues from
//! there.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, StringArray, UInt32Array};

use crate::learning::{device, encode_examples, open, phase_cost};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::finished::FinishedParts;
use raisin_contract::{Context, Cost, Progress};
use raisin_corpus::left_out::leave_out;
use raisin_corpus::{Codec, Example, Extract, Scored, Sequence, Task, read_task};
use raisin_kinds::evaluate::{Metric, Parameters};
use raisin_lm::Model;
use raisin_settings::Split;
use raisin_table::{self as table, WriteTable as _};
use raisin_training::meter;
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
    let main = main_metric(&task, &metrics);
    let folder = context.input("/model")?;
    let loading = meter::Meter::start(device(context)?);
    let mut model = open(folder, context)?;
    // An adapter that is not merged into its base would add matrix products for every token.
    model.freeze()?;
    context.cost(phase_cost("load", loading.stop()));
    let codec = Codec::load(folder)?;
    let evaluator = Evaluator { context, parameters: &parameters, task: &task, model, codec, examples };
    let mut results = Results { scores: Vec::new(), items: vec![ItemRow::default(); evaluator.examples.len()] };
    for metric in metrics {
        match metric {
            Metric::Loss => evaluator.loss(&mut results)?,
            Metric::Choice => evaluator.choice(&mut results)?,
            Metric::Match => evaluator.generation(&mut results)?,
        }
    }
    evaluator.write(&results, main)?;
    copy_summary(folder, context)
}

/// The examples to score.
///
/// # Errors
/// The split has no examples.
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

/// What to compute: what the parameters say or, if they say nothing, the loss and what the task is scored by.
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
    let without = examples.iter().find(|example| example.choices.is_empty() || example.answer.is_none());
    if let (true, Some(example)) = (metrics.contains(&Metric::Choice), without) {
        let problem = format!("example {} of `{}` has no choices or no answer", example.id, parameters.task);
        return Err(Problem::new(problem).hint("name the `choices` and `answer` columns in the task stage").into());
    }
    Ok(metrics)
}

/// The metric of `correct`, `correct_norm` and `prediction` (see `raisin_kinds::evaluate`).
fn main_metric(task: &Task, metrics: &[Metric]) -> Option<Metric> {
    let of_the_task = match task.scoring.by {
        Scored::Loss => None,
        Scored::Choice => Some(Metric::Choice),
        Scored::Match => Some(Metric::Match),
    };
    let first = metrics.iter().copied().find(|metric| *metric != Metric::Loss);
    of_the_task.filter(|metric| metrics.contains(metric)).or(first)
}

/// One row of the `metrics` table.
struct MetricRow {
    metric: &'static str,
    value: f64,
    standard_error: Option<f64>,
}

/// One row of the `items` table.
#[derive(Clone, Debug, Default)]
struct ItemRow {
    loss: Option<f64>,
    tokens: Option<u32>,
    chosen: Option<Answer>,
    generated: Option<Answer>,
}

impl ItemRow {
    fn answer(&self, metric: Metric) -> Option<&Answer> {
        match metric {
            Metric::Loss => None,
            Metric::Choice => self.chosen.as_ref(),
            Metric::Match => self.generated.as_ref(),
        }
    }
}

/// What the model answers, and whether that is right.
#[derive(Clone, Debug)]
struct Answer {
    text: String,
    correct: bool,
    /// By the length of the choice, or by a flexible match of numbers.
    correct_norm: Option<bool>,
}

struct Results {
    scores: Vec<MetricRow>,
    items: Vec<ItemRow>,
}

struct Evaluator<'a> {
    context: &'a Context,
    parameters: &'a Parameters,
    task: &'a Task,
    model: Model,
    codec: Codec,
    examples: Vec<Example>,
}

impl Evaluator<'_> {
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
        results.scores.push(MetricRow { metric: "loss", value, standard_error });
        Ok(())
    }

    fn choice(&self, results: &mut Results) -> Result<()> {
        let mut sequences = Vec::new();
        for example in &self.examples {
            for choice in &example.choices {
                // The prompt and the choice are encoded together. Only the text of the choice has a loss.
                let sequence = self.codec.choice(example, choice, self.parameters.max_tokens)?;
                let sequence = sequence.ok_or_else(|| {
                    let what = format!("example {} leaves no room for the choice `{choice}`", example.id);
                    Problem::new(what).hint("raise max_tokens")
                })?;
                sequences.push(sequence);
            }
        }
        // The choices of a question have the same prompt, which is computed once.
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
            item.chosen = Some(Answer {
                text: example.choices.get(best.by_sum).cloned().unwrap_or_default(),
                correct: is_right(best.by_sum),
                correct_norm: Some(is_right(best.by_length)),
            });
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
        // Prompts of similar length generate together, which needs little padding.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&row| (prompts[row].len(), row));
        let (mut exact, mut flexible) = (vec![0.0; prompts.len()], vec![0.0; prompts.len()]);
        let (start, mut tokens, mut done) = (Instant::now(), 0, 0);
        // And what fitted in memory: fewer rows together round otherwise.
        let mut finished = FinishedParts::<(usize, Vec<Vec<u32>>)>::open(self.context, "generation")?;
        for rows in order.chunks(self.parameters.generate_rows) {
            let chosen: Vec<Vec<u32>> = rows.iter().map(|&row| prompts[row].clone()).collect();
            let limit = self.task.scoring.max_new_tokens;
            let (together, answers) = finished.next(|| {
                let answers = self.model.generate(&chosen, limit, self.codec.stop_tokens())?;
                Ok((self.model.rows_together(), answers))
            })?;
            self.model.set_rows_together(together);
            for ((&row, prompt), answer) in rows.iter().zip(&chosen).zip(answers) {
                tokens += (prompt.len() + answer.len()) as u64;
                let text = self.codec.decode(&answer)?;
                let reference = &self.examples[row].response;
                let (is_exact, is_flexible) =
                    if numbers { numbers_agree(&text, reference) } else { (text.trim() == reference.trim(), false) };
                exact[row] = f64::from(u8::from(is_exact));
                flexible[row] = f64::from(u8::from(is_flexible));
                let correct_norm = numbers.then_some(is_flexible);
                results.items[row].generated = Some(Answer { text, correct: is_exact, correct_norm });
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
    /// A loss is not a finite number. It cannot be compared with other losses, so that no choice follows from it.
    fn check_finite(&self, example: &Example, losses: &[RowLoss]) -> Result<()> {
        let Some(loss) = losses.iter().find(|loss| !loss.sum.is_finite()) else { return Ok(()) };
        let (id, model, sum) = (example.id, &self.parameters.model, loss.sum);
        let problem = format!("the loss of example {id} under the model `{model}` is {sum}");
        Err(Problem::new(problem).hint("the model's training may have diverged: look at its `steps`").into())
    }

    fn row_losses(&self, phase: &str, set: &ValidationSet) -> Result<Vec<RowLoss>> {
        let start = Instant::now();
        // Losses are saved as bits, because a number that was written in decimal digits may read back as another number. The
        // size that memory allowed is saved too, because halves round differently.
        let mut finished = FinishedParts::<(usize, Vec<u64>)>::open(self.context, phase)?;
        let part = |work: &dyn Fn() -> Result<Vec<f64>>| {
            let (too_many, bits) = finished.next(|| {
                let bits = work()?.into_iter().map(f64::to_bits).collect();
                Ok((set.too_many(), bits))
            })?;
            set.set_too_many(too_many);
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
            peak_bytes: meter::peak(self.model.device()),
        });
    }

    fn write(&self, results: &Results, main: Option<Metric>) -> Result<()> {
        let Results { scores, items } = results;
        let count = u32::try_from(self.examples.len())?;
        let split = self.parameters.split.name();
        let floats = |of: &dyn Fn(&MetricRow) -> Option<f64>| Arc::new(scores.iter().map(of).collect::<Float64Array>());
        self.context.write_table(
            "metrics",
            &table::batch(vec![
                ("split", Arc::new(StringArray::from_iter_values(scores.iter().map(|_| split))) as ArrayRef),
                ("metric", Arc::new(StringArray::from_iter_values(scores.iter().map(|score| score.metric)))),
                ("value", floats(&|score| Some(score.value))),
                ("n", Arc::new(UInt32Array::from_iter_values(scores.iter().map(|_| count)))),
                ("standard_error", floats(&|score| score.standard_error)),
            ])?,
        )?;
        let answers = |metric: Option<Metric>, names: [&'static str; 3]| -> [(&'static str, ArrayRef); 3] {
            let answers = || items.iter().map(move |item| item.answer(metric?));
            let correct: BooleanArray = answers().map(|answer| Some(answer?.correct)).collect();
            let correct_norm: BooleanArray = answers().map(|answer| answer?.correct_norm).collect();
            let texts: StringArray = answers().map(|answer| Some(answer?.text.as_str())).collect();
            let [first, second, third] = names;
            [(first, Arc::new(correct)), (second, Arc::new(correct_norm)), (third, Arc::new(texts))]
        };
        let mut columns = vec![
            ("id", Arc::new(UInt32Array::from_iter_values(self.examples.iter().map(|it| it.id))) as ArrayRef),
            ("loss", Arc::new(items.iter().map(|item| item.loss).collect::<Float64Array>())),
            ("tokens", Arc::new(items.iter().map(|item| item.tokens).collect::<UInt32Array>())),
        ];
        columns.extend(answers(main, ["correct", "correct_norm", "prediction"]));
        columns.extend(answers(Some(Metric::Choice), ["acc", "acc_norm", "chosen"]));
        columns.extend(answers(Some(Metric::Match), ["exact_match", "flexible_match", "generated"]));
        self.context.write_table("items", &table::batch(columns)?)
    }
}

impl Results {
    fn push_mean(&mut self, metric: &'static str, values: &[f64]) {
        let (value, standard_error) = mean_and_error(values);
        self.scores.push(MetricRow { metric, value, standard_error });
    }
}

/// Whether the number in a generated answer matches the number of the reference, strictly and flexibly.
fn numbers_agree(answer: &str, reference: &str) -> (bool, bool) {
    let Some(expected) = strict_number(reference).or_else(|| last_number(reference)) else { return (false, false) };
    (strict_number(answer).as_ref() == Some(&expected), last_number(answer).as_ref() == Some(&expected))
}

/// Copies the summary of how the model was made, if there is one. Reports take the name of the method from it.
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
