//! Makes damaged artifacts and action records again: runs exactly the actions that made them, one after another.
//! repair/making.rs finds out how something was made; execute.rs makes an action.
//!
//! A repair is no build: it changes no link, no build.json and no index. Therefore the links of the last build lead to
//! the repaired artifacts, whatever flags that build had.

mod making;

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use self::making::{Makings, PreparedJob, Way};
use super::Options;
use super::child::Children;
use super::execute::{JobMessage, JobNews, MadeAction, plain};
use super::interrupt::{GRACE, Interrupt, end_in_time};
use super::progress::{Display, duration, in_seconds, size};
use super::pull::RemoteAsker;
use super::silence;
use super::worker_pool::WorkerPool;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, bail};
use raisin_base::panics::caught;
use raisin_contract::{Declaration, DeviceKind, Event};
use raisin_store::{ActionRecord, Damage, Journal, JournalEvent, RunEnd, RunStart, Store};

/// The result of a repair.
#[derive(Clone, Debug)]
pub struct Repair {
    /// One outcome for each damage, in the given order.
    pub outcomes: Vec<RepairOutcome>,
    /// Whether the user interrupted the repair.
    pub interrupted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairOutcome {
    /// The store has the artifact or the action record again.
    MadeAgain,
    /// The store has it again, from the shared cache.
    Fetched,
    /// The action gave another artifact than before. The action record now names this artifact. The lost artifact is
    /// not there: links to it lead nowhere, and stages that were made from it run again.
    MadeAnother(Digest),
    /// Nothing was made; the text is the reason.
    NotMade(String),
}

/// Makes damaged or missing artifacts and action records again, inputs before the artifacts that are made from them. What
/// the shared cache has is fetched instead, if it is the same artifact. Of `options`, the folder of the cache, the shared
/// cache, the device, the threads, the executables and `quiet` count. After a signal, the
/// running stage ends as in a build, and the same repair goes on from there later.
///
/// # Errors
/// The cache cannot be used. If something cannot be made again, that is an outcome, not an error.
pub fn repair(damages: &[Damage], kinds: &'static [Declaration], options: &Options) -> Result<Repair> {
    let interrupt = Interrupt::watch()?;
    let store = Store::open(&options.cache)?;
    let _shared = store.share()?;
    let makings = Makings::of(&store, kinds, options)?;
    let silence_limit = silence::limit()?;
    interrupt.be_busy();
    let children = Children::default();
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        let (_over, end) = channel();
        let (interrupt, children) = (&interrupt, &children);
        let watch = move || end_in_time(interrupt, &end, children);
        std::thread::Builder::new().spawn_scoped(scope, watch).context("cannot start a thread")?;
        let pool = WorkerPool::new(scope, &store, children, sender, None);
        let display = Display::new(options.quiet, 0);
        let mut repairer = Repairer {
            store: &store,
            makings,
            remote: RemoteAsker::new(options, &store, children),
            pool,
            children,
            interrupt,
            receiver,
            display,
            tried: BTreeSet::new(),
            stopped: None,
            silence_limit,
            looked: Instant::now(),
        };
        caught(|| repairer.all(damages)).flatten().inspect_err(|failure| {
            // Leave no child process behind after an error.
            interrupt.fail(failure.to_string());
            children.end(GRACE);
        })
    })
}

struct Repairer<'s, 'scope, 'env> {
    store: &'s Store,
    makings: Makings<'s>,
    remote: RemoteAsker<'s>,
    pool: WorkerPool<'scope, 'env>,
    children: &'scope Children,
    interrupt: &'scope Interrupt,
    receiver: Receiver<JobMessage>,
    display: Display,
    /// The keys of the actions that ran. None runs twice, also if it failed.
    tried: BTreeSet<Digest>,
    /// When the running stage was asked to end.
    stopped: Option<Instant>,
    silence_limit: Duration,
    /// When the signs of life of the running stage were last read.
    looked: Instant,
}

/// The result of one attempt at a damage.
enum RepairAttempt {
    Ended(RepairOutcome),
    /// Something else must be made first; the text says what.
    Waits(String),
}

impl Repairer<'_, '_, '_> {
    fn all(&mut self, damages: &[Damage]) -> Result<Repair> {
        let mut outcomes: Vec<Option<RepairOutcome>> = vec![None; damages.len()];
        let mut waits: Vec<String> = vec![String::new(); damages.len()];
        // A damaged input must exist again before the action that reads it has a key or can run. Each pass makes what
        // can be made; the passes end when a pass makes nothing.
        loop {
            let mut any = false;
            for (index, damage) in damages.iter().enumerate() {
                if outcomes[index].is_some() || self.interrupt.count() > 0 {
                    continue;
                }
                // An error of one attempt, such as a full disk, must not hide what is made again already.
                let attempt = self.attempt(damage);
                match attempt.unwrap_or_else(|error| RepairAttempt::Ended(RepairOutcome::NotMade(plain(&error)))) {
                    RepairAttempt::Ended(outcome) => {
                        outcomes[index] = Some(outcome);
                        any = true;
                    }
                    RepairAttempt::Waits(reason) => waits[index] = reason,
                }
            }
            if !any || self.interrupt.count() > 0 {
                break;
            }
        }
        self.makings.save();
        let interrupted = self.interrupt.count() > 0;
        let reason = |wait: String| if interrupted { "the repair was interrupted".to_owned() } else { wait };
        let outcomes = outcomes.into_iter().zip(waits);
        let outcomes = outcomes.map(|(outcome, wait)| outcome.unwrap_or_else(|| RepairOutcome::NotMade(reason(wait))));
        Ok(Repair { outcomes: outcomes.collect(), interrupted })
    }

    fn attempt(&mut self, damage: &Damage) -> Result<RepairAttempt> {
        let is_record = damage.what == "record";
        if self.is_back(damage) {
            return Ok(RepairAttempt::Ended(RepairOutcome::MadeAgain));
        }
        let ways =
            if is_record { self.makings.of_record(damage.digest)? } else { self.makings.of_artifact(damage.digest)? };
        let (mut reasons, mut waits): (Vec<String>, Option<String>) = (Vec::new(), None);
        for way in ways {
            let job = match way {
                Way::None(reason) => {
                    reasons.push(reason);
                    continue;
                }
                Way::Waits(reason) => {
                    waits = Some(reason);
                    continue;
                }
                Way::Record(record) if self.tried.contains(&record.key) => continue,
                Way::Record(record) if self.fetches(damage, &record)? => {
                    return Ok(RepairAttempt::Ended(RepairOutcome::Fetched));
                }
                Way::Record(record) => match self.makings.prepare(&record) {
                    Ok(PreparedJob::Job(job)) => *job,
                    Ok(PreparedJob::Waits(reason)) => {
                        waits = Some(reason);
                        continue;
                    }
                    Err(error) => {
                        reasons.push(plain(&error));
                        continue;
                    }
                },
            };
            let key = job.record.key;
            // The action record that the job has replaces names the artifact of before, if that is known.
            let before = if is_record { self.makings.artifact_of(key) } else { Some(damage.digest) };
            self.tried.insert(key);
            match self.run(job)? {
                Ok(record) => {
                    let outcome = match before {
                        Some(before) if before != record.artifact => RepairOutcome::MadeAnother(record.artifact),
                        _ => RepairOutcome::MadeAgain,
                    };
                    return Ok(RepairAttempt::Ended(outcome));
                }
                Err(error) => reasons.push(plain(&error)),
            }
        }
        Ok(match waits {
            Some(reason) => RepairAttempt::Waits(reason),
            None if reasons.is_empty() => RepairAttempt::Waits("the action that made it has failed".to_owned()),
            None => RepairAttempt::Ended(RepairOutcome::NotMade(reasons.join("; "))),
        })
    }

    /// Whether the shared cache had what is lost, and the store has it again. Another artifact of the same action is not
    /// fetched: the action itself may give the lost one.
    fn fetches(&mut self, damage: &Damage, record: &ActionRecord) -> Result<bool> {
        if !self.remote.is_usable() {
            return Ok(false);
        }
        let (node, key) = (self.tried.len(), record.key);
        let is_record = damage.what == "record";
        let before = if is_record { self.makings.artifact_of(key) } else { Some(damage.digest) };
        let there = self.remote.look(vec![(node, key, record.action.clone())]).remove(&node);
        match (there, before) {
            (Some((artifact, _)), Some(before)) if artifact != before => return Ok(false),
            (Some(_), _) => {}
            (None, _) => return Ok(false),
        }
        let received = self.remote.fetch(vec![(node, key, record.action.clone())]).remove(&node);
        Ok(received.is_some() && self.is_back(damage))
    }

    fn is_back(&self, damage: &Damage) -> bool {
        if damage.what == "record" {
            self.store.record(damage.digest).is_ok_and(|record| record.is_some())
        } else {
            self.store.inspect(damage.digest).is_ok_and(|artifact| artifact.is_some())
        }
    }

    /// Runs one job, and writes it into the journal as a run of its own. The inner result is that of the stage.
    fn run(&mut self, mut job: making::RepairJob) -> Result<Result<ActionRecord>> {
        let began = Instant::now();
        let mut journal = Journal::begin(self.store)?;
        let record = &mut job.record;
        journal.run().clone_into(&mut record.run);
        let (key, stage, variant) = (record.key, record.stage.clone(), record.variant.clone());
        journal.hold(JournalEvent::RunStarted(RunStart {
            pipeline: record.pipeline.clone(),
            file: job.origin.file.clone(),
            pid: std::process::id(),
            folder: job.origin.folder.clone(),
            overrides: job.origin.overrides.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RunStart::default()
        }));
        let mut label = format!("{}.{stage}", record.pipeline);
        if !variant.is_empty() {
            label += &format!(" [{variant}]");
        }
        let id = self.tried.len();
        let threads = job.counted_threads();
        let gpu = (job.environment().device == DeviceKind::Cuda).then_some(0);
        self.display.start(id, &label);
        self.pool.start(job.into_job(id), gpu)?;
        let result = loop {
            match self.next()? {
                None | Some(JobNews::Event(Event::Cost(_) | Event::Measured(_))) => {}
                Some(JobNews::Waiting(words)) => self.display.say(id, &words),
                Some(JobNews::Started) => {
                    let (stage, variant) = (stage.clone(), variant.clone());
                    self.write(&mut journal, JournalEvent::Started { stage, variant, key, threads });
                }
                Some(JobNews::Event(Event::Progress(progress))) => self.display.progress(id, &progress),
                Some(JobNews::Event(Event::Note { text })) => self.display.stage_line(&label, &text),
                Some(JobNews::Ended(result)) => break *result,
            }
        };
        self.pool.ended(id);
        self.display.end(id);
        let interrupted = self.interrupt.count() > 0;
        let (outcome, ran) = match &result {
            Ok(MadeAction { record, ran, .. }) => {
                let ActionRecord { artifact, seconds, bytes, .. } = *record;
                journal.hold(JournalEvent::Finished { stage, variant, key, artifact, seconds, bytes });
                let took = duration(in_seconds(seconds));
                self.display.stage_line(&label, &format!("made again in {took}, {}", size(bytes)));
                ("built", u64::from(*ran))
            }
            Err(error) => {
                let reason = plain(error);
                journal.hold(JournalEvent::Failed { stage, variant, key: Some(key), reason });
                (if interrupted { "interrupted" } else { "failed" }, 0)
            }
        };
        let end = JournalEvent::RunFinished(RunEnd {
            outcome: outcome.to_owned(),
            ran,
            cached: 0,
            failed: u64::from(outcome == "failed"),
            seconds: began.elapsed().as_secs_f64(),
            ..RunEnd::default()
        });
        self.write(&mut journal, end);
        Ok(result.map(|made| made.record))
    }

    /// Writes into the journal. A line that cannot be written is reported, and the repair goes on.
    fn write(&self, journal: &mut Journal, event: JournalEvent) {
        if let Err(error) = journal.write(event) {
            self.display.warning(&format!("warning: {error:#}"));
        }
    }

    /// Waits a moment for news of the running job, and ends the job after a signal or a long silence.
    fn next(&mut self) -> Result<Option<JobNews>> {
        let news = match self.receiver.recv_timeout(Duration::from_millis(50)) {
            Ok(message) => Some(message.news),
            Err(RecvTimeoutError::Timeout) => {
                self.display.tick();
                None
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the worker thread of the repair has ended"),
        };
        if let Some(failure) = self.interrupt.failure() {
            bail!(failure.to_owned());
        }
        if self.looked.elapsed() >= self.silence_limit / 20 {
            self.looked = Instant::now();
            self.children.kill_silent(self.silence_limit);
        }
        let signals = self.interrupt.count();
        if signals > 0 && self.stopped.is_none() {
            self.stopped = Some(Instant::now());
            self.display.line("interrupted: ending the running stage");
            self.children.stop();
        }
        // A second signal means that the user does not want to wait for an orderly end.
        if self.stopped.is_some_and(|moment| moment.elapsed() >= GRACE || signals > 1) {
            self.children.kill();
        }
        Ok(news)
    }
}
