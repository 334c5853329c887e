use super::*;
use raisin_base::seed::Seed;

/// Measurements of 24 candidates each, whose effects are x (a + s b) plus noise of this deviation; `[F, 2]` holds a and
/// b. The column 0 is the prior's.
fn measured(
    weights: &[[f64; 2]],
    noise: f64,
    measurements: usize,
    prior: Option<f64>,
    seed: u64,
) -> Result<EffectRegression> {
    measured_with(vec![false; weights.len()], weights, noise, measurements, prior, seed)
}

/// The same, where some of the columns are [many](EffectRegression::new).
fn measured_with(
    many: Vec<bool>,
    weights: &[[f64; 2]],
    noise: f64,
    measurements: usize,
    prior: Option<f64>,
    seed: u64,
) -> Result<EffectRegression> {
    let mut rng = Seed::new(seed).rng();
    let mut regression = EffectRegression::new(many);
    for measurement in 0..measurements {
        let time = (measurement % 10) as f64 / 10.0;
        let ids: Vec<u32> = (0..24).map(|_| (rng.unit() * 1000.0) as u32).collect();
        let state: Vec<f64> = (0..24 * weights.len()).map(|_| rng.normal()).collect();
        let effects: Vec<f64> = state
            .chunks(weights.len())
            .map(|x| {
                let mean: f64 = x.iter().zip(weights).map(|(x, [a, b])| x * (a + stage_position(time) * b)).sum();
                // Every measurement has its own level and its own scale.
                (mean + noise * rng.normal()) * (1.0 + time) - 3.0 * time
            })
            .collect();
        let state = Tensor::from_slice(&state).view([24, -1]).to_kind(TensorKind::Float);
        let prior = prior.map(|slope| state.select(1, 0) * slope);
        regression.add(&MeasuredEffects {
            time,
            ids: &ids,
            features: &state,
            prior: prior.as_ref(),
            effects: &effects,
        })?;
    }
    Ok(regression)
}

#[test]
fn weights_and_their_change_over_the_training_are_found_under_noise() -> Result<()> {
    let weights = [[0.6, 0.0], [0.0, 0.5], [-0.3, 0.0], [0.0, 0.0]];
    let found = measured(&weights, 0.3, 60, None, 1)?.estimate()?.expect("measurements");
    for (column, expected) in weights.iter().enumerate() {
        for (place, expected) in expected.iter().enumerate() {
            let found = found.mean.double_value(&[column as i64, place as i64]);
            // Effects are divided by the deviation of their measurement, which is about 0.9 in the mean.
            assert!((found - expected / 0.9).abs() < 0.15, "{column} {place}: {found}");
        }
    }
    assert!(found.reliability > 0.7, "{}", found.reliability);
    Ok(())
}

#[test]
fn noise_alone_explains_nothing() -> Result<()> {
    for seed in 0..20 {
        for measurements in [2, 8, 40] {
            let found = measured(&[[0.0; 2]; 12], 1.0, measurements, None, seed)?.estimate()?.expect("measurements");
            assert!(found.reliability < 0.1, "seed {seed}, {measurements}: {}", found.reliability);
            let size = found.mean.square().sum(TensorKind::Double).sqrt().double_value(&[]);
            assert!(size < 0.4, "seed {seed}, {measurements}: {size}");
        }
    }
    Ok(())
}

#[test]
fn a_right_prior_leaves_nothing_to_learn_and_a_wrong_prior_is_corrected() -> Result<()> {
    let weights = [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]];
    let right = measured(&weights, 0.01, 40, Some(1.0), 2)?.estimate()?.expect("measurements");
    assert!(right.explained_by_prior > 0.95, "{}", right.explained_by_prior);
    assert!(right.mean.abs().max().double_value(&[]) < 0.1);
    let wrong = measured(&weights, 0.01, 40, Some(-1.0), 2)?.estimate()?.expect("measurements");
    assert!(wrong.explained_by_prior < -1.0, "{}", wrong.explained_by_prior);
    assert!((wrong.mean.double_value(&[0, 0]) - 2.0).abs() < 0.2, "the correction takes the wrong prior back");
    Ok(())
}

#[test]
fn many_columns_that_say_nothing_do_not_hide_a_few_that_do() -> Result<()> {
    let weights: Vec<[f64; 2]> = (0..60).map(|column| if column < 2 { [0.5, 0.0] } else { [0.0; 2] }).collect();
    let (mut apart, mut together) = (0.0, 0.0);
    for seed in 0..5 {
        let of = |many: Vec<bool>| -> Result<(f64, f64)> {
            let found = measured_with(many, &weights, 1.5, 10, None, seed)?.estimate()?.expect("measurements");
            Ok((found.reliability, found.mean.double_value(&[0, 0])))
        };
        let (reliability, weight) = of((0..60).map(|column| column >= 2).collect())?;
        let (shared, shrunk) = of(vec![false; 60])?;
        assert!(weight > shrunk, "seed {seed}: {weight} and {shrunk}");
        apart += reliability / 5.0;
        together += shared / 5.0;
    }
    assert!(apart > together + 0.03, "{apart} and {together}");
    Ok(())
}

#[test]
fn draws_have_the_mean_and_the_covariance_of_the_posterior() -> Result<()> {
    let found = measured(&[[0.5, 0.0], [0.0, 0.2]], 1.0, 4, None, 3)?.estimate()?.expect("measurements");
    let mut rng = Seed::new(4).rng();
    let draws: Vec<Tensor> = (0..4000).map(|_| found.draw(&mut rng)).collect();
    let draws = Tensor::stack(&draws, 0).to_kind(TensorKind::Double); // [4000, F, 2]
    let errors = draws.mean_dim([0i64].as_slice(), false, TensorKind::Double) - &found.mean;
    assert!(errors.abs().max().double_value(&[]) < 0.02);
    let state = Tensor::from_slice(&[1f32, -2.0]).view([1, 2]);
    let scores = draws.narrow(2, 0, 1).squeeze_dim(2).matmul(&state.to_kind(TensorKind::Double).tr()); // at s = 0
    let expected = found.deviations(&state, 0.5).double_value(&[0]);
    let observed = scores.std(true).double_value(&[]);
    assert!((observed / expected - 1.0).abs() < 0.06, "{observed} for {expected}");
    Ok(())
}

#[test]
fn saved_sums_give_the_same_estimate() -> Result<()> {
    let regression = measured(&[[0.5, 0.0], [0.0, 0.2]], 1.0, 4, Some(0.5), 3)?;
    let read = EffectRegression::from_tensor(&regression.tensor(), vec![false; 2])?;
    let (one, other) = (regression.estimate()?.expect("measured"), read.estimate()?.expect("measured"));
    assert_eq!(one.mean, other.mean);
    assert_eq!((one.reliability, one.explained_by_prior), (other.reliability, other.explained_by_prior));
    assert_eq!(read.count(), 96);
    assert!(
        EffectRegression::from_tensor(&Tensor::zeros([5, 4, 4], (TensorKind::Double, Device::Cpu)), vec![false; 2])
            .is_err()
    );
    Ok(())
}

#[test]
fn a_few_extreme_numbers_do_not_hide_the_differences_between_the_others() {
    let mut numbers: Vec<f64> = (0..38).map(f64::from).collect();
    numbers.extend([-5e6, 4e6]);
    let found = standardised(&numbers).expect("a scale");
    assert!(found[37] - found[0] > 0.8, "{found:?}");
    let squares = found.iter().map(|value| value * value).sum::<f64>();
    assert!(found.iter().sum::<f64>().abs() < 1e-9 && (squares / 40.0 - 1.0).abs() < 1e-9, "{found:?}");
}

#[test]
fn weighted_effects_are_the_derivatives_of_the_effect_of_a_batch() {
    let rows = [(0.4, 100), (-0.9, 3), (0.1, 50), (0.0, 80)].map(|(effect, tokens)| RowEffect { effect, tokens });
    // The effect of a batch in which row i has the weight 1 + h.
    let of_batch = |row: usize, more: f64| {
        let weight = |place: usize| rows[place].tokens as f64 * if place == row { 1.0 + more } else { 1.0 };
        let total: f64 = (0..rows.len()).map(weight).sum();
        (0..rows.len()).map(|place| weight(place) * rows[place].effect).sum::<f64>() / total
    };
    let found = weighted_effects(&rows);
    for (row, found) in found.iter().enumerate() {
        let slope = (of_batch(row, 1e-5) - of_batch(row, -1e-5)) / 2e-5;
        assert!((slope * rows.len() as f64 - found).abs() < 1e-6, "row {row}: {found} for {slope}");
    }
    assert!(found[1].abs() < 0.2 * found[0], "three tokens hardly matter: {found:?}");
    assert!(found.iter().sum::<f64>().abs() < 1e-12);
    assert_eq!(weighted_effects(&[RowEffect { effect: 1.0, tokens: 0 }]), [0.0]);
}

#[test]
fn equal_effects_say_nothing() -> Result<()> {
    let mut regression = EffectRegression::new(vec![false; 2]);
    let state = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]);
    let (ids, effects) = ([1, 2], [0.25, 0.25]);
    regression.add(&MeasuredEffects { time: 0.0, ids: &ids, features: &state, prior: None, effects: &effects })?;
    assert_eq!(regression.count(), 0);
    assert!(regression.estimate()?.is_none());
    Ok(())
}
