//! A damaged record costs itself and no other.

use super::*;

fn lines_of(values: &[Value]) -> Vec<String> {
    values.iter().map(Value::to_string).collect()
}

/// Reads a text from which `lost` was removed or changed, and checks that exactly the rows `without` are missing and
/// that something is counted for them.
#[track_caller]
fn costs(text: &str, values: &[Value], without: &[usize]) {
    let (records, facts) = read(text);
    let kept: Vec<&Value> =
        values.iter().enumerate().filter(|(index, _)| !without.contains(index)).map(|(_, value)| value).collect();
    assert_eq!(good(&records).iter().collect::<Vec<_>>(), kept, "{:?}\n{:?}\n{text}", bad(&records), facts);
    let hidden: u64 = facts.damage.iter().map(|damage| damage.records).sum();
    let counted = bad(&records).len() as u64 + hidden;
    assert!(counted >= without.len() as u64, "{:?}\n{:?}\n{text}", bad(&records), facts.damage);
    assert!(counted <= 2 * without.len() as u64 + 1, "{:?}\n{:?}\n{text}", bad(&records), facts.damage);
}

/// The rows in layouts in which records can be found after damage.
fn layouts(values: &[Value]) -> Vec<String> {
    let lines = lines_of(values);
    let indented = serde_json::to_string_pretty(values).expect("JSON");
    vec![
        lines.join("\n"),
        format!("[{}]", lines.join(", ")),
        format!("[{}]", lines.join(",")),
        indented.clone(),
        indented.replace('\n', "\r\n"),
        format!("[\n{}\n]", lines.join(",\n")),
        format!("{{\"data\": [{}]}}", lines.join(", ")),
        format!("{{\"version\": 1, \"data\": {indented}}}"),
        values.iter().map(|value| serde_json::to_string_pretty(value).expect("JSON") + "\n").collect(),
    ]
}

#[test]
fn a_lost_quote_brace_colon_or_comma_costs_one_record() {
    let values = rows(40);
    for text in layouts(&values) {
        for row in [0, 6, 39] {
            let start = text.find(&format!("\"q{row}\"")).expect("the row");
            let next = text[start..].find(&format!("\"a{row}\"")).map(|found| start + found).expect("the output");
            let open = text[..start].rfind('{').expect("a brace");
            let close = next + text[next..].find('}').expect("a brace");
            let quote_after = start + format!("\"q{row}").len();
            for at in [open, open + 1 + text[open + 1..].find('"').expect("a quote"), start, quote_after, next, close] {
                // The first brace of an object around the list is another matter.
                let without = format!("{}{}", &text[..at], &text[at + 1..]);
                costs(&without, &values, &[row]);
            }
            let colon = start - 2 - usize::from(&text[start - 1..start] != " ");
            let colon = colon + text[colon..].find(':').unwrap_or_default();
            costs(&format!("{}{}", &text[..colon], &text[colon + 1..]), &values, &[row]);
        }
    }
}

#[test]
fn a_lost_or_doubled_comma_or_bracket_between_records_costs_nothing() {
    let values = rows(20);
    let lines = lines_of(&values);
    let (one, two) = lines.split_at(10);
    for text in [
        format!("[{} {}]", one.join(", "), two.join(", ")),
        format!("[{},, {}]", one.join(", "), two.join(", ")),
        format!("[{}]]", lines.join(", ")),
        format!("[{}\n[{}]", one.join(", "), two.join(", ")),
        format!("[{}], {}]", one.join(", "), two.join(", ")),
        format!("{}]", lines.join(", ")),
        format!("{}\n]", lines.join(",\n")),
        format!("[{},]", lines.join(",")),
        format!("{}\n}}\n{}", one.join("\n"), two.join("\n")),
        format!("\"{{\"data\": [{}]}}", lines.join(", ")),
        format!("\"data\": [{}]}}", lines.join(", ")),
    ] {
        let (records, facts) = read(&text);
        assert_eq!(good(&records), values, "{text}");
        assert!(facts.punctuation > 0 || !bad(&records).is_empty(), "{facts:?}\n{text}");
        assert!(bad(&records).len() <= 1);
    }
}

#[test]
fn a_list_without_an_end_is_told() {
    let lines = lines_of(&rows(3));
    let (records, facts) = read(format!("[{}", lines.join(", ")));
    assert_eq!(good(&records), rows(3));
    assert_eq!(facts.damage[0].reason, "the file ends before the end of its list of records");
    assert_eq!(facts.damage[0].records, 1);
    // The last record is cut: it is the damage.
    let (records, facts) = read(&format!("[{}", lines.join(", "))[..lines[0].len() * 2 + 10]);
    assert_eq!((good(&records).len(), bad(&records).len(), facts.damage.len()), (2, 1, 0));
}

#[test]
fn text_after_a_list_is_a_record_that_cannot_be_read() {
    assert!(read("[{\"a\": 1}] trailing").0[1].value.is_err());
    assert!(read("[{}, {\"a\": 1").0[1].value.is_err());
    assert!(read("[]").0.is_empty());
    assert!(read(" \n ").0.is_empty());
}

#[test]
fn a_damaged_line_costs_this_line() {
    let values = rows(9);
    let with = |row: usize, line: &str| {
        let mut lines = lines_of(&values);
        lines[row] = line.to_owned();
        lines.join("\n")
    };
    for row in [0, 4, 8] {
        for line in [
            "{\"instruction\": \"q",
            "q\", \"output\": \"x\"}",
            "oops",
            "{oops}",
            "\"",
            "{\"instruction\": \"q, \"output\": \"x\"}",
        ] {
            costs(&with(row, line), &values, &[row]);
        }
    }
    // Two records on one line, and one of the two damaged.
    costs(&lines_of(&values).concat(), &values, &[]);
    let lines = lines_of(&values);
    costs(&format!("{}\n{}{}\n{}", lines[0], lines[1], lines[2], lines[3]), &values[..4], &[]);
    costs(&format!("{}\n{}{}\n{}", lines[0], &lines[1][..30], lines[2], lines[3]), &values[..4], &[1]);
    costs(&format!("{}\n{}{}\n{}", lines[0], lines[1], &lines[2][..30], lines[3]), &values[..4], &[2]);
}

#[test]
fn a_line_break_in_a_text_costs_only_a_reader_of_this_field() {
    let values = rows(5);
    for (mut text, at) in layouts(&values).into_iter().map(|text| (text.clone(), text.find("\"q2\"").expect("a row"))) {
        text.insert(at + 2, '\n');
        let (records, facts) = read(&text);
        assert_eq!(records.len(), 5, "{:?}\n{text}", bad(&records));
        assert_eq!(records[2].altered, ["instruction"], "{text}");
        assert_eq!(records[2].value.as_ref().map(|value| value["instruction"].as_str()), Ok(Some("q\n2")));
        assert_eq!(facts.damage, []);
    }
}

#[test]
fn records_that_ran_into_each_other_are_counted() {
    let values = rows(20);
    for text in layouts(&values) {
        let from = text.find("\"a7\"").expect("the row") + 4;
        let to = text.find("\"q8\"").expect("the row");
        let to = text[..to].rfind("\"instruction\"").expect("the name");
        // Exactly the ends of the records are lost, and a comma is left.
        let (records, facts) = read(format!("{},{}", &text[..from], &text[to..]));
        assert_eq!(good(&records).len(), 18, "{:?}\n{facts:?}\n{text}", bad(&records));
        let hidden: u64 = facts.damage.iter().map(|damage| damage.records).sum();
        assert_eq!(hidden + bad(&records).len() as u64, 2, "{:?}\n{facts:?}\n{text}", bad(&records));
    }
}

#[test]
fn a_record_without_its_last_brackets_does_not_hide_the_next_ones() {
    let values: Vec<Value> = (0..30).map(|n| serde_json::json!({"id": n, "turns": [{"x": n}, {"x": "}"}]})).collect();
    for text in layouts(&values) {
        let at = text.find("\"id\":12").or_else(|| text.find("\"id\": 12")).expect("the row");
        let end = at + text[at..].find(']').expect("a bracket");
        let brace = end + text[end..].find('}').expect("a brace");
        costs(&format!("{}{}", &text[..end], &text[brace + 1..]), &values, &[12]);
        costs(&format!("{}{}", &text[..end], &text[end + 1..]), &values, &[12]);
    }
}

#[test]
fn objects_that_begin_like_a_record_may_lie_in_records() {
    let leaf = |text: &str| serde_json::json!({"text": text, "replies": []});
    let tree = |n: usize| serde_json::json!({"text": n, "replies": [leaf("a"), leaf("b")]});
    let values: Vec<Value> = (0..30).map(tree).collect();
    for text in layouts(&values) {
        costs(&text, &values, &[]);
        let at = text.find("\"text\":12").or_else(|| text.find("\"text\": 12")).expect("the row");
        costs(&format!("{}{}", &text[..at], &text[at + 1..]), &values, &[12]);
    }
}

#[test]
fn a_damaged_row_of_csv_costs_itself() -> Result<()> {
    let row = |n: usize| format!("\"q{n}, with\na line\",plain {n},\"say \"\"a{n}\"\"\"\n");
    let value = |n: usize| {
        let [a, b, c] = [format!("q{n}, with\na line"), format!("plain {n}"), format!("say \"a{n}\"")];
        serde_json::json!({"a": a, "b": b, "c": c})
    };
    let text: String = std::iter::once("a,b,c\n".to_owned()).chain((0..12).map(row)).collect();
    let at = text.find("\"q5,").expect("the row");
    let length = row(5).len();
    for offset in 0..length {
        // Each byte of the row is lost in turn.
        let changed = format!("{}{}", &text[..at + offset], &text[at + offset + 1..]);
        let (records, facts) = read_as("a.csv", changed.as_bytes(), 10_000)?;
        let kept = good(&records);
        let lost: u64 = facts.damage.iter().map(|damage| damage.records).sum::<u64>() + bad(&records).len() as u64;
        let others: Vec<Value> = (0..12).filter(|n| *n != 5).map(value).collect();
        let is_last = offset + 1 == length;
        let found = others.iter().filter(|value| kept.contains(value)).count();
        assert!(found == 11 || (is_last && found == 10), "{offset}: {kept:?} {:?} {facts:?}\n{changed}", bad(&records));
        let other = kept.iter().filter(|value| !others.contains(value)).count();
        assert!(lost > 0 || other == 1, "{offset}: {changed}");
    }
    // A cell that lost only its opening quote.
    let (records, _) = read_as("a.csv", b"a,b\n\"x\",say a\"\n\"y\",z\n", 1000)?;
    assert_eq!((records[0].altered.as_slice(), records.len()), (&["b".to_owned()][..], 2));
    let (records, _) = read_as("a.csv", b"a,b\n\"x\",5\" wide\n", 1000)?;
    assert_eq!((records[0].altered.len(), good(&records)[0]["b"].as_str()), (0, Some("5\" wide")));
    // Python's `csv` keeps these quotes.
    let (records, _) = read_as("a.csv", b"a,b\nq\"1\",say \"\"x\"\"\n", 1000)?;
    assert_eq!(
        (&records[0].altered, good(&records)),
        (&vec![], vec![serde_json::json!({"a": "q\"1\"", "b": "say \"\"x\"\""})])
    );
    let (records, _) = read_as("a.csv", b"a,b\n1,2\n3\n4,5,6\n7,8\n", 1000)?;
    let reasons = bad(&records);
    assert_eq!(good(&records).len(), 2);
    assert_eq!(reasons[0], (3, "the row has 1 cells, and the first row names 2 columns".to_owned()));
    assert_eq!(reasons[1].0, 4);
    Ok(())
}

#[test]
fn a_bad_value_costs_its_record_with_a_place() {
    let (records, _) = read("[\n{\"a\": \"x],}\"},\n{\"a\": tru},\n {\"a\":[1,{}]},\n{\"a\": \"\\x\"}\n]\n");
    assert_eq!(good(&records), [serde_json::json!({"a": "x],}"}), serde_json::json!({"a": [1, {}]})]);
    let reasons = bad(&records);
    assert_eq!(reasons[0], (3, "not valid JSON: expected ident (line 3, column 10)".to_owned()));
    assert_eq!(reasons[1], (5, "not valid JSON: invalid escape (line 5, column 9)".to_owned()));
    let deep = "[".repeat(500) + &"]".repeat(500);
    let (records, _) = read(format!("{{\"a\": 1}}\n{{\"a\": {deep}}}\n{deep}\n{{\"a\": 2}}\n"));
    assert_eq!((good(&records).len(), records.len()), (2, 4));
    assert!(bad(&records).iter().all(|(_, reason)| reason.contains("recursion limit")), "{:?}", bad(&records));
}

#[test]
fn a_value_that_json_forbids_costs_only_a_reader_of_its_field() {
    let text = b"{\"a\": \"x\", \"b\": NaN}\n{\"a\": \"\xFF\", \"b\": 1}\n\
                 {\"a\": \"\\ud800\"}\n{\"a\": 1, \"a\": 2, \"b\": 1, \"b\": 2}\n";
    let (records, facts) = read(text);
    let altered: Vec<Vec<String>> = records.iter().map(|record| record.altered.clone()).collect();
    assert_eq!(altered, [["b"], ["a"], ["a"]]);
    assert_eq!(facts.damage[0].records, 2);
}

#[test]
fn a_line_that_cannot_be_read_is_one_record() {
    let (records, facts) = read("{'a': 'x'}\n{'a': 'y'}\n");
    assert_eq!((bad(&records).len(), &facts.damage[..]), (2, &[][..]));
    let (records, facts) = read("{'a': 'x'}\n{\"a\": 'y'}\n{\"a\": \"z\"}\n{'a': 1}");
    assert_eq!((good(&records).len(), bad(&records).len(), &facts.damage[..]), (1, 3, &[][..]));
    let (records, facts) = read("{\"p\": 1, \"p\": 2, \"r\": 3}\n{\"p\": 1, \"r\": 3}\n");
    assert_eq!((records.len(), &records[0].altered, facts.damage), (2, &vec!["p".to_owned()], vec![]));
}

#[test]
fn a_record_that_is_longer_than_several_buffers_is_one() {
    let long = format!("[{{\"p\": \"q\", \"x\": \"{}", "{".repeat(700_000));
    for text in [long.clone(), format!("{long}\"}}, {{\"p\": \"q\", \"x\": \"y\"}}]")] {
        let (records, facts) = read_as("a.json", text.as_bytes(), 1 << 17).expect("reads");
        let lost = bad(&records).len() as u64 + facts.damage.iter().map(|damage| damage.records).sum::<u64>();
        assert_eq!(lost, 1, "{:?} {:?}", bad(&records), facts.damage.len());
        assert_eq!(good(&records).len(), usize::from(text.ends_with(']')));
    }
}
