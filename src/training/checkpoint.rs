//! Checkpoints: tensors and a JSON state in one safetensors file, replaced whole. Knows nothing of what they mean.
//!
//! One file and one rename: a process killed at any instant leaves the previous checkpoint or the new one, never a
//! mixture. A tensor is copied out of the model only while it is written, so a checkpoint costs no second copy.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, SafeTensorError, View};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::error::{Context as _, Result, anyhow, ensure};

/// Where the JSON state stands in the file's metadata.
const STATE: &str = "state";

/// A tensor on its way into a file.
struct Outgoing<'a> {
    tensor: &'a Tensor,
    shape: Vec<usize>,
}

impl View for Outgoing<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        let copied = self
            .tensor
            .f_detach()
            .and_then(|tensor| tensor.f_to_device(Device::Cpu))
            .and_then(|tensor| tensor.f_contiguous())
            .and_then(|tensor| tensor.f_copy_data_u8(&mut bytes, tensor.numel()));
        // A shorter answer than announced is an error that the writer reports.
        if copied.is_err() {
            bytes.clear();
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * 4
    }
}

/// Writes f32 tensors and a state into `path`, which then holds all of it or what it held before.
pub fn save(path: &Path, tensors: &[(&str, &Tensor)], state: &Value) -> Result<()> {
    let mut views = Vec::with_capacity(tensors.len());
    for &(name, tensor) in tensors {
        ensure!(tensor.kind() == Kind::Float, "the checkpoint tensor {name} is {:?}, not f32", tensor.kind());
        views.push((name, Outgoing { tensor, shape: tensor.size().iter().map(|&size| size as usize).collect() }));
    }
    let metadata = HashMap::from([(STATE.to_owned(), state.to_string())]);
    let partial = path.with_extension("partial");
    safetensors::serialize_to_file(views, Some(metadata), &partial)
        .map_err(|error: SafeTensorError| anyhow!(error))
        .with_context(|| format!("cannot write the checkpoint {}", partial.display()))?;
    // Else a loss of power could leave the new name on a file whose tensors are zeros.
    let sync = || std::fs::File::open(&partial)?.sync_all();
    sync().with_context(|| format!("cannot write the checkpoint {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("cannot put {} in place", path.display()))
}

/// What [`save`] wrote, on `device`; `None` where there is no such file.
pub fn load(path: &Path, device: Device) -> Result<Option<(BTreeMap<String, Tensor>, Value)>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let (_, header) =
        SafeTensors::read_metadata(&bytes).with_context(|| format!("{} is not a checkpoint", path.display()))?;
    let state = header.metadata().as_ref().and_then(|metadata| metadata.get(STATE));
    let state = state.ok_or_else(|| anyhow!("{} has no state", path.display()))?;
    let state = serde_json::from_str(state)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?.f_to_device(device)?;
        tensors.insert(name, tensor);
    }
    Ok(Some((tensors, state)))
}

/// Takes a tensor out of a loaded checkpoint.
pub fn take(tensors: &mut BTreeMap<String, Tensor>, name: &str) -> Result<Tensor> {
    tensors.remove(name).ok_or_else(|| anyhow!("the checkpoint has no tensor {name}"))
}

/// Says when it is time for the next checkpoint of a long stage.
#[derive(Debug)]
pub struct Checkpoints {
    pub path: PathBuf,
    interval: Duration,
    last: Instant,
}

impl Checkpoints {
    /// Writing may take this share of the time at most; a large model is then saved less often.
    const SHARE: u32 = 20;

    pub fn every(interval: Duration, path: PathBuf) -> Self {
        Self { path, interval, last: Instant::now() }
    }

    pub fn due(&self) -> bool {
        self.last.elapsed() >= self.interval
    }

    pub fn save(&mut self, tensors: &[(&str, &Tensor)], state: &Value) -> Result<()> {
        let start = Instant::now();
        save(&self.path, tensors, state)?;
        self.interval = self.interval.max(start.elapsed() * Self::SHARE);
        self.last = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_checkpoint_brings_back_every_bit_and_the_state() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("checkpoint.safetensors");
        assert!(load(&path, Device::Cpu)?.is_none());
        let values = [0.1f32, -3.5e-30, f32::MAX, 0.0, -0.0, 1.0];
        let tensor = Tensor::from_slice(&values).view([2, 3]);
        save(&path, &[("flat", &tensor)], &json!({"step": 3, "name": "ä"}))?;
        let (mut tensors, state) = load(&path, Device::Cpu)?.expect("just written");
        assert_eq!(state, json!({"step": 3, "name": "ä"}));
        let back = take(&mut tensors, "flat")?;
        assert_eq!(back.size(), [2, 3]);
        let bits: Vec<u32> = Vec::<f32>::try_from(back.view(-1))?.iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, values.map(f32::to_bits));
        assert!(take(&mut tensors, "flat").is_err());
        Ok(())
    }

    #[test]
    fn the_newer_checkpoint_replaces_the_older_and_leaves_nothing_beside_it() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("checkpoint.safetensors");
        for step in 0..3 {
            save(&path, &[("flat", &Tensor::from_slice(&[step as f32]))], &json!(step))?;
        }
        let (_, state) = load(&path, Device::Cpu)?.expect("just written");
        assert_eq!(state, json!(2));
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }
}
