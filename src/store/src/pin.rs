//! Pins: artifacts that gc keeps though no link reaches them. `pins/<digest>` holds what they were pinned as.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Store, write_atomically};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};

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
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }

    /// All pins, by label.
    ///
    /// # Errors
    /// Pins that cannot be read, which gc would take for none.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        let mut pins = Vec::new();
        let folder = self.root.join("pins");
        let cannot = |path: &Path| format!("cannot read {}", path.display());
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(pins),
            Err(error) => return Err(error).with_context(|| cannot(&folder)),
        };
        for entry in entries {
            let entry = entry.with_context(|| cannot(&folder))?;
            // A name that is no digest is a pin that was being written when its process died.
            if let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                match std::fs::read(entry.path()) {
                    // A label is words only: a flipped byte in it is no reason to fail.
                    Ok(label) => pins.push(Pin { digest, label: String::from_utf8_lossy(&label).trim().to_owned() }),
                    // Unpinned meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(|| cannot(&entry.path())),
                }
            }
        }
        pins.sort_by(|one, other| (&one.label, one.digest).cmp(&(&other.label, other.digest)));
        Ok(pins)
    }

    fn pin_file(&self, digest: Digest) -> PathBuf {
        self.root.join("pins").join(digest.to_hex())
    }
}
