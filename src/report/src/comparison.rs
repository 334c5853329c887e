//! How methods compare: mean and interval over seeds, and the paired difference to a baseline over seeds and items.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array};

use super::gather::{Gathered, Item, Scoring, Spent};
use super::statistics::{Estimate, mean, weighted_mean};
use raisin_base::error::Result;
use raisin_table as table;

/// One method on one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub split: String,
    pub metric: String,
    pub method: String,
    pub value: Estimate,
    /// `None` for the baseline itself, and where the baseline was not scored.
    pub difference: Option<Difference>,
    pub cost: Option<Spent>,
    /// Training FLOPs as a share of those of `full`.
    pub phi: Option<f64>,
}

/// To the baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Each seed that both have is one observation.
    pub over_seeds: Option<Estimate>,
    /// Each item that both answered is one observation.
    pub over_items: Option<Estimate>,
}

impl Difference {
    pub fn mean(&self) -> Option<f64> {
        self.over_seeds.or(self.over_items).map(|estimate| estimate.mean)
    }
}

/// Whether a smaller value is the better one.
pub fn less_is_better(metric: &str) -> bool {
    metric == "loss" || metric.ends_with("_loss") || metric == "perplexity"
}

/// The label that a baseline's name means: itself, or the only one that starts so (`random, budget=1%`).
pub fn baseline_label<'a>(labels: &'a [String], baseline: &str) -> Option<&'a str> {
    let is_it = |label: &&String| *label == baseline || label.split([',', '(']).next().map(str::trim) == Some(baseline);
    let exact = labels.iter().find(|label| *label == baseline);
    exact
        .or_else(|| {
            let mut found = labels.iter().filter(is_it);
            found.next().filter(|_| found.next().is_none())
        })
        .map(String::as_str)
}

/// Every metric of every split, methods in the order of their labels.
pub fn compare(gathered: &Gathered, baseline: &str) -> Vec<Row> {
    let labels = gathered.labels();
    let baseline = baseline_label(&labels, baseline);
    let mut measured: Vec<(String, String)> = Vec::new();
    for (split, metric, _) in gathered.scorings.iter().flat_map(|scoring| &scoring.metrics) {
        if !measured.contains(&(split.clone(), metric.clone())) {
            measured.push((split.clone(), metric.clone()));
        }
    }
    let full = full_flops(gathered);
    let mut rows = Vec::new();
    for (split, metric) in &measured {
        let reference = baseline.map(|label| Arm::of(gathered, label, split, metric));
        for label in &labels {
            let arm = Arm::of(gathered, label, split, metric);
            let values: Vec<f64> = arm.runs.iter().map(|(_, value, _)| *value).collect();
            let Some(value) = mean(&values) else { continue };
            let is_baseline = baseline == Some(label);
            let difference = reference.as_ref().filter(|reference| !is_baseline && !reference.runs.is_empty());
            let cost = cost_of(gathered, label);
            rows.push(Row {
                split: split.clone(),
                metric: metric.clone(),
                method: label.clone(),
                value,
                difference: difference.map(|reference| arm.minus(reference, metric)),
                cost,
                phi: full.and_then(|full| Some(cost?.flops / full)),
            });
        }
    }
    rows
}

/// Phi: the training FLOPs of three epochs of the whole pool. Where `full` was given fewer steps, its cost is scaled up.
pub fn full_flops(gathered: &Gathered) -> Option<f64> {
    let cost = cost_of(gathered, "full").filter(|cost| cost.flops > 0.0 && cost.steps > 0.0)?;
    Some(cost.flops * (cost.full_steps / cost.steps).max(1.0))
}

/// What the runs of a method took on average; `None` for a model that was not tuned here.
pub fn cost_of(gathered: &Gathered, label: &str) -> Option<Spent> {
    let scored =
        gathered.scorings.iter().filter(|scoring| scoring.name.label == label).filter_map(|scoring| scoring.cost);
    let tuned = gathered.tunings.iter().filter(|tuning| tuning.name.label == label).map(|tuning| tuning.cost);
    let mut costs: Vec<Spent> = tuned.collect();
    if costs.is_empty() {
        costs = scored.collect();
    }
    average(&costs)
}

pub fn average(costs: &[Spent]) -> Option<Spent> {
    let count = costs.len() as f64;
    let mean = |of: fn(&Spent) -> f64| costs.iter().map(of).sum::<f64>() / count;
    (!costs.is_empty()).then(|| Spent {
        steps: mean(|cost| cost.steps),
        full_steps: mean(|cost| cost.full_steps),
        tokens: mean(|cost| cost.tokens),
        supervised_tokens: mean(|cost| cost.supervised_tokens),
        flops: mean(|cost| cost.flops),
        evaluation_flops: mean(|cost| cost.evaluation_flops),
    })
}

/// The runs of one method: seed, value, evaluation.
struct Arm<'a> {
    runs: Vec<(Option<&'a str>, f64, &'a Scoring)>,
}

impl<'a> Arm<'a> {
    fn of(gathered: &'a Gathered, label: &str, split: &str, metric: &str) -> Self {
        let of_label = gathered.scorings.iter().filter(|scoring| scoring.name.label == label);
        let runs = of_label.filter_map(|scoring| {
            let (_, _, value) = scoring.metrics.iter().find(|(of, name, _)| of == split && name == metric)?;
            Some((scoring.name.seed.as_deref(), *value, scoring))
        });
        Self { runs: runs.collect() }
    }

    /// The run of a seed; a run that all seeds share stands for each.
    fn run(&self, seed: Option<&str>) -> Option<&(Option<&'a str>, f64, &'a Scoring)> {
        let own = self.runs.iter().find(|(other, ..)| *other == seed);
        own.or_else(|| self.runs.iter().find(|(other, ..)| other.is_none()))
    }

    /// Pairs by seed. Where neither has a run for each of the other's seeds, those without a partner are left out.
    fn minus(&self, baseline: &Self, metric: &str) -> Difference {
        let seeds: BTreeSet<Option<&str>> = self.runs.iter().chain(&baseline.runs).map(|(seed, ..)| *seed).collect();
        // The shared run is no seed of its own beside real ones.
        let has_seeds = seeds.iter().any(Option::is_some);
        let pairs: Vec<_> = seeds
            .into_iter()
            .filter(|seed| seed.is_some() || !has_seeds)
            .filter_map(|seed| Some((self.run(seed)?, baseline.run(seed)?)))
            .collect();
        let differences: Vec<f64> = pairs.iter().map(|((_, one, _), (_, other, _))| one - other).collect();
        let mut items: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
        for ((_, _, one), (_, _, other)) in &pairs {
            for (id, item) in &one.items {
                let partner = other.items.get(id).and_then(|other| outcome(other, metric));
                if let (Some((value, weight)), Some((reference, _))) = (outcome(item, metric), partner) {
                    items.entry(*id).or_default().push((value - reference, weight));
                }
            }
        }
        let per_item: Vec<(f64, f64)> = items
            .values()
            .map(|seeds| (seeds.iter().map(|(value, _)| value).sum::<f64>() / seeds.len() as f64, seeds[0].1))
            .collect();
        Difference { over_seeds: mean(&differences), over_items: weighted_mean(&per_item) }
    }
}

/// An item's outcome on a metric, and its weight: a loss counts by its tokens, as in the metric itself.
fn outcome(item: &Item, metric: &str) -> Option<(f64, f64)> {
    match metric {
        "loss" => item.loss.map(|loss| (loss, item.tokens)),
        "acc" | "exact_match" => item.correct.map(|correct| (correct, 1.0)),
        "acc_norm" | "flexible_match" => item.correct_norm.map(|correct| (correct, 1.0)),
        _ => None,
    }
}

/// The table `comparison`, for SQL.
pub fn comparison_table(rows: &[Row], baseline: &str) -> Result<RecordBatch> {
    let texts = |of: &dyn Fn(&Row) -> String| Arc::new(rows.iter().map(|row| Some(of(row))).collect::<StringArray>());
    let floats =
        |of: &dyn Fn(&Row) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Float64Array>()) };
    let counts =
        |of: &dyn Fn(&Row) -> Option<u32>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<UInt32Array>()) };
    let seeds = |row: &Row| row.difference.as_ref()?.over_seeds;
    let items = |row: &Row| row.difference.as_ref()?.over_items;
    table::batch(vec![
        ("split", texts(&|row| row.split.clone()) as ArrayRef),
        ("metric", texts(&|row| row.metric.clone())),
        ("method", texts(&|row| row.method.clone())),
        ("n_seeds", counts(&|row| Some(row.value.count as u32))),
        ("mean", floats(&|row| Some(row.value.mean))),
        ("ci_low", floats(&|row| Some(row.value.interval?.0))),
        ("ci_high", floats(&|row| Some(row.value.interval?.1))),
        ("baseline", texts(&|_| baseline.to_owned())),
        ("difference", floats(&|row| row.difference.as_ref()?.mean())),
        ("difference_low", floats(&|row| Some(seeds(row)?.interval?.0))),
        ("difference_high", floats(&|row| Some(seeds(row)?.interval?.1))),
        ("paired_seeds", counts(&|row| Some(seeds(row)?.count as u32))),
        ("items_low", floats(&|row| Some(items(row)?.interval?.0))),
        ("items_high", floats(&|row| Some(items(row)?.interval?.1))),
        ("paired_items", counts(&|row| Some(items(row)?.count as u32))),
        ("steps", floats(&|row| Some(row.cost?.steps))),
        ("tokens", floats(&|row| Some(row.cost?.tokens))),
        ("flops", floats(&|row| Some(row.cost?.flops))),
        ("phi", floats(&|row| row.phi)),
    ])
}
