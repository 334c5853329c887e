//! The token sequences of a pool, shared by the stages of all pipelines of a cache: `model` (prefix), `pretrain`,
//! `features`, `selector` and `finetune` encode the same pool with the same tokenizer.
//!
//! The sequences are a [memory](raisin_base::cache_only). Its name is the blake3 of everything on which they depend:
//! the executable, the tokenizer and chat template, the pool and `max_tokens`. Two models with the same tokenizer, such
//! as a base and its proxy, therefore share the memory.
//!
//! Content, with little-endian u32 numbers: the number of rows; for each row the length of its sequence, or
//! [`NO_TARGET`], the number of tokens of the whole row, and the number of its targets; the tokens of all sequences; the
//! supervised marks of all sequences, eight in a byte; the findings as JSON, by row.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use super::codec::{Codec, Sequence};
use super::finding::{Encoded, Finding};
use super::message::Instruction;
use raisin_base::cache_only::{recall, remember, this_executable};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};
use raisin_base::files::if_there;

/// The version of the encoding. Raise this number if [`Codec`] gives other sequences. The name of a memory also depends
/// on the version, size and time of the executable. These three do not suffice: two builds can agree in all of them,
/// because reproducible packages may set all times to the same value.
const ENCODING: u32 = 2;

/// The length of a row without a sequence.
const NO_TARGET: u32 = u32::MAX;

/// Where the sequences of a pool can be shared.
#[derive(Clone, Copy, Debug)]
pub struct SharedTokens<'a> {
    /// The folder of these memories in the cache.
    pub folder: &'a Path,
    /// The digest of the pool's artifact, in hex.
    pub pool: &'a str,
}

impl Codec {
    /// Encodes a pool as [`Self::instructions`] does. If an earlier stage has encoded the pool, reads its sequences.
    pub fn pool(
        &self,
        instructions: &[Instruction],
        max_tokens: usize,
        shared: Option<SharedTokens>,
    ) -> Result<Vec<Encoded>> {
        let Some((shared, executable)) = shared.zip(this_executable()) else {
            return Ok(self.instructions(instructions, max_tokens));
        };
        let version = format!("{} {ENCODING} {executable}", env!("CARGO_PKG_VERSION"));
        let name =
            [&version, shared.pool, &max_tokens.to_string(), &tokenizer_digest(&self.folder)?.to_hex()].join("\n");
        let path = shared.folder.join(Digest::of(name.as_bytes()).to_hex());
        let known = recall(&path).and_then(|bytes| decode(&bytes));
        if let Some(known) = known.filter(|known| known.len() == instructions.len()) {
            // gc removes a memory that no stage has read for a day. If the cache belongs to another user, the time
            // cannot be set.
            let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            return Ok(known);
        }
        let rows = self.instructions(instructions, max_tokens);
        remember(&path, &encode(&rows));
        Ok(rows)
    }
}

/// The digest of the files that determine the tokens of a text: tokenizer, special tokens and chat template.
fn tokenizer_digest(model_folder: &Path) -> Result<Digest> {
    let names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];
    let digest = |name: &str| -> Result<String> {
        let path = model_folder.join(name);
        let digest = if_there(Digest::of_file(&path)).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(digest.map_or_else(String::new, Digest::to_hex))
    };
    let digests = names.map(digest).into_iter().collect::<Result<Vec<_>>>()?;
    Ok(Digest::of(digests.join("\n").as_bytes()))
}

fn encode(rows: &[Encoded]) -> Vec<u8> {
    let sequences = || rows.iter().filter_map(|row| row.sequence.as_ref());
    let row_numbers = |row: &Encoded| {
        let length = row.sequence.as_ref().map_or(NO_TARGET, |sequence| sequence.tokens.len() as u32);
        [length, row.tokens as u32, row.targets as u32]
    };
    let numbers = std::iter::once(rows.len() as u32)
        .chain(rows.iter().flat_map(row_numbers))
        .chain(sequences().flat_map(|row| row.tokens.iter().copied()));
    let mut bytes: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
    for (token, mark) in sequences().flat_map(|row| &row.supervised).enumerate() {
        if token % 8 == 0 {
            bytes.push(0);
        }
        if let Some(last) = bytes.last_mut() {
            *last |= u8::from(*mark) << (token % 8);
        }
    }
    let findings = rows.iter().map(|row| &row.findings).enumerate().filter(|(_, findings)| !findings.is_empty());
    let findings: BTreeMap<usize, &Vec<Finding>> = findings.collect();
    bytes.extend(serde_json::to_vec(&findings).unwrap_or_default());
    bytes
}

/// The rows that [`encode`] wrote; `None` if the bytes have another layout.
fn decode(bytes: &[u8]) -> Option<Vec<Encoded>> {
    let numbers =
        |bytes: &[u8]| -> Vec<u32> { bytes.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect() };
    let (count, rest) = bytes.split_at_checked(4)?;
    let (rows, rest) = rest.split_at_checked(12 * *numbers(count).first()? as usize)?;
    let rows = numbers(rows);
    let rows = rows.as_chunks::<3>().0;
    let total: usize = rows.iter().filter(|row| row[0] != NO_TARGET).map(|row| row[0] as usize).sum();
    let (tokens, rest) = rest.split_at_checked(4 * total)?;
    let (marks, findings) = rest.split_at_checked(total.div_ceil(8))?;
    let mut findings: BTreeMap<usize, Vec<Finding>> = serde_json::from_slice(findings).ok()?;
    let mut start = 0;
    let row = |(place, &[length, whole, targets]): (usize, &[u32; 3])| {
        let sequence = (length != NO_TARGET).then(|| {
            let range = start..start + length as usize;
            start = range.end;
            let supervised = range.clone().map(|token| marks[token / 8] >> (token % 8) & 1 == 1).collect();
            Sequence { tokens: numbers(&tokens[4 * range.start..4 * range.end]), supervised }
        });
        let findings = findings.remove(&place).unwrap_or_default();
        Encoded { sequence, tokens: whole as usize, targets: targets as usize, findings }
    };
    Some(rows.iter().enumerate().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::byte_tokenizer;
    use crate::finding::FindingKind;
    use crate::message::conversation;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = Encoded> {
        let tokens = prop::collection::vec((any::<u32>(), any::<bool>()), 0..40);
        let sequence = prop::option::of(tokens.prop_map(|tokens| {
            let (tokens, supervised) = tokens.into_iter().unzip();
            Sequence { tokens, supervised }
        }));
        let finding = prop::sample::select(FindingKind::ALL.to_vec()).prop_map(|kind| Finding::of_row(kind, "why"));
        (sequence, 0..5000usize, 0..50usize, prop::collection::vec(finding, 0..2))
            .prop_map(|(sequence, tokens, targets, findings)| Encoded { sequence, tokens, targets, findings })
    }

    proptest! {
        #[test]
        fn sequences_are_read_back_and_truncated_bytes_are_noticed(
            rows in prop::collection::vec(row(), 0..20),
            cut: prop::sample::Index,
        ) {
            let bytes = encode(&rows);
            prop_assert_eq!(decode(&bytes), Some(rows));
            prop_assert_eq!(decode(&bytes[..cut.index(bytes.len())]), None);
        }
    }

    #[test]
    fn a_pool_is_encoded_once_for_each_tokenizer_pool_and_limit() -> Result<()> {
        let folder = tempfile::tempdir()?;
        byte_tokenizer::write(folder.path(), 256)?;
        let codec = Codec::load(folder.path())?;
        let instruction = |id, response| Instruction::new(id, conversation(None, "a", Some(response)));
        let (one, other) = ([instruction(0, "one"), instruction(1, "two")], [instruction(0, "1"), instruction(1, "2")]);
        let memories = folder.path().join("tokens");
        let shared = |pool| Some(SharedTokens { folder: &memories, pool });
        let count = || std::fs::read_dir(&memories).into_iter().flatten().count();

        let rows = codec.pool(&one, 100, shared("first"))?;
        assert_eq!(rows, codec.instructions(&one, 100));
        assert_eq!(count(), 1);
        // The memory is read: it still gives the first pool.
        assert_eq!(codec.pool(&other, 100, shared("first"))?, rows);
        // Each of these makes other sequences.
        assert_ne!(codec.pool(&other, 100, shared("second"))?, rows);
        assert_ne!(codec.pool(&one, 4, shared("first"))?, rows);
        assert_eq!(codec.pool(&one, 100, None)?, rows);
        assert_eq!(count(), 3);
        std::fs::write(
            folder.path().join("chat_template.jinja"),
            "{% for m in messages %}{{ m.content }}{% endfor %}",
        )?;
        assert_ne!(Codec::load(folder.path())?.pool(&one, 100, shared("first"))?, rows);
        assert_eq!(count(), 4);
        Ok(())
    }

    #[test]
    fn a_damaged_memory_is_encoded_again() -> Result<()> {
        let folder = tempfile::tempdir()?;
        byte_tokenizer::write(folder.path(), 256)?;
        let codec = Codec::load(folder.path())?;
        let one = [Instruction::new(0, conversation(None, "a", Some("b")))];
        let memories = folder.path().join("tokens");
        let shared = Some(SharedTokens { folder: &memories, pool: "first" });
        let rows = codec.pool(&one, 100, shared)?;
        let path = std::fs::read_dir(&memories)?.next().expect("one memory")?.path();
        let whole = std::fs::read(&path)?;
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            std::fs::write(&path, flipped)?;
            assert_eq!(codec.pool(&one, 100, shared)?, rows, "byte {place}");
            assert_eq!(std::fs::read(&path)?, whole, "byte {place}");
        }
        Ok(())
    }
}
