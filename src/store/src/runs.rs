//! The runs of the journal: the lines of each run as one [`Run`].

use std::collections::BTreeMap;

use super::{JournalEvent, JournalLine, RunResult};
use raisin_base::digest::Digest;
use raisin_contract::ui::GraphStage;

/// One run. A value is absent if the run was killed before it wrote the value, or if an older version wrote the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    pub run: String,
    pub pipeline: Option<String>,
    pub file: Option<String>,
    pub folder: Option<String>,
    /// The flags `--set` and `--sweep`, and `--only` for each of its stages, in the form in which a person writes them.
    pub overrides: Vec<String>,
    /// The folder of the links.
    pub out: Option<String>,
    pub version: Option<String>,
    pub machine: Option<String>,
    pub device: Option<String>,
    pub commit: Option<String>,
    pub dirty: Option<bool>,
    pub started: Option<String>,
    pub finished: Option<String>,
    /// `built`, `failed` or `interrupted`.
    pub outcome: Option<String>,
    pub ran: u64,
    pub cached: u64,
    pub failed: u64,
    pub seconds: Option<f64>,
    pub peak_bytes: Option<u64>,
    pub results: Vec<RunResult>,
    /// All stages of the run; empty for a run of an older version, and for one that found everything as it was.
    pub graph: Vec<GraphStage>,
    /// The process of the run.
    pub pid: Option<u32>,
    /// The stages with an artifact, in the order in which the artifacts were found or made. Empty for a run that found
    /// all artifacts and links as they were: its artifacts are those of the run before.
    pub stages: Vec<RunStage>,
}

/// A stage of a run that has an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStage {
    pub stage: String,
    pub variant: String,
    pub key: Digest,
    pub artifact: Digest,
    /// Whether the run ran the stage.
    pub ran: bool,
}

/// The runs of these lines, the oldest first.
pub fn runs(lines: Vec<JournalLine>) -> Vec<Run> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut runs: Vec<Run> = Vec::new();
    for line in lines {
        let place = *places.entry(line.run.clone()).or_insert_with(|| {
            runs.push(Run { run: line.run.clone(), ..Run::default() });
            runs.len() - 1
        });
        runs[place].take(line);
    }
    runs
}

impl Run {
    /// Takes the next line of the run.
    pub fn take(&mut self, line: JournalLine) {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        match line.event {
            JournalEvent::RunStarted(start) => {
                (self.pipeline, self.file, self.started) = (Some(start.pipeline), Some(start.file), Some(line.time));
                self.overrides = start.overrides;
                self.overrides.extend(start.only.into_iter().map(|stage| format!("--only {stage}")));
                (self.graph, self.pid) = (start.stages, Some(start.pid));
                (self.folder, self.out) = (given(start.folder), given(start.out));
                (self.version, self.machine, self.device) =
                    (given(start.version), given(start.machine), given(start.device));
            }
            JournalEvent::RunFinished(end) => {
                (self.outcome, self.seconds, self.finished) = (Some(end.outcome), Some(end.seconds), Some(line.time));
                // A run that finds all artifacts linked writes no line for a stage.
                self.cached = end.cached;
                (self.peak_bytes, self.commit, self.dirty) = (end.peak_bytes, end.commit, end.dirty);
                self.results = end.results;
            }
            JournalEvent::Hit { stage, variant, key, artifact, kind: _, fetched: _ } => {
                self.cached += 1;
                self.stages.push(RunStage { stage, variant, key, artifact, ran: false });
            }
            JournalEvent::Finished { stage, variant, key, artifact, .. } => {
                self.ran += 1;
                self.stages.push(RunStage { stage, variant, key, artifact, ran: true });
            }
            JournalEvent::Failed { .. } => self.failed += 1,
            JournalEvent::Miss { .. } | JournalEvent::Started { .. } => {}
        }
    }

    /// Whether the run found everything as it was.
    pub fn is_without_changes(&self) -> bool {
        self.stages.is_empty() && self.ran == 0 && self.cached > 0 && self.outcome.as_deref() == Some("built")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(run: &str, event: &str) -> JournalLine {
        serde_json::from_str(&format!("{{\"run\":\"{run}\",\"time\":\"2026-01-01T00:00:00Z\",{event}}}")).unwrap()
    }

    #[test]
    fn lines_of_an_older_version_make_runs_without_the_newer_values() {
        let (key, artifact) = (Digest::of(b"key").to_hex(), Digest::of(b"artifact").to_hex());
        let stage = format!("\"stage\":\"pool\",\"variant\":\"\",\"key\":\"{key}\",\"artifact\":\"{artifact}\"");
        let lines = vec![
            line("one", r#""event":"run_started","pipeline":"p","file":"p.toml","pid":1"#),
            line(
                "two",
                r#""event":"run_started","pipeline":"p","file":"p.toml","pid":2,"overrides":["--set a=1"],"only":["x"]"#,
            ),
            line("one", &format!(r#""event":"finished",{stage},"seconds":1.0,"bytes":3"#)),
            line("one", r#""event":"run_finished","outcome":"built","ran":1,"cached":0,"failed":0,"seconds":2.0"#),
            line("two", r#""event":"run_finished","outcome":"built","ran":0,"cached":1,"failed":0,"seconds":0.1"#),
        ];
        let runs = runs(lines);
        assert_eq!(runs.iter().map(|run| run.run.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!((runs[0].ran, runs[0].stages.len(), runs[0].version.clone()), (1, 1, None));
        assert_eq!(runs[1].overrides, ["--set a=1", "--only x"]);
        assert!(runs[1].is_without_changes() && !runs[0].is_without_changes());
    }
}
