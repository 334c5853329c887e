//! Tests of the JSON functions and operators.

use super::*;

const DOCUMENT: &str = r#"{"name": "it's", "n": 7, "x": 1.5, "ok": true, "none": null, "list": [1, [2, 3], {"deep": "é"}], "o": {"a": {"b": "c"}}}"#;

/// The values of one row of the expressions over the document, as CSV.
fn values(expressions: &str) -> String {
    let document = DOCUMENT.replace('\'', "''");
    let sql = format!("select {expressions} from (values ('{document}'), ('no JSON'), (null)) as t(j)");
    let answer = swept().ask(&sql, OutputFormat::Csv).unwrap_or_else(|error| panic!("{sql}: {}", render(&error)));
    // A row of nothing but null is written as an empty text in quotes.
    answer.lines().nth(1).filter(|row| *row != "\"\"").unwrap_or_default().to_owned()
}

#[test]
fn an_arrow_gives_json_and_a_double_arrow_text() {
    for (expression, expected) in [
        ("j -> 'name'", "\"\"\"it's\"\"\""),
        ("j ->> 'name'", "it's"),
        ("j -> 'n'", "7"),
        ("j -> 'ok'", "true"),
        ("j -> 'list'", r#""[1, [2, 3], {""deep"": ""é""}]""#),
        ("j -> 'list' -> 1 -> 0", "2"),
        ("j -> 'list' -> 2 ->> 'deep'", "é"),
        ("j -> 'o' -> 'a' ->> 'b'", "c"),
        ("(j -> 'o') -> 'a'", r#""{""b"": ""c""}""#),
        ("j ->> 'missing'", ""),
        ("j ->> 'none'", ""),
        ("cast(j ->> 'n' as int) + 1", "8"),
        ("(j ->> 'x')::double * 2", "3.0"),
    ] {
        assert_eq!(values(&format!("{expression} as v")), expected, "{expression}");
    }
}

#[test]
fn the_functions_of_json_read_one_type_each() {
    for (expression, expected) in [
        ("json_get_str(j, 'o', 'a', 'b')", "c"),
        ("json_get_int(j, 'n')", "7"),
        ("json_get_int(j, 'name')", ""),
        ("json_get_float(j, 'x')", "1.5"),
        ("json_get_bool(j, 'ok')", "true"),
        ("json_get_json(j, 'o')", r#""{""a"": {""b"": ""c""}}""#),
        ("json_as_text(j, 'list', 1)", "\"[2, 3]\""),
        ("json_contains(j, 'n')", "true"),
        ("json_contains(j, 'm')", "false"),
        ("json_length(j, 'list')", "3"),
        ("json_object_keys(j, 'o')", "\"[\"\"a\"\"]\""),
        // A value of any type is written as JSON.
        ("json_get(j, 'name')", "\"\"\"it's\"\"\""),
        ("json_get(j, 'n')", "7"),
    ] {
        assert_eq!(values(&format!("{expression} as v")), expected, "{expression}");
    }
}

#[test]
fn values_of_json_can_be_grouped_ordered_kept_and_written() {
    let fixture = swept();
    let made = "create temp table t as select '{\"k\": \"k' || value % 2 || '\", \"v\": ' || value || '}' as j from range(5); ";
    assert_eq!(
        fixture.table(&format!(
            "{made} select j ->> 'k' as k, sum((j ->> 'v')::int) as s from t group by j ->> 'k' order by j ->> 'k'"
        )),
        "k   s\n--  -\nk0  6\nk1  4\n(table `t` of 5 rows)\n(2 rows)\n"
    );
    assert_eq!(
        fixture.table(&format!("{made} select distinct j -> 'k' from t where j ->> 'k' = 'k1'")),
        "j -> 'k'\n--------\n\"k1\"\n(table `t` of 5 rows)\n(1 row)\n"
    );
    let kept = "create temp table u as select json_get(j, 'v') as v from t; select max(v::int) as v from u";
    assert_eq!(
        fixture.table(&format!("{made} {kept}")),
        "v\n-\n4\n(table `t` of 5 rows)\n(table `u` of 5 rows)\n(1 row)\n"
    );
    let json = fixture.ask("select '{\"a\": [1]}' -> 'a' as a", OutputFormat::Json);
    assert_eq!(json.unwrap(), "[{\"a\":\"[1]\"}]\n");
}
