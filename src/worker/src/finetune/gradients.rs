//! The gradients of a fine-tuning run, for a method that chooses by them (`greats`).

use tch::{Device, Kind as TensorKind, Tensor, no_grad};

use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_selector::{GradientProducts, StepGradients};
use raisin_training::{AdamScale, Trainer, TrainingPool, TrainingRows};

/// The gradients under the present model of a run.
pub struct PoolGradients<'a> {
    pub trainer: &'a mut Trainer,
    pub pool: &'a TrainingPool,
    pub examples: &'a TrainingPool,
    pub batch_size: usize,
    /// The seed of the validation examples of a step.
    pub seed: Seed,
    /// The memory of the stage in bytes.
    pub memory: Option<u64>,
    /// The tokens of all rows so far of which a gradient was computed.
    pub tokens: usize,
}

impl PoolGradients<'_> {
    fn gradient(&mut self, ids: &[u32], of_pool: bool, scale: Option<&AdamScale>) -> Result<Tensor> {
        let rows = if of_pool { self.pool } else { self.examples };
        let (sequences, states) = rows.rows(ids)?;
        self.tokens += sequences.iter().map(|sequence| sequence.tokens.len()).sum::<usize>();
        self.trainer.scaled_gradient(&TrainingRows { sequences: &sequences, states: states.as_deref() }, scale)
    }

    /// # Errors
    /// The gradients of this number of rows do not fit into the memory of the stage.
    fn check_memory(&self, rows: usize) -> Result<()> {
        let trained = self.trainer.model.trainable().count();
        let bytes = rows as u64 * trained as u64 * size_of::<f32>() as u64;
        let Some(memory) = self.memory.filter(|memory| bytes > memory / 2) else { return Ok(()) };
        let problem = format!(
            "the gradients of {rows} candidates take {} MB, more than half of the memory of the stage, {} MB",
            bytes / 1_000_000,
            memory / 1_000_000
        );
        Err(Problem::new(problem).hint("train fewer numbers (`adaptation`), or lower batch_size").into())
    }
}

impl StepGradients for PoolGradients<'_> {
    /// Gradients are scaled by the second moments of Adam. Before the first step there are no moments, and gradients are
    /// not scaled. The validation examples of a step are as many as a batch has rows, drawn at random.
    fn products(&mut self, ids: &[u32], step: usize) -> Result<GradientProducts> {
        self.check_memory(ids.len())?;
        let scale = if self.trainer.steps_done() > 0 { Some(self.trainer.adam_scale()?) } else { None };
        let examples = self.examples.trainable();
        let count = self.batch_size.min(examples.len());
        let drawn = self.seed.at(step).rng().sample(examples.len(), count);
        let drawn: Vec<u32> = drawn.into_iter().map(|place| examples[place]).collect();
        let target = self.gradient(&drawn, false, scale.as_ref())?;
        let numbers = target.numel() as i64;
        let all = Tensor::f_zeros([ids.len() as i64, numbers], (TensorKind::Float, target.device()))?;
        for (place, id) in (0..).zip(ids) {
            let gradient = self.gradient(&[*id], true, scale.as_ref())?;
            no_grad(|| all.f_get(place)?.f_copy_(&gradient))?;
        }
        let (gains, products) = no_grad(|| -> Result<(Vec<f32>, Vec<f32>)> {
            let numbers = |tensor: Tensor| -> Result<Vec<f32>> {
                Ok(Vec::try_from(tensor.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?)?)
            };
            Ok((numbers(all.f_mv(&target)?)?, numbers(all.f_matmul(&all.f_transpose(0, 1)?)?)?))
        })?;
        if let Some(wrong) = gains.iter().chain(&products).find(|value| !value.is_finite()) {
            let problem = format!("a product of two gradients before step {} is {wrong}", step + 1);
            return Err(Problem::new(problem).hint("set a lower learning_rate, or a warm-up").into());
        }
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<f64>>();
        Ok(GradientProducts {
            gains: wide(&gains),
            products: products.chunks(ids.len().max(1)).map(wide).collect(),
            weight: self.trainer.next_learning_rate() / self.batch_size as f64,
        })
    }
}
