//! The column `alignment`, after LESS: the cosine of the gradient of a row with the gradient of a group of validation
//! examples, under the trained model M_w, both scaled by the second moments of Adam. The highest cosine of all groups
//! counts, so that a row needs to serve only a part of the task.
//!
//! LESS projects gradients to a few thousand random directions, because it keeps the gradients of the whole pool and
//! trains many numbers. Here only the gradients of the groups are kept, and each gradient of a row is compared at once
//! and dropped. So the inner products are exact.

use std::time::Instant;

use tch::{Kind as TensorKind, Tensor, no_grad};

use super::{Measuring, RowProgress};
use crate::learning::phase_cost;
use raisin_base::error::{Problem, Result};
use raisin_contract::Cost;
use raisin_contract::finished::FinishedParts;
use raisin_training::meter::peak;
use raisin_training::{AdamScale, PhaseUse, TrainingRows};

impl Measuring<'_> {
    /// The alignment of each row of the pool, by id. `None` for a row without tokens or without a direction.
    pub(super) fn alignments(&mut self) -> Result<Vec<Option<f64>>> {
        let started = Instant::now();
        let scale = self.trainer.adam_scale()?;
        let targets = self.targets(&scale)?;
        let mut finished = FinishedParts::<Vec<Option<u64>>>::open(self.context, "alignment")?;
        let mut alignments = vec![None; self.pool.len()];
        let Self { context, trainer, pool, batches, .. } = self;
        let mut told = RowProgress::new(context, "alignment", batches);
        for ids in &*batches {
            let found = finished.next(|| {
                let row = |&id: &u32| -> Result<Option<u64>> {
                    let (sequences, states) = pool.rows(&[id])?;
                    let rows = TrainingRows { sequences: &sequences, states: states.as_deref() };
                    let Some(direction) = trainer.direction(&rows, &scale)? else { return Ok(None) };
                    let cosine = no_grad(|| targets.f_mv(&direction)?.f_max())?;
                    Ok(Some(cosine.f_double_value(&[])?.to_bits()))
                };
                ids.iter().map(row).collect()
            })?;
            for (&id, bits) in ids.iter().zip(found) {
                alignments[id as usize] = bits.map(f64::from_bits);
            }
            told.add(ids, pool);
        }
        let spent = PhaseUse { time: started.elapsed(), peak_bytes: peak(trainer.model.device()) };
        let (tokens, supervised_tokens) = self.pool_tokens();
        let flops = self.trainer.flops(tokens + self.validation.tokens(), true);
        self.context.cost(Cost {
            tokens: (tokens + self.validation.tokens()) as u64,
            supervised_tokens: (supervised_tokens + self.validation.supervised_tokens()) as u64,
            flops,
            ..phase_cost("alignment", spent)
        });
        Ok(alignments)
    }

    /// The directions of the groups of validation examples: `[groups, P]`.
    ///
    /// # Errors
    /// The directions do not fit into the memory of the stage, or no group has a direction.
    fn targets(&mut self, scale: &AdamScale) -> Result<Tensor> {
        let ids = self.examples.trainable();
        let groups = self.parameters.groups.unwrap_or(ids.len()).min(ids.len());
        let trained = self.trainer.model.trainable().count();
        let bytes = groups as u64 * trained as u64 * size_of::<f32>() as u64;
        if let Some(memory) = self.context.memory().filter(|memory| bytes > memory / 2) {
            let problem = format!(
                "the gradients of {groups} groups of validation examples take {} MB, more than half of the memory of the \
                 stage, {} MB: the model has {trained} trained numbers",
                bytes / 1_000_000,
                memory / 1_000_000
            );
            let hint = "set fewer `groups`, or train fewer numbers: adaptation = { method = \"top_layers_lora\" }";
            return Err(Problem::new(problem).hint(hint).into());
        }
        let flat = &self.trainer.model.trainable().flat;
        let targets = Tensor::f_zeros([groups as i64, trained as i64], (TensorKind::Float, flat.device()))?;
        let mut without = 0;
        for group in 0..groups {
            let members = &ids[ids.len() * group / groups..ids.len() * (group + 1) / groups];
            let (sequences, states) = self.examples.rows(members)?;
            let rows = TrainingRows { sequences: &sequences, states: states.as_deref() };
            match self.trainer.direction(&rows, scale)? {
                Some(direction) => no_grad(|| targets.f_get((group - without) as i64)?.f_copy_(&direction))?,
                None => without += 1,
            }
        }
        if without == groups {
            return Err(Problem::new("no validation example has a gradient that is finite and not 0")
                .hint("the model cannot learn from the task: look at its losses, or raise `steps`")
                .into());
        }
        if without > 0 {
            self.context.note(format!("{without} of {groups} groups of validation examples have no gradient"));
        }
        Ok(targets.f_narrow(0, 0, (groups - without) as i64)?)
    }
}
