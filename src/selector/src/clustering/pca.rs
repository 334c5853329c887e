//! Principal component analysis in f64. The signs of the components do not depend on the solver.

use rayon::prelude::*;
use tch::{Kind as TensorKind, Tensor};

use super::{NumberRows, PART};
use raisin_base::error::{Result, ensure};

/// The number of rows that are summed together. It is fixed, so that the sums do not depend on the number of threads.
/// A part has a whole number of chunks.
const CHUNK: usize = 4096;
const _: () = assert!(PART.is_multiple_of(CHUNK));

/// A centring and a rotation onto the directions of largest variance.
#[derive(Clone)]
pub struct Pca {
    pub mean: Vec<f64>,
    /// One row of length 1 for each component. The entry with the largest absolute value is positive.
    pub components: Vec<Vec<f64>>,
    /// The variance along each component (divided by n - 1).
    pub variances: Vec<f64>,
    /// The share of the total variance along all components together.
    pub explained: f64,
}

impl Pca {
    /// Reads the rows twice.
    ///
    /// # Errors
    /// There are fewer columns than `dimensions`, or not more rows than `dimensions`, or the rows cannot be read.
    pub fn fit(rows: &impl NumberRows, dimensions: usize) -> Result<Self> {
        let (n, width) = (rows.count(), rows.width());
        ensure!(
            dimensions <= width && dimensions < n.max(1),
            "{n} embeddings of {width} numbers cannot be reduced to {dimensions} dimensions"
        );
        let sum_of = |chunk: &[f32]| {
            let mut sum = vec![0.0; width];
            for row in chunk.chunks_exact(width) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            sum
        };
        let mut sums: Vec<Vec<f64>> = Vec::with_capacity(n.div_ceil(CHUNK));
        rows.for_each_part(&mut |part| {
            sums.par_extend(part.par_chunks(CHUNK * width).map(sum_of));
            Ok(())
        })?;
        let mean: Vec<f64> =
            (0..width).map(|column| sums.iter().map(|sum| sum[column]).sum::<f64>() / n as f64).collect();

        let centre = Tensor::from_slice(&mean);
        let mut covariance = Tensor::zeros([width as i64, width as i64], (TensorKind::Double, tch::Device::Cpu));
        rows.for_each_part(&mut |part| {
            for chunk in part.chunks(CHUNK * width) {
                let centred = Tensor::from_slice(chunk).view([-1, width as i64]).to_kind(TensorKind::Double) - &centre;
                covariance += centred.tr().matmul(&centred);
            }
            Ok(())
        })?;
        covariance /= (n - 1) as f64;
        // The eigenvalues come in ascending order.
        let (values, vectors) = covariance.f_linalg_eigh("L")?;
        let values: Vec<f64> = Vec::try_from(&values)?;
        let vectors: Vec<f64> = Vec::try_from(vectors.tr().contiguous().view([-1]))?;
        let components = (0..dimensions)
            .map(|place| {
                let row = width - 1 - place;
                let mut component = vectors[row * width..(row + 1) * width].to_vec();
                let largest = component.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.0);
                if largest < 0.0 {
                    component.iter_mut().for_each(|value| *value = -*value);
                }
                component
            })
            .collect();
        let variances: Vec<f64> = (0..dimensions).map(|place| values[width - 1 - place].max(0.0)).collect();
        let all: f64 = values.iter().map(|value| value.max(0.0)).sum();
        let explained = if all > 0.0 { variances.iter().sum::<f64>() / all } else { 0.0 };
        Ok(Self { mean, components, variances, explained })
    }

    /// The coordinates of the rows along the components, row-major. With `whiten`, each coordinate is divided by its
    /// standard deviation.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn project(&self, rows: &impl NumberRows, whiten: bool) -> Result<Vec<f32>> {
        let width = self.mean.len();
        let largest = self.variances.first().copied().unwrap_or(0.0);
        let scales: Vec<f64> = self
            .variances
            .iter()
            // Along a component without variance, whitening would only magnify rounding errors.
            .map(|&variance| match (whiten, variance > largest * 1e-12) {
                (false, _) => 1.0,
                (true, true) => 1.0 / variance.sqrt(),
                (true, false) => 0.0,
            })
            .collect();
        let coordinates = |row: &[f32]| {
            let centred: Vec<f64> = row.iter().zip(&self.mean).map(|(v, mean)| f64::from(*v) - mean).collect();
            let along = |(component, scale): (&Vec<f64>, &f64)| {
                (component.iter().zip(&centred).map(|(a, b)| a * b).sum::<f64>() * scale) as f32
            };
            self.components.iter().zip(&scales).map(along).collect::<Vec<f32>>()
        };
        let mut projected = Vec::with_capacity(rows.count() * self.components.len());
        rows.for_each_part(&mut |part| {
            projected.par_extend(part.par_chunks(width).flat_map_iter(coordinates));
            Ok(())
        })?;
        Ok(projected)
    }
}
