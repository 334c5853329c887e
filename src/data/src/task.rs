//! The `task` kind: benchmark files become validation and test examples, and a word on how they are scored.
//!
//! Validation examples are drawn from `source`. Test examples come from `test_source`, or from what is left of
//! `source`; no question is in both, as training may look at the validation examples.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_contract::Context;
use raisin_corpus::artifact::examples_batch;
use raisin_corpus::draw::Draw;
use raisin_corpus::pool::{Reject, grouped, rejects_batch};
use raisin_corpus::questions::{QuestionLayout, Questions, open_reader};
use raisin_corpus::{Example, Scoring, records};
use raisin_kinds::task::{Parameters, Source};
use raisin_settings::TaskFormat;
use raisin_table::WriteTable as _;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
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

/// The examples of a file, or of each file of a folder or a pattern.
fn read_all(source: &Source, files: &[(String, &Path)], index: u32, rejects: &mut Vec<Reject>) -> Result<Vec<Example>> {
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

fn file_name(path: &str) -> String {
    std::path::Path::new(path).file_name().map_or(path.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
