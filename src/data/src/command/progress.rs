//! Finds the progress of a program in the lines that it prints: JSON such as `{"progress": 0.25}`, or the bars of tqdm.

use serde::Deserialize;

use raisin_contract::Progress;

/// The form of a line with progress.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgressLine {
    progress: WrittenProgress,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenProgress {
    /// A share from 0 to 1.
    Share(f64),
    Counts(WrittenCounts),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCounts {
    done: u64,
    total: u64,
    #[serde(default)]
    unit: String,
    #[serde(default)]
    phase: String,
    #[serde(default)]
    detail: String,
}

/// The progress that a line reports; `None` for any other line.
pub fn of_line(line: &str, program: &str) -> Option<Progress> {
    let line = line.trim();
    if line.starts_with('{') {
        of_json(line, program)
    } else if line.contains("%|") {
        of_bar(line, program)
    } else {
        None
    }
}

fn of_json(line: &str, program: &str) -> Option<Progress> {
    let ProgressLine { progress } = serde_json::from_str(line).ok()?;
    match progress {
        WrittenProgress::Share(share) if (0.0..=1.0).contains(&share) => Some(percent(share * 100.0, program)),
        WrittenProgress::Share(_) => None,
        WrittenProgress::Counts(WrittenCounts { done, total, unit, phase, detail }) => {
            let phase = if phase.is_empty() { program.to_owned() } else { phase };
            (done <= total).then_some(Progress { phase, done, total, unit, detail, tokens_per_second: None })
        }
    }
}

fn percent(share: f64, phase: &str) -> Progress {
    Progress {
        phase: phase.to_owned(),
        done: share.round() as u64,
        total: 100,
        unit: "%".into(),
        ..Progress::default()
    }
}

/// A bar of tqdm: `scoring:  25%|##5       | 25/100 [00:01<00:03, 24.9it/s]`.
fn of_bar(line: &str, program: &str) -> Option<Progress> {
    let (before, bar) = line.split_once("%|")?;
    let digits = before.rsplit(|letter: char| !letter.is_ascii_digit()).next()?;
    let share: u64 = digits.parse().ok().filter(|share| *share <= 100)?;
    let phase = before[..before.len() - digits.len()].trim().trim_end_matches(':');
    let phase = if phase.is_empty() { program } else { phase };
    let counts = bar.rsplit_once('|').and_then(|(_, counts)| {
        let (done, rest) = counts.trim_start().split_once('/')?;
        let total = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
        Some((done.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
    });
    Some(match counts {
        Some((done, total)) if done <= total => {
            Progress { phase: phase.to_owned(), done, total, ..Progress::default() }
        }
        _ => percent(share as f64, phase),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<(String, u64, u64, String)> {
        of_line(line, "score.py").map(|it| (it.phase, it.done, it.total, it.unit))
    }

    fn is(phase: &str, done: u64, total: u64, unit: &str) -> Option<(String, u64, u64, String)> {
        Some((phase.to_owned(), done, total, unit.to_owned()))
    }

    #[test]
    fn json_lines_report_a_share_or_counts() {
        assert_eq!(read(r#"{"progress": 0.25}"#), is("score.py", 25, 100, "%"));
        let counts = r#"{"progress": {"done": 3, "total": 10, "unit": "rows", "phase": "scoring"}}"#;
        assert_eq!(read(counts), is("scoring", 3, 10, "rows"));
        for other in [
            r#"{"progress": 1.5}"#,
            r#"{"progress": "half"}"#,
            r#"{"progress": 0.1, "loss": 2}"#,
            r#"{"loss": 2}"#,
            r#"{"progress": {"done": 11, "total": 10}}"#,
            "{",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn bars_of_tqdm_report_counts_or_percents() {
        assert_eq!(read(" 25%|##5       | 25/100 [00:01<00:03, 24.9it/s]"), is("score.py", 25, 100, ""));
        assert_eq!(read("Loading: 100%|██████████| 3/3 [00:00<00:00]"), is("Loading", 3, 3, ""));
        assert_eq!(read("  7%|▋         | 1.5k/20k [00:01<00:03]"), is("score.py", 7, 100, "%"));
        assert_eq!(read("x%|"), None);
        assert_eq!(read("loss fell by 25%"), None);
    }
}
