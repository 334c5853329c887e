//! The same answer on any number of cores: the same rows in the same order, with the same digits.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray, UInt32Array};

use super::fixture::QueryFixture;
use crate::catalog::Catalogs;
use crate::kind;
use crate::rows::QueryMemory;
use crate::session::{Session, block_on_threads};
use crate::sources::TableFile;
use raisin_table::{ROW_GROUP, batch};
use serde_json::json;

/// The rows of the table `t.rows`: more than four row groups.
const ROWS: u32 = 4 * ROW_GROUP as u32 + 10_000;

pub fn mix(id: u32) -> u32 {
    id.wrapping_mul(2_654_435_761) >> 8
}

fn rows() -> RecordBatch {
    let ids = || 0..ROWS;
    batch(vec![
        ("id", Arc::new(UInt32Array::from_iter_values(ids())) as ArrayRef),
        ("few", Arc::new(UInt32Array::from_iter_values(ids().map(|id| mix(id) % 7)))),
        ("many", Arc::new(UInt32Array::from_iter_values(ids().map(|id| mix(id) % 200_000)))),
        ("x", Arc::new(Float64Array::from_iter_values(ids().map(|id| 1.0 / f64::from(1 + mix(id)))))),
        ("y", Arc::new(Float32Array::from_iter_values(ids().map(|id| (mix(id) % 1000) as f32)))),
        (
            "text",
            Arc::new(StringArray::from_iter_values(ids().map(|id| format!("text {} of {}", mix(id) % 5000, id % 3)))),
        ),
    ])
    .unwrap()
}

/// The selection of a few rows of `t.rows`, some of them twice, and of some that are not there.
fn few() -> RecordBatch {
    let ids: Vec<u32> = (0..3000).map(|place| mix(place) % (ROWS + 1000)).collect();
    batch(vec![
        ("id", Arc::new(UInt32Array::from(ids)) as ArrayRef),
        ("place", Arc::new(UInt32Array::from_iter_values(0..3000))),
    ])
    .unwrap()
}

/// A limit of memory that is never short, in bytes.
const ENOUGH: u64 = 4_000_000_000;

pub fn answer(folder: &Path, query: &str, threads: usize) -> Vec<u8> {
    answer_within(folder, query, threads, ENOUGH).0
}

/// As [`answer`], with a limit of memory in bytes, and whether the memory was short. Rows that do not fit go into files of
/// the folder.
pub fn answer_within(folder: &Path, query: &str, threads: usize, limit: u64) -> (Vec<u8>, bool) {
    let file = |name: &str| vec![TableFile { path: folder.join(format!("{name}.parquet")), constants: Vec::new() }];
    let tables = [("rows", file("rows")), ("few", file("few"))].map(|(name, files)| (name.to_owned(), files));
    let catalogs = Catalogs::of_tables([("t".to_owned(), tables.into())].into());
    let memory = QueryMemory { limit: Some(limit), folder: Some(folder.to_owned()), stage: None };
    let path = folder.join("answer.parquet");
    let was_short = block_on_threads(threads, async {
        let session = Session::over(catalogs, memory).unwrap();
        let mut rows = session.stream(query).await.unwrap_or_else(|error| panic!("{query}: {error:#}"));
        kind::write(&mut rows, &path).await.unwrap_or_else(|error| panic!("{query}: {error:#}"));
        rows.memory_was_short()
    });
    (std::fs::read(path).unwrap(), was_short.unwrap())
}

#[test]
fn an_answer_has_the_same_bytes_on_any_number_of_cores() {
    let folder = tempfile::tempdir().unwrap();
    raisin_table::write(&folder.path().join("rows.parquet"), &rows()).unwrap();
    raisin_table::write(&folder.path().join("few.parquet"), &few()).unwrap();
    for query in [
        "select * from t.rows where few = 3",
        "select count(*), sum(x), avg(y), stddev(x), corr(x, y), median(y), min(text), max(text) from t.rows",
        "select few, sum(x) as s, avg(x) as a, count(distinct text) as n from t.rows group by few",
        "select many, count(*) as n, sum(x) as s, max(y) as m from t.rows group by many",
        "select text, many % 3 as k, var(x) as v, bool_or(few = 1) as b from t.rows where few < 5 group by text, k",
        "select many, count(*) as n, sum(x) as s from t.rows group by many order by n desc, many limit 20",
        "select many, few, sum(x) as s from t.rows group by many, few order by s, few desc, many",
        "select sum(x) as s, many + 1 as m from t.rows group by many having count(*) > 2 order by m, s limit 50",
        "select few, sum(x) as s from t.rows group by many, few order by few limit 7",
        "select distinct few, text from t.rows",
        "select distinct text from t.rows",
        "select distinct nullif(text || ' and more', 'text 7 of 1 and more') as text from t.rows where few < 6",
        "select count(distinct text) as n, count(*) as m from t.rows",
        "select count(*) as n, max(s) as m, min(text) as t from (select text, sum(x) as s from t.rows group by text) as g",
        "select count(distinct many) as n from t.rows",
        "select y, id, text from t.rows order by y desc limit 40",
        "select y, id from t.rows order by y",
        "select few, id, row_number() over (partition by few order by y, id) as p from t.rows where many < 50000",
        "select many, sum(x) over (partition by few order by many rows 5 preceding) as s from t.rows where many < 9000",
        "select r.text, f.place from t.rows r join t.few f on r.id = f.id",
        "select f.id, f.place, r.x from t.few f left join t.rows r on r.id = f.id",
        "select r.id, f.place from t.rows r left join t.few f using (id) where r.many < 3000",
        "select r.id, f.place from t.rows r full join t.few f on r.id = f.id where r.many < 3000 or r.id is null",
        "select id from t.rows where id in (select id from t.few) and id not in (select place from t.few)",
        "select id, x from t.rows r where exists (select 1 from t.few f where f.id = r.id and f.place < r.many)",
        "select few, n from (select few, count(*) as n from t.rows group by few) union all select few, many from t.rows where id < 5",
        "select id from t.rows where many = 17 limit 3",
        "select array_agg(id) as ids from t.rows where many = 17 group by few",
        "select few, first_value(id order by y, id) as f from t.rows group by few",
        "select few, many, grouping(few) as g, sum(x) as s from t.rows where many < 20 group by rollup (few, many)",
        "select count(*) as n, sum(x) as s from t.rows tablesample bernoulli (10) repeatable (3)",
        "select a.few, count(*) as n from t.few f cross join (select distinct few from t.rows) a where f.place < 10 group by a.few",
        "with recursive t(n) as (select 1 union all select n + 1 from t where n < 5) select n, (select sum(x) from t.rows) as s from t",
    ] {
        let one = answer(folder.path(), query, 1);
        for threads in [2, 5] {
            assert!(answer(folder.path(), query, threads) == one, "{query}: other bytes on {threads} threads");
        }
    }
}

/// The distinct texts are those of the groups that DataFusion makes, also if they do not fit the memory.
#[test]
fn distinct_texts_are_the_groups_in_the_order_of_their_first_rows() {
    let folder = tempfile::tempdir().unwrap();
    raisin_table::write(&folder.path().join("rows.parquet"), &rows()).unwrap();
    raisin_table::write(&folder.path().join("few.parquet"), &few()).unwrap();
    let texts = "select case when id % 5 = 0 then null when id % 5 = 1 then text else text || ' and ' || many end as text from t.rows";
    let distinct = format!("select distinct text from ({texts})");
    let groups = format!("select text from (select text, count(*) as n from ({texts}) group by text)");
    let expected = answer(folder.path(), &groups, 2);
    assert!(answer(folder.path(), &distinct, 2) == expected);
    let count = |query: &str, limit: u64| {
        let (_, was_short) = answer_within(folder.path(), query, 2, limit);
        let rows = raisin_table::read(&folder.path().join("answer.parquet")).unwrap();
        (raisin_table::column::<Int64Array>(&rows, "n").unwrap().value(0), was_short)
    };
    let (rows, _) = count(&format!("select count(*) as n from ({groups}) where text is not null"), ENOUGH);
    assert!(rows > 100_000);
    let counted = format!("select count(distinct text) as n from ({texts})");
    assert_eq!(count(&counted, ENOUGH), (rows, false));
    assert_eq!(count(&counted, 30_000_000), (rows, true));
}

/// The error of a part of the scan is that of the query.
#[test]
fn an_overflow_in_a_part_of_the_scan_is_told_as_anywhere() {
    let mut fixture = QueryFixture::new();
    fixture.add("t", "", json!({}), &[("rows", rows())]);
    fixture.describe("trial");
    for query in [
        "select max(id * 9223372036854775807) from t.rows",
        "select few, sum(9223372036854775807 - few) as s from t.rows group by few",
        "select id from t.rows where id * 9223372036854775807 = 0 order by id",
    ] {
        let said = fixture.table(query);
        assert!(said.contains("not fit") && said.contains("hint: calculate in a wider type"), "{query}: {said}");
    }
}

#[test]
fn rows_and_groups_come_in_the_order_of_the_table() {
    let mut fixture = QueryFixture::new();
    fixture.add("t", "", json!({}), &[("rows", rows())]);
    fixture.describe("trial");
    let csv = |query: &str| fixture.ask(query, raisin_contract::query::OutputFormat::Csv).unwrap();
    let expected: String = (0..ROWS).filter(|id| mix(*id) % 200_000 == 17).map(|id| format!("{id}\n")).collect();
    assert_eq!(csv("select id from t.rows where many = 17"), format!("id\n{expected}"));
    let mut seen = std::collections::BTreeSet::new();
    let firsts: String = (0..ROWS)
        .map(|id| mix(id) % 200_000)
        .filter(|many| seen.insert(*many))
        .map(|many| format!("{many}\n"))
        .collect();
    assert_eq!(csv("select many from t.rows group by many"), format!("many\n{firsts}"));
    let mut equal: Vec<u32> = (0..ROWS).filter(|id| mix(*id).is_multiple_of(1000)).collect();
    equal.truncate(5);
    let expected: String = equal.iter().map(|id| format!("{id}\n")).collect();
    assert_eq!(csv("select id from (select id, y from t.rows order by y, id limit 5)"), format!("id\n{expected}"));
    let sum: f64 = (0..ROWS).map(|id| 1.0 / f64::from(1 + mix(id))).sum();
    let said: f64 = csv("select sum(x) as s from t.rows").lines().nth(1).unwrap().parse().unwrap();
    assert!((said - sum).abs() < 1e-9 * sum, "{said} {sum}");
}
