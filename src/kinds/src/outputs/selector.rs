//! What an artifact of kind `selector` holds.

use raisin_contract::outputs::ColumnType::{Bool, F64, Text, U32};
use raisin_contract::outputs::{
    ColumnDeclaration, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table,
};

const NOT_PPO: &str = "if `learner` is not `ppo`";

const ROUNDS: &[ColumnDeclaration] = &[
    column("round", U32, "the number of the round, from 0"),
    column("episode_reward", F64, "the sum of the rewards of an episode, P(M_T) - P(M_0), in nats per token"),
    column("final_performance", F64, "the performance after the last step, P(M_T), in nats per token"),
    column("policy_loss", F64, "the loss of the actor in the update").null(NOT_PPO),
    column("value_loss", F64, "the loss of the critic in the update").null(NOT_PPO),
    column("entropy", F64, "the entropy, in nats, of the choice of one slot"),
    column("approx_kl", F64, "the approximate KL divergence, in nats, from the old to the new policy").null(NOT_PPO),
    column("clipfrac", F64, "the share of the ratios that left the clip range, from 0 to 1").null(NOT_PPO),
    column("explained_variance", F64, "the share of the variance of the returns that the critic explains")
        .null("if the returns do not vary, or `learner` is not `ppo`"),
    column(
        "effective_candidates",
        F64,
        "e to the power of `entropy`: among how many candidates a slot is drawn in effect",
    ),
    column("actor_learning_rate", F64, "the learning rate of the actor in the update").null(NOT_PPO),
    column("epochs", U32, "the number of passes over the steps of the round").null(NOT_PPO),
    column("credit_reliability", F64, "how reliable the estimated contributions or effects are, from 0 to 1")
        .null("with `credit = \"shared\"`"),
    column("measured_effects", U32, "the number of effects that were measured so far")
        .null("without `credit = \"effect\"`"),
    column("explained_by_prior", F64, "the share of the variance of the effects that the prior explains alone")
        .null("without a prior, or without `credit = \"effect\"`"),
    column("kept", Bool, "whether the policy that played the round has the best performance near its end so far"),
];

const EPISODE: &[ColumnDeclaration] = &[
    column("round", U32, "the number of the round, from 0"),
    column("episode", U32, "the number of the episode in its round, from 0"),
];

const MEASURED: &[ColumnDeclaration] = &[
    column("performance", F64, "the performance after the step, in nats per token").null("if it was not measured"),
    column("reward", F64, "the reward of the step, in nats per token"),
    column("value", F64, "the value that the critic estimated before the step; 0 without a critic"),
];

const STEP: &[ColumnDeclaration] = &[
    column("step", U32, "the number of the step in its episode, from 1"),
    column("loss", F64, "the mean loss, in nats, of the supervised tokens of the batch, before the update"),
];

const STEP_NUMBER: &[ColumnDeclaration] = &[column("step", U32, "the number of the step in its episode, from 1")];

const EFFECT: &[ColumnDeclaration] = &[
    column("step", U32, "the step before which the effect was measured, from 1"),
    column("id", U32, "the `id` of the instruction in the pool"),
    column(
        "effect",
        F64,
        "how much a virtual step on the validation set lowers the loss of the row, in nats per token",
    ),
    column(
        "weighted_effect",
        F64,
        "what the row adds to the effect of a batch: the effect minus the mean over the tokens of the measurement, times the tokens \
         of the row as a multiple of their mean",
    ),
    column("drawn", Bool, "whether the row belongs to the batch of the step; the other rows are probes"),
];

/// An effect at the start, in the middle and at the end of a training.
const AT_PLACES: &[ColumnDeclaration] = &[
    column("prior", F64, "the part of the effect that the prior declares"),
    column("at_start", F64, "the effect at the start of a training, with the part of the prior"),
    column("at_start_deviation", F64, "the standard deviation of `at_start`, given the measurements"),
    column("in_middle", F64, "the effect in the middle of a training"),
    column("in_middle_deviation", F64, "the standard deviation of `in_middle`"),
    column("at_end", F64, "the effect at the end of a training"),
    column("at_end_deviation", F64, "the standard deviation of `at_end`"),
];

const STATE_COLUMN: &[ColumnDeclaration] =
    &[column("column", Text, "the column of the state, a cluster such as `cluster.03`, or `times_selected`")];

const CANDIDATE: &[ColumnDeclaration] = &[
    column("id", U32, "the `id` of the instruction in the pool"),
    column("cluster", U32, "the cluster of the instruction"),
];

const POSTERIOR: &str = "with `learner = \"posterior\"`";

pub const TABLES: &[TableDeclaration] = &[
    table("rounds", "One row for each round.", &[ROUNDS]),
    table("steps", "One row for each step of each episode.", &[EPISODE, STEP, MEASURED, super::STEP_COSTS]),
    table("selection", "One row for each selected instruction.", &[EPISODE, STEP_NUMBER, super::SELECTED]),
    table("effects", "One row for each measured effect of a candidate.", &[EPISODE, EFFECT])
        .only("with `credit = \"effect\"`"),
    table(
        "column_effects",
        "One row for each column of the state: how much one standard deviation of the column changes the weighted \
         effect of a row, in standard deviations of these effects. `times_selected` is the change by one earlier selection.",
        &[STATE_COLUMN, AT_PLACES],
    )
    .only(POSTERIOR),
    table(
        "expected",
        "One row for each candidate: its expected weighted effect, in standard deviations of these effects.",
        &[CANDIDATE, AT_PLACES],
    )
    .only(POSTERIOR),
    super::ENCODING,
];

pub const FILES: &[&[FileDeclaration]] = &[&[
    file("policy.safetensors", "the weights of the policy: of actor and critic, or of the linear scores"),
    file(
        "policy.json",
        "the constants of the policy: its form, its widths, the columns and the range of its state, and how its \
         episodes were played",
    ),
    file(
        "summary.json",
        "the tokens, evaluations and floating-point operations of the training, and the passes before it",
    ),
    file("references.json", "the digest of the artifact with the clusters: `{\"features\": ...}`"),
]];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline {
        title: "A policy that is trained on the base itself",
        text: include_str!("../../examples/selector.toml"),
    },
    ExamplePipeline { title: "PPO", text: include_str!("../../examples/selector-ppo.toml") },
    ExamplePipeline { title: "The paper's values", text: include_str!("../../examples/selector-paper.toml") },
];
