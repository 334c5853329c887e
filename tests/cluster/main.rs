//! SQL on a cluster: one scheduler and two executors, which cluster.sh starts. Every query of queries.sql gives the rows
//! that one process gives.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use raisin_tests::processes::{ended, output, wait_for};
use raisin_tests::{CommandOutput, Project, executable, files_below, package};
use serde_json::Value;

/// The largest relative difference of two floating numbers: a cluster adds them in another order.
const TOLERANCE: f64 = 1e-9;

/// A cluster that ends when the value is dropped.
struct RunningCluster {
    folder: tempfile::TempDir,
    address: String,
}

impl RunningCluster {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(package().join("tests/cluster/cluster.sh"));
        command.arg("start").arg(folder.path()).arg(executable("raisin"));
        let started = CommandOutput::from(output(&mut command));
        assert_eq!(started.code, 0, "{}", started.stderr);
        Self { address: started.stdout.trim().to_owned(), folder }
    }

    fn ask(&self, project: &Project, arguments: &[&str]) -> CommandOutput {
        project.run(&[&["sql", "--remote", &self.address], arguments].concat())
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }
}

impl Drop for RunningCluster {
    fn drop(&mut self) {
        let mut stop = Command::new(package().join("tests/cluster/cluster.sh"));
        // If they do not end, the next cluster has other ports.
        let _ = stop.arg("stop").arg(self.folder.path()).status();
    }
}

/// A pool of three row groups, a sweep, and a model with its metrics.
fn project() -> Project {
    let base = package().join("pipelines/quickstart-base");
    let project = Project::with_text(&format!(
        r#"
[sweep]
"stage.small.size" = [400, 500]

[stage.seed]
kind = "generate"
size = 1000

[stage.pool]
kind = "sql"
of = ["seed"]
query = """
select cast(a.id * 1000 + b.id as int unsigned) as id, b.prompt || ' ' || a.id as prompt, b.response, b.label
from seed.instructions as a cross join seed.instructions as b where a.id < 300 order by 1
"""

[stage.small]
kind = "generate"
size = 500
validation = 8
test = 16

[stage.base]
kind = "model"
source = {{ huggingface = "{}" }}

[stage.tuned]
kind = "finetune"
instructions = "small"
model = "base"
task = "small"
select = {{ method = "random" }}
steps = 2
batch_size = 4
resources = {{ threads = 1 }}

[stage.scores]
kind = "evaluate"
model = "tuned"
task = "small"
metrics = ["loss"]
resources = {{ threads = 1 }}
"#,
        base.display()
    ));
    project.done(&["build", "p.toml"]);
    project.write("words.csv", "word,number\none,1\ntwo,2\nthree,3\n");
    project.write("numbers.jsonl", "{\"number\": 1}\n{\"number\": 3}\n{\"number\": 5}\n");
    std::fs::create_dir(project.path("parts")).unwrap();
    for (name, from) in [("a", 0), ("b", 1000), ("c", 5000)] {
        let query = format!("select id from pool.rows where id >= {from} and id < {from} + 900");
        project.done(&["sql", &query, "-o", &format!("parts/{name}.parquet")]);
    }
    project
}

/// The statements of queries.sql, each with whether its rows have an order.
fn queries() -> Vec<(String, bool)> {
    let text = std::fs::read_to_string(package().join("tests/cluster/queries.sql")).unwrap();
    let lines: String = text.lines().filter(|line| !line.starts_with("--")).map(|line| format!("{line}\n")).collect();
    let statements = lines.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    let is_ordered = |statement: &str| {
        let outside = statement.rsplit(')').next().unwrap_or_default();
        outside.contains("order by")
    };
    statements.map(|statement| (statement.to_owned(), is_ordered(statement))).collect()
}

fn rows(answer: &CommandOutput, query: &str) -> Vec<Value> {
    assert_eq!(answer.code, 0, "{query}\n{}", answer.stderr);
    answer.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The text of a row with rounded floating numbers, to sort rows by.
fn rough(row: &Value) -> String {
    match row {
        Value::Number(number) if number.is_f64() => format!("{:.5e}", number.as_f64().unwrap()),
        Value::Array(values) => values.iter().map(rough).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", rough(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

fn are_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| are_equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((a, x), (b, y))| a == b && are_equal(x, y))
        }
        (one, other) => one == other,
    }
}

#[test]
#[cfg_attr(not(has_cluster), ignore = "RAISIN_CLUSTER is not set: `just test-all` sets it")]
fn queries_give_the_rows_of_one_process() {
    let (cluster, project) = (RunningCluster::start(), project());
    let queries = queries();
    assert_eq!(queries.len(), 34);
    let mut wrong = Vec::new();
    for (query, is_ordered) in &queries {
        let local = rows(&project.run(&["sql", query, "--format", "jsonl"]), query);
        assert!(!local.is_empty(), "{query} has no rows");
        let answer = cluster.ask(&project, &[query, "--format", "jsonl"]);
        if answer.code != 0 {
            wrong.push(format!("{query}\n{}", answer.stderr));
            continue;
        }
        let (mut local, mut remote) = (local, rows(&answer, query));
        if !is_ordered {
            local.sort_by_key(rough);
            remote.sort_by_key(rough);
        }
        if local.len() != remote.len() || !local.iter().zip(&remote).all(|(one, other)| are_equal(one, other)) {
            wrong.push(format!("{query}\nlocal  {local:?}\nremote {remote:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of 34 differ:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
#[cfg_attr(not(has_cluster), ignore = "RAISIN_CLUSTER is not set: `just test-all` sets it")]
fn a_scan_is_divided_at_row_groups_and_files_and_both_executors_read() {
    let (cluster, project) = (RunningCluster::start(), project());
    let plan = |query: &str| {
        let answer = cluster.ask(&project, &[&format!("explain {query}"), "--format", "jsonl"]);
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        answer.stdout
    };
    // Of 16 tasks at most: the bytes of the pool in 16 parts, and the row groups that begin in each.
    let scan = plan("select count(*) from pool.rows where label = 'wrong'");
    assert!(scan.contains("file_groups={16 groups: "), "{scan}");
    // The rows of an answer stay with the executors: both have some of them.
    let query = "select prompt, count(*) as n from pool.rows group by prompt";
    let answer = cluster.ask(&project, &[query, "-o", "prompts.parquet"]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    for folder in ["work1", "work2"] {
        let files = files_below(&cluster.folder.path().join(folder));
        assert!(files.iter().any(|file| file.metadata().unwrap().len() > 1000), "{folder}: {files:?}");
    }
    let logs = ["executor1.log", "executor2.log"].map(|name| cluster.log(name));
    assert!(logs.iter().all(|log| log.lines().count() == 1), "an executor complains: {logs:?}");
}

#[test]
#[cfg_attr(not(has_cluster), ignore = "RAISIN_CLUSTER is not set: `just test-all` sets it")]
fn statements_formats_and_parameters_are_those_of_one_process() {
    let (cluster, project) = (RunningCluster::start(), project());
    for arguments in [
        &["show tables", "--format", "csv"][..],
        &["show columns from small.instructions", "--format", "csv"],
        &["select $n + 1 as n, $t as t", "-p", "n=41", "-p", "t=it's", "--format", "jsonl"],
        &[
            "create temp table t as select id, label from small.instructions where id < 3; select * from t order by 1, 2",
            "--format",
            "csv",
        ],
        &[
            "create temp view v as select label from small.instructions; select distinct label from v order by 1",
            "--format",
            "markdown",
        ],
        &["select 1 as one", "--format", "json"],
        &["select * from small.instructions where id < 0", "--format", "csv"],
        &["select value from generate_series(1, 5) order by value", "--format", "csv"],
    ] {
        let local = project.run(&[&["sql"], arguments].concat());
        let remote = cluster.ask(&project, arguments);
        assert_eq!((remote.code, &remote.stdout), (0, &local.stdout), "{arguments:?}\n{}", remote.stderr);
    }
    let answer = cluster.ask(&project, &["select id, label from pool.rows", "-o", "all.parquet"]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert_eq!(project.sql("select count(*) as n, count(distinct id) as d from 'all.parquet'")[0]["d"], 300_000);
}

#[test]
#[cfg_attr(not(has_cluster), ignore = "RAISIN_CLUSTER is not set: `just test-all` sets it")]
fn errors_are_those_of_one_process_and_what_would_differ_is_refused_by_its_name() {
    let (cluster, project) = (RunningCluster::start(), project());
    // The words of one process, also if the error arises in an executor.
    for query in [
        "select sum(9223372036854775000 + id) as s from pool.rows",
        "select sum(cast(id as bigint) * 40000000000000) as s from pool.rows",
        "select max(id * 9223372036854775807) as m from pool.rows",
        "select 1 / (id - id) as x from small.instructions",
        "select cast(prompt as int) as x from small.instructions",
        "select nosuch from pool.rows",
        "select * from nosuch.instructions",
        "select repeated_ngrams(prompt, 0) as x from small.instructions",
        "delete from pool.rows",
    ] {
        let local = project.run(&["sql", query]);
        let remote = cluster.ask(&project, &[query]);
        // Which of several rows fails first is not the same.
        let words = |answer: &CommandOutput| answer.stderr.split(" 64 bits: ").next().unwrap_or_default().to_owned();
        assert_eq!((remote.code, words(&remote)), (local.code, words(&local)), "{query}");
        assert_eq!(remote.code, 2, "{query}: {}", remote.stderr);
    }
    for (query, words) in [
        ("select array_agg(id) as ids from small.instructions", "`array_agg` without ORDER BY depends on the order"),
        ("select first_value(id) as f from small.instructions", "`first_value` without ORDER BY"),
        ("select row_number() over () as r from small.instructions", "`row_number` without ORDER BY"),
        ("select sum(id) over (rows 3 preceding) as r from small.instructions", "`sum` without ORDER BY"),
        ("select approx_median(id) as m from small.instructions", "use `median`, or leave out --remote"),
        ("explain analyze select 1", "EXPLAIN ANALYZE"),
        (
            "with recursive t as (select 1 as n union all select n + 1 from t where n < 3) select * from t",
            "a recursive query",
        ),
        ("select md5(prompt) as x from small.instructions", "md5"),
        (
            "select count(*) as n from small.instructions as a full join pool.rows as b on a.id > b.id",
            "a join of the type Full that is not by equal columns",
        ),
        (
            "select count(*) as n from (select id from small.instructions where id < 3) as a left join pool.rows as b on a.id > b.id",
            "that is not by equal columns",
        ),
    ] {
        let remote = cluster.ask(&project, &[query]);
        assert!(remote.code == 2 && remote.stderr.contains(words), "{query}: {}", remote.stderr);
    }
}

#[test]
#[cfg_attr(not(has_cluster), ignore = "RAISIN_CLUSTER is not set: `just test-all` sets it")]
fn a_cluster_that_is_not_there_or_does_not_see_the_files_is_named() {
    let project = Project::with_text("[stage.pool]\nkind = \"generate\"\nsize = 2000\n");
    project.done(&["build", "p.toml"]);
    for (address, code, words) in [
        ("http://127.0.0.1:1", 2, "the scheme is `http`"),
        ("127.0.0.1:1", 2, "it has no scheme"),
        ("df://127.0.0.1:9", 1, "no scheduler answers at 127.0.0.1:9: Connection refused"),
    ] {
        let answer = project.run(&["sql", "--remote", address, "select count(*) from pool.instructions"]);
        assert!(answer.code == code && answer.stderr.contains(words), "{address}: {}", answer.stderr);
    }
    // The file is gone between the plan and the scan: an executor on another machine does not see it either.
    let cluster = RunningCluster::start();
    let file = "select count(prompt) as n from 'alone.parquet'";
    project.done(&["sql", "select * from pool.instructions", "-o", "alone.parquet"]);
    assert_eq!(cluster.ask(&project, &[file]).code, 0);
    let script = "mount -t tmpfs none /mnt && mkdir /mnt/p && cp alone.parquet /mnt/p/ && exec \"$0\" \"$@\"";
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "sh", "-c", script]).arg(executable("raisin"));
    let query = "select count(prompt) as n from '/mnt/p/alone.parquet'";
    hidden.args(["sql", "--remote", &cluster.address, query]);
    if cfg!(can_mount) {
        let answer = CommandOutput::of(project.place(&mut hidden));
        assert_eq!(answer.code, 1, "{}", answer.stderr);
        let words = "an executor of the cluster does not see the file /mnt/p/alone.parquet";
        assert!(answer.stderr.contains(words), "{}", answer.stderr);
    }
}

#[test]
#[cfg_attr(not(has_cluster), ignore = "RAISIN_CLUSTER is not set: `just test-all` sets it")]
fn ctrl_c_ends_a_query_and_the_cluster_is_free_again() {
    let (cluster, project) = (RunningCluster::start(), project());
    let long = "select count(*) as n from pool.rows as a join pool.rows as b on a.id % 7 < b.id % 5";
    let mut query = project.raisin(&["sql", "--remote", &cluster.address, long]);
    let query = query.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let began = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&query), rustix::process::Signal::INT).unwrap();
    let answer = CommandOutput::from(ended(query));
    assert!(answer.code == 1 && answer.stderr.contains("the query was stopped"), "{}", answer.stderr);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    wait_for("the cluster answers another query", || {
        cluster.ask(&project, &["select count(*) as n from pool.rows"]).code == 0
    });
}
