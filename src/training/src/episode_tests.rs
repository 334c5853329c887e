//! Episodes can be restored, and episodes that are played together equal episodes that are played alone.

use std::sync::{Arc, Mutex};

use super::*;
use raisin_corpus::Sequence;
use raisin_lm::proxy::{Overlong, PrefixStates, ProxyConfig, write_states};
use raisin_lm::{ModelConfig, TARGETS};
use tch::Kind as TensorKind;

/// The largest relative difference between an episode that is played with others and the same episode alone. Matrix
/// products of different shapes round differently.
const TOLERANCE: f64 = 1e-4;
/// The same for trained weights. AdamW divides by the root of the second moment, which enlarges the rounding of small
/// gradients: 1.7e-4 on one processor.
const TOLERANCE_OF_WEIGHTS: f64 = 1e-3;
const EPISODES: usize = 8;
const STEPS: usize = 6;

fn row(id: u32) -> Sequence {
    let tokens: Vec<u32> = (0..5 + id % 7).map(|place| (id * 7 + place * 3) % 40).collect();
    Sequence { supervised: (0..tokens.len()).map(|place| place > 1).collect(), tokens }
}

fn rows() -> Vec<Option<Sequence>> {
    (0..40).map(|id| Some(row(id))).collect()
}

fn batch(step: usize, episode: usize) -> Vec<u32> {
    (0..4).map(|slot| ((step * 11 + episode * 5 + slot * 3) % 40) as u32).collect()
}

fn config() -> TrainerConfig {
    TrainerConfig {
        learning_rate: 1e-2,
        total_steps: STEPS,
        weight_decay: 0.01,
        // Smaller than all gradient norms here, so that each gradient is clipped by its own norm.
        clip_norm: 0.05,
        micro_batch_tokens: 160,
        ..TrainerConfig::default()
    }
}

struct LearnerFixture {
    folder: tempfile::TempDir,
    examples: Vec<Sequence>,
    prefix: Option<usize>,
}

impl LearnerFixture {
    /// With `prefix`, the model starts from the cached states of this number of frozen layers.
    fn new(prefix: Option<usize>) -> Result<Self> {
        tch::set_num_threads(1);
        let fixture = Self { folder: tempfile::tempdir()?, examples: (50..55).map(row).collect(), prefix };
        if let Some(layers) = prefix {
            let on_overlong = Overlong::Truncate;
            let proxy = ProxyConfig { train_layers: 3 - layers, prefix_layers: layers, max_tokens: 64, on_overlong };
            let validation: Vec<_> = fixture.examples.iter().cloned().map(Some).collect();
            write_states(&Self::model()?, &proxy, &rows(), &validation, 64, fixture.folder.path(), &mut |_| ())?;
            std::fs::write(fixture.folder.path().join("proxy.json"), serde_json::to_vec(&proxy)?)?;
        }
        Ok(fixture)
    }

    fn model() -> Result<Model> {
        let mut config = ModelConfig::llama(40, 16, 3, 2, 1, 32);
        config.initializer_range = 0.2;
        Model::init(config, &Seed::new(1), Device::Cpu, TensorKind::Float)
    }

    fn pool(&self) -> Result<TrainingPool> {
        let states = self.prefix.map(|_| PrefixStates::open(self.folder.path())).transpose()?;
        Ok(TrainingPool::new(rows(), states))
    }

    fn validation(&self) -> Result<ValidationSet> {
        let examples: Vec<&Sequence> = self.examples.iter().collect();
        let Some(layers) = self.prefix else { return ValidationSet::new(&examples, None, 24, Device::Cpu) };
        let lengths: Vec<i64> = examples.iter().map(|example| example.tokens.len() as i64).collect();
        let states = PrefixStates::open(self.folder.path())?.validation()?;
        let states = states.f_split_with_sizes(lengths.as_slice(), 0)?;
        ValidationSet::new(&examples, Some((layers, &states)), 24, Device::Cpu)
    }

    /// The losses and performances of an episode that is played alone, and its trained numbers at the end.
    fn alone(&self, adaptation: &Adaptation, episode: usize) -> Result<(Vec<f64>, Tensor)> {
        let mut learner = self.together(adaptation, 1)?;
        let mut seen = vec![learner.restore_all()?];
        for step in 0..STEPS {
            seen.push(learner.step_all(&[batch(step, episode)])?[0].loss);
            seen.push(learner.performances()?[0]);
        }
        Ok((seen, learner.trained()?.remove(0)))
    }

    fn together(&self, adaptation: &Adaptation, episodes: usize) -> Result<Episodes> {
        self.configured(Self::model()?, adaptation, episodes, config())
    }

    fn configured(
        &self,
        model: Model,
        adaptation: &Adaptation,
        episodes: usize,
        config: TrainerConfig,
    ) -> Result<Episodes> {
        Episodes::new(model, adaptation, &Seed::new(2), config, episodes, self.pool()?, self.validation()?)
    }
}

/// The losses and performances of all episodes, which are played together.
fn play(learners: &mut Episodes) -> Result<Vec<Vec<f64>>> {
    let episodes = learners.episodes();
    let mut seen = vec![vec![learners.restore_all()?]; episodes];
    for step in 0..STEPS {
        let batches: Vec<Vec<u32>> = (0..episodes).map(|episode| batch(step, episode)).collect();
        let trained = learners.step_all(&batches)?;
        let performances = learners.performances()?;
        for (seen, (trained, performance)) in seen.iter_mut().zip(trained.iter().zip(performances)) {
            seen.extend([trained.loss, performance]);
        }
    }
    Ok(seen)
}

fn lora() -> Adaptation {
    Adaptation::Lora { rank: 4, alpha: 8.0, targets: TARGETS.map(str::to_owned).to_vec() }
}

fn top_lora() -> Adaptation {
    Adaptation::TopLayersLora { layers: 2, rank: 4, alpha: 8.0, targets: TARGETS.map(str::to_owned).to_vec() }
}

#[test]
fn eight_episodes_together_equal_eight_episodes_alone() -> Result<()> {
    for (adaptation, prefix) in
        [(lora(), None), (top_lora(), Some(1)), (Adaptation::Full, None), (Adaptation::TopLayers(2), Some(1))]
    {
        let fixture = LearnerFixture::new(prefix)?;
        let mut learners = fixture.together(&adaptation, EPISODES)?;
        let seen = play(&mut learners)?;
        for (episode, (seen, trained)) in seen.iter().zip(learners.trained()?).enumerate() {
            let (alone, numbers) = fixture.alone(&adaptation, episode)?;
            for (together, alone) in seen.iter().zip(&alone) {
                assert!(
                    (together - alone).abs() < TOLERANCE * alone.abs(),
                    "{adaptation:?} {episode}: {together} {alone}"
                );
            }
            let largest = numbers.abs().max().double_value(&[]);
            let difference = (trained - numbers).abs().max().double_value(&[]) / largest;
            assert!(difference < TOLERANCE_OF_WEIGHTS, "{adaptation:?}, episode {episode}: {difference}");
        }
        assert!((seen[0][STEPS] - seen[1][STEPS]).abs() > 10.0 * TOLERANCE, "the episodes differ from each other");
    }
    Ok(())
}

#[test]
fn recomputed_activations_do_not_change_episodes_that_are_played_together() -> Result<()> {
    for (adaptation, prefix) in [(lora(), None), (top_lora(), Some(1)), (Adaptation::Full, None)] {
        let fixture = LearnerFixture::new(prefix)?;
        let mut kept = fixture.together(&adaptation, 3)?;
        let recomputing = TrainerConfig { activation_checkpointing: true, ..config() };
        let mut recomputed = fixture.configured(LearnerFixture::model()?, &adaptation, 3, recomputing)?;
        for (one, other) in play(&mut recomputed)?.concat().iter().zip(play(&mut kept)?.concat()) {
            assert!((one - other).abs() < TOLERANCE * other.abs(), "{adaptation:?}: {one} {other}");
        }
        let phases = recomputed.account().phases;
        assert!(phases.forward.time.is_zero() && !phases.backward.time.is_zero());
    }
    Ok(())
}

#[test]
fn an_episode_with_a_trainer_of_its_own_equals_the_episode_alone_bit_for_bit() -> Result<()> {
    let fixture = LearnerFixture::new(None)?;
    let seen = play(&mut fixture.together(&Adaptation::Full, 3)?)?;
    for (episode, seen) in seen.iter().enumerate() {
        let bits = |seen: &[f64]| seen.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(seen), bits(&fixture.alone(&Adaptation::Full, episode)?.0), "episode {episode}");
    }
    Ok(())
}

#[test]
fn two_episodes_with_the_same_batches_are_the_same_bit_for_bit() -> Result<()> {
    let fixture = LearnerFixture::new(None)?;
    let mut learner = fixture.together(&Adaptation::Full, 1)?;
    let (one, other) = (play(&mut learner)?.concat(), play(&mut learner)?.concat());
    let bits = |seen: &[f64]| seen.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&one), bits(&other));
    assert_ne!(one[0].to_bits(), one[2 * STEPS].to_bits(), "steps change the performance");
    Ok(())
}

#[test]
fn an_episode_is_restored_without_the_files_of_the_model() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let fixture = LearnerFixture::new(None)?;
    LearnerFixture::model()?.save(folder.path())?;
    let model = Model::load(folder.path(), Device::Cpu, TensorKind::Float)?;
    let mut learner = fixture.configured(model, &Adaptation::Full, 1, config())?;
    drop(folder);
    let first = learner.restore_all()?;
    learner.step_all(&[batch(0, 0)])?;
    let trained = learner.performances()?[0];
    learner.restore_all()?;
    assert_ne!(first.to_bits(), trained.to_bits());
    assert_eq!(first.to_bits(), learner.performances()?[0].to_bits());
    Ok(())
}

#[test]
fn a_row_that_cannot_be_trained_on_is_named() -> Result<()> {
    let fixture = LearnerFixture::new(None)?;
    let mut rows = rows();
    rows[4] = None;
    let (model, validation) = (LearnerFixture::model()?, fixture.validation()?);
    let pool = TrainingPool::new(rows, None);
    let mut learner = Episodes::new(model, &Adaptation::Full, &Seed::new(2), config(), 1, pool, validation)?;
    let error = learner.step_all(&[vec![0, 4]]).expect_err("row 4 has no sequence");
    assert!(error.to_string().contains("instruction 4"));
    Ok(())
}

#[test]
fn a_restored_round_is_the_same_round_bit_for_bit() -> Result<()> {
    let mut learners = LearnerFixture::new(None)?.together(&lora(), 5)?;
    let bits = |seen: Vec<Vec<f64>>| seen.concat().into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(play(&mut learners)?), bits(play(&mut learners)?));
    Ok(())
}

#[test]
fn the_costs_are_the_sums_over_the_episodes() -> Result<()> {
    let fixture = LearnerFixture::new(None)?;
    let mut learners = fixture.together(&lora(), 3)?;
    learners.restore_all()?;
    let trained = learners.step_all(&[batch(0, 0), batch(0, 1), batch(0, 2)])?;
    let account = learners.account();
    assert_eq!(account.train.tokens, trained.iter().map(|trained| trained.tokens).sum::<u64>());
    assert!((account.train.flops / trained.iter().map(|trained| trained.flops).sum::<f64>() - 1.0).abs() < 1e-12);
    let tokens: usize = fixture.examples.iter().map(|example| example.tokens.len()).sum();
    // P(M_0) is measured once for all rounds.
    learners.restore_all()?;
    assert_eq!(learners.account().evaluation.tokens, 3 * tokens as u64);
    for phase in [account.phases.forward, account.phases.backward, account.phases.optimizer] {
        assert!(!phase.time.is_zero() && phase.time < account.train.time && phase.peak_bytes > 0);
    }
    assert!(account.train.peak_bytes > 0 && account.evaluation.peak_bytes > 0);
    Ok(())
}

#[test]
fn without_memory_the_parts_of_all_episodes_shrink_and_the_episodes_stay_equal() -> Result<()> {
    for (adaptation, prefix) in [(lora(), None), (top_lora(), Some(1))] {
        let fixture = LearnerFixture::new(prefix)?;
        let whole = play(&mut fixture.together(&adaptation, 2)?)?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        let mut model = LearnerFixture::model()?;
        model.listen(Arc::new(move |text| hears.lock().expect("one thread").push(text.to_owned())));
        // Memory for the longest row of each episode, but neither for all rows of both nor for the longer validation
        // part.
        model.limit_room(Some(41));
        let mut learners = fixture.configured(model, &adaptation, 2, config())?;
        for (halved, whole) in play(&mut learners)?.concat().iter().zip(whole.concat()) {
            assert!((halved - whole).abs() < TOLERANCE * whole.abs(), "{adaptation:?}: {halved} {whole}");
        }
        let first = heard.lock().expect("one thread").clone();
        let about = |what: &str| first.iter().filter(|text| text.contains(what)).count();
        assert_eq!((about("to score 42 tokens"), about("in step 1;"), first.len()), (1, 1, 2), "{first:?}");
        play(&mut learners)?;
        assert_eq!(*heard.lock().expect("one thread"), first, "the user is told once");
        // Learners that have memory use the saved sizes.
        let mut resumed = fixture.together(&adaptation, 2)?;
        assert_ne!(resumed.room(), learners.room());
        resumed.set_room(&learners.room())?;
        let bits = |seen: Vec<Vec<f64>>| seen.concat().into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(play(&mut resumed)?), bits(play(&mut learners)?));
        assert_eq!(resumed.room(), learners.room());
        assert!(resumed.set_room(&[]).is_err());
    }
    Ok(())
}

#[test]
fn a_trainer_has_the_lanes_that_share_its_passes() {
    let together = |adaptation: &Adaptation, device| Episodes::lanes_of_a_trainer(adaptation, device, 8);
    assert_eq!(together(&lora(), Device::Cpu), 2);
    assert_eq!(together(&lora(), Device::Cuda(0)), 8);
    assert_eq!(together(&Adaptation::Full, Device::Cpu), 1);
    assert_eq!(Episodes::lanes_of_a_trainer(&lora(), Device::Cpu, 1), 1);
}
