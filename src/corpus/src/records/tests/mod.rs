mod chunks;
mod damage;
mod layouts;
mod random;
mod refused;
mod rows;

use super::*;
use raisin_base::error::render;

/// A record as it was read.
#[derive(Clone, Debug)]
struct ReadFile {
    line: u64,
    start: u64,
    end: u64,
    value: Result<Value, String>,
    altered: Vec<String>,
}

/// All records of a file with this name and content.
fn read_as(name: &str, content: &[u8], max_bytes: usize) -> Result<(Vec<ReadFile>, FileFacts)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(name);
    std::fs::write(&path, content)?;
    let mut all = Vec::new();
    let facts = for_each_chunk(&path, max_bytes, |records, _| {
        all.extend(records.iter().map(|record| ReadFile {
            line: record.line,
            start: record.offset,
            end: record.offset + record.length as u64,
            value: record.value().map(Cow::into_owned),
            altered: record.altered().iter().map(|field| field.name.clone()).collect(),
        }));
        Ok(())
    })?;
    Ok((all, facts))
}

fn read(content: impl AsRef<[u8]>) -> (Vec<ReadFile>, FileFacts) {
    read_as("file", content.as_ref(), MOST_BYTES).expect("reads")
}

/// The values of the records that could be read.
fn good(records: &[ReadFile]) -> Vec<Value> {
    records.iter().filter_map(|record| record.value.clone().ok()).collect()
}

/// The lines and reasons of the other records.
fn bad(records: &[ReadFile]) -> Vec<(u64, String)> {
    records.iter().filter_map(|record| Some((record.line, record.value.clone().err()?))).collect()
}

/// Made-up rows of instruction data.
fn rows(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| serde_json::json!({"instruction": format!("q{n}"), "input": "", "output": format!("a{n}")}))
        .collect()
}

fn refusal(name: &str, content: &[u8]) -> String {
    render(&read_as(name, content, MOST_BYTES).map(|_| ()).expect_err("refused"))
}
