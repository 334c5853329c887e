//! Which rows of a pool a mix has.

use raisin_base::seed::Seed;

/// How often each row of a pool of `rows` rows is drawn, `count` in all: each row once for every whole pass, and the
/// rest at random without repetition.
pub fn by_count(rows: usize, count: u64, seed: &Seed) -> Vec<u32> {
    let (passes, rest) = (count / rows.max(1) as u64, (count % rows.max(1) as u64) as usize);
    let mut copies = vec![passes as u32; rows];
    seed.rng().sample(rows, rest).into_iter().for_each(|row| copies[row] += 1);
    copies
}

/// How often each row is drawn, so that the amounts of the drawn rows come as near to `quota` as the last row allows.
/// Each pass goes through the rows in another random order; the row at which a pass would exceed the quota is drawn if
/// the sum is then nearer to the quota.
pub fn by_amount(amounts: &[u64], quota: f64, passes: usize, seed: &Seed) -> Vec<u32> {
    let mut copies = vec![0; amounts.len()];
    let mut sum = 0.0;
    for pass in 0..passes {
        for row in seed.at(pass).rng().order(amounts.len()) {
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
        assert_eq!(by_count(3, 6, &seed), [2, 2, 2]);
        let drawn = by_count(100, 130, &seed);
        assert_eq!(drawn.iter().sum::<u32>(), 130);
        assert!(drawn.iter().all(|copies| (1..=2).contains(copies)));
        assert_eq!(drawn, by_count(100, 130, &seed));
        assert_ne!(drawn, by_count(100, 130, &Seed::new(2)));
        assert_eq!(by_count(0, 0, &seed), [] as [u32; 0]);
    }

    #[test]
    fn the_amount_is_within_half_a_row_of_the_quota() {
        let amounts: Vec<u64> = (0..200).map(|row| 10 + row % 7).collect();
        for quota in [0.0, 4.0, 100.0, 777.0, 2500.0, 4000.0] {
            let drawn = by_amount(&amounts, quota, 3, &Seed::new(5));
            let away = (total(&drawn, &amounts) as f64 - quota).abs();
            assert!(away <= 8.0, "{away} away from {quota}");
        }
    }

    #[test]
    fn a_second_pass_begins_when_all_rows_are_drawn() {
        let amounts = [5; 10];
        assert_eq!(by_amount(&amounts, 50.0, 2, &Seed::new(5)), [1; 10]);
        let drawn = by_amount(&amounts, 75.0, 2, &Seed::new(5));
        assert_eq!(drawn.iter().sum::<u32>(), 15);
        assert!(drawn.iter().all(|copies| (1..=2).contains(copies)));
        assert_eq!(by_amount(&amounts, 500.0, 2, &Seed::new(5)), [2; 10]);
    }
}
