//! `greats`: in each step, candidates are drawn at random, and the batch is chosen among them by their gradients, one row
//! after another. A row is worth how much a step on it lowers the loss of validation examples, to first order, minus
//! what the rows that are already chosen have in common with it. So the batch does not take near copies of one row.

use serde_json::{Value, json};

use crate::chooser::{Chooser, ChooserInputs, SelectedCandidate, StepContext, StepGradients};
use raisin_base::error::{Context as _, Problem, Result, ensure};
use raisin_base::seed::Seed;
use raisin_settings::SelectionMethod;

/// The number of candidates for each row of a batch.
const CANDIDATES: usize = 2;

pub struct Greats {
    ids: Vec<u32>,
    clusters: Vec<Option<u32>>,
    batch_size: usize,
    seed: Seed,
}

pub fn greats(inputs: &ChooserInputs) -> Result<Greats> {
    let ids = inputs.pool.ids.clone();
    if ids.len() < inputs.batch_size {
        let (name, count, batch) = (SelectionMethod::Greats.name(), ids.len(), inputs.batch_size);
        let problem = format!("method `{name}` can choose from {count} candidates, but a batch needs {batch}");
        return Err(Problem::new(problem).hint("a larger pool, a smaller batch, or another method").into());
    }
    let clusters = (0..ids.len()).map(|row| inputs.pool.cluster(row)).collect();
    Ok(Greats { ids, clusters, batch_size: inputs.batch_size, seed: inputs.seed.at("greats") })
}

/// Chooses `count` rows one after another: each time the row with the highest `gain`, minus `weight` times the sum of its
/// products with the rows that are already chosen. Returns the place of each row and its value when it was chosen.
fn greedy(gains: &[f64], products: &[Vec<f64>], weight: f64, count: usize) -> Vec<(usize, f64)> {
    let mut values = gains.to_vec();
    let mut open: Vec<usize> = (0..gains.len()).collect();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count && !open.is_empty() {
        let best =
            (1..open.len()).fold(0, |best, place| if values[open[place]] > values[open[best]] { place } else { best });
        let row = open.remove(best);
        chosen.push((row, values[row]));
        for &other in &open {
            values[other] -= weight * products[row][other];
        }
    }
    chosen
}

impl Chooser for Greats {
    fn choose(&mut self, context: &StepContext) -> Result<Vec<SelectedCandidate>> {
        let problem = format!("method `greats` needs gradients in step {}", context.step);
        Err(Problem::new(problem).hint("only a fine-tuning run has them").into())
    }

    fn wants_gradients(&self) -> bool {
        true
    }

    fn choose_by_gradients(
        &mut self,
        context: &StepContext,
        gradients: &mut dyn StepGradients,
    ) -> Result<Vec<SelectedCandidate>> {
        let count = (self.batch_size * CANDIDATES).min(self.ids.len());
        let mut rng = self.seed.at(context.step).rng();
        let rows = rng.sample(self.ids.len(), count);
        let ids: Vec<u32> = rows.iter().map(|&row| self.ids[row]).collect();
        let found = gradients.products(&ids, context.step)?;
        ensure!(
            found.gains.len() == count && found.products.len() == count,
            "{count} candidates have {} gains and {} rows of products",
            found.gains.len(),
            found.products.len()
        );
        let chosen = greedy(&found.gains, &found.products, found.weight, self.batch_size);
        let candidate = |(place, value): (usize, f64)| SelectedCandidate {
            id: ids[place],
            cluster: self.clusters[rows[place]],
            score: Some(value),
            log_prob: None,
        };
        Ok(chosen.into_iter().map(candidate).collect())
    }

    /// The draws of a step depend on the seed and the step only.
    fn state(&self) -> Value {
        json!({})
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        state.as_object().context("the saved state of the method cannot be read").map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chooser::{CandidateColumns, GradientProducts};
    use raisin_settings::Third;

    /// Rows in a plane: the gain of a row is its first coordinate.
    struct Plane(Vec<[f64; 2]>);

    impl StepGradients for Plane {
        fn products(&mut self, ids: &[u32], _step: usize) -> Result<GradientProducts> {
            let of = |id: &u32| self.0[*id as usize];
            let dot = |one: [f64; 2], two: [f64; 2]| one[0] * two[0] + one[1] * two[1];
            let gains = ids.iter().map(|id| of(id)[0]).collect();
            let products = ids.iter().map(|one| ids.iter().map(|two| dot(of(one), of(two))).collect()).collect();
            Ok(GradientProducts { gains, products, weight: 0.5 })
        }
    }

    #[test]
    fn a_copy_of_a_chosen_row_is_worth_less_than_a_smaller_gain_in_another_direction() -> Result<()> {
        // After a row with [1.0, 0.5], its copy is worth 1.0 - 0.5 * 1.25, and the row [0.6, -2.0] 0.6 + 0.5 * 0.4.
        let mut plane = Plane(vec![[1.0, 0.5], [1.0, 0.5], [0.6, -2.0], [-1.0, 0.0]]);
        let pool = CandidateColumns { ids: vec![0, 1, 2, 3], ..CandidateColumns::default() };
        let (seed, third) = (Seed::new(17), Third::default());
        let inputs = ChooserInputs { pool: &pool, batch_size: 2, total_steps: 2, seed, third, top: None };
        let mut chooser = greats(&inputs)?;
        let context = StepContext { step: 0, total_steps: 2, performance: None, last_loss: None };
        let chosen = chooser.choose_by_gradients(&context, &mut plane)?;
        assert!(chosen[0].id < 2 && chosen[1].id == 2, "{chosen:?}");
        assert!(chosen[1].score.is_some_and(|score| (score - 0.8).abs() < 1e-12), "{chosen:?}");
        assert!(chooser.choose(&context).is_err(), "there is no batch without gradients");
        Ok(())
    }

    #[test]
    fn the_candidates_of_a_step_depend_on_the_step_only_and_no_row_is_taken_twice() -> Result<()> {
        let mut plane = Plane((0..40).map(|row| [f64::from(row).sin(), f64::from(row).cos()]).collect());
        let pool = CandidateColumns { ids: (0..40).collect(), ..CandidateColumns::default() };
        let (seed, third) = (Seed::new(17), Third::default());
        let inputs = ChooserInputs { pool: &pool, batch_size: 4, total_steps: 5, seed, third, top: None };
        let (mut one, mut other) = (greats(&inputs)?, greats(&inputs)?);
        let mut batches = Vec::new();
        for step in 0..5 {
            let context = StepContext { step, total_steps: 5, performance: None, last_loss: None };
            batches.push(one.choose_by_gradients(&context, &mut plane)?);
            if step == 4 {
                other.restore(&one.state())?;
                assert_eq!(other.choose_by_gradients(&context, &mut plane)?, batches[4]);
            }
        }
        assert!(batches.windows(2).all(|pair| pair[0] != pair[1]));
        for batch in batches {
            let different: std::collections::BTreeSet<u32> = batch.iter().map(|choice| choice.id).collect();
            assert_eq!(different.len(), 4);
        }
        Ok(())
    }
}
