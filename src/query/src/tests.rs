//! Tests of queries over a made-up store: the answers in every format, and the messages.

mod cached;
mod cores;
mod exact;
mod export;
pub mod fixture;
mod forms;
mod habits;
mod json;
mod left_out;
mod samples;
mod windows;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, UInt32Array};
use serde_json::json;

use self::fixture::{QueryFixture, metrics, swept};
use super::*;
use arrow::array::RecordBatch;
use raisin_base::error::render;
use raisin_contract::query::{OutputFormat, QueryOptions};
use raisin_table::{batch, column};

#[test]
fn the_two_queries_of_the_design_answer_as_they_are_written() {
    let fixture = swept();
    insta::assert_snapshot!(fixture.table("select step, instruction, score from tuned.selection order by step limit 20"), @r#"
        step  instruction        score
        ----  --------------  --------
           0  Add, "2" and 1  0.666667
           0  Add, "2" and 1  0.666667
           0  Add, "2" and 1  0.666667
           0  Add, "2" and 1  0.666667
           1  Add, "3" and 1         1
           1  Add, "1" and 1  0.333333
           1  Add, "2" and 1  0.666667
           1  Add, "0" and 1         0
        (8 rows)
        "#);
    insta::assert_snapshot!(fixture.table("select method, avg(acc), count(*) from scores.metrics group by method"), @r"
        method  avg(acc)  count(*)
        ------  --------  --------
        raise     0.7675         2
        random    0.5175         2
        (2 rows)
        ");
}

#[test]
fn a_swept_stage_has_columns_for_its_axes_and_a_shared_stage_has_each_row_once() {
    let fixture = swept();
    insta::assert_snapshot!(fixture.table("select * from tuned.selection where method = 'random' and step = 1"), @r#"
        step  id     score  instruction     variant                method  seed
        ----  --  --------  --------------  ---------------------  ------  ----
           1   2  0.666667  Add, "2" and 1  method=random,seed=17  random    17
           1   3         1  Add, "3" and 1  method=random,seed=18  random    18
        (2 rows)
        "#);
    insta::assert_snapshot!(fixture.table("select * from pool.instructions order by id"), @r"
        id  embedding   variant
        --  ----------  -------
         0  [0.5, 1.0]  null
         1  [1.5, 2.0]  null
         2  [2.5, 3.0]  null
        (3 rows)
        ");
    insta::assert_snapshot!(fixture.table("select variant, metric, value from scores.metrics_long where metric = 'acc'"), @r"
        variant                metric  value
        ---------------------  ------  -----
        method=raise,seed=17   acc     0.767
        method=raise,seed=18   acc     0.768
        method=random,seed=17  acc     0.517
        method=random,seed=18  acc     0.518
        (4 rows)
        ");
    insta::assert_snapshot!(
        fixture.table("select count(*) as pairs from tuned.selection s join pool.instructions p on s.id = p.id"), @r"
        pairs
        -----
            7
        (1 row)
        ");
}

#[test]
fn results_print_as_csv_json_lines_and_parquet() {
    let fixture = swept();
    insta::assert_snapshot!(fixture.ask("select id, embedding from pool.instructions order by id", OutputFormat::Csv).unwrap(), @r#"
        id,embedding
        0,"[0.5,1.0]"
        1,"[1.5,2.0]"
        2,"[2.5,3.0]"
        "#);
    insta::assert_snapshot!(
        fixture.ask("select id, embedding, variant from pool.instructions order by id", OutputFormat::Jsonl).unwrap(), @r#"
        {"id":0,"embedding":[0.5,1.0],"variant":null}
        {"id":1,"embedding":[1.5,2.0],"variant":null}
        {"id":2,"embedding":[2.5,3.0],"variant":null}
        "#);
    let sql = "select instruction, score from tuned.selection order by score, variant limit 2";
    insta::assert_snapshot!(fixture.ask(sql, OutputFormat::Csv).unwrap(), @r#"
        instruction,score
        "Add, ""0"" and 1",0.0
        "Add, ""1"" and 1",0.3333333333333333
        "#);
    let file = fixture.folder.path().join("rows.parquet");
    let options = QueryOptions { output: Some(file.clone()), ..fixture.options(sql, None) };
    run(&options, None).unwrap();
    let rows = raisin_table::read(&file).unwrap();
    assert_eq!(column::<Float64Array>(&rows, "score").unwrap().values(), &[0.0, 1.0 / 3.0]);
    assert_eq!(rows.num_columns(), 2);
}

#[test]
fn an_answer_without_rows_still_has_its_columns() {
    let fixture = swept();
    insta::assert_snapshot!(fixture.ask("select id from pool.instructions where id > 9", OutputFormat::Csv).unwrap(), @"id");
    insta::assert_snapshot!(fixture.table("select id, step from tuned.selection where id > 9"), @r"
        id  step
        --  ----
        (0 rows)
        ");
}

#[test]
fn the_tool_knows_its_own_history() {
    let fixture = swept();
    insta::assert_snapshot!(
        fixture.table("select stage, variant, started, seconds from raisin.actions where stage <> 'scores' order by 1, 2"), @r"
        stage  variant                started               seconds
        -----  ---------------------  --------------------  -------
        pool   method=raise,seed=17   2026-01-02T03:04:05Z      1.5
        tuned  method=raise,seed=17   2026-01-02T03:04:05Z      1.5
        tuned  method=raise,seed=18   2026-01-02T03:04:05Z      1.5
        tuned  method=random,seed=17  2026-01-02T03:04:05Z      1.5
        tuned  method=random,seed=18  2026-01-02T03:04:05Z      1.5
        (5 rows)
        ");
    insta::assert_snapshot!(fixture.table("select phase, sum(tokens), sum(flops) from raisin.costs group by phase"), @r"
        phase    sum(tokens)   sum(flops)
        -------  -----------  -----------
        forward           63  18000000000
        (1 row)
        ");
    insta::assert_snapshot!(fixture.table("select count(*), min(stage) from history.selection"), @r"
        count(*)  min(stage)
        --------  ----------
               8  tuned
        (1 row)
        ");
    insta::assert_snapshot!(fixture.table("select stage, pipeline, sum(n) from history.metrics group by 1, 2"), @r"
        stage   pipeline  sum(n)
        ------  --------  ------
        scores  trial        256
        (1 row)
        ");
    insta::assert_snapshot!(fixture.table("select count(*) from raisin.artifacts"), @r"
        count(*)
        --------
               9
        (warning: 9 artifacts have no readable manifest: the size is null; `raisin verify` names them)
        (1 row)
        ");
    insta::assert_snapshot!(fixture.table("select count(*) from raisin.runs"), @r"
        count(*)
        --------
               0
        (1 row)
        ");
    insta::assert_snapshot!(fixture.table("show tables"), @r"
        schema   table
        -------  ------------
        history  instructions
        history  metrics
        history  metrics_long
        history  selection
        pool     instructions
        pool     quality
        raisin   actions
        raisin   artifacts
        raisin   costs
        raisin   key_parts
        raisin   runs
        raisin   stages
        scores   metrics
        scores   metrics_long
        tuned    selection
        (15 rows)
        ");
}

/// The exit code tells an error of the query (2) from an error of the machine (1).
#[test]
fn a_wrong_query_is_a_persons_error_and_a_lost_artifact_is_not() {
    let fixture = swept();
    let code = |sql: &str| raisin_base::error::exit_code(&fixture.ask(sql, OutputFormat::Csv).expect_err(sql));
    let wrong = [
        "",
        "selec 1",
        "select 1; selec 2",
        "select * from nowhere.rows",
        "select nothing from tuned.selection",
        "select avgg(step) from tuned.selection",
        "drop table tuned.selection",
        "select cast('much' as int)",
        "select step from tuned.selection group by instruction",
    ];
    for sql in wrong {
        assert_eq!(code(sql), 2, "{sql}");
    }
    std::fs::remove_dir_all(fixture.store.artifact_folder(fixture.built[0].artifact)).unwrap();
    assert_eq!(code("select count(*) from tuned.selection"), 1);
    // Also where nothing of the stage is left.
    let artifact = fixture.built.iter().find(|built| built.stage == "pool").expect("a pool").artifact;
    std::fs::remove_dir_all(fixture.store.artifact_folder(artifact)).unwrap();
    assert_eq!(code("select * from pool.instructions"), 1);
}

#[test]
fn a_query_that_cannot_be_answered_gets_the_nearest_name() {
    let fixture = swept();
    let asked = [
        "select * from tuned.selecton",
        "select * from tunned.selection",
        "select * from selection",
        "select * from elsewhere.rows",
        "select stepp from tuned.selection",
        "select zzzzzz from pool.instructions",
        "select avgg(id) from pool.instructions",
        "selec 1",
        "select 1 from",
        "select 1;\nselec 2",
        "drop table tuned.selection",
        "copy (select 1) to 'file.csv'",
        "select id + instruction from tuned.selection",
        "-- nothing",
    ];
    let said: Vec<String> = asked.iter().map(|sql| format!("> {sql}\n{}", fixture.table(sql))).collect();
    insta::assert_snapshot!(said.join("\n"), @r"
        > select * from tuned.selecton
        error: there is no table `tuned.selecton`
        hint: did you mean `tuned.selection`? Tables of `tuned`: selection
        > select * from tunned.selection
        error: there is no table `tunned.selection`
        hint: did you mean `tuned.selection`? Schemas: history, pool, raisin, scores, tuned
        > select * from selection
        error: there is no table `selection`
        hint: tables are named stage.table: `tuned.selection`
        > select * from elsewhere.rows
        error: there is no table `elsewhere.rows`
        hint: schemas: history, pool, raisin, scores, tuned
        > select stepp from tuned.selection
        error: there is no column `stepp`
        hint: did you mean `step`? Columns: step, id, score, instruction, variant, method, seed
        > select zzzzzz from pool.instructions
        error: there is no column `zzzzzz`
        hint: columns: id, embedding, variant
        > select avgg(id) from pool.instructions
        error: there is no function `avgg`
        hint: did you mean `avg`?
        > selec 1
        error: the query is not SQL that raisin understands: Expected: an SQL statement, found: selec at Line: 1, Column: 1
        hint: look at `selec 1`
        > select 1 from
        error: the query is not SQL that raisin understands: Expected: identifier, found: EOF
        > select 1;
        selec 2
        error: the query:2:1: the query is not SQL that raisin understands: Expected: an SQL statement, found: selec at Line: 2, Column: 1
        hint: look at `selec 2`
        > drop table tuned.selection
        error: `tuned.selection` is not the name of a temporary table or view
        hint: such a name has one part; the tables of stages do not change
        > copy (select 1) to 'file.csv'
        error: a query reads; it changes neither tables nor settings
        hint: to keep a result, use --output, `create temp table t as select ...`, or a stage of kind `sql`
        > select id + instruction from tuned.selection
        error: Cannot coerce arithmetic expression UInt32 + Utf8 to valid types
        > -- nothing
        error: the query is empty
        ");
}

#[test]
fn with_several_pipelines_one_can_be_chosen_or_named() {
    let mut fixture = swept();
    let before = fixture.out().join("trial/build.json");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
    std::fs::File::open(&before).unwrap().set_modified(old).unwrap();
    fixture.built.retain(|built| built.stage == "tuned" && built.variant == "method=raise,seed=18");
    fixture.describe("other-trial");
    insta::assert_snapshot!(fixture.table("select count(*) as rows from tuned.selection"), @r"
        rows
        ----
           2
        (pipeline `other-trial`, whose results changed last; --pipeline chooses: trial)
        (1 row)
        ");
    insta::assert_snapshot!(fixture.table("select count(*) as rows from trial.tuned.selection"), @r"
        rows
        ----
           8
        (1 row)
        ");
    insta::assert_snapshot!(fixture.table("select * from pool.instructions"), @r"
        error: there is no table `pool.instructions`
        hint: pipeline `trial` has a stage `pool`: choose it with --pipeline trial
        ");
    let chosen = QueryOptions { pipeline: Some("tril".into()), ..fixture.options("select 1", None) };
    insta::assert_snapshot!(
        render(&QueryFixture::ask_with(&chosen).unwrap_err()).replace(&fixture.out().display().to_string(), "out"), @r"
        error: no pipeline `tril` was built into out
        hint: did you mean `trial`?
        ");
}

#[test]
fn before_any_build_there_is_only_the_history() {
    let fixture = QueryFixture::new();
    insta::assert_snapshot!(fixture.table("select count(*) from raisin.runs"), @r"
        count(*)
        --------
               0
        (1 row)
        ");
    insta::assert_snapshot!(fixture.table("select * from tuned.selection"), @r"
        error: there is no table `tuned.selection`
        hint: schemas: history, raisin
        ");
}

#[test]
fn schemas_that_differ_between_variants_are_united_by_name() {
    let mut fixture = QueryFixture::new();
    let one = batch(vec![
        ("id", Arc::new(UInt32Array::from(vec![1])) as ArrayRef),
        ("seed", Arc::new(Int64Array::from(vec![5]))),
    ]);
    let two = batch(vec![
        ("extra", Arc::new(StringArray::from(vec!["x"])) as ArrayRef),
        ("id", Arc::new(Int64Array::from(vec![1 << 40]))),
        ("seed", Arc::new(Int64Array::from(vec![6]))),
    ]);
    fixture.add("it", "seed=1", json!({"pipeline.seed": 1}), &[("rows", one.unwrap())]);
    fixture.add("it", "seed=2", json!({"pipeline.seed": 2}), &[("rows", two.unwrap())]);
    fixture.describe("trial");
    insta::assert_snapshot!(fixture.table("select * from it.rows"), @r"
                   id  seed  extra  variant  seed_
        -------------  ----  -----  -------  -----
                    1     5  null   seed=1       1
        1099511627776     6  x      seed=2       2
        (2 rows)
        ");
}

#[test]
fn a_query_opens_only_the_tables_that_it_names() {
    let fixture = swept();
    for built in fixture.built.iter().filter(|built| built.stage == "scores") {
        let file = fixture.store.artifact_folder(built.artifact).join("metrics.parquet");
        std::fs::write(file, "not Parquet").unwrap();
    }
    std::fs::remove_dir_all(fixture.store.root().join("actions")).unwrap();
    assert!(fixture.table("select count(*) from pool.instructions").contains('3'));
    assert!(fixture.table("select count(*) from scores.metrics").contains("is not a Parquet file"));
    assert!(fixture.table("show tables").contains("metrics_long"));
}

#[test]
fn an_artifact_that_is_gone_is_named() {
    let fixture = swept();
    std::fs::remove_dir_all(fixture.store.artifact_folder(fixture.built[0].artifact)).unwrap();
    let said = fixture.table("select count(*) from tuned.selection");
    assert!(said.contains("is no longer there\nhint: build the pipeline again"), "{said}");
}

#[test]
fn given_tables_answer_in_the_same_words_and_the_same_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, rows: &RecordBatch| -> PathBuf {
        let path: PathBuf = Path::new(folder.path()).join(name);
        raisin_table::write(&path, rows).unwrap();
        path
    };
    let constants = |method: &str| vec![("method".to_owned(), json!(method))];
    let files = vec![
        TableFile { path: file("a.parquet", &metrics(0.5, 1.0)), constants: constants("raise") },
        TableFile { path: file("b.parquet", &metrics(0.25, 2.0)), constants: constants("random") },
    ];
    let tables = BTreeMap::from([("scores".to_owned(), BTreeMap::from([("metrics".to_owned(), files)]))]);
    let collect = |sql: &str, tables| cached::answer(sql, tables, None);
    let rows = collect("select method, acc from scores.metrics", tables.clone()).unwrap();
    assert_eq!(
        column::<StringArray>(&rows, "method").unwrap().iter().flatten().collect::<Vec<_>>(),
        ["raise", "random"]
    );
    assert_eq!(column::<Float64Array>(&rows, "acc").unwrap().values(), &[0.5, 0.25]);
    assert_eq!(collect("select acc from scores.metrics where false", tables).unwrap().num_rows(), 0);
}

#[test]
fn every_column_of_the_tables_of_raisin_has_a_meaning() {
    let fixture = swept();
    for table in crate::history::TOOL_TABLES {
        let answer = fixture.ask(&format!("describe raisin.{table}"), OutputFormat::Csv).unwrap();
        for row in answer.lines() {
            assert!(!row.ends_with(','), "{table} has a column without a meaning: {row}");
        }
    }
}
