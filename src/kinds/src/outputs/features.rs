//! What an artifact of kind `features` holds.

use raisin_contract::outputs::ColumnType::{F32, Text, U32, Vector};
use raisin_contract::outputs::{
    ColumnDeclaration, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table,
};

const MISSING: &str = "if `missing` has a reason";
const NO_SECOND_PASS: &str = "if `missing` has a reason, and in all rows with `unconditional = false`";

pub const FEATURES: &[ColumnDeclaration] = &[
    column("id", U32, "the `id` of the instruction in the pool, or of the example in the table `validation`"),
    column("prompt_tokens", U32, "the number of the other tokens of the sequence").null(MISSING),
    column("response_tokens", U32, "the number of supervised tokens").null(MISSING),
    column("logp_conditional", F32, "the sum of the log-probabilities, in nats, of the response tokens").null(MISSING),
    column("logp_unconditional", F32, "the same sum for the responses alone, without the prompt").null(NO_SECOND_PASS),
    column("unconditional_tokens", U32, "the number of tokens of the responses alone").null(NO_SECOND_PASS),
    column("embedding", Vector, "the mean of the last hidden states over all tokens, or over those of the responses")
        .null(MISSING),
    column(
        "weighted_embedding",
        Vector,
        "the mean of the same states with the weights 1, 2, 3, ..., in the order of the tokens",
    )
    .null(MISSING),
    column("missing", Text, "why a value of the row is missing").null("if no value is missing"),
];

pub const TABLES: &[TableDeclaration] = &[
    table("features", "One row for each instruction of the pool.", &[FEATURES]),
    table("validation_features", "One row for each validation example.", &[FEATURES]).only("with `task`"),
    super::ENCODING,
];

pub const FILES: &[&[FileDeclaration]] = &[&[file(
    "summary.json",
    "the tokens and floating-point operations of the passes, whether there was a second pass, and `embedding`, if it is not \
     `whole`",
)]];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "Features of a pool and of the validation examples",
    text: include_str!("../../examples/features.toml"),
}];
