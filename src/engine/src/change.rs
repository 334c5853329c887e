//! Compares two artifacts file by file: rows of tables, bytes of other files, added and removed files. difference.rs
//! compares actions.
//!
//! The comparison reads only manifests and the numbers of rows in the footers of Parquet files, which `raisin-data
//! rows` reads.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::child::executable;
use raisin_base::digest::Digest;
use raisin_contract::Process;
use raisin_store::{FileDifference, Store};

/// A file that differs between two artifacts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// The path of the file below the artifact folder.
    pub file: String,
    #[serde(flatten)]
    pub change: ChangeKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum ChangeKind {
    /// The number of rows of a table differs.
    Rows {
        from: u64,
        to: u64,
    },
    Bytes,
    Added,
    Removed,
}

/// The differences between two artifacts of a store, tables first. Empty if one of the artifacts is gone.
pub fn changes(store: &Store, from: Digest, to: Digest) -> Vec<FileChange> {
    changes_with(store, from, to, rows_of_tables)
}

/// `rows` returns the number of rows of each Parquet file; `None` for a file that it cannot read.
fn changes_with(
    store: &Store,
    from: Digest,
    to: Digest,
    rows: impl Fn(&[PathBuf]) -> Vec<Option<u64>>,
) -> Vec<FileChange> {
    let (Some(before), Some(after)) = (store.manifest(from), store.manifest(to)) else { return Vec::new() };
    let change = |difference| match difference {
        FileDifference::Added(file) => FileChange { file: file.path.clone(), change: ChangeKind::Added },
        FileDifference::Removed(file) => FileChange { file: file.path.clone(), change: ChangeKind::Removed },
        FileDifference::Changed { to, .. } => FileChange { file: to.path.clone(), change: ChangeKind::Bytes },
    };
    let mut found: Vec<FileChange> = before.differences(&after).into_iter().map(change).collect();
    count_rows(&mut found, &[store.artifact_folder(from), store.artifact_folder(to)], rows);
    found.sort_by_key(|change| !matches!(change.change, ChangeKind::Rows { .. }));
    found
}

/// Replaces [`ChangeKind::Bytes`] by [`ChangeKind::Rows`] for tables whose number of rows differs.
fn count_rows(found: &mut [FileChange], artifacts: &[PathBuf; 2], rows: impl Fn(&[PathBuf]) -> Vec<Option<u64>>) {
    let is_table = |change: &&mut FileChange| change.change == ChangeKind::Bytes && change.file.ends_with(".parquet");
    let tables: Vec<&mut FileChange> = found.iter_mut().filter(is_table).collect();
    if tables.is_empty() {
        return;
    }
    let paths: Vec<PathBuf> =
        tables.iter().flat_map(|table| artifacts.iter().map(|artifact| artifact.join(&table.file))).collect();
    for (table, counts) in tables.into_iter().zip(rows(&paths).chunks_exact(2)) {
        if let [Some(from), Some(to)] = *counts
            && from != to
        {
            table.change = ChangeKind::Rows { from, to };
        }
    }
}

/// Asks `raisin-data`, because this executable has no Parquet reader. If `raisin-data` does not answer, the numbers are
/// unknown.
fn rows_of_tables(paths: &[PathBuf]) -> Vec<Option<u64>> {
    let ask = || {
        let program = executable(Process::Data, None).ok()?;
        let output = Command::new(program).arg("rows").args(paths).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.lines().map(|line| line.parse().ok()).collect::<Vec<Option<u64>>>())
    };
    ask().filter(|counts| counts.len() == paths.len()).unwrap_or_else(|| vec![None; paths.len()])
}

/// The maximum number of changes that a text lists.
const TOLD: usize = 3;

/// The changes as text, such as `3 rows more in instructions, other bytes in sources`.
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
        ChangeKind::Rows { from, to } => {
            let (count, which) = if to > from { (to - from, "more") } else { (from - to, "fewer") };
            let rows = if count == 1 { "row" } else { "rows" };
            format!("{count} {rows} {which} in {name}")
        }
        ChangeKind::Bytes => format!("other bytes in {name}"),
        ChangeKind::Added => format!("{name} is new"),
        ChangeKind::Removed => format!("{name} is gone"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_of_rows_bytes_and_files_have_their_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let made = |rows: i32, note: &str, extra: &str| {
            let out = store.root().join("tmp/out");
            std::fs::create_dir_all(&out).unwrap();
            std::fs::write(out.join("rows.parquet"), rows.to_string()).unwrap();
            std::fs::write(out.join("note"), note).unwrap();
            std::fs::write(out.join(extra), "x").unwrap();
            store.commit(&out).unwrap().digest
        };
        let (one, other) = (made(2, "a", "old"), made(5, "b", "new"));
        // In this test, the file of a table contains the number of its rows as text.
        let rows = |paths: &[PathBuf]| {
            paths.iter().map(|path| std::fs::read_to_string(path).ok()?.parse().ok()).collect::<Vec<Option<u64>>>()
        };
        let told = |from, to| in_words(&changes_with(&store, from, to, rows));
        assert_eq!(told(one, other), "3 rows more in rows, new is new, other bytes in note, 1 more files");
        assert_eq!(told(other, made(4, "b", "new")), "1 row fewer in rows");
        assert_eq!(told(other, other), "other bytes");
        assert_eq!(told(one, Digest::of(b"gone")), "other bytes");
    }
}
