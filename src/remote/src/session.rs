//! The state of one use of a shared cache: the store, the local cache, the limits, and what has failed so far.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use object_store::UpdateVersion;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::cause::{Meaning, hint, in_words, meaning};
use super::place::RemotePlace;
use raisin_base::digest::Digest;
use raisin_base::error::{Error, Result, anyhow};
use raisin_contract::remote::{RemoteReply, RemoteSettings, RemoteTally};
use raisin_store::Store;

/// The number of files that are transferred at the same time.
pub const AT_ONCE: usize = 8;

/// The number of records, manifests and sizes that are asked for at the same time. A sweep can ask for a thousand.
const REQUESTS_AT_ONCE: usize = 32;

/// After this number of failed requests in a row, each of which was repeated, the store counts as down.
const MOST_FAILURES: u32 = 3;

/// The shortest time between two reports of progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Why something was not read or not written.
#[derive(Debug)]
pub enum RemoteTrouble {
    /// The object store or the network.
    Store(object_store::Error),
    /// The shared cache has something that cannot be used. The text says what.
    Content(String),
    /// The local cache.
    Local(Error),
}

impl From<object_store::Error> for RemoteTrouble {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for RemoteTrouble {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

impl RemoteTrouble {
    pub fn text(&self) -> String {
        match self {
            Self::Store(error) => in_words(error),
            Self::Content(text) => text.clone(),
            Self::Local(error) => format!("{error:#}"),
        }
    }
}

/// A record of the shared cache that cannot be used, because something that it needs is missing or wrong.
pub struct BrokenRecord {
    pub version: UpdateVersion,
    pub content: Digest,
}

pub type ReplySink = Box<dyn Fn(RemoteReply) + Send + Sync>;

pub struct RemoteSession {
    pub place: RemotePlace,
    pub local: Store,
    pub settings: RemoteSettings,
    pub counts: TallyCounts,
    pub uploads: Uploads,
    /// The records that are replaced when their action has run.
    pub broken: Mutex<HashMap<Digest, BrokenRecord>>,
    /// The blobs that the shared cache certainly has.
    pub present: Mutex<HashSet<Digest>>,
    /// The blobs whose content in the shared cache is wrong. An upload replaces them.
    pub wrong: Mutex<HashSet<Digest>>,
    permits: Semaphore,
    requests: Semaphore,
    health: Mutex<Health>,
    tell: ReplySink,
}

/// The counts of [`RemoteTally`].
#[derive(Default)]
pub struct TallyCounts {
    pub fetched: AtomicU64,
    pub received: AtomicU64,
    pub uploaded: AtomicU64,
    pub sent: AtomicU64,
    pub present: AtomicU64,
    pub known: AtomicU64,
    pub left_out: AtomicU64,
    pub unsent: AtomicU64,
    pub failures: AtomicU64,
}

pub fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// The progress of the uploads.
#[derive(Default)]
pub struct Uploads {
    pub asked: AtomicU64,
    pub ended: AtomicU64,
    pub done: AtomicU64,
    pub total: AtomicU64,
    told: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Health {
    in_a_row: u32,
    /// The words of the first failure.
    first_failure: Option<String>,
    is_down: bool,
    /// No right to write: nothing more is uploaded.
    is_read_only: bool,
    /// Whether it was told that the store lacks conditional writes.
    has_told_conditions: bool,
}

impl RemoteSession {
    /// # Errors
    /// The address or the local cache cannot be used.
    pub fn open(cache: &Path, settings: RemoteSettings, tell: ReplySink) -> Result<Self> {
        Ok(Self {
            place: RemotePlace::open(&settings.address)?,
            local: Store::open(cache)?,
            settings,
            counts: TallyCounts::default(),
            uploads: Uploads::default(),
            broken: Mutex::default(),
            present: Mutex::default(),
            wrong: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
            requests: Semaphore::new(REQUESTS_AT_ONCE),
            health: Mutex::default(),
            tell,
        })
    }

    pub fn tell(&self, reply: RemoteReply) {
        (self.tell)(reply);
    }

    /// Waits until a further file may be transferred.
    pub async fn permit(&self) -> Result<SemaphorePermit<'_>, RemoteTrouble> {
        self.permits.acquire().await.map_err(|_| RemoteTrouble::Local(anyhow!("the transfers have ended")))
    }

    /// Waits until a further small request may be made. The holder asks for no other permit.
    pub async fn small_permit(&self) -> Result<SemaphorePermit<'_>, RemoteTrouble> {
        self.requests.acquire().await.map_err(|_| RemoteTrouble::Local(anyhow!("the transfers have ended")))
    }

    pub fn is_down(&self) -> bool {
        locked(&self.health).is_down
    }

    /// Whether uploads have an aim.
    pub fn can_write(&self) -> bool {
        let health = locked(&self.health);
        !health.is_down && !health.is_read_only
    }

    /// A request has succeeded.
    pub fn is_well(&self) {
        locked(&self.health).in_a_row = 0;
    }

    /// A look-up or a fetch failed.
    pub fn read_failed(&self, error: &object_store::Error) {
        add(&self.counts.failures, 1);
        if meaning(error) != Meaning::Failed {
            return self.go_down(error);
        }
        self.count_failure(error);
    }

    /// An upload failed.
    pub fn write_failed(&self, error: &object_store::Error) {
        match meaning(error) {
            Meaning::Denied => {
                if !std::mem::replace(&mut locked(&self.health).is_read_only, true) {
                    let text = format!(
                        "warning: the credentials may not write to the shared cache {}: {}; nothing is uploaded",
                        self.place.address,
                        in_words(error)
                    );
                    self.tell(RemoteReply::Warning { text });
                }
            }
            Meaning::Unusable | Meaning::Absent => self.go_down(error),
            Meaning::Failed => self.count_failure(error),
        }
    }

    /// A failure is told at the end, with the number of all failures, unless it ends the use of the shared cache.
    fn count_failure(&self, error: &object_store::Error) {
        let is_last = {
            let mut health = locked(&self.health);
            health.in_a_row += 1;
            health.first_failure.get_or_insert_with(|| in_words(error));
            health.in_a_row >= MOST_FAILURES
        };
        if is_last {
            self.go_down(error);
        }
    }

    fn go_down(&self, error: &object_store::Error) {
        if std::mem::replace(&mut locked(&self.health).is_down, true) {
            return;
        }
        let hint = hint(error).map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        self.tell(RemoteReply::Down { cause: format!("{}{hint}", in_words(error)) });
    }

    /// Tells that the store lacks conditional writes.
    pub fn tell_lack_of_conditions(&self) {
        if std::mem::replace(&mut locked(&self.health).has_told_conditions, true) {
            return;
        }
        let text = format!(
            "warning: the shared cache {} cannot write an object only if it is not there; of two machines that write the \
             record of one action at the same moment, the last one wins (docs/remote.md)",
            self.place.address
        );
        self.tell(RemoteReply::Warning { text });
    }

    /// Reports the progress of the uploads, but not too often.
    pub fn tell_uploads(&self) {
        let mut told = locked(&self.uploads.told);
        if told.is_some_and(|moment| moment.elapsed() < REPORT_INTERVAL) {
            return;
        }
        *told = Some(Instant::now());
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.tell(RemoteReply::Uploading {
            artifacts: load(&self.uploads.asked).saturating_sub(load(&self.uploads.ended)),
            done: load(&self.uploads.done),
            total: load(&self.uploads.total),
        });
    }

    pub fn tally(&self) -> RemoteTally {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        RemoteTally {
            fetched: load(&counts.fetched),
            received: load(&counts.received),
            uploaded: load(&counts.uploaded),
            sent: load(&counts.sent),
            present: load(&counts.present),
            known: load(&counts.known),
            left_out: load(&counts.left_out),
            unsent: load(&counts.unsent),
            failures: load(&counts.failures),
            first_failure: locked(&self.health).first_failure.clone(),
        }
    }
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs something that reads or writes local files, or waits for a lock, in a thread of its own.
pub async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T, RemoteTrouble> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(RemoteTrouble::Local(anyhow!("raisin-remote itself failed: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raisin_contract::remote::RemoteMode;

    use super::*;

    fn session(folder: &Path) -> (RemoteSession, Arc<Mutex<Vec<RemoteReply>>>) {
        let told: Arc<Mutex<Vec<RemoteReply>>> = Arc::default();
        let sink = Arc::clone(&told);
        let settings =
            RemoteSettings { address: folder.display().to_string(), mode: RemoteMode::ReadWrite, max_upload: None };
        let tell = Box::new(move |reply| locked(&sink).push(reply));
        (RemoteSession::open(&folder.join("cache"), settings, tell).expect("a session"), told)
    }

    fn generic() -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: "status 500".to_owned().into() }
    }

    #[test]
    fn failures_are_counted_and_three_in_a_row_end_the_use_with_one_report() {
        let folder = tempfile::tempdir().expect("a folder");
        let (session, told) = session(folder.path());
        for _ in 0..20 {
            session.read_failed(&generic());
            session.read_failed(&generic());
            session.is_well();
        }
        assert!(!session.is_down());
        assert_eq!((locked(&told).len(), session.tally().failures), (0, 40));
        assert!(session.tally().first_failure.is_some_and(|text| text.contains("500")));
        (0..5).for_each(|_| session.read_failed(&generic()));
        assert!(session.is_down() && !session.can_write());
        assert!(matches!(&locked(&told)[..], [RemoteReply::Down { .. }]));
    }

    #[test]
    fn rights_to_read_only_end_the_uploads_with_one_warning_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let (session, told) = session(folder.path());
        let denied = || object_store::Error::PermissionDenied { path: "x".into(), source: "403".to_owned().into() };
        (0..3).for_each(|_| session.write_failed(&denied()));
        assert!(!session.can_write() && !session.is_down());
        assert!(matches!(&locked(&told)[..], [RemoteReply::Warning { text }] if text.contains("may not write")));
    }
}
