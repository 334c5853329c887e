//! Records that are believed only if they are whole: the files of a work folder, which a kill tears, a loss of power cuts
//! and a disk may change. Knows nothing of what is in them.
//!
//! A record is some parts and a seal, the blake3 of all before it, which is written last: `rsn1`, the number of parts in
//! 32 bits, the length of each in 64, the parts, the 32 bytes of the seal; numbers are little-endian. A file is one record
//! that is [replaced](replace) whole, or a [list](Records) that grows. What is not whole is set aside beside its file, with
//! `.damaged` after its name, a notice says so, and whoever asked goes on without it.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use blake3::Hasher;

use crate::error::{Context as _, Result, ensure};

const MAGIC: [u8; 4] = *b"rsn1";
const SEAL: u64 = 32;
/// How much of a file is read at once.
const BUFFER: usize = 1 << 20;
/// More parts than any record has: a number above it is not one that was written.
const MOST_PARTS: u32 = 1 << 16;

/// Who hears of what was damaged.
pub type DamageListener<'t> = &'t dyn Fn(&str);

/// Writes a record. `part` gives each part when its turn comes, so that they need not be in memory together.
fn write_record<'p>(
    out: &mut impl Write,
    lengths: &[u64],
    part: &mut dyn FnMut(usize) -> Result<Cow<'p, [u8]>>,
) -> Result<()> {
    let mut hasher = Hasher::new();
    let mut head = MAGIC.to_vec();
    head.extend((lengths.len() as u32).to_le_bytes());
    head.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
    hasher.update(&head);
    out.write_all(&head)?;
    for (number, &length) in lengths.iter().enumerate() {
        let bytes = part(number)?;
        ensure!(bytes.len() as u64 == length, "{} bytes where {length} were announced", bytes.len());
        hasher.update(&bytes);
        out.write_all(&bytes)?;
    }
    out.write_all(hasher.finalize().as_bytes())?;
    Ok(())
}

/// Where the parts of a record lie in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    parts: Vec<(u64, u64)>,
    end: u64,
}

/// The record that begins where `file` stands, at `start`, and of which `left` bytes are there; `None` where it is not
/// whole.
fn find_record(file: &mut impl Read, start: u64, left: u64) -> Option<Places> {
    let mut hasher = Hasher::new();
    let mut take = |count: usize| -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        file.read_exact(&mut bytes).ok()?;
        hasher.update(&bytes);
        Some(bytes)
    };
    let head = take(8)?;
    let count = u32::from_le_bytes(head[4..].try_into().ok()?);
    if head[..4] != MAGIC || count > MOST_PARTS {
        return None;
    }
    let lengths: Vec<u64> = take(count as usize * 8)?
        .chunks_exact(8)
        .map(|bytes| bytes.try_into().ok().map(u64::from_le_bytes))
        .collect::<Option<_>>()?;
    let mut end = start + 8 + u64::from(count) * 8;
    let mut parts = Vec::with_capacity(lengths.len());
    for length in lengths {
        parts.push((end, length));
        end = end.checked_add(length)?;
    }
    if end.checked_add(SEAL)? - start > left {
        return None;
    }
    let mut rest = parts.iter().map(|(_, length)| length).sum::<u64>();
    while rest > 0 {
        let bytes = take(rest.min(BUFFER as u64) as usize)?;
        rest -= bytes.len() as u64;
    }
    let mut seal = [0; SEAL as usize];
    file.read_exact(&mut seal).ok()?;
    (*hasher.finalize().as_bytes() == seal).then_some(Places { parts, end: end + SEAL })
}

/// A record of a file, known to be whole.
#[derive(Debug)]
pub struct Record {
    file: File,
    parts: Vec<(u64, u64)>,
}

impl Record {
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// How long a part is.
    pub fn length(&self, part: usize) -> u64 {
        self.parts.get(part).map_or(0, |(_, length)| *length)
    }

    /// A part, whole.
    pub fn read(&self, part: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_in_pieces(part, BUFFER, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// A part in pieces of `size` bytes, the last one of what is left.
    pub fn read_in_pieces(&self, part: usize, size: usize, piece: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (start, mut left) = *self.parts.get(part).with_context(|| format!("a record without a part {part}"))?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start))?;
        let mut buffer = vec![0; size.min(usize::try_from(left).unwrap_or(size))];
        while left > 0 {
            let now = &mut buffer[..size.min(usize::try_from(left).unwrap_or(size))];
            file.read_exact(now)?;
            piece(now)?;
            left -= now.len() as u64;
        }
        Ok(())
    }
}

/// Puts a record in the place of what the file held. A kill or a loss of power leaves the old one or the new one.
pub fn replace<'p>(path: &Path, lengths: &[u64], mut part: impl FnMut(usize) -> Result<Cow<'p, [u8]>>) -> Result<()> {
    let partial = beside(path, "partial");
    let mut write = || -> Result<()> {
        let mut out = BufWriter::new(File::create(&partial)?);
        write_record(&mut out, lengths, &mut part)?;
        // Else a loss of power could leave the new name on a file that is not all there.
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&partial, path)?;
        Ok(())
    };
    write()
        .inspect_err(|_| drop(std::fs::remove_file(&partial)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The record that [`replace`] wrote. `None` where there is none, or none that is whole, which is then set aside.
pub fn open(path: &Path, tell: DamageListener) -> Result<Option<Record>> {
    let found = || -> std::io::Result<Option<Record>> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let places = find_record(&mut BufReader::with_capacity(BUFFER, &file), 0, length);
        Ok(places.filter(|places| places.end == length).map(|places| Record { file, parts: places.parts }))
    };
    match found() {
        Ok(Some(record)) => Ok(Some(record)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Ok(None) => set_aside(path, "it is not what was written", tell).map(|()| None),
        Err(error) => set_aside(path, &error.to_string(), tell).map(|()| None),
    }
}

/// Gives a file of which nothing can be used another name, and says so.
pub fn set_aside(path: &Path, why: &str, tell: DamageListener) -> Result<()> {
    let aside = beside(path, "damaged");
    let moved = std::fs::rename(path, &aside);
    moved.with_context(|| format!("cannot set the damaged file {} aside", path.display()))?;
    tell(&format!(
        "{} is damaged ({why}): it is kept as {}, and its work is done again",
        name_of(path),
        name_of(&aside)
    ));
    Ok(())
}

/// A file of records, one after another; they come in the same order in every run.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    file: File,
}

impl Records {
    /// The file, and what `decode` makes of the records at its front: of all up to the first that is not whole or that
    /// `decode` does not know. What comes after these is set aside, and the list goes on where they end.
    pub fn open<T>(
        path: &Path,
        tell: DamageListener,
        mut decode: impl FnMut(&Record) -> Option<T>,
    ) -> Result<(Self, Vec<T>)> {
        let mut open = || -> std::io::Result<(File, Vec<T>, u64, u64)> {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let length = file.metadata()?.len();
            let (mut known, mut whole) = (Vec::new(), 0);
            while whole < length {
                (&file).seek(SeekFrom::Start(whole))?;
                let found = find_record(&mut BufReader::with_capacity(BUFFER, &file), whole, length - whole);
                let Some(Places { parts, end }) = found else { break };
                let Some(one) = decode(&Record { file: file.try_clone()?, parts }) else { break };
                known.push(one);
                whole = end;
            }
            Ok((file, known, whole, length))
        };
        let (mut file, known, whole, length) = open().with_context(|| format!("cannot open {}", path.display()))?;
        if whole < length {
            let aside = beside(path, "damaged");
            // As much of it as can still be read.
            let copy = || -> std::io::Result<u64> {
                (&file).seek(SeekFrom::Start(whole))?;
                std::io::copy(&mut &file, &mut File::create(&aside)?)
            };
            let kept = match copy() {
                Ok(_) => format!("the rest is kept as {}", name_of(&aside)),
                Err(error) => format!("the rest could not be kept as {} ({error})", name_of(&aside)),
            };
            file.set_len(whole).with_context(|| format!("cannot shorten {}", path.display()))?;
            tell(&format!(
                "{} is damaged after its first {whole} bytes: {kept}, and its work is done again",
                name_of(path)
            ));
        }
        file.seek(SeekFrom::Start(whole))?;
        Ok((Self { path: path.to_owned(), file }, known))
    }

    /// A further record. It may be lost with the power: what is not whole then is done again.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<()> {
        let lengths: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
        let write = || -> Result<()> {
            let mut out = BufWriter::new(&self.file);
            write_record(&mut out, &lengths, &mut |part| Ok(Cow::Borrowed(parts[part])))?;
            Ok(out.flush()?)
        };
        write().with_context(|| format!("cannot put finished work aside in {}", self.path.display()))
    }

    /// Waits until the records so far outlast a loss of power.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The same path with an ending after its name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

#[cfg(test)]
#[path = "sealed_tests.rs"]
mod tests;
