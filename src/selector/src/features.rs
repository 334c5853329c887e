//! The features of a candidate in a regression: its static state, and a one-hot code of its cluster. The features of a
//! large pool are never in memory as a whole.
//!
//! The number of earlier selections is not a feature. Each further use reduces the value of a good candidate only; a
//! regression would subtract the same from every candidate, so that a good candidate after three uses would seem worse
//! than a useless fresh candidate. In an early trial with this feature, the share of relevant draws rose to .9 and then
//! fell to .7.

use std::ops::Range;

use tch::{Kind as TensorKind, Tensor};

use super::state::Candidates;

/// The number of candidates whose features are in memory at a time.
const AT_ONCE: usize = 1 << 16;

/// The positions of all candidates, in parts whose features need little memory.
pub fn parts(candidates: &Candidates) -> impl Iterator<Item = Range<usize>> {
    let count = candidates.len();
    (0..count).step_by(AT_ONCE).map(move |start| start..(start + AT_ONCE).min(count))
}

/// The features of the candidates at these positions: `[n, F + C]` f64.
pub fn features_of(candidates: &Candidates, positions: &Range<usize>) -> Tensor {
    let state = candidates.state.narrow(0, positions.start as i64, positions.len() as i64);
    joined(&state, &candidates.clusters[positions.clone()], candidates.ranges.len())
}

/// The same for positions in any order: `[n, F + C]` f64.
pub fn features_at(candidates: &Candidates, positions: &[usize]) -> Tensor {
    let index: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
    let clusters: Vec<u32> = positions.iter().map(|&position| candidates.clusters[position]).collect();
    joined(&candidates.state.index_select(0, &Tensor::from_slice(&index)), &clusters, candidates.ranges.len())
}

/// For each of the F + C features, whether it is one of the many that describe a candidate together: the semantic columns and
/// the clusters. The others are few, and each has a meaning of its own.
pub fn is_one_of_many(candidates: &Candidates) -> Vec<bool> {
    let columns = candidates.columns.iter().map(|name| name.starts_with("semantic."));
    columns.chain(candidates.ranges.iter().map(|_| true)).collect()
}

/// The features of all candidates times `weights` `[F + C, k]`: `[N, k]` f64.
pub fn products(candidates: &Candidates, weights: &Tensor) -> Tensor {
    let of_part = |part: Range<usize>| features_of(candidates, &part).matmul(weights); // [n, k]
    Tensor::cat(&parts(candidates).map(of_part).collect::<Vec<_>>(), 0)
}

/// The static state `[n, F]` beside the membership in each of the clusters: `[n, F + C]` f64.
fn joined(state: &Tensor, clusters: &[u32], count: usize) -> Tensor {
    let (rows, width) = (clusters.len() as i64, state.size()[1]);
    let all = Tensor::zeros([rows, width + count as i64], (TensorKind::Double, state.device()));
    all.narrow(1, 0, width).copy_(state);
    let columns: Vec<i64> = clusters.iter().map(|&cluster| width + i64::from(cluster)).collect();
    let _ = all.shallow_clone().scatter_value_(1, &Tensor::from_slice(&columns).unsqueeze(1), 1.0);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_base::error::Result;

    #[test]
    fn the_features_of_a_candidate_are_its_state_and_its_cluster() -> Result<()> {
        let columns = vec!["a".to_owned(), "b".to_owned()];
        let candidates = Candidates::new(&[4, 7, 9], &[1, 0, 1], &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], columns)?;
        let clusters: Vec<i64> = candidates.clusters.iter().map(|&cluster| i64::from(cluster)).collect();
        let one_hot = Tensor::from_slice(&clusters).one_hot(candidates.ranges.len() as i64);
        let expected =
            Tensor::cat(&[candidates.state.to_kind(TensorKind::Double), one_hot.to_kind(TensorKind::Double)], 1);
        assert_eq!(features_of(&candidates, &(0..3)), expected);
        assert_eq!(features_of(&candidates, &(1..3)), expected.narrow(0, 1, 2));
        let index = Tensor::from_slice(&[2i64, 0, 2]);
        assert_eq!(features_at(&candidates, &[2, 0, 2]), expected.index_select(0, &index));
        Ok(())
    }

    #[test]
    fn products_in_parts_are_those_of_the_whole_table() -> Result<()> {
        let count = 2 * AT_ONCE + 3;
        let ids: Vec<u32> = (0..count as u32).collect();
        let clusters: Vec<u32> = ids.iter().map(|id| id % 3).collect();
        let state: Vec<f32> = ids.iter().flat_map(|id| [(id % 17) as f32, (id % 5) as f32]).collect();
        let candidates = Candidates::new(&ids, &clusters, &state, vec!["a".to_owned(), "b".to_owned()])?;
        assert_eq!(parts(&candidates).map(|part| part.len()).collect::<Vec<_>>(), [AT_ONCE, AT_ONCE, 3]);
        let weights = Tensor::from_slice(&[1.0, 2.0, 0.5, -1.0, 0.0, 4.0, 3.0, 8.0, 0.25, 16.0]).view([5, 2]);
        // All numbers are multiples of a quarter, so that sums are exact in any order.
        assert_eq!(products(&candidates, &weights), features_of(&candidates, &(0..count)).matmul(&weights));
        Ok(())
    }
}
