//! The `task` kind: draws validation and test examples from benchmark files, and says how they are scored.
//!
//! Tables `validation` and `test`: `id`, `system`, `prompt` (the last turn that asks), `response`, `choices`, `answer`
//! (the index of the right choice). If an example has earlier turns, both tables have a column `messages`: the whole
//! conversation as JSON, null where `system`, `prompt` and `response` hold all of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::{ChoiceStyle, Extract, Scored, TaskFormat};

use crate::ingest::check_fields;
use crate::{check_distinct, number};

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
    /// The digest that the file must have: `raisin digest PATH` prints it.
    #[serde(default)]
    pub blake3: Option<String>,
    /// The field that holds the question. `a+b` joins the fields `a` and `b`. With format `choices`, the default is
    /// `query`.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The field of a `qa` record that holds the answer.
    #[serde(default)]
    pub response: Option<String>,
    /// The field that holds the list of choices. The default is `choices`.
    #[serde(default)]
    pub choices: Option<String>,
    /// The field that holds the right choice: its number from 0, its label or its text. The default is `gold`.
    #[serde(default)]
    pub answer: Option<String>,
    /// Whether the model is scored on the texts of the choices, or on the letters of choices that are listed below the
    /// question.
    #[serde(default)]
    pub style: ChoiceStyle,
    /// The choices of every example, such as `["A", "B", "C", "D"]`, if the format of the file has no choices.
    #[serde(default)]
    pub fixed_choices: Vec<String>,
}

pub struct TaskKind;

impl Kind for TaskKind {
    const NAME: &'static str = "task";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Draws validation and test examples from benchmark files and says how they are scored.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["task"];
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
    if source.format == TaskFormat::Choices {
        if source.response.is_some() {
            return Err(problem("response", "the response of a multiple-choice question is its right choice".into())
                .hint("`answer` names the field that says which choice is right"));
        }
    } else {
        for (key, value) in [("choices", &source.choices), ("answer", &source.answer)] {
            if value.is_some() {
                return Err(problem(key, format!("`{key}` belongs to format = \"choices\"")));
            }
        }
        if let Some(format) = source.format.open() {
            check_fields(at, format, source.prompt.as_deref(), source.response.as_deref())?;
        } else if source.prompt.is_some() || source.response.is_some() {
            let key = if source.prompt.is_some() { "prompt" } else { "response" };
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
