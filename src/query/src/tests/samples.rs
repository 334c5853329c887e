//! Tests of TABLESAMPLE.

use super::*;

fn csv(sql: &str) -> String {
    let answer = swept().ask(sql, OutputFormat::Csv).unwrap_or_else(|error| panic!("{sql}: {}", render(&error)));
    answer.split_once('\n').map_or("", |(_, rows)| rows).trim().to_owned()
}

fn count(table: &str) -> i64 {
    let made = "create temp table t as select value as id, value % 3 as k from range(100000); ";
    swept()
        .ask(&format!("{made} select count(*) as n from {table}"), OutputFormat::Csv)
        .unwrap_or_else(|error| panic!("{table}: {}", render(&error)))
        .lines()
        .nth(1)
        .and_then(|line| line.parse().ok())
        .unwrap_or_else(|| panic!("{table}"))
}

#[test]
fn a_sample_has_the_size_that_is_asked_for() {
    for (clause, least, most) in [
        ("t tablesample bernoulli (10)", 9_600, 10_400),
        ("t tablesample (10 percent) repeatable (9)", 9_600, 10_400),
        ("t tablesample bernoulli (0)", 0, 0),
        ("t tablesample bernoulli (100)", 100_000, 100_000),
        ("t tablesample (500 rows)", 500, 500),
        ("t tablesample (500000 rows)", 100_000, 100_000),
        ("(select * from t where k = 0) as u tablesample (100 rows) where u.k = 0", 100, 100),
        ("t as u tablesample (100 rows) join t using (id)", 100, 100),
        ("t where id in (select id from t tablesample (7 rows))", 7, 7),
    ] {
        let count = count(clause);
        assert!((least..=most).contains(&count), "{clause}: {count}");
    }
    // 49 blocks, of which each is taken or not.
    let blocks = count("t tablesample system (50) repeatable (1)");
    assert!(blocks > 0 && blocks < 100_000 && (blocks % 2048 == 0 || blocks % 2048 == 100_000 % 2048), "{blocks}");
}

#[test]
fn a_sample_is_the_same_each_time_and_another_one_with_another_seed() {
    let ids =
        |seed: &str| csv(&format!("select array_agg(value) as ids from range(1000) t tablesample (5 rows) {seed}"));
    assert_eq!(ids("repeatable (1)"), ids("repeatable (1)"));
    assert_ne!(ids("repeatable (1)"), ids("repeatable (2)"));
    assert_eq!(ids(""), ids("repeatable (0)"));
    // The rows keep their order, and their columns.
    assert_eq!(
        csv("select * from pool.instructions tablesample bernoulli (100)"),
        csv("select * from pool.instructions")
    );
    assert_eq!(csv("select instructions.id from pool.instructions tablesample (3 rows)"), "0\n1\n2");
    let fixture = swept();
    let said = fixture.table("select * from pool.instructions tablesample (10)");
    assert!(said.starts_with("error: the query has a sample without PERCENT or ROWS"), "{said}");
}
