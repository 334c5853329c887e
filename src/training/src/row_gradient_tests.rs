//! Directions of rows: their scale, their inner products, and the effect that they predict.

use super::*;
use crate::{TrainerConfig, ValidationSet};
use raisin_base::seed::Seed;
use raisin_corpus::Sequence;
use raisin_lm::{Adaptation, Model, ModelConfig};
use tch::Device;

fn rows() -> Vec<Sequence> {
    (0..6u32)
        .map(|row| {
            let tokens: Vec<u32> = (0..6 + row % 3).map(|place| (row * 7 + place * 3) % 20).collect();
            Sequence { supervised: (0..tokens.len()).map(|place| place >= 2).collect(), tokens }
        })
        .collect()
}

fn trainer(steps: usize, rows: &[Sequence]) -> Result<Trainer> {
    let mut config = ModelConfig::llama(20, 16, 2, 2, 1, 32);
    config.initializer_range = 0.2;
    let mut model = Model::init(config, &Seed::new(1), Device::Cpu, TensorKind::Float)?;
    let targets = vec!["q_proj".to_owned(), "down_proj".to_owned()];
    model.prepare(&Adaptation::Lora { rank: 2, alpha: 4.0, targets }, &Seed::new(2))?;
    let mut trainer =
        Trainer::new(model, TrainerConfig { learning_rate: 1e-2, total_steps: 10, ..TrainerConfig::default() }, None)?;
    for row in rows.iter().cycle().take(steps) {
        trainer.step(&[row], None)?;
    }
    Ok(trainer)
}

fn direction(trainer: &mut Trainer, row: &Sequence, scale: &AdamScale) -> Result<Tensor> {
    let found = trainer.direction(&TrainingRows { sequences: &[row], states: None }, scale)?;
    Ok(found.expect("a gradient"))
}

#[test]
fn a_row_is_aligned_with_itself_and_no_direction_is_longer_than_one() -> Result<()> {
    let rows = rows();
    let mut trainer = trainer(4, &rows)?;
    let scale = trainer.adam_scale()?;
    let directions = rows.iter().map(|row| direction(&mut trainer, row, &scale)).collect::<Result<Vec<_>>>()?;
    for (place, one) in directions.iter().enumerate() {
        for (other, two) in directions.iter().enumerate() {
            let cosine = one.dot(two).double_value(&[]);
            assert!(if place == other { (cosine - 1.0).abs() < 1e-5 } else { cosine.abs() < 0.999 }, "{cosine}");
        }
    }
    Ok(())
}

#[test]
fn the_inner_product_says_which_row_lowers_the_loss_of_another_row_most() -> Result<()> {
    let rows = rows();
    let (example, candidates) = (&rows[0], &rows[1..]);
    let mut trainer = trainer(4, &rows)?;
    let scale = trainer.adam_scale()?;
    let set = ValidationSet::new(&[example], None, 1000, Device::Cpu)?;
    let before = set.loss(&*trainer.model.joined_to_evaluate()?)?;
    let target = direction(&mut trainer, example, &scale)?;
    let (mut predicted, mut measured) = (Vec::new(), Vec::new());
    for candidate in candidates {
        let towards = direction(&mut trainer, candidate, &scale)?;
        predicted.push(towards.dot(&target).double_value(&[]));
        // A small step of this length in the scaled space, and back.
        let step = (&towards * &scale.0) * 1e-3;
        let flat = trainer.model.trainable().flat.detach();
        no_grad(|| flat.shallow_clone().f_sub_(&step).map(drop))?;
        measured.push(before - set.loss(&*trainer.model.joined_to_evaluate()?)?);
        no_grad(|| flat.shallow_clone().f_add_(&step).map(drop))?;
    }
    let order = |values: &[f64]| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&one, &two| values[two].total_cmp(&values[one]));
        order
    };
    assert_eq!(order(&predicted), order(&measured), "{predicted:?} {measured:?}");
    assert!(predicted.iter().zip(&measured).all(|(predicted, measured)| predicted.signum() == measured.signum()));
    Ok(())
}

#[test]
fn there_is_no_scale_before_the_first_step() -> Result<()> {
    assert!(trainer(0, &rows())?.adam_scale().is_err());
    Ok(())
}
