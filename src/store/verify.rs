//! Reads everything again, and sets aside what is not what it was.

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::Serialize;

use super::{Artifact, Store};
use crate::digest::Digest;
use crate::error::Result;

/// What `verify` read and found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    pub artifacts: u64,
    pub records: u64,
    pub bytes: u64,
    pub damages: Vec<Damage>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// `artifact` or `record`.
    pub what: &'static str,
    pub digest: Digest,
    /// The stages that made it, as far as records tell.
    pub stages: Vec<String>,
    pub reason: String,
}

/// Re-hashes every artifact and reads every record; what is damaged goes to damaged/, and the next build makes it again.
pub fn verify(store: &Store) -> Result<Verified> {
    let mut verified = Verified::default();
    let mut records = Vec::new();
    for key in store.record_keys()? {
        verified.records += 1;
        match store.record(key) {
            Ok(record) => records.extend(record),
            Err(error) => {
                store.set_aside(&store.record_file(key))?;
                let reason = format!("{error:#}");
                verified.damages.push(Damage { what: "record", digest: key, stages: Vec::new(), reason });
            }
        }
    }
    let digests = store.artifact_digests()?;
    verified.artifacts = digests.len() as u64;
    let results: Vec<(Digest, Result<u64>)> =
        digests.par_iter().map(|digest| (*digest, read_again(store, *digest))).collect();
    for (digest, result) in results {
        match result {
            Ok(bytes) => verified.bytes += bytes,
            Err(error) => {
                store.set_aside(&store.artifact_folder(digest))?;
                let made = records.iter().filter(|record| record.artifact == digest);
                let stages = made.map(|record| format!("{}.{}", record.pipeline, record.stage)).collect();
                let reason = format!("{error:#}");
                verified.damages.push(Damage { what: "artifact", digest, stages, reason });
            }
        }
    }
    Ok(verified)
}

fn read_again(store: &Store, digest: Digest) -> Result<u64> {
    let Some(Artifact { folder, manifest, .. }) = store.inspect(digest)? else { return Ok(0) };
    for file in &manifest.files {
        let now = Digest::of_file(&folder.join(&file.path))?;
        crate::error::ensure!(now == file.blake3, "the content of {} is not what was written", file.path);
    }
    Ok(manifest.bytes())
}
