//! A column of vectors of a table, read part by part: the embeddings of a large pool do not fit in memory.

use std::path::{Path, PathBuf};

use arrow_array::{Array as _, FixedSizeListArray};
use arrow_schema::DataType;

use crate::tables::vectors;
use raisin_base::error::{Result, anyhow, ensure};
use raisin_selector::clustering::{NumberRows, PART};
use raisin_table as table;

/// The vectors of all rows of a table, or of some of them, in the order of the rows.
pub struct VectorColumn {
    path: PathBuf,
    name: &'static str,
    width: usize,
    /// For each row of the table, whether it is read.
    kept: Vec<bool>,
}

impl VectorColumn {
    /// All rows of a column.
    ///
    /// # Errors
    /// The file is no table, or has no such column of vectors.
    pub fn open(path: &Path, name: &'static str) -> Result<Self> {
        let schema = table::schema(path)?;
        let width = match schema.field_with_name(name).map(arrow_schema::Field::data_type) {
            Ok(DataType::FixedSizeList(_, width)) => usize::try_from(*width)?,
            Ok(other) => return Err(anyhow!("the column `{name}` of {} has the type {other}", path.display())),
            Err(_) => return Err(anyhow!("{} has no column `{name}`", path.display())),
        };
        let rows = usize::try_from(table::rows(path)?)?;
        Ok(Self { path: path.to_owned(), name, width, kept: vec![true; rows] })
    }

    /// Those rows for which `kept` is true. It has a value for each row of the table.
    pub fn only(self, kept: Vec<bool>) -> Result<Self> {
        ensure!(kept.len() == self.kept.len(), "{} rows are chosen of {}", kept.len(), self.kept.len());
        Ok(Self { kept, ..self })
    }

    /// For each row of the table, whether it has a vector.
    pub fn present(&self) -> Result<Vec<bool>> {
        let mut present = Vec::with_capacity(self.kept.len());
        for batch in table::batches_of(&self.path, &[self.name])? {
            let batch = batch?;
            let lists: &FixedSizeListArray = table::column(&batch, self.name)?;
            present.extend((0..lists.len()).map(|row| lists.is_valid(row)));
        }
        Ok(present)
    }
}

impl NumberRows for VectorColumn {
    fn count(&self) -> usize {
        self.kept.iter().filter(|kept| **kept).count()
    }

    fn width(&self) -> usize {
        self.width
    }

    fn for_each_part(&self, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let width = self.width;
        let mut part = Vec::with_capacity(PART.min(self.count()) * width);
        let mut kept = self.kept.iter();
        for batch in table::batches_of(&self.path, &[self.name])? {
            let batch = batch?;
            let (values, _) = vectors(&batch, self.name)?;
            for (row, _) in kept.by_ref().take(batch.num_rows()).enumerate().filter(|(_, kept)| **kept) {
                part.extend_from_slice(&values[row * width..(row + 1) * width]);
                if part.len() == PART * width {
                    take(&part)?;
                    part.clear();
                }
            }
        }
        if part.is_empty() { Ok(()) } else { take(&part) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::UInt32Array;

    use super::*;
    use crate::tables::vector_column;

    #[test]
    fn parts_have_the_kept_rows_in_order_and_all_but_the_last_are_full() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.parquet");
        let count = 2 * PART + 100;
        let values: Vec<f32> = (0..count).flat_map(|row| [row as f32, -(row as f32)]).collect();
        let valid = (0..count).map(|row| row % 5 != 3).collect();
        table::write(
            &path,
            &table::batch(vec![
                ("id", Arc::new(UInt32Array::from_iter_values(0..count as u32))),
                ("vector", vector_column(values, 2, Some(valid))?),
            ])?,
        )?;
        let all = VectorColumn::open(&path, "vector")?;
        let present = all.present()?;
        assert_eq!((all.count(), all.width(), present.iter().filter(|is| !**is).count()), (count, 2, count / 5));
        let some = all.only(present)?;
        let mut parts = Vec::new();
        some.for_each_part(&mut |part| {
            parts.push(part.to_vec());
            Ok(())
        })?;
        let rows = (0..count).filter(|row| row % 5 != 3);
        assert_eq!(parts.concat(), rows.flat_map(|row| [row as f32, -(row as f32)]).collect::<Vec<f32>>());
        let lengths: Vec<usize> = parts.iter().map(|part| part.len() / 2).collect();
        assert_eq!(lengths, [PART, count - count / 5 - PART]);
        assert!(VectorColumn::open(&path, "id").is_err() && VectorColumn::open(&path, "vectors").is_err());
        Ok(())
    }
}
