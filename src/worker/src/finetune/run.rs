//! A fine-tuning run: in each step choose a batch, train, and measure P if asked for. The run writes checkpoints.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::gradients::PoolGradients;
use crate::encoding::EncodingReport;
use crate::learning::{
    Learning, Settings, account_costs, as_instruction, checkpoints, conditions, device, phase_cost, shown_performance,
    speed,
};
use crate::passes::{distinct, passes_before, passes_of_policy};
use crate::selecting::{candidate_columns, candidates, read_scores, scores_of_stage, selected, state_column};
use crate::tables::{self, Excerpts, Of, SelectionRow, TrainingStepRow, optional_bits};
use raisin_base::error::{Problem, Result, anyhow, ensure};
use raisin_contract::{Context, Progress, referenced};
use raisin_corpus::set::read_weights;
use raisin_corpus::{Instruction, Task, read_instructions, read_task};
use raisin_kinds::finetune::{Parameters, step_counts, uses_features};
use raisin_lm::Adaptation;
use raisin_selector::policy::Constants;
use raisin_selector::{
    Chooser, ChooserInputs, Conditions, Policy, Raise, SelectedCandidate, SelectionMethod, StepContext, chooser,
};
use raisin_table::WriteTable as _;
use raisin_training::{Checkpoints, Meter, PhaseUse, Trainer, TrainerConfig, TrainingPool, ValidationSet};

/// A fine-tuning run between two steps.
pub struct Finetuning<'a> {
    context: &'a Context,
    parameters: Parameters,
    adaptation: Adaptation,
    instructions: Excerpts,
    pool: TrainingPool,
    /// The validation examples, if the method uses their gradients.
    examples: Option<TrainingPool>,
    pub(super) validation: ValidationSet,
    trainer: Trainer,
    chooser: Box<dyn Chooser>,
    steps: usize,
    full_steps: usize,
    kept: Kept,
    /// How often each instruction was chosen so far, by id.
    times: Vec<u32>,
    checkpoints: Checkpoints,
    selection_time: Duration,
    encoding: EncodingReport,
}

/// The part of a checkpoint that is not tensors.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    rows: Vec<TrainingStepRow>,
    selection: Vec<SelectionRow>,
    /// P(M_0), if it was measured.
    #[serde(with = "optional_bits")]
    base_performance: Option<f64>,
    /// P of the current model, if it was measured.
    #[serde(with = "optional_bits")]
    performance: Option<f64>,
    evaluations: u64,
    chooser: Value,
    /// The tokens of the rows whose gradients the method has used.
    #[serde(default)]
    gradient_tokens: u64,
    /// See [`ValidationSet::too_many`].
    too_many: usize,
}

impl<'a> Finetuning<'a> {
    pub fn start(parameters: Parameters, context: &'a Context) -> Result<Self> {
        let loading = Meter::start(device(context)?);
        let folder = context.input("/model")?;
        let task = read_task(context.input("/task")?)?;
        let instructions = rows_to_train_on(parameters.select.method, &task, context)?;
        let settings = Settings {
            instructions: (parameters.select.method != SelectionMethod::Validation).then_some("/instructions"),
            adaptation: &parameters.adaptation,
            limit: parameters.sequence_limit(),
            batch_tokens: parameters.micro_batch_tokens,
            episodes: 1,
        };
        let Learning { mut model, adaptation, seed, pool, validation, examples, encoding, .. } =
            Learning::start(folder, context, &instructions, &task.validation, &settings)?;
        let instructions = Excerpts::of(instructions);
        // The hidden states of a proxy belong to the rows of the pool; those of the examples are in `examples`.
        let is_validation = parameters.select.method == SelectionMethod::Validation;
        let (pool, examples) =
            if is_validation && pool.prefix_layers().is_some() { (examples, None) } else { (pool, Some(examples)) };
        model.prepare(&adaptation, &seed)?;
        let rows = pool.trainable().len();
        if rows < parameters.batch_size {
            let problem = format!("a batch of {} needs more than the {rows} trainable rows", parameters.batch_size);
            let hint = "take a larger pool, lower batch_size, or raise max_tokens";
            return Err(Problem::new(problem).hint(hint).into());
        }
        let (full_steps, steps) = step_counts(&parameters, rows);
        note_unused_budget(&parameters, context);
        if parameters.select.method == SelectionMethod::Raise {
            let here = conditions(&encoding, &model, &pool, steps, parameters.batch_size);
            note_other_conditions(&here, context)?;
        }
        if let Some(top) = parameters.select.top.filter(|top| *top > rows) {
            context.note(format!("top = {top} takes all rows, because only {rows} rows are trainable"));
        }
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
        // A work folder belongs to one action, so that its checkpoint belongs to this run.
        let checkpoints = checkpoints(context)?;
        let mut is_chooser_touched = false;
        let tell = |text: &str| context.note(text);
        let kept = trainer.restore(&checkpoints.path, &tell, |kept| {
            let kept: Kept = serde_json::from_slice(kept)?;
            ensure!(
                kept.selection.iter().all(|row| (row.id as usize) < instructions.len()),
                "the checkpoint belongs to another pool"
            );
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
            if kept.rows.is_empty() { String::new() } else { format!("; continues after step {}", kept.rows.len()) };
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
            examples: examples.filter(|_| chooser.wants_gradients()),
            validation,
            trainer,
            chooser,
            steps,
            full_steps,
            kept,
            times,
            checkpoints,
            selection_time: Duration::ZERO,
            encoding,
        })
    }

    /// Trains one step. Returns false if all steps are done.
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
        let last_loss = self.kept.rows.last().map(|row| row.loss);
        let place = StepContext { step, total_steps: self.steps, performance: before, last_loss };
        let choices = self.choose(&place)?;
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
        let train = self.trainer.account().train;
        self.context.progress(Progress {
            phase: format!("training ({})", self.parameters.select.method.name()),
            done: u64::from(number),
            total: self.steps as u64,
            unit: "steps".to_owned(),
            tokens_per_second: speed(train.tokens, train.time),
            detail: format!("loss {:.3}{}", outcome.loss, shown_performance(performance)),
        });
        let values = [("loss", Some(outcome.loss)), ("performance", performance)];
        self.context.measured("steps", u64::from(number), values);
        if self.checkpoints.due() && step + 1 < self.steps {
            self.checkpoint()?;
        }
        Ok(true)
    }

    fn choose(&mut self, place: &StepContext) -> Result<Vec<SelectedCandidate>> {
        let Some(examples) = &self.examples else { return self.chooser.choose(place) };
        let mut gradients = PoolGradients {
            trainer: &mut self.trainer,
            pool: &self.pool,
            examples,
            batch_size: self.parameters.batch_size,
            seed: self.context.seed().at("examples"),
            memory: self.context.memory(),
            tokens: 0,
        };
        let choices = self.chooser.choose_by_gradients(place, &mut gradients)?;
        self.kept.gradient_tokens += gradients.tokens as u64;
        Ok(choices)
    }

    /// Whether P is measured after this number of steps: every `evaluate_every` steps, at the end, and every
    /// `performance_every` steps if the method uses P.
    fn measures_after(&self, steps: usize) -> bool {
        let (every, for_method) = (self.parameters.evaluate_every, self.parameters.select.performance_every);
        steps == self.steps
            || (every > 0 && steps.is_multiple_of(every))
            || (self.chooser.wants_performance() && steps.is_multiple_of(for_method))
    }

    /// Measures P, which is minus the validation loss.
    ///
    /// # Errors
    /// P is not a finite number.
    fn evaluate(&mut self) -> Result<f64> {
        let performances = self.trainer.performances(&self.validation)?;
        let performance = *performances.first().ok_or_else(|| anyhow!("the trainer has no episode"))?;
        self.kept.evaluations += 1;
        if !performance.is_finite() {
            let (loss, steps) = (-performance, self.trainer.steps_done());
            let problem = format!("the validation loss became {loss} after {steps} steps");
            return Err(Problem::new(problem).hint("lower learning_rate, or set warmup").into());
        }
        Ok(performance)
    }

    pub fn checkpoint(&mut self) -> Result<()> {
        (self.kept.chooser, self.kept.too_many) = (self.chooser.state(), self.validation.too_many());
        let kept = serde_json::to_vec(&self.kept)?;
        self.checkpoints.write(|path| self.trainer.save(path, &kept))
    }

    /// Repeats the last selection this number of times, for the test of a large checkpoint.
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
        self.chooser.notes().into_iter().for_each(|note| context.note(note));
        let has_adapter = self.adaptation.has_adapters();
        let (model, out, base) = (&trainer.model, context.out(), context.input("/model")?);
        if has_adapter && !parameters.merge {
            let for_peft = base_for_peft(base)?;
            if for_peft.is_none() {
                let note = "the base of this adapter is an adapter itself, so peft cannot load this adapter by its folder \
                            alone; with `merge = true`, the result is a whole model";
                context.note(note);
            }
            model.save_adapter(&out, for_peft.as_deref())?;
            context.add_reference("base", base)?;
        } else if has_adapter {
            model.save_merged(&out)?;
        } else {
            model.save(&out)?;
        }
        context.write_table("steps", &tables::steps(&kept.rows, Of::Run)?)?;
        context.write_table("selection", &tables::selection(&kept.selection, &self.instructions, Of::Run)?)?;
        self.encoding.write(context)?;
        context.write_json("summary.json", &self.summary()?)?;
        let account = trainer.account();
        account_costs(&account, trainer.flops(account.train.tokens as usize, false), context);
        context.cost(phase_cost("selection", PhaseUse { time: self.selection_time, ..PhaseUse::default() }));
        Ok(())
    }

    fn summary(&self) -> Result<Value> {
        let rows = &self.kept.rows;
        let evaluated_tokens = self.kept.evaluations as usize * self.validation.tokens();
        let mut summary = json!({
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
        });
        if self.chooser.wants_gradients() {
            let tokens = self.kept.gradient_tokens;
            summary["selection_tokens"] = json!(tokens);
            summary["selection_flops"] = json!(self.trainer.flops(tokens as usize, true));
        }
        if self.parameters.select.method != SelectionMethod::Validation {
            // Three epochs of the pool.
            let lengths = self.pool.trainable().into_iter().filter_map(|id| self.pool.get(id));
            let tokens: usize = lengths.map(|sequence| sequence.tokens.len()).sum();
            summary["full_flops"] = json!(self.trainer.flops(3 * tokens, true));
        }
        summary["passes"] = json!(self.passes()?);
        Ok(summary)
    }

    /// What was computed before the first step, for this method.
    fn passes(&self) -> Result<Vec<Value>> {
        let (context, method) = (self.context, self.parameters.select.method);
        let features = match &self.parameters.features {
            Some(_) if uses_features(method) => Some(context.input("/features")?),
            _ => None,
        };
        let column = method.state_column(&self.parameters.select.column);
        // The columns that joined the state cost only the methods that read them. A policy reads the whole state.
        let reads_all = method == SelectionMethod::Raise;
        let is_used =
            |name: &str| reads_all || name == "features" || column.is_some_and(|column| column.starts_with(name));
        let mut passes = passes_before(features, context.input("/model")?, is_used)?;
        if method == SelectionMethod::Raise {
            passes.extend(passes_of_policy(context.input("/select/policy")?)?);
        }
        Ok(distinct(passes))
    }
}

/// What PEFT gets as the path of the base model: the artifact of the base in the default cache, relative to the folder in
/// which raisin is started. The path has no folder of this machine, and the digest in the path names the very bytes of
/// the base. `None` if the base is an adapter, on which PEFT puts no second adapter.
fn base_for_peft(base: &Path) -> Result<Option<String>> {
    let mut base = base.to_owned();
    // A proxy has no weights of its own.
    while base.join("proxy.json").is_file() {
        base = referenced(&base, "base")?.ok_or_else(|| anyhow!("{} does not name its base model", base.display()))?;
    }
    if base.join("adapter_config.json").is_file() {
        return Ok(None);
    }
    let digest = base.file_name().ok_or_else(|| anyhow!("{} has no name", base.display()))?;
    Ok(Some(format!("cache/artifacts/{}", digest.to_string_lossy())))
}

/// Says in which conditions the training of the policy differs from this stage.
fn note_other_conditions(here: &Conditions, context: &Context) -> Result<()> {
    let constants = Constants::load(context.input("/select/policy")?)?;
    match constants.conditions {
        Some(trained) => trained.differences(here).into_iter().for_each(|note| context.note(note)),
        None => context.note("the policy does not say how its episodes were played"),
    }
    Ok(())
}

fn note_unused_budget(parameters: &Parameters, context: &Context) {
    let Parameters { select, budget, steps, .. } = parameters;
    if let (SelectionMethod::Full, Some(budget), None) = (select.method, budget, steps) {
        context.note(format!("budget = \"{budget}\" does not apply to the method `full`, which trains three epochs"));
    }
}

/// The instructions of the pool, or for the method `validation` the validation examples.
fn rows_to_train_on(method: SelectionMethod, task: &Task, context: &Context) -> Result<Vec<Instruction>> {
    if method != SelectionMethod::Validation {
        return read_instructions(context.input("/instructions")?);
    }
    let numbered = task.validation.iter().map(as_instruction).zip(0..);
    Ok(numbered.map(|(instruction, id)| Instruction { id, ..instruction }).collect())
}

/// The chooser of the method, for the trainable rows of the pool.
fn open_chooser(
    parameters: &Parameters,
    context: &Context,
    instructions: &Excerpts,
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
        let candidates = candidates(features, pool, context)?;
        return Ok(Box::new(Raise::new(policy, candidates, parameters.batch_size, seed)?));
    }
    let scores = if let (SelectionMethod::Scores, Some(stage)) = (select.method, &select.stage) {
        let (folder, pool) = (context.input("/select/stage")?, context.input("/instructions")?);
        scores_of_stage(stage, folder, &select.column, pool, instructions.len())?
    } else if select.method == SelectionMethod::Scores {
        let (path, pool) = (context.file("/select/path")?, context.input("/instructions")?);
        let (scores, unused) = read_scores(path, &select.column, pool, instructions.len())?;
        if unused > 0 {
            context.note(format!("{unused} scores belong to no instruction of the pool"));
        }
        scores
    } else if let (Some(column), Some(features)) = (select.method.state_column(&select.column), features) {
        state_column(features, column, instructions.len())?
    } else {
        Vec::new()
    };
    let mut columns = candidate_columns(select.method, instructions, pool, features, scores, context)?;
    if select.method == SelectionMethod::Random
        && let Some(weights) = read_weights(context.input("/instructions")?)?
    {
        columns.weights = columns.ids.iter().map(|id| weights[*id as usize]).collect();
        context.note("the pool has weights: rows of a larger weight are drawn sooner".to_owned());
    }
    let (batch_size, third, top) = (parameters.batch_size, select.third, select.top);
    chooser(select.method, &ChooserInputs { pool: &columns, batch_size, total_steps, seed, third, top })
}
