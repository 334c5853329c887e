//! RDS: the candidates nearest to the validation examples, by the cosine of position-weighted means of the last hidden
//! states. The validation examples take turns (round robin), and each takes its nearest candidate that is not taken
//! yet. So no single example decides the whole selection.

use rayon::prelude::*;

use super::queue::{Order, Queue, RankedCandidate};
use super::score::counted;
use crate::chooser::ChooserInputs;
use raisin_base::error::{Problem, Result};
use raisin_settings::SelectionMethod;

/// The validation examples as directions.
pub struct CosineTargets(Vec<Vec<f32>>);

impl CosineTargets {
    /// From the embeddings of the examples. An embedding without a direction is left out.
    ///
    /// # Errors
    /// No embedding has a direction.
    pub fn new(embeddings: &[Vec<f32>]) -> Result<Self> {
        let units: Vec<Vec<f32>> = embeddings.iter().filter_map(|example| unit(example)).collect();
        if units.is_empty() {
            return Err(Problem::new(
                "method `rds` needs the embeddings of the validation examples, and there are none",
            )
            .hint("give the features stage the task as well: task = \"task\"")
            .into());
        }
        Ok(Self(units))
    }

    /// The cosine of an embedding with each example; `None` if the embedding has no direction.
    pub fn cosines(&self, embedding: &[f32]) -> Option<Vec<f32>> {
        let row = unit(embedding)?;
        Some(self.0.iter().map(|example| dot(&row, example)).collect())
    }
}

pub fn round_robin(inputs: &ChooserInputs) -> Result<Queue> {
    let pool = inputs.pool;
    let cosines = pool.column(&pool.cosines, "position-weighted embeddings", SelectionMethod::Rds)?;
    let examples = cosines.iter().flatten().next().map_or(0, Vec::len);
    let wanted = inputs.top.unwrap_or(inputs.total_steps.max(1).saturating_mul(inputs.batch_size));
    let rankings: Vec<Vec<(f32, usize)>> = (0..examples)
        .into_par_iter()
        .map(|example| {
            let mut ranking: Vec<(f32, usize)> =
                cosines.iter().enumerate().filter_map(|(row, of)| Some((of.as_ref()?[example], row))).collect();
            let nearer = |one: &(f32, usize), two: &(f32, usize)| two.0.total_cmp(&one.0).then(one.1.cmp(&two.1));
            // An example needs at most as many entries as all examples together take. For a large pool, these are few.
            if wanted < ranking.len() {
                ranking.select_nth_unstable_by(wanted, nearer);
                ranking = ranking[..wanted].to_vec();
            }
            ranking.sort_unstable_by(nearer);
            ranking
        })
        .collect();

    let mut taken = vec![false; cosines.len()];
    let mut places = vec![0; rankings.len()];
    let mut entries = Vec::new();
    let mut open = !rankings.is_empty();
    while open && entries.len() < wanted {
        open = false;
        for (ranking, place) in rankings.iter().zip(&mut places) {
            while ranking.get(*place).is_some_and(|&(_, row)| taken[row]) {
                *place += 1;
            }
            if let Some(&(cosine, row)) = ranking.get(*place).filter(|_| entries.len() < wanted) {
                taken[row] = true;
                open = true;
                entries.push(RankedCandidate { row, score: Some(f64::from(cosine)) });
            }
        }
    }
    let missing = cosines.iter().filter(|of| of.is_none()).count();
    Queue::new(SelectionMethod::Rds, inputs, &entries, Order::Given, counted("without an embedding", missing))
}

/// The vector scaled to length 1; `None` if its length is 0 or not finite.
fn unit(vector: &[f32]) -> Option<Vec<f32>> {
    let length = dot(vector, vector).sqrt();
    (length.is_finite() && length > 0.0).then(|| vector.iter().map(|value| value / length).collect())
}

fn dot(one: &[f32], two: &[f32]) -> f32 {
    one.iter().zip(two).map(|(a, b)| a * b).sum()
}
