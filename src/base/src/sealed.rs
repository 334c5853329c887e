//! The file format of checkpoints and of other files in a work folder. A kill, a power failure or a faulty disk can
//! damage such a file. Every record therefore ends with a seal, and a record without a valid seal is not used.
//!
//! Layout of a record, with little-endian numbers: the magic bytes `rsn1`, the number of parts (u32), the length of
//! each part (u64), the parts, and the seal: the blake3 of all bytes before it (32 bytes).
//!
//! A file holds either one record, which [`replace`] overwrites as a whole, or a growing list of [`Records`]. Damaged
//! bytes are kept beside the file under the name `<file>.damaged`, the user is told, and the caller continues without
//! them.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use blake3::Hasher;

use crate::error::{Context as _, Result, ensure};

/// The error numbers by which Linux reports a damaged file: EIO, EBADMSG and EUCLEAN.
const DAMAGED: [i32; 3] = [5, 74, 117];
const MAGIC: [u8; 4] = *b"rsn1";
const SEAL: u64 = 32;
/// The size of a read, in bytes.
const BUFFER: usize = 1 << 20;
/// The maximum number of parts. A larger number in a file is damage.
const MOST_PARTS: u32 = 1 << 16;

/// Receives a message for the user about damage.
pub type DamageListener<'t> = &'t dyn Fn(&str);

/// Writes a record. `part` is called for each part in turn, so that the parts need not be in memory together.
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
        ensure!(bytes.len() as u64 == length, "a part has {} bytes instead of {length}", bytes.len());
        hasher.update(&bytes);
        out.write_all(&bytes)?;
    }
    out.write_all(hasher.finalize().as_bytes())?;
    Ok(())
}

/// The positions of a record in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    /// The start and the length of each part.
    parts: Vec<(u64, u64)>,
    end: u64,
}

/// Reads a record from `file`, whose position is `start`; the file has `left` more bytes. `None` if the record is
/// damaged.
fn find_record(file: &mut impl Read, start: u64, left: u64) -> std::io::Result<Option<Places>> {
    match read_record(file, start, left) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        found => found,
    }
}

/// As [`find_record`], except that a record that is cut is an error.
fn read_record(file: &mut impl Read, start: u64, left: u64) -> std::io::Result<Option<Places>> {
    let mut hasher = Hasher::new();
    let mut take = |count: usize| -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        file.read_exact(&mut bytes)?;
        hasher.update(&bytes);
        Ok(bytes)
    };
    let head = take(8)?;
    let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if head[..4] != MAGIC || count > MOST_PARTS {
        return Ok(None);
    }
    let lengths = take(count as usize * 8)?;
    let mut end = start + 8 + u64::from(count) * 8;
    let mut parts = Vec::with_capacity(count as usize);
    for &length in lengths.as_chunks().0 {
        let length = u64::from_le_bytes(length);
        parts.push((end, length));
        let Some(next) = end.checked_add(length) else { return Ok(None) };
        end = next;
    }
    if end.checked_add(SEAL).is_none_or(|end| end - start > left) {
        return Ok(None);
    }
    let mut rest = parts.iter().map(|(_, length)| length).sum::<u64>();
    while rest > 0 {
        let bytes = take(rest.min(BUFFER as u64) as usize)?;
        rest -= bytes.len() as u64;
    }
    let mut seal = [0; SEAL as usize];
    file.read_exact(&mut seal)?;
    Ok((*hasher.finalize().as_bytes() == seal).then_some(Places { parts, end: end + SEAL }))
}

/// A record with a valid seal.
#[derive(Debug)]
pub struct Record {
    file: File,
    parts: Vec<(u64, u64)>,
}

impl Record {
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The length of a part in bytes; 0 if there is no such part.
    pub fn length(&self, part: usize) -> u64 {
        self.parts.get(part).map_or(0, |(_, length)| *length)
    }

    /// All bytes of a part.
    pub fn read(&self, part: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_in_pieces(part, BUFFER, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Reads a part in pieces of `size` bytes. The last piece may be shorter.
    pub fn read_in_pieces(&self, part: usize, size: usize, piece: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (start, mut left) = *self.parts.get(part).with_context(|| format!("the record has no part {part}"))?;
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

/// Replaces the content of a file by one record. After a kill or a power failure, the file holds the old record or the
/// new one.
pub fn replace<'p>(path: &Path, lengths: &[u64], mut part: impl FnMut(usize) -> Result<Cow<'p, [u8]>>) -> Result<()> {
    let partial = beside(path, "partial");
    let mut write = || -> Result<()> {
        let mut out = BufWriter::new(File::create(&partial)?);
        write_record(&mut out, lengths, &mut part)?;
        // Without the sync, a power failure could leave an incomplete file under the final name.
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&partial, path)?;
        Ok(())
    };
    write()
        .inspect_err(|_| drop(std::fs::remove_file(&partial)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Opens the record that [`replace`] wrote. `None` if there is no file, or if its record is damaged; the damaged file
/// is then set aside.
///
/// # Errors
/// The file cannot be opened or read, for example because rights, descriptors or memory are missing. Such an error says
/// nothing about the content of the file, so the file stays where it is.
pub fn open(path: &Path, tell: DamageListener) -> Result<Option<Record>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if is_damage(&error) => return set_aside(path, &error.to_string(), tell).map(|()| None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let found = || -> std::io::Result<Option<Record>> {
        let length = file.metadata()?.len();
        let places = find_record(&mut BufReader::with_capacity(BUFFER, &file), 0, length)?;
        Ok(places.filter(|places| places.end == length).map(|places| Record { file, parts: places.parts }))
    };
    match found() {
        Ok(Some(record)) => Ok(Some(record)),
        Ok(None) => set_aside(path, "its seal does not match its content", tell).map(|()| None),
        Err(error) if is_damage(&error) => set_aside(path, &error.to_string(), tell).map(|()| None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Whether an error of reading means that the file is damaged. Any other error says nothing about its content.
pub(crate) fn is_damage(error: &std::io::Error) -> bool {
    // A folder in place of the file is damage too.
    error.kind() == ErrorKind::IsADirectory || error.raw_os_error().is_some_and(|number| DAMAGED.contains(&number))
}

/// Renames a damaged file to `<file>.damaged`, and tells the user.
pub fn set_aside(path: &Path, why: &str, tell: DamageListener) -> Result<()> {
    let aside = beside(path, "damaged");
    let moved = std::fs::rename(path, &aside);
    moved.with_context(|| format!("cannot set the damaged file {} aside", path.display()))?;
    tell(&format!(
        "{} is damaged ({why}): the file is kept as {}, and its work is done again",
        name_of(path),
        name_of(&aside)
    ));
    Ok(())
}

/// A file of records, one after another. Every run of the same action writes the records in the same order.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    file: File,
}

impl Records {
    /// Opens the file and decodes its records up to the first record that is damaged or that `decode` refuses. The rest
    /// of the file is set aside, and new records follow the last good record.
    pub fn open<T>(
        path: &Path,
        tell: DamageListener,
        mut decode: impl FnMut(&Record) -> Option<T>,
    ) -> Result<(Self, Vec<T>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let mut read = || -> std::io::Result<(Vec<T>, u64, u64)> {
            let length = file.metadata()?.len();
            let (mut known, mut whole) = (Vec::new(), 0);
            while whole < length {
                (&file).seek(SeekFrom::Start(whole))?;
                let found = find_record(&mut BufReader::with_capacity(BUFFER, &file), whole, length - whole);
                let Some(Places { parts, end }) =
                    found.or_else(|error| if is_damage(&error) { Ok(None) } else { Err(error) })?
                else {
                    break;
                };
                let Some(one) = decode(&Record { file: file.try_clone()?, parts }) else { break };
                known.push(one);
                whole = end;
            }
            Ok((known, whole, length))
        };
        let (known, whole, length) = read().with_context(|| format!("cannot read {}", path.display()))?;
        if whole < length {
            let aside = beside(path, "damaged");
            // Copies all bytes that can still be read.
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

    /// Appends a record. A power failure may damage the record, unless [`Self::sync`] was called after it; the work of
    /// a damaged record is done again.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<()> {
        let lengths: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
        let write = || -> Result<()> {
            let mut out = BufWriter::new(&self.file);
            write_record(&mut out, &lengths, &mut |part| Ok(Cow::Borrowed(parts[part])))?;
            Ok(out.flush()?)
        };
        write().with_context(|| format!("cannot save finished work in {}", self.path.display()))
    }

    /// Syncs the file: a power failure can no longer damage the records so far.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The path with `.ending` appended.
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
