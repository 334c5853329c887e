//! Parquet in and out: the one way in which stages write and read tables.
//!
//! The same batches give the same bytes: one writer, fixed settings, nothing of the time or the place.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatchReader as _;
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{Context as _, Result, anyhow};

/// A table that grows by batches and is complete once [`Writer::close`] returned.
pub struct Writer {
    inner: ArrowWriter<File>,
}

impl Writer {
    pub fn create(path: &Path, schema: SchemaRef) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_created_by("raisin".to_owned())
            .build();
        Ok(Self { inner: ArrowWriter::try_new(file, schema, Some(properties))? })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        Ok(self.inner.write(batch)?)
    }

    pub fn close(self) -> Result<()> {
        self.inner.close()?;
        Ok(())
    }
}

/// Writes one batch as a whole table.
pub fn write(path: &Path, batch: &RecordBatch) -> Result<()> {
    let mut writer = Writer::create(path, batch.schema())?;
    writer.write(batch)?;
    writer.close()
}

/// Reads a whole table into one batch.
pub fn read(path: &Path) -> Result<RecordBatch> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .with_context(|| format!("{} is not a Parquet file", path.display()))?
        .build()?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().with_context(|| format!("cannot read {}", path.display()))?;
    Ok(concat_batches(&schema, &batches)?)
}

/// How many rows a table has, by the end of its file.
pub fn rows(path: &Path) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let table = ParquetRecordBatchReaderBuilder::try_new(file)
        .with_context(|| format!("{} is not a Parquet file", path.display()))?;
    Ok(u64::try_from(table.metadata().file_metadata().num_rows())?)
}

/// A column by name, as the array type that the caller expects.
///
/// ```no_run
/// # use arrow::array::{RecordBatch, Float32Array};
/// # fn f(batch: &RecordBatch) -> anyhow::Result<()> {
/// let losses: &Float32Array = raisin::table::column(batch, "loss")?;
/// # Ok(()) }
/// ```
pub fn column<'a, A: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a A> {
    let array = batch.column_by_name(name).ok_or_else(|| {
        let known: Vec<_> = batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        anyhow!("no column `{name}`; there are {}", known.join(", "))
    })?;
    array.as_any().downcast_ref().ok_or_else(|| anyhow!("column `{name}` has the type {}", array.data_type()))
}

/// A batch from named columns; every column is nullable in the schema, so that tables of one kind always agree.
pub fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// The type of an embedding column: a list of f32 of one fixed length.
pub fn vector_type(length: usize) -> DataType {
    DataType::FixedSizeList(
        Arc::new(Field::new("item", DataType::Float32, false)),
        i32::try_from(length).unwrap_or(i32::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, StringArray};

    #[test]
    fn a_table_comes_back_as_it_was_written_and_twice_the_same_bytes() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let rows = batch(vec![
            ("id", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef),
            ("text", Arc::new(StringArray::from(vec![Some("a"), None]))),
        ])?;
        write(&folder.path().join("a.parquet"), &rows)?;
        write(&folder.path().join("b.parquet"), &rows)?;
        assert_eq!(read(&folder.path().join("a.parquet"))?, rows);
        assert_eq!(std::fs::read(folder.path().join("a.parquet"))?, std::fs::read(folder.path().join("b.parquet"))?);
        Ok(())
    }

    #[test]
    fn a_missing_column_names_the_ones_there_are() -> Result<()> {
        let rows = batch(vec![("id", Arc::new(Int32Array::from(vec![1])) as ArrayRef)])?;
        let error = column::<Int32Array>(&rows, "ids").expect_err("no such column");
        assert_eq!(error.to_string(), "no column `ids`; there are id");
        Ok(())
    }
}
