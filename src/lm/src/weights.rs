//! Reads tensors of a checkpoint by name, from one or several memory-mapped safetensors files, and writes safetensors
//! files. gguf.rs reads GGUF files. Pickled files are never opened.
//!
//! A tensor is copied once: from the mapped file into the requested dtype and device.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, View, serialize_to_file};
use tch::{Device, Kind as TensorKind, Tensor};

use raisin_base::error::{Context as _, Problem, Result, anyhow, ensure};

/// File, dtype, shape and byte range of one tensor.
struct SafetensorsEntry {
    file: usize,
    kind: TensorKind,
    shape: Vec<i64>,
    start: usize,
    end: usize,
}

/// The tensors of a folder. It remembers which tensors were read, so that [`Self::finish`] can report unread tensors.
pub struct Weights {
    folder: PathBuf,
    files: Vec<Mmap>,
    entries: BTreeMap<String, SafetensorsEntry>,
    taken: BTreeSet<String>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join("model.safetensors");
        if single.is_file() {
            return Self::open_files(folder, &[single]);
        }
        let index_path = folder.join("model.safetensors.index.json");
        let Ok(bytes) = std::fs::read(&index_path) else {
            let problem = Problem::new(format!("{} has no model.safetensors", folder.display()));
            return Err(problem
                .hint("raisin reads safetensors and GGUF; pickled weights (.bin, .pt) are not opened")
                .into());
        };
        let index: serde_json::Value =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", index_path.display()))?;
        let map =
            index["weight_map"].as_object().ok_or_else(|| anyhow!("{} has no `weight_map`", index_path.display()))?;
        let mut names = BTreeSet::new();
        for file in map.values() {
            let name = file.as_str().ok_or_else(|| anyhow!("{}: {file} is not a file name", index_path.display()))?;
            ensure!(
                Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_))),
                "{}: the shard `{name}` is outside the folder",
                index_path.display()
            );
            names.insert(folder.join(name));
        }
        let weights = Self::open_files(folder, &names.into_iter().collect::<Vec<_>>())?;
        for name in map.keys() {
            ensure!(
                weights.entries.contains_key(name),
                "{} lists `{name}`, but no shard contains this tensor",
                index_path.display()
            );
        }
        Ok(weights)
    }

    /// Opens exactly these safetensors files.
    pub fn open_files(folder: &Path, paths: &[PathBuf]) -> Result<Self> {
        let mut weights =
            Self { folder: folder.to_owned(), files: Vec::new(), entries: BTreeMap::new(), taken: BTreeSet::new() };
        for (number, path) in paths.iter().enumerate() {
            let map = map(path)?;
            let (header, metadata) = SafeTensors::read_metadata(&map)
                .with_context(|| format!("{} is not a safetensors file", path.display()))?;
            let base = header + size_of::<u64>();
            for (name, info) in metadata.tensors() {
                let (start, end) = info.data_offsets;
                ensure!(
                    base + end <= map.len(),
                    "{}: the tensor `{name}` reaches beyond the end of the file",
                    path.display()
                );
                let entry = SafetensorsEntry {
                    file: number,
                    kind: kind_of(info.dtype).with_context(|| format!("{}: `{name}`", path.display()))?,
                    shape: info.shape.iter().map(|&size| size as i64).collect(),
                    start: base + start,
                    end: base + end,
                };
                weights.entries.insert(name, entry);
            }
            weights.files.push(map);
        }
        Ok(weights)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Reads the tensor with this name and shape, in this dtype, on this device.
    pub fn take(&mut self, name: &str, shape: &[i64], kind: TensorKind, device: Device) -> Result<Tensor> {
        let entry = self.entry(name)?;
        ensure!(
            entry.shape == shape,
            "{}: `{name}` has the shape {:?}; config.json asks for {shape:?}",
            self.folder.display(),
            entry.shape
        );
        let tensor = self.converted(entry, kind)?.f_to_device(device)?;
        self.taken.insert(name.to_owned());
        Ok(tensor)
    }

    /// Copies the tensor from the mapped file once, and converts the dtype in the same step.
    fn converted(&self, entry: &SafetensorsEntry, kind: TensorKind) -> Result<Tensor> {
        let bytes = &self.files[entry.file][entry.start..entry.end];
        let is_aligned = bytes.as_ptr().align_offset(entry.kind.elt_size_in_bytes().max(1)) == 0;
        if entry.kind == kind || bytes.is_empty() || !is_aligned {
            return Ok(Tensor::f_from_data_size(bytes, &entry.shape, entry.kind)?.f_to_kind(kind)?);
        }
        let mut strides = vec![1; entry.shape.len()];
        for place in (1..strides.len()).rev() {
            strides[place - 1] = strides[place] * entry.shape[place];
        }
        // SAFETY: the bytes are aligned, and hold `shape` numbers of this dtype: the header was checked. The tensor
        // over the bytes is read once, into a copy of another dtype, and does not outlive the map.
        let mapped = unsafe { Tensor::f_from_blob(bytes.as_ptr(), &entry.shape, &strides, entry.kind, Device::Cpu)? };
        Ok(mapped.f_to_kind(kind)?)
    }

    /// The tensor with this name in its stored dtype, on the CPU.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name)?;
        Ok(Tensor::f_from_data_size(&self.files[entry.file][entry.start..entry.end], &entry.shape, entry.kind)?)
    }

    /// Rows `start..end` of the first dimension, in the stored dtype, on the CPU. No other byte of the file is read.
    pub fn read_rows(&self, name: &str, start: usize, end: usize) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let rows = entry.shape.first().copied().unwrap_or(0) as usize;
        ensure!(
            start <= end && end <= rows,
            "the rows {start}..{end} of `{name}` do not exist: the tensor has {rows} rows"
        );
        let width = (entry.end - entry.start) / rows.max(1);
        let bytes = &self.files[entry.file][entry.start + start * width..entry.start + end * width];
        let mut shape = entry.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = (end - start) as i64;
        }
        Ok(Tensor::f_from_data_size(bytes, &shape, entry.kind)?)
    }

    /// Checks that every tensor was read, except those for which `may_be_left` is true. Call this after the last read.
    ///
    /// # Errors
    /// The checkpoint has unread tensors: its tensors do not fit the architecture in its config.json.
    pub fn finish(&self, may_be_left: impl Fn(&str) -> bool) -> Result<()> {
        let unread = self.entries.keys().filter(|name| !self.taken.contains(*name) && !may_be_left(name));
        refuse_unread(unread, &self.folder, "config.json does not explain")
    }

    fn entry(&self, name: &str) -> Result<&SafetensorsEntry> {
        self.entries.get(name).ok_or_else(|| anyhow!("{} has no tensor `{name}`", self.folder.display()))
    }
}

/// The element types that can be read and written.
const DTYPES: [(Dtype, TensorKind); 7] = [
    (Dtype::F64, TensorKind::Double),
    (Dtype::F32, TensorKind::Float),
    (Dtype::F16, TensorKind::Half),
    (Dtype::BF16, TensorKind::BFloat16),
    (Dtype::I64, TensorKind::Int64),
    (Dtype::I32, TensorKind::Int),
    (Dtype::U8, TensorKind::Uint8),
];

fn kind_of(dtype: Dtype) -> Result<TensorKind> {
    let known = DTYPES.iter().find(|(known, _)| *known == dtype);
    known.map(|(_, kind)| *kind).ok_or_else(|| anyhow!("the element type {dtype:?} is not supported"))
}

fn dtype_of(kind: TensorKind) -> Result<Dtype> {
    let known = DTYPES.iter().find(|(_, known)| *known == kind);
    known.map(|(dtype, _)| *dtype).ok_or_else(|| anyhow!("tensors of dtype {kind:?} cannot be written"))
}

/// Maps a file of weights into memory.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    // SAFETY: the map is only read. A file of weights is an immutable file of the store, or a file of the user that no
    // process is expected to change while it is mapped.
    unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {}", path.display()))
}

/// Refuses tensors of a file or folder that were not read. `clause` completes the sentence "the file has tensors that
/// ...".
pub(super) fn refuse_unread<'a>(unread: impl Iterator<Item = &'a String>, path: &Path, clause: &str) -> Result<()> {
    let names: Vec<&str> = unread.map(String::as_str).take(5).collect();
    ensure!(names.is_empty(), "{} has tensors that {clause}: {}", path.display(), names.join(", "));
    Ok(())
}

/// The bytes of a tensor, in the byte order of the machine (little-endian).
pub fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let count = tensor.numel();
    let mut bytes = vec![0; count * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, count)?;
    Ok(bytes)
}

/// A tensor to be written into a file. The tensor is made while the file is written, and freed at once. So writing a
/// file takes the memory of its largest tensor, and not the memory of all tensors.
pub struct Outgoing<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    length: usize,
    make: Box<dyn Fn() -> Result<Tensor> + 'a>,
}

impl<'a> Outgoing<'a> {
    /// `make` returns a tensor with this dtype and shape, on any device.
    pub fn new(name: String, kind: TensorKind, shape: &[i64], make: impl Fn() -> Result<Tensor> + 'a) -> Result<Self> {
        let shape: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
        Ok(Self {
            dtype: dtype_of(kind).with_context(|| format!("`{name}`"))?,
            length: shape.iter().product::<usize>() * kind.elt_size_in_bytes(),
            make: Box::new(make),
            name,
            shape,
        })
    }

    /// The given tensor, unchanged.
    pub fn of(name: String, tensor: &'a Tensor) -> Result<Self> {
        Self::new(name, tensor.kind(), &tensor.size(), || Ok(tensor.shallow_clone()))
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let bytes = tch::no_grad(|| bytes_of(&(self.make)()?))?;
        ensure!(
            bytes.len() == self.length,
            "the tensor has {} bytes, but its shape and dtype require {}",
            bytes.len(),
            self.length
        );
        Ok(bytes)
    }
}

/// An outgoing tensor, as the safetensors crate requests it. The crate's writer accepts all bytes that it gets. So if a
/// tensor cannot be made, its error is kept in `failed`, and the remaining tensors are not copied.
struct Announced<'a> {
    tensor: &'a Outgoing<'a>,
    failed: &'a RefCell<Option<raisin_base::error::Error>>,
}

impl View for Announced<'_> {
    fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let mut failed = self.failed.borrow_mut();
        if failed.is_none() {
            match self.tensor.bytes() {
                Ok(bytes) => return Cow::Owned(bytes),
                Err(error) => *failed = Some(error.context(format!("cannot copy `{}`", self.tensor.name))),
            }
        }
        Cow::Borrowed(&[])
    }
    fn data_len(&self) -> usize {
        self.tensor.length
    }
}

/// Writes tensors as Hugging Face expects them: safetensors with the metadata `format = pt`. tch's own writer leaves
/// this entry out.
///
/// # Errors
/// A tensor cannot be copied to the CPU, or the file cannot be written. Then no file remains.
pub fn write(path: &Path, tensors: &[Outgoing<'_>]) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let failed = RefCell::new(None);
    let views = tensors.iter().map(|tensor| (tensor.name.as_str(), Announced { tensor, failed: &failed }));
    serialize_to_file(views, Some(metadata), path).with_context(|| format!("cannot write {}", path.display()))?;
    match failed.into_inner() {
        None => Ok(()),
        Some(error) => {
            std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
            Err(error).with_context(|| format!("cannot write {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_tensors() -> Vec<(String, Tensor)> {
        vec![
            ("a".to_owned(), Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([3, 2])),
            ("b".to_owned(), Tensor::from_slice(&[0.5f32]).to_kind(TensorKind::BFloat16)),
        ]
    }

    fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
        let tensors = tensors.iter().map(|(name, tensor)| Outgoing::of(name.clone(), tensor));
        super::write(path, &tensors.collect::<Result<Vec<_>>>()?)
    }

    #[test]
    fn a_tensor_that_cannot_be_copied_is_an_error_and_no_file_remains() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("model.safetensors");
        let tensor = Tensor::from_slice(&[1f32, 2.0]);
        let short = Tensor::from_slice(&[1f32]);
        let broken: [Box<dyn Fn() -> Result<Tensor>>; 2] =
            [Box::new(|| Err(anyhow!("CUDA error: an illegal memory access"))), Box::new(|| Ok(short.shallow_clone()))];
        for make in broken {
            let tensors = [
                Outgoing::of("a".to_owned(), &tensor)?,
                Outgoing::new("b".to_owned(), TensorKind::Float, &[2], make)?,
                Outgoing::of("c".to_owned(), &tensor)?,
            ];
            let error = super::write(&path, &tensors).expect_err("b fails");
            assert!(format!("{error:#}").contains("cannot copy `b`: "), "{error:#}");
            assert_eq!(std::fs::read_dir(folder.path())?.count(), 0);
        }
        Ok(())
    }

    #[test]
    fn written_tensors_are_read_back_whole_and_by_rows() -> Result<()> {
        let folder = tempfile::tempdir()?;
        write(&folder.path().join("model.safetensors"), &two_tensors())?;
        let mut weights = Weights::open(folder.path())?;
        assert_eq!(Vec::<f32>::try_from(weights.read_rows("a", 1, 3)?.view([-1]))?, [3.0, 4.0, 5.0, 6.0]);
        assert_eq!(Vec::<f32>::try_from(weights.take("b", &[1], TensorKind::Float, Device::Cpu)?)?, [0.5]);
        let error = weights.finish(|_| false).expect_err("a is left");
        assert!(error.to_string().ends_with("does not explain: a"), "{error}");
        let _ = weights.take("a", &[3, 2], TensorKind::Float, Device::Cpu)?;
        weights.finish(|_| false)
    }

    #[test]
    fn a_wrong_shape_and_a_missing_tensor_are_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        write(&folder.path().join("model.safetensors"), &two_tensors())?;
        let mut weights = Weights::open(folder.path())?;
        let error = weights.take("a", &[2, 3], TensorKind::Float, Device::Cpu).expect_err("shape");
        assert!(error.to_string().contains("`a` has the shape [3, 2]; config.json asks for [2, 3]"), "{error}");
        let error = weights.take("c", &[1], TensorKind::Float, Device::Cpu).expect_err("missing");
        assert!(error.to_string().contains("no tensor `c`"), "{error}");
        Ok(())
    }

    #[test]
    fn shards_are_read_as_one() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for (number, tensor) in two_tensors().into_iter().enumerate() {
            write(&folder.path().join(format!("part-{number}.safetensors")), &[tensor])?;
        }
        let index = r#"{"weight_map": {"a": "part-0.safetensors", "b": "part-1.safetensors"}}"#;
        std::fs::write(folder.path().join("model.safetensors.index.json"), index)?;
        assert_eq!(Weights::open(folder.path())?.names().collect::<Vec<_>>(), ["a", "b"]);
        std::fs::write(
            folder.path().join("model.safetensors.index.json"),
            r#"{"weight_map": {"a": "../part-0.safetensors"}}"#,
        )?;
        assert!(Weights::open(folder.path()).is_err());
        Ok(())
    }
}
