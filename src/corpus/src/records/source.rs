//! The bytes of a file, unpacked if the file is compressed.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::GzDecoder;

use raisin_base::error::{Context as _, Result};

/// How the bytes of a file are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// The usual ending of the file's name, without its dot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gz",
            Self::Zstd => "zst",
        }
    }

    /// The compression whose first bytes these are. A zstd file can begin with a frame to be skipped.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1F, 0x8B, ..] => Some(Self::Gzip),
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// An opened file.
pub struct ByteSource {
    bytes: Box<dyn Read>,
    taken: Arc<AtomicU64>,
    pub compression: Option<Compression>,
    /// The size of the file itself.
    pub size: u64,
    /// Why the rest of a compressed file cannot be unpacked.
    pub failure: Option<String>,
    /// Whether the compressed file ends early, so that nobody knows how much is lost.
    pub is_cut: bool,
}

impl ByteSource {
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open(path)?;
        let size = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        let head = head_of(&mut file).with_context(|| format!("cannot read {}", path.display()))?;
        let compression = Compression::of(&head);
        let taken = Arc::new(AtomicU64::new(0));
        let file = io::BufReader::with_capacity(1 << 18, io::Cursor::new(head).chain(file));
        let file = Counted { bytes: file, taken: Arc::clone(&taken) };
        let bytes: Box<dyn Read> = match compression {
            None => Box::new(file),
            // Programs such as bgzip and `cat` write files of several parts.
            Some(Compression::Gzip) => Box::new(GzipMembers(Some(GzDecoder::new(file)))),
            Some(Compression::Zstd) => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
                // `zstd --long=31` writes such windows.
                decoder.window_log_max(31)?;
                Box::new(decoder)
            }
        };
        Ok(Self { bytes, taken, compression, size, failure: None, is_cut: false })
    }

    /// The number of bytes of the file that were read so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed).min(self.size)
    }

    /// Appends up to `count` bytes; fewer only at the end.
    ///
    /// # Errors
    /// The file cannot be read. If only the compression is damaged, the bytes before the damage are the last ones, and
    /// `failure` has the reason.
    pub fn fill(&mut self, buffer: &mut Vec<u8>, count: usize) -> io::Result<usize> {
        let before = buffer.len();
        buffer.resize(before + count, 0);
        let filled = self.read_into(&mut buffer[before..])?;
        buffer.truncate(before + filled);
        Ok(filled)
    }

    /// Reads until the buffer is full; less only at the end. The errors are those of [`Self::fill`].
    fn read_into(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && self.failure.is_none() {
            match self.bytes.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Errors of the operating system have a number; those of a decoder have none.
                Err(error) if self.compression.is_some() && error.raw_os_error().is_none() => {
                    self.is_cut = error.kind() == io::ErrorKind::UnexpectedEof;
                    self.failure = Some(if self.is_cut {
                        "the compressed file ends early: the rest is lost".to_owned()
                    } else {
                        format!("the rest cannot be unpacked: {error}")
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Text at the front of a buffer, whose memory is used again and again without being cleared.
#[derive(Default)]
pub struct TextBuffer {
    bytes: Vec<u8>,
    length: usize,
}

impl TextBuffer {
    /// Appends up to `count` bytes of the source, as [`ByteSource::fill`] does.
    ///
    /// # Errors
    /// As for [`ByteSource::fill`].
    pub fn fill(&mut self, source: &mut ByteSource, count: usize) -> io::Result<usize> {
        let end = self.length + count;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        let filled = source.read_into(&mut self.bytes[self.length..end])?;
        self.length += filled;
        Ok(filled)
    }

    /// Removes the first bytes.
    pub fn remove(&mut self, count: usize) {
        self.bytes.copy_within(count..self.length, 0);
        self.length -= count;
    }
}

impl Deref for TextBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Read for ByteSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}

pub fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// The first bytes of a file: enough for every sign by which a kind of file is known.
fn head_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(4).read_to_end(&mut head)?;
    Ok(head)
}

/// The parts of a gzip file, one after the other. Zeros after a part only fill up a block of a disk or tape.
struct GzipMembers<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.0 {
            let length = decoder.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            let Some(mut rest) = self.0.take().map(GzDecoder::into_inner) else { break };
            self.0 = loop {
                let bytes = rest.fill_buf()?;
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                match (zeros, bytes.len()) {
                    (_, 0) => break None,
                    (0, _) => break Some(GzDecoder::new(rest)),
                    _ => rest.consume(zeros),
                }
            };
        }
        Ok(0)
    }
}

struct Counted<R> {
    bytes: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.bytes.read(buffer)?;
        self.taken.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.bytes.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.bytes.consume(count);
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
    }
}
