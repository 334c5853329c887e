//! `raisin remote check | du | gc | push | pull`. What is found goes to standard output, messages to standard error.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use object_store::{Error, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, UpdateVersion};

use super::cause::{Meaning, hint, in_words, meaning};
use super::place::ObjectKind;
use super::serve;
use super::session::{RemoteSession, RemoteTrouble, add};
use super::write::lacks_conditions;
use raisin_base::digest::Digest;
use raisin_base::error::{Problem, Result};
use raisin_base::printable::printable;
use raisin_base::say;
use raisin_base::size::size;
use raisin_contract::remote::{RemoteQuestion, RemoteReply, RemoteTask};

/// The artifacts that are transferred at the same time.
const ARTIFACTS_AT_ONCE: usize = 4;

/// Answers `raisin remote`.
///
/// # Errors
/// The shared cache cannot be used, or something was not transferred.
pub async fn answer(question: RemoteQuestion) -> Result<()> {
    let began = Instant::now();
    let session = Arc::new(RemoteSession::open(&question.cache, question.settings, Box::new(tell))?);
    match question.task {
        RemoteTask::Check => check(&session).await,
        RemoteTask::Du => du(&session).await,
        RemoteTask::Gc { older_than_seconds, yes } => gc(&session, Duration::from_secs(older_than_seconds), yes).await,
        RemoteTask::Push { keys } => push(&session, keys, began).await,
        RemoteTask::Pull => pull(&session, began).await,
    }
}

fn tell(reply: RemoteReply) {
    match reply {
        RemoteReply::Note { text } | RemoteReply::Warning { text } => say!("{}", printable(&text)),
        RemoteReply::Down { cause } => say!("error: {}", printable(&cause)),
        RemoteReply::Uploading { artifacts, done, total } if std::io::stderr().is_terminal() && artifacts > 0 => {
            let text = format!("\ruploading {artifacts} artifacts, {} of {}   ", size(done), size(total));
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
        _ => {}
    }
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(printable(text).as_bytes()) {
        // The reader of a pipe, such as `head`, has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn line(name: &str, text: &str) -> Result<()> {
    print(&format!("{name:12} {text}\n"))
}

/// The error of a command, with what a person can do.
fn problem(session: &RemoteSession, what: &str, trouble: RemoteTrouble) -> raisin_base::error::Error {
    match trouble {
        RemoteTrouble::Local(error) => error,
        RemoteTrouble::Content(text) => Problem::new(text).into(),
        RemoteTrouble::Store(error) => {
            let problem =
                Problem::new(format!("{what} the shared cache {}: {}", session.place.address, in_words(&error)));
            hint(&error).into_iter().fold(problem, Problem::hint).into()
        }
    }
}

async fn check(session: &RemoteSession) -> Result<()> {
    let store = &session.place.store;
    line("address", &session.place.address)?;
    line("mode", session.settings.mode.name())?;
    let name = Digest::of(format!("{} {:?}", std::process::id(), std::time::SystemTime::now()).as_bytes()).short();
    let object = session.place.probe(&name);
    let began = Instant::now();
    session.size_of(&object).await.map_err(|trouble| problem(session, "cannot read", trouble))?;
    line("reading", &format!("works, {} ms for one request", began.elapsed().as_millis()))?;
    let create = || store.put_opts(&object, PutPayload::from_static(b"one"), PutOptions::from(PutMode::Create));
    let first = match create().await {
        Err(error) if meaning(&error) == Meaning::Denied => {
            line("writing", "not allowed: builds can only fetch")?;
            return Ok(());
        }
        Err(error) if lacks_conditions(&error) => {
            let written = store.put(&object, PutPayload::from_static(b"one")).await;
            written.map_err(|error| problem(session, "cannot write", error.into()))?;
            None
        }
        other => Some(other.map_err(|error| problem(session, "cannot write", error.into()))?),
    };
    line("writing", "works")?;
    let conditions = match (&first, create().await) {
        (None, _) => "not supported: of two machines that write the record of one action at once, the last one wins",
        (Some(_), Err(Error::AlreadyExists { .. })) => "honoured: the first of two machines that write a record wins",
        (Some(_), Ok(_)) => "IGNORED: of two machines that write the record of one action at once, the last one wins",
        (Some(_), Err(_)) => "unclear: the second write of an object failed with another error than expected",
    };
    line("create once", conditions)?;
    if first.is_some() {
        let found = store.head(&object).await.map_err(|error| problem(session, "cannot read", error.into()))?;
        let right = UpdateVersion { e_tag: found.e_tag, version: found.version };
        let update = |version| {
            store.put_opts(&object, PutPayload::from_static(b"two"), PutOptions::from(PutMode::Update(version)))
        };
        let replaced = update(right.clone()).await;
        let conditions = match (replaced, update(right).await) {
            (Err(error), _) if lacks_conditions(&error) => {
                "not supported: a record that cannot be used is replaced after a comparison"
            }
            (Ok(_), Err(Error::Precondition { .. })) => "honoured: a record that cannot be used is replaced safely",
            (Ok(_), Ok(_)) => "IGNORED: a record that cannot be used is replaced in any case",
            _ => "unclear: the conditional write failed with another error than expected",
        };
        line("replace once", conditions)?;
    }
    match store.delete(&object).await {
        Ok(()) => line("deleting", "works"),
        Err(error) if meaning(&error) == Meaning::Denied => {
            line("deleting", &format!("not allowed: `raisin remote gc` cannot work, and {object} stays"))
        }
        Err(error) => Err(problem(session, "cannot delete an object of", error.into())),
    }
}

async fn du(session: &RemoteSession) -> Result<()> {
    let usage = session.usage().await.map_err(|trouble| problem(session, "cannot list", trouble))?;
    let mut sum = (0, 0);
    for (kind, (count, bytes)) in ObjectKind::ALL.into_iter().zip(usage) {
        sum = (sum.0 + count, sum.1 + bytes);
        print(&format!("{:9} {count:>9} objects {:>10}\n", kind.folder(), size(bytes)))?;
    }
    print(&format!("{:9} {:>9} objects {:>10}\n", "together", sum.0, size(sum.1)))
}

async fn gc(session: &RemoteSession, older_than: Duration, yes: bool) -> Result<()> {
    let sweep = session.sweep(older_than).await.map_err(|trouble| problem(session, "cannot list", trouble))?;
    let bytes: u64 = sweep.removed.iter().flatten().map(|(_, bytes)| bytes).sum();
    for (kind, objects) in ObjectKind::ALL.into_iter().zip(&sweep.removed) {
        for (object, bytes) in objects {
            print(&format!("{:9} {} {}\n", kind.folder(), object.filename().unwrap_or_default(), size(*bytes)))?;
        }
    }
    if sweep.unreadable > 0 {
        say!("{} records cannot be read; they stay until they are old", sweep.unreadable);
    }
    if yes {
        session.remove(&sweep).await.map_err(|trouble| problem(session, "cannot delete objects of", trouble))?;
    }
    let verb = if yes { "freed" } else { "would free" };
    let [records, manifests, blobs] = sweep.removed.each_ref().map(Vec::len);
    let [kept, ..] = sweep.kept;
    say!("{verb} {}: {records} records, {manifests} manifests, {blobs} files; {kept} records stay", size(bytes));
    if !yes && records + manifests + blobs > 0 {
        say!("hint: raisin remote gc --yes removes them");
    }
    Ok(())
}

async fn push(session: &Arc<RemoteSession>, keys: Option<Vec<Digest>>, began: Instant) -> Result<()> {
    let _shared = session.local.share()?;
    let keys = keys.map_or_else(|| session.local.record_keys(), Ok)?;
    add(&session.uploads.asked, keys.len() as u64);
    stream::iter(keys)
        .for_each_concurrent(ARTIFACTS_AT_ONCE, |key| async move { serve::push(session, key).await })
        .await;
    let tally = session.tally();
    if std::io::stderr().is_terminal() {
        say!("");
    }
    say!(
        "uploaded {} artifacts, {} ({} were there); {} were there already, {} left out, {} not uploaded, {:.1} s",
        tally.uploaded,
        size(tally.sent),
        size(tally.present),
        tally.known,
        tally.left_out,
        tally.unsent,
        began.elapsed().as_secs_f64()
    );
    finish(tally.unsent, "uploaded", tally.first_failure)
}

async fn pull(session: &Arc<RemoteSession>, began: Instant) -> Result<()> {
    let _shared = session.local.share()?;
    let keys = session.keys().await.map_err(|trouble| problem(session, "cannot list", trouble))?;
    let missing = |key: &Digest| !session.local.record(*key).is_ok_and(|record| record.is_some());
    let wanted: Vec<Digest> = keys.iter().copied().filter(missing).collect();
    let (all, there) = (wanted.len() as u64, keys.len() - wanted.len());
    stream::iter(wanted)
        .for_each_concurrent(ARTIFACTS_AT_ONCE, |key| async move {
            if session.is_down() {
                return;
            }
            match session.fetch(key, None, 0).await {
                Ok(_) => {}
                Err(RemoteTrouble::Store(error)) => session.read_failed(&error),
                Err(trouble) => say!("not fetched: {}: {}", key.short(), printable(&trouble.text())),
            }
        })
        .await;
    let tally = session.tally();
    say!(
        "fetched {} of {all} artifacts, {}; {there} were here already, {:.1} s",
        tally.fetched,
        size(tally.received),
        began.elapsed().as_secs_f64()
    );
    finish(all - tally.fetched, "fetched", tally.first_failure)
}

fn finish(missing: u64, verb: &str, cause: Option<String>) -> Result<()> {
    if missing == 0 {
        return Ok(());
    }
    let cause = cause.map(|cause| format!("; the first failure: {cause}")).unwrap_or_default();
    Err(Problem::new(format!("{missing} artifacts were not {verb}{cause}"))
        .hint("the same command goes on from here")
        .into())
}
