//! The `dedup` kind: finds rows of a pool that say the same, and gives the pool with one row of each group.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use raisin_contract::declaration::from_json;
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};

use crate::{check_distinct, number, numbers, outputs, word};

pub struct DedupKind;

/// When two rows count as duplicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sameness {
    /// The texts are equal.
    Exact,
    /// The texts are equal but for case, punctuation and white space.
    Normalised,
    /// The sets of n-grams of the texts have a Jaccard similarity of at least `threshold`.
    #[default]
    Near,
    /// The embeddings of the rows in `features`, after their mean is taken off, have a cosine of at least `threshold`.
    Semantic,
}

impl Sameness {
    /// The word by which a pipeline file names it.
    pub fn name(self) -> String {
        word(&self)
    }
}

/// The text of a row that is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComparedText {
    /// All turns.
    #[default]
    Conversation,
    /// All turns before the last response. Rows with the same question and different answers are then duplicates.
    Prompt,
    /// The last response.
    Response,
}

/// What an n-gram consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GramUnit {
    /// Words between white space, in lower case, letters and digits only.
    #[default]
    Words,
    /// Characters in lower case. For scripts without spaces between words.
    Characters,
}

/// The row of a group that stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeptRow {
    /// The first row of the pool.
    #[default]
    First,
    /// The row whose turns have the most characters in all; of equal ones the first.
    Longest,
}

/// Parameters of a `dedup` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose instructions are compared. To compare several pools, compare their `mix`.
    pub instructions: String,
    /// When two rows are duplicates: `exact`, `normalised`, `near` or `semantic`.
    #[serde(default)]
    pub by: Sameness,
    /// The text that is compared: `conversation`, `prompt` or `response`. `semantic` compares conversations.
    #[serde(default)]
    pub of: ComparedText,
    /// The stage with the embeddings of the same instructions. If absent, `by` cannot be `semantic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    /// For `near` and `semantic`: the similarity from which rows are duplicates, above 0 and up to 1. If absent, a Jaccard
    /// similarity of 0.8, or a cosine of 0.95.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// For `near`: the length of an n-gram.
    #[serde(default = "number::<5>")]
    pub ngram: usize,
    /// For `near`: n-grams of `words` or of `characters`.
    #[serde(default)]
    pub unit: GramUnit,
    /// For `near` and `semantic`: the most hashes of a row, if `bands` and `band_rows` are absent. More hashes leave out more
    /// comparisons of rows that are not alike, and take more time.
    #[serde(default = "number::<128>")]
    pub hashes: usize,
    /// For `near` and `semantic`: the number of bands. A row has `bands` times `band_rows` hashes, and two rows are compared if all
    /// hashes of a band agree. If absent, the bands are the longest ones that find at least 95 % of the pairs at the
    /// threshold.
    #[serde(default)]
    pub bands: Option<usize>,
    /// For `near` and `semantic`: the number of hashes in a band. If absent, it follows from `hashes` and `threshold`, as `bands`.
    #[serde(default)]
    pub band_rows: Option<usize>,
    /// The row of a group that stays: `first` or `longest`. `prefer` comes before it.
    #[serde(default)]
    pub keep: KeptRow,
    /// Names of pools of a `mix`: of a group, a row of the pool that is named first stays. Pools that are not named come
    /// last.
    #[serde(default)]
    pub prefer: Vec<String>,
    /// For `near` and `semantic`: the number of rows, drawn at random, that are compared with every row, to measure how many
    /// duplicates the search finds.
    #[serde(default = "number::<100>")]
    pub check: usize,
}

impl Parameters {
    /// The similarity from which rows are duplicates.
    pub fn threshold(&self) -> f64 {
        self.threshold.unwrap_or(if self.by == Sameness::Semantic { 0.95 } else { 0.8 })
    }
}

impl Kind for DedupKind {
    const NAME: &'static str = "dedup";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Finds exact, near and semantic duplicates in a pool, and gives the pool without them.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["instructions"];
    const TABLES: &'static [TableDeclaration] = outputs::dedup::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::dedup::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::dedup::EXAMPLES;
    type Parameters = Parameters;

    /// Writes the threshold out, so that a written default has the key of an absent one.
    fn read(written: Value) -> Result<Parameters, ParameterProblem> {
        let mut parameters: Parameters = from_json(written, "")?;
        if matches!(parameters.by, Sameness::Near | Sameness::Semantic) {
            parameters.threshold = Some(parameters.threshold());
        }
        Ok(parameters)
    }

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/instructions", &parameters.instructions, "instructions");
        if let Some(features) = &parameters.features {
            needs.stage("/features", features, "features");
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let Parameters { by, of, threshold, ngram, unit, hashes, bands, band_rows, .. } = *parameters;
        numbers::counts(&[("ngram", ngram), ("hashes", hashes)])?;
        if let Some(threshold) = threshold
            && !(threshold > 0.0 && threshold <= 1.0)
        {
            let message = format!("a similarity lies above 0 and goes up to 1, and this is {threshold}");
            return Err(ParameterProblem::new("/threshold", message));
        }
        match (bands, band_rows) {
            (Some(bands), Some(rows)) => {
                numbers::counts(&[("bands", bands), ("band_rows", rows)])?;
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                let problem = ParameterProblem::new("/bands", "`bands` and `band_rows` belong together");
                return Err(problem.hint("set both or none"));
            }
        }
        let searches = matches!(by, Sameness::Near | Sameness::Semantic);
        if !searches && (bands.is_some() || threshold.is_some() || ngram != 5 || hashes != 128) {
            let message = format!("`{}` compares whole texts", by.name());
            let hint = "remove `threshold`, `ngram`, `hashes`, `bands` and `band_rows`, or set by = \"near\"";
            return Err(ParameterProblem::new("/by", message).hint(hint));
        }
        match (by, &parameters.features) {
            (Sameness::Semantic, None) => {
                let problem = ParameterProblem::new("/by", "`semantic` compares embeddings, and no stage gives them");
                return Err(
                    problem.hint("name a stage of kind `features` over the same instructions: features = \"features\"")
                );
            }
            (Sameness::Semantic, Some(_))
                if of != ComparedText::default() || ngram != 5 || unit != GramUnit::default() =>
            {
                let problem = ParameterProblem::new("/by", "`semantic` compares embeddings of whole conversations");
                return Err(problem.hint("remove `of`, `ngram` and `unit`, or set by = \"near\""));
            }
            (Sameness::Semantic, Some(_)) | (_, None) => {}
            (_, Some(_)) => {
                let problem = ParameterProblem::new("/features", format!("`{}` reads no embeddings", by.name()));
                return Err(problem.hint("remove `features`, or set by = \"semantic\""));
            }
        }
        check_distinct("/prefer", &parameters.prefer, String::clone)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::declaration;

    fn said(more: Value) -> String {
        let mut parameters = json!({"instructions": "pool"});
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        match declaration("dedup").unwrap().resolve(parameters) {
            Ok(_) => String::new(),
            Err(problem) => format!("{}: {} ({})", problem.pointer, problem.message, problem.hint.unwrap_or_default()),
        }
    }

    #[test]
    fn impossible_searches_are_refused() {
        assert_eq!(said(json!({})), "");
        assert_eq!(said(json!({"bands": 20, "band_rows": 5})), "");
        assert!(said(json!({"threshold": 0})).starts_with("/threshold: a similarity lies above 0"));
        assert!(said(json!({"threshold": 1.5})).starts_with("/threshold: "));
        assert_eq!(said(json!({"bands": 20})), "/bands: `bands` and `band_rows` belong together (set both or none)");
        assert!(said(json!({"bands": 0, "band_rows": 7})).starts_with("/bands: must be at least 1"));
        assert!(said(json!({"by": "exact", "threshold": 0.9})).starts_with("/by: `exact` compares whole texts"));
        assert!(said(json!({"prefer": ["a", "a"]})).starts_with("/prefer/1: `a` is named twice"));
        assert!(said(json!({"by": "semantic"})).starts_with("/by: `semantic` compares embeddings, and no stage"));
        assert_eq!(said(json!({"by": "semantic", "features": "f", "threshold": 0.9})), "");
        let prompts = said(json!({"by": "semantic", "features": "f", "of": "prompt"}));
        assert!(prompts.starts_with("/by: `semantic` compares embeddings of whole conversations"), "{prompts}");
        assert!(said(json!({"features": "f"})).starts_with("/features: `near` reads no embeddings"));
        assert!(said(json!({"ngram": 0})).starts_with("/ngram: must be at least 1"));
    }
}
