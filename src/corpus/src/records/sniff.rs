//! Finds out what a file is, by its first bytes. Only CSV and TSV need the ending of the file's name.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::csv::Dialect;
use super::divide::MARK;
use super::source::{ByteSource, Compression};
use super::{FileLayout, RecordLayout};
use raisin_base::error::{Context as _, Problem, Result};

/// The number of bytes by which a file is judged.
const HEAD: usize = 1 << 16;

/// A file is no text if more than one of [`MOST_CONTROL`] of its first bytes are control characters.
const JUDGED: usize = 1 << 12;
const MOST_CONTROL: usize = 8;

const UNPACK: &str = "unpack it, and name the unpacked file";
const EXPORT: &str = "write its rows as JSON lines, CSV or Parquet";
const DECRYPT: &str = "decrypt it, and name the decrypted file";
const TENSORS: &str = "it holds tensors; name the file with the texts";

/// The first bytes of files that have no records, what such a file is, and what to do about it.
const REFUSED: [(&[u8], &str, &str); 34] = [
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of git LFS; the data itself was not downloaded",
        "run `git lfs pull` in its folder",
    ),
    (b"PK\x03\x04", "a zip archive (which can be a PyTorch or Excel file)", UNPACK),
    (b"PK\x05\x06", "an empty zip archive", "name another file"),
    (b"\xFD7zXZ\0", "compressed with xz", "unpack it with `unxz`"),
    (b"BZh", "compressed with bzip2", "unpack it with `bunzip2`"),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive", "unpack it with `7z x`"),
    (b"Rar!\x1A\x07", "a RAR archive", UNPACK),
    (b"\x04\x22\x4D\x18", "compressed with lz4", "unpack it with `unlz4`"),
    (b"LZIP", "compressed with lzip", "unpack it with `lzip -d`"),
    (b"\x1F\x9D", "compressed with compress", "unpack it with `uncompress`"),
    (b"\x5D\0\0", "compressed with lzma", "unpack it with `unlzma`"),
    (b"\x80\x02", "a Python pickle", EXPORT),
    (b"\x80\x03", "a Python pickle", EXPORT),
    (b"\x80\x04", "a Python pickle", EXPORT),
    (b"\x80\x05", "a Python pickle", EXPORT),
    (b"%PDF", "a PDF document", EXPORT),
    (b"SQLite format 3\0", "a SQLite database", EXPORT),
    (b"PARE", "an encrypted Parquet file", DECRYPT),
    (b"Salted__", "encrypted with OpenSSL", DECRYPT),
    (b"age-encryption.org/", "encrypted with age", DECRYPT),
    (b"-----BEGIN AGE ENCRYPTED FILE-----", "encrypted with age", DECRYPT),
    (b"-----BEGIN PGP MESSAGE-----", "encrypted with PGP", DECRYPT),
    (b"ORC", "an ORC file", EXPORT),
    (b"Obj\x01", "an Avro file", EXPORT),
    (b"\x89HDF", "an HDF5 file", EXPORT),
    (b"FEA1", "a Feather file of version 1", EXPORT),
    (b"DUCK", "a DuckDB database", EXPORT),
    (b"\x93NUMPY", "a NumPy array", TENSORS),
    (b"GGUF", "a model in GGUF", TENSORS),
    (b"\x89PNG", "a picture", "name the file with the texts"),
    (b"\xFF\xD8\xFF", "a picture", "name the file with the texts"),
    (b"GIF8", "a picture", "name the file with the texts"),
    (b"\x7FELF", "a program", "name the file with the texts"),
    (b"\xD0\xCF\x11\xE0", "an old Office document", EXPORT),
];

/// The layout of a file, and for CSV and TSV the delimiter.
///
/// # Errors
/// The file cannot be read, is empty, or is of a kind that has no records.
pub fn layout(path: &Path) -> Result<(FileLayout, Dialect)> {
    let mut head = Vec::new();
    let mut source = ByteSource::open(path)?;
    if source.size == 0 {
        return Err(refused(path, "is empty", "remove it, or copy it again"));
    }
    source.fill(&mut head, HEAD).with_context(|| format!("cannot read {}", path.display()))?;
    if head.is_empty() {
        return Err(match &source.failure {
            Some(reason) => refused(path, &format!("cannot be unpacked: {reason}"), "copy it again"),
            None => refused(path, "is empty after unpacking", "remove it, or copy it again"),
        });
    }
    let at = |records, delimiter| (FileLayout { records, compression: source.compression }, Dialect { delimiter });
    if head.starts_with(b"PAR1") {
        return Ok(at(RecordLayout::Parquet, 0));
    }
    if head.starts_with(b"ARROW1") || is_arrow_stream(&head) {
        return Ok(at(RecordLayout::Arrow, 0));
    }
    if let Some((what, hint)) = refusal(&head, source.compression) {
        return Err(refused(path, &format!("is {what}"), hint));
    }
    let text = head.strip_prefix(MARK).unwrap_or(&head);
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    let ending = ending(path);
    if matches!(ending.as_str(), "csv" | "tsv" | "tab") && !matches!(first, Some(b'{' | b'[')) {
        if text.contains(&b'\r') && !text.contains(&b'\n') {
            let hint = "convert its line ends: tr '\\r' '\\n' < old > new";
            return Err(refused(path, "has the line ends of old Macintosh files", hint));
        }
        let usual = if ending == "csv" { b',' } else { b'\t' };
        let layout = if ending == "csv" { RecordLayout::Csv } else { RecordLayout::Tsv };
        return Ok(at(layout, delimiter(text, usual)));
    }
    Ok(at(if first == Some(&b'[') { RecordLayout::JsonArray } else { RecordLayout::JsonLines }, 0))
}

fn refused(path: &Path, what: &str, hint: &str) -> raisin_base::error::Error {
    Problem::new(format!("{} {what}", path.display())).hint(hint).into()
}

/// What a file without records is, and what to do about it.
fn refusal(head: &[u8], compression: Option<Compression>) -> Option<(&'static str, &'static str)> {
    if let Some((_, what, hint)) = REFUSED.iter().find(|(sign, ..)| head.starts_with(sign)) {
        return Some((what, hint));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive", "unpack it with `tar -x`, and name the unpacked folder"));
    }
    if compression.is_some() && Compression::of(head).is_some() {
        return Some(("compressed twice", UNPACK));
    }
    // The length of the header, then the header.
    if head.len() > 9 && head[6..9] == [0, 0, b'{'] {
        return Some(("a safetensors file", TENSORS));
    }
    let text = head.strip_prefix(MARK).unwrap_or(head).trim_ascii_start();
    let begins = |sign: &str| text.len() >= sign.len() && text[..sign.len()].eq_ignore_ascii_case(sign.as_bytes());
    if begins("<!doctype html") || begins("<html") || begins("<head") || begins("<script") {
        return Some((
            "a web page, saved instead of the file",
            "download the file itself, often under `raw` or `resolve`",
        ));
    }
    if begins("<?xml") || begins("<!--") {
        return Some(("XML", EXPORT));
    }
    wide(head).or_else(|| {
        let start = &head[..head.len().min(JUDGED)];
        let is_control = |byte: &&u8| matches!(byte, 0..=8 | 14..=26 | 28..=31);
        let is_binary = start.iter().filter(is_control).count() > start.len() / MOST_CONTROL;
        is_binary.then_some(("no text, and of no kind that raisin reads", EXPORT))
    })
}

/// Text of two or four bytes for each character, with or without a byte order mark.
fn wide(head: &[u8]) -> Option<(&'static str, &'static str)> {
    if head.starts_with(&[0xFF, 0xFE, 0, 0]) || head.starts_with(&[0, 0, 0xFE, 0xFF]) {
        return Some(("UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8 old > new"));
    }
    if head.starts_with(&[0xFF, 0xFE]) || head.starts_with(&[0xFE, 0xFF]) {
        return Some(("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8 old > new"));
    }
    // Text of people's data begins with characters of ASCII.
    let zeros: Vec<bool> = head.iter().take(8).map(|byte| *byte == 0).collect();
    match zeros.as_slice() {
        [false, true, true, true, false, true, true, true] => {
            Some(("UTF-32 text", "convert it: iconv -f UTF-32LE -t UTF-8 old > new"))
        }
        [true, true, true, false, true, true, true, false] => {
            Some(("UTF-32 text", "convert it: iconv -f UTF-32BE -t UTF-8 old > new"))
        }
        [false, true, false, true, false, true, ..] => {
            Some(("UTF-16 text", "convert it: iconv -f UTF-16LE -t UTF-8 old > new"))
        }
        [true, false, true, false, true, false, ..] => {
            Some(("UTF-16 text", "convert it: iconv -f UTF-16BE -t UTF-8 old > new"))
        }
        _ => None,
    }
}

/// Whether an Arrow stream begins here: a mark, the length of the schema, and a table of FlatBuffers.
fn is_arrow_stream(head: &[u8]) -> bool {
    let number = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    number(0) == Some(u32::MAX)
        && number(4).is_some_and(|length| (8..1 << 28).contains(&length) && length % 8 == 0)
        && number(8).zip(number(4)).is_some_and(|(root, length)| root >= 4 && root < length)
}

/// The ending of a file's name in small letters, without that of a compression.
fn ending(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = [".gz", ".zst", ".zstd", ".gzip"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    name.rsplit_once('.').map(|(_, ending)| ending.to_owned()).unwrap_or_default()
}

/// The delimiter of the first row: the usual one, or the most frequent other one if the row does not contain it.
fn delimiter(text: &[u8], usual: u8) -> u8 {
    let mut in_quotes = false;
    let mut counts = [0_usize; 256];
    for byte in text.iter().take_while(|byte| **byte != b'\n') {
        in_quotes ^= *byte == b'"';
        counts[usize::from(*byte)] += usize::from(!in_quotes);
    }
    let others = *b"|\t;,";
    let other = others.into_iter().max_by_key(|byte| counts[usize::from(*byte)]).unwrap_or(usual);
    if counts[usize::from(usual)] == 0 && counts[usize::from(other)] > 0 { other } else { usual }
}

/// Whether JSON begins the file, after white space.
pub fn begins_like_json(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(HEAD as u64).read_to_end(&mut head).with_context(|| format!("cannot read {}", path.display()))?;
    let text = head.strip_prefix(MARK).unwrap_or(&head);
    Ok(matches!(text.iter().find(|byte| !byte.is_ascii_whitespace()), Some(b'{' | b'[')))
}
