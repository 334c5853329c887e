//! What a candidate has in common with the target: the similarity to the validation examples, from the position-weighted
//! embeddings of a `features` stage that has a `task`.

use std::path::Path;

use arrow_array::{Array as _, FixedSizeListArray};
use rayon::prelude::*;

use super::StateColumn;
use super::basis::Basis;
use crate::tables::vectors;
use crate::vectors::VectorColumn;
use raisin_base::error::{Result, ensure};
use raisin_contract::Context;
use raisin_selector::clustering::NumberRows;
use raisin_table as table;

/// `similarity_max` is a maximum, and `similarity_top` a mean over this many examples.
const NEAREST: usize = 4;

/// The columns of the state that know the target, and the mean embedding that they subtract.
#[derive(Default)]
pub struct Similarity {
    pub columns: Vec<StateColumn>,
    pub mean: Option<Vec<f64>>,
}

/// The columns of the state that know the target, for those rows of the features that are `candidates`: the mean over the
/// validation examples of the cosine between the candidate and the example, the largest of these cosines, and the mean of
/// the four largest. The mean embedding of the candidates is subtracted before, because it is common to all texts; with
/// `like`, it is the mean of that stage. No columns if the features have no validation examples.
pub fn columns(features: &Path, candidates: &[bool], like: Option<&Basis>, context: &Context) -> Result<Similarity> {
    let path = features.join("validation_features.parquet");
    if !path.is_file() {
        return Ok(Similarity::default());
    }
    let rows = VectorColumn::open(&features.join("features.parquet"), "weighted_embedding")?;
    let rows = rows.only(candidates.to_vec())?;
    let width = rows.width();
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
    let centre = match centre {
        Some(centre) => centre,
        None => mean_row(&rows)?,
    };
    let [mean, largest, top] = similarities(&rows, &examples, &centre)?;
    let column = |name: &str, values: Vec<f64>| StateColumn { name: format!("target.similarity_{name}"), values };
    let columns = vec![column("mean", mean), column("max", largest), column("top", top)];
    Ok(Similarity { columns, mean: Some(centre) })
}

/// The mean of the rows.
fn mean_row(rows: &impl NumberRows) -> Result<Vec<f64>> {
    let (count, width) = (rows.count().max(1) as f64, rows.width());
    let mut mean = vec![0.0; width];
    rows.for_each_part(&mut |part| {
        for row in part.chunks(width) {
            mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value) / count);
        }
        Ok(())
    })?;
    Ok(mean)
}

/// For each candidate, the mean of its cosines with the examples, the largest cosine, and the mean of the
/// [`NEAREST`] largest. `mean` is subtracted from every row before; its length is that of a row.
fn similarities(candidates: &impl NumberRows, examples: &[&[f32]], mean: &[f64]) -> Result<[Vec<f64>; 3]> {
    let width = mean.len();
    let unit = |row: &[f32]| -> Vec<f64> {
        let centred: Vec<f64> = row.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean).collect();
        let length = centred.iter().map(|value| value * value).sum::<f64>().sqrt();
        // A candidate at the mean has no direction, and the similarity 0 to all examples.
        centred.into_iter().map(|value| if length > 0.0 { value / length } else { 0.0 }).collect()
    };
    let examples: Vec<Vec<f64>> = examples.iter().map(|example| unit(example)).collect();
    let of_row = |row: &[f32]| {
        let candidate = unit(row);
        let cosine = |example: &Vec<f64>| example.iter().zip(&candidate).map(|(a, b)| a * b).sum::<f64>();
        let mut cosines: Vec<f64> = examples.iter().map(cosine).collect();
        cosines.sort_by(|one, two| two.total_cmp(one));
        let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        [mean_of(&cosines), cosines[0], mean_of(&cosines[..NEAREST.min(cosines.len())])]
    };
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    candidates.for_each_part(&mut |part| {
        for numbers in part.par_chunks(width).map(of_row).collect::<Vec<_>>() {
            found.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
        }
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of two numbers.
    struct Pairs<'a>(&'a [f32]);

    impl NumberRows for Pairs<'_> {
        fn count(&self) -> usize {
            self.0.len() / 2
        }

        fn width(&self) -> usize {
            2
        }

        fn for_each_part(&self, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
            take(self.0)
        }
    }

    /// The expected numbers come from `cosine_similarity(c - c.mean(0), v - c.mean(0))` of scikit-learn.
    #[test]
    fn similarities_are_centred_cosines() -> Result<()> {
        let candidates = [1f32, 0.0, 0.0, 1.0, 2.0, 2.0, -1.0, 0.5];
        let examples: [&[f32]; 2] = [&[1.0, 1.0], &[0.0, -1.0]];
        let candidates = Pairs(&candidates);
        let [mean, largest, top] = similarities(&candidates, &examples, &mean_row(&candidates)?)?;
        let expected = [
            [0.490_917_98, 0.711_090_39, 0.490_917_98],
            [-0.433_364_92, 0.015_623_09, -0.433_364_92],
            [0.067_882_15, 0.921_635_38, 0.067_882_15],
            [-0.257_842_06, 0.484_315_88, -0.257_842_06],
        ];
        for (row, expected) in expected.iter().enumerate() {
            for (found, expected) in [mean[row], largest[row], top[row]].iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "row {row}: {found} for {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_candidate_at_the_mean_is_similar_to_nothing() -> Result<()> {
        let candidates = Pairs(&[1.0, 0.0, -1.0, 0.0, 0.0, 0.0]);
        let [mean, largest, _] = similarities(&candidates, &[&[1.0, 1.0]], &mean_row(&candidates)?)?;
        assert!(mean[2] == 0.0 && largest[2] == 0.0);
        assert!(largest[0] > 0.5);
        Ok(())
    }
}
