//! RDS: the candidates nearest to the validation examples, by the cosine of position-weighted means of the last hidden
//! states. The validation examples take turns (round robin), and each takes its nearest candidate that is not taken
//! yet. So no single example decides the whole selection.

use rayon::prelude::*;

use super::queue::{Order, Queue, RankedCandidate};
use super::score::counted;
use crate::chooser::ChooserInputs;
use raisin_base::error::{Problem, Result};
use raisin_settings::SelectionMethod;

pub fn round_robin(inputs: &ChooserInputs) -> Result<Queue> {
    let pool = inputs.pool;
    let embeddings = pool.column(&pool.embeddings, "position-weighted embeddings", SelectionMethod::Rds)?;
    if pool.validation_embeddings.is_empty() {
        return Err(Problem::new("method `rds` needs the embeddings of the validation examples")
            .hint("give the features stage the task as well: task = \"task\"")
            .into());
    }
    let units: Vec<Option<Vec<f32>>> = embeddings.iter().map(|row| row.as_deref().and_then(unit)).collect();
    let wanted = inputs.top.unwrap_or(inputs.total_steps.max(1).saturating_mul(inputs.batch_size));
    let rankings: Vec<Vec<(f32, usize)>> = pool
        .validation_embeddings
        .par_iter()
        .filter_map(|example| unit(example))
        .map(|example| {
            let mut ranking: Vec<(f32, usize)> =
                units.iter().enumerate().filter_map(|(row, unit)| Some((dot(unit.as_ref()?, &example), row))).collect();
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

    let mut taken = vec![false; units.len()];
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
    let missing = units.iter().filter(|unit| unit.is_none()).count();
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
