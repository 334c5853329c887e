//! The runs that are sent to MLflow after the build: raisin-remote reads them. This file gives the metrics names that
//! MLflow accepts.

use std::collections::BTreeMap;

use super::{TrackedRun, short_digest};
use raisin_contract::track::RunToSend;

/// The longest name of a metric, in characters. MLflow accepts 250.
const MOST_CHARACTERS: usize = 200;

pub fn run_to_send(experiment: &str, name: &str, run: &TrackedRun) -> RunToSend {
    let metrics: BTreeMap<_, _> = run.series.iter().map(|(tag, points)| (metric(tag), points.clone())).collect();
    RunToSend {
        experiment: experiment.to_owned(),
        run: name.to_owned(),
        variant: run.variant.clone(),
        artifacts: run.artifacts.clone(),
        metrics,
    }
}

/// The name of a metric: letters, digits and `_-. /`, in the form of a relative path. A name that had to change ends
/// with a digest, so that two metrics never share one.
fn metric(tag: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "_-. ".contains(letter);
    let part = |part: &str| match part {
        "" | "." | ".." => "_".to_owned(),
        part => part.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect(),
    };
    let plain: String = tag.split('/').map(part).collect::<Vec<String>>().join("/");
    if plain == tag && tag.chars().count() <= MOST_CHARACTERS {
        return plain;
    }
    format!("{}-{}", plain.chars().take(MOST_CHARACTERS).collect::<String>(), short_digest(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_a_name_that_mlflow_accepts_and_no_two_share_one() {
        assert_eq!(metric("tuned.steps/loss"), "tuned.steps/loss");
        let changed = ["a.b/x%", "a.b/x$", "a.b//", "a.b/", "a.b/../x", "/a"].map(metric);
        for (place, name) in changed.iter().enumerate() {
            assert!(!changed[..place].contains(name), "{changed:?}");
            assert!(name.split('/').all(|part| !["", ".", ".."].contains(&part)), "{name}");
            assert!(!name.contains(['%', '$']), "{name}");
        }
        assert!(metric(&"x".repeat(300)).len() < 250);
    }
}
