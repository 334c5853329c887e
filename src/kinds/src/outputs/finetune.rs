//! What an artifact of kind `finetune` holds.

use raisin_contract::outputs::ColumnType::{F64, U32};
use raisin_contract::outputs::{
    ColumnDeclaration, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table,
};

const MEASURED: &[ColumnDeclaration] = &[
    column("performance", F64, "the performance after the step, in nats per token").null("if it was not measured"),
    column("reward", F64, "the change of the performance by the step, in nats per token")
        .null("if the performance was not measured before and after the step"),
    column("value", F64, "empty here: the table `steps` of the kind `selector` fills it").null("in every row"),
];

const PLACE: &[ColumnDeclaration] = &[
    column("round", U32, "empty here: the table `selection` of the kind `selector` fills it").null("in every row"),
    column("step", U32, "the number of the step, from 1"),
];

pub const TABLES: &[TableDeclaration] = &[
    table("steps", "One row for each step.", &[super::STEP, MEASURED, super::STEP_COSTS]),
    table("selection", "One row for each selected instruction.", &[PLACE, super::SELECTED]),
    super::ENCODING,
];

const ADAPTER: &str = "with LoRA and without `merge`";

pub const FILES: &[&[FileDeclaration]] = &[
    &[
        file("model.safetensors", "all weights").only("without LoRA, or with `merge`"),
        file("adapter_model.safetensors", "the matrices of the adapter, in the PEFT layout").only(ADAPTER),
        file("adapter_config.json", "the configuration of the adapter").only(ADAPTER),
        file("references.json", "the digest of the artifact with the base: `{\"base\": ...}`").only(ADAPTER),
    ],
    super::MODEL_CONFIGURATION,
    &[file("summary.json", "the method, the steps, the costs, and the performance before and after")],
];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline {
        title: "A random selection, the usual baseline",
        text: include_str!("../../examples/finetune.toml"),
    },
    ExamplePipeline { title: "The policy of a selector", text: include_str!("../../examples/finetune-raise.toml") },
    ExamplePipeline { title: "Scores from a file", text: include_str!("../../examples/finetune-scores.toml") },
];
