//! What an artifact of kind `mix` holds.

use raisin_contract::outputs::ColumnType::{F64, Text, U32, U64};
use raisin_contract::outputs::{ColumnDeclaration, ExamplePipeline, FileDeclaration, TableDeclaration, column, table};

const MIXED: &[&[ColumnDeclaration]] = &[
    &[column("id", U32, "the number of the row in the mix, from 0").ascending()],
    super::CONVERSATION,
    &[super::MESSAGES, super::TOOLS, super::REJECTED],
    super::ORIGIN,
    &[
        column("pool", Text, "the name of the row's pool in `pools`"),
        column("pool_id", U32, "the `id` of the row in its pool"),
    ],
    super::SET,
];

pub const TABLES: &[TableDeclaration] = &[
    table(
        "instructions",
        "One row for each instruction of the mix: the pools in the order of their names, the rows of a pool in their \
         order, copies of a row one after the other.",
        MIXED,
    ),
    table(
        "sources",
        "The tables `sources` of the pools, one after the other, with new numbers. A pool that has no table `sources` \
         has no row here.",
        super::SOURCES,
    ),
    table(
        "mix",
        "One row for each pool: what the mix has from it.",
        &[&[
            column("pool", Text, "the name of the pool in `pools`"),
            column("available", U64, "the amount of the whole pool, in `unit`"),
            column("wanted", F64, "the amount that the parameters ask for, in `unit`"),
            column("amount", U64, "the amount that the mix has, in `unit`"),
            column("share", F64, "`amount` as a share of the whole mix, from 0 to 1"),
            column("unit", Text, "`rows`, `characters` or `tokens`"),
            column("pool_rows", U64, "the number of rows of the whole pool"),
            column("rows", U64, "the number of rows that the mix has, repetitions included"),
            column("distinct_rows", U64, "the number of different rows of the pool among them"),
            column("most_copies", U64, "how often the most repeated row is in the mix; 0 if there is no row"),
        ]],
    ),
];

pub const FILES: &[&[FileDeclaration]] = &[];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline {
        title: "Three quarters of one pool, one quarter of another",
        text: include_str!("../../examples/mix.toml"),
    },
    ExamplePipeline {
        title: "A budget of tokens, with more of the small pools",
        text: include_str!("../../examples/mix-tokens.toml"),
    },
];
