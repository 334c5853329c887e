//! The history of builds as tables, which are made from the records and the journal of the store when a query names
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use serde_json::Value;

use super::catalog::Warnings;
use super::tables_of;
use raisin_base::digest::{Digest, canonical};
use raisin_base::error::Result;
use raisin_contract::Action;
use raisin_store::{ActionRecord, BuildDescription, Manifest, Run, Store};
use raisin_table::batch;

/// The tables of the schema `raisin`.
pub const TOOL_TABLES: [&str; 6] = ["actions", "artifacts", "costs", "key_parts", "runs", "stages"];

/// The table of this name; `None` if the name is not one of [`TOOL_TABLES`].
pub fn tool_table(
    store: &Store,
    description: Option<&BuildDescription>,
    name: &str,
    warnings: &Warnings,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let rows = match name {
        "actions" => actions(&records(store, warnings)?)?,
        "artifacts" => artifact_rows(store, warnings)?,
        "costs" => costs(&records(store, warnings)?)?,
        "key_parts" => key_parts(&records(store, warnings)?, warnings)?,
        "runs" => runs(store, warnings)?,
        "stages" => stages(description)?,
        _ => return Ok(None),
    };
    Ok(Some(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?)))
}

/// The readable action records, the oldest first. The number of the others is told.
fn records(store: &Store, warnings: &Warnings) -> Result<Vec<ActionRecord>> {
    let all = store.record_keys()?.len();
    let records = store.actions()?;
    let left_out = all.saturating_sub(records.len());
    if left_out > 0 {
        let what = if left_out == 1 { "action record" } else { "action records" };
        warnings.add(format!("{left_out} {what} cannot be read: left out; `raisin verify` names them"));
    }
    Ok(records)
}

/// All artifacts in the store, each with constants from the first action that made it.
pub fn artifacts(store: &Store, warnings: &Warnings) -> Vec<(PathBuf, Vec<(String, Value)>)> {
    let or_nothing = |error: raisin_base::error::Error| warnings.add(format!("{error:#}"));
    let makers = makers(records(store, warnings).map_err(or_nothing).unwrap_or_default());
    let constants = |digest: Digest| {
        let maker = makers.get(&digest);
        let text =
            |of: fn(&ActionRecord) -> &String| maker.map_or(Value::Null, |maker| Value::String(of(maker).clone()));
        let parameters = maker.map_or(Value::Null, |maker| Value::String(canonical(&maker.action["parameters"])));
        let method = maker.and_then(|maker| method(maker, &store.artifact_folder(digest)));
        vec![
            ("artifact".to_owned(), Value::String(digest.to_hex())),
            ("stage".to_owned(), text(|maker| &maker.stage)),
            ("pipeline".to_owned(), text(|maker| &maker.pipeline)),
            ("variant".to_owned(), text(|maker| &maker.variant)),
            ("method".to_owned(), method.map_or(Value::Null, Value::String)),
            ("made".to_owned(), text(|maker| &maker.finished)),
            ("run".to_owned(), text(|maker| &maker.run)),
            ("parameters".to_owned(), parameters),
        ]
    };
    let digests = store.artifact_digests().map_err(or_nothing).unwrap_or_default();
    digests.into_iter().map(|digest| (store.artifact_folder(digest), constants(digest))).collect()
}

/// The method of selection that made an artifact: that of a fine-tune, or that of the model which was evaluated.
fn method(maker: &ActionRecord, artifact: &Path) -> Option<String> {
    if let Some(method) = maker.action.pointer("/parameters/select/method") {
        return method.as_str().map(str::to_owned);
    }
    if maker.kind != "evaluate" {
        return None;
    }
    let summary = std::fs::read(artifact.join("model_summary.json")).ok()?;
    let summary: Value = serde_json::from_slice(&summary).ok()?;
    summary.get("method")?.as_str().map(str::to_owned)
}

/// The first action record of each artifact. `records` has the oldest first.
fn makers(records: Vec<ActionRecord>) -> BTreeMap<Digest, ActionRecord> {
    let mut makers = BTreeMap::new();
    for record in records {
        makers.entry(record.artifact).or_insert(record);
    }
    makers
}

/// The names of all tables in the store. Only folders are read.
pub fn table_names(store: &Store) -> Vec<String> {
    let mut names = BTreeSet::new();
    for digest in store.artifact_digests().unwrap_or_default() {
        names.extend(tables_of(&store.artifact_folder(digest)).unwrap_or_default().into_keys());
    }
    if names.contains(super::pivot::WIDE) {
        names.insert(super::pivot::LONG.to_owned());
    }
    names.into_iter().collect()
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    // An array is built from an iterator with a known length.
    Arc::new(StringArray::from_iter_values(values.collect::<Vec<_>>()))
}

fn optional_texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn floats(values: impl Iterator<Item = f64>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<Float64Array>())
}

fn counts(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.collect::<UInt64Array>())
}

/// Times in RFC 3339 as time stamps; null for a text that is not a time.
fn times<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    let parse = |text: Option<&str>| Some(text?.parse::<jiff::Timestamp>().ok()?.as_microsecond());
    Arc::new(values.map(parse).collect::<TimestampMicrosecondArray>().with_timezone("+00:00"))
}

fn actions(records: &[ActionRecord]) -> Result<RecordBatch> {
    let all = records.iter();
    batch(vec![
        ("pipeline", texts(all.clone().map(|it| &it.pipeline))),
        ("stage", texts(all.clone().map(|it| &it.stage))),
        ("variant", texts(all.clone().map(|it| &it.variant))),
        ("kind", texts(all.clone().map(|it| &it.kind))),
        ("started", times(all.clone().map(|it| Some(it.started.as_str())))),
        ("finished", times(all.clone().map(|it| Some(it.finished.as_str())))),
        ("seconds", floats(all.clone().map(|it| it.seconds))),
        ("bytes", counts(all.clone().map(|it| Some(it.bytes)))),
        ("artifact", texts(all.clone().map(|it| it.artifact.to_hex()))),
        ("key", texts(all.clone().map(|it| it.key.to_hex()))),
        ("run", texts(all.clone().map(|it| &it.run))),
        ("notes", texts(all.clone().map(|it| it.notes.join("\n")))),
        ("accepted", optional_texts(all.clone().map(|it| it.accepted.as_ref().map(ToString::to_string)))),
        ("action", texts(all.map(|it| canonical(&it.action)))),
    ])
}

/// One row for each value in an action, such as `parameters.clusters` or `seed`. The key of an action is its digest.
fn key_parts(records: &[ActionRecord], warnings: &Warnings) -> Result<RecordBatch> {
    let mut rows: Vec<(&ActionRecord, String, String)> = Vec::new();
    let mut unknown = 0;
    for record in records {
        // Skip an action that another version of raisin wrote.
        let Ok(action) = Action::of_json(&record.action) else {
            unknown += 1;
            continue;
        };
        rows.extend(action.leaves().into_iter().map(|(part, value)| (record, part, value)));
    }
    if unknown > 0 {
        warnings.add(format!("the actions of {unknown} records have a form that this raisin does not know: left out"));
    }
    batch(vec![
        ("pipeline", texts(rows.iter().map(|(record, ..)| &record.pipeline))),
        ("stage", texts(rows.iter().map(|(record, ..)| &record.stage))),
        ("variant", texts(rows.iter().map(|(record, ..)| &record.variant))),
        ("part", texts(rows.iter().map(|(_, part, _)| part))),
        ("value", texts(rows.iter().map(|(.., value)| value))),
        ("key", texts(rows.iter().map(|(record, ..)| record.key.to_hex()))),
    ])
}

fn costs(records: &[ActionRecord]) -> Result<RecordBatch> {
    let all = records.iter().flat_map(|record| record.costs.iter().map(move |cost| (record, cost)));
    batch(vec![
        ("pipeline", texts(all.clone().map(|(record, _)| &record.pipeline))),
        ("stage", texts(all.clone().map(|(record, _)| &record.stage))),
        ("variant", texts(all.clone().map(|(record, _)| &record.variant))),
        ("kind", texts(all.clone().map(|(record, _)| &record.kind))),
        ("phase", texts(all.clone().map(|(_, cost)| &cost.phase))),
        ("seconds", floats(all.clone().map(|(_, cost)| cost.seconds))),
        ("tokens", counts(all.clone().map(|(_, cost)| Some(cost.tokens)))),
        ("supervised_tokens", counts(all.clone().map(|(_, cost)| Some(cost.supervised_tokens)))),
        ("flops", floats(all.clone().map(|(_, cost)| cost.flops))),
        ("peak_bytes", counts(all.clone().map(|(_, cost)| Some(cost.peak_bytes)))),
        ("artifact", texts(all.clone().map(|(record, _)| record.artifact.to_hex()))),
        ("key", texts(all.map(|(record, _)| record.key.to_hex()))),
    ])
}

fn artifact_rows(store: &Store, warnings: &Warnings) -> Result<RecordBatch> {
    let makers = makers(records(store, warnings)?);
    let digests = store.artifact_digests()?;
    let manifests: Vec<Option<Manifest>> = digests.iter().map(|digest| store.manifest(*digest)).collect();
    let damaged = manifests.iter().filter(|manifest| manifest.is_none()).count();
    if damaged > 0 {
        let what = if damaged == 1 { "artifact has" } else { "artifacts have" };
        warnings.add(format!("{damaged} {what} no readable manifest: the size is null; `raisin verify` names them"));
    }
    let maker = |of: fn(&ActionRecord) -> &str| {
        let values: Vec<Option<&str>> = digests.iter().map(|digest| makers.get(digest).map(of)).collect();
        values.into_iter()
    };
    let files = manifests.iter().map(|it| it.as_ref().map(|it| it.files.len() as u32));
    batch(vec![
        ("artifact", texts(digests.iter().map(|digest| digest.to_hex()))),
        ("pipeline", optional_texts(maker(|it| &it.pipeline))),
        ("stage", optional_texts(maker(|it| &it.stage))),
        ("kind", optional_texts(maker(|it| &it.kind))),
        ("made", times(maker(|it| &it.finished))),
        ("files", Arc::new(files.collect::<UInt32Array>())),
        ("bytes", counts(manifests.iter().map(|it| it.as_ref().map(Manifest::bytes)))),
        ("path", texts(digests.iter().map(|digest| store.artifact_folder(*digest).display().to_string()))),
    ])
}

fn runs(store: &Store, warnings: &Warnings) -> Result<RecordBatch> {
    let (lines, unreadable) = store.journal_lines()?;
    if unreadable > 0 {
        let what = if unreadable == 1 { "line" } else { "lines" };
        warnings.add(format!("{unreadable} {what} of the journal cannot be read: left out"));
    }
    let mut runs = raisin_store::runs(lines);
    runs.sort_by(|one, other| one.run.cmp(&other.run));
    let all = runs.iter();
    let results = |run: &Run| serde_json::to_string(&run.results).ok().filter(|_| !run.results.is_empty());
    batch(vec![
        ("run", texts(all.clone().map(|it| &it.run))),
        ("pipeline", optional_texts(all.clone().map(|it| it.pipeline.as_ref()))),
        ("file", optional_texts(all.clone().map(|it| it.file.as_ref()))),
        ("started", times(all.clone().map(|it| it.started.as_deref()))),
        ("finished", times(all.clone().map(|it| it.finished.as_deref()))),
        ("outcome", optional_texts(all.clone().map(|it| it.outcome.as_ref()))),
        ("ran", counts(all.clone().map(|it| Some(it.ran)))),
        ("cached", counts(all.clone().map(|it| Some(it.cached)))),
        ("failed", counts(all.clone().map(|it| Some(it.failed)))),
        ("seconds", Arc::new(all.clone().map(|it| it.seconds).collect::<Float64Array>())),
        ("peak_bytes", counts(all.clone().map(|it| it.peak_bytes))),
        ("overrides", texts(all.clone().map(|it| it.overrides.join(" ")))),
        ("commit", optional_texts(all.clone().map(|it| it.commit.as_ref()))),
        ("dirty", Arc::new(all.clone().map(|it| it.dirty).collect::<BooleanArray>())),
        ("version", optional_texts(all.clone().map(|it| it.version.as_ref()))),
        ("machine", optional_texts(all.clone().map(|it| it.machine.as_ref()))),
        ("device", optional_texts(all.clone().map(|it| it.device.as_ref()))),
        ("results", optional_texts(all.map(results))),
    ])
}

fn stages(description: Option<&BuildDescription>) -> Result<RecordBatch> {
    let all = description.map_or(&[][..], |description| &description.stages).iter();
    batch(vec![
        ("stage", texts(all.clone().map(|it| &it.stage))),
        ("kind", texts(all.clone().map(|it| &it.kind))),
        ("variant", texts(all.clone().map(|it| &it.variant))),
        ("sweep", texts(all.clone().map(|it| Value::Object(it.values.clone()).to_string()))),
        ("artifact", texts(all.clone().map(|it| it.artifact.to_hex()))),
        ("key", texts(all.map(|it| it.key.to_hex()))),
    ])
}
