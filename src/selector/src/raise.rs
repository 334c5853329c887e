//! The chooser of a trained policy.
//!
//! The performance in the stage part of the state is [`StepContext::performance`] minus P(M_0) of the same run. If a
//! step has no measurement, the last measurement is used. The difference is limited to the range of the training: a
//! network outside its range is saturated.

use serde_json::{Value, json};

use super::chooser::{Chooser, SelectedCandidate, StepContext};
use super::policy::Policy;
use super::sampling::DrawMode;
use super::scoring::Scoring;
use super::state::{Candidates, SelectionHistory, State};
use raisin_base::error::{Context as _, Result};
use raisin_base::seed::Seed;
use raisin_settings::ppo::Deployment;

pub struct Raise {
    policy: Policy,
    candidates: Candidates,
    scoring: Scoring,
    history: SelectionHistory,
    batch_size: usize,
    seed: Seed,
    /// P(M_0) and the last measured performance.
    performance: Option<(f64, f64)>,
    /// The positions of each batch so far.
    taken: Vec<Vec<usize>>,
    /// The number of steps whose improvement was outside the range of the training.
    limited: usize,
}

impl Raise {
    pub fn new(policy: Policy, candidates: Candidates, batch_size: usize, seed: Seed) -> Result<Self> {
        let candidates = match &policy.constants.prior {
            Some(prior) => candidates.with_prior(&prior.column),
            None => candidates,
        };
        let candidates = candidates.with_columns(&policy.constants.columns)?;
        policy.check(&candidates, batch_size)?;
        let scoring = Scoring::without_gradients(&policy, &candidates);
        let history = SelectionHistory::new(&candidates);
        let (performance, taken) = (None, Vec::new());
        Ok(Self { policy, candidates, scoring, history, batch_size, seed, performance, taken, limited: 0 })
    }
}

impl Chooser for Raise {
    fn choose(&mut self, context: &StepContext) -> Result<Vec<SelectedCandidate>> {
        if let Some(now) = context.performance {
            self.performance = Some((self.performance.map_or(now, |(start, _)| start), now));
        }
        let improvement = self.performance.map_or(0.0, |(start, now)| now - start);
        let seen = self.policy.constants.seen_improvement(improvement);
        self.limited += usize::from(self.wants_performance() && (seen - improvement).abs() > 0.0);
        let stage = self.policy.stage(seen, context.step, context.total_steps);
        let mut rng = self.seed.at("deployment").at(context.step).rng();
        let mode = match self.policy.constants.deployment {
            Deployment::Top => DrawMode::Top,
            Deployment::Sample => DrawMode::Sample(&mut rng),
        };
        let state = State {
            stage,
            history: &self.history,
            step: self.history.steps(),
            draws: context.total_steps * self.batch_size,
        };
        let action = self.scoring.act(&self.policy, state, self.batch_size, mode)?;
        let positions = self.scoring.positions(&action);
        self.history.take(&positions, &self.candidates)?;
        let drawn = action.candidate_picks.iter().flat_map(|picks| picks.scores.iter().zip(&picks.log_probs));
        let choices = positions
            .iter()
            .zip(drawn)
            .map(|(&position, (&score, &log_prob))| SelectedCandidate {
                id: self.candidates.ids[position],
                cluster: Some(self.candidates.clusters[position]),
                score: Some(f64::from(score)),
                log_prob: Some(f64::from(log_prob)),
            })
            .collect();
        self.taken.push(positions);
        Ok(choices)
    }

    fn wants_performance(&self) -> bool {
        self.policy.reads_performance()
    }

    fn notes(&self) -> Vec<String> {
        let (limited, steps) = (self.limited, self.taken.len());
        let note = format!(
            "at {limited} of {steps} steps, the improvement of the performance was outside the range that the policy was \
             trained in, and the policy was given the nearest number in this range"
        );
        if limited > 0 { vec![note] } else { Vec::new() }
    }

    fn state(&self) -> Value {
        // As bits, because a JSON number may lose digits.
        let performance = self.performance.map(|(start, now)| [start.to_bits(), now.to_bits()]);
        json!({ "performance": performance, "taken": self.taken, "limited": self.limited })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let unreadable = || format!("the saved state of the method `raise` cannot be read: {state}");
        let performance: Option<[u64; 2]> =
            serde_json::from_value(state["performance"].clone()).with_context(unreadable)?;
        let taken: Vec<Vec<usize>> = serde_json::from_value(state["taken"].clone()).with_context(unreadable)?;
        self.limited = serde_json::from_value(state["limited"].clone()).with_context(unreadable)?;
        self.performance = performance.map(|[start, now]| (f64::from_bits(start), f64::from_bits(now)));
        self.history = SelectionHistory::new(&self.candidates);
        for positions in &taken {
            self.history.take(positions, &self.candidates)?;
        }
        self.taken = taken;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_settings::ppo::{Concentration, PpoSettings};

    #[test]
    fn a_policy_refuses_states_of_another_basis() -> Result<()> {
        let columns = vec!["a".to_owned()];
        let candidates = |basis: Option<&str>| -> Result<Candidates> {
            let candidates = Candidates::new(&[0, 1], &[0, 1], &[0.5, -0.5], columns.clone())?;
            Ok(Candidates { basis: basis.map(str::to_owned), ..candidates })
        };
        let opened = |trained: Option<&str>, here: Option<&str>| -> Result<Raise> {
            let policy = Policy::new(&PpoSettings::standard(), &candidates(trained)?, &Seed::new(1));
            Raise::new(policy, candidates(here)?, 2, Seed::new(2))
        };
        assert!(opened(Some("one"), Some("one")).is_ok());
        // A policy of an earlier version does not know its basis.
        assert!(opened(None, Some("one")).is_ok());
        for here in [Some("two"), None] {
            let Err(error) = opened(Some("one"), here) else { panic!("{here:?} was accepted") };
            assert!(error.to_string().contains("the states of another clusters stage"), "{error}");
        }
        Ok(())
    }

    fn opened(range: Option<[f64; 2]>) -> Result<Raise> {
        let columns = vec!["a".to_owned()];
        let state: Vec<f32> = (0..20).map(|row| row as f32 / 10.0 - 1.0).collect();
        let ids: Vec<u32> = (0..20).collect();
        let clusters: Vec<u32> = ids.iter().map(|id| id % 4).collect();
        let candidates = Candidates::new(&ids, &clusters, &state, columns)?;
        let mut policy = Policy::new(&PpoSettings::ppo(), &candidates, &Seed::new(1));
        policy.constants.performance_scale = 0.5;
        policy.constants.improvement_range = range;
        // A policy that depends on its stage part.
        tch::no_grad(|| {
            for (_, mut weight) in policy.actor_parameters() {
                let _ = weight.g_mul_scalar_(3.0);
            }
        });
        Raise::new(policy, candidates, 4, Seed::new(2))
    }

    /// The scores of the second batch, before which the performance has risen by `improvement`.
    fn scores(raise: &mut Raise, improvement: f64) -> Result<Vec<Option<f64>>> {
        let mut last = Vec::new();
        for (step, performance) in [-2.0, -2.0 + improvement].into_iter().enumerate() {
            let context = StepContext { step, total_steps: 10, performance: Some(performance), last_loss: None };
            last = raise.choose(&context)?.iter().map(|choice| choice.score).collect();
        }
        Ok(last)
    }

    #[test]
    fn the_improvement_in_the_state_does_not_leave_the_range_of_the_training() -> Result<()> {
        let range = Some([-0.1, 0.4]);
        let at_the_end = scores(&mut opened(range)?, 0.4)?;
        assert_eq!(scores(&mut opened(range)?, 3.0)?, at_the_end);
        assert_ne!(scores(&mut opened(range)?, 0.2)?, at_the_end);
        assert_ne!(scores(&mut opened(None)?, 3.0)?, at_the_end);
        let mut inside = opened(range)?;
        scores(&mut inside, 0.3)?;
        assert!(inside.notes().is_empty());
        let mut outside = opened(range)?;
        scores(&mut outside, -0.5)?;
        let said = "at 1 of 2 steps, the improvement of the performance was outside the range";
        assert!(outside.notes()[0].starts_with(said), "{:?}", outside.notes());
        let mut restored = opened(range)?;
        restored.restore(&outside.state())?;
        assert_eq!(restored.notes(), outside.notes());
        Ok(())
    }

    /// The ids that a linear policy draws in 10 steps of 4 from 20 candidates, whose scores grow with their ids.
    fn drawn_in_training(concentration: Concentration) -> Result<Vec<u32>> {
        let state: Vec<f32> = (0..20).map(|row| row as f32 / 10.0 - 1.0).collect();
        let ids: Vec<u32> = (0..20).collect();
        let clusters: Vec<u32> = ids.iter().map(|id| id % 4).collect();
        let candidates = Candidates::new(&ids, &clusters, &state, vec!["a".to_owned()])?;
        let settings = PpoSettings { concentration, ..PpoSettings::standard() };
        let mut policy = Policy::new(&settings, &candidates, &Seed::new(1));
        let mut weights = vec![0.0; 2 * 5]; // of one column and four clusters
        weights[0] = 1.0;
        policy.set_linear(&tch::Tensor::from_slice(&weights).view([5, 2]).to_kind(tch::Kind::Float));
        let mut raise = Raise::new(policy, candidates, 4, Seed::new(2))?;
        let mut drawn = Vec::new();
        for step in 0..10 {
            let context = StepContext { step, total_steps: 10, performance: None, last_loss: None };
            drawn.extend(raise.choose(&context)?.iter().map(|choice| choice.id));
        }
        Ok(drawn)
    }

    #[test]
    fn a_limit_draws_evenly_from_the_candidates_with_the_highest_scores() -> Result<()> {
        // 40 draws and `repeats = 3`: 13 candidates.
        let limited = drawn_in_training(Concentration::Limit)?;
        assert!(limited.iter().all(|&id| id >= 7), "{limited:?}");
        let times = |id: u32| limited.iter().filter(|&&it| it == id).count();
        assert!((7..20).all(|id| (1..=6).contains(&times(id))), "{limited:?}");
        let scaled = drawn_in_training(Concentration::Scale)?;
        assert!(scaled.iter().any(|&id| id < 7), "a scaled policy draws lower scores now and then: {scaled:?}");
        Ok(())
    }
}
