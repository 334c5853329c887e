//! The fused state S_t (docs/method.md, section 2): the static columns of all candidates, and the few numbers that
//! change from step to step.
//!
//! The paper's state has 39 numbers for each candidate and step. 36 of them never change, performance and t/T are equal
//! for all candidates, and availability changes in at most B entries in a step. So O(N*36 + T*(2+B)) numbers hold a
//! whole episode exactly. O(T*N*39) numbers would limit a pool to about 200,000 instructions.

use std::collections::BTreeMap;
use std::ops::Range;

use tch::{Device, Kind as TensorKind, Tensor};

use super::network::STAGE_PART_WIDTH;
use raisin_base::error::{Problem, Result, bail, ensure};

/// The candidates with the static part of their state, ordered by cluster and then by id. The place of a candidate in
/// this order is its *position*.
pub struct Candidates {
    /// By position: `[N]`.
    pub ids: Vec<u32>,
    /// By position: `[N]`.
    pub clusters: Vec<u32>,
    /// The positions of each cluster.
    pub ranges: Vec<Range<usize>>,
    /// `[N, F]` f32, standardised.
    pub state: Tensor,
    /// Names of the F columns, such as `difficulty.response_tokens` or `semantic.07`.
    pub columns: Vec<String>,
    /// The column of the prior, which the policy need not read otherwise: `[N]`; see [`Self::with_prior`].
    pub prior: Option<Tensor>,
    /// What decides the meaning of the numbers of `state`: the digest `basis` of the `clusters` stage. `None` if it is
    /// not known.
    pub basis: Option<String>,
}

impl Candidates {
    /// `state` is row-major and has one row of `columns.len()` numbers for each id.
    ///
    /// # Errors
    /// There are no ids, the lengths do not match, or a number of the state is not finite.
    pub fn new(ids: &[u32], clusters: &[u32], state: &[f32], columns: Vec<String>) -> Result<Self> {
        let width = columns.len();
        ensure!(!ids.is_empty(), "there are no candidates to select from");
        ensure!(
            ids.len() == clusters.len() && state.len() == ids.len() * width,
            "the candidates have {} ids, {} clusters and {} numbers of state in {width} columns, which do not match",
            ids.len(),
            clusters.len(),
            state.len()
        );
        if let Some(place) = state.iter().position(|value| !value.is_finite()) {
            let (id, column) = (ids[place / width], &columns[place % width]);
            bail!("the state of instruction {id} is {} in the column `{column}`, which is not finite", state[place]);
        }
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&row| (clusters[row], ids[row]));
        let clusters: Vec<u32> = order.iter().map(|&row| clusters[row]).collect();
        let count = clusters.last().map_or(0, |&last| last as usize + 1);
        let ranges = (0..count as u32)
            .map(|cluster| clusters.partition_point(|&c| c < cluster)..clusters.partition_point(|&c| c <= cluster))
            .collect();
        let state = sorted(state, &order, width);
        let ids = order.iter().map(|&row| ids[row]).collect();
        Ok(Self { ids, clusters, ranges, state, columns, prior: None, basis: None })
    }

    /// The candidates with this column of their state as the prior. Without such a column, there is no prior.
    #[must_use]
    pub fn with_prior(mut self, column: &str) -> Self {
        let place = self.columns.iter().position(|name| name == column);
        self.prior = place.map(|place| self.state.select(1, place as i64).copy());
        self
    }

    /// The candidates with only these columns of their state, in this order. Call [`Self::with_prior`] before.
    ///
    /// # Errors
    /// A column is missing: the candidates come from another `clusters` stage than the columns.
    pub fn with_columns(mut self, columns: &[String]) -> Result<Self> {
        let places: Vec<i64> = columns
            .iter()
            .map(|wanted| {
                let place = self.columns.iter().position(|column| column == wanted);
                place.map(|place| place as i64).ok_or_else(|| {
                    Problem::new(format!("the candidates have no state column `{wanted}`"))
                        .hint("train and deploy a policy with the same clusters stage")
                        .into()
                })
            })
            .collect::<Result<_>>()?;
        // The state of a large pool is not copied if it stays the same.
        if !places.iter().copied().eq(0..self.columns.len() as i64) {
            self.state = self.state.index_select(1, &Tensor::from_slice(&places));
        }
        self.columns = columns.to_vec();
        Ok(self)
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// The number of rows that are copied at a time.
const ROWS_AT_ONCE: usize = 1 << 16;

/// The rows of `state` in this order: `[N, width]`. A large state is in memory only twice, not three times.
fn sorted(state: &[f32], order: &[usize], width: usize) -> Tensor {
    let all = Tensor::zeros([order.len() as i64, width as i64], (TensorKind::Float, Device::Cpu));
    let mut first = 0;
    for rows in order.chunks(ROWS_AT_ONCE) {
        let part: Vec<f32> = rows.iter().flat_map(|&row| &state[row * width..(row + 1) * width]).copied().collect();
        let part = Tensor::from_slice(&part).view([-1, width as i64]);
        all.narrow(0, first, rows.len() as i64).copy_(&part);
        first += rows.len() as i64;
    }
    all
}

/// The selections of an episode, from which the availability in each of its states follows.
#[derive(Clone, Debug)]
pub struct SelectionHistory {
    steps: usize,
    /// For each position, the steps in which it was selected, in ascending order.
    selected_at: BTreeMap<usize, Vec<usize>>,
    /// The sum of the static states of all selections: `[F]`.
    sum: Vec<f64>,
    selections: f64,
}

impl SelectionHistory {
    pub fn new(candidates: &Candidates) -> Self {
        Self { steps: 0, selected_at: BTreeMap::new(), sum: vec![0.0; candidates.columns.len()], selections: 0.0 }
    }

    /// The number of batches so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Adds the next batch.
    pub fn take(&mut self, positions: &[usize], candidates: &Candidates) -> Result<()> {
        let index: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
        let rows = candidates.state.index_select(0, &Tensor::from_slice(&index)); // [B, F]
        let sum: Vec<f32> = Vec::try_from(rows.sum_dim_intlist([0i64].as_slice(), false, None))?;
        self.sum.iter_mut().zip(sum).for_each(|(total, value)| *total += f64::from(value));
        self.selections += positions.len() as f64;
        for &position in positions {
            self.selected_at.entry(position).or_default().push(self.steps);
        }
        self.steps += 1;
        Ok(())
    }

    /// For each position of a range, the number of selections before a step.
    pub fn counts(&self, range: &Range<usize>, step: usize) -> Vec<f32> {
        let mut counts = vec![0.0; range.len()];
        for (position, steps) in self.selected_at.range(range.clone()) {
            counts[position - range.start] = earlier(steps, step) as f32;
        }
        counts
    }

    /// The number of selections before a step, of each position that was selected before it.
    pub fn selected(&self, step: usize) -> impl Iterator<Item = f32> + '_ {
        self.selected_at.values().map(move |steps| earlier(steps, step) as f32).filter(|count| *count > 0.0)
    }

    /// The mean of [`Self::counts`].
    pub fn mean_count(&self, range: &Range<usize>, step: usize) -> f32 {
        let sum: usize = self.selected_at.range(range.clone()).map(|(_, steps)| earlier(steps, step)).sum();
        sum as f32 / range.len() as f32
    }

    /// The number of selections of a position before a step.
    pub fn count(&self, position: usize, step: usize) -> usize {
        self.selected_at.get(&position).map_or(0, |steps| earlier(steps, step))
    }

    /// The mean static state of all selections: `[F]`.
    pub fn mean_state(&self) -> impl Iterator<Item = f32> + '_ {
        self.sum.iter().map(|sum| (sum / self.selections.max(1.0)) as f32)
    }
}

fn earlier(steps: &[usize], step: usize) -> usize {
    steps.partition_point(|&at| at < step)
}

/// The state S_t without its static part: the stage part, and the selections before step t.
#[derive(Clone, Copy)]
pub struct State<'a> {
    /// The stage part: performance and t/T.
    pub stage: [f32; STAGE_PART_WIDTH],
    pub history: &'a SelectionHistory,
    /// t
    pub step: usize,
    /// T B: the number of draws of the whole training.
    pub draws: usize,
}
