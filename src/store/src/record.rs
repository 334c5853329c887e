//! Action records: the action, its artifact, times, costs and notes, one file for each action. artifact.rs checks the
//! artifact that an action record names.
//!
//! The file is one JSON object. The first member is the blake3 of all bytes that follow. Therefore a flipped bit in an
//! action record is detected before it can lead to a wrong artifact.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Store, if_there, write_atomically};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, anyhow, ensure};
use raisin_contract::Cost;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActionRecord {
    pub key: Digest,
    /// The action as JSON. `key` is the digest of its canonical form.
    pub action: Value,
    pub artifact: Digest,
    /// The artifacts that this artifact needs, by name.
    pub references: BTreeMap<String, Digest>,
    pub kind: String,
    pub stage: String,
    pub pipeline: String,
    /// The variant's name; empty without a sweep.
    pub variant: String,
    /// The id of the run that made the artifact.
    pub run: String,
    /// RFC 3339.
    pub started: String,
    pub finished: String,
    pub seconds: f64,
    pub bytes: u64,
    pub costs: Vec<Cost>,
    /// The notes of the stage for the user.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Set if the stage did not run, because a person accepted the artifact of another action for this action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
}

/// The statement of a person that the differences between two actions are cosmetic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The action that made the artifact.
    pub of: Digest,
    /// The differences between the two actions, as text.
    pub differences: Vec<String>,
    pub by: String,
    /// RFC 3339.
    pub at: String,
    /// The reason that the person gave; may be empty.
    #[serde(default)]
    pub reason: String,
}

impl std::fmt::Display for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (of, differences) = (self.of.short(), self.differences.join("; "));
        write!(f, "by {} at {}, with the artifact of action {of}: {differences}", self.by, self.at)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}

const SEAL_START: &[u8] = b"{\"blake3\":\"";
const SEAL_LENGTH: usize = SEAL_START.len() + 64 + 2;

impl ActionRecord {
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let text = serde_json::to_string(self)?;
        let rest = text.strip_prefix('{').ok_or_else(|| anyhow!("a record is a JSON object"))?;
        let rest = format!("{rest}\n");
        Ok(format!("{{\"blake3\":\"{}\",{rest}", Digest::of(rest.as_bytes())).into_bytes())
    }

    /// # Errors
    /// `bytes` is not exactly the output of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() > SEAL_LENGTH && bytes.starts_with(SEAL_START), "the file does not begin with a blake3");
        let seal = &bytes[SEAL_START.len()..SEAL_LENGTH - 2];
        // As text: a flipped bit can make a digit a capital letter, which is the same number.
        let is_sealed = Digest::of(&bytes[SEAL_LENGTH..]).to_hex().as_bytes() == seal;
        ensure!(is_sealed, "the content does not match the blake3 at its beginning");
        Ok(serde_json::from_slice(bytes)?)
    }
}

impl Store {
    /// The action record with this key; `None` if it does not exist.
    ///
    /// # Errors
    /// The action record is damaged or cannot be read.
    pub fn record(&self, key: Digest) -> Result<Option<ActionRecord>> {
        let path = self.record_file(key);
        let bytes = if_there(std::fs::read(&path)).with_context(|| format!("cannot read {}", path.display()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let damaged = || format!("the action record {} is damaged", path.display());
        let record = ActionRecord::from_bytes(&bytes).with_context(damaged)?;
        ensure!(record.key == key, "the action record {} belongs to another action, {}", path.display(), record.key);
        Ok(Some(record))
    }

    pub fn write_record(&self, record: &ActionRecord) -> Result<()> {
        write_atomically(&self.record_file(record.key), &record.to_bytes()?)
    }

    /// Removes the action record of an action. The artifact stays, until gc finds that nothing leads to it.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove_record(&self, key: Digest) -> Result<()> {
        let path = self.record_file(key);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// All readable action records, the oldest first. Damaged action records are skipped; `verify` reports them.
    pub fn actions(&self) -> Result<Vec<ActionRecord>> {
        let mut records: Vec<ActionRecord> =
            self.record_keys()?.into_iter().filter_map(|key| self.record(key).ok().flatten()).collect();
        records.sort_by(|one, other| (&one.finished, one.key).cmp(&(&other.finished, other.key)));
        Ok(records)
    }

    /// The keys of all action records, including damaged ones.
    pub fn record_keys(&self) -> Result<Vec<Digest>> {
        self.digests_in("actions", ".json")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn sample(key: Digest, artifact: Digest) -> ActionRecord {
        ActionRecord {
            key,
            action: serde_json::json!({"kind": "write", "parameters": {"rate": 0.1}}),
            artifact,
            references: BTreeMap::new(),
            kind: "write".into(),
            stage: "pool".into(),
            pipeline: "story".into(),
            variant: String::new(),
            run: "run".into(),
            started: "2026-01-01T00:00:00Z".into(),
            finished: "2026-01-01T00:00:01Z".into(),
            seconds: 1.0,
            bytes: 3,
            costs: Vec::new(),
            notes: Vec::new(),
            accepted: None,
        }
    }

    #[test]
    fn every_flipped_byte_and_every_cut_of_a_record_is_found() {
        let bytes = sample(Digest::of(b"key"), Digest::of(b"artifact")).to_bytes().unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["stage"], "pool");
        ActionRecord::from_bytes(&bytes).unwrap();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                assert!(ActionRecord::from_bytes(&flipped).is_err(), "bit {bit} of byte {position}");
            }
            assert!(ActionRecord::from_bytes(&bytes[..position]).is_err(), "cut at {position}");
        }
    }
}
