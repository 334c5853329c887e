//! `{pipeline.seed}` in a text of a stage stands for the seed of the variant, so that each seed of a sweep can read files
//! of its own. The rest of a text stays as it is.

use std::borrow::Cow;

use serde_json::Value;

use super::tree::{NodeContent, Table, TreeNode};
use raisin_base::error::Problem;

const START: &str = "{pipeline.";
const SEED: &str = "{pipeline.seed}";

/// Writes the seed in place of each placeholder in the stages of a pipeline.
///
/// # Errors
/// A text has a placeholder that does not exist.
pub fn fill(root: &mut Cow<'_, Table>, seed: u64) -> Result<(), Vec<Problem>> {
    if !root.get("stage").is_some_and(has_placeholder) {
        return Ok(());
    }
    let mut problems = Vec::new();
    if let Some(entry) = root.to_mut().entry_mut("stage") {
        replace(&mut entry.node, &seed.to_string(), &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn has_placeholder(node: &TreeNode) -> bool {
    match &node.content {
        NodeContent::Scalar(Value::String(text)) => text.contains(START),
        NodeContent::Scalar(_) => false,
        NodeContent::Array(items) => items.iter().any(has_placeholder),
        NodeContent::Table(table) => table.entries.iter().any(|entry| has_placeholder(&entry.node)),
    }
}

fn replace(node: &mut TreeNode, seed: &str, problems: &mut Vec<Problem>) {
    match &mut node.content {
        NodeContent::Scalar(Value::String(text)) if text.contains(START) => {
            *text = text.replace(SEED, seed);
            if text.contains(START) {
                let message = format!("`{text}` has a placeholder that does not exist");
                problems.push(node.origin.problem(message).hint(format!("the only placeholder is `{SEED}`")));
            }
        }
        NodeContent::Scalar(_) => {}
        NodeContent::Array(items) => items.iter_mut().for_each(|item| replace(item, seed, problems)),
        NodeContent::Table(table) => {
            table.entries.iter_mut().for_each(|entry| replace(&mut entry.node, seed, problems));
        }
    }
}
