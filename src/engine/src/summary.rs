//! What a build did, for who started it.

use std::path::PathBuf;

use serde::Serialize;

/// What a build did.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub pipeline: String,
    pub ran: u64,
    pub cached: u64,
    /// Stages that did not run because one that they need failed.
    pub skipped: u64,
    /// Stages, each counted once in every variant, whose links still lead to what an earlier build has made: this one has no
    /// newer artifact of them.
    pub earlier: u64,
    pub failures: Vec<Failure>,
    pub interrupted: bool,
    pub seconds: f64,
    /// The folder with the links.
    pub out: PathBuf,
}

#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The stage, with what tells it from other variants' of the same name.
    pub stage: String,
    pub reason: String,
}

impl Summary {
    /// 0: all is built; 1: a stage failed; 130: interrupted.
    pub fn exit_code(&self) -> u8 {
        match (self.interrupted, self.failures.is_empty()) {
            (true, _) => 130,
            (false, true) => 0,
            (false, false) => 1,
        }
    }
}
