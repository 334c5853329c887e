//! k-means: first centres by k-means++, then Lloyd's iterations until no assignment changes.
//!
//! Bounds of the distances leave out most distances of an iteration (G. Hamerly, "Making k-means even faster", SDM 2010).
//! They give the assignments that all distances would give. Of many rows, a sample is clustered first: it gives the
//! centres from which the iterations over all rows start.
//!
//! Sums are formed over fixed chunks in a fixed order. So the same rows give the same clusters on any number of
//! threads.

use rayon::prelude::*;

use raisin_base::error::{Result, anyhow, ensure};
use raisin_base::seed::Seed;

const CHUNK: usize = 4096;

/// Of more rows than this, a sample of this size decides which start counts.
pub const SAMPLE: usize = 1 << 16;

pub struct Clustering {
    /// One row for each cluster.
    pub centres: Vec<Vec<f64>>,
    /// The cluster of each row. The clusters are numbered by size, the largest first.
    pub assignments: Vec<u32>,
    /// The sum over the rows of the squared distance to the nearest centre.
    pub inertia: f64,
    /// Whether the assignments stopped changing within the allowed iterations.
    pub converged: bool,
}

/// The rows in the clusters of given centres, which do not move.
pub fn assigned(rows: &[f32], width: usize, centres: Vec<Vec<f64>>) -> Clustering {
    let nearest: Vec<(u32, f64)> = rows.par_chunks(width).map(|row| nearest(row, &centres)).collect();
    let inertia = nearest.chunks(CHUNK).map(|chunk| chunk.iter().map(|(_, squared)| squared).sum::<f64>()).sum();
    let assignments = nearest.into_iter().map(|(cluster, _)| cluster).collect();
    Clustering { centres, assignments, inertia, converged: true }
}

/// Clusters the rows (row-major, `width` columns). Of `starts` runs with different first centres, the run with the
/// smallest inertia counts. Of more than [`SAMPLE`] rows, the runs cluster a sample of so many rows, and only the centres
/// of the run that counts are moved further over all rows.
///
/// # Errors
/// There are no clusters, or more clusters than rows.
pub fn kmeans(
    rows: &[f32],
    width: usize,
    clusters: usize,
    iterations: usize,
    starts: usize,
    seed: &Seed,
) -> Result<Clustering> {
    let n = rows.len() / width.max(1);
    ensure!(clusters >= 1 && clusters <= n, "{n} rows cannot form {clusters} clusters");
    let sample: Option<Vec<f32>> = (n > SAMPLE && clusters <= SAMPLE).then(|| {
        let mut drawn = seed.at("sample").rng().sample(n, SAMPLE);
        drawn.sort_unstable();
        drawn.into_iter().flat_map(|row| &rows[row * width..(row + 1) * width]).copied().collect()
    });
    let looked_at = sample.as_deref().unwrap_or(rows);
    let mut best: Option<Clustering> = None;
    for start in 0..starts.max(1) {
        let centres = plus_plus(looked_at, width, clusters, &seed.at("start").at(start));
        let found = lloyd(looked_at, width, centres, iterations);
        if best.as_ref().is_none_or(|best| found.inertia < best.inertia) {
            best = Some(found);
        }
    }
    let mut best = best.ok_or_else(|| anyhow!("k-means was not started"))?;
    if sample.is_some() {
        best = lloyd(rows, width, best.centres, iterations);
    }
    best.number_by_size();
    Ok(best)
}

/// k-means++: each centre is a row that is drawn with a probability proportional to the squared distance to its nearest
/// earlier centre.
fn plus_plus(rows: &[f32], width: usize, clusters: usize, seed: &Seed) -> Vec<Vec<f64>> {
    let mut rng = seed.rng();
    let row = |place: usize| rows[place * width..(place + 1) * width].iter().map(|&v| f64::from(v)).collect();
    let n = rows.len() / width;
    let mut centres: Vec<Vec<f64>> = vec![row(rng.below(n))];
    let mut nearest = vec![f64::INFINITY; n];
    while centres.len() < clusters {
        let newest = &centres[centres.len() - 1];
        nearest
            .par_iter_mut()
            .zip(rows.par_chunks(width))
            .for_each(|(nearest, row)| *nearest = nearest.min(distance(row, newest)));
        let total: f64 = nearest.iter().sum();
        let mut left = rng.unit() * total;
        let drawn = nearest.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        // If every row equals a centre, the distances are 0 and any row serves.
        centres.push(row(drawn.unwrap_or_else(|| rng.below(n))));
    }
    centres
}

/// A row during the iterations.
#[derive(Clone, Copy)]
struct RowBounds {
    cluster: u32,
    /// The distance to the own centre is at most this.
    upper: f64,
    /// The distance to every other centre is at least this.
    lower: f64,
}

/// Lloyd's iterations from given centres. A cluster without rows takes the row that is farthest from its own centre.
pub fn lloyd(rows: &[f32], width: usize, mut centres: Vec<Vec<f64>>, iterations: usize) -> Clustering {
    let k = centres.len();
    // At first, nothing is known of the distances, so that all of them are computed.
    let unknown = RowBounds { cluster: u32::MAX, upper: f64::INFINITY, lower: 0.0 };
    let mut states = vec![unknown; rows.len() / width];
    let mut moves = vec![0.0; k];
    let mut sums = ClusterSums::zero(k, width);
    let mut converged = false;
    for _ in 0..iterations.max(1) {
        let changes = reassigned(rows, width, &mut states, &centres, &moves);
        if changes.changed == 0 {
            converged = true;
            break;
        }
        sums.add(&changes.sums);
        let before = centres;
        centres = if sums.counts.contains(&0) {
            // The bounds do not hold for the rows that an empty cluster takes.
            let mut assignments: Vec<u32> = states.iter().map(|state| state.cluster).collect();
            let taken = moved(rows, width, &mut assignments, &before);
            for (state, cluster) in states.iter_mut().zip(assignments) {
                *state = RowBounds { cluster, ..unknown };
            }
            sums = ClusterSums::of(rows, width, &states, k);
            taken
        } else {
            sums.means(&before)
        };
        moves = before.iter().zip(&centres).map(|(before, after)| between(before, after)).collect();
    }
    if !converged {
        return Clustering { converged, ..assigned(rows, width, centres) };
    }
    // ClusterSums that were changed many times are not as exact as new ones.
    centres = ClusterSums::of(rows, width, &states, k).means(&centres);
    let assignments: Vec<u32> = states.iter().map(|state| state.cluster).collect();
    let squares = |(rows, clusters): (&[f32], &[u32])| -> f64 {
        rows.chunks(width).zip(clusters).map(|(row, cluster)| distance(row, &centres[*cluster as usize])).sum()
    };
    let squares: Vec<f64> = rows.par_chunks(CHUNK * width).zip(assignments.par_chunks(CHUNK)).map(squares).collect();
    Clustering { centres, assignments, inertia: squares.iter().sum(), converged }
}

/// What an iteration changed.
struct ClusterChanges {
    changed: usize,
    sums: ClusterSums,
}

/// The sums and numbers of the rows of each cluster, or changes of them.
#[derive(Clone)]
struct ClusterSums {
    width: usize,
    totals: Vec<f64>,
    counts: Vec<i64>,
}

impl ClusterSums {
    fn zero(k: usize, width: usize) -> Self {
        Self { width, totals: vec![0.0; k * width], counts: vec![0; k] }
    }

    fn of(rows: &[f32], width: usize, states: &[RowBounds], k: usize) -> Self {
        let of_chunk = |(rows, states): (&[f32], &[RowBounds])| {
            let mut sums = Self::zero(k, width);
            rows.chunks(width).zip(states).for_each(|(row, state)| sums.add_row(row, state.cluster, 1.0));
            sums
        };
        let chunks: Vec<Self> = rows.par_chunks(CHUNK * width).zip(states.par_chunks(CHUNK)).map(of_chunk).collect();
        let mut all = Self::zero(k, width);
        chunks.iter().for_each(|chunk| all.add(chunk));
        all
    }

    /// Adds a row to a cluster, or takes it away: `sign` is 1 or -1.
    fn add_row(&mut self, row: &[f32], cluster: u32, sign: f64) {
        let place = cluster as usize * self.width;
        let totals = &mut self.totals[place..place + self.width];
        totals.iter_mut().zip(row).for_each(|(sum, value)| *sum += sign * f64::from(*value));
        self.counts[cluster as usize] += sign as i64;
    }

    fn add(&mut self, other: &Self) {
        self.totals.iter_mut().zip(&other.totals).for_each(|(sum, more)| *sum += more);
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
    }

    /// The mean of each cluster; that of an empty cluster is the one before.
    fn means(&self, before: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mean = |(cluster, before): (usize, &Vec<f64>)| match self.counts[cluster] {
            0 => before.clone(),
            count => {
                let totals = &self.totals[cluster * self.width..(cluster + 1) * self.width];
                totals.iter().map(|sum| sum / count as f64).collect()
            }
        };
        before.iter().enumerate().map(mean).collect()
    }
}

/// The share of a bound that rounding may have cost.
const ROUNDING: f64 = 1e-12;

/// Assigns each row to its nearest centre. `moves` is how far each centre has moved since the bounds were computed.
fn reassigned(
    rows: &[f32],
    width: usize,
    states: &mut [RowBounds],
    centres: &[Vec<f64>],
    moves: &[f64],
) -> ClusterChanges {
    let k = centres.len();
    // A row that is nearer to its centre than half the distance to the next centre is nearest to its own.
    let half: Vec<f64> = (0..k)
        .map(|one| {
            let others = (0..k).filter(|other| *other != one).map(|other| between(&centres[one], &centres[other]));
            others.fold(f64::INFINITY, f64::min) / 2.0
        })
        .collect();
    let (mut farthest, mut second, mut who) = (0.0, 0.0, usize::MAX);
    for (cluster, moved) in moves.iter().enumerate() {
        if *moved > farthest {
            (second, farthest, who) = (farthest, *moved, cluster);
        } else if *moved > second {
            second = *moved;
        }
    }
    let of_chunk = |(rows, states): (&[f32], &mut [RowBounds])| {
        let mut changes = ClusterChanges { changed: 0, sums: ClusterSums::zero(0, width) };
        for (row, state) in rows.chunks(width).zip(states) {
            let own = state.cluster as usize;
            if let (Some(moved), Some(half)) = (moves.get(own), half.get(own)) {
                state.upper = (state.upper + moved) * (1.0 + ROUNDING);
                state.lower = (state.lower - if own == who { second } else { farthest }) * (1.0 - ROUNDING);
                let bound = state.lower.max(*half * (1.0 - ROUNDING));
                if state.upper < bound {
                    continue;
                }
                state.upper = distance(row, &centres[own]).sqrt() * (1.0 + ROUNDING);
                if state.upper < bound {
                    continue;
                }
            }
            let (cluster, upper, lower) = two_nearest(row, centres);
            let before = std::mem::replace(state, RowBounds { cluster, upper, lower }).cluster;
            if before != cluster {
                if changes.changed == 0 {
                    changes.sums = ClusterSums::zero(k, width);
                }
                changes.changed += 1;
                changes.sums.add_row(row, cluster, 1.0);
                if before != u32::MAX {
                    changes.sums.add_row(row, before, -1.0);
                }
            }
        }
        changes
    };
    let chunks: Vec<ClusterChanges> =
        rows.par_chunks(CHUNK * width).zip(states.par_chunks_mut(CHUNK)).map(of_chunk).collect();
    let mut all = ClusterChanges { changed: 0, sums: ClusterSums::zero(k, width) };
    for chunk in chunks {
        all.changed += chunk.changed;
        all.sums.add(&chunk.sums);
    }
    all
}

/// The nearest centre, and the distances to it and to the second nearest one.
fn two_nearest(row: &[f32], centres: &[Vec<f64>]) -> (u32, f64, f64) {
    let (mut best, mut second) = ((0, f64::INFINITY), f64::INFINITY);
    for (cluster, centre) in (0..).zip(centres) {
        let squared = distance(row, centre);
        if squared < best.1 {
            (second, best) = (best.1, (cluster, squared));
        } else if squared < second {
            second = squared;
        }
    }
    (best.0, best.1.sqrt(), second.sqrt())
}

/// The distance of two centres.
fn between(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| (one - other).powi(2)).sum::<f64>().sqrt()
}

/// Gives each empty cluster a row, as [`lloyd`] says, and returns the means of the rows of each cluster.
fn moved(rows: &[f32], width: usize, assignments: &mut [u32], before: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let k = before.len();
    let distances = rows.par_chunks(width).zip(assignments.par_iter());
    let mut distances: Vec<f64> = distances.map(|(row, cluster)| distance(row, &before[*cluster as usize])).collect();
    let mut counts = vec![0usize; k];
    assignments.iter().for_each(|&assignment| counts[assignment as usize] += 1);
    for empty in 0..k {
        if counts[empty] > 0 {
            continue;
        }
        let farthest = (0..distances.len())
            .filter(|&row| counts[assignments[row] as usize] > 1)
            .max_by(|&one, &two| distances[one].total_cmp(&distances[two]).then(two.cmp(&one)));
        if let Some(row) = farthest {
            counts[assignments[row] as usize] -= 1;
            counts[empty] = 1;
            assignments[row] = empty as u32;
            distances[row] = 0.0;
        }
    }
    let states: Vec<RowBounds> =
        assignments.iter().map(|&cluster| RowBounds { cluster, upper: f64::INFINITY, lower: 0.0 }).collect();
    ClusterSums::of(rows, width, &states, k).means(before)
}

fn nearest(row: &[f32], centres: &[Vec<f64>]) -> (u32, f64) {
    let mut best = (0, f64::INFINITY);
    for (cluster, centre) in (0..).zip(centres) {
        let squared = distance(row, centre);
        if squared < best.1 {
            best = (cluster, squared);
        }
    }
    best
}

/// The number of sums that are formed side by side.
const LANES: usize = 8;

/// The squared distance of a row to a centre.
fn distance(row: &[f32], centre: &[f64]) -> f64 {
    let (rows, row_rest) = row.as_chunks::<LANES>();
    let (centres, centre_rest) = centre.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (row, centre) in rows.iter().zip(centres) {
        for lane in 0..LANES {
            let difference = f64::from(row[lane]) - centre[lane];
            sums[lane] += difference * difference;
        }
    }
    let rest: f64 = row_rest.iter().zip(centre_rest).map(|(value, centre)| (f64::from(*value) - centre).powi(2)).sum();
    sums.iter().sum::<f64>() + rest
}

impl Clustering {
    fn number_by_size(&mut self) {
        let mut sizes = vec![0usize; self.centres.len()];
        self.assignments.iter().for_each(|&assignment| sizes[assignment as usize] += 1);
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&cluster| (std::cmp::Reverse(sizes[cluster]), cluster));
        let mut number = vec![0u32; order.len()];
        order.iter().zip(0..).for_each(|(&old, new)| number[old] = new);
        self.assignments.iter_mut().for_each(|assignment| *assignment = number[*assignment as usize]);
        self.centres = order.iter().map(|&old| self.centres[old].clone()).collect();
    }
}
