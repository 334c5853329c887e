//! The rounds of a `selector` stage, their checkpoints, and what they leave behind.
//!
//! After every round its rows and the state of the training are put into the work folder. A killed stage takes them
//! up, plays the unfinished round again, and ends with the same bytes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow_array::{Array as _, Float64Array, RecordBatch};
use arrow_select::concat::concat_batches;
use serde_json::{Value, json};

use super::tables;
use crate::learning::{Learning, Settings, cost, device, phase_cost, shown_performance, training_costs};
use crate::selecting::candidates;
use raisin_base::error::{Context as _, Result, anyhow};
use raisin_contract::{Context, Cost, Progress, referenced};
use raisin_corpus::{Instruction, read_instructions, read_task};
use raisin_kinds::selector::Parameters;
use raisin_selector::episode::{Round, StepRow, Training};
use raisin_selector::{Candidates, Config, Ensemble};
use raisin_settings::ppo::Part;
use raisin_table::{self as table, WriteTable as _};
use raisin_training::episode::Spent;
use raisin_training::{EpisodeLearner, Meter, SideBySide, Trainer, TrainerConfig};

const TABLES: [&str; 3] = ["rounds", "steps", "selection"];

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    run_until(&parameters, context, parameters.config.rounds)
}

/// The same, ended after some rounds as a kill would end it: for tests.
pub(super) fn run_until(parameters: &Parameters, context: &Context, until: usize) -> Result<()> {
    let Parameters { stage, config } = parameters;
    let loading = Meter::start(device(context)?);
    let instructions = read_instructions(context.input("/instructions")?)?;
    let task = read_task(context.input("/task")?)?;
    let model = context.input("/model")?;
    let settings = Settings {
        adaptation: &stage.adaptation,
        max_tokens: stage.max_tokens,
        batch_tokens: stage.micro_batch_tokens,
        episodes: config.episodes_per_round,
    };
    let learning = Learning::start(model, context, &instructions, &task.validation, &settings)?;
    let clusters = context.input("/features")?;
    let candidates = candidates(clusters, &learning.pool)?;
    let candidates = parts_of(candidates, config)?;
    let trainer_config = TrainerConfig {
        learning_rate: stage.learning_rate,
        schedule: stage.schedule,
        warmup: stage.warmup,
        total_steps: config.steps,
        micro_batch_tokens: stage.micro_batch_tokens,
        activation_checkpointing: stage.activation_checkpointing,
        ..TrainerConfig::default()
    };
    let evaluation_tokens = learning.validation.tokens();
    let mut players = Players::new(learning, trainer_config, config.episodes_per_round)?;
    let trained = players.trained_numbers();
    let side_by_side = match config.episodes_per_round {
        1 => String::new(),
        episodes => format!(", {episodes} episodes side by side"),
    };

    let rounds = Rounds { folder: context.work()?, candidates: &candidates, config: config.clone(), context };
    let mut training = rounds.take_up()?;
    let done = training.rounds_done();
    let place = if done == 0 { String::new() } else { format!("; goes on after round {done}") };
    context.note(format!(
        "{} rounds of {} steps of {} from {} candidates in {} clusters, {trained} trained parameters{side_by_side}{place}",
        config.rounds,
        config.steps,
        config.batch_size,
        candidates.len(),
        candidates.ranges.iter().filter(|range| !range.is_empty()).count(),
    ));
    context.cost(phase_cost("load", loading.stop()));

    let started = Instant::now();
    let mut tokens = 0;
    while training.rounds_done() < config.rounds.min(until) {
        let mut on_step = |round: usize, rows: &[&StepRow], improvement: f64| {
            let Some(row) = rows.first() else { return };
            tokens += rows.iter().map(|row| row.tokens).sum::<u64>();
            context.progress(Progress {
                phase: format!("round {} of {}", round + 1, config.rounds),
                done: ((round - done) * config.steps + row.step + 1) as u64,
                total: ((config.rounds - done) * config.steps) as u64,
                unit: "steps".to_owned(),
                tokens_per_second: Some(tokens as f64 / started.elapsed().as_secs_f64().max(1e-9)),
                detail: format!("gained {improvement:+.3}{}", shown_performance(row.performance)),
            });
        };
        let round = training.round(players.ensemble(), &candidates, &mut on_step)?;
        rounds.put_aside(&training, &round, &instructions)?;
    }

    if until < config.rounds {
        return Ok(());
    }
    let rest = started.elapsed().saturating_sub(players.tell_costs(context));
    context.cost(Cost { phase: "selection".into(), seconds: rest.as_secs_f64(), ..Default::default() });
    rounds.collect(context)?;
    let steps = table::read_columns(&context.out().join("steps.parquet"), &["performance"])?;
    let measured: &Float64Array = table::column(&steps, "performance")?;
    // And P(M_0), once for each of the episodes that are played at once.
    let evaluations = measured.len() - measured.null_count() + config.episodes_per_round;
    context.write_json(
        "summary.json",
        &json!({
            "evaluations": evaluations,
            "evaluation_tokens": evaluations * evaluation_tokens,
            "evaluation_flops": players.forward_flops(evaluations * evaluation_tokens),
            "passes": passes_before(clusters, model)?,
        }),
    )?;
    let best = training.best.as_ref().ok_or_else(|| anyhow!("no episode was played"))?;
    best.save(&context.out())?;
    context.add_reference("features", clusters)
}

/// Who plays the episodes of a round.
enum Players {
    One(Box<EpisodeLearner>),
    Several(Box<SideBySide>),
}

impl Players {
    fn new(learning: Learning, config: TrainerConfig, episodes: usize) -> Result<Self> {
        let Learning { mut model, adaptation, seed, pool, validation } = learning;
        if episodes == 1 {
            model.prepare(&adaptation, &seed)?;
            let trainer = Trainer::new(model, config, pool.prefix_layers())?;
            return Ok(Self::One(Box::new(EpisodeLearner::new(trainer, pool, validation)?)));
        }
        let learners = SideBySide::new(model, &adaptation, &seed, config, episodes, pool, &validation)?;
        Ok(Self::Several(Box::new(learners)))
    }

    fn ensemble(&mut self) -> &mut dyn Ensemble {
        match self {
            Self::One(learner) => learner.as_mut(),
            Self::Several(learners) => learners.as_mut(),
        }
    }

    /// Of one episode.
    fn trained_numbers(&self) -> usize {
        match self {
            Self::One(learner) => learner.trainer().model.trainable().count(),
            Self::Several(learners) => learners.trained_numbers(),
        }
    }

    /// Floating-point operations of a forward pass over so many tokens.
    fn forward_flops(&self, tokens: usize) -> f64 {
        match self {
            Self::One(learner) => learner.trainer().flops(tokens, false),
            Self::Several(learners) => learners.flops_per_token(false) * tokens as f64,
        }
    }

    /// What training and reward evaluation have cost goes into the events; returned is the time of both.
    fn tell_costs(&self, context: &Context) -> Duration {
        let (train, evaluation): (Spent, Spent) = match self {
            Self::One(learner) => {
                training_costs(learner.trainer(), &learner.train_cost(), context);
                (learner.train_cost(), learner.evaluation_cost())
            }
            Self::Several(learners) => {
                context.cost(cost("train", &learners.train_cost()));
                (learners.train_cost(), learners.evaluation_cost())
            }
        };
        context.cost(cost("reward evaluation", &evaluation));
        train.time + evaluation.time
    }
}

/// The forward passes that were made once before any episode: features over the pool, the states of a frozen prefix.
fn passes_before(clusters: &Path, model: &Path) -> Result<Vec<Value>> {
    let features = referenced(clusters, "features")?;
    let mut passes = Vec::new();
    for folder in features.as_deref().into_iter().chain([model]) {
        let path = folder.join("summary.json");
        if path.is_file() {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let summary: Value = serde_json::from_slice(&bytes)?;
            // The summary of a model that was trained by an earlier stage is none.
            if summary["pass"].is_string() {
                passes.push(summary);
            }
        }
    }
    Ok(passes)
}

/// The candidates with the parts of the state that the configuration leaves them.
fn parts_of(candidates: Candidates, config: &Config) -> Result<Candidates> {
    let left_out = |column: &str| {
        (!config.uses(Part::Difficulty) && column.starts_with("difficulty."))
            || (!config.uses(Part::Semantic) && column.starts_with("semantic."))
    };
    let kept: Vec<String> = candidates.columns.iter().filter(|column| !left_out(column)).cloned().collect();
    candidates.with_columns(&kept)
}

/// The finished rounds in the work folder, which is the action's: they are of this very run.
struct Rounds<'a> {
    folder: PathBuf,
    candidates: &'a Candidates,
    config: Config,
    context: &'a Context,
}

impl Rounds<'_> {
    fn state(&self) -> PathBuf {
        self.folder.join("state.safetensors")
    }

    fn table(&self, name: &str, round: usize) -> PathBuf {
        self.folder.join(format!("{name}-{round:04}.parquet"))
    }

    fn take_up(&self) -> Result<Training> {
        let seed = self.context.seed().at("training");
        if self.state().is_file() {
            Training::load(&self.state(), self.candidates, self.config.clone(), seed)
        } else {
            Training::new(self.candidates, self.config.clone(), seed)
        }
    }

    /// The rows first, the state last: what the state says is done is there, also after a loss of power.
    fn put_aside(&self, training: &Training, round: &Round, instructions: &[Instruction]) -> Result<()> {
        let write = |name: &str, rows: &RecordBatch| {
            let path = self.table(name, round.row.round);
            table::write(&path, rows)?;
            std::fs::File::open(&path)?.sync_all().with_context(|| format!("cannot write {}", path.display()))
        };
        write("rounds", &tables::rounds(std::slice::from_ref(&round.row))?)?;
        write("steps", &tables::steps(&round.steps)?)?;
        write("selection", &tables::selection(&round.selection, instructions)?)?;
        training.save(&self.state())
    }

    /// Joins the rows of all rounds into the artifact's tables.
    fn collect(&self, context: &Context) -> Result<()> {
        for name in TABLES {
            let paths: Vec<PathBuf> = (0..self.config.rounds).map(|round| self.table(name, round)).collect();
            let batches =
                paths.iter().map(|path: &PathBuf| table::read(Path::new(path))).collect::<Result<Vec<_>>>()?;
            let schema = batches.first().ok_or_else(|| anyhow!("no round was played"))?.schema();
            context.write_table(name, &concat_batches(&schema, &batches)?)?;
        }
        Ok(())
    }
}
