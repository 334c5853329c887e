//! `[cache]`: the shared cache of a pipeline. It is never part of an action key. check.rs checks the other tables.

use serde_json::{Value, json};

use super::check::wants;
use super::explain::unknown_key;
use super::resources;
use super::tree::{TableEntry, TreeNode};
use raisin_base::error::Problem;
use raisin_contract::remote::{RemoteMode, check_address};

const CACHE_KEYS: [&str; 3] = ["remote", "mode", "max_upload"];

/// The content of `[cache]`. The environment and flags take precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheSettings {
    /// The address of the shared cache, as written.
    pub remote: Option<String>,
    pub mode: Option<RemoteMode>,
    /// The largest artifact that is uploaded, in bytes.
    pub max_upload: Option<u64>,
}

/// Reads and checks `[cache]`.
///
/// # Errors
/// One problem for each wrong key.
pub fn settings(node: Option<&TreeNode>) -> Result<CacheSettings, Vec<Problem>> {
    let mut settings = CacheSettings::default();
    let Some(node) = node else { return Ok(settings) };
    let Some(table) = node.table() else { return Err(vec![wants(node, "cache", "a table")]) };
    let read = |entry: &TableEntry| key(&mut settings, entry).err();
    let problems: Vec<Problem> = table.entries.iter().filter_map(read).collect();
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

fn key(settings: &mut CacheSettings, entry: &TableEntry) -> Result<(), Problem> {
    let node = &entry.node;
    match entry.key.as_str() {
        "remote" => {
            let address = node.text().ok_or_else(|| wants(node, "cache.remote", "a string"))?;
            check_address(address).map_err(|problem| {
                let placed = node.origin.problem(problem.message);
                problem.hint.into_iter().fold(placed, Problem::hint)
            })?;
            settings.remote = Some(address.to_owned());
        }
        "mode" => {
            let mode = node.text().and_then(RemoteMode::named);
            settings.mode = Some(mode.ok_or_else(|| wants(node, "cache.mode", "\"read\" or \"read-write\""))?);
        }
        "max_upload" => {
            let bytes = node.text().and_then(resources::bytes);
            let problem = || wants(node, "cache.max_upload", "a size such as \"500MB\" or \"20GB\"");
            settings.max_upload = Some(bytes.ok_or_else(problem)?);
        }
        _ => return Err(unknown_key("[cache]", entry, &CACHE_KEYS)),
    }
    Ok(())
}

/// The JSON Schema of `[cache]`.
pub fn schema() -> Value {
    json!({
        "description": "The shared cache on an object store. It is not part of any action key.",
        "type": "object",
        "properties": {
            "remote": {
                "description": "The address: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, \
                                file:///folder, or the path of a folder. Credentials come from the environment, never \
                                from here.",
                "type": "string",
            },
            "mode": {
                "description": "\"read\": a build only fetches. \"read-write\": a build also uploads what it made. \
                                Default: read.",
                "enum": RemoteMode::ALL.map(RemoteMode::name),
            },
            "max_upload": {
                "description": "The largest artifact that a build uploads, such as \"2GB\". Default: no limit.",
                "type": "string",
            },
        },
        "additionalProperties": false,
    })
}
