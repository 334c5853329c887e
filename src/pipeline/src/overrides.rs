//! The flags `--set key=value` and `--sweep key=[values]`: parses them and applies them to the tree of a pipeline.
//! sweep.rs handles `[sweep]` in a pipeline file.

use std::fmt;
use std::str::FromStr;

use super::sweep::{self, Axis};
use super::tree::{NodeContent, Origin, Table, TableEntry, TreeNode};
use raisin_base::error::Problem;

/// The largest number of parts of a dotted key, as in TOML files.
const MOST_PARTS: usize = 80;

/// The value of one flag, as the user typed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// `stage.clusters.clusters=8`
    Set(String),
    /// `pipeline.seed=[1, 2, 3]`
    Sweep(String),
}

/// The maximum length, in bytes, of a flag in an error.
const LONGEST_QUOTE: usize = 200;

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flag, text) = self.parts();
        write!(f, "{flag} {text}")
    }
}

/// Reads the text that `Display` writes.
impl FromStr for Override {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        match text.split_once(' ') {
            Some(("--set", text)) => Ok(Self::Set(text.to_owned())),
            Some(("--sweep", text)) => Ok(Self::Sweep(text.to_owned())),
            _ => Err(Problem::usage(format!("`{text}` is neither `--set KEY=VALUE` nor `--sweep KEY=[..]`"))),
        }
    }
}

impl Override {
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Set(text) => ("--set", text),
            Self::Sweep(text) => ("--sweep", text),
        }
    }

    fn parse(&self) -> Result<(String, TreeNode), Problem> {
        let (flag, text) = self.parts();
        let shown = &text[..text.floor_char_boundary(LONGEST_QUOTE)];
        let cut = if shown.len() < text.len() { "..." } else { "" };
        let origin = Origin::flag(format!("{flag} {shown}{cut}"));
        let Some((key, value)) = text.split_once('=') else {
            let hint = format!("write `{flag} stage.NAME.PARAMETER=VALUE`");
            return Err(origin.problem("there is no `=` between a key and a value").hint(hint));
        };
        let node = TreeNode::parse_flag(value.trim(), &origin)?;
        let key: Vec<&str> = key.trim().split('.').map(|part| part.trim().trim_matches('"')).collect();
        Ok((key.join("."), node))
    }
}

/// Applies the flags in their order, and returns the axes of the sweep. A `--set` of a swept key removes the axis of
/// this key, because a user who sets one value wants only this value.
///
/// # Errors
/// A key does not lead to a parameter; a key is below a swept key (the values of the axis would replace the value of
/// the flag); or `[sweep]` is wrong.
pub fn apply(root: &mut Table, overrides: &[Override]) -> Result<Vec<Axis>, Vec<Problem>> {
    let mut axes = sweep::take(root)?;
    let mut problems = Vec::new();
    let mut all_set: Vec<(String, Origin)> = Vec::new();
    for one in overrides {
        let done = one.parse().and_then(|(key, node)| match one {
            Override::Set(_) => {
                axes.retain(|axis| axis.key != key);
                let origin = node.origin.clone();
                all_set.retain(|(before, _)| !is_below(before, &key));
                all_set.push((key.clone(), origin.clone()));
                set(root, &key, &origin, node)
            }
            Override::Sweep(_) => {
                let axis = Axis::new(key, node.origin.clone(), node)?;
                match axes.iter_mut().find(|other| other.key == axis.key) {
                    Some(other) => *other = axis,
                    None => axes.push(axis),
                }
                Ok(())
            }
        });
        problems.extend(done.err());
    }
    for (key, origin) in &all_set {
        if let Some(axis) = axes.iter().find(|axis| is_below(key, &axis.key)) {
            let message = format!("`{key}` is part of `{}`, which is swept", axis.key);
            let hint =
                format!("`--set {0}=VALUE` ends this sweep; `--sweep {0}=[VALUES]` replaces its values", axis.key);
            problems.push(origin.problem(message).hint(hint));
        }
    }
    if problems.is_empty() { Ok(axes) } else { Err(problems) }
}

/// Whether the dotted key `key` is below the dotted key `other`.
pub fn is_below(key: &str, other: &str) -> bool {
    key.strip_prefix(other).is_some_and(|rest| rest.starts_with('.'))
}

/// Sets the value at a dotted key, which was written at `origin`. The stage must exist. The parameter need not exist:
/// the kind of the stage checks later whether it has this parameter. A number in the key is an index of an array.
///
/// # Errors
/// The key does not lead to a parameter.
pub fn set(root: &mut Table, key: &str, origin: &Origin, node: TreeNode) -> Result<(), Problem> {
    let parts: Vec<&str> = key.split('.').collect();
    if parts.len() > MOST_PARTS {
        let message = format!("the key has {} parts between dots, and at most {MOST_PARTS} are allowed", parts.len());
        return Err(origin.problem(message).hint("keys look like `stage.NAME.PARAMETER` or `pipeline.seed`"));
    }
    match parts.as_slice() {
        ["pipeline", _] | ["executor", _, ..] => {}
        ["stage", name, _, ..] => {
            let stages = root.get("stage").and_then(TreeNode::table);
            if stages.is_none_or(|stages| stages.get(name).is_none()) {
                let problem = origin.problem(format!("there is no stage `{name}`"));
                let near = raisin_base::error::nearest(name, stages.into_iter().flat_map(Table::keys));
                return Err(match near {
                    Some(near) => problem.hint(format!("did you mean `stage.{near}`?")),
                    None => problem,
                });
            }
        }
        _ => {
            let problem = origin.problem(format!("`{key}` is not the key of a parameter"));
            return Err(problem.hint("keys look like `stage.NAME.PARAMETER` or `pipeline.seed`"));
        }
    }
    put_in_table(root, &parts, &DottedKey { whole: key, origin }, node)
}

/// A dotted key with its origin.
struct DottedKey<'k> {
    whole: &'k str,
    origin: &'k Origin,
}

fn put_in_table(table: &mut Table, parts: &[&str], key: &DottedKey<'_>, node: TreeNode) -> Result<(), Problem> {
    let [part, rest @ ..] = parts else { return Ok(()) };
    let origin = key.origin.clone();
    if table.entry(part).is_none() {
        let empty = TreeNode { content: NodeContent::Table(Table::default()), origin: origin.clone() };
        table.entries.push(TableEntry { key: (*part).to_owned(), origin: origin.clone(), node: empty });
    }
    let Some(entry) = table.entry_mut(part) else { return Ok(()) };
    if rest.is_empty() {
        entry.origin = origin;
    }
    put(&mut entry.node, rest, key, node)
}

fn put(here: &mut TreeNode, parts: &[&str], key: &DottedKey<'_>, node: TreeNode) -> Result<(), Problem> {
    let [part, rest @ ..] = parts else {
        *here = node;
        return Ok(());
    };
    match &mut here.content {
        NodeContent::Table(table) => put_in_table(table, parts, key, node),
        NodeContent::Array(items) => {
            let length = items.len();
            match part.parse().ok().and_then(|index: usize| items.get_mut(index)) {
                Some(item) => put(item, rest, key, node),
                None => {
                    let message = format!("`{part}` in `{}` is not an index of an array of {length}", key.whole);
                    Err(key.origin.problem(message).hint("indices count from 0"))
                }
            }
        }
        NodeContent::Scalar(value) => {
            let message = format!("`{part}` in `{}` leads nowhere: {value} is neither a table nor an array", key.whole);
            Err(key.origin.problem(message))
        }
    }
}
