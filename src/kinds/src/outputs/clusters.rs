//! What an artifact of kind `clusters` holds.

use raisin_contract::outputs::ColumnType::{F32, U32, Vector};
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table};

const ABSENT: &str = "if the features come from a program that did not write the number";
const NO_SECOND_PASS: &str =
    "if the features have `unconditional = false`, or come from a program that did not write it";

pub const TABLES: &[TableDeclaration] = &[table(
    "clusters",
    "One row for each instruction with complete features: the candidates.",
    &[&[
        column("id", U32, "the `id` of the instruction in the pool"),
        column("cluster", U32, "the cluster, from 0"),
        column("state", Vector, "the static state; `columns` of constants.json names its numbers"),
        column("prompt_tokens", U32, "as in the table `features`").null(ABSENT),
        column("response_tokens", U32, "as in the table `features`").null(ABSENT),
        column("logp_conditional", F32, "as in the table `features`, in nats").null(ABSENT),
        column("logp_unconditional", F32, "as in the table `features`, in nats").null(NO_SECOND_PASS),
        column("unconditional_tokens", U32, "as in the table `features`").null(NO_SECOND_PASS),
    ]],
)];

pub const FILES: &[&[FileDeclaration]] = &[&[
    file(
        "constants.json",
        "the names, means and deviations of the numbers of a state, measures of the clusters, and `basis`, a digest of \
         all that decides what the numbers of a state mean; and `embedding` of the features, if it is not `whole`",
    ),
    file(
        "projection.safetensors",
        "the principal components, the centres of the clusters, the means and deviations of the numbers of a state, and \
         the mean embedding that similarities subtract",
    ),
    file(
        "references.json",
        "the digest of the artifact with the features, and of each artifact of `columns`: `{\"features\": ...}`",
    ),
]];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "Sixteen dimensions and eight clusters",
    text: include_str!("../../examples/clusters.toml"),
}];
