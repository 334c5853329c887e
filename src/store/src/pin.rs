//! Pins: marks that make gc keep an artifact although no link reaches it. `pins/<digest>` holds the label of the pin.
//! roots.rs makes the pins roots of gc.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Store, write_atomically};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};

/// A pinned artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub digest: Digest,
    /// The name under which the artifact was pinned, such as `quickstart.tuned [method=raise]`.
    pub label: String,
}

impl Store {
    /// Pins an artifact: gc keeps it until [`Self::unpin`].
    pub fn pin(&self, digest: Digest, label: &str) -> Result<()> {
        let path = self.pin_file(digest);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        write_atomically(&path, format!("{label}\n").as_bytes())
    }

    /// Removes a pin. Returns whether the pin existed.
    pub fn unpin(&self, digest: Digest) -> Result<bool> {
        let path = self.pin_file(digest);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }

    /// All pins, sorted by label.
    ///
    /// # Errors
    /// A pin cannot be read. gc must then stop, because it would remove the pinned artifact.
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
            // A file whose name is not a digest is the temporary file of a process that was killed.
            if let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                match std::fs::read(entry.path()) {
                    // The label is used only in messages. Therefore damage of the label is ignored.
                    Ok(label) => pins.push(Pin { digest, label: String::from_utf8_lossy(&label).trim().to_owned() }),
                    // Another process has removed the pin.
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
