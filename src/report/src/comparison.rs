//! The comparison of methods: mean and interval over seeds, and the paired difference to a baseline over seeds and
//! items.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array};

use super::gather::{Evaluation, ItemScore, ReportData, TrainingCost, in_order};
use super::statistics::{MeanEstimate, mean, weighted_mean};
use raisin_base::error::Result;
pub use raisin_contract::results::less_is_better;
use raisin_contract::results::{MethodResult, PairedDifference, Results};
use raisin_table as table;

/// One method on one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodScore {
    pub split: String,
    pub metric: String,
    pub method: String,
    pub value: MeanEstimate,
    /// The value of each seed.
    pub by_seed: Vec<SeedValue>,
    /// The label of the baseline; `None` if no baseline was scored on this metric.
    pub baseline: Option<String>,
    /// `None` for the baseline itself, and if no baseline was scored on this metric.
    pub difference: Option<BaselineDifference>,
    pub cost: Option<TrainingCost>,
    /// The training FLOPs, as a share of Phi: the training FLOPs of three epochs of the pool.
    pub phi: Option<f64>,
    /// All FLOPs as a share of Phi: what was computed before, the training, and the validation passes.
    pub total_phi: Option<f64>,
}

/// The number of one seed; `None` if the pipeline does not sweep over seeds, or all seeds share the run.
pub type SeedValue = (Option<String>, f64);

/// The difference to the baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct BaselineDifference {
    /// The difference of each pair of runs with the same seed.
    pub by_seed: Vec<SeedValue>,
    /// Each seed that both methods have is one observation.
    pub over_seeds: Option<MeanEstimate>,
    /// Each item that both methods answered is one observation.
    pub over_items: Option<MeanEstimate>,
}

impl BaselineDifference {
    pub fn mean(&self) -> Option<f64> {
        self.over_seeds.or(self.over_items).map(|estimate| estimate.mean)
    }

    /// The difference with its interval over seeds or, with fewer than two seeds, over items.
    fn paired(&self) -> Option<PairedDifference> {
        let (estimate, over) = match (self.over_seeds, self.over_items) {
            (Some(seeds), Some(items)) if seeds.interval.is_none() && items.interval.is_some() => (items, "items"),
            (Some(seeds), _) => (seeds, "seeds"),
            (None, items) => (items?, "items"),
        };
        let MeanEstimate { count: pairs, interval, .. } = estimate;
        Some(PairedDifference { mean: self.mean()?, interval, over: over.to_owned(), pairs })
    }
}

/// The label of the method that is called `baseline`: the label that is equal to this name, or the only label that
/// starts with this name, such as `random, budget=1%`.
pub fn baseline_label<'a>(labels: &'a [String], baseline: &str) -> Option<&'a str> {
    let exact = labels.iter().find(|label| *label == baseline);
    exact
        .or_else(|| {
            let mut found = labels.iter().filter(|label| is_called(label, baseline));
            found.next().filter(|_| found.next().is_none())
        })
        .map(String::as_str)
}

/// Whether a label is this name, or starts with this name: `random, budget=1%` is called `random`.
pub fn is_called(label: &str, name: &str) -> bool {
    label == name || label.split([',', '(']).next().map(str::trim) == Some(name)
}

/// The comparison on every metric of every split, with methods in the order of their labels.
pub fn compare(gathered: &ReportData, baseline: &str) -> Vec<MethodScore> {
    let labels = gathered.labels();
    let baseline = baseline_label(&labels, baseline);
    let metrics = gathered.evaluations.iter().flat_map(|evaluation| &evaluation.metrics);
    let measured = in_order(metrics.map(|(split, metric, _)| (split, metric)));
    let full = full_flops(gathered);
    let mut rows = Vec::new();
    for (split, metric) in measured {
        let reference = baseline.map(|label| (label, Arm::of(gathered, label, split, metric)));
        let reference = reference.filter(|(_, arm)| !arm.runs.is_empty());
        for label in &labels {
            let arm = Arm::of(gathered, label, split, metric);
            let values: Vec<f64> = arm.runs.iter().map(|(_, value, _)| *value).collect();
            let Some(value) = mean(&values) else { continue };
            let difference = reference.as_ref().filter(|(of, _)| of != label);
            let cost = cost_of(gathered, label);
            let full = cost.as_ref().and_then(|cost| phi_of(cost, full));
            rows.push(MethodScore {
                split: split.clone(),
                metric: metric.clone(),
                method: label.clone(),
                value,
                by_seed: arm.runs.iter().map(|(seed, value, _)| (seed.map(str::to_owned), *value)).collect(),
                baseline: reference.as_ref().map(|(of, _)| (*of).to_owned()),
                difference: difference.map(|(_, reference)| arm.minus(reference, metric)),
                cost,
                phi: full.and_then(|full| Some(cost?.flops / full)),
                total_phi: full.and_then(|full| Some(cost?.total_flops() / full)),
            });
        }
    }
    rows
}

/// Phi for a training: the FLOPs of three epochs of the pool with the same model, else `full`.
pub fn phi_of(cost: &TrainingCost, full: Option<f64>) -> Option<f64> {
    if cost.full_flops > 0.0 { Some(cost.full_flops) } else { full }
}

/// Phi for the whole report: the training FLOPs of three epochs of the pool. Models that state it, state nearly the same,
/// unless some train more weights than others; then there is no common number. Without such statements, it is the cost of
/// `full`, scaled up if `full` ran for fewer steps.
pub fn full_flops(gathered: &ReportData) -> Option<f64> {
    let stated = gathered.tuned_models.iter().map(|model| model.cost.full_flops).filter(|flops| *flops > 0.0);
    let stated: Vec<f64> = stated.collect();
    if let Some(most) = stated.iter().copied().reduce(f64::max) {
        let least = stated.iter().copied().fold(most, f64::min);
        return (most < 1.2 * least).then(|| stated.iter().sum::<f64>() / stated.len() as f64);
    }
    let cost = cost_of(gathered, "full").filter(|cost| cost.flops > 0.0 && cost.steps > 0.0)?;
    Some(cost.flops * (cost.full_steps / cost.steps).max(1.0))
}

/// The average cost of the runs of a method; `None` for a model that no stage tuned.
pub fn cost_of(gathered: &ReportData, label: &str) -> Option<TrainingCost> {
    let mut costs: Vec<TrainingCost> = gathered.tuned_models_of(label).map(|model| model.cost).collect();
    if costs.is_empty() {
        costs = gathered.evaluations_of(label).filter_map(|evaluation| evaluation.cost).collect();
    }
    average(&costs)
}

/// The mean of each number; `None` without costs.
pub fn average(costs: &[TrainingCost]) -> Option<TrainingCost> {
    let count = costs.len() as f64;
    let mean = |of: fn(&TrainingCost) -> f64| costs.iter().map(of).sum::<f64>() / count;
    (!costs.is_empty()).then(|| TrainingCost {
        steps: mean(|cost| cost.steps),
        full_steps: mean(|cost| cost.full_steps),
        tokens: mean(|cost| cost.tokens),
        supervised_tokens: mean(|cost| cost.supervised_tokens),
        flops: mean(|cost| cost.flops),
        evaluation_flops: mean(|cost| cost.evaluation_flops),
        before_flops: mean(|cost| cost.before_flops),
        full_flops: mean(|cost| cost.full_flops),
    })
}

/// The runs of one method: seed, value, evaluation.
struct Arm<'a> {
    runs: Vec<(Option<&'a str>, f64, &'a Evaluation)>,
}

impl<'a> Arm<'a> {
    fn of(gathered: &'a ReportData, label: &str, split: &str, metric: &str) -> Self {
        let runs = gathered.evaluations_of(label).filter_map(|evaluation| {
            let (_, _, value) = evaluation.metrics.iter().find(|(of, name, _)| of == split && name == metric)?;
            Some((evaluation.name.seed.as_deref(), *value, evaluation))
        });
        Self { runs: runs.collect() }
    }

    /// The run of a seed, or the run that all seeds share.
    fn run(&self, seed: Option<&str>) -> Option<&(Option<&'a str>, f64, &'a Evaluation)> {
        let own = self.runs.iter().find(|(other, ..)| *other == seed);
        own.or_else(|| self.runs.iter().find(|(other, ..)| other.is_none()))
    }

    /// The difference of paired runs: runs of the same seed. Runs without a partner are left out.
    fn minus(&self, baseline: &Self, metric: &str) -> BaselineDifference {
        let seeds: BTreeSet<Option<&str>> = self.runs.iter().chain(&baseline.runs).map(|(seed, ..)| *seed).collect();
        // A run that all seeds share is not an additional seed.
        let has_seeds = seeds.iter().any(Option::is_some);
        let pairs: Vec<_> = seeds
            .into_iter()
            .filter(|seed| seed.is_some() || !has_seeds)
            .filter_map(|seed| Some((seed, self.run(seed)?, baseline.run(seed)?)))
            .collect();
        let by_seed: Vec<SeedValue> =
            pairs.iter().map(|(seed, one, other)| (seed.map(str::to_owned), one.1 - other.1)).collect();
        let differences: Vec<f64> = by_seed.iter().map(|(_, difference)| *difference).collect();
        let mut items: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
        for (_, (_, _, one), (_, _, other)) in &pairs {
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
        BaselineDifference { by_seed, over_seeds: mean(&differences), over_items: weighted_mean(&per_item) }
    }
}

/// The outcome of an item on a metric, and its weight. A loss is weighted by its tokens, as in the metric.
pub(crate) fn outcome(item: &ItemScore, metric: &str) -> Option<(f64, f64)> {
    match metric {
        "loss" => item.loss.map(|loss| (loss, item.tokens)),
        other => item.correct.get(other).map(|correct| (*correct, 1.0)),
    }
}

/// The rows as the file `results.json`. `baseline` is the name in the pipeline.
pub fn results_file(rows: &[MethodScore], baseline: &str) -> Results {
    let result = |row: &MethodScore| MethodResult {
        split: row.split.clone(),
        metric: row.metric.clone(),
        method: row.method.clone(),
        seeds: row.value.count,
        mean: row.value.mean,
        interval: row.value.interval,
        is_baseline: row.baseline.as_ref() == Some(&row.method),
        difference: row.difference.as_ref().and_then(BaselineDifference::paired),
        total_flops: row.cost.map(|cost| cost.total_flops()),
        total_phi: row.total_phi,
    };
    Results { baseline: Some(baseline.to_owned()), rows: rows.iter().map(result).collect() }
}

/// The `comparison` table.
pub fn comparison_table(rows: &[MethodScore]) -> Result<RecordBatch> {
    let texts =
        |of: fn(&MethodScore) -> Option<&str>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<StringArray>()) };
    let floats = |of: &dyn Fn(&MethodScore) -> Option<f64>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<Float64Array>())
    };
    let counts = |of: &dyn Fn(&MethodScore) -> Option<u32>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<UInt32Array>())
    };
    let seeds = |row: &MethodScore| row.difference.as_ref()?.over_seeds;
    let items = |row: &MethodScore| row.difference.as_ref()?.over_items;
    table::batch(vec![
        ("split", texts(|row| Some(&row.split))),
        ("metric", texts(|row| Some(&row.metric))),
        ("method", texts(|row| Some(&row.method))),
        ("n_seeds", counts(&|row| Some(row.value.count as u32))),
        ("mean", floats(&|row| Some(row.value.mean))),
        ("ci_low", floats(&|row| Some(row.value.interval?.0))),
        ("ci_high", floats(&|row| Some(row.value.interval?.1))),
        ("baseline", texts(|row| row.baseline.as_deref())),
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
        ("total_flops", floats(&|row| Some(row.cost?.total_flops()))),
        ("total_phi", floats(&|row| row.total_phi)),
    ])
}
