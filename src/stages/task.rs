//! The `task` kind: benchmark files become validation and test examples, and a word on how they are scored.
//!
//! Validation examples are drawn from `source`. Test examples come from `test_source`, or from what is left of
//! `source`; no question is in both, as training may look at the validation examples.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ingest::{check_fields, file_name};
use super::{Context, Kind, Needs, ParameterProblem, Process};
use crate::corpus::artifact::examples_batch;
use crate::corpus::draw::Draw;
use crate::corpus::formats::Format;
use crate::corpus::pool::{Reject, grouped, rejects_batch};
use crate::corpus::questions::{QuestionLayout, Questions, Style, TaskFormat, open_reader};
use crate::corpus::{Example, Extract, Scored, Scoring, records};
use crate::error::{Problem, Result};
use crate::seed::Seed;

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
    const PROCESS: Process = Process::Light;
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

    fn run(parameters: Parameters, context: &Context) -> Result<()> {
        let mut rejects = Vec::new();
        let source = read_all(&parameters.source, &context.files("/source/path")?, 0, &mut rejects)?;
        let separate = match &parameters.test_source {
            Some(test) => Some(read_all(test, &context.files("/test_source/path")?, 1, &mut rejects)?),
            None => None,
        };
        let (validation, test) = split(&parameters, source, separate)?;
        context.write_table("validation", &examples_batch(&validation)?)?;
        context.write_table("test", &examples_batch(&test)?)?;
        context.write_table("rejects", &rejects_batch(&rejects)?)?;
        context.write_json(
            "task.json",
            &Scoring { by: parameters.scoring, extract: parameters.extract, max_new_tokens: parameters.max_new_tokens },
        )?;
        let (drawn, held) = (grouped(validation.len() as u64), grouped(test.len() as u64));
        let mut note = format!("{drawn} validation and {held} test examples");
        if !rejects.is_empty() {
            note += &format!(", {} rejected (see {}.rejects)", grouped(rejects.len() as u64), context.stage());
        }
        context.note(note);
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

/// The examples of a file, or of each file of a folder or a pattern.
fn read_all(
    source: &Source,
    files: &[(String, &Path)],
    index: u32,
    rejects: &mut Vec<Reject>,
) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    for (name, path) in files {
        examples.extend(read(source, name, path, index, rejects)?);
    }
    Ok(examples)
}

fn read(source: &Source, name: &str, path: &Path, index: u32, rejects: &mut Vec<Reject>) -> Result<Vec<Example>> {
    let mut all = Vec::new();
    records::for_each_chunk(path, 1 << 24, |chunk, _| {
        all.extend(chunk);
        Ok(())
    })?;
    let values: Vec<_> = all.iter().map(records::Record::value).collect();
    let sample: Vec<&Value> = values.iter().flatten().take(200).map(std::borrow::Cow::as_ref).collect();
    let layout = match source.format {
        TaskFormat::Choices => QuestionLayout::Choices,
        TaskFormat::Csqa => QuestionLayout::Csqa,
        TaskFormat::Adapters => QuestionLayout::Adapters,
        open => QuestionLayout::Open(
            open_reader(open, source.prompt.as_deref(), source.response.as_deref(), &sample).map_err(|reason| {
                Problem::new(format!("{name}: {reason}")).hint("name the fields with `prompt` and `response`")
            })?,
        ),
    };
    let named = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_owned());
    let questions = Questions {
        prompt: named(&source.prompt, "query"),
        choices: named(&source.choices, "choices"),
        answer: named(&source.answer, "gold"),
        style: source.style,
        fixed_choices: source.fixed_choices.clone(),
        layout,
    };
    let before = rejects.len();
    let mut examples = Vec::new();
    for (record, value) in all.iter().zip(values) {
        match value.and_then(|value| questions.read(&value)) {
            Ok(example) => examples.push(example),
            Err(reason) => rejects.push(Reject {
                source: index,
                file: name.to_owned(),
                line: record.line,
                reason,
                record: record.excerpt(300),
            }),
        }
    }
    if examples.is_empty() {
        let problem = Problem::new(format!("{name} has no example that can be read"));
        let first = rejects.get(before).map(|first| format!("the first: line {}: {}", first.line, first.reason));
        return Err(first.map_or(problem.clone(), |hint| problem.hint(hint)).into());
    }
    Ok(examples)
}

/// Draws both sets, each in the order of its file, with no question in both.
fn split(
    parameters: &Parameters,
    mut source: Vec<Example>,
    separate: Option<Vec<Example>>,
) -> Result<(Vec<Example>, Vec<Example>)> {
    let seed = Seed::new(parameters.draw_seed).at("task");
    let key = |example: &Example| example.messages.iter().map(|message| message.content.clone()).collect::<Vec<_>>();
    // A question that a file asks twice counts once; one that both files ask stays with the test set.
    let mut seen: BTreeSet<Vec<String>> = separate.iter().flatten().map(key).collect();
    source.retain(|example| seen.insert(key(example)));
    let validation =
        drawn(&source, parameters.validation, &seed.at("validation"), "validation", "", &parameters.source)?;
    let (test, beside, file) = match separate {
        Some(examples) => (examples, "", parameters.test_source.as_ref().unwrap_or(&parameters.source)),
        None => {
            let taken: BTreeSet<Vec<String>> = validation.iter().map(key).collect();
            source.retain(|example| !taken.contains(&key(example)));
            (source, " beside the validation examples", &parameters.source)
        }
    };
    let count = if parameters.test == 0 { test.len() } else { parameters.test };
    let test = drawn(&test, count.max(1), &seed.at("test"), "test", beside, file)?;
    Ok((validation, test))
}

fn drawn(from: &[Example], count: usize, seed: &Seed, what: &str, beside: &str, file: &Source) -> Result<Vec<Example>> {
    if count > from.len() {
        let (name, held) = (file_name(&file.path), grouped(from.len() as u64));
        let message = format!("{count} {what} examples were asked for, and {name} has {held}{beside}");
        return Err(Problem::new(message).hint("ask for fewer, or name another file").into());
    }
    let chosen = Draw::new(seed).sample(from.len(), count);
    let numbered = chosen.into_iter().enumerate();
    Ok(numbered.map(|(id, index)| Example { id: id as u32, ..from[index].clone() }).collect())
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
