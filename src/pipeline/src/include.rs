//! Reads a pipeline file and its includes, and merges them into one tree. tree.rs parses each file.

use std::path::{Path, PathBuf};

use super::tree::{NodeContent, Table, TreeNode};
use raisin_base::error::Problem;

/// Reads a pipeline file and its includes.
///
/// # Errors
/// A file is missing, is not TOML, or includes itself.
pub fn read(file: &Path) -> Result<Table, Problem> {
    let text = std::fs::read_to_string(file).map_err(|error| missing(file, &error))?;
    read_text(file, text, &mut Vec::new())
}

fn missing(file: &Path, error: &std::io::Error) -> Problem {
    let problem = Problem::usage(format!("cannot read the pipeline {}: {error}", file.display()));
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            problem.hint("give the path of a .toml file, such as pipelines/quickstart.toml")
        }
        _ => problem,
    }
}

fn read_text(file: &Path, text: String, open: &mut Vec<PathBuf>) -> Result<Table, Problem> {
    let TreeNode { content: NodeContent::Table(mut table), .. } = TreeNode::parse(&file.display().to_string(), text)?
    else {
        return Err(Problem::usage(format!("{} is not a table", file.display())));
    };
    let Some(include) = table.remove("include") else { return Ok(table) };
    let wanted: Vec<&TreeNode> = match &include.node.content {
        NodeContent::Array(items) => items.iter().collect(),
        _ => vec![&include.node],
    };
    open.push(file.canonicalize().unwrap_or_else(|_| file.to_owned()));
    let mut base = Table::default();
    for node in wanted {
        let Some(name) = node.text() else {
            let message = format!("`include` must be a path or an array of paths, not {}", node.type_name());
            return Err(node.origin.problem(message));
        };
        let path = file.parent().unwrap_or(Path::new("")).join(name);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| node.origin.problem(format!("cannot read {}: {error}", path.display())))?;
        if open.contains(&path.canonicalize().unwrap_or_else(|_| path.clone())) {
            return Err(node.origin.problem(format!("{} includes itself", path.display())));
        }
        base.merge(read_text(&path, text, open)?);
    }
    open.pop();
    base.merge(table);
    Ok(base)
}
