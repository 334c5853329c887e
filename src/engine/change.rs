//! What two artifacts differ in: rows of tables, bytes of other files, files that only one of them has.
//!
//! It reads manifests and the ends of Parquet files, never a table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::store::{MANIFEST, Manifest, Store};
use crate::table;

/// A file that is not the same in two artifacts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Below the artifact.
    pub file: String,
    #[serde(flatten)]
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    /// A table with another number of rows.
    Rows {
        from: u64,
        to: u64,
    },
    Bytes,
    Added,
    Removed,
}

/// What differs between two artifacts of a store, tables first; empty where one of them is gone.
pub fn changes(store: &Store, from: Digest, to: Digest) -> Vec<FileChange> {
    let (Some(before), Some(after)) = (files(store, from), files(store, to)) else { return Vec::new() };
    let rows = |artifact: Digest, file: &str| table::rows(&store.artifact_folder(artifact).join(file)).ok();
    let mut found = Vec::new();
    for (file, digest) in &after {
        let change = match before.get(file) {
            Some(same) if same == digest => continue,
            Some(_) if file.ends_with(".parquet") => match (rows(from, file), rows(to, file)) {
                (Some(from), Some(to)) if from != to => Change::Rows { from, to },
                _ => Change::Bytes,
            },
            Some(_) => Change::Bytes,
            None => Change::Added,
        };
        found.push(FileChange { file: file.clone(), change });
    }
    let gone = before.keys().filter(|file| !after.contains_key(*file));
    found.extend(gone.map(|file| FileChange { file: file.clone(), change: Change::Removed }));
    found.sort_by_key(|change| !matches!(change.change, Change::Rows { .. }));
    found
}

fn files(store: &Store, artifact: Digest) -> Option<BTreeMap<String, Digest>> {
    let bytes = std::fs::read(store.artifact_folder(artifact).join(MANIFEST)).ok()?;
    let manifest = Manifest::from_bytes(&bytes).ok()?;
    Some(manifest.files.into_iter().map(|file| (file.path, file.blake3)).collect())
}

/// How many changes are told in words.
const TOLD: usize = 3;

/// `3 rows more in instructions, other bytes in sources`
pub fn in_words(changes: &[FileChange]) -> String {
    if changes.is_empty() {
        return "other bytes".to_owned();
    }
    let mut words: Vec<String> = changes.iter().take(TOLD).map(word).collect();
    if changes.len() > TOLD {
        words.push(format!("{} more files", changes.len() - TOLD));
    }
    words.join(", ")
}

fn word(FileChange { file, change }: &FileChange) -> String {
    let name = file.strip_suffix(".parquet").unwrap_or(file);
    match change {
        Change::Rows { from, to } => {
            let (count, which) = if to > from { (to - from, "more") } else { (from - to, "fewer") };
            let rows = if count == 1 { "row" } else { "rows" };
            format!("{count} {rows} {which} in {name}")
        }
        Change::Bytes => format!("other bytes in {name}"),
        Change::Added => format!("{name} is new"),
        Change::Removed => format!("{name} is gone"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array};

    use super::*;

    #[test]
    fn rows_bytes_and_files_of_two_artifacts_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let made = |rows: i32, note: &str, extra: &str| {
            let out = store.root().join("tmp/out");
            std::fs::create_dir_all(&out).unwrap();
            let column = Arc::new((0..rows).collect::<Int32Array>()) as ArrayRef;
            table::write(&out.join("rows.parquet"), &table::batch(vec![("n", column)]).unwrap()).unwrap();
            std::fs::write(out.join("note"), note).unwrap();
            std::fs::write(out.join(extra), "x").unwrap();
            store.commit(&out).unwrap().digest
        };
        let (one, other) = (made(2, "a", "old"), made(5, "b", "new"));
        let told = |from, to| in_words(&changes(&store, from, to));
        assert_eq!(told(one, other), "3 rows more in rows, new is new, other bytes in note, 1 more files");
        assert_eq!(told(other, made(4, "b", "new")), "1 row fewer in rows");
        assert_eq!(told(other, other), "other bytes");
        assert_eq!(told(one, Digest::of(b"gone")), "other bytes");
    }
}
