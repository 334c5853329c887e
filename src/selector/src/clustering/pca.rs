//! Principal component analysis in f64. The signs of the components do not depend on the solver.

use rayon::prelude::*;
use tch::{Kind as TensorKind, Tensor};

use raisin_base::error::{Result, ensure};

/// The number of rows that are summed together. It is fixed, so that the sums do not depend on the number of threads.
const CHUNK: usize = 4096;

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
    /// `rows` is row-major with `width` columns.
    ///
    /// # Errors
    /// There are fewer columns than `dimensions`, or not more rows than `dimensions`.
    pub fn fit(rows: &[f32], width: usize, dimensions: usize) -> Result<Self> {
        let n = rows.len() / width.max(1);
        ensure!(
            dimensions <= width && dimensions < n.max(1),
            "{n} embeddings of {width} numbers cannot be reduced to {dimensions} dimensions"
        );
        let sums: Vec<Vec<f64>> = rows
            .par_chunks(CHUNK * width)
            .map(|chunk| {
                let mut sum = vec![0.0; width];
                chunk.iter().enumerate().for_each(|(place, value)| sum[place % width] += f64::from(*value));
                sum
            })
            .collect();
        let mean: Vec<f64> =
            (0..width).map(|column| sums.iter().map(|sum| sum[column]).sum::<f64>() / n as f64).collect();

        let centre = Tensor::from_slice(&mean);
        let mut covariance = Tensor::zeros([width as i64, width as i64], (TensorKind::Double, tch::Device::Cpu));
        for chunk in rows.chunks(CHUNK * width) {
            let centred = Tensor::from_slice(chunk).view([-1, width as i64]).to_kind(TensorKind::Double) - &centre;
            covariance += centred.tr().matmul(&centred);
        }
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
    pub fn project(&self, rows: &[f32], whiten: bool) -> Vec<f32> {
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
        rows.par_chunks(width)
            .flat_map_iter(|row| {
                let centred: Vec<f64> = row.iter().zip(&self.mean).map(|(v, mean)| f64::from(*v) - mean).collect();
                self.components
                    .iter()
                    .zip(&scales)
                    .map(|(component, scale)| {
                        (component.iter().zip(&centred).map(|(a, b)| a * b).sum::<f64>() * scale) as f32
                    })
                    .collect::<Vec<f32>>()
            })
            .collect()
    }
}
