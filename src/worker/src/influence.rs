//! Runs a stage of kind `influence`: measures the loss of every row of the pool under the model M_0, trains a few steps
//! on the validation examples to M_w, and measures every loss again. The fall of a loss says how much the row has in
//! common with the task. With `alignment`, the stage also compares the gradient of each row with the gradients of the
//! validation examples (docs/method.md, section 6).
//!
//! The losses of finished batches, M_w and finished alignments go into the work folder, so that a killed stage
//! continues after the last of them and writes the same bytes.

mod align;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::encoding::EncodingReport;
use crate::learning::{Learning, Settings, account_costs, device, phase_cost, speed};
use crate::tables::bits;
use raisin_base::error::{Problem, Result, anyhow};
use raisin_contract::finished::FinishedParts;
use raisin_contract::{Context, Cost, Progress};
use raisin_corpus::{read_instructions, read_task};
use raisin_kinds::influence::Parameters;
use raisin_lm::longest_first;
use raisin_lm::out_of_memory::micro_batches;
use raisin_selector::{CandidateColumns, ChooserInputs, SelectionMethod, StepContext, chooser};
use raisin_settings::{LearningRateSchedule, Third};
use raisin_table::{self as table, WriteTable as _};
use raisin_training::meter::peak;
use raisin_training::{Meter, PhaseUse, Trainer, TrainerConfig, TrainingPool, ValidationSet};

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut measuring = Measuring::start(parameters, context)?;
    let before = measuring.performance(0)?;
    let losses = measuring.losses("loss")?;
    let warm_up = measuring.warm_up()?;
    let after = measuring.performance(1)?;
    let account = measuring.trainer.account();
    account_costs(&account, measuring.trainer.flops(account.train.tokens as usize, false), context);
    let warm_losses = measuring.losses("warm_loss")?;
    let alignments = if measuring.parameters.alignment { Some(measuring.alignments()?) } else { None };
    let rows = measuring.rows(&losses, &warm_losses, alignments.as_deref());
    let missing = rows.iter().filter(|row| row.missing.is_some()).count();
    let left_out = measuring.missing.iter().flatten().count();
    if missing > left_out {
        let (count, of) = (missing - left_out, rows.len());
        context
            .note(format!("{count} of {of} instructions have tokens, but not every number; column `missing` says why"));
    }
    context.note(format!(
        "{} steps on {} validation examples changed the validation loss from {:.4} to {:.4}",
        measuring.parameters.steps,
        measuring.examples.trainable().len(),
        -before,
        -after
    ));
    context.write_table("columns", &columns(&rows, alignments.is_some())?)?;
    measuring.finish(&warm_up, before, after)
}

/// A stage at work.
struct Measuring<'a> {
    context: &'a Context,
    parameters: Parameters,
    trainer: Trainer,
    pool: TrainingPool,
    /// For each row of the pool, why it has no tokens.
    missing: Vec<Option<String>>,
    examples: TrainingPool,
    validation: ValidationSet,
    /// The ids of the rows in batches, the longest rows first.
    batches: Vec<Vec<u32>>,
    encoding: EncodingReport,
}

/// The costs of the training on the validation examples. The checkpoint with M_w holds them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct WarmUp {
    tokens: u64,
    supervised_tokens: u64,
    #[serde(with = "bits")]
    flops: f64,
}

/// One row of the table `columns`.
#[derive(Clone, Debug, Default)]
struct InfluenceRow {
    id: u32,
    loss: Option<f64>,
    warm_loss: Option<f64>,
    relative_drop: Option<f64>,
    alignment: Option<f64>,
    missing: Option<String>,
}

impl<'a> Measuring<'a> {
    fn start(parameters: Parameters, context: &'a Context) -> Result<Self> {
        let loading = Meter::start(device(context)?);
        let task = read_task(context.input("/task")?)?;
        let instructions = read_instructions(context.input("/instructions")?)?;
        let settings = Settings {
            instructions: Some("/instructions"),
            adaptation: &parameters.adaptation,
            limit: parameters.sequence_limit(),
            batch_tokens: parameters.micro_batch_tokens,
            episodes: 1,
        };
        let folder = context.input("/model")?;
        let learning = Learning::start(folder, context, &instructions, &task.validation, &settings)?;
        let Learning { mut model, adaptation, seed, pool, missing, validation, examples, encoding } = learning;
        model.prepare(&adaptation, &seed)?;
        let config = TrainerConfig {
            learning_rate: parameters.learning_rate,
            schedule: LearningRateSchedule::Constant,
            total_steps: parameters.steps,
            micro_batch_tokens: parameters.micro_batch_tokens,
            ..TrainerConfig::default()
        };
        let trainer = Trainer::new(model, config, pool.prefix_layers())?;
        let ids = pool.trainable();
        let length = |id: &u32| pool.get(*id).map_or(0, |sequence| sequence.tokens.len());
        let order = longest_first(&ids.iter().map(length).collect::<Vec<_>>());
        let ids: Vec<u32> = order.iter().map(|&place| ids[place]).collect();
        let lengths: Vec<usize> = ids.iter().map(length).collect();
        let batches = micro_batches(&lengths, parameters.micro_batch_tokens);
        let batches = batches.into_iter().map(|range| ids[range].to_vec()).collect();
        context.cost(phase_cost("load", loading.stop()));
        Ok(Self { context, parameters, trainer, pool, missing, examples, validation, batches, encoding })
    }

    /// The performance before (0) or after (1) the training.
    ///
    /// # Errors
    /// The loss is not a finite number.
    fn performance(&mut self, place: usize) -> Result<f64> {
        let mut finished = FinishedParts::<(usize, u64)>::open(self.context, &format!("validation-{place}"))?;
        let (trainer, validation) = (&mut self.trainer, &self.validation);
        let (too_many, bits) = finished.next(|| {
            let performances = trainer.performances(validation)?;
            let performance = performances.first().ok_or_else(|| anyhow!("the trainer has no lane"))?;
            Ok((validation.too_many(), performance.to_bits()))
        })?;
        validation.set_too_many(too_many);
        let performance = f64::from_bits(bits);
        if performance.is_finite() {
            return Ok(performance);
        }
        let problem = format!("the validation loss became {} after {} steps", -performance, trainer.steps_done());
        Err(Problem::new(problem).hint("lower learning_rate or steps").into())
    }

    /// The mean loss per supervised token of each row of the pool under the present model, by id. `None` for a row
    /// without tokens.
    fn losses(&mut self, phase: &str) -> Result<Vec<Option<f64>>> {
        let started = Instant::now();
        let Self { context, parameters, trainer, pool, batches, .. } = self;
        let (device, layers) = (trainer.model.device(), pool.prefix_layers());
        let model = trainer.model.joined_to_evaluate()?;
        // Losses are saved as bits: an f64 that is written in decimal digits may be read back as another number. A part
        // has the batch size that fitted in memory too, because a batch of another size rounds differently.
        let mut finished = FinishedParts::<(usize, Vec<u64>)>::open(context, phase)?;
        let (mut losses, mut too_many) = (vec![None; pool.len()], usize::MAX);
        let mut told = RowProgress::new(context, phase, batches);
        for ids in &*batches {
            let (room, found) = finished.next(|| {
                let (sequences, states) = pool.rows(ids)?;
                let set = ValidationSet::new(
                    &sequences,
                    layers.zip(states.as_deref()),
                    parameters.micro_batch_tokens,
                    device,
                )?;
                set.set_too_many(too_many);
                let losses = set.row_losses(&model, |work| work(), |_, _| ())?;
                Ok((set.too_many(), losses.iter().map(|loss| loss.mean().to_bits()).collect()))
            })?;
            too_many = room;
            for (&id, bits) in ids.iter().zip(found) {
                losses[id as usize] = Some(f64::from_bits(bits));
            }
            told.add(ids, pool);
        }
        drop(model);
        let spent = PhaseUse { time: started.elapsed(), peak_bytes: peak(device) };
        let (tokens, supervised_tokens) = self.pool_tokens();
        let flops = self.trainer.flops(tokens, false);
        let (tokens, supervised_tokens) = (tokens as u64, supervised_tokens as u64);
        self.context.cost(Cost { tokens, supervised_tokens, flops, ..phase_cost(phase, spent) });
        Ok(losses)
    }

    /// Trains from M_0 to M_w on the validation examples, in random order, pass after pass.
    fn warm_up(&mut self) -> Result<WarmUp> {
        let path = self.context.work()?.join("warm_up");
        let tell = |text: &str| self.context.note(text);
        let restored: Option<WarmUp> =
            self.trainer.restore(&path, &tell, |extra| Ok(serde_json::from_slice(extra)?))?;
        if let Some(restored) = restored {
            return Ok(restored);
        }
        let Parameters { steps, batch_size: asked, .. } = self.parameters;
        let ids = self.examples.trainable();
        let batch_size = asked.min(ids.len());
        if batch_size < asked {
            self.context.note(format!("batch_size is {batch_size}, because there are no more validation examples"));
        }
        let columns = CandidateColumns { ids, ..CandidateColumns::default() };
        let seed = self.context.seed().at("select");
        let inputs =
            ChooserInputs { pool: &columns, batch_size, total_steps: steps, seed, third: Third::default(), top: None };
        let mut chooser = chooser(SelectionMethod::Validation, &inputs)?;
        let mut warm_up = WarmUp::default();
        for step in 0..steps {
            let choices =
                chooser.choose(&StepContext { step, total_steps: steps, performance: None, last_loss: None })?;
            let ids: Vec<u32> = choices.iter().map(|choice| choice.id).collect();
            let (sequences, states) = self.examples.rows(&ids)?;
            let outcome = self.trainer.step(&sequences, states.as_deref())?;
            warm_up.tokens += outcome.tokens as u64;
            warm_up.supervised_tokens += outcome.supervised_tokens as u64;
            warm_up.flops += outcome.flops;
            self.context.progress(Progress {
                phase: "training on the validation examples".to_owned(),
                done: step as u64 + 1,
                total: steps as u64,
                unit: "steps".to_owned(),
                detail: format!("loss {:.3}", outcome.loss),
                ..Progress::default()
            });
        }
        self.trainer.save(&path, &serde_json::to_vec(&warm_up)?)?;
        Ok(warm_up)
    }

    /// The tokens and the supervised tokens of all rows with tokens.
    fn pool_tokens(&self) -> (usize, usize) {
        let sequences = || self.pool.trainable().into_iter().filter_map(|id| self.pool.get(id));
        let tokens = sequences().map(|sequence| sequence.tokens.len()).sum();
        (tokens, sequences().map(raisin_corpus::Sequence::supervised_tokens).sum())
    }

    /// The rows of the table. A number that cannot be computed is missing, with the reason.
    fn rows(
        &self,
        losses: &[Option<f64>],
        warm_losses: &[Option<f64>],
        alignments: Option<&[Option<f64>]>,
    ) -> Vec<InfluenceRow> {
        let row = |(place, reason): (usize, &Option<String>)| {
            let id = place as u32;
            let (Some(loss), Some(warm_loss), None) = (losses[place], warm_losses[place], reason) else {
                return InfluenceRow { id, missing: reason.clone(), ..InfluenceRow::default() };
            };
            let mut row = InfluenceRow { id, ..InfluenceRow::default() };
            if loss.is_finite() && warm_loss.is_finite() {
                (row.loss, row.warm_loss) = (Some(loss), Some(warm_loss));
                row.relative_drop = (loss > 0.0).then(|| (loss - warm_loss) / loss);
                if row.relative_drop.is_none() {
                    row.missing = Some("the loss is 0, and cannot fall".to_owned());
                }
            } else {
                row.missing = Some("the model's loss is not a finite number".to_owned());
            }
            if let Some(alignments) = alignments {
                row.alignment = alignments[place];
                if row.alignment.is_none() {
                    let reason = "the gradient of the row is 0 or not a finite number";
                    row.missing.get_or_insert_with(|| reason.to_owned());
                }
            }
            row
        };
        self.missing.iter().enumerate().map(row).collect()
    }

    /// Writes the summary and the table `encoding`.
    fn finish(self, warm_up: &WarmUp, before: f64, after: f64) -> Result<()> {
        let (tokens, supervised) = self.pool_tokens();
        let (examples, supervised_examples) = (self.validation.tokens(), self.validation.supervised_tokens());
        // The pool and the validation examples are measured twice.
        let mut passes = 2;
        let mut flops = 2.0 * self.trainer.flops(tokens + examples, false) + warm_up.flops;
        if self.parameters.alignment {
            passes += 1;
            flops += self.trainer.flops(tokens + examples, true);
        }
        self.encoding.write(self.context)?;
        self.context.write_json(
            "summary.json",
            &json!({
                "pass": "influence",
                "tokens": (passes * (tokens + examples)) as u64 + warm_up.tokens,
                "supervised_tokens": (passes * (supervised + supervised_examples)) as u64 + warm_up.supervised_tokens,
                "flops": flops,
                "steps": self.parameters.steps,
                "trained_parameters": self.trainer.model.trainable().count(),
                "base_performance": before,
                "performance": after,
            }),
        )
    }
}

/// Tells the progress over the rows of the pool.
struct RowProgress<'a> {
    context: &'a Context,
    phase: &'a str,
    started: Instant,
    done: usize,
    total: usize,
    tokens: u64,
}

impl<'a> RowProgress<'a> {
    fn new(context: &'a Context, phase: &'a str, batches: &[Vec<u32>]) -> Self {
        let total = batches.iter().map(Vec::len).sum();
        Self { context, phase, started: Instant::now(), done: 0, total, tokens: 0 }
    }

    fn add(&mut self, ids: &[u32], pool: &TrainingPool) {
        self.done += ids.len();
        self.tokens += ids.iter().filter_map(|&id| pool.get(id)).map(|row| row.tokens.len() as u64).sum::<u64>();
        self.context.progress(Progress {
            phase: self.phase.to_owned(),
            done: self.done as u64,
            total: self.total as u64,
            unit: "rows".to_owned(),
            tokens_per_second: speed(self.tokens, self.started.elapsed()),
            ..Progress::default()
        });
    }
}

fn columns(rows: &[InfluenceRow], with_alignment: bool) -> Result<RecordBatch> {
    let numbers = |of: &dyn Fn(&InfluenceRow) -> Option<f64>| -> ArrayRef {
        Arc::new(rows.iter().map(|row| of(row).map(|value| value as f32)).collect::<Float32Array>())
    };
    let mut columns = vec![
        ("id", Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.id))) as ArrayRef),
        ("loss", numbers(&|row| row.loss)),
        ("warm_loss", numbers(&|row| row.warm_loss)),
        ("drop", numbers(&|row| Some(row.loss? - row.warm_loss?))),
        ("relative_drop", numbers(&|row| row.relative_drop)),
    ];
    if with_alignment {
        columns.push(("alignment", numbers(&|row| row.alignment)));
    }
    columns.push(("missing", Arc::new(rows.iter().map(|row| row.missing.as_deref()).collect::<StringArray>())));
    table::batch(columns)
}
