//! Asks the shared cache about one stage after another, outside a build: for a plan, which stages would be fetched; for
//! `raisin remote pull`, fetches them. A build asks for all stages at once (build/sharing.rs).

use std::time::Instant;

use super::Options;
use super::child::Children;
use super::graph::NodeId;
use super::remote::RemoteProcess;
use super::resolve::{Resolver, StageLookup};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result, render};
use raisin_base::say::say;
use raisin_contract::Action;
use raisin_contract::remote::{RemoteReply, RemoteRequest};
use raisin_pipeline::Pipeline;
use raisin_store::Store;
use serde_json::Value;

/// A connection to the shared cache, with one request at a time. It is made for the first request. After a failure it
/// answers like an empty cache, and the failure is said once.
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

    /// The artifact of an action in the shared cache, and the size of the files that a build would fetch.
    pub fn look(&mut self, node: NodeId, key: Digest, action: &Action<'_>) -> Option<(Digest, u64)> {
        if self.is_down {
            return None;
        }
        match self.ask(&RemoteRequest::Look { node, key, action: action.to_json() }) {
            Some(RemoteReply::Found { artifact, bytes, .. }) => Some((artifact, bytes)),
            _ => None,
        }
    }

    /// Fetches the artifact of an action. Returns the bytes that came over the network.
    fn fetch(&mut self, node: NodeId, key: Digest, action: Value) -> Option<u64> {
        match self.ask(&RemoteRequest::Want { node, key, action }) {
            Some(RemoteReply::Fetched { received, .. }) => Some(received),
            Some(RemoteReply::Absent { reason: Some(reason), .. }) => {
                say(&format!("not fetched: {}: {reason}", key.short()));
                None
            }
            _ => None,
        }
    }

    /// Sends a request about a node, and waits for its answer.
    fn ask(&mut self, request: &RemoteRequest) -> Option<RemoteReply> {
        if self.is_down {
            return None;
        }
        self.try_to_ask(request).unwrap_or_else(|error| {
            let text = render(&error);
            self.goes_down(text.strip_prefix("error: ").unwrap_or(&text));
            None
        })
    }

    fn try_to_ask(&mut self, request: &RemoteRequest) -> Result<Option<RemoteReply>> {
        if self.process.is_none() {
            let settings = self.options.remote.as_ref().context("there is no shared cache")?;
            let folder = self.options.executables.as_deref();
            self.process = Some(RemoteProcess::start(self.children, &self.store, folder, settings)?);
        }
        let process = self.process.as_mut().context("the process was just started")?;
        process.send(request)?;
        loop {
            match process.replies().recv()? {
                RemoteReply::Warning { text } | RemoteReply::Note { text } => say(&text),
                RemoteReply::Down { cause } => {
                    self.goes_down(&cause);
                    return Ok(None);
                }
                answer @ (RemoteReply::Found { .. } | RemoteReply::Fetched { .. } | RemoteReply::Absent { .. }) => {
                    return Ok(Some(answer));
                }
                RemoteReply::Progress { .. } | RemoteReply::Uploading { .. } | RemoteReply::Finished(_) => {}
            }
        }
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
    for id in 0..resolver.graph.nodes.len() {
        let action = resolver.action(id)?;
        let is_there = match action.key() {
            None => false,
            Some(key) => match resolver.find(id, key)? {
                StageLookup::Hit(_) => {
                    pulled.cached += 1;
                    true
                }
                StageLookup::Miss(_) => match asker.fetch(id, key, action.to_json()) {
                    Some(received) => {
                        pulled.fetched += 1;
                        pulled.received += received;
                        matches!(resolver.find(id, key)?, StageLookup::Hit(_))
                    }
                    None => false,
                },
            },
        };
        if !is_there {
            pulled.absent.push(resolver.graph.label(id));
        }
    }
    if asker.is_down {
        return Err(Problem::new("the shared cache cannot be used").hint("`raisin remote check` says why").into());
    }
    pulled.seconds = began.elapsed().as_secs_f64();
    Ok(pulled)
}
