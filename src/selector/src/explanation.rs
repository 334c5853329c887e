//! What a policy that follows the posterior of effects prefers, and how sure it is: by column of the state, and by
//! candidate. All effects are weighted effects, in standard deviations of those of a measurement.

use tch::{Device, Kind as TensorKind, Tensor};

use super::episode::{PolicyTraining, SELECTION_UNIT};
use super::features::{features_of, parts};
use super::posterior::Posterior;
use super::state::Candidates;
use raisin_base::error::Result;
use raisin_settings::ppo::StatePart;

/// The places of a training at which effects are given, as t/T: start, middle and end.
pub const PLACES: [f64; 3] = [0.0, 0.5, 1.0];

/// The name of the effect of an earlier selection of the candidate in the same training.
pub const TIMES_SELECTED: &str = "times_selected";

/// The effect of one standard deviation of a column, or of the membership in a cluster, at each of [`PLACES`].
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnEffect {
    pub column: String,
    /// The part of the prior; 0 for all columns but that of the prior.
    pub prior: f64,
    /// With the part of the prior.
    pub effect: [f64; PLACES.len()],
    /// The standard deviation of each effect, given the measurements.
    pub deviation: [f64; PLACES.len()],
}

/// The expected effect of a candidate, at each of [`PLACES`].
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedEffect {
    pub id: u32,
    pub cluster: u32,
    pub prior: f64,
    /// With the part of the prior.
    pub effect: [f64; PLACES.len()],
    pub deviation: [f64; PLACES.len()],
}

impl PolicyTraining {
    /// The prior's part of the effect per unit of its column: rho.
    fn prior_slope(&self) -> f64 {
        self.policy.constants.prior.as_ref().map_or(0.0, |prior| prior.weight / self.config.sharpness)
    }

    /// The effects of all columns, and of an earlier selection in the training ([`TIMES_SELECTED`]); `None` if nothing was
    /// measured. If the policy does not read the column of the prior, this column comes last.
    pub fn column_effects(&self) -> Result<Option<Vec<ColumnEffect>>> {
        let Some(posterior) = self.effects.estimate()? else { return Ok(None) };
        let constants = &self.policy.constants;
        let of_prior = |column: &str| constants.prior.as_ref().is_some_and(|prior| prior.column == column);
        let clusters = (0..constants.clusters).map(|cluster| format!("cluster.{cluster:02}"));
        let columns = constants.columns.iter().cloned().chain(clusters);
        let counts_matter = constants.state.contains(&StatePart::Availability);
        let columns: Vec<String> = columns.chain(counts_matter.then(|| TIMES_SELECTED.to_owned())).collect();
        let mut weights = weights_of(&posterior, columns.len())?;
        // The effect of one selection, and not of one unit of the feature.
        if let Some((effect, deviation)) = weights.last_mut().filter(|_| counts_matter) {
            effect.iter_mut().chain(deviation).for_each(|value| *value *= SELECTION_UNIT);
        }
        let mut effects: Vec<ColumnEffect> = columns
            .into_iter()
            .zip(weights)
            .map(|(column, (effect, deviation))| {
                let prior = if of_prior(&column) { self.prior_slope() } else { 0.0 };
                ColumnEffect { column, prior, effect: effect.map(|effect| effect + prior), deviation }
            })
            .collect();
        if let Some(prior) = constants.prior.as_ref().filter(|prior| !constants.columns.contains(&prior.column)) {
            let slope = self.prior_slope();
            let (effect, deviation) = ([slope; PLACES.len()], [0.0; PLACES.len()]);
            effects.push(ColumnEffect { column: prior.column.clone(), prior: slope, effect, deviation });
        }
        Ok(Some(effects))
    }

    /// Calls `take` with the expected effects of all candidates, in parts by position. It is not called if nothing was
    /// measured.
    pub fn expected_effects(
        &self,
        candidates: &Candidates,
        mut take: impl FnMut(Vec<ExpectedEffect>) -> Result<()>,
    ) -> Result<()> {
        let Some(posterior) = self.effects.estimate()? else { return Ok(()) };
        let numbers = |tensor: &Tensor| Vec::<f64>::try_from(tensor.to_kind(TensorKind::Double));
        for part in parts(candidates) {
            let table = features_of(candidates, &part); // [n, F + C]
            let prior = match &candidates.prior {
                Some(column) => {
                    let column = column.narrow(0, part.start as i64, part.len() as i64);
                    numbers(&(column * self.prior_slope()))?
                }
                None => vec![0.0; part.len()],
            };
            let (mut effects, mut deviations) = (Vec::new(), Vec::new());
            for time in PLACES {
                effects.push(numbers(&posterior.expected(&table, time))?);
                deviations.push(numbers(&posterior.deviations(&table, time))?);
            }
            let at = |of: &[Vec<f64>], row: usize| std::array::from_fn(|place| of[place][row]);
            let expected = |row: usize| ExpectedEffect {
                id: candidates.ids[part.start + row],
                cluster: candidates.clusters[part.start + row],
                prior: prior[row],
                effect: at(&effects, row).map(|effect: f64| effect + prior[row]),
                deviation: at(&deviations, row),
            };
            take((0..part.len()).map(expected).collect())?;
        }
        Ok(())
    }
}

/// A number at each of [`PLACES`] of a training.
pub type AtPlaces = [f64; PLACES.len()];

/// The learned weight of each column with its standard deviation, at each of [`PLACES`].
fn weights_of(posterior: &Posterior, columns: usize) -> Result<Vec<(AtPlaces, AtPlaces)>> {
    let units = Tensor::eye(columns as i64, (TensorKind::Double, Device::Cpu));
    let mut found = vec![([0.0; PLACES.len()], [0.0; PLACES.len()]); columns];
    for (place, time) in PLACES.into_iter().enumerate() {
        let weights: Vec<f64> = Vec::try_from(posterior.expected(&units, time))?;
        let deviations: Vec<f64> = Vec::try_from(posterior.deviations(&units, time))?;
        for (found, (weight, deviation)) in found.iter_mut().zip(weights.into_iter().zip(deviations)) {
            (found.0[place], found.1[place]) = (weight, deviation);
        }
    }
    Ok(found)
}
