//! What an artifact of kind `command` holds.

use raisin_contract::outputs::ColumnType::{F64, Text, U32};
use raisin_contract::outputs::{ANY_FILE, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table};

const POOL: &str = "with `provides = [\"instructions\"]`";
const COLUMNS: &str = "with `provides = [\"columns\"]`";
const FEATURES: &str = "with `provides = [\"features\"]`";
const MODEL: &str = "with `provides = [\"model\"]`";

pub const TABLES: &[TableDeclaration] = &[
    table("TABLE", "One row for each record that the program wrote; a table for each name.", &[])
        .named_by("tables")
        .only("if `tables` names it")
        .further("The program decides the names and the types of the columns."),
    table(
        "metrics",
        "One row for each number of metrics.json.",
        &[&[column("metric", Text, "the name of the number"), column("value", F64, "the number")]],
    )
    .only("if the program writes metrics.json"),
    table("instructions", "One row for each instruction that the program wrote.", super::INSTRUCTIONS).only(POOL),
    table("rejects", "Empty: the stage fails if a record is no instruction.", &[super::REJECTS]).only(POOL),
    table("sources", "One row: the file of the program.", super::SOURCES).only(POOL),
    table(
        "columns",
        "One row for each instruction of the pool.",
        &[&[column("id", U32, "the `id` of the instruction in the pool")]],
    )
    .only(COLUMNS)
    .further("The other columns are those that the program wrote, as f32; null if it wrote no number for a row."),
    table("features", "One row for each instruction of the pool.", &[super::features::FEATURES])
        .only(FEATURES)
        .further("A number that the program did not write is null."),
    table("validation_features", "One row for each validation example.", &[super::features::FEATURES])
        .only("with `provides = [\"features\"]`, if the program writes it"),
];

pub const FILES: &[&[FileDeclaration]] = &[&[
    file("summary.json", "the first part of the names of the columns (`pass`), and the digest of their pool")
        .only(COLUMNS),
    file("config.json", "the configuration of the model, as transformers writes it").only(MODEL),
    file("model.safetensors", "the weights, or their index and shards; an adapter has its own two files").only(MODEL),
    file("tokenizer.json", "the tokenizer").only(MODEL),
    file("references.json", "the digest of the artifact with the base: `{\"base\": ...}`")
        .only("if the program writes an adapter with `provides = [\"model\"]`"),
    file(ANY_FILE, "the other files and folders that the program wrote").only("if the program writes them"),
]];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline {
        title: "Scores of a script of your own, by which a training selects",
        text: include_str!("../../examples/command-columns.toml"),
    },
    ExamplePipeline {
        title: "Embeddings of a model of your own, by which rows near the validation examples are selected",
        text: include_str!("../../examples/command-features.toml"),
    },
    ExamplePipeline {
        title: "A pool that a program changes, with its parameters and a random seed",
        text: include_str!("../../examples/command-pool.toml"),
    },
    ExamplePipeline {
        title: "A model that another program trains, and its evaluation",
        text: include_str!("../../examples/command-model.toml"),
    },
    ExamplePipeline {
        title: "A training script on a GPU, with its metrics",
        text: include_str!("../../examples/command-train.toml"),
    },
];
