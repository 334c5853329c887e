//! The `task` kind: benchmark files become validation and test examples, and a word on how they are scored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::{Extract, Format, Scored, Style, TaskFormat};

use crate::ingest::check_fields;

/// Validation and test examples, and how they are scored.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Where validation examples are drawn from.
    pub source: Source,
    /// Where test examples come from; if absent, from the rest of `source`.
    #[serde(default)]
    pub test_source: Option<Source>,
    /// How many validation examples are drawn.
    #[serde(default = "default_validation")]
    pub validation: usize,
    /// How many test examples are drawn; 0 takes all there are.
    #[serde(default = "default_test")]
    pub test: usize,
    /// Another number draws other examples. The pipeline's seed does not: all its seeds are judged alike.
    #[serde(default)]
    pub draw_seed: u64,
    /// What the model is judged by: the loss of the response, the most probable choice, or the generated text.
    #[serde(default = "default_scoring")]
    pub scoring: Scored,
    /// How the answer is found in a generated text; only with `match`, where the whole text counts if it is absent.
    #[serde(default)]
    pub extract: Option<Extract>,
    /// Where generation ends at the latest.
    #[serde(default = "default_max_new_tokens")]
    pub max_new_tokens: usize,
}

/// A benchmark's file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file, a folder whose files are all read, a pattern such as `data/*.jsonl`, or an `https://` address, which needs
    /// `blake3`. Relative to the directory in which raisin is started.
    pub path: String,
    /// The layout of the file.
    #[serde(default)]
    pub format: TaskFormat,
    /// The digest that the file must have: `raisin digest PATH` prints it.
    #[serde(default)]
    pub blake3: Option<String>,
    /// The field that holds the question; several are joined with `+`. Of `choices`: `query` if absent.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The field of a `qa` record that holds the answer.
    #[serde(default)]
    pub response: Option<String>,
    /// The field that holds the list of choices; `choices` if absent.
    #[serde(default)]
    pub choices: Option<String>,
    /// The field that holds the right choice: its number from 0, its label or its text; `gold` if absent.
    #[serde(default)]
    pub answer: Option<String>,
    /// Whether choices compete by their text, or are listed and compete by their letter.
    #[serde(default)]
    pub style: Style,
    /// The same choices for every example of an open format, such as `["A", "B", "C", "D"]`.
    #[serde(default)]
    pub fixed_choices: Vec<String>,
}

fn default_validation() -> usize {
    128
}

fn default_test() -> usize {
    256
}

fn default_scoring() -> Scored {
    Scored::Loss
}

fn default_max_new_tokens() -> usize {
    256
}

pub struct Task;

impl Kind for Task {
    const NAME: &'static str = "task";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Draws validation and test examples from benchmark files and says how they are scored.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["task"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.pinned_files("/source", &parameters.source.path, parameters.source.blake3.as_deref());
        if let Some(test) = &parameters.test_source {
            needs.pinned_files("/test_source", &test.path, test.blake3.as_deref());
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

fn check_source(at: &str, source: &Source, scoring: Scored) -> Result<(), ParameterProblem> {
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
        let format = match source.format {
            TaskFormat::Qa => Format::Qa,
            TaskFormat::Auto => Format::Auto,
            _ => Format::Alpaca,
        };
        if source.format.has_choices() && (source.prompt.is_some() || source.response.is_some()) {
            let key = if source.prompt.is_some() { "prompt" } else { "response" };
            return Err(problem(key, "this format has its own fields".into()));
        }
        check_fields(at, format, source.prompt.as_deref(), source.response.as_deref())?;
    }
    if source.format.has_choices() && !source.fixed_choices.is_empty() {
        return Err(problem("fixed_choices", "this format has its own choices".into()));
    }
    if scoring == Scored::Choice && !source.format.has_choices() && source.fixed_choices.is_empty() {
        return Err(problem("format", "scoring = \"choice\" needs choices, and this format has none".into())
            .hint("formats with choices are choices, csqa and adapters; or give `fixed_choices`"));
    }
    Ok(())
}
