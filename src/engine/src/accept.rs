//! Accepts a cosmetic change: the new action gets the artifact of the earlier action, and the action record says so.
//! explain.rs finds the earlier action.

use super::Options;
use super::difference::words;
use super::explain::ActionHistory;
use super::interrupt::Interrupt;
use super::resolve::{Resolver, StageLookup};
use super::waiting;
use raisin_base::digest::Digest;
use raisin_base::error::{Problem, Result};
use raisin_base::say::say;
use raisin_pipeline::Pipeline;
use raisin_store::{Accepted, ActionRecord, Lookup, Store};

/// A stage that got an artifact without running.
#[derive(Clone, Debug)]
pub struct Acceptance {
    pub label: String,
    pub artifact: Digest,
    pub accepted: Accepted,
}

/// Accepts the change of a stage, in all its variants. Returns the accepted stages; the list is empty if the stage is
/// cached. While the function waits for another process, it prints the process id on standard error. A signal ends the
/// process at once, with exit code 130; stages that were accepted before the signal stay accepted.
///
/// # Errors
/// The inputs of the stage must still be made, or there is no earlier artifact of the stage. In both cases nothing is
/// accepted.
pub fn accept(pipeline: &Pipeline, options: &Options, stage: &str, reason: &str) -> Result<Vec<Acceptance>> {
    let _interrupt = Interrupt::watch()?;
    let options = Options { only: vec![stage.to_owned()], ..options.clone() };
    let store = Store::open(&options.cache)?;
    let _shared = store.share()?;
    let mut resolver = Resolver::of(pipeline, &options, store.clone())?;
    let mut history = ActionHistory::default();
    let (by, at) = (person(), jiff::Timestamp::now().to_string());
    let mut made: Vec<(Acceptance, ActionRecord)> = Vec::new();
    for id in 0..resolver.graph.nodes.len() {
        let action = resolver.action(id)?;
        let key = action.key();
        if let Some(key) = key
            && let StageLookup::Hit(_) = resolver.find(id, key)?
        {
            continue;
        }
        let label = resolver.graph.label(id);
        if resolver.graph.nodes[id].stage.name != stage {
            let message = format!("`{stage}` is made from `{label}`, which would run: its action is not known yet");
            let hint = format!("build or accept `{}` first", resolver.graph.nodes[id].stage.name);
            return Err(Problem::usage(message).hint(hint).into());
        }
        let Some(key) = key else { continue };
        let nothing = || {
            Problem::usage(format!("there is no earlier artifact of `{label}` to accept"))
                .hint(format!("`raisin build PIPELINE --only {stage}` makes the artifact"))
        };
        let (old, differences) = history.accept(&resolver, id, &action)?.ok_or_else(nothing)?;
        // The earlier artifact is checked like any artifact that a build uses.
        let Lookup::Hit(old) = store.lookup(old)? else { return Err(nothing().into()) };
        let accepted = Accepted {
            of: old.key,
            differences: words(&differences),
            by: by.clone(),
            at: at.clone(),
            reason: reason.to_owned(),
        };
        let record = ActionRecord {
            key,
            action: action.to_json(),
            started: at.clone(),
            finished: at.clone(),
            seconds: 0.0,
            costs: Vec::new(),
            accepted: Some(accepted.clone()),
            ..*old
        };
        made.push((Acceptance { label, artifact: record.artifact, accepted }, record));
    }
    let mut accepted = Vec::with_capacity(made.len());
    for (acceptance, record) in made {
        // If another process makes this action now, that process holds the lock. An artifact that was really made is
        // better than an accepted artifact.
        let doing = format!("building {}", acceptance.label);
        let _lock = waiting::lock(&store, record.key, &doing, |words| say(&words), || false)?;
        if let Lookup::Hit(_) = store.lookup(record.key)? {
            continue;
        }
        store.write_record(&record)?;
        accepted.push(acceptance);
    }
    Ok(accepted)
}

/// Takes back what [`accept`] did for a stage, in all its variants: removes the action records of the acceptances, so
/// that the next build runs the stage. Returns the acceptances that were taken back.
///
/// # Errors
/// As [`accept`]: the inputs of the stage must be made.
pub fn undo(pipeline: &Pipeline, options: &Options, stage: &str) -> Result<Vec<Acceptance>> {
    let _interrupt = Interrupt::watch()?;
    let options = Options { only: vec![stage.to_owned()], ..options.clone() };
    let store = Store::open(&options.cache)?;
    let _shared = store.share()?;
    let mut resolver = Resolver::of(pipeline, &options, store.clone())?;
    let mut undone = Vec::new();
    for id in 0..resolver.graph.nodes.len() {
        let action = resolver.action(id)?;
        let label = resolver.graph.label(id);
        let is_wanted = resolver.graph.nodes[id].stage.name == stage;
        let Some(key) = action.key() else {
            // An input that would run has no artifact, so the action of the stage is not known.
            if is_wanted {
                let hint = "build the inputs of the stage first: only then it is known which action it has now";
                return Err(Problem::usage(format!("the action of `{label}` is not known yet")).hint(hint).into());
            }
            continue;
        };
        if !is_wanted {
            resolver.find(id, key)?;
            continue;
        }
        let doing = format!("building {label}");
        let _lock = waiting::lock(&store, key, &doing, |words| say(&words), || false)?;
        if let Some(record) = store.record(key)?
            && let Some(accepted) = record.accepted
        {
            store.remove_record(key)?;
            undone.push(Acceptance { label, artifact: record.artifact, accepted });
        }
    }
    Ok(undone)
}

/// The name of the user on this machine.
fn person() -> String {
    let name = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
    name.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()))
}
