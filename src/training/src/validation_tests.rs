//! The loss of a validation set does not depend on its batches.

use super::*;
use raisin_base::seed::Seed;
use raisin_lm::ModelConfig;
use std::sync::{Arc, Mutex};
use tch::Kind as TensorKind;

#[test]
fn the_loss_is_the_mean_over_all_tokens_and_does_not_depend_on_the_batches() -> Result<()> {
    let model = Model::init(ModelConfig::llama(20, 16, 2, 2, 1, 32), &Seed::new(1), Device::Cpu, TensorKind::Float)?;
    let rows: Vec<Sequence> = [9u32, 3, 12, 5]
        .iter()
        .map(|&length| Sequence {
            tokens: (0..length).map(|place| (place * length) % 20).collect(),
            supervised: (0..length).map(|place| place > length / 2).collect(),
        })
        .collect();
    let rows: Vec<&Sequence> = rows.iter().collect();
    let together = ValidationSet::new(&rows, None, 1000, Device::Cpu)?;
    let apart = ValidationSet::new(&rows, None, 1, Device::Cpu)?;
    assert!((together.loss(&model)? - apart.loss(&model)?).abs() < 1e-6);
    let losses = together.row_losses(&model, |work| work(), |_, _| ())?;
    let (sum, tokens) = losses.iter().fold((0.0, 0), |(sum, tokens), loss| (sum + loss.sum, tokens + loss.tokens));
    assert!((sum / tokens as f64 - together.loss(&model)?).abs() < 1e-6);
    assert_eq!(losses.iter().map(|loss| loss.tokens).collect::<Vec<_>>(), [4, 1, 5, 2]);
    for (row, loss) in rows.iter().zip(&losses) {
        let alone = ValidationSet::new(&[row], None, 1000, Device::Cpu)?;
        assert!((alone.loss(&model)? - loss.mean()).abs() < 1e-5);
    }
    Ok(())
}

#[test]
fn choices_with_a_common_beginning_have_the_loss_that_they_have_alone() -> Result<()> {
    let mut config = ModelConfig::llama(20, 16, 2, 2, 1, 32);
    config.initializer_range = 0.5;
    for window in [None, Some(4)] {
        config.sliding_window = window;
        let model = Model::init(config.clone(), &Seed::new(1), Device::Cpu, TensorKind::Float)?;
        let choice = |question: u32, length: u32, rest: &[u32]| {
            let mut tokens: Vec<u32> = (0..length).map(|place| (place * 3 + question) % 20).collect();
            let supervised = (0..tokens.len() + rest.len()).map(|place| place >= tokens.len()).collect();
            tokens.extend(rest);
            Sequence { tokens, supervised }
        };
        // A choice that begins as another choice, a question with one choice, and a long question.
        let questions = [
            vec![choice(1, 9, &[4, 5]), choice(1, 9, &[4, 6, 7, 2]), choice(1, 9, &[8])],
            vec![choice(2, 5, &[3, 1, 1, 9, 2])],
            vec![choice(3, 80, &[1, 2]), choice(3, 80, &[5])],
        ];
        let families: Vec<Vec<&Sequence>> = questions.iter().map(|choices| choices.iter().collect()).collect();
        let alone: Vec<&Sequence> = questions.iter().flatten().collect();
        let apart = ValidationSet::new(&alone, None, 1, Device::Cpu)?;
        let expected = apart.row_losses(&model, |work| work(), |_, _| ())?;
        for batch_tokens in [1, 1000] {
            let set = ValidationSet::of_families(&families, batch_tokens, Device::Cpu)?;
            let losses = set.row_losses(&model, |work| work(), |_, _| ())?;
            for (loss, expected) in losses.iter().zip(&expected) {
                assert!((loss.sum - expected.sum).abs() < 1e-4 && loss.tokens == expected.tokens);
            }
            assert!(set.tokens() < apart.tokens() && set.rows() == alone.len());
        }
    }
    Ok(())
}

#[test]
fn a_part_without_memory_is_scored_in_halves_and_has_the_same_loss() -> Result<()> {
    let mut model =
        Model::init(ModelConfig::llama(20, 16, 2, 2, 1, 32), &Seed::new(1), Device::Cpu, TensorKind::Float)?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    model.listen(Arc::new(move |text| hears.lock().expect("one thread").push(text.to_owned())));
    let row = |question: u32, length: u32| Sequence {
        tokens: (0..length).map(|place| if place < 3 { place + question } else { place * length % 20 }).collect(),
        supervised: (0..length).map(|place| place > 3).collect(),
    };
    let rows = [row(1, 9), row(1, 5), row(1, 12), row(1, 7), row(2, 6), row(3, 8), row(3, 8)];
    let all: Vec<&Sequence> = rows.iter().collect();
    let families: Vec<Vec<&Sequence>> = [&rows[..4], &rows[4..5], &rows[5..]].map(|it| it.iter().collect()).into();
    let states = all.iter().map(|row| no_grad(|| model.prefix_states(1, &Batch::pack(&[row], Device::Cpu)?)));
    let states = states.collect::<Result<Vec<Tensor>>>()?;
    // New sets each time, because a set remembers the size for which there was no memory.
    let sets = || -> Result<[ValidationSet; 3]> {
        Ok([
            ValidationSet::new(&all, None, 1000, Device::Cpu)?,
            ValidationSet::new(&all, Some((1, &states)), 1000, Device::Cpu)?,
            ValidationSet::of_families(&families, 1000, Device::Cpu)?,
        ])
    };
    let mut parts = 0;
    for (whole, halved) in sets()?.iter().zip(&sets()?) {
        model.limit_room(None);
        let (loss, losses) = (whole.loss(&model)?, whole.row_losses(&model, |work| work(), |_, _| ())?);
        let copied = whole.side_by_side(1)?.losses(&model)?;
        model.limit_room(Some(13));
        assert!((halved.loss(&model)? - loss).abs() < 1e-6);
        let again = halved.row_losses(
            &model,
            |work| {
                parts += 1;
                work()
            },
            |_, _| (),
        )?;
        for (again, loss) in again.iter().zip(&losses) {
            assert!((again.sum - loss.sum).abs() < 1e-4 && again.tokens == loss.tokens);
        }
        assert!((halved.side_by_side(1)?.losses(&model)?[0] - copied[0]).abs() < 1e-6);
    }
    assert_eq!(parts, 3, "halves are no parts of their own");
    let heard = heard.lock().expect("one thread");
    assert_eq!(
        heard[0],
        "there was no memory to score 55 tokens at a time: batches of this size are halved from now on"
    );
    assert_eq!(heard.iter().filter(|text| **text == heard[0]).count(), 4, "once for each set: {heard:?}");
    drop(heard);
    model.limit_room(Some(11));
    let error = sets()?[0].loss(&model).expect_err("no memory for the longest");
    assert!(error.to_string().starts_with("there is no memory for a single sequence of 12 tokens"), "{error}");
    Ok(())
}

#[test]
fn a_sequence_without_a_supervised_token_and_an_empty_set_are_refused() {
    let empty = Sequence { tokens: vec![1, 2], supervised: vec![false, false] };
    assert!(ValidationSet::new(&[&empty], None, 10, Device::Cpu).is_err());
    assert!(ValidationSet::new(&[], None, 10, Device::Cpu).is_err());
}
