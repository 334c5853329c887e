//! The summary of a build, for the caller of the engine.

use std::path::PathBuf;

use serde::Serialize;

use super::outcome::StageResults;
use raisin_contract::remote::RemoteTally;

/// What a build did.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub pipeline: String,
    pub ran: u64,
    /// The stages whose artifact came from the shared cache.
    pub fetched: u64,
    pub cached: u64,
    /// The number of stages that did not run because an input failed.
    pub skipped: u64,
    /// The links that still lead to an artifact of an earlier build, because this build has no newer artifact of these
    /// stages: the names of the stages, with their variants.
    pub earlier: Vec<String>,
    /// The stages whose artifact a person accepted: another action made it. With their variants.
    pub accepted: Vec<String>,
    pub failures: Vec<Failure>,
    pub interrupted: bool,
    /// The number of jobs of a cluster that go on after the build. The next build finds them.
    pub left: u64,
    /// Whether the build ended before its jobs, as the user wanted (`--detach`).
    pub is_detached: bool,
    pub seconds: f64,
    /// What was fetched from and uploaded to the shared cache.
    pub remote: RemoteTally,
    /// The time from the first request to the shared cache to its last answer about a stage.
    pub fetch_seconds: f64,
    /// The folder with the links.
    pub out: PathBuf,
    /// What the stages of this build measured; empty if the build was interrupted or could not update the links.
    pub results: Vec<StageResults>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The name of the stage. If not all variants share the stage, with the variant.
    pub stage: String,
    pub reason: String,
}

impl Summary {
    /// 0: all stages are built; 1: a stage failed; 130: the build was interrupted.
    pub fn exit_code(&self) -> u8 {
        match (self.interrupted, self.failures.is_empty()) {
            (true, _) => 130,
            (false, true) => 0,
            (false, false) => 1,
        }
    }
}
