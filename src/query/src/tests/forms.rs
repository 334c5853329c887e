//! Tests of the forms of results.

use super::*;
use raisin_contract::query::MostRows;
use raisin_store::Store;

const QUERY: &str = "select id, embedding, variant from pool.instructions order by id limit 2";

#[test]
fn each_format_for_text_is_written() {
    let fixture = swept();
    let ask = |format| fixture.ask(QUERY, format).unwrap();
    insta::assert_snapshot!(ask(OutputFormat::Box), @r"
        ┌────────┬────────────┬─────────┐
        │     id │ embedding  │ variant │
        │ UInt32 │ Float32[2] │ Utf8    │
        ├────────┼────────────┼─────────┤
        │      0 │ [0.5, 1.0] │ null    │
        │      1 │ [1.5, 2.0] │ null    │
        └────────┴────────────┴─────────┘
        (2 rows)
        ");
    insta::assert_snapshot!(ask(OutputFormat::Json), @r#"[{"id":0,"embedding":[0.5,1.0],"variant":null},{"id":1,"embedding":[1.5,2.0],"variant":null}]"#);
    insta::assert_snapshot!(ask(OutputFormat::Markdown), @r"
        | id | embedding | variant |
        | ---: | --- | --- |
        | 0 | [0.5, 1.0] |  |
        | 1 | [1.5, 2.0] |  |
        ");
    assert!(ask(OutputFormat::Html).contains("<td class=\"number\">1</td>"));
    assert_eq!(fixture.ask("select id from pool.instructions where false", OutputFormat::Json).unwrap(), "[]\n");
    let expanded = QueryOptions { expanded: true, ..fixture.options(QUERY, None) };
    insta::assert_snapshot!(QueryFixture::ask_with(&expanded).unwrap(), @r"
        -- row 1 --
        id         0
        embedding  [0.5, 1.0]
        variant    null
        -- row 2 --
        id         1
        embedding  [1.5, 2.0]
        variant    null
        (2 rows)
        ");
}

#[test]
fn the_rows_that_are_not_shown_are_counted() {
    let fixture = swept();
    let options = QueryOptions {
        most_rows: Some(MostRows::At(2)),
        ..fixture.options("select value from generate_series(1, 10000)", None)
    };
    insta::assert_snapshot!(QueryFixture::ask_with(&options).unwrap(), @r"
        value
        -----
            1
            2
        (10000 rows, of which 9998 are not shown: `--rows all` (`\rows all` at the prompt) shows all, and -o FILE (`\o FILE`) writes all)
        ");
    let all = QueryOptions { most_rows: Some(MostRows::All), ..options };
    assert!(QueryFixture::ask_with(&all).unwrap().ends_with("10000\n(10000 rows)\n"));
    // No other format leaves out rows, so the flag would be ignored.
    let csv = QueryOptions { most_rows: Some(MostRows::At(2)), ..fixture.options(QUERY, Some(OutputFormat::Csv)) };
    let said = render(&QueryFixture::ask_with(&csv).unwrap_err());
    assert!(said.starts_with("error: --rows is for tables, and the format is csv"), "{said}");
    let csv = QueryOptions { expanded: true, most_rows: None, ..csv };
    let said = render(&QueryFixture::ask_with(&csv).unwrap_err());
    assert!(said.starts_with("error: --expanded is for tables, and the format is csv"), "{said}");
}

#[test]
fn a_file_is_written_by_its_ending() {
    let fixture = swept();
    let write = |name: &str, sql: &str| {
        let file = fixture.folder.path().join(name);
        let options = QueryOptions { output: Some(file.clone()), ..fixture.options(sql, None) };
        run(&options, None).map(|()| std::fs::read(file).unwrap())
    };
    assert_eq!(&write("a.parquet", QUERY).unwrap()[..4], b"PAR1");
    assert_eq!(&write("a.arrow", QUERY).unwrap()[..6], b"ARROW1");
    assert!(write("a.csv", QUERY).unwrap().starts_with(b"id,embedding,variant\n"));
    assert!(write("a.json", QUERY).unwrap().starts_with(b"[{\"id\":0,"));
    assert!(write("a.jsonl", QUERY).unwrap().starts_with(b"{\"id\":0,"));
    assert!(write("a.md", QUERY).unwrap().starts_with(b"| id |"));
    assert!(write("a.html", QUERY).unwrap().starts_with(b"<!doctype html>"));
    let said = render(&write("a.xlsx", QUERY).unwrap_err());
    assert!(said.contains("hint: endings: .txt, .csv, .json, .jsonl, .ndjson, .md, .html, .arrow, .parquet"), "{said}");
    // Several statements, of which one has rows; and two that have.
    assert!(write("b.csv", "create temp table t as select 1 as x; select * from t").unwrap().starts_with(b"x\n1\n"));
    let said = render(&write("b.csv", "select 1; select 2").unwrap_err());
    assert!(said.contains("the output has place for one result"), "{said}");
    assert_eq!(std::fs::read(fixture.folder.path().join("b.csv")).unwrap(), b"x\n1\n", "the old file stays");
}

#[test]
fn without_a_cache_nothing_is_created_and_the_error_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = swept();
    let ask = |sql: &str| {
        let (cache, out) = (folder.path().join("cache"), folder.path().join("out"));
        let options = QueryOptions { cache, out, ..fixture.options(sql, Some(OutputFormat::Csv)) };
        let said = QueryFixture::ask_with(&options).unwrap_or_else(|error| render(&error));
        said.replace(&folder.path().display().to_string(), "here")
    };
    insta::assert_snapshot!(ask("select * from raisin.runs"), @r"
        error: there is no table `raisin.runs`
        hint: there is no cache here: here/cache has no results; `raisin build PIPELINE` fills it; --cache DIR or RAISIN_CACHE names another folder
        ");
    insta::assert_snapshot!(ask("show tables"), @r"
        schema,table
        (there is no cache here: here/cache has no results)
        (hint: `raisin build PIPELINE` fills it; --cache DIR or RAISIN_CACHE names another folder)
        ");
    assert_eq!(ask("select 1 as x"), "x\n1\n");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the folder stays empty");
}

#[test]
fn a_moved_cache_is_named_with_its_place() {
    let fixture = swept();
    let here = fixture.folder.path();
    for built in &fixture.built {
        let link = here.join("out/trial").join(&built.stage);
        let _ = std::os::unix::fs::symlink(fixture.store.artifact_folder(built.artifact), link);
    }
    let ask = |cache: &str, sql: &str| {
        let options = QueryOptions { cache: here.join(cache), ..fixture.options(sql, Some(OutputFormat::Csv)) };
        let said = QueryFixture::ask_with(&options).unwrap_or_else(|error| render(&error));
        said.replace(&here.canonicalize().unwrap().display().to_string(), "here")
            .replace(&here.display().to_string(), "here")
    };
    Store::open(&here.join("other")).unwrap();
    insta::assert_snapshot!(ask("other", "select * from tuned.selection"), @r"
        error: the cache here/other has none of the 12 artifacts of here/out/trial
        hint: the links there lead into here/cache: add --cache here/cache
        ");
    std::fs::rename(here.join("cache"), here.join("moved")).unwrap();
    insta::assert_snapshot!(ask("other", "select * from tuned.selection"), @r"
        error: the cache here/other has none of the 12 artifacts of here/out/trial
        hint: the links there lead into here/cache, which is gone: add --cache with the folder to which it was moved, or build the pipeline again
        ");
    insta::assert_snapshot!(ask("other", "show schemas"), @r"
        schema
        raisin
        (the cache here/other has none of the 12 artifacts of here/out/trial)
        (hint: the links there lead into here/cache, which is gone: add --cache with the folder to which it was moved, or build the pipeline again)
        ");
    assert!(ask("moved", "select count(*) as n from tuned.selection").contains("n\n8\n"));
}
