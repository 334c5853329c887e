//! The static part of the fused state (docs/method.md, section 2): the names of its numbers, and their scales.

use std::ops::Range;

use arrow_array::{Float32Array, RecordBatch, UInt32Array};

use raisin_base::error::Result;
use raisin_table as table;

/// The columns of the features, beside the embeddings, from which a state is made.
pub const NUMBERS: [&str; 5] =
    ["prompt_tokens", "response_tokens", "logp_conditional", "logp_unconditional", "unconditional_tokens"];

/// The columns of the difficulty part, and the columns of the features from which each of them is made. Sums of
/// log-probabilities grow with the length by three orders of magnitude. Therefore the part also has their means per token.
const DIFFICULTY: [(&str, &[&str]); 6] = [
    ("difficulty.prompt_tokens", &["prompt_tokens"]),
    ("difficulty.response_tokens", &["response_tokens"]),
    ("difficulty.logp_conditional", &["logp_conditional"]),
    ("difficulty.logp_unconditional", &["logp_unconditional"]),
    ("difficulty.logp_conditional_per_token", &["logp_conditional", "response_tokens"]),
    ("difficulty.logp_unconditional_per_token", &["logp_unconditional", "unconditional_tokens"]),
];

/// Those of [`NUMBERS`] from which these columns of a state were made.
pub fn numbers_of(columns: &[String]) -> Vec<&'static str> {
    let made: Vec<&[&str]> =
        DIFFICULTY.iter().filter(|(name, _)| columns.iter().any(|it| it == name)).map(|(_, from)| *from).collect();
    NUMBERS.into_iter().filter(|number| made.iter().any(|from| from.contains(number))).collect()
}

/// A column of the state beside the difficulty part and the semantic part: a number for each candidate.
pub struct StateColumn {
    pub name: String,
    pub values: Vec<f64>,
}

/// The means and deviations that the numbers of a state are standardised with.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    pub means: Vec<f64>,
    pub deviations: Vec<f64>,
}

/// The static state of all candidates.
pub struct StaticState {
    pub columns: Vec<String>,
    pub scales: Scales,
    /// The standardised values, row by row.
    pub values: Vec<f32>,
}

/// The semantic part of all rows: `dimensions` numbers for each row.
pub struct Semantic<'a> {
    pub values: &'a [f32],
    pub dimensions: usize,
    pub whiten: bool,
}

/// The names of the columns of a state.
pub fn column_names(numbers: &[&str], dimensions: usize, more: &[StateColumn]) -> Vec<String> {
    let difficulty = difficulty(numbers).map(|(_, name)| name.to_owned());
    let columns = difficulty.chain((0..dimensions).map(|d| format!("semantic.{d:02}")));
    columns.chain(more.iter().map(|column| column.name.clone())).collect()
}

/// The columns of the difficulty part that can be made from these numbers of the features, with their places in
/// [`DIFFICULTY`].
fn difficulty(numbers: &[&str]) -> impl Iterator<Item = (usize, &'static str)> {
    let is_there = |from: &[&str]| from.iter().all(|number| numbers.contains(number));
    DIFFICULTY.iter().enumerate().filter(move |(_, (_, from))| is_there(from)).map(|(place, (name, _))| (place, *name))
}

impl StaticState {
    /// Joins the difficulty part from these `numbers` of the features, the semantic part and `more` columns, and
    /// standardises them with `scales`. Without `scales`, every column gets mean 0; the columns of the difficulty part,
    /// `more` columns and whitened dimensions get variance 1; and dimensions that are not whitened have one common scale,
    /// so that their proportions stay.
    pub fn fuse(
        rows: &RecordBatch,
        semantic: &Semantic,
        numbers: &[&str],
        more: &[StateColumn],
        scales: Option<Scales>,
    ) -> Result<Self> {
        let dimensions = semantic.dimensions;
        let columns = column_names(numbers, dimensions, more);
        let prompt: &UInt32Array = table::column(rows, "prompt_tokens")?;
        let response: &UInt32Array = table::column(rows, "response_tokens")?;
        let conditional: &Float32Array = table::column(rows, "logp_conditional")?;
        let alone: &Float32Array = table::column(rows, "logp_unconditional")?;
        let alone_tokens: &UInt32Array = table::column(rows, "unconditional_tokens")?;
        // The numbers of a row are made several times: those of all rows in double precision would be most of the memory.
        let numbers_of_row = |row: usize, raw: &mut Vec<f64>| {
            raw.clear();
            let tokens = f64::from(response.value(row));
            let (with, without) = (f64::from(conditional.value(row)), f64::from(alone.value(row)));
            let (prompt, per) = (f64::from(prompt.value(row)), tokens.max(1.0));
            let per_alone = f64::from(alone_tokens.value(row)).max(1.0);
            let of_row = [prompt.ln_1p(), tokens.ln_1p(), with, without, with / per, without / per_alone];
            raw.extend(difficulty(numbers).map(|(place, _)| of_row[place]));
            let of_semantic = &semantic.values[row * dimensions..(row + 1) * dimensions];
            raw.extend(of_semantic.iter().map(|&value| f64::from(value)));
            raw.extend(more.iter().map(|column| column.values[row]));
        };
        let scales = scales.unwrap_or_else(|| {
            let together = (!semantic.whiten).then(|| {
                let first = difficulty(numbers).count();
                first..first + dimensions
            });
            Scales::of(rows.num_rows(), columns.len(), numbers_of_row, together)
        });
        let mut values = Vec::with_capacity(rows.num_rows() * columns.len());
        let mut raw = Vec::new();
        for row in 0..rows.num_rows() {
            numbers_of_row(row, &mut raw);
            let scaled = raw.iter().zip(&scales.means).zip(&scales.deviations);
            values.extend(scaled.map(|((value, mean), deviation)| ((value - mean) / deviation) as f32));
        }
        Ok(Self { columns, scales, values })
    }
}

impl Scales {
    /// The scales of the columns of `rows` rows with `width` numbers. `numbers_of_row` replaces the content of a vector by
    /// the numbers of a row. The columns `together` get one common deviation.
    fn of(
        rows: usize,
        width: usize,
        numbers_of_row: impl Fn(usize, &mut Vec<f64>),
        together: Option<Range<usize>>,
    ) -> Self {
        let n = rows.max(1) as f64;
        let (mut means, mut deviations, mut raw) = (vec![0.0; width], vec![0.0; width], Vec::with_capacity(width));
        for row in 0..rows {
            numbers_of_row(row, &mut raw);
            means.iter_mut().zip(&raw).for_each(|(mean, value)| *mean += value / n);
        }
        for row in 0..rows {
            numbers_of_row(row, &mut raw);
            let columns = deviations.iter_mut().zip(&raw).zip(&means);
            columns.for_each(|((deviation, value), mean)| *deviation += (value - mean).powi(2) / n);
        }
        if let Some(together) = together {
            let together = &mut deviations[together];
            let shared = together.iter().sum::<f64>() / together.len().max(1) as f64;
            together.fill(shared);
        }
        // A constant column becomes 0 for every row.
        deviations.iter_mut().for_each(|square| *square = if *square > 1e-24 { square.sqrt() } else { 1.0 });
        Self { means, deviations }
    }
}
