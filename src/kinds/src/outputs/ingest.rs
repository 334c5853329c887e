//! What an artifact of kind `ingest` holds.

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, table};

pub const TABLES: &[TableDeclaration] = &[
    table("instructions", "One row for each instruction of the pool, in the order of the files.", super::INSTRUCTIONS),
    table("rejects", "One row for each raw record that is no instruction.", &[super::REJECTS]),
    table("sources", "One row for each file that was read.", super::SOURCES),
];

pub const FILES: &[&[FileDeclaration]] = &[];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline { title: "One file whose format raisin finds", text: include_str!("../../examples/ingest.toml") },
    ExamplePipeline {
        title: "Several files, named fields and a sample",
        text: include_str!("../../examples/ingest-several.toml"),
    },
];
