//! Activation checkpointing: gradients at the cost of a second forward pass, without memory for the activations of all
//! layers. joined.rs computes gradients without checkpointing.
//!
//! The first forward pass keeps only the input of each layer. In the backward direction, each layer runs again from its
//! input with an autograd graph, computes the gradient with respect to its input, and frees its graph. So memory holds
//! the graph of one layer at a time. The arithmetic of every layer is the arithmetic without checkpointing, so the
//! gradients are equal, except for the order of a few sums.

use tch::{Tensor, no_grad};

use super::attention::{Masks, Rotation};
use super::batch::Batch;
use super::loss::scalar_with_gradient;
use super::model::Model;
use raisin_base::error::{Result, ensure};

/// The segment of the model that contains a trained parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModelSegment {
    Layer(usize),
    /// The embedding, which may be tied to the head.
    Embedding,
    /// The final norm, and a head that is not tied.
    Top,
}

impl ModelSegment {
    /// The segment of a parameter, by its name in the checkpoint or in PEFT's adapter files.
    fn of(name: &str) -> Self {
        let number = name.split_once(".layers.").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
        match number {
            Some(number) => Self::Layer(number),
            None if name.ends_with("embed_tokens.weight") => Self::Embedding,
            None => Self::Top,
        }
    }
}

impl Model {
    /// The share of the batch's rows in the mean loss of each episode, and the gradient of the sum of these shares with
    /// respect to each trained leaf. `totals` has the number of supervised tokens in the mean of each episode. `states`
    /// are the number of a layer and the states that enter this layer, `[tokens, hidden]`, if a frozen prefix has
    /// computed them. The gradient of a leaf is undefined if the loss does not depend on the leaf.
    pub fn recomputed_gradient(
        &self,
        batch: &Batch,
        states: Option<(usize, &Tensor)>,
        totals: &[usize],
    ) -> Result<(Vec<f64>, Vec<Tensor>)> {
        self.check_length(batch)?;
        let leaves = &self.trainable.leaves;
        let segments: Vec<ModelSegment> = leaves.iter().map(|(name, _)| ModelSegment::of(name)).collect();
        let has_embedding = states.is_none() && segments.contains(&ModelSegment::Embedding);
        let from = states.map_or(0, |(layers, _)| layers);
        ensure!(
            from <= self.layers.len(),
            "the states enter layer {from}, but the model has {} layers",
            self.layers.len()
        );
        // The lowest layer through which the gradient must flow. No gradient flows below the lowest trained parameter.
        let lowest = if has_embedding {
            from
        } else {
            let trained = segments.iter().filter_map(|segment| match segment {
                ModelSegment::Layer(number) => Some(*number),
                _ => None,
            });
            trained.min().unwrap_or(self.layers.len()).max(from)
        };

        let rotation = Rotation::at(&self.config, &batch.positions, self.compute)?;
        let masks = Masks::of(batch, &self.config, self.compute)?;
        let layer = |number: usize, states: &Tensor| -> Result<Tensor> {
            Ok(self.layers[number].forward(states, &self.config, batch, &rotation, &masks)?.0)
        };
        // The first forward pass, without gradients: the input of each layer from `lowest` on, [tokens, hidden] each
        let mut entering = Vec::with_capacity(self.layers.len() - lowest);
        let top = no_grad(|| -> Result<Tensor> {
            let mut states = match states {
                Some((_, states)) => states.f_to_device(self.device)?.f_to_kind(self.compute)?,
                None => self.embed(batch)?,
            };
            for number in from..self.layers.len() {
                if number >= lowest {
                    entering.push(states.shallow_clone());
                }
                states = layer(number, &states)?;
            }
            Ok(states)
        })?;

        // The loss, with a graph from the output of the last layer.
        let mut found = Gradients { leaves, segments: &segments, sums: leaves.iter().map(|_| Tensor::new()).collect() };
        let top = top.f_detach()?.f_set_requires_grad(true)?;
        let shares = self.loss_shares(&self.normed(&top)?, batch, totals)?;
        let losses = shares.each()?;
        // A tied embedding gets the gradient of the head here.
        let mut flow = found
            .backward(&shares.sum, &top, &|segment| matches!(segment, ModelSegment::Top | ModelSegment::Embedding))?;
        drop(shares);
        // Each layer again from its input, in reverse order. `flow` is the gradient with respect to the layer's output.
        for (number, entered) in (lowest..self.layers.len()).zip(entering).rev() {
            let entered = entered.f_detach()?.f_set_requires_grad(true)?;
            let passed = scalar_with_gradient(&layer(number, &entered)?, &flow)?;
            flow = found.backward(&passed, &entered, &|segment| segment == ModelSegment::Layer(number))?;
        }
        if has_embedding {
            let passed = scalar_with_gradient(&self.embed(batch)?, &flow)?;
            let _ = found.backward(&passed, &flow, &|segment| segment == ModelSegment::Embedding)?;
        }
        Ok((losses, found.sums))
    }
}

/// The gradients of the trained leaves that are computed so far.
struct Gradients<'a> {
    leaves: &'a [(String, Tensor)],
    segments: &'a [ModelSegment],
    /// The sum for each leaf. Undefined for a leaf without a gradient so far.
    sums: Vec<Tensor>,
}

impl Gradients<'_> {
    /// Computes the gradients of a scalar with respect to the leaves of the wanted segments, and adds them to the sums.
    /// Returns the gradient with respect to `entered`.
    fn backward(&mut self, scalar: &Tensor, entered: &Tensor, wanted: &dyn Fn(ModelSegment) -> bool) -> Result<Tensor> {
        let chosen: Vec<usize> = (0..self.leaves.len()).filter(|&leaf| wanted(self.segments[leaf])).collect();
        let mut inputs: Vec<&Tensor> = chosen.iter().map(|&leaf| &self.leaves[leaf].1).collect();
        if entered.requires_grad() {
            inputs.insert(0, entered);
        }
        let mut gradients = Tensor::f_run_backward(&[scalar], &inputs, false, false)?;
        let flow = if entered.requires_grad() { gradients.remove(0) } else { Tensor::new() };
        for (leaf, gradient) in chosen.into_iter().zip(gradients) {
            if gradient.defined() {
                let sum = &mut self.sums[leaf];
                *sum = if sum.defined() { sum.f_add(&gradient)? } else { gradient };
            }
        }
        Ok(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adaptation, ModelConfig};
    use raisin_base::seed::Seed;
    use raisin_corpus::Sequence;
    use tch::{Device, Kind as TensorKind};

    fn batch() -> Result<Batch> {
        let row = |length: u32| Sequence {
            tokens: (0..length).map(|place| place * 7 % 50).collect(),
            supervised: (0..length).map(|place| place > 2).collect(),
        };
        Batch::pack(&[&row(9), &row(14), &row(4)], Device::Cpu)
    }

    #[test]
    fn the_segment_of_a_parameter_follows_from_its_name() {
        assert_eq!(ModelSegment::of("model.layers.12.mlp.up_proj.weight"), ModelSegment::Layer(12));
        assert_eq!(
            ModelSegment::of("base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"),
            ModelSegment::Layer(3)
        );
        assert_eq!(
            [ModelSegment::of("model.embed_tokens.weight"), ModelSegment::of("model.norm.weight")],
            [ModelSegment::Embedding, ModelSegment::Top]
        );
    }

    #[test]
    fn a_sequence_beyond_the_context_is_refused_with_and_without_checkpointing() -> Result<()> {
        let mut config = ModelConfig::llama(50, 16, 3, 4, 2, 24);
        config.max_position_embeddings = 13;
        let mut model = Model::init(config, &Seed::new(5), Device::Cpu, TensorKind::Float)?;
        model.prepare(&Adaptation::Full, &Seed::new(6))?;
        let batch = batch()?;
        let plain = model.hidden(&batch).expect_err("14 tokens").to_string();
        let recomputed = model.recomputed_gradient(&batch, None, &[7]).expect_err("14 tokens").to_string();
        assert_eq!((plain.contains("the model's context of 13"), recomputed), (true, plain));
        Ok(())
    }

    #[test]
    fn gradients_with_and_without_checkpointing_are_equal() -> Result<()> {
        let lora = Adaptation::Lora { rank: 2, alpha: 4.0, targets: vec!["q_proj".to_owned(), "up_proj".to_owned()] };
        for (adaptation, tied) in
            [(Adaptation::Full, true), (Adaptation::Full, false), (Adaptation::TopLayers(1), true), (lora, true)]
        {
            let mut config = ModelConfig::llama(50, 16, 3, 4, 2, 24);
            (config.initializer_range, config.tie_word_embeddings) = (0.3, tied);
            let mut model = Model::init(config, &Seed::new(5), Device::Cpu, TensorKind::Float)?;
            model.prepare(&adaptation, &Seed::new(6))?;
            let batch = batch()?;
            let leaves: Vec<&Tensor> = model.trainable().leaves.iter().map(|(_, leaf)| leaf).collect();
            let loss = model.response_loss(&model.hidden(&batch)?, &batch)?.sum / 7.0;
            let plain = model.trainable().flatten(Tensor::f_run_backward(&[&loss], &leaves, false, false)?)?;
            let (losses, recomputed) = model.recomputed_gradient(&batch, None, &[7])?;
            let recomputed = model.trainable().flatten(recomputed)?;
            assert!((losses[0] - loss.double_value(&[])).abs() < 1e-6, "{adaptation:?}");
            assert!(recomputed.allclose(&plain, 1e-5, 1e-7, false), "{adaptation:?}");
            assert!(plain.abs().max().double_value(&[]) > 1e-3);
            if let Adaptation::TopLayers(_) = adaptation {
                let states = no_grad(|| model.prefix_states(2, &batch))?;
                let (_, from_states) = model.recomputed_gradient(&batch, Some((2, &states)), &[7])?;
                let from_states = model.trainable().flatten(from_states)?;
                assert!(from_states.allclose(&plain, 1e-5, 1e-7, false));
            }
        }
        Ok(())
    }
}
