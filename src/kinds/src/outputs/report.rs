//! What an artifact of kind `report` holds.

use raisin_contract::outputs::ColumnType::{F64, Text, U32};
use raisin_contract::outputs::{
    ColumnDeclaration, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table,
};

const UNPAIRED: &str = "if fewer than two seeds have a result of both methods, and in the row of the baseline";
const UNPAIRED_ITEMS: &str = "if fewer than two examples have a result of both methods, and in the row of the baseline";
const NO_PHI: &str = "if no stage trained the model, or no model states the cost of three epochs";
const UNTUNED: &str = "if no stage trained the model";

const COMPARISON: &[ColumnDeclaration] = &[
    column("split", Text, "`test` or `validation`"),
    column("metric", Text, "the metric, as in the table `metrics` of an `evaluate` stage"),
    column("method", Text, "the method, with the values of the sweep that distinguish it"),
    column("n_seeds", U32, "the number of seeds with a result"),
    column("mean", F64, "the mean over the seeds"),
    column("ci_low", F64, "the lower end of the 95 % interval of `mean` over seeds").null("with fewer than two seeds"),
    column("ci_high", F64, "the upper end of this interval").null("with fewer than two seeds"),
    column("baseline", Text, "the method with which the row is compared").null("if it was not scored on the metric"),
    column(
        "difference",
        F64,
        "the mean minus that of the baseline, over the seeds that both have, or over the examples",
    )
    .null("without a result of both methods, and in the row of the baseline"),
    column("difference_low", F64, "the lower end of the 95 % interval of `difference` over seeds").null(UNPAIRED),
    column("difference_high", F64, "the upper end of this interval").null(UNPAIRED),
    column("paired_seeds", U32, "the number of seeds that both methods have")
        .null("if both methods have no seed in common, and in the row of the baseline"),
    column("items_low", F64, "the lower end of the 95 % interval of `difference` over examples").null(UNPAIRED_ITEMS),
    column("items_high", F64, "the upper end of this interval").null(UNPAIRED_ITEMS),
    column("paired_items", U32, "the number of examples that both methods answered")
        .null("if both methods answered no example in common, and in the row of the baseline"),
    column("steps", F64, "the mean number of training steps").null(UNTUNED),
    column("tokens", F64, "the mean number of tokens of the training").null(UNTUNED),
    column("flops", F64, "the mean floating-point operations of the training").null(UNTUNED),
    column("phi", F64, "`flops` as a share of the training on three epochs of the pool with the same model").null(NO_PHI),
    column(
        "total_flops",
        F64,
        "`flops`, and those of validation passes and of all that was computed before: features, hidden states, influence, \
         the training of a selector",
    )
    .null(UNTUNED),
    column("total_phi", F64, "`total_flops` in the unit of `phi`").null(NO_PHI),
];

pub const TABLES: &[TableDeclaration] =
    &[table("comparison", "One row for each split, metric and method.", &[COMPARISON])];

pub const FILES: &[&[FileDeclaration]] =
    &[&[file("report.html", "the report: one page without references to other files or addresses"), super::RESULTS]];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "Compare three methods over two seeds",
    text: include_str!("../../examples/report.toml"),
}];
