//! Turns a parameter that a stage kind refused into a message at the place where it was written.

use super::tree::{NodeContent, Origin, Table, TableEntry, TreeNode};
use raisin_base::error::{Problem, nearest};
use raisin_contract::ParameterProblem;

/// Where a pointer leads: as far as what was written goes.
pub struct PointerTarget<'t> {
    /// The last key or header on the way.
    pub key: &'t Origin,
    /// The value there; the key, where the value is a table under a header.
    pub value: &'t Origin,
    node: &'t TreeNode,
}

/// Follows a pointer (RFC 6901) below a stage.
pub fn find<'t>(stage: &'t TableEntry, pointer: &str) -> PointerTarget<'t> {
    let mut found = PointerTarget { key: &stage.origin, value: &stage.origin, node: &stage.node };
    for segment in pointer.split('/').skip(1) {
        let segment = segment.replace("~1", "/").replace("~0", "~");
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

pub fn parameter_problem(stage: &TableEntry, problem: &ParameterProblem) -> Problem {
    let message = problem.message.as_str();
    let parameter = problem.pointer.trim_start_matches('/').replace('/', ".");
    let found = find(stage, &problem.pointer);
    let quoted = quoted(message);
    let hint = |nearest: Option<&str>| problem.hint.clone().or_else(|| Some(format!("did you mean `{}`?", nearest?)));
    if let (Some(_), Some((unknown, expected))) = (message.strip_prefix("unknown field"), quoted.split_first()) {
        // The pointer leads to the field itself, or to the table that it is in.
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
    let hint = match nearest(&entry.key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected one of {}", ticked(known)),
    };
    problem.hint(hint)
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

/// The words in backticks: serde names what it found first, then what it expected.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}
