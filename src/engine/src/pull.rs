//! Asks the shared cache about stages, outside a build: for a plan, which stages would be fetched; for
//! `raisin remote pull` and for a repair, fetches them. All stages whose inputs are known are asked for at once. A build
//! asks for stages while others run (build/sharing.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::Options;
use super::child::Children;
use super::graph::NodeId;
use super::remote::RemoteProcess;
use super::resolve::{Resolver, StageLookup};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result, render};
use raisin_base::say::say;
use raisin_contract::remote::{RemoteReply, RemoteRequest};
use raisin_pipeline::Pipeline;
use raisin_store::Store;
use serde_json::Value;

/// A stage, its key and its action as JSON.
pub type AskedStage = (NodeId, Digest, Value);

/// A connection to the shared cache. It is made for the first request. After a failure it answers like an empty cache, and
/// the failure is said once.
pub struct RemoteAsker<'c> {
    options: &'c Options,
    store: Store,
    children: &'c Children,
    process: Option<RemoteProcess<'c>>,
    is_down: bool,
}

impl<'c> RemoteAsker<'c> {
    pub fn new(options: &'c Options, store: &Store, children: &'c Children) -> Self {
        Self { options, store: store.clone(), children, process: None, is_down: options.remote.is_none() }
    }

    pub fn is_usable(&self) -> bool {
        !self.is_down
    }

    /// The artifacts of actions in the shared cache, and the sizes of the files that a build would fetch.
    pub fn look(&mut self, asked: Vec<AskedStage>) -> BTreeMap<NodeId, (Digest, u64)> {
        let request = |(node, key, action)| RemoteRequest::Look { node, key, action };
        let answers = self.ask(asked.into_iter().map(request).collect()).into_iter();
        let found = |(node, answer)| match answer {
            RemoteReply::Found { artifact, bytes, .. } => Some((node, (artifact, bytes))),
            _ => None,
        };
        answers.filter_map(found).collect()
    }

    /// Fetches the artifacts of actions. Returns the bytes that came over the network for each. Says why a record of the
    /// shared cache is not used.
    pub fn fetch(&mut self, asked: Vec<AskedStage>) -> BTreeMap<NodeId, u64> {
        let keys: BTreeMap<NodeId, Digest> = asked.iter().map(|(node, key, _)| (*node, *key)).collect();
        let request = |(node, key, action)| RemoteRequest::Want { node, key, action };
        let mut fetched = BTreeMap::new();
        for (node, answer) in self.ask(asked.into_iter().map(request).collect()) {
            match answer {
                RemoteReply::Fetched { received, .. } => drop(fetched.insert(node, received)),
                RemoteReply::Absent { reason: Some(reason), .. } => {
                    let key = keys.get(&node).map(|key| key.short()).unwrap_or_default();
                    say(&format!("not fetched: {key}: {reason}"));
                }
                _ => {}
            }
        }
        fetched
    }

    /// Sends requests about nodes, and waits for all answers. They are in the order of the nodes.
    fn ask(&mut self, requests: Vec<RemoteRequest>) -> BTreeMap<NodeId, RemoteReply> {
        let mut answers = BTreeMap::new();
        if self.is_down || requests.is_empty() {
            return answers;
        }
        if let Err(error) = self.try_to_ask(&requests, &mut answers) {
            let text = render(&error);
            self.goes_down(text.strip_prefix("error: ").unwrap_or(&text));
        }
        answers
    }

    fn try_to_ask(&mut self, requests: &[RemoteRequest], answers: &mut BTreeMap<NodeId, RemoteReply>) -> Result<()> {
        if self.process.is_none() {
            let settings = self.options.remote.as_ref().context("there is no shared cache")?;
            let folder = self.options.executables.as_deref();
            self.process = Some(RemoteProcess::start(self.children, &self.store, folder, settings)?);
        }
        let process = self.process.as_mut().context("the process was just started")?;
        let mut open = BTreeSet::new();
        for request in requests {
            if let RemoteRequest::Look { node, .. } | RemoteRequest::Want { node, .. } = request {
                open.insert(*node);
            }
            process.send(request)?;
        }
        while !open.is_empty() {
            match process.replies().recv()? {
                RemoteReply::Warning { text } | RemoteReply::Note { text } => say(&text),
                RemoteReply::Down { cause } => {
                    self.goes_down(&cause);
                    return Ok(());
                }
                answer @ (RemoteReply::Found { node, .. }
                | RemoteReply::Fetched { node, .. }
                | RemoteReply::Absent { node, .. }) => {
                    open.remove(&node);
                    answers.insert(node, answer);
                }
                RemoteReply::Progress { .. } | RemoteReply::Uploading { .. } | RemoteReply::Finished(_) => {}
            }
        }
        Ok(())
    }

    fn goes_down(&mut self, cause: &str) {
        self.is_down = true;
        let address = self.options.remote.as_ref().map(|settings| settings.address.as_str()).unwrap_or_default();
        say(&format!("warning: the shared cache {address} cannot be used: {cause}"));
    }
}

/// What `raisin remote pull PIPELINE` did.
#[derive(Clone, Debug, Default)]
pub struct Pulled {
    pub fetched: u64,
    /// The bytes that came over the network.
    pub received: u64,
    /// The stages that the local cache had.
    pub cached: u64,
    /// The stages that the shared cache does not have, and those that depend on them.
    pub absent: Vec<String>,
    pub seconds: f64,
}

/// Fetches what the shared cache has of a pipeline. Runs nothing, and changes no link.
///
/// # Errors
/// There is no shared cache, it cannot be used, or the pipeline cannot be resolved.
pub fn pull(pipeline: &Pipeline, options: &Options) -> Result<Pulled> {
    let began = Instant::now();
    let store = Store::open(&options.cache)?;
    let _shared = store.share()?;
    let children = Children::default();
    let mut asker = RemoteAsker::new(options, &store, &children);
    let mut resolver = Resolver::of(pipeline, options, store)?;
    let mut pulled = Pulled::default();
    let mut absent: BTreeSet<NodeId> = BTreeSet::new();
    for step in resolver.graph.steps() {
        let (mut keys, mut asked, mut known) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for id in step {
            let action = resolver.action(id)?;
            let Some(key) = action.key() else {
                absent.insert(id);
                continue;
            };
            match resolver.find(id, key)? {
                StageLookup::Hit(_) => pulled.cached += 1,
                StageLookup::Miss(_) => {
                    keys.insert(id, key);
                    // Stages with the same action have the same artifact.
                    if known.insert(key) {
                        asked.push((id, key, action.to_json()));
                    }
                }
            }
        }
        let fetched = asker.fetch(asked);
        for (id, key) in keys {
            // The look-up checks what raisin-remote has put into place.
            let is_there = matches!(resolver.find(id, key)?, StageLookup::Hit(_));
            match fetched.get(&id) {
                Some(received) => {
                    pulled.fetched += 1;
                    pulled.received += received;
                }
                None if is_there => pulled.cached += 1,
                None => {}
            }
            if !is_there {
                absent.insert(id);
            }
        }
    }
    pulled.absent = absent.into_iter().map(|id| resolver.graph.label(id)).collect();
    if asker.is_down {
        return Err(Problem::new("the shared cache cannot be used").hint("`raisin remote check` says why").into());
    }
    pulled.seconds = began.elapsed().as_secs_f64();
    Ok(pulled)
}
