//! What decides the meaning of the numbers of a state: the principal components, the scales, the centres of the clusters,
//! and the mean embedding that similarities subtract. A `clusters` stage writes them, and reads those of its `like`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tch::Tensor;

use super::sources;
use super::state::{Scales, StateColumn, column_names};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::Context;
use raisin_kinds::features::EmbeddedTokens;
use raisin_selector::clustering::pca::Pca;
use raisin_selector::save::{read_tensors, write_tensors};

const FILE: &str = "projection.safetensors";

pub struct Basis {
    /// The tokens that the embeddings describe.
    pub embedding: EmbeddedTokens,
    /// The names of the numbers of a state.
    pub columns: Vec<String>,
    /// Whether the semantic part is whitened.
    pub whiten: bool,
    pub pca: Pca,
    /// One row for each cluster, along the principal components.
    pub centres: Vec<Vec<f64>>,
    pub scales: Scales,
    /// `None` without features of validation examples.
    pub similarity_mean: Option<Vec<f64>>,
}

/// `embedding` of a summary.json of features, or of a constants.json; both leave out the default.
///
/// # Errors
/// The value has another type.
pub fn embedded_tokens(file: &Value, path: &Path) -> Result<EmbeddedTokens> {
    match file.get("embedding") {
        None => Ok(EmbeddedTokens::default()),
        Some(word) => serde_json::from_value(word.clone())
            .with_context(|| format!("{} has {word} as `embedding`", path.display())),
    }
}

impl Basis {
    fn tensors(&self) -> Vec<(String, Tensor)> {
        let matrix = |rows: &[Vec<f64>]| Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1]);
        let mut all = vec![
            ("mean".to_owned(), Tensor::from_slice(&self.pca.mean)),
            ("components".to_owned(), matrix(&self.pca.components)),
            ("variances".to_owned(), Tensor::from_slice(&self.pca.variances)),
            ("centres".to_owned(), matrix(&self.centres)),
            ("state_means".to_owned(), Tensor::from_slice(&self.scales.means)),
            ("state_deviations".to_owned(), Tensor::from_slice(&self.scales.deviations)),
        ];
        if let Some(mean) = &self.similarity_mean {
            all.push(("similarity_mean".to_owned(), Tensor::from_slice(mean)));
        }
        all
    }

    /// Two stages with equal digests have states whose numbers mean the same.
    pub fn digest(&self) -> Digest {
        let numbers = [&self.pca.mean, &self.pca.variances, &self.scales.means, &self.scales.deviations];
        let numbers = numbers.into_iter().chain(&self.pca.components).chain(&self.centres).chain(&self.similarity_mean);
        let numbers: Vec<Vec<u64>> = numbers.map(|row| row.iter().map(|value| value.to_bits()).collect()).collect();
        Digest::of_value(&json!({"columns": self.columns, "whiten": self.whiten, "numbers": numbers}))
    }

    /// Writes projection.safetensors. The rest is in constants.json.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_tensors(&folder.join(FILE), &self.tensors())
    }

    /// Reads an artifact of kind `clusters`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("constants.json");
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let constants: Value =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))?;
        let unreadable = || format!("{} does not name its columns, `whiten` and `explained_variance`", path.display());
        let columns = serde_json::from_value(constants["columns"].clone()).with_context(unreadable)?;
        let whiten = constants["whiten"].as_bool().with_context(unreadable)?;
        let explained = constants["explained_variance"].as_f64().with_context(unreadable)?;
        let embedding = embedded_tokens(&constants, &path)?;
        let tensors = read_tensors(&folder.join(FILE))?;
        let pca = Pca {
            mean: numbers(&tensors, "mean")?,
            components: rows(&tensors, "components")?,
            variances: numbers(&tensors, "variances")?,
            explained,
        };
        let scales =
            Scales { means: numbers(&tensors, "state_means")?, deviations: numbers(&tensors, "state_deviations")? };
        let similarity_mean =
            if tensors.contains_key("similarity_mean") { Some(numbers(&tensors, "similarity_mean")?) } else { None };
        Ok(Self { embedding, columns, whiten, pca, centres: rows(&tensors, "centres")?, scales, similarity_mean })
    }

    /// # Errors
    /// The embeddings have another width than those of this basis, or describe other tokens.
    pub fn check_embeddings(&self, width: usize, embedding: EmbeddedTokens) -> Result<()> {
        if embedding != self.embedding {
            let [these, those] = [embedding, self.embedding].map(|tokens| json!(tokens));
            let problem = format!("the features have `embedding = {these}`, and those of the stage `like` {those}");
            return Err(Problem::new(problem)
                .hint("make the features of both stages with the same `embedding`")
                .into());
        }
        let like = self.pca.mean.len();
        if width == like {
            return Ok(());
        }
        let problem = format!("the embeddings have {width} numbers, and those of the stage `like` have {like}");
        Err(Problem::new(problem).hint("make the features of both stages with the same model").into())
    }

    /// The columns beside the difficulty part and the semantic part, in the order of this basis. A column that this basis
    /// lacks is left out, and named in a note. If the files of the rows are known, no row comes from a file that only this
    /// basis has.
    ///
    /// # Errors
    /// A column of this basis is not there.
    pub fn chosen(
        &self,
        numbers: &[&str],
        found: Vec<StateColumn>,
        rows: usize,
        files_known: bool,
        context: &Context,
    ) -> Result<Vec<StateColumn>> {
        let always = column_names(numbers, self.pca.components.len(), &[]).len();
        let mut found: BTreeMap<String, StateColumn> =
            found.into_iter().map(|column| (column.name.clone(), column)).collect();
        let mut chosen = Vec::new();
        for name in self.columns.iter().skip(always) {
            let nowhere = || StateColumn { name: name.clone(), values: vec![0.0; rows] };
            let is_file = files_known && name.starts_with(sources::PREFIX);
            let known = found.remove(name).or_else(|| is_file.then(nowhere));
            chosen.push(known.ok_or_else(|| {
                let hint = if name.starts_with("target.") {
                    "give the features stage a `task`".to_owned()
                } else if name.starts_with(sources::PREFIX) {
                    "give this stage the `instructions`".to_owned()
                } else {
                    "give this stage the same `columns` as the stage `like`".to_owned()
                };
                Problem::new(format!("the states of the stage `like` have `{name}`, and these rows do not")).hint(hint)
            })?);
        }
        if !found.is_empty() {
            let names: Vec<&str> = found.keys().map(String::as_str).collect();
            context.note(format!("left out, because the stage `like` has no such columns: {}", names.join(", ")));
        }
        Ok(chosen)
    }
}

fn tensor<'a>(tensors: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor> {
    tensors.get(name).with_context(|| format!("{FILE} has no `{name}`"))
}

fn numbers(tensors: &BTreeMap<String, Tensor>, name: &str) -> Result<Vec<f64>> {
    Ok(Vec::try_from(tensor(tensors, name)?.view([-1]))?)
}

fn rows(tensors: &BTreeMap<String, Tensor>, name: &str) -> Result<Vec<Vec<f64>>> {
    Ok(Vec::try_from(tensor(tensors, name)?)?)
}
