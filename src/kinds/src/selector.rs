//! The `selector` kind: trains the selection policy by PPO over episodes on a proxy model (docs/method.md, sections 2 to 5).
//! Parameters as a person writes them, and complete once the preset has filled in the rest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::ppo::{Baseline, Config, Credit, Deployment, Form, Part, Ratio};
use raisin_settings::{AdaptationSettings, Schedule};

use crate::is_off;

/// Parameters of a `selector` stage, as written: what is not given comes from the preset.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The stage whose instructions are selected from.
    pub instructions: String,
    /// The `clusters` stage with the candidates' static states.
    pub features: String,
    /// The stage whose model plays the episodes: the target itself, a smaller model, or a frozen-prefix proxy.
    pub model: String,
    /// The task: its validation examples measure the performance, whose changes are the rewards.
    pub task: String,
    /// `default` or `paper`: fills what is not given below.
    #[serde(default)]
    pub preset: Preset,
    /// How the model is adapted in an episode.
    #[serde(default)]
    pub adaptation: AdaptationSettings,
    /// Of the model in an episode. Default 2e-4, paper 2e-5.
    #[serde(default)]
    pub learning_rate: Option<f64>,
    /// Of the model's learning rate over an episode.
    #[serde(default)]
    pub schedule: Schedule,
    /// The share of an episode's steps in which the model's learning rate rises.
    #[serde(default)]
    pub warmup: f64,
    /// Longer sequences are cut at this many tokens.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// A forward pass holds at most this many tokens; memory depends on it, results (but for rounding) do not.
    #[serde(default = "default_micro_batch_tokens")]
    pub micro_batch_tokens: usize,
    /// Compute activations again in the backward pass instead of keeping them: less memory, a third more work.
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// K: rounds, each of one episode or more, and followed by an update. Both presets: 20.
    #[serde(default)]
    pub rounds: Option<usize>,
    /// Episodes of a round, played side by side and learnt from in one update. LoRA adapters of several episodes share
    /// the passes over the frozen base; with `full` and `top_layers` every episode has a copy of what it trains.
    #[serde(default = "one")]
    pub episodes_per_round: usize,
    /// T: training steps of an episode. Both presets: 60.
    #[serde(default)]
    pub steps: Option<usize>,
    /// B: instructions of a step. Both presets: 16.
    #[serde(default)]
    pub batch_size: Option<usize>,
    /// The performance is measured every so many steps; its change is shared evenly by the steps between. Both
    /// presets: 1.
    #[serde(default)]
    pub evaluate_every: Option<usize>,
    /// `hierarchical` (default): which clusters fill the batch, then the items within them; `per_cluster` (paper):
    /// B/C from every cluster; `flat`: all candidates compete.
    #[serde(default)]
    pub policy: Option<Form>,
    /// Hierarchical form: how many clusters fill a batch. Both presets: 2.
    #[serde(default)]
    pub clusters_per_step: Option<usize>,
    /// The parts of the fused state; leaving one out is an ablation. Both presets: all four.
    #[serde(default)]
    pub state: Option<Vec<Part>>,
    /// Episodes draw from the policy (default: true); false takes the top b, as the paper does, whose old policy is
    /// then deterministic.
    #[serde(default)]
    pub explore: Option<bool>,
    /// How the trained policy chooses for the target: `sample`, as it was trained and judged (default), or `top`, the
    /// highest scores (paper).
    #[serde(default)]
    pub deployment: Option<Deployment>,
    /// Subtracted from an item's score for each time that it was already selected in the run. Default 2, paper 0.
    #[serde(default)]
    pub reuse_penalty: Option<f64>,
    /// Hidden layers of the actor. Both presets: [64].
    #[serde(default)]
    pub actor_widths: Option<Vec<usize>>,
    /// Hidden layers of the critic. Both presets: [64].
    #[serde(default)]
    pub critic_widths: Option<Vec<usize>>,
    /// Default 0.01, paper 0.1.
    #[serde(default)]
    pub actor_learning_rate: Option<f64>,
    /// Default 0.01, paper 0.2.
    #[serde(default)]
    pub critic_learning_rate: Option<f64>,
    /// Of actor and critic, decoupled. Default 0, paper 0.01.
    #[serde(default)]
    pub weight_decay: Option<f64>,
    /// Learning rates of actor and critic fall linearly over the rounds. Default true, paper false.
    #[serde(default)]
    pub decay_learning_rate: Option<bool>,
    /// Discount. Default 0 (a step is credited with its own reward), paper 0.99.
    #[serde(default)]
    pub gamma: Option<f64>,
    /// Of generalised advantage estimation; of no effect where gamma is 0. Default 0.95, paper 1.
    #[serde(default)]
    pub lambda: Option<f64>,
    /// PPO's clip range. Both presets: 0.2.
    #[serde(default)]
    pub epsilon: Option<f64>,
    /// How the ratios of a batch's draws are joined: `mean` (geometric), `product` (paper), or `item` (default: each
    /// clipped by itself, as credit by contribution needs it).
    #[serde(default)]
    pub ratio: Option<Ratio>,
    /// Passes over the episode in an update. Default 6, paper preset 1 (the paper does not say).
    #[serde(default)]
    pub epochs: Option<usize>,
    /// Parts of a pass, each followed by a step of the optimizer. Default 4, paper preset 1 (the paper does not say).
    #[serde(default)]
    pub minibatches: Option<usize>,
    /// Times the entropy of a slot, added to the objective. Both presets: 0.
    #[serde(default)]
    pub entropy_bonus: Option<f64>,
    /// The largest gradient norm, of actor and critic each. Both presets: 0.5.
    #[serde(default)]
    pub gradient_clip: Option<f64>,
    /// An update ends once approx_kl is above this; 0 never ends it. Both presets: 0.
    #[serde(default)]
    pub target_kl: Option<f64>,
    /// Advantages of an episode are scaled to mean 0 and variance 1. Default true, paper false.
    #[serde(default)]
    pub normalise_advantage: Option<bool>,
    /// Rewards are divided by their standard deviation so far. Default true, paper false.
    #[serde(default)]
    pub normalise_reward: Option<bool>,
    /// What is subtracted from a reward: `critic` (paper), the mean at this `step` over the rounds so far, or `both`
    /// (default).
    #[serde(default)]
    pub baseline: Option<Baseline>,
    /// `contribution` (default): each draw has what its item is estimated to have contributed; `shared` (paper): all
    /// draws of a step have the step's advantage.
    #[serde(default)]
    pub credit: Option<Credit>,
}

fn one() -> usize {
    1
}

fn default_max_tokens() -> usize {
    512
}

fn default_micro_batch_tokens() -> usize {
    4096
}

/// The same with every value filled in. What is written out in full and what a preset fills in come to the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Parameters {
    pub instructions: String,
    pub features: String,
    pub model: String,
    pub task: String,
    pub preset: Preset,
    pub adaptation: AdaptationSettings,
    pub learning_rate: f64,
    pub schedule: Schedule,
    pub warmup: f64,
    pub max_tokens: usize,
    pub micro_batch_tokens: usize,
    #[serde(skip_serializing_if = "is_off")]
    pub activation_checkpointing: bool,
    pub rounds: usize,
    pub episodes_per_round: usize,
    pub steps: usize,
    pub batch_size: usize,
    pub evaluate_every: usize,
    pub policy: Form,
    pub clusters_per_step: usize,
    pub state: Vec<Part>,
    pub explore: bool,
    pub deployment: Deployment,
    pub reuse_penalty: f64,
    pub actor_widths: Vec<usize>,
    pub critic_widths: Vec<usize>,
    pub actor_learning_rate: f64,
    pub critic_learning_rate: f64,
    pub weight_decay: f64,
    pub decay_learning_rate: bool,
    pub gamma: f64,
    pub lambda: f64,
    pub epsilon: f64,
    pub ratio: Ratio,
    pub epochs: usize,
    pub minibatches: usize,
    pub entropy_bonus: f64,
    pub gradient_clip: f64,
    pub target_kl: f64,
    pub normalise_advantage: bool,
    pub normalise_reward: bool,
    pub baseline: Baseline,
    pub credit: Credit,
}

impl JsonSchema for Parameters {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SelectorParameters".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Written::json_schema(generator)
    }
}

impl From<Written> for Parameters {
    fn from(written: Written) -> Self {
        let (preset, learning_rate) = match written.preset {
            Preset::Default => (Config::standard(), 2e-4),
            Preset::Paper => (Config::paper(), 2e-5),
        };
        Self {
            instructions: written.instructions,
            features: written.features,
            model: written.model,
            task: written.task,
            preset: written.preset,
            adaptation: written.adaptation,
            learning_rate: written.learning_rate.unwrap_or(learning_rate),
            schedule: written.schedule,
            warmup: written.warmup,
            max_tokens: written.max_tokens,
            micro_batch_tokens: written.micro_batch_tokens,
            activation_checkpointing: written.activation_checkpointing,
            rounds: written.rounds.unwrap_or(preset.rounds),
            episodes_per_round: written.episodes_per_round,
            steps: written.steps.unwrap_or(preset.steps),
            batch_size: written.batch_size.unwrap_or(preset.batch_size),
            evaluate_every: written.evaluate_every.unwrap_or(preset.evaluate_every),
            policy: written.policy.unwrap_or(preset.policy),
            clusters_per_step: written.clusters_per_step.unwrap_or(preset.clusters_per_step),
            state: written.state.unwrap_or(preset.state),
            explore: written.explore.unwrap_or(preset.explore),
            deployment: written.deployment.unwrap_or(preset.deployment),
            reuse_penalty: written.reuse_penalty.unwrap_or(preset.reuse_penalty),
            actor_widths: written.actor_widths.unwrap_or(preset.actor_widths),
            critic_widths: written.critic_widths.unwrap_or(preset.critic_widths),
            actor_learning_rate: written.actor_learning_rate.unwrap_or(preset.actor_learning_rate),
            critic_learning_rate: written.critic_learning_rate.unwrap_or(preset.critic_learning_rate),
            weight_decay: written.weight_decay.unwrap_or(preset.weight_decay),
            decay_learning_rate: written.decay_learning_rate.unwrap_or(preset.decay_learning_rate),
            gamma: written.gamma.unwrap_or(preset.gamma),
            lambda: written.lambda.unwrap_or(preset.lambda),
            epsilon: written.epsilon.unwrap_or(preset.epsilon),
            ratio: written.ratio.unwrap_or(preset.ratio),
            epochs: written.epochs.unwrap_or(preset.epochs),
            minibatches: written.minibatches.unwrap_or(preset.minibatches),
            entropy_bonus: written.entropy_bonus.unwrap_or(preset.entropy_bonus),
            gradient_clip: written.gradient_clip.unwrap_or(preset.gradient_clip),
            target_kl: written.target_kl.unwrap_or(preset.target_kl),
            normalise_advantage: written.normalise_advantage.unwrap_or(preset.normalise_advantage),
            normalise_reward: written.normalise_reward.unwrap_or(preset.normalise_reward),
            baseline: written.baseline.unwrap_or(preset.baseline),
            credit: written.credit.unwrap_or(preset.credit),
        }
    }
}

impl Parameters {
    /// What the selector room is told.
    pub fn config(&self) -> Config {
        Config {
            rounds: self.rounds,
            steps: self.steps,
            batch_size: self.batch_size,
            evaluate_every: self.evaluate_every,
            policy: self.policy,
            clusters_per_step: self.clusters_per_step,
            state: self.state.clone(),
            explore: self.explore,
            deployment: self.deployment,
            reuse_penalty: self.reuse_penalty,
            actor_widths: self.actor_widths.clone(),
            critic_widths: self.critic_widths.clone(),
            actor_learning_rate: self.actor_learning_rate,
            critic_learning_rate: self.critic_learning_rate,
            weight_decay: self.weight_decay,
            decay_learning_rate: self.decay_learning_rate,
            gamma: self.gamma,
            lambda: self.lambda,
            epsilon: self.epsilon,
            ratio: self.ratio,
            epochs: self.epochs,
            minibatches: self.minibatches,
            entropy_bonus: self.entropy_bonus,
            gradient_clip: self.gradient_clip,
            target_kl: self.target_kl,
            normalise_advantage: self.normalise_advantage,
            normalise_reward: self.normalise_reward,
            baseline: self.baseline,
            credit: self.credit,
        }
    }

    pub fn check(&self) -> Result<(), ParameterProblem> {
        let problem = |key: &str, message: &str| Err(ParameterProblem::new(format!("/{key}"), message));
        if let Some((key, message)) = self.adaptation.problem() {
            return problem(&format!("adaptation/{key}"), message);
        }
        if self.activation_checkpointing && self.episodes_per_round > 1 {
            return problem("activation_checkpointing", "is for one episode at a time: episodes_per_round = 1");
        }
        let counts = [
            ("rounds", self.rounds),
            ("episodes_per_round", self.episodes_per_round),
            ("steps", self.steps),
            ("batch_size", self.batch_size),
            ("evaluate_every", self.evaluate_every),
            ("clusters_per_step", self.clusters_per_step),
            ("epochs", self.epochs),
            ("minibatches", self.minibatches),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return problem(key, "must be at least 1");
        }
        let positive = [
            ("learning_rate", self.learning_rate),
            ("actor_learning_rate", self.actor_learning_rate),
            ("critic_learning_rate", self.critic_learning_rate),
            ("epsilon", self.epsilon),
            ("gradient_clip", self.gradient_clip),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            return problem(key, "must be a number above 0");
        }
        for (key, value) in [("gamma", self.gamma), ("lambda", self.lambda)] {
            if !(0.0..=1.0).contains(&value) {
                return problem(key, "must be from 0 to 1");
            }
        }
        for (key, value) in [
            ("reuse_penalty", self.reuse_penalty),
            ("weight_decay", self.weight_decay),
            ("entropy_bonus", self.entropy_bonus),
            ("target_kl", self.target_kl),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return problem(key, "must not be negative");
            }
        }
        for (key, widths) in [("actor_widths", &self.actor_widths), ("critic_widths", &self.critic_widths)] {
            if widths.is_empty() || widths.contains(&0) {
                return problem(key, "needs at least one hidden layer, and none of width 0");
            }
        }
        if !self.state.iter().any(|part| matches!(part, Part::Difficulty | Part::Semantic)) {
            return Err(ParameterProblem::new("/state", "without difficulty and semantic all candidates are alike")
                .hint("keep at least one of them"));
        }
        if self.max_tokens < 2 {
            return problem("max_tokens", "a sequence needs at least 2 tokens");
        }
        if !(0.0..1.0).contains(&self.warmup) {
            return problem("warmup", "is a share of the steps, from 0 to below 1");
        }
        if self.credit == Credit::Contribution && self.ratio != Ratio::Item {
            return Err(ParameterProblem::new("/credit", "credit for each item needs a ratio for each item")
                .hint("ratio = \"item\", or credit = \"shared\""));
        }
        Ok(())
    }
}

pub struct Selector;

impl Kind for Selector {
    const NAME: &'static str = "selector";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Trains a policy that selects instructions, by PPO over episodes on a proxy model.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["policy", "selection"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/instructions", &parameters.instructions, "instructions");
        needs.stage("/features", &parameters.features, "clusters");
        needs.stage("/model", &parameters.model, "model");
        needs.stage("/task", &parameters.task, "task");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        parameters.check()
    }
}

/// Which values fill what a pipeline file does not give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// What learned within 20 episodes in our measurements.
    #[default]
    Default,
    /// The paper's values, where it gives them.
    Paper,
}
