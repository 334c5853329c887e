//! What an artifact of kind `sql` holds.

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, table};

pub const TABLES: &[TableDeclaration] = &[table("rows", "One row for each row of the answer.", &[])
    .named_by("table")
    .further("The query decides the names and the types of the columns.")];

pub const FILES: &[&[FileDeclaration]] = &[];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "How many instructions have which label",
    text: include_str!("../../examples/sql.toml"),
}];
