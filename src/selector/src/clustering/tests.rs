use serde_json::Value;

use super::kmeans::{SAMPLE, kmeans, lloyd};
use super::pca::Pca;
use super::{NumberRows, PART};
use crate::golden::{assert_close, numbers};
use raisin_base::error::Result;
use raisin_base::seed::Seed;

/// Rows of six numbers.
struct Six<'a>(&'a [f32]);

impl NumberRows for Six<'_> {
    fn count(&self) -> usize {
        self.0.len() / 6
    }

    fn width(&self) -> usize {
        6
    }

    fn for_each_part(&self, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        self.0.chunks(PART * 6).try_for_each(take)
    }
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../../tests/golden/clustering.json")).expect("valid JSON")
}

fn rows(golden: &Value) -> Vec<f32> {
    numbers(&golden["rows"]).into_iter().map(|value| value as f32).collect()
}

#[test]
fn principal_components_are_those_of_scikit_learn() -> Result<()> {
    let golden = golden();
    let rows = rows(&golden);
    let pca = Pca::fit(&Six(&rows), 3)?;
    assert_close(&pca.components.concat(), &numbers(&golden["components"]), 1e-9, "components");
    assert_close(&pca.variances, &numbers(&golden["variances"]), 1e-9, "variances");
    assert_close(&[pca.explained], &numbers(&golden["explained"]), 1e-9, "explained");
    for (whiten, key) in [(false, "projected"), (true, "whitened")] {
        let projected: Vec<f64> = pca.project(&Six(&rows[..30]), whiten)?.into_iter().map(f64::from).collect();
        assert_close(&projected, &numbers(&golden[key]), 1e-5, key);
    }
    Ok(())
}

#[test]
fn lloyd_from_given_centres_ends_where_scikit_learn_does() {
    let golden = golden();
    let start: Vec<Vec<f64>> = numbers(&golden["start"]).chunks(6).map(<[f64]>::to_vec).collect();
    let found = lloyd(&rows(&golden), 6, start, 300);
    assert!(found.converged);
    assert_close(&found.centres.concat(), &numbers(&golden["centres"]), 1e-9, "centres");
    assert_close(&[found.inertia], &numbers(&golden["inertia"]), 1e-9, "inertia");
    let labels: Vec<f64> = found.assignments.iter().map(|&label| f64::from(label)).collect();
    assert_close(&labels, &numbers(&golden["labels"]), 0.0, "labels");
}

#[test]
fn k_means_is_repeatable_and_at_least_as_tight_as_from_the_first_rows() -> Result<()> {
    let golden = golden();
    let rows = rows(&golden);
    let (one, two) = (kmeans(&rows, 6, 4, 100, 8, &Seed::new(1))?, kmeans(&rows, 6, 4, 100, 8, &Seed::new(1))?);
    assert_eq!(one.assignments, two.assignments);
    assert!(one.inertia <= numbers(&golden["inertia"])[0] + 1e-9);
    let size = |cluster: u32| one.assignments.iter().filter(|&&other| other == cluster).count();
    assert!((1..4).all(|cluster| size(cluster - 1) >= size(cluster)), "the largest cluster comes first");
    Ok(())
}

/// Lloyd's iterations with all distances.
fn with_all_distances(rows: &[f32], width: usize, mut centres: Vec<Vec<f64>>) -> Vec<u32> {
    let squared = |row: &[f32], centre: &Vec<f64>| -> f64 {
        row.iter().zip(centre).map(|(value, centre)| (f64::from(*value) - centre).powi(2)).sum()
    };
    let nearest = |row: &[f32], centres: &[Vec<f64>]| {
        let of = |&one: &usize, &other: &usize| squared(row, &centres[one]).total_cmp(&squared(row, &centres[other]));
        (0..centres.len()).min_by(of).unwrap_or_default() as u32
    };
    let mut before = Vec::new();
    loop {
        let found: Vec<u32> = rows.chunks(width).map(|row| nearest(row, &centres)).collect();
        if found == before {
            return found;
        }
        for (cluster, centre) in (0..).zip(&mut centres) {
            let own: Vec<&[f32]> =
                rows.chunks(width).zip(&found).filter(|(_, of)| **of == cluster).map(|(row, _)| row).collect();
            for (column, value) in centre.iter_mut().enumerate().filter(|_| !own.is_empty()) {
                *value = own.iter().map(|row| f64::from(row[column])).sum::<f64>() / own.len() as f64;
            }
        }
        before = found;
    }
}

#[test]
fn bounds_change_no_assignment() {
    for (seed, width, k) in [(1, 3, 2), (2, 9, 5), (3, 17, 12), (4, 2, 30)] {
        let mut rng = Seed::new(seed).rng();
        let rows: Vec<f32> = (0..5000 * width).map(|_| rng.normal() as f32).collect();
        // Rows are the first centres, so that no cluster is empty.
        let start: Vec<Vec<f64>> =
            rows.chunks(width).take(k).map(|row| row.iter().map(|value| f64::from(*value)).collect()).collect();
        let found = lloyd(&rows, width, start.clone(), 1000);
        assert!(found.converged);
        assert_eq!(found.assignments, with_all_distances(&rows, width, start), "{width} columns, {k} clusters");
    }
}

#[test]
fn a_sample_of_many_rows_gives_the_first_centres() -> Result<()> {
    let centres = [(0.0, 4.0), (40.0, 2.0), (20.0, 1.0)];
    let mut rng = Seed::new(5).rng();
    let group = |row: usize| if row % 7 < 4 { 0 } else { 1 + usize::from(row % 7 == 6) };
    let rows: Vec<f32> = (0..SAMPLE + 5000)
        .flat_map(|row| [0.0, 10.0].map(|shift| (centres[group(row)].0 + shift + rng.normal()) as f32))
        .collect();
    let found = kmeans(&rows, 2, 3, 100, 2, &Seed::new(1))?;
    assert!(found.converged);
    // The clusters are numbered by size.
    assert!(found.assignments.iter().enumerate().all(|(row, cluster)| *cluster as usize == group(row)));
    for (centre, (expected, _)) in found.centres.iter().zip(centres) {
        assert!((centre[0] - expected).abs() < 0.05, "{centre:?}");
    }
    Ok(())
}

#[test]
fn a_cluster_that_is_empty_is_seeded_again() {
    let rows = [0.0f32, 0.1, 0.2, 10.0, 10.1, 50.0];
    let found = lloyd(&rows, 1, vec![vec![0.0], vec![10.0], vec![1e9]], 100);
    assert_eq!(found.assignments, [0, 0, 0, 1, 1, 2]);
}

#[test]
#[expect(clippy::float_cmp, reason = "equal rows are no distance apart, not even a rounding error")]
fn equal_rows_and_more_clusters_than_rows_do_no_harm() -> Result<()> {
    let found = kmeans(&[1.0f32; 5], 1, 3, 10, 1, &Seed::new(1))?;
    assert_eq!(found.inertia, 0.0);
    assert!(kmeans(&[1.0f32; 2], 1, 3, 10, 1, &Seed::new(1)).is_err());
    Ok(())
}
