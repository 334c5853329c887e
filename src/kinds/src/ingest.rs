//! The `ingest` kind: reads instruction files into one table, and lists the rejected records in another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::RecordFormat;

use crate::number;

/// Files of instructions that become one pool.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The files, in the order in which their instructions are numbered.
    pub sources: Vec<InstructionSource>,
    /// Conversations of more characters are rejected.
    #[serde(default = "number::<100_000>")]
    pub max_length: usize,
    /// Keeps this number of instructions, drawn at random, in the order of the files. If absent, all instructions are
    /// kept.
    #[serde(default)]
    pub sample: Option<usize>,
    /// The seed of `sample`. The pipeline's seed has no effect on the pool, so that all seeds of a sweep share one
    /// pool.
    #[serde(default)]
    pub sample_seed: u64,
}

/// A file, or several files of the same format.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstructionSource {
    /// A file, a folder (all its files are read), a pattern such as `data/*.jsonl`, or an `https://` address (which
    /// needs `blake3`). A path is relative to the directory in which raisin is started.
    pub path: String,
    /// The format of the records.
    #[serde(default)]
    pub format: RecordFormat,
    /// The digest that the file must have: `raisin digest PATH` prints it.
    #[serde(default)]
    pub blake3: Option<String>,
    /// The field of a `qa` record that holds the question. `a+b` joins the fields `a` and `b`.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The field of a `qa` record that holds the answer.
    #[serde(default)]
    pub response: Option<String>,
}

pub struct IngestKind;

impl Kind for IngestKind {
    const NAME: &'static str = "ingest";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Reads instruction files into one table, with rejects listed and exact copies folded.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["instructions"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        for (index, source) in parameters.sources.iter().enumerate() {
            needs.files_with_digest(&format!("/sources/{index}"), &source.path, source.blake3.as_deref());
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        if parameters.sources.is_empty() {
            return Err(ParameterProblem::new("/sources", "there is no file to read"));
        }
        for (index, source) in parameters.sources.iter().enumerate() {
            let at = format!("/sources/{index}");
            check_fields(&at, source.format, source.prompt.as_deref(), source.response.as_deref())?;
        }
        if parameters.max_length == 0 {
            return Err(ParameterProblem::new("/max_length", "no instruction has 0 characters"));
        }
        if parameters.sample == Some(0) {
            return Err(ParameterProblem::new("/sample", "a sample of 0 instructions is an empty pool")
                .hint("leave `sample` out to keep all instructions"));
        }
        Ok(())
    }
}

/// Checks the names of the two fields of a record: both or neither are given, and only for the formats `qa`, `auto` and
/// `parquet`.
pub(crate) fn check_fields(
    at: &str,
    format: RecordFormat,
    prompt: Option<&str>,
    response: Option<&str>,
) -> Result<(), ParameterProblem> {
    let (key, given) = match (prompt, response) {
        (None, None) => return Ok(()),
        (Some(_), None) => ("response", "prompt"),
        (_, Some(_)) => ("prompt", "response"),
    };
    if matches!(format, RecordFormat::Alpaca | RecordFormat::Messages | RecordFormat::Sharegpt) {
        let name = format.name();
        return Err(ParameterProblem::new(format!("{at}/{given}"), format!("the format `{name}` has its own fields"))
            .hint("`prompt` and `response` are for the formats qa, parquet and auto"));
    }
    if prompt.is_none() || response.is_none() {
        return Err(ParameterProblem::new(format!("{at}/{given}"), format!("`{given}` is given and `{key}` is not")));
    }
    Ok(())
}
