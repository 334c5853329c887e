//! What a running stage has told so far: the file `progress.json` in its staging folder. The engine writes it and never
//! reads it for a decision; `raisin ui` reads it in another process. The file is removed with the staging folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Progress;

/// The name of the file in a staging folder.
pub const PROGRESS_FILE: &str = "progress.json";

/// The number of points of a curve at which every second one is dropped.
const MOST_POINTS: usize = 512;

/// The progress, the last notes and the curves of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageProgress {
    /// The time of the start (RFC 3339).
    pub began: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The last notes, the oldest first.
    #[serde(default)]
    pub notes: Vec<String>,
    /// By `table.column`, the table and the column that the artifact will have, such as `steps.loss`.
    #[serde(default)]
    pub curves: BTreeMap<String, Curve>,
}

/// The values of a column by step or by round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    pub points: Vec<(f64, f64)>,
    /// Of how many values one is kept; 0 and 1 mean all.
    #[serde(default)]
    stride: usize,
    /// The number of values that were left out since the last point.
    #[serde(default)]
    left_out: usize,
}

impl Curve {
    /// Adds a value. A stage that continues from a checkpoint repeats steps: the points from `at` on are replaced. A
    /// long curve is thinned.
    pub fn push(&mut self, at: f64, value: f64) {
        if self.points.last().is_some_and(|last| last.0 >= at) {
            self.points.retain(|(place, _)| *place < at);
            self.left_out = self.stride;
        }
        self.left_out += 1;
        if self.left_out < self.stride && !self.points.is_empty() {
            return;
        }
        self.left_out = 0;
        self.points.push((at, value));
        if self.points.len() >= MOST_POINTS {
            let mut place = 0;
            self.points.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.stride = 2 * self.stride.max(1);
        }
    }
}

impl StageProgress {
    /// The file in a staging folder; `None` if it is not there or no progress of this version.
    pub fn read(staging: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(staging.join(PROGRESS_FILE)).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_keeps_its_ends_and_its_order_and_stays_short() {
        let mut curve = Curve::default();
        for step in 1..=100_000 {
            curve.push(f64::from(step), f64::from(step) * 2.0);
        }
        assert!(curve.points.len() > MOST_POINTS / 4 && curve.points.len() < MOST_POINTS, "{}", curve.points.len());
        assert_eq!(curve.points[0], (1.0, 2.0));
        let last = curve.points.last().map_or(0.0, |point| point.0);
        assert!(last > 99_000.0, "{last}");
        assert!(curve.points.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn steps_that_are_repeated_after_a_checkpoint_replace_the_earlier_ones() {
        let mut curve = Curve::default();
        (1..=5).for_each(|step| curve.push(f64::from(step), 1.0));
        curve.push(3.0, 7.0);
        assert_eq!(curve.points, [(1.0, 1.0), (2.0, 1.0), (3.0, 7.0)]);
    }
}
