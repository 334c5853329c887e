//! The rounds of a stage of kind `selector`, their checkpoints, and the files of the artifact.
//!
//! After every round, the rows of its tables and the state of the training go into the work folder, as one sealed
//! record. If a stage was killed, the next attempt reads the whole records, plays the unfinished round again, and
//! writes the same bytes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow_array::{Array as _, Float64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow_select::concat::concat_batches;
use serde_json::json;

use super::tables as own_tables;
use crate::learning::{Learning, Settings, account_costs, conditions, device, phase_cost, shown_performance, speed};
use crate::passes::passes_before;
use crate::selecting::candidates;
use crate::tables::{self, Excerpts, Of};
use raisin_base::error::{Context as _, Error, Problem, Result};
use raisin_base::sealed::{Record, Records, set_aside};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Progress};
use raisin_corpus::intake::counted;
use raisin_corpus::{read_instructions, read_task};
use raisin_kinds::selector::Parameters;
use raisin_selector::episode::{EpisodeStepRow, PolicyTraining, RoundResult, RoundRow};
use raisin_selector::policy::SIMILARITY;
use raisin_selector::{Candidates, PpoSettings};
use raisin_settings::ppo::{Credit, PolicyLearner, Prior, StatePart};
use raisin_table::{self as table, WriteTable as _};
use raisin_training::{Episodes, Meter, PhaseUse, TrainerConfig, TrainingPool};

const TABLES: [&str; 4] = ["rounds", "steps", "selection", "effects"];

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    run_until(&parameters, context, parameters.config.rounds)
}

/// As [`run`]. If `until` is less than the number of rounds, the stage ends after `until` rounds as after a kill, for
/// tests.
pub(super) fn run_until(parameters: &Parameters, context: &Context, until: usize) -> Result<()> {
    let Parameters { stage, config } = parameters;
    let loading = Meter::start(device(context)?);
    let instructions = read_instructions(context.input("/instructions")?)?;
    let task = read_task(context.input("/task")?)?;
    let model = context.input("/model")?;
    let settings = Settings {
        instructions: Some("/instructions"),
        adaptation: &stage.adaptation,
        limit: stage.sequence_limit(),
        batch_tokens: stage.micro_batch_tokens,
        episodes: config.episodes_per_round,
    };
    let learning = Learning::start(model, context, &instructions, &task.validation, &settings)?;
    let instructions = Excerpts::of(instructions);
    let clusters = context.input("/features")?;
    let candidates = used_candidates(clusters, &learning.pool, config, context)?;
    let trainer_config = TrainerConfig {
        learning_rate: stage.learning_rate,
        schedule: stage.schedule,
        warmup: stage.warmup,
        total_steps: config.steps,
        micro_batch_tokens: stage.micro_batch_tokens,
        activation_checkpointing: stage.activation_checkpointing,
        ..TrainerConfig::default()
    };
    let Learning { model: proxy, adaptation, seed, pool, validation, encoding, .. } = learning;
    let (evaluation_tokens, episodes) = (validation.tokens(), config.episodes_per_round);
    let lengths: Vec<usize> =
        (0..pool.len() as u32).map(|id| pool.get(id).map_or(0, |sequence| sequence.tokens.len())).collect();
    let conditions = conditions(&encoding, &proxy, &pool, config.steps, config.batch_size);
    let mut players = Episodes::new(proxy, &adaptation, &seed, trainer_config, episodes, pool, validation)?;
    let trained = players.trained_numbers();
    let at_once = if episodes == 1 { String::new() } else { format!(", {episodes} episodes at the same time") };

    let (mut rounds, mut training) = Rounds::open(context, &candidates, config, &mut players)?;
    let done = training.rounds_done();
    let place = if done == 0 { String::new() } else { format!("; continues after round {done}") };
    context.note(format!(
        "{} of {} steps of {} from {} candidates in {} clusters, {trained} trained parameters{at_once}{place}",
        counted(config.rounds as u64, "round"),
        config.steps,
        config.batch_size,
        candidates.len(),
        candidates.ranges.iter().filter(|range| !range.is_empty()).count(),
    ));
    context.cost(phase_cost("load", loading.stop()));

    let started = Instant::now();
    let mut tokens = 0;
    while training.rounds_done() < config.rounds.min(until) {
        let mut on_step = |round: usize, rows: &[&EpisodeStepRow], improvement: f64| {
            let Some(row) = rows.first() else { return };
            tokens += rows.iter().map(|row| row.tokens).sum::<u64>();
            context.progress(Progress {
                phase: format!("round {} of {}", round + 1, config.rounds),
                done: ((round - done) * config.steps + row.step + 1) as u64,
                total: ((config.rounds - done) * config.steps) as u64,
                unit: "steps".to_owned(),
                tokens_per_second: speed(tokens, started.elapsed()),
                detail: format!("gained {improvement:+.3}{}", shown_performance(row.performance)),
            });
        };
        let round = training.round(&mut players, &candidates, &mut on_step)?;
        tell_round(context, &round.row);
        rounds.push(&training, &players.room(), &round, &instructions)?;
    }

    if until < config.rounds {
        return Ok(());
    }
    let account = players.account();
    account_costs(&account, players.flops(account.train.tokens as usize, false), context);
    let rest = started.elapsed().saturating_sub(account.train.time + account.evaluation.time + account.effects.time);
    context.cost(phase_cost("selection", PhaseUse { time: rest, ..PhaseUse::default() }));
    rounds.write(&no_tables(&instructions)?, config.credit == Credit::Effect)?;
    write_effects(&training, &candidates, config, context)?;
    encoding.write(context)?;
    let written = ["performance", "tokens", "supervised_tokens", "flops"];
    let steps = table::read_columns(&context.out().join("steps.parquet"), &written)?;
    let tokens = |name: &str| Ok::<_, Error>(table::column::<UInt64Array>(&steps, name)?.iter().flatten().sum::<u64>());
    let measured: &Float64Array = table::column(&steps, "performance")?;
    // P(M_0) is measured once for each of the episodes that are played at the same time.
    let bases = if config.rounds == 0 { 0 } else { episodes };
    let evaluations = measured.len() - measured.null_count() + bases;
    context.write_json(
        "summary.json",
        &json!({
            "tokens": tokens("tokens")?,
            "supervised_tokens": tokens("supervised_tokens")?,
            "flops": table::column::<Float64Array>(&steps, "flops")?.iter().flatten().sum::<f64>(),
            "evaluations": evaluations,
            "evaluation_tokens": evaluations * evaluation_tokens,
            "evaluation_flops": players.flops(evaluations * evaluation_tokens, false),
            "effect_flops": rounds.effect_flops(&players, evaluation_tokens, &lengths)?,
            "passes": passes_before(Some(clusters), model, |_| true)?,
        }),
    )?;
    // Without rounds, the policy is its prior.
    let mut kept = training.kept().unwrap_or(&training.policy).duplicate()?;
    kept.constants.conditions = Some(conditions);
    kept.save(&context.out())?;
    context.add_reference("features", clusters)
}

/// Writes what the posterior says of the columns and of the candidates: the tables `column_effects` and `expected`.
fn write_effects(
    training: &PolicyTraining,
    candidates: &Candidates,
    config: &PpoSettings,
    context: &Context,
) -> Result<()> {
    if config.learner != PolicyLearner::Posterior {
        return Ok(());
    }
    let columns = training.column_effects()?.unwrap_or_default();
    context.write_table("column_effects", &own_tables::column_effects(&columns)?)?;
    let mut writer = context.table_writer("expected", own_tables::expected(&[])?.schema())?;
    training.expected_effects(candidates, |part| writer.write(&own_tables::expected(&part)?))?;
    writer.close()
}

/// The candidates with the columns and with the prior that the configuration uses.
///
/// # Errors
/// Nothing is learned, and there is no prior.
fn used_candidates(
    clusters: &Path,
    pool: &TrainingPool,
    config: &PpoSettings,
    context: &Context,
) -> Result<Candidates> {
    let candidates = with_prior(candidates(clusters, pool, context)?, config, context);
    if config.rounds == 0 && candidates.prior.is_none() {
        return Err(Problem::new("without rounds, the policy is its prior, and the candidates have no similarity")
            .hint("give the features stage of the candidates the `task`, or set at least one round")
            .into());
    }
    with_used_columns(candidates, config)
}

/// The candidates with the column of the prior.
fn with_prior(candidates: Candidates, config: &PpoSettings, context: &Context) -> Candidates {
    if config.prior == Prior::None {
        return candidates;
    }
    let candidates = candidates.with_prior(SIMILARITY);
    if candidates.prior.is_none() {
        context
            .note("there is no prior: the features stage of the candidates has no `task`, so no similarity is known");
    }
    candidates
}

/// The candidates with the columns of those parts of the state that the configuration uses. The name of a column begins
/// with the name of its part.
fn with_used_columns(candidates: Candidates, config: &PpoSettings) -> Result<Candidates> {
    let parts = [
        (StatePart::Difficulty, "difficulty."),
        (StatePart::Semantic, "semantic."),
        (StatePart::Target, "target."),
        (StatePart::Influence, "influence."),
        (StatePart::Source, "source."),
    ];
    let is_unused = |column: &str| parts.iter().any(|(part, prefix)| !config.uses(*part) && column.starts_with(prefix));
    let used: Vec<String> = candidates.columns.iter().filter(|column| !is_unused(column)).cloned().collect();
    candidates.with_columns(&used)
}

/// The finished rounds, in memory and in the work folder. A work folder belongs to one action, so that its rounds
/// belong to this run.
struct Rounds<'a> {
    folder: PathBuf,
    context: &'a Context,
    records: Records,
    /// The tables of each round, in the order of [`TABLES`].
    tables: Vec<[RecordBatch; TABLES.len()]>,
}

/// The record of a round.
struct FinishedRound {
    /// The batch sizes that fitted in memory: see [`Episodes::room`].
    room: Vec<[usize; 2]>,
    /// The state of the training after the round.
    state: Vec<u8>,
    tables: [RecordBatch; TABLES.len()],
}

/// Tells the values of a round that has ended, for processes that look at the build.
fn tell_round(context: &Context, row: &RoundRow) {
    let values = [
        ("episode_reward", Some(row.episode_reward)),
        ("final_performance", Some(row.final_performance)),
        ("explained_variance", row.explained_variance),
        ("explained_by_prior", row.explained_by_prior),
        ("credit_reliability", row.credit_reliability),
        ("effective_candidates", Some(row.effective_candidates)),
    ];
    context.measured("rounds", row.round as u64, values);
}

impl FinishedRound {
    fn read(record: &Record) -> Result<Self> {
        let table = |number: usize| table::from_bytes(record.read(2 + number)?);
        Ok(Self {
            room: serde_json::from_slice(&record.read(0)?)?,
            state: record.read(1)?,
            tables: [table(0)?, table(1)?, table(2)?, table(3)?],
        })
    }
}

impl<'a> Rounds<'a> {
    /// Opens the rounds of earlier attempts, and the training after the last of these rounds.
    fn open(
        context: &'a Context,
        candidates: &Candidates,
        config: &PpoSettings,
        players: &mut Episodes,
    ) -> Result<(Self, PolicyTraining)> {
        let folder = context.work()?;
        let (path, seed) = (folder.join("rounds"), context.seed().at("training"));
        let tell = |text: &str| context.note(text);
        let mut last = None;
        let (records, tables) = Records::open(&path, &tell, |record| {
            let FinishedRound { room, state, tables } = FinishedRound::read(record).ok()?;
            last = Some((room, state));
            Some(tables)
        })?;
        let mut rounds = Self { folder, context, records, tables };
        if let Some((room, state)) = last {
            let loaded = rounds.load(&state, candidates, config, seed);
            match loaded.and_then(|training| players.set_room(&room).map(|()| training)) {
                Ok(training) if training.rounds_done() == rounds.tables.len() => return Ok((rounds, training)),
                Ok(training) => {
                    let (read, state) = (rounds.tables.len(), training.rounds_done());
                    set_aside(
                        &path,
                        &format!("it has {read} rounds, and its state is that after {state} rounds"),
                        &tell,
                    )?;
                }
                Err(error) => set_aside(&path, &format!("{error:#}"), &tell)?,
            }
            (rounds.records, rounds.tables) = Records::open(&path, &tell, |_| None)?;
        }
        Ok((rounds, PolicyTraining::new(candidates, config.clone(), seed)?))
    }

    /// [`PolicyTraining`] reads and writes its state as a file. This file exists only while the state is copied from or
    /// to a record.
    fn state(&self) -> PathBuf {
        self.folder.join("state.safetensors")
    }

    fn load(&self, state: &[u8], candidates: &Candidates, config: &PpoSettings, seed: Seed) -> Result<PolicyTraining> {
        let path = self.state();
        std::fs::write(&path, state).with_context(|| format!("cannot write {}", path.display()))?;
        let training = PolicyTraining::load(&path, candidates, config.clone(), seed);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        training
    }

    fn save(&self, training: &PolicyTraining) -> Result<Vec<u8>> {
        let path = self.state();
        training.save(&path)?;
        let state = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        Ok(state)
    }

    /// Adds a finished round.
    fn push(
        &mut self,
        training: &PolicyTraining,
        room: &[[usize; 2]],
        round: &RoundResult,
        instructions: &Excerpts,
    ) -> Result<()> {
        let tables = round_tables(round, instructions)?;
        let mut parts = vec![serde_json::to_vec(room)?, self.save(training)?];
        for table in &tables {
            parts.push(table::to_bytes(table)?);
        }
        self.records.append(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        self.tables.push(tables);
        // A round may be hours of work, which must survive a power failure.
        self.records.sync()
    }

    /// The FLOPs of all measured effects: a training pass over the validation examples for each measurement, and two
    /// forward passes over each row. `lengths` has the tokens of each instruction.
    fn effect_flops(&self, players: &Episodes, validation_tokens: usize, lengths: &[usize]) -> Result<f64> {
        let (mut measurements, mut tokens) = (0, 0);
        for [.., effects] in &self.tables {
            let column = |name: &str| table::column::<UInt32Array>(effects, name);
            let (rounds, episodes, steps, ids) = (column("round")?, column("episode")?, column("step")?, column("id")?);
            let mut last = None;
            for row in 0..effects.num_rows() {
                let measurement = (rounds.value(row), episodes.value(row), steps.value(row));
                measurements += usize::from(last != Some(measurement));
                last = Some(measurement);
                tokens += lengths.get(ids.value(row) as usize).copied().unwrap_or(0);
            }
        }
        Ok(players.flops(measurements * validation_tokens, true) + 2.0 * players.flops(tokens, false))
    }

    /// Writes the tables of the artifact, which have the rows of all rounds. `none` has the tables of no round, with all
    /// their columns.
    fn write(&self, none: &[RecordBatch; TABLES.len()], has_effects: bool) -> Result<()> {
        for (place, name) in TABLES.iter().enumerate().filter(|(_, name)| has_effects || **name != "effects") {
            let batches: Vec<&RecordBatch> = self.tables.iter().map(|tables| &tables[place]).collect();
            self.context.write_table(name, &concat_batches(&none[place].schema(), batches)?)?;
        }
        Ok(())
    }
}

/// The tables of a round, in the order of [`TABLES`].
fn round_tables(round: &RoundResult, instructions: &Excerpts) -> Result<[RecordBatch; TABLES.len()]> {
    tables_of(std::slice::from_ref(&round.row), round, instructions)
}

/// The tables of no round.
fn no_tables(instructions: &Excerpts) -> Result<[RecordBatch; TABLES.len()]> {
    tables_of(&[], &RoundResult::default(), instructions)
}

fn tables_of(rows: &[RoundRow], round: &RoundResult, instructions: &Excerpts) -> Result<[RecordBatch; TABLES.len()]> {
    Ok([
        own_tables::rounds(rows)?,
        tables::steps(&own_tables::step_rows(&round.steps), Of::Episodes)?,
        tables::selection(&own_tables::selection_rows(&round.selection), instructions, Of::Episodes)?,
        own_tables::effects(&round.effects)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_the_state_leaves_out_has_no_column() -> Result<()> {
        let names = ["difficulty.a", "semantic.00", "target.similarity_mean", "influence.drop", "source.a.jsonl"];
        let names = names.map(str::to_owned);
        let candidates = || Candidates::new(&[0, 1], &[0, 0], &[0.5; 10], names.to_vec());
        let with_columns = [StatePart::Target, StatePart::Influence, StatePart::Source];
        let parts = [[StatePart::Difficulty, StatePart::Semantic].as_slice(), &with_columns].concat();
        for (place, left_out) in parts.iter().enumerate() {
            let state = parts.iter().copied().filter(|part| part != left_out).collect();
            let config = PpoSettings { state, ..PpoSettings::standard() };
            let mut expected = names.to_vec();
            expected.remove(place);
            assert_eq!(with_used_columns(candidates()?, &config)?.columns, expected);
        }
        Ok(())
    }
}
