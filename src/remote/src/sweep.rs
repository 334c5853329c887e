//! `raisin remote gc`: finds old action records, and the manifests and files that no remaining record needs. Records
//! are removed first and files last. Therefore an interrupted gc leaves no record whose files are gone.
//!
//! An upload writes files before its manifest, and the manifest before its record. What is young is kept, because an
//! upload may be about to need it. If gc and an upload still meet, the record that lacks files is no hit: the next
//! build runs the stage and replaces the record.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore as _};

use super::place::ObjectKind;
use super::session::{AT_ONCE, RemoteSession, RemoteTrouble};
use raisin_base::digest::Digest;
use raisin_contract::REFERENCES;
use raisin_store::{ActionRecord, Manifest};

/// Manifests and files that are younger than this stay.
const YOUNG: Duration = Duration::from_hours(24);

/// What gc removes, in the order of removal.
#[derive(Debug, Default)]
pub struct Sweep {
    /// For each kind of object: the objects with their sizes.
    pub removed: [Vec<(Path, u64)>; 3],
    /// For each kind of object: the number of objects that stay.
    pub kept: [u64; 3],
    /// Records that cannot be read. They stay until they are old; nothing is kept for them.
    pub unreadable: u64,
}

/// An object with the digest in its name.
struct Listed {
    digest: Option<Digest>,
    meta: ObjectMeta,
}

impl RemoteSession {
    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>, RemoteTrouble> {
        let objects: Vec<ObjectMeta> = self.place.store.list(Some(&self.place.all(kind))).try_collect().await?;
        let digest = |meta: &ObjectMeta| kind.digest(&meta.location);
        Ok(objects.into_iter().map(|meta| Listed { digest: digest(&meta), meta }).collect())
    }

    /// For each kind of object: the number of objects, and their size.
    pub async fn usage(&self) -> Result<[(u64, u64); 3], RemoteTrouble> {
        let mut usage = [(0, 0); 3];
        for (kind, (count, bytes)) in ObjectKind::ALL.into_iter().zip(&mut usage) {
            for listed in self.list(kind).await? {
                *count += 1;
                *bytes += listed.meta.size;
            }
        }
        Ok(usage)
    }

    /// The keys of all records.
    pub async fn keys(&self) -> Result<Vec<Digest>, RemoteTrouble> {
        Ok(self.list(ObjectKind::Record).await?.into_iter().filter_map(|listed| listed.digest).collect())
    }

    /// Finds what gc removes: records that were written longer ago than `older_than`, and what no other record needs.
    pub async fn sweep(&self, older_than: Duration) -> Result<Sweep, RemoteTrouble> {
        let mut sweep = Sweep::default();
        let now = SystemTime::now();
        let is_old = |meta: &ObjectMeta, age: Duration| {
            now.duration_since(SystemTime::from(meta.last_modified)).is_ok_and(|passed| passed >= age)
        };
        let young = YOUNG.min(older_than);
        let mut records = Vec::new();
        for listed in self.list(ObjectKind::Record).await? {
            if is_old(&listed.meta, older_than) {
                sweep.removed[0].push((listed.meta.location, listed.meta.size));
            } else {
                sweep.kept[0] += 1;
                records.push(listed.meta.location);
            }
        }
        let read = stream::iter(records).map(|object| async move {
            let found = self.small(&object).await?;
            Ok::<_, RemoteTrouble>(found.and_then(|(bytes, _)| ActionRecord::from_bytes(&bytes).ok()))
        });
        let read: Vec<Option<ActionRecord>> = read.buffer_unordered(AT_ONCE).try_collect().await?;
        sweep.unreadable = read.iter().filter(|record| record.is_none()).count() as u64;
        let records = read.iter().flatten();
        let artifacts: BTreeSet<Digest> =
            records.flat_map(|record| record.references.values().copied().chain([record.artifact])).collect();

        let listed = self.list(ObjectKind::Manifest).await?;
        let kept_young = listed.iter().filter(|listed| !is_old(&listed.meta, young)).filter_map(|listed| listed.digest);
        let (artifacts, blobs) = self.reached(artifacts.into_iter().chain(kept_young).collect()).await?;
        for (at, listed, needed) in [(1, listed, &artifacts), (2, self.list(ObjectKind::Blob).await?, &blobs)] {
            for Listed { digest, meta } in listed {
                // An object that is none of raisin's stays.
                if digest.is_none_or(|digest| needed.contains(&digest)) || !is_old(&meta, young) {
                    sweep.kept[at] += 1;
                } else {
                    sweep.removed[at].push((meta.location, meta.size));
                }
            }
        }
        Ok(sweep)
    }

    /// The given artifacts with those that they need, and the files of all of them.
    async fn reached(&self, from: BTreeSet<Digest>) -> Result<(BTreeSet<Digest>, BTreeSet<Digest>), RemoteTrouble> {
        let (mut artifacts, mut blobs) = (BTreeSet::new(), BTreeSet::new());
        let mut next: Vec<Digest> = from.into_iter().collect();
        while !next.is_empty() {
            artifacts.extend(next.iter().copied());
            let read = stream::iter(std::mem::take(&mut next)).map(|artifact| self.needs(artifact));
            let read: Vec<(Vec<Digest>, Vec<Digest>)> = read.buffer_unordered(AT_ONCE).try_collect().await?;
            for (files, references) in read {
                blobs.extend(files);
                next.extend(references.into_iter().filter(|reference| !artifacts.contains(reference)));
            }
        }
        Ok((artifacts, blobs))
    }

    /// The files of an artifact, and the artifacts that it needs. A manifest that is gone or damaged needs nothing.
    async fn needs(&self, artifact: Digest) -> Result<(Vec<Digest>, Vec<Digest>), RemoteTrouble> {
        let manifest: Manifest = match self.manifest(artifact).await {
            Err(RemoteTrouble::Content(_)) => return Ok((Vec::new(), Vec::new())),
            manifest => manifest?,
        };
        let mut references = Vec::new();
        if let Some(file) = manifest.files.iter().find(|file| file.path == REFERENCES)
            && let Some((bytes, _)) = self.small(&self.place.blob(file.blake3)).await?
            && let Ok(named) = serde_json::from_slice::<std::collections::BTreeMap<String, Digest>>(&bytes)
        {
            references.extend(named.into_values());
        }
        Ok((manifest.files.into_iter().map(|file| file.blake3).collect(), references))
    }

    /// Removes objects, kind after kind.
    pub async fn remove(&self, sweep: &Sweep) -> Result<(), RemoteTrouble> {
        for objects in &sweep.removed {
            let objects: Vec<_> = objects.iter().map(|(object, _)| Ok(object.clone())).collect();
            let removed = self.place.store.delete_stream(stream::iter(objects).boxed());
            removed.try_for_each(|_| std::future::ready(Ok(()))).await.or_else(|error| match error {
                // Another gc was faster.
                object_store::Error::NotFound { .. } => Ok(()),
                error => Err(error),
            })?;
        }
        Ok(())
    }
}
