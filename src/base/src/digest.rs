//! blake3 digests of bytes, files and JSON values, and the canonical JSON under the digests of action keys and
//! manifests. The crates engine and store decide what is hashed.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Result, ensure};

/// Bytes that are read from a file at once.
const BUFFER: usize = 1 << 20;

/// Input files from this size on are read through a memory map.
const MAPPED: u64 = 64 << 20;

/// 32 bytes of blake3, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a file's content. The file is read, not mapped. If the disk fails, or if another process truncates
    /// the file, reading gives an error; a memory map would end the process.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Self::of_reader(file, size)
    }

    fn of_reader(mut file: impl Read, size: u64) -> std::io::Result<Self> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut buffer = vec![0; size.clamp(1 << 12, BUFFER)];
        let mut hasher = blake3::Hasher::new();
        loop {
            let filled = fill(&mut file, &mut buffer)?;
            // Below this size, the threads cost more than they save.
            if filled < BUFFER {
                hasher.update(&buffer[..filled]);
            } else {
                hasher.update_rayon(&buffer);
            }
            if filled < buffer.len() {
                return Ok(Self(*hasher.finalize().as_bytes()));
            }
        }
    }

    /// The digest of an opened file outside the store. A large file is read through a memory map on all cores, which is
    /// faster. If another process truncates the file while it is mapped, the process ends.
    ///
    /// # Errors
    /// The file cannot be read, or has more bytes than its size says: it grows, or it has no end.
    pub fn of_input(file: &File) -> std::io::Result<Self> {
        let size = file.metadata()?.len();
        if size < MAPPED {
            let mut bytes = file.take(size + 1);
            let digest = Self::of_reader(&mut bytes, size)?;
            if bytes.limit() == 0 {
                let message = format!("it has more bytes than its size says ({size})");
                return Err(std::io::Error::new(ErrorKind::InvalidData, message));
            }
            return Ok(digest);
        }
        let mut hasher = blake3::Hasher::new();
        // The name in /proc leads to the opened file, whatever the path of the file names by now.
        hasher.update_mmap_rayon(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The digest of a value's canonical JSON; see [`canonical`].
    pub fn of_json(value: &Value) -> Self {
        Self::of(canonical(value).as_bytes())
    }

    /// The digest of a value with its keys in their present order. This saves the sorting of the canonical JSON. Use
    /// the digest only for data that stays on this machine.
    pub fn of_value(value: &Value) -> Self {
        Self::of(value.to_string().as_bytes())
    }

    pub fn to_hex(self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// The first 12 digits, for display.
    pub fn short(self) -> String {
        self.to_hex()[..12].to_owned()
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest with these bytes; see [`Self::bytes`].
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// Fills the buffer, or reads to the end of the file.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(
            text.len() == 64,
            "a blake3 digest has 64 hexadecimal digits, but `{text}` has {} characters",
            text.len()
        );
        Ok(Self(*blake3::Hash::from_hex(text)?.as_bytes()))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// JSON with sorted keys and no spaces. Equal values give equal bytes, independent of the order of their keys.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            text.push('{');
            for (position, (key, value)) in entries.into_iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_order_does_not_change_the_digest() {
        let one: Value = serde_json::from_str(r#"{"b":[1,{"y":2,"x":3}],"a":null}"#).expect("valid JSON");
        let two: Value = serde_json::from_str(r#"{"a":null,"b":[1,{"x":3,"y":2}]}"#).expect("valid JSON");
        assert_eq!(canonical(&one), r#"{"a":null,"b":[1,{"x":3,"y":2}]}"#);
        assert_eq!(Digest::of_json(&one), Digest::of_json(&two));
        // Action keys and manifests of earlier versions depend on these bytes. The bytes must never change.
        let odd = serde_json::json!({"é\n\"": [1.5, -3, 1e30, true], "Z": {}, "a b": [], "": u64::MAX});
        let text = "{\"\":18446744073709551615,\"Z\":{},\"a b\":[],\"é\\n\\\"\":[1.5,-3,1e+30,true]}";
        assert_eq!(canonical(&odd), text);
    }

    #[test]
    fn a_digest_survives_its_text_form() {
        let digest = Digest::of(b"raisin");
        assert_eq!(digest.to_hex().parse::<Digest>().expect("valid"), digest);
        assert!("abc".parse::<Digest>().is_err());
    }

    #[test]
    fn a_file_has_the_digest_of_its_bytes_whatever_its_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        for size in [0, 1, 4095, 4096, 4097, BUFFER - 1, BUFFER, BUFFER + 1, 2 * BUFFER, 3 * BUFFER + 77] {
            let bytes: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
            std::fs::write(&path, &bytes).expect("written");
            assert_eq!(Digest::of_file(&path).expect("read"), Digest::of(&bytes), "{size} bytes");
        }
        let bytes = vec![7; MAPPED as usize + 1];
        std::fs::write(&path, &bytes).expect("written");
        assert_eq!(Digest::of_input(&File::open(&path).expect("opened")).expect("mapped"), Digest::of(&bytes));
        assert_eq!(Digest::of_file(&path).expect("read"), Digest::of(&bytes));
    }
}
