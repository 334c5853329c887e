//! Which files of a folder or of a pattern are data. A clone of a published data set also has a description, a licence
//! and the notes of programs.

use std::path::Path;

use super::sniff::begins_like_json;
use raisin_base::error::{Context as _, Result};

/// What a file of a folder is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileRole {
    Data,
    /// The file is not read, for this reason.
    Skip(&'static str),
}

/// Names of files that describe data, in small letters.
const NOTES: [&str; 11] = [
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "croissant.json",
    "metadata.yaml",
    "_success",
    "_metadata",
    "_common_metadata",
    "thumbs.db",
    "desktop.ini",
];

/// The beginnings of names of files for people, in small letters.
const FOR_PEOPLE: [&str; 7] = ["readme", "license", "licence", "notice", "changelog", "citation", "authors"];

const ARCHIVE: &str = "an archive, which must be unpacked first";

/// The endings of the names of programs and documents, in small letters.
const NO_DATA: [(&str, &str); 35] = [
    ("md", "a document"),
    ("rst", "a document"),
    ("pdf", "a document"),
    ("bib", "a document"),
    ("py", "a program"),
    ("sh", "a program"),
    ("ipynb", "a notebook"),
    ("yaml", "settings"),
    ("yml", "settings"),
    ("toml", "settings"),
    ("crc", "a checksum"),
    ("sha256", "a checksum"),
    ("md5", "a checksum"),
    ("lock", "a lock"),
    ("png", "a picture"),
    ("jpg", "a picture"),
    ("jpeg", "a picture"),
    ("gif", "a picture"),
    ("svg", "a picture"),
    ("webp", "a picture"),
    ("html", "a web page"),
    ("htm", "a web page"),
    ("zip", ARCHIVE),
    ("tar", ARCHIVE),
    ("tgz", ARCHIVE),
    ("7z", ARCHIVE),
    ("rar", ARCHIVE),
    ("pkl", "a Python pickle"),
    ("pickle", "a Python pickle"),
    ("pt", "a file of tensors"),
    ("pth", "a file of tensors"),
    ("npy", "a file of tensors"),
    ("npz", "a file of tensors"),
    ("safetensors", "a file of tensors"),
    ("gguf", "a file of tensors"),
];

/// Whether a file of a folder or of a pattern is data. `name` is its name below the folder. A file that is named by
/// itself is always data.
///
/// # Errors
/// The file cannot be read.
pub fn role_of_file(name: &str, path: &Path) -> Result<FileRole> {
    let last = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let ending = last.rsplit_once('.').map_or("", |(_, ending)| ending);
    let skip = |reason| Ok(FileRole::Skip(reason));
    if name.split('/').any(|part| part.starts_with('.')) {
        return skip("a hidden file");
    }
    if NOTES.contains(&last.as_str()) {
        return skip("a note of a program about the data");
    }
    if FOR_PEOPLE.iter().any(|start| {
        last.strip_prefix(start).is_some_and(|rest| matches!(rest, "" | ".md" | ".txt" | ".rst" | ".cff" | ".html"))
    }) {
        return skip("a document");
    }
    if last.rsplit('.').nth(1) == Some("tar") {
        return skip(ARCHIVE);
    }
    if last.starts_with("cache-") && ending == "arrow" {
        return skip("a cache of the package `datasets`");
    }
    if let Some((_, reason)) = NO_DATA.iter().find(|(no_data, _)| *no_data == ending) {
        return skip(reason);
    }
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size == 0 {
        return skip("an empty file");
    }
    if ending == "txt" && !begins_like_json(path)? {
        return skip("a text without JSON");
    }
    Ok(FileRole::Data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_around_the_data_are_skipped_with_a_reason() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let role = |name: &str, content: &str| {
            let path = folder.path().join("file");
            std::fs::write(&path, content)?;
            role_of_file(name, &path)
        };
        for name in [
            "README.md",
            "README",
            "LICENSE",
            "LICENSE.txt",
            "dataset_info.json",
            "train/state.json",
            "dataset_dict.json",
            "dataset_infos.json",
            ".gitattributes",
            ".cache/a.json",
            "_SUCCESS",
            ".part-0.json.crc",
            "part-0.json.crc",
            "cache-1a2b.arrow",
            "load.py",
            "notes.txt",
            "card.MD",
            "b.tar.gz",
            "b.tar.zst",
            "c.zip",
            "index.html",
            "d.pkl",
            "e.pt",
        ] {
            assert!(matches!(role(name, "text")?, FileRole::Skip(_)), "{name}");
        }
        assert_eq!(role("a.jsonl", "")?, FileRole::Skip("an empty file"));
        for name in ["a.jsonl", "data/train-00000-of-00001.parquet", "a.txt", "part-00000", "license_questions.jsonl"] {
            assert_eq!(role(name, " {\"a\": 1}")?, FileRole::Data, "{name}");
        }
        Ok(())
    }
}
