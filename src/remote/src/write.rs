//! Writes the shared cache: files, then the manifest, then the record. A record is created and never overwritten,
//! except a record that cannot be used. Therefore the first of several writers wins, and a killed upload leaves at worst files
//! without a record.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    Error, MultipartUpload, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, UpdateVersion,
};

use super::cause::{Meaning, meaning};
use super::session::{AT_ONCE, BrokenRecord, RemoteSession, RemoteTrouble, add, blocking, locked};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, anyhow, ensure};
use raisin_contract::remote::RemoteReply;
use raisin_store::{ActionRecord, Artifact, FileEntry, Lookup};

/// Files up to this size are uploaded in one request, and larger files in parts of at least this size.
const PART: u64 = 8 << 20;
/// The largest number of parts that all stores allow.
const MOST_PARTS: u64 = 10_000;
/// The parts of one file that are uploaded at the same time.
const PARTS_AT_ONCE: usize = 3;

/// What became of an upload.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    Written,
    /// The shared cache has a record of the action already.
    Known,
    /// The text says why.
    LeftOut(String),
}

impl RemoteSession {
    /// Uploads the artifact of an action with the artifacts that it needs, and its record.
    pub async fn push(&self, key: Digest) -> Result<Pushed, RemoteTrouble> {
        let local = self.local.clone();
        let Lookup::Hit(mut record) = blocking(move || local.lookup(key)).await? else {
            return Err(RemoteTrouble::Local(anyhow!("the cache does not have the action {} any more", key.short())));
        };
        if record.accepted.is_some() {
            let text = format!("{}: a person accepted the artifact, and an acceptance is not shared", record.stage);
            return Ok(Pushed::LeftOut(text));
        }
        let artifacts = self.with_needed(record.artifact).await?;
        let bytes = artifacts.iter().fold(0, |sum: u64, artifact| sum.saturating_add(artifact.manifest.bytes()));
        if let Some(most) = self.settings.max_upload.filter(|most| bytes > *most) {
            let text = format!("{}: {bytes} bytes, and max_upload is {most}", record.stage);
            return Ok(Pushed::LeftOut(text));
        }
        add(&self.uploads.total, bytes);
        for artifact in &artifacts {
            self.push_artifact(artifact).await?;
        }
        without_paths(&mut record, &self.local.root().display().to_string());
        self.push_record(&record).await
    }

    /// An artifact of the local cache, after the artifacts that it needs.
    async fn with_needed(&self, digest: Digest) -> Result<Vec<Artifact>, RemoteTrouble> {
        let local = self.local.clone();
        let all = move || {
            let (mut all, mut waiting, mut seen) = (Vec::new(), vec![digest], BTreeSet::new());
            while let Some(next) = waiting.pop() {
                if !seen.insert(next) {
                    continue;
                }
                let artifact =
                    local.inspect(next)?.with_context(|| format!("the artifact {} is gone", next.short()))?;
                waiting.extend(artifact.references.values());
                all.push(artifact);
            }
            all.reverse();
            Ok(all)
        };
        blocking(all).await
    }

    async fn push_artifact(&self, artifact: &Artifact) -> Result<(), RemoteTrouble> {
        let files = artifact.manifest.files.iter().map(Ok::<_, RemoteTrouble>);
        stream::iter(files)
            .try_for_each_concurrent(AT_ONCE, |file| self.push_file(file, artifact.folder.join(&file.path)))
            .await?;
        let object = self.place.manifest(artifact.digest);
        let bytes = artifact.manifest.to_bytes()?;
        if self.size_of(&object).await? != Some(bytes.len() as u64) {
            self.place.store.put(&object, PutPayload::from(bytes)).await?;
            self.is_well();
        }
        Ok(())
    }

    /// The size of an object; `None` if it does not exist.
    pub async fn size_of(&self, object: &Path) -> Result<Option<u64>, RemoteTrouble> {
        let _permit = self.small_permit().await?;
        let found = self.place.store.head(object).await;
        match found {
            Err(error) if meaning(&error) == Meaning::Absent => {
                self.is_well();
                Ok(None)
            }
            found => {
                let size = found?.size;
                self.is_well();
                Ok(Some(size))
            }
        }
    }

    async fn push_file(&self, file: &FileEntry, path: PathBuf) -> Result<(), RemoteTrouble> {
        let is_known = file.size == 0 || locked(&self.present).contains(&file.blake3);
        if !is_known {
            let _permit = self.permit().await?;
            let object = self.place.blob(file.blake3);
            let is_wrong = locked(&self.wrong).contains(&file.blake3);
            if !is_wrong && self.size_of(&object).await? == Some(file.size) {
                add(&self.counts.present, file.size);
            } else {
                if file.size <= PART {
                    self.put_whole(file, &path, &object).await?;
                } else {
                    self.put_in_parts(file, &path, &object).await?;
                }
                add(&self.counts.sent, file.size);
            }
            self.is_well();
            locked(&self.present).insert(file.blake3);
        }
        add(&self.uploads.done, file.size);
        self.tell_uploads();
        Ok(())
    }

    async fn put_whole(&self, file: &FileEntry, path: &std::path::Path, object: &Path) -> Result<(), RemoteTrouble> {
        let (path, wanted) = (path.to_owned(), file.blake3);
        let bytes = blocking(move || {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(Digest::of(&bytes) == wanted, "{} is damaged and is not uploaded", path.display());
            Ok(bytes)
        });
        self.place.store.put(object, PutPayload::from(bytes.await?)).await?;
        Ok(())
    }

    async fn put_in_parts(&self, file: &FileEntry, path: &std::path::Path, object: &Path) -> Result<(), RemoteTrouble> {
        let mut upload = self.place.store.put_multipart(object).await?;
        let sent = self.send_parts(file, path, &mut upload).await;
        let ended = match sent {
            Ok(()) => upload.complete().await.map(drop).map_err(RemoteTrouble::from),
            Err(trouble) => Err(trouble),
        };
        if ended.is_err() {
            // The parts of an upload that did not end cost space. If they cannot be removed, the rules of the bucket
            // for incomplete uploads remove them.
            let _ = upload.abort().await;
        }
        ended
    }

    /// Sends the parts of a file, and hashes them. If the bytes are not those of the artifact, the upload must not be
    /// completed.
    async fn send_parts(
        &self,
        file: &FileEntry,
        path: &std::path::Path,
        upload: &mut Box<dyn MultipartUpload>,
    ) -> Result<(), RemoteTrouble> {
        let size = PART.max(file.size.div_ceil(MOST_PARTS));
        let source = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut hasher = blake3::Hasher::new();
        let mut running = stream::FuturesUnordered::new();
        let mut rest = file.size;
        let mut source = source.take(file.size);
        while rest > 0 {
            let length = size.min(rest);
            let read = move || {
                let mut bytes = vec![0; usize::try_from(length)?];
                source.read_exact(&mut bytes)?;
                Ok((source, Bytes::from(bytes)))
            };
            let (again, bytes) = blocking(read).await?;
            source = again;
            rest -= length;
            hasher.update(&bytes);
            running.push(upload.put_part(PutPayload::from(bytes)));
            if running.len() >= PARTS_AT_ONCE {
                running.next().await.transpose()?;
            }
        }
        while running.next().await.transpose()?.is_some() {}
        let is_whole = Digest::from_bytes(*hasher.finalize().as_bytes()) == file.blake3;
        if is_whole {
            return Ok(());
        }
        Err(RemoteTrouble::Local(anyhow!("{} is damaged and is not uploaded", path.display())))
    }

    async fn push_record(&self, record: &ActionRecord) -> Result<Pushed, RemoteTrouble> {
        let (object, bytes) = (self.place.record(record.key), record.to_bytes()?);
        let broken = locked(&self.broken).remove(&record.key);
        if let Some(broken) = broken
            && self.replace(&object, &bytes, broken).await?
        {
            return Ok(Pushed::Written);
        }
        let options = PutOptions::from(PutMode::Create);
        match self.place.store.put_opts(&object, PutPayload::from(bytes.clone()), options).await {
            Ok(_) => {
                self.is_well();
                Ok(Pushed::Written)
            }
            Err(Error::AlreadyExists { .. }) => self.meet(&object, record, &bytes).await,
            Err(error) if lacks_conditions(&error) => {
                self.tell_lack_of_conditions();
                if self.size_of(&object).await?.is_some() {
                    return self.meet(&object, record, &bytes).await;
                }
                self.place.store.put(&object, PutPayload::from(bytes)).await?;
                self.is_well();
                Ok(Pushed::Written)
            }
            // The answer may be lost, and the record written.
            Err(error) => match self.small(&object).await {
                Ok(Some((found, _))) if found == bytes => Ok(Pushed::Written),
                _ => Err(error.into()),
            },
        }
    }

    /// Replaces a record that cannot be used. Returns false if there is another record by now.
    async fn replace(&self, object: &Path, bytes: &[u8], broken: BrokenRecord) -> Result<bool, RemoteTrouble> {
        let update = PutOptions::from(PutMode::Update(broken.version));
        match self.place.store.put_opts(object, PutPayload::from(bytes.to_vec()), update).await {
            Ok(_) => {}
            Err(Error::Precondition { .. } | Error::NotModified { .. } | Error::AlreadyExists { .. }) => {
                return Ok(false);
            }
            Err(error) if lacks_conditions(&error) || matches!(error, Error::Generic { .. }) => {
                let found = self.small(object).await?.map(|(found, _)| found);
                if found.as_deref() == Some(bytes) {
                    return Ok(true);
                }
                if found.is_none_or(|found| Digest::of(&found) != broken.content) {
                    return Ok(false);
                }
                self.place.store.put(object, PutPayload::from(bytes.to_vec())).await?;
            }
            Err(error) => return Err(error.into()),
        }
        self.is_well();
        Ok(true)
    }

    /// There is a record of the action. It stays, and a difference is told, unless the record cannot be used.
    async fn meet(&self, object: &Path, record: &ActionRecord, bytes: &[u8]) -> Result<Pushed, RemoteTrouble> {
        let Some((found, meta)) = self.small(object).await? else {
            return Err(RemoteTrouble::Content("the record was removed a moment ago".to_owned()));
        };
        let theirs = ActionRecord::from_bytes(&found).ok().filter(|theirs| theirs.key == record.key);
        match theirs {
            Some(theirs) if theirs.artifact == record.artifact => return Ok(Pushed::Known),
            Some(theirs) if self.has_all(&theirs).await? => {
                self.tell(RemoteReply::Note {
                    text: format!(
                        "{}: the shared cache has another artifact of this action, {}, made by the stage `{}` of `{}` at \
                         {}; it stays there, and this build keeps its own, {}",
                        record.stage,
                        theirs.artifact.short(),
                        theirs.stage,
                        theirs.pipeline,
                        theirs.finished,
                        record.artifact.short()
                    ),
                });
                return Ok(Pushed::Known);
            }
            _ => {}
        }
        let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
        let broken = BrokenRecord { version, content: Digest::of(&found) };
        Ok(if self.replace(object, bytes, broken).await? { Pushed::Written } else { Pushed::Known })
    }

    /// Whether the shared cache has everything that a record needs.
    async fn has_all(&self, record: &ActionRecord) -> Result<bool, RemoteTrouble> {
        for artifact in record.references.values().chain([&record.artifact]) {
            let manifest = match self.manifest(*artifact).await {
                Err(RemoteTrouble::Content(_)) => return Ok(false),
                manifest => manifest?,
            };
            for file in manifest.files.iter().filter(|file| file.size > 0) {
                if self.size_of(&self.place.blob(file.blake3)).await? != Some(file.size) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Whether a store says that it cannot write under a condition.
pub fn lacks_conditions(error: &Error) -> bool {
    let text = || format!("{error:?}");
    matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. })
        || matches!(error, Error::Generic { .. }) && (text().contains("501") || text().contains("NotImplemented"))
}

/// Removes the notes that contain a path of this machine.
fn without_paths(record: &mut ActionRecord, cache: &str) {
    record.notes.retain(|note| !note.contains(cache));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_conditions_is_recognised() {
        let generic = |text: &str| Error::Generic { store: "S3", source: text.to_owned().into() };
        assert!(lacks_conditions(&generic("Server returned non-2xx status code: 501 Not Implemented")));
        assert!(!lacks_conditions(&generic("Server returned non-2xx status code: 500")));
    }
}
