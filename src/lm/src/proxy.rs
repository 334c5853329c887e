//! Computes the hidden states of a frozen prefix once, writes them to a file, and reads rows of them. A proxy trains
//! only the layers above the prefix, so its training is cheap. The training loop is in the crate `training`.
//!
//! states.safetensors holds these tensors for the pool, for the validation set and perhaps for the test set: the states that enter the first
//! trained layer (`[tokens, hidden]`, row after row), the start of each row, and the tokens themselves. With the
//! tokens, a row can be checked against the sequence that it is used for. The file is memory-mapped; a batch reads only
//! its own rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::{Kind as TensorKind, Tensor};

use super::batch::Batch;
use super::config::read_json;
use super::model::Model;
use super::out_of_memory::in_groups;
use super::weights::{Weights, bytes_of};
use raisin_base::error::{Context as _, Problem, Result, ensure};
use raisin_corpus::Sequence;

pub use raisin_settings::Overlong;

const STATES: &str = "states.safetensors";

/// The content of proxy.json: which layers are trained, and how the states were computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyConfig {
    /// The number of top layers that training may change.
    pub train_layers: usize,
    /// The number of layers below the trained layers. The states after these layers are cached.
    pub prefix_layers: usize,
    /// The largest number of tokens in a sequence.
    pub max_tokens: usize,
    /// What happened to longer rows.
    #[serde(default)]
    pub on_overlong: Overlong,
}

impl ProxyConfig {
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("proxy.json");
        serde_json::from_value(read_json(&path)?)
            .with_context(|| format!("{} is not a valid proxy.json", path.display()))
    }
}

/// Cached states of the pool, of the validation set and perhaps of the test set.
pub struct PrefixStates {
    pub config: ProxyConfig,
    weights: Weights,
    pool: Vec<i64>,
    validation: Vec<i64>,
    test: Option<Vec<i64>>,
}

impl PrefixStates {
    /// Opens the folder of a proxy.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = ProxyConfig::read(folder)?;
        let weights = Weights::open_files(folder, &[folder.join(STATES)])?;
        let offsets = |name: &str| -> Result<Vec<i64>> {
            let offsets = Vec::<i64>::try_from(weights.read(&format!("{name}.offsets"))?)?;
            let tokens = weights.shape(&format!("{name}.states")).map_or(0, |shape| shape[0]);
            ensure!(
                offsets.first() == Some(&0)
                    && offsets.last() == Some(&tokens)
                    && offsets.windows(2).all(|pair| pair[0] <= pair[1]),
                "{}: the row offsets of `{name}` do not fit its states",
                folder.join(STATES).display()
            );
            Ok(offsets)
        };
        let (pool, validation) = (offsets("pool")?, offsets("validation")?);
        let test = if weights.contains("test.offsets") { Some(offsets("test")?) } else { None };
        Ok(Self { config, weights, pool, validation, test })
    }

    /// The number of pool rows, including rows without tokens.
    pub fn pool_rows(&self) -> usize {
        self.pool.len() - 1
    }

    /// The states of these pool rows, one row after another: `[tokens, hidden]`, on the CPU, in the stored dtype.
    pub fn rows(&self, rows: &[u32]) -> Result<Tensor> {
        let mut parts = Vec::with_capacity(rows.len());
        for &row in rows {
            let (start, end) = self.bounds(row)?;
            parts.push(self.weights.read_rows("pool.states", start, end)?);
        }
        ensure!(!parts.is_empty(), "no rows of the proxy were requested");
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    /// The states of a validation example, by its place in the task: `[tokens, hidden]`, as [`Self::rows`].
    ///
    /// # Errors
    /// There is no such example, or its states belong to other tokens than those of `sequence`.
    pub fn example(&self, example: u32, sequence: &Sequence) -> Result<Tensor> {
        let bounds = self.validation.get(example as usize..example as usize + 2);
        let (start, end) = bounds.map_or((0, 0), |bounds| (bounds[0] as usize, bounds[1] as usize));
        let tokens = Vec::<i32>::try_from(self.weights.read_rows("validation.tokens", start, end)?)?;
        if !tokens.iter().map(|&token| token as u32).eq(sequence.tokens.iter().copied()) {
            let problem = format!("the cached states of validation example {example} belong to other tokens");
            return Err(Problem::new(problem).hint("name the same `task` here and in the stage of the proxy").into());
        }
        self.weights.read_rows("validation.states", start, end)
    }

    /// The states of the whole validation set, `[tokens, hidden]`, in its order. Examples without a supervised token
    /// have none.
    pub fn validation(&self) -> Result<Tensor> {
        self.weights.read("validation.states")
    }

    /// The tokens of each validation example; none for an example without a sequence.
    pub fn validation_tokens(&self) -> Result<Vec<Vec<u32>>> {
        let tokens = Vec::<i32>::try_from(self.weights.read("validation.tokens")?)?;
        let row = |bounds: &[i64]| tokens[bounds[0] as usize..bounds[1] as usize].iter().map(|&it| it as u32).collect();
        Ok(self.validation.windows(2).map(row).collect())
    }

    /// Whether there are states of the test set.
    pub fn has_test(&self) -> bool {
        self.test.is_some()
    }

    /// The states of these test examples, `[tokens, hidden]` each. `None` if there are none for exactly one of these
    /// sequences. An evaluation may leave out examples, so that an example is found by its tokens.
    pub fn test(&self, sequences: &[&Sequence]) -> Result<Option<Vec<Tensor>>> {
        let Some(test) = &self.test else { return Ok(None) };
        let tokens = Vec::<i32>::try_from(self.weights.read("test.tokens")?)?;
        let tokens: Vec<u32> = tokens.into_iter().map(|token| token as u32).collect();
        let bounds = |pair: &[i64]| (pair[0] as usize, pair[1] as usize);
        let places: BTreeMap<&[u32], (usize, usize)> =
            test.windows(2).map(bounds).map(|(start, end)| (&tokens[start..end], (start, end))).collect();
        let states = sequences.iter().map(|sequence| match places.get(sequence.tokens.as_slice()) {
            Some(&(start, end)) => self.weights.read_rows("test.states", start, end).map(Some),
            None => Ok(None),
        });
        Ok(states.collect::<Result<Vec<Option<Tensor>>>>()?.into_iter().collect())
    }

    /// Checks that the states of a pool row belong to exactly this sequence.
    pub fn check(&self, row: u32, sequence: &Sequence) -> Result<()> {
        let (start, end) = self.bounds(row)?;
        let tokens = Vec::<i32>::try_from(self.weights.read_rows("pool.tokens", start, end)?)?;
        if tokens.iter().map(|&token| token as u32).eq(sequence.tokens.iter().copied()) {
            return Ok(());
        }
        Err(Problem::new(format!("the cached states of pool row {row} belong to other tokens"))
            .hint("make the proxy from the instructions of this stage, with the max_tokens of this stage")
            .into())
    }

    fn bounds(&self, row: u32) -> Result<(usize, usize)> {
        match self.pool.get(row as usize..row as usize + 2) {
            Some(bounds) => Ok((bounds[0] as usize, bounds[1] as usize)),
            None => Err(Problem::new(format!(
                "the proxy has no states for pool row {row}: it has {} rows",
                self.pool_rows()
            ))
            .hint("make the proxy from the instructions of this stage")
            .into()),
        }
    }
}

/// Computes and writes the states of a prefix for a pool and its validation set: see [`write_sets`].
pub fn write_states(
    model: &Model,
    config: &ProxyConfig,
    pool: &[Option<Sequence>],
    validation: &[Option<Sequence>],
    batch_tokens: usize,
    folder: &Path,
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    write_sets(model, config, &[("pool", pool), ("validation", validation)], batch_tokens, folder, progress)
}

/// Computes and writes the states of a prefix for several sets of sequences: `pool`, `validation` and perhaps `test`. A
/// `None` among the sequences is a row without tokens.
///
/// The states of a batch are written as soon as they are computed, so memory holds the states of one batch. After each
/// batch, `progress` receives the number of finished tokens. A batch holds at most `batch_tokens` tokens, and fewer if
/// there is no memory for this number.
pub fn write_sets(
    model: &Model,
    config: &ProxyConfig,
    sets: &[(&str, &[Option<Sequence>])],
    batch_tokens: usize,
    folder: &Path,
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    let path = folder.join(STATES);
    let mut file = BufWriter::new(File::create(&path).with_context(|| format!("cannot create {}", path.display()))?);
    file.write_all(&header(model, sets)?)?;
    for (_, sequences) in sets {
        let mut offset = 0i64;
        file.write_all(&offset.to_le_bytes())?;
        for sequence in *sequences {
            offset += length(sequence.as_ref()) as i64;
            file.write_all(&offset.to_le_bytes())?;
        }
    }
    for (_, sequences) in sets {
        for token in sequences.iter().flatten().flat_map(|sequence| &sequence.tokens) {
            file.write_all(&token.to_le_bytes())?;
        }
    }
    let (mut done, mut limit) = (0, batch_tokens);
    for (_, sequences) in sets {
        let present: Vec<&Sequence> = sequences.iter().flatten().collect();
        let lengths: Vec<usize> = present.iter().map(|sequence| sequence.tokens.len()).collect();
        let before = limit;
        in_groups(&lengths, &mut limit, |rows| {
            let batch = Batch::pack(&present[rows], model.device())?;
            let states = tch::no_grad(|| model.prefix_states(config.prefix_layers, &batch))?;
            file.write_all(&bytes_of(&states)?).with_context(|| format!("cannot write {}", path.display()))?;
            done += batch.tokens();
            progress(done);
            Ok(())
        })?;
        if limit < before {
            model.tell(&format!("there was no memory for {before} tokens at a time; the limit is now {limit} tokens"));
        }
    }
    file.flush().with_context(|| format!("cannot write {}", path.display()))
}

/// The number of tokens; 0 without a sequence.
fn length(sequence: Option<&Sequence>) -> usize {
    sequence.map_or(0, |sequence| sequence.tokens.len())
}

/// The safetensors header. The writer of the safetensors crate needs all tensors in memory; these tensors may not fit.
fn header(model: &Model, parts: &[(&str, &[Option<Sequence>])]) -> Result<Vec<u8>> {
    let (dtype, width) = if model.compute() == TensorKind::BFloat16 { ("BF16", 2) } else { ("F32", 4) };
    let hidden = model.config.hidden_size as usize;
    let tokens =
        |sequences: &[Option<Sequence>]| -> usize { sequences.iter().map(|sequence| length(sequence.as_ref())).sum() };
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    let mut entry = |name: String, dtype: &str, shape: Value, bytes: usize| {
        entries.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes]}));
        end += bytes;
    };
    for (name, sequences) in parts {
        entry(format!("{name}.offsets"), "I64", json!([sequences.len() + 1]), (sequences.len() + 1) * 8);
    }
    for (name, sequences) in parts {
        entry(format!("{name}.tokens"), "I32", json!([tokens(sequences)]), tokens(sequences) * 4);
    }
    for (name, sequences) in parts {
        let count = tokens(sequences);
        entry(format!("{name}.states"), dtype, json!([count, hidden]), count * hidden * width);
    }
    let mut text = serde_json::to_string(&Value::Object(entries))?;
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.into_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;
    use raisin_base::seed::Seed;
    use std::sync::{Arc, Mutex};
    use tch::Device;

    fn sequence(length: u32) -> Option<Sequence> {
        Some(Sequence {
            tokens: (0..length).map(|place| (place * 7 + length) % 50).collect(),
            supervised: (0..length).map(|place| place > 0).collect(),
        })
    }

    #[test]
    fn cached_states_are_those_of_the_prefix_row_by_row() -> Result<()> {
        for compute in [TensorKind::Float, TensorKind::BFloat16] {
            let folder = tempfile::tempdir()?;
            let model = Model::init(ModelConfig::llama(50, 16, 3, 4, 2, 24), &Seed::new(5), Device::Cpu, compute)?;
            let config =
                ProxyConfig { train_layers: 1, prefix_layers: 2, max_tokens: 32, on_overlong: Overlong::Truncate };
            let pool = [sequence(5), None, sequence(9), sequence(7)];
            let validation = [sequence(4), sequence(11)];
            let mut heard = Vec::new();
            write_states(&model, &config, &pool, &validation, 14, folder.path(), &mut |done| heard.push(done))?;
            assert_eq!(heard, [14, 21, 25, 36]);
            std::fs::write(folder.path().join("proxy.json"), serde_json::to_string(&config)?)?;
            let states = PrefixStates::open(folder.path())?;
            assert_eq!((states.pool_rows(), states.bounds(1)?, states.bounds(3)?), (4, (5, 5), (14, 21)));
            assert_eq!(states.validation_tokens()?.iter().map(Vec::len).collect::<Vec<_>>(), [4, 11]);
            assert_eq!(states.validation_tokens()?[0], validation[0].as_ref().expect("tokens").tokens);
            let second = validation[1].as_ref().expect("tokens");
            let direct = model.prefix_states(2, &Batch::pack(&[second], Device::Cpu)?)?;
            assert!(states.example(1, second)?.allclose(&direct, 1e-2, 1e-3, false));
            assert!(states.example(0, second).is_err() && states.example(2, second).is_err());
            let wanted: Vec<&Sequence> = [3, 0].iter().filter_map(|&row: &usize| pool[row].as_ref()).collect();
            let direct = model.prefix_states(2, &Batch::pack(&wanted, Device::Cpu)?)?;
            let cached = states.rows(&[3, 0])?;
            assert_eq!(cached.kind(), compute);
            assert!(cached.allclose(&direct, 1e-2, 1e-3, false));
            states.check(3, wanted[0])?;
            assert!(states.check(0, wanted[0]).is_err());
            assert!(states.rows(&[4]).is_err());
            let all: Vec<&Sequence> = validation.iter().flatten().collect();
            let direct = model.prefix_states(2, &Batch::pack(&all, Device::Cpu)?)?;
            assert!(states.validation()?.allclose(&direct, 1e-2, 1e-3, false));
        }
        Ok(())
    }

    #[test]
    fn without_memory_for_a_batch_the_states_come_from_smaller_batches() -> Result<()> {
        let mut model =
            Model::init(ModelConfig::llama(50, 16, 3, 4, 2, 24), &Seed::new(5), Device::Cpu, TensorKind::Float)?;
        let config = ProxyConfig { train_layers: 1, prefix_layers: 2, max_tokens: 32, on_overlong: Overlong::Truncate };
        let (pool, validation) = ([sequence(5), None, sequence(9), sequence(7)], [sequence(4), sequence(6)]);
        let states = |model: &Model| -> Result<[Tensor; 2]> {
            let folder = tempfile::tempdir()?;
            write_states(model, &config, &pool, &validation, 1000, folder.path(), &mut |_| ())?;
            std::fs::write(folder.path().join("proxy.json"), serde_json::to_string(&config)?)?;
            let states = PrefixStates::open(folder.path())?;
            Ok([states.rows(&[0, 2, 3])?, states.validation()?])
        };
        let whole = states(&model)?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        model.listen(Arc::new(move |text| hears.lock().expect("one thread").push(text.to_owned())));
        model.limit_room(Some(10));
        for (halved, whole) in states(&model)?.iter().zip(&whole) {
            assert!(halved.allclose(whole, 1e-5, 1e-6, false));
        }
        assert_eq!(
            *heard.lock().expect("one thread"),
            ["there was no memory for 1000 tokens at a time; the limit is now 10 tokens"]
        );
        Ok(())
    }
}
