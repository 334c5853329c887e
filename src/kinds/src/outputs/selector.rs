//! What an artifact of kind `selector` holds.

use raisin_contract::outputs::ColumnType::{Bool, F64, U32};
use raisin_contract::outputs::{
    ColumnDeclaration, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table,
};

const ROUNDS: &[ColumnDeclaration] = &[
    column("round", U32, "the number of the round, from 0"),
    column("episode_reward", F64, "the sum of the rewards of an episode, P(M_T) - P(M_0), in nats per token"),
    column("final_performance", F64, "the performance after the last step, P(M_T), in nats per token"),
    column("policy_loss", F64, "the loss of the actor in the update"),
    column("value_loss", F64, "the loss of the critic in the update"),
    column("entropy", F64, "the entropy, in nats, of the choice of one slot"),
    column("approx_kl", F64, "the approximate KL divergence, in nats, from the old to the new policy"),
    column("clipfrac", F64, "the share of the ratios that left the clip range, from 0 to 1"),
    column("explained_variance", F64, "the share of the variance of the returns that the critic explains")
        .null("if the returns do not vary"),
    column(
        "effective_candidates",
        F64,
        "e to the power of `entropy`: among how many candidates a slot is drawn in effect",
    ),
    column("actor_learning_rate", F64, "the learning rate of the actor in the update"),
    column("epochs", U32, "the number of passes over the steps of the round"),
    column("credit_reliability", F64, "how reliable the estimated contributions are, from 0 to 1")
        .null("without `credit = \"contribution\"`"),
    column("kept", Bool, "whether the policy that played the round is the best so far"),
];

const EPISODE: &[ColumnDeclaration] = &[
    column("round", U32, "the number of the round, from 0"),
    column("episode", U32, "the number of the episode in its round, from 0"),
];

const MEASURED: &[ColumnDeclaration] = &[
    column("performance", F64, "the performance after the step, in nats per token").null("if it was not measured"),
    column("reward", F64, "the reward of the step, in nats per token"),
    column("value", F64, "the value that the critic estimated before the step"),
];

const STEP: &[ColumnDeclaration] = &[
    column("step", U32, "the number of the step in its episode, from 0"),
    column("loss", F64, "the mean loss, in nats, of the supervised tokens of the batch, before the update"),
];

const STEP_NUMBER: &[ColumnDeclaration] = &[column("step", U32, "the number of the step in its episode, from 0")];

pub const TABLES: &[TableDeclaration] = &[
    table("rounds", "One row for each round.", &[ROUNDS]),
    table("steps", "One row for each step of each episode.", &[EPISODE, STEP, MEASURED, super::STEP_COSTS]),
    table("selection", "One row for each selected instruction.", &[EPISODE, STEP_NUMBER, super::SELECTED]),
    super::ENCODING,
];

pub const FILES: &[&[FileDeclaration]] = &[&[
    file("policy.safetensors", "the weights of actor and critic of the best policy"),
    file("policy.json", "the constants of the policy: its form, its widths and the columns of its state"),
    file("summary.json", "the evaluations and floating-point operations of the training and of the passes before it"),
    file("references.json", "the digest of the artifact with the clusters: `{\"features\": ...}`"),
]];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline {
        title: "A policy that is trained on the base itself",
        text: include_str!("../../examples/selector.toml"),
    },
    ExamplePipeline { title: "The paper's values", text: include_str!("../../examples/selector-paper.toml") },
];
