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
use safetensors::tensor::{Dtype, View, serialize_to_file};
use tch::{Device, Kind as TensorKind, Tensor};

use super::folder_files::refuse_pointer;
use raisin_base::error::{Context as _, Problem, Result, anyhow, ensure};

mod open;

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
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Whether two tensors have the same dtype, shape and bytes.
    pub fn are_equal(&self, one: &str, other: &str) -> Result<bool> {
        let [one, other] = [self.entry(one)?, self.entry(other)?];
        let bytes = |entry: &SafetensorsEntry| &self.files[entry.file][entry.start..entry.end];
        Ok(one.kind == other.kind && one.shape == other.shape && bytes(one) == bytes(other))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Reads the tensor with this name and shape, in this dtype, on this device.
    ///
    /// # Errors
    /// There is no such tensor, it has another shape, or its elements are whole numbers, as those of quantised weights.
    pub fn take(&mut self, name: &str, shape: &[i64], kind: TensorKind, device: Device) -> Result<Tensor> {
        let entry = self.entry(name)?;
        ensure!(
            entry.shape == shape,
            "{}: `{name}` has the shape {:?}; config.json asks for {shape:?}",
            self.folder.display(),
            entry.shape
        );
        if !FLOATS.contains(&entry.kind) {
            let message = format!("{}: `{name}` has elements of the type {:?}", self.folder.display(), entry.kind);
            return Err(Problem::new(message).hint("raisin reads f32, f16, bf16 and f64 weights").into());
        }
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
        let unread = self.unread().filter(|name| !may_be_left(name));
        refuse_unread(unread, &self.folder, "config.json does not explain")
    }

    /// The tensors that were not read, in the order of their names.
    pub fn unread(&self) -> impl Iterator<Item = &String> {
        self.entries.keys().filter(|name| !self.taken.contains(*name))
    }

    fn entry(&self, name: &str) -> Result<&SafetensorsEntry> {
        self.entries.get(name).ok_or_else(|| anyhow!("{} has no tensor `{name}`", self.folder.display()))
    }
}

/// The element types of weights.
const FLOATS: [TensorKind; 4] = [TensorKind::Float, TensorKind::Half, TensorKind::BFloat16, TensorKind::Double];

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
    let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {}", path.display()))?;
    refuse_pointer(path, &map)?;
    Ok(map)
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
mod tests;
