//! The gradient of all trained parameters, summed over the micro-batches of a batch. The optimizer is in the crate
//! `training`.

use tch::{Device, Kind as TensorKind, Tensor};

use super::lora::Trainable;
use raisin_base::error::{Result, ensure};

/// The gradient as flat f32 pieces, in the order of the trained parameters in their buffer.
///
/// On the CPU there is one piece for each autograd leaf, as autograd returned it. A copy of all pieces into one vector
/// would touch as much new memory as there are trained parameters. This costs more than the whole arithmetic of the
/// optimizer. On a GPU there is one piece: each kernel launch has a cost, and the allocator keeps the memory between
/// steps.
pub struct Gradient {
    pieces: Vec<Tensor>,
}

impl Gradient {
    /// From the gradients with respect to each autograd leaf. An undefined gradient counts as zero.
    pub fn of(trainable: &Trainable, gradients: Vec<Tensor>) -> Result<Self> {
        if trainable.flat.device() != Device::Cpu {
            return Ok(Self::of_whole(trainable.flatten(gradients)?));
        }
        let leaves = &trainable.leaves;
        ensure!(gradients.len() == leaves.len(), "there are {} gradients for {} leaves", gradients.len(), leaves.len());
        let piece = |(gradient, (_, leaf)): (Tensor, &(String, Tensor))| -> Result<Tensor> {
            if gradient.defined() {
                return Ok(gradient.f_to_kind(TensorKind::Float)?.f_contiguous()?.f_view([-1])?);
            }
            Ok(Tensor::f_zeros([leaf.numel() as i64], (TensorKind::Float, leaf.device()))?)
        };
        Ok(Self { pieces: gradients.into_iter().zip(leaves).map(piece).collect::<Result<_>>()? })
    }

    /// From one vector in the order of the trained parameters.
    pub(super) fn of_whole(whole: Tensor) -> Self {
        Self { pieces: vec![whole] }
    }

    /// Adds the gradient of another micro-batch.
    pub fn add(&mut self, more: &Self) -> Result<()> {
        for (sum, more) in self.pieces.iter_mut().zip(&more.pieces) {
            let _ = sum.f_add_(more)?;
        }
        Ok(())
    }

    /// The norm of the gradient of each episode: the square root of the sum of all squares, as in
    /// `torch.nn.utils.clip_grad_norm_`.
    pub fn norms(&self, episodes: usize) -> Result<Vec<f64>> {
        let norm = |pieces: Vec<Tensor>| -> Result<f64> {
            let norms = pieces.iter().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
            Ok(Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?)
        };
        self.by_episode(episodes)?.into_iter().map(norm).collect()
    }

    /// The pieces of each of `episodes` episodes. The numbers of an episode lie together.
    ///
    /// # Errors
    /// The pieces cannot be divided evenly among the episodes.
    pub fn by_episode(&self, episodes: usize) -> Result<Vec<Vec<Tensor>>> {
        if let [whole] = self.pieces.as_slice() {
            ensure!(
                whole.numel().is_multiple_of(episodes),
                "{} numbers cannot be divided among {episodes} episodes",
                whole.numel()
            );
            return Ok(whole.f_chunk(episodes as i64, 0)?.into_iter().map(|part| vec![part]).collect());
        }
        let count = self.pieces.len();
        ensure!(
            episodes > 0 && count.is_multiple_of(episodes),
            "{count} pieces of a gradient cannot be divided among {episodes} episodes"
        );
        let pieces = self.pieces.chunks(count / episodes);
        Ok(pieces.map(|pieces| pieces.iter().map(Tensor::shallow_clone).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_micro_batches_are_summed_and_an_unused_leaf_has_gradient_zero() -> Result<()> {
        let values = [
            ("a".to_owned(), Tensor::from_slice(&[1f32, 2.0, 5.0, 6.0]).view([2, 2])),
            ("b".to_owned(), Tensor::from_slice(&[3f32])),
        ];
        let trainable = Trainable::of(&values, Device::Cpu)?;
        let numbers =
            |gradient: &Gradient| -> Result<Vec<f32>> { Ok(Vec::try_from(Tensor::f_cat(&gradient.pieces, 0)?)?) };
        // A transposed gradient is brought into the memory order of its leaf.
        let turned = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]).tr();
        let mut gradient = Gradient::of(&trainable, vec![turned, Tensor::new()])?;
        assert_eq!(numbers(&gradient)?, [1.0, 3.0, 2.0, 4.0, 0.0]);
        let ones = Tensor::ones([2, 2], (TensorKind::Float, Device::Cpu));
        gradient.add(&Gradient::of(&trainable, vec![ones, Tensor::from_slice(&[7f32])])?)?;
        assert_eq!(numbers(&gradient)?, [2.0, 4.0, 3.0, 5.0, 7.0]);
        assert!((gradient.norms(1)?[0] - 103f64.sqrt()).abs() < 1e-5);
        assert!(gradient.by_episode(3).is_err());
        let whole = Gradient::of_whole(Tensor::from_slice(&[3f32, 4.0, 0.0, 2.0]));
        assert_eq!(whole.norms(2)?, [5.0, 2.0]);
        let halves = Gradient { pieces: whole.pieces[0].split(1, 0) };
        assert_eq!(halves.norms(2)?, [5.0, 2.0]);
        assert!(Gradient::of(&trainable, vec![Tensor::new()]).is_err());
        Ok(())
    }
}
