//! The SQL box: the answers of `raisin sql`, and its limits.

use std::time::Duration;

use raisin_tests::processes;

use crate::{Ui, project};

/// The rows of a table of HTML.
fn rows(html: &str) -> &str {
    html.split_once("<tbody>\n").and_then(|(_, rest)| rest.split_once("</tbody>")).unwrap().0
}

#[test]
fn the_box_answers_what_raisin_sql_answers_and_refuses_what_writes() {
    let project = project();
    project.write("go", "");
    project.done(&["build", "p.toml"]);
    let ui = Ui::start(&project, &[]);
    for query in [
        "select id, label, prompt, response from pool.instructions order by id limit 7",
        "select step, loss, performance, reward from tuned.steps order by step",
        "select stage, kind from raisin.stages order by stage",
        "show tables",
        "describe tuned.steps",
        "select null as nothing, '<b>&' as text, 0.1 + 0.2 as sum",
    ] {
        let (printed, _) = project.done(&["sql", query, "--format", "html"]);
        let answer = ui.ask(query);
        let table = answer["parts"][0]["table"].as_str().unwrap_or_else(|| panic!("{query}: {answer}"));
        assert_eq!(rows(table), rows(&printed), "{query}");
    }
    // Several statements, and the meaning of a column.
    let answer = ui.ask("create temp table t as select step, loss from tuned.steps; select count(*) as n from t");
    assert!(answer["parts"][1]["table"].as_str().unwrap().contains("<td class=\"number\">4</td>"), "{answer}");
    let answer = ui.ask("select step, loss from tuned.steps");
    let table = answer["parts"][0]["table"].as_str().unwrap();
    assert!(table.contains("title=\"Float64: the mean loss, in nats, of the supervised tokens"), "{table}");

    // The error is that of the command line.
    for query in ["select nothing from tuned.steps", "selct 1", "select 1; select * from tunde.steps"] {
        let told = project.run(&["sql", query]);
        let said = ui.refused(query);
        let sentence = said.lines().next().unwrap().trim_start_matches("error: ");
        assert!(told.stderr.contains(sentence), "{query}: {said}\n{}", told.stderr);
    }
    for query in [
        "copy (select 1) to 'x.csv'",
        "insert into tuned.steps values (1)",
        "create table x as select 1",
        "drop table tuned.steps",
        "set datafusion.execution.batch_size = 1",
        "create external table x stored as csv location 'p.toml'",
        "update tuned.steps set loss = 0",
        "",
    ] {
        let said = ui.refused(query);
        assert!(said.starts_with("error: "), "{query}: {said}");
    }
    assert!(!project.path("x.csv").exists());
    // Files: another user of the machine could ask for those of the person who started the server.
    project.write("rows.csv", "a\n1\n");
    assert_eq!(project.sql("select * from 'rows.csv'").len(), 1);
    assert!(ui.refused("select * from 'rows.csv'").contains("files are not read here"));
    assert!(ui.refused("select * from '/etc/passwd'").contains("files are not read here"));
}

#[test]
fn rows_beyond_the_limit_are_told_and_a_query_ends_with_its_client() {
    let project = project();
    let ui = Ui::start(&project, &["p.toml"]);
    let answer = ui.ask("select value from generate_series(1, 1000)");
    assert_eq!(answer["parts"][0]["notes"][0], "1000 rows");
    let answer = ui.ask("select value from generate_series(1, 100000000000)");
    assert_eq!(answer["parts"][0]["notes"][0], "the first 1000 rows; there are more");
    assert_eq!(answer["parts"][0]["table"].as_str().unwrap().matches("<tr><td").count(), 1000);
    // Two queries run at the same time. When their clients go, both end, long before the limit of time.
    let endless =
        "select count(*) from generate_series(1, 1000) a, generate_series(1, 1000000000000) b where a.value < b.value";
    let mut clients = Vec::new();
    processes::wait_for("both places are taken", || {
        // A place may be taken by the query before, so that this client is refused.
        clients.push(ui.open(&ui.query(endless)));
        std::thread::sleep(Duration::from_millis(50));
        ui.ask("select 1")["error"].is_string()
    });
    drop(clients);
    processes::wait_for("both queries have ended", || ui.ask("select 1")["error"].is_null());
}
