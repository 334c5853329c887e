//! A memory of the parameters that passed the check of their kind when a pipeline file was last loaded. These
//! parameters are not checked again. src/base/src/cache_only.rs writes and reads the file.
//!
//! A check may be expensive (the check of `sql` parses the query), and most stages of a file do not change between two
//! loads. The memory is valid only for the executable that wrote it, because another executable may check more.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use raisin_base::cache_only::{recall, remember, this_executable};
use raisin_base::digest::Digest;
use raisin_contract::Declaration;
use raisin_store::is_there;

#[derive(Default)]
pub struct CheckedParameters {
    /// The path of the memory; `None` if nothing is saved.
    place: Option<PathBuf>,
    executable: String,
    /// The digests of the parameters that passed in the last load.
    before: BTreeSet<Digest>,
    /// The digests of the parameters of this load.
    now: BTreeSet<Digest>,
}

impl CheckedParameters {
    /// Loads the memory of a pipeline file.
    pub fn load(cache: &Path, file: &Path) -> Self {
        // If the cache does not exist yet, the engine creates it later. A cache of another version must not be changed.
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

    /// Whether these complete parameters passed in the last load. In either case, they are noted as parameters that
    /// pass in this load: [`Self::save`] is called only if they do.
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

    /// Saves the parameters of this load. Call this only if the pipeline has no problem.
    pub fn save(self) {
        if let Some(place) = self.place.filter(|_| self.now != self.before) {
            remember(&place, &self.now.iter().flat_map(|digest| *digest.bytes()).collect::<Vec<u8>>());
        }
    }
}
