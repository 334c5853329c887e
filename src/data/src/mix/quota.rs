//! How much of each pool a mix has. Amounts are in the unit of the mix.

use raisin_base::error::{Problem, Result};

/// A pool as the parts of a mix see it.
#[derive(Clone, Debug)]
pub struct Supply {
    pub name: String,
    /// The amount of the whole pool.
    pub available: u64,
    /// The part of the pool relative to the shares of other pools.
    pub share: Option<f64>,
    /// The exact amount that the mix has of the pool.
    pub take: Option<u64>,
}

/// The whole mix.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    /// The amount of the mix. `None`: as much as the parts and `passes` allow.
    pub size: Option<u64>,
    pub temperature: f64,
    /// How often a row may be in the mix.
    pub passes: usize,
}

impl Whole {
    /// The most that the mix may have of a pool.
    fn most(self, pool: &Supply) -> f64 {
        pool.available as f64 * self.passes as f64
    }

    /// The amount of each pool, in the order of `pools`.
    ///
    /// # Errors
    /// A pool is too small for its part, or the amounts that pools must give are more than the size.
    pub fn quotas(self, pools: &[Supply]) -> Result<Vec<f64>> {
        let weights: Vec<f64> = pools.iter().map(|pool| self.weight(pool)).collect();
        let sum: f64 = weights.iter().sum();
        let taken: u64 = pools.iter().filter_map(|pool| pool.take).sum();
        let scale = match self.size {
            Some(size) => Self::rest(size, taken, sum > 0.0)? / sum.max(f64::MIN_POSITIVE),
            None => {
                let scales = pools.iter().zip(&weights).filter(|(_, weight)| **weight > 0.0);
                scales.map(|(pool, weight)| self.most(pool) / weight).fold(f64::INFINITY, f64::min)
            }
        };
        let quota = |(pool, weight): (&Supply, &f64)| match pool.take {
            Some(take) => take as f64,
            None if *weight > 0.0 => scale * weight,
            None => 0.0,
        };
        let quotas: Vec<f64> = pools.iter().zip(&weights).map(quota).collect();
        for (pool, quota) in pools.iter().zip(&quotas) {
            self.check_supply(pool, *quota)?;
        }
        Ok(quotas)
    }

    /// The part of a pool among the pools without `take`; 0 for a pool with `take`, and for an empty pool.
    fn weight(self, pool: &Supply) -> f64 {
        match (pool.take, pool.share) {
            (Some(_), _) => 0.0,
            (None, Some(share)) => share,
            (None, None) => (pool.available as f64).powf(1.0 / self.temperature),
        }
    }

    /// What `size` leaves to the pools without `take`.
    fn rest(size: u64, taken: u64, is_divided: bool) -> Result<f64> {
        if taken > size {
            return Err(Problem::new(format!("the pools with `take` give {taken}, and `size` is {size}"))
                .hint("raise `size`, or lower `take`")
                .into());
        }
        if !is_divided && taken < size {
            return Err(Problem::new(format!("the pools give {taken}, and `size` is {size}"))
                .hint("remove `size`, or add a pool without `take`")
                .into());
        }
        Ok((size - taken) as f64)
    }

    fn check_supply(self, pool: &Supply, quota: f64) -> Result<()> {
        // The quota of the pool that limits the mix may exceed its supply by a rounding error.
        if quota <= self.most(pool) * (1.0 + 1e-12) {
            return Ok(());
        }
        let Supply { name, available, .. } = pool;
        let passes = (quota / *available as f64).ceil();
        let hint = if *available == 0 {
            format!("the pool is empty: remove `{name}` from the mix")
        } else {
            format!("set passes = {passes} to repeat rows, lower the part of `{name}`, or lower `size`")
        };
        let allowed = match self.passes {
            1 => format!("has {available}"),
            passes => format!("has {available}, and {passes} passes give {}", self.most(pool)),
        };
        Err(Problem::new(format!("the mix needs {quota:.0} of the pool `{name}`, which {allowed}")).hint(hint).into())
    }
}

/// Whole numbers that sum to the rounded sum of the quotas, each less than 1 away from its quota: the method of largest
/// remainders. Of equal remainders, the first one is rounded up.
pub fn whole_numbers(quotas: &[f64]) -> Vec<u64> {
    // A quota that is a whole number but for a rounding error counts as this number.
    let exact = |quota: f64| if (quota - quota.round()).abs() < 1e-9 * quota.max(1.0) { quota.round() } else { quota };
    let quotas: Vec<f64> = quotas.iter().map(|quota| exact(*quota)).collect();
    let mut numbers: Vec<u64> = quotas.iter().map(|quota| quota.floor() as u64).collect();
    let sum: f64 = quotas.iter().sum();
    let missing = (sum.round() as u64).saturating_sub(numbers.iter().sum());
    let mut order: Vec<usize> = (0..quotas.len()).filter(|&place| quotas[place].fract() > 0.0).collect();
    order.sort_by(|&a, &b| quotas[b].fract().total_cmp(&quotas[a].fract()));
    for &place in order.iter().take(missing as usize) {
        numbers[place] += 1;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, available: u64, share: Option<f64>, take: Option<u64>) -> Supply {
        Supply { name: name.to_owned(), available, share, take }
    }

    fn whole(size: Option<u64>) -> Whole {
        Whole { size, temperature: 1.0, passes: 1 }
    }

    fn close(quotas: &[f64], expected: &[f64]) {
        assert_eq!(quotas.len(), expected.len());
        let are = quotas.iter().zip(expected).all(|(quota, expected)| (quota - expected).abs() < 1e-6);
        assert!(are, "{quotas:?} instead of {expected:?}");
    }

    #[test]
    fn without_shares_and_size_the_mix_has_everything() {
        let pools = [pool("a", 700, None, None), pool("b", 300, None, None), pool("empty", 0, None, None)];
        close(&whole(None).quotas(&pools).unwrap(), &[700.0, 300.0, 0.0]);
        close(&whole(Some(100)).quotas(&pools).unwrap(), &[70.0, 30.0, 0.0]);
    }

    #[test]
    fn the_scarcest_pool_limits_a_mix_without_a_size() {
        let pools = [pool("a", 900, Some(3.0), None), pool("b", 100, Some(1.0), None)];
        close(&whole(None).quotas(&pools).unwrap(), &[300.0, 100.0]);
        let twice = Whole { passes: 2, ..whole(None) };
        close(&twice.quotas(&pools).unwrap(), &[600.0, 200.0]);
    }

    #[test]
    fn an_exact_amount_counts_towards_the_size() {
        let pools = [pool("a", 900, Some(1.0), None), pool("b", 900, Some(1.0), None), pool("c", 50, None, Some(40))];
        close(&whole(Some(100)).quotas(&pools).unwrap(), &[30.0, 30.0, 40.0]);
        let error = whole(Some(30)).quotas(&pools).unwrap_err().to_string();
        assert!(error.contains("the pools with `take` give 40, and `size` is 30"), "{error}");
        let error = whole(Some(50)).quotas(&pools[2..]).unwrap_err().to_string();
        assert!(error.contains("the pools give 40, and `size` is 50"), "{error}");
    }

    #[test]
    fn a_high_temperature_makes_the_parts_equal() {
        // Square roots of 900 and 100 are 30 and 10.
        let pools = [pool("a", 900, None, None), pool("b", 100, None, None)];
        close(&Whole { temperature: 2.0, ..whole(Some(40)) }.quotas(&pools).unwrap(), &[30.0, 10.0]);
        let hot = Whole { temperature: 1e6, ..whole(Some(40)) }.quotas(&pools).unwrap();
        assert!((hot[0] - 20.0).abs() < 1e-3, "{hot:?}");
    }

    #[test]
    fn a_pool_that_is_too_small_is_named_with_the_passes_that_it_needs() {
        let pools = [pool("a", 900, Some(1.0), None), pool("b", 100, Some(1.0), None)];
        let error = raisin_base::error::render(&whole(Some(500)).quotas(&pools).unwrap_err());
        assert!(error.contains("the mix needs 250 of the pool `b`, which has 100"), "{error}");
        assert!(error.contains("set passes = 3"), "{error}");
        close(&Whole { passes: 3, ..whole(Some(500)) }.quotas(&pools).unwrap(), &[250.0, 250.0]);
    }

    #[test]
    fn whole_numbers_keep_the_sum() {
        assert_eq!(whole_numbers(&[3.4, 3.3, 3.3]), [4, 3, 3]);
        assert_eq!(whole_numbers(&[0.5, 0.5, 1.0]), [1, 0, 1]);
        assert_eq!(whole_numbers(&[2.999_999_999_999, 1.0]), [3, 1]);
        assert_eq!(whole_numbers(&[]), [] as [u64; 0]);
    }

    #[test]
    fn whole_numbers_stay_within_one_of_their_quotas() {
        let mut rng = raisin_base::seed::Seed::new(3).rng();
        for _ in 0..300 {
            let quotas: Vec<f64> = (0..=rng.below(9)).map(|_| rng.below(100_000) as f64 / 997.0).collect();
            let numbers = whole_numbers(&quotas);
            let sum: f64 = quotas.iter().sum();
            assert_eq!(numbers.iter().sum::<u64>(), sum.round() as u64, "{quotas:?}");
            let near = quotas.iter().zip(&numbers).all(|(quota, number)| (quota - *number as f64).abs() < 1.0);
            assert!(near, "{quotas:?} {numbers:?}");
        }
    }
}
