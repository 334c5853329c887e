//! Pins: artifacts that gc keeps though no link reaches them. `pins/<digest>` holds what they were pinned as.

use std::path::PathBuf;

use super::{Store, write_atomically};
use crate::digest::Digest;
use crate::error::{Context as _, Result};

/// A pinned artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub digest: Digest,
    /// Such as `quickstart.tuned [method=raise]`.
    pub label: String,
}

impl Store {
    /// Keeps an artifact until it is unpinned.
    pub fn pin(&self, digest: Digest, label: &str) -> Result<()> {
        let path = self.pin_file(digest);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        write_atomically(&path, format!("{label}\n").as_bytes())
    }

    /// Whether there was such a pin.
    pub fn unpin(&self, digest: Digest) -> Result<bool> {
        let path = self.pin_file(digest);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }

    /// All pins, by label.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        let mut pins = Vec::new();
        let Ok(entries) = std::fs::read_dir(self.root.join("pins")) else { return Ok(pins) };
        for entry in entries {
            let entry = entry?;
            // A name that is no digest is a pin that was being written when its process died.
            if let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                let label = std::fs::read_to_string(entry.path())?.trim().to_owned();
                pins.push(Pin { digest, label });
            }
        }
        pins.sort_by(|one, other| (&one.label, one.digest).cmp(&(&other.label, other.digest)));
        Ok(pins)
    }

    fn pin_file(&self, digest: Digest) -> PathBuf {
        self.root.join("pins").join(digest.to_hex())
    }
}
