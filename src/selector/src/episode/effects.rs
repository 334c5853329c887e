//! Measured effects in a round: which candidates are measured, what a regression learns from them, and what the policy
//! makes of it (docs/method.md, section 4, `credit = "effect"` and `learner = "posterior"`).

use tch::{Kind as TensorKind, Tensor};

use super::played::{EffectMeasurement, Episode};
use super::{PolicyTraining, Step};
use crate::credit::CandidateEffects;
use crate::features::{self, features_at, products};
use crate::posterior::{MeasuredEffects, Posterior, weighted_effects};
use crate::rows::{EffectRow, RoundRow};
use crate::scoring::Scoring;
use crate::state::Candidates;
use raisin_base::error::{Result, ensure};
use raisin_base::learner::Ensemble;
use raisin_settings::ppo::{Credit, StatePart};

/// The last feature of a measured candidate is this number for each earlier selection in the training, of which at most
/// [`MOST_SELECTIONS`] count. A repeated row has a smaller effect, because the model knows it already. Without this
/// feature, the regression would blame the columns of the rows that the policy prefers. The large unit means that the
/// regression hardly shrinks the weight. Scores do not read this feature: the reuse penalty takes its place.
pub const SELECTION_UNIT: f64 = 10.0;
const MOST_SELECTIONS: usize = 3;

/// See [`EffectRegression::new`](crate::posterior::EffectRegression::new); the last feature is the number of selections.
pub(super) fn is_one_of_many(candidates: &Candidates) -> Vec<bool> {
    features::is_one_of_many(candidates).into_iter().chain([false]).collect()
}

/// What all measurements so far say.
pub(super) struct Learned {
    /// `None` if nothing was measured that differs.
    pub posterior: Option<Posterior>,
    /// How far the measured effects explain the effects of other candidates, from 0 to 1.
    pub reliability: f64,
}

impl PolicyTraining {
    /// Measures the effects of the batch of each episode and of its probes, every `effects_every` steps.
    pub(super) fn measure_effects(
        &self,
        learners: &mut dyn Ensemble,
        episodes: &mut [Episode],
        steps: &[Step],
        candidates: &Candidates,
    ) -> Result<()> {
        let t = episodes.first().map_or(0, |episode| episode.steps.len());
        if self.config.credit != Credit::Effect || !t.is_multiple_of(self.config.effects_every) {
            return Ok(());
        }
        let chosen: Vec<Vec<usize>> =
            episodes.iter().zip(steps).map(|(episode, step)| self.probed(episode, step, t, candidates)).collect();
        let ids = |positions: &Vec<usize>| positions.iter().map(|&position| candidates.ids[position]).collect();
        let measured = learners.effects(&chosen.iter().map(ids).collect::<Vec<_>>())?;
        for (((episode, step), positions), effects) in episodes.iter_mut().zip(steps).zip(chosen).zip(measured) {
            ensure!(effects.len() == positions.len(), "{} effects for {} candidates", effects.len(), positions.len());
            let drawn = step.positions.len();
            let weighted = weighted_effects(&effects);
            episode.measurements.push(EffectMeasurement { step: t, positions, drawn, effects, weighted });
        }
        Ok(())
    }

    /// The batch, and probes that are not in the batch: uniform draws without replacement.
    fn probed(&self, episode: &Episode, step: &Step, t: usize, candidates: &Candidates) -> Vec<usize> {
        let mut positions = step.positions.clone();
        let free = candidates.len() - positions.len();
        let mut rng = episode.seed.at("probes").at(t).rng();
        let wanted = positions.len() + self.config.probes.min(free);
        while positions.len() < wanted {
            let position = (rng.unit() * candidates.len() as f64) as usize;
            if position < candidates.len() && !positions.contains(&position) {
                positions.push(position);
            }
        }
        positions
    }

    /// Adds the measurements of a round to the regression, and estimates the weights.
    pub(super) fn learn_effects(&mut self, episodes: &[Episode], candidates: &Candidates) -> Result<Learned> {
        let total = self.config.steps.max(1) as f64;
        // In the unit of the regression, one standard deviation of the effects, the prior's score is rho z.
        let prior = candidates.prior.as_ref().zip(self.policy.constants.prior.as_ref());
        let prior = prior.map(|(column, prior)| column * (prior.weight / self.config.sharpness));
        // Without the stage in the state, effects cannot change over the training.
        let time_of = |step: usize| if self.config.uses(StatePart::Stage) { step as f64 / total } else { 0.5 };
        let counts_matter = self.config.uses(StatePart::Availability);
        let all = episodes.iter().flat_map(|episode| episode.measurements.iter().map(move |it| (&episode.history, it)));
        for (history, measurement) in all {
            let index: Vec<i64> = measurement.positions.iter().map(|&position| position as i64).collect();
            let index = Tensor::from_slice(&index);
            let ids: Vec<u32> = measurement.positions.iter().map(|&position| candidates.ids[position]).collect();
            let selections = measurement.positions.iter().map(|&position| {
                let count = history.count(position, measurement.step).min(MOST_SELECTIONS);
                if counts_matter { SELECTION_UNIT * count as f64 } else { 0.0 }
            });
            let selections = Tensor::from_slice(&selections.collect::<Vec<f64>>()).unsqueeze(1); // [n, 1]
            self.effects.add(&MeasuredEffects {
                time: time_of(measurement.step),
                ids: &ids,
                features: &Tensor::cat(&[features_at(candidates, &measurement.positions), selections], 1), // [n, F + C + 1]
                prior: prior.as_ref().map(|prior| prior.index_select(0, &index)).as_ref(),
                effects: &measurement.weighted,
            })?;
        }
        let posterior = self.effects.estimate()?;
        let reliability = posterior.as_ref().map_or(0.0, |posterior| posterior.reliability);
        Ok(Learned { posterior, reliability })
    }

    /// The expected effect of each candidate, in standard deviations of the effects. With a prior, the prior's part is
    /// included.
    pub(super) fn candidate_effects(&self, candidates: &Candidates, learned: &Learned) -> CandidateEffects {
        let zeros = Tensor::zeros([candidates.len() as i64], (TensorKind::Double, candidates.state.device()));
        let mut effects = CandidateEffects { middle: zeros.shallow_clone(), change: zeros };
        if let Some(posterior) = &learned.posterior {
            let width = candidates.columns.len() + candidates.ranges.len(); // F + C
            let mean = posterior.mean_of(width).to_kind(TensorKind::Double); // [F + C, 2]
            let all = products(candidates, &mean); // [N, 2]
            effects = CandidateEffects { middle: all.select(1, 0), change: all.select(1, 1) };
        }
        if let Some((column, prior)) = candidates.prior.as_ref().zip(self.policy.constants.prior.as_ref()) {
            effects.middle = &effects.middle + column * (prior.weight / self.config.sharpness);
        }
        effects
    }

    /// `learner = "posterior"`: the policy of the next round has weights that are drawn from the posterior, and the best
    /// policy has the mean weights. Returns the statistics of the round.
    pub(super) fn follow_posterior(
        &mut self,
        episodes: &[Episode],
        candidates: &Candidates,
        learned: &Learned,
    ) -> Result<RoundRow> {
        let entropy = self.mean_entropy(episodes, candidates);
        let features = candidates.columns.len() + candidates.ranges.len(); // F + C
        if let Some(posterior) = &learned.posterior {
            let mut rng = self.seed.at("posterior").at(self.rounds_done).rng();
            let drawn = if self.config.explore { posterior.draw(&mut rng) } else { posterior.mean.copy() };
            self.policy.set_linear(&(drawn.narrow(0, 0, features as i64) * self.config.sharpness));
        }
        let mut best = self.policy.duplicate()?;
        if let Some(posterior) = &learned.posterior {
            best.set_linear(&(posterior.mean_of(features) * self.config.sharpness));
        }
        self.best = Some(best);
        Ok(RoundRow { entropy, effective_candidates: entropy.exp(), ..RoundRow::default() })
    }

    /// The mean entropy of a slot over all steps, under the policy that played them.
    fn mean_entropy(&self, episodes: &[Episode], candidates: &Candidates) -> f64 {
        let scoring = Scoring::without_gradients(&self.policy, candidates);
        let (mut sum, mut count) = (0.0, 0.0);
        for (state, step) in episodes.iter().flat_map(Episode::steps_with_states) {
            let replay = tch::no_grad(|| scoring.replay(&self.policy, &[state], &[&step.action]));
            sum += replay.entropy.double_value(&[0]);
            count += 1.0;
        }
        sum / f64::max(count, 1.0)
    }

    /// The rows of the table `effects`.
    pub(super) fn effect_rows(episodes: &[Episode], candidates: &Candidates) -> Vec<EffectRow> {
        let mut rows = Vec::new();
        for episode in episodes {
            for measurement in &episode.measurements {
                let measured = measurement.effects.iter().zip(&measurement.weighted);
                for (place, (&position, (row, &weighted_effect))) in
                    measurement.positions.iter().zip(measured).enumerate()
                {
                    rows.push(EffectRow {
                        round: episode.round,
                        episode: episode.number,
                        step: measurement.step,
                        id: candidates.ids[position],
                        effect: row.effect,
                        weighted_effect,
                        drawn: place < measurement.drawn,
                    });
                }
            }
        }
        rows
    }
}
