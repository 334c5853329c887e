//! Reads an adapter as PEFT saves it: adapter_config.json says which modules have an adapter, with which rank and
//! scale, and adapter_model.safetensors has the two matrices of each. lora.rs has the arithmetic.
//!
//! raisin selects the modules by the rules of PEFT. Then the selected modules must be exactly those that the weights
//! contain. So no adapter is left out, and none is read for a module to which PEFT would not apply it.

use std::path::Path;

use fancy_regex::Regex;
use serde_json::{Map, Value};
use tch::Kind as TensorKind;

use super::config::keys::short;
use super::config::read_json;
use super::folder_files::no_weights;
use super::layer::Layer;
use super::lora::Adapter;
use super::model::{Model, adapter_part};
use super::weights::Weights;
use raisin_base::error::{Context as _, Error, Problem, Result, bail, ensure};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// The keys of adapter_config.json that raisin reads.
const READ: &[&str] = &[
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// The keys that change nothing in what a trained adapter computes: descriptions, and settings of the training. PEFT
/// sets `fan_in_fan_out` to false for the projections of the supported models.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// What to do with an adapter that raisin cannot read.
const MERGE: &str = "merge the adapter with peft: `AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload()\
                     .save_pretrained(FOLDER)`, and name FOLDER without `base`";

/// What adapter_config.json says.
pub(super) struct PeftConfig {
    rank: i64,
    alpha: f64,
    /// Whether the update is scaled by alpha / sqrt(rank), and not by alpha / rank.
    rank_stabilized: bool,
    targets: Modules,
    excluded: Modules,
    /// The layers whose modules may be targets; `None` if all may.
    layers: Option<Vec<u64>>,
    /// How the name of a module shows the number of its layer.
    layer_patterns: Vec<Regex>,
    ranks: Vec<(Regex, f64)>,
    alphas: Vec<(Regex, f64)>,
}

/// A selection of modules.
enum Modules {
    /// Every projection.
    All,
    /// Whole names, or the last parts of names.
    Names(Vec<String>),
    /// The pattern of whole names.
    Pattern(Regex),
}

/// The rank of an adapter, and the factor of its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AdapterShape {
    pub rank: i64,
    pub scale: f64,
}

impl PeftConfig {
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let raw = read_json(&path)?;
        Self::of(&raw).with_context(|| format!("in {}", path.display()))
    }

    fn of(raw: &Value) -> Result<Self> {
        let Some(keys) = raw.as_object() else { bail!("the content is not a JSON object") };
        refuse(keys)?;
        let rank = raw["r"].as_i64().filter(|rank| *rank > 0).ok_or_else(|| no_number("r", &raw["r"]))?;
        let alpha = raw["lora_alpha"].as_f64().filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| no_number("lora_alpha", &raw["lora_alpha"]))?;
        let targets = Modules::of("target_modules", &raw["target_modules"])?;
        let targets = targets.ok_or_else(|| {
            Problem::new("`target_modules` is missing").hint("PEFT writes the adapted modules into adapter_config.json")
        })?;
        let excluded = Modules::of("exclude_modules", &raw["exclude_modules"])?;
        Ok(Self {
            rank,
            alpha,
            rank_stabilized: raw["use_rslora"] == Value::Bool(true),
            targets,
            excluded: excluded.unwrap_or(Modules::Names(Vec::new())),
            layers: layers(&raw["layers_to_transform"])?,
            layer_patterns: layer_patterns(&raw["layers_pattern"])?,
            ranks: numbers("rank_pattern", &raw["rank_pattern"])?,
            alphas: numbers("alpha_pattern", &raw["alpha_pattern"])?,
        })
    }

    /// The adapter of the module with this name; `None` if the module has none.
    pub fn adapter_of(&self, module: &str) -> Result<Option<AdapterShape>> {
        if self.excluded.contain(module)? || !self.targets.contain(module)? || !self.is_in_layers(module)? {
            return Ok(None);
        }
        let rank = match first(&self.ranks, module)? {
            Some(rank) => rank as i64,
            None => self.rank,
        };
        let alpha = first(&self.alphas, module)?.unwrap_or(self.alpha);
        let divisor = if self.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 };
        Ok(Some(AdapterShape { rank, scale: alpha / divisor }))
    }

    /// Whether the layer of a target may have adapters. As in PEFT, `layers_to_transform` concerns only targets that
    /// are named by the last parts of their names.
    fn is_in_layers(&self, module: &str) -> Result<bool> {
        let (Some(layers), Modules::Names(names)) = (&self.layers, &self.targets) else { return Ok(true) };
        if names.iter().any(|name| name == module) {
            return Ok(true);
        }
        for pattern in &self.layer_patterns {
            let found = pattern.captures(module).map_err(|error| no_match(pattern, module, error))?;
            if let Some(number) = found.and_then(|found| found.get(1)?.as_str().parse::<u64>().ok()) {
                return Ok(layers.contains(&number));
            }
        }
        Ok(false)
    }
}

impl Modules {
    /// Reads a list of names or a pattern; `None` if the key is missing or empty.
    fn of(key: &str, value: &Value) -> Result<Option<Self>> {
        let wrong = || {
            Problem::new(format!("`{key}` is {}", short(value))).hint("the key holds a list of names, or one pattern")
        };
        match value {
            Value::Null => Ok(None),
            Value::String(text) if text.is_empty() => Ok(None),
            Value::String(text) if text.eq_ignore_ascii_case("all-linear") => Ok(Some(Self::All)),
            Value::String(pattern) => Ok(Some(Self::Pattern(whole(key, pattern)?))),
            Value::Array(names) if names.is_empty() => Ok(None),
            Value::Array(names) => {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong));
                Ok(Some(Self::Names(names.collect::<Result<_, _>>()?)))
            }
            _ => Err(wrong().into()),
        }
    }

    fn contain(&self, module: &str) -> Result<bool> {
        match self {
            Self::All => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| is_named(module, name))),
            Self::Pattern(pattern) => pattern.is_match(module).map_err(|error| no_match(pattern, module, error)),
        }
    }
}

/// Whether `name` is the name of the module, or its last parts.
fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Refuses everything that changes what the adapter computes and that raisin does not have.
fn refuse(keys: &Map<String, Value>) -> Result<()> {
    let problem = |key: &str, value: &Value, hint: &str| -> Result<()> {
        Err(Problem::new(format!("`{key}` is {}", short(value))).hint(hint).into())
    };
    let given = |key: &str| keys.get(key).filter(|value| !value.is_null());
    let kind = keys.get("peft_type").unwrap_or(&Value::Null);
    if kind != "LORA" {
        return problem("peft_type", kind, &format!("raisin reads adapters of the type LORA; {MERGE}"));
    }
    if let Some(task) = given("task_type").filter(|task| *task != "CAUSAL_LM") {
        return problem("task_type", task, "raisin reads adapters of causal language models (CAUSAL_LM)");
    }
    if let Some(bias) = given("bias").filter(|bias| *bias != "none") {
        return problem("bias", bias, &format!("the adapter has trained biases, which raisin does not read; {MERGE}"));
    }
    // The other initialisations change the weights of the base model.
    if let Some(init) = given("init_lora_weights") {
        let keeps_base = init.is_boolean() || ["gaussian", "eva", "orthogonal"].iter().any(|name| init == name);
        if !keeps_base {
            return problem("init_lora_weights", init, &format!("the base model is not the original one; {MERGE}"));
        }
    }
    for (key, value) in keys {
        let says_nothing = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(entries) => entries.is_empty(),
            Value::Array(entries) => entries.is_empty(),
            _ => false,
        };
        if !says_nothing && !READ.contains(&key.as_str()) && !WITHOUT_EFFECT.contains(&key.as_str()) {
            return problem(key, value, &format!("raisin does not have this feature of PEFT; {MERGE}"));
        }
    }
    Ok(())
}

fn no_number(key: &str, value: &Value) -> Error {
    let wanted = if key == "r" { "a whole number above 0" } else { "a finite number" };
    Problem::new(format!("`{key}` is {}, but it must be {wanted}", short(value)))
        .hint("the file is not as PEFT writes it")
        .into()
}

/// The numbers of layers in `layers_to_transform`; `None` if the key says nothing.
fn layers(value: &Value) -> Result<Option<Vec<u64>>> {
    let numbers = match value {
        Value::Null => return Ok(None),
        Value::Array(numbers) if numbers.is_empty() => return Ok(None),
        Value::Array(numbers) => numbers.as_slice(),
        one => std::slice::from_ref(one),
    };
    let number = |number: &Value| number.as_u64().ok_or_else(|| no_layers(value));
    numbers.iter().map(number).collect::<Result<_>>().map(Some)
}

fn no_layers(value: &Value) -> Error {
    let message = format!("`layers_to_transform` is {}, but it must be the numbers of layers", short(value));
    Problem::new(message).hint("the file is not as PEFT writes it").into()
}

/// The patterns that find the number of a layer in the name of a module. The number is group 1.
fn layer_patterns(value: &Value) -> Result<Vec<Regex>> {
    let key = "layers_pattern";
    let names = match value {
        Value::Null => Vec::new(),
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => {
            let names = names.iter().map(|name| name.as_str().with_context(|| format!("`{key}` is {}", short(value))));
            names.collect::<Result<_>>()?
        }
        other => bail!("`{key}` is {}", short(other)),
    };
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Ok(vec![regex(key, "", r"^.*?\.[^.]*\.(\d+)\.")?]);
    }
    // A group inside the pattern would move the number to another group.
    names
        .into_iter()
        .map(|name| {
            if name.contains('(') {
                return Err(Problem::new(format!("`{key}` is {}", short(value))).hint(MERGE).into());
            }
            regex(key, name, &format!(r"^(?:|.*?\.)(?:{name})\.(\d+)\."))
        })
        .collect()
}

/// The entries of `rank_pattern` or `alpha_pattern`: a number for each pattern of the last parts of a name.
fn numbers(key: &str, value: &Value) -> Result<Vec<(Regex, f64)>> {
    let Value::Object(entries) = value else {
        ensure!(value.is_null(), "`{key}` is {}, but it must be an object", short(value));
        return Ok(Vec::new());
    };
    let number = |(pattern, value): (&String, &Value)| {
        let is_rank = key == "rank_pattern";
        let number = value.as_f64().filter(|number| number.is_finite());
        let number = number.filter(|number| !is_rank || (number.fract() == 0.0 && (1.0..1e9).contains(number)));
        let number = number.with_context(|| format!("`{key}` has {} for `{pattern}`", short(value)))?;
        Ok((regex(key, pattern, &format!(r"^(?:.*\.)?(?:{pattern})$"))?, number))
    };
    entries.iter().map(number).collect()
}

/// The number of the first pattern that fits.
fn first(numbers: &[(Regex, f64)], module: &str) -> Result<Option<f64>> {
    for (pattern, number) in numbers {
        if pattern.is_match(module).map_err(|error| no_match(pattern, module, error))? {
            return Ok(Some(*number));
        }
    }
    Ok(None)
}

/// A pattern of whole names.
fn whole(key: &str, pattern: &str) -> Result<Regex> {
    regex(key, pattern, &format!(r"^(?:{pattern})$"))
}

fn regex(key: &str, pattern: &str, whole: &str) -> Result<Regex> {
    Regex::new(whole).map_err(|error| {
        Problem::new(format!("`{key}` has the pattern `{pattern}`, which raisin cannot read: {error}"))
            .hint(MERGE)
            .into()
    })
}

fn no_match(pattern: &Regex, module: &str, error: fancy_regex::Error) -> Error {
    Error::new(error).context(format!("the pattern `{pattern}` cannot be compared with `{module}`"))
}

impl Model {
    /// Adds the adapter in a folder to the projections. The model has no adapter yet.
    ///
    /// # Errors
    /// raisin does not have a feature of the adapter, or its weights do not belong to adapter_config.json and the model.
    pub(super) fn attach_adapter(&mut self, folder: &Path) -> Result<()> {
        let config = PeftConfig::read(folder)?;
        let path = folder.join(WEIGHTS);
        if !path.is_file() {
            return Err(no_weights(folder, WEIGHTS, &["adapter_model.bin"]).into());
        }
        let mut weights = Weights::open_files(folder, &[path])?;
        let mut adapted = 0;
        for projection in self.layers.iter_mut().flat_map(Layer::projections_mut) {
            let Some(AdapterShape { rank, scale }) = config.adapter_of(&projection.name)? else { continue };
            let (outputs, inputs) = projection.weight.value.size2()?;
            let mut part = |letter: char, shape: [i64; 2]| {
                weights
                    .take(&adapter_part(&projection.name, letter), &shape, TensorKind::Float, self.device)
                    .with_context(|| format!("{CONFIG} gives `{}` an adapter of the rank {rank}", projection.name))
            };
            let (a, b) = (part('A', [rank, inputs])?, part('B', [outputs, rank])?);
            projection.adapter = Some(Adapter { a, b, scale });
            adapted += 1;
        }
        if let Some(unread) = weights.unread().next() {
            let message = format!("{} contains `{unread}`, which raisin does not read", folder.join(WEIGHTS).display());
            let hint = format!(
                "{CONFIG} gives no projection of the layers this tensor, and raisin has adapters on nothing else; {MERGE}"
            );
            return Err(Problem::new(message).hint(hint).into());
        }
        ensure!(adapted > 0, "{}: `target_modules` selects no projection of the model", folder.join(CONFIG).display());
        Ok(())
    }
}

#[cfg(test)]
#[path = "peft_tests.rs"]
mod tests;
