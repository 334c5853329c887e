//! Small multilayer perceptrons: the scorers of candidates and clusters that PPO trains, and the critic. Their initial weights are
//! drawn in Rust, because they derive from the seed of the pipeline.
//!
//! The first layer of a scorer is split into three sums. The product with the static columns is computed once for an
//! episode or a minibatch; the product with the stage part is one row for all candidates; availability is a term of
//! rank 1. So a step over N candidates needs no product with the static columns.

use tch::{Device, Kind as TensorKind, Tensor};

use raisin_base::random::Rng;
use raisin_base::seed::Seed;

/// The width of the stage part of the state: performance and t/T, which are equal for all candidates.
pub const STAGE_PART_WIDTH: usize = 2;

/// A layer `x W + b`.
struct DenseLayer {
    /// `[in, out]`
    weight: Tensor,
    /// `[out]`
    bias: Tensor,
}

impl DenseLayer {
    fn new(inputs: usize, outputs: usize, gain: f64, rng: &mut Rng) -> Self {
        let weight = matrix(&orthogonal(inputs, outputs, gain, rng), inputs, outputs);
        Self { weight, bias: Tensor::zeros([outputs as i64], (TensorKind::Float, Device::Cpu)) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        x.matmul(&self.weight) + &self.bias
    }

    fn named(&self, prefix: &str, into: &mut Vec<(String, Tensor)>) {
        into.push((format!("{prefix}.weight"), self.weight.shallow_clone()));
        into.push((format!("{prefix}.bias"), self.bias.shallow_clone()));
    }
}

/// Layers with tanh, then a linear layer with one output.
pub struct Mlp {
    layers: Vec<DenseLayer>,
}

impl Mlp {
    /// The weights of a layer are orthogonal times a gain: `gain` for the last layer, the root of 2 for the others.
    pub fn new(inputs: usize, widths: &[usize], gain: f64, seed: &Seed) -> Self {
        let mut rng = seed.rng();
        let mut inputs = inputs;
        let mut layers = Vec::new();
        for &width in widths {
            layers.push(DenseLayer::new(inputs, width, std::f64::consts::SQRT_2, &mut rng));
            inputs = width;
        }
        layers.push(DenseLayer::new(inputs, 1, gain, &mut rng));
        Self { layers }
    }

    /// `[.., in]` -> `[..]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let mut x = x.shallow_clone();
        for (depth, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x);
            if depth + 1 < self.layers.len() {
                x = x.tanh();
            }
        }
        x.squeeze_dim(-1)
    }

    pub fn named(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let mut named = Vec::new();
        for (depth, layer) in self.layers.iter().enumerate() {
            layer.named(&format!("{prefix}.{depth}"), &mut named);
        }
        named
    }
}

/// Scores candidates, or clusters, from the fused state. H is the width of the first layer.
pub struct MlpScorer {
    /// The weights of the static columns, `[F, H]`, and the bias of the first layer.
    fixed: DenseLayer,
    /// The weights of the stage part: `[2, H]`.
    stage: Tensor,
    /// The weights of ln(1 + times selected before): `[H]`.
    availability: Tensor,
    rest: Mlp,
}

impl MlpScorer {
    /// The gain of the last layer is 0.01, so that an untrained scorer gives nearly equal scores.
    pub fn new(features: usize, widths: &[usize], seed: &Seed) -> Self {
        let mut rng = seed.at("first").rng();
        let (first, rest) = widths.split_first().map_or((64, &[][..]), |(first, rest)| (*first, rest));
        let inputs = features + STAGE_PART_WIDTH + 1;
        let whole = matrix(&orthogonal(inputs, first, std::f64::consts::SQRT_2, &mut rng), inputs, first);
        let (features, stage) = (features as i64, STAGE_PART_WIDTH as i64);
        Self {
            fixed: DenseLayer {
                weight: whole.narrow(0, 0, features).copy(),
                bias: Tensor::zeros([first as i64], (TensorKind::Float, Device::Cpu)),
            },
            stage: whole.narrow(0, features, stage).copy(),
            availability: whole.get(features + stage).copy(),
            rest: Mlp::new(first, rest, 0.01, &seed.at("rest")),
        }
    }

    /// The part of the first layer that does not change in an episode: `[n, F]` -> `[n, H]`.
    pub fn fixed_part(&self, state: &Tensor) -> Tensor {
        self.fixed.forward(state)
    }

    /// The scores of n candidates in m states. `fixed` `[n, H]`, `stage` `[m, 2]`, `counts` (times selected before)
    /// `[m, n]` -> `[m, n]`.
    pub fn scores(&self, fixed: &Tensor, stage: &Tensor, counts: &Tensor) -> Tensor {
        let stage = stage.matmul(&self.stage).unsqueeze(1); // [m, 1, H]
        let availability = counts.log1p().unsqueeze(2) * &self.availability; // [m, n, H]
        self.rest.forward(&(fixed.unsqueeze(0) + stage + availability).tanh())
    }

    pub fn named(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let mut named = Vec::new();
        self.fixed.named(&format!("{prefix}.fixed"), &mut named);
        named.push((format!("{prefix}.stage"), self.stage.shallow_clone()));
        named.push((format!("{prefix}.availability"), self.availability.shallow_clone()));
        named.extend(self.rest.named(&format!("{prefix}.rest")));
        named
    }
}

fn matrix(values: &[f64], rows: usize, columns: usize) -> Tensor {
    Tensor::from_slice(values).view([rows as i64, columns as i64]).to_kind(TensorKind::Float)
}

/// `gain` times a matrix, row-major, whose rows are orthonormal, or whose columns if there are fewer columns than rows.
/// The matrix comes from normal numbers by the modified Gram-Schmidt process.
fn orthogonal(rows: usize, columns: usize, gain: f64, rng: &mut Rng) -> Vec<f64> {
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(count);
    while basis.len() < count {
        let mut vector: Vec<f64> = (0..length).map(|_| rng.normal()).collect();
        for other in &basis {
            let along: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
            vector.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
        }
        let norm = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        // A vector that is linearly dependent on the others is drawn again.
        if norm > 1e-6 {
            vector.iter_mut().for_each(|value| *value /= norm);
            basis.push(vector);
        }
    }
    let at = |row: usize, column: usize| if rows <= columns { basis[row][column] } else { basis[column][row] };
    (0..rows * columns).map(|place| gain * at(place / columns, place % columns)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orthogonal_weights_multiply_lengths_by_the_gain() {
        for (rows, columns) in [(5, 8), (8, 5), (4, 4), (3, 1)] {
            let w = matrix(&orthogonal(rows, columns, 2.0, &mut Seed::new(1).rng()), rows, columns);
            let gram = if rows <= columns { w.matmul(&w.tr()) } else { w.tr().matmul(&w) };
            let eye = Tensor::eye(rows.min(columns) as i64, (TensorKind::Float, Device::Cpu)) * 4.0;
            assert!((gram - eye).abs().max().double_value(&[]) < 1e-5);
        }
    }

    #[test]
    fn the_split_first_layer_equals_a_single_layer_over_the_whole_state() {
        let scorer = MlpScorer::new(3, &[8, 4], &Seed::new(5));
        let state = Tensor::from_slice(&[0.1f32, -1.0, 0.5, 2.0, 0.3, -0.2]).view([2, 3]);
        let stage = Tensor::from_slice(&[0.7f32, 0.25]).view([1, 2]);
        let counts = Tensor::from_slice(&[0f32, 3.0]).view([1, 2]);
        let split = scorer.scores(&scorer.fixed_part(&state), &stage, &counts);
        let whole = Tensor::cat(&[state, stage.expand([2, 2], false), counts.log1p().view([2, 1])], 1);
        let weight = Tensor::cat(
            &[scorer.fixed.weight.shallow_clone(), scorer.stage.shallow_clone(), scorer.availability.unsqueeze(0)],
            0,
        );
        let expected = scorer.rest.forward(&(whole.matmul(&weight) + &scorer.fixed.bias).tanh());
        assert!((split.squeeze() - expected).abs().max().double_value(&[]) < 1e-6);
    }
}
