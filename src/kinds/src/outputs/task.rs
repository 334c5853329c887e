//! What an artifact of kind `task` holds.

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, table};

pub const TABLES: &[TableDeclaration] = &[
    table("validation", "One row for each validation example, in the order of the file.", super::EXAMPLES),
    table("test", "One row for each test example, in the order of the file.", super::EXAMPLES),
    table("rejects", "One row for each raw record that is no example.", &[super::REJECTS]),
    table("sources", "One row for each file that was read.", super::SOURCES),
];

pub const FILES: &[&[FileDeclaration]] = &[&[super::TASK]];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline {
        title: "Questions with numbers as answers, scored by generated answers",
        text: include_str!("../../examples/task-match.toml"),
    },
    ExamplePipeline {
        title: "Multiple-choice questions, scored by the most probable choice",
        text: include_str!("../../examples/task-choice.toml"),
    },
];
