//! Tests that no arithmetic of integers wraps around, and that no clause is ignored.

use super::*;

/// The values of a query without tables, as CSV without the heading.
fn value(sql: &str) -> String {
    let fixture = swept();
    let answer = fixture.ask(sql, OutputFormat::Csv).unwrap_or_else(|error| panic!("{sql}: {}", render(&error)));
    answer.split_once('\n').map_or("", |(_, rows)| rows).trim().to_owned()
}

fn refused(sql: &str) -> String {
    match swept().ask(sql, OutputFormat::Csv) {
        Ok(rows) => panic!("{sql}: {rows}"),
        Err(error) => {
            assert_eq!(raisin_base::error::exit_code(&error), 2, "{sql}: {error:#}");
            render(&error)
        }
    }
}

const TYPES: [&str; 8] = [
    "tinyint",
    "smallint",
    "int",
    "bigint",
    "tinyint unsigned",
    "smallint unsigned",
    "int unsigned",
    "bigint unsigned",
];

fn cast(value: &str, data_type: &str) -> String {
    format!("cast({value} as {data_type})")
}

#[test]
fn a_difference_of_unsigned_columns_is_negative_where_it_has_to_be() {
    assert_eq!(value("select min(id) - max(id) from pool.instructions"), "-2");
    assert_eq!(
        value("select a.id - b.id from pool.instructions a, pool.instructions b where a.id = 0 and b.id = 2"),
        "-2"
    );
    assert_eq!(value("select -id from pool.instructions where id = 2"), "-2");
    assert_eq!(value("select d - 1 from (select id - 2 as d from pool.instructions where id = 0)"), "-3");
    assert_eq!(value("select id from pool.instructions where id - 2 < -1"), "0");
    assert_eq!(
        value(
            "select id from pool.instructions p where exists (select 1 from (select id - 2 as d from pool.instructions) q where q.d + p.id = -2)"
        ),
        "0"
    );
    for data_type in TYPES {
        let sql = format!("select {0} - {1}, {0} * {1}, {0} + {1}", cast("x", data_type), cast("x + 1", data_type));
        assert_eq!(value(&format!("{sql} from (values (100)) t(x)")), "-1,10100,201", "{data_type}");
    }
}

#[test]
fn a_result_that_does_not_fit_is_an_error_that_names_the_operation() {
    let largest = i64::MAX;
    for (expression, operation) in [
        (format!("x + {largest}"), format!("x + {largest}` does not fit 64 bits: 2 + {largest}")),
        (format!("x * {largest}"), format!("x * {largest}` does not fit 64 bits: 2 * {largest}")),
        (format!("-x - {largest}"), format!(" - {largest}` does not fit 64 bits: -2 - {largest}")),
        ("x << 62".to_owned(), "x << 62` does not fit 64 bits: 2 << 62".to_owned()),
        ("x << -1".to_owned(), "does not fit 64 bits: 2 << -1".to_owned()),
        (format!("-(x - x - {largest} - 1)"), "a negated value does not fit its type".to_owned()),
    ] {
        // As a column, as a condition, and calculated before any row is read.
        for sql in [
            format!("select {expression} from (values (2)) t(x)"),
            format!("select x from (values (2)) t(x) where {expression} > 0"),
            format!("select sum({expression}) from (values (2)) t(x) group by x"),
            format!("select {} as y", expression.replace('x', "2")),
        ] {
            let said = refused(&sql);
            assert!(said.contains("does not fit"), "{sql}: {said}");
            assert!(sql.ends_with("as y") || said.contains(&operation), "{sql}: {said}");
            assert!(said.contains("hint: calculate in a wider type: cast an operand"), "{sql}: {said}");
        }
    }
    let unsigned = "cast('18446744073709551615' as bigint unsigned)";
    assert!(refused(&format!("select {unsigned} * 1")).contains("18446744073709551615 * 1"));
    assert_eq!(value(&format!("select {unsigned} - {unsigned}")), "0");
    assert_eq!(value("select cast(9223372036854775807 as decimal(38, 0)) + 1"), "9223372036854775808");
    assert_eq!(
        value("select 1 << 62, 8 >> 2, 1 >> 200, -9223372036854775807 - 1"),
        "4611686018427387904,2,0,-9223372036854775808"
    );
}

#[test]
fn a_sum_that_does_not_fit_is_an_error() {
    let rows = "(values (9223372036854775807, 1), (1, 1), (1, 2)) t(x, g)";
    for sql in [
        "select sum(x) from",
        "select g, sum(x) from ROWS group by g",
        "select sum(distinct x) from",
        "select sum(x) over (order by g) from",
        "select sum(x) over (order by x rows between 1 preceding and current row) from",
        "select sum(x) filter (where g < 3) from",
    ] {
        let sql = if sql.contains("ROWS") { sql.replace("ROWS", rows) } else { format!("{sql} {rows}") };
        let said = refused(&sql);
        assert!(said.contains("does not fit"), "{sql}: {said}");
    }
    assert_eq!(value(&format!("select sum(cast(x as decimal(38, 0))) from {rows}")), "9223372036854775809");
    let large = "(values ('90000000000000000000000000000000000000'), ('90000000000000000000000000000000000000')) t(x)";
    assert!(refused(&format!("select sum(cast(x as decimal(38, 0))) from {large}")).contains("does not fit"));
    assert_eq!(value("select sum(x), sum(distinct x), count(x) from (values (1), (1), (null)) t(x)"), "2,1,2");
    assert_eq!(value("select sum(x) from (values (1)) t(x) where x > 1"), "\"\"");
    assert_eq!(
        value("select sum(x) over (order by x rows 1 preceding) as s from (values (1), (2), (4)) t(x) order by s"),
        "1\n3\n6"
    );
    assert_eq!(value("select sum(id) - sum(id + 1) from pool.instructions"), "-3");
}

#[test]
fn a_clause_that_would_be_ignored_is_refused() {
    for clause in ["for update", "tablesample (10)", "fetch first 1 row only"] {
        let said = refused(&format!("select id from pool.instructions {clause}"));
        assert!(said.contains("which raisin cannot answer"), "{clause}: {said}");
    }
    for call in ["abs(distinct id)", "abs(id) filter (where id > 1)", "abs(id) over ()", "sum(id) ignore nulls"] {
        refused(&format!("select {call} from pool.instructions"));
    }
    assert_eq!(value("select id from pool.instructions qualify row_number() over (order by id desc) = 1"), "2");
}
