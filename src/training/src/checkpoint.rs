//! Checkpoints: tensors and a JSON state in one safetensors file, replaced whole. Knows nothing of what they mean.
//!
//! One file and one rename: a process killed at any instant leaves the previous checkpoint or the new one, never a
//! mixture. A tensor is copied out of the model only while it is written, so a checkpoint costs no second copy.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;
use tch::{Device, Kind, Tensor, no_grad};

use raisin_base::error::{Context as _, Result, anyhow, ensure};
use raisin_lm::weights::{Outgoing, write_file};

/// Where the JSON state stands in the file's metadata.
const STATE: &str = "state";

/// Writes f32 tensors and a state into `path`, which then holds all of it or what it held before.
pub fn save(path: &Path, tensors: &[(&str, &Tensor)], state: &Value) -> Result<()> {
    let mut outgoing = Vec::with_capacity(tensors.len());
    for &(name, tensor) in tensors {
        ensure!(tensor.kind() == Kind::Float, "the checkpoint tensor {name} is {:?}, not f32", tensor.kind());
        outgoing.push(Outgoing::of(name.to_owned(), tensor)?);
    }
    replace(path, &outgoing, state)
}

fn replace(path: &Path, tensors: &[Outgoing<'_>], state: &Value) -> Result<()> {
    let partial = path.with_extension("partial");
    write_file(&partial, tensors, (STATE, &state.to_string()))?;
    // Else a loss of power could leave the new name on a file whose tensors are zeros.
    let sync = || File::open(&partial)?.sync_all();
    sync().with_context(|| format!("cannot write the checkpoint {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("cannot put {} in place", path.display()))
}

/// What [`save`] wrote: the state is at hand, the tensors stay in the file until they are copied to where they belong.
pub struct Saved {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    /// Where the tensors begin.
    base: usize,
    pub state: Value,
}

impl Saved {
    /// `None` where there is no such file.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        // SAFETY: a checkpoint is never written over: a newer one takes its name, and this file stays what it is.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {}", path.display()))?;
        let (length, header) =
            SafeTensors::read_metadata(&map).with_context(|| format!("{} is not a checkpoint", path.display()))?;
        let state = header.metadata().as_ref().and_then(|metadata| metadata.get(STATE));
        let state = state.ok_or_else(|| anyhow!("{} has no state", path.display()))?;
        let state = serde_json::from_str(state).with_context(|| format!("{} has no readable state", path.display()))?;
        Ok(Some(Self { path: path.to_owned(), map, header, base: length + size_of::<u64>(), state }))
    }

    /// Copies tensors of the file over those of the same names and numbers of elements, on whatever device they are.
    ///
    /// # Errors
    /// A tensor that is not in the file, or that is another one there: nothing is copied then.
    pub fn copy_into(&self, targets: &[(&str, &Tensor)]) -> Result<()> {
        let sources = targets.iter().map(|(name, target)| self.tensor(name, target)).collect::<Result<Vec<_>>>()?;
        no_grad(|| {
            for ((_, target), source) in targets.iter().zip(&sources) {
                target.f_detach()?.f_copy_(&source.f_view(target.size().as_slice())?)?;
            }
            Ok(())
        })
    }

    /// The numbers as they lie in the mapped file, which they must not outlive.
    fn tensor(&self, name: &str, target: &Tensor) -> Result<Tensor> {
        let path = self.path.display();
        let entry = self.header.info(name).ok_or_else(|| anyhow!("the checkpoint {path} has no tensor {name}"))?;
        let (start, end) = entry.data_offsets;
        let count = target.numel();
        ensure!(
            entry.dtype == Dtype::F32 && end - start == count * size_of::<f32>(),
            "the checkpoint {path} has {} bytes of {name} for {count} trained numbers",
            end - start
        );
        let bytes = self.map.get(self.base + start..self.base + end);
        let bytes = bytes.ok_or_else(|| anyhow!("the checkpoint {path} ends before its tensor {name} does"))?;
        if bytes.is_empty() || bytes.as_ptr().align_offset(align_of::<f32>()) != 0 {
            return Ok(Tensor::f_from_data_size(bytes, &[count as i64], Kind::Float)?);
        }
        // SAFETY: so many aligned f32 in the map; the one caller reads them while it holds the map.
        Ok(unsafe { Tensor::f_from_blob(bytes.as_ptr(), &[count as i64], &[1], Kind::Float, Device::Cpu)? })
    }
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
        assert!(Saved::open(&path)?.is_none());
        let values = [0.1f32, -3.5e-30, f32::MAX, 0.0, -0.0, 1.0];
        let tensor = Tensor::from_slice(&values).view([2, 3]);
        save(&path, &[("flat", &tensor)], &json!({"step": 3, "name": "ä"}))?;
        let saved = Saved::open(&path)?.expect("just written");
        assert_eq!(saved.state, json!({"step": 3, "name": "ä"}));
        let back = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        saved.copy_into(&[("flat", &back)])?;
        let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
            Ok(Vec::<f32>::try_from(tensor.view(-1))?.iter().map(|value| value.to_bits()).collect())
        };
        assert_eq!(bits(&back)?, values.map(f32::to_bits));
        // Nothing is copied where not everything can be.
        let (other, short) = (back.zeros_like(), Tensor::zeros([5], (Kind::Float, Device::Cpu)));
        for wrong in [("flat", &short), ("other", &other)] {
            assert!(saved.copy_into(&[("flat", &other), wrong]).is_err());
        }
        assert_eq!(bits(&other)?, [0; 6]);
        // As at the end of a file that was cut off.
        std::fs::write(&path, &std::fs::read(&path)?[..60])?;
        assert!(Saved::open(&path).is_err());
        Ok(())
    }

    #[test]
    fn the_newer_checkpoint_replaces_the_older_and_leaves_nothing_beside_it() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("checkpoint.safetensors");
        for step in 0..3 {
            save(&path, &[("flat", &Tensor::from_slice(&[step as f32]))], &json!(step))?;
        }
        assert_eq!(Saved::open(&path)?.expect("just written").state, json!(2));
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_copy_that_fails_leaves_the_earlier_checkpoint() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("checkpoint.safetensors");
        let (early, late) = (Tensor::from_slice(&[1f32, 2.0]), Tensor::from_slice(&[3f32, 4.0]));
        save(&path, &[("first", &early), ("second", &early)], &json!(1))?;
        let lost = || Err(anyhow!("CUDA error: an illegal memory access was encountered"));
        let tensors =
            [Outgoing::new("first".to_owned(), Kind::Float, &[2], lost)?, Outgoing::of("second".into(), &late)?];
        let error = replace(&path, &tensors, &json!(2)).expect_err("a copy fails");
        assert!(
            format!("{error:#}").ends_with("cannot copy `first`: CUDA error: an illegal memory access was encountered")
        );
        let saved = Saved::open(&path)?.expect("the earlier one");
        let back = late.zeros_like();
        saved.copy_into(&[("second", &back)])?;
        assert_eq!((saved.state, Vec::<f32>::try_from(&back)?), (json!(1), vec![1.0, 2.0]));
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }
}
