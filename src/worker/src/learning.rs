//! Functions that the kinds with a model share: open the model, encode rows and examples, make a validation set, report
//! costs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;
use tch::{Device, Tensor};

use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Cost, DType, DeviceKind};
use raisin_corpus::{Codec, Example, Instruction, Message, Sequence, SharedTokens};
use raisin_lm::proxy::PrefixStates;
use raisin_lm::{Adaptation, Model};
use raisin_settings::AdaptationSettings;
use raisin_training::{Account, Checkpoints, CostCounter, Episodes, PhaseUse, TrainingPool, ValidationSet};

/// The minimum time between two checkpoints: half a minute. After a kill, a stage loses about this time of work. The
/// environment variable `RAISIN_CHECKPOINT_SECONDS` gives another time; the torture tests kill short stages with it.
pub fn checkpoint_interval() -> Duration {
    let given = std::env::var("RAISIN_CHECKPOINT_SECONDS").ok().and_then(|text| text.parse::<f64>().ok());
    given.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(Duration::from_secs(30))
}

/// The device of the stage.
///
/// # Errors
/// The device of the stage is a GPU that cannot be used.
pub fn device(context: &Context) -> Result<Device> {
    let environment = context.environment();
    raisin_lm::device((environment.device == DeviceKind::Cuda).then_some(environment.device_index))
}

/// A model with fewer parameters runs on one thread. Its matrix products are so small that two threads lose more time
/// in waiting for each other than they gain. With 0.36M parameters on two cores beside other work, 200 steps took 14 s
/// on one thread and up to 170 s on two.
const SMALL_MODEL: u64 = 5_000_000;

/// Opens the model of an artifact on the device of the stage.
pub fn open(folder: &Path, context: &Context) -> Result<Model> {
    opened(Model::load(folder, device(context)?, compute(context))?, context)
}

/// Opens the model of an artifact for training. The caller [prepares](Model::prepare) the model for `adaptation`.
pub fn open_to_train(folder: &Path, adaptation: &Adaptation, context: &Context) -> Result<Model> {
    opened(Model::load_to_train(folder, device(context)?, compute(context), adaptation)?, context)
}

fn opened(mut model: Model, context: &Context) -> Result<Model> {
    model.listen(Arc::new(context.listener()));
    if model.parameter_count() < SMALL_MODEL {
        tch::set_num_threads(1);
    }
    Ok(model)
}

/// Checks that every sequence fits into the context of the model. A stage calls this before hours of work.
///
/// # Errors
/// A sequence, cut at `max_tokens`, is longer than the context of the model.
pub fn check_context<'a>(
    model: &Model,
    max_tokens: usize,
    sequences: impl IntoIterator<Item = &'a Sequence>,
) -> Result<()> {
    let context = model.config.max_position_embeddings;
    let longest = sequences.into_iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(0);
    if longest <= context {
        return Ok(());
    }
    let problem = format!(
        "a row of {longest} tokens (max_tokens is {max_tokens}) is longer than the model's context of {context}"
    );
    Err(Problem::new(problem).hint(format!("set max_tokens = {context} or less, so that longer rows are cut")).into())
}

/// The dtype of the matrix products of the stage.
pub fn compute(context: &Context) -> tch::Kind {
    match context.environment().dtype {
        DType::F32 => tch::Kind::Float,
        DType::Bf16 => tch::Kind::BFloat16,
    }
}

/// The inputs of a training on a pool with a validation set.
pub struct Learning {
    /// The model is not prepared yet: call [`Model::prepare`] with `adaptation` and `seed`.
    pub model: Model,
    pub adaptation: Adaptation,
    pub seed: Seed,
    pub pool: TrainingPool,
    pub validation: ValidationSet,
}

impl Learning {
    /// Opens a model folder (full weights, an adapter with its base, or a proxy with a frozen prefix) and encodes the
    /// rows.
    ///
    /// A proxy decides itself which top layers are trained. Its rows are cut at the `max_tokens` with which its states
    /// were computed, not at the `max_tokens` of `settings`.
    pub fn start(
        folder: &Path,
        context: &Context,
        instructions: &[Instruction],
        examples: &[Example],
        settings: &Settings,
    ) -> Result<Self> {
        let codec = Codec::load(folder)?;
        let states = if folder.join("proxy.json").is_file() { Some(PrefixStates::open(folder)?) } else { None };
        let max_tokens = states.as_ref().map_or(settings.max_tokens, |states| states.config.max_tokens);
        let adaptation = match &states {
            Some(states) => Adaptation::of_top_layers(settings.adaptation, states.config.train_layers),
            None => Adaptation::of(settings.adaptation),
        };
        let model = open_to_train(folder, &adaptation, context)?;
        let sequences = match settings.instructions {
            Some(pointer) => encode_pool(&codec, instructions, max_tokens, context, pointer)?,
            None => codec.instructions(instructions, max_tokens)?,
        };
        if max_tokens != settings.max_tokens {
            let asked = settings.max_tokens;
            context.note(format!("max_tokens is {max_tokens}, as in the proxy, and not {asked}, as in this stage"));
        }
        note_untrainable(context, &sequences, max_tokens);
        let examples = encode_examples(&codec, examples, max_tokens)?;
        check_context(&model, max_tokens, sequences.iter().flatten().chain(&examples))?;
        let examples: Vec<&Sequence> = examples.iter().collect();
        let cached = states.as_ref().map(|states| validation_states(states, &examples)).transpose()?;
        let layers = states.as_ref().map_or(0, |states| states.config.prefix_layers);
        let cached = cached.as_ref().map(|cached| (layers, cached.as_slice()));
        // The passes of a trainer hold the validation rows of all its episodes together.
        let together = Episodes::lanes_of_a_trainer(&adaptation, model.device(), settings.episodes);
        let validation = ValidationSet::new(&examples, cached, settings.batch_tokens / together, model.device())?;
        let seed = context.seed().at("adaptation");
        Ok(Self { model, adaptation, seed, pool: TrainingPool::new(sequences, states), validation })
    }
}

/// Tells how many rows cannot be trained on.
pub fn note_untrainable(context: &Context, rows: &[Option<Sequence>], max_tokens: usize) {
    let count = rows.iter().filter(|row| row.is_none()).count();
    if count > 0 {
        let of = rows.len();
        context.note(format!(
            "{count} of {of} instructions have no supervised token within {max_tokens} tokens: left out"
        ));
    }
}

/// The settings of [`Learning::start`].
pub struct Settings<'a> {
    /// The pointer of the parameter that names the pool of the instructions; `None` if the instructions are not a pool.
    pub instructions: Option<&'a str>,
    pub adaptation: &'a AdaptationSettings,
    pub max_tokens: usize,
    /// A forward pass over validation examples holds at most this many tokens.
    pub batch_tokens: usize,
    /// The number of episodes that are played at the same time.
    pub episodes: usize,
}

/// The sequences of a pool. The parameter at `pointer` names the pool. Stages with the same tokenizer share the
/// sequences.
pub fn encode_pool(
    codec: &Codec,
    instructions: &[Instruction],
    max_tokens: usize,
    context: &Context,
    pointer: &str,
) -> Result<Vec<Option<Sequence>>> {
    let shared = context.shared_tokens(pointer)?.map(|(folder, pool)| SharedTokens { folder, pool });
    codec.pool(instructions, max_tokens, shared)
}

/// The hidden states after the prefix of each validation example: [tokens, hidden].
fn validation_states(states: &PrefixStates, examples: &[&Sequence]) -> Result<Vec<Tensor>> {
    let lengths = states.validation_lengths();
    if !lengths.iter().copied().eq(examples.iter().map(|example| example.tokens.len())) {
        let problem = Problem::new("the proxy's cached states belong to other validation examples");
        return Err(problem.hint("name the same `task` here and in the stage of the proxy").into());
    }
    let lengths: Vec<i64> = lengths.iter().map(|&length| length as i64).collect();
    Ok(states.validation()?.f_split_with_sizes(lengths.as_slice(), 0)?)
}

/// An example as an instruction: the messages of the example, then the reference response.
pub fn as_instruction(example: &Example) -> Instruction {
    let mut messages = example.messages.clone();
    messages.push(Message::new("assistant", example.response.clone()));
    Instruction { id: example.id, messages, label: None }
}

/// Encodes examples with their reference responses.
///
/// # Errors
/// An example has no response token within `max_tokens`. Without this example, the metric would be another one.
pub fn encode_examples(codec: &Codec, examples: &[Example], max_tokens: usize) -> Result<Vec<Sequence>> {
    let sequences: Vec<Option<Sequence>> = examples
        .par_iter()
        .map(|example| codec.example(example, &example.response, max_tokens))
        .collect::<Result<_>>()?;
    sequences
        .into_iter()
        .zip(examples)
        .map(|(sequence, example)| {
            sequence.ok_or_else(|| {
                Problem::new(format!("example {} has no response token within {max_tokens} tokens", example.id))
                    .hint("raise max_tokens, or leave the example out of the task")
                    .into()
            })
        })
        .collect()
}

/// The text for a performance in a progress event: the validation loss, which is minus the performance.
pub fn shown_performance(performance: Option<f64>) -> String {
    performance.map(|performance| format!(", validation loss {:.3}", -performance)).unwrap_or_default()
}

/// The cost of a phase without tokens. Tokens count in the forward pass only.
pub fn phase_cost(name: &str, phase: PhaseUse) -> Cost {
    Cost { phase: name.to_owned(), seconds: phase.time.as_secs_f64(), peak_bytes: phase.peak_bytes, ..Cost::default() }
}

/// Sends the costs of training steps and of measurements of P: the phases `forward` (with all tokens), `backward`,
/// `optimizer` and `reward evaluation`. `forward_flops` are the FLOPs of the forward passes of training.
pub fn account_costs(account: &Account, forward_flops: f64, context: &Context) {
    let Account { train, evaluation, phases } = account;
    context.cost(Cost {
        tokens: train.tokens,
        supervised_tokens: train.supervised_tokens,
        flops: forward_flops,
        ..phase_cost("forward", phases.forward)
    });
    context.cost(Cost { flops: train.flops - forward_flops, ..phase_cost("backward", phases.backward) });
    context.cost(phase_cost("optimizer", phases.optimizer));
    if evaluation.tokens > 0 {
        let CostCounter { time, tokens, supervised_tokens, flops, peak_bytes } = *evaluation;
        let cost = phase_cost("reward evaluation", PhaseUse { time, peak_bytes });
        context.cost(Cost { tokens, supervised_tokens, flops, ..cost });
    }
}

/// Tokens per second for a progress event.
pub fn speed(tokens: u64, time: Duration) -> Option<f64> {
    Some(tokens as f64 / time.as_secs_f64().max(1e-9))
}

/// The checkpoints of a training run, in the work folder.
pub fn checkpoints(context: &Context) -> Result<Checkpoints> {
    Ok(Checkpoints::every(checkpoint_interval(), context.work()?.join("checkpoint")))
}
