//! Runs a stage of kind `pretrain`: next-token training of all weights of a small model, on text or on instructions in
//! random order.

use arrow_array::{Array, StringArray};
use serde_json::json;

use crate::encoding::{EncodingReport, encode_pool};
use crate::learning::{account_costs, check_context, checkpoints, codec, device, open_to_train, phase_cost, speed};
use crate::tables::{self, Of, TrainingStepRow};
use raisin_base::error::{Problem, Result, ensure};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Progress};
use raisin_corpus::{Codec, Instruction, Sequence, message::conversation, read_instructions};
use raisin_kinds::pretrain::{Parameters, Supervised};
use raisin_lm::Adaptation;
use raisin_table::{self as table, WriteTable as _};
use raisin_training::{Checkpoints, Meter, Trainer, TrainerConfig};

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut run = Pretraining::start(parameters, context)?;
    while run.advance()? {}
    run.finish()
}

/// A pre-training run between two steps.
struct Pretraining<'a> {
    context: &'a Context,
    parameters: Parameters,
    trainer: Trainer,
    rows: Vec<Sequence>,
    encoding: EncodingReport,
    order: RowOrder,
    steps: Vec<TrainingStepRow>,
    checkpoints: Checkpoints,
}

impl<'a> Pretraining<'a> {
    fn start(parameters: Parameters, context: &'a Context) -> Result<Self> {
        let loading = Meter::start(device(context)?);
        let folder = context.input("/model")?;
        let (rows, encoding) = read_rows(&codec(folder)?, &parameters, context)?;
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
        let checkpoints = checkpoints(context)?;
        let restored = trainer.restore(&checkpoints.path, &|text| context.note(text), |rows| {
            Ok(serde_json::from_slice::<Vec<TrainingStepRow>>(rows)?)
        })?;
        let steps = restored.unwrap_or_default();
        if !steps.is_empty() {
            context.note(format!("continues after step {}", steps.len()));
        }
        context.cost(phase_cost("load", loading.stop()));
        let order = RowOrder::new(rows.len(), context.seed().at("order"));
        context.note(format!(
            "{} steps of {} rows out of {}, {} parameters",
            parameters.steps,
            parameters.batch_size,
            rows.len(),
            trainer.model.parameter_count()
        ));
        Ok(Self { context, parameters, trainer, rows, encoding, order, steps, checkpoints })
    }

    /// Trains one step. Returns false if all steps are done.
    fn advance(&mut self) -> Result<bool> {
        let step = self.trainer.steps_done();
        if step >= self.parameters.steps {
            return Ok(false);
        }
        let size = self.parameters.batch_size;
        let batch: Vec<&Sequence> =
            (step * size..(step + 1) * size).map(|draw| &self.rows[self.order.at(draw)]).collect();
        let outcome = self.trainer.step(&batch, None)?;
        self.steps.push(TrainingStepRow::of_run(step as u32 + 1, &outcome));
        let train = self.trainer.account().train;
        self.context.progress(Progress {
            phase: "pretraining".to_owned(),
            done: step as u64 + 1,
            total: self.parameters.steps as u64,
            unit: "steps".to_owned(),
            tokens_per_second: speed(train.tokens, train.time),
            detail: format!("loss {:.3}", outcome.loss),
        });
        self.context.measured("steps", step as u64 + 1, [("loss", Some(outcome.loss))]);
        if self.checkpoints.due() {
            self.checkpoint()?;
        }
        Ok(true)
    }

    fn checkpoint(&mut self) -> Result<()> {
        let steps = serde_json::to_vec(&self.steps)?;
        self.checkpoints.write(|path| self.trainer.save(path, &steps))
    }

    fn finish(self) -> Result<()> {
        let Self { context, parameters, trainer, steps, encoding, .. } = self;
        trainer.model.save(&context.out())?;
        encoding.write(context)?;
        context.write_table("steps", &tables::steps(&steps, Of::Run)?)?;
        let sum = |of: fn(&TrainingStepRow) -> u64| steps.iter().map(of).sum::<u64>();
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
        // The account has the steps of this process only.
        let account = trainer.account();
        account_costs(&account, trainer.flops(account.train.tokens as usize, false), context);
        Ok(())
    }
}

/// An endless sequence of rows. Each pass over the rows has a random order of its own.
struct RowOrder {
    rows: usize,
    seed: Seed,
    /// The number and the order of the current pass.
    pass: Option<(usize, Vec<usize>)>,
}

impl RowOrder {
    fn new(rows: usize, seed: Seed) -> Self {
        Self { rows, seed, pass: None }
    }

    /// The row of a draw. Draws count from 0.
    fn at(&mut self, draw: usize) -> usize {
        let number = draw / self.rows;
        if self.pass.as_ref().is_none_or(|(current, _)| *current != number) {
            self.pass = None;
        }
        let (_, order) = self.pass.get_or_insert_with(|| (number, self.seed.at(number).rng().order(self.rows)));
        order[draw % self.rows]
    }
}

/// The rows to train on. Plain text is divided into rows of `max_tokens`.
fn read_rows(codec: &Codec, parameters: &Parameters, context: &Context) -> Result<(Vec<Sequence>, EncodingReport)> {
    let artifact = context.input("/text")?;
    let texts = artifact.join("pretraining.parquet");
    let mut rows = Vec::new();
    let mut encoding = EncodingReport::new(parameters.sequence_limit());
    let encoded = if texts.is_file() {
        let texts = table::read(&texts)?;
        let pairs = match (texts.column_by_name("prompt"), texts.column_by_name("response")) {
            (Some(_), Some(_)) => Some((
                table::column::<StringArray>(&texts, "prompt")?,
                table::column::<StringArray>(&texts, "response")?,
            )),
            _ => None,
        };
        let (mut instructions, mut empty) = (Vec::new(), 0);
        for row in 0..texts.num_rows() {
            match pairs {
                Some((prompts, responses)) if prompts.is_valid(row) && responses.is_valid(row) => {
                    let messages = conversation(None, prompts.value(row), Some(responses.value(row)));
                    instructions.push(Instruction::new(row as u32, messages));
                }
                _ => {
                    let text: &StringArray = table::column(&texts, "text")?;
                    ensure!(text.is_valid(row), "row {row} of the table `pretraining` has no text");
                    ensure!(
                        parameters.loss == Supervised::All,
                        "row {row} of the table `pretraining` is plain text without a response: set loss = \"all\""
                    );
                    let tokens = codec.encode(text.value(row))?;
                    empty += usize::from(tokens.is_empty());
                    rows.extend(tokens.chunks(parameters.max_tokens).map(whole));
                }
            }
        }
        if empty > 0 {
            context.note(format!("{empty} of {} texts are empty: left out", texts.num_rows()));
        }
        let encoded = codec.instructions(&instructions, parameters.max_tokens);
        encoding.instructions(None, &instructions, encoded)?
    } else {
        let instructions = read_instructions(artifact)?;
        let encoded = encode_pool(codec, &instructions, parameters.max_tokens, context, "/text")?;
        encoding.instructions(Some(artifact), &instructions, encoded)?
    };
    encoding.tell(codec, context);
    rows.extend(encoded.rows.into_iter().flatten());
    if parameters.loss == Supervised::All {
        rows = rows.into_iter().map(|row| whole(&row.tokens)).collect();
    }
    let count = rows.len();
    rows.retain(|row| row.tokens.len() > 1);
    if rows.len() < count {
        context.note(format!(
            "{} of {count} rows have a single token, from which nothing is learned: left out",
            count - rows.len()
        ));
    }
    if rows.is_empty() {
        let problem = format!("the stage `{}` has no row with a supervised token", parameters.text);
        return Err(Problem::new(problem).hint("if the prompts are longer than max_tokens, raise max_tokens").into());
    }
    Ok((rows, encoding))
}

/// A sequence in which all tokens except the first are supervised.
fn whole(tokens: &[u32]) -> Sequence {
    Sequence { tokens: tokens.to_vec(), supervised: (0..tokens.len()).map(|position| position > 0).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::TensorFixture;
    use arrow_array::{ArrayRef, Float64Array};
    use raisin_table::column;
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
        let store = TensorFixture::new()?;
        let context = store.context("pretrain", "run", &INPUTS, &[])?;
        run(parameters(&json!({"steps": 20}))?, &context)?;
        context.check_outputs()?;
        let steps = store.table("run", "steps")?;
        let losses: &Float64Array = column(&steps, "loss")?;
        assert!(losses.value(19) < losses.value(0) - 0.5, "{} -> {}", losses.value(0), losses.value(19));
        store.keep("run", "pretrained")?;
        raisin_lm::Model::load(&store.artifact("pretrained"), tch::Device::Cpu, tch::Kind::Float)?;
        Codec::load(&store.artifact("pretrained"))?;
        Ok(())
    }

    #[test]
    fn rows_longer_than_the_context_are_an_error_before_the_first_step() -> Result<()> {
        let store = TensorFixture::new()?;
        store.shorten_context(20)?;
        let context = store.context("pretrain", "run", &INPUTS, &[])?;
        let said =
            raisin_base::error::render(&Pretraining::start(parameters(&json!({}))?, &context).err().expect("too long"));
        assert!(said.contains("max_tokens is 1024") && said.contains("the model's context of 20"), "{said}");
        assert!(said.contains("hint: set max_tokens = 20 or less"), "{said}");
        Ok(())
    }

    #[test]
    fn a_run_killed_half_way_ends_with_the_same_bytes() -> Result<()> {
        let store = TensorFixture::new()?;
        let context = store.context("pretrain", "undisturbed", &INPUTS, &[])?;
        run(parameters(&json!({}))?, &context)?;
        let context = store.context("pretrain", "killed", &INPUTS, &[])?;
        let mut first = Pretraining::start(parameters(&json!({}))?, &context)?;
        for _ in 0..4 {
            first.advance()?;
        }
        first.checkpoint()?;
        drop(first);
        let context = store.context("pretrain", "killed", &INPUTS, &[])?;
        run(parameters(&json!({}))?, &context)?;
        assert_eq!(store.written("undisturbed")?, store.written("killed")?);
        Ok(())
    }

    #[test]
    fn a_damaged_checkpoint_is_not_used_and_the_run_ends_with_the_same_bytes() -> Result<()> {
        let store = TensorFixture::new()?;
        let steps = json!({"steps": 3});
        let context = store.context("pretrain", "run", &INPUTS, &[])?;
        let mut undisturbed = Pretraining::start(parameters(&steps)?, &context)?;
        undisturbed.advance()?;
        undisturbed.checkpoint()?;
        while undisturbed.advance()? {}
        undisturbed.finish()?;
        store.run_on_damaged_work("pretrain", "run", &INPUTS, 25, |context| run(parameters(&steps)?, context))
    }

    #[test]
    fn the_account_of_a_continued_run_has_only_the_steps_of_its_process() -> Result<()> {
        let store = TensorFixture::new()?;
        let context = store.context("pretrain", "run", &INPUTS, &[])?;
        let mut first = Pretraining::start(parameters(&json!({}))?, &context)?;
        for _ in 0..6 {
            first.advance()?;
        }
        first.checkpoint()?;
        drop(first);
        let mut second = Pretraining::start(parameters(&json!({}))?, &context)?;
        while second.advance()? {}
        let account = second.trainer.account();
        assert_eq!(account.train.tokens, second.steps[6..].iter().map(|row| row.tokens).sum::<u64>());
        assert!(account.train.time >= account.phases.forward.time && !account.phases.forward.time.is_zero());
        Ok(())
    }

    #[test]
    fn an_impossible_number_is_an_error_at_its_parameter() -> Result<()> {
        use raisin_contract::Kind as _;
        use raisin_kinds::pretrain::PretrainKind;
        for (key, value) in [
            ("steps", json!(0)),
            ("batch_size", json!(0)),
            ("micro_batch_tokens", json!(0)),
            ("max_tokens", json!(1)),
            ("learning_rate", json!(-0.1)),
            ("weight_decay", json!(-1.0)),
            ("warmup", json!(1.0)),
        ] {
            let problem = PretrainKind::check(&parameters(&json!({key: value}))?).expect_err("impossible");
            assert_eq!(problem.pointer, format!("/{key}"));
        }
        let mut spoilt = parameters(&json!({}))?;
        spoilt.learning_rate = f64::NAN;
        assert_eq!(PretrainKind::check(&spoilt).expect_err("NaN").pointer, "/learning_rate");
        Ok(())
    }

    #[test]
    fn a_table_of_texts_is_cut_into_rows_and_a_table_of_pairs_is_rendered() -> Result<()> {
        let store = TensorFixture::new()?;
        let codec = Codec::load(&store.artifact("model"))?;
        let texts = |rows: [Option<&str>; 2]| Arc::new(StringArray::from(rows.to_vec())) as ArrayRef;
        let rows = table::batch(vec![
            ("prompt", texts([None, Some("hi")])),
            ("response", texts([None, Some("ho")])),
            ("text", texts([Some("abcdefgh"), None])),
        ])?;
        table::write(&store.artifact("pool").join("pretraining.parquet"), &rows)?;
        let context = store.context("pretrain", "run", &INPUTS, &[])?;
        let (rows, _) = read_rows(&codec, &parameters(&json!({"max_tokens": 5}))?, &context)?;
        assert_eq!(rows[0], whole(&codec.encode("abcde")?));
        assert_eq!(rows[1], whole(&codec.encode("fgh")?));
        assert!(read_rows(&codec, &parameters(&json!({"loss": "response"}))?, &context).is_err());
        Ok(())
    }
}
