//! The range of a number, found by asking the check of the kind: a range that is written down could differ from what
//! the check refuses. The check is asked about the parameters of the examples of the kind, with another number each
//! time.

use serde_json::{Value, json};

use raisin_contract::Declaration;

/// Numbers so far from zero that a parameter without a limit accepts them.
const FAR: i64 = 1 << 62;
const FAR_FLOAT: f64 = 1e300;
/// The smallest difference that a check may see at 0 and at 1.
const LITTLE: f64 = 1e-9;

/// What the check says about a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CheckAnswer {
    Accepted,
    /// The number is refused at the parameter itself.
    Refused,
    /// The table of the parameter is refused: the number may or may not be the reason.
    TableRefused,
}

/// A question about the number at a pointer.
pub struct Question<'a> {
    kind: &'a Declaration,
    /// Complete parameters, which pass the check.
    parameters: Value,
    pointer: &'a str,
}

impl Question<'_> {
    fn answer(&self, number: &Value) -> CheckAnswer {
        let mut changed = self.parameters.clone();
        put(&mut changed, self.pointer, number.clone());
        let (table, _) = split(self.pointer);
        match self.kind.resolve(changed) {
            Err(problem) if problem.pointer == self.pointer => CheckAnswer::Refused,
            Err(problem) if problem.pointer == table => CheckAnswer::TableRefused,
            // A refusal of another parameter, which does not fit the number, says nothing about the range.
            Ok(_) | Err(_) => CheckAnswer::Accepted,
        }
    }

    fn takes(&self, number: i64) -> bool {
        self.answer(&json!(number)) != CheckAnswer::Refused
    }

    fn takes_float(&self, number: f64) -> bool {
        self.answer(&json!(number)) != CheckAnswer::Refused
    }
}

/// The pointer of the table of a parameter, and the key.
fn split(pointer: &str) -> (&str, &str) {
    pointer.rsplit_once('/').unwrap_or_default()
}

fn put(parameters: &mut Value, pointer: &str, value: Value) {
    let (table, key) = split(pointer);
    if let Some(table) = parameters.pointer_mut(table).and_then(Value::as_object_mut) {
        table.insert(key.to_owned(), value);
    }
}

/// The range of an integer, such as `at least 1`. `format` is the format of the JSON Schema. `None` if no example has
/// the table of the parameter, or the check refuses no number. A check may depend on other parameters, as that of
/// `adaptation.rank` on the method: the narrowest of the ranges that the examples give is the range.
pub fn of_integer(asked: &[Question], format: &str) -> Option<String> {
    // The largest number of a type of 32 bits is no limit that anybody set.
    let of_type = if format == "int32" { i64::from(i32::MAX) } else { i64::from(u32::MAX) };
    let is_set = |high: &i64| !(format.ends_with("32") && *high == of_type);
    let found: Vec<_> = asked.iter().filter_map(integers).collect();
    let low = found.iter().filter_map(|(low, _)| *low).max();
    let high = found.iter().filter_map(|(_, high)| high.filter(is_set)).min();
    match (low, high) {
        (Some(low), Some(high)) => Some(format!("from {low} to {high}")),
        (Some(low), None) => Some(format!("at least {low}")),
        (None, Some(high)) => Some(format!("at most {high}")),
        (None, None) => None,
    }
}

/// The smallest and the largest integer that are accepted, if there are such. `None` if no integer is accepted.
fn integers(question: &Question) -> Option<(Option<i64>, Option<i64>)> {
    let given = question.parameters.pointer(question.pointer).and_then(Value::as_i64);
    let inside = given.into_iter().chain([1, 2, 8, 64, 1024]).find(|&number| question.takes(number))?;
    let low = (!question.takes(-FAR)).then(|| match (0..=2).find(|&number| question.takes(number)) {
        Some(low) if !question.takes(low - 1) => low,
        _ => last(-FAR, inside, |number| !question.takes(number)) + 1,
    });
    let high = (!question.takes(FAR)).then(|| last(inside, FAR, |number| question.takes(number)));
    let is_sure = |limit: &i64| question.answer(&json!(limit)) == CheckAnswer::Accepted;
    Some((low.filter(is_sure), high.filter(is_sure)))
}

/// The last number for which `holds` is true. It must be true for `low` and the numbers after it, and false from some
/// number on up to `high`.
fn last(mut low: i64, mut high: i64, holds: impl Fn(i64) -> bool) -> i64 {
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// A limit of a number, which is or is not in the range itself. Narrower limits are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RangeLimit {
    Inside,
    Outside,
}

/// As [`of_integer`], for a number that need not be whole. Only the limits 0 (below) and 1 (above) are found.
pub fn of_number(asked: &[Question]) -> Option<String> {
    let low = asked.iter().filter_map(|question| {
        let is_limited = !question.takes_float(-FAR_FLOAT) && !question.takes_float(-LITTLE);
        limit(is_limited, question, 0.0, LITTLE)
    });
    let high = asked.iter().filter_map(|question| {
        let is_limited = !question.takes_float(FAR_FLOAT) && !question.takes_float(1.0 + LITTLE);
        limit(is_limited, question, 1.0, 1.0 - LITTLE)
    });
    let text = match (low.max()?, high.max()) {
        (RangeLimit::Inside, None) => "at least 0",
        (RangeLimit::Outside, None) => "above 0",
        (RangeLimit::Inside, Some(RangeLimit::Inside)) => "from 0 to 1",
        (RangeLimit::Inside, Some(RangeLimit::Outside)) => "from 0 to below 1",
        (RangeLimit::Outside, Some(RangeLimit::Inside)) => "above 0 and at most 1",
        (RangeLimit::Outside, Some(RangeLimit::Outside)) => "above 0 and below 1",
    };
    Some(text.to_owned())
}

fn limit(is_limited: bool, question: &Question, at: f64, inside: f64) -> Option<RangeLimit> {
    if !is_limited {
        None
    } else if question.takes_float(at) {
        Some(RangeLimit::Inside)
    } else {
        question.takes_float(inside).then_some(RangeLimit::Outside)
    }
}

/// The questions about a parameter: one for each example that has the table of the parameter, and one for each other
/// word of each parameter of this table, because a check may depend on it.
pub fn questions<'a>(
    kind: &'a Declaration,
    examples: &'a [Value],
    pointer: &'a str,
    siblings: &'a [(String, Vec<String>)],
) -> Vec<Question<'a>> {
    let (table, _) = split(pointer);
    let mut questions = Vec::new();
    for example in examples.iter().filter(|example| example.pointer(table).is_some_and(Value::is_object)) {
        questions.push(Question { kind, parameters: example.clone(), pointer });
        for (key, words) in siblings {
            for word in words {
                let mut parameters = example.clone();
                put(&mut parameters, &format!("{table}/{key}"), json!(word));
                if kind.resolve(parameters.clone()).is_ok() {
                    questions.push(Question { kind, parameters, pointer });
                }
            }
        }
    }
    questions
}
