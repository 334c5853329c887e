//! `raisin runs`: lists the runs of the journal. raisin-store reads the journal; this file chooses, sorts and prints.

use std::cmp::Ordering;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::pipeline_arguments::CacheFolder;
use super::text::{aligned, wrapped};
use raisin_base::columns::width;
use raisin_base::error::{Problem, Result, nearest};
use raisin_base::say;
use raisin_contract::results::less_is_better;
use raisin_store::run_line::{HEADINGS, cells};
use raisin_store::{Headline, Run, Store, runs};

/// List the runs: when, what, how long, what came out. The newest run comes first.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Only runs of this pipeline.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// At most this number of runs.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// The order: newest first, longest first, or best first (by the headline metric).
    #[arg(long, value_enum, default_value_t = RunsOrder::When)]
    sort: RunsOrder,
    /// How to print the runs. The other formats have more columns than the table.
    #[arg(long, value_enum, default_value_t = RunsFormat::Table)]
    format: RunsFormat,
    #[command(flatten)]
    cache: CacheFolder,
}

const EXAMPLES: &str = "\
Examples:
  raisin runs --pipeline quickstart
  raisin runs --sort metric --limit 5
  raisin diff RUN RUN                       what two of these runs differ in
  raisin sql \"select * from raisin.runs\"    the same, for queries";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RunsOrder {
    When,
    Seconds,
    Metric,
}

#[derive(Clone, Copy, ValueEnum)]
enum RunsFormat {
    Table,
    /// One JSON array with an object for each run.
    Json,
    /// JSON lines, one object for each run.
    Jsonl,
    Csv,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let store = Store::expected(&arguments.cache.path())?;
    let mut all = all_of(&store)?;
    if let Some(pipeline) = &arguments.pipeline {
        let names: Vec<String> = all.iter().filter_map(|run| run.pipeline.clone()).collect();
        if !names.contains(pipeline) {
            let problem = Problem::usage(format!("no run of a pipeline `{pipeline}` is in the journal"));
            return Err(match nearest(pipeline, names.iter().map(String::as_str)) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem,
            }
            .into());
        }
        all.retain(|run| run.pipeline.as_ref() == Some(pipeline));
    }
    sort(&mut all, arguments.sort);
    let more = all.len().saturating_sub(arguments.limit);
    all.truncate(arguments.limit);
    match arguments.format {
        RunsFormat::Table => {
            // The table is for people; its width is that of the terminal on standard error.
            let lines = table(&all, super::text::columns());
            super::print(&lines.into_iter().map(|line| line + "\n").collect::<String>())?;
        }
        RunsFormat::Json => {
            let rows = all.iter().map(json_of).collect();
            super::print_exactly(&format!("{}\n", Value::Array(rows)))?;
        }
        RunsFormat::Jsonl => {
            let lines = all.iter().map(|run| format!("{}\n", json_of(run)));
            super::print_exactly(&lines.collect::<String>())?;
        }
        RunsFormat::Csv => super::print_exactly(&csv(&all))?,
    }
    match (all.is_empty(), more) {
        (true, _) => say!("no run is in the journal yet: `raisin build PIPELINE` is the first"),
        (false, 0) => {}
        (false, more) => say!("and {more} more: --limit N shows more"),
    }
    Ok(ExitCode::SUCCESS)
}

/// All runs of the journal, the oldest first.
pub fn all_of(store: &Store) -> Result<Vec<Run>> {
    let (lines, unreadable) = store.journal_lines()?;
    if unreadable > 0 {
        say!("warning: {unreadable} lines of the journal cannot be read: left out");
    }
    Ok(runs(lines))
}

/// The newest first; of equal runs, the newest too.
fn sort(all: &mut [Run], by: RunsOrder) {
    all.reverse();
    let missing_last = |one: Option<f64>, other: Option<f64>, less: bool| match (one, other) {
        (Some(one), Some(other)) if less => one.total_cmp(&other),
        (Some(one), Some(other)) => other.total_cmp(&one),
        (one, other) => other.is_some().cmp(&one.is_some()),
    };
    match by {
        RunsOrder::When => {}
        RunsOrder::Seconds => all.sort_by(|one, other| missing_last(one.seconds, other.seconds, false)),
        RunsOrder::Metric => all.sort_by(|one, other| {
            let (one, other) = (Headline::of(one), Headline::of(other));
            let value = |of: &Option<Headline>| of.as_ref().map(|it| it.mean);
            // Runs with different metrics cannot be compared: they stand in groups.
            let names = match (&one, &other) {
                (Some(one), Some(other)) => one.metric.cmp(&other.metric),
                _ => Ordering::Equal,
            };
            let less = one.as_ref().or(other.as_ref()).is_some_and(|it| less_is_better(&it.metric));
            names.then(missing_last(value(&one), value(&other), less))
        }),
    }
}

/// A line for each run. If overrides and results do not fit on it, they stand on a second line.
fn table(all: &[Run], most: usize) -> Vec<String> {
    if all.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|run| cells(run, "killed").to_vec()));
    let right = [false, false, false, false, true, true];
    let lines = aligned(&rows, &right, usize::MAX);
    if lines.iter().all(|line| width(line) <= most) {
        return lines;
    }
    let first: Vec<Vec<String>> = rows.iter().map(|row| row[..6].to_vec()).collect();
    let mut lines = Vec::new();
    for (line, row) in aligned(&first, &right, most).into_iter().zip(&rows) {
        lines.push(line);
        let second: Vec<&str> = row[6..].iter().map(String::as_str).filter(|cell| !cell.is_empty()).collect();
        lines.extend(
            wrapped(&second, "  ", "  ", most.saturating_sub(4)).into_iter().map(|line| format!("      {line}")),
        );
    }
    lines
}

fn json_of(run: &Run) -> Value {
    json!({
        "run": run.run,
        "pipeline": run.pipeline,
        "file": run.file,
        "started": run.started,
        "finished": run.finished,
        "outcome": run.outcome,
        "overrides": run.overrides,
        "ran": run.ran,
        "cached": run.cached,
        "failed": run.failed,
        "seconds": run.seconds,
        "peak_bytes": run.peak_bytes,
        "commit": run.commit,
        "dirty": run.dirty,
        "version": run.version,
        "machine": run.machine,
        "device": run.device,
        "results": run.results,
    })
}

fn csv(all: &[Run]) -> String {
    let cell = |value: &Value| {
        let text = match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            Value::Array(items) if items.iter().all(Value::is_string) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            other => other.to_string(),
        };
        if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    let names = json_of(&Run::default());
    let names: Vec<&str> = names.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let mut text = names.join(",") + "\n";
    for run in all {
        let values = json_of(run);
        let cells: Vec<String> = names.iter().map(|name| cell(&values[*name])).collect();
        text += &(cells.join(",") + "\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_store::RunResult;

    fn made(run: &str, seconds: f64, loss: Option<f64>) -> Run {
        let row = |method: &str, mean, baseline| RunResult {
            split: "test".into(),
            metric: "loss".into(),
            method: method.into(),
            mean,
            seeds: 1,
            baseline,
        };
        let results =
            loss.map(|loss| vec![row("raise", loss, false), row("random", 2.0, true), row("oracle", 0.5, false)]);
        Run {
            run: run.into(),
            pipeline: Some("p".into()),
            started: Some("2026-01-02T03:04:05.678Z".into()),
            outcome: Some("built".into()),
            overrides: vec!["--set stage.a.b=\"x y\"".into()],
            seconds: Some(seconds),
            results: results.unwrap_or_default(),
            ..Run::default()
        }
    }

    #[test]
    fn runs_are_sorted_with_missing_values_last() {
        let order = |by| {
            let mut all = vec![made("a", 1.0, Some(1.5)), made("b", 3.0, None), made("c", 2.0, Some(1.2))];
            sort(&mut all, by);
            all.into_iter().map(|run| run.run).collect::<String>()
        };
        assert_eq!(
            [order(RunsOrder::When), order(RunsOrder::Seconds), order(RunsOrder::Metric)],
            ["cba", "bca", "cab"]
        );
    }

    #[test]
    fn a_run_is_a_line_with_its_result() {
        let all = [made("20260102-1", 1.25, Some(1.5)), Run { run: "x".into(), ..Run::default() }];
        insta::assert_snapshot!(table(&all, 200).join("\n"), @r#"
        run       when                  pipeline  outcome  seconds  ran/cached/failed  overrides                result
        260102-1  2026-01-02 03:04:05Z  p         built        1.2              0/0/0  --set 'stage.a.b="x y"'  loss raise 1.500 (random 2.000)
        x         ?                     ?         killed         ?              0/0/0
        "#);
    }

    #[test]
    fn csv_quotes_what_needs_quotes() {
        let text = csv(&[made("a", 1.0, None)]);
        let line = text.lines().nth(1).unwrap();
        assert!(line.contains(",\"--set stage.a.b=\"\"x y\"\"\","), "{line}");
        assert_eq!(text.lines().next().unwrap().split(',').count(), 18);
    }
}
