//! Reads the shared cache: record, manifest, files. Each file is hashed while it arrives, and the whole artifact once
//! more when raisin-store puts it into place, as after a stage. Nothing that the store sends is trusted, except that
//! the artifact in a record is the one that its action made.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, UpdateVersion};
use serde_json::Value;

use super::cause::{Meaning, meaning};
use super::session::{AT_ONCE, BrokenRecord, RemoteSession, RemoteTrouble, add, blocking, locked};
use raisin_base::digest::{Digest, canonical};
use raisin_base::error::{Context as _, Result};
use raisin_base::files::if_there;
use raisin_contract::remote::RemoteReply;
use raisin_store::{ActionRecord, FileEntry, Lookup, MANIFEST, Manifest, Waiting, remove_tree};

/// The largest record or manifest that is read.
const MOST_BYTES: u64 = 64 << 20;

/// How long a fetch waits for another process that makes or fetches the same artifact.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// An artifact that was fetched, or that the cache had by then.
pub struct FetchedArtifact {
    pub artifact: Digest,
    /// The size of its files.
    pub bytes: u64,
    /// The bytes that came over the network, with those of the artifacts that it needs.
    pub received: u64,
    pub seconds: f64,
}

/// The transfer of one artifact with the artifacts that it needs.
pub struct Transfer<'s> {
    session: &'s RemoteSession,
    node: usize,
    done: AtomicU64,
    total: AtomicU64,
    received: AtomicU64,
    told: std::sync::Mutex<Instant>,
}

impl<'s> Transfer<'s> {
    pub fn new(session: &'s RemoteSession, node: usize) -> Self {
        let [done, total, received] = [0; 3].map(AtomicU64::new);
        Self { session, node, done, total, received, told: std::sync::Mutex::new(Instant::now()) }
    }

    fn expects(&self, bytes: u64) {
        add(&self.total, bytes);
        self.report();
    }

    fn has(&self, bytes: u64) {
        add(&self.done, bytes);
        if locked(&self.told).elapsed().as_millis() > 100 {
            self.report();
        }
    }

    fn receives(&self, bytes: u64) {
        add(&self.received, bytes);
        add(&self.session.counts.received, bytes);
        self.has(bytes);
    }

    fn report(&self) {
        *locked(&self.told) = Instant::now();
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        self.session.tell(RemoteReply::Progress { node: self.node, done, total });
    }
}

impl RemoteSession {
    /// A record or a manifest; `None` if it does not exist.
    pub async fn small(
        &self,
        object: &object_store::path::Path,
    ) -> Result<Option<(Vec<u8>, ObjectMeta)>, RemoteTrouble> {
        let _permit = self.small_permit().await?;
        let answer = match self.place.store.get(object).await {
            Err(error) if meaning(&error) == Meaning::Absent => {
                self.is_well();
                return Ok(None);
            }
            other => other?,
        };
        let meta = answer.meta.clone();
        if meta.size > MOST_BYTES {
            return Err(RemoteTrouble::Content(format!("{object} has {} bytes, more than raisin reads", meta.size)));
        }
        let bytes = answer.bytes().await?;
        self.is_well();
        Ok(Some((bytes.to_vec(), meta)))
    }

    /// The record of an action; `None` if there is none. A record that is damaged, belongs to another key or, if
    /// `action` is given, to another action, is an error.
    pub async fn record(&self, key: Digest, action: Option<&Value>) -> Result<Option<ActionRecord>, RemoteTrouble> {
        let Some((bytes, meta)) = self.small(&self.place.record(key)).await? else { return Ok(None) };
        let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
        let checked = checked(&bytes, key, action);
        // If the record cannot be used, the record of the run replaces it; see `fetch`.
        let broken = BrokenRecord { version, content: Digest::of(&bytes) };
        locked(&self.broken).insert(key, broken);
        checked.map(Some).map_err(RemoteTrouble::Content)
    }

    /// What the shared cache has of an action: the artifact, and the size of the files that would be fetched.
    pub async fn look(&self, key: Digest, action: Option<&Value>) -> Result<Option<(Digest, u64)>, RemoteTrouble> {
        let Some(record) = self.record(key, action).await? else { return Ok(None) };
        let mut bytes = 0;
        for artifact in record.references.values().chain([&record.artifact]) {
            if self.local.inspect(*artifact).is_ok_and(|found| found.is_some()) {
                continue;
            }
            bytes += self.manifest(*artifact).await?.bytes();
        }
        Ok(Some((record.artifact, bytes)))
    }

    /// Fetches the artifact of an action into the local cache, and writes its action record. `None`: the shared cache
    /// does not have it, or another process makes or fetches it at this moment.
    pub async fn fetch(
        &self,
        key: Digest,
        action: Option<&Value>,
        node: usize,
    ) -> Result<Option<FetchedArtifact>, RemoteTrouble> {
        let fetched = self.fetch_now(key, action, node).await;
        if !matches!(fetched, Err(RemoteTrouble::Content(_))) {
            locked(&self.broken).remove(&key);
        }
        fetched
    }

    async fn fetch_now(
        &self,
        key: Digest,
        action: Option<&Value>,
        node: usize,
    ) -> Result<Option<FetchedArtifact>, RemoteTrouble> {
        let began = Instant::now();
        let local = self.local.clone();
        // Another build makes or fetches the artifact, perhaps for hours: the build then waits for it itself. A build
        // that was just killed holds its lock a moment longer.
        let until = began + LOCK_PATIENCE;
        let wait = move |_| if Instant::now() < until { Waiting::GoOn } else { Waiting::GiveUp };
        let Some(_lock) = blocking(move || local.lock(key, wait)).await? else { return Ok(None) };
        let local = self.local.clone();
        if let Lookup::Hit(record) = blocking(move || local.lookup(key)).await? {
            let (artifact, bytes) = (record.artifact, record.bytes);
            return Ok(Some(FetchedArtifact { artifact, bytes, received: 0, seconds: 0.0 }));
        }
        let Some(record) = self.record(key, action).await? else { return Ok(None) };
        let transfer = Transfer::new(self, node);
        let manifest = self.artifact(record.artifact, &transfer).await?;
        let bytes = manifest.bytes();
        if bytes != record.bytes {
            return Err(RemoteTrouble::Content("the record states another size than the manifest".to_owned()));
        }
        let (local, artifact) = (self.local.clone(), record.artifact);
        blocking(move || local.write_record(&record)).await?;
        add(&self.counts.fetched, 1);
        let received = transfer.received.load(Ordering::Relaxed);
        Ok(Some(FetchedArtifact { artifact, bytes, received, seconds: began.elapsed().as_secs_f64() }))
    }

    /// The manifest of an artifact, checked.
    pub async fn manifest(&self, artifact: Digest) -> Result<Manifest, RemoteTrouble> {
        let short = artifact.short();
        let Some((bytes, _)) = self.small(&self.place.manifest(artifact)).await? else {
            return Err(RemoteTrouble::Content(format!("the manifest of the artifact {short} is gone")));
        };
        let manifest = if Digest::of(&bytes) == artifact { Manifest::from_bytes(&bytes).ok() } else { None };
        let manifest = manifest.filter(|manifest| manifest.files.iter().all(|file| is_plain(&file.path)));
        manifest.ok_or_else(|| RemoteTrouble::Content(format!("the manifest of the artifact {short} is damaged")))
    }

    /// Fetches an artifact, and the artifacts that it needs, unless the cache has them.
    fn artifact<'a>(
        &'a self,
        digest: Digest,
        transfer: &'a Transfer<'_>,
    ) -> BoxFuture<'a, Result<Manifest, RemoteTrouble>> {
        Box::pin(async move {
            if let Some(manifest) = self.own(digest).await? {
                return Ok(manifest);
            }
            // Several stages can need the same artifact. The first one fetches it.
            let local = self.local.clone();
            let lock = blocking(move || local.lock(digest, |_| Waiting::GoOn)).await?;
            if let Some(manifest) = self.own(digest).await? {
                return Ok(manifest);
            }
            let manifest = self.manifest(digest).await?;
            transfer.expects(manifest.bytes());
            let staging = self.local.temporary(&format!("remote-{digest}"));
            let (out, parts) = (staging.join("out"), staging.join("parts"));
            create(&out)?;
            create(&parts)?;
            // A process that was killed in the commit leaves the manifest, which the commit writes itself.
            if_there(std::fs::remove_file(out.join(MANIFEST)))
                .with_context(|| format!("cannot use {}", out.display()))?;
            let files = manifest.files.iter().enumerate();
            stream::iter(files.map(Ok::<_, RemoteTrouble>))
                .try_for_each_concurrent(AT_ONCE, |(number, file)| {
                    self.file(file, out.join(&file.path), parts.join(number.to_string()), transfer)
                })
                .await?;
            let references =
                raisin_contract::references(&out).map_err(|error| RemoteTrouble::Content(format!("{error:#}")))?;
            for (name, needed) in references {
                let needed: Digest =
                    needed.parse().map_err(|error| RemoteTrouble::Content(format!("{name}: {error}")))?;
                self.artifact(needed, transfer).await?;
            }
            let local = self.local.clone();
            let put = move || {
                let put = local.commit_expected(&out, digest);
                // What is not the artifact must not be taken for a part of it by the next build.
                let removed = remove_tree(&staging);
                put.and_then(|artifact| removed.map(|()| artifact))
            };
            blocking(put).await?;
            drop(lock);
            Ok(manifest)
        })
    }

    /// The manifest of an artifact that the local cache has.
    async fn own(&self, digest: Digest) -> Result<Option<Manifest>, RemoteTrouble> {
        let local = self.local.clone();
        // A damaged artifact is fetched again: the commit sets the damaged one aside.
        blocking(move || Ok(local.inspect(digest).ok().flatten().map(|artifact| artifact.manifest))).await
    }

    /// Fetches a file. A file that an earlier attempt has fetched whole is only hashed.
    async fn file(
        &self,
        file: &FileEntry,
        to: PathBuf,
        part: PathBuf,
        transfer: &Transfer<'_>,
    ) -> Result<(), RemoteTrouble> {
        create(to.parent().unwrap_or(Path::new(".")))?;
        if to.metadata().is_ok_and(|found| found.len() == file.size) {
            let (path, wanted) = (to.clone(), file.blake3);
            if blocking(move || Ok(Digest::of_file(&path)? == wanted)).await? {
                transfer.has(file.size);
                return Ok(());
            }
        }
        // A part of an earlier attempt can be wrong, and so can the first transfer of a file.
        for _ in 0..2 {
            let _permit = self.permit().await?;
            if self.download(file, &part, transfer).await? == file.blake3 {
                self.is_well();
                std::fs::rename(&part, &to).with_context(|| format!("cannot write {}", to.display()))?;
                return Ok(());
            }
            std::fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
        }
        locked(&self.wrong).insert(file.blake3);
        Err(RemoteTrouble::Content(format!("the content of {} is not what was written", file.path)))
    }

    /// Downloads what is missing of a file into `part`, and returns the digest of the whole.
    async fn download(&self, file: &FileEntry, part: &Path, transfer: &Transfer<'_>) -> Result<Digest, RemoteTrouble> {
        let cannot = || format!("cannot write {}", part.display());
        let mut hasher = blake3::Hasher::new();
        let mut done = part.metadata().map_or(0, |found| found.len());
        if done > file.size {
            std::fs::remove_file(part).with_context(cannot)?;
            done = 0;
        }
        if done > 0 {
            let path = part.to_owned();
            let hashed = move || Ok(blake3::Hasher::new().update_reader(File::open(path)?)?.clone());
            hasher = blocking(hashed).await?;
            transfer.has(done);
        }
        let mut output = OpenOptions::new().append(true).create(true).open(part).with_context(cannot)?;
        if done < file.size {
            let range = (done > 0).then_some(GetRange::Offset(done));
            let options = GetOptions { range, ..GetOptions::default() };
            let answer = match self.place.store.get_opts(&self.place.blob(file.blake3), options).await {
                Err(error) if meaning(&error) == Meaning::Absent => {
                    return Err(RemoteTrouble::Content(format!("the content of {} is gone", file.path)));
                }
                other => other?,
            };
            if answer.meta.size != file.size {
                let (found, size) = (answer.meta.size, file.size);
                return Err(RemoteTrouble::Content(format!(
                    "{} has {found} bytes where {size} were written",
                    file.path
                )));
            }
            let mut chunks = answer.into_stream();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                done += chunk.len() as u64;
                if done > file.size {
                    break;
                }
                hasher.update(&chunk);
                output.write_all(&chunk).with_context(cannot)?;
                transfer.receives(chunk.len() as u64);
            }
        }
        Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
    }
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// The record in these bytes.
///
/// # Errors
/// The record cannot be used; the text says why.
fn checked(bytes: &[u8], key: Digest, action: Option<&Value>) -> Result<ActionRecord, String> {
    let record = ActionRecord::from_bytes(bytes).map_err(|error| format!("the record is damaged: {error:#}"))?;
    if record.key != key {
        return Err("the record belongs to another key".to_owned());
    }
    // Both were read from JSON, so that both have the same numbers.
    if action.is_some_and(|action| canonical(action) != canonical(&record.action)) {
        return Err("the record belongs to another action".to_owned());
    }
    if record.accepted.is_some() {
        return Err("a person accepted the artifact on another machine".to_owned());
    }
    Ok(record)
}

/// Whether a path of a manifest stays inside the artifact. A manifest of a shared cache can contain anything.
fn is_plain(path: &str) -> bool {
    !path.contains(['\\', '\0']) && path != MANIFEST && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_a_manifest_leads_out_of_the_artifact() {
        assert!(is_plain("a.parquet") && is_plain("model/weights.safetensors") && is_plain("..a/b"));
        for path in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\\b", "a\0", MANIFEST] {
            assert!(!is_plain(path), "{path:?}");
        }
    }
}
