//! Which rows of a pool a mix has.

use raisin_base::seed::Seed;

/// How often each row of a pool of `rows` rows is drawn, `count` in all: each row once for every whole pass, and the
/// rest at random without repetition. With weights, a row of a larger weight is more likely in the rest.
pub fn by_count(rows: usize, count: u64, weights: Option<&[f64]>, seed: &Seed) -> Vec<u32> {
    let (passes, rest) = (count / rows.max(1) as u64, (count % rows.max(1) as u64) as usize);
    let mut copies = vec![passes as u32; rows];
    let drawn = match weights {
        Some(weights) => seed.rng().weighted_order(weights).into_iter().take(rest).collect(),
        None => seed.rng().sample(rows, rest),
    };
    drawn.into_iter().for_each(|row| copies[row] += 1);
    copies
}

/// How often each row is drawn, so that the amounts of the drawn rows come as near to `quota` as the last row allows.
/// Each pass goes through the rows in another random order; the row at which a pass would exceed the quota is drawn if
/// the sum is then nearer to the quota. With weights, rows of a larger weight come sooner.
pub fn by_amount(amounts: &[u64], quota: f64, passes: usize, weights: Option<&[f64]>, seed: &Seed) -> Vec<u32> {
    let mut copies = vec![0; amounts.len()];
    let mut sum = 0.0;
    for pass in 0..passes {
        let mut rng = seed.at(pass).rng();
        let order = match weights {
            Some(weights) => rng.weighted_order(weights),
            None => rng.order(amounts.len()),
        };
        for row in order {
            let with = sum + amounts[row] as f64;
            if with > quota {
                copies[row] += u32::from(with - quota < quota - sum);
                return copies;
            }
            copies[row] += 1;
            sum = with;
        }
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(copies: &[u32], amounts: &[u64]) -> u64 {
        copies.iter().zip(amounts).map(|(copies, amount)| u64::from(*copies) * amount).sum()
    }

    #[test]
    fn whole_passes_take_every_row_and_the_rest_is_random() {
        let seed = Seed::new(1);
        assert_eq!(by_count(3, 6, None, &seed), [2, 2, 2]);
        let drawn = by_count(100, 130, None, &seed);
        assert_eq!(drawn.iter().sum::<u32>(), 130);
        assert!(drawn.iter().all(|copies| (1..=2).contains(copies)));
        assert_eq!(drawn, by_count(100, 130, None, &seed));
        assert_ne!(drawn, by_count(100, 130, None, &Seed::new(2)));
        assert_eq!(by_count(0, 0, None, &seed), [] as [u32; 0]);
    }

    #[test]
    fn the_amount_is_within_half_a_row_of_the_quota() {
        let amounts: Vec<u64> = (0..200).map(|row| 10 + row % 7).collect();
        for quota in [0.0, 4.0, 100.0, 777.0, 2500.0, 4000.0] {
            let drawn = by_amount(&amounts, quota, 3, None, &Seed::new(5));
            let away = (total(&drawn, &amounts) as f64 - quota).abs();
            assert!(away <= 8.0, "{away} away from {quota}");
        }
    }

    #[test]
    fn a_second_pass_begins_when_all_rows_are_drawn() {
        let amounts = [5; 10];
        assert_eq!(by_amount(&amounts, 50.0, 2, None, &Seed::new(5)), [1; 10]);
        let drawn = by_amount(&amounts, 75.0, 2, None, &Seed::new(5));
        assert_eq!(drawn.iter().sum::<u32>(), 15);
        assert!(drawn.iter().all(|copies| (1..=2).contains(copies)));
        assert_eq!(by_amount(&amounts, 500.0, 2, None, &Seed::new(5)), [2; 10]);
    }

    #[test]
    fn rows_of_a_larger_weight_are_drawn_more_often() {
        let weights: Vec<f64> = (0..1000).map(|row| if row % 2 == 0 { 4.0 } else { 1.0 }).collect();
        let even = |drawn: &[u32]| drawn.iter().step_by(2).sum::<u32>();
        let drawn = by_count(1000, 100, Some(&weights), &Seed::new(3));
        assert_eq!(drawn.iter().sum::<u32>(), 100);
        // 80 of 100 in the mean; a standard deviation is 4.
        assert!((65..95).contains(&even(&drawn)), "{}", even(&drawn));
        let drawn = by_amount(&[5; 1000], 500.0, 1, Some(&weights), &Seed::new(3));
        assert_eq!(drawn.iter().sum::<u32>(), 100);
        assert!((65..95).contains(&even(&drawn)), "{}", even(&drawn));
        assert_eq!(by_count(1000, 1000, Some(&weights), &Seed::new(3)), [1; 1000], "a whole pass has every row");
    }
}
