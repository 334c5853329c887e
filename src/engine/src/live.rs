//! Writes what a running stage tells into `progress.json` of its staging folder, for processes that look at the build,
//! such as `raisin ui`. No build reads this file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use raisin_contract::Event;
use raisin_contract::live::{PROGRESS_FILE, StageProgress};

/// The shortest time between two writes, except that a new phase is written at once. If a stage becomes silent, the file
/// can be this far behind.
const INTERVAL: Duration = Duration::from_millis(250);

/// The number of notes that are kept.
const MOST_NOTES: usize = 20;

/// The progress of the stage in one staging folder.
pub struct LiveProgress {
    file: PathBuf,
    state: StageProgress,
    written: Option<Instant>,
}

impl LiveProgress {
    /// Begins with the curves of an attempt that was killed: the stage continues from its checkpoint.
    pub fn begin(staging: &Path) -> Self {
        let curves = StageProgress::read(staging).map(|before| before.curves).unwrap_or_default();
        let state = StageProgress { began: jiff::Timestamp::now().to_string(), curves, ..StageProgress::default() };
        let mut live = Self { file: staging.join(PROGRESS_FILE), state, written: None };
        live.write();
        live
    }

    pub fn take(&mut self, event: &Event) {
        let mut at_once = false;
        match event {
            Event::Progress(progress) => {
                let before = self.state.progress.as_ref().map(|before| before.phase.as_str());
                at_once = before != Some(progress.phase.as_str());
                self.state.progress = Some(progress.clone());
            }
            Event::Note { text } => {
                self.state.notes.push(text.clone());
                let more = self.state.notes.len().saturating_sub(MOST_NOTES);
                self.state.notes.drain(..more);
            }
            Event::Measured(measured) => {
                for (column, value) in &measured.values {
                    let name = format!("{}.{column}", measured.table);
                    self.state.curves.entry(name).or_default().push(measured.at, *value);
                }
            }
            Event::Cost(_) => return,
        }
        if at_once || self.written.is_none_or(|written| written.elapsed() >= INTERVAL) {
            self.write();
        }
    }

    /// Writes the file. A reader sees the old or the new content. The file is for looking only: if it cannot be written,
    /// for example because the disk is full, the stage goes on, and what the stage itself cannot write is an error.
    pub fn write(&mut self) {
        self.written = Some(Instant::now());
        let Ok(text) = serde_json::to_vec(&self.state) else { return };
        let new = self.file.with_extension("json.new");
        let _ = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_contract::{MeasuredValues, Progress};

    #[test]
    fn another_process_reads_the_last_phase_and_a_stage_that_continues_keeps_its_curves() {
        let folder = tempfile::tempdir().unwrap();
        let mut live = LiveProgress::begin(folder.path());
        let phase = |name: &str| Event::Progress(Progress { phase: name.into(), total: 1, ..Progress::default() });
        let measured = |at| {
            let values = [("loss".to_owned(), 0.5)].into();
            Event::Measured(MeasuredValues { table: "steps".into(), at, values })
        };
        live.take(&phase("one"));
        live.take(&measured(1.0));
        live.take(&phase("two"));
        let seen = StageProgress::read(folder.path()).unwrap();
        assert_eq!(seen.progress.unwrap().phase, "two");
        assert_eq!(seen.curves["steps.loss"].points, [(1.0, 0.5)]);
        let again = LiveProgress::begin(folder.path());
        assert_eq!(again.state.curves["steps.loss"].points.len(), 1);
        std::fs::remove_dir_all(folder.path()).unwrap();
        live.write();
    }
}
