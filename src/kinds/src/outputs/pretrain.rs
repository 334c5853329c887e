//! What an artifact of kind `pretrain` holds.

use raisin_contract::outputs::ColumnType::F64;
use raisin_contract::outputs::{
    ColumnDeclaration, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table,
};

const UNMEASURED: &[ColumnDeclaration] = &[
    column("performance", F64, "empty here: the table `steps` of the kind `finetune` fills it").null("in every row"),
    column("reward", F64, "empty here: the table `steps` of the kind `finetune` fills it").null("in every row"),
    column("value", F64, "empty here: the table `steps` of the kind `selector` fills it").null("in every row"),
];

pub const TABLES: &[TableDeclaration] =
    &[table("steps", "One row for each step.", &[super::STEP, UNMEASURED, super::STEP_COSTS]), super::ENCODING];

pub const FILES: &[&[FileDeclaration]] = &[
    &[file("model.safetensors", "the trained weights")],
    super::MODEL_CONFIGURATION,
    &[file("summary.json", "the steps, tokens and floating-point operations of the training")],
];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "A small model from fresh weights",
    text: include_str!("../../examples/pretrain.toml"),
}];
