//! Turns a parameter that a kind refused into a problem with the place where the parameter was written. check.rs asks
//! the kinds.

use super::tree::{NodeContent, Origin, Table, TableEntry, TreeNode};
use raisin_base::error::{Problem, nearest};
use raisin_contract::ParameterProblem;
use raisin_contract::pointer::{dotted, segments};

/// The value to which a pointer leads. If the pipeline file does not contain the whole path, this is the last value of
/// the path that the file contains.
pub struct PointerTarget<'t> {
    /// The origin of the last key or table header on the path.
    pub key: &'t Origin,
    /// The origin of the value. For a table with a header, it is the origin of the header.
    pub value: &'t Origin,
    node: &'t TreeNode,
}

/// Follows a pointer (RFC 6901) in the table of a stage.
pub fn find<'t>(stage: &'t TableEntry, pointer: &str) -> PointerTarget<'t> {
    let mut found = PointerTarget { key: &stage.origin, value: &stage.origin, node: &stage.node };
    for segment in segments(pointer) {
        match &found.node.content {
            NodeContent::Table(table) => {
                let Some(entry) = table.entry(&segment) else { break };
                found = below(&entry.origin, &entry.node);
            }
            NodeContent::Array(items) => {
                let Some(item) = segment.parse().ok().and_then(|index: usize| items.get(index)) else { break };
                found = below(&item.origin, item);
            }
            NodeContent::Scalar(_) => break,
        }
    }
    found
}

fn below<'t>(key: &'t Origin, node: &'t TreeNode) -> PointerTarget<'t> {
    let under_header = node.table().is_some_and(|table| !table.inline);
    PointerTarget { key, value: if under_header { key } else { &node.origin }, node }
}

/// The problem that the user sees for a parameter that a kind refused.
pub fn parameter_problem(stage: &TableEntry, problem: &ParameterProblem) -> Problem {
    let message = problem.message.as_str();
    let parameter = dotted(&problem.pointer);
    let found = find(stage, &problem.pointer);
    let quoted = quoted(message);
    let hint = |nearest: Option<&str>| problem.hint.clone().or_else(|| Some(format!("did you mean `{}`?", nearest?)));
    if let (Some(_), Some((unknown, expected))) = (message.strip_prefix("unknown field"), quoted.split_first()) {
        // The pointer leads to the unknown field, or to the table that contains the field.
        let origin = found.node.table().and_then(|table: &Table| table.entry(unknown)).map(|entry| &entry.origin);
        let parent = match parameter.rsplit_once('.') {
            Some((parent, last)) if last == *unknown => format!("{parent}."),
            _ if parameter == *unknown || parameter.is_empty() => String::new(),
            _ => format!("{parameter}."),
        };
        let kind = stage.node.table().and_then(|table| table.get("kind")).and_then(TreeNode::text).unwrap_or_default();
        let text = format!("stage `{}`: kind `{kind}` has no parameter `{parent}{unknown}`", stage.key);
        let near = nearest(unknown, expected.iter().copied());
        let listed = || (!expected.is_empty()).then(|| format!("expected one of {}", ticked(expected)));
        return with(origin.unwrap_or(found.key).problem(text), hint(near).or_else(listed));
    }
    let text = match parameter.as_str() {
        "" => format!("stage `{}`: {message}", stage.key),
        parameter => format!("stage `{}`, {parameter}: {message}", stage.key),
    };
    let near = match (message.strip_prefix("unknown variant"), quoted.split_first()) {
        (Some(_), Some((unknown, expected))) => nearest(unknown, expected.iter().copied()),
        _ => None,
    };
    let origin = if message.starts_with("missing field") { found.key } else { found.value };
    with(origin.problem(text), hint(near))
}

pub fn unknown_key(whose: &str, entry: &TableEntry, known: &[&str]) -> Problem {
    let problem = entry.origin.problem(format!("{whose} has no key `{}`", entry.key));
    let otherwise = format!("expected one of {}", ticked(known));
    suggest(problem, &entry.key, known.iter().copied(), Some(otherwise))
}

/// Adds a hint with the name that is nearest to `word`. If no name is near, the hint is `otherwise`.
pub fn suggest<'n>(
    problem: Problem,
    word: &str,
    names: impl IntoIterator<Item = &'n str>,
    otherwise: Option<String>,
) -> Problem {
    with(problem, nearest(word, names).map(|near| format!("did you mean `{near}`?")).or(otherwise))
}

fn with(problem: Problem, hint: Option<String>) -> Problem {
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

fn ticked(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The words in backticks. In a message of serde, the first word is the unknown name, and the others are the expected
/// names.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}
