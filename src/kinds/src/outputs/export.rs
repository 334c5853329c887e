//! What an artifact of kind `export` holds.

use raisin_contract::outputs::ColumnType::U32;
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table};

pub const TABLES: &[TableDeclaration] = &[table(
    "exported",
    "One row for each row of the files, in their order.",
    &[&[
        column("place", U32, "the number of the row, from 0"),
        column("id", U32, "the `id` of the instruction in the pool"),
        column("step", U32, "the step that selected the instruction; the first one without `repeat`"),
        column("weight", U32, "how often the instruction was selected; 1 with `repeat`"),
    ]],
)];

pub const FILES: &[&[FileDeclaration]] = &[&[
    file("messages.jsonl", "the instructions as messages").only("with the form `messages`"),
    file("sharegpt.jsonl", "the instructions as ShareGPT conversations").only("with the form `sharegpt`"),
    file("alpaca.jsonl", "the instructions in the Alpaca format").only("with the form `alpaca`"),
    file("dataset_info.json", "the files for LLaMA-Factory: set `dataset_dir` to the folder of the artifact"),
    file("axolotl.yaml", "the keys of an Axolotl configuration that read a file in its order"),
    file("train_trl.py", "a script with TRL that trains on the answers of the file, in its order")
        .only("with the form `messages`"),
]];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "The rows that a policy selected, for LLaMA-Factory, Axolotl and TRL",
    text: include_str!("../../examples/export.toml"),
}];
