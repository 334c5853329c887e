//! `raisin verify`: reads every action record, manifest and file of the store again, and sets damaged ones aside. The
//! checks of a look-up are in artifact.rs.

use std::collections::{BTreeMap, BTreeSet};

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::Serialize;

use super::artifact::damage;
use super::{ActionRecord, Artifact, Store, if_there};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, ensure};

/// The result of `verify`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    pub artifacts: u64,
    pub records: u64,
    /// The number of files of artifacts that were read.
    pub files_read: u64,
    /// The number of all files of artifacts.
    pub files: u64,
    /// The size of the files that were read, in bytes.
    pub bytes: u64,
    pub damages: Vec<Damage>,
    /// What is missing because it was set aside earlier, or removed by hand: artifacts that an action record names, and
    /// action records in damaged/ whose action has no other record. Each of these can be repaired like a damage.
    pub missing: Vec<Damage>,
    /// The number of damaged memories that were removed. Builds rebuild memories when they need them.
    pub forgotten: u64,
    /// The number of damaged memories that could not be removed. Builds ignore them.
    pub ignored: u64,
    /// The number of memories that cannot be read at the moment, and may be whole. They stay.
    pub unread: u64,
    /// The number of journal lines that are torn or damaged. These lines stay in the journal, and readers skip them.
    pub journal_lines: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// `artifact` or `record`.
    pub what: &'static str,
    pub digest: Digest,
    /// The stages that made the artifact, according to the readable action records.
    pub stages: Vec<String>,
    pub reason: String,
}

/// Hashes every artifact again and reads every action record. Damaged ones are set aside, and the next build makes them
/// again. `sample` is the share of the files of artifacts that is read (0 to 1); `None`: all files. Each run draws its
/// files anew. Every action record and manifest is read, and every fingerprint is compared, whatever the share is.
///
/// Builds may run at the same time; gc waits. Reading all artifacts takes long, and a build may repair a damaged
/// artifact meanwhile. Therefore a damaged artifact is read a second time, directly before it is set aside.
pub fn verify(store: &Store, sample: Option<f64>) -> Result<Verified> {
    let _shared = store.share_to_read()?;
    let memories = store.forget_damaged();
    let mut verified = Verified {
        forgotten: memories.removed,
        ignored: memories.kept,
        unread: memories.unread,
        ..Verified::default()
    };
    verified.journal_lines = store.journal_lines()?.1;
    let mut records = Vec::new();
    for key in store.record_keys()? {
        verified.records += 1;
        match store.record(key).or_else(|_| store.record(key)) {
            Ok(record) => records.extend(record),
            Err(error) => {
                let error = damage(error)?;
                store.set_aside(&store.record_file(key))?;
                let reason = format!("{error:#}");
                verified.damages.push(Damage { what: "record", digest: key, stages: Vec::new(), reason });
            }
        }
    }
    let digests = store.artifact_digests()?;
    verified.artifacts = digests.len() as u64;
    let sampling = Sampling { share: sample, salt: jiff::Timestamp::now().as_nanosecond() };
    let results: Vec<(Digest, Result<Read>)> =
        digests.par_iter().map(|digest| (*digest, read_again(store, *digest, &sampling))).collect();
    for (digest, result) in results {
        // A concurrent build may be repairing the same artifact.
        let one_at_a_time = if result.is_err() { Some(store.lock_artifacts()?) } else { None };
        let result = result.or_else(|_| read_again(store, digest, &sampling));
        match result {
            Ok(read) => {
                verified.files += read.of;
                verified.files_read += read.files;
                verified.bytes += read.bytes;
            }
            Err(error) => {
                let error = damage(error)?;
                store.set_aside(&store.artifact_folder(digest))?;
                drop(one_at_a_time);
                let made = records.iter().filter(|record| record.artifact == digest);
                // Several variants of a stage can have made it.
                let stages: BTreeSet<String> =
                    made.map(|record| format!("{}.{}", record.pipeline, record.stage)).collect();
                let stages = stages.into_iter().collect();
                let reason = format!("{error:#}");
                verified.damages.push(Damage { what: "artifact", digest, stages, reason });
            }
        }
    }
    verified.missing = missing(store, &records, &verified.damages)?;
    Ok(verified)
}

/// The artifacts and action records that are missing, without those in `damages`.
fn missing(store: &Store, records: &[ActionRecord], damages: &[Damage]) -> Result<Vec<Damage>> {
    let known: BTreeSet<Digest> = damages.iter().map(|damage| damage.digest).collect();
    let mut lost: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
    for record in records.iter().filter(|record| !known.contains(&record.artifact)) {
        // Only a path that certainly does not exist counts as missing.
        if if_there(store.artifact_folder(record.artifact).symlink_metadata()).is_ok_and(|there| there.is_none()) {
            lost.entry(record.artifact).or_default().insert(format!("{}.{}", record.pipeline, record.stage));
        }
    }
    let artifact = |(digest, stages): (Digest, BTreeSet<String>)| {
        let stages = stages.into_iter().collect();
        let reason = "it was set aside earlier, or removed by hand".to_owned();
        Damage { what: "artifact", digest, stages, reason }
    };
    let mut missing: Vec<Damage> = lost.into_iter().map(artifact).collect();
    let mut keys = BTreeSet::new();
    for name in store.names_set_aside()? {
        // `set_aside` adds the moment to the name: `<key>.json.<moment>`.
        let key = name.split_once(".json.").and_then(|(key, _)| key.parse::<Digest>().ok());
        let Some(key) = key.filter(|key| !known.contains(key)) else { continue };
        if store.record(key).is_ok_and(|record| record.is_none()) {
            keys.insert(key);
        }
    }
    missing.extend(keys.into_iter().map(|digest| {
        let reason = "it was set aside earlier".to_owned();
        Damage { what: "record", digest, stages: Vec::new(), reason }
    }));
    Ok(missing)
}

/// Decides which files `verify --sample` reads.
struct Sampling {
    share: Option<f64>,
    salt: i128,
}

impl Sampling {
    fn takes(&self, file: Digest, path: &str) -> bool {
        let Some(share) = self.share else { return true };
        let drawn = Digest::of(format!("{} {file} {path}", self.salt).as_bytes());
        let (drawn, _) = drawn.bytes().split_at(4);
        drawn.iter().fold(0.0, |sum, byte| (sum + f64::from(*byte)) / 256.0) < share
    }
}

/// What was read of one artifact.
#[derive(Default)]
struct Read {
    /// The number of files that were read.
    files: u64,
    /// The number of all files of the artifact.
    of: u64,
    /// The size of the files that were read.
    bytes: u64,
}

fn read_again(store: &Store, digest: Digest, sampling: &Sampling) -> Result<Read> {
    let Some(Artifact { folder, manifest, .. }) = store.inspect(digest)? else { return Ok(Read::default()) };
    let mut read = Read { of: manifest.files.len() as u64, ..Read::default() };
    for file in manifest.files.iter().filter(|file| sampling.takes(digest, &file.path)) {
        let path = folder.join(&file.path);
        let now = Digest::of_file(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(now == file.blake3, "the content of {} is not what was written", file.path);
        read.files += 1;
        read.bytes += file.size;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verify_waits_for_gc_and_a_removed_artifact_is_not_damage() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let out = store.root().join("tmp/out");
        std::fs::create_dir_all(&out).unwrap();
        std::fs::write(out.join("a"), "1").unwrap();
        let digest = store.commit(&out).unwrap().digest;
        let alone = store.try_alone().unwrap().unwrap();
        let verified = std::thread::scope(|scope| {
            let verified = scope.spawn(|| verify(&store, None).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!verified.is_finished());
            store.set_aside(&store.artifact_folder(digest)).unwrap();
            drop(alone);
            verified.join().unwrap()
        });
        assert!(verified.artifacts == 0 && verified.damages.is_empty());
        let read = read_again(&store, digest, &Sampling { share: None, salt: 0 }).unwrap();
        assert_eq!((read.files, read.of), (0, 0));
    }
}
