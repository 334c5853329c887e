//! Pins: marks that make gc keep an artifact although no link reaches it. `pins/<digest>` holds the label of the pin.
//! roots.rs makes the pins roots of gc.

use std::path::PathBuf;

use super::{Store, if_there, write_atomically};
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
        if path.exists() {
            self.note_use(digest)?;
        }
        let removed = if_there(std::fs::remove_file(&path));
        Ok(removed.with_context(|| format!("cannot remove {}", path.display()))?.is_some())
    }

    /// All pins, sorted by label.
    ///
    /// # Errors
    /// A pin cannot be read. gc must then stop, because it would remove the pinned artifact.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        let mut pins = Vec::new();
        for digest in self.digests_in("pins", "")? {
            let path = self.pin_file(digest);
            // Another process may have removed the pin since the folder was read.
            if let Some(label) =
                if_there(std::fs::read(&path)).with_context(|| format!("cannot read {}", path.display()))?
            {
                // The label is used only in messages. Therefore damage of the label is ignored.
                pins.push(Pin { digest, label: String::from_utf8_lossy(&label).trim().to_owned() });
            }
        }
        pins.sort_by(|one, other| (&one.label, one.digest).cmp(&(&other.label, other.digest)));
        Ok(pins)
    }

    fn pin_file(&self, digest: Digest) -> PathBuf {
        self.root.join("pins").join(digest.to_hex())
    }
}
