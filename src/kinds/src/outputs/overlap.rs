//! What an artifact of kind `overlap` holds.

use raisin_contract::outputs::ColumnType::{F64, Text, U32};
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, column, table};

pub const TABLES: &[TableDeclaration] = &[
    table("instructions", "One row for each instruction that is left, with new ids.", super::KEPT),
    table("sources", "The table `sources` of the pool.", super::SOURCES).only("if the pool has this table"),
    table(
        "overlap",
        "One row for each pair of an instruction and an example that overlap.",
        &[&[
            column("pool_id", U32, "the `id` of the instruction in the pool"),
            column("split", Text, "`test` or `validation`"),
            column("example", U32, "the `id` of the example in the table of its split"),
            column("shared", U32, "the number of n-grams of the example that the instruction has"),
            column("share", F64, "`shared` as a share of the n-grams of the example, from 0 to 1"),
            column("text", Text, "the longest run of the example's words that both have, at most 300 characters"),
        ]],
    ),
    table(
        "overlap_summary",
        "Three rows: for each split, and for both together.",
        &[&[
            column("split", Text, "`test`, `validation` or `both`"),
            column("examples", U32, "the number of examples"),
            column("overlapping", U32, "the number of examples that overlap an instruction"),
            column("share", F64, "`overlapping` as a share of `examples`, from 0 to 1").null("if there is no example"),
            column("pool_rows", U32, "the number of instructions that overlap an example"),
            column("examples_digest", Text, "the blake3 of the examples").null("in the row `both`"),
        ]],
    ),
];

pub const FILES: &[&[FileDeclaration]] = &[];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "Train without the rows that overlap a test example",
    text: include_str!("../../examples/overlap.toml"),
}];
