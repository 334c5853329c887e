//! k-means: first centres by k-means++, then Lloyd's iterations until no assignment changes.
//!
//! Sums are formed over fixed chunks in a fixed order. So the same rows give the same clusters on any number of
//! threads.

use rayon::prelude::*;

use raisin_base::error::{Result, anyhow, ensure};
use raisin_base::seed::Seed;

const CHUNK: usize = 4096;

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
/// smallest inertia counts.
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
    let mut best: Option<Clustering> = None;
    for start in 0..starts.max(1) {
        let centres = plus_plus(rows, width, clusters, &seed.at("start").at(start));
        let found = lloyd(rows, width, centres, iterations);
        if best.as_ref().is_none_or(|best| found.inertia < best.inertia) {
            best = Some(found);
        }
    }
    let mut best = best.ok_or_else(|| anyhow!("k-means was not started"))?;
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

/// Lloyd's iterations from given centres. A cluster without rows takes the row that is farthest from its own centre.
pub fn lloyd(rows: &[f32], width: usize, mut centres: Vec<Vec<f64>>, iterations: usize) -> Clustering {
    let n = rows.len() / width;
    let mut assignments = vec![u32::MAX; n];
    let mut distances = vec![0.0; n];
    let mut converged = false;
    for _ in 0..iterations.max(1) {
        let changed: usize = assignments
            .par_iter_mut()
            .zip(distances.par_iter_mut())
            .zip(rows.par_chunks(width))
            .map(|((assignment, distance), row)| {
                let (nearest, squared) = nearest(row, &centres);
                *distance = squared;
                usize::from(std::mem::replace(assignment, nearest) != nearest)
            })
            .sum();
        if changed == 0 {
            converged = true;
            break;
        }
        centres = moved(rows, width, &mut assignments, &mut distances, &centres);
    }
    if !converged {
        return Clustering { converged, ..assigned(rows, width, centres) };
    }
    let inertia = distances.chunks(CHUNK).map(|chunk| chunk.iter().sum::<f64>()).sum();
    Clustering { centres, assignments, inertia, converged }
}

/// The means of the rows of each cluster. Before, each empty cluster takes a row, as [`lloyd`] says.
fn moved(
    rows: &[f32],
    width: usize,
    assignments: &mut [u32],
    distances: &mut [f64],
    before: &[Vec<f64>],
) -> Vec<Vec<f64>> {
    let k = before.len();
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
    let sums: Vec<Vec<f64>> = rows
        .par_chunks(CHUNK * width)
        .zip(assignments.par_chunks(CHUNK))
        .map(|(rows, assignments)| {
            let mut sum = vec![0.0; k * width];
            for (row, &assignment) in rows.chunks(width).zip(assignments) {
                let place = assignment as usize * width;
                sum[place..place + width].iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            sum
        })
        .collect();
    (0..k)
        .map(|cluster| {
            if counts[cluster] == 0 {
                return before[cluster].clone();
            }
            (cluster * width..(cluster + 1) * width)
                .map(|place| sums.iter().map(|sum| sum[place]).sum::<f64>() / counts[cluster] as f64)
                .collect()
        })
        .collect()
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

fn distance(row: &[f32], centre: &[f64]) -> f64 {
    row.iter().zip(centre).map(|(value, centre)| (f64::from(*value) - centre).powi(2)).sum()
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
