//! Answers what `raisin init` asks about files of data: format, fields, the number of records, and how a benchmark can be
//! scored. The files are read whole, as a stage would read them, so that the answer holds for all records.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::task;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::look::{DataFindings, DataQuestion, PoolFindings, TaskFindings};
use raisin_corpus::Example;
use raisin_corpus::artifact::PoolRow;
use raisin_corpus::digests::question_digest;
use raisin_corpus::intake::{Intake, SourceSummary, counted, grouped};
use raisin_corpus::message::Message;
use raisin_corpus::pool::{PoolBuilder, SourceFile};
use raisin_kinds::ingest::MOST_CHARACTERS;
use raisin_kinds::task::TaskSource;
use raisin_settings::Mapping;
use serde_json::{Map, Value, json};

/// The share of records that a format must read to be taken.
const ENOUGH: f64 = 0.9;
/// An answer of at most this many characters is short: a generated text can be compared with it.
const SHORT: usize = 40;

pub fn look(question: &DataQuestion) -> Result<DataFindings> {
    let pool = look_at_pool(&question.pool)?;
    let (mut task, source) = look_at_task(&question.task)?;
    let mut asked: HashSet<Digest> = source.iter().map(question_digest).collect();
    let test = match &question.test {
        None => None,
        Some(path) => {
            let (mut findings, examples) = look_at_task(path)?;
            let in_test: HashSet<Digest> = examples.iter().map(question_digest).collect();
            asked.retain(|digest| !in_test.contains(digest));
            findings.questions = in_test.len();
            Some(findings)
        }
    };
    task.questions = asked.len();
    Ok(DataFindings { pool, task, test })
}

/// The files at a path, each with its name.
fn files(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let name = |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    if !path.is_dir() {
        // A file that cannot be read is named with the reason of the system.
        std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        return Ok(vec![(name(path), path.to_owned())]);
    }
    let (mut found, mut open) = (Vec::new(), vec![path.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let below = entry?.path();
            // A stage reads no hidden files of a folder.
            if name(&below).starts_with('.') {
                continue;
            }
            if below.is_dir() {
                open.push(below);
            } else {
                found.push((below.strip_prefix(path).unwrap_or(&below).to_string_lossy().into_owned(), below));
            }
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Problem::usage(format!("the folder {} has no files", path.display())).into());
    }
    Ok(found)
}

fn data_files<'f>(path: &Path, all: &'f [(String, PathBuf)], intake: &mut Intake) -> Result<Vec<(String, &'f Path)>> {
    let files = all.iter().map(|(name, path)| (name.clone(), path.as_path())).collect();
    if path.is_dir() { intake.data_files(files) } else { Ok(files) }
}

fn look_at_pool(path: &Path) -> Result<PoolFindings> {
    let mut pool = PoolBuilder::new(MOST_CHARACTERS);
    let (all, mapping) = (files(path)?, Mapping::default());
    for (name, file) in data_files(path, &all, &mut pool.intake)? {
        pool.add(&SourceFile { path: file, name, mapping: &mapping }, &mut |_| {})?;
    }
    if pool.rows.is_empty() {
        return Err(nothing_read(path, &pool.intake, "instructions"));
    }
    let Intake { sources, .. } = &pool.intake;
    let (settings, told) = (settings(sources), told(sources, "instruction"));
    let characters = |row: PoolRow| row.messages.iter().map(Message::characters).sum();
    let mut lengths: Vec<usize> = pool.into_rows().into_iter().map(characters).collect();
    lengths.sort_unstable();
    Ok(PoolFindings {
        settings,
        told,
        instructions: lengths.len(),
        characters: lengths[(lengths.len() * 95 / 100).min(lengths.len() - 1)],
    })
}

/// The findings, and the examples. A format of multiple-choice questions is tried first: an open format would read the
/// answers of such a file as texts, and leave the choices unread.
fn look_at_task(path: &Path) -> Result<(TaskFindings, Vec<Example>)> {
    let all = files(path)?;
    let mut open = None;
    for format in ["choices", "csqa", "adapters", "auto"] {
        let source: TaskSource = serde_json::from_value(json!({"path": path.to_string_lossy(), "format": format}))?;
        let mut intake = Intake::new(task::MAX_BYTES);
        let files = data_files(path, &all, &mut intake)?;
        let examples = task::read(&source, &files, &mut intake)?;
        let (records, taken) = (intake.total(|it| it.records), intake.total(|it| it.accepted + it.folded));
        let is_read = !examples.is_empty() && taken as f64 >= ENOUGH * records as f64;
        if is_read || (format == "auto" && !examples.is_empty()) {
            let mut settings = settings(&intake.sources);
            if format != "auto" {
                settings = Map::from_iter([("format".to_owned(), json!(format))]);
            }
            let (scoring, extract, reason) = scoring(&examples);
            let findings = TaskFindings {
                settings,
                told: told(&intake.sources, "example"),
                questions: 0,
                scoring: scoring.to_owned(),
                extract: extract.map(str::to_owned),
                characters: examples.iter().map(|it| it.response.content.chars().count()).max().unwrap_or(0),
                reason,
            };
            return Ok((findings, examples));
        }
        open = Some(intake);
    }
    Err(nothing_read(path, &open.unwrap_or_default(), "questions and answers"))
}

/// The scoring that fits the examples: its name, the extraction, and the reason.
fn scoring(examples: &[Example]) -> (&'static str, Option<&'static str>, String) {
    let share = |of: &dyn Fn(&Example) -> bool| {
        examples.iter().filter(|example| of(example)).count() as f64 / examples.len().max(1) as f64
    };
    let answer = |example: &Example| example.response.content.trim().to_owned();
    let short = |example: &Example| {
        let answer = answer(example);
        !answer.is_empty() && answer.chars().count() <= SHORT && !answer.contains('\n')
    };
    if share(&|example| example.answer.is_some() && !example.choices.is_empty()) >= ENOUGH {
        ("choice", None, "the examples have choices, one of which is right".to_owned())
    } else if share(&|example| answer(example).contains("####")) >= ENOUGH {
        ("match", Some("gsm8k"), "the answers end with `#### NUMBER`, as in GSM8K".to_owned())
    } else if share(&short) >= ENOUGH {
        let reason = format!("the answers are short (at most {SHORT} characters, one line), so a text can equal them");
        ("match", Some("exact"), reason)
    } else {
        ("loss", None, "the answers are longer texts, which a generated text would hardly equal".to_owned())
    }
}

/// The settings of a source whose files were all read in one format that a pipeline can name. Otherwise none, and the
/// stage finds the formats as this look did.
fn settings(sources: &[SourceSummary]) -> Map<String, Value> {
    let formats: HashSet<&str> =
        sources.iter().flat_map(|it| it.formats.iter()).filter(|(_, count)| *count > 0).map(|(name, _)| name).collect();
    let mut settings = Map::new();
    let [format] = formats.into_iter().collect::<Vec<_>>()[..] else { return settings };
    let fields = format.strip_prefix("qa (").and_then(|rest| rest.strip_suffix(')'));
    if let Some((prompt, response)) = fields.and_then(|fields| fields.split_once(", ")) {
        settings.insert("format".to_owned(), json!("qa"));
        settings.insert("prompt".to_owned(), json!(prompt));
        settings.insert("response".to_owned(), json!(response));
    } else if ["alpaca", "messages", "sharegpt"].contains(&format) {
        settings.insert("format".to_owned(), json!(format));
    }
    settings
}

/// A sentence about each file.
fn told(sources: &[SourceSummary], what: &str) -> Vec<String> {
    let sentence = |it: &SourceSummary| {
        let mut text = format!(
            "{}: {} ({}), read as {}: {}",
            it.file,
            counted(it.records, "record"),
            it.layout,
            if it.format.is_empty() { "nothing" } else { &it.format },
            counted(it.accepted, what)
        );
        for (count, what) in [(it.folded, "copies folded"), (it.rejected, "rejected"), (it.filtered(), "excluded")] {
            if count > 0 {
                text += &format!(", {} {what}", grouped(count));
            }
        }
        let unread: Vec<&str> = it.fields_unread.iter().map(|(name, _)| name).collect();
        if !unread.is_empty() {
            text += &format!("; not read: {}", unread.join(", "));
        }
        text
    };
    sources.iter().map(sentence).collect()
}

/// The error for a path of which no record can be read: with file, line and value of the first one.
fn nothing_read(path: &Path, intake: &Intake, what: &str) -> raisin_base::error::Error {
    let first = intake.rejects.first().map_or_else(
        || "it has no records".to_owned(),
        |reject| format!("{}, line {}: {}: {}", reject.file, reject.line, reject.reason, reject.record),
    );
    Problem::usage(format!("no record of {} can be read as {what}; {first}", path.display()))
        .hint("docs/data.md, \"My data looks like this\", shows each form, and how `fields` names other fields")
        .into()
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
