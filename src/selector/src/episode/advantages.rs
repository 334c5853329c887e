//! What every draw of a round's episodes is credited with: advantages by GAE, and contributions estimated over all rounds so
//! far. Leaves the formulas to [`ppo`] and the regressions to [`crate::credit`].

use tch::{Kind, Tensor};

use super::{Episode, Training};
use crate::credit::{When, features};
use crate::ppo;
use crate::state::Candidates;
use raisin_base::error::Result;
use raisin_settings::ppo::{Baseline, Credit};

impl Training {
    /// Fills in advantages and returns. Returns explained_variance and the reliability of credit.
    pub(super) fn advantages(
        &mut self,
        episodes: &mut [Episode],
        candidates: &Candidates,
    ) -> Result<(Option<f64>, Option<f64>)> {
        let gains: Vec<Vec<f64>> =
            episodes.iter().map(|episode| episode.steps.iter().map(|step| step.reward).collect()).collect();
        let scale = if self.config.normalise_reward { self.reward_scale(&gains.concat()) } else { 1.0 };
        let mean_gains: Vec<f64> = (0..self.config.steps)
            .map(|step| gains.iter().map(|gains| gains[step]).sum::<f64>() / gains.len() as f64)
            .collect();
        let baseline = self.step_baseline.absorb(&mean_gains);
        let (mut all_values, mut all_advantages, mut all_returns) = (vec![], vec![], vec![]);
        for (episode, gains) in episodes.iter().zip(&gains) {
            let rewards: Vec<f64> = match self.config.baseline {
                Baseline::Critic => gains.iter().map(|gain| gain / scale).collect(),
                Baseline::Step | Baseline::Both => {
                    gains.iter().zip(&baseline).map(|(gain, mean)| (gain - mean) / scale).collect()
                }
            };
            let values: Vec<f64> = episode.steps.iter().map(|step| step.value).collect();
            let (advantages, returns) = ppo::gae(&rewards, &values, self.config.gamma, self.config.lambda);
            all_values.extend(values);
            all_advantages.extend(advantages);
            all_returns.extend(returns);
        }
        let explained_variance = ppo::explained_variance(&all_values, &all_returns);
        if self.config.normalise_advantage {
            all_advantages = ppo::normalise(&all_advantages);
        }
        let transitions = episodes.iter_mut().flat_map(|episode| &mut episode.transitions);
        for (transition, (advantage, of_return)) in transitions.zip(all_advantages.iter().zip(&all_returns)) {
            let sets = transition.action.sets.as_ref().map_or(0, |picks| picks.drawn.len());
            let items: usize = transition.action.items.iter().map(|picks| picks.drawn.len()).sum();
            transition.advantages = vec![*advantage; sets + items];
            transition.returns = *of_return;
        }
        let reliability = match self.config.credit {
            Credit::Shared => None,
            Credit::Contribution => Some(self.credit(episodes, candidates, &gains)?),
        };
        Ok((explained_variance, reliability))
    }

    /// Credits every draw with its estimated contribution, as far as the estimate can be trusted.
    fn credit(&mut self, episodes: &mut [Episode], candidates: &Candidates, gains: &[Vec<f64>]) -> Result<f64> {
        let table = features(candidates);
        let mut rows = Vec::new();
        self.contributions.age();
        for (episode, gains) in episodes.iter().zip(gains) {
            let mut counts = vec![0.0f64; candidates.len()];
            let mut gained = 0.0;
            for (step, positions) in episode.positions.iter().enumerate() {
                let index: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
                let items = table.index_select(0, &Tensor::from_slice(&index));
                let mean: Vec<f64> = Vec::try_from(items.mean_dim([0i64].as_slice(), false, Kind::Double))?;
                let reuse = positions.iter().map(|&position| counts[position].ln_1p()).sum::<f64>();
                let when = When {
                    time: step as f64 / self.config.steps as f64,
                    improvement: gained / self.policy.constants.performance_scale,
                    reuse: reuse / positions.len() as f64,
                };
                self.contributions.push(when, gains[step], &mean);
                gained += gains[step];
                positions.iter().for_each(|&position| counts[position] += 1.0);
                rows.push(items);
            }
        }
        let estimate = self.contributions.estimate()?;
        let effects = estimate.effects.unsqueeze(1);
        // Deviations over the pool, so that credit fades as the policy comes to choose only what helps.
        let item_scale = table.matmul(&effects).std(true).double_value(&[]) + 1e-12;
        let trust = estimate.reliability;
        let credits: Vec<Vec<f64>> =
            rows.iter().map(|items| Vec::try_from(items.matmul(&effects).squeeze_dim(1))).collect::<Result<_, _>>()?;
        let all: Vec<f64> = credits.concat();
        let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
        let transitions = episodes.iter_mut().flat_map(|episode| &mut episode.transitions);
        for (transition, credits) in transitions.zip(&credits) {
            let mut own: Vec<f64> = Vec::with_capacity(transition.advantages.len());
            if transition.action.sets.is_some() {
                let mut offset = 0;
                for picks in &transition.action.items {
                    let of_set = &credits[offset..offset + picks.drawn.len()];
                    own.push(of_set.iter().sum::<f64>() / of_set.len().max(1) as f64);
                    offset += picks.drawn.len();
                }
            }
            own.extend(credits);
            for (advantage, own) in transition.advantages.iter_mut().zip(own) {
                *advantage = (1.0 - trust) * *advantage + trust * (own - mean) / item_scale;
            }
        }
        Ok(trust)
    }

    /// The standard deviation of all rewards so far.
    fn reward_scale(&mut self, gains: &[f64]) -> f64 {
        self.rewards[0] += gains.len() as f64;
        self.rewards[1] += gains.iter().sum::<f64>();
        self.rewards[2] += gains.iter().map(|gain| gain * gain).sum::<f64>();
        let [weight, sum, squares] = self.rewards;
        let deviation = (squares / weight - (sum / weight).powi(2)).max(0.0).sqrt();
        if deviation > 0.0 { deviation } else { 1.0 }
    }
}
