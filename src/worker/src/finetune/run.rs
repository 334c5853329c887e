//! The one loop of `finetune`: choose, train, measure, keep; and its checkpoints. Leaves parameters to the parent.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::learning::{
    Learning, Settings, account_costs, as_instruction, cost, device, phase_cost, shown_performance, training_speed,
};
use crate::selecting::{candidate_columns, candidates, read_scores, selected};
use crate::tables::{self, Of, SelectionRow, TrainingStepRow, optional_bits};
use raisin_base::error::{Problem, Result, anyhow, ensure};
use raisin_contract::{Context, Progress};
use raisin_corpus::{Instruction, read_instructions, read_task};
use raisin_kinds::finetune::{Parameters, step_counts, uses_features};
use raisin_lm::Adaptation;
use raisin_selector::{Chooser, ChooserInputs, Policy, Raise, SelectionMethod, StepContext, chooser};
use raisin_table::WriteTable as _;
use raisin_training::{Checkpoints, CostCounter, Meter, Trainer, TrainerConfig, TrainingPool, ValidationSet};

const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

/// A fine-tuning run between two steps.
pub struct Finetuning<'a> {
    context: &'a Context,
    parameters: Parameters,
    adaptation: Adaptation,
    instructions: Vec<Instruction>,
    pool: TrainingPool,
    pub(super) validation: ValidationSet,
    trainer: Trainer,
    chooser: Box<dyn Chooser>,
    steps: usize,
    full_steps: usize,
    kept: Kept,
    /// How often each instruction was chosen.
    times: Vec<u32>,
    checkpoints: Checkpoints,
    selection_time: Duration,
}

/// What a checkpoint keeps beside the tensors.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    rows: Vec<TrainingStepRow>,
    selection: Vec<SelectionRow>,
    /// P(M_0), where it was measured.
    #[serde(with = "optional_bits")]
    base_performance: Option<f64>,
    /// P of the model as it is, where it was measured.
    #[serde(with = "optional_bits")]
    performance: Option<f64>,
    evaluations: u64,
    chooser: Value,
    /// See [`ValidationSet::too_many`].
    too_many: usize,
}

impl<'a> Finetuning<'a> {
    pub fn start(parameters: Parameters, context: &'a Context) -> Result<Self> {
        let loading = Meter::start(device(context)?);
        let folder = context.input("/model")?;
        let task = read_task(context.input("/task")?)?;
        let instructions = match parameters.select.method {
            SelectionMethod::Validation if folder.join("proxy.json").is_file() => {
                let problem =
                    Problem::new("a proxy keeps states of the pool's rows, and cannot train on validation examples");
                return Err(problem.hint("the base itself as `model`").into());
            }
            SelectionMethod::Validation => {
                let numbered = task.validation.iter().map(as_instruction).zip(0..);
                numbered.map(|(instruction, id)| Instruction { id, ..instruction }).collect()
            }
            _ => read_instructions(context.input("/instructions")?)?,
        };
        let settings = Settings {
            instructions: (parameters.select.method != SelectionMethod::Validation).then_some("/instructions"),
            adaptation: &parameters.adaptation,
            max_tokens: parameters.max_tokens,
            batch_tokens: parameters.micro_batch_tokens,
            episodes: 1,
        };
        let Learning { mut model, adaptation, seed, pool, validation } =
            Learning::start(folder, context, &instructions, &task.validation, &settings)?;
        model.prepare(&adaptation, &seed)?;
        let rows = pool.trainable().len();
        if rows < parameters.batch_size {
            let problem = format!("a batch of {} needs more than the {rows} trainable rows", parameters.batch_size);
            return Err(Problem::new(problem).hint("a larger pool, a smaller batch_size, or more max_tokens").into());
        }
        let (full_steps, steps) = step_counts(&parameters, rows);
        let mut chooser = open_chooser(&parameters, context, &instructions, &pool, steps)?;
        for (reason, count) in chooser.excluded() {
            context.note(format!("{count} of {rows} candidates cannot be chosen: {reason}"));
        }
        let config = TrainerConfig {
            learning_rate: parameters.learning_rate,
            schedule: parameters.schedule,
            warmup: parameters.warmup,
            total_steps: steps,
            weight_decay: parameters.weight_decay,
            micro_batch_tokens: parameters.micro_batch_tokens,
            activation_checkpointing: parameters.activation_checkpointing,
            ..TrainerConfig::default()
        };
        let mut trainer = Trainer::new(model, config, pool.prefix_layers())?;
        let checkpoints = Checkpoints::every(CHECKPOINT_INTERVAL, context.work()?.join("checkpoint"));
        // The work folder is the action's, so that a checkpoint in it is of this very run.
        let mut is_chooser_touched = false;
        let tell = |text: &str| context.note(text);
        let kept = trainer.restore(&checkpoints.path, &tell, |kept| {
            let kept: Kept = serde_json::from_slice(kept)?;
            ensure!(kept.selection.iter().all(|row| (row.id as usize) < instructions.len()), "it is of another pool");
            is_chooser_touched = true;
            chooser.restore(&kept.chooser)?;
            Ok(kept)
        })?;
        if kept.is_none() && is_chooser_touched {
            chooser = open_chooser(&parameters, context, &instructions, &pool, steps)?;
        }
        if let Some(kept) = &kept {
            validation.set_too_many(kept.too_many);
        }
        let kept = kept.unwrap_or_default();
        let mut times = vec![0; instructions.len()];
        kept.selection.iter().for_each(|row| times[row.id as usize] += 1);
        let place =
            if kept.rows.is_empty() { String::new() } else { format!("; goes on after step {}", kept.rows.len()) };
        context.note(format!(
            "{}: {steps} steps of {} (three epochs of the pool are {full_steps}), {} trained parameters{place}",
            parameters.select.method.name(),
            parameters.batch_size,
            trainer.model.trainable().count(),
        ));
        context.cost(phase_cost("load", loading.stop()));
        Ok(Self {
            context,
            parameters,
            adaptation,
            instructions,
            pool,
            validation,
            trainer,
            chooser,
            steps,
            full_steps,
            kept,
            times,
            checkpoints,
            selection_time: Duration::ZERO,
        })
    }

    /// One step; false when all are done.
    pub fn advance(&mut self) -> Result<bool> {
        let step = self.trainer.steps_done();
        if step >= self.steps {
            return Ok(false);
        }
        if step == 0 && (self.chooser.wants_performance() || self.parameters.evaluate_every > 0) {
            let performance = self.evaluate()?;
            (self.kept.base_performance, self.kept.performance) = (Some(performance), Some(performance));
        }
        let choosing = Instant::now();
        let before = self.kept.performance;
        let moment = StepContext { step, total_steps: self.steps, performance: before };
        let choices = self.chooser.choose(&moment)?;
        self.selection_time += choosing.elapsed();
        let number = step as u32 + 1;
        self.kept.selection.extend(selected(number, &choices, &mut self.times));

        let ids: Vec<u32> = choices.iter().map(|choice| choice.id).collect();
        let (sequences, states) = self.pool.rows(&ids)?;
        let outcome = self.trainer.step(&sequences, states.as_deref())?;

        let performance = if self.measures_after(step + 1) { Some(self.evaluate()?) } else { None };
        self.kept.performance = performance;
        let reward = performance.zip(before).map(|(after, before)| after - before);
        self.kept.rows.push(TrainingStepRow { performance, reward, ..TrainingStepRow::of_run(number, &outcome) });
        self.context.progress(Progress {
            phase: format!("training ({})", self.parameters.select.method.name()),
            done: u64::from(number),
            total: self.steps as u64,
            unit: "steps".to_owned(),
            tokens_per_second: Some(training_speed(&self.trainer.account())),
            detail: format!("loss {:.3}{}", outcome.loss, shown_performance(performance)),
        });
        if self.checkpoints.due() && step + 1 < self.steps {
            self.checkpoint()?;
        }
        Ok(true)
    }

    /// Whether P is measured after so many steps: as often as asked for, when the method looks at it, at the end.
    fn measures_after(&self, steps: usize) -> bool {
        let every = self.parameters.evaluate_every;
        steps == self.steps || self.chooser.wants_performance() || (every > 0 && steps.is_multiple_of(every))
    }

    /// P, minus the validation loss.
    fn evaluate(&mut self) -> Result<f64> {
        let performances = self.trainer.performances(&self.validation)?;
        let performance = *performances.first().ok_or_else(|| anyhow!("a model without a lane"))?;
        self.kept.evaluations += 1;
        if !performance.is_finite() {
            let (loss, steps) = (-performance, self.trainer.steps_done());
            let problem = format!("the validation loss became {loss} after {steps} steps");
            return Err(Problem::new(problem)
                .hint("a lower learning_rate, or a warm-up, keeps training stable")
                .into());
        }
        Ok(performance)
    }

    pub fn checkpoint(&mut self) -> Result<()> {
        (self.kept.chooser, self.kept.too_many) = (self.chooser.state(), self.validation.too_many());
        let kept = serde_json::to_vec(&self.kept)?;
        self.checkpoints.write(|path| self.trainer.save(path, &kept))
    }

    /// For a test of a long run: its last selection so many times more.
    #[cfg(test)]
    pub fn select_again(&mut self, times: usize) {
        if let Some(last) = self.kept.selection.last().copied() {
            self.kept.selection.extend(std::iter::repeat_n(last, times));
        }
    }

    #[cfg(test)]
    pub fn selections(&self) -> usize {
        self.kept.selection.len()
    }

    pub fn finish(self) -> Result<()> {
        let Self { context, parameters, trainer, kept, .. } = &self;
        let has_adapter = self.adaptation.has_adapters();
        let (model, out, base) = (&trainer.model, context.out(), context.input("/model")?);
        if has_adapter && !parameters.merge {
            model.save_adapter(&out)?;
            context.add_reference("base", base)?;
        } else if has_adapter {
            model.save_merged(&out)?;
        } else {
            model.save(&out)?;
        }
        context.write_table("steps", &tables::steps(&kept.rows, Of::Run)?)?;
        context.write_table("selection", &tables::selection(&kept.selection, &self.instructions, Of::Run)?)?;
        context.write_json("summary.json", &self.summary())?;
        let account = trainer.account();
        account_costs(&account, trainer.flops(account.train.tokens as usize, false), context);
        let selection = CostCounter { time: self.selection_time, ..CostCounter::default() };
        context.cost(cost("selection", &selection));
        Ok(())
    }

    fn summary(&self) -> Value {
        let rows = &self.kept.rows;
        let evaluated_tokens = self.kept.evaluations as usize * self.validation.tokens();
        json!({
            "method": self.parameters.select.method.name(),
            "steps": self.steps,
            "full_steps": self.full_steps,
            "batch_size": self.parameters.batch_size,
            "tokens": rows.iter().map(|row| row.tokens).sum::<u64>(),
            "supervised_tokens": rows.iter().map(|row| row.supervised_tokens).sum::<u64>(),
            "flops": rows.iter().map(|row| row.flops).sum::<f64>(),
            "evaluations": self.kept.evaluations,
            "evaluation_flops": self.trainer.flops(evaluated_tokens, false),
            "base_performance": self.kept.base_performance,
            "performance": self.kept.performance,
            "trained_parameters": self.trainer.model.trainable().count(),
            "seed": self.context.pipeline_seed(),
        })
    }
}

/// The method's chooser, over the rows that can be trained on.
fn open_chooser(
    parameters: &Parameters,
    context: &Context,
    instructions: &[Instruction],
    pool: &TrainingPool,
    total_steps: usize,
) -> Result<Box<dyn Chooser>> {
    let select = &parameters.select;
    let seed = context.seed().at("select");
    let features = match &parameters.features {
        Some(_) if uses_features(select.method) => Some(context.input("/features")?),
        _ => None,
    };
    if let (SelectionMethod::Raise, Some(features)) = (select.method, features) {
        let policy = Policy::load(context.input("/select/policy")?)?;
        let candidates = candidates(features, pool)?;
        return Ok(Box::new(Raise::new(policy, candidates, parameters.batch_size, seed)?));
    }
    let scores = match select.method {
        SelectionMethod::Scores => read_scores(
            context.file("/select/path")?,
            &select.column,
            context.input("/instructions")?,
            instructions.len(),
        )?,
        _ => Vec::new(),
    };
    let columns = candidate_columns(select.method, instructions, pool, features, scores)?;
    let inputs =
        ChooserInputs { pool: &columns, batch_size: parameters.batch_size, total_steps, seed, third: select.third };
    chooser(select.method, &inputs)
}
