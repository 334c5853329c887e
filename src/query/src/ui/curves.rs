//! The curves of the trainings: of running and failed stages from what they have told, of finished ones from the tables
//! of their artifacts. The names are those of the tables, so that a curve goes on when its stage ends.

use std::collections::HashMap;
use std::path::Path;

use datafusion::arrow::array::Float64Array;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;

use super::watched::{SeenBuild, SeenStage, SeenState};
use raisin_base::digest::Digest;
use raisin_base::error::Result;
use raisin_contract::live::Curve;
use raisin_report::chart::{COLOURS, ChartLabels, Series, lines};

/// A curve that the page shows.
pub struct ShownCurve {
    table: &'static str,
    column: &'static str,
    title: &'static str,
    description: &'static str,
    y: &'static str,
    /// -1 if the column is a performance, the negative of a loss.
    sign: f64,
}

/// The curves, in their order on the page.
pub const CURVES: [ShownCurve; 7] = [
    ShownCurve {
        table: "steps",
        column: "performance",
        title: "Validation loss by step",
        description: "The loss on the validation set after a step of a training.",
        y: "validation loss",
        sign: -1.0,
    },
    ShownCurve {
        table: "steps",
        column: "loss",
        title: "Training loss by step",
        description: "The mean loss of the supervised tokens of each batch, before the update.",
        y: "loss of the batch",
        sign: 1.0,
    },
    ShownCurve {
        table: "rounds",
        column: "episode_reward",
        title: "Reward by round",
        description: "Sum of an episode's rewards: the gain of performance from its start to its end.",
        y: "episode reward",
        sign: 1.0,
    },
    ShownCurve {
        table: "rounds",
        column: "final_performance",
        title: "Validation loss at the end of an episode, by round",
        description: "The loss that the proxy reaches with the policy of each round.",
        y: "validation loss",
        sign: -1.0,
    },
    ShownCurve {
        table: "rounds",
        column: "explained_variance",
        title: "Explained variance by round",
        description: "The share of the variance of the returns that the critic explains.",
        y: "explained variance",
        sign: 1.0,
    },
    ShownCurve {
        table: "rounds",
        column: "credit_reliability",
        title: "Reliability of the credit by round",
        description: "How reliable the estimated contributions or effects are, from 0 to 1.",
        y: "reliability",
        sign: 1.0,
    },
    ShownCurve {
        table: "rounds",
        column: "effective_candidates",
        title: "Candidates in effect by round",
        description: "Among how many candidates a slot is drawn in effect.",
        y: "candidates",
        sign: 1.0,
    },
];

/// The column that orders a table: its own name without the plural.
const ORDERS: [(&str, &str); 2] = [("steps", "step"), ("rounds", "round")];

/// The kinds of stages with curves.
const KINDS: [&str; 3] = ["selector", "finetune", "pretrain"];

/// The largest number of lines with a legend in one plot. Beyond it, the lines of finished stages are thin.
const MOST_NAMED: usize = 10;

/// The largest number of points in one plot, except the last point of each line: a sweep may have hundreds of lines.
const MOST_POINTS: usize = 8000;

/// By `table.column`.
pub type Curves = HashMap<String, CurvePoints>;

/// (step or round, value)
type CurvePoints = Vec<(f64, f64)>;

/// The curves of finished stages, which never change.
#[derive(Default)]
pub struct CurveMemory {
    by_artifact: HashMap<Digest, Curves>,
}

impl CurveMemory {
    /// The curves of a stage now; empty if it has none.
    pub fn of(&mut self, seen: &SeenBuild, stage: &SeenStage) -> Curves {
        if let Some(told) = &stage.told {
            return told.curves.iter().map(|(name, curve)| (name.clone(), curve.points.clone())).collect();
        }
        let (Some(store), Some(artifact)) = (&seen.store, stage.state.artifact()) else { return Curves::new() };
        if !KINDS.contains(&stage.of.kind.as_str()) {
            return Curves::new();
        }
        if let Some(known) = self.by_artifact.get(&artifact) {
            return known.clone();
        }
        // An artifact that gc removes meanwhile has no curves; it may come back, so that it is not remembered.
        let Ok(read) = of_artifact(&store.artifact_folder(artifact)) else { return Curves::new() };
        self.by_artifact.entry(artifact).or_insert(read).clone()
    }

    /// Forgets the artifacts that no stage has any more.
    pub fn keep(&mut self, seen: &SeenBuild) {
        let used: Vec<Digest> = seen.stages.iter().filter_map(|stage| stage.state.artifact()).collect();
        if self.by_artifact.len() > 2 * used.len() + 16 {
            self.by_artifact.retain(|artifact, _| used.contains(artifact));
        }
    }
}

/// The curves in the tables of an artifact, thinned as those of a running stage.
fn of_artifact(folder: &Path) -> Result<Curves> {
    let mut curves = Curves::new();
    for (table, order) in ORDERS {
        let path = folder.join(format!("{table}.parquet"));
        // The table `steps` of a selector has steps of many episodes, which are no curve.
        if !path.is_file() || (table == "steps" && folder.join("rounds.parquet").is_file()) {
            continue;
        }
        let rows = raisin_table::read(&path)?;
        let column = |name: &str| -> Result<Vec<Option<f64>>> {
            let Some(values) = rows.column_by_name(name) else { return Ok(Vec::new()) };
            let values = cast(values, &DataType::Float64)?;
            Ok(values.as_any().downcast_ref::<Float64Array>().map(|it| it.iter().collect()).unwrap_or_default())
        };
        let places = column(order)?;
        for shown in CURVES.iter().filter(|shown| shown.table == table) {
            let mut curve = Curve::default();
            for (place, value) in places.iter().zip(column(shown.column)?) {
                if let (Some(place), Some(value)) = (place, value.filter(|value| value.is_finite())) {
                    curve.push(*place, value);
                }
            }
            if !curve.points.is_empty() {
                curves.insert(format!("{table}.{}", shown.column), curve.points);
            }
        }
    }
    Ok(curves)
}

/// The plots as HTML. `curves` has those of each stage with curves; empty if there are none.
pub fn plots(stages: &[(&SeenStage, Curves)]) -> String {
    let mut html = String::new();
    for shown in &CURVES {
        let name = format!("{}.{}", shown.table, shown.column);
        let with: Vec<(usize, &SeenStage, &CurvePoints)> = stages
            .iter()
            .enumerate()
            .filter_map(|(place, (stage, curves))| Some((place, *stage, curves.get(&name)?)))
            .collect();
        let is_crowded = with.len() > MOST_NAMED;
        let all: usize = with.iter().map(|(_, _, points)| points.len()).sum();
        let every = all.div_ceil(MOST_POINTS).max(1);
        let series: Vec<Series> = with
            .iter()
            .map(|(place, stage, points)| {
                let is_live = matches!(stage.state, SeenState::Running(_));
                // A round counts from 0, and people from 1.
                let first = if shown.table == "rounds" { 1.0 } else { 0.0 };
                Series {
                    label: if is_live { format!("{} (running)", stage.label()) } else { stage.label() },
                    colour: place % COLOURS,
                    points: points
                        .iter()
                        .enumerate()
                        .filter(|(place, _)| place % every == 0 || place + 1 == points.len())
                        .map(|(_, (at, value))| (at + first, shown.sign * value))
                        .collect(),
                    is_faint: is_crowded && !is_live,
                    ..Series::default()
                }
            })
            .collect();
        let x = if shown.table == "rounds" { "round" } else { "training step" };
        let words = ChartLabels { title: shown.title, description: shown.description, x, y: shown.y };
        html.push_str(&lines(words, &series));
    }
    html
}
