//! `raisin sql`: runs SQL over stages, runs and history. raisin-sql answers, and has the prompt.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, ValueHint};

use super::pipeline_arguments::Folders;
use raisin_base::error::{Problem, Result, nearest};
use raisin_contract::query::{MostRows, OutputFormat, QueryOptions, QuerySource};

/// Query stages, runs and history with SQL. Without a query, on a terminal: a prompt.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// One or several statements, separated by `;`. `show tables` lists all tables. `-` or no query: standard input;
    /// a terminal there opens the prompt.
    #[arg(allow_hyphen_values = true)]
    query: Option<String>,
    /// Words after the query, which are a mistake.
    #[arg(hide = true)]
    more: Vec<String>,
    /// Read the statements from this file.
    #[arg(long, short, value_name = "FILE", conflicts_with = "query", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// How to print the rows [default: by the ending of the output file, else table]
    #[arg(long, value_name = "FORMAT", value_parser = format_parser())]
    format: Option<OutputFormat>,
    /// Write the rows to this file instead of standard output. Its ending chooses the format: .parquet, .csv, .json,
    /// .jsonl, .md, .html, .arrow, .txt.
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// The value of `$NAME` in the statements: a number, true, false, null, or text. May be given several times.
    #[arg(long = "param", short, value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,
    /// Print one line for each column instead of one line for each row.
    #[arg(long, short = 'x')]
    expanded: bool,
    /// The largest number of rows that are printed on a terminal, or `all` [default: 1000]
    #[arg(long, value_name = "N", value_parser = most_rows)]
    rows: Option<MostRows>,
    /// The memory of a query, such as 4GB; rows that need more go to the disk [default: half of the machine]
    #[arg(long, value_name = "SIZE", value_parser = super::gc::size, conflicts_with_all = ["export", "remote"])]
    memory: Option<u64>,
    /// Write all tables as views for DuckDB into this file: `duckdb -init FILE`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["query", "file", "format", "output", "parameters"])]
    export: Option<PathBuf>,
    /// With --export: absolute paths, so that DuckDB can run in another folder.
    #[arg(long, requires = "export")]
    absolute: bool,
    /// Run the queries on a cluster, such as df://10.0.0.1:50050. `raisin cluster` starts its processes.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "export")]
    remote: Option<String>,
    /// The pipeline whose stages the query reads [default: the pipeline that was built last].
    #[arg(long)]
    pipeline: Option<String>,
    #[command(flatten)]
    folders: Folders,
}

const EXAMPLES: &str = "\
Examples:
  raisin sql                                                     the prompt; \\? lists its commands
  raisin sql \"show tables\"
  raisin sql \"summarize tuned.selection\"
  raisin sql \"select step, instruction, score from tuned.selection order by step limit 20\"
  raisin sql \"select method, avg(loss) from scores.metrics group by method\"
  raisin sql \"select stage, seconds from raisin.actions order by seconds desc\" --format csv
  raisin sql \"select * from history.selection\" -o all.parquet
  raisin sql \"select * from 'rows.csv' where step > $first\" -p first=10
  raisin sql -f report.sql -x
  raisin sql --remote df://10.0.0.1:50050 \"select count(*) from history.instructions\"
  raisin sql --export views.sql && duckdb -init views.sql

docs/sql.md describes the tables, the prompt, and the differences from DuckDB.";

fn format_parser() -> impl clap::builder::TypedValueParser<Value = OutputFormat> {
    PossibleValuesParser::new(OutputFormat::ALL.map(OutputFormat::name))
        .map(|name| OutputFormat::named(&name).unwrap_or_default())
}

fn parameter(text: &str) -> std::result::Result<(String, String), String> {
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    match text.split_once('=') {
        Some((name, value)) if is_name(name) => Ok((name.to_owned(), value.to_owned())),
        Some((name, _)) => Err(format!("`{name}` is not a name: use letters, digits and `_`, such as `first=10`")),
        None => Err("write NAME=VALUE, such as `first=10`".to_owned()),
    }
}

fn most_rows(text: &str) -> std::result::Result<MostRows, String> {
    match text {
        "all" => Ok(MostRows::All),
        number => number.parse().map(MostRows::At).map_err(|_| "write a number of rows, or `all`".to_owned()),
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    super::answer::hand_over(&QueryOptions {
        source: source(arguments)?,
        cache: arguments.folders.cache.path(),
        out: arguments.folders.out.path(),
        pipeline: arguments.pipeline.clone(),
        remote: arguments.remote.clone(),
        format: arguments.format,
        output: arguments.output.clone(),
        parameters: arguments.parameters.clone(),
        expanded: arguments.expanded,
        most_rows: arguments.rows,
        memory: arguments.memory,
    })
}

/// # Errors
/// The query is a misspelled option. A query may begin with `--`, a comment of SQL, so that clap lets it pass.
fn source(arguments: &Arguments) -> Result<QuerySource> {
    if let Some(file) = &arguments.export {
        return Ok(QuerySource::Export { file: file.clone(), is_absolute: arguments.absolute });
    }
    if let Some(file) = &arguments.file {
        return Ok(QuerySource::File(file.clone()));
    }
    match arguments.query.as_deref() {
        None => Ok(QuerySource::Input { is_demanded: false }),
        Some("-") => Ok(QuerySource::Input { is_demanded: true }),
        Some(word) if word.starts_with('-') && !word.contains(char::is_whitespace) => {
            let name = word.split('=').next().unwrap_or(word);
            let problem = Problem::usage(format!("`raisin sql` has no option `{name}`"));
            let hint = match option_near(name) {
                Some(option) => format!("did you mean `{option}`?"),
                None => "`raisin sql --help` lists the options".to_owned(),
            };
            Err(problem.hint(hint).into())
        }
        Some(query) => match arguments.more.first() {
            None => Ok(QuerySource::Text(query.to_owned())),
            Some(word) => {
                let problem = Problem::usage(format!("`{word}` stands behind the query"));
                Err(problem.hint("write the query in quotes: raisin sql \"select 1\"").into())
            }
        },
    }
}

/// The option whose name is near this name.
fn option_near(name: &str) -> Option<String> {
    let command = Arguments::augment_args(clap::Command::new("sql"));
    let options: Vec<String> =
        command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?))).collect();
    nearest(name, options.iter().map(String::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct OnlySql {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn asked(words: &[&str]) -> Result<QuerySource> {
        let line = std::iter::once("sql").chain(words.iter().copied());
        source(&OnlySql::try_parse_from(line)?.arguments)
    }

    #[test]
    fn a_query_may_begin_with_a_comment_and_a_misspelled_option_is_no_query() {
        let query = "-- the last step\nselect 1";
        assert_eq!(asked(&[query]).expect("a query"), QuerySource::Text(query.to_owned()));
        assert_eq!(asked(&["--format", "csv", query]).expect("a query"), QuerySource::Text(query.to_owned()));
        assert_eq!(asked(&["-- nothing"]).expect("a comment"), QuerySource::Text("-- nothing".to_owned()));
        for word in ["--fromat", "--", "-q"] {
            let said = asked(&[word]).map(|_| ()).err().map(|error| error.to_string());
            if word == "--" {
                assert_eq!(said, None, "the end of the options");
            } else {
                assert_eq!(said.as_deref(), Some(format!("`raisin sql` has no option `{word}`").as_str()));
            }
        }
    }

    #[test]
    fn the_sql_comes_from_the_line_a_file_or_standard_input() {
        assert_eq!(asked(&[]).expect("none"), QuerySource::Input { is_demanded: false });
        assert_eq!(asked(&["-"]).expect("input"), QuerySource::Input { is_demanded: true });
        assert_eq!(asked(&["-f", "a.sql"]).expect("a file"), QuerySource::File("a.sql".into()));
        assert!(asked(&["-f", "a.sql", "select 1"]).is_err());
        let export = QuerySource::Export { file: "v.sql".into(), is_absolute: true };
        assert_eq!(asked(&["--export", "v.sql", "--absolute"]).expect("an export"), export);
        assert!(asked(&["--absolute"]).is_err());
    }

    #[test]
    fn a_parameter_has_a_name_and_a_value() {
        assert_eq!(parameter("first=a=b"), Ok(("first".to_owned(), "a=b".to_owned())));
        assert!(parameter("first").is_err() && parameter("1=2").is_err() && parameter("=2").is_err());
        assert_eq!((most_rows("all"), most_rows("7")), (Ok(MostRows::All), Ok(MostRows::At(7))));
        assert!(most_rows("-1").is_err());
    }
}
