//! Sends the runs of `track` stages to an MLflow server: `raisin build` asks for it at its end, and `raisin track push`.
//! Everything that is sent is in the cache, so a server that is away costs a warning. Reasons:
//! docs/decisions/0036-trackers-and-flight.md.

mod described;
mod run;
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use described::{Descriptions, WaitingRun};
use run::Sent;
use server::{MlflowTrouble, TrackingServer};

use raisin_base::cache_only::{recall, remember};
use raisin_base::digest::Digest;
use raisin_base::error::{Error, Problem, Result};
use raisin_base::printable::printable;
use raisin_base::say;
use raisin_contract::track::TrackQuestion;
use raisin_store::{Store, Waiting};

/// The longest time that a build waits for a server, all requests together.
const AFTER_A_BUILD: Duration = Duration::from_mins(1);

/// Sends what a question asks for.
///
/// # Errors
/// After a build: none, because sending is no part of a build; a warning says what was not sent. Otherwise: there is
/// nothing to send, no server is named, or something was not sent.
pub fn push(question: &TrackQuestion) -> Result<()> {
    let mut tally = SentTally::default();
    let result = send_all(question, &mut tally);
    if !question.quiet || !question.after_build {
        tally.tell();
    }
    match result {
        Err(error) if question.after_build => {
            warn(question, &tally, &error);
            Ok(())
        }
        result => result,
    }
}

#[derive(Default)]
struct SentTally {
    address: String,
    experiments: Vec<String>,
    new: u64,
    there: u64,
    /// The texts that were too long for MLflow and were cut.
    cut: u64,
    unsent: u64,
}

impl SentTally {
    fn tell(&self) {
        if self.new + self.there == 0 {
            return;
        }
        let experiments = self.experiments.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let mut line = format!("mlflow: {} sent to {}, {experiments}", runs(self.new), self.address);
        if self.there > 0 {
            line += &format!("; {} there already", self.there);
        }
        if self.cut > 0 {
            line += &format!("; {} long values cut", self.cut);
        }
        say!("{}", printable(&line));
    }
}

fn runs(count: u64) -> String {
    if count == 1 { "1 run".to_owned() } else { format!("{count} runs") }
}

fn warn(question: &TrackQuestion, tally: &SentTally, error: &Error) {
    let what = if tally.unsent > 0 { runs(tally.unsent) } else { "the runs".to_owned() };
    say!("{}", printable(&format!("warning: {what} not sent to MLflow: {error:#}")));
    if let Some(hint) = error.downcast_ref::<Problem>().and_then(|problem| problem.hint.as_ref()) {
        say!("{}", printable(&format!("hint: {hint}")));
    }
    say!(
        "{}",
        printable(&format!(
            "the build is complete; the next build, or `raisin track push {}`, sends them",
            question.named
        ))
    );
}

fn send_all(question: &TrackQuestion, tally: &mut SentTally) -> Result<()> {
    let store = Store::expected(&question.cache)?;
    let _shared = store.share()?;
    let descriptions = Descriptions::read(&store, &question.out, &question.pipelines)?;
    if descriptions.stages.is_empty() {
        if question.after_build {
            return Ok(());
        }
        let problem = Problem::usage(format!("`{}` has no runs for MLflow", question.named));
        return Err(problem
            .hint("give a stage of kind `track` the parameter mlflow = { experiment = \"NAME\" }, and build")
            .into());
    }
    tally.unsent = descriptions.runs();
    let server = TrackingServer::from_environment(question.after_build.then_some(AFTER_A_BUILD))?;
    tally.address.clone_from(&server.address);
    let marks: BTreeMap<Digest, _> = descriptions
        .stages
        .iter()
        .map(|stage| {
            (stage.artifact, store.sent_file(Digest::of(format!("{} {}", server.address, stage.artifact).as_bytes())))
        })
        .collect();
    // Two builds at once would both look for a run, and both make it.
    let patience = |_| if server.time().is_ok() { Waiting::GoOn } else { Waiting::GiveUp };
    let name = Digest::of(format!("track {}", server.address).as_bytes());
    let Some(_lock) = store.lock(name, patience)? else {
        return Err(MlflowTrouble::Late.problem(&server.address).into());
    };
    let mut experiments: BTreeMap<String, String> = BTreeMap::new();
    let mut refused = None;
    for stage in &descriptions.stages {
        let mark = &marks[&stage.artifact];
        if question.after_build && recall(mark).is_some() {
            tally.unsent -= stage.files.len() as u64;
            continue;
        }
        let mut is_whole = true;
        for file in &stage.files {
            let waiting = descriptions.run(stage, file)?;
            match send(&server, &mut experiments, &waiting) {
                Ok(Sent::WasThere) => tally.there += 1,
                Ok(Sent::New | Sent::Completed) => {
                    tally.new += 1;
                    tally.cut += waiting.cut;
                }
                Err(trouble) => {
                    let problem = trouble.problem(&server.address);
                    if trouble.is_general() {
                        return Err(problem.into());
                    }
                    is_whole = false;
                    refused.get_or_insert(problem);
                    continue;
                }
            }
            tally.unsent -= 1;
            if !tally.experiments.contains(&waiting.run.experiment) {
                tally.experiments.push(waiting.run.experiment.clone());
            }
        }
        if is_whole {
            remember(mark, b"sent");
        }
    }
    refused.map_or(Ok(()), |problem| Err(problem.into()))
}

fn send(
    server: &TrackingServer,
    experiments: &mut BTreeMap<String, String>,
    waiting: &WaitingRun,
) -> server::MlflowAnswer<Sent> {
    let name = &waiting.run.experiment;
    if !experiments.contains_key(name) {
        experiments.insert(name.clone(), run::experiment(server, name)?);
    }
    run::send(server, &experiments[name], &waiting.run)
}
