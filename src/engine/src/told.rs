//! The reports of a build: lines on standard error for the user, and events in the journal. build.rs decides what
//! happens; progress.rs draws the lines.

use std::time::Duration;

use super::Options;
use super::execute::{Check, plain};
use super::git::GitState;
use super::graph::{Graph, NodeId};
use super::outcome::StageResults;
use super::progress::{Display, duration, in_seconds, size};
use super::summary::Summary;
use raisin_base::columns::width;
use raisin_base::digest::Digest;
use raisin_base::error::Result;
use raisin_contract::remote::RemoteTally;
use raisin_contract::results::MethodResult;
use raisin_contract::{DeviceKind, Event, Progress};
use raisin_pipeline::Pipeline;
use raisin_store::{ActionRecord, Journal, JournalEvent, RunEnd, RunResult, RunStart, Store};

pub const HOW_TO_GO_ON: &str = "what is finished is kept; the same command goes on from here";

/// The maximum number of names in a line that lists links.
const MOST_NAMES: usize = 8;

/// The lines of the shared cache on the display. No node has these numbers.
const UPLOADS: NodeId = NodeId::MAX;
const LOOK_UPS: NodeId = NodeId::MAX - 1;

/// What happened to a stage.
pub enum News<'n> {
    /// The store has the artifact; the stage need not run.
    Hit {
        key: Digest,
        artifact: Digest,
    },
    /// The artifact came from the shared cache; `bytes` went over the network.
    Fetched {
        key: Digest,
        artifact: Digest,
        bytes: u64,
        seconds: Duration,
    },
    /// The stage had an artifact that cannot be used.
    Lost {
        reason: &'n str,
    },
    /// The stage was cached when the plan was made, and is not cached any more.
    GoneSincePlanned,
    /// The stage must run.
    Miss {
        key: Digest,
        why: Vec<String>,
    },
    /// A line for the user only: the stage need not run.
    Cached,
    /// The stage starts.
    Begins,
    /// The stage waits for another process; the text says for which process.
    Waits(&'n str),
    /// The worker will get the stage next.
    Started {
        key: Digest,
        /// The threads of a tensor stage.
        threads: Option<usize>,
    },
    /// The stage sent an event.
    Said(&'n Event),
    Ran {
        record: &'n ActionRecord,
        check: &'n Check,
    },
    /// A line for the user only, after [`News::Hit`].
    MadeByAnotherBuild,
    /// The job of the stage goes on without the build, or was cancelled.
    Left {
        words: &'n str,
    },
    Ended,
    Failed {
        key: Option<Digest>,
        reason: &'n str,
        /// Whether the stage failed because the user interrupted the build.
        interrupted: bool,
    },
}

/// The receivers of reports: the display and the journal.
pub struct Told {
    display: Display,
    journal: Journal,
    /// Whether a write to the journal has failed in this build.
    journal_failed: bool,
    /// Whether the line about the start of the run has the stages.
    has_described: bool,
    /// The largest memory of a stage that ran.
    peak_bytes: Option<u64>,
    git: Option<GitState>,
    shows_uploads: bool,
    /// The number of stages for which the shared cache is asked, as the display shows it.
    shown_look_ups: usize,
}

impl Told {
    pub fn new(store: &Store, graph: &Graph<'_>, options: &Options) -> Result<Self> {
        let width = (0..graph.nodes.len()).map(|id| width(&graph.label(id))).max().unwrap_or(0);
        let display = Display::new(options.quiet, width.min(40));
        let journal = Journal::begin(store)?;
        Ok(Self {
            display,
            journal,
            journal_failed: false,
            has_described: false,
            peak_bytes: None,
            git: None,
            shows_uploads: false,
            shown_look_ups: 0,
        })
    }

    /// The id of this run in the journal.
    pub fn run(&self) -> &str {
        self.journal.run()
    }

    pub fn begins(&mut self, pipeline: &Pipeline, options: &Options, device: DeviceKind) {
        self.journal.hold(JournalEvent::RunStarted(RunStart {
            pipeline: pipeline.name.clone(),
            file: pipeline.file.display().to_string(),
            pid: std::process::id(),
            folder: pipeline.folder.display().to_string(),
            overrides: pipeline.overrides.iter().map(ToString::to_string).collect(),
            only: options.only.clone(),
            out: std::path::absolute(options.out.join(&pipeline.name)).unwrap_or_default().display().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: machine_name(),
            device: match device {
                DeviceKind::Cpu => "cpu",
                DeviceKind::Cuda => "cuda",
            }
            .to_owned(),
            stages: Vec::new(),
        }));
    }

    /// Adds the stages to the line about the start of the run, if this line is not written yet. A run that finds
    /// everything as it was does without them, because its time is counted in milliseconds.
    pub fn describe(&mut self, graph: &Graph<'_>) {
        if std::mem::replace(&mut self.has_described, true) {
            return;
        }
        self.journal.revise(|event| {
            if let JournalEvent::RunStarted(start) = event {
                start.stages = graph.outline();
            }
        });
    }

    /// Asks git about the folder of the pipeline, while the stages run.
    pub fn ask_git(&mut self, pipeline: &Pipeline) {
        let file = pipeline.folder.join(&pipeline.file);
        self.git = Some(GitState::ask(file.parent().unwrap_or(&pipeline.folder)));
    }

    /// Reports to the user and to the journal. If the journal cannot be written, the build goes on, because the stages
    /// at work do not need the journal.
    pub fn tell(&mut self, graph: &Graph<'_>, id: NodeId, news: News<'_>) {
        let node = graph.nodes[id].stage;
        // Most news, such as progress, needs no names for the journal.
        let names = || (node.name.clone(), graph.variant_name(id));
        let kind = || node.declaration.name.to_owned();
        let is_written =
            matches!(news, News::Fetched { .. } | News::Started { .. } | News::Ran { .. } | News::Failed { .. });
        if is_written {
            self.describe(graph);
        }
        match news {
            News::Hit { key, artifact } => {
                let (stage, variant) = names();
                self.journal.hold(JournalEvent::Hit { stage, variant, kind: kind(), key, artifact, fetched: None });
            }
            News::Fetched { key, artifact, bytes, seconds } => {
                let (stage, variant) = names();
                let fetched = Some(bytes);
                self.write(JournalEvent::Hit { stage, variant, kind: kind(), key, artifact, fetched });
                self.line(graph, id, &format!("fetched {} in {}", size(bytes), duration(seconds)));
            }
            News::Lost { reason } => self.line(graph, id, reason),
            News::GoneSincePlanned => {
                self.line(graph, id, "was cached when the plan was made, and is not cached any more: it runs");
            }
            News::Miss { key, why } => {
                let (stage, variant) = names();
                self.journal.hold(JournalEvent::Miss { stage, variant, kind: kind(), key, why });
            }
            News::Cached => self.line(graph, id, "cached"),
            News::Begins => self.display.start(id, &graph.label(id)),
            News::Waits(words) => self.display.say(id, words),
            News::Started { key, threads } => {
                let (stage, variant) = names();
                self.write(JournalEvent::Started { stage, variant, key, threads });
            }
            News::Said(Event::Progress(progress)) => self.display.progress(id, progress),
            News::Said(Event::Note { text }) => self.line(graph, id, text),
            News::Said(Event::Cost(_) | Event::Measured(_)) => {}
            News::Left { words } => self.line(graph, id, words),
            News::Ended => self.display.end(id),
            News::Ran { record, check } => {
                let (stage, variant) = names();
                let ActionRecord { key, artifact, seconds, bytes, .. } = *record;
                let peak = record.costs.iter().map(|cost| cost.peak_bytes).max().filter(|bytes| *bytes > 0);
                self.peak_bytes = self.peak_bytes.max(peak);
                self.write(JournalEvent::Finished { stage, variant, key, artifact, seconds, bytes });
                let took = duration(in_seconds(seconds));
                let checked = if *check == Check::Same { ", twice the same" } else { "" };
                self.line(graph, id, &format!("ran in {took}, {}{checked}", size(bytes)));
            }
            News::MadeByAnotherBuild => self.line(graph, id, "cached: another build made it"),
            News::Failed { key, reason, interrupted } => {
                if interrupted {
                    self.line(graph, id, "interrupted");
                } else {
                    self.display.stage_warning(&graph.label(id), &format!("FAILED\n    {reason}"));
                }
                let (stage, variant) = names();
                self.write(JournalEvent::Failed { stage, variant, key, reason: reason.to_owned() });
            }
        }
    }

    /// Writes to the journal. Only the first failure is reported at once; [`Told::ends`] reports what was lost.
    fn write(&mut self, event: JournalEvent) {
        let Err(error) = self.journal.write(event) else { return };
        if !std::mem::replace(&mut self.journal_failed, true) {
            self.display.warning(&format!("warning: {}; the build goes on", plain(&error)));
        }
    }

    fn line(&self, graph: &Graph<'_>, id: NodeId, text: &str) {
        self.display.stage_line(&graph.label(id), text);
    }

    /// Call this a few times per second while no message arrives.
    pub fn tick(&self) {
        self.display.tick();
    }

    /// A line for the user that belongs to no stage.
    pub fn note(&self, text: &str) {
        self.display.line(text);
    }

    /// As [`Told::note`], also if the user wants no progress.
    pub fn warn(&self, text: &str) {
        self.display.warning(text);
    }

    /// Shows for how many stages the shared cache is asked, without those whose files arrive.
    pub fn asking(&mut self, stages: usize) {
        match (std::mem::replace(&mut self.shown_look_ups, stages), stages) {
            (before, now) if before == now => return,
            (_, 0) => return self.display.end(LOOK_UPS),
            (0, _) => self.display.start(LOOK_UPS, "shared cache"),
            _ => {}
        }
        let phase = format!("asking for {stages} {}", if stages == 1 { "stage" } else { "stages" });
        self.display.progress(LOOK_UPS, &Progress { phase, ..Progress::default() });
    }

    /// Shows the progress of the uploads to the shared cache, until no artifact is left.
    pub fn uploading(&mut self, artifacts: u64, done: u64, total: u64) {
        match (artifacts, self.shows_uploads) {
            (0, true) => self.display.end(UPLOADS),
            (0, false) => return,
            (_, true) => {}
            (_, false) => self.display.start(UPLOADS, "shared cache"),
        }
        self.shows_uploads = artifacts > 0;
        let what = if artifacts == 1 { "artifact" } else { "artifacts" };
        let phase = format!("uploading {artifacts} {what}, {} of {}", size(done), size(total));
        self.display.progress(UPLOADS, &Progress { phase, ..Progress::default() });
    }

    pub fn stopping(&self) {
        self.display.line("interrupted: ending the running stages");
    }

    /// Reports that raisin itself failed, and removes the lines of the running stages from the terminal. The error
    /// itself is reported by the caller of the build.
    pub fn raisin_failed(&mut self) {
        self.display.clear();
        self.display.line("raisin itself failed: ending the running stages");
    }

    /// Reports the end of the build. `changed`: the links have other targets than before. `links_failed`: the links
    /// could not be updated, so that this build has failed although its stages may be built.
    pub fn ends(&mut self, summary: &Summary, changed: bool, links_failed: bool) {
        let outcome = match summary.exit_code() {
            0 if summary.is_detached && !links_failed => "detached",
            0 if !links_failed => "built",
            0 | 1 => "failed",
            _ => "interrupted",
        };
        if summary.ran == 0 && summary.exit_code() == 0 && !changed {
            // All stages are hits, and the links already lead to these artifacts. The hits need no line in the journal,
            // because the links say the same.
            self.journal.forget(|event| matches!(event, JournalEvent::Hit { .. }));
        }
        let git = self.git.take().and_then(GitState::answer);
        self.write(JournalEvent::RunFinished(RunEnd {
            outcome: outcome.to_owned(),
            ran: summary.ran,
            cached: summary.cached + summary.fetched,
            fetched: Some(summary.fetched).filter(|count| *count > 0),
            received_bytes: Some(summary.remote.received).filter(|bytes| *bytes > 0),
            uploaded: Some(summary.remote.uploaded).filter(|count| *count > 0),
            sent_bytes: Some(summary.remote.sent).filter(|bytes| *bytes > 0),
            failed: summary.failures.len() as u64,
            seconds: summary.seconds,
            peak_bytes: self.peak_bytes,
            commit: git.as_ref().map(|git| git.commit.clone()),
            dirty: git.map(|git| git.dirty),
            results: summary.results.iter().flat_map(headlines).collect(),
        }));
        if self.journal_failed {
            let words = match self.journal.held() {
                0 => "the journal could be written again later: no line of it is lost".to_owned(),
                1 => "1 line of this build is not in the journal".to_owned(),
                lines => format!("{lines} lines of this build are not in the journal"),
            };
            self.display.warning(&format!("warning: {words}"));
        }
        let (name, ran, cached, out) = (&summary.pipeline, summary.ran, summary.cached, summary.out.display());
        let took = duration(in_seconds(summary.seconds));
        if !summary.earlier.is_empty() {
            let names = &summary.earlier;
            let links = if names.len() == 1 { "link is" } else { "links are" };
            self.display.line(&format!("{} {links} of an earlier build in {out}: {}", names.len(), listed(names)));
        }
        if !summary.accepted.is_empty() {
            let names = listed(&summary.accepted);
            let (have, takes) =
                if summary.accepted.len() == 1 { ("stage has", "it") } else { ("stages have", "one of them") };
            self.display.line(&format!(
                "{} {have} an accepted artifact, which another action made: {names}; `raisin accept PIPELINE STAGE --undo` \
                 takes {takes} back",
                summary.accepted.len()
            ));
        }
        about_remote(summary).iter().for_each(|line| self.display.line(line));
        about_failures(&summary.remote).iter().for_each(|line| self.display.warning(line));
        let fetched = if summary.fetched > 0 { format!("{} fetched, ", summary.fetched) } else { String::new() };
        let last = match outcome {
            "built" if ran == 0 => format!("built {name}: nothing to run, {fetched}{cached} cached, {took}  ->  {out}"),
            "built" => format!("built {name}: {ran} ran, {fetched}{cached} cached, {took}  ->  {out}"),
            "detached" => {
                let (jobs, them) = if summary.left == 1 {
                    ("1 job goes on", "it")
                } else {
                    (&*format!("{} jobs go on", summary.left), "them")
                };
                format!(
                    "detached {name}: {jobs}, {ran} ran, {fetched}{cached} cached, {took}; the same command finds {them} again"
                )
            }
            "failed" => {
                let (failed, skipped) = (summary.failures.len(), summary.skipped);
                let links = if links_failed { ", and the links cannot be updated" } else { "" };
                format!(
                    "failed {name}: {failed} failed, {skipped} not run, {ran} ran, {fetched}{cached} cached, \
                     {took}{links}"
                )
            }
            _ if summary.left > 0 => format!(
                "interrupted {name} after {took}: {} of its jobs go on, and the same command finds them again",
                summary.left
            ),
            _ => format!("interrupted {name} after {took}: {HOW_TO_GO_ON}"),
        };
        if outcome == "failed" {
            self.display.warning(&last);
        } else {
            self.display.line(&last);
        }
    }
}

/// The lines about the shared cache at the end of a build.
fn about_remote(summary: &Summary) -> Vec<String> {
    let mut lines = Vec::new();
    let tally = &summary.remote;
    let artifacts = |count: u64| if count == 1 { "1 artifact".to_owned() } else { format!("{count} artifacts") };
    if summary.fetched > 0 {
        let took = duration(in_seconds(summary.fetch_seconds));
        let (fetched, bytes) = (artifacts(summary.fetched), size(tally.received));
        lines.push(format!(
            "shared cache: fetched {fetched}, {bytes} in {took}; each file has the digest of its manifest"
        ));
    }
    if tally.has_uploads() {
        let mut parts = vec![format!("uploaded {}, {}", artifacts(tally.uploaded), size(tally.sent))];
        let others = [
            (tally.present > 0, format!("{} were there", size(tally.present))),
            (tally.known > 0, format!("{} were there", artifacts(tally.known))),
            (tally.left_out > 0, format!("{} left out", artifacts(tally.left_out))),
            (tally.unsent > 0, format!("{} not uploaded: `raisin remote push` uploads later", artifacts(tally.unsent))),
        ];
        parts.extend(others.into_iter().filter(|(is_there, _)| *is_there).map(|(_, part)| part));
        lines.push(format!("shared cache: {}", parts.join("; ")));
    }
    lines
}

/// The warning about requests to the shared cache that failed although the build could go on with it.
fn about_failures(tally: &RemoteTally) -> Option<String> {
    let cause = tally.first_failure.as_ref()?;
    let (failures, unsent) = (tally.failures, tally.unsent);
    Some(format!(
        "warning: of the requests to the shared cache, {failures} look-ups and fetches failed, whose stages ran here, and \
         {unsent} uploads; the first failure: {cause}"
    ))
}

/// The headline metrics of a stage, for the journal.
fn headlines(of: &StageResults) -> Vec<RunResult> {
    let result = |row: &MethodResult| RunResult {
        split: row.split.clone(),
        metric: row.metric.clone(),
        method: if row.method.is_empty() { of.label.clone() } else { row.method.clone() },
        mean: row.mean,
        seeds: row.seeds,
        baseline: row.is_baseline,
    };
    of.results.headlines().into_iter().flatten().map(result).collect()
}

/// The name of this machine; empty if the system does not tell it.
fn machine_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The first names, and the number of the others.
fn listed(names: &[String]) -> String {
    let more = match names.len().saturating_sub(MOST_NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names[..names.len().min(MOST_NAMES)].join(", ") + &more
}
