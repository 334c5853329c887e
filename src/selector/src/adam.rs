//! Adam for the small networks of actor and critic. Its whole state can be saved and restored.
//!
//! As usual for PPO, epsilon is 1e-5, and all gradients together are clipped by their norm. Weight decay is decoupled
//! (AdamW).

use tch::{Kind as TensorKind, Tensor};

use raisin_base::error::{Result, ensure};

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-5;

pub struct Adam {
    /// For each parameter: its name, and the running means of its gradient and of the square of the gradient.
    moments: Vec<(String, Tensor, Tensor)>,
    steps: i32,
}

impl Adam {
    pub fn new(parameters: &[(String, Tensor)]) -> Self {
        let moments = parameters
            .iter()
            .map(|(name, weight)| {
                let zero = weight.detach().zeros_like();
                (name.clone(), zero.copy(), zero)
            })
            .collect();
        Self { moments, steps: 0 }
    }

    /// One step by the gradients of the parameters. The step clears the gradients.
    ///
    /// # Errors
    /// A gradient is not finite. Then no parameter changes.
    pub fn step(
        &mut self,
        parameters: &[(String, Tensor)],
        learning_rate: f64,
        weight_decay: f64,
        clip: f64,
    ) -> Result<()> {
        tch::no_grad(|| {
            let gradients: Vec<Tensor> = parameters
                .iter()
                .map(|(_, weight)| {
                    let gradient = weight.grad();
                    if gradient.defined() { gradient } else { weight.zeros_like() }
                })
                .collect();
            let norm = gradients
                .iter()
                .map(|gradient| gradient.to_kind(TensorKind::Double).square().sum(None).double_value(&[]))
                .sum::<f64>()
                .sqrt();
            ensure!(norm.is_finite(), "the gradient norm is {norm}");
            let scale = (clip / (norm + 1e-6)).min(1.0);
            self.steps += 1;
            let first = 1.0 - BETAS.0.powi(self.steps);
            let second = 1.0 - BETAS.1.powi(self.steps);
            for (((_, weight), (_, mean, square)), gradient) in parameters.iter().zip(&mut self.moments).zip(gradients)
            {
                let gradient = gradient * scale;
                let _ = mean.g_mul_scalar_(BETAS.0).g_add_(&(&gradient * (1.0 - BETAS.0)));
                let _ = square.g_mul_scalar_(BETAS.1).g_add_(&(gradient.square() * (1.0 - BETAS.1)));
                let mut weight = weight.shallow_clone();
                let _ = weight.g_mul_scalar_(1.0 - learning_rate * weight_decay);
                let change = (&*mean / first) / ((&*square / second).sqrt() + EPSILON);
                let _ = weight.g_sub_(&(change * learning_rate));
                weight.zero_grad();
            }
            Ok(())
        })
    }

    /// The moments with their names. The tensors share memory with the moments.
    pub fn tensors(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let mut tensors = Vec::new();
        for (name, mean, square) in &self.moments {
            tensors.push((format!("{prefix}mean.{name}"), mean.shallow_clone()));
            tensors.push((format!("{prefix}square.{name}"), square.shallow_clone()));
        }
        tensors
    }

    pub fn steps(&self) -> i32 {
        self.steps
    }

    pub fn set_steps(&mut self, steps: i32) {
        self.steps = steps;
    }
}
