//! What an artifact of kind `dedup` holds.

use raisin_contract::outputs::ColumnType::{F64, Text, U32, U64};
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, column, table};

pub const TABLES: &[TableDeclaration] = &[
    table("instructions", "One row for each instruction that is left, with new ids.", super::KEPT),
    table("sources", "The table `sources` of the pool.", super::SOURCES).only("if the pool has this table"),
    table(
        "duplicates",
        "One row for each row of the pool that is left out.",
        &[&[
            column("pool_id", U32, "the `id` of the row in the pool"),
            column("kept_pool_id", U32, "the `id` in the pool of the row that stays in its place"),
            column("kept_id", U32, "the `id` of that row in the table `instructions`"),
            column(
                "similarity",
                F64,
                "the Jaccard similarity or the cosine of both rows. With `near` it can be below \
                `threshold` if the rows are alike only by way of other rows of their group; 1 for `exact` and `normalised`",
            ),
        ]],
    ),
    table(
        "dedup_summary",
        "One row: the counts of the search.",
        &[&[
            column("rows", U64, "the number of rows of the pool"),
            column("kept", U64, "the number of rows that are left"),
            column("left_out", U64, "the number of rows that are left out"),
            column("groups", U64, "the number of groups of two or more rows"),
            column("largest", U64, "the number of rows of the largest group"),
            column(
                "without_text",
                U64,
                "the number of rows that are not compared because they have no letter and no digit, or no embedding",
            ),
            column("bands", U64, "the number of bands").null(SEARCH),
            column("band_rows", U64, "the number of hashes in a band").null(SEARCH),
            column("compared", U64, "the number of pairs that were compared exactly").null(SEARCH),
            column("alike", U64, "the number of these pairs whose similarity reaches the threshold").null(SEARCH),
            column(
                "not_compared",
                U64,
                "the number of comparisons that were left out because very many rows share a band",
            )
            .null(SEARCH),
            column("checked", U64, "the number of rows that were compared with every row").null(SEARCH),
            column("true_pairs", U64, "the number of their pairs whose similarity reaches the threshold").null(SEARCH),
            column("found_pairs", U64, "the number of these pairs of which both rows are in one group (with `semantic`, before groups are divided)").null(SEARCH),
            column("joined_pairs", U64, "the number of pairs of a checked row and another row of its group")
                .null(SEARCH),
            column("recall", F64, "`found_pairs` as a share of `true_pairs`, from 0 to 1")
                .null("if there is no such pair"),
            column(
                "precision",
                F64,
                "`found_pairs` as a share of `joined_pairs`, from 0 to 1. It is below 1 if rows are \
                joined by way of other rows",
            )
            .null("if there is no such pair"),
            column("by", Text, "`exact`, `normalised`, `near` or `semantic`"),
        ]],
    ),
];

const SEARCH: &str = "unless `by` is `near` or `semantic`";

pub const FILES: &[&[FileDeclaration]] = &[];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline { title: "Near-duplicates of one pool", text: include_str!("../../examples/dedup.toml") },
    ExamplePipeline {
        title: "Duplicates across two pools, of which one comes first",
        text: include_str!("../../examples/dedup-pools.toml"),
    },
    ExamplePipeline {
        title: "Rows that say the same in other words, by the embeddings of a model",
        text: include_str!("../../examples/dedup-semantic.toml"),
    },
];
