//! Tests of stages of kind `sql` through the real executables: what is refused and when, what is in the key, and queries
//! of many terms.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use raisin_tests::Project;

/// A pipeline with two pools, and a query over them.
fn pipeline(first: &str, second: &str, query: &str) -> String {
    let pool = |name: &str, file: &str| {
        format!("[stage.{name}]\nkind = \"ingest\"\nsources = [{{ path = \"{file}\", format = \"qa\" }}]\n")
    };
    let query = serde_json::to_string(query).unwrap();
    format!(
        "{}{}[stage.q]\nkind = \"sql\"\nof = [\"{first}\", \"{second}\"]\nquery = {query}\n",
        pool(first, "a.jsonl"),
        pool(second, "b.jsonl")
    )
}

fn project(query: &str) -> Project {
    let project = Project::with_text(&pipeline("pool", "other", query));
    for (file, count) in [("a.jsonl", 5), ("b.jsonl", 3)] {
        let lines: String =
            (0..count).map(|n| format!("{{\"question\":\"{file} q{n}\",\"answer\":\"a{n}\"}}\n")).collect();
        project.write(file, &lines);
    }
    project
}

fn answer(project: &Project) -> String {
    project.done(&["build", "p.toml"]);
    project.done(&["sql", "select * from q.rows", "--format", "csv"]).0
}

#[test]
fn a_stage_whose_answer_would_change_with_time_or_chance_fails_and_the_command_line_answers() {
    for call in ["now()", "current_date", "random()", "uuid()", "(select max(random()) from other.instructions)"] {
        let project = project(&format!("select {call} as x from pool.instructions"));
        let (code, words) = project.refused(&["build", "p.toml"]);
        assert_eq!(code, 1, "{call}: {words}");
        assert!(words.contains("the query of stage `q` calls `"), "{call}: {words}");
        assert!(words.contains("or ask with `raisin sql`"), "{call}: {words}");
        // Without progress, a failure is told in the same words.
        let (_, quiet) = project.refused(&["build", "p.toml", "--quiet"]);
        assert!(quiet.contains("FAILED") && quiet.contains("the query of stage `q` calls `"), "{call}: {quiet}");
        assert!(quiet.contains("failed p: 1 failed"), "{call}: {quiet}");
        project.done(&["build", "p.toml", "--only", "pool"]);
        project.done(&["build", "p.toml", "--only", "other"]);
        project.done(&["sql", &format!("select {call} as x from pool.instructions")]);
    }
}

#[test]
fn a_statement_that_is_no_select_is_refused_before_any_stage_runs() {
    for query in [
        "explain select 1",
        "show all",
        "show tables",
        "set datafusion.execution.batch_size = 1",
        "copy (select 1) to 'x.csv'",
        "select * from information_schema.tables",
        "select * from pool.instructions tablesample (10)",
    ] {
        let project = project(query);
        let (code, words) = project.refused(&["build", "p.toml"]);
        assert_eq!(code, 2, "{query}: {words}");
        assert!(words.contains("stage `q`, query: "), "{query}: {words}");
        assert!(!project.path("cache/artifacts").exists() || project.digests("p").is_empty(), "{query}");
    }
}

#[test]
fn a_stage_that_a_query_does_not_name_can_be_renamed_without_running_the_query_again() {
    let query = "select count(*) as n from pool.instructions";
    let project = project(query);
    assert_eq!(answer(&project), "n\n5\n");
    project.write("p.toml", &pipeline("pool", "renamed", query));
    project.finds_all(&["build", "p.toml"]);
    // The query names the other stage, so that its name is in the key.
    project.write("p.toml", &pipeline("pools", "renamed", "select count(*) as n from pools.instructions"));
    let (_, words) = project.done(&["build", "p.toml"]);
    assert!(words.contains("built p: 1 ran, 2 cached"), "{words}");
    // Without its name, the artifact is still in the key.
    project.write("b.jsonl", "{\"question\":\"new\",\"answer\":\"new\"}\n");
    let (_, words) = project.done(&["build", "p.toml"]);
    assert!(words.contains("built p: 2 ran, 1 cached"), "{words}");
}

#[test]
fn a_query_of_five_hundred_terms_is_answered_and_one_of_too_many_is_refused_with_the_number() {
    let terms = |count: usize| {
        let terms: Vec<String> = (0..count).map(|id| format!("id = {id}")).collect();
        format!("select count(*) as n from pool.instructions where {}", terms.join(" or "))
    };
    assert_eq!(answer(&project(&terms(500))), "n\n5\n");
    let project = project(&terms(9000));
    let (code, words) = project.refused(&["build", "p.toml"]);
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("the query has 27006 operators and keywords, and raisin reads at most 20000"), "{words}");
    project.write("p.toml", &pipeline("pool", "other", "select 1 as x"));
    project.done(&["build", "p.toml"]);
    let (code, words) = project.refused(&["sql", &terms(9000)]);
    assert_eq!(code, 2, "{words}");
    let (rows, _) = project.done(&["sql", &terms(800), "--format", "csv"]);
    assert_eq!(rows, "n\n5\n");
}
