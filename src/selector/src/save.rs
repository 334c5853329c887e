//! Policies and training states as files: tensors as safetensors, the constants of a policy as JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Kind as TensorKind, Tensor};

use super::credit::Contributions;
use super::episode::PolicyTraining;
use super::policy::{Constants, Policy};
use super::posterior::EffectRegression;
use super::ppo::RewardSums;
use super::state::Candidates;
use super::step_baseline::StepBaseline;
use raisin_base::error::{Context as _, Problem, Result, bail, ensure};
use raisin_base::files::put;
use raisin_base::seed::Seed;
use raisin_settings::ppo::PpoSettings;

const WEIGHTS: &str = "policy.safetensors";
const CONSTANTS: &str = "policy.json";

/// Writes f32 and f64 tensors with their names to a safetensors file.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut bytes = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let dtype = match tensor.kind() {
            TensorKind::Float => Dtype::F32,
            TensorKind::Double => Dtype::F64,
            other => bail!("the tensor `{name}` has the dtype {other:?}, but only f32 and f64 can be saved"),
        };
        let shape: Vec<usize> = tensor.size().into_iter().map(|length| length as usize).collect();
        let tensor = tensor.detach().to_device(tch::Device::Cpu).contiguous();
        let mut data = vec![0u8; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut data, tensor.numel())?;
        bytes.push((name.as_str(), dtype, shape, data));
    }
    let views = bytes
        .iter()
        .map(|(name, dtype, shape, data)| Ok((*name, TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>>>()?;
    let file = safetensors::serialize(views, None)?;
    // After a kill or a power failure, the path holds the old file or the new file.
    put(path, &[&file], File::sync_all).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads the f32 and f64 tensors of a safetensors file, by name.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let kind = match view.dtype() {
            Dtype::F32 => TensorKind::Float,
            Dtype::F64 => TensorKind::Double,
            other => bail!("the tensor `{name}` in {} has the dtype {other:?}, not f32 or f64", path.display()),
        };
        let shape: Vec<i64> = view.shape().iter().map(|&length| length as i64).collect();
        tensors.insert(name, Tensor::f_from_data_size(view.data(), &shape, kind)?);
    }
    Ok(tensors)
}

/// Copies each stored tensor `{prefix}{name}` into the tensor `name`.
///
/// # Errors
/// A tensor is not stored, or has another shape.
fn fill(into: &[(String, Tensor)], from: &BTreeMap<String, Tensor>, prefix: &str) -> Result<()> {
    for (name, tensor) in into {
        let stored =
            from.get(&format!("{prefix}{name}")).with_context(|| format!("the file has no tensor `{prefix}{name}`"))?;
        ensure!(
            stored.size() == tensor.size(),
            "the stored tensor `{prefix}{name}` has the shape {:?}, not {:?}",
            stored.size(),
            tensor.size()
        );
        tch::no_grad(|| tensor.shallow_clone().f_copy_(stored))?;
    }
    Ok(())
}

impl Policy {
    /// Writes `policy.safetensors` and `policy.json`.
    pub fn save(&self, folder: &Path) -> Result<()> {
        write_tensors(&folder.join(WEIGHTS), &self.parameters())?;
        let path = folder.join(CONSTANTS);
        let text = serde_json::to_string_pretty(&self.constants)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads the files that [`Policy::save`] wrote.
    pub fn load(folder: &Path) -> Result<Self> {
        let policy = Self::untrained(Constants::load(folder)?, &Seed::new(0));
        fill(&policy.parameters(), &read_tensors(&folder.join(WEIGHTS))?, "")?;
        Ok(policy)
    }

    /// A copy with weights of its own.
    pub fn duplicate(&self) -> Result<Self> {
        let copy = Self::untrained(self.constants.clone(), &Seed::new(0));
        let weights = self.parameters().into_iter().collect();
        fill(&copy.parameters(), &weights, "")?;
        Ok(copy)
    }
}

impl Constants {
    /// Reads the constants of a policy that [`Policy::save`] wrote.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(CONSTANTS);
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not a policy", path.display()))
    }
}

/// A range as numbers, with NaN for no range.
fn range_as_numbers(constants: Option<&Constants>) -> [f64; 2] {
    constants.and_then(|constants| constants.improvement_range).unwrap_or([f64::NAN; 2])
}

/// Reads the result of [`range_as_numbers`].
fn range_of_numbers([low, high]: [f64; 2]) -> Option<[f64; 2]> {
    Some([low, high]).filter(|range| range.iter().all(|number| !number.is_nan()))
}

impl PolicyTraining {
    /// Writes all numbers on which the next rounds depend into one file. After a kill, a training that
    /// [`PolicyTraining::load`] reads from this file gives the same bytes as an uninterrupted one.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = self.policy.parameters();
        let mut best_scale = f64::NAN;
        if let Some(best) = &self.best {
            tensors.extend(best.parameters().into_iter().map(|(name, weight)| (format!("best.{name}"), weight)));
            best_scale = best.constants.performance_scale;
        }
        if let Some(average) = &self.average {
            tensors.extend(average.parameters().into_iter().map(|(name, weight)| (format!("average.{name}"), weight)));
        }
        let [low, high] = range_as_numbers(Some(&self.policy.constants));
        let [best_low, best_high] = range_as_numbers(self.best.as_ref().map(|best| &best.constants));
        tensors.extend(self.actor.tensors("actor."));
        tensors.extend(self.critic.tensors("critic."));
        tensors.push(("step_baseline".to_owned(), self.step_baseline.tensor()));
        tensors.push(("contributions".to_owned(), self.contributions.tensor()));
        tensors.push(("effects".to_owned(), self.effects.tensor()));
        let numbers = [
            self.rounds_done as f64,
            f64::from(self.actor.steps()),
            f64::from(self.critic.steps()),
            self.best_late_performance,
            best_scale,
            self.policy.constants.performance_scale,
            self.reward_sums.count,
            self.reward_sums.sum,
            self.reward_sums.squares,
            self.averaged as f64,
            low,
            high,
            best_low,
            best_high,
        ];
        tensors.push(("numbers".to_owned(), Tensor::from_slice(&numbers)));
        write_tensors(path, &tensors)
    }

    /// Reads the file that [`PolicyTraining::save`] wrote for the same candidates, settings and seed.
    pub fn load(path: &Path, candidates: &Candidates, config: PpoSettings, seed: Seed) -> Result<Self> {
        let stored = read_tensors(path)?;
        let named = |name: &str| stored.get(name).with_context(|| format!("{} has no tensor `{name}`", path.display()));
        let mut training = Self::new(candidates, config, seed)?;
        let numbers: Vec<f64> = Vec::try_from(named("numbers")?)?;
        let [numbers @ .., averaged, low, high, best_low, best_high] = <[f64; 14]>::try_from(numbers)
            .map_err(|_| Problem::new(format!("the tensor `numbers` in {} is not [14]", path.display())))?;
        let [rounds, actor, critic, best, best_scale, scale, count, sum, squares] = numbers;
        training.policy.constants.performance_scale = scale;
        training.policy.constants.improvement_range = range_of_numbers([low, high]);
        fill(&training.policy.parameters(), &stored, "")?;
        fill(&training.actor.tensors("actor."), &stored, "")?;
        fill(&training.critic.tensors("critic."), &stored, "")?;
        training.actor.set_steps(actor as i32);
        training.critic.set_steps(critic as i32);
        if stored.keys().any(|name| name.starts_with("best.")) {
            let mut policy = training.policy.duplicate()?;
            policy.constants.performance_scale = best_scale;
            policy.constants.improvement_range = range_of_numbers([best_low, best_high]);
            fill(&policy.parameters(), &stored, "best.")?;
            training.best = Some(policy);
        }
        training.averaged = averaged as usize;
        if training.averaged > 0 {
            let average = training.policy.duplicate()?;
            fill(&average.parameters(), &stored, "average.")?;
            training.average = Some(average);
        }
        training.best_late_performance = best;
        training.step_baseline = StepBaseline::from_tensor(named("step_baseline")?)?;
        training.contributions = Contributions::from_tensor(named("contributions")?)?;
        training.effects = EffectRegression::from_tensor(named("effects")?, training.effects.many().to_vec())?;
        training.reward_sums = RewardSums { count, sum, squares };
        training.rounds_done = rounds as usize;
        Ok(training)
    }
}
