//! The settings of the policy, of PPO and of the episodes (docs/method.md, sections 3 and 4), with three presets. The
//! crate selector uses the settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which candidates compete with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyForm {
    /// The policy first selects the clusters that fill the batch, and then the candidates within these clusters.
    Hierarchical,
    /// The policy selects B/C candidates from each of C clusters, as in the paper.
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
    /// The product of the ratios, clipped once, as in the paper. With B = 32, a change of 0.6 % per draw leaves the
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

/// How the policy learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLearner {
    /// A Bayesian linear regression of measured effects on the state and on the stage. The policy of the next round
    /// draws its weights from the posterior.
    Posterior,
    /// Proximal policy optimization of an MLP, as in the paper.
    Ppo,
}

/// The score with which the policy starts, before it has learned anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prior {
    /// All candidates are equal.
    None,
    /// The similarity of the candidate to the validation examples.
    Similarity,
}

/// How the reward of a step is credited to its draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Credit {
    /// Every draw of a step gets the advantage of the step.
    Shared,
    /// Each draw gets a weighted mean of two numbers: the contribution that a regression of the rewards on the features
    /// of the selected candidates estimates, with the regression's reliability as the weight, and the advantage of the
    /// step, with the rest of the weight.
    Contribution,
    /// The effect of each draw on the validation loss is measured, by a virtual step on the validation set.
    Effect,
}

/// Which policy is the result of the training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The mean of the weights after each update of the last half of the rounds, the last update included.
    Average,
    /// The policy with the best mean performance over the last quarter of the steps of its round.
    Best,
    /// The policy after the last update.
    Last,
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

/// How a policy concentrates its draws, so that a training repeats its rows `repeats` times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Concentration {
    /// A step draws evenly among the candidates with the highest scores: as many as the training has draws, divided by
    /// `repeats`.
    Limit,
    /// The scores are multiplied by a factor, at most 8, so that the effective number of candidates is the same number.
    #[default]
    Scale,
}

/// A part of the fused state. Leaving out a part is an ablation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatePart {
    /// The progress of the training: the share of the steps that are done, and the performance gained so far.
    Stage,
    /// The lengths and the log-probabilities of the candidate.
    Difficulty,
    /// The embedding of the candidate, reduced by the `clusters` stage.
    Semantic,
    /// How often the candidate was already selected in this training.
    Availability,
    /// The similarity of the candidate to the validation examples.
    Target,
    /// The columns of an `influence` stage that the `clusters` stage joins.
    Influence,
    /// The file that the candidate comes from, if the `clusters` stage has the `instructions`.
    Source,
}

/// The hyper-parameters of the method. A setting that a pipeline file does not give has the value of a preset:
/// [`PpoSettings::standard`], [`PpoSettings::ppo`] or [`PpoSettings::paper`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PpoSettings {
    /// How the policy learns: `posterior` (default) or `ppo` (presets `ppo` and `paper`).
    pub learner: PolicyLearner,
    /// The score with which the policy starts: `similarity` (default) or `none` (presets `ppo` and `paper`). Without
    /// features of the validation examples, there is no prior, and a note says so.
    pub prior: Prior,
    /// The factor of the prior: the score of a candidate whose prior column lies one standard deviation above the mean
    /// of the pool. Default 1.5.
    pub prior_weight: f64,
    /// With `learner = "posterior"`: the score per standard deviation of the effects. Larger numbers concentrate the
    /// selection on the candidates with the largest expected effect. Default 5.
    pub sharpness: f64,
    /// With `learner = "posterior"` and `policy = "flat"`: about how often a row is repeated in a training. `concentration`
    /// says how this decides the draws. With 0, the policy draws by its scores alone. Default 3.
    pub repeats: f64,
    /// With `repeats`: `limit` (default) draws evenly among the candidates with the highest scores, as many as the training
    /// has draws, divided by `repeats`. `scale` multiplies the scores by a factor, at most 8, so that the effective number of
    /// candidates is this number; so does a policy that takes the highest scores (`explore = false`, `deployment = "top"`).
    pub concentration: Concentration,
    /// With `credit = "effect"`: the number of steps from one measurement of effects to the next. Default 2.
    pub effects_every: usize,
    /// With `credit = "effect"`: the number of candidates in a measurement beside those of the batch, drawn uniformly
    /// from the pool. Default 16.
    pub probes: usize,
    /// K: the number of rounds. A round has one or more episodes, and ends with an update of the policy. With 0 rounds,
    /// the policy is the prior alone. Default 4, `ppo` and `paper` 20.
    pub rounds: usize,
    /// The number of episodes of a round, which are played side by side and used in one update. LoRA adapters of
    /// several episodes share the passes over the frozen base. With `full` and `top_layers`, each episode has a copy of
    /// the weights that it trains.
    #[serde(default = "one")]
    pub episodes_per_round: usize,
    /// T: the number of training steps of an episode. All presets: 60.
    pub steps: usize,
    /// B: the number of instructions in a step. All presets: 16.
    pub batch_size: usize,
    /// The number of steps from one measurement of the performance to the next. The steps between two measurements
    /// share the change of the performance evenly. Default 10, `ppo` and `paper` 1.
    pub evaluate_every: usize,
    /// `flat` (default): all candidates compete. `hierarchical` (`ppo`): the policy first selects the clusters that fill
    /// the batch, and then the candidates within these clusters. `per_cluster` (paper): the policy selects B/C
    /// candidates from each cluster.
    pub policy: PolicyForm,
    /// With `hierarchical`: the number of shares of a batch. Each share draws its cluster, so that one cluster can fill
    /// the whole batch. All presets: 2.
    pub clusters_per_step: usize,
    /// The parts of the fused state. Leaving out a part is an ablation. Default: all parts; `ppo` and `paper`: `stage`,
    /// `difficulty`, `semantic` and `availability`.
    pub state: Vec<StatePart>,
    /// True (default): the episodes draw from the policy. False (paper): the episodes take the b highest scores, so
    /// that the old policy is deterministic.
    pub explore: bool,
    /// How the trained policy selects for the target model. `sample` (default): the policy draws as in training. `top`
    /// (paper): the policy takes the highest scores.
    pub deployment: Deployment,
    /// The number that is subtracted from the score of a candidate for each earlier selection of the candidate in the
    /// run. Default 1, `ppo` 2, paper 0.
    pub reuse_penalty: f64,
    /// The widths of the hidden layers of the actor. All presets: [64].
    pub actor_widths: Vec<usize>,
    /// The widths of the hidden layers of the critic. All presets: [64].
    pub critic_widths: Vec<usize>,
    /// The learning rate of the actor. Default 0.01, paper 0.1.
    pub actor_learning_rate: f64,
    /// The learning rate of the critic. Default 0.01, paper 0.2.
    pub critic_learning_rate: f64,
    /// The decoupled weight decay of actor and critic. Default 0, paper 0.01.
    pub weight_decay: f64,
    /// True: the learning rates of actor and critic fall linearly over the rounds. Default true, paper false.
    pub decay_learning_rate: bool,
    /// The discount of later rewards. Default 0 (a step is credited only with its own reward), paper 0.99.
    pub gamma: f64,
    /// The lambda of generalised advantage estimation. If `gamma` is 0, lambda has no effect. Default 0.95, paper 1.
    pub lambda: f64,
    /// The clip range of PPO. All presets: 0.2.
    pub epsilon: f64,
    /// How the ratios of the draws of a batch are combined: `mean` (geometric mean), `product` (paper) or `item`
    /// (default: each ratio is clipped by itself, as `credit = "contribution"` requires).
    pub ratio: Ratio,
    /// The number of passes over the steps of a round in an update. Default 6, paper preset 1 (the paper gives no
    /// number).
    pub epochs: usize,
    /// The number of minibatches in a pass. After each minibatch, the optimizer makes a step. Default 4, paper preset 1
    /// (the paper gives no number).
    pub minibatches: usize,
    /// The factor of the entropy of a slot, which is added to the objective. All presets: 0.
    pub entropy_bonus: f64,
    /// The largest gradient norm of the actor, and of the critic. All presets: 0.5.
    pub gradient_clip: f64,
    /// An update ends after the first epoch whose approx_kl, the mean over its minibatches, is above this number. With
    /// 0, approx_kl ends no update. All presets: 0.
    pub target_kl: f64,
    /// True: the advantages of a round are scaled to mean 0 and variance 1. Default true, paper false.
    pub normalise_advantage: bool,
    /// True: the rewards are divided by the standard deviation of all rewards so far. Default true, paper false.
    pub normalise_reward: bool,
    /// The baseline that is subtracted from a reward: the value of the `critic` (paper), the mean at this `step` over
    /// the rounds so far, or `both` (default).
    pub baseline: Baseline,
    /// `effect` (default): the effects of the drawn candidates and of others are measured. `contribution` (`ppo`): each
    /// draw gets a weighted mean of the advantage of the step and of the estimated contribution of its candidate; the
    /// weight is the reliability of the estimate. `shared` (paper): all draws of a step get the advantage of the step.
    pub credit: Credit,
    /// The policy that is the result of the training. `best` (default): the policy of the round with the best
    /// performance near its end. `average`: the mean of the weights after each update of the last half of the rounds. `last`
    /// (paper): the policy after the last update.
    pub keep: Keep,
}

fn one() -> usize {
    1
}

impl PpoSettings {
    /// The preset with the best results per cost in our measurements: a regression of measured effects.
    pub fn standard() -> Self {
        Self {
            learner: PolicyLearner::Posterior,
            prior: Prior::Similarity,
            reuse_penalty: 1.0,
            rounds: 4,
            evaluate_every: 10,
            policy: PolicyForm::Flat,
            state: vec![
                StatePart::Stage,
                StatePart::Difficulty,
                StatePart::Semantic,
                StatePart::Availability,
                StatePart::Target,
                StatePart::Influence,
                StatePart::Source,
            ],
            credit: Credit::Effect,
            ..Self::ppo()
        }
    }

    /// PPO with the values that learned fastest in our trials. On the toy learner of the tests, the share of relevant
    /// draws is .12 in the first round and .97 in the seventh of twenty rounds (mean over four seeds). The benchmark
    /// `compare_variants` of raisin-selector compares other values.
    pub fn ppo() -> Self {
        Self {
            learner: PolicyLearner::Ppo,
            prior: Prior::None,
            prior_weight: 1.5,
            sharpness: 5.0,
            repeats: 3.0,
            concentration: Concentration::Limit,
            effects_every: 2,
            probes: 16,
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
            keep: Keep::Best,
        }
    }

    /// The paper's values. A setting that the paper does not give has the value of the preset `ppo`.
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
            keep: Keep::Last,
            ..Self::ppo()
        }
    }

    pub fn uses(&self, part: StatePart) -> bool {
        self.state.contains(&part)
    }
}
