//! The `selector` kind: trains the selection policy over episodes on a proxy model (docs/method.md, sections 2
//! to 5).
//!
//! The parameters of a pipeline file are completed at the level of JSON: where the file gives no value, the value of
//! the preset is inserted. One struct then reads all values. [`PpoSettings`] has the hyper-parameters of the method.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use raisin_contract::declaration::from_json;
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::ppo::{Credit, PolicyLearner, PpoSettings, Prior, Ratio, StatePart};
use raisin_settings::{AdaptationSettings, LearningRateSchedule, Overlong, SequenceLimit, default_max_tokens};

use crate::{is_off, number, numbers, outputs};

/// Parameters of a `selector` stage: the inputs and the training of the episodes, and how the policy learns from them.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "SelectorParameters", transform = preset_values_are_optional)]
pub struct Parameters {
    #[serde(flatten)]
    pub stage: SelectorStage,
    #[serde(flatten)]
    pub config: PpoSettings,
}

/// The inputs of a `selector` stage, and how the model of an episode is trained on the selected instructions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectorStage {
    /// The stage whose instructions are selected from.
    pub instructions: String,
    /// The `clusters` stage with the candidates' static states.
    pub features: String,
    /// The stage whose model plays the episodes: the target model itself, a smaller model, or a frozen-prefix proxy.
    pub model: String,
    /// The task whose validation examples measure the performance. The changes of the performance are the rewards.
    pub task: String,
    /// `default`, `ppo` or `paper`: gives the parameters that the pipeline file does not give.
    #[serde(default)]
    pub preset: Preset,
    /// How the model is adapted in an episode.
    #[serde(default)]
    pub adaptation: AdaptationSettings,
    /// The highest learning rate of the model in an episode. Default 2e-4, paper 2e-5.
    pub learning_rate: f64,
    /// How the learning rate of the model falls over an episode.
    #[serde(default)]
    pub schedule: LearningRateSchedule,
    /// The share of an episode's steps in which the model's learning rate rises.
    #[serde(default)]
    pub warmup: f64,
    /// The largest number of tokens in a sequence.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// What happens to rows of more than `max_tokens` tokens: `truncate` cuts them, `drop` leaves them out, and with
    /// `error` the stage fails before it computes anything.
    #[serde(default)]
    pub on_overlong: Overlong,
    /// A forward pass holds at most this many tokens. The number changes the memory, but not the results (except for
    /// rounding).
    #[serde(default = "number::<4096>")]
    pub micro_batch_tokens: usize,
    /// The backward pass computes activations again, instead of keeping them: less memory, a third more work.
    #[serde(default, skip_serializing_if = "is_off")]
    pub activation_checkpointing: bool,
}

impl SelectorStage {
    pub fn sequence_limit(&self) -> SequenceLimit {
        SequenceLimit { max_tokens: self.max_tokens, on_overlong: self.on_overlong }
    }
}

/// The values of the parameters that a pipeline file does not give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// A regression of measured effects, from a prior.
    #[default]
    Default,
    /// PPO without a prior, with the values that learned within 20 episodes in our measurements.
    Ppo,
    /// The paper's values, where it gives them.
    Paper,
}

impl Preset {
    /// The hyper-parameters of this preset, by name.
    fn config(self) -> Map<String, Value> {
        let config = match self {
            Self::Default => PpoSettings::standard(),
            Self::Ppo => PpoSettings::ppo(),
            Self::Paper => PpoSettings::paper(),
        };
        match json!(config) {
            Value::Object(values) => values,
            other => unreachable!("a struct is written as an object, not as {other}"),
        }
    }

    /// The learning rate of the model in an episode.
    fn learning_rate(self) -> f64 {
        match self {
            Self::Default | Self::Ppo => 2e-4,
            Self::Paper => 2e-5,
        }
    }
}

/// Reads complete parameters, as the engine passes them on, or the parameters of a pipeline file.
impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let problem = |problem: ParameterProblem| serde::de::Error::custom(problem.message);
        SelectorKind::read(Value::deserialize(deserializer)?).map_err(problem)
    }
}

/// Changes the JSON Schema for pipeline files: a parameter that has a value in the presets is optional.
fn preset_values_are_optional(schema: &mut Schema) {
    let mut optional: Vec<String> = Preset::Default.config().into_iter().map(|(name, _)| name).collect();
    // This parameter has a default of its own.
    optional.retain(|name| name != "episodes_per_round");
    optional.push("learning_rate".to_owned());
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|name| !optional.iter().any(|optional| name == optional));
    }
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (_, property) in properties.iter_mut().filter(|(name, _)| optional.contains(name)) {
        let Some(property) = property.as_object_mut() else { continue };
        if let Some(name) = property.remove("$ref") {
            let either = json!([{ "$ref": name }, { "type": "null" }]);
            *property = std::iter::once(("anyOf".to_owned(), either)).chain(std::mem::take(property)).collect();
        } else if let Some(name) = property.get_mut("type") {
            *name = json!([name.take(), "null"]);
        }
        property.insert("default".to_owned(), Value::Null);
    }
    // schemars leaves this default out, because serde may skip the field.
    if let Some(property) = properties.get_mut("activation_checkpointing").and_then(Value::as_object_mut) {
        property.insert("default".to_owned(), json!(false));
    }
}

impl Parameters {
    /// Checks that every number is finite and within its range, and that no two parameters contradict each other.
    ///
    /// # Errors
    /// The first wrong parameter, by its pointer.
    pub fn check(&self) -> Result<(), ParameterProblem> {
        let problem = |key: &str, message: &str| Err(ParameterProblem::new(format!("/{key}"), message));
        let Self { stage, config } = self;
        if let Some((key, message)) = stage.adaptation.problem() {
            return problem(&format!("adaptation/{key}"), message);
        }
        if stage.activation_checkpointing && config.episodes_per_round > 1 {
            return problem(
                "activation_checkpointing",
                "works only with one episode in a round: episodes_per_round = 1",
            );
        }
        numbers::counts(&[
            ("micro_batch_tokens", stage.micro_batch_tokens),
            ("episodes_per_round", config.episodes_per_round),
            ("steps", config.steps),
            ("batch_size", config.batch_size),
            ("evaluate_every", config.evaluate_every),
            ("effects_every", config.effects_every),
            ("clusters_per_step", config.clusters_per_step),
            ("epochs", config.epochs),
            ("minibatches", config.minibatches),
        ])?;
        numbers::sequence_lengths(&[("max_tokens", stage.max_tokens)])?;
        numbers::positive(&[
            ("learning_rate", stage.learning_rate),
            ("actor_learning_rate", config.actor_learning_rate),
            ("critic_learning_rate", config.critic_learning_rate),
            ("gradient_clip", config.gradient_clip),
            ("sharpness", config.sharpness),
        ])?;
        numbers::not_negative(&[
            ("reuse_penalty", config.reuse_penalty),
            ("prior_weight", config.prior_weight),
            ("repeats", config.repeats),
            ("weight_decay", config.weight_decay),
            ("entropy_bonus", config.entropy_bonus),
            ("target_kl", config.target_kl),
        ])?;
        for (key, value) in [("gamma", config.gamma), ("lambda", config.lambda)] {
            if !(0.0..=1.0).contains(&value) {
                return problem(key, "must be from 0 to 1");
            }
        }
        // A comparison with NaN is false.
        if !(config.epsilon > 0.0 && config.epsilon < 1.0) {
            return problem("epsilon", "must be above 0 and below 1");
        }
        numbers::warmup(stage.warmup)?;
        for (key, widths) in [("actor_widths", &config.actor_widths), ("critic_widths", &config.critic_widths)] {
            if widths.is_empty() || widths.contains(&0) {
                return problem(key, "needs at least one hidden layer, and none of width 0");
            }
        }
        let tells_candidates_apart = |part: &StatePart| !matches!(part, StatePart::Stage | StatePart::Availability);
        if !config.state.iter().any(tells_candidates_apart) {
            return Err(ParameterProblem::new(
                "/state",
                "with no part but stage and availability, all candidates are alike",
            )
            .hint("keep at least one of difficulty, semantic, target, influence and source"));
        }
        if config.learner == PolicyLearner::Posterior && config.credit != Credit::Effect {
            return Err(ParameterProblem::new("/credit", "learner = \"posterior\" learns from measured effects")
                .hint("set credit = \"effect\", or learner = \"ppo\""));
        }
        if config.rounds == 0 && (config.prior == Prior::None || config.prior_weight == 0.0) {
            return Err(ParameterProblem::new("/rounds", "without rounds, the policy is its prior, and it has none")
                .hint("set at least one round, or prior = \"similarity\""));
        }
        let is_credited_by_item = matches!(config.credit, Credit::Contribution | Credit::Effect);
        if config.learner == PolicyLearner::Ppo && is_credited_by_item && config.ratio != Ratio::Item {
            return Err(ParameterProblem::new("/credit", "credit for each draw needs a ratio for each draw")
                .hint("set ratio = \"item\", or credit = \"shared\""));
        }
        Ok(())
    }
}

pub struct SelectorKind;

impl Kind for SelectorKind {
    const NAME: &'static str = "selector";
    const VERSION: u32 = 14;
    const ABOUT: &'static str = "Trains a policy that selects instructions, over episodes on a proxy model.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["policy", "selection"];
    const TABLES: &'static [TableDeclaration] = outputs::selector::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::selector::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::selector::EXAMPLES;
    type Parameters = Parameters;

    fn read(written: Value) -> Result<Parameters, ParameterProblem> {
        let Value::Object(mut stage) = written else {
            return Err(ParameterProblem::new("", format!("these parameters are not a table: {written}")));
        };
        let preset = stage.get("preset").cloned().map_or(Ok(Preset::Default), |name| from_json(name, "/preset"))?;
        if stage.get("learning_rate").is_none_or(Value::is_null) {
            stage.insert("learning_rate".to_owned(), json!(preset.learning_rate()));
        }
        let mut config = preset.config();
        for (name, value) in &mut config {
            match stage.remove(name) {
                None | Some(Value::Null) => {}
                Some(written) => *value = written,
            }
        }
        let names: Vec<String> = config.keys().map(|name| format!("`{name}`")).collect();
        let config = from_json(Value::Object(config), "")?;
        let stage = from_json(Value::Object(stage), "").map_err(|mut problem: ParameterProblem| {
            // An unknown parameter of the stage itself may be a misspelt name of either struct.
            if problem.message.starts_with("unknown field") && problem.pointer.matches('/').count() < 2 {
                problem.message = format!("{}, {}", problem.message, names.join(", "));
            }
            problem
        })?;
        Ok(Parameters { stage, config })
    }

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        let SelectorStage { instructions, features, model, task, .. } = &parameters.stage;
        needs.stage("/instructions", instructions, "instructions");
        needs.stage("/features", features, "clusters");
        needs.stage("/model", model, "model");
        needs.stage("/task", task, "task");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        parameters.check()
    }
}

#[cfg(test)]
mod tests;
