use super::*;
use crate::chooser::{Chooser as _, StepContext};
use crate::raise::Raise;
use raisin_base::error::render;
use raisin_base::learner::{Learner, RowEffect, StepReport};
use raisin_base::random::Rng;
use raisin_settings::ppo::{Deployment, PolicyForm, Ratio};

mod effects;

/// A learner with a known optimum. Only candidates of hidden relevant groups help. Each use of a candidate helps half
/// as much as its previous use. The performance approaches a limit, so later steps gain less.
struct Toy {
    relevance: Vec<f64>,
    uses: Vec<i32>,
    learned: f64,
    noise: f64,
    rng: Rng,
}

struct PolicyFixture {
    candidates: Candidates,
    relevance: Vec<f64>,
}

/// 24 clusters of 40 candidates. Two clusters are relevant and one is harmful. In two more clusters every fourth
/// candidate is relevant and every fourth is harmful. One column of the state is weakly correlated with relevance.
fn fixture(seed: u64) -> PolicyFixture {
    merged_fixture(seed, 24)
}

/// [`fixture`] with its clusters merged into `merged` clusters.
fn merged_fixture(seed: u64, merged: usize) -> PolicyFixture {
    sized_fixture(seed, merged, 40)
}

/// [`merged_fixture`] with `size` candidates in each of the 24 clusters.
fn sized_fixture(seed: u64, merged: usize, size: usize) -> PolicyFixture {
    let mut rng = Seed::new(seed).rng();
    let (clusters, width) = (24, 12);
    let centres: Vec<f64> = (0..clusters * width).map(|_| rng.normal()).collect();
    let (mut ids, mut labels, mut state, mut relevance) = (vec![], vec![], vec![], vec![]);
    for id in 0..clusters * size {
        let cluster = id % clusters;
        let helps = match (cluster, (id / clusters) % 4) {
            (3 | 11, _) | (7 | 8, 0) => 1.0,
            (5, _) | (7 | 8, 1) => -0.5,
            _ => 0.0,
        };
        ids.push(id as u32);
        labels.push((cluster % merged) as u32);
        for column in 0..width {
            let shift = if column == 0 { helps } else { 0.0 };
            state.push((centres[cluster * width + column] + shift + 0.5 * rng.normal()) as f32);
        }
        relevance.push(helps);
    }
    let columns = (0..width).map(|column| format!("semantic.{column:02}")).collect();
    PolicyFixture { candidates: Candidates::new(&ids, &labels, &state, columns).expect("a sound fixture"), relevance }
}

impl Toy {
    fn new(fixture: &PolicyFixture, noise: f64) -> Self {
        let uses = vec![0; fixture.relevance.len()];
        Self { relevance: fixture.relevance.clone(), uses, learned: 0.0, noise, rng: Seed::new(99).rng() }
    }
}

impl Learner for Toy {
    fn restore(&mut self) -> Result<f64> {
        self.uses.fill(0);
        self.learned = 0.0;
        self.rng = Seed::new(99).rng();
        self.performance()
    }

    fn step(&mut self, batch: &[u32]) -> Result<StepReport> {
        for &id in batch {
            self.learned += self.relevance[id as usize] * 0.5f64.powi(self.uses[id as usize]) / batch.len() as f64;
            self.uses[id as usize] += 1;
        }
        Ok(StepReport { loss: 1.0, tokens: 10, supervised_tokens: 5, learning_rate: 1e-3, flops: 1.0 })
    }

    fn effects(&mut self, rows: &[u32]) -> Result<Vec<RowEffect>> {
        let noise = 3.0 * self.noise;
        let effect = |&id: &u32| {
            let halved = 0.5f64.powi(self.uses[id as usize]);
            let effect =
                self.relevance[id as usize] * halved * (-self.learned / 12.0).exp() + noise * self.rng.normal();
            RowEffect { effect, tokens: 5 }
        };
        Ok(rows.iter().map(effect).collect())
    }

    fn performance(&mut self) -> Result<f64> {
        Ok(-2.0 + (1.0 - (-self.learned / 12.0).exp()) + self.noise * self.rng.normal())
    }
}

fn toy_config(form: PolicyForm) -> PpoSettings {
    PpoSettings { steps: 40, batch_size: 16, rounds: 20, policy: form, ..PpoSettings::ppo() }
}

/// Plays all rounds. Returns the share of relevant candidates in the selection of each round.
fn shares(fixture: &PolicyFixture, training: &mut PolicyTraining, noise: f64) -> Result<Vec<f64>> {
    let mut learner = Toy::new(fixture, noise);
    (0..training.config.rounds)
        .map(|_| {
            let round = training.round(&mut learner, &fixture.candidates, &mut |_, _, _| {})?;
            let relevant = round.selection.iter().filter(|row| fixture.relevance[row.id as usize] > 0.0).count();
            Ok(relevant as f64 / round.selection.len() as f64)
        })
        .collect()
}

/// Plays one run with the kept policy. Returns the share of relevant candidates in the selection, and P(M_T) - P(M_0).
fn deploy(fixture: &PolicyFixture, training: &PolicyTraining, deployment: Deployment) -> Result<(f64, f64)> {
    let mut policy = training.kept().context("no policy was kept")?.duplicate()?;
    policy.constants.deployment = deployment;
    let candidates = self::candidates(fixture);
    let (batch_size, steps) = (training.config.batch_size, training.config.steps);
    let mut chooser = Raise::new(policy, candidates, batch_size, Seed::new(7))?;
    let mut learner = Toy::new(fixture, 0.0);
    let start = learner.restore()?;
    let (mut performance, mut relevant) = (start, 0);
    for step in 0..steps {
        let context = StepContext { step, total_steps: steps, performance: Some(performance), last_loss: None };
        let batch: Vec<u32> = chooser.choose(&context)?.iter().map(|choice| choice.id).collect();
        relevant += batch.iter().filter(|&&id| fixture.relevance[id as usize] > 0.0).count();
        learner.step(&batch)?;
        performance = learner.performance()?;
    }
    Ok((relevant as f64 / (steps * batch_size) as f64, performance - start))
}

fn candidates(fixture: &PolicyFixture) -> Candidates {
    let of = &fixture.candidates;
    Candidates {
        ids: of.ids.clone(),
        clusters: of.clusters.clone(),
        ranges: of.ranges.clone(),
        state: of.state.copy(),
        columns: of.columns.clone(),
        prior: None,
        basis: None,
    }
}

/// Not a test but a benchmark: how fast do variants of the method learn? `RAISIN_VARIANTS` is the path of a JSON file
/// that gives, for each variant, the settings that differ from the default preset: `{"name": {"gamma": 0.9}, ...}`.
#[test]
#[ignore = "a benchmark that compares variants of the method"]
fn compare_variants() -> Result<()> {
    tch::set_num_threads(1);
    let path = std::env::var("RAISIN_VARIANTS").context("RAISIN_VARIANTS names a JSON file of variants")?;
    let variants: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&std::fs::read(path)?)?;
    for (name, overrides) in variants {
        let mut config = serde_json::to_value(toy_config(PolicyForm::Hierarchical))?;
        let seeds = overrides["seeds"].as_u64().unwrap_or(4);
        let noise = overrides["noise"].as_f64().unwrap_or(0.01);
        for (key, value) in overrides.as_object().context("an object of overrides")? {
            if !["seeds", "noise"].contains(&key.as_str()) {
                config[key] = value.clone();
            }
        }
        let config: PpoSettings = serde_json::from_value(config)?;
        let (mut mean, mut top, mut sample) = (vec![0.0; config.rounds], (0.0, 0.0), (0.0, 0.0));
        for seed in 0..seeds {
            let fixture = fixture(seed);
            let mut training = PolicyTraining::new(&fixture.candidates, config.clone(), Seed::new(seed))?;
            let found = shares(&fixture, &mut training, noise)?;
            mean.iter_mut().zip(found).for_each(|(sum, share)| *sum += share / seeds as f64);
            for (deployment, sums) in [(Deployment::Top, &mut top), (Deployment::Sample, &mut sample)] {
                let (share, gain) = deploy(&fixture, &training, deployment)?;
                *sums = (sums.0 + share / seeds as f64, sums.1 + gain / seeds as f64);
            }
        }
        let picked: Vec<String> = mean.iter().step_by(3).map(|share| format!("{share:.2}")).collect();
        println!(
            "{name:34} {} {:.2}  top {:.2} gains {:.3}  sample {:.2} gains {:.3}",
            picked.join(" "),
            mean.last().unwrap_or(&0.0),
            top.0,
            top.1,
            sample.0,
            sample.1
        );
    }
    Ok(())
}

#[test]
fn every_form_finds_the_hidden_clusters_within_twenty_rounds() -> Result<()> {
    tch::set_num_threads(1);
    // In the paper's form, half of every batch comes from the cluster with hardly any relevant candidates.
    for (form, clusters, expected) in
        [(PolicyForm::Hierarchical, 24, 0.8), (PolicyForm::PerCluster, 2, 0.4), (PolicyForm::Flat, 24, 0.7)]
    {
        let fixture = merged_fixture(1, clusters);
        let config = toy_config(form);
        let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(1))?;
        let found = shares(&fixture, &mut training, 0.01)?;
        assert!(found[0] < 0.2, "{form:?} starts at random: {found:?}");
        assert!(found[19] > expected, "{form:?}: {found:?}");
    }
    Ok(())
}

/// The toys of several episodes, which are played together.
struct Toys(Vec<Toy>);

impl Ensemble for Toys {
    fn episodes(&self) -> usize {
        self.0.len()
    }

    fn restore_all(&mut self) -> Result<f64> {
        let starts = self.0.iter_mut().map(Learner::restore).collect::<Result<Vec<_>>>()?;
        starts.first().copied().context("no toy")
    }

    fn step_all(&mut self, batches: &[Vec<u32>]) -> Result<Vec<StepReport>> {
        self.0.iter_mut().zip(batches).map(|(toy, batch)| toy.step(batch)).collect()
    }

    fn effects(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<RowEffect>>> {
        self.0.iter_mut().zip(rows).map(|(toy, rows)| Learner::effects(toy, rows)).collect()
    }

    fn performances(&mut self) -> Result<Vec<f64>> {
        self.0.iter_mut().map(Learner::performance).collect()
    }
}

fn toys(fixture: &PolicyFixture, count: usize) -> Toys {
    Toys((0..count).map(|_| Toy::new(fixture, 0.01)).collect())
}

#[test]
fn an_ensemble_of_one_plays_the_rounds_of_a_single_learner() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(2);
    let config = PpoSettings { rounds: 3, steps: 6, ..toy_config(PolicyForm::Hierarchical) };
    let mut single = PolicyTraining::new(&fixture.candidates, config.clone(), Seed::new(3))?;
    let mut ensemble = PolicyTraining::new(&fixture.candidates, config, Seed::new(3))?;
    for _ in 0..3 {
        let one = single.round(&mut Toy::new(&fixture, 0.01), &fixture.candidates, &mut |_, _, _| {})?;
        let other = ensemble.round(&mut toys(&fixture, 1), &fixture.candidates, &mut |_, _, _| {})?;
        assert_eq!(one, other);
    }
    Ok(())
}

#[test]
fn the_episodes_of_a_round_differ_and_one_update_learns_from_all() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(1);
    let config = PpoSettings { rounds: 8, ..toy_config(PolicyForm::Hierarchical) };
    let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(1))?;
    let mut shares = Vec::new();
    for _ in 0..8 {
        let round = training.round(&mut toys(&fixture, 4), &fixture.candidates, &mut |_, _, _| {})?;
        assert_eq!((round.steps.len(), round.selection.len()), (4 * 40, 4 * 40 * 16));
        let of = |episode: usize| {
            round.selection.iter().filter(|row| row.episode == episode).map(|row| row.id).collect::<Vec<_>>()
        };
        assert_ne!(of(0), of(1));
        // An episode does not count the selections of other episodes.
        assert!(round.selection.iter().filter(|row| row.step == 0).all(|row| row.times_selected == 0));
        let relevant = round.selection.iter().filter(|row| fixture.relevance[row.id as usize] > 0.0).count();
        shares.push(relevant as f64 / round.selection.len() as f64);
    }
    assert!(shares[0] < 0.2 && shares[7] > 0.6, "{shares:?}");
    Ok(())
}

#[test]
fn a_training_resumes_to_the_same_rounds() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(2);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state.safetensors");
    let config = PpoSettings { rounds: 4, steps: 6, keep: Keep::Average, ..toy_config(PolicyForm::Hierarchical) };
    let seed = Seed::new(3);
    let mut whole = PolicyTraining::new(&fixture.candidates, config.clone(), seed)?;
    for round in 0..4 {
        let mut resumed = if round == 0 {
            PolicyTraining::new(&fixture.candidates, config.clone(), seed)?
        } else {
            PolicyTraining::load(&path, &fixture.candidates, config.clone(), seed)?
        };
        let one = whole.round(&mut Toy::new(&fixture, 0.01), &fixture.candidates, &mut |_, _, _| {})?;
        let two = resumed.round(&mut Toy::new(&fixture, 0.01), &fixture.candidates, &mut |_, _, _| {})?;
        assert_eq!(one, two, "round {round}");
        let constants = |training: &PolicyTraining| training.best.as_ref().map(|best| best.constants.clone());
        assert_eq!(constants(&resumed), constants(&whole), "round {round}");
        for (kept, other) in [(resumed.kept(), whole.kept()), (Some(&resumed.policy), Some(&whole.policy))] {
            assert_eq!(kept.map(Policy::parameters), other.map(Policy::parameters), "round {round}");
            let constants = |policy: Option<&Policy>| policy.map(|policy| policy.constants.clone());
            assert_eq!(constants(kept), constants(other), "round {round}");
        }
        resumed.save(&path)?;
    }
    Ok(())
}

#[test]
#[expect(clippy::float_cmp, reason = "the steps of one measurement have the same reward")]
fn steps_between_two_measurements_share_the_gain_equally() -> Result<()> {
    let fixture = fixture(2);
    let config = PpoSettings { rounds: 1, steps: 7, evaluate_every: 3, ..toy_config(PolicyForm::Flat) };
    let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(3))?;
    let round = training.round(&mut Toy::new(&fixture, 0.0), &fixture.candidates, &mut |_, _, _| {})?;
    let measured: Vec<bool> = round.steps.iter().map(|step| step.performance.is_some()).collect();
    assert_eq!(measured, [false, false, true, false, false, true, true]);
    assert_eq!(round.steps[0].reward, round.steps[2].reward);
    let sum: f64 = round.steps.iter().map(|step| step.reward).sum();
    assert!((sum - round.row.episode_reward).abs() < 1e-12);
    assert!((round.row.final_performance - round.steps[6].performance.expect("measured")).abs() < 1e-12);
    Ok(())
}

#[test]
fn the_error_of_a_policy_that_diverges_names_the_round_and_what_to_change() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(2);
    let config = PpoSettings {
        steps: 6,
        ratio: Ratio::Product,
        actor_learning_rate: f64::INFINITY,
        ..toy_config(PolicyForm::Flat)
    };
    let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(3))?;
    let round = training.round(&mut Toy::new(&fixture, 0.01), &fixture.candidates, &mut |_, _, _| {});
    let said = render(&round.expect_err("an infinite learning rate"));
    assert!(said.contains("after round 0") && said.contains("the policy has diverged"), "{said}");
    assert!(said.ends_with("hint: a lower actor_learning_rate, or ratio = \"mean\""), "{said}");
    Ok(())
}

#[test]
fn a_model_whose_performance_is_not_finite_is_refused_before_the_first_step() -> Result<()> {
    let fixture = fixture(2);
    let mut training = PolicyTraining::new(&fixture.candidates, toy_config(PolicyForm::Flat), Seed::new(3))?;
    let round = training.round(&mut Toy::new(&fixture, f64::NAN), &fixture.candidates, &mut |_, _, _| {});
    assert!(render(&round.expect_err("the performance is NaN")).contains("is NaN before any training"));
    Ok(())
}

/// The log-ratio of every draw of some episodes under the present policy, computed in minibatches of `size` steps.
fn log_ratios(
    training: &PolicyTraining,
    candidates: &Candidates,
    episodes: &[Episode],
    size: usize,
) -> Result<Vec<f32>> {
    let scoring = Scoring::new(&training.policy, candidates);
    let steps: Vec<(State, &Step)> = episodes.iter().flat_map(Episode::steps_with_states).collect();
    let mut found = Vec::new();
    for steps in steps.chunks(size) {
        let states: Vec<State> = steps.iter().map(|(state, _)| *state).collect();
        let actions: Vec<&DrawnBatch> = steps.iter().map(|(_, step)| &step.action).collect();
        let replay = scoring.replay(&training.policy, &states, &actions);
        for (level, log_probs) in replay.levels.into_iter().enumerate() {
            let Some(log_probs) = log_probs else { continue };
            let picks = actions.iter().flat_map(|action| action.levels()[level]);
            let old: Vec<f32> = picks.flat_map(|picks| picks.log_probs.clone()).collect();
            found.extend(Vec::<f32>::try_from(log_probs - Tensor::from_slice(&old))?);
        }
    }
    Ok(found)
}

/// The update scores many states at once, but a draw scores a single state. Matrix products of different shapes may
/// round differently: an f32 score of size s is exact to about s 2^-23. No other difference is allowed.
#[test]
fn unchanged_weights_give_every_draw_the_probability_that_it_was_drawn_with() -> Result<()> {
    tch::set_num_threads(1);
    for (form, clusters) in [(PolicyForm::Hierarchical, 6), (PolicyForm::PerCluster, 6), (PolicyForm::Flat, 6)] {
        // With so few candidates, most of them are selected several times.
        let fixture = sized_fixture(4, clusters, 2);
        let config = PpoSettings { steps: 12, reuse_penalty: 0.3, rounds: 5, ..toy_config(form) };
        let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(3))?;
        for _ in 0..2 {
            training.round(&mut toys(&fixture, 3), &fixture.candidates, &mut |_, _, _| {})?;
        }
        let seed = Seed::new(5);
        let episodes = training.play(&mut toys(&fixture, 3), &fixture.candidates, &seed, &mut |_, _, _| {})?;
        let reused = episodes.iter().flat_map(|episode| &episode.selection).map(|row| row.times_selected).max();
        assert!(reused >= Some(3), "{form:?}: {reused:?}");
        for size in [1, 7, 36] {
            let ratios = log_ratios(&training, &fixture.candidates, &episodes, size)?;
            assert!(ratios.len() >= 3 * 12 * 16, "{form:?}");
            let largest = ratios.iter().fold(0.0f32, |largest, ratio| largest.max(ratio.abs()));
            let allowed = if size == 1 { 0.0 } else { 4e-6 };
            assert!(largest <= allowed, "{form:?}, {size} steps at once: {largest}");
        }
        tch::no_grad(|| {
            for (_, mut weight) in training.policy.parameters() {
                let _ = weight.g_mul_scalar_(1.1);
            }
        });
        let changed = log_ratios(&training, &fixture.candidates, &episodes, 7)?;
        assert!(changed.iter().any(|ratio| ratio.abs() > 1e-3), "{form:?}");
    }
    Ok(())
}

#[test]
fn the_improvements_of_all_rounds_have_the_same_unit_in_the_regression() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(2);
    let config = PpoSettings { rounds: 3, steps: 6, ..toy_config(PolicyForm::Hierarchical) };
    let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(3))?;
    let mut gained = Vec::new();
    for _ in 0..2 {
        let round = training.round(&mut toys(&fixture, 2), &fixture.candidates, &mut |_, _, _| {})?;
        for steps in round.steps.chunks(6) {
            let mut sum = 0.0;
            for step in steps {
                gained.push(sum);
                sum += step.reward;
            }
        }
    }
    let scale = training.policy.constants.performance_scale;
    assert!((scale - 1.0).abs() > 0.1, "{scale}");
    // Column 6 of a row is the covariate `improvement`.
    let credited = Vec::<f64>::try_from(training.contributions.tensor().select(1, 6))?;
    assert_eq!(credited.len(), gained.len());
    for (step, (credited, gained)) in credited.iter().zip(&gained).enumerate() {
        assert!((credited - gained / scale).abs() < 1e-12, "step {step}: {credited} is not {gained} / {scale}");
    }
    Ok(())
}

#[test]
fn the_kept_policy_is_the_mean_of_the_last_half_the_best_or_the_last() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(2);
    let config = PpoSettings { rounds: 4, steps: 6, ..toy_config(PolicyForm::Hierarchical) };
    let weights = |policy: &Policy| -> Vec<Tensor> {
        policy.parameters().iter().map(|(_, weight)| weight.detach().copy()).collect()
    };
    for keep in [Keep::Average, Keep::Best, Keep::Last] {
        let config = PpoSettings { keep, ..config.clone() };
        let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(3))?;
        assert!(training.kept().is_none());
        let mut after = Vec::new();
        for _ in 0..4 {
            training.round(&mut Toy::new(&fixture, 0.01), &fixture.candidates, &mut |_, _, _| {})?;
            after.push(weights(&training.policy));
        }
        let kept = training.kept().context("a policy is kept")?;
        let expected: Vec<Tensor> = match keep {
            Keep::Average => after[2].iter().zip(&after[3]).map(|(one, two)| (one + two) / 2.0).collect(),
            Keep::Best => weights(training.best.as_ref().context("a best policy")?),
            Keep::Last => after[3].iter().map(Tensor::shallow_clone).collect(),
        };
        for (found, expected) in weights(kept).iter().zip(&expected) {
            assert!(found.allclose(expected, 1e-6, 1e-7, false), "{keep:?}");
        }
        let scale = |policy: &Policy| policy.constants.performance_scale.to_bits();
        assert_eq!(scale(kept), scale(&training.policy), "{keep:?}");
    }
    Ok(())
}

#[test]
fn the_range_of_the_improvement_is_that_of_all_states_of_the_training() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(2);
    let config = PpoSettings { rounds: 3, steps: 6, ..toy_config(PolicyForm::Hierarchical) };
    let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(3))?;
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for _ in 0..3 {
        let round = training.round(&mut Toy::new(&fixture, 0.05), &fixture.candidates, &mut |_, _, _| {})?;
        let mut improvement = 0.0;
        for step in &round.steps {
            (low, high) = (f64::min(low, improvement), f64::max(high, improvement));
            improvement += step.reward;
        }
    }
    let [found_low, found_high] = training.policy.constants.improvement_range.context("a range")?;
    assert!((found_low - low).abs() < 1e-12 && (found_high - high).abs() < 1e-12);
    assert!(high > low);
    Ok(())
}
