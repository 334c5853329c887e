//! Rounds: restore the model, train T steps under the policy, update the policy; and keep the best one.
//!
//! A round plays one episode or several in step with each other, and learns from all of them in one update.
//!
//! A [`Training`] stands between two rounds. All of it is in [`Training::save`], so that after a kill
//! [`Training::load`] goes on to the same bytes as an undisturbed run; an unfinished round is played again. What each
//! draw of an episode is credited with is in `advantages`.

mod advantages;

use std::path::Path;

use tch::Tensor;

use super::actor::Actor;
use super::credit::{Contributions, StepBaseline};
use super::policy::Policy;
use super::sampling::Draw;
use super::save::{fill, read_tensors, write_tensors};
use super::state::Candidates;
use super::update::{Optimizers, Transition, update};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::learner::{Ensemble, Trained};
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Baseline, Config};

/// One row of the table `rounds`.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundRow {
    pub round: usize,
    /// Sum of the rewards: P(M_T) - P(M_0). With several episodes in a round, this and what follows are means.
    pub episode_reward: f64,
    pub final_performance: f64,
    pub policy_loss: f64,
    pub value_loss: f64,
    pub entropy: f64,
    pub approx_kl: f64,
    pub clipfrac: f64,
    /// `None` where the returns do not vary.
    pub explained_variance: Option<f64>,
    /// exp(entropy): over how many candidates one slot of a batch is spread.
    pub effective_candidates: f64,
    pub actor_learning_rate: f64,
    pub epochs: usize,
    /// Reliability of the contribution estimate, where it is used.
    pub credit_reliability: Option<f64>,
    /// Whether the policy that played this round is the best so far.
    pub kept: bool,
}

/// One row of the table `steps`.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRow {
    pub round: usize,
    pub episode: usize,
    pub step: usize,
    pub loss: f64,
    /// P(M_{t+1}), where it was measured.
    pub performance: Option<f64>,
    pub reward: f64,
    pub value: f64,
    pub learning_rate: f64,
    pub tokens: u64,
    pub supervised_tokens: u64,
    pub flops: f64,
}

/// One row of the table `selection`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelectionRow {
    pub round: usize,
    pub episode: usize,
    pub step: usize,
    pub slot: usize,
    pub id: u32,
    pub cluster: u32,
    pub score: f64,
    pub log_prob: f64,
    pub times_selected: u32,
}

/// Everything that one round has to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    pub row: RoundRow,
    pub steps: Vec<StepRow>,
    pub selection: Vec<SelectionRow>,
}

/// Told after every step: the round, the step as each episode made it, and the newest mean performance relative to the
/// start.
pub type OnStep<'a> = &'a mut dyn FnMut(usize, &[&StepRow], f64);

/// PPO between two rounds.
pub struct Training {
    pub config: Config,
    pub policy: Policy,
    /// The policy of the best episode, by [`standing`].
    pub best: Option<Policy>,
    best_performance: f64,
    optimizers: Optimizers,
    step_baseline: StepBaseline,
    contributions: Contributions,
    /// Weight, sum and sum of squares of the rewards so far.
    rewards: [f64; 3],
    rounds_done: usize,
    seed: Seed,
}

/// An episode before its advantages are known.
struct Episode {
    transitions: Vec<Transition>,
    steps: Vec<StepRow>,
    selection: Vec<SelectionRow>,
    positions: Vec<Vec<usize>>,
    start: f64,
    /// The newest performance, and how many steps were made since.
    known: f64,
    unrewarded: usize,
}

impl Episode {
    fn new(start: f64) -> Self {
        let (transitions, steps, selection, positions) = (vec![], vec![], vec![], vec![]);
        Self { transitions, steps, selection, positions, start, known: start, unrewarded: 0 }
    }

    /// Completes the newest row of `steps` with what training on its batch did.
    fn record(&mut self, trained: &Trained, performance: Option<f64>) {
        if let Some(row) = self.steps.last_mut() {
            row.loss = trained.loss;
            row.performance = performance;
            row.learning_rate = trained.learning_rate;
            row.tokens = trained.tokens;
            row.supervised_tokens = trained.supervised_tokens;
            row.flops = trained.flops;
        }
        if let Some(performance) = performance {
            // The steps since the last measurement share what was gained.
            let reward = (performance - self.known) / self.unrewarded as f64;
            let first = self.steps.len() - self.unrewarded;
            self.steps[first..].iter_mut().for_each(|row| row.reward = reward);
            (self.known, self.unrewarded) = (performance, 0);
        }
    }
}

impl Training {
    pub fn new(candidates: &Candidates, config: Config, seed: Seed) -> Result<Self> {
        if candidates.len() < config.batch_size {
            return Err(Problem::new(format!(
                "there are {} candidates, fewer than one batch of {}",
                candidates.len(),
                config.batch_size
            ))
            .hint("a larger pool, or a smaller batch")
            .into());
        }
        let policy = Policy::new(&config, candidates.columns.clone(), &seed.at("policy"));
        let optimizers = Optimizers::new(&policy);
        Ok(Self {
            config,
            policy,
            best: None,
            best_performance: f64::NEG_INFINITY,
            optimizers,
            step_baseline: StepBaseline::default(),
            contributions: Contributions::default(),
            rewards: [0.0; 3],
            rounds_done: 0,
            seed,
        })
    }

    pub fn rounds_done(&self) -> usize {
        self.rounds_done
    }

    /// Plays the learners' episodes and learns from them.
    pub fn round(&mut self, learners: &mut dyn Ensemble, candidates: &Candidates, on_step: OnStep) -> Result<Round> {
        let round = self.rounds_done;
        let seed = self.seed.at("round").at(round);
        let mut episodes = self.play(learners, candidates, &seed, on_step)?;
        let mean = |of: &dyn Fn(&Episode) -> f64| episodes.iter().map(of).sum::<f64>() / episodes.len() as f64;
        let start = mean(&|episode| episode.start);
        let final_performance =
            mean(&|episode| episode.start + episode.steps.iter().map(|step| step.reward).sum::<f64>());
        let standing = mean(&|episode| standing(&episode.steps));
        let kept = standing > self.best_performance;
        if kept {
            self.best_performance = standing;
            self.best = Some(self.policy.duplicate()?);
        }

        let (explained_variance, credit_reliability) = self.advantages(&mut episodes, candidates)?;
        let rate = if self.config.decay_learning_rate { 1.0 - round as f64 / self.config.rounds as f64 } else { 1.0 };
        if round == 0 {
            self.set_performance_scale(&episodes);
        }
        let (mut transitions, mut steps, mut selection) = (vec![], vec![], vec![]);
        for episode in episodes {
            transitions.extend(episode.transitions);
            steps.extend(episode.steps);
            selection.extend(episode.selection);
        }
        let statistics = update(
            &self.policy,
            &mut self.optimizers,
            candidates,
            &transitions,
            &self.config,
            rate,
            &seed.at("update"),
        )
        .with_context(|| format!("cannot update the policy after round {round}"))?;
        self.rounds_done += 1;
        let row = RoundRow {
            round,
            episode_reward: final_performance - start,
            final_performance,
            policy_loss: statistics.policy_loss,
            value_loss: statistics.value_loss,
            entropy: statistics.entropy,
            approx_kl: statistics.approx_kl,
            clipfrac: statistics.clipfrac,
            explained_variance,
            effective_candidates: statistics.entropy.exp(),
            actor_learning_rate: rate * self.config.actor_learning_rate,
            epochs: statistics.epochs,
            credit_reliability,
            kept,
        };
        Ok(Round { row, steps, selection })
    }

    fn play(
        &self,
        learners: &mut dyn Ensemble,
        candidates: &Candidates,
        seed: &Seed,
        on_step: OnStep,
    ) -> Result<Vec<Episode>> {
        let config = &self.config;
        let start = learners.restore_all()?;
        if !start.is_finite() {
            return Err(Problem::new(format!("the performance of the model is {start} before any training"))
                .hint("the stage that made the model may have diverged: look at its `steps`")
                .into());
        }
        // The first episode of a round draws as the only one would.
        let seeds: Vec<Seed> = (0..learners.episodes())
            .map(|episode| if episode == 0 { *seed } else { seed.at("episode").at(episode) })
            .collect();
        let mut actors = seeds
            .iter()
            .map(|_| Actor::new(&self.policy, candidates, config.batch_size))
            .collect::<Result<Vec<_>>>()?;
        let mut episodes: Vec<Episode> = seeds.iter().map(|_| Episode::new(start)).collect();
        for step in 0..config.steps {
            let mut batches = Vec::with_capacity(episodes.len());
            for (number, (episode, (actor, seed))) in episodes.iter_mut().zip(actors.iter_mut().zip(&seeds)).enumerate()
            {
                batches.push(self.choose(number, episode, actor, candidates, &seed.at("step").at(step), step)?);
            }
            let trained = learners.step_all(&batches)?;
            for (episode, actor) in episodes.iter_mut().zip(&mut actors) {
                actor.take(&episode.positions[step], candidates)?;
                episode.unrewarded += 1;
            }
            let due = (step + 1) % config.evaluate_every.max(1) == 0 || step + 1 == config.steps;
            let performances = if due { Some(learners.performances()?) } else { None };
            for (number, (episode, trained)) in episodes.iter_mut().zip(trained).enumerate() {
                let performance = performances.as_ref().map(|performances| performances[number]);
                if let Some(performance) = performance.filter(|value| !value.is_finite()) {
                    return Err(Problem::new(format!(
                        "the model's performance became {performance} after step {step} of round {}",
                        self.rounds_done
                    ))
                    .hint("a lower learning rate of the model")
                    .into());
                }
                episode.record(&trained, performance);
            }
            let rows: Vec<&StepRow> = episodes.iter().filter_map(|episode| episode.steps.last()).collect();
            let gained = episodes.iter().map(|episode| episode.known - start).sum::<f64>() / episodes.len() as f64;
            on_step(self.rounds_done, &rows, gained);
        }
        Ok(episodes)
    }

    /// The next batch of an episode. Its row of the table `steps` begins with the choice.
    fn choose(
        &self,
        number: usize,
        episode: &mut Episode,
        actor: &Actor,
        candidates: &Candidates,
        seed: &Seed,
        step: usize,
    ) -> Result<Vec<u32>> {
        let stage = self.policy.stage(episode.known - episode.start, step, self.config.steps);
        let mut rng = seed.rng();
        let draw = if self.config.explore { Draw::Sample(&mut rng) } else { Draw::Top };
        let action = actor.act(&self.policy, stage, draw)?;
        let value = self.value(&action.pooled);
        let positions = actor.positions(&action);
        let drawn = action.items.iter().flat_map(|picks| picks.scores.iter().zip(&picks.log_probs));
        for (slot, (&position, (&score, &log_prob))) in positions.iter().zip(drawn).enumerate() {
            episode.selection.push(SelectionRow {
                round: self.rounds_done,
                episode: number,
                step,
                slot,
                id: candidates.ids[position],
                cluster: candidates.clusters[position],
                score: f64::from(score),
                log_prob: f64::from(log_prob),
                times_selected: actor.counts[position] as u32,
            });
        }
        episode.steps.push(StepRow {
            round: self.rounds_done,
            episode: number,
            step,
            loss: 0.0,
            performance: None,
            reward: 0.0,
            value,
            learning_rate: 0.0,
            tokens: 0,
            supervised_tokens: 0,
            flops: 0.0,
        });
        let batch = positions.iter().map(|&position| candidates.ids[position]).collect();
        episode.transitions.push(Transition { stage, action, advantages: Vec::new(), returns: 0.0 });
        episode.positions.push(positions);
        Ok(batch)
    }

    fn value(&self, pooled: &[f32]) -> f64 {
        if self.config.baseline == Baseline::Step {
            return 0.0;
        }
        tch::no_grad(|| self.policy.critic.forward(&Tensor::from_slice(pooled)).double_value(&[]))
    }

    fn set_performance_scale(&mut self, episodes: &[Episode]) {
        let mut largest = 0.0f64;
        for episode in episodes {
            let mut improvement = 0.0f64;
            for step in &episode.steps {
                improvement += step.reward;
                largest = largest.max(improvement.abs());
            }
        }
        if largest > 0.0 {
            self.policy.constants.performance_scale = largest;
            if let Some(best) = &mut self.best {
                best.constants.performance_scale = largest;
            }
        }
    }

    /// Writes everything that the next rounds depend on into one file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = self.policy.parameters();
        if let Some(best) = &self.best {
            tensors.extend(best.parameters().into_iter().map(|(name, weight)| (format!("best.{name}"), weight)));
        }
        tensors.extend(self.optimizers.actor.tensors("actor."));
        tensors.extend(self.optimizers.critic.tensors("critic."));
        tensors.push(("step_baseline".to_owned(), self.step_baseline.tensor()));
        tensors.push(("contributions".to_owned(), self.contributions.tensor()));
        let numbers = [
            self.rounds_done as f64,
            f64::from(self.optimizers.actor.steps()),
            f64::from(self.optimizers.critic.steps()),
            self.best_performance,
            self.policy.constants.performance_scale,
            self.rewards[0],
            self.rewards[1],
            self.rewards[2],
        ];
        tensors.push(("numbers".to_owned(), Tensor::from_slice(&numbers)));
        write_tensors(path, &tensors)
    }

    /// A training of the same candidates, configuration and seed, as [`Training::save`] left it.
    pub fn load(path: &Path, candidates: &Candidates, config: Config, seed: Seed) -> Result<Self> {
        let stored = read_tensors(path)?;
        let named = |name: &str| stored.get(name).with_context(|| format!("no `{name}` in {}", path.display()));
        let mut training = Self::new(candidates, config, seed)?;
        let numbers: Vec<f64> = Vec::try_from(named("numbers")?)?;
        let [rounds, actor, critic, best, scale, weight, sum, squares] =
            <[f64; 8]>::try_from(numbers).map_err(|_| Problem::new(format!("{} is damaged", path.display())))?;
        training.policy.constants.performance_scale = scale;
        fill(&training.policy.parameters(), &stored, "")?;
        fill(&training.optimizers.actor.tensors("actor."), &stored, "")?;
        fill(&training.optimizers.critic.tensors("critic."), &stored, "")?;
        training.optimizers.actor.set_steps(actor as i32);
        training.optimizers.critic.set_steps(critic as i32);
        if best.is_finite() {
            let policy = training.policy.duplicate()?;
            fill(&policy.parameters(), &stored, "best.")?;
            training.best = Some(policy);
        }
        training.best_performance = best;
        training.step_baseline = StepBaseline::from_tensor(named("step_baseline")?)?;
        training.contributions = Contributions::from_tensor(named("contributions")?)?;
        training.rewards = [weight, sum, squares];
        training.rounds_done = rounds as usize;
        Ok(training)
    }
}

/// What an episode is judged by: the mean performance over its last quarter. A single last measurement would let luck
/// decide between policies that are nearly as good (with noise, it kept one from before the policy was done learning).
fn standing(steps: &[StepRow]) -> f64 {
    let last: Vec<f64> = steps[steps.len() * 3 / 4..].iter().filter_map(|step| step.performance).collect();
    last.iter().sum::<f64>() / last.len().max(1) as f64
}

#[cfg(test)]
mod tests;
