//! AdamW over the one flat f32 buffer that holds every trained number. Knows neither models nor schedules.
//!
//! tch's own optimizer goes through the parameters one tensor at a time (0.87 s for 134.5M numbers, where PyTorch's fused
//! one needs 0.1 s), and hides its moments, so that a run could not be resumed. Here the moments are two more flat buffers,
//! and one pass reads and writes each number once: our own on the CPU, PyTorch's fused kernel on a GPU.

use rayon::prelude::*;
use tch::{Device, Kind as TensorKind, Tensor, no_grad};

use raisin_base::error::{Result, ensure};
use raisin_lm::{AdamWStep, fused_adamw};

/// How many numbers are updated by one thread at a time on the CPU.
const CPU_SLICE: usize = 1 << 16;

/// How long a piece that PyTorch's kernel gets is at most, so that it counts in 32 bits.
const DEVICE_SLICE: i64 = 1 << 28;

/// The constants of `torch.optim.AdamW`, with its defaults but for the weight decay, which is off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimizer's whole state.
#[derive(Debug)]
pub struct AdamW {
    pub config: AdamWConfig,
    /// Updates made so far; the bias correction depends on it.
    steps: u64,
    /// Running mean of the gradient. [P]
    first: Tensor,
    /// Running mean of the squared gradient. [P]
    second: Tensor,
}

impl AdamW {
    pub fn new(parameters: &Tensor, config: AdamWConfig) -> Result<Self> {
        let zeros = || Tensor::f_zeros(parameters.size(), (TensorKind::Float, parameters.device()));
        Ok(Self { config, steps: 0, first: zeros()?, second: zeros()? })
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One update with decoupled weight decay, in `torch.optim.AdamW`'s order of operations. The pieces of the gradient lie
    /// one after another as the parameters do; `factor` scales all of it down, where it is to be clipped.
    ///
    /// # Errors
    /// A gradient of another size than the parameters.
    pub fn step(&mut self, parameters: &Tensor, gradient: &[Tensor], factor: f64, learning_rate: f64) -> Result<()> {
        self.step_lanes(parameters, &[(gradient, factor)], learning_rate)
    }

    /// The same for parameters of several lanes, one lane after another, each with a factor of its own. The update goes
    /// number by number, so that one of all lanes is one of each.
    ///
    /// # Errors
    /// A gradient of another size than the parameters.
    pub fn step_lanes(&mut self, parameters: &Tensor, lanes: &[(&[Tensor], f64)], learning_rate: f64) -> Result<()> {
        let total = parameters.numel();
        let found: usize = lanes.iter().flat_map(|(gradient, _)| *gradient).map(Tensor::numel).sum();
        ensure!(found == total, "a gradient of {found} numbers for {total}");
        self.steps += 1;
        let mut start = 0;
        for &(gradient, factor) in lanes {
            let mut slices = Vec::with_capacity(gradient.len());
            for piece in gradient {
                let length = piece.numel() as i64;
                let part = |flat: &Tensor| flat.f_detach()?.f_narrow(0, start, length);
                slices.push([part(parameters)?, part(&self.first)?, part(&self.second)?, piece.f_view([-1])?]);
                start += length;
            }
            if parameters.device() == Device::Cpu {
                self.update(factor, learning_rate).on_the_cpu(&mut slices)?;
            } else {
                self.elsewhere(&slices, factor, learning_rate)?;
            }
        }
        Ok(())
    }

    fn elsewhere(&self, slices: &[[Tensor; 4]], factor: f64, learning_rate: f64) -> Result<()> {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let step = AdamWStep { number: self.steps, learning_rate, beta1, beta2, weight_decay, epsilon, factor };
        let mut cut = Vec::new();
        for slices in slices {
            let pieces = slices.each_ref().map(|whole| whole.f_split(DEVICE_SLICE, 0));
            let [parameters, firsts, seconds, gradients] = pieces;
            let moments = firsts?.into_iter().zip(seconds?);
            let all = parameters?.into_iter().zip(moments).zip(gradients?);
            cut.extend(all.map(|((parameters, (first, second)), gradient)| [parameters, first, second, gradient]));
        }
        no_grad(|| fused_adamw(&step, &cut))
    }

    /// That of the present step.
    fn update(&self, factor: f64, learning_rate: f64) -> AdamWUpdate {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let exponent = self.steps as f64;
        AdamWUpdate {
            factor,
            kept: 1.0 - learning_rate * weight_decay,
            first: 1.0 - beta1,
            beta2,
            step: -learning_rate / (1.0 - beta1.powf(exponent)),
            correction: (1.0 - beta2.powf(exponent)).sqrt(),
            epsilon,
        }
    }

    /// The moments as they are now, copied.
    pub fn snapshot(&self) -> Result<AdamWState> {
        Ok(AdamWState { steps: self.steps, first: self.first.f_detach_copy()?, second: self.second.f_detach_copy()? })
    }

    /// Goes back to a state; the buffers stay where they are.
    pub fn restore(&mut self, state: &AdamWState) -> Result<()> {
        ensure!(
            state.first.numel() == self.first.numel() && state.second.numel() == self.second.numel(),
            "an optimizer state of {} numbers for {}",
            state.first.numel(),
            self.first.numel()
        );
        self.steps = state.steps;
        no_grad(|| {
            self.first.f_copy_(&state.first)?;
            self.second.f_copy_(&state.second)?;
            Ok(())
        })
    }

    /// Goes back to before the first update.
    pub fn reset(&mut self) -> Result<()> {
        self.steps = 0;
        let _ = (self.first.f_zero_()?, self.second.f_zero_()?);
        Ok(())
    }

    /// For a checkpoint whose moments were copied over those of [`AdamW::named`].
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// The moments by name, without a copy: for checkpoints.
    pub fn named(&self) -> [(&'static str, &Tensor); 2] {
        [("optimizer.first", &self.first), ("optimizer.second", &self.second)]
    }
}

/// The numbers of one update.
struct AdamWUpdate {
    /// Of the gradient.
    factor: f64,
    /// Of a parameter, after weight decay.
    kept: f64,
    /// How far the first moment goes towards the gradient: 1 - beta1.
    first: f64,
    beta2: f64,
    /// Minus the learning rate, over the first moment's bias correction.
    step: f64,
    /// Of the second moment's root.
    correction: f64,
    epsilon: f64,
}

/// Parameters, their moments, and their gradient.
type Chunk<'t> = ((&'t mut [f32], (&'t mut [f32], &'t mut [f32])), &'t [f32]);

impl AdamWUpdate {
    /// Parameters, moments and gradient, each number read once.
    fn on_the_cpu(&self, slices: &mut [[Tensor; 4]]) -> Result<()> {
        let mut work = Vec::new();
        for [parameter, first, second, gradient] in slices {
            let moments = numbers(first)?.chunks_mut(CPU_SLICE).zip(numbers(second)?.chunks_mut(CPU_SLICE));
            let of_gradient = numbers(gradient)?.chunks(CPU_SLICE);
            work.extend(numbers(parameter)?.chunks_mut(CPU_SLICE).zip(moments).zip(of_gradient));
        }
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
        let each = work.len().div_ceil(threads).max(1);
        let run = |chunk: &mut [Chunk<'_>]| {
            for ((parameter, (first, second)), gradient) in chunk {
                self.slice(parameter, first, second, gradient);
            }
        };
        if threads == 1 {
            run(&mut work);
        } else {
            work.par_chunks_mut(each).for_each(run);
        }
        Ok(())
    }

    fn slice(&self, parameter: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        let [factor, kept, towards, beta2] =
            [self.factor, self.kept, self.first, self.beta2].map(|number| number as f32);
        let [step, correction, epsilon] = [self.step, self.correction, self.epsilon].map(|number| number as f32);
        let share = (1.0 - self.beta2) as f32;
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((parameter, (first, second)), gradient) in parameter.iter_mut().zip(moments).zip(gradient) {
            let gradient = gradient * factor;
            *first += towards * (gradient - *first);
            *second = *second * beta2 + gradient * (gradient * share);
            *parameter = *parameter * kept + *first * step / (second.sqrt() / correction + epsilon);
        }
    }
}

/// The numbers of a contiguous f32 tensor on the CPU.
fn numbers(tensor: &mut Tensor) -> Result<&mut [f32]> {
    ensure!(
        tensor.kind() == TensorKind::Float && tensor.device() == Device::Cpu && tensor.is_contiguous(),
        "an optimizer's buffers are contiguous, in f32 and on the CPU"
    );
    if tensor.numel() == 0 {
        return Ok(&mut []);
    }
    // SAFETY: the tensor holds so many f32 in a row, checked above, at an address that libtorch has aligned, and lives as
    // long as the slice does. Its storage is shared with the whole buffer and the model's leaves, which nobody looks at
    // during an update: the slices of one update do not overlap, and no computation runs beside it.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) })
}

/// A copy of the optimizer's state.
#[derive(Debug)]
pub struct AdamWState {
    pub steps: u64,
    pub first: Tensor,
    pub second: Tensor,
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: [f32; 5] = [0.5, -1.25, 2.0, 0.0, -0.75];

    fn gradient(step: usize) -> Tensor {
        let values: Vec<f32> =
            (0..5).map(|index| ((index as f32 + 1.0) * 0.3 - step as f32 * 0.21).sin() * 0.8).collect();
        Tensor::from_slice(&values)
    }

    /// Recorded from `torch.optim.AdamW(lr=0.01, weight_decay=0.1, foreach=False)` of torch 2.11 on the CPU, with the
    /// learning rate set to 0.01, 0.02 and 0.005 before the three steps.
    #[test]
    fn three_steps_end_where_torch_ends() -> Result<()> {
        let gradients =
            [[0.3f32, -0.2, 0.05, 0.7, -0.9], [-0.1, 0.4, 0.05, -0.6, -0.8], [0.25, 0.15, -1.5, 0.001, 2.0]];
        let recorded = [
            [0.489_500_02_f32, -1.238_75, 1.988, -0.01, -0.739_25],
            [0.480_516_67, -1.243_594_5, 1.964_024_1, -0.010_464_417, -0.717_867_26],
            [0.477_081_36, -1.245_330_5, 1.966_050_7, -0.010_556_266, -0.718_262_3],
        ];
        let parameters = Tensor::from_slice(&START);
        let mut optimizer = AdamW::new(&parameters, AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() })?;
        for ((gradient, recorded), learning_rate) in gradients.iter().zip(recorded).zip([0.01, 0.02, 0.005]) {
            optimizer.step(&parameters, &[Tensor::from_slice(gradient)], 1.0, learning_rate)?;
            for (ours, theirs) in Vec::<f32>::try_from(&parameters)?.into_iter().zip(recorded) {
                assert!((ours - theirs).abs() <= 2.0 * f32::EPSILON * theirs.abs().max(1.0), "{ours} for {theirs}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_first_step_moves_every_number_by_the_learning_rate_against_its_gradient() -> Result<()> {
        let parameters = Tensor::from_slice(&START);
        let mut optimizer = AdamW::new(&parameters, AdamWConfig { epsilon: 0.0, ..AdamWConfig::default() })?;
        optimizer.step(&parameters, &[Tensor::from_slice(&[1f32, -2.0, 3.0, -4.0, 5.0])], 1.0, 0.1)?;
        let after = Vec::<f32>::try_from(&parameters)?;
        for ((after, before), sign) in after.iter().zip(START).zip([1.0, -1.0, 1.0, -1.0, 1.0]) {
            assert!((after - (before - 0.1 * sign)).abs() < 1e-6, "{after} from {before}");
        }
        Ok(())
    }

    #[test]
    fn neither_slices_nor_pieces_nor_the_place_of_the_factor_change_anything() -> Result<()> {
        let length = 2 * CPU_SLICE as i64 + 5;
        let values: Vec<f32> = (0..length).map(|index| (index as f32 * 0.37).sin()).collect();
        let config = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
        let (whole, cut, on_a_device) =
            (Tensor::from_slice(&values), Tensor::from_slice(&values), Tensor::from_slice(&values));
        let mut optimizers = [&whole, &cut, &on_a_device].map(|parameters| AdamW::new(parameters, config));
        for step in 0..3 {
            let gradient = (&whole * 3.0).cos() * f64::from(step + 1);
            let [first, second, third] = &mut optimizers;
            first.as_mut().expect("an optimizer").step(&whole, &[&gradient * 0.5], 1.0, 0.01)?;
            let pieces = gradient.split_with_sizes([7, CPU_SLICE as i64, length - 7 - CPU_SLICE as i64], 0);
            second.as_mut().expect("an optimizer").step(&cut, &pieces, 0.5, 0.01)?;
            // What a GPU does, done here.
            let third = third.as_mut().expect("an optimizer");
            third.steps += 1;
            let buffers = [&on_a_device, &third.first, &third.second, &gradient].map(Tensor::shallow_clone);
            third.elsewhere(&[buffers], 0.5, 0.01)?;
        }
        assert_eq!(Vec::<f32>::try_from(&whole)?, Vec::<f32>::try_from(&cut)?);
        assert!(whole.allclose(&on_a_device, 1e-6, 1e-7, false));
        Ok(())
    }

    #[test]
    fn a_restored_state_goes_on_bit_for_bit() -> Result<()> {
        let run = |pause: bool| -> Result<Vec<f32>> {
            let parameters = Tensor::from_slice(&START);
            let mut optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
            for step in 0..6 {
                if pause && step == 3 {
                    let state = optimizer.snapshot()?;
                    optimizer = AdamW::new(&parameters, AdamWConfig::default())?;
                    optimizer.restore(&state)?;
                }
                optimizer.step(&parameters, &[gradient(step)], 1.0, 0.05)?;
            }
            Ok(Vec::<f32>::try_from(&parameters)?)
        };
        assert_eq!(run(false)?, run(true)?);
        Ok(())
    }
}
