//! Answers one statement of a client of Flight SQL for `raisin-flight` (src/flight), which has the connections. Each
//! statement has a process of its own, so that a statement that is cancelled, or takes too much, disturbs no other.

use std::io::{BufRead as _, Read as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_ipc::writer::StreamWriter;
use datafusion::arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::SchemaProvider as _;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::catalog::Catalogs;
use super::rows::{QueryMemory, QueryRows};
use super::session::{Session, StatementAnswer, block_on};
use raisin_base::error::{Context as _, Problem, Result, ensure};
use raisin_base::memory::default_limit;
use raisin_base::say::say;
use raisin_contract::flight::{FlightQuestion, FlightTask, FlightValue, MOST_STATEMENTS, PARAMETERS};
use raisin_kinds::syntax::{DIALECT, check_size};
use raisin_store::Store;

/// The time for an orderly end after the client is gone.
const GRACE: Duration = Duration::from_secs(1);

/// Reads a question from standard input, and writes the answer on standard output as an Arrow IPC stream.
///
/// # Errors
/// The statement cannot be parsed, planned or executed.
pub fn run() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the question")?;
    let question: FlightQuestion = serde_json::from_str(&line).context("the question is unreadable")?;
    let stop = Arc::<AtomicBool>::default();
    end_with_the_client(stop.clone())?;
    let mut out = std::io::stdout().lock();
    match &question.task {
        FlightTask::Tables { columns } => write_tables(&question, *columns, &mut out),
        FlightTask::Describe { sql } => describe(&question, sql, &mut out),
        FlightTask::Run { sql, values } => {
            let bound = bind(sql, values)?;
            let (session, _spill) = session(&question, stop)?;
            block_on(async {
                let mut rows = rows(&session, &bound).await?;
                let mut writer = StreamWriter::try_new(&mut out, &rows.schema)?;
                writer.flush()?;
                while let Some(batch) = rows.next().await? {
                    writer.write(&batch)?;
                    writer.flush()?;
                }
                Ok(writer.finish()?)
            })?
        }
    }
}

/// Ends the query when standard input ends: the client has cancelled it, or the server has ended in any way.
fn end_with_the_client(stop: Arc<AtomicBool>) -> Result<()> {
    let wait = move || {
        // Nothing comes after the question, so that the reading ends with the input.
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
        std::thread::sleep(GRACE);
        std::process::exit(1);
    };
    std::thread::Builder::new().spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// A session without files, with its part of the memory; and the folder for what does not fit.
fn session(question: &FlightQuestion, stop: Arc<AtomicBool>) -> Result<(Session, Option<tempfile::TempDir>)> {
    let catalogs = Catalogs::open(&question.cache, &question.out, question.pipeline.as_deref())?;
    let spill = Store::looked_at(&question.cache)?
        .and_then(|store| tempfile::Builder::new().prefix("sql-").tempdir_in(store.root().join("tmp")).ok());
    let folder = spill.as_ref().map(|folder| folder.path().to_owned());
    let limit = default_limit().map(|limit| limit / MOST_STATEMENTS as u64);
    let memory = QueryMemory { limit, folder, stage: None };
    Ok((Session::over(catalogs, memory)?.without_files().stopped_by(stop), spill))
}

/// # Errors
/// The statement has no rows: it makes or drops a temporary table, which would end with the statement.
async fn rows(session: &Session, sql: &str) -> Result<QueryRows> {
    match session.answer(sql, &mut say).await? {
        StatementAnswer::Rows(rows) => Ok(rows),
        StatementAnswer::Done(_) => {
            let problem = Problem::usage("a statement is answered by itself, so that a temporary table would be lost");
            Err(problem
                .hint("write the query of the table into the statement: with t as (select ...) select ...")
                .into())
        }
    }
}

fn describe(question: &FlightQuestion, sql: &str, out: &mut dyn Write) -> Result<()> {
    let parameters = TextParameters::of(sql)?;
    let names = parameters.names();
    let schema = if names.is_empty() {
        let (session, _spill) = session(question, Arc::default())?;
        let schema = block_on(async { Ok::<_, raisin_base::error::Error>(rows(&session, sql).await?.schema) })??;
        schema.as_ref().clone()
    } else {
        Schema::empty().with_metadata([(PARAMETERS.to_owned(), names.join(","))].into())
    };
    Ok(StreamWriter::try_new(out, &schema)?.finish()?)
}

/// The parameters in the text of a statement, in their order.
struct TextParameters(Vec<TextParameter>);

struct TextParameter {
    /// `?`, `$1` or `$name`.
    text: String,
    line: u64,
    /// In characters, from 1.
    column: u64,
}

impl TextParameters {
    /// # Errors
    /// The text cannot be divided into words.
    fn of(sql: &str) -> Result<Self> {
        check_size(sql)?;
        let words = Tokenizer::new(&DIALECT, sql).tokenize_with_location();
        let words = words.map_err(|error| Problem::usage(format!("the statement is unreadable: {error}")))?;
        let parameter = |word: TokenWithSpan| {
            let Location { line, column } = word.span.start;
            let (text, column) = match word.token {
                Token::Placeholder(text) => (text, column),
                Token::Question => ("?".to_owned(), column),
                // Of `x>=?`, the tokenizer makes one operator.
                Token::CustomBinaryOperator(operator) if operator.ends_with('?') => {
                    ("?".to_owned(), column + operator.chars().count() as u64 - 1)
                }
                _ => return None,
            };
            Some(TextParameter { text, line, column })
        };
        Ok(Self(words.into_iter().filter_map(parameter).collect()))
    }

    /// The names, each once; every `?` is a parameter of its own.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for parameter in &self.0 {
            let name = parameter.text.trim_start_matches('$');
            if name == "?" || !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// The statement with these values in the places of its parameters. The rest of the text stays as it is.
///
/// # Errors
/// The statement cannot be parsed, a parameter has no value, or a value has no parameter.
fn bind(sql: &str, values: &[(String, FlightValue)]) -> Result<String> {
    if values.is_empty() {
        return Ok(sql.to_owned());
    }
    let parameters = TextParameters::of(sql)?.0;
    let mut used = vec![false; values.len()];
    let mut lines: Vec<String> = sql.split('\n').map(str::to_owned).collect();
    let questions = parameters.iter().filter(|parameter| parameter.text == "?").count();
    let mut question = questions;
    // From the end, so that the columns before stay right.
    for TextParameter { text, line, column } in parameters.iter().rev() {
        let name = text.trim_start_matches('$');
        let place = if text == "?" {
            question -= 1;
            Some(question)
        } else {
            let by_number = || name.parse::<usize>().ok()?.checked_sub(1);
            by_number().or_else(|| values.iter().position(|(given, _)| given == name))
        };
        let Some((place, (_, value))) = place.and_then(|place| Some((place, values.get(place)?))) else {
            let message = format!("the parameter {text} has no value: {} are given", values.len());
            return Err(Problem::usage(message).into());
        };
        used[place] = true;
        let (line, column) = (usize::try_from(*line)? - 1, usize::try_from(*column)? - 1);
        let text_of = lines.get_mut(line).context("a parameter outside of the statement")?;
        let start = text_of.char_indices().nth(column).map_or(text_of.len(), |(start, _)| start);
        ensure!(text_of[start..].starts_with(text.as_str()), "the parameter {text} is not where it was found");
        text_of.replace_range(start..start + text.len(), &literal(value));
    }
    match used.iter().position(|used| !used) {
        Some(place) => Err(Problem::usage(format!("the statement has no parameter for value {}", place + 1)).into()),
        None => Ok(lines.join("\n")),
    }
}

fn literal(value: &FlightValue) -> String {
    match value {
        FlightValue::Null => "NULL".to_owned(),
        FlightValue::Bool(switch) => switch.to_string(),
        // In brackets, because `- -5` would begin a comment without the space.
        FlightValue::Number(number) if number.starts_with('-') => format!("({number})"),
        FlightValue::Number(number) => number.clone(),
        FlightValue::Text(text) => format!("'{}'", text.replace('\'', "''")),
    }
}

fn write_tables(question: &FlightQuestion, columns: bool, out: &mut dyn Write) -> Result<()> {
    let catalogs = Catalogs::open(&question.cache, &question.out, question.pipeline.as_deref())?;
    let mut names: [Vec<String>; 3] = Default::default();
    let mut schemas: Vec<Option<Vec<u8>>> = Vec::new();
    for (catalog, provider) in &catalogs.by_name {
        for (schema, tables) in &provider.schemas {
            for table in tables.names() {
                let described = if columns { block_on(tables.table(&table))?.transpose() } else { None };
                let described = match described {
                    None => None,
                    Some(Ok(provider)) => {
                        let mut bytes = Vec::new();
                        StreamWriter::try_new(&mut bytes, &provider.schema())?.finish()?;
                        Some(bytes)
                    }
                    Some(Err(error)) => {
                        say(&format!("{catalog}.{schema}.{table} is left without columns: {error}"));
                        None
                    }
                };
                for (list, name) in names.iter_mut().zip([catalog, schema, &table]) {
                    list.push(name.clone());
                }
                schemas.push(described);
            }
        }
    }
    catalogs.warnings.take().iter().for_each(|warning| say(&format!("warning: {warning}")));
    let text = |list: &Vec<String>| -> ArrayRef { Arc::new(list.iter().map(Some).collect::<StringArray>()) };
    let schemas: ArrayRef = Arc::new(schemas.iter().map(Option::as_deref).collect::<BinaryArray>());
    let rows = RecordBatch::try_from_iter([
        ("catalog", text(&names[0])),
        ("schema", text(&names[1])),
        ("table", text(&names[2])),
        ("columns", schemas),
    ])?;
    let mut writer = StreamWriter::try_new(out, &rows.schema())?;
    writer.write(&rows)?;
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_take_the_places_of_parameters_by_number_by_order_and_by_name() {
        let values = [
            ("a".to_owned(), FlightValue::Text("it's \\' 5".to_owned())),
            ("b".to_owned(), FlightValue::Number("-5".to_owned())),
            ("c".to_owned(), FlightValue::Null),
        ];
        for sql in [
            "SELECT 'é?', ?,\n -? WHERE x>=?",
            "SELECT 'é?', $1,\n -$2 WHERE x>=$3",
            "SELECT 'é?', $a,\n -$b WHERE x>=$c",
        ] {
            assert_eq!(bind(sql, &values).unwrap(), "SELECT 'é?', 'it''s \\'' 5',\n -(-5) WHERE x>=NULL", "{sql}");
        }
        let text = [("0".to_owned(), FlightValue::Text("5".to_owned()))];
        assert_eq!(bind("SELECT ?", &text).unwrap(), "SELECT '5'");
        let said = |sql: &str| bind(sql, &values).unwrap_err().to_string();
        assert_eq!(said("SELECT $1, $2, $3, $4"), "the parameter $4 has no value: 3 are given");
        assert_eq!(said("SELECT ?, ?"), "the statement has no parameter for value 3");
        assert_eq!(TextParameters::of("SELECT ?, $b, ?, $b").unwrap().names(), ["?", "b", "?"]);
    }
}
