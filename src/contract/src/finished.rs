//! What a long stage has finished, part by part, in its work folder: a stage that is started again after a kill takes it
//! up. It knows nothing of what the parts mean; they come in the same order in every run of an action.
//!
//! One line a part, which begins with the blake3 of its JSON. A part counts if its line and all lines before it are
//! whole, so nothing is synced: what a kill or a loss of power tears is computed again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::marker::PhantomData;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};

/// The parts of one phase of a stage.
pub struct Finished<T> {
    file: File,
    earlier: VecDeque<T>,
    kind: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Finished<T> {
    /// What earlier attempts have left of this phase.
    pub fn open(work: &Path, phase: &str) -> Result<Self> {
        let path = work.join(format!("{phase}.jsonl"));
        let open = || -> std::io::Result<Self> {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            let (mut earlier, mut whole) = (VecDeque::new(), 0);
            for line in std::fs::read(&path)?.split_inclusive(|byte| *byte == b'\n') {
                let Some(part) = part(line) else { break };
                earlier.push_back(part);
                whole += line.len() as u64;
            }
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            Ok(Self { file, earlier, kind: PhantomData })
        };
        open().with_context(|| format!("cannot open {}", path.display()))
    }

    /// The next part, from an earlier attempt or else from `make`, and then put aside.
    pub fn next(&mut self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(part) = self.earlier.pop_front() {
            return Ok(part);
        }
        let part = make()?;
        let text = serde_json::to_string(&part)?;
        let line = format!("{} {text}\n", Digest::of(text.as_bytes()));
        self.file.write_all(line.as_bytes()).context("cannot put a finished part aside")?;
        Ok(part)
    }
}

fn part<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (seal, text) = line.split_once(' ')?;
    (seal == Digest::of(text.as_bytes()).to_hex()).then(|| serde_json::from_str(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cut_or_flipped_anywhere_are_made_again_and_only_those() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("phase.jsonl");
        let run = |made: &mut Vec<u64>| {
            let mut finished = Finished::<u64>::open(folder.path(), "phase").unwrap();
            let parts = (0..3).map(|part| {
                let make = || {
                    made.push(part);
                    Ok(part * 11)
                };
                finished.next(make).unwrap()
            });
            assert_eq!(parts.collect::<Vec<_>>(), [0, 11, 22]);
        };
        let mut made = Vec::new();
        run(&mut made);
        assert_eq!(made, [0, 1, 2]);
        let whole = std::fs::read(&path).unwrap();
        let lines = |part: &[u8]| part.split(|byte| *byte == b'\n').count() as u64 - 1;
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let left = lines(&whole[..length]);
            made.clear();
            run(&mut made);
            assert_eq!(made, (left..3).collect::<Vec<_>>(), "cut at {length}");
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            let before = lines(&whole[..place]);
            made.clear();
            run(&mut made);
            assert_eq!(made, (before..3).collect::<Vec<_>>(), "flipped at {place}");
        }
    }
}
