//! Tests of `raisin sql` as a person uses it: the command line, the prompt on a terminal, files of every format, and the
//! views for DuckDB.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use raisin_tests::python::{run_python, setting};
use raisin_tests::{CommandOutput, Project, executable};
use serde_json::{Value, json};

/// Two variants of a pool, and a table of numbers.
const PIPELINE: &str = r#"
[stage.pool]
kind = "ingest"
sources = [{ path = "a.jsonl", format = "qa" }]
sample = 200

[stage.numbers]
kind = "sql"
of = ["pool"]
query = """
select id, cast(id as bigint) - 100 as i, id * 0.5 as f, 'g' || cast(id % 7 as varchar) as g,
  case when id % 5 = 0 then null else id % 11 end as maybe, id % 3 = 0 as flag, line, length(prompt) as width
from pool.instructions where sample = 200 order by id
"""

[sweep]
"stage.pool.sample" = [150, 200]
"#;

fn built() -> Project {
    let project = Project::with_text(PIPELINE);
    let line = |n: usize| format!("{{\"question\":\"what is {n}{}?\",\"answer\":\"it's {n}\"}}\n", "!".repeat(n % 9));
    project.write("a.jsonl", &(0..250).map(line).collect::<String>());
    project.done(&["build", "p.toml"]);
    project
}

#[test]
fn an_empty_folder_stays_empty_and_the_error_says_that_there_is_no_cache() {
    let project = Project::new();
    for arguments in [
        vec!["sql", "select * from raisin.runs"],
        vec!["du"],
        vec!["gc"],
        vec!["verify"],
        vec!["pin"],
        vec!["unpin", "p"],
    ] {
        let (code, words) = project.refused(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {words}");
        assert!(words.contains("there is no cache here: "), "{arguments:?}: {words}");
        assert!(words.contains("--cache DIR or RAISIN_CACHE names another folder"), "{arguments:?}: {words}");
    }
    let (_, words) = project.done(&["sql", "show tables"]);
    assert!(words.contains("there is no cache here: "), "{words}");
    project.write("rows.csv", "x\n1\n2\n");
    assert_eq!(project.done(&["sql", "select sum(x) as s from 'rows.csv'", "--format", "csv"]).0, "s\n3\n");
    let names: Vec<_> = std::fs::read_dir(project.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["rows.csv"]);
}

#[test]
fn statements_come_from_the_line_a_file_or_standard_input() {
    let project = built();
    let commented = "-- the first rows\nselect count(*) as n from pool.instructions where sample = $most";
    let line = ["sql", commented, "-p", "most=150", "--format", "csv"];
    assert_eq!(project.done(&line).0, "n\n150\n");
    project.write(
        "q.sql",
        "create temp view v as select id from numbers.rows;\n\nselect max(id) as m from v;\nselect 1 as x;",
    );
    assert_eq!(project.done(&["sql", "-f", "q.sql", "--format", "csv"]).0, "m\n199\nx\n1\n");
    let mut child = project.raisin(&["sql", "--format", "csv"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"select 1 as x;\nselect 2 as y").unwrap();
    assert_eq!(CommandOutput::from(child.wait_with_output().unwrap()).stdout, "x\n1\ny\n2\n");
    project.write("wrong.sql", "select 1 as x;\n\n  select nothing from v;\nselect 2 as y;");
    let output = project.run(&["sql", "-f", "wrong.sql", "--format", "csv"]);
    assert_eq!((output.code, output.stdout.as_str()), (2, "x\n1\n"));
    assert!(output.stderr.starts_with("error: wrong.sql:3:"), "{}", output.stderr);
    for misspelt in [&["sql", "--fromat", "csv", "select 1"][..], &["sql", "--fromat"], &["sql", "--fromat=csv"]] {
        let (code, words) = project.refused(misspelt);
        let expected = "`raisin sql` has no option `--fromat`\nhint: did you mean `--format`?";
        assert!(code == 2 && words.contains(expected), "{words}");
    }
    let (code, words) = project.refused(&["sql", "select", "1"]);
    assert!(code == 2 && words.contains("write the query in quotes"), "{words}");
}

#[test]
fn a_difference_of_unsigned_columns_is_negative_and_an_overflow_is_an_error() {
    let project = built();
    let csv = |query: &str| project.done(&["sql", query, "--format", "csv"]).0;
    assert_eq!(csv("select min(id) - max(id) as d from pool.instructions where sample = 200"), "d\n-199\n");
    let (code, words) = project.refused(&["sql", "select sum(i * 9223372036854775807) from numbers.rows"]);
    assert_eq!(code, 2, "{words}");
    assert!(
        words.contains("does not fit 64 bits: -100 * 9223372036854775807\nhint: calculate in a wider type"),
        "{words}"
    );
    // A stage calculates in the same way.
    let rows = project.sql("select min(i) as least, max(i) as most from numbers.rows");
    assert_eq!(rows, [json!({"least": -100, "most": 99})]);
}

#[test]
fn rows_that_need_more_than_the_memory_of_a_query_go_to_the_disk() {
    let project = built();
    let of = |query: &str, more: &[&str]| project.run(&[&["sql", query], more].concat());
    // 300,000 texts of 96 bytes, in no order.
    let rows = "(select repeat(cast((value * 7919) % 300007 as text), 16) as word from range(300000))";
    for query in [
        format!("select word from {rows} order by word"),
        format!("select word, count(*) as n from {rows} group by word order by n desc, word"),
    ] {
        let files =
            [(&["-o", "whole.csv"][..], "whole.csv"), (&["-o", "little.csv", "--memory", "24MB"], "little.csv")];
        let answers = files.map(|(more, file)| {
            let said = of(&query, more);
            assert_eq!(said.code, 0, "{query}: {}", said.stderr);
            std::fs::read_to_string(project.path(file)).unwrap()
        });
        assert!(answers[0].lines().count() == 300_001 && answers[0] == answers[1], "{query}");
    }
    let too_little = of(&format!("select array_agg(word) from {rows}"), &["--memory", "8MB"]);
    assert_eq!(too_little.code, 1, "{}", too_little.stderr);
    let expected = "error: the query needs more than the memory of a query, 8 MB\nhint: ask for fewer rows or columns, or \
                    give the query more memory, such as --memory 1GB";
    assert!(too_little.stderr.contains(expected), "{}", too_little.stderr);
    assert!(of("select 1", &["--memory", "much"]).stderr.contains("a size looks like 500MB or 20GB"));
}

#[test]
fn a_moved_cache_is_named_and_found_again() {
    let project = built();
    std::fs::rename(project.path("cache"), project.path("moved")).unwrap();
    let query = "select count(*) as n from numbers.rows";
    let (code, words) = project.refused(&["sql", query]);
    assert!(code == 2 && words.contains("there is no cache here: "), "{words}");
    // A cache with results of something else.
    project.write("b.jsonl", "{\"question\":\"q\",\"answer\":\"a\"}\n");
    project.write("b.toml", "[stage.pool]\nkind = \"ingest\"\nsources = [{ path = \"b.jsonl\", format = \"qa\" }]\n");
    project.done(&["build", "b.toml", "--cache", "other", "--out", "elsewhere"]);
    let (code, words) = project.refused(&["sql", query, "--cache", "other"]);
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("has none of the 3 artifacts of out/p"), "{words}");
    assert!(words.contains("which is gone: add --cache with the folder to which it was moved"), "{words}");
    assert_eq!(project.done(&["sql", query, "--cache", "moved", "--format", "csv"]).0, "n\n200\n");
}

/// What the prompt shows for each entry. Without an entry, the text is expected as soon as the prompt opens.
fn at_the_prompt(project: &Project, steps: &Value) -> String {
    at_the_prompt_with(project, steps, &[])
}

/// As [`at_the_prompt`], on a terminal of 12 lines and 60 columns with this pager.
fn at_the_prompt_with(project: &Project, steps: &Value, pager: &[&Path]) -> String {
    let home = project.path("home");
    std::fs::create_dir_all(&home).unwrap();
    project.write("steps.json", &steps.to_string());
    let (raisin, folder, steps) = (executable("raisin"), project.path(""), project.path("steps.json"));
    let arguments: Vec<&Path> =
        [&*raisin, &*folder, &*steps, &*home].into_iter().chain(pager.iter().copied()).collect();
    run_python(&setting("RAISIN_PYTHON"), "prompt.py", &arguments).expect("the prompt answers")
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn the_prompt_answers_completes_survives_errors_and_keeps_its_history() {
    let project = built();
    project.write("more.sql", "\\timing\nselect 40 + 2 as answer;\n");
    let tab = "\t";
    at_the_prompt(
        &project,
        &json!([
            ["", "raisin> "],
            ["select count(*) as n\r", "...> "],
            ["from numbers.rows;\r", "(?s)n\\s+-+\\s+200.*1 row.*raisin> "],
            ["select nothing;\r", "(?s)error: there is no column `nothing`.*raisin> "],
            ["selec 1;\r", "(?s)is not SQL.*raisin> "],
            [format!("select max(wid{tab}"), "select max\\(wid"],
            [format!("\u{15}select * from num{tab}ro{tab} limit 1;\r"), "(?s)numbers.rows.*1 row.*raisin> "],
            ["\\d numbers.rows\r", "(?s)maybe.*Int64.*raisin> "],
            ["\\x\r", "one line for each column"],
            ["select 1 as one, 2 as two;\r", "(?s)-- row 1 --.*one  1.*two  2.*raisin> "],
            ["\\x\r", "one line for each row"],
            ["create temp table t as select 7 as seven;\r", "(?s)table `t` of 1 row.*raisin> "],
            [format!("select sev{tab} from t;\r"), "raisin> "],
            ["\\o out.csv\r", "(?s)out.csv \\(csv\\).*raisin> "],
            ["select * from t;\r", "(?s)written: out.csv.*raisin> "],
            ["\\o\r", "(?s)results are shown.*raisin> "],
            ["\\i more.sql\r", "(?s)times are shown.*42.*\\d s\r.*raisin> "],
            ["select 1 +\u{3}", "raisin> "],
            // The query would take hours; Ctrl-C ends it, and the prompt goes on.
            ["select count(*) from range(1000000) a, range(1000000) b;\r", "range\\(1000000\\) b;\r"],
            ["\u{3}", "(?s)error: the query was stopped.*raisin> "],
            ["\u{1b}[A\u{1b}[A\u{15}select 5 as five;\r", "(?s)five.*5.*raisin> "],
            ["\\quit now\r", "(?s)stands alone.*raisin> "],
            ["\\?\r", "(?s)Tab completes names.*raisin> "],
            ["\u{4}", "END"]
        ]),
    );
    assert_eq!(std::fs::read_to_string(project.path("out.csv")).unwrap(), "seven\n7\n");
    let history = std::fs::read_to_string(project.path("home/.local/share/raisin/sql_history")).unwrap();
    assert!(history.starts_with("select count(*) as n\nfrom numbers.rows;\n"), "{history}");
    at_the_prompt(
        &project,
        &json!([["", "raisin> "], ["\u{1b}[A\r", "(?s)Tab completes names.*raisin> "], ["\\q\r", "END"]]),
    );
}

/// The pager marks each line, so that it is seen which lines go through it.
#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_result_that_does_not_fit_the_terminal_is_shown_with_the_pager() {
    let project = built();
    let many = "select id from numbers.rows order by id limit 30;\r";
    let wide = "select 1234567890123456 as one, 1234567890123457 as two, 1234567890123458 as three, 1234567890123459 as four;\r";
    at_the_prompt_with(
        &project,
        &json!([
            ["", "raisin> "],
            [many, "(?s)paged: id.*paged: 29.*30 rows.*raisin> "],
            [wide, "(?s)paged: +one +two.*1 row.*raisin> "],
            ["select 41 + 1 as answer;\r", "(?s)\nanswer.*\n +42.*1 row.*raisin> "],
            ["\\pager\r", "(?s)no pager.*raisin> "],
            [many, "(?s)\nid.*\n29.*30 rows.*raisin> "],
            ["\\pager\r", "(?s)is shown with `sed.*raisin> "],
            [many, "(?s)paged: id.*paged: 29.*30 rows.*raisin> "],
            ["\u{4}", "END"]
        ]),
        &[Path::new("sed 's/^/paged: /'")],
    );
    let missing = json!([
        ["", "raisin> "],
        [many, "(?s)error: the pager `no-such-pager` cannot be started.*hint: set PAGER.*raisin> "],
        ["\u{4}", "END"]
    ]);
    at_the_prompt_with(&project, &missing, &[Path::new("no-such-pager")]);
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn duckdb_reads_the_same_rows_from_the_exported_views() {
    let project = built();
    let python = setting("RAISIN_PYTHON");
    for flags in [&["sql", "--export", "views.sql"][..], &["sql", "--export", "views.sql", "--absolute"]] {
        project.done(flags);
        let place = if flags.contains(&"--absolute") { "/" } else { "" };
        let arguments = [project.path("views.sql"), project.path(place)];
        let counts = run_python(&python, "duckdb_views.py", &[&arguments[0], &arguments[1]]).expect("DuckDB answers");
        let counts: Value = serde_json::from_str(&counts).unwrap();
        let counts = counts.as_object().unwrap();
        assert!(counts.len() >= 8, "{counts:?}");
        for (view, count) in counts {
            let rows = project.sql(&format!("select count(*) as n from {view}"));
            assert_eq!(&rows[0]["n"], count, "{view}");
        }
        assert_eq!(counts["pool.instructions"], 350);
    }
}

/// Every query of tests/sql/parity.sql gives the same rows in raisin and in DuckDB.
#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn queries_give_the_same_rows_in_duckdb() {
    let project = built();
    project.done(&["sql", "--export", "views.sql"]);
    let queries = raisin_tests::package().join("tests/sql/parity.sql");
    let (rows, _) = project.done(&["sql", "-f", queries.to_str().unwrap(), "--format", "json"]);
    project.write("raisin.jsonl", &rows);
    let paths = [project.path("views.sql"), project.path(""), queries, project.path("raisin.jsonl")];
    let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
    let said = run_python(&setting("RAISIN_PYTHON"), "sql_parity.py", &paths).expect("the rows are the same");
    let count: usize = said.trim().parse().expect("a count");
    assert!(count >= 200, "{count} queries were compared");
}
