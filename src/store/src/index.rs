//! What a pipeline's last build found in the store, in one file: its next build then reads no record and no manifest
//! of what it finds again, and asks only whether anybody has touched them. What was touched is for [`Store::lookup`].
//!
//! The index is a memory and never a source. Each entry is held against what the file system says of the record and of
//! every file and folder of the artifact, size, times and inode, as a look-up without it does; an entry for which that
//! does not hold is none. So an index that is missing, damaged, of another version or of last week costs time only.
//!
//! One file a pipeline and out folder: it has the size of that pipeline, however large the cache is, and two builds at
//! once of different pipelines do not write the same file.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::cache_only::{recall, remember};
use super::identity::{Eyes, Identity};
use super::leftovers::index_name;
use super::{Fingerprint, Store};
use raisin_base::digest::Digest;

/// Another first line is another version's.
const HEAD: &[u8] = b"raisin index 3\n";

/// Below this, a thread costs more than it saves.
const ENTRIES_PER_THREAD: usize = 128;

/// What the last build of a pipeline found.
#[derive(Debug)]
pub struct Index {
    file: PathBuf,
    /// By key.
    entries: HashMap<Digest, IndexEntry>,
    links: Option<Links>,
    changed: bool,
}

#[derive(Clone, Debug)]
struct IndexEntry {
    artifact: Digest,
    /// Of the action's record.
    record: Fingerprint,
    identity: Identity,
    /// Whether it held when this build began; `None` where that is too long ago.
    untouched: Option<bool>,
}

/// The folders and files under out/ that a build has left, and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Links {
    say: Digest,
    paths: Vec<(PathBuf, Fingerprint)>,
}

impl Index {
    /// The index of the pipeline whose links go to `out`. Holds every entry against the file system at once.
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
                scope.spawn(|| look(store, chunk));
            }
            // This thread takes its part, too.
            first.into_iter().for_each(|chunk| look(store, chunk));
        });
        Self { file, entries: entries.into_iter().collect(), links, changed }
    }

    /// The artifact of the action of this key, if neither artifact nor record has been touched since they were found right.
    pub fn untouched(&self, store: &Store, key: Digest) -> Option<Digest> {
        let entry = self.entries.get(&key)?;
        let look = || Eyes::of(store).is_some_and(|mut eyes| entry.stands(key, &mut eyes));
        entry.untouched.unwrap_or_else(look).then_some(entry.artifact)
    }

    /// Whether anything was learned that is not saved yet.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// What was looked at when the build began counts no longer: stages are about to run, and that takes its time.
    pub fn look_again(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.untouched = None);
    }

    /// Takes up what [`Store::lookup`] or a commit has just found right.
    pub fn learn(&mut self, store: &Store, key: Digest) {
        if let Some(entry) = IndexEntry::of(store, key) {
            self.changed |= !self.entries.get(&key).is_some_and(|before| before.says_the_same(&entry));
            self.entries.insert(key, entry);
        }
    }

    /// Forgets the actions of other keys than these.
    pub fn keep(&mut self, wanted: impl Fn(Digest) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|key, _| wanted(*key));
        self.changed |= self.entries.len() != before;
    }

    /// Whether the links still say this, and nobody has touched them since they were set.
    pub fn links_say(&self, what: Digest) -> bool {
        let stands = |(path, known): &(PathBuf, Fingerprint)| Fingerprint::of(path).is_ok_and(|now| now == *known);
        self.links.as_ref().is_some_and(|links| links.say == what && links.paths.iter().all(stands))
    }

    /// Remembers what the links say, and what their folders look like. Any change of a link changes its folder.
    pub fn remember_links(&mut self, what: Digest, paths: impl IntoIterator<Item = PathBuf>) {
        let seen = |path: PathBuf| Some((Fingerprint::of(&path).ok()?, path)).map(|(seen, path)| (path, seen));
        let paths: Option<Vec<_>> = paths.into_iter().map(seen).collect();
        let links = paths.map(|paths| Links { say: what, paths });
        self.changed |= links != self.links;
        self.links = links;
    }

    /// Writes what has changed.
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
            bytes.extend_from_slice(links.say.bytes());
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
    /// What there is to know of an action; `None` where its record or its artifact's identity cannot be read.
    fn of(store: &Store, key: Digest) -> Option<Self> {
        let file = std::fs::File::open(store.record_file(key)).ok()?;
        // Before its content is read: what is written from here on shows.
        let record = Fingerprint::from(&file.metadata().ok()?);
        let artifact = store.record(key).ok()??.artifact;
        Some(Self { artifact, record, identity: store.identity(artifact)?, untouched: None })
    }

    fn says_the_same(&self, other: &Self) -> bool {
        (self.artifact, self.record, &self.identity) == (other.artifact, other.record, &other.identity)
    }

    fn stands(&self, key: Digest, eyes: &mut Eyes) -> bool {
        self.identity.stands(self.artifact, eyes)
            && eyes.see(["actions/", &key.to_hex(), ".json", ""]) == Some(self.record)
    }
}

fn look(store: &Store, entries: &mut [(Digest, IndexEntry)]) {
    let Some(mut eyes) = Eyes::of(store) else { return };
    for (key, entry) in entries {
        entry.untouched = Some(entry.stands(*key, &mut eyes));
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

/// What an index holds, as it is saved: its entries by key, and its links.
type SavedIndex = (Vec<(Digest, IndexEntry)>, Option<Links>);

/// What was saved; `None` for anything but exactly what [`Index::encode`] wrote.
fn decode(bytes: &[u8]) -> Option<SavedIndex> {
    let mut rest = Rest(bytes.strip_prefix(HEAD)?);
    let count = rest.count()?;
    let mut entries = Vec::with_capacity(count.min(bytes.len() / 100));
    for _ in 0..count {
        let (key, artifact) = (rest.digest()?, rest.digest()?);
        let record = rest.fingerprint()?;
        let mut identity = Identity::default();
        for places in [&mut identity.folders, &mut identity.files] {
            for _ in 0..rest.count()? {
                places.insert(rest.text()?.to_owned(), rest.fingerprint()?);
            }
        }
        for _ in 0..rest.count()? {
            identity.references.insert(rest.text()?.to_owned(), rest.digest()?);
        }
        entries.push((key, IndexEntry { artifact, record, identity, untouched: None }));
    }
    let mut links = None;
    if rest.count()? == 1 {
        let say = rest.digest()?;
        let mut paths = Vec::new();
        for _ in 0..rest.count()? {
            let length = rest.count()?;
            paths.push((PathBuf::from(OsStr::from_bytes(rest.take(length)?)), rest.fingerprint()?));
        }
        links = Some(Links { say, paths });
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

    fn number(&mut self) -> Option<u64> {
        let (taken, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*taken))
    }

    fn count(&mut self) -> Option<usize> {
        self.number()?.try_into().ok()
    }

    fn text(&mut self) -> Option<&'b str> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn digest(&mut self) -> Option<Digest> {
        let (taken, rest) = self.0.split_first_chunk::<32>()?;
        self.0 = rest;
        Some(Digest::from_bytes(*taken))
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

    /// A store with one action, and an index that has found it.
    fn indexed(folder: &Path) -> (Store, Digest, Digest) {
        let store = Store::open(&folder.join("cache")).unwrap();
        let out = store.root().join("tmp/out");
        std::fs::create_dir_all(out.join("sub")).unwrap();
        std::fs::write(out.join("a"), "one").unwrap();
        std::fs::write(out.join("sub/b"), "two").unwrap();
        let artifact = store.commit(&out).unwrap().digest;
        let key = Digest::of(b"key");
        store.write_record(&sample(key, artifact)).unwrap();
        let mut index = Index::load(&store, Path::new("out/p"));
        assert_eq!(index.untouched(&store, key), None);
        index.learn(&store, key);
        index.save();
        (store, key, artifact)
    }

    fn load(store: &Store) -> Index {
        Index::load(store, Path::new("out/p"))
    }

    #[test]
    fn what_was_found_is_found_again_and_what_was_touched_is_not() {
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
            // One that was loaded before believes itself until it is told to look again.
            index.look_again();
            assert_eq!(index.untouched(&store, key), None);
        }
    }

    #[test]
    fn what_the_links_say_is_kept_and_no_cut_of_an_index_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (store, key, artifact) = indexed(folder.path());
        let mut index = load(&store);
        index.remember_links(Digest::of(b"links"), [folder.path().to_owned()]);
        index.save();
        assert!(load(&store).links_say(Digest::of(b"links")));
        assert!(!load(&store).links_say(Digest::of(b"other links")));
        let body = index.encode();
        assert!(decode(&body).is_some());
        (0..body.len()).for_each(|length| assert!(decode(&body[..length]).is_none(), "cut at {length}"));
        assert!(decode(&[b"raisin index 2\n", &body[HEAD.len()..]].concat()).is_none());
        let bytes = std::fs::read(&index.file).unwrap();
        std::fs::write(&index.file, &bytes[..bytes.len() / 2]).unwrap();
        let mut torn = load(&store);
        assert_eq!(torn.untouched(&store, key), None);
        torn.learn(&store, key);
        torn.save();
        assert_eq!(load(&store).untouched(&store, key), Some(artifact));
    }
}
