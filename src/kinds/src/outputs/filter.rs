//! What an artifact of kind `filter` holds.

use raisin_contract::outputs::ColumnType::{U32, U64};
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table};

const FURTHER: &str = "if the query gives further columns";

pub const TABLES: &[TableDeclaration] = &[
    table(
        "instructions",
        "One row for each instruction that the query gives, in the order of the pool, with new ids.",
        super::KEPT,
    ),
    table("sources", "The table `sources` of the pool.", super::SOURCES).only("if the pool has this table"),
    table(
        "columns",
        "One row for each row of `instructions`: what the query gives beside the conversation. `clusters` takes the \
         numbers into the state.",
        &[&[column("id", U32, "the `id` of the row in the table `instructions`")]],
    )
    .only(FURTHER)
    .further("The query decides the names and the types of the columns. Numbers and booleans are written as f32."),
    table(
        "filter_summary",
        "One row: the counts of the filter. `pool_rows` = `distinct_rows` + `left_out`.",
        &[&[
            column("pool_rows", U64, "the number of rows of the pool"),
            column("rows", U64, "the number of rows that are left, repetitions included"),
            column("distinct_rows", U64, "the number of different rows of the pool among them"),
            column("left_out", U64, "the number of rows of the pool that are left out"),
            column("changed", U64, "the number of rows whose conversation the query changed"),
        ]],
    ),
];

pub const FILES: &[&[FileDeclaration]] =
    &[&[file("summary.json", "`{\"pass\": \"filter\"}`: the names of the columns in a state begin with `filter.`")
        .only(FURTHER)]];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline { title: "Rows without junk", text: include_str!("../../examples/filter.toml") },
    ExamplePipeline {
        title: "A join with the lengths of the rows, texts without white space around them",
        text: include_str!("../../examples/filter-join.toml"),
    },
];
