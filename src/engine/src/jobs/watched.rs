//! One job that is submitted: what is known of it, what its files say, and what it costs to give it up.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::cluster::{JobEnd, JobState};
use super::driver::LOOK;
use super::files::{EVENTS, JobSpec, SUBMITTED, Submitted};
use super::queue::JobAnswer;
use raisin_base::error::Problem;
use raisin_base::files::if_there;
use raisin_base::size::size;
use raisin_contract::memory::more_than;

/// How long a scheduler may take to know a job that it has just accepted.
const NEW_JOB: Duration = Duration::from_secs(15);

/// The lines of a scheduler's output that are shown after a failure.
const TAIL: usize = 20;

/// A job that is submitted.
pub struct WatchedJob {
    pub spec: JobSpec,
    pub answers: Sender<JobAnswer>,
    pub submitted: Submitted,
    pub since: Instant,
    /// What the display shows.
    pub said: String,
    /// The end that the scheduler reports, and since when. The files decide whether it is true.
    pub ended: Option<(JobEnd, Instant)>,
    /// The attempt whose events are read, and how much of them.
    pub attempt: String,
    pub offset: u64,
}

impl WatchedJob {
    pub fn says(&mut self, words: String) {
        if self.said != words {
            drop(self.answers.send(JobAnswer::Says(words.clone())));
            self.said = words;
        }
    }

    /// The scheduler has told the state of the job.
    pub fn hears(&mut self, name: &str, state: JobState) {
        let id = &self.submitted.id;
        let more = |more: &str| if more.is_empty() { String::new() } else { format!(" ({more})") };
        match state {
            JobState::Pending(why) => {
                self.ended = None;
                self.says(format!("{name} job {id} waits{}", more(&why)));
            }
            JobState::Running(node) => {
                self.ended = None;
                // The progress of the stage tells more than that it runs.
                if self.offset == 0 {
                    self.says(format!("{name} job {id} runs{}", more(&node)));
                }
            }
            JobState::Ended(JobEnd::Gone) if self.since.elapsed() < NEW_JOB => {}
            JobState::Ended(end) => {
                let since = self.ended.map_or_else(Instant::now, |(_, since)| since);
                self.ended = Some((end, since));
            }
        }
    }

    /// Why the job has ended without a result; `None` while it may still have one.
    pub fn conclusion(&self, file_patience: Duration) -> Option<JobEnd> {
        let (end, since) = self.ended?;
        let patience = match end {
            JobEnd::Completed | JobEnd::Gone => file_patience,
            // raisin writes nothing if it is killed. A job that fails without a result did not run raisin.
            _ => LOOK * 4,
        };
        (since.elapsed() >= patience).then_some(end)
    }

    /// Sends the new events of an attempt.
    pub fn read_events(&mut self, attempt: &str) {
        if self.attempt != attempt {
            (self.attempt, self.offset) = (attempt.to_owned(), 0);
        }
        let path = self.spec.folder.join(attempt).join(EVENTS);
        let mut bytes = Vec::new();
        let mut read = || -> std::io::Result<()> {
            let Some(mut file) = if_there(File::open(&path))? else { return Ok(()) };
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut bytes).map(drop)
        };
        // What cannot be read now is read the next time.
        if read().is_err() {
            return;
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.offset += whole as u64;
        let lines = bytes[..whole].split(|byte| *byte == b'\n');
        for event in lines.filter_map(|line| serde_json::from_slice(line).ok()) {
            drop(self.answers.send(JobAnswer::Event(event)));
        }
    }

    /// The job cannot be found again: the next build submits a new one.
    pub fn forget(&self) {
        // If the file stays, the next build finds a job that has ended, and submits it then.
        let _ = std::fs::remove_file(self.spec.folder.join(SUBMITTED));
    }

    pub fn lacks_memory(self) {
        self.forget();
        let memory = self.spec.request.memory;
        let had = memory.map(|bytes| format!(" of {}", size(bytes))).unwrap_or_default();
        let more = memory.map_or_else(|| "8GB".to_owned(), more_than);
        let problem = Problem::new(format!("job {} needs more than its memory{had}", self.submitted.id));
        let hint = format!("give it more: [executor.stage.{}] memory = \"{more}\"", self.spec.stage);
        drop(self.answers.send(JobAnswer::Failed(problem.hint(hint))));
    }

    fn output(&self) -> String {
        let bytes = self.submitted.output.as_ref().and_then(|output| std::fs::read(output).ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn output_has(&self, words: &[&str]) -> bool {
        let output = self.output();
        words.iter().any(|word| output.contains(word))
    }

    /// The last lines that the scheduler wrote about the job.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n    ")
    }
}
