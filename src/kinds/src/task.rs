//! The `task` kind: draws validation and test examples from benchmark files, and says how they are scored.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::{ChoiceStyle, Extract, FieldNames, Mapping, Role, Scored, TaskFormat};

use crate::ingest::{check_fields, check_share, check_short_forms, mapping};
use crate::{check_distinct, number, outputs};

/// Validation and test examples, and how they are scored.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Where validation examples are drawn from.
    pub source: TaskSource,
    /// Where test examples are drawn from. If absent, they are drawn from the rest of `source`.
    #[serde(default)]
    pub test_source: Option<TaskSource>,
    /// The number of validation examples.
    #[serde(default = "number::<128>")]
    pub validation: usize,
    /// The number of test examples; 0 takes all.
    #[serde(default = "number::<256>")]
    pub test: usize,
    /// The seed of the draw. The pipeline's seed has no effect, so that all seeds of a sweep are scored on the same
    /// examples.
    #[serde(default)]
    pub draw_seed: u64,
    /// What the model is scored by: the loss of the response, the most probable choice, or the generated text.
    #[serde(default)]
    pub scoring: Scored,
    /// How the answer is found in a generated text; only with `match`. If absent, the whole text is the answer.
    #[serde(default)]
    pub extract: Option<Extract>,
    /// The share of records that may be rejected, from 0 to 1. With more, the stage fails and names the reasons. If
    /// absent, 1 of 100 records may be rejected; in small files up to 3 records, but not more than half of all.
    #[serde(default)]
    pub max_rejected: Option<f64>,
    /// The largest number of tokens that are generated for an example.
    #[serde(default = "number::<256>")]
    pub max_new_tokens: usize,
}

/// A file of a benchmark, or several files of the same format.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSource {
    /// A file, a folder (all its files are read), a pattern such as `data/*.jsonl`, or an `https://` address (which
    /// needs `blake3`). A path is relative to the directory in which raisin is started.
    pub path: String,
    /// The format of the records.
    #[serde(default)]
    pub format: TaskFormat,
    /// The digest that the file must have: `raisin digest PATH` prints it. If absent, the file is read whatever its
    /// digest is; an address is refused.
    #[serde(default)]
    pub blake3: Option<String>,
    /// The field that holds the question: the short form of `fields.prompt`. `a+b` joins the fields `a` and `b`. With
    /// format `choices`, the names `prompt`, `choices` and `answer` that are not given are those of a known benchmark
    /// whose layout fits, else `query`, `choices` and `gold`.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The field of a `qa` record that holds the answer: the short form of `fields.response`. If absent, the format
    /// gives the field.
    #[serde(default)]
    pub response: Option<String>,
    /// The fields of a record, where their names are not the usual ones.
    #[serde(default)]
    pub fields: FieldNames,
    /// Who the speakers of turns are, for names that raisin does not know, such as `roles = { customer = "user", agent
    /// = "assistant" }`. If absent, only the usual names are known.
    #[serde(default)]
    pub roles: BTreeMap<String, Role>,
    /// The field that holds the list of choices, or the fields that hold one choice each, such as `option1+option2`. If
    /// absent, see `prompt`.
    #[serde(default)]
    pub choices: Option<String>,
    /// The field that holds the right choice: its number, its label or its text. If absent, see `prompt`.
    #[serde(default)]
    pub answer: Option<String>,
    /// The number of the first choice, 0 or 1, if the field `answer` holds numbers, also as texts. If absent, it follows
    /// from all answers of the file; if 0 and 1 both fit, it is 0, and a note says so.
    #[serde(default)]
    pub answer_base: Option<u8>,
    /// Whether the model is scored on the texts of the choices, or on the letters of choices that are listed below the
    /// question.
    #[serde(default)]
    pub style: ChoiceStyle,
    /// The choices of every example, such as `["A", "B", "C", "D"]`, if the format of the file has no choices.
    #[serde(default)]
    pub fixed_choices: Vec<String>,
}

impl TaskSource {
    /// How the records become conversations. The format is that of open questions.
    pub fn mapping(&self) -> Mapping {
        let format = self.format.open().unwrap_or_default();
        mapping(format, &self.fields, &self.roles, self.prompt.as_ref(), self.response.as_ref())
    }
}

pub struct TaskKind;

impl Kind for TaskKind {
    const NAME: &'static str = "task";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Draws validation and test examples from benchmark files and says how they are scored.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["task"];
    const TABLES: &'static [TableDeclaration] = outputs::task::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::task::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::task::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.files_with_digest("/source", &parameters.source.path, parameters.source.blake3.as_deref());
        if let Some(test) = &parameters.test_source {
            needs.files_with_digest("/test_source", &test.path, test.blake3.as_deref());
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        check_source("/source", &parameters.source, parameters.scoring)?;
        if let Some(test) = &parameters.test_source {
            check_source("/test_source", test, parameters.scoring)?;
        }
        check_share(parameters.max_rejected)?;
        if parameters.validation == 0 {
            return Err(ParameterProblem::new("/validation", "a task needs at least one validation example"));
        }
        if parameters.extract.is_some() && parameters.scoring != Scored::Match {
            return Err(ParameterProblem::new("/extract", "answers are extracted only with scoring = \"match\""));
        }
        if parameters.scoring == Scored::Match && parameters.max_new_tokens == 0 {
            return Err(ParameterProblem::new("/max_new_tokens", "nothing can be generated with 0 tokens"));
        }
        Ok(())
    }
}

fn check_source(at: &str, source: &TaskSource, scoring: Scored) -> Result<(), ParameterProblem> {
    let problem = |key: &str, message: String| ParameterProblem::new(format!("{at}/{key}"), message);
    check_short_forms(at, &source.fields, source.prompt.as_ref(), source.response.as_ref())?;
    let mapping = source.mapping();
    if source.format == TaskFormat::Choices {
        let FieldNames { response, messages, .. } = &mapping.fields;
        if response.is_some() {
            return Err(problem("response", "the response of a multiple-choice question is its right choice".into())
                .hint("`answer` names the field that says which choice is right"));
        }
        if messages.is_some() {
            return Err(problem("fields/messages", "a multiple-choice question has no list of turns".into()));
        }
        if source.answer_base.is_some_and(|base| base > 1) {
            return Err(problem("answer_base", "choices are counted from 0 or from 1".into()));
        }
    } else {
        let base = source.answer_base.map(|base| base.to_string());
        for (key, value) in [("choices", &source.choices), ("answer", &source.answer), ("answer_base", &base)] {
            if value.is_some() {
                return Err(problem(key, format!("`{key}` belongs to format = \"choices\"")));
            }
        }
        if source.format.open().is_some() {
            check_fields(at, &source.fields, &mapping)?;
        } else if mapping.fields.prompt.is_some() || mapping.fields.response.is_some() {
            let key = if mapping.fields.prompt.is_some() { "prompt" } else { "response" };
            return Err(problem(key, "this format has its own fields".into()));
        }
    }
    if source.format.has_choices() && !source.fixed_choices.is_empty() {
        return Err(problem("fixed_choices", "this format has its own choices".into()));
    }
    check_distinct(&format!("{at}/fixed_choices"), &source.fixed_choices, String::clone)?;
    if source.fixed_choices.len() == 1 {
        return Err(
            problem("fixed_choices", "a single choice is always the right one".into()).hint("give at least two")
        );
    }
    if scoring == Scored::Choice && !source.format.has_choices() && source.fixed_choices.is_empty() {
        return Err(problem("format", "scoring = \"choice\" needs choices, and this format has none".into())
            .hint("formats with choices are choices, csqa and adapters; or give `fixed_choices`"));
    }
    Ok(())
}
