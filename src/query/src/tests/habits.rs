//! Tests of what people type by habit from DuckDB, and of several statements in one text.

use super::*;

#[test]
fn columns_of_one_name_are_accepted_and_numbered() {
    let fixture = swept();
    let csv = |sql: &str| fixture.ask(sql, OutputFormat::Csv).unwrap_or_else(|error| render(&error));
    let pair = "from pool.instructions a join pool.instructions b on a.id = b.id where a.id = 1";
    assert_eq!(csv(&format!("select a.id, b.id {pair}")), "id,id_1\n1,1\n");
    assert_eq!(csv(&format!("select * exclude (embedding, variant) from (select a.*, b.id {pair})")), "id,id_1\n1,1\n");
    assert_eq!(csv("select id, id, id as id from pool.instructions where id = 1"), "id,id_1,id_2\n1,1,1\n");
    assert!(csv(&format!("select * {pair}")).starts_with("id,embedding,variant,id_1,embedding_1,variant_1\n"));
    assert_eq!(csv("select *, id from (select 1 as id)"), "id,id_1\n1,1\n");
}

#[test]
fn tables_schemas_columns_and_summaries_are_shown() {
    let fixture = swept();
    insta::assert_snapshot!(fixture.table("show schemas"), @r"
        schema
        -------
        history
        pool
        raisin
        scores
        tuned
        (5 rows)
        ");
    insta::assert_snapshot!(fixture.table("show columns from pool.instructions"), @r"
        column_name  data_type   is_nullable  meaning
        -----------  ----------  -----------  -----------------------
        id           UInt32      YES          null
        embedding    Float32[2]  YES          null
        variant      Utf8        YES          the name of the variant
        (3 rows)
        ");
    assert_eq!(fixture.table("describe pool.instructions"), fixture.table("SHOW COLUMNS FROM pool.instructions;"));
    insta::assert_snapshot!(fixture.table("summarize pool.instructions"), @r"
        column_name  column_type  min   max   distinct_values   avg   std   q25   q50   q75  count  null_percentage
        -----------  -----------  ----  ----  ---------------  ----  ----  ----  ----  ----  -----  ---------------
        id           UInt32       0     2                   3     1     1   0.5     1   1.5      3                0
        embedding    Float32[2]   null  null             null  null  null  null  null  null      3                0
        variant      Utf8         null  null                0  null  null  null  null  null      3              100
        (3 rows)
        ");
    insta::assert_snapshot!(fixture.table("summarize select method, count(*) as n from tuned.selection group by method"), @r"
        column_name  column_type  min    max     distinct_values   avg   std   q25   q50   q75  count  null_percentage
        -----------  -----------  -----  ------  ---------------  ----  ----  ----  ----  ----  -----  ---------------
        method       Utf8         raise  random                2  null  null  null  null  null      2                0
        n            Int64        4      4                     1     4     0     4     4     4      2                0
        (2 rows)
        ");
    // Bytes, such as a digest, are no text.
    insta::assert_snapshot!(fixture.table("summarize select arrow_cast(method, 'Binary') as bytes from tuned.selection"), @r"
        column_name  column_type  min   max   distinct_values   avg   std   q25   q50   q75  count  null_percentage
        -----------  -----------  ----  ----  ---------------  ----  ----  ----  ----  ----  -----  ---------------
        bytes        Binary       null  null                2  null  null  null  null  null      8                0
        (1 row)
        ");
    insta::assert_snapshot!(fixture.table("summarize"), @r"
        error: `summarize` needs a table or a query
        hint: such as: summarize tuned.selection
        ");
    insta::assert_snapshot!(fixture.table("summarize pool.nothing"), @r"
        error: there is no table `pool.nothing`
        hint: Tables of `pool`: instructions, quality
        ");
}

/// DataFusion's own `show columns` lists the columns of every pipeline that has such a table.
#[test]
fn the_columns_are_those_of_the_chosen_pipeline() {
    let mut fixture = swept();
    fixture.built.retain(|built| built.stage == "pool");
    fixture.describe("other-trial");
    let said = fixture.table("show columns from pool.instructions");
    assert_eq!(said.matches("embedding").count(), 1, "{said}");
    assert!(fixture.table("show columns from trial.tuned.selection").contains("instruction"));
}

#[test]
fn temporary_tables_and_views_last_for_the_statements_of_a_text() {
    let fixture = swept();
    insta::assert_snapshot!(fixture.table(
        "create temp table t as select id, id * 10 as tens from pool.instructions;\n\
         create temp view v(a, b) as select id, tens + 1 from t where id > 0;\n\
         select sum(b) as s, count(*) as n from v;\n\
         create or replace temp table t as select 1 as x;\n\
         select * from t; drop table if exists nothing, t; show tables"), @r"
         s  n
        --  -
        32  2

        x
        -
        1

        schema   table
        -------  ------------
        history  instructions
        history  metrics
        history  metrics_long
        history  selection
        pool     instructions
        pool     quality
        public   v
        raisin   actions
        raisin   artifacts
        raisin   costs
        raisin   key_parts
        raisin   runs
        raisin   stages
        scores   metrics
        scores   metrics_long
        tuned    selection
        (table `t` of 3 rows)
        (view `v`)
        (1 row)
        (table `t` of 1 row)
        (1 row)
        (dropped `t`)
        (16 rows)
        ");
    insta::assert_snapshot!(fixture.table("create temp table t as select 1 as x;\ncreate temp table t as select 2"), @r"
        error: the query:2:1: there is already a table or view `t`
        hint: write `create or replace temp ...`, or drop it
        ");
    for sql in [
        "create table t as select 1",
        "create view v as select 1",
        "create temp table t (x int)",
        "create temp table if not exists t as select 1",
        "create temp table a.t as select 1",
        "drop table tuned.selection",
        "drop view nothing",
    ] {
        assert!(fixture.table(sql).starts_with("error: "), "{sql}: {}", fixture.table(sql));
    }
    let stage = cached::answer("select * from 'a.csv'", BTreeMap::new(), None).expect_err("a file in a stage");
    assert!(render(&stage).contains("there is no table"), "{stage}");
    // After a join by name, `id` is a column of two tables.
    let joined = "create temp table j as select id from pool.instructions a join pool.instructions b using (id); \
                  select count(*) as n from j";
    assert_eq!(fixture.table(joined), "n\n-\n3\n(table `j` of 3 rows)\n(1 row)\n");
}

#[test]
fn files_are_read_as_tables() {
    let fixture = swept();
    let place = |name: &str| fixture.folder.path().join(name).display().to_string();
    std::fs::write(place("rows.csv"), "id,name\n1,a\n2,\"b,c\"\n").unwrap();
    std::fs::write(place("rows.jsonl"), "{\"id\": 1, \"list\": [1, 2]}\n{\"id\": 3}\n").unwrap();
    let csv = |sql: String| fixture.ask(&sql, OutputFormat::Csv).unwrap_or_else(|error| render(&error));
    assert_eq!(csv(format!("select id, name from '{}' where id > 1", place("rows.csv"))), "id,name\n2,\"b,c\"\n");
    assert_eq!(csv(format!("select id, list from '{}'", place("rows.jsonl"))), "id,list\n1,\"[1,2]\"\n3,\n");
    // A field that only a late record has is a column too, and a late text makes a column of numbers a column of texts.
    let late = "{\"id\": 1}\n".repeat(2000) + "{\"id\": 2, \"late\": 7}\n";
    std::fs::write(place("late.jsonl"), late).unwrap();
    assert_eq!(csv(format!("select late from '{}' where id = 2", place("late.jsonl"))), "late\n7\n");
    std::fs::write(place("late.TSV"), "id\tname\n".to_owned() + &"1\t2\n".repeat(2000) + "3\tx\n").unwrap();
    assert_eq!(csv(format!("select name from '{}' where id = 3", place("late.TSV"))), "name\nx\n");
    for number in [1, 2] {
        let file = place(&format!("part-{number}.parquet"));
        let rows = batch(vec![("id", Arc::new(UInt32Array::from(vec![number])) as ArrayRef)]).unwrap();
        raisin_table::write(Path::new(&file), &rows).unwrap();
    }
    assert_eq!(csv(format!("select sum(id) as s from '{}'", place("part-*.parquet"))), "s\n3\n");
    assert_eq!(csv(format!("select p.id from '{}' p", place("part-2.parquet"))), "id\n2\n");
    let said = csv(format!("select * from '{}'", place("gone.parquet")));
    assert!(said.starts_with("error: there is no file `"), "{said}");
}

#[test]
fn parameters_and_series_and_excluded_columns() {
    let fixture = swept();
    let ask = |sql: &str, parameters: &[(&str, &str)]| {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = QueryOptions { parameters, ..fixture.options(sql, Some(OutputFormat::Csv)) };
        QueryFixture::ask_with(&options).unwrap_or_else(|error| render(&error))
    };
    assert_eq!(ask("select id from pool.instructions where id > $least", &[("least", "1")]), "id\n2\n");
    let unused = ask("select 1 as x", &[("least", "1")]);
    assert_eq!(unused, "x\n1\n(warning: no statement has $least)\n");
    assert!(ask("select $leest", &[("least", "1")]).contains("did you mean $least?"));
    assert_eq!(ask("select * exclude (embedding, variant) from pool.instructions where id = 0", &[]), "id\n0\n");
    assert_eq!(ask("select sum(value) as s from generate_series(1, 4)", &[]), "s\n10\n");
    assert_eq!(ask("select sum(value) as s from range(1, 4)", &[]), "s\n6\n");
    assert_eq!(ask("from pool.instructions select id limit 1", &[]), "id\n0\n");
}

#[test]
fn the_first_wrong_statement_ends_the_text_and_is_named_by_its_line() {
    let fixture = swept();
    insta::assert_snapshot!(fixture.table("select 1 as x;\n\nselect nothing from pool.instructions;\nselect 3"), @r"
        error: the query:3:1: there is no column `nothing`
        hint: columns: id, embedding, variant
        ");
    insta::assert_snapshot!(fixture.table("select 1 as x;\n  selec 2"), @r"
        error: the query:2:3: the query is not SQL that raisin understands: Expected: an SQL statement, found: selec at Line: 2, Column: 3
        hint: look at `selec 2`
        ");
}
