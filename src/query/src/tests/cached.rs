//! Tests of queries whose answer is cached: what they may call, and the memory that they may take.

use super::*;
use crate::catalog::Catalogs;
use crate::rows::QueryMemory;
use crate::session::{Session, block_on};

/// The answer of a query of a stage over given tables.
pub fn answer(sql: &str, tables: BTreeMap<String, TableFiles>, limit: Option<u64>) -> Result<RecordBatch> {
    let memory = QueryMemory { limit, folder: None, stage: Some("q".to_owned()) };
    block_on(async {
        let session = Session::over(Catalogs::of_tables(tables), memory)?.only_of_tables("q");
        session.stream(sql).await?.all().await
    })?
}

fn refused(sql: &str) -> String {
    render(&answer(sql, BTreeMap::new(), None).expect_err(sql))
}

#[test]
fn a_cached_query_calls_functions_of_its_tables_only() {
    for call in [
        "now()",
        "current_timestamp",
        "current_timestamp()",
        "current_date",
        "current_date()",
        "today()",
        "current_time",
        "random()",
        "uuid()",
        "version()",
        "abs(random())",
        "sum(random())",
        "sum(random()) over ()",
        "NOW()",
        "(select now())",
        "case when random() < 2 then 1 end",
        "input_file_name()",
    ] {
        let said = refused(&format!("select {call} as x"));
        assert!(said.starts_with("error: the query of stage `q` calls `"), "{call}: {said}");
        assert!(said.contains("not a function of the tables"), "{call}: {said}");
    }
    for query in [
        "select x from (values (1)) t(x) where x < random()",
        "select x from (values (1)) t(x) order by random()",
        "select x from (values (1)) t(x) where exists (select 1 where now() is not null)",
        "with a as (select uuid() as x) select 1 from a",
        "select 1 union all select random()",
        "select count(*) from (values (1)) t(x) group by random()",
        "select x from (values (1)) t(x) join (values (2)) u(y) on x < y + random()",
        "values (random())",
    ] {
        let said = refused(query);
        assert!(said.starts_with("error: the query of stage `q` calls `"), "{query}: {said}");
    }
    for query in ["explain select 1", "show all", "select * from information_schema.tables"] {
        assert!(refused(query).starts_with("error: the query of stage `q` "), "{query}: {}", refused(query));
    }
    for query in ["select arrow_typeof(1) as x", "select to_timestamp(0) as x", "select date '2026-01-31' as x"] {
        assert_eq!(answer(query, BTreeMap::new(), None).unwrap().num_rows(), 1, "{query}");
    }
}

#[test]
fn a_query_on_the_command_line_may_call_all_functions() {
    let fixture = swept();
    assert!(fixture.table("select now() is not null as x, random() < 2 as y").contains("true  true"));
    assert!(fixture.table("explain select 1").contains("logical_plan"));
    let said = fixture.table("select * from pool.instructions fetch first 1 row only");
    assert!(said.contains("FETCH, which raisin cannot answer"), "{said}");
}

#[test]
fn a_query_that_needs_more_than_its_memory_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    let rows = batch(vec![("x", Arc::new(Int64Array::from_iter_values(0..200_000)) as ArrayRef)]).unwrap();
    raisin_table::write(&path, &rows).unwrap();
    let tables = || {
        let files = vec![TableFile { path: path.clone(), constants: vec![] }];
        BTreeMap::from([("pool".to_owned(), BTreeMap::from([("rows".to_owned(), files)]))])
    };
    let query = "select count(distinct a.x + b.y) as n from pool.rows a cross join (values (1), (2)) b(y)";
    let said = render(&answer(query, tables(), Some(4_000_000)).expect_err("too little"));
    assert_eq!(
        said,
        "error: stage `q` needs more than its memory of 4 MB\nhint: give the stage more, such as resources = { memory \
         = \"1GB\" }, or less to read"
    );
    assert_eq!(answer(query, tables(), Some(400_000_000)).unwrap().num_rows(), 1);
}
