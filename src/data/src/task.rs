//! Runs a stage of kind `task`: reads benchmark files and draws validation and test examples.
//!
//! Validation examples are drawn from `source`. Test examples are drawn from `test_source` or, without it, from the
//! rest of `source`. No question is in both sets, because training may look at the validation examples.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use raisin_base::digest::Digest;
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_contract::Context;
use raisin_corpus::artifact::{example_digest, question_digest, task_batches};
use raisin_corpus::pool::{Reject, grouped, rejects_batch};
use raisin_corpus::questions::{QuestionLayout, Questions, open_reader};
use raisin_corpus::{Example, ScoringRule, records};
use raisin_kinds::task::{Parameters, TaskSource};
use raisin_settings::TaskFormat;
use raisin_table::WriteTable as _;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut rejects = Vec::new();
    let source = read_all(&parameters.source, &context.files("/source/path")?, 0, &mut rejects)?;
    let separate = match &parameters.test_source {
        Some(test) => Some(read_all(test, &context.files("/test_source/path")?, 1, &mut rejects)?),
        None => None,
    };
    let splits = split(&parameters, source, separate)?;
    context.write_table("rejects", &rejects_batch(&rejects)?)?;
    let Parameters { scoring: by, extract, max_new_tokens, .. } = parameters;
    write_task(context, &splits.validation, &splits.test, &ScoringRule { by, extract, max_new_tokens })?;
    context.note(note(&splits, rejects.len(), context.stage()));
    Ok(())
}

/// Writes the files of an artifact that provides `task`.
pub fn write_task(context: &Context, validation: &[Example], test: &[Example], scoring: &ScoringRule) -> Result<()> {
    let [validation, test] = task_batches(validation, test)?;
    context.write_table("validation", &validation)?;
    context.write_table("test", &test)?;
    context.write_json("task.json", scoring)
}

fn note(splits: &Splits, rejects: usize, stage: &str) -> String {
    let count = |count: usize| grouped(count as u64);
    let mut note =
        format!("{} validation and {} test examples", count(splits.validation.len()), count(splits.test.len()));
    if rejects > 0 {
        note += &format!(", {} rejected (see {stage}.rejects)", count(rejects));
    }
    if splits.copies > 0 {
        note += &format!(", {} exact duplicates folded", count(splits.copies));
    }
    if splits.in_test_file > 0 {
        note += &format!(", {} of `source` left out: `test_source` asks the same", count(splits.in_test_file));
    }
    note
}

/// The examples of all files of a source, in the order of the files. `index` is the number of the source in the
/// rejects.
fn read_all(
    source: &TaskSource,
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

fn read(source: &TaskSource, name: &str, path: &Path, index: u32, rejects: &mut Vec<Reject>) -> Result<Vec<Example>> {
    let mut all = Vec::new();
    records::for_each_chunk(path, 1 << 24, |chunk, _| {
        all.extend(chunk);
        Ok(())
    })?;
    let values: Vec<_> = all.iter().map(records::RawRecord::value).collect();
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

/// The examples that a task stage has drawn.
struct Splits {
    validation: Vec<Example>,
    test: Vec<Example>,
    /// The number of examples that were removed because they are exact copies of an earlier example of the same source.
    copies: usize,
    /// The number of examples of `source` that were removed because `test_source` asks the same question.
    in_test_file: usize,
}

/// Draws both sets, each in the order of its source. Exact copies (equal conversation, choices, answer and response)
/// count as one example. Examples that ask the same question (equal conversation and choices) never lie in different
/// sets: a question that both sources ask belongs to the test set.
fn split(parameters: &Parameters, source: Vec<Example>, separate: Option<Vec<Example>>) -> Result<Splits> {
    let seed = Seed::new(parameters.draw_seed).at("task");
    let mut copies = 0;
    let mut source = without_copies(source, &mut copies);
    let separate = separate.map(|examples| without_copies(examples, &mut copies));
    let before = source.len();
    leave_out_questions_of(separate.iter().flatten(), &mut source);
    let in_test_file = before - source.len();
    let validation =
        drawn(&source, parameters.validation, &seed.at("validation"), "validation", "", &parameters.source)?;
    let (test, beside, file) = match separate {
        Some(examples) => (examples, "", parameters.test_source.as_ref().unwrap_or(&parameters.source)),
        None => {
            leave_out_questions_of(&validation, &mut source);
            (source, " beside the validation examples", &parameters.source)
        }
    };
    let count = if parameters.test == 0 { test.len() } else { parameters.test };
    let test = drawn(&test, count.max(1), &seed.at("test"), "test", beside, file)?;
    Ok(Splits { validation, test, copies, in_test_file })
}

fn without_copies(mut examples: Vec<Example>, copies: &mut usize) -> Vec<Example> {
    let before = examples.len();
    let mut seen: HashSet<Digest> = HashSet::new();
    examples.retain(|example| seen.insert(example_digest(example)));
    *copies += before - examples.len();
    examples
}

fn leave_out_questions_of<'a>(asked: impl IntoIterator<Item = &'a Example>, examples: &mut Vec<Example>) {
    let asked: HashSet<Digest> = asked.into_iter().map(question_digest).collect();
    examples.retain(|example| !asked.contains(&question_digest(example)));
}

fn drawn(
    from: &[Example],
    count: usize,
    seed: &Seed,
    what: &str,
    beside: &str,
    file: &TaskSource,
) -> Result<Vec<Example>> {
    if count > from.len() {
        let (name, held) = (file_name(&file.path), grouped(from.len() as u64));
        let message = format!("{count} {what} examples were asked for, and {name} has {held}{beside}");
        return Err(Problem::new(message).hint("ask for fewer, or name another file").into());
    }
    let chosen = seed.rng().sample(from.len(), count);
    Ok((0..).zip(chosen).map(|(id, index)| Example { id, ..from[index].clone() }).collect())
}

fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or(path.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
