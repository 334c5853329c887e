//! Reducing embeddings and grouping them: PCA, whitening, k-means. Knows rows of f32, not what they mean.

pub mod kmeans;
pub mod pca;

#[cfg(test)]
mod tests;
