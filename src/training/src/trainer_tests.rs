//! Steps, micro-batches and resumed runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use raisin_base::seed::Seed;
use raisin_lm::{Adaptation, ModelConfig};
use tch::{Device, Kind as TensorKind};

fn rows(count: u32) -> Vec<Sequence> {
    (0..count)
        .map(|row| {
            let tokens: Vec<u32> = (0..5 + row % 4).map(|place| (row * 7 + place * 3) % 20).collect();
            let supervised = (0..tokens.len()).map(|place| place >= 2).collect();
            Sequence { tokens, supervised }
        })
        .collect()
}

fn trainer(adaptation: &Adaptation, micro_batch_tokens: usize) -> Result<Trainer> {
    let config = ModelConfig::llama(20, 16, 2, 2, 1, 32);
    let mut model = Model::init(config, &Seed::new(1), Device::Cpu, TensorKind::Float)?;
    model.prepare(adaptation, &Seed::new(2))?;
    let config = TrainerConfig {
        learning_rate: 1e-2,
        total_steps: 10,
        weight_decay: 0.01,
        micro_batch_tokens,
        ..TrainerConfig::default()
    };
    Trainer::new(model, config, None)
}

fn numbers(trainer: &Trainer) -> Result<Vec<f32>> {
    Ok(Vec::try_from(&trainer.model.trainable().flat)?)
}

fn restore(trainer: &mut Trainer, path: &Path) -> Result<Option<Vec<u8>>> {
    trainer.restore(path, &|text| panic!("{text}"), |extra| Ok(extra.to_vec()))
}

fn lora() -> Adaptation {
    Adaptation::Lora { rank: 2, alpha: 4.0, targets: vec!["q_proj".to_owned(), "down_proj".to_owned()] }
}

#[test]
fn training_lowers_the_loss() -> Result<()> {
    let rows = rows(6);
    let batch: Vec<&Sequence> = rows.iter().collect();
    for adaptation in [Adaptation::Full, Adaptation::TopLayers(1), lora()] {
        let mut trainer = trainer(&adaptation, 1000)?;
        let first = trainer.step(&batch, None)?;
        let last = (0..9).map(|_| trainer.step(&batch, None)).last().expect("nine steps")?;
        assert!(last.loss < first.loss - 1e-4, "{adaptation:?}: {} -> {}", first.loss, last.loss);
        assert_eq!(first.supervised_tokens, batch.iter().map(|row| row.tokens.len() - 2).sum::<usize>());
    }
    Ok(())
}

#[test]
fn micro_batches_add_up_to_the_whole_batch() -> Result<()> {
    let rows = rows(7);
    let batch: Vec<&Sequence> = rows.iter().collect();
    let (mut whole, mut split) = (trainer(&Adaptation::Full, 1000)?, trainer(&Adaptation::Full, 9)?);
    let (one, other) = (whole.step(&batch, None)?, split.step(&batch, None)?);
    assert!((one.loss - other.loss).abs() < 1e-6);
    assert!((one.gradient_norm - other.gradient_norm).abs() < 1e-5 * one.gradient_norm);
    Ok(())
}

#[test]
fn a_run_that_is_saved_and_restored_is_an_uninterrupted_run_bit_for_bit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint");
    let rows = rows(10);
    for adaptation in [Adaptation::Full, lora()] {
        let mut straight = trainer(&adaptation, 20)?;
        for row in &rows {
            straight.step(&[row], None)?;
        }
        let mut first = trainer(&adaptation, 20)?;
        for row in &rows[..5] {
            first.step(&[row], None)?;
        }
        first.save(&path, b"a note")?;
        drop(first);
        let mut second = trainer(&adaptation, 20)?;
        assert_eq!(restore(&mut second, &path)?.as_deref(), Some(&b"a note"[..]));
        for row in &rows[5..] {
            second.step(&[row], None)?;
        }
        assert_eq!(numbers(&straight)?, numbers(&second)?);
    }
    Ok(())
}

#[test]
fn an_episode_from_a_snapshot_is_repeated_bit_for_bit() -> Result<()> {
    let rows = rows(4);
    let mut trainer = trainer(&lora(), 100)?;
    let start = trainer.snapshot()?;
    let mut ends = Vec::new();
    for _ in 0..2 {
        trainer.restore_snapshot(&start)?;
        for row in &rows {
            trainer.step(&[row], None)?;
        }
        ends.push(numbers(&trainer)?);
    }
    assert_eq!(ends[0], ends[1]);
    Ok(())
}

#[test]
fn the_top_layers_learn_the_same_from_cached_states_as_in_the_whole_model() -> Result<()> {
    let rows = rows(3);
    let batch: Vec<&Sequence> = rows.iter().collect();
    let mut whole = trainer(&Adaptation::TopLayers(1), 1000)?;
    let mut upper = trainer(&Adaptation::TopLayers(1), 12)?;
    upper.prefix_layers = Some(1);
    let states: Vec<Tensor> = rows
        .iter()
        .map(|row| no_grad(|| upper.model.prefix_states(1, &Batch::pack(&[row], Device::Cpu)?)))
        .collect::<Result<_>>()?;
    for _ in 0..3 {
        let (one, other) = (whole.step(&batch, None)?, upper.step(&batch, Some(&states))?);
        assert!((one.loss - other.loss).abs() < 1e-5);
    }
    assert!(upper.flops(1, true) < whole.flops(1, true));
    Ok(())
}

#[test]
fn only_a_snapshot_after_the_first_step_has_moments() -> Result<()> {
    let rows = rows(6);
    let mut trainer = trainer(&Adaptation::Full, 100)?;
    let start = trainer.snapshot()?;
    assert!(start.optimizer.is_none());
    trainer.step(&[&rows[0]], None)?;
    let later = trainer.snapshot()?;
    let mut ends = Vec::new();
    for _ in 0..2 {
        trainer.restore_snapshot(&later)?;
        trainer.step(&[&rows[1]], None)?;
        ends.push(numbers(&trainer)?);
        trainer.restore_snapshot(&start)?;
        trainer.step(&[&rows[0]], None)?;
        trainer.step(&[&rows[1]], None)?;
        ends.push(numbers(&trainer)?);
    }
    assert!(ends.iter().all(|end| *end == ends[0]));
    Ok(())
}

#[test]
fn a_resumed_run_keeps_a_halved_micro_batch() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint");
    let rows = rows(8);
    let (one, other): (Vec<&Sequence>, Vec<&Sequence>) = (rows[..4].iter().collect(), rows[4..].iter().collect());
    let mut straight = trainer(&Adaptation::Full, 1000)?;
    straight.model.limit_room(Some(14));
    let heard = Arc::new(AtomicUsize::new(0));
    let hears = Arc::clone(&heard);
    straight.model.listen(Arc::new(move |_| {
        hears.fetch_add(1, Ordering::SeqCst);
    }));
    straight.step(&one, None)?;
    assert!(straight.config.micro_batch_tokens < 1000 && heard.load(Ordering::SeqCst) == 1);
    straight.save(&path, b"")?;
    straight.step(&other, None)?;
    // This trainer has memory, but it must use the saved size, so that the bits are those of one run.
    let mut resumed = trainer(&Adaptation::Full, 1000)?;
    restore(&mut resumed, &path)?;
    resumed.step(&other, None)?;
    assert_eq!(numbers(&straight)?, numbers(&resumed)?);
    Ok(())
}

#[test]
fn an_unusable_checkpoint_is_set_aside_and_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint");
    let rows = rows(2);
    let mut made = trainer(&Adaptation::Full, 100)?;
    made.step(&[&rows[0]], None)?;
    made.save(&path, b"a note")?;
    let whole = std::fs::read(&path)?;
    // A checkpoint of another model, one that the caller refuses, one with a flipped bit, and one that is cut.
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for (adaptation, bytes, why) in [
        (lora(), &whole[..], "the tensor `trainable` of the checkpoint has"),
        (Adaptation::Full, &whole, "not understood"),
        (Adaptation::Full, &flipped, "its seal does not match its content"),
        (Adaptation::Full, &whole[..whole.len() - 1], "its seal does not match its content"),
    ] {
        std::fs::write(&path, bytes)?;
        let mut fresh = trainer(&adaptation, 100)?;
        let before = numbers(&fresh)?;
        let heard = std::cell::RefCell::new(String::new());
        let accept = |_: &[u8]| if why == "not understood" { Err(anyhow!("{why}")) } else { Ok(()) };
        assert!(fresh.restore(&path, &|text| heard.replace(text.to_owned()).clear(), accept)?.is_none());
        assert!(heard.borrow().contains(why), "{heard:?}");
        assert_eq!((fresh.steps_done(), numbers(&fresh)?), (0, before));
        assert!(!path.exists());
    }
    Ok(())
}

#[test]
fn a_batch_without_supervised_tokens_is_refused() -> Result<()> {
    let row = Sequence { tokens: vec![1, 2, 3], supervised: vec![false; 3] };
    assert!(trainer(&Adaptation::Full, 100)?.step(&[&row], None).is_err());
    Ok(())
}
