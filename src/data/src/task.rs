//! Runs a stage of kind `task`: reads benchmark files and draws validation and test examples.
//!
//! Validation examples are drawn from `source`. Test examples are drawn from `test_source` or, without it, from the
//! rest of `source`. No question is in both sets, because training may look at the validation examples.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use crate::ingest::data_files;
use raisin_base::digest::Digest;
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_contract::Context;
use raisin_corpus::artifact::task_batches;
use raisin_corpus::digests::{example_digest, question_digest};
use raisin_corpus::intake::{Intake, RejectLimit, TakenRecord, counted, grouped, rejects_batch, sources_batch};
use raisin_corpus::questions::{AnswerCounts, QuestionSettings, Questions};
use raisin_corpus::{Example, ScoringRule};
use raisin_kinds::task::{Parameters, TaskSource};
use raisin_settings::TaskFormat;
use raisin_table::WriteTable as _;
use serde_json::Value;

/// The largest record in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 24;
/// What a user can do about records that are no multiple-choice questions.
const CHOICES: &str = "name the fields with `prompt`, `choices` and `answer`, for example prompt = \"question\", choices = \
                       \"options\", answer = \"correct\"";

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut intake = Intake::new(MAX_BYTES);
    if parameters.source.format == TaskFormat::Choices {
        intake = intake.with_hint(CHOICES);
    }
    let files = data_files(context, "/source/path", &mut intake)?;
    let source = read(&parameters.source, &files, &mut intake)?;
    let separate = match &parameters.test_source {
        Some(test) => {
            let files = data_files(context, "/test_source/path", &mut intake)?;
            Some(read(test, &files, &mut intake)?)
        }
        None => None,
    };
    intake.check(RejectLimit { share: parameters.max_rejected }, context.stage())?;
    let splits = split(&parameters, source, separate)?;
    context.write_table("rejects", &rejects_batch(&intake.rejects)?)?;
    context.write_table("sources", &sources_batch(&intake.sources)?)?;
    let Parameters { scoring: by, extract, max_new_tokens, .. } = parameters;
    write_task(context, &splits.validation, &splits.test, &ScoringRule { by, extract, max_new_tokens })?;
    context.note(note(&splits, &intake, context.stage()));
    intake.details(context.stage()).into_iter().for_each(|detail| context.note(detail));
    Ok(())
}

/// Writes the files of an artifact that provides `task`.
pub fn write_task(context: &Context, validation: &[Example], test: &[Example], scoring: &ScoringRule) -> Result<()> {
    let [validation, test] = task_batches(validation, test)?;
    context.write_table("validation", &validation)?;
    context.write_table("test", &test)?;
    context.write_json("task.json", scoring)
}

fn note(splits: &Splits, intake: &Intake, stage: &str) -> String {
    let count = |count: usize| grouped(count as u64);
    let test = counted(splits.test.len() as u64, "test example");
    let mut note = intake.note(&format!("{} validation and {test}", count(splits.validation.len())), stage);
    for (number, what) in [
        (splits.in_test_file, "of `source` left out: `test_source` asks the same"),
        (splits.in_validation, "left out: a validation example asks the same"),
        (splits.not_drawn, "not drawn"),
    ] {
        if number > 0 {
            note += &format!(", {} {what}", count(number));
        }
    }
    note
}

/// The examples of all files of a source, in the order of the files, each once.
pub(crate) fn read(source: &TaskSource, files: &[(String, &Path)], intake: &mut Intake) -> Result<Vec<Example>> {
    let settings = QuestionSettings {
        format: source.format,
        mapping: source.mapping(),
        choices: source.choices.clone(),
        answer: source.answer.clone(),
        answer_base: source.answer_base,
        style: source.style,
        fixed_choices: source.fixed_choices.clone(),
    };
    let counts = count_answers(&settings, files)?;
    let first = intake.sources.len();
    let mut examples: Vec<Example> = Vec::new();
    let mut seen: HashSet<Digest> = HashSet::new();
    for (name, path) in files {
        let take = |example: Example, _, _| {
            if !seen.insert(example_digest(&example)) {
                return TakenRecord::Copy;
            }
            examples.push(example);
            TakenRecord::New
        };
        intake.read(
            path,
            name,
            |sample| Ok(Questions::choose(&settings, sample)?.decided(&counts)),
            take,
            &mut |_| {},
        )?;
    }
    if !examples.is_empty() {
        intake.check_names(first..intake.sources.len(), &settings.mapping.fields)?;
    }
    Ok(examples)
}

/// What all answers of a source are, for each layout of its files. The files are read once more for it.
///
/// # Errors
/// A file cannot be read.
fn count_answers(settings: &QuestionSettings, files: &[(String, &Path)]) -> Result<BTreeMap<String, AnswerCounts>> {
    let mut counts: BTreeMap<String, AnswerCounts> = BTreeMap::new();
    if !settings.format.has_choices() || settings.answer_base.is_some() {
        return Ok(counts);
    }
    for (name, path) in files {
        let chosen = RefCell::new(None);
        let choose = |sample: &[&Value]| {
            let questions = Questions::choose(settings, sample)?;
            let (reader, _) = questions.answers();
            *chosen.borrow_mut() = Some(questions);
            Ok(reader)
        };
        let mut sum = AnswerCounts::default();
        let take = |count, _, _| {
            sum.add(count);
            TakenRecord::New
        };
        Intake::new(MAX_BYTES).read(path, name, choose, take, &mut |_| {})?;
        let Some(questions) = chosen.into_inner() else { continue };
        if let (_, Some(layout)) = questions.answers() {
            counts.entry(layout).or_default().add(sum);
        }
    }
    Ok(counts)
}

/// The examples that a task stage has drawn.
struct Splits {
    validation: Vec<Example>,
    test: Vec<Example>,
    /// The number of examples of `source` that were removed because `test_source` asks the same question.
    in_test_file: usize,
    /// The number of examples that cannot be test examples because a validation example asks the same question.
    in_validation: usize,
    not_drawn: usize,
}

/// Draws both sets, each in the order of its source. No example is twice in a source. Examples that ask the same
/// question (equal conversation and choices) never lie in different sets: a question that both sources ask belongs to
/// the test set.
fn split(parameters: &Parameters, mut source: Vec<Example>, separate: Option<Vec<Example>>) -> Result<Splits> {
    let seed = Seed::new(parameters.draw_seed).at("task");
    let before = source.len();
    leave_out_questions_of(separate.iter().flatten(), &mut source);
    let in_test_file = before - source.len();
    let validation =
        drawn(&source, parameters.validation, &seed.at("validation"), "validation", "", &parameters.source)?;
    let mut not_drawn = source.len() - validation.len();
    let mut in_validation = 0;
    let (test, beside, file) = match separate {
        Some(examples) => {
            not_drawn += examples.len();
            (examples, "", parameters.test_source.as_ref().unwrap_or(&parameters.source))
        }
        None => {
            leave_out_questions_of(&validation, &mut source);
            in_validation = not_drawn - source.len();
            not_drawn = source.len();
            (source, " beside the validation examples", &parameters.source)
        }
    };
    let count = if parameters.test == 0 { test.len() } else { parameters.test };
    let test = drawn(&test, count.max(1), &seed.at("test"), "test", beside, file)?;
    not_drawn -= test.len();
    Ok(Splits { validation, test, in_test_file, in_validation, not_drawn })
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
