//! Checks what a program wrote, and makes the tables of the artifact of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, Float64Array, StringArray, UInt32Array};
use serde_json::{Map, Value, json};

use super::call::names;
use super::{features, model, rows};
use crate::encoding::write_pool;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::Context;
use raisin_corpus::intake::{counted, rejects_batch, sources_batch};
use raisin_corpus::pool::{PoolBuilder, SourceFile};
use raisin_kinds::command::{CommandRole, METRICS, Parameters};
use raisin_kinds::ingest::MOST_CHARACTERS;
use raisin_settings::Mapping;
use raisin_table::{self as table, WriteTable as _};

/// The forms of a table that a program can write.
const ENDINGS: [&str; 4] = ["jsonl", "json", "csv", "parquet"];

/// Takes the results of a program: tables, roles and metrics.
///
/// # Errors
/// Something that the stage declares is missing or has another form.
pub fn take(parameters: &Parameters, context: &Context) -> Result<()> {
    if std::fs::read_dir(context.out())?.next().is_none() {
        let problem = Problem::new("the program wrote nothing into {out}, so that there is nothing to keep");
        return Err(problem.hint("write at least one file, such as {out}/done").into());
    }
    for name in &parameters.tables {
        let path = written(name, context)?;
        let made = context.out().join(format!("{name}.parquet"));
        if path == made {
            // A file that cannot be read would be an error of every query.
            table::read(&path)?;
            continue;
        }
        rows::write_table(&path, &made)?;
        remove(&path)?;
    }
    for role in &parameters.provides {
        match role {
            CommandRole::Instructions => instructions(context)?,
            CommandRole::Columns => columns(parameters, context)?,
            CommandRole::Features => features::take_features(parameters, context)?,
            CommandRole::Model => model::take(parameters, context)?,
        }
    }
    metrics(context)?;
    for entry in std::fs::read_dir(context.out())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(table) = name.strip_suffix(".parquet")
            && context.declared_table(table).is_err()
        {
            let problem = Problem::new(format!("the program wrote the table {name}, which the stage does not declare"));
            return Err(problem.hint(format!("add it: tables = [..., \"{table}\"]")).into());
        }
    }
    Ok(())
}

/// The file in which a program wrote a table.
pub fn written(name: &str, context: &Context) -> Result<PathBuf> {
    if let Some(path) = written_if_there(name, context)? {
        return Ok(path);
    }
    let message = format!("the program did not write `{name}` into {{out}}");
    let endings = ENDINGS.map(|ending| format!("{name}.{ending}")).join(", ");
    let there = names(&context.out())?;
    Err(Problem::new(message).hint(format!("write one of {endings}; {{out}} has {there}")).into())
}

/// As [`written`]; `None` if the program did not write the table.
pub fn written_if_there(name: &str, context: &Context) -> Result<Option<PathBuf>> {
    let files = ENDINGS.map(|ending| context.out().join(format!("{name}.{ending}")));
    let found: Vec<&PathBuf> = files.iter().filter(|path| path.exists()).collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).clone())),
        [one, other, ..] => {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let message = format!("the program wrote `{}` and `{}`", name(one), name(other));
            Err(Problem::new(message).hint("write one of them").into())
        }
    }
}

/// The folder of the first input that has this table.
pub fn input_with<'c>(table: &str, parameters: &Parameters, context: &'c Context) -> Result<Option<&'c Path>> {
    for place in 0..parameters.inputs.len() {
        let folder = context.input(&format!("/inputs/{place}"))?;
        if folder.join(format!("{table}.parquet")).is_file() {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

pub fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// The role `instructions`.
fn instructions(context: &Context) -> Result<()> {
    let path = written("instructions", context)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut pool = PoolBuilder::new(MOST_CHARACTERS);
    pool.add(&SourceFile { path: &path, name: name.clone(), mapping: &Mapping::default() }, &mut |_| ())?;
    if let Some(reject) = pool.intake.rejects.first() {
        let count = counted(pool.intake.total(|source| source.rejected), "record");
        let message = format!(
            "{count} of {name} cannot be read as an instruction, the first in line {}: {}",
            reject.line, reject.reason
        );
        let hint = "write {\"prompt\": ..., \"response\": ...} or {\"messages\": [...]}: docs/data.md has all forms";
        return Err(Problem::new(message).hint(hint).into());
    }
    if pool.rows.is_empty() {
        return Err(Problem::new(format!("{name} has no instruction")).into());
    }
    remove(&path)?;
    context.note(pool.intake.note(&counted(pool.rows.len() as u64, "instruction"), context.stage()));
    pool.intake.details(context.stage()).into_iter().for_each(|detail| context.note(detail));
    context.write_table("rejects", &rejects_batch(&pool.intake.rejects)?)?;
    context.write_table("sources", &sources_batch(&pool.intake.sources)?)?;
    write_pool(pool, context)
}

/// The role `columns`.
fn columns(parameters: &Parameters, context: &Context) -> Result<()> {
    let Some(pool) = input_with("instructions", parameters, context)? else {
        let problem = Problem::new("columns belong to a pool, and no input has a table `instructions`");
        return Err(problem.hint("give the program a pool, for example {pool.instructions.jsonl}").into());
    };
    let count = usize::try_from(table::rows(&pool.join("instructions.parquet"))?)?;
    let path = written("columns", context)?;
    let mut found = FoundNumbers {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        count,
        seen: vec![0; count],
        columns: Vec::new(),
    };
    rows::for_each_row(&path, |line, entries| found.add(line, entries))?;
    if found.columns.is_empty() {
        let problem = Problem::new(format!("{} has no column beside `id`", found.name));
        return Err(problem.hint("write at least one column of numbers, such as {\"id\": 0, \"score\": 0.5}").into());
    }
    remove(&path)?;
    let without = found.seen.iter().filter(|line| **line == 0).count();
    if without > 0 {
        let rows = counted(without as u64, "instruction");
        context.note(format!("{rows} of {count} have no row in {}: their columns are null", found.name));
    }
    let ids: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..u32::try_from(count)?));
    let columns = found.columns.iter().map(|(name, values)| {
        let values: ArrayRef = Arc::new(values.iter().copied().collect::<Float32Array>());
        (name.as_str(), values)
    });
    context.write_table("columns", &table::batch(std::iter::once(("id", ids)).chain(columns).collect())?)?;
    let digest = pool.file_name().map(|name| name.to_string_lossy().into_owned());
    context.write_json("summary.json", &json!({ "pass": parameters.prefix, "pool": digest }))
}

/// The numbers of the instructions of a pool, while they are read.
struct FoundNumbers {
    name: String,
    /// The number of instructions.
    count: usize,
    /// The line of each instruction; 0 without a line.
    seen: Vec<u64>,
    columns: Vec<(String, Vec<Option<f32>>)>,
}

impl FoundNumbers {
    fn add(&mut self, line: u64, entries: &Map<String, Value>) -> Result<()> {
        let (name, count) = (self.name.clone(), self.count);
        let wrong = |what: String| Problem::new(format!("{name}, line {line}: {what}"));
        let Some(id) = entries.get("id") else {
            let keys = entries.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            let problem = wrong(format!("there is no `id`; there are {keys}"));
            return Err(problem
                .hint("`id` is the id of the instruction in the table `instructions` of the pool")
                .into());
        };
        let number = id.as_u64().or_else(|| id.as_str()?.trim().parse().ok()).and_then(|id| usize::try_from(id).ok());
        let Some(id) = number.filter(|id| *id < count) else {
            let problem = wrong(format!("`id` is {id}, and the pool has {count} instructions"));
            return Err(problem.hint(format!("an id is a whole number from 0 to {}", count.saturating_sub(1))).into());
        };
        if self.seen[id] > 0 {
            return Err(wrong(format!("the instruction {id} has a row already, in line {}", self.seen[id])).into());
        }
        self.seen[id] = line;
        for (key, value) in entries.iter().filter(|(key, _)| *key != "id") {
            let text = value.as_str().map(str::trim);
            let is_missing = value.is_null() || text == Some("");
            let number = value.as_f64().or_else(|| text?.parse::<f64>().ok());
            let single = number.map(|number| number as f32).filter(|number| number.is_finite());
            if single.is_none() && !is_missing {
                let problem = wrong(format!("`{key}` is {value}, not a finite number"));
                return Err(problem
                    .hint("columns are numbers or null; write texts into a table: tables = [...]")
                    .into());
            }
            let place = self.columns.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
                self.columns.push((key.clone(), vec![None; count]));
                self.columns.len() - 1
            });
            self.columns[place].1[id] = single;
        }
        Ok(())
    }
}

/// The table `metrics`, if the program wrote metrics.json.
fn metrics(context: &Context) -> Result<()> {
    let path = context.out().join(format!("{METRICS}.json"));
    let Some(text) = raisin_base::files::if_there(std::fs::read(&path)).context("cannot read metrics.json")? else {
        return Ok(());
    };
    let hint = "write a flat object of numbers, such as {\"accuracy\": 0.5}";
    let wrong = |what: String| Problem::new(format!("metrics.json {what}")).hint(hint);
    let read: Value = serde_json::from_slice(&text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    let Value::Object(entries) = read else { return Err(wrong("is not an object".to_owned()).into()) };
    let mut metrics: BTreeMap<String, f64> = BTreeMap::new();
    for (name, value) in entries {
        let number = value.as_f64().filter(|number| number.is_finite());
        let number = number.ok_or_else(|| wrong(format!("has {value} as `{name}`, not a number")))?;
        metrics.insert(name, number);
    }
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(metrics.keys()));
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values(metrics.values().copied()));
    context.write_table(METRICS, &table::batch(vec![("metric", names), ("value", values)])?)
}
