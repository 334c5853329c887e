//! The `ingest` kind: reads instruction files into one table, and lists the rejected records in another.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::{FieldNames, Mapping, RecordFormat, Role};

use crate::{number, outputs};

/// Files of instructions that become one pool.
/// The characters of the longest instruction that is read, unless a stage says otherwise.
pub const MOST_CHARACTERS: usize = 100_000;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The files, in the order in which their instructions are numbered.
    pub sources: Vec<InstructionSource>,
    /// Conversations of more characters are rejected.
    #[serde(default = "number::<MOST_CHARACTERS>")]
    pub max_length: usize,
    /// The share of records that may be rejected, from 0 to 1. With more, the stage fails and names the reasons. If
    /// absent, 1 of 100 records may be rejected; in small files up to 3 records, but not more than half of all.
    #[serde(default)]
    pub max_rejected: Option<f64>,
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
    /// The digest that the file must have: `raisin digest PATH` prints it. If absent, the file is read whatever its
    /// digest is; an address is refused.
    #[serde(default)]
    pub blake3: Option<String>,
    /// The field that holds the question: the short form of `fields.prompt`. If absent, the format gives the field.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The field that holds the answer: the short form of `fields.response`. If absent, the format gives the field.
    #[serde(default)]
    pub response: Option<String>,
    /// The fields of a record, where their names are not the usual ones.
    #[serde(default)]
    pub fields: FieldNames,
    /// Who the speakers of turns are, for names that raisin does not know, such as `roles = { customer = "user", agent
    /// = "assistant" }`. If absent, only the usual names are known.
    #[serde(default)]
    pub roles: BTreeMap<String, Role>,
}

impl InstructionSource {
    /// How the records become conversations.
    pub fn mapping(&self) -> Mapping {
        mapping(self.format, &self.fields, &self.roles, self.prompt.as_ref(), self.response.as_ref())
    }
}

/// A mapping with the short forms of two names.
pub(crate) fn mapping(
    format: RecordFormat,
    fields: &FieldNames,
    roles: &BTreeMap<String, Role>,
    prompt: Option<&String>,
    response: Option<&String>,
) -> Mapping {
    let prompt = prompt.or(fields.prompt.as_ref()).cloned();
    let response = response.or(fields.response.as_ref()).cloned();
    Mapping { format, fields: FieldNames { prompt, response, ..fields.clone() }, roles: roles.clone() }
}

pub struct IngestKind;

impl Kind for IngestKind {
    const NAME: &'static str = "ingest";
    const VERSION: u32 = 5;
    const ABOUT: &'static str = "Reads instruction files into one table, with rejects listed and exact copies folded.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["instructions"];
    const TABLES: &'static [TableDeclaration] = outputs::ingest::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::ingest::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::ingest::EXAMPLES;
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
            check_short_forms(&at, &source.fields, source.prompt.as_ref(), source.response.as_ref())?;
            check_fields(&at, &source.fields, &source.mapping())?;
        }
        check_share(parameters.max_rejected)?;
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

/// Checks that no name is given twice, in its short form and in `fields`.
pub(crate) fn check_short_forms(
    at: &str,
    fields: &FieldNames,
    prompt: Option<&String>,
    response: Option<&String>,
) -> Result<(), ParameterProblem> {
    for (key, short, long) in [("prompt", prompt, &fields.prompt), ("response", response, &fields.response)] {
        if short.is_some() && long.is_some() {
            let message = format!("`{key}` is the short form of `fields.{key}`, and both are given");
            return Err(ParameterProblem::new(format!("{at}/{key}"), message).hint("give one of them"));
        }
    }
    Ok(())
}

pub(crate) fn check_share(share: Option<f64>) -> Result<(), ParameterProblem> {
    match share {
        Some(share) if !(0.0..=1.0).contains(&share) => {
            Err(ParameterProblem::new("/max_rejected", format!("a share lies between 0 and 1, and not at {share}")))
        }
        _ => Ok(()),
    }
}

/// Checks the names of fields: a conversation is a list of turns, or a prompt and a response, or lies where the format
/// says. `written`: the names without the short forms.
pub(crate) fn check_fields(at: &str, written: &FieldNames, mapping: &Mapping) -> Result<(), ParameterProblem> {
    let Mapping { format, fields, .. } = mapping;
    let problem = |key: &str, message: String| ParameterProblem::new(format!("{at}/{key}"), message);
    for (setting, name) in fields.given() {
        let part = name.split('+').find(|part| part.trim().is_empty());
        let may_be_empty = !matches!(setting, "messages" | "prompt" | "response" | "role" | "content");
        if part.is_some() && !(name.is_empty() && may_be_empty) {
            return Err(problem(&format!("fields/{setting}"), format!("`{name}` is no name of a field")));
        }
    }
    let has_turns = matches!(format, RecordFormat::Messages | RecordFormat::Sharegpt);
    let has_own_fields = has_turns || *format == RecordFormat::Alpaca;
    let (messages, prompt, response) = (&fields.messages, &fields.prompt, &fields.response);
    let key = match (response, &written.response, &written.prompt) {
        (Some(_), None, _) => "response",
        (Some(_), Some(_), _) => "fields/response",
        (None, _, None) => "prompt",
        (None, _, Some(_)) => "fields/prompt",
    };
    if has_own_fields && (prompt.is_some() || response.is_some()) {
        let name = format.name();
        return Err(problem(key, format!("the format `{name}` has its own fields"))
            .hint("`prompt` and `response` are for the formats qa, parquet and auto"));
    }
    match (messages, prompt, response) {
        (Some(_), Some(_), _) => Err(problem("fields/prompt", "`messages` is given, and holds the prompt too".into())
            .hint("give `messages`, or `prompt` and `response`")),
        (None, Some(_), None) => Err(problem(key, "`prompt` is given and `response` is not".into())),
        (None, None, Some(_)) => Err(problem(key, "`response` is given and `prompt` is not".into())),
        (Some(_), ..) if matches!(format, RecordFormat::Alpaca | RecordFormat::Qa) => {
            let message = format!("the format `{}` has no list of turns", format.name());
            Err(problem("fields/messages", message).hint("leave `format` out"))
        }
        _ if has_turns || (messages.is_some() && response.is_none()) => {
            let below = [("context", &fields.context), ("history", &fields.history)];
            match below.into_iter().find(|(_, name)| name.as_ref().is_some_and(|name| !name.is_empty())) {
                Some((key, _)) => {
                    Err(problem(&format!("fields/{key}"), format!("a list of turns has no `{key}` beside it")))
                }
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
