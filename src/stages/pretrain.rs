//! `pretrain`: next-token training of all weights of a small model, on text or on instructions in random order.
//! Leaves choosing rows to `finetune`.

use std::time::{Duration, Instant};

use arrow::array::{Array, StringArray};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::learning::{StepRow, check_context, device, is_off, open_to_train, phase_cost, shuffled, steps_table, training_costs};
use super::{Context, Kind, Needs, ParameterProblem, Process, Progress};
use crate::corpus::{Codec, Instruction, Sequence, message::conversation, read_instructions};
use crate::error::{Problem, Result, ensure};
use crate::lm::Adaptation;
use crate::seed::Seed;
use crate::table;
use crate::training::episode::Spent;
use crate::training::{Checkpoints, Meter, Schedule, Trainer, TrainerConfig};

pub struct Pretrain;

/// Which tokens carry a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Supervised {
    /// Every token but the first.
    #[default]
    All,
    /// The tokens of the response.
    Response,
}

/// Parameters of a `pretrain` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose model is trained; usually a `model` stage with an `init` source.
    pub model: String,
    /// A stage with a table `pretraining` (columns `prompt` and `response`, or `text`), or with instructions.
    pub text: String,
    /// `all` tokens carry a loss, or the `response` only.
    #[serde(default)]
    pub loss: Supervised,
    pub steps: usize,
    /// Rows a step.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
    #[serde(default = "defaults::learning_rate")]
    pub learning_rate: f64,
    #[serde(default)]
    pub schedule: Schedule,
    /// The share of the steps in which the learning rate rises.
    #[serde(default = "defaults::warmup")]
    pub warmup: f64,
    #[serde(default)]
    pub weight_decay: f64,
    /// Longer rows are cut at this many tokens.
    #[serde(default = "defaults::max_tokens")]
    pub max_tokens: usize,
    /// A forward pass holds at most this many tokens; memory depends on it, results (but for rounding) do not.
    #[serde(default = "defaults::micro_batch_tokens")]
    pub micro_batch_tokens: usize,
    /// Compute activations again in the backward pass instead of keeping them: less memory, a third more work.
    #[serde(default, skip_serializing_if = "is_off")]
    pub activation_checkpointing: bool,
}

mod defaults {
    pub fn batch_size() -> usize {
        32
    }
    pub fn learning_rate() -> f64 {
        1e-3
    }
    pub fn warmup() -> f64 {
        0.05
    }
    pub fn max_tokens() -> usize {
        512
    }
    pub fn micro_batch_tokens() -> usize {
        8192
    }
}

const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

impl Kind for Pretrain {
    const NAME: &'static str = "pretrain";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Trains all weights of a small model on the next token of text or instructions.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["model"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/model", &parameters.model, "model");
        needs.stage("/text", &parameters.text, "instructions");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let zero = |pointer: &str| Err(ParameterProblem::new(pointer, "must be at least 1"));
        match parameters {
            Parameters { steps: 0, .. } => zero("/steps"),
            Parameters { batch_size: 0, .. } => zero("/batch_size"),
            Parameters { max_tokens: 0 | 1, .. } => {
                Err(ParameterProblem::new("/max_tokens", "a row needs at least 2 tokens"))
            }
            Parameters { warmup, .. } if !(0.0..1.0).contains(warmup) => {
                Err(ParameterProblem::new("/warmup", "is a share of the steps, from 0 to below 1"))
            }
            _ => Ok(()),
        }
    }

    fn run(parameters: Parameters, context: &Context) -> Result<()> {
        let mut run = Run::start(parameters, context)?;
        while run.advance()? {}
        run.finish()
    }
}

/// A pre-training run between two steps.
struct Run<'a> {
    context: &'a Context,
    parameters: Parameters,
    trainer: Trainer,
    rows: Vec<Sequence>,
    order: Order,
    steps: Vec<StepRow>,
    checkpoints: Checkpoints,
    started: Instant,
    resumed_at: usize,
}

impl<'a> Run<'a> {
    fn start(parameters: Parameters, context: &'a Context) -> Result<Self> {
        let loading = Meter::start(device(context)?);
        let folder = context.input("/model")?;
        let rows = read_rows(&Codec::load(folder)?, &parameters, context)?;
        let mut model = open_to_train(folder, &Adaptation::Full, context)?;
        check_context(&model, parameters.max_tokens, &rows)?;
        model.prepare(&Adaptation::Full, &context.seed())?;
        let config = TrainerConfig {
            learning_rate: parameters.learning_rate,
            schedule: parameters.schedule,
            warmup: parameters.warmup,
            total_steps: parameters.steps,
            weight_decay: parameters.weight_decay,
            micro_batch_tokens: parameters.micro_batch_tokens,
            activation_checkpointing: parameters.activation_checkpointing,
            ..TrainerConfig::default()
        };
        let mut trainer = Trainer::new(model, config, None)?;
        let checkpoints = Checkpoints::every(CHECKPOINT_INTERVAL, context.work()?.join("checkpoint.safetensors"));
        let steps: Vec<StepRow> = match trainer.restore(&checkpoints.path)? {
            Some(rows) => serde_json::from_value(rows)?,
            None => Vec::new(),
        };
        let resumed_at = steps.len();
        if resumed_at > 0 {
            context.note(format!("goes on after step {resumed_at}"));
        }
        context.cost(phase_cost("load", loading.stop()));
        let order = Order::new(rows.len(), context.seed().at("order"));
        context.note(format!(
            "{} steps of {} rows out of {}, {} parameters",
            parameters.steps,
            parameters.batch_size,
            rows.len(),
            trainer.model.parameter_count()
        ));
        Ok(Self { context, parameters, trainer, rows, order, steps, checkpoints, started: Instant::now(), resumed_at })
    }

    /// One step; false when all are done.
    fn advance(&mut self) -> Result<bool> {
        let step = self.trainer.steps_done();
        if step >= self.parameters.steps {
            return Ok(false);
        }
        let size = self.parameters.batch_size;
        let batch: Vec<&Sequence> =
            (step * size..(step + 1) * size).map(|draw| &self.rows[self.order.at(draw)]).collect();
        let outcome = self.trainer.step(&batch, None)?;
        self.steps.push(StepRow {
            step: step as u32 + 1,
            loss: outcome.loss,
            performance: None,
            reward: None,
            learning_rate: outcome.learning_rate,
            tokens: outcome.tokens as u64,
            supervised_tokens: outcome.supervised_tokens as u64,
            flops: self.trainer.flops(outcome.tokens, true),
        });
        let tokens: u64 = self.steps[self.resumed_at..].iter().map(|row| row.tokens).sum();
        self.context.progress(Progress {
            phase: "pretraining".to_owned(),
            done: step as u64 + 1,
            total: self.parameters.steps as u64,
            unit: "steps".to_owned(),
            tokens_per_second: Some(tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9)),
            detail: format!("loss {:.3}", outcome.loss),
        });
        if self.checkpoints.due() {
            self.checkpoint()?;
        }
        Ok(true)
    }

    fn checkpoint(&mut self) -> Result<()> {
        let (tensors, state) = self.trainer.checkpoint(&serde_json::to_value(&self.steps)?);
        self.checkpoints.save(&tensors, &state)
    }

    fn finish(self) -> Result<()> {
        let Self { context, parameters, trainer, steps, .. } = self;
        trainer.model.save(&context.out())?;
        context.write_table("steps", &steps_table(&steps)?)?;
        let sum = |of: fn(&StepRow) -> u64| steps.iter().map(of).sum::<u64>();
        let flops: f64 = steps.iter().map(|row| row.flops).sum();
        context.write_json(
            "summary.json",
            &json!({
                "method": "pretrain",
                "steps": parameters.steps,
                "batch_size": parameters.batch_size,
                "tokens": sum(|row| row.tokens),
                "supervised_tokens": sum(|row| row.supervised_tokens),
                "flops": flops,
            }),
        )?;
        let spent = Spent {
            tokens: sum(|row| row.tokens),
            supervised_tokens: sum(|row| row.supervised_tokens),
            flops,
            ..Spent::default()
        };
        training_costs(&trainer, &spent, context);
        Ok(())
    }
}

/// An endless sequence of rows: each pass over them in its own random order.
struct Order {
    rows: usize,
    seed: Seed,
    pass: Option<(usize, Vec<usize>)>,
}

impl Order {
    fn new(rows: usize, seed: Seed) -> Self {
        Self { rows, seed, pass: None }
    }

    fn at(&mut self, draw: usize) -> usize {
        let number = draw / self.rows;
        match &self.pass {
            Some((current, order)) if *current == number => order[draw % self.rows],
            _ => {
                let order = shuffled(self.rows, &self.seed.at(number));
                let row = order[draw % self.rows];
                self.pass = Some((number, order));
                row
            }
        }
    }
}

/// The rows to train on. A text is cut into pieces of `max_tokens`.
fn read_rows(codec: &Codec, parameters: &Parameters, context: &Context) -> Result<Vec<Sequence>> {
    let artifact = context.input("/text")?;
    let texts = artifact.join("pretraining.parquet");
    let mut rows = Vec::new();
    if texts.is_file() {
        let texts = table::read(&texts)?;
        let pairs = match (texts.column_by_name("prompt"), texts.column_by_name("response")) {
            (Some(_), Some(_)) => Some((
                table::column::<StringArray>(&texts, "prompt")?,
                table::column::<StringArray>(&texts, "response")?,
            )),
            _ => None,
        };
        let mut instructions = Vec::new();
        for row in 0..texts.num_rows() {
            match pairs {
                Some((prompts, responses)) if prompts.is_valid(row) && responses.is_valid(row) => {
                    instructions.push(Instruction {
                        id: row as u32,
                        messages: conversation(None, prompts.value(row), Some(responses.value(row))),
                        label: None,
                    });
                }
                _ => {
                    let text: &StringArray = table::column(&texts, "text")?;
                    ensure!(text.is_valid(row), "row {row} of the pretraining table holds no text");
                    ensure!(
                        parameters.loss == Supervised::All,
                        "row {row} of the pretraining table is plain text, which has no response: set loss = \"all\""
                    );
                    rows.extend(codec.encode(text.value(row))?.chunks(parameters.max_tokens).map(whole));
                }
            }
        }
        rows.extend(codec.instructions(&instructions, parameters.max_tokens)?.into_iter().flatten());
    } else {
        let instructions = read_instructions(artifact)?;
        rows.extend(codec.instructions(&instructions, parameters.max_tokens)?.into_iter().flatten());
    }
    if parameters.loss == Supervised::All {
        rows = rows.into_iter().map(|row| whole(&row.tokens)).collect();
    }
    rows.retain(|row| row.tokens.len() > 1);
    if rows.is_empty() {
        let problem = format!("the stage `{}` has no row with a token to learn from", parameters.text);
        return Err(Problem::new(problem).hint("max_tokens may be too small for its prompts").into());
    }
    Ok(rows)
}

/// A sequence in which every token but the first is learned.
fn whole(tokens: &[u32]) -> Sequence {
    Sequence { tokens: tokens.to_vec(), supervised: (0..tokens.len()).map(|position| position > 0).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::fixture::Store;
    use crate::table::column;
    use arrow::array::{ArrayRef, Float64Array};
    use std::sync::Arc;

    const INPUTS: [(&str, &str); 2] = [("/model", "model"), ("/text", "pool")];

    fn parameters(change: &serde_json::Value) -> Result<Parameters> {
        let mut value = json!({"model": "model", "text": "pool", "steps": 8, "batch_size": 4, "learning_rate": 0.01});
        for (key, change) in change.as_object().into_iter().flatten() {
            value[key] = change.clone();
        }
        Ok(serde_json::from_value(value)?)
    }

    #[test]
    fn pre_training_lowers_the_loss_and_writes_a_model_that_loads() -> Result<()> {
        let store = Store::new()?;
        let context = store.context("pretrain", "run", &INPUTS, &[])?;
        Pretrain::run(parameters(&json!({"steps": 20}))?, &context)?;
        let steps = store.table("run", "steps")?;
        let losses: &Float64Array = column(&steps, "loss")?;
        assert!(losses.value(19) < losses.value(0) - 0.5, "{} -> {}", losses.value(0), losses.value(19));
        store.keep("run", "pretrained")?;
        crate::lm::Model::load(&store.artifact("pretrained"), tch::Device::Cpu, tch::Kind::Float)?;
        Codec::load(&store.artifact("pretrained"))?;
        Ok(())
    }

    #[test]
    fn rows_that_the_model_has_no_room_for_are_refused_before_the_first_step() -> Result<()> {
        let store = Store::new()?;
        store.shorten_context(20)?;
        let context = store.context("pretrain", "run", &INPUTS, &[])?;
        let said = crate::error::render(&Run::start(parameters(&json!({}))?, &context).err().expect("too long"));
        assert!(said.contains("max_tokens is 512") && said.contains("the model's context of 20"), "{said}");
        assert!(said.contains("hint: max_tokens = 20, or less"), "{said}");
        Ok(())
    }

    #[test]
    fn a_run_killed_half_way_ends_with_the_same_bytes() -> Result<()> {
        let store = Store::new()?;
        let context = store.context("pretrain", "undisturbed", &INPUTS, &[])?;
        Pretrain::run(parameters(&json!({}))?, &context)?;
        let context = store.context("pretrain", "killed", &INPUTS, &[])?;
        let mut first = Run::start(parameters(&json!({}))?, &context)?;
        for _ in 0..4 {
            first.advance()?;
        }
        first.checkpoint()?;
        drop(first);
        let context = store.context("pretrain", "killed", &INPUTS, &[])?;
        Pretrain::run(parameters(&json!({}))?, &context)?;
        assert_eq!(store.written("undisturbed")?, store.written("killed")?);
        Ok(())
    }

    #[test]
    fn a_table_of_texts_is_cut_into_rows_and_a_table_of_pairs_is_rendered() -> Result<()> {
        let store = Store::new()?;
        let codec = Codec::load(&store.artifact("model"))?;
        let texts = |rows: [Option<&str>; 2]| Arc::new(StringArray::from(rows.to_vec())) as ArrayRef;
        let rows = table::batch(vec![
            ("prompt", texts([None, Some("hi")])),
            ("response", texts([None, Some("ho")])),
            ("text", texts([Some("abcdefgh"), None])),
        ])?;
        table::write(&store.artifact("pool").join("pretraining.parquet"), &rows)?;
        let context = store.context("pretrain", "run", &INPUTS, &[])?;
        let rows = read_rows(&codec, &parameters(&json!({"max_tokens": 5}))?, &context)?;
        assert_eq!(rows[0], whole(&codec.encode("abcde")?));
        assert_eq!(rows[1], whole(&codec.encode("fgh")?));
        assert!(read_rows(&codec, &parameters(&json!({"loss": "response"}))?, &context).is_err());
        Ok(())
    }
}
