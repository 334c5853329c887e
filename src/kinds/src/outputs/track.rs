//! What an artifact of kind `track` holds.

use raisin_contract::outputs::ColumnType::{F64, Text, U32};
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration, column, file, table};

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

pub const FILES: &[&[FileDeclaration]] = &[&[
    file(
        "tensorboard",
        "a folder, which `tensorboard --logdir` shows: `RUN/events.out.tfevents.0.raisin` for each run. Curves and results \
         are scalars; the values of the sweep are hyperparameters",
    ),
    file(
        "wandb",
        "a folder, of which `wandb sync` uploads a copy: `offline-run-19700101_000000-ID/run-ID.wandb` for each run. ID \
         comes from the content of the run",
    )
    .only("with `wandb`"),
    file(
        "mlflow",
        "a folder with what is sent to MLflow: `RUN.json` for each run, with the experiment, the values of the sweep, the \
         digests of the artifacts by stage, and the points of each metric",
    )
    .only("with `mlflow`"),
]];

pub const EXAMPLES: &[ExamplePipeline] = &[
    ExamplePipeline {
        title: "The curves of three methods and two seeds",
        text: include_str!("../../examples/track.toml"),
    },
    ExamplePipeline {
        title: "The same runs for Weights & Biases and MLflow",
        text: include_str!("../../examples/track-servers.toml"),
    },
];
