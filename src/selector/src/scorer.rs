//! The learned part of the score of a candidate or of a cluster: an MLP, which PPO trains, or a linear function, whose
//! weights [`super::posterior`] estimates. The prior of a policy is added to the learned part ([`super::scoring`]).

use tch::{Device, Kind as TensorKind, Tensor};

use super::network::{MlpScorer, STAGE_PART_WIDTH};

/// Scores candidates, or clusters, from the fused state.
pub enum Scorer {
    Mlp(MlpScorer),
    Linear(LinearScorer),
}

impl Scorer {
    /// The part of a score that does not change in an episode, from the static state `[n, F]` and the cluster of each
    /// row `[n]`: `[n, H]`. H is the width of the first layer of an MLP, and 2 for a linear scorer.
    pub fn fixed_part(&self, state: &Tensor, clusters: &Tensor) -> Tensor {
        match self {
            Self::Mlp(scorer) => scorer.fixed_part(state),
            Self::Linear(scorer) => {
                let features = state.size()[1];
                let of_clusters = scorer.weights.narrow(0, features, scorer.weights.size()[0] - features);
                state.matmul(&scorer.weights.narrow(0, 0, features)) + of_clusters.index_select(0, clusters)
            }
        }
    }

    /// The scores of n candidates in m states. `fixed` `[n, H]`, `stage` `[m, 2]`, `counts` (times selected before)
    /// `[m, n]` -> `[m, n]`.
    pub fn scores(&self, fixed: &Tensor, stage: &Tensor, counts: &Tensor) -> Tensor {
        match self {
            Self::Mlp(scorer) => scorer.scores(fixed, stage, counts),
            Self::Linear(_) => {
                let position = (stage.narrow(1, TIME, 1) - 0.5) * 12f64.sqrt(); // [m, 1]
                let columns = [0, 1].map(|column| fixed.narrow(1, column, 1).tr()); // [1, n] each
                &columns[0] + position.matmul(&columns[1])
            }
        }
    }

    pub fn named(&self, prefix: &str) -> Vec<(String, Tensor)> {
        match self {
            Self::Mlp(scorer) => scorer.named(prefix),
            Self::Linear(scorer) => vec![(format!("{prefix}.weights"), scorer.weights.shallow_clone())],
        }
    }
}

/// The column of the stage part that holds t/T.
const TIME: i64 = STAGE_PART_WIDTH as i64 - 1;

/// The place of a step in its training, in the unit in which a uniform t/T has mean 0 and variance 1.
pub fn stage_position(time: f64) -> f64 {
    (time - 0.5) * 12f64.sqrt()
}

/// A score that is linear in the static state and in the cluster, with weights that change linearly with t/T. The
/// availability enters only through the reuse penalty.
pub struct LinearScorer {
    /// The weight of each static column and of each cluster at the middle of the training, and its change per unit of
    /// [`stage_position`]: `[F + C, 2]`.
    pub weights: Tensor,
}

impl LinearScorer {
    /// Gives every candidate the score 0.
    pub fn zero(features: usize, clusters: usize) -> Self {
        Self { weights: Tensor::zeros([(features + clusters) as i64, 2], (TensorKind::Float, Device::Cpu)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_score_follows_the_stage_and_the_cluster() {
        let mut scorer = LinearScorer::zero(2, 2);
        scorer.weights = Tensor::from_slice(&[1f32, 0.5, -2.0, 0.0, 0.0, 0.0, 10.0, 1.0]).view([4, 2]);
        let scorer = Scorer::Linear(scorer);
        let state = Tensor::from_slice(&[1f32, 0.0, 2.0, 1.0]).view([2, 2]);
        let stage = Tensor::from_slice(&[0.3f32, 0.5, 9.0, 1.0]).view([2, 2]);
        let counts = Tensor::zeros([2, 2], (TensorKind::Float, Device::Cpu));
        let fixed = scorer.fixed_part(&state, &Tensor::from_slice(&[0i64, 1]));
        let found: Vec<f32> = Vec::try_from(scorer.scores(&fixed, &stage, &counts).view([-1])).expect("f32");
        let end = stage_position(1.0) as f32;
        let of_second = 10.0 + end; // the cluster's part at the end
        for (found, expected) in
            found.iter().zip([1.0, 10.0, 1.0 + 0.5 * end, 2.0 * (1.0 + 0.5 * end) - 2.0 + of_second])
        {
            assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
        }
    }
}
