//! A person's word that a change was cosmetic: the new action gets the artifact of the old one, and its record says so.

use std::io::Write as _;

use super::Options;
use super::difference::words;
use super::explain::{ExplainRequest, History};
use super::interrupt::Interrupt;
use super::resolve::{Resolver, StageLookup};
use super::waiting::{once_each, words as words_of_waiting};
use raisin_base::digest::Digest;
use raisin_base::error::{Problem, Result};
use raisin_pipeline::Pipeline;
use raisin_store::{Accepted, ActionRecord, Lookup, Store, Waiting};

/// A stage that has an artifact now, without having run.
#[derive(Clone, Debug)]
pub struct Acceptance {
    pub label: String,
    pub artifact: Digest,
    pub accepted: Accepted,
}

/// Accepts the change of a stage, in all its variants. Gives what was accepted; nothing, if the stage is cached. Says on
/// standard error for whom it waits; a signal ends it at once, with exit code 130, and what is accepted by then stays so.
///
/// # Errors
/// A stage whose inputs are still to be made, or that no earlier artifact is there of. Nothing is accepted then.
pub fn accept(pipeline: &Pipeline, options: &Options, stage: &str, reason: &str) -> Result<Vec<Acceptance>> {
    let _interrupt = Interrupt::watch()?;
    let options = Options { only: vec![stage.to_owned()], ..options.clone() };
    let store = Store::open(&options.cache)?;
    let _shared = store.share()?;
    let mut resolver = Resolver::of(pipeline, &options, store.clone())?;
    let mut history = History::default();
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
        let request = ExplainRequest::of(&resolver, id, &action);
        let nothing = || {
            Problem::usage(format!("there is no earlier artifact of `{label}` that could stand for this one"))
                .hint(format!("`raisin build` makes it: `--only {stage}`"))
        };
        let (old, differences) = history.accept(&store, &request)?.ok_or_else(nothing)?;
        // Looked up as any artifact is that is to be served.
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
        // Whoever is making this action has the lock; what was really made is better than a person's word.
        let doing = format!("building {}", acceptance.label);
        let mut tell = once_each(|holder| {
            // A closed standard error is no reason to stop.
            drop(writeln!(std::io::stderr(), "{}", words_of_waiting(holder, &doing)));
        });
        let _lock = store.lock(record.key, |holder| {
            tell(holder);
            Waiting::GoOn
        })?;
        if let Lookup::Hit(_) = store.lookup(record.key)? {
            continue;
        }
        store.write_record(&record)?;
        accepted.push(acceptance);
    }
    Ok(accepted)
}

/// The name that the person goes by on this machine.
fn person() -> String {
    let name = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
    name.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()))
}
