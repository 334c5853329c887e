//! What an artifact of kind `influence` holds.

use raisin_contract::outputs::ColumnType::{F32, Text, U32};
use raisin_contract::outputs::{
    ColumnDeclaration, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table,
};

const MISSING: &str = "if `missing` has a reason";

const COLUMNS: &[ColumnDeclaration] = &[
    column("id", U32, "the `id` of the instruction in the pool"),
    column("loss", F32, "the mean loss, in nats, of the supervised tokens under the model").null(MISSING),
    column("warm_loss", F32, "the same loss after the training on the validation examples").null(MISSING),
    column("drop", F32, "`loss` - `warm_loss`").null(MISSING),
    column("relative_drop", F32, "`drop` / `loss`").null(MISSING),
    column(
        "alignment",
        F32,
        "the highest cosine of the row's gradient with the gradient of a group of validation examples, from -1 to 1",
    )
    .only("with `alignment`")
    .null(MISSING),
    column("missing", Text, "why a value of the row is missing").null("if no value is missing"),
];

pub const TABLES: &[TableDeclaration] =
    &[table("columns", "One row for each instruction of the pool.", &[COLUMNS]), super::ENCODING];

pub const FILES: &[&[FileDeclaration]] = &[&[file(
    "summary.json",
    "the steps, the performance before and after them, and the tokens and floating-point operations of all passes",
)]];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "The influence of the task on a pool, as a part of the state",
    text: include_str!("../../examples/influence.toml"),
}];
