//! The index of a pipeline: the actions and links of its last build, in one cache-only file. With the index, the next
//! build reads no action record and no manifest of an unchanged action; the build compares fingerprints only. If a
//! fingerprint differs, the build calls [`Store::lookup`], which reads the files.
//!
//! The index is never trusted without a check. For each entry, the index compares the saved fingerprints with the
//! current fingerprints of the action record and of every file and folder of the artifact; [`Store::lookup`] makes the
//! same comparison. If a fingerprint differs, the entry is ignored. Therefore an index that is missing, damaged, old or
//! of another version costs time, but never gives a wrong result.
//!
//! Each pipeline and out folder has an index file of its own. Therefore the size of an index file depends on the
//! pipeline, not on the cache, and concurrent builds of different pipelines write different files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::identity::{FingerprintReader, Identity};
use super::leftovers::{changed, index_name};
use super::used::touch;
use super::{Fingerprint, Store};
use raisin_base::cache_only::{recall, remember};
use raisin_base::digest::Digest;
use raisin_base::error::Result;

/// The first line of an index file. An index file of another version begins with another line.
const HEAD: &[u8] = b"raisin index 4\n";

/// With fewer entries per thread, starting a thread takes more time than the thread saves.
const ENTRIES_PER_THREAD: usize = 128;

/// The actions and links of the last build of a pipeline.
#[derive(Debug)]
pub struct BuildIndex {
    file: PathBuf,
    /// By action key.
    entries: HashMap<Digest, IndexEntry>,
    links: Option<Links>,
    changed: bool,
}

#[derive(Clone, Debug)]
struct IndexEntry {
    artifact: Digest,
    /// The fingerprint of the action record.
    record: Fingerprint,
    identity: Identity,
    /// Whether a person accepted the artifact for this action, which did not make it.
    is_accepted: bool,
    /// Whether the fingerprints matched when this build began; `None` if they must be compared again.
    untouched: Option<bool>,
}

/// The links that a build wrote under out/.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Links {
    /// The digest of all links and their targets.
    digest: Digest,
    /// The folders and files that hold the links, with their fingerprints.
    paths: Vec<(PathBuf, Fingerprint)>,
}

impl BuildIndex {
    /// Loads the index of the pipeline whose links are in `out`, and compares the fingerprints of all entries.
    pub fn load(store: &Store, out: &Path) -> Self {
        let file = store.root.join("index").join(index_name(out));
        let read = recall(&file).and_then(|bytes| decode(&bytes));
        let changed = read.is_none();
        let (mut entries, links) = read.unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (entries.len() / ENTRIES_PER_THREAD).clamp(1, cores.min(4));
        let each = entries.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let mut chunks = entries.chunks_mut(each);
            let first = chunks.next();
            for chunk in chunks {
                // If the operating system refuses a thread, the entries of the chunk are compared when they are needed.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || look(store, chunk));
            }
            // The current thread checks the first chunk.
            first.into_iter().for_each(|chunk| look(store, chunk));
        });
        Self { file, entries: entries.into_iter().collect(), links, changed }
    }

    /// The artifact of the action with this key, if artifact and action record are unchanged since they were last
    /// checked.
    pub fn untouched(&self, store: &Store, key: Digest) -> Option<Digest> {
        let entry = self.entries.get(&key)?;
        let look = || FingerprintReader::of(store).is_some_and(|mut reader| entry.is_unchanged(key, &mut reader));
        entry.untouched.unwrap_or_else(look).then_some(entry.artifact)
    }

    /// Whether a person accepted the artifact of the action. An action that is not in the index is looked up in the store.
    pub fn is_accepted(&self, store: &Store, key: Digest) -> bool {
        match self.entries.get(&key) {
            Some(entry) => entry.is_accepted,
            None => store.record(key).is_ok_and(|record| record.is_some_and(|record| record.accepted.is_some())),
        }
    }

    /// Whether the index has changes that are not saved yet.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Discards the results of the comparison at the start of the build. Call this before stages run: a run takes long,
    /// and files can change meanwhile.
    pub fn look_again(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.untouched = None);
    }

    /// Adds an action that [`Store::lookup`] or [`Store::commit`] has just checked.
    pub fn learn(&mut self, store: &Store, key: Digest) {
        if let Some(entry) = IndexEntry::of(store, key) {
            self.changed |= !self.entries.get(&key).is_some_and(|before| before.equals(&entry));
            self.entries.insert(key, entry);
        }
    }

    /// Removes all actions for whose key `wanted` returns false. Their artifacts count as used until now.
    pub fn keep(&mut self, store: &Store, wanted: impl Fn(Digest) -> bool) -> Result<()> {
        for (key, entry) in &self.entries {
            if !wanted(*key) {
                store.note_use(entry.artifact)?;
            }
        }
        let before = self.entries.len();
        self.entries.retain(|key, _| wanted(*key));
        self.changed |= self.entries.len() != before;
        Ok(())
    }

    /// Notes that a build uses the artifacts of the index now; see used.rs.
    pub fn note_use(&mut self) {
        // A file of another user cannot be touched. It is then written anew.
        self.changed |= touch(&self.file).is_err_and(|error| error.kind() != ErrorKind::NotFound);
    }

    /// Whether the links have this digest, and the folders of the links are unchanged since the links were written.
    pub fn has_links(&self, digest: Digest) -> bool {
        let is_unchanged =
            |(path, known): &(PathBuf, Fingerprint)| Fingerprint::of(path).is_ok_and(|now| now == *known);
        self.links.as_ref().is_some_and(|links| links.digest == digest && links.paths.iter().all(is_unchanged))
    }

    /// Saves the digest of the links and the fingerprints of the folders of the links. A change of a link changes the
    /// fingerprint of its folder.
    pub fn remember_links(&mut self, digest: Digest, paths: impl IntoIterator<Item = PathBuf>) {
        let seen = |path: PathBuf| Fingerprint::of(&path).ok().map(|seen| (path, seen));
        let paths: Option<Vec<_>> = paths.into_iter().map(seen).collect();
        let links = paths.map(|paths| Links { digest, paths });
        self.changed |= links != self.links;
        self.links = links;
    }

    /// Writes the index file, if the index has changed.
    pub fn save(&mut self) {
        if self.changed {
            remember(&self.file, &self.encode());
            self.changed = false;
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        put_count(&mut bytes, self.entries.len());
        for (key, entry) in &self.entries {
            for digest in [key, &entry.artifact] {
                bytes.extend_from_slice(digest.bytes());
            }
            put_fingerprint(&mut bytes, &entry.record);
            put_count(&mut bytes, usize::from(entry.is_accepted));
            for places in [&entry.identity.folders, &entry.identity.files] {
                put_count(&mut bytes, places.len());
                for (path, seen) in places {
                    put_text(&mut bytes, path.as_bytes());
                    put_fingerprint(&mut bytes, seen);
                }
            }
            put_count(&mut bytes, entry.identity.references.len());
            for (name, digest) in &entry.identity.references {
                put_text(&mut bytes, name.as_bytes());
                bytes.extend_from_slice(digest.bytes());
            }
        }
        put_count(&mut bytes, usize::from(self.links.is_some()));
        if let Some(links) = &self.links {
            bytes.extend_from_slice(links.digest.bytes());
            put_count(&mut bytes, links.paths.len());
            for (path, seen) in &links.paths {
                put_text(&mut bytes, path.as_os_str().as_bytes());
                put_fingerprint(&mut bytes, seen);
            }
        }
        bytes
    }
}

impl IndexEntry {
    /// The entry of an action; `None` if the action record or the identity of the artifact cannot be read.
    fn of(store: &Store, key: Digest) -> Option<Self> {
        let file = std::fs::File::open(store.record_file(key)).ok()?;
        // The fingerprint is taken before the content is read. Therefore a later write changes the fingerprint.
        let record = Fingerprint::from(&file.metadata().ok()?);
        let read = store.record(key).ok()??;
        let (artifact, is_accepted) = (read.artifact, read.accepted.is_some());
        Some(Self { artifact, record, identity: store.identity(artifact)?, is_accepted, untouched: None })
    }

    fn equals(&self, other: &Self) -> bool {
        (self.artifact, self.record, &self.identity) == (other.artifact, other.record, &other.identity)
    }

    fn is_unchanged(&self, key: Digest, reader: &mut FingerprintReader) -> bool {
        self.identity.is_unchanged(self.artifact, reader)
            && reader.read(["actions/", &key.to_hex(), ".json", ""]) == Some(self.record)
    }
}

fn look(store: &Store, entries: &mut [(Digest, IndexEntry)]) {
    let Some(mut reader) = FingerprintReader::of(store) else { return };
    for (key, entry) in entries {
        entry.untouched = Some(entry.is_unchanged(*key, &mut reader));
    }
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend_from_slice(&(count as u64).to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put_count(bytes, text.len());
    bytes.extend_from_slice(text);
}

fn put_fingerprint(bytes: &mut Vec<u8>, of: &Fingerprint) {
    for number in [of.size, of.modified as u64, of.changed as u64, of.device, of.inode] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
}

/// The artifacts that the indexes of all pipelines name, with the time of the last build that used them.
pub(super) fn artifacts_of_indexes(store: &Store) -> HashMap<Digest, SystemTime> {
    let mut uses = HashMap::new();
    for entry in std::fs::read_dir(store.root.join("index")).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some((entries, _)) = recall(&path).and_then(|bytes| decode(&bytes)) else { continue };
        let moment = changed(&path);
        for (_, IndexEntry { artifact, .. }) in entries {
            uses.entry(artifact).and_modify(|known: &mut SystemTime| *known = moment.max(*known)).or_insert(moment);
        }
    }
    uses
}

/// The content of an index file: the entries by action key, and the links.
type SavedIndex = (Vec<(Digest, IndexEntry)>, Option<Links>);

/// Decodes an index file; `None` if `bytes` is not exactly the output of [`BuildIndex::encode`].
fn decode(bytes: &[u8]) -> Option<SavedIndex> {
    let mut rest = Rest(bytes.strip_prefix(HEAD)?);
    let count = rest.count()?;
    let mut entries = Vec::with_capacity(count.min(bytes.len() / 100));
    for _ in 0..count {
        let (key, artifact) = (rest.digest()?, rest.digest()?);
        let (record, is_accepted) = (rest.fingerprint()?, rest.flag()?);
        let mut identity = Identity::default();
        for places in [&mut identity.folders, &mut identity.files] {
            for _ in 0..rest.count()? {
                places.insert(rest.text()?.to_owned(), rest.fingerprint()?);
            }
        }
        for _ in 0..rest.count()? {
            identity.references.insert(rest.text()?.to_owned(), rest.digest()?);
        }
        entries.push((key, IndexEntry { artifact, record, identity, is_accepted, untouched: None }));
    }
    let mut links = None;
    if rest.count()? == 1 {
        let digest = rest.digest()?;
        let mut paths = Vec::new();
        for _ in 0..rest.count()? {
            let length = rest.count()?;
            paths.push((PathBuf::from(OsStr::from_bytes(rest.take(length)?)), rest.fingerprint()?));
        }
        links = Some(Links { digest, paths });
    }
    rest.0.is_empty().then_some((entries, links))
}

struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        self.number()?.try_into().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.number()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'b str> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn digest(&mut self) -> Option<Digest> {
        self.chunk().map(Digest::from_bytes)
    }

    fn fingerprint(&mut self) -> Option<Fingerprint> {
        Some(Fingerprint {
            size: self.number()?,
            modified: self.number()? as i64,
            changed: self.number()? as i64,
            device: self.number()?,
            inode: self.number()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::record::tests::sample;
    use super::*;

    /// A store with one action, and a saved index that contains this action.
    fn indexed(folder: &Path) -> (Store, Digest, Digest) {
        let store = Store::open(&folder.join("cache")).unwrap();
        let out = store.root().join("tmp/out");
        std::fs::create_dir_all(out.join("sub")).unwrap();
        std::fs::write(out.join("a"), "one").unwrap();
        std::fs::write(out.join("sub/b"), "two").unwrap();
        let artifact = store.commit(&out).unwrap().digest;
        let key = Digest::of(b"key");
        store.write_record(&sample(key, artifact)).unwrap();
        let mut index = BuildIndex::load(&store, Path::new("out/p"));
        assert_eq!(index.untouched(&store, key), None);
        index.learn(&store, key);
        index.save();
        (store, key, artifact)
    }

    fn load(store: &Store) -> BuildIndex {
        BuildIndex::load(store, Path::new("out/p"))
    }

    #[test]
    fn an_untouched_artifact_is_found_again_and_a_touched_one_is_not() {
        type Touch = fn(&Store, Digest, &Path) -> std::io::Result<()>;
        let writable = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let touches: [Touch; 5] = [
            |_, _, artifact| std::fs::write(artifact.join("a"), "One"),
            |_, _, artifact| std::fs::write(artifact.join("sub/c"), ""),
            |_, _, artifact| std::fs::remove_file(artifact.join("sub/b")),
            |store, key, _| std::fs::remove_file(store.record_file(key)),
            |store, key, _| {
                std::fs::copy(store.record_file(key), store.root().join("copy"))
                    .and_then(|_| std::fs::rename(store.root().join("copy"), store.record_file(key)))
            },
        ];
        for touch in touches {
            let folder = tempfile::tempdir().unwrap();
            let (store, key, artifact) = indexed(folder.path());
            let mut index = load(&store);
            assert_eq!(index.untouched(&store, key), Some(artifact));
            let place = store.artifact_folder(artifact);
            for path in [place.clone(), place.join("sub"), place.join("a"), place.join("sub/b")] {
                writable(&path);
            }
            touch(&store, key, &place).unwrap();
            assert_eq!(load(&store).untouched(&store, key), None);
            // An index that was loaded before the change compares the fingerprints only after `look_again`.
            index.look_again();
            assert_eq!(index.untouched(&store, key), None);
        }
    }

    #[test]
    fn the_digest_of_the_links_is_kept_and_a_cut_index_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let (store, key, artifact) = indexed(folder.path());
        let mut index = load(&store);
        index.remember_links(Digest::of(b"links"), [folder.path().to_owned()]);
        index.save();
        assert!(load(&store).has_links(Digest::of(b"links")));
        assert!(!load(&store).has_links(Digest::of(b"other links")));
        let body = index.encode();
        assert!(decode(&body).is_some());
        (0..body.len()).for_each(|length| assert!(decode(&body[..length]).is_none(), "cut at {length}"));
        assert!(decode(&[b"raisin index 3\n", &body[HEAD.len()..]].concat()).is_none());
        let bytes = std::fs::read(&index.file).unwrap();
        std::fs::write(&index.file, &bytes[..bytes.len() / 2]).unwrap();
        let mut torn = load(&store);
        assert_eq!(torn.untouched(&store, key), None);
        torn.learn(&store, key);
        torn.save();
        assert_eq!(load(&store).untouched(&store, key), Some(artifact));
    }
}
