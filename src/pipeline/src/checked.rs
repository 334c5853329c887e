//! Which parameters passed their kind's check when a pipeline file was last loaded: checking them again would say the same.
//!
//! A check may be expensive (that of `sql` parses the query), and most stages of a file are as they were. What is known
//! holds for this executable only: another one may check more.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use raisin_base::digest::Digest;
use raisin_contract::Declaration;
use raisin_store::{is_there, recall, remember, this_executable};

#[derive(Default)]
pub struct Checked {
    /// Where it is kept; `None` where nothing is.
    place: Option<PathBuf>,
    executable: String,
    before: BTreeSet<Digest>,
    now: BTreeSet<Digest>,
}

impl Checked {
    /// What a cache remembers of a pipeline file.
    pub fn load(cache: &Path, file: &Path) -> Self {
        // One that is not there yet is for the engine to make, and one of another version is not ours to write into.
        if !is_there(cache) {
            return Self::default();
        }
        let Some(executable) = this_executable() else { return Self::default() };
        let name = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let place = cache.join("checked").join(Digest::of(name.as_os_str().as_bytes()).to_hex());
        let bytes = recall(&place).unwrap_or_default();
        let before = bytes.as_chunks::<32>().0.iter().copied().map(Digest::from_bytes).collect();
        Self { place: Some(place), executable, before, now: BTreeSet::new() }
    }

    /// Whether these complete parameters have passed. If not, they are taken to pass now: see [`Self::save`].
    pub fn knows(&mut self, declaration: &Declaration, parameters: &Value) -> bool {
        if self.place.is_none() {
            return false;
        }
        let (kind, version) = (declaration.name, declaration.version);
        let text = format!("{} {kind} {version} {}", self.executable, Digest::of_value(parameters));
        let digest = Digest::of(text.as_bytes());
        self.now.insert(digest);
        self.before.contains(&digest)
    }

    /// Keeps what is known now. Only for a pipeline in which nothing was wrong.
    pub fn save(self) {
        if let Some(place) = self.place.filter(|_| self.now != self.before) {
            remember(&place, &self.now.iter().flat_map(|digest| *digest.bytes()).collect::<Vec<u8>>());
        }
    }
}
