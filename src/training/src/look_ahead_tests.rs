use super::*;
use crate::TrainerConfig;
use raisin_base::seed::Seed;
use raisin_corpus::Sequence;
use raisin_lm::{Adaptation, Batch, Model, ModelConfig};
use tch::Kind as TensorKind;

fn row(id: u32) -> Sequence {
    let tokens: Vec<u32> = (0..5 + id % 4).map(|place| (id * 7 + place * 3) % 20).collect();
    Sequence { supervised: (0..tokens.len()).map(|place| place >= 2).collect(), tokens }
}

fn trainer(adaptation: &Adaptation, lanes: usize, learning_rate: f64) -> Result<Trainer> {
    trainer_in(TensorKind::Float, adaptation, lanes, learning_rate)
}

fn trainer_in(compute: TensorKind, adaptation: &Adaptation, lanes: usize, learning_rate: f64) -> Result<Trainer> {
    let mut config = ModelConfig::llama(20, 16, 2, 2, 1, 32);
    config.initializer_range = 0.2;
    let mut model = Model::init(config, &Seed::new(1), Device::Cpu, compute)?;
    model.prepare_side_by_side(adaptation, &Seed::new(2), lanes)?;
    // Rows are scored in several parts.
    let config = TrainerConfig { learning_rate, total_steps: 10, micro_batch_tokens: 20, ..TrainerConfig::default() };
    Trainer::new(model, config, None)
}

fn adaptations() -> [Adaptation; 2] {
    [Adaptation::Full, Adaptation::Lora { rank: 2, alpha: 4.0, targets: vec!["q_proj".into(), "down_proj".into()] }]
}

fn of(sequences: &[Sequence]) -> Vec<&Sequence> {
    sequences.iter().collect()
}

fn lane<'a>(sequences: &'a [&'a Sequence]) -> TrainingRows<'a> {
    TrainingRows { sequences, states: None }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::try_from(tensor)?)
}

#[test]
fn an_effect_is_the_product_of_the_gradient_of_the_row_with_the_preconditioned_gradient_of_the_validation_loss()
-> Result<()> {
    let (batch, examples, rows): (Vec<_>, Vec<_>, Vec<_>) =
        ((0..4).map(row).collect(), (10..13).map(row).collect(), (20..26).map(row).collect());
    let learning_rate = 1e-3;
    let [f32, bf16] = [TensorKind::Float, TensorKind::BFloat16].map(|compute| adaptations().map(|it| (compute, it)));
    for (compute, adaptation) in f32.into_iter().chain(bf16) {
        let mut trainer = trainer_in(compute, &adaptation, 1, learning_rate)?;
        for _ in 0..3 {
            trainer.step(&of(&batch), None)?;
        }
        let set = ValidationSet::new(&of(&examples), None, 16, Device::Cpu)?;
        let found = trainer.effects(&set, &[lane(&of(&rows))])?.concat();
        // The gradient of the loss of one sequence or of several, by a backward pass.
        let gradient_of = |trainer: &mut Trainer, sequences: &[Sequence]| -> Result<Tensor> {
            let batch = Batch::pack(&of(sequences), Device::Cpu)?;
            let total = sequences.iter().map(Sequence::supervised_tokens).sum();
            let model = trainer.model.joined()?;
            model.flat_gradient(&model.loss_shares(&model.hidden(&batch)?, &batch, &[total])?.sum)
        };
        let validation = gradient_of(&mut trainer, &examples)?;
        // The effects of rows are exact: a rounded one would be noise.
        assert_eq!(trainer.model.compute_in(TensorKind::Float), compute);
        let gradients = rows.chunks(1).map(|row| gradient_of(&mut trainer, row)).collect::<Result<Vec<_>>>()?;
        let (steps, [_, (_, second)]) = (4, trainer.optimizer.named());
        let second = second * 0.999 + validation.square() * 0.001;
        let direction = &validation / ((second / (1.0 - 0.999f64.powi(steps))).sqrt() + 1e-8);
        for (found, gradient) in found.iter().zip(gradients) {
            let expected = (gradient * &direction).sum(TensorKind::Double).double_value(&[]) * learning_rate;
            assert!((found - expected).abs() < 0.02 * expected.abs() + 1e-4, "{adaptation:?}: {found} for {expected}");
        }
        assert!(found.iter().any(|effect| effect.abs() > 3e-3), "{adaptation:?}: {found:?}");
    }
    Ok(())
}

#[test]
fn measuring_effects_changes_neither_the_model_nor_the_next_step() -> Result<()> {
    let (batch, examples): (Vec<_>, Vec<_>) = ((0..4).map(row).collect(), (10..13).map(row).collect());
    for adaptation in adaptations() {
        let run = |measure: bool| -> Result<Vec<f32>> {
            let mut trainer = trainer(&adaptation, 1, 1e-2)?;
            let set = ValidationSet::new(&of(&examples), None, 100, Device::Cpu)?;
            for _ in 0..3 {
                if measure {
                    trainer.effects(&set, &[lane(&of(&batch))])?;
                }
                trainer.step(&of(&batch), None)?;
            }
            assert_eq!(trainer.account().effects.tokens > 0, measure);
            numbers(&trainer.model.trainable().flat)
        };
        assert_eq!(run(true)?, run(false)?, "{adaptation:?}");
    }
    Ok(())
}

#[test]
fn the_effects_of_a_lane_do_not_depend_on_the_other_lanes_or_on_the_order_of_the_rows() -> Result<()> {
    let (examples, first, second): (Vec<_>, Vec<_>, Vec<_>) =
        ((10..13).map(row).collect(), (20..26).map(row).collect(), (26..29).map(row).collect());
    let [_, adaptation] = adaptations();
    let set = ValidationSet::new(&of(&examples), None, 100, Device::Cpu)?;
    let mut together = trainer(&adaptation, 2, 1e-2)?;
    let both = [of(&first), of(&second)];
    let batches = [lane(&both[0]), lane(&both[1])];
    together.step_lanes(&batches)?;
    let both = together.effects(&set.side_by_side(2)?, &batches)?;
    for (batch, found) in [&first, &second].into_iter().zip(&both) {
        let mut alone = trainer(&adaptation, 1, 1e-2)?;
        alone.step(&of(batch), None)?;
        let mut reversed = of(batch);
        reversed.reverse();
        let mut effects = alone.effects(&set, &[lane(&reversed)])?.concat();
        effects.reverse();
        for (one, other) in found.iter().zip(effects) {
            assert!((one - other).abs() < 1e-3 * other.abs() + 1e-6, "{one} {other}");
        }
    }
    assert_eq!(both.iter().map(Vec::len).collect::<Vec<_>>(), [6, 3]);
    Ok(())
}
