//! Runs a stage of kind `evaluate`: scores a model on the examples of a task, item by item (docs/method.md, section 7).
//! The kinds `sql` and `report` compare models.
//!
//! Every finished batch of losses or of generated answers is saved. A killed evaluation continues after the last saved
//! batch.

mod inputs;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, StringArray, UInt32Array};
use tch::Tensor;

use crate::encoding::{EncodedRows, EncodingReport};
use crate::learning::{codec, device, open, phase_cost, speed};
use inputs::{MetricInput, MetricInputs};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::finished::FinishedParts;
use raisin_contract::results::MethodResult;
use raisin_contract::{Context, Cost, Progress, referenced};
use raisin_corpus::left_out::leave_out;
use raisin_corpus::{Codec, Example, Extract, Scored, Sequence, Task, read_task};
use raisin_kinds::evaluate::{Metric, Parameters};
use raisin_lm::Model;
use raisin_lm::proxy::PrefixStates;
use raisin_settings::Split;
use raisin_table::{self as table, WriteTable as _};
use raisin_training::scoring::{best_choice, last_number, mean_and_error, strict_number, token_mean_and_error};
use raisin_training::validation::{RowLoss, ValidationSet};
use raisin_training::{Meter, PhaseUse, meter};

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
    let loading = Meter::start(device(context)?);
    let codec = codec(folder)?;
    let mut model = open(folder, context)?;
    // Merges an adapter into its base, so that the adapter needs no matrix products of its own.
    model.freeze()?;
    context.cost(phase_cost("load", loading.stop()));
    // All metrics are encoded before the first is computed, so that a wrong parameter is found before the work.
    let mut encoding = EncodingReport::new(parameters.sequence_limit());
    let inputs = MetricInputs::encode(&metrics, &examples, &parameters, &codec, &model, &mut encoding)?;
    encoding.tell(&codec, context);
    inputs.check(&parameters, &model)?;
    let proxy = if parameters.split == Split::Test { proxy_with_test(folder)? } else { None };
    let evaluator = Evaluator { context, parameters: &parameters, task: &task, model, codec, examples, proxy };
    let mut results = ScoredExamples { scores: Vec::new(), items: vec![ItemRow::default(); evaluator.examples.len()] };
    for input in &inputs.all {
        results.leave_out(input);
        match input {
            MetricInput::Loss(rows) => evaluator.loss(rows, &mut results)?,
            MetricInput::Choice(families) => evaluator.choice(families, &mut results)?,
            MetricInput::Match(prompts) => evaluator.generation(prompts, &mut results)?,
        }
    }
    evaluator.write(&results, main)?;
    encoding.write(context)?;
    copy_summary(folder, context)
}

/// The proxy with hidden states of the test examples that the model is, or that the adapter of the model was trained
/// on; the layers of its prefix are then those of the base. Whole weights do not say where they come from.
fn proxy_with_test(model: &Path) -> Result<Option<PrefixStates>> {
    let base = if model.join("adapter_config.json").is_file() { referenced(model, "base")? } else { None };
    let proxy = base.as_deref().unwrap_or(model);
    let states = if proxy.join("proxy.json").is_file() { Some(PrefixStates::open(proxy)?) } else { None };
    Ok(states.filter(PrefixStates::has_test))
}

/// The examples to score.
///
/// # Errors
/// The split has no examples.
fn chosen(task: &Task, parameters: &Parameters) -> Result<Vec<Example>> {
    let all = task.examples(parameters.split);
    if all.is_empty() {
        let problem =
            Problem::new(format!("the task `{}` has no {} example", parameters.task, parameters.split.name()));
        return Err(problem.hint("give the task stage a `test` count or a `test_source`").into());
    }
    Ok(all.iter().take(parameters.limit.unwrap_or(usize::MAX)).cloned().collect())
}

/// The metric by which the task is scored; `None` for the loss alone.
fn metric_of(task: &Task) -> Option<Metric> {
    match task.scoring.by {
        Scored::Loss => None,
        Scored::Choice => Some(Metric::Choice),
        Scored::Match => Some(Metric::Match),
    }
}

/// The metrics to compute: the metrics in the parameters or, without these, the loss and the metric of the task.
///
/// # Errors
/// No example has choices, but `choice` is one of the metrics.
fn metrics_of(task: &Task, parameters: &Parameters, examples: &[Example]) -> Result<Vec<Metric>> {
    let mut metrics = parameters.metrics.clone();
    if metrics.is_empty() {
        metrics.push(Metric::Loss);
        metrics.extend(metric_of(task));
    }
    let has_choices = |example: &Example| !example.choices.is_empty() && example.answer.is_some();
    if metrics.contains(&Metric::Choice) && !examples.iter().any(has_choices) {
        let problem = format!("no example of `{}` has choices and an answer", parameters.task);
        return Err(Problem::new(problem).hint("name the `choices` and `answer` columns in the task stage").into());
    }
    Ok(metrics)
}

/// The metric of `correct`, `correct_norm` and `prediction` (see `raisin_kinds::outputs::evaluate`).
fn main_metric(task: &Task, metrics: &[Metric]) -> Option<Metric> {
    let first = metrics.iter().copied().find(|metric| *metric != Metric::Loss);
    metric_of(task).filter(|metric| metrics.contains(metric)).or(first)
}

/// One row of the `metrics` table.
struct MetricRow {
    metric: &'static str,
    value: f64,
    standard_error: Option<f64>,
    /// The number of examples that are scored.
    count: usize,
}

/// One row of the `items` table.
#[derive(Clone, Debug, Default)]
struct ItemRow {
    loss: Option<f64>,
    tokens: Option<u32>,
    chosen: Option<Answer>,
    generated: Option<Answer>,
    /// Why the example is left out of a metric, for each such metric.
    missing: Vec<String>,
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

/// The answer of the model to an example.
#[derive(Clone, Debug)]
struct Answer {
    text: String,
    correct: bool,
    /// Whether the answer is right if the loss is divided by the length of the choice, or if numbers match flexibly.
    correct_norm: Option<bool>,
}

struct ScoredExamples {
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
    proxy: Option<PrefixStates>,
}

impl Evaluator<'_> {
    fn loss(&self, rows: &EncodedRows, results: &mut ScoredExamples) -> Result<()> {
        let sequences: Vec<&Sequence> = rows.present().collect();
        let cached = self.cached_states(&sequences)?;
        let cached = cached.as_ref().map(|(layers, states)| (*layers, states.as_slice()));
        let set = ValidationSet::new(&sequences, cached, self.parameters.batch_tokens, device(self.context)?)?;
        let losses = self.row_losses("loss", &set, cached.map_or(0, |(layers, _)| layers))?;
        for (place, loss) in rows.places().into_iter().zip(&losses) {
            self.check_finite(&self.examples[place], std::slice::from_ref(loss))?;
            let item = &mut results.items[place];
            (item.loss, item.tokens) = (Some(loss.mean()), Some(loss.tokens as u32));
        }
        let (value, standard_error) = token_mean_and_error(&losses);
        results.scores.push(MetricRow { metric: "loss", value, standard_error, count: losses.len() });
        Ok(())
    }

    /// The number of layers of the prefix, and the states of each example after these layers. `None` without a proxy that
    /// has states of exactly these examples.
    fn cached_states(&self, sequences: &[&Sequence]) -> Result<Option<(usize, Vec<Tensor>)>> {
        let Some(proxy) = &self.proxy else { return Ok(None) };
        let states = proxy.test(sequences)?;
        if states.is_none() {
            self.context.note(
                "the hidden states of the proxy belong to other test examples, or to another max_tokens, so that all \
                 layers run",
            );
        }
        Ok(states.map(|states| (proxy.config.prefix_layers, states)))
    }

    fn choice(&self, families: &EncodedRows<Vec<Sequence>>, results: &mut ScoredExamples) -> Result<()> {
        // The choices of a question have a common prompt, which is computed once.
        let together: Vec<Vec<&Sequence>> = families.present().map(|family| family.iter().collect()).collect();
        let set = ValidationSet::of_families(&together, self.parameters.batch_tokens, device(self.context)?)?;
        let losses = self.row_losses("choices", &set, 0)?;
        let mut rest = losses.as_slice();
        for place in families.places() {
            let example = &self.examples[place];
            let (of_example, others) = rest.split_at(example.choices.len());
            rest = others;
            self.check_finite(example, of_example)?;
            let Some(best) = best_choice(of_example, &example.choices) else { continue };
            results.items[place].chosen = Some(Answer {
                text: example.choices.get(best.by_sum).cloned().unwrap_or_default(),
                correct: example.answer == Some(best.by_sum),
                correct_norm: Some(example.answer == Some(best.by_length)),
            });
        }
        results.push_share("acc", |item| Some(item.chosen.as_ref()?.correct));
        results.push_share("acc_norm", |item| item.chosen.as_ref()?.correct_norm);
        Ok(())
    }

    fn generation(&self, rows: &EncodedRows<Vec<u32>>, results: &mut ScoredExamples) -> Result<()> {
        let numbers = self.task.scoring.extract == Some(Extract::Gsm8k);
        let (prompts, places): (Vec<&Vec<u32>>, Vec<usize>) = (rows.present().collect(), rows.places());
        let mut endless = 0;
        // Prompts of similar length form a batch, which needs little padding.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&row| (prompts[row].len(), row));
        let (start, mut tokens, mut done) = (Instant::now(), 0, 0);
        // A part has the number of rows that fitted in memory too, because a batch of another size rounds differently.
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
                endless += usize::from(!answer.last().is_some_and(|last| self.codec.stop_tokens().contains(last)));
                let text = self.codec.decode(&answer)?;
                let reference = &self.examples[places[row]].response.content;
                let (correct, correct_norm) = if numbers {
                    let (strictly, flexibly) = numbers_agree(&text, reference);
                    (strictly, Some(flexibly))
                } else {
                    (text.trim() == reference.trim(), None)
                };
                results.items[places[row]].generated = Some(Answer { text, correct, correct_norm });
            }
            done += rows.len();
            self.progress("generation", done, prompts.len(), tokens, start);
        }
        self.cost("generation", start, tokens, 0, 0);
        if endless > 0 {
            let (of, limit) = (prompts.len(), self.task.scoring.max_new_tokens);
            self.context.note(format!(
                "{endless} of {of} generated answers have no end: they are cut at max_new_tokens = {limit}, or at the \
                 context of the model"
            ));
        }
        results.push_share("exact_match", |item| Some(item.generated.as_ref()?.correct));
        if numbers {
            results.push_share("flexible_match", |item| item.generated.as_ref()?.correct_norm);
        }
        Ok(())
    }

    /// # Errors
    /// A loss is not a finite number. Such a loss cannot be compared with other losses.
    fn check_finite(&self, example: &Example, losses: &[RowLoss]) -> Result<()> {
        let Some(loss) = losses.iter().find(|loss| !loss.sum.is_finite()) else { return Ok(()) };
        let (id, model, sum) = (example.id, &self.parameters.model, loss.sum);
        let problem = format!("the loss of example {id} under the model `{model}` is {sum}");
        Err(Problem::new(problem).hint("the model's training may have diverged: look at its `steps`").into())
    }

    /// `from` is the first layer that runs.
    fn row_losses(&self, phase: &str, set: &ValidationSet, from: usize) -> Result<Vec<RowLoss>> {
        let start = Instant::now();
        // Losses are saved as bits: an f64 that is written in decimal digits may be read back as another number. A part
        // has the batch size that fitted in memory too, because a batch of another size rounds differently.
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
        self.cost(phase, start, set.tokens() as u64, set.supervised_tokens() as u64, from);
        Ok(losses)
    }

    fn progress(&self, phase: &str, done: usize, total: usize, tokens: u64, start: Instant) {
        self.context.progress(Progress {
            phase: phase.to_owned(),
            done: done as u64,
            total: total as u64,
            unit: "examples".to_owned(),
            tokens_per_second: speed(tokens, start.elapsed()),
            ..Progress::default()
        });
    }

    fn cost(&self, phase: &str, start: Instant, tokens: u64, supervised_tokens: u64, from: usize) {
        let spent = PhaseUse { time: start.elapsed(), peak_bytes: meter::peak(self.model.device()) };
        let flops = tokens as f64 * self.model.flops_per_token_from(from, false);
        self.context.cost(Cost { tokens, supervised_tokens, flops, ..phase_cost(phase, spent) });
    }

    fn write(&self, results: &ScoredExamples, main: Option<Metric>) -> Result<()> {
        let ScoredExamples { scores, items } = results;
        let split = self.parameters.split.name();
        let floats = |of: &dyn Fn(&MetricRow) -> Option<f64>| Arc::new(scores.iter().map(of).collect::<Float64Array>());
        self.context.write_table(
            "metrics",
            &table::batch(vec![
                ("split", Arc::new(StringArray::from_iter_values(scores.iter().map(|_| split))) as ArrayRef),
                ("metric", Arc::new(StringArray::from_iter_values(scores.iter().map(|score| score.metric)))),
                ("value", floats(&|score| Some(score.value))),
                ("n", Arc::new(UInt32Array::from_iter_values(scores.iter().map(|score| score.count as u32)))),
                ("standard_error", floats(&|score| score.standard_error)),
            ])?,
        )?;
        let result = |score: &MetricRow| MethodResult {
            split: split.to_owned(),
            metric: score.metric.to_owned(),
            seeds: 1,
            mean: score.value,
            ..MethodResult::default()
        };
        raisin_contract::results::Results { baseline: None, rows: scores.iter().map(result).collect() }
            .write(self.context)?;
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
        let missing = items.iter().map(|item| Some(item.missing.join("; ")).filter(|reasons| !reasons.is_empty()));
        columns.push(("missing", Arc::new(missing.collect::<StringArray>())));
        self.context.write_table("items", &table::batch(columns)?)
    }
}

impl ScoredExamples {
    /// Keeps the reasons why examples are left out of a metric.
    fn leave_out(&mut self, input: &MetricInput) {
        let name = input.name();
        for (item, reason) in self.items.iter_mut().zip(input.missing()) {
            item.missing.extend(reason.as_ref().map(|reason| format!("{name}: {reason}")));
        }
    }

    /// Adds a metric: the share of the items with an answer that are right.
    fn push_share(&mut self, metric: &'static str, is_right: impl Fn(&ItemRow) -> Option<bool>) {
        let values: Vec<f64> = self.items.iter().filter_map(is_right).map(|right| f64::from(u8::from(right))).collect();
        let (value, standard_error) = mean_and_error(&values);
        self.scores.push(MetricRow { metric, value, standard_error, count: values.len() });
    }
}

/// Whether the number in a generated answer matches the number in the reference: strictly (after `####`), and flexibly
/// (the last number).
fn numbers_agree(answer: &str, reference: &str) -> (bool, bool) {
    let Some(expected) = strict_number(reference).or_else(|| last_number(reference)) else { return (false, false) };
    (strict_number(answer).as_ref() == Some(&expected), last_number(answer).as_ref() == Some(&expected))
}

/// Copies the summary of the model's stage, if there is one. The report takes the name of the method from the summary.
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
