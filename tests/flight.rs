//! `raisin flight`, asked by ADBC's client of Flight SQL (tests/python/flight_client.py).

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use raisin_tests::python::setting;
use raisin_tests::{CommandOutput, Project, executable, package, processes};

/// Two pipelines, one of them with a sweep.
fn project() -> Project {
    let pool = "[stage.pool]\nkind = \"generate\"\nsize = 300\n";
    let project = Project::with_text(&format!("{pool}\n[sweep]\n\"pipeline.seed\" = [1, 2]\n"));
    project.write("q.toml", pool);
    project.done(&["build", "p.toml"]);
    project.done(&["build", "q.toml"]);
    // For the file that a client may not read.
    project.write("secret.csv", "a\n1\n");
    project
}

/// A server in the folder of a project. The process ends with the value.
struct FlightServer {
    process: Child,
    address: String,
}

impl FlightServer {
    fn start(project: &Project, token: Option<&str>) -> Self {
        let _ = executable("raisin-flight");
        let mut command = project.raisin(&["flight", "--listen", "127.0.0.1:0", "--pipeline", "p"]);
        command.env_remove("RAISIN_FLIGHT_TOKEN").envs(token.map(|token| ("RAISIN_FLIGHT_TOKEN", token)));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.starts_with("grpc://127.0.0.1:"), "{address}");
        Self { process, address: address.trim().to_owned() }
    }

    /// Runs a part of the client's script. Returns its lines.
    fn client(&self, part: &str, arguments: &[&str]) -> Vec<Value> {
        let mut command = Command::new(setting("RAISIN_SERVERS"));
        command.arg(package().join("tests/python/flight_client.py")).arg(part).arg(&self.address).args(arguments);
        let output = CommandOutput::of(&mut command);
        assert_eq!(output.code, 0, "{part}: {}", output.stderr);
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The processes of the server's statements.
    fn statements(&self) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let children = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("children")));
        children.map(|list| list.unwrap_or_default().split_whitespace().count()).sum()
    }

    fn has_ended_all(&self) {
        processes::wait_for("all statements end", || self.statements() == 0);
    }
}

impl Drop for FlightServer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
#[cfg_attr(not(has_servers), ignore = "RAISIN_SERVERS is not set: `just test-all` sets it")]
fn a_client_of_adbc_gets_the_rows_and_the_errors_of_raisin_sql() {
    let project = project();
    let server = FlightServer::start(&project, None);
    let queries = [
        "select variant, id, label, prompt, response from pool.instructions order by variant, id limit 50",
        "select count(*) as n, min(id) as first, avg(length(response)) as mean from q.pool.instructions",
        "select stage, kind from raisin.stages order by stage, kind",
        "summarize select id, label from pool.instructions",
        "show tables",
        "select null as nothing, 'é''x' as text, 0.1 + 0.2 as sum, 18446744073709551615 as large",
    ];
    for (query, rows) in queries.iter().zip(server.client("rows", &queries)) {
        let (printed, _) = project.done(&["sql", "--pipeline", "p", query, "--format", "jsonl"]);
        let expected: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(!expected.is_empty() && rows == json!(expected), "{query}\n{rows}\n{expected:?}");
    }
    let wrong = ["select nothing from pool.instructions", "selct 1", "select * from pol.instructions"];
    for (query, said) in wrong.iter().zip(server.client("errors", &wrong)) {
        let told = project.run(&["sql", "--pipeline", "p", query]).stderr;
        let told = told.trim();
        assert!(told.starts_with("error: ") && said.as_str().unwrap().contains(told), "{query}: {said}\n{told}");
    }
    // Nothing is written, and no file is read.
    let refused = [
        ("create table x as select 1", "a query reads, and changes nothing that stays"),
        ("create temp table x as select 1", "a temporary table would be lost"),
        ("insert into pool.instructions select * from pool.instructions", "a query reads"),
        ("copy (select 1) to 'x.csv'", "error: "),
        ("select * from 'secret.csv'", "files are not read here"),
        ("-- nothing", "the query is empty"),
    ];
    for ((query, expected), said) in refused.iter().zip(server.client("errors", &refused.map(|(query, _)| query))) {
        assert!(said.as_str().unwrap().contains(expected), "{query}: {said}");
    }
    assert!(!project.path("x.csv").exists());
    server.has_ended_all();
}

#[test]
#[cfg_attr(not(has_servers), ignore = "RAISIN_SERVERS is not set: `just test-all` sets it")]
fn catalogs_schemas_tables_and_columns_are_those_of_show_tables() {
    let project = project();
    let server = FlightServer::start(&project, None);
    let objects = server.client("objects", &[]).remove(0);
    let mut found: Vec<(String, String)> = Vec::new();
    let named = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    let catalogs = objects.as_array().unwrap();
    assert_eq!(catalogs.iter().map(|it| named(it, "catalog_name")).collect::<Vec<_>>(), ["p", "q"]);
    for schema in catalogs[0]["catalog_db_schemas"].as_array().unwrap() {
        for table in schema["db_schema_tables"].as_array().unwrap() {
            found.push((named(schema, "db_schema_name"), named(table, "table_name")));
            assert_eq!(table["table_type"], json!("TABLE"));
            assert!(!table["table_columns"].as_array().unwrap().is_empty(), "{table}");
        }
    }
    found.sort();
    let (printed, _) = project.done(&["sql", "--pipeline", "p", "show tables", "--format", "jsonl"]);
    let rows = printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut expected: Vec<_> = rows.map(|row| (named(&row, "schema"), named(&row, "table"))).collect();
    expected.sort();
    assert!(expected.len() > 10 && found == expected, "{found:?}\n{expected:?}");
    let about = server.client("about", &[]).remove(0);
    assert_eq!((&about["vendor_name"], &about["table_types"]), (&json!("raisin"), &json!(["TABLE"])));
    let columns = server.client("columns", &["p", "pool", "instructions"]).remove(0);
    let (printed, _) =
        project.done(&["sql", "--pipeline", "p", "select * from pool.instructions limit 1", "--format", "jsonl"]);
    let row: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(columns, json!(row.as_object().unwrap().keys().collect::<Vec<_>>()));
}

#[test]
#[cfg_attr(not(has_servers), ignore = "RAISIN_SERVERS is not set: `just test-all` sets it")]
fn values_are_bound_by_number_by_order_and_by_name() {
    let project = project();
    let server = FlightServer::start(&project, None);
    let rows = server.client("parameters", &[]);
    let expected = project.sql("select id from q.pool.instructions where id >= 5 and id < 9 order by id");
    assert_eq!(expected.len(), 4);
    assert_eq!(rows[0], json!(expected), "$1, $2");
    assert_eq!(rows[1], json!(expected), "?, ?");
    assert_eq!(rows[2], json!(expected), "the same prepared statement, other values before");
    let values = json!([{"a": "it's 5", "b": null, "c": true, "d": 1.5, "e": i64::MIN}]);
    assert_eq!(rows[3], values);
    assert!(rows[4].as_str().unwrap().contains("has no value"), "{}", rows[4]);
    assert!(rows[5].as_str().unwrap().contains("rows of parameters are bound"), "{}", rows[5]);
}

#[test]
#[cfg_attr(not(has_servers), ignore = "RAISIN_SERVERS is not set: `just test-all` sets it")]
fn a_statement_that_is_cancelled_or_forgotten_ends_and_disturbs_no_other() {
    let project = project();
    let server = FlightServer::start(&project, None);
    let seen = server.client("cancel", &[]).remove(0);
    assert!(seen["said"].as_str().unwrap().to_lowercase().contains("cancel"), "{seen}");
    assert!(seen["seconds"].as_f64().unwrap() < 10.0 && seen["other"] == json!(300), "{seen}");
    server.has_ended_all();
    // Clients that ask at the same time.
    let answers = server.client("together", &[]);
    assert_eq!(answers, [json!([45150, 45150, 45150, 45150]), json!("8 statements are open"), json!(300)]);
    server.has_ended_all();
    // A killed client, and a killed server.
    let mut command = Command::new(setting("RAISIN_SERVERS"));
    command.arg(package().join("tests/python/flight_client.py")).arg("hold").arg(&server.address);
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    processes::wait_for("the statement runs", || server.statements() == 1);
    client.kill().unwrap();
    client.wait().unwrap();
    server.has_ended_all();
    let mut client = command.spawn().unwrap();
    processes::wait_for("the statement runs", || server.statements() == 1);
    let task = std::fs::read_dir(format!("/proc/{}/task", server.process.id())).unwrap();
    let children = task.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let statement: String = children.collect::<String>().trim().to_owned();
    drop(server);
    let is_gone = || {
        let state = std::fs::read_to_string(format!("/proc/{statement}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    };
    processes::wait_for("the statement of the killed server ends", is_gone);
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
#[cfg_attr(not(has_servers), ignore = "RAISIN_SERVERS is not set: `just test-all` sets it")]
fn a_server_with_a_token_answers_only_who_has_it() {
    let project = project();
    let server = FlightServer::start(&project, Some("se:cret"));
    assert_eq!(server.client("token", &["se:cret"]), [json!(300), json!(300)], "as a token, and as a password");
    for wrong in ["secret", ""] {
        for said in server.client("token", &[wrong]) {
            assert!(said.as_str().unwrap().contains("token"), "{said}");
        }
    }
    server.has_ended_all();
}

#[test]
#[cfg_attr(not(has_servers), ignore = "RAISIN_SERVERS is not set: `just test-all` sets it")]
fn a_server_that_other_machines_reach_needs_a_token() {
    let project = Project::new();
    let mut command = project.raisin(&["flight", "--listen", "0.0.0.0:0"]);
    let output = CommandOutput::of(command.env_remove("RAISIN_FLIGHT_TOKEN"));
    assert!(output.code == 2 && output.stderr.contains("there is no token"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: set RAISIN_FLIGHT_TOKEN"), "{}", output.stderr);
}
