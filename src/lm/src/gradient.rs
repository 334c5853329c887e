//! The gradient of everything that is trained, summed over the parts of a batch. Knows no optimizer.

use tch::{Device, Kind as TensorKind, Tensor};

use super::lora::Trainable;
use raisin_base::error::{Result, ensure};

/// Flat pieces in f32 that lie one after another as the trained numbers do in their buffer.
///
/// On the CPU there is a piece for each leaf, as autograd has made it: to copy them into one vector means to touch as much
/// fresh memory as there are trained numbers, which costs more than the optimizer's whole arithmetic. On a GPU, where
/// each call costs and memory is not given back between steps, they are one piece.
pub struct Gradient {
    pieces: Vec<Tensor>,
}

impl Gradient {
    /// Of gradients with respect to each leaf; one that is undefined is zero.
    pub fn of(trainable: &Trainable, gradients: Vec<Tensor>) -> Result<Self> {
        if trainable.flat.device() != Device::Cpu {
            return Ok(Self { pieces: vec![trainable.flatten(gradients)?] });
        }
        Ok(Self { pieces: Self::by_leaf(trainable, gradients)? })
    }

    /// Of one that lies as the trained numbers do.
    pub(super) fn of_whole(whole: Tensor) -> Self {
        Self { pieces: vec![whole] }
    }

    fn by_leaf(trainable: &Trainable, gradients: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let leaves = &trainable.leaves;
        ensure!(gradients.len() == leaves.len(), "{} gradients for {} leaves", gradients.len(), leaves.len());
        let piece = |(gradient, (_, leaf)): (Tensor, &(String, Tensor))| -> Result<Tensor> {
            if gradient.defined() {
                return Ok(gradient.f_to_kind(TensorKind::Float)?.f_contiguous()?.f_view([-1])?);
            }
            Ok(Tensor::f_zeros([leaf.numel() as i64], (TensorKind::Float, leaf.device()))?)
        };
        gradients.into_iter().zip(leaves).map(piece).collect()
    }

    /// Adds that of a further part of the batch.
    pub fn add(&mut self, more: &Self) -> Result<()> {
        for (sum, more) in self.pieces.iter_mut().zip(&more.pieces) {
            let _ = sum.f_add_(more)?;
        }
        Ok(())
    }

    /// The square root of the sum of all squares, as `torch.nn.utils.clip_grad_norm_` computes it.
    pub fn norm(&self) -> Result<f64> {
        let norms = self.pieces.iter().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?)
    }

    pub fn pieces(&self) -> &[Tensor] {
        &self.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_batch_add_up_and_a_leaf_that_was_not_used_has_no_gradient() -> Result<()> {
        let values = [
            ("a".to_owned(), Tensor::from_slice(&[1f32, 2.0, 5.0, 6.0]).view([2, 2])),
            ("b".to_owned(), Tensor::from_slice(&[3f32])),
        ];
        let trainable = Trainable::of(&values, Device::Cpu)?;
        let numbers =
            |gradient: &Gradient| -> Result<Vec<f32>> { Ok(Vec::try_from(Tensor::f_cat(gradient.pieces(), 0)?)?) };
        // A transposed one is laid out as its leaf is.
        let turned = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]).tr();
        let mut gradient = Gradient::of(&trainable, vec![turned, Tensor::new()])?;
        assert_eq!(numbers(&gradient)?, [1.0, 3.0, 2.0, 4.0, 0.0]);
        let ones = Tensor::ones([2, 2], (TensorKind::Float, Device::Cpu));
        gradient.add(&Gradient::of(&trainable, vec![ones, Tensor::from_slice(&[7f32])])?)?;
        assert_eq!(numbers(&gradient)?, [2.0, 4.0, 3.0, 5.0, 7.0]);
        assert!((gradient.norm()? - 103f64.sqrt()).abs() < 1e-5);
        assert!(Gradient::of(&trainable, vec![Tensor::new()]).is_err());
        Ok(())
    }
}
