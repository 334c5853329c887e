//! What an artifact of kind `generate` holds.

use raisin_contract::outputs::ColumnType::Text;
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, column, table};

pub const TABLES: &[TableDeclaration] = &[
    table(
        "instructions",
        "One row for each instruction of the pool. `label` is `relevant`, `wrong`, `corrupted`, `redundant` or \
         `irrelevant`.",
        super::INSTRUCTIONS,
    ),
    table("sources", "One row: the pool counts as one file, `synthetic`.", super::SOURCES),
    table("validation", "One row for each validation example.", super::EXAMPLES),
    table("test", "One row for each test example.", super::EXAMPLES),
    table(
        "pretraining",
        "One row for each short text to pre-train a base model on.",
        &[&[
            column("text", Text, "the whole text, in the chat template of the byte-level tokenizer"),
            column("prompt", Text, "the question of the text"),
            column("response", Text, "the answer of the text"),
        ]],
    )
    .only("if `pretraining_size` is not 0"),
];

pub const FILES: &[&[FileDeclaration]] = &[&[super::TASK]];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "A small pool with two target skills",
    text: include_str!("../../examples/generate.toml"),
}];
