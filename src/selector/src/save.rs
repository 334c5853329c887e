//! Policies and training states as files: safetensors for numbers, JSON for constants.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Kind as TensorKind, Tensor};

use super::credit::{Contributions, StepBaseline};
use super::episode::PolicyTraining;
use super::policy::{Constants, Policy};
use super::state::Candidates;
use raisin_base::error::{Context as _, Problem, Result, bail, ensure};
use raisin_base::seed::Seed;
use raisin_settings::ppo::PpoSettings;

const WEIGHTS: &str = "policy.safetensors";
const CONSTANTS: &str = "policy.json";

/// Writes f32 and f64 tensors, by name.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut bytes = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let dtype = match tensor.kind() {
            TensorKind::Float => Dtype::F32,
            TensorKind::Double => Dtype::F64,
            other => bail!("`{name}` has the type {other:?}, which is neither f32 nor f64"),
        };
        let shape: Vec<usize> = tensor.size().into_iter().map(|length| length as usize).collect();
        let tensor = tensor.detach().to_device(tch::Device::Cpu).contiguous();
        let mut data = vec![0u8; tensor.numel() * dtype_size(dtype)];
        tensor.f_copy_data_u8(&mut data, tensor.numel())?;
        bytes.push((name.as_str(), dtype, shape, data));
    }
    let views = bytes
        .iter()
        .map(|(name, dtype, shape, data)| Ok((*name, TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>>>()?;
    let file = safetensors::serialize(views, None)?;
    // Synced and renamed into place: a kill or a loss of power leaves the old file or the new one.
    let staging = path.with_extension("tmp");
    std::fs::write(&staging, file)
        .and_then(|()| std::fs::File::open(&staging)?.sync_all())
        .with_context(|| format!("cannot write {}", staging.display()))?;
    std::fs::rename(&staging, path).with_context(|| format!("cannot write {}", path.display()))
}

pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let kind = match view.dtype() {
            Dtype::F32 => TensorKind::Float,
            Dtype::F64 => TensorKind::Double,
            other => bail!("`{name}` in {} has the type {other:?}", path.display()),
        };
        let shape: Vec<i64> = view.shape().iter().map(|&length| length as i64).collect();
        tensors.insert(name, Tensor::f_from_data_size(view.data(), &shape, kind)?);
    }
    Ok(tensors)
}

/// Copies stored values over existing tensors of the same names and shapes.
pub fn fill(into: &[(String, Tensor)], from: &BTreeMap<String, Tensor>, prefix: &str) -> Result<()> {
    for (name, tensor) in into {
        let stored = from.get(&format!("{prefix}{name}")).with_context(|| format!("there is no tensor `{name}`"))?;
        ensure!(
            stored.size() == tensor.size(),
            "`{name}` is stored as {:?}, expected {:?}",
            stored.size(),
            tensor.size()
        );
        tch::no_grad(|| tensor.shallow_clone().f_copy_(stored))?;
    }
    Ok(())
}

fn dtype_size(dtype: Dtype) -> usize {
    if dtype == Dtype::F64 { 8 } else { 4 }
}

impl Policy {
    /// Writes `policy.safetensors` and `policy.json`.
    pub fn save(&self, folder: &Path) -> Result<()> {
        write_tensors(&folder.join(WEIGHTS), &self.parameters())?;
        let path = folder.join(CONSTANTS);
        let text = serde_json::to_string_pretty(&self.constants)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads what [`Policy::save`] wrote.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(CONSTANTS);
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let constants: Constants =
            serde_json::from_slice(&text).with_context(|| format!("{} is not a policy", path.display()))?;
        let policy = Self::untrained(constants, &Seed::new(0));
        fill(&policy.parameters(), &read_tensors(&folder.join(WEIGHTS))?, "")?;
        Ok(policy)
    }

    /// The same policy with weights of its own.
    pub fn duplicate(&self) -> Result<Self> {
        let copy = Self::untrained(self.constants.clone(), &Seed::new(0));
        let weights = self.parameters().into_iter().collect();
        fill(&copy.parameters(), &weights, "")?;
        Ok(copy)
    }
}

impl PolicyTraining {
    /// Writes everything that the next rounds depend on into one file, so that after a kill [`PolicyTraining::load`]
    /// goes on to the same bytes as an undisturbed run.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = self.policy.parameters();
        let mut best_scale = f64::NAN;
        if let Some(best) = &self.best {
            tensors.extend(best.parameters().into_iter().map(|(name, weight)| (format!("best.{name}"), weight)));
            best_scale = best.constants.performance_scale;
        }
        tensors.extend(self.actor.tensors("actor."));
        tensors.extend(self.critic.tensors("critic."));
        tensors.push(("step_baseline".to_owned(), self.step_baseline.tensor()));
        tensors.push(("contributions".to_owned(), self.contributions.tensor()));
        let numbers = [
            self.rounds_done as f64,
            f64::from(self.actor.steps()),
            f64::from(self.critic.steps()),
            self.best_performance,
            best_scale,
            self.policy.constants.performance_scale,
            self.rewards[0],
            self.rewards[1],
            self.rewards[2],
        ];
        tensors.push(("numbers".to_owned(), Tensor::from_slice(&numbers)));
        write_tensors(path, &tensors)
    }

    /// A training of the same candidates, configuration and seed, as [`PolicyTraining::save`] left it.
    pub fn load(path: &Path, candidates: &Candidates, config: PpoSettings, seed: Seed) -> Result<Self> {
        let stored = read_tensors(path)?;
        let named = |name: &str| stored.get(name).with_context(|| format!("no `{name}` in {}", path.display()));
        let mut training = Self::new(candidates, config, seed)?;
        let numbers: Vec<f64> = Vec::try_from(named("numbers")?)?;
        let [rounds, actor, critic, best, best_scale, scale, count, sum, squares] =
            <[f64; 9]>::try_from(numbers).map_err(|_| Problem::new(format!("{} is damaged", path.display())))?;
        training.policy.constants.performance_scale = scale;
        fill(&training.policy.parameters(), &stored, "")?;
        fill(&training.actor.tensors("actor."), &stored, "")?;
        fill(&training.critic.tensors("critic."), &stored, "")?;
        training.actor.set_steps(actor as i32);
        training.critic.set_steps(critic as i32);
        if best.is_finite() {
            let mut policy = training.policy.duplicate()?;
            policy.constants.performance_scale = best_scale;
            fill(&policy.parameters(), &stored, "best.")?;
            training.best = Some(policy);
        }
        training.best_performance = best;
        training.step_baseline = StepBaseline::from_tensor(named("step_baseline")?)?;
        training.contributions = Contributions::from_tensor(named("contributions")?)?;
        training.rewards = [count, sum, squares];
        training.rounds_done = rounds as usize;
        Ok(training)
    }
}
