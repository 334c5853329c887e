//! What a stage measured, in a form that an executable without Parquet reads: the file `results.json` of an artifact.
//! A kind that declares this file writes it with [`Results::write`]. The build ends with these results, and the journal
//! keeps them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Context;
use raisin_base::error::{Context as _, Result};
use raisin_base::files::if_there;

/// The name of the file.
pub const RESULTS: &str = "results.json";

/// The results of one stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The method with which the pipeline wants the others compared. `None` if the stage compares nothing.
    pub baseline: Option<String>,
    /// One row for each split, metric and method.
    pub rows: Vec<MethodResult>,
}

/// One method on one metric of one split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MethodResult {
    pub split: String,
    pub metric: String,
    /// Empty if the stage knows no method.
    pub method: String,
    /// The number of seeds.
    pub seeds: usize,
    /// The mean over the seeds.
    pub mean: f64,
    /// The 95 % interval over the seeds; `None` with one seed.
    pub interval: Option<(f64, f64)>,
    /// Whether this method is the baseline.
    pub is_baseline: bool,
    /// The paired difference to the baseline.
    pub difference: Option<PairedDifference>,
    /// The floating-point operations of the training and of all that came before. `None` if no stage trained the model.
    pub total_flops: Option<f64>,
    /// `total_flops` as a share of the training on three epochs of the pool.
    pub total_phi: Option<f64>,
}

/// A difference to the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    pub mean: f64,
    /// The 95 % interval; `None` if fewer than two pairs are known.
    pub interval: Option<(f64, f64)>,
    /// What is paired: `seeds`, or `items` if there are fewer than two seeds.
    pub over: String,
    pub pairs: usize,
}

impl Results {
    /// Writes the file of a running stage.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, context: &Context) -> Result<()> {
        context.write_json(RESULTS, self)
    }

    /// Reads the file of an artifact; `None` if the artifact does not have it.
    ///
    /// # Errors
    /// The file cannot be read, or has another form.
    pub fn read(artifact: &Path) -> Result<Option<Self>> {
        let path = artifact.join(RESULTS);
        if_there(std::fs::read(&path))
            .with_context(|| format!("cannot read {}", path.display()))?
            .map(|bytes| serde_json::from_slice(&bytes).with_context(|| format!("{} is unreadable", path.display())))
            .transpose()
    }

    /// The rows of the headline metrics, metric by metric: those of the test set, if there are any, with the loss first
    /// and then the first other metric. The further metrics of a task, such as `acc_norm`, are variants of that one.
    pub fn headlines(&self) -> Vec<Vec<&MethodResult>> {
        let split = if self.rows.iter().any(|row| row.split == "test") {
            "test"
        } else {
            self.rows.first().map_or("", |row| row.split.as_str())
        };
        let of_split = || self.rows.iter().filter(|row| row.split == split);
        let loss = of_split().map(|row| row.metric.as_str()).find(|metric| less_is_better(metric));
        let other = of_split().map(|row| row.metric.as_str()).find(|metric| !less_is_better(metric));
        let rows = |metric: &str| of_split().filter(|row| row.metric == metric).collect();
        loss.into_iter().chain(other).map(rows).collect()
    }
}

/// Whether a smaller value of the metric is better.
pub fn less_is_better(metric: &str) -> bool {
    metric == "loss" || metric.ends_with("_loss") || metric == "perplexity"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(split: &str, metric: &str) -> MethodResult {
        MethodResult { split: split.into(), metric: metric.into(), ..MethodResult::default() }
    }

    #[test]
    fn the_headlines_are_the_loss_and_the_metric_of_the_task_on_the_test_set() {
        let rows = vec![
            row("validation", "loss"),
            row("test", "acc"),
            row("test", "acc_norm"),
            row("test", "loss"),
            row("test", "acc"),
        ];
        let results = Results { baseline: None, rows };
        let found: Vec<(usize, &str, &str)> =
            results.headlines().iter().map(|rows| (rows.len(), &*rows[0].split, &*rows[0].metric)).collect();
        assert_eq!(found, [(1, "test", "loss"), (2, "test", "acc")]);
        let results = Results { baseline: None, rows: vec![row("validation", "acc")] };
        assert_eq!(results.headlines().len(), 1);
        assert!(Results::default().headlines().is_empty());
    }
}
