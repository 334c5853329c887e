//! What an artifact of kind `track` holds.

use raisin_contract::outputs::ColumnType::{F64, Text, U32};
use raisin_contract::outputs::{ANY_FILE, ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table};

pub const TABLES: &[TableDeclaration] = &[table(
    "series",
    "One row for each series of numbers in the files.",
    &[&[
        column(
            "run",
            Text,
            "the folder of the run below `tensorboard`: the values of the sweep, or `all` without them",
        ),
        column("tag", Text, "the name of the series: `STAGE.TABLE/COLUMN`, for an evaluation `STAGE/SPLIT/METRIC`"),
        column("points", U32, "the number of points"),
        column("last", F64, "the last value"),
    ]],
)];

pub const FILES: &[&[FileDeclaration]] = &[&[file(
    ANY_FILE,
    "`tensorboard/RUN/events.out.tfevents.0.raisin`: one file for each run, which `tensorboard --logdir FOLDER` shows. \
     Curves and results are scalars; the values of the sweep are hyperparameters",
)]];

pub const EXAMPLES: &[ExamplePipeline] = &[ExamplePipeline {
    title: "The curves of three methods and two seeds",
    text: include_str!("../../examples/track.toml"),
}];
