//! For tests of the tensor kinds: a folder with small artifacts, and contexts of stages that use them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, StringArray, UInt32Array};
use serde_json::{Value, json};
use tch::{Device, Kind as TensorKind};

use crate::tables::vector_column;
use raisin_base::error::Result;
use raisin_base::seed::Seed;
use raisin_contract::{Assignment, Context};
use raisin_corpus::artifact::{PoolRow, examples_batch, instructions_batch};
use raisin_corpus::message::conversation;
use raisin_corpus::{Example, byte_tokenizer};
use raisin_lm::{Model, ModelConfig};
use raisin_table as table;

/// The number of rows of the pool. The prompt of the last row is so long that its sequence of 1024 tokens has no
/// response token.
pub const ROWS: usize = 12;

/// A folder of artifacts: `pool`, `task`, `model`, `clusters`.
pub struct TensorFixture {
    folder: tempfile::TempDir,
}

impl TensorFixture {
    pub fn new() -> Result<Self> {
        tch::set_num_threads(1);
        let store = Self { folder: tempfile::tempdir()? };
        for name in ["pool", "task", "model", "clusters"] {
            std::fs::create_dir(store.artifact(name))?;
        }
        let rows: Vec<PoolRow> = (0..ROWS)
            .map(|row| {
                let response = format!("answer {}", "x".repeat(row));
                let prompt = if row + 1 == ROWS { "long ".repeat(240) } else { format!("question {row}") };
                let mut made = PoolRow::new(conversation(None, &prompt, Some(&response)), 0, row as u64 + 1);
                made.label = Some(if row % 2 == 0 { "relevant" } else { "other" }.to_owned());
                made
            })
            .collect();
        store.write_pool(&rows)?;
        let sources = table::batch(vec![
            ("source", Arc::new(UInt32Array::from(vec![0])) as ArrayRef),
            ("file", Arc::new(StringArray::from(vec!["rows.jsonl"]))),
        ])?;
        table::write(&store.artifact("pool").join("sources.parquet"), &sources)?;
        let example = |id: u32| {
            let right = format!("#### {}", id + 1);
            let open = Example::open(id, conversation(None, &format!("{id} + 1?"), None), right.clone());
            Example { choices: vec!["no".to_owned(), right], answer: Some(1), ..open }
        };
        let examples: Vec<Example> = (0..5).map(example).collect();
        store.write_examples("validation", &examples[..3])?;
        store.write_examples("test", &examples[3..])?;
        let scoring = json!({"scoring": "match", "extract": "gsm8k", "max_new_tokens": 4});
        std::fs::write(store.artifact("task").join("task.json"), scoring.to_string())?;

        let config = ModelConfig::llama(260, 16, 2, 2, 1, 32);
        let model = Model::init(config, &Seed::new(5), Device::Cpu, TensorKind::Float)?;
        model.save(&store.artifact("model"))?;
        byte_tokenizer::write(&store.artifact("model"), 512)?;

        let count = ROWS as u32 - 1;
        let states: Vec<f32> = (0..count).flat_map(|row| [row as f32 / 10.0 - 0.5, (row % 3) as f32 - 1.0]).collect();
        let numbers = |of: fn(u32) -> f32| Arc::new(Float32Array::from_iter_values((0..count).map(of))) as ArrayRef;
        let clusters = table::batch(vec![
            ("id", Arc::new(UInt32Array::from_iter_values(0..count)) as ArrayRef),
            ("cluster", Arc::new(UInt32Array::from_iter_values((0..count).map(|row| row % 2)))),
            ("state", vector_column(states, 2, None)?),
            ("prompt_tokens", Arc::new(UInt32Array::from_iter_values((0..count).map(|_| 10)))),
            ("response_tokens", Arc::new(UInt32Array::from_iter_values((0..count).map(|row| 8 + row)))),
            ("logp_conditional", numbers(|row| -20.0 - row as f32)),
            ("logp_unconditional", numbers(|row| -30.0 - row as f32)),
            ("unconditional_tokens", Arc::new(UInt32Array::from_iter_values((0..count).map(|row| 8 + row)))),
        ])?;
        table::write(&store.artifact("clusters").join("clusters.parquet"), &clusters)?;
        std::fs::write(store.artifact("clusters").join("constants.json"), json!({"columns": ["a", "b"]}).to_string())?;
        Ok(store)
    }

    /// Replaces the rows of the pool, whose file is rows.jsonl.
    pub fn write_pool(&self, rows: &[PoolRow]) -> Result<()> {
        table::write(&self.artifact("pool").join("instructions.parquet"), &instructions_batch(rows)?)
    }

    /// Replaces the examples of the table `validation` or `test`.
    pub fn write_examples(&self, split: &str, examples: &[Example]) -> Result<()> {
        table::write(&self.artifact("task").join(format!("{split}.parquet")), &examples_batch(examples)?)
    }

    /// Makes the chat template of the model refuse every conversation that contains this text.
    pub fn refuse(&self, text: &str) -> Result<()> {
        let path = self.artifact("model").join("tokenizer_config.json");
        let config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let template = config["chat_template"].as_str().unwrap_or_default();
        let refusal = format!(
            "{{% if '{text}' in message['content'] %}}{{{{ raise_exception('{text} is refused') }}}}{{% endif %}}"
        );
        let refused = template.replacen("%}", &format!("%}}{refusal}"), 1);
        Ok(std::fs::write(self.artifact("model").join("chat_template.jinja"), refused)?)
    }

    /// The counts of a table `encoding`: rows by `of` and `kind`.
    pub fn encoding(&self, folder: &str) -> Result<Vec<(String, String, u32)>> {
        let rows = self.table(folder, "encoding")?;
        let (of, kind): (&StringArray, &StringArray) = (table::column(&rows, "of")?, table::column(&rows, "kind")?);
        let mut counts = BTreeMap::new();
        for (of, kind) in of.iter().flatten().zip(kind.iter().flatten()) {
            *counts.entry((of.to_owned(), kind.to_owned())).or_insert(0) += 1;
        }
        Ok(counts.into_iter().map(|((of, kind), count)| (of, kind, count)).collect())
    }

    /// Sets the context of the model to this number of tokens.
    pub fn shorten_context(&self, tokens: usize) -> Result<()> {
        let path = self.artifact("model").join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["max_position_embeddings"] = json!(tokens);
        Ok(std::fs::write(&path, config.to_string())?)
    }

    pub fn artifact(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The context of a stage of this kind with this folder. `inputs` are pointers of parameters and names of
    /// artifacts, `files` are pointers of parameters and paths.
    pub fn context(
        &self,
        kind: &str,
        folder: &str,
        inputs: &[(&str, &str)],
        files: &[(&str, &Path)],
    ) -> Result<Context> {
        let inputs: Vec<_> = inputs.iter().map(|(pointer, name)| (*pointer, self.artifact(name))).collect();
        let mut assignment = Assignment::for_test(kind, self.artifact(folder), &inputs);
        assignment.files = files.iter().map(|(pointer, path)| ((*pointer).to_owned(), path.to_path_buf())).collect();
        raisin_kinds::context_for_test(assignment)
    }

    /// Runs a stage repeatedly on a copy of the work folder of `finished`, each time with one damaged file: one bit is
    /// flipped at one of `places` places, or the file is cut to one of `places` lengths. Each run must write the bytes
    /// that `finished` wrote, and set the damaged file aside.
    pub fn run_on_damaged_work(
        &self,
        kind: &str,
        finished: &str,
        inputs: &[(&str, &str)],
        places: usize,
        run: impl Fn(&Context) -> Result<()>,
    ) -> Result<()> {
        let expected = self.written(finished)?;
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.artifact(finished).join("work"))? {
            let entry = entry?;
            files.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?));
        }
        assert!(!files.is_empty(), "the work folder of {kind} is empty");
        for (name, whole) in &files {
            let place = |number: usize| number * (whole.len() - 1) / (places - 1);
            let flipped = (0..places).map(|number| {
                let mut flipped = whole.clone();
                flipped[place(number)] ^= 1 << (number % 8);
                flipped
            });
            let cut = (0..places).map(|number| whole[..place(number)].to_vec());
            for (number, bytes) in flipped.chain(cut).enumerate() {
                let context = self.context(kind, "damaged", inputs, &[])?;
                let work = context.work()?;
                for (other, bytes) in &files {
                    std::fs::write(work.join(other), bytes)?;
                }
                std::fs::write(work.join(name), &bytes)?;
                run(&context).map_err(|error| error.context(format!("{name}, damaged in way {number}")))?;
                assert_eq!(self.written("damaged")?, expected, "{name}, damaged in way {number}");
                // A list of records that was cut between two records is a shorter list without damage.
                let is_set_aside = work.join(format!("{name}.damaged")).exists();
                assert!(is_set_aside || number >= places, "{name}, damaged in way {number}, was used");
                std::fs::remove_dir_all(self.artifact("damaged"))?;
            }
        }
        Ok(())
    }

    /// The files that a stage wrote into its artifact, by name.
    pub fn written(&self, folder: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(self.artifact(folder).join("out"))? {
            let entry = entry?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?);
        }
        Ok(files)
    }

    /// A table that a stage wrote.
    pub fn table(&self, folder: &str, name: &str) -> Result<arrow_array::RecordBatch> {
        table::read(&self.artifact(folder).join("out").join(format!("{name}.parquet")))
    }

    /// Makes the output of a stage an artifact of this name.
    pub fn keep(&self, folder: &str, name: &str) -> Result<()> {
        Ok(std::fs::rename(self.artifact(folder).join("out"), self.artifact(name))?)
    }
}
