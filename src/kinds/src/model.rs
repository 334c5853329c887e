//! The `model` kind: provides a language model from a GGUF file, a Hugging Face folder, fresh weights, or a base with a
//! frozen prefix.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{DType, Kind, Needs, ParameterProblem, Process, RefusedFile};
use raisin_settings::{Overlong, SequenceLimit};

use crate::{is_off, number, numbers, outputs};

/// A language model.
pub struct ModelKind;

/// Parameters of the kind `model`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Where the model comes from.
    pub source: ModelSource,
    /// The type of the stored weights. It has no effect with `prefix`, which stores no weights.
    #[serde(default = "f32_weights")]
    pub dtype: DType,
}

/// Exactly one of `gguf`, `huggingface`, `init` and `prefix`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSource {
    /// A GGUF file. Its vocabulary becomes the tokenizer. If absent, another of `gguf`, `huggingface`, `init` and
    /// `prefix` is given.
    pub gguf: Option<String>,
    /// A folder with config.json, safetensors weights and tokenizer.json. If absent, another of `gguf`, `huggingface`,
    /// `init` and `prefix` is given.
    pub huggingface: Option<String>,
    /// With `huggingface`, if its folder has an adapter: the folder with the base model of the adapter. raisin does not
    /// follow the path in adapter_config.json, because the base model must be an input of the stage. If absent, the
    /// folder must have all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Fresh weights of this shape. If absent, another of `gguf`, `huggingface`, `init` and `prefix` is given.
    pub init: Option<Init>,
    /// A stage whose model becomes a proxy: its lower layers are frozen, and their output is computed once. If absent,
    /// another of `gguf`, `huggingface`, `init` and `prefix` is given.
    pub prefix: Option<String>,
    /// With `prefix`: the number of upper layers that are trained. If absent, a `prefix` is refused.
    pub train_layers: Option<usize>,
    /// With `prefix`: the stage with the pool. If absent, a `prefix` is refused.
    pub instructions: Option<String>,
    /// With `prefix`: the stage with the validation examples. If absent, a `prefix` is refused.
    pub task: Option<String>,
    /// With `prefix`: the largest number of tokens in a sequence. The default is 1024.
    pub max_tokens: Option<usize>,
    /// With `prefix`: what happens to rows of more than `max_tokens` tokens. `truncate`, the default, cuts them, `drop`
    /// leaves them out, and with `error` the stage fails before it computes anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_overlong: Option<Overlong>,
    /// With `prefix`: the hidden states of the test examples of `task` are computed too. If an `evaluate` stage measures
    /// the loss of an adapter that was trained on this proxy, its pass over the test examples starts from these states.
    #[serde(skip_serializing_if = "is_off")]
    pub test: bool,
}

impl ModelSource {
    /// The limit of the sequences of a proxy.
    pub fn sequence_limit(&self) -> SequenceLimit {
        let usual = SequenceLimit::default();
        SequenceLimit {
            max_tokens: self.max_tokens.unwrap_or(usual.max_tokens),
            on_overlong: self.on_overlong.unwrap_or(usual.on_overlong),
        }
    }
}

/// The shape of a fresh Llama.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// The width of the hidden states; a multiple of `heads`.
    pub hidden_size: i64,
    /// The number of transformer layers, at most 10000. All layers together have at most 100 GB of weights in f32.
    pub layers: usize,
    /// The number of attention heads.
    pub heads: i64,
    /// The number of heads for keys and values. The default is `heads`.
    #[serde(default)]
    pub kv_heads: Option<i64>,
    /// The width of the feed-forward layers.
    pub intermediate_size: i64,
    /// `bytes`, or a folder with a tokenizer.
    #[serde(default = "bytes_tokenizer")]
    pub tokenizer: String,
    /// The largest number of tokens in a sequence.
    #[serde(default = "number::<2048>")]
    pub context: usize,
    /// The base of the rotary position embedding.
    #[serde(default = "usual_theta")]
    pub rope_theta: f64,
    /// The output head uses the weights of the embedding.
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// The seed of the weights. The pipeline's seed has no effect, so that all seeds of a sweep start from the same
    /// model.
    #[serde(default)]
    pub seed: u64,
}

/// The files that say that a folder needs a base model.
const BASELESS: &[RefusedFile] = &[
    RefusedFile {
        name: "adapter_config.json",
        reason: "it is an adapter, and its base model must be an input of the stage too",
        hint: "name the folder of the base model: `source = { huggingface = \"FOLDER\", base = \"FOLDER\" }`",
    },
    RefusedFile {
        name: "proxy.json",
        reason: "it is a model with a frozen prefix, and its base model must be an input of the stage too",
        hint: "name the folder of the base model: `source = { huggingface = \"FOLDER\", base = \"FOLDER\" }`",
    },
];

/// The files that say that a base model needs a base model itself.
const BASE_WITH_A_BASE: &[RefusedFile] = &[
    RefusedFile {
        name: "adapter_config.json",
        reason: "it is an adapter, and not a base model with all weights",
        hint: "merge it first: build a stage from it with its own `base`, and name the folder of this stage under out/",
    },
    RefusedFile {
        name: "proxy.json",
        reason: "it is a model with a frozen prefix, and not a base model with all weights",
        hint: "name the model from which it was made",
    },
];

/// The largest number of bytes of fresh weights, counted in f32 and without the embedding.
const MOST_INIT_BYTES: f64 = 100e9;

/// The largest context of a fresh model.
const MOST_CONTEXT: usize = 1 << 24;

/// The largest number of layers of a fresh model.
const MOST_LAYERS: usize = 10_000;

fn f32_weights() -> DType {
    DType::F32
}
fn bytes_tokenizer() -> String {
    "bytes".to_owned()
}
fn usual_theta() -> f64 {
    10_000.0
}
fn yes() -> bool {
    true
}

impl Kind for ModelKind {
    const NAME: &'static str = "model";
    const VERSION: u32 = 4;
    const ABOUT: &'static str =
        "A language model: from a GGUF file, a Hugging Face folder, fresh weights, or a base with a frozen prefix.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["model"];
    const TABLES: &'static [TableDeclaration] = outputs::model::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::model::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::model::EXAMPLES;

    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        let source = &parameters.source;
        if let Some(path) = &source.gguf {
            needs.file("/source/gguf", path);
        }
        if let Some(path) = &source.huggingface {
            let refused = if source.base.is_some() { &[] } else { BASELESS };
            needs.folder_without("/source/huggingface", path, refused);
        }
        if let Some(path) = &source.base {
            needs.folder_without("/source/base", path, BASE_WITH_A_BASE);
        }
        if let Some(init) = source.init.as_ref().filter(|init| init.tokenizer != "bytes") {
            needs.file("/source/init/tokenizer", &init.tokenizer);
        }
        if let Some(stage) = &source.prefix {
            needs.stage("/source/prefix", stage, "model");
        }
        if let Some(stage) = &source.instructions {
            needs.stage("/source/instructions", stage, "instructions");
        }
        if let Some(stage) = &source.task {
            needs.stage("/source/task", stage, "task");
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let source = &parameters.source;
        let given =
            [source.gguf.is_some(), source.huggingface.is_some(), source.init.is_some(), source.prefix.is_some()];
        let count = given.into_iter().filter(|given| *given).count();
        if count != 1 {
            return Err(ParameterProblem::new("/source", format!("a model has one source, but {count} are given"))
                .hint("give one of `gguf`, `huggingface`, `init` and `prefix`"));
        }
        let for_prefix = [
            ("train_layers", source.train_layers.is_some()),
            ("instructions", source.instructions.is_some()),
            ("task", source.task.is_some()),
        ];
        if source.prefix.is_some() {
            if let Some((name, _)) = for_prefix.iter().find(|(_, given)| !given) {
                return Err(ParameterProblem::new("/source", format!("a frozen prefix needs `{name}`"))
                    .hint("prefix = \"base\", train_layers = 8, instructions = \"pool\", task = \"task\""));
            }
        } else {
            let limits = [
                ("max_tokens", source.max_tokens.is_some()),
                ("on_overlong", source.on_overlong.is_some()),
                ("test", source.test),
            ];
            if let Some((name, _)) = for_prefix.iter().chain(&limits).find(|(_, given)| *given) {
                let message = format!("`{name}` belongs to `prefix`, which is not given");
                return Err(ParameterProblem::new(format!("/source/{name}"), message));
            }
        }
        if source.base.is_some() && source.huggingface.is_none() {
            let message = "`base` belongs to `huggingface`, which is not given";
            return Err(ParameterProblem::new("/source/base", message));
        }
        if let Some(tokens) = source.max_tokens {
            numbers::sequence_lengths(&[("source/max_tokens", tokens)])?;
        }
        if source.train_layers == Some(0) {
            return Err(ParameterProblem::new("/source/train_layers", "at least one layer must be trained"));
        }
        if let Some(init) = &source.init {
            numbers::sequence_lengths(&[("source/init/context", init.context)])?;
            if init.context > MOST_CONTEXT {
                let message = format!("{} tokens are more than the limit of {MOST_CONTEXT}", init.context);
                return Err(ParameterProblem::new("/source/init/context", message));
            }
            numbers::positive(&[("source/init/rope_theta", init.rope_theta)])?;
            check_shape(init)
                .map_err(|reason| ParameterProblem::new("/source/init", format!("impossible shape: {reason}")))?;
        }
        Ok(())
    }
}

/// Refuses, before any stage runs, a shape that raisin-lm would refuse.
fn check_shape(init: &Init) -> Result<(), String> {
    let kv_heads = init.kv_heads.unwrap_or(init.heads);
    for (name, size) in [
        ("hidden_size", init.hidden_size),
        ("intermediate_size", init.intermediate_size),
        ("heads", init.heads),
        ("kv_heads", kv_heads),
        ("layers", i64::try_from(init.layers).unwrap_or(i64::MAX)),
    ] {
        if size <= 0 {
            return Err(format!("`{name}` is {size}: it must be positive"));
        }
    }
    let head_dim = init.hidden_size / init.heads;
    if head_dim == 0 || head_dim % 2 != 0 {
        return Err(format!(
            "`hidden_size` / `heads` is {head_dim}: rotary positions need an even number of at least 2"
        ));
    }
    if init.heads % kv_heads != 0 {
        return Err(format!("{} attention heads cannot share {kv_heads} key-value heads evenly", init.heads));
    }
    if init.layers > MOST_LAYERS {
        return Err(format!("{} layers are more than the limit of {MOST_LAYERS}", init.layers));
    }
    // Floating-point numbers cannot overflow here.
    let (hidden, between, width) =
        (init.hidden_size as f64, init.intermediate_size as f64, (head_dim * init.heads) as f64);
    let shared = head_dim as f64 * kv_heads as f64;
    let layer = 2.0 * hidden * width + 2.0 * hidden * shared + 3.0 * hidden * between;
    let bytes = 4.0 * layer * init.layers as f64;
    if bytes > MOST_INIT_BYTES {
        let (has, limit) = (bytes / 1e9, MOST_INIT_BYTES / 1e9);
        return Err(format!("its layers have {has:.0} GB of weights in f32, and the limit is {limit:.0} GB"));
    }
    Ok(())
}
