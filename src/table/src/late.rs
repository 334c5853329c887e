//! A table of which one column is known only when all rows have come, such as the number of copies of a row.

use std::fs::File;
use std::io::BufWriter;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, RecordBatch};
use arrow_schema::{Field, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;

use raisin_base::error::{Context as _, Result, anyhow, ensure};
use raisin_contract::outputs::TableDeclaration;

use crate::{ROW_GROUP, declared, properties_of};

/// Writes a table row group by row group. The columns of a group are encoded on all cores as soon as the group is there,
/// and stay in memory in this compressed form until the late column is known. The file has the bytes that
/// [`write`](crate::write) gives for the whole table.
pub struct LateWriter {
    file: SerializedFileWriter<BufWriter<File>>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    /// The place of the late column.
    late: usize,
    declared: Option<&'static TableDeclaration>,
    groups: Vec<EncodedGroup>,
}

/// Encodes row groups of a table of [`LateWriter`].
#[derive(Clone, Copy)]
pub struct GroupEncoder<'w> {
    factory: &'w ArrowRowGroupWriterFactory,
    schema: &'w SchemaRef,
    late: usize,
    declared: Option<&'static TableDeclaration>,
}

/// The encoded rows of a row group.
pub struct EncodedGroup {
    rows: usize,
    /// The columns but for the late one.
    columns: Vec<ArrowColumnChunk>,
    late: ArrowColumnWriter,
}

impl LateWriter {
    /// A writer of a table with these columns, of which `late` comes at the end. Every column is a plain one, no list.
    ///
    /// # Errors
    /// The file cannot be created, or there is no column `late`.
    pub fn create(
        path: &Path,
        schema: SchemaRef,
        late: &str,
        declared: Option<&'static TableDeclaration>,
    ) -> Result<Self> {
        let place = schema.index_of(late)?;
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let writer = ArrowWriter::try_new(BufWriter::new(file), schema.clone(), Some(properties_of(declared)?))?;
        let (file, factory) = writer.into_serialized_writer()?;
        Ok(Self { file, factory, schema, late: place, declared, groups: Vec::new() })
    }

    /// Adds the rows of one row group. The values of the late column do not count here. All groups but the last have
    /// [`ROW_GROUP`] rows.
    ///
    /// # Errors
    /// The rows differ from the declaration of the table, or cannot be encoded.
    pub fn push(&mut self, rows: &RecordBatch) -> Result<()> {
        let group = self.encoder().encode(self.groups.len(), rows)?;
        self.push_encoded(group)
    }

    /// Adds a row group that [`GroupEncoder::encode`] gave for the number of groups so far.
    ///
    /// # Errors
    /// The group before is not full.
    pub fn push_encoded(&mut self, group: EncodedGroup) -> Result<()> {
        let is_last_full = self.groups.last().is_none_or(|last| last.rows == ROW_GROUP);
        ensure!(is_last_full || group.rows == 0, "row groups of a wrong size");
        if group.rows > 0 {
            self.groups.push(group);
        }
        Ok(())
    }

    /// What encodes the rows of this table.
    pub fn encoder(&self) -> GroupEncoder<'_> {
        let Self { factory, schema, late, declared, .. } = self;
        GroupEncoder { factory, schema, late: *late, declared: *declared }
    }

    /// Writes the file. `late` gives the values of the late column for a range of rows.
    ///
    /// # Errors
    /// The file cannot be written, or the values have another length or type.
    pub fn close(mut self, late: impl Fn(Range<usize>) -> ArrayRef) -> Result<()> {
        let field = self.schema.field(self.late).clone();
        let mut first = 0;
        for group in self.groups {
            let values = late(first..first + group.rows);
            ensure!(
                values.len() == group.rows && values.data_type() == field.data_type(),
                "a late column of another form"
            );
            first += group.rows;
            let mut columns = group.columns;
            columns.insert(self.late, encoded(group.late, &field, &values)?);
            let mut written = self.file.next_row_group()?;
            for column in columns {
                column.append_to_row_group(&mut written)?;
            }
            written.close()?;
        }
        self.file.close()?;
        Ok(())
    }
}

impl GroupEncoder<'_> {
    /// Encodes the rows of row group number `place`, on all cores. Several groups can be encoded at the same time.
    ///
    /// # Errors
    /// The rows differ from the declaration of the table, are too many, or cannot be encoded.
    pub fn encode(&self, place: usize, rows: &RecordBatch) -> Result<EncodedGroup> {
        if let Some(table) = self.declared {
            declared::check(table, rows)?;
        }
        ensure!(rows.num_rows() <= ROW_GROUP, "row groups of a wrong size");
        let mut writers = self.factory.create_column_writers(place)?;
        ensure!(writers.len() == self.schema.fields().len(), "a late column beside nested columns");
        let late = writers.remove(self.late);
        let fields = self.schema.fields().iter().zip(rows.columns()).enumerate();
        let columns: Vec<(&Arc<Field>, &ArrayRef)> =
            fields.filter(|(place, _)| *place != self.late).map(|(_, column)| column).collect();
        let columns =
            columns.into_par_iter().zip(writers).map(|((field, values), writer)| encoded(writer, field, values));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(EncodedGroup { rows: rows.num_rows(), columns, late })
    }
}

/// A column, encoded. A plain column has one leaf.
fn encoded(mut writer: ArrowColumnWriter, field: &Field, values: &ArrayRef) -> Result<ArrowColumnChunk> {
    for leaf in compute_leaves(field, values)? {
        writer.write(&leaf)?;
    }
    writer.close().map_err(|error| anyhow!("cannot encode the column `{}`: {error}", field.name()))
}

#[cfg(test)]
mod tests {
    use arrow_array::{StringArray, UInt32Array};

    use super::*;
    use crate::{batch, write};

    fn rows(range: Range<usize>, copies: impl Fn(usize) -> u32) -> RecordBatch {
        let text = |row: usize| (!row.is_multiple_of(7)).then(|| format!("row {} {}", row, row * row % 1013));
        batch(vec![
            ("text", Arc::new(range.clone().map(text).collect::<StringArray>()) as ArrayRef),
            ("copies", Arc::new(UInt32Array::from_iter_values(range.clone().map(copies)))),
            ("id", Arc::new(UInt32Array::from_iter_values(range.map(|row| row as u32)))),
        ])
        .unwrap()
    }

    #[test]
    fn the_file_has_the_bytes_of_the_table_that_is_written_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, late) = (folder.path().join("whole.parquet"), folder.path().join("late.parquet"));
        let copies = |row: usize| (row % 3) as u32;
        for count in [0, 1, 1000, ROW_GROUP, ROW_GROUP + 1, 2 * ROW_GROUP + 5000] {
            let all = rows(0..count, copies);
            write(&whole, &all).unwrap();
            let mut writer = LateWriter::create(&late, all.schema(), "copies", None).unwrap();
            for first in (0..count).step_by(ROW_GROUP) {
                writer.push(&rows(first..count.min(first + ROW_GROUP), |_| 0)).unwrap();
            }
            writer.close(|range| Arc::new(UInt32Array::from_iter_values(range.map(|row| copies(row))))).unwrap();
            assert!(std::fs::read(&whole).unwrap() == std::fs::read(&late).unwrap(), "{count} rows");
        }
    }

    #[test]
    fn groups_of_a_wrong_size_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let part = rows(0..10, |_| 0);
        let mut writer = LateWriter::create(&folder.path().join("a"), part.schema(), "copies", None).unwrap();
        writer.push(&part).unwrap();
        assert!(writer.push(&part).is_err(), "the first group is not full");
        assert!(writer.close(|_| Arc::new(UInt32Array::from(vec![0]))).is_err(), "too few values");
    }
}
