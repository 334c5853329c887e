//! The part of a build that looks nodes up, explains the misses, and queues what must run.

use super::super::difference::{ActionDifference, words};
use super::super::graph::NodeId;
use super::super::resolve::StageLookup;
use super::super::schedule::AfterMiss;
use super::super::told::News;
use super::Build;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, anyhow};
use raisin_contract::Action;

impl<'a> Build<'a> {
    /// Looks up every node whose inputs are known, including the nodes that become ready because of a hit. If a look-up
    /// fails with an error, the node fails, and the build continues.
    pub(super) fn look_up_ready(&mut self) -> Vec<NodeId> {
        let mut hits = Vec::new();
        while let Some(id) = self.scheduler.next_ready() {
            // One look-up can read a large artifact again. Therefore the loop checks for an interrupt before each
            // look-up.
            if self.interrupt.count() > 0 {
                self.interrupted = true;
                break;
            }
            match self.look_up(id) {
                Ok(Some((key, artifact))) => {
                    self.tell(id, News::Hit { key, artifact });
                    self.scheduler.done(id);
                    hits.push(id);
                }
                Ok(None) => {}
                Err(error) => self.failed(id, &error),
            }
        }
        hits
    }

    /// Returns the key and the artifact of a node if the node need not run. Otherwise the node is queued or follows
    /// another node, or the function returns the error by which the node fails.
    fn look_up(&mut self, id: NodeId) -> Result<Option<(Digest, Digest)>> {
        let action = self.resolver.action(id)?;
        let key = action.key().with_context(|| format!("`{}` is ready without its inputs", self.label(id)))?;
        self.work[id].key = Some(key);
        if self.is_forced(id) {
            return self.queue(id, key, action, Some(ActionDifference::Forced));
        }
        let known = self.resolver.found_in_store;
        let lost = match self.resolver.find(id, key)? {
            StageLookup::Hit(artifact) => {
                if self.resolver.found_in_store > known {
                    // If this build is killed, no index names the artifact. An index that the build saves at its end
                    // says the same. Therefore a failure is no error.
                    let _ = self.resolver.store.note_use(artifact);
                }
                return Ok(Some((key, artifact)));
            }
            StageLookup::Miss(lost) => lost,
        };
        if let Some(ActionDifference::Lost { reason }) = &lost {
            self.tell(id, News::Lost { reason });
        }
        if self.remote.is_usable() { self.ask(id, key, action, lost) } else { self.queue(id, key, action, lost) }
    }

    /// Queues a node that must run. The result is that of [`Self::look_up`].
    pub(super) fn queue(
        &mut self,
        id: NodeId,
        key: Digest,
        action: Action<'a>,
        lost: Option<ActionDifference>,
    ) -> Result<Option<(Digest, Digest)>> {
        let why = self.explain(id, &action, lost)?;
        self.work[id].action = Some(action);
        let after = self.scheduler.queue(id, key);
        if after == AfterMiss::Waits {
            self.tell(id, News::Miss { key, why });
        }
        self.settle(id, key, after)
    }

    pub(super) fn settle(&mut self, id: NodeId, key: Digest, after: AfterMiss) -> Result<Option<(Digest, Digest)>> {
        match after {
            AfterMiss::Waits => Ok(None),
            AfterMiss::WasDone(other) => {
                let artifact = self.resolver.artifacts[other].context("a stage that is done has an artifact")?;
                self.resolver.artifacts[id] = Some(artifact);
                Ok(Some((key, artifact)))
            }
            AfterMiss::HasFailed(other) => {
                let reason =
                    self.failures.iter().find(|(failed, _)| *failed == other).map(|(_, reason)| reason.as_str());
                Err(anyhow!("{}", reason.unwrap_or("the stage failed before")))
            }
        }
    }

    /// Whether the node runs although it is cached.
    pub(super) fn is_forced(&self, id: NodeId) -> bool {
        self.options.force.names(&self.resolver.graph.nodes[id].stage.name)
    }

    pub(super) fn explain(
        &mut self,
        id: NodeId,
        action: &Action<'_>,
        lost: Option<ActionDifference>,
    ) -> Result<Vec<String>> {
        let why = match (lost, self.plan) {
            (Some(lost), _) => vec![lost],
            (None, Some(plan)) => {
                let Some(why) = plan.why(id) else {
                    self.tell(id, News::GoneSincePlanned);
                    return Ok(vec!["not cached any more since the plan was made".to_owned()]);
                };
                return Ok(why);
            }
            (None, None) => self.history.explain(&self.resolver, id, action)?,
        };
        Ok(words(&why))
    }
}
