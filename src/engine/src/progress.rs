//! The progress display of a build on standard error: live lines on a terminal, few plain lines in a log file. told.rs
//! decides what is shown.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::graph::NodeId;
use raisin_base::columns::padded;
use raisin_base::printable::printable;
use raisin_base::say::say;
pub use raisin_base::size::size;
use raisin_contract::Progress;

/// The minimum time between two plain lines about a running stage.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The display of one build.
pub struct Display {
    output: ProgressOutput,
    width: usize,
    running: BTreeMap<NodeId, RunningStage>,
}

enum ProgressOutput {
    Quiet,
    Plain,
    Terminal(MultiProgress),
}

struct RunningStage {
    label: String,
    bar: Option<ProgressBar>,
    last_line: Instant,
    phase: Option<PhaseStart>,
}

/// Where a phase began; needed for the estimate of the remaining time.
struct PhaseStart {
    name: String,
    began: Instant,
    first: u64,
}

impl Display {
    pub fn new(quiet: bool, width: usize) -> Self {
        let output = if quiet {
            ProgressOutput::Quiet
        } else if std::io::stderr().is_terminal() {
            ProgressOutput::Terminal(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            ProgressOutput::Plain
        };
        Self { output, width, running: BTreeMap::new() }
    }

    /// Prints a line that stays.
    pub fn line(&self, text: &str) {
        let text = printable(text);
        match &self.output {
            ProgressOutput::Quiet => {}
            ProgressOutput::Plain => say(&text),
            ProgressOutput::Terminal(bars) => bars.suspend(|| say(&text)),
        }
    }

    /// Prints a line that stays, also if the user wants no progress.
    pub fn warning(&self, text: &str) {
        match &self.output {
            ProgressOutput::Quiet => say(&printable(text)),
            _ => self.line(text),
        }
    }

    /// Prints a line about a stage.
    pub fn stage_line(&self, label: &str, text: &str) {
        self.line(&format!("  {}", self.labelled(label, text)));
    }

    /// Prints a line about a stage, also if the user wants no progress.
    pub fn stage_warning(&self, label: &str, text: &str) {
        self.warning(&format!("  {}", self.labelled(label, text)));
    }

    fn labelled(&self, label: &str, text: &str) -> String {
        printable(&format!("{}  {text}", padded(label, self.width))).into_owned()
    }

    pub fn start(&mut self, id: NodeId, label: &str) {
        let bar = match &self.output {
            ProgressOutput::Terminal(bars) => {
                let bar = bars.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                    bar.set_style(style);
                }
                bar.set_message(self.labelled(label, "starting"));
                Some(bar)
            }
            _ => None,
        };
        let running = RunningStage { label: label.to_owned(), bar, last_line: Instant::now(), phase: None };
        self.running.insert(id, running);
    }

    /// Shows a short state instead of progress.
    pub fn say(&self, id: NodeId, text: &str) {
        match self.running.get(&id) {
            Some(RunningStage { bar: Some(bar), label, .. }) => bar.set_message(self.labelled(label, text)),
            Some(RunningStage { label, .. }) => self.stage_line(label, text),
            None => {}
        }
    }

    pub fn progress(&mut self, id: NodeId, progress: &Progress) {
        let Some(running) = self.running.get_mut(&id) else { return };
        let text = running.describe(progress);
        if running.bar.is_none() {
            if running.last_line.elapsed() < PLAIN_INTERVAL {
                return;
            }
            running.last_line = Instant::now();
        }
        self.say(id, &text);
    }

    pub fn end(&mut self, id: NodeId) {
        if let (Some(RunningStage { bar: Some(bar), .. }), ProgressOutput::Terminal(bars)) =
            (self.running.remove(&id), &self.output)
        {
            bar.finish_and_clear();
            bars.remove(&bar);
        }
    }

    /// Removes the lines of all running stages.
    pub fn clear(&mut self) {
        for running in std::mem::take(&mut self.running).into_values() {
            running.bar.iter().for_each(ProgressBar::finish_and_clear);
        }
        if let ProgressOutput::Terminal(bars) = &self.output {
            // If the terminal cannot be written, nothing is left to restore.
            let _ = bars.clear();
        }
    }

    /// Turns the spinners. Call this a few times per second.
    pub fn tick(&self) {
        for bar in self.running.values().filter_map(|running| running.bar.as_ref()) {
            bar.tick();
        }
    }
}

impl RunningStage {
    fn describe(&mut self, progress: &Progress) -> String {
        let phase = match &self.phase {
            Some(phase) if phase.name == progress.phase && phase.first <= progress.done => phase,
            _ => self.phase.insert(PhaseStart {
                name: progress.phase.clone(),
                began: Instant::now(),
                first: progress.done,
            }),
        };
        let left = time_left(phase.began.elapsed(), progress.done - phase.first, progress.total, progress.done);
        describe(progress, left)
    }
}

fn time_left(elapsed: Duration, done_here: u64, total: u64, done: u64) -> Option<Duration> {
    let rest = total.checked_sub(done).filter(|rest| *rest > 0)?;
    if done_here == 0 || elapsed < Duration::from_millis(500) {
        return None;
    }
    // With a tiny share, the product may exceed every duration. Then there is no estimate.
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * (rest as f64 / done_here as f64)).ok()
}

fn describe(progress: &Progress, left: Option<Duration>) -> String {
    let mut text = progress.phase.clone();
    if progress.total > 0 {
        let (done, total, unit) = (progress.done, progress.total, &progress.unit);
        let percent = u128::from(done.min(total)) * 100 / u128::from(total);
        text += &format!("  {done}/{total} {unit} ({percent}%)");
    } else if progress.done > 0 {
        text += &format!("  {} {}", progress.done, progress.unit);
    }
    if let Some(rate) = progress.tokens_per_second {
        text += &format!("  {rate:.0} tokens/s");
    }
    if let Some(left) = left {
        text += &format!("  {} left", duration(left));
    }
    if !progress.detail.is_empty() {
        text += &format!("  {}", progress.detail);
    }
    text
}

/// A number of seconds as a duration. A number that no duration can have becomes zero or the longest duration.
pub fn in_seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(if seconds > 0.0 { Duration::MAX } else { Duration::ZERO })
}

/// A duration as text: `12.3 s`, `4 min 05 s`, `2 h 03 min`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() < 100 => format!("{} ms", duration.as_millis()),
        0..100 => format!("{:.1} s", duration.as_secs_f64()),
        100..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_shows_phase_share_rate_and_remaining_time() {
        let progress = Progress {
            phase: "round 3 of 20".into(),
            done: 25,
            total: 100,
            unit: "steps".into(),
            tokens_per_second: Some(1234.4),
            detail: "reward +0.12".into(),
        };
        let left = time_left(Duration::from_secs(10), 25, progress.total, progress.done);
        let text = describe(&progress, left);
        assert_eq!(text, "round 3 of 20  25/100 steps (25%)  1234 tokens/s  30.0 s left  reward +0.12");
    }

    #[test]
    fn no_number_of_a_server_or_of_a_worker_is_too_large_for_the_display() {
        let numbers = [0, 1, 2, 99, u64::MAX / 100, u64::MAX / 100 + 1, u64::MAX - 1, u64::MAX];
        for (done, total) in numbers.into_iter().flat_map(|done| numbers.map(|total| (done, total))) {
            for elapsed in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
                let left = time_left(elapsed, done, total, done);
                let rate = [f64::NAN, f64::INFINITY, -1.0][done as usize % 3];
                let progress = Progress { done, total, tokens_per_second: Some(rate), ..Progress::default() };
                assert!(!describe(&progress, left).is_empty());
            }
        }
        assert_eq!([size(u64::MAX), duration(Duration::MAX)], ["18446744.1 TB", "5124095576030431 h 00 min"]);
        let seconds = [f64::NAN, -1.0, f64::INFINITY, 1e300, 2.0];
        let all = [Duration::ZERO, Duration::ZERO, Duration::MAX, Duration::MAX, Duration::from_secs(2)];
        assert_eq!(seconds.map(in_seconds), all);
    }

    #[test]
    fn durations_and_sizes_are_short() {
        assert_eq!(duration(Duration::from_millis(7)), "7 ms");
        assert_eq!(duration(Duration::from_millis(12_300)), "12.3 s");
        assert_eq!(duration(Duration::from_secs(245)), "4 min 05 s");
        assert_eq!([size(12), size(4_100_000), size(999_700)], ["12 B", "4.1 MB", "1.0 MB"]);
    }
}
