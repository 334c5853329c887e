//! What a candidate has in common with the target: the similarity to the validation examples, from the position-weighted
//! embeddings of a `features` stage that has a `task`.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::{Array as _, FixedSizeListArray, RecordBatch, UInt32Array};

use super::StateColumn;
use super::basis::Basis;
use crate::tables::vectors;
use raisin_base::error::{Context as _, Result, ensure};
use raisin_contract::Context;
use raisin_table as table;

/// `similarity_max` is a maximum, and `similarity_top` a mean over this many examples.
const NEAREST: usize = 4;

/// The columns of the state that know the target, and the mean embedding that they subtract.
#[derive(Default)]
pub struct Similarity {
    pub columns: Vec<StateColumn>,
    pub mean: Option<Vec<f64>>,
}

/// The columns of the state that know the target, for the candidates in `rows`: the mean over the validation examples
/// of the cosine between the candidate and the example, the largest of these cosines, and the mean of the four largest.
/// The mean embedding of the candidates is subtracted before, because it is common to all texts; with `like`, it is the
/// mean of that stage. No columns if the features have no validation examples.
pub fn columns(features: &Path, rows: &RecordBatch, like: Option<&Basis>, context: &Context) -> Result<Similarity> {
    let path = features.join("validation_features.parquet");
    if !path.is_file() {
        return Ok(Similarity::default());
    }
    let all = table::read_columns(&features.join("features.parquet"), &["id", "weighted_embedding"])?;
    let ids: &UInt32Array = table::column(&all, "id")?;
    let places: BTreeMap<u32, usize> = ids.values().iter().copied().zip(0..).collect();
    let (values, width) = vectors(&all, "weighted_embedding")?;
    let mut candidates = Vec::with_capacity(rows.num_rows() * width);
    for id in table::column::<UInt32Array>(rows, "id")?.values() {
        let place = *places.get(id).with_context(|| format!("the features have no row for instruction {id}"))?;
        candidates.extend_from_slice(&values[place * width..(place + 1) * width]);
    }
    let examples = table::read_columns(&path, &["weighted_embedding"])?;
    let (values, example_width) = vectors(&examples, "weighted_embedding")?;
    let lists: &FixedSizeListArray = table::column(&examples, "weighted_embedding")?;
    let present = (0..lists.len()).filter(|&row| lists.is_valid(row));
    let missing = lists.null_count();
    if missing > 0 {
        let of = lists.len();
        context.note(format!("{missing} of {of} validation examples have no features, and count for no similarity"));
    }
    let examples: Vec<&[f32]> = present.map(|row| &values[row * width..(row + 1) * width]).collect();
    ensure!(example_width == width, "candidates have embeddings of {width} numbers, and examples of {example_width}");
    if examples.is_empty() {
        return Ok(Similarity::default());
    }
    let centre = like.and_then(|like| like.similarity_mean.clone());
    let centre = centre.unwrap_or_else(|| mean_row(&candidates, width));
    let [mean, largest, top] = similarities(&candidates, &examples, &centre);
    let column = |name: &str, values: Vec<f64>| StateColumn { name: format!("target.similarity_{name}"), values };
    let columns = vec![column("mean", mean), column("max", largest), column("top", top)];
    Ok(Similarity { columns, mean: Some(centre) })
}

/// The mean of rows of `width` numbers.
fn mean_row(rows: &[f32], width: usize) -> Vec<f64> {
    let count = (rows.len() / width.max(1)).max(1) as f64;
    let mut mean = vec![0.0; width];
    for row in rows.chunks(width) {
        mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value) / count);
    }
    mean
}

/// For each candidate, the mean of its cosines with the examples, the largest cosine, and the mean of the
/// [`NEAREST`] largest. `mean` is subtracted from every row before; its length is that of a row.
fn similarities(candidates: &[f32], examples: &[&[f32]], mean: &[f64]) -> [Vec<f64>; 3] {
    let width = mean.len();
    let unit = |row: &[f32]| -> Vec<f64> {
        let centred: Vec<f64> = row.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean).collect();
        let length = centred.iter().map(|value| value * value).sum::<f64>().sqrt();
        // A candidate at the mean has no direction, and the similarity 0 to all examples.
        centred.into_iter().map(|value| if length > 0.0 { value / length } else { 0.0 }).collect()
    };
    let examples: Vec<Vec<f64>> = examples.iter().map(|example| unit(example)).collect();
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for row in candidates.chunks(width) {
        let candidate = unit(row);
        let cosine = |example: &Vec<f64>| example.iter().zip(&candidate).map(|(a, b)| a * b).sum::<f64>();
        let mut cosines: Vec<f64> = examples.iter().map(cosine).collect();
        cosines.sort_by(|one, two| two.total_cmp(one));
        let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let numbers = [mean_of(&cosines), cosines[0], mean_of(&cosines[..NEAREST.min(cosines.len())])];
        found.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected numbers come from `cosine_similarity(c - c.mean(0), v - c.mean(0))` of scikit-learn.
    #[test]
    fn similarities_are_centred_cosines() {
        let candidates = [1f32, 0.0, 0.0, 1.0, 2.0, 2.0, -1.0, 0.5];
        let examples: [&[f32]; 2] = [&[1.0, 1.0], &[0.0, -1.0]];
        let [mean, largest, top] = similarities(&candidates, &examples, &mean_row(&candidates, 2));
        let expected = [
            [0.49091798, 0.71109039, 0.49091798],
            [-0.43336492, 0.01562309, -0.43336492],
            [0.06788215, 0.92163538, 0.06788215],
            [-0.25784206, 0.48431588, -0.25784206],
        ];
        for (row, expected) in expected.iter().enumerate() {
            for (found, expected) in [mean[row], largest[row], top[row]].iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "row {row}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn a_candidate_at_the_mean_is_similar_to_nothing() {
        let candidates = [1.0, 0.0, -1.0, 0.0, 0.0, 0.0];
        let [mean, largest, _] = similarities(&candidates, &[&[1.0, 1.0]], &mean_row(&candidates, 2));
        assert!(mean[2] == 0.0 && largest[2] == 0.0);
        assert!(largest[0] > 0.5);
    }
}
