//! Casts all trained parameters in one call for a pass, and splits the result into parameters. group.rs makes the
//! low-rank factors of adapters.
//!
//! On a GPU, kernel launches limit the speed of a small model. Without this file, hundreds of parameters or thousands
//! of adapter matrices would each have a cast, and a cast of the gradient. These casts would be most of the launches of
//! a pass.

use std::ops::Deref;

use tch::{Kind as TensorKind, Tensor, no_grad};

use super::gradient::Gradient;
use super::group::LowPlan;
use super::layer::Layer;
use super::model::Model;
use super::out_of_memory::attempt;
use super::prepare::TrainedRange;
use raisin_base::error::{Result, anyhow};

/// A model whose trained parameters are parts of one tensor while this guard lives. On the CPU, single casts cost
/// nothing in comparison with the arithmetic, so there the model is unchanged.
pub struct Joined<'m> {
    model: &'m mut Model,
    /// The tensors for which a backward pass computes gradients: either the autograd leaves, or one tensor of all
    /// trained numbers, followed by the embedding's leaf if the embedding is trained.
    inputs: Vec<Tensor>,
    /// Whether `inputs` starts with the one tensor of all trained numbers.
    whole: bool,
}

impl Model {
    /// Joins the trained parameters, for one or more passes between two updates.
    pub fn joined(&mut self) -> Result<Joined<'_>> {
        if self.device.is_cuda() && self.trainable.count() > 0 {
            return self.join();
        }
        let inputs = self.trainable.leaves.iter().map(|(_, leaf)| leaf.shallow_clone()).collect();
        Ok(Joined { model: self, inputs, whole: false })
    }

    /// Joins the trained parameters without gradients: for an evaluation between two updates.
    ///
    /// # Errors
    /// If there is no memory for the casts, the result is an error, as in [`attempt`].
    pub fn joined_to_evaluate(&mut self) -> Result<Joined<'_>> {
        attempt(|| no_grad(|| self.joined()))
    }

    fn join(&mut self) -> Result<Joined<'_>> {
        let flat = self.trainable.flat.f_detach()?.f_set_requires_grad(true)?;
        if self.trained.is_none() && self.low_plan.is_none() {
            self.layers.iter_mut().try_for_each(Layer::group)?;
            self.low_plan = Some(LowPlan::new(&self.layers, self.episodes, self.device)?);
        }
        // From here on, the guard attaches the leaves again, even if an error follows.
        let mut joined = Joined { model: self, inputs: vec![flat], whole: true };
        joined.hand_out()?;
        Ok(joined)
    }
}

impl Joined<'_> {
    /// Splits the joined tensor, and sets the parts as the parameters of the model.
    fn hand_out(&mut self) -> Result<()> {
        let model = &mut *self.model;
        let (flat, compute) = (&self.inputs[0], model.compute);
        if let Some(plan) = &model.low_plan {
            return plan.make(flat, compute, |layer, group, low| {
                if let Some(groups) = &mut model.layers[layer].groups {
                    groups.0[group].low = Some(low);
                }
            });
        }
        let Some(TrainedRange { from, ends }) = model.trained else { return Ok(()) };
        let layers = &mut model.layers[from..];
        let head = model.head.as_mut().filter(|_| ends);
        let table = model.embedding.value.size();
        // The embedding table is looked up in f32. In the compute dtype, the gradient of a table row would be rounded
        // at each token that adds to the row. If the embedding is also the head, the head gets a cast copy of the
        // table.
        let tied = ends && head.is_none();
        let mut shapes: Vec<Vec<i64>> = layers.iter().flat_map(Layer::joined_shapes).collect();
        shapes.push(model.norm.value.size());
        if ends {
            if tied { shapes.insert(0, table.clone()) } else { shapes.push(table.clone()) }
        }
        let sizes: Vec<i64> = shapes.iter().map(|shape| shape.iter().product()).collect();
        // The embedding comes first in the flat buffer. If the head is not tied, the embedding is not cast.
        let cast: i64 = sizes.iter().sum();
        let uncast = flat.numel() as i64 - cast;
        let flat = if uncast > 0 { flat.f_narrow(0, uncast, cast)? } else { flat.shallow_clone() };
        let parts = flat.f_to_kind(compute)?.f_split_with_sizes(sizes.as_slice(), 0)?;
        let mut parts = parts.iter().zip(&shapes);
        let mut next = || -> Result<Tensor> {
            let (part, shape) = parts.next().ok_or_else(|| anyhow!("there are fewer parts than parameters"))?;
            Ok(part.f_view(shape.as_slice())?)
        };
        model.joined_head = if tied { Some(next()?) } else { None };
        for layer in layers {
            layer.take_joined(&mut next)?;
        }
        model.norm.value = next()?;
        if let Some(head) = head {
            head.value = next()?;
        }
        if ends {
            self.inputs.push(model.embedding.value.shallow_clone());
        }
        Ok(())
    }

    /// The gradient of a scalar that was computed with this model.
    pub fn gradient(&self, loss: &Tensor) -> Result<Gradient> {
        if self.whole {
            return Ok(Gradient::of_whole(self.flat_gradient(loss)?));
        }
        Gradient::of(&self.model.trainable, Tensor::f_run_backward(&[loss], &self.inputs, false, false)?)
    }

    /// The gradient as one vector, on every device.
    pub fn flat_gradient(&self, loss: &Tensor) -> Result<Tensor> {
        let gradients = Tensor::f_run_backward(&[loss], &self.inputs, false, false)?;
        if !self.whole {
            return self.model.trainable.flatten(gradients);
        }
        let mut gradients = gradients.into_iter();
        let whole = match gradients.next().filter(Tensor::defined) {
            Some(whole) => whole.f_to_kind(TensorKind::Float)?.f_contiguous()?,
            None => self.model.trainable.flat.f_zeros_like()?,
        };
        // The second gradient belongs to the trained embedding, which comes first in the flat buffer.
        if let Some(rows) = gradients.next().filter(Tensor::defined) {
            let _ = no_grad(|| whole.f_narrow(0, 0, rows.numel() as i64)?.f_add_(&rows.f_reshape([-1])?))?;
        }
        Ok(whole)
    }
}

impl Deref for Joined<'_> {
    type Target = Model;

    fn deref(&self) -> &Model {
        self.model
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        if self.whole {
            self.model.joined_head = None;
            self.model.attach_leaves();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adaptation, Batch, ModelConfig, TARGETS};
    use raisin_base::seed::Seed;
    use raisin_corpus::Sequence;
    use tch::Device;

    fn rows(count: u32) -> Vec<Sequence> {
        (0..count)
            .map(|row| {
                let tokens: Vec<u32> = (0..5 + row % 3).map(|place| (row * 7 + place * 3) % 20).collect();
                Sequence { supervised: tokens.iter().enumerate().map(|(place, _)| place > 1).collect(), tokens }
            })
            .collect()
    }

    /// A model whose adapters change the output: B is zero at first, so a small number is added.
    fn prepared(tied: bool, adaptation: &Adaptation, episodes: usize) -> Result<Model> {
        let config = ModelConfig { tie_word_embeddings: tied, ..ModelConfig::llama(20, 16, 2, 2, 1, 32) };
        let mut model = Model::init(config, &Seed::new(1), Device::Cpu, TensorKind::Float)?;
        model.prepare_side_by_side(adaptation, &Seed::new(2), episodes)?;
        let mut flat = model.trainable().flat.shallow_clone();
        let small = (Tensor::arange(flat.numel() as i64, (TensorKind::Float, Device::Cpu)) * 0.7).sin() * 0.02;
        let _ = no_grad(|| flat.f_add_(&small))?;
        Ok(model)
    }

    fn trained(model: &mut Model) -> Vec<Tensor> {
        model.trained_slots().into_iter().map(|(_, slot)| slot.shallow_clone()).collect()
    }

    #[test]
    fn joined_parameters_give_the_gradients_of_the_leaves_and_are_leaves_again_afterwards() -> Result<()> {
        let lora = Adaptation::Lora { rank: 2, alpha: 8.0, targets: TARGETS.map(str::to_owned).to_vec() };
        let top = Adaptation::TopLayers(1);
        let some = Adaptation::TopLayersLora {
            layers: 1,
            rank: 2,
            alpha: 3.0,
            targets: ["v_proj", "q_proj", "up_proj"].map(str::to_owned).to_vec(),
        };
        let rows = rows(6);
        for (tied, adaptation, episodes) in [
            (true, &Adaptation::Full, 1),
            (false, &Adaptation::Full, 1),
            (true, &top, 1),
            (true, &lora, 1),
            (true, &lora, 3),
            (true, &some, 1),
            (true, &some, 2),
        ] {
            let mut model = prepared(tied, adaptation, episodes)?;
            let episodes_of: Vec<Vec<&Sequence>> =
                rows.chunks(rows.len() / episodes).map(|rows| rows.iter().collect()).collect();
            let batch = Batch::side_by_side(&episodes_of, Device::Cpu)?;
            let loss = |model: &Model| -> Result<Tensor> {
                let hidden = model.hidden(&batch)?;
                if episodes == 1 {
                    return Ok(model.response_loss(&hidden, &batch)?.sum);
                }
                Ok(model.episode_losses(&hidden, &batch, &vec![4; episodes])?.1)
            };
            let by_leaf = {
                let plain = model.joined()?;
                plain.flat_gradient(&loss(&plain)?)?
            };
            let before: Vec<*const _> =
                trained(&mut model).iter().map(|tensor| tensor.data_ptr().cast_const()).collect();
            let joined = model.join()?;
            assert!(joined.whole);
            let whole = joined.flat_gradient(&loss(&joined)?)?;
            drop(joined);
            let case = format!("{adaptation:?}, tied {tied}, {episodes} episodes");
            assert!(whole.allclose(&by_leaf, 1e-4, 1e-6, false), "{case}");
            assert!(by_leaf.abs().max().double_value(&[]) > 1e-3, "{case}");
            let after = trained(&mut model);
            assert!(after.iter().all(Tensor::requires_grad) && after.iter().all(Tensor::is_leaf), "{case}");
            assert_eq!(before, after.iter().map(|tensor| tensor.data_ptr().cast_const()).collect::<Vec<_>>(), "{case}");
        }
        Ok(())
    }

    #[test]
    fn grouped_weights_compute_the_same_and_are_shared_without_a_copy() -> Result<()> {
        let rows = rows(4);
        let batch = Batch::pack(&rows.iter().collect::<Vec<_>>(), Device::Cpu)?;
        let mut model =
            Model::init(ModelConfig::llama(20, 16, 2, 2, 1, 32), &Seed::new(1), Device::Cpu, TensorKind::Float)?;
        let plain = model.hidden(&batch)?;
        model.layers.iter_mut().try_for_each(Layer::group)?;
        assert!(model.hidden(&batch)?.allclose(&plain, 1e-5, 1e-6, false));
        let lora = Adaptation::Lora { rank: 2, alpha: 8.0, targets: TARGETS.map(str::to_owned).to_vec() };
        let shared = model.share(&lora)?;
        let place = |model: &Model| model.layers[1].groups.as_ref().map(|groups| groups.0[0].weight.data_ptr());
        assert!(place(&shared).is_some() && place(&shared) == place(&model));
        assert_eq!(place(&shared), Some(shared.layers[1].q.weight.value.data_ptr()));
        assert!(shared.hidden(&batch)?.allclose(&plain, 1e-5, 1e-6, false));
        Ok(())
    }
}
