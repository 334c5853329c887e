//! What an artifact of kind `evaluate` holds.

use raisin_contract::outputs::ColumnType::{Bool, F64, Text, U32};
use raisin_contract::outputs::{
    ColumnDeclaration, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table,
};

const METRICS: &[ColumnDeclaration] = &[
    column("split", Text, "`test` or `validation`"),
    column("metric", Text, "`loss`, `acc`, `acc_norm`, `exact_match` or `flexible_match`"),
    column(
        "value",
        F64,
        "`loss`: in nats per token of all responses; the others: a share of the examples, from 0 to 1",
    ),
    column("n", U32, "the number of examples from which the metric was computed"),
    column("standard_error", F64, "the standard error of `value` over the examples").null("with a single example"),
];

const LOSS: &str = "if the metric `loss` was not computed, or not for this example";
const CHOICE: &str = "if the metric `choice` was not computed, or not for this example";
const MATCH: &str = "if the metric `match` was not computed, or not for this example";
const MAIN: &str = "if neither `choice` nor `match` was computed for this example";

const ITEMS: &[ColumnDeclaration] = &[
    column("id", U32, "the `id` of the example in the table of its split"),
    column("loss", F64, "the mean loss, in nats, per token of the reference response").null(LOSS),
    column("tokens", U32, "the number of tokens of the reference response").null(LOSS),
    column("correct", Bool, "`acc` or `exact_match`: that of the main metric").null(MAIN),
    column("correct_norm", Bool, "`acc_norm` or `flexible_match`: that of the main metric")
        .null("if neither was computed, or the answers are no numbers"),
    column("prediction", Text, "`chosen` or `generated`: that of the main metric").null(MAIN),
    column("acc", Bool, "whether the most probable choice is right").null(CHOICE),
    column("acc_norm", Bool, "the same, with each loss divided by the length of the choice in characters").null(CHOICE),
    column("chosen", Text, "the most probable choice").null(CHOICE),
    column("exact_match", Bool, "whether the generated answer is that of the reference").null(MATCH),
    column("flexible_match", Bool, "the same for the last number of the generated text")
        .null("if the metric `match` was not computed, or the answers are no numbers"),
    column("generated", Text, "the generated text").null(MATCH),
    column("missing", Text, "why the example is left out of a metric").null("if the example is in all metrics"),
];

pub const TABLES: &[TableDeclaration] = &[
    table("metrics", "One row for each metric that was computed.", &[METRICS]),
    table(
        "items",
        "One row for each example. The main metric is `choice` or `match`: that by which the task is scored, if it was \
         computed, otherwise the first of the two in `metrics`.",
        &[ITEMS],
    ),
    super::ENCODING,
];

pub const FILES: &[&[FileDeclaration]] = &[&[
    file("model_summary.json", "summary.json of the stage with the model").only("if that stage has this file"),
    super::RESULTS,
]];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline {
        title: "The loss and the metric of the task",
        text: include_str!("../../examples/evaluate.toml"),
    },
    ExamplePipeline {
        title: "Some metrics, on validation examples that do not overlap the pool",
        text: include_str!("../../examples/evaluate-metrics.toml"),
    },
];
