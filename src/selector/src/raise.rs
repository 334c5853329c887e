//! The chooser of a trained policy.
//!
//! The performance in the stage part of the state is [`StepContext::performance`] minus P(M_0) of the same run. If a
//! step has no measurement, the last measurement is used.

use serde_json::{Value, json};

use super::chooser::{Chooser, SelectedCandidate, StepContext};
use super::policy::Policy;
use super::sampling::DrawMode;
use super::scoring::Scoring;
use super::state::{Candidates, SelectionHistory, State};
use raisin_base::error::{Context as _, Result};
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Deployment, StatePart};

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
}

impl Raise {
    pub fn new(policy: Policy, candidates: Candidates, batch_size: usize, seed: Seed) -> Result<Self> {
        let candidates = candidates.with_columns(&policy.constants.columns)?;
        policy.check(&candidates, batch_size)?;
        let scoring = Scoring::without_gradients(&policy, &candidates);
        let history = SelectionHistory::new(&candidates);
        Ok(Self { policy, candidates, scoring, history, batch_size, seed, performance: None, taken: Vec::new() })
    }
}

impl Chooser for Raise {
    fn choose(&mut self, context: &StepContext) -> Result<Vec<SelectedCandidate>> {
        if let Some(now) = context.performance {
            self.performance = Some((self.performance.map_or(now, |(start, _)| start), now));
        }
        let improvement = self.performance.map_or(0.0, |(start, now)| now - start);
        let stage = self.policy.stage(improvement, context.step, context.total_steps);
        let mut rng = self.seed.at("deployment").at(context.step).rng();
        let mode = match self.policy.constants.deployment {
            Deployment::Top => DrawMode::Top,
            Deployment::Sample => DrawMode::Sample(&mut rng),
        };
        let state = State { stage, history: &self.history, step: self.history.steps() };
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
        self.policy.constants.state.contains(&StatePart::Stage)
    }

    fn state(&self) -> Value {
        // As bits, because a JSON number may lose digits.
        let performance = self.performance.map(|(start, now)| [start.to_bits(), now.to_bits()]);
        json!({ "performance": performance, "taken": self.taken })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let unreadable = || format!("the saved state of the method `raise` cannot be read: {state}");
        let performance: Option<[u64; 2]> =
            serde_json::from_value(state["performance"].clone()).with_context(unreadable)?;
        let taken: Vec<Vec<usize>> = serde_json::from_value(state["taken"].clone()).with_context(unreadable)?;
        self.performance = performance.map(|[start, now]| (f64::from_bits(start), f64::from_bits(now)));
        self.history = SelectionHistory::new(&self.candidates);
        for positions in &taken {
            self.history.take(positions, &self.candidates)?;
        }
        self.taken = taken;
        Ok(())
    }
}
