//! What a selector learned, from the tables of its artifact: the effects of the columns of the state and of the
//! candidates, with their deviations, and the clusters. All effects are in standard deviations of the measured effects.
//!
//! The tables give an effect at the start, in the middle and at the end of a training. An effect is linear in the
//! place t/T and its variance is a quadratic function of it, so the three places give every other place exactly.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::RecordBatch;

use super::gather::{Picked, numbers, texts, whole};
use raisin_base::error::{Context as _, Result};
use raisin_table as table;

/// Half the width of a 95 % interval, in standard deviations.
const NORMAL_95: f64 = 1.96;

/// A place of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingPlace {
    /// For a sentence: `at the start`.
    pub words: String,
    /// t/T
    pub time: f64,
}

/// The places that are shown, and the ones by which columns, clusters and candidates are ordered.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownPlaces {
    pub shown: Vec<TrainingPlace>,
    pub order: Vec<f64>,
}

impl Default for ShownPlaces {
    fn default() -> Self {
        let place = |(words, time): (&str, f64)| TrainingPlace { words: words.to_owned(), time };
        let shown = [("at the start", 0.0), ("in the middle", 0.5), ("at the end", 1.0)].map(place).to_vec();
        let order = shown.iter().map(|place| place.time).collect();
        Self { shown, order }
    }
}

impl ShownPlaces {
    /// Start, middle, end and one step, from 1, which also gives the order.
    pub fn with_step(step: u32, steps: u32) -> Self {
        let time = f64::from(step.saturating_sub(1)) / f64::from(steps.max(1));
        let mut shown = Self::default().shown;
        shown.push(TrainingPlace { words: format!("at step {step}"), time });
        Self { shown, order: vec![time] }
    }
}

/// An effect with its standard deviation, given the measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EffectEstimate {
    pub value: f64,
    pub deviation: f64,
}

impl EffectEstimate {
    /// Half the width of the 95 % interval.
    pub fn half_width(self) -> f64 {
        NORMAL_95 * self.deviation
    }

    /// The 95 % interval.
    pub fn interval(self) -> (f64, f64) {
        (self.value - self.half_width(), self.value + self.half_width())
    }

    pub fn includes_zero(self) -> bool {
        self.value.abs() <= self.half_width()
    }

    /// The effect relative to its deviation. An effect that is declared and not measured has the deviation 0.
    pub fn clearness(self) -> f64 {
        if self.value == 0.0 { 0.0 } else { self.value.abs() / self.deviation }
    }
}

/// An effect at the places of a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlacedEffect {
    /// The part that the prior declares; equal at all places.
    pub prior: f64,
    /// At the start, in the middle and at the end, with the part of the prior.
    pub effect: [f64; 3],
    pub deviation: [f64; 3],
}

impl PlacedEffect {
    /// The effect at the place t/T.
    pub fn at(&self, time: f64) -> EffectEstimate {
        let weights = [2.0 * (time - 0.5) * (time - 1.0), -4.0 * time * (time - 1.0), 2.0 * time * (time - 0.5)];
        let through = |values: [f64; 3]| values.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>();
        let variance = through(self.deviation.map(|deviation| deviation * deviation));
        EffectEstimate { value: through(self.effect), deviation: variance.max(0.0).sqrt() }
    }

    /// The mean effect over some places.
    fn mean(&self, times: &[f64]) -> f64 {
        times.iter().map(|time| self.at(*time).value).sum::<f64>() / times.len().max(1) as f64
    }
}

/// A column of the state, the membership in a cluster, or an earlier selection.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnedColumn {
    pub name: String,
    pub effect: PlacedEffect,
}

/// A candidate with its expected effect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedCandidate {
    pub id: u32,
    pub cluster: u32,
    pub effect: PlacedEffect,
}

/// A cluster of candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnedCluster {
    pub cluster: u32,
    /// The ids of its candidates, those with the greatest expected effect first.
    pub members: Vec<u32>,
    /// The mean expected effect of its candidates, at each shown place.
    pub means: Vec<f64>,
    /// Its share of the selected rows; `None` if no row was selected.
    pub share: Option<f64>,
}

/// The tables `column_effects` and `expected` of a selector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LearnedEffects {
    pub columns: Vec<LearnedColumn>,
    pub candidates: Vec<LearnedCandidate>,
}

impl LearnedEffects {
    /// `None` if the policy does not learn effects (PPO), or if nothing was measured.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = |table: &str| folder.join(format!("{table}.parquet"));
        if !path("column_effects").is_file() || !path("expected").is_file() {
            return Ok(None);
        }
        let rows = table::read(&path("column_effects"))?;
        let names = texts(&rows, "column")?.into_iter().map(Option::unwrap_or_default);
        let columns = names.zip(placed(&rows).context("in the table `column_effects`")?);
        let columns: Vec<_> = columns.map(|(name, effect)| LearnedColumn { name, effect }).collect();
        let rows = table::read(&path("expected"))?;
        let ids = numbers(&rows, "id")?.into_iter().zip(numbers(&rows, "cluster")?);
        let mut candidates = Vec::with_capacity(rows.num_rows());
        for ((id, cluster), effect) in ids.zip(placed(&rows).context("in the table `expected`")?) {
            let (Some(id), Some(cluster)) = (id, cluster) else { continue };
            candidates.push(LearnedCandidate { id: whole(id, "id")?, cluster: whole(cluster, "cluster")?, effect });
        }
        Ok((!columns.is_empty() && !candidates.is_empty()).then_some(Self { columns, candidates }))
    }

    /// The columns to show, those with the clearest effect first, and the number of columns that are left out. An effect
    /// is as clear as it is great relative to its interval, at any place. The column of the prior is always shown.
    pub fn clearest_columns(&self, places: &ShownPlaces, most: usize) -> (Vec<&LearnedColumn>, usize) {
        let clearness = |column: &LearnedColumn| {
            places.order.iter().map(|time| column.effect.at(*time).clearness()).fold(0.0, f64::max)
        };
        let mut columns: Vec<(f64, &LearnedColumn)> =
            self.columns.iter().map(|column| (clearness(column), column)).collect();
        columns.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.name.cmp(&other.1.name)));
        let all = columns.len();
        let shown = columns.into_iter().map(|(_, column)| column).enumerate();
        let shown = shown.filter(|(place, column)| *place < most || column.effect.prior != 0.0);
        let shown: Vec<_> = shown.map(|(_, column)| column).collect();
        let left_out = all - shown.len();
        (shown, left_out)
    }

    /// The clusters, those with the greatest mean expected effect first. The shares are those among `picked`.
    pub fn clusters<'a>(&self, places: &ShownPlaces, picked: impl Iterator<Item = &'a Picked>) -> Vec<LearnedCluster> {
        let cluster_of: BTreeMap<u32, u32> =
            self.candidates.iter().map(|candidate| (candidate.id, candidate.cluster)).collect();
        let (mut counts, mut all) = (BTreeMap::<u32, usize>::new(), 0_usize);
        for cluster in picked.filter_map(|row| cluster_of.get(&row.id)) {
            *counts.entry(*cluster).or_default() += 1;
            all += 1;
        }
        let mut members: BTreeMap<u32, Vec<(f64, &LearnedCandidate)>> = BTreeMap::new();
        for candidate in &self.candidates {
            let expected = candidate.effect.mean(&places.order);
            members.entry(candidate.cluster).or_default().push((expected, candidate));
        }
        let mut clusters = Vec::new();
        for (cluster, mut of) in members {
            of.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.id.cmp(&other.1.id)));
            let size = of.len() as f64;
            let mean = |time: f64| of.iter().map(|(_, it)| it.effect.at(time).value).sum::<f64>() / size;
            let order = of.iter().map(|(expected, _)| expected).sum::<f64>() / size;
            let selected = counts.get(&cluster).copied().unwrap_or(0);
            let found = LearnedCluster {
                cluster,
                members: of.iter().map(|(_, candidate)| candidate.id).collect(),
                means: places.shown.iter().map(|place| mean(place.time)).collect(),
                share: (all > 0).then(|| selected as f64 / all as f64),
            };
            clusters.push((order, found));
        }
        clusters.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cluster.cmp(&other.1.cluster)));
        clusters.into_iter().map(|(_, cluster)| cluster).collect()
    }

    /// The rank of a candidate among all at the place t/T: 1 for the greatest expected effect.
    pub fn rank(&self, candidate: &LearnedCandidate, time: f64) -> usize {
        let own = candidate.effect.at(time).value;
        1 + self.candidates.iter().filter(|other| other.effect.at(time).value > own).count()
    }
}

/// The effect of each row of a table. A number that is missing is 0.
fn placed(rows: &RecordBatch) -> Result<Vec<PlacedEffect>> {
    let column = |name: &str| {
        let values = numbers(rows, name)?;
        Ok::<Vec<f64>, raisin_base::error::Error>(values.into_iter().map(Option::unwrap_or_default).collect())
    };
    let at_places = |names: [&str; 3]| {
        Ok::<_, raisin_base::error::Error>([column(names[0])?, column(names[1])?, column(names[2])?])
    };
    let prior = column("prior")?;
    let effects = at_places(["at_start", "in_middle", "at_end"])?;
    let deviations = at_places(["at_start_deviation", "in_middle_deviation", "at_end_deviation"])?;
    let row = |row: usize| PlacedEffect {
        prior: prior[row],
        effect: [0, 1, 2].map(|place: usize| effects[place][row]),
        deviation: [0, 1, 2].map(|place: usize| deviations[place][row]),
    };
    Ok((0..rows.num_rows()).map(row).collect())
}

/// What the last round says about the credit of all rounds, and about the choice. A number is `None` if the policy does
/// not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CreditSummary {
    /// The number of rounds.
    pub rounds: usize,
    /// The number of measured effects of all rounds.
    pub measured: Option<f64>,
    /// The share of the variance that the prior leaves, which the regression explains for candidates it has not seen.
    pub reliability: Option<f64>,
    /// The share of the variance that the prior explains alone.
    pub by_prior: Option<f64>,
    /// Among how many candidates a slot of the last round was drawn in effect.
    pub effective_candidates: Option<f64>,
}

impl CreditSummary {
    /// From the table `rounds`.
    pub fn of(rounds: &RecordBatch) -> Result<Self> {
        let last = |name: &str| Ok::<_, raisin_base::error::Error>(numbers(rounds, name)?.pop().flatten());
        Ok(Self {
            rounds: rounds.num_rows(),
            measured: last("measured_effects")?,
            reliability: last("credit_reliability")?,
            by_prior: last("explained_by_prior")?,
            effective_candidates: last("effective_candidates")?,
        })
    }

    /// Sentences about the measurements; `None` if effects were not measured.
    pub fn sentences(&self) -> Option<String> {
        let measured = self.measured.filter(|measured| *measured > 0.0)?;
        let mut text = format!("{} effects of rows were measured in {}.", thousands(measured), rounds(self.rounds));
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        if let Some(share) = self.by_prior {
            text += &if share < 0.0 {
                " The prior alone explains none of their variance: it predicts them worse than their mean does."
                    .to_owned()
            } else {
                format!(" The prior alone explains {} of their variance.", percent(share))
            };
        }
        if let Some(share) = self.reliability {
            let which = if self.by_prior.is_some() {
                "Prior and regression together explain"
            } else {
                "The regression explains"
            };
            text += &format!(" {which} {}, for rows that the regression has not seen.", percent(share));
        }
        Some(text)
    }
}

fn rounds(count: usize) -> String {
    if count == 1 { "1 round".to_owned() } else { format!("{count} rounds") }
}

/// A count with commas: `3,840`.
pub fn thousands(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effect_at_any_place_follows_from_three_places() {
        // a + s b with s = (time - 1/2) sqrt(12): variance va + 2 s c + s^2 vb.
        let (a, b, va, c, vb) = (0.7, -0.4, 0.09, 0.01, 0.04);
        let s = |time: f64| (time - 0.5) * 12f64.sqrt();
        let value = |time: f64| a + s(time) * b;
        let deviation = |time: f64| (va + 2.0 * s(time) * c + s(time).powi(2) * vb).sqrt();
        let effect =
            PlacedEffect { prior: 0.2, effect: [0.0, 0.5, 1.0].map(value), deviation: [0.0, 0.5, 1.0].map(deviation) };
        for time in [0.0, 0.13, 0.5, 0.77, 1.0] {
            let found = effect.at(time);
            assert!((found.value - value(time)).abs() < 1e-12, "{time}: {found:?}");
            assert!((found.deviation - deviation(time)).abs() < 1e-12, "{time}: {found:?}");
        }
    }

    #[test]
    fn an_interval_that_touches_zero_includes_it() {
        let estimate = EffectEstimate { value: 1.96, deviation: 1.0 };
        assert!(estimate.includes_zero());
        assert!(!EffectEstimate { value: 1.97, ..estimate }.includes_zero());
        assert!(EffectEstimate { value: 0.0, deviation: 0.0 }.clearness().abs() < 1e-12);
    }

    #[test]
    fn counts_have_commas() {
        assert_eq!([0.0, 12.0, 999.0, 1_000.0, 1_234_567.0].map(thousands), ["0", "12", "999", "1,000", "1,234,567"]);
    }
}
