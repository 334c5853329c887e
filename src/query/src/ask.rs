//! Answers the question of the command line: where the statements come from, in which format the results are written,
//! and where to.

use std::io::{IsTerminal as _, Read as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::catalog::Catalogs;
use super::elsewhere::Elsewhere;
use super::rows::QueryMemory;
use super::script::{StatementText, pieces};
use super::session::{Session, StatementAnswer, block_on};
use super::write::{Form, is_broken_pipe, replace, write};
use super::{export, prompt, render};
use raisin_base::error::{Context as _, Error, FilePosition, Problem, Result};
use raisin_base::memory::default_limit;
use raisin_base::say::say;
use raisin_contract::query::{MostRows, OutputFormat, QueryOptions, QuerySource};
use raisin_store::Store;

/// The largest number of rows that are printed on a terminal.
pub const MOST_ROWS: usize = 1000;

/// Answers on standard output or into a file.
///
/// With `elsewhere`, other processes execute the queries.
pub fn run(options: &QueryOptions, elsewhere: Option<Arc<dyn Elsewhere>>) -> Result<()> {
    if let QuerySource::Export { file, is_absolute } = &options.source {
        return export::run(options, file, *is_absolute);
    }
    if is_for_the_prompt(options) {
        return prompt::run(options, elsewhere);
    }
    let to_terminal = options.output.is_none() && std::io::stdout().is_terminal();
    let form = form(options, to_terminal)?;
    let text = text(&options.source)?;
    let mut note = say;
    match &options.output {
        None => answer(options, elsewhere, &text, form, &mut std::io::stdout(), &mut note),
        Some(path) => replace(path, |file| answer(options, elsewhere, &text, form, file, &mut note)),
    }
}

fn is_for_the_prompt(options: &QueryOptions) -> bool {
    options.source == QuerySource::Input { is_demanded: false } && std::io::stdin().is_terminal()
}

fn text(source: &QuerySource) -> Result<String> {
    match source {
        QuerySource::Text(text) => Ok(text.clone()),
        QuerySource::File(file) => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        }
        QuerySource::Input { .. } | QuerySource::Export { .. } => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read the query from standard input")?;
            Ok(text)
        }
    }
}

/// How results are written.
///
/// # Errors
/// The output file has an ending that stands for no format, or for another one than `--format`; or the format is not
/// for a terminal.
pub fn form(options: &QueryOptions, to_terminal: bool) -> Result<Form> {
    let format = match &options.output {
        Some(file) => format_of(file, options.format)?,
        None => options.format.unwrap_or_default(),
    };
    if to_terminal && !format.is_text() {
        let problem = Problem::usage(format!("the format {format} is not for the terminal"));
        return Err(problem.hint(format!("name a file: --output rows.{format}")).into());
    }
    let is_for_people = matches!(format, OutputFormat::Table | OutputFormat::Box);
    let flags = [(options.expanded, "--expanded"), (matches!(options.most_rows, Some(MostRows::At(_))), "--rows")];
    if let Some((_, flag)) = flags.iter().find(|(is_given, _)| *is_given && !is_for_people) {
        let problem = Problem::usage(format!("{flag} is for tables, and the format is {format}"));
        return Err(problem.hint("leave the flag out; `limit N` in the query takes fewer rows").into());
    }
    let most_rows = match options.most_rows {
        Some(MostRows::All) => None,
        Some(MostRows::At(most)) => Some(most),
        None => to_terminal.then_some(MOST_ROWS),
    };
    let width = to_terminal.then(render::terminal_width).flatten();
    Ok(Form { format, is_expanded: options.expanded, width, most_rows, is_a_file: options.output.is_some() })
}

/// The format of a file: its ending decides. `--format` alone decides for special files such as /dev/stdout, and for
/// the formats that have no ending.
pub fn format_of(file: &Path, asked: Option<OutputFormat>) -> Result<OutputFormat> {
    let by_ending = OutputFormat::of_file(file);
    match (by_ending, asked) {
        (Some(format), None) => Ok(format),
        (Some(format), Some(asked)) if format == asked || asked.endings().is_empty() => Ok(asked),
        (Some(format), Some(asked)) => {
            let message = format!("the ending of {} stands for {format}, and --format says {asked}", file.display());
            Err(Problem::usage(message).hint("leave out --format, or choose another ending").into())
        }
        (None, Some(asked)) => Ok(asked),
        (None, None) => {
            let known: Vec<String> = OutputFormat::ALL
                .iter()
                .flat_map(|format| format.endings().iter().map(|ending| format!(".{ending}")))
                .collect();
            let message = format!("the ending of {} stands for no format", file.display());
            Err(Problem::usage(message).hint(format!("endings: {}; or add --format", known.join(", "))).into())
        }
    }
}

/// A session over the catalogs of the folders. The folder for rows that do not fit the memory is removed with the
/// second value.
pub fn session(
    options: &QueryOptions,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    stop: Arc<AtomicBool>,
) -> Result<(Session, Option<tempfile::TempDir>)> {
    let catalogs = Catalogs::open(&options.cache, &options.out, options.pipeline.as_deref())?;
    // gc removes what a killed query leaves there. In a cache that cannot be written, a large query fails.
    let spill = match Store::existing(&options.cache)? {
        Some(store) => tempfile::Builder::new().prefix("sql-").tempdir_in(store.root().join("tmp")).ok(),
        None => tempfile::Builder::new().prefix("raisin-sql-").tempdir().ok(),
    };
    let folder = spill.as_ref().map(|folder| folder.path().to_owned());
    let memory = QueryMemory { limit: options.memory.or_else(default_limit), folder, stage: None };
    let session = Session::executed_by(catalogs, memory, elsewhere)?.with_values(&options.parameters).stopped_by(stop);
    Ok((session, spill))
}

/// Writes the answers of all statements to `to`. `note` is called with each line that is meant for a person.
pub fn answer(
    options: &QueryOptions,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    text: &str,
    form: Form,
    to: &mut (dyn Write + Send),
    note: &mut dyn FnMut(&str),
) -> Result<()> {
    let pieces = match pieces(text) {
        none if none.is_empty() => return Err(Problem::usage("the query is empty").into()),
        pieces => pieces,
    };
    let (session, _spill) = session(options, elsewhere, Arc::default())?;
    let mut results = 0;
    for piece in &pieces {
        let result = statement(&session, piece, &form, &mut results, to, note).and_then(|()| Ok(to.flush()?));
        match result {
            // The reader of a pipe, such as `head`, has read enough.
            Err(error) if is_broken_pipe(&error) => return Ok(()),
            Err(error) => return Err(located(error, &options.source, piece, pieces.len())),
            Ok(()) => {}
        }
    }
    let unused = session.unused_values();
    if !unused.is_empty() {
        let names: Vec<String> = unused.iter().map(|name| format!("${name}")).collect();
        note(&format!("warning: no statement has {}", names.join(", ")));
    }
    if form.is_a_file && results == 0 {
        return Err(Problem::usage("no statement has a result that the file could keep").into());
    }
    Ok(())
}

/// Writes the answer of one statement. `results` counts the results that were written.
fn statement(
    session: &Session,
    piece: &StatementText,
    form: &Form,
    results: &mut usize,
    to: &mut (dyn Write + Send),
    note: &mut dyn FnMut(&str),
) -> Result<()> {
    block_on(async {
        match session.answer(&piece.text, note).await? {
            StatementAnswer::Done(words) => note(&words),
            StatementAnswer::Rows(rows) => {
                if *results > 0 && (form.is_a_file || !form.format.is_text()) {
                    let problem = Problem::usage("the output has place for one result, and a second statement has one");
                    return Err(problem.hint("keep earlier results with `create temp table t as select ...`").into());
                }
                if *results > 0 && matches!(form.format, OutputFormat::Table | OutputFormat::Markdown) {
                    to.write_all(b"\n")?;
                }
                *results += 1;
                write(rows, form, to, note).await?;
            }
        }
        Ok(())
    })?
}

/// The error with the line of its statement, if there are several or if they come from a file.
fn located(error: Error, source: &QuerySource, piece: &StatementText, count: usize) -> Error {
    let place = match source {
        QuerySource::File(file) => {
            let file = file.display().to_string();
            FilePosition { file, line: piece.line, column: piece.column }
        }
        _ if count == 1 => return error,
        _ => FilePosition { file: "the query".to_owned(), line: piece.line, column: piece.column },
    };
    match error.downcast::<Problem>() {
        Ok(problem) if problem.place.is_none() => Problem::at(problem, place).into(),
        Ok(problem) => problem.into(),
        Err(error) => error.context(format!("the statement at {place} failed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_of_a_file_chooses_the_format() {
        let format = |file: &str, asked| format_of(Path::new(file), asked).map_err(|error| error.to_string());
        for (file, expected) in [
            ("a.parquet", OutputFormat::Parquet),
            ("a.CSV", OutputFormat::Csv),
            ("a.json", OutputFormat::Json),
            ("a.jsonl", OutputFormat::Jsonl),
            ("a.md", OutputFormat::Markdown),
            ("a.html", OutputFormat::Html),
            ("a.arrow", OutputFormat::Arrow),
            ("a.txt", OutputFormat::Table),
        ] {
            assert_eq!(format(file, None), Ok(expected), "{file}");
            assert_eq!(format(file, Some(expected)), Ok(expected), "{file}");
        }
        assert_eq!(format("a.txt", Some(OutputFormat::Box)), Ok(OutputFormat::Box));
        assert_eq!(format("/dev/stdout", Some(OutputFormat::Csv)), Ok(OutputFormat::Csv));
        assert_eq!(
            format("a.csv", Some(OutputFormat::Parquet)),
            Err("the ending of a.csv stands for csv, and --format says parquet".to_owned())
        );
        assert_eq!(format("rows.xlsx", None), Err("the ending of rows.xlsx stands for no format".to_owned()));
    }
}
