//! Opens the safetensors files of a folder: one file, or the shards of an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use safetensors::tensor::SafeTensors;
use serde_json::Value;

use super::{SafetensorsEntry, Weights, kind_of, map};
use crate::config::read_json;
use crate::folder_files::no_weights;
use raisin_base::error::{Context as _, Problem, Result, anyhow, ensure};

/// The files of pickled weights, which raisin does not open.
const PICKLED: [&str; 4] = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model.pt"];

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// The folder has no weights in this form, or the index and the shards do not fit together.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join("model.safetensors");
        if single.is_file() {
            return Self::open_files(folder, &[single]);
        }
        let index_path = folder.join("model.safetensors.index.json");
        if !index_path.is_file() {
            return Err(no_weights(folder, "model.safetensors", &PICKLED).into());
        }
        let index = read_json(&index_path)?;
        let shards = shards(&index).with_context(|| format!("in {}", index_path.display()))?;
        let files: BTreeSet<&str> = shards.values().copied().collect();
        let paths: Vec<PathBuf> = files.iter().map(|name| folder.join(name)).collect();
        if let Some(missing) = paths.iter().find(|path| !path.is_file()) {
            let message = format!("{} is missing: {} lists this file", missing.display(), index_path.display());
            return Err(Problem::new(message).hint("fetch all files of the model again").into());
        }
        let weights = Self::open_files(folder, &paths)?;
        let file_of: Vec<&str> = files.into_iter().collect();
        for (name, file) in &shards {
            let found = weights.entries.get(*name).map(|entry| file_of[entry.file]);
            ensure!(
                found == Some(*file),
                "{} lists `{name}` in {file}, but {}",
                index_path.display(),
                found
                    .map_or_else(|| "no shard contains this tensor".to_owned(), |found| format!("{found} contains it"))
            );
        }
        Ok(weights)
    }

    /// Opens exactly these safetensors files.
    ///
    /// # Errors
    /// A file is no safetensors file, or two files contain a tensor of the same name.
    pub fn open_files(folder: &Path, paths: &[PathBuf]) -> Result<Self> {
        let mut weights =
            Self { folder: folder.to_owned(), files: Vec::new(), entries: BTreeMap::new(), taken: BTreeSet::new() };
        for (number, path) in paths.iter().enumerate() {
            let map = map(path)?;
            let (header, metadata) = SafeTensors::read_metadata(&map)
                .with_context(|| format!("{} is not a safetensors file", path.display()))?;
            let base = header + size_of::<u64>();
            // In a fixed order, so that the same file gives the same error.
            for (name, info) in metadata.tensors().into_iter().collect::<BTreeMap<_, _>>() {
                let (start, end) = info.data_offsets;
                let last = base.checked_add(end).filter(|last| *last <= map.len() && start <= end);
                let last = last.ok_or_else(|| {
                    anyhow!("{}: the tensor `{name}` reaches beyond the end of the file", path.display())
                })?;
                let shape = info.shape.iter().map(|&size| i64::try_from(size));
                let entry = SafetensorsEntry {
                    file: number,
                    kind: kind_of(info.dtype).with_context(|| format!("{}: `{name}`", path.display()))?,
                    shape: shape.collect::<Result<_, _>>().with_context(|| format!("{}: `{name}`", path.display()))?,
                    start: base + start,
                    end: last,
                };
                if let Some(first) = weights.entries.insert(name.clone(), entry) {
                    let (one, other) = (paths[first.file].display(), path.display());
                    let message = format!("{one} and {other} both contain `{name}`");
                    return Err(Problem::new(message).hint("fetch all files of the model again").into());
                }
            }
            weights.files.push(map);
        }
        Ok(weights)
    }
}

/// The file of each tensor, from the index.
fn shards(index: &Value) -> Result<BTreeMap<&str, &str>> {
    let map = index["weight_map"].as_object().ok_or_else(|| anyhow!("there is no `weight_map`"))?;
    let mut shards = BTreeMap::new();
    for (name, file) in map {
        let file = file.as_str().ok_or_else(|| anyhow!("{file} is not a file name"))?;
        ensure!(
            !file.is_empty() && Path::new(file).components().all(|part| matches!(part, Component::Normal(_))),
            "the shard `{file}` is outside the folder"
        );
        shards.insert(name.as_str(), file);
    }
    ensure!(!shards.is_empty(), "`weight_map` is empty");
    Ok(shards)
}
