//! What the kinds that run a model share: opening it, encoding rows and examples, laying out a validation set.
//! Leaves what is done with them to the kinds.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use tch::{Device, Tensor};

use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Cost, DType, DeviceKind};
use raisin_corpus::{Codec, Example, Instruction, Message, Sequence, SharedTokens};
use raisin_lm::proxy::PrefixStates;
use raisin_lm::{Adaptation, Model};
use raisin_settings::AdaptationSettings;
use raisin_training::{Account, CostCounter, Episodes, PhaseUse, TrainingPool, ValidationSet};

/// Where tensors of this stage live.
///
/// # Errors
/// The stage is to run on a GPU that cannot be used.
pub fn device(context: &Context) -> Result<Device> {
    let environment = context.environment();
    raisin_lm::device((environment.device == DeviceKind::Cuda).then_some(environment.device_index))
}

/// Models below this many parameters run on one thread: their products are too small to be shared out, and two threads
/// that wait for each other cost more than they bring (0.36M parameters on two cores: 200 steps in 14 s on one thread,
/// in up to 170 s on two beside other work).
const SMALL_MODEL: u64 = 5_000_000;

/// The model of an artifact, on this stage's device.
pub fn open(folder: &Path, context: &Context) -> Result<Model> {
    opened(Model::load(folder, device(context)?, compute(context))?, context)
}

/// The same, to be [prepared](Model::prepare) for this adaptation.
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

/// Whether every sequence fits into the model: to be asked before hours are spent on those that fit.
///
/// # Errors
/// A sequence, cut at `max_tokens`, is longer than the model's context.
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
    Err(Problem::new(problem).hint(format!("max_tokens = {context}, or less: longer rows are then cut")).into())
}

/// The type that matrix products of this stage run in.
pub fn compute(context: &Context) -> tch::Kind {
    match context.environment().dtype {
        DType::F32 => tch::Kind::Float,
        DType::Bf16 => tch::Kind::BFloat16,
    }
}

/// All that a run over a pool with a validation set starts from.
pub struct Learning {
    /// As it was opened; to be prepared by `adaptation`, with `seed`.
    pub model: Model,
    pub adaptation: Adaptation,
    pub seed: Seed,
    pub pool: TrainingPool,
    pub validation: ValidationSet,
}

impl Learning {
    /// Opens a model folder (full weights, an adapter on its base, or a frozen-prefix proxy) and lays out the rows.
    ///
    /// A proxy decides for itself: its top layers are trained, on rows cut as its states were.
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
        let examples = encode_examples(&codec, examples, max_tokens)?;
        check_context(&model, max_tokens, sequences.iter().flatten().chain(&examples))?;
        let examples: Vec<&Sequence> = examples.iter().collect();
        let cached = states.as_ref().map(|states| validation_states(states, &examples)).transpose()?;
        let layers = states.as_ref().map_or(0, |states| states.config.prefix_layers);
        let cached = cached.as_ref().map(|cached| (layers, cached.as_slice()));
        // The episodes of a trainer have their validation rows in its passes together.
        let together = Episodes::lanes_of_a_trainer(&adaptation, model.device(), settings.episodes);
        let validation = ValidationSet::new(&examples, cached, settings.batch_tokens / together, model.device())?;
        let seed = context.seed().at("adaptation");
        Ok(Self { model, adaptation, seed, pool: TrainingPool::new(sequences, states), validation })
    }
}

/// What [`Learning::start`] is told beside its inputs.
pub struct Settings<'a> {
    /// The pointer of the parameter that names the pool of the instructions; `None` if they are of no pool.
    pub instructions: Option<&'a str>,
    pub adaptation: &'a AdaptationSettings,
    pub max_tokens: usize,
    /// Validation runs in batches of at most this many tokens.
    pub batch_tokens: usize,
    /// How many episodes are played at once.
    pub episodes: usize,
}

/// The sequences of a pool. The parameter at `pointer` names the pool. Stages with the same tokenizer share the sequences.
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

/// The cached states of the validation examples, one tensor each.
fn validation_states(states: &PrefixStates, examples: &[&Sequence]) -> Result<Vec<Tensor>> {
    let lengths = states.validation_lengths();
    if !lengths.iter().copied().eq(examples.iter().map(|example| example.tokens.len())) {
        let problem = Problem::new("the proxy's cached states belong to other validation examples");
        return Err(problem.hint("make the proxy from the same task").into());
    }
    let lengths: Vec<i64> = lengths.iter().map(|&length| length as i64).collect();
    Ok(states.validation()?.f_split_with_sizes(lengths.as_slice(), 0)?)
}

/// An example as an instruction: the same messages with the reference response at the end.
pub fn as_instruction(example: &Example) -> Instruction {
    let mut messages = example.messages.clone();
    messages.push(Message::new("assistant", example.response.clone()));
    Instruction { id: example.id, messages, label: None }
}

/// The examples with their reference responses.
///
/// # Errors
/// An example of which nothing can be scored: leaving it out silently would change what is measured.
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
                Problem::new(format!("example {} leaves no response within {max_tokens} tokens", example.id))
                    .hint("raise max_tokens, or leave the example out of the task")
                    .into()
            })
        })
        .collect()
}

/// A performance in a progress line: as the loss that it is minus of.
pub fn shown_performance(performance: Option<f64>) -> String {
    performance.map(|performance| format!(", validation loss {:.3}", -performance)).unwrap_or_default()
}

/// A cost event from what a part of the crate training has spent.
pub fn cost(phase: &str, spent: &CostCounter) -> Cost {
    Cost {
        phase: phase.to_owned(),
        seconds: spent.time.as_secs_f64(),
        tokens: spent.tokens,
        supervised_tokens: spent.supervised_tokens,
        flops: spent.flops,
        peak_bytes: spent.peak_bytes,
    }
}

/// A cost event of a phase that no tokens are counted in: they are those of the forward pass.
pub fn phase_cost(name: &str, phase: PhaseUse) -> Cost {
    Cost { phase: name.to_owned(), seconds: phase.time.as_secs_f64(), peak_bytes: phase.peak_bytes, ..Cost::default() }
}

/// The cost events of training steps and measurements: `forward` with all tokens, `backward`, `optimizer`, `reward
/// evaluation`. `forward_flops` are those of the forward passes.
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
        context.cost(cost("reward evaluation", evaluation));
    }
}

/// How many tokens a second training has taken so far.
pub fn training_speed(account: &Account) -> f64 {
    account.train.tokens as f64 / account.train.time.as_secs_f64().max(1e-9)
}
