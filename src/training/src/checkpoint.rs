//! Checkpoints: f32 tensors and further parts in one sealed record ([`raisin_base::sealed`]).
//!
//! Each tensor is copied from the device only while it is written, so a checkpoint needs memory for one tensor.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tch::{Kind as TensorKind, Tensor, no_grad};

use raisin_base::error::{Context as _, Result, anyhow, ensure};
use raisin_base::sealed::{self, DamageListener, Record, set_aside};
use raisin_lm::weights::bytes_of;

/// Bytes of a tensor that are read at once; a multiple of the size of a number.
const PIECE: usize = 16 << 20;

/// Replaces the file `path` by the tensors and `extras`. If an error or a kill interrupts this, the old file stays.
pub fn save(path: &Path, tensors: &[(&str, &Tensor)], extras: &[&[u8]]) -> Result<()> {
    for (name, tensor) in tensors {
        ensure!(tensor.kind() == TensorKind::Float, "the checkpoint tensor `{name}` is {:?}, not f32", tensor.kind());
    }
    let names: Vec<&str> = tensors.iter().map(|(name, _)| *name).collect();
    let names = serde_json::to_vec(&names)?;
    let small: Vec<&[u8]> = std::iter::once(names.as_slice()).chain(extras.iter().copied()).collect();
    let lengths = small
        .iter()
        .map(|part| part.len())
        .chain(tensors.iter().map(|(_, tensor)| tensor.numel() * size_of::<f32>()))
        .map(|length| length as u64)
        .collect::<Vec<_>>();
    sealed::replace(path, &lengths, |part| match small.get(part) {
        Some(bytes) => Ok(Cow::Borrowed(*bytes)),
        None => {
            let (name, tensor) = tensors[part - small.len()];
            let bytes = no_grad(|| bytes_of(tensor)).with_context(|| format!("cannot copy `{name}`"))?;
            Ok(Cow::Owned(bytes))
        }
    })
}

/// An undamaged checkpoint. Its tensors stay in the file until [`SavedCheckpoint::copy_into`] reads them.
pub struct SavedCheckpoint {
    record: Record,
    names: Vec<String>,
}

impl SavedCheckpoint {
    /// `None` if there is no file, or if the file is damaged or is no checkpoint. Such a file is set aside, and `tell`
    /// is called.
    pub fn open(path: &Path, tell: DamageListener) -> Result<Option<Self>> {
        let Some(record) = sealed::open(path, tell)? else { return Ok(None) };
        let names = record.read(0).ok().and_then(|bytes| serde_json::from_slice::<Vec<String>>(&bytes).ok());
        match names.filter(|names| names.len() < record.parts()) {
            Some(names) => Ok(Some(Self { record, names })),
            None => set_aside(path, "it is no checkpoint", tell).map(|()| None),
        }
    }

    /// One of the `extras` of [`save`].
    pub fn read(&self, extra: usize) -> Result<Vec<u8>> {
        ensure!(extra < self.record.parts() - 1 - self.names.len(), "the checkpoint has no extra part {extra}");
        self.record.read(1 + extra)
    }

    /// The part of the record with the tensor of this name.
    ///
    /// # Errors
    /// There is no such tensor, or it has another number of elements than `target`.
    fn part(&self, name: &str, target: &Tensor) -> Result<usize> {
        let place = self.names.iter().position(|known| known == name);
        let place = place.ok_or_else(|| anyhow!("the checkpoint has no tensor `{name}`"))?;
        let part = self.record.parts() - self.names.len() + place;
        let (count, bytes) = (target.numel(), self.record.length(part));
        ensure!(
            bytes == (count * size_of::<f32>()) as u64,
            "the tensor `{name}` of the checkpoint has {bytes} bytes, but the model trains {count} numbers of 4 bytes"
        );
        Ok(part)
    }

    /// Whether [`Self::copy_into`] can copy all these tensors.
    ///
    /// # Errors
    /// A tensor is missing in the checkpoint, or has another number of elements.
    pub fn check(&self, targets: &[(&str, &Tensor)]) -> Result<()> {
        targets.iter().try_for_each(|(name, target)| self.part(name, target).map(drop))
    }

    /// Copies tensors of the checkpoint into the tensors with these names, on any device.
    ///
    /// # Errors
    /// See [`SavedCheckpoint::check`]. Then no tensor changes.
    pub fn copy_into(&self, targets: &[(&str, &Tensor)]) -> Result<()> {
        let parts = targets.iter().map(|(name, target)| self.part(name, target)).collect::<Result<Vec<_>>>()?;
        for ((_, target), part) in targets.iter().zip(parts) {
            let flat = target.f_detach()?.f_view([-1])?;
            let mut start = 0;
            self.record.read_in_pieces(part, PIECE, &mut |bytes| {
                let count = (bytes.len() / size_of::<f32>()) as i64;
                let piece = Tensor::f_from_data_size(bytes, &[count], TensorKind::Float)?;
                no_grad(|| flat.f_narrow(0, start, count)?.f_copy_(&piece))?;
                start += count;
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Decides when a long stage writes its next checkpoint.
#[derive(Debug)]
pub struct Checkpoints {
    pub path: PathBuf,
    interval: Duration,
    last: Instant,
}

impl Checkpoints {
    /// Writing takes at most 1/20 of the time. So a large model is saved less often.
    const SHARE: u32 = 20;

    pub fn every(interval: Duration, path: PathBuf) -> Self {
        Self { path, interval, last: Instant::now() }
    }

    pub fn due(&self) -> bool {
        self.last.elapsed() >= self.interval
    }

    /// Writes a checkpoint by `save`.
    pub fn write(&mut self, save: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        save(&self.path)?;
        self.interval = self.interval.max(start.elapsed() * Self::SHARE);
        self.last = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn open(path: &Path) -> Result<Option<SavedCheckpoint>> {
        SavedCheckpoint::open(path, &|text| panic!("{text}"))
    }

    #[test]
    fn a_checkpoint_restores_every_bit_of_the_tensors_and_the_extras() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("checkpoint");
        assert!(open(&path)?.is_none());
        let values = [0.1f32, -3.5e-30, f32::MAX, 0.0, -0.0, 1.0];
        let tensor = Tensor::from_slice(&values).view([2, 3]);
        save(&path, &[("flat", &tensor)], &["ä".as_bytes(), b""])?;
        let saved = open(&path)?.expect("just written");
        assert_eq!((saved.read(0)?, saved.read(1)?), ("ä".as_bytes().to_vec(), vec![]));
        assert!(saved.read(2).is_err());
        let back = Tensor::zeros([2, 3], (TensorKind::Float, Device::Cpu));
        saved.copy_into(&[("flat", &back)])?;
        let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
            Ok(Vec::<f32>::try_from(tensor.view(-1))?.iter().map(|value| value.to_bits()).collect())
        };
        assert_eq!(bits(&back)?, values.map(f32::to_bits));
        // If one tensor cannot be copied, no tensor changes.
        let (other, short) = (back.zeros_like(), Tensor::zeros([5], (TensorKind::Float, Device::Cpu)));
        for wrong in [("flat", &short), ("other", &other)] {
            assert!(saved.copy_into(&[("flat", &other), wrong]).is_err());
        }
        assert_eq!(bits(&other)?, [0; 6]);
        Ok(())
    }

    #[test]
    fn a_record_that_is_no_checkpoint_is_set_aside() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("checkpoint");
        sealed::replace(&path, &[1], |_| Ok(Cow::Borrowed(b"x")))?;
        assert!(
            SavedCheckpoint::open(&path, &|text| assert!(text.contains("it is no checkpoint"), "{text}"))?.is_none()
        );
        assert!(!path.exists() && folder.path().join("checkpoint.damaged").exists());
        Ok(())
    }

    #[test]
    fn a_failed_save_leaves_the_earlier_checkpoint() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("checkpoint");
        let (early, late) = (Tensor::from_slice(&[1f32, 2.0]), Tensor::from_slice(&[3f32, 4.0]));
        save(&path, &[("first", &early), ("second", &early)], &[])?;
        assert!(save(&path, &[("first", &late), ("second", &late.to_kind(TensorKind::Double))], &[]).is_err());
        let back = late.zeros_like();
        open(&path)?.expect("the earlier one").copy_into(&[("second", &back)])?;
        assert_eq!(Vec::<f32>::try_from(&back)?, [1.0, 2.0]);
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }
}
