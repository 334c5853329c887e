//! Runs every example of docs/data.md through the real executables, and compares what the page says with what happens.
//!
//! The page consists of fenced blocks; the first word after the fence says what a block is:
//!
//! - a language and the name of a file: the content of this file;
//! - `toml`: a pipeline, or the sources of a stage `pool` (`sources = ...`) or `task` (`source = ...`);
//! - `sql`: a query;
//! - `text`: what the pipeline or query before gives. `RAISIN_BLESS=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use raisin_tests::{Project, package};
use serde_json::Value;

/// The width of the answers on the page.
const WIDTH: usize = 116;

fn page() -> PathBuf {
    package().join("docs/data.md")
}

/// A fenced block.
struct Block<'p> {
    /// The words after the fence.
    info: Vec<&'p str>,
    /// The content, and the lines of the content in the page.
    text: String,
    lines: std::ops::Range<usize>,
}

enum PagePart<'p> {
    Heading(&'p str),
    Block(Block<'p>),
}

fn parts<'p>(lines: &[&'p str]) -> Vec<PagePart<'p>> {
    let mut parts = Vec::new();
    let mut open: Option<(Vec<&str>, usize)> = None;
    for (number, line) in lines.iter().enumerate() {
        match (line.strip_prefix("```"), &open) {
            (Some(info), None) => open = Some((info.split_whitespace().collect(), number + 1)),
            (Some(_), Some((info, first))) => {
                let text = lines[*first..number].iter().map(|line| format!("{line}\n")).collect();
                parts.push(PagePart::Block(Block { info: info.clone(), text, lines: *first..number }));
                open = None;
            }
            (None, None) if line.starts_with('#') => parts.push(PagePart::Heading(line)),
            _ => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    parts
}

/// Writes a file as its name asks: rows as a table, a text compressed or as it is.
fn write_file(project: &Project, name: &str, text: &str) {
    let path = project.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (base, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    match ending {
        "gz" => {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packed.write_all(text.as_bytes()).unwrap();
            std::fs::write(path, packed.finish().unwrap()).unwrap();
        }
        "zst" => std::fs::write(path, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap(),
        "parquet" | "arrow" => {
            let (schema, _) = arrow::json::reader::infer_json_schema(text.as_bytes(), None).unwrap();
            let reader = arrow::json::ReaderBuilder::new(Arc::new(schema)).build(text.as_bytes()).unwrap();
            let rows: Vec<_> = reader.map(Result::unwrap).collect();
            if ending == "parquet" {
                return raisin_table::write(&path, &rows[0]).unwrap();
            }
            let file = std::fs::File::create(path).unwrap();
            let mut writer = arrow_ipc::writer::StreamWriter::try_new(file, &rows[0].schema()).unwrap();
            rows.iter().for_each(|rows| writer.write(rows).unwrap());
            writer.finish().unwrap();
        }
        _ => {
            assert!(!base.is_empty());
            std::fs::write(path, text).unwrap();
        }
    }
}

/// The pipeline of a block, and the stage whose tables are shown.
fn pipeline(text: &str) -> (String, &'static str) {
    if text.lines().any(|line| line.starts_with("[stage.")) {
        let stage = if text.contains("[stage.features]") { "features" } else { "pool" };
        return (text.to_owned(), stage);
    }
    if text.lines().any(|line| line.starts_with("sources =")) {
        return (format!("[stage.pool]\nkind = \"ingest\"\n{text}"), "pool");
    }
    let has = |key: &str| text.lines().any(|line| line.starts_with(&format!("{key} =")));
    let defaults = ["validation", "test"].into_iter().filter(|key| !has(key));
    let defaults: String = defaults.map(|key| format!("{key} = 1\n")).collect();
    (format!("[stage.task]\nkind = \"task\"\n{defaults}{text}"), "task")
}

/// Builds the pipeline. Returns what the build says about the stage and, if the build succeeds, the rows.
fn built(project: &Project, text: &str) -> String {
    let (pipeline, stage) = pipeline(text);
    project.write("p.toml", &pipeline);
    let output = project.run(&["build", "p.toml"]);
    let folder = format!("{}/", project.path("").display());
    let told = output.stderr.replace(&folder, "").replace(folder.trim_end_matches('/'), ".");
    let mut answer = String::new();
    if output.code != 0 {
        let lines = told.lines().skip_while(|line| !line.trim_start().starts_with("error: "));
        for line in lines.take_while(|line| !line.starts_with("hint: the whole log:") && !line.starts_with("failed ")) {
            wrapped(&mut answer, line.strip_prefix("    ").unwrap_or(line));
        }
        return answer;
    }
    let notes = told.lines().filter_map(|line| line.strip_prefix(&format!("  {stage}  ")));
    notes.filter(|line| !line.starts_with("ran in ")).for_each(|line| wrapped(&mut answer, line.trim_start()));
    match stage {
        "pool" => rows(&mut answer, project, "pool.instructions"),
        "task" => {
            for split in ["validation", "test"] {
                let _ = write!(answer, "\n{split}");
                rows(&mut answer, project, &format!("task.{split}"));
            }
        }
        _ => {}
    }
    if stage != "features" {
        let rejects = project.sql(&format!("select file, line, reason from {stage}.rejects"));
        if !rejects.is_empty() {
            answer.push('\n');
        }
        for reject in rejects {
            let (file, reason) = (reject["file"].as_str().unwrap(), reject["reason"].as_str().unwrap());
            wrapped(&mut answer, &format!("rejected, {file}, line {}: {reason}", reject["line"]));
        }
    }
    answer
}

/// Adds a line, and breaks it between words.
fn wrapped(answer: &mut String, line: &str) {
    let indent: String = line.chars().take_while(|character| *character == ' ').collect();
    let mut width = 0;
    for (place, word) in line.split(' ').enumerate() {
        if width + 1 + word.chars().count() > WIDTH && width > indent.len() {
            let _ = write!(answer, "\n{indent}    {word}");
            width = indent.len() + 4 + word.chars().count();
        } else {
            let space = if place == 0 { "" } else { " " };
            let _ = write!(answer, "{space}{word}");
            width += space.len() + word.chars().count();
        }
    }
    answer.push('\n');
}

/// The conversations of a table. A star marks what carries a loss or, in a task, what is expected.
fn rows(answer: &mut String, project: &Project, table: &str) {
    answer.push('\n');
    for row in project.sql(&format!("select * from {table} order by id")) {
        let mut lines: Vec<(bool, String)> = Vec::new();
        let given = |key: &str| row.get(key).filter(|value| !value.is_null());
        let parsed = |key: &str| -> Option<Value> { Some(serde_json::from_str(given(key)?.as_str()?).unwrap()) };
        for tool in parsed("tools").iter().flat_map(|tools| tools.as_array().unwrap()) {
            lines.push((false, format!("tool that can be called: {}", tool["function"]["name"].as_str().unwrap())));
        }
        let plain = || {
            let turn = |(key, role): (&str, &str)| Some(serde_json::json!({"role": role, "content": given(key)?}));
            [("system", "system"), ("prompt", "user"), ("response", "assistant")].into_iter().filter_map(turn).collect()
        };
        let turns = parsed("messages").map_or_else(plain, |turns| turns.as_array().unwrap().clone());
        let choices = given("choices").and_then(Value::as_array).filter(|choices| !choices.is_empty());
        for (place, turn) in turns.iter().enumerate() {
            let role = turn["role"].as_str().unwrap();
            let is_last = place + 1 == turns.len();
            let is_task = table.starts_with("task.");
            let is_target = role == "assistant" && turn["untrained"] != true && (is_last || !is_task);
            if is_last && choices.is_some() {
                break;
            }
            if let Some(thoughts) = turn["reasoning_content"].as_str() {
                lines.push((is_target, format!("{role} thinks: {}", escaped(thoughts))));
            }
            let calls = turn["tool_calls"].as_array().cloned().unwrap_or_default();
            let name = turn["name"].as_str().map_or_else(String::new, |name| format!(" {name}"));
            let text = turn["content"].as_str().unwrap();
            if !text.is_empty() || calls.is_empty() {
                lines.push((is_target, format!("{role}{name}: {}", escaped(text))));
            }
            for call in calls {
                let (name, arguments) = (&call["function"]["name"], &call["function"]["arguments"]);
                lines.push((is_target, format!("{role} calls: {} {arguments}", name.as_str().unwrap())));
            }
        }
        for (place, choice) in choices.into_iter().flatten().enumerate() {
            let is_right = row["answer"] == place;
            lines.push((is_right, format!("choice: {}", escaped(choice.as_str().unwrap()))));
        }
        if let Some(rejected) = given("rejected") {
            lines.push((false, format!("(rejected: {})", escaped(rejected.as_str().unwrap()))));
        }
        for (place, (is_target, line)) in lines.iter().enumerate() {
            let id = if place == 0 { row["id"].to_string() } else { String::new() };
            wrapped(answer, &format!("{id:<2} {} {line}", if *is_target { '*' } else { ' ' }));
        }
    }
}

/// A text on one line.
fn escaped(text: &str) -> String {
    text.replace('\n', "\\n")
}

#[test]
fn every_example_of_the_page_gives_what_the_page_says() {
    let page_text = std::fs::read_to_string(page()).unwrap();
    let lines: Vec<&str> = page_text.lines().collect();
    let bless = std::env::var_os("RAISIN_BLESS").is_some();
    let mut project = Project::new();
    let (mut heading, mut actual, mut examples) = ("", None::<String>, 0);
    let mut has_result = false;
    let mut replaced: Vec<(std::ops::Range<usize>, String)> = Vec::new();
    let mut wrong = Vec::new();
    for part in parts(&lines) {
        let block = match part {
            PagePart::Heading(line) => {
                assert!(actual.is_none(), "{heading}: an example without its result");
                heading = line;
                project = Project::new();
                continue;
            }
            PagePart::Block(block) => block,
        };
        match block.info.as_slice() {
            ["text"] => {
                let actual = actual.take().unwrap_or_else(|| panic!("{heading}: a result without its example"));
                examples += 1;
                has_result = true;
                if actual != block.text {
                    let text = &block.text;
                    wrong.push(format!("{heading}, line {}: the page says\n{text}\n{actual}", block.lines.start));
                    replaced.push((block.lines, actual));
                }
            }
            ["toml"] => actual = Some(built(&project, &block.text)),
            ["sql"] => actual = Some(project.done(&["sql", &block.text]).0),
            [_, name] => {
                if std::mem::take(&mut has_result) {
                    project = Project::new();
                }
                write_file(&project, name, &block.text);
            }
            other => panic!("{heading}: a block of an unknown kind: {other:?}"),
        }
    }
    assert!(actual.is_none() && examples > 30, "{examples} examples");
    if bless && !replaced.is_empty() {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        for (place, text) in replaced.into_iter().rev() {
            lines.splice(place, text.lines().map(str::to_owned));
        }
        std::fs::write(page(), lines.join("\n") + "\n").unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_contents_lead_to_every_heading() {
    let page = std::fs::read_to_string(page()).unwrap();
    let lines: Vec<&str> = page.lines().collect();
    let is_kept = |character: &char| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_');
    let slug = |heading: &str| heading.to_lowercase().chars().filter(is_kept).collect::<String>().replace(' ', "-");
    let headings = parts(&lines).into_iter().filter_map(|part| match part {
        PagePart::Heading(line) if line.starts_with("##") => Some(slug(line.trim_start_matches('#').trim())),
        _ => None,
    });
    let links = page.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned());
    assert_eq!(links.collect::<Vec<_>>(), headings.collect::<Vec<_>>());
}

/// The beginnings of files that raisin refuses, with a file name.
const REFUSED: [(&str, &[u8]); 7] = [
    ("pool.zip", b"PK\x03\x04\x14\0\0\0\x08\0"),
    ("pool.jsonl.xz", b"\xFD7zXZ\0\0\x04"),
    ("pool.tsv", b"\xFF\xFEi\0n\0p\0u\0t\0"),
    ("pool.pkl", b"\x80\x04\x95\x0b\0\0\0"),
    ("pool.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
    ("pool.html", b"<!DOCTYPE html>\n<html><body>404</body></html>\n"),
    ("empty.jsonl", b""),
];

#[test]
fn the_page_says_what_raisin_says_of_a_file_without_records() {
    let page = std::fs::read_to_string(page()).unwrap();
    for (name, bytes) in REFUSED {
        let project =
            Project::with_text(&format!("[stage.pool]\nkind = \"ingest\"\nsources = [{{ path = \"{name}\" }}]\n"));
        std::fs::write(project.path(name), bytes).unwrap();
        let (code, told) = project.refused(&["build", "p.toml"]);
        assert_eq!(code, 1, "{told}");
        let (_, error) = told.split_once("error: ").unwrap();
        let (error, rest) = error.split_once('\n').unwrap();
        let (_, reason) = error.split_once(name).unwrap();
        let hint = rest.lines().next().unwrap().trim().strip_prefix("hint: ").unwrap();
        let row = format!("|{reason} | {hint} |");
        assert!(page.contains(&row), "docs/data.md has no row that ends with\n{row}");
    }
}
