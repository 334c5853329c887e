//! PCA, whitening and k-means on rows of f32 numbers.

pub mod kmeans;
pub mod pca;

#[cfg(test)]
mod tests;
