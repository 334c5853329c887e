//! PCA, whitening and k-means on rows of f32 numbers.

use raisin_base::error::Result;

pub mod kmeans;
pub mod pca;

/// The number of rows of a part of [`NumberRows`].
pub const PART: usize = 16_384;

/// Rows of numbers that may be more than fit in memory. They can be read any number of times.
pub trait NumberRows {
    /// The number of rows.
    fn count(&self) -> usize;

    /// The length of a row.
    fn width(&self) -> usize;

    /// Gives the rows in their order, row-major. Every part but the last has [`PART`] rows, and no part is empty.
    ///
    /// # Errors
    /// The rows cannot be read, or `take` fails.
    fn for_each_part(&self, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>;
}

#[cfg(test)]
mod tests;
