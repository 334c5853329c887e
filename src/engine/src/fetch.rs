//! Downloads files into the cache, and identifies each file by its digest. inputs.rs decides which files are needed.
//!
//! The cache keeps a file in `fetched/<blake3>/<name>`. An interrupted download continues where it stopped (HTTP
//! `Range`), in the same run or in the next. The file is hashed before it is used, so raisin need not trust the server.
//! If the expected digest is unknown, a download continues only in the same run and only if the server has the same
//! version of the file (`If-Range`). Otherwise two halves of different files could get one digest.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{HeaderValue, Response, StatusCode, header};
use ureq::{Agent, Body};

use super::download_limit::DownloadLimit;
use super::waiting;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result, anyhow, bail};
use raisin_base::files::if_there;
use raisin_contract::Progress;
use raisin_store::{Lock, Store};

/// The number of tries in a row without any new byte after which the download fails.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const STALLED: Duration = Duration::from_secs(30);

/// Receives the progress of a download, and can stop the download.
pub trait DownloadListener {
    fn progress(&self, progress: Progress);
    /// Another process fetches the same file; `words` says which process.
    fn waits(&self, words: String);
    fn gives_up(&self) -> bool;
}

/// Whether a path is an http or https address.
pub fn is_address(path: &str) -> bool {
    path.starts_with("https://") || path.starts_with("http://")
}

/// The path of the file of an address in the cache. The file need not exist.
pub fn place(store: &Store, address: &str, blake3: Digest) -> PathBuf {
    store.root().join("fetched").join(blake3.to_hex()).join(name(address))
}

/// The last part of an address, as a file name.
fn name(address: &str) -> String {
    let path = address.split(['?', '#']).next().unwrap_or(address);
    let after_host = path.split("://").nth(1).and_then(|rest| rest.split_once('/')).map_or("", |(_, path)| path);
    let last = after_host.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let plain: String = last.chars().filter(|letter| !letter.is_control() && *letter != '\\').collect();
    let name = if plain.is_empty() || plain.starts_with('.') { format!("download{plain}") } else { plain };
    if name.len() <= LONGEST_NAME { name } else { shortened(&name) }
}

/// The maximum length of a file name in bytes, on all file systems of Linux that matter here.
const LONGEST_NAME: usize = 255;

/// A name that no file can have is cut. A digest of the whole name keeps it unique, and the ending tells the format.
fn shortened(name: &str) -> String {
    let ending = name.rfind('.').map_or("", |at| &name[at..]);
    let ending = if ending.len() <= 20 { ending } else { "" };
    let digest = Digest::of(name.as_bytes()).short();
    format!("{}~{digest}{ending}", &name[..name.floor_char_boundary(200)])
}

/// Ensures that the cache has the file of an address with the expected digest.
///
/// # Errors
/// The server does not send the file, or sends a file with another digest.
pub fn bring(store: &Store, address: &str, blake3: Digest, listener: &dyn DownloadListener) -> Result<()> {
    let place = place(store, address, blake3);
    let _lock = lock(store, address, listener)?;
    if place.exists() {
        if Digest::of_file(&place).with_context(|| format!("cannot read {}", place.display()))? == blake3 {
            return Ok(());
        }
        store.set_aside(&place)?;
    }
    let part = part(store, address);
    let mut download = Download::new(address, &part, true);
    let mut found = download.run(listener)?;
    if found != blake3 && download.pieced {
        // The first part of the file may come from an older version of the file.
        download.begin_anew()?;
        found = download.run(listener)?;
    }
    if found != blake3 {
        std::fs::remove_file(&part)?;
        let message = format!(
            "{address} gives another file than the expected digest says\n  expected {blake3}\n  found    {found}"
        );
        return Err(Problem::new(message)
            .hint("if this is the intended file, write the found digest into the pipeline file")
            .into());
    }
    keep(&part, &place)
}

/// Downloads the file of an address into the cache, without an expected digest. Returns the digest.
pub fn fetch(store: &Store, address: &str, listener: &dyn DownloadListener) -> Result<Digest> {
    let _shared = store.share()?;
    let _lock = lock(store, address, listener)?;
    let part = part(store, address);
    let mut download = Download::new(address, &part, false);
    // A part that an earlier run left may belong to another version of the file.
    download.begin_anew()?;
    let blake3 = download.run(listener)?;
    keep(&part, &place(store, address, blake3))?;
    Ok(blake3)
}

fn key(address: &str) -> Digest {
    Digest::of(format!("fetch {address}").as_bytes())
}

/// Allows one download of an address at a time.
///
/// # Errors
/// The listener gave up waiting for another download.
fn lock(store: &Store, address: &str, listener: &dyn DownloadListener) -> Result<Lock> {
    let doing = format!("fetching {address}");
    let lock = waiting::lock(store, key(address), &doing, |words| listener.waits(words), || listener.gives_up())?;
    lock.context("interrupted")
}

/// The path of the part of the file that has come so far.
fn part(store: &Store, address: &str) -> PathBuf {
    store.temporary(&format!("fetch-{}", key(address).short()))
}

/// A complete download becomes visible by a rename, like an artifact.
fn keep(part: &Path, place: &Path) -> Result<()> {
    let keep = || -> std::io::Result<()> {
        let folder = place.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let file = File::open(part)?;
        file.sync_all()?;
        file.set_permissions(std::fs::Permissions::from_mode(0o444))?;
        std::fs::rename(part, place)?;
        File::open(folder)?.sync_all()
    };
    keep().with_context(|| format!("cannot keep {}", place.display()))
}

/// The result of one connection.
enum Connection {
    Complete,
    /// The connection broke, or the server was busy. The bytes that came before are in the file.
    Broken(raisin_base::error::Error),
}

/// A download that appends to a file, over as many connections as necessary.
struct Download<'d> {
    agent: Agent,
    address: &'d str,
    part: &'d Path,
    /// Whether there is an expected digest. If so, the download may continue a part although the server does not
    /// confirm its version.
    has_expected_digest: bool,
    /// The server's name for the version to which the part belongs, if the server gives one (ETag or date).
    version: Option<HeaderValue>,
    /// Whether the part came over several connections.
    pieced: bool,
    /// How often the download began again from the first byte.
    beginnings: u32,
    limit: DownloadLimit<'d>,
}

impl<'d> Download<'d> {
    fn new(address: &'d str, part: &'d Path, has_expected_digest: bool) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(STALLED))
            .timeout_per_read(Some(STALLED))
            .user_agent(concat!("raisin/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let limit = DownloadLimit::new(address, part.parent().unwrap_or(Path::new(".")));
        Self { agent, address, part, has_expected_digest, version: None, pieced: false, beginnings: 0, limit }
    }

    fn length(&self) -> u64 {
        self.part.metadata().map_or(0, |part| part.len())
    }

    /// Removes the bytes that have come so far.
    fn begin_anew(&mut self) -> Result<()> {
        self.beginnings += u32::from(self.length() > 0);
        (self.version, self.pieced) = (None, false);
        if_there(std::fs::remove_file(self.part))
            .map(drop)
            .with_context(|| format!("cannot remove {}", self.part.display()))
    }

    /// Returns the digest of the whole file.
    fn run(&mut self, listener: &dyn DownloadListener) -> Result<Digest> {
        let mut failures = 0;
        self.beginnings = 0;
        loop {
            let before = self.length();
            match self.connect(listener)? {
                Connection::Complete => {
                    let part = self.part;
                    return Digest::of_file(part).with_context(|| format!("cannot read {}", part.display()));
                }
                Connection::Broken(error) => {
                    failures = if self.length() > before { 1 } else { failures + 1 };
                    if failures.max(self.beginnings) >= TRIES {
                        let address = self.address;
                        return Err(error.context(format!("cannot fetch {address}, after {TRIES} tries")));
                    }
                    // Pause in short steps, so that an interrupt takes effect at once.
                    let pause = FIRST_PAUSE * 2_u32.pow(failures - 1);
                    for _ in 0..pause.as_millis().div_ceil(50) {
                        if listener.gives_up() {
                            bail!("interrupted; what was fetched is kept");
                        }
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
    }

    fn connect(&mut self, listener: &dyn DownloadListener) -> Result<Connection> {
        if !self.has_expected_digest && self.version.is_none() {
            self.begin_anew()?;
        }
        let from = self.length();
        let address = self.address;
        let mut request = self.agent.get(address).header(header::ACCEPT_ENCODING, "identity");
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
            if let Some(version) = &self.version {
                request = request.header(header::IF_RANGE, version);
            }
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => {
                return Err(Problem::usage(format!("cannot fetch {address}: {error}")).into());
            }
            Err(error @ ureq::Error::TooManyRedirects) => {
                return Err(Problem::new(format!("cannot fetch {address}: {error}")).into());
            }
            Err(error) => return Ok(Connection::Broken(error.into())),
        };
        let status = response.status();
        match status {
            StatusCode::OK => self.receive(response, 0, listener),
            StatusCode::PARTIAL_CONTENT => {
                // Some servers ignore `If-Range`, and some send another range than requested.
                let is_other = self.version.as_ref().is_some_and(|known| names_another(&response, known));
                if is_other || first_byte(&response) != Some(from) {
                    self.begin_anew()?;
                    let what = if is_other { "a part of another version" } else { "another part than was asked for" };
                    return Ok(Connection::Broken(anyhow!("the server sent {what}")));
                }
                self.receive(response, from, listener)
            }
            // The server has no bytes after the part. Either the part is the whole file, or the part is not the
            // beginning of this file.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                if whole_length(&response) == Some(from) {
                    self.pieced = true;
                    return Ok(Connection::Complete);
                }
                self.begin_anew()?;
                Ok(Connection::Broken(anyhow!("the server has less than was fetched before")))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Ok(Connection::Broken(anyhow!("the server answered {status}")))
            }
            _ if status.is_server_error() => Ok(Connection::Broken(anyhow!("the server answered {status}"))),
            _ => Err(Problem::new(format!("cannot fetch {address}: the server answered {status}"))
                .hint("check the address, and whether everyone may read the file")
                .into()),
        }
    }

    /// Appends the body to the file, from the byte `from` on.
    fn receive(&mut self, response: Response<Body>, from: u64, listener: &dyn DownloadListener) -> Result<Connection> {
        let cannot = || format!("cannot write {}", self.part.display());
        self.version = version(&response);
        self.pieced = from > 0;
        let mut done = from;
        // A server may send only a portion of the remaining bytes.
        let whole = whole_length(&response).filter(|_| from > 0);
        let total = whole.or_else(|| response.body().content_length().map(|length| done.saturating_add(length)));
        self.limit.begin();
        self.limit.check(done, total)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(from == 0)
            .append(from > 0)
            .open(self.part)
            .with_context(cannot)?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 17];
        loop {
            if listener.gives_up() {
                bail!("interrupted; what was fetched is kept");
            }
            let read = match body.read(&mut buffer) {
                Ok(read) => read,
                Err(error) => return Ok(Connection::Broken(error.into())),
            };
            if read == 0 {
                return Ok(match total {
                    Some(total) if done < total => Connection::Broken(anyhow!("{done} of {total} bytes came")),
                    _ => Connection::Complete,
                });
            }
            file.write_all(&buffer[..read]).with_context(cannot)?;
            done += read as u64;
            if let Err(refusal) = self.limit.check(done, total) {
                if total.is_none() {
                    // The file may have no end, so its beginning is of no use and takes space.
                    drop(file);
                    self.begin_anew()?;
                }
                return Err(refusal);
            }
            listener.progress(Progress {
                phase: format!("fetching {}", name(self.address)),
                done,
                total: total.unwrap_or(0),
                unit: "bytes".into(),
                ..Progress::default()
            });
        }
    }
}

/// The value that identifies a version of a file exactly: a strong ETag, or else the modification date.
fn version(response: &Response<Body>) -> Option<HeaderValue> {
    let headers = response.headers();
    let strong = headers.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    strong.or_else(|| headers.get(header::LAST_MODIFIED)).cloned()
}

/// Whether the response names another version than this one.
fn names_another(response: &Response<Body>, known: &HeaderValue) -> bool {
    let kind = if known.as_bytes().starts_with(b"\"") { header::ETAG } else { header::LAST_MODIFIED };
    response.headers().get(kind).is_some_and(|now| now != known)
}

/// The first byte of a range: 100 in `bytes 100-199/200`.
fn first_byte(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// The length of the whole file: 200 in `bytes */200`.
fn whole_length(response: &Response<Body>) -> Option<u64> {
    response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?.rsplit('/').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_named_as_the_address_ends() {
        assert_eq!(name("https://host.example/a/b/pool.jsonl?raw=true#top"), "pool.jsonl");
        assert_eq!(name("https://host.example/a/folder/"), "folder");
        assert_eq!(name("https://host.example"), "download");
        assert_eq!(name("https://host.example/a/.."), "download..");
        let long = |letters: usize| name(&format!("https://host.example/a/{}.jsonl?x", "ä".repeat(letters)));
        assert_eq!(long(124), format!("{}.jsonl", "ä".repeat(124)));
        let (stem, ending) = long(125).rsplit_once('.').map(|(stem, ending)| (stem.len(), ending.to_owned())).unwrap();
        assert_eq!((stem, ending.as_str()), (200 + 13, "jsonl"));
        assert_ne!(long(125), long(126));
        assert!(name(&format!("https://host.example/{}", "a.".repeat(300))).len() <= 255);
        assert!(is_address("http://host.example/x") && !is_address("data/http://x") && !is_address("ftp://x"));
    }
}
