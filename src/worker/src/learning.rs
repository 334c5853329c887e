//! Functions that the kinds with a model share: open the model, make a pool and a validation set, report costs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Tensor};

use crate::encoding::{EncodingReport, RowsOf, encode_examples, encode_pool};
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Cost, DType, DeviceKind};
use raisin_corpus::{Codec, Example, Instruction, Sequence};
use raisin_lm::proxy::{PrefixStates, ProxyConfig};
use raisin_lm::{Adaptation, Model, ModelConfig};
use raisin_selector::{Conditions, ModelRole};
use raisin_settings::{AdaptationSettings, Overlong, SequenceLimit};
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

/// Reads the tokenizer of an artifact with a model.
///
/// # Errors
/// The tokenizer does not fit the model: see [`codec_of`].
pub fn codec(folder: &Path) -> Result<Codec> {
    codec_of(folder, ModelConfig::read(folder)?.vocab_size)
}

/// Reads the tokenizer in a folder, for a model with this number of rows in its embedding.
///
/// # Errors
/// A token of the tokenizer, or a token that ends a generation, has no row in the embedding.
pub fn codec_of(folder: &Path, rows: i64) -> Result<Codec> {
    let codec = Codec::load(folder)?;
    let path = folder.join("tokenizer.json");
    if let Some((id, text)) = codec.highest_token().filter(|(id, _)| i64::from(*id) >= rows) {
        let message = format!(
            "{} has the token {text:?} with the number {id}, but the embedding of the model has only {rows} rows",
            path.display()
        );
        let hint = "resize the embedding, `model.resize_token_embeddings(len(tokenizer))`, and save the model again; or \
                    remove the tokens from the tokenizer";
        return Err(Problem::new(message).hint(hint).into());
    }
    if let Some(id) = codec.stop_tokens().iter().find(|id| i64::from(**id) >= rows) {
        let message = format!(
            "the token {id} ends a generation in {}, but the embedding of the model has only {rows} rows",
            folder.display()
        );
        return Err(Problem::new(message)
            .hint("correct `eos_token_id` in generation_config.json and config.json")
            .into());
    }
    Ok(codec)
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
    /// For each row of the pool, why it cannot be trained on.
    pub missing: Vec<Option<String>>,
    /// The validation examples that could be encoded.
    pub validation: ValidationSet,
    /// The validation examples as rows to train on.
    pub examples: TrainingPool,
    /// To be written at the end of the stage.
    pub encoding: EncodingReport,
}

impl Learning {
    /// Opens a model folder (full weights, an adapter with its base, or a proxy with a frozen prefix) and encodes the
    /// rows.
    ///
    /// A proxy decides itself which top layers are trained. Its rows have at most the `max_tokens` with which its states
    /// were computed, not the `max_tokens` of `settings`.
    pub fn start(
        folder: &Path,
        context: &Context,
        instructions: &[Instruction],
        examples: &[Example],
        settings: &Settings,
    ) -> Result<Self> {
        let codec = codec(folder)?;
        let states = if folder.join("proxy.json").is_file() { Some(PrefixStates::open(folder)?) } else { None };
        let limit = states.as_ref().map_or(settings.limit, |states| limit_with_proxy(settings.limit, states, context));
        let adaptation = match &states {
            Some(states) => Adaptation::of_top_layers(settings.adaptation, states.config.train_layers),
            None => Adaptation::of(settings.adaptation),
        };
        let model = open_to_train(folder, &adaptation, context)?;
        let encoded = match settings.instructions {
            Some(pointer) => encode_pool(&codec, instructions, limit.max_tokens, context, pointer)?,
            None => codec.instructions(instructions, limit.max_tokens),
        };
        let pool = settings.instructions.map(|pointer| context.input(pointer)).transpose()?;
        let mut encoding = EncodingReport::new(limit);
        let rows = encoding.instructions(pool, instructions, encoded)?;
        let encoded = encode_examples(&codec, examples, limit.max_tokens);
        let validation = encoding.examples(RowsOf::Validation, None, examples, encoded)?;
        encoding.tell(&codec, context);
        validation.not_empty(RowsOf::Validation, None)?;
        check_context(&model, limit.max_tokens, rows.rows.iter().chain(&validation.rows).flatten())?;
        let examples: Vec<Option<&Sequence>> = validation.rows.iter().map(Option::as_ref).collect();
        let cached = states.as_ref().map(|states| validation_states(states, &examples)).transpose()?;
        let layers = states.as_ref().map_or(0, |states| states.config.prefix_layers);
        let cached = cached.as_ref().map(|cached| (layers, cached.as_slice()));
        // The passes of a trainer hold the validation rows of all its episodes together.
        let together = Episodes::lanes_of_a_trainer(&adaptation, model.device(), settings.episodes);
        let examples: Vec<&Sequence> = validation.rows.iter().flatten().collect();
        let set = ValidationSet::new(&examples, cached, settings.batch_tokens / together, model.device())?;
        let seed = context.seed().at("adaptation");
        let missing = rows.missing.into_iter().zip(instructions);
        let missing =
            missing.map(|(reason, row)| reason.map(|reason| encoding.reason_with_place(row, &reason))).collect();
        let states_of_examples = states.is_some().then(|| PrefixStates::open(folder)).transpose()?;
        let examples = TrainingPool::of_examples(validation.rows, states_of_examples);
        let pool = TrainingPool::new(rows.rows, states);
        Ok(Self { model, adaptation, seed, pool, missing, validation: set, examples, encoding })
    }
}

/// The conditions under which a policy is trained or deployed.
pub fn conditions(
    encoding: &EncodingReport,
    model: &Model,
    pool: &TrainingPool,
    steps: usize,
    batch_size: usize,
) -> Conditions {
    let role = if pool.prefix_layers().is_some() { ModelRole::FrozenPrefix } else { ModelRole::Whole };
    let (max_tokens, parameters) = (encoding.max_tokens(), model.parameter_count());
    Conditions { max_tokens, steps, batch_size, model: role, parameters }
}

/// The limit of the sequences of a stage whose model is a proxy. The states of the proxy exist only for sequences of its
/// own `max_tokens`, and not for the rows that the proxy left out.
pub fn limit_with_proxy(asked: SequenceLimit, states: &PrefixStates, context: &Context) -> SequenceLimit {
    let ProxyConfig { max_tokens, on_overlong, .. } = states.config;
    if max_tokens != asked.max_tokens {
        let asked = asked.max_tokens;
        context.note(format!("max_tokens is {max_tokens}, as in the proxy, and not {asked}, as in this stage"));
    }
    let dropped = on_overlong == Overlong::Drop && asked.on_overlong == Overlong::Truncate;
    if dropped {
        context.note("on_overlong is `drop`, as in the proxy, and not `truncate`, as in this stage");
    }
    SequenceLimit { max_tokens, on_overlong: if dropped { Overlong::Drop } else { asked.on_overlong } }
}

/// The settings of [`Learning::start`].
pub struct Settings<'a> {
    /// The pointer of the parameter that names the pool of the instructions; `None` if the instructions are not a pool.
    pub instructions: Option<&'a str>,
    pub adaptation: &'a AdaptationSettings,
    pub limit: SequenceLimit,
    /// A forward pass over validation examples holds at most this many tokens.
    pub batch_tokens: usize,
    /// The number of episodes that are played at the same time.
    pub episodes: usize,
}

/// The hidden states after the prefix of each validation example that has a sequence: [tokens, hidden].
pub fn validation_states(states: &PrefixStates, examples: &[Option<&Sequence>]) -> Result<Vec<Tensor>> {
    let cached = states.validation_tokens()?;
    let agree =
        |(example, tokens): (Option<&Sequence>, &Vec<u32>)| example.is_none_or(|sequence| sequence.tokens == *tokens);
    if cached.len() != examples.len() || !examples.iter().copied().zip(&cached).all(agree) {
        let problem = Problem::new("the proxy's cached states belong to other validation examples");
        return Err(problem.hint("name the same `task` here and in the stage of the proxy").into());
    }
    let lengths: Vec<i64> = cached.iter().map(|tokens| tokens.len() as i64).collect();
    let parts = states.validation()?.f_split_with_sizes(lengths.as_slice(), 0)?;
    Ok(parts.into_iter().zip(examples).filter(|(_, example)| example.is_some()).map(|(part, _)| part).collect())
}

/// An example as an instruction: the messages of the example, then the reference response.
pub fn as_instruction(example: &Example) -> Instruction {
    Instruction { tools: example.tools.clone(), ..Instruction::new(example.id, example.answered()) }
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
/// `optimizer`, `reward evaluation` and `effects`. `forward_flops` are the FLOPs of the forward passes of training.
pub fn account_costs(account: &Account, forward_flops: f64, context: &Context) {
    let Account { train, evaluation, effects, phases } = account;
    context.cost(Cost {
        tokens: train.tokens,
        supervised_tokens: train.supervised_tokens,
        flops: forward_flops,
        ..phase_cost("forward", phases.forward)
    });
    context.cost(Cost { flops: train.flops - forward_flops, ..phase_cost("backward", phases.backward) });
    context.cost(phase_cost("optimizer", phases.optimizer));
    for (phase, counted) in [("reward evaluation", evaluation), ("effects", effects)] {
        if counted.tokens > 0 {
            let CostCounter { time, tokens, supervised_tokens, flops, peak_bytes } = *counted;
            let cost = phase_cost(phase, PhaseUse { time, peak_bytes });
            context.cost(Cost { tokens, supervised_tokens, flops, ..cost });
        }
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
