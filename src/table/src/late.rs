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

use raisin_base::error::{Context as _, Result, anyhow, ensure};
use raisin_contract::outputs::TableDeclaration;

use crate::{PART, ROW_GROUP, declared, properties_of};

/// Writes a table row group by row group. A group is encoded as soon as its rows are there, and stays in memory in this
/// compressed form until the late column is known. The same rows give the same bytes, on any number of threads.
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

/// A row group whose rows are being encoded. Only one part is in memory with its columns at a time: a column of texts
/// holds at most 2 GiB.
pub struct RunningGroup {
    rows: usize,
    /// The columns but for the late one, with their places.
    columns: Vec<(usize, ArrowColumnWriter)>,
    late: ArrowColumnWriter,
    schema: SchemaRef,
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

    /// Adds a row group that the encoder gave for the number of groups so far. All groups but the last have [`ROW_GROUP`]
    /// rows.
    ///
    /// # Errors
    /// The group before is not full.
    pub fn push(&mut self, group: EncodedGroup) -> Result<()> {
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
            let mut late = group.late;
            write(&mut late, &field, &values)?;
            columns.insert(self.late, closed(late, &field)?);
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
    /// Begins row group number `place`. Several groups can be encoded at the same time.
    ///
    /// # Errors
    /// A column is a list or a struct.
    pub fn begin(&self, place: usize) -> Result<RunningGroup> {
        let mut writers = self.factory.create_column_writers(place)?;
        let fields = self.schema.fields();
        ensure!(writers.len() == fields.len(), "a late column beside nested columns");
        let late = writers.remove(self.late);
        let columns = (0..fields.len()).filter(|column| *column != self.late).zip(writers).collect();
        Ok(RunningGroup { rows: 0, columns, late, schema: Arc::clone(self.schema), declared: self.declared })
    }
}

impl RunningGroup {
    /// Encodes the next [`PART`] rows, or the last ones, on one core: several groups can be encoded side by side.
    ///
    /// # Errors
    /// The rows differ from the declaration of the table, are too many, or cannot be encoded.
    pub fn add(&mut self, part: &RecordBatch) -> Result<()> {
        if let Some(table) = self.declared {
            declared::check(table, part)?;
        }
        ensure!(self.rows.is_multiple_of(PART) && part.num_rows() <= PART, "parts of a wrong size");
        self.rows += part.num_rows();
        ensure!(self.rows <= ROW_GROUP, "row groups of a wrong size");
        let fields = self.schema.fields();
        self.columns.iter_mut().try_for_each(|(column, writer)| write(writer, &fields[*column], part.column(*column)))
    }

    /// Ends the row group.
    ///
    /// # Errors
    /// The last rows cannot be encoded.
    pub fn finish(self) -> Result<EncodedGroup> {
        let Self { rows, columns, late, schema, .. } = self;
        let columns = columns.into_iter().map(|(column, writer)| closed(writer, schema.field(column)));
        Ok(EncodedGroup { rows, columns: columns.collect::<Result<_>>()?, late })
    }
}

/// Encodes values of a column. A plain column has one leaf.
fn write(writer: &mut ArrowColumnWriter, field: &Field, values: &ArrayRef) -> Result<()> {
    for leaf in compute_leaves(field, values)? {
        writer.write(&leaf)?;
    }
    Ok(())
}

fn closed(writer: ArrowColumnWriter, field: &Field) -> Result<ArrowColumnChunk> {
    writer.close().map_err(|error| anyhow!("cannot encode the column `{}`: {error}", field.name()))
}

#[cfg(test)]
mod tests {
    use arrow_array::{StringArray, UInt32Array};
    use parquet::file::metadata::RowGroupMetaData;

    use super::*;
    use crate::batch;

    fn rows(range: Range<usize>, copies: impl Fn(usize) -> u32) -> RecordBatch {
        let text = |row: usize| (!row.is_multiple_of(7)).then(|| format!("row {} {}", row, row * row % 1013));
        batch(vec![
            ("text", Arc::new(range.clone().map(text).collect::<StringArray>()) as ArrayRef),
            ("copies", Arc::new(UInt32Array::from_iter_values(range.clone().map(copies)))),
            ("id", Arc::new(UInt32Array::from_iter_values(range.map(|row| row as u32)))),
        ])
        .unwrap()
    }

    /// Encodes rows, part by part, as the next row group. The values of the late column do not count.
    fn push(writer: &mut LateWriter, rows: &RecordBatch) -> Result<()> {
        let mut group = writer.encoder().begin(writer.groups.len())?;
        for first in (0..rows.num_rows()).step_by(PART) {
            group.add(&rows.slice(first, PART.min(rows.num_rows() - first)))?;
        }
        let group = group.finish()?;
        writer.push(group)
    }

    #[test]
    fn the_file_has_the_rows_in_full_groups_and_the_same_bytes_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let copies = |row: usize| (row % 3) as u32;
        for count in [0, 1, 1000, PART + 1, ROW_GROUP, ROW_GROUP + 1, 2 * ROW_GROUP + 5000] {
            let all = rows(0..count, copies);
            let [one, other] = ["one", "other"].map(|name| {
                let path = folder.path().join(name);
                let mut writer = LateWriter::create(&path, all.schema(), "copies", None).unwrap();
                for first in (0..count).step_by(ROW_GROUP) {
                    push(&mut writer, &rows(first..count.min(first + ROW_GROUP), |_| 0)).unwrap();
                }
                writer.close(|range| Arc::new(UInt32Array::from_iter_values(range.map(&copies)))).unwrap();
                path
            });
            assert_eq!(crate::read(&one).unwrap(), all, "{count} rows");
            assert!(std::fs::read(&one).unwrap() == std::fs::read(&other).unwrap(), "{count} rows");
            let sizes: Vec<i64> =
                crate::open(&one).unwrap().metadata().row_groups().iter().map(RowGroupMetaData::num_rows).collect();
            let expected: Vec<i64> =
                (0..count).step_by(ROW_GROUP).map(|first| ROW_GROUP.min(count - first) as i64).collect();
            assert_eq!(sizes, expected);
        }
    }

    #[test]
    fn groups_of_a_wrong_size_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let part = rows(0..10, |_| 0);
        let mut writer = LateWriter::create(&folder.path().join("a"), part.schema(), "copies", None).unwrap();
        push(&mut writer, &part).unwrap();
        assert!(push(&mut writer, &part).is_err(), "the first group is not full");
        assert!(writer.close(|_| Arc::new(UInt32Array::from(vec![0]))).is_err(), "too few values");
    }
}
