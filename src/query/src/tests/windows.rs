//! Windows with PARTITION BY: side by side, and of the first rows of each group.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, UInt32Array};

use super::cores::{answer, answer_within, mix};
use raisin_table::{ROW_GROUP, batch};

/// More than two row groups.
const ROWS: u32 = 2 * ROW_GROUP as u32 + 5_000;

/// A limit of memory within which the rows are sorted in pieces, in bytes.
const LITTLE: u64 = 24_000_000;

/// Rows with nulls, equal values, and groups of many sizes.
fn rows() -> RecordBatch {
    let ids = || 0..ROWS;
    let texts = ["", "a", "ab", "a longer text than a view holds", "a longer text than a view holds, and another"];
    let float = |id: u32| match mix(id.wrapping_add(7)) % 40 {
        0 => None,
        1 => Some(0.0),
        2 => Some(-0.0),
        3 => Some(f64::NAN),
        other => Some(f64::from(other) - 20.5),
    };
    batch(vec![
        ("id", Arc::new(UInt32Array::from_iter_values(ids())) as ArrayRef),
        ("few", Arc::new(ids().map(|id| Some(mix(id) % 7).filter(|few| *few > 0)).collect::<UInt32Array>())),
        ("some", Arc::new(Int64Array::from_iter_values(ids().map(|id| i64::from(mix(id) % 9000) - 4500)))),
        ("many", Arc::new(UInt32Array::from_iter_values(ids().map(|id| mix(id) % 200_000)))),
        ("v", Arc::new(ids().map(|id| Some(value(id)).filter(|v| *v != 0)).collect::<Int64Array>())),
        ("f", Arc::new(ids().map(float).collect::<Float64Array>())),
        (
            "text",
            Arc::new(ids().map(|id| texts.get(mix(id.wrapping_add(5)) as usize % 6).copied()).collect::<StringArray>()),
        ),
    ])
    .unwrap()
}

/// The column `v`, in which 0 is null.
fn value(id: u32) -> i64 {
    i64::from(mix(id.wrapping_add(3)) % 60) - 30
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    raisin_table::write(&folder.path().join("rows.parquet"), &rows()).unwrap();
    raisin_table::write(&folder.path().join("few.parquet"), &rows().slice(0, 0)).unwrap();
    folder
}

fn column(folder: &Path, query: &str) -> Vec<u32> {
    answer(folder, query, 2);
    let rows = raisin_table::read(&folder.join("answer.parquet")).unwrap();
    raisin_table::column::<UInt32Array>(&rows, "id").unwrap().values().to_vec()
}

/// A condition that the planner does not see through gives all rows to the window.
#[test]
fn the_first_rows_of_each_group_are_those_of_the_whole_window() {
    let folder = folder();
    let keys = ["few", "some", "few, text", "text", "many", "f, few", "few, id % 3"];
    let orders = [
        "order by v",
        "order by v desc nulls last, text",
        "order by f nulls first",
        "order by f desc, id",
        "order by text desc, v nulls first",
        "order by few, v",
        "",
    ];
    let functions = ["row_number()", "rank()", "dense_rank()"];
    let limits = ["place <= 1", "place < 4", "2 = place", "5 >= place and v > 3", "place between 2 and 300"];
    let mut number = 0;
    for key in keys {
        for order in orders {
            let function = functions[number % functions.len()];
            let limit = limits[number % limits.len()];
            number += 1;
            if order.is_empty() && function != "row_number()" {
                continue;
            }
            let query = |limit: &str| {
                format!(
                    "select id, place, more, v from (select *, {function} over (partition by {key} {order}) as place, \
                     sum(some) over (partition by {key} {order} rows between 2 preceding and current row) as more \
                     from t.rows) as t where {limit}"
                )
            };
            let (first, whole) = (query(limit), query(&limit.replace("place", "(place + 0)")));
            assert!(answer(folder.path(), &first, 2) == answer(folder.path(), &whole, 2), "{first}");
        }
    }
    assert_eq!(number, keys.len() * orders.len());
}

/// A function whose value depends on rows that come later needs all rows.
#[test]
fn functions_that_look_ahead_see_the_rows_that_the_condition_drops() {
    let folder = folder();
    for other in [
        "count(*) over (partition by few)",
        "lead(id) over (partition by few order by v, id)",
        "sum(some) over (partition by few order by v)",
        "ntile(4) over (partition by few order by v, id)",
        "cume_dist() over (partition by few order by v, id)",
        "last_value(id) over (partition by few order by v, id rows between current row and 2 following)",
        "row_number() over (partition by few order by v desc, id)",
        "row_number() over (partition by few, text order by v, id)",
    ] {
        let query = |limit: &str| {
            format!(
                "select id, place, other from (select *, row_number() over (partition by few order by v, id) as place, \
                 {other} as other from t.rows) as t where {limit} order by id"
            )
        };
        let (first, whole) = (query("place <= 3"), query("(place + 0) <= 3"));
        assert!(answer(folder.path(), &first, 2) == answer(folder.path(), &whole, 2), "{other}");
    }
}

#[test]
fn equal_rows_of_a_window_come_in_the_order_of_the_table() {
    let folder = folder();
    let few = |id: u32| Some(mix(id) % 7).filter(|few| *few > 0);
    // Nulls come last in ascending order, and first in descending order.
    let mut expected: Vec<u32> = (0..ROWS).collect();
    expected.sort_by_key(|id| (few(*id).is_none(), few(*id), value(*id) != 0, std::cmp::Reverse(value(*id)), *id));
    let windows = "select *, row_number() over (partition by few order by v desc nulls first) as place from t.rows";
    assert_eq!(column(folder.path(), windows), expected);
    let mut places = std::collections::BTreeMap::new();
    let is_first = |id: &u32| {
        let place = places.entry(few(*id)).or_insert(0);
        *place += 1;
        *place <= 1000
    };
    let first: Vec<u32> = expected.into_iter().filter(is_first).collect();
    assert_eq!(column(folder.path(), &format!("select id from ({windows}) as t where place <= 1000")), first);
}

#[test]
fn windows_give_the_same_bytes_on_any_number_of_cores() {
    let folder = folder();
    for query in [
        "select few, id, f, sum(f) over (partition by few order by v rows 5 preceding) as s from t.rows",
        "select id, text, avg(f) over (partition by few, text) as s, count(*) over (partition by few) as n from t.rows",
        "select id, lag(v, 2) over (partition by some order by text) as l from t.rows where many < 90000",
        "select upper(text) as t, p from (select *, rank() over (partition by some + 1 order by f desc) as p from t.rows) \
         as t where p < 3 and v is not null",
        "select id from t.rows qualify row_number() over (partition by many order by text, v) = 1",
        "select id from t.rows qualify row_number() over (partition by id) = 1",
        "select id, p from (select id, row_number() over (partition by few order by v) as p from t.few) as t where p < 3",
        "select id, few, p from (select *, row_number() over (partition by few order by v) as p from t.rows where v > 99) as t",
        "select few, n, rank() over (partition by n % 2 order by few) as p from (select few, count(*) as n from t.rows group by few)",
        "select p, count(*) as n from (select row_number() over (partition by some order by v) as p from t.rows) group by p",
        "select r.id, row_number() over (partition by r.few order by r.v) as p from t.rows r join t.rows s on r.id = s.many",
    ] {
        let one = answer(folder.path(), query, 1);
        for threads in [2, 5] {
            assert!(answer(folder.path(), query, threads) == one, "{query}: other bytes on {threads} threads");
        }
    }
}

#[test]
fn windows_whose_rows_do_not_fit_the_memory_give_the_same_bytes() {
    let folder = folder();
    for query in [
        "select few, id, f, sum(f) over (partition by few order by v rows 5 preceding) as s from t.rows",
        "select id, p, some, many from (select *, rank() over (partition by few order by f, v) as p from t.rows) as t where p < 40000",
    ] {
        let enough = answer(folder.path(), query, 2);
        let (little, was_short) = answer_within(folder.path(), query, 2, LITTLE);
        assert!(was_short && little == enough, "{query}: other bytes in little memory");
    }
}
