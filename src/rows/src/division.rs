//! Divides rows by hashes.

use arrow_array::{ArrayRef, UInt64Array};
use datafusion_common::Result;
use datafusion_common::hash_utils::{RandomState, create_hashes};

/// The hashes of the keys of `rows` rows.
///
/// # Errors
/// The keys are of a type without hashes.
pub fn hashes_of(keys: &[ArrayRef], state: &RandomState, rows: usize) -> Result<Vec<u64>> {
    let mut hashes = vec![0; rows];
    create_hashes(keys, state, &mut hashes)?;
    Ok(hashes)
}

/// The numbers of the rows of each output.
pub fn rows_of_outputs(hashes: &[u64], outputs: usize) -> Vec<Vec<u32>> {
    let mut rows: Vec<Vec<u32>> = vec![Vec::with_capacity(hashes.len() / outputs + hashes.len() / 8); outputs];
    for (hash, row) in hashes.iter().zip(0..) {
        rows[(hash % outputs as u64) as usize].push(row);
    }
    rows
}

/// The places of rows, if that of the first row of all is `first`.
pub fn places_of(rows: &[u32], first: u64) -> UInt64Array {
    rows.iter().map(|row| first + u64::from(*row)).collect::<Vec<u64>>().into()
}

/// The numbers of rows, of those of all rows.
pub fn numbers_of(rows: &[u32], all: &[u64]) -> UInt64Array {
    rows.iter().map(|row| all[*row as usize]).collect::<Vec<u64>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_in_the_output_of_its_hash_in_its_order() {
        let hashes = [7, 3, 8, 3, 12, 0];
        assert_eq!(rows_of_outputs(&hashes, 3), [vec![1, 3, 4, 5], vec![0], vec![2]]);
        assert!(rows_of_outputs(&[], 2).iter().all(Vec::is_empty));
        assert_eq!(places_of(&[1, 4], 100), UInt64Array::from(vec![101, 104]));
        assert_eq!(numbers_of(&[1, 4], &hashes), UInt64Array::from(vec![3, 12]));
    }
}
