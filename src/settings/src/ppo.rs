//! The settings of the policy, of PPO and of the episodes (docs/method.md, sections 3 and 4), with two presets. The
//! crate selector uses the settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which candidates compete with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyForm {
    /// The policy first selects the clusters that fill the batch, and then the items within these clusters.
    Hierarchical,
    /// The policy selects B/C items from each of C clusters, as in the paper.
    PerCluster,
    /// All candidates compete in one softmax (C = 1).
    Flat,
}

/// How the ratios of the draws of a step are combined into PPO's ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    /// The geometric mean of the ratios, clipped once.
    Mean,
    /// The product of the ratios, clipped once, as in the paper. With B = 32, a change of 0.6 % per item leaves the
    /// clip range.
    Product,
    /// Each draw keeps its own ratio, which is clipped by itself.
    Item,
}

/// The baseline that is subtracted from a reward to give the advantage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The value V(S_t) of the critic.
    Critic,
    /// The mean reward at this step (and its neighbours) over the rounds so far.
    Step,
    /// First the mean of the step, then the critic's estimate of the remaining reward.
    Both,
}

/// How the reward of a step is credited to its draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Credit {
    /// Every draw of a step gets the advantage of the step.
    Shared,
    /// Each draw gets a weighted mean of two numbers: the contribution that a regression of the rewards on the features
    /// of the selected items estimates, with the regression's reliability as the weight, and the advantage of the step,
    /// with the rest of the weight.
    Contribution,
}

/// How the trained policy selects when it is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deployment {
    /// The policy takes the b highest scores.
    Top,
    /// The policy draws as in training.
    Sample,
}

/// A part of the fused state. Leaving out a part is an ablation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatePart {
    Stage,
    Difficulty,
    Semantic,
    Availability,
}

/// The hyper-parameters of the method, as a person writes them and as the selector takes them. What is not written comes
/// from a preset: [`PpoSettings::standard`] or [`PpoSettings::paper`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PpoSettings {
    /// K: rounds, each of one episode or more, and followed by an update. Both presets: 20.
    pub rounds: usize,
    /// Episodes of a round, played side by side and learnt from in one update. LoRA adapters of several episodes share
    /// the passes over the frozen base; with `full` and `top_layers` every episode has a copy of what it trains.
    #[serde(default = "one")]
    pub episodes_per_round: usize,
    /// T: training steps of an episode. Both presets: 60.
    pub steps: usize,
    /// B: instructions of a step. Both presets: 16.
    pub batch_size: usize,
    /// The performance is measured every so many steps; its change is shared evenly by the steps between. Both
    /// presets: 1.
    pub evaluate_every: usize,
    /// `hierarchical` (default): which clusters fill the batch, then the items within them; `per_cluster` (paper):
    /// B/C from every cluster; `flat`: all candidates compete.
    pub policy: PolicyForm,
    /// Hierarchical form: how many clusters fill a batch. Both presets: 2.
    pub clusters_per_step: usize,
    /// The parts of the fused state; leaving one out is an ablation. Both presets: all four.
    pub state: Vec<StatePart>,
    /// Episodes draw from the policy (default: true); false takes the top b, as the paper does, whose old policy is
    /// then deterministic.
    pub explore: bool,
    /// How the trained policy chooses for the target: `sample`, as it was trained and judged (default), or `top`, the
    /// highest scores (paper).
    pub deployment: Deployment,
    /// Subtracted from an item's score for each time that it was already selected in the run. Default 2, paper 0.
    pub reuse_penalty: f64,
    /// Hidden layers of the actor. Both presets: [64].
    pub actor_widths: Vec<usize>,
    /// Hidden layers of the critic. Both presets: [64].
    pub critic_widths: Vec<usize>,
    /// Default 0.01, paper 0.1.
    pub actor_learning_rate: f64,
    /// Default 0.01, paper 0.2.
    pub critic_learning_rate: f64,
    /// Of actor and critic, decoupled. Default 0, paper 0.01.
    pub weight_decay: f64,
    /// Learning rates of actor and critic fall linearly over the rounds. Default true, paper false.
    pub decay_learning_rate: bool,
    /// Discount. Default 0 (a step is credited with its own reward), paper 0.99.
    pub gamma: f64,
    /// Of generalised advantage estimation; of no effect where gamma is 0. Default 0.95, paper 1.
    pub lambda: f64,
    /// PPO's clip range. Both presets: 0.2.
    pub epsilon: f64,
    /// How the ratios of a batch's draws are joined: `mean` (geometric), `product` (paper), or `item` (default: each
    /// clipped by itself, as credit by contribution needs it).
    pub ratio: Ratio,
    /// Passes over the episode in an update. Default 6, paper preset 1 (the paper does not say).
    pub epochs: usize,
    /// Parts of a pass, each followed by a step of the optimizer. Default 4, paper preset 1 (the paper does not say).
    pub minibatches: usize,
    /// Times the entropy of a slot, added to the objective. Both presets: 0.
    pub entropy_bonus: f64,
    /// The largest gradient norm, of actor and critic each. Both presets: 0.5.
    pub gradient_clip: f64,
    /// An update ends once approx_kl is above this; 0 never ends it. Both presets: 0.
    pub target_kl: f64,
    /// Advantages of an episode are scaled to mean 0 and variance 1. Default true, paper false.
    pub normalise_advantage: bool,
    /// Rewards are divided by their standard deviation so far. Default true, paper false.
    pub normalise_reward: bool,
    /// What is subtracted from a reward: `critic` (paper), the mean at this `step` over the rounds so far, or `both`
    /// (default).
    pub baseline: Baseline,
    /// `contribution` (default): each draw has what its item is estimated to have contributed; `shared` (paper): all
    /// draws of a step have the step's advantage.
    pub credit: Credit,
}

fn one() -> usize {
    1
}

impl PpoSettings {
    /// The preset that learned fastest in our trials. On the toy learner of the tests, the share of relevant picks starts at
    /// .12 and passes .9 in the sixth of twenty rounds. The test `compare_variants` of raisin-selector compares other values.
    pub fn standard() -> Self {
        Self {
            rounds: 20,
            episodes_per_round: 1,
            steps: 60,
            batch_size: 16,
            evaluate_every: 1,
            policy: PolicyForm::Hierarchical,
            clusters_per_step: 2,
            state: vec![StatePart::Stage, StatePart::Difficulty, StatePart::Semantic, StatePart::Availability],
            explore: true,
            deployment: Deployment::Sample,
            reuse_penalty: 2.0,
            actor_widths: vec![64],
            critic_widths: vec![64],
            actor_learning_rate: 1e-2,
            critic_learning_rate: 1e-2,
            weight_decay: 0.0,
            decay_learning_rate: true,
            gamma: 0.0,
            lambda: 0.95,
            epsilon: 0.2,
            ratio: Ratio::Item,
            epochs: 6,
            minibatches: 4,
            entropy_bonus: 0.0,
            gradient_clip: 0.5,
            target_kl: 0.0,
            normalise_advantage: true,
            normalise_reward: true,
            baseline: Baseline::Both,
            credit: Credit::Contribution,
        }
    }

    /// The paper's values. A setting that the paper does not give has the value of the standard preset.
    pub fn paper() -> Self {
        Self {
            policy: PolicyForm::PerCluster,
            explore: false,
            deployment: Deployment::Top,
            reuse_penalty: 0.0,
            actor_learning_rate: 1e-1,
            critic_learning_rate: 2e-1,
            weight_decay: 1e-2,
            decay_learning_rate: false,
            gamma: 0.99,
            lambda: 1.0,
            ratio: Ratio::Product,
            epochs: 1,
            minibatches: 1,
            normalise_advantage: false,
            normalise_reward: false,
            baseline: Baseline::Critic,
            credit: Credit::Shared,
            ..Self::standard()
        }
    }

    pub fn uses(&self, part: StatePart) -> bool {
        self.state.contains(&part)
    }
}
