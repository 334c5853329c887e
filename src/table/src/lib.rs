//! Tables in Parquet files. All stages write and read tables with this crate.
//!
//! The same batches give the same bytes: the writer has fixed settings and stores neither a time nor a host name.

mod declared;
mod late;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatchReader as _;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::ChunkReader;
use parquet::schema::types::ColumnPath;

use raisin_base::error::{Context as _, Result, anyhow};
use raisin_contract::outputs::TableDeclaration;

pub use late::{EncodedGroup, GroupEncoder, LateWriter, RunningGroup};

/// Writes tables into the artifact of a running stage.
pub trait WriteTable {
    /// Writes `<name>.parquet`, which is the table `<stage>.<name>` in SQL.
    ///
    /// # Errors
    /// The file cannot be written, or the kind of the stage declares no such table.
    fn write_table(&self, name: &str, rows: &RecordBatch) -> Result<()>;

    /// A writer of `<name>.parquet`, for a table that is written batch by batch.
    ///
    /// # Errors
    /// The file cannot be created, or the kind of the stage declares no such table.
    fn table_writer(&self, name: &str, schema: SchemaRef) -> Result<Writer>;

    /// A writer of `<name>.parquet`, of which the column `late` is known only at the end.
    ///
    /// # Errors
    /// As for [`Self::table_writer`], or there is no column `late`.
    fn late_writer(&self, name: &str, schema: SchemaRef, late: &str) -> Result<LateWriter>;
}

impl WriteTable for raisin_contract::Context {
    fn write_table(&self, name: &str, rows: &RecordBatch) -> Result<()> {
        let mut writer = self.table_writer(name, rows.schema())?;
        writer.write(rows)?;
        writer.close()
    }

    fn table_writer(&self, name: &str, schema: SchemaRef) -> Result<Writer> {
        Writer::declared(&self.out().join(format!("{name}.parquet")), schema, self.declared_table(name)?)
    }

    fn late_writer(&self, name: &str, schema: SchemaRef, late: &str) -> Result<LateWriter> {
        LateWriter::create(&self.out().join(format!("{name}.parquet")), schema, late, self.declared_table(name)?)
    }
}

/// Writes a table batch by batch. The table is complete after [`Writer::close`].
pub struct Writer {
    inner: ArrowWriter<File>,
    /// The declaration to which each batch is held.
    declared: Option<&'static TableDeclaration>,
}

/// The number of rows of a row group. A query scans row groups side by side, and skips those whose smallest and largest
/// values show that no row fits. DuckDB has the same number.
pub const ROW_GROUP: usize = 122_880;

/// The fixed settings of every table that raisin writes.
pub fn properties() -> Result<WriterProperties> {
    properties_of(None)
}

/// The number of rows of a part of a row group, for tables that are encoded part by part. The pages of a column depend on it.
pub const PART: usize = 2048;

/// The settings for a declared table. Columns whose numbers ascend are stored as differences. For long texts a dictionary
/// and the smallest and largest text of a page are of no use, and the higher level of compression makes them 3 % smaller for a sixth more time.
fn properties_of(declared: Option<&TableDeclaration>) -> Result<WriterProperties> {
    let mut settings = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_created_by("raisin".to_owned())
        .set_max_row_group_row_count(Some(ROW_GROUP));
    for column in declared.into_iter().flat_map(TableDeclaration::columns).filter(|column| column.ascends) {
        let path = ColumnPath::from(column.name);
        settings = settings
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    for column in declared.into_iter().flat_map(TableDeclaration::columns).filter(|column| column.is_long) {
        let path = ColumnPath::from(column.name);
        settings = settings
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
            .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
            .set_column_compression(path, Compression::ZSTD(ZstdLevel::try_new(3)?));
    }
    Ok(settings.build())
}

impl Writer {
    pub fn create(path: &Path, schema: SchemaRef) -> Result<Self> {
        Self::declared(path, schema, None)
    }

    fn declared(path: &Path, schema: SchemaRef, declared: Option<&'static TableDeclaration>) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { inner: ArrowWriter::try_new(file, schema, Some(properties_of(declared)?))?, declared })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if let Some(table) = self.declared {
            declared::check(table, batch)?;
        }
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

/// The bytes that [`write`] writes.
pub fn to_bytes(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties()?))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes)
}

/// Reads the bytes of [`to_bytes`].
pub fn from_bytes(bytes: Vec<u8>) -> Result<RecordBatch> {
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).context("the bytes are no Parquet table")?;
    collect(Path::new("a table in memory"), builder)
}

/// Reads a whole table into one batch.
pub fn read(path: &Path) -> Result<RecordBatch> {
    collect(path, open(path)?)
}

/// The number of rows of a batch of [`batches`].
const BATCH: usize = 8192;

/// Reads a table batch by batch, so that it need not be in memory as a whole. Every batch but the last has the same
/// number of rows.
pub fn batches(path: &Path) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    parts(path, open(path)?)
}

/// The same with these columns only, in the order of the file.
pub fn batches_of(path: &Path, names: &[&str]) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    parts(path, projected(path, names)?)
}

fn parts(
    path: &Path,
    builder: ParquetRecordBatchReaderBuilder<File>,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let reader = builder.with_batch_size(BATCH).build()?;
    let place = path.display().to_string();
    Ok(reader.map(move |batch| batch.with_context(|| format!("cannot read {place}"))))
}

/// The names and types of the columns of a table.
pub fn schema(path: &Path) -> Result<SchemaRef> {
    Ok(Arc::clone(open(path)?.schema()))
}

/// Reads these columns of a table into one batch, in the order of the file. The other columns are not read.
pub fn read_columns(path: &Path, names: &[&str]) -> Result<RecordBatch> {
    collect(path, projected(path, names)?)
}

fn projected(path: &Path, names: &[&str]) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let builder = open(path)?;
    let fields = builder.schema().fields();
    for name in names {
        if !fields.iter().any(|field| field.name() == name) {
            let known: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
            return Err(anyhow!("{} has no column `{name}`; there are {}", path.display(), known.join(", ")));
        }
    }
    let wanted = (0..fields.len()).filter(|&place| names.contains(&fields[place].name().as_str()));
    let columns = ProjectionMask::roots(builder.parquet_schema(), wanted);
    Ok(builder.with_projection(columns))
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    ParquetRecordBatchReaderBuilder::try_new(file).with_context(|| format!("{} is not a Parquet file", path.display()))
}

fn collect<R: ChunkReader + 'static>(path: &Path, builder: ParquetRecordBatchReaderBuilder<R>) -> Result<RecordBatch> {
    // All rows are read as one batch: joining several batches would need twice the memory.
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows())?;
    let reader = builder.with_batch_size(rows.max(1)).build()?;
    let schema = reader.schema();
    let mut batches =
        reader.collect::<Result<Vec<_>, _>>().with_context(|| format!("cannot read {}", path.display()))?;
    if batches.len() == 1 { Ok(batches.remove(0)) } else { Ok(concat_batches(&schema, &batches)?) }
}

/// The number of rows of a table, from the metadata at the end of its file.
pub fn rows(path: &Path) -> Result<u64> {
    Ok(u64::try_from(open(path)?.metadata().file_metadata().num_rows())?)
}

/// The column of this name, as the array type that the caller expects.
///
/// ```no_run
/// # use arrow_array::{RecordBatch, Float32Array};
/// # fn f(batch: &RecordBatch) -> raisin_base::error::Result<()> {
/// let losses: &Float32Array = raisin_table::column(batch, "loss")?;
/// # Ok(()) }
/// ```
pub fn column<'a, A: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a A> {
    let array = batch.column_by_name(name).ok_or_else(|| {
        let known: Vec<_> = batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        anyhow!("no column `{name}`; there are {}", known.join(", "))
    })?;
    array.as_any().downcast_ref().ok_or_else(|| anyhow!("column `{name}` has the type {}", array.data_type()))
}

/// A batch of named columns. Every column is nullable in the schema, so that equal tables have equal schemas.
pub fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// The table with this column in place of the one of this name, or after the other columns.
pub fn with_column(rows: &RecordBatch, name: &str, column: &ArrayRef) -> Result<RecordBatch> {
    let schema = rows.schema();
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let mut columns: Vec<(&str, ArrayRef)> = names.zip(rows.columns().iter().cloned()).collect();
    match columns.iter_mut().find(|(known, _)| *known == name) {
        Some((_, known)) => *known = Arc::clone(column),
        None => columns.push((name, Arc::clone(column))),
    }
    batch(columns)
}

/// The type of a column of lists of texts.
pub fn texts_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))
}

/// The type of a column of vectors: lists of f32 of one length.
pub fn vector_type(length: usize) -> DataType {
    DataType::FixedSizeList(
        Arc::new(Field::new("item", DataType::Float32, false)),
        i32::try_from(length).unwrap_or(i32::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int32Array, StringArray};
    use parquet::file::metadata::RowGroupMetaData;

    #[test]
    fn a_table_is_read_as_it_was_written_and_equal_tables_have_equal_bytes() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let rows = batch(vec![
            ("id", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef),
            ("text", Arc::new(StringArray::from(vec![Some("a"), None]))),
        ])?;
        write(&folder.path().join("a.parquet"), &rows)?;
        write(&folder.path().join("b.parquet"), &rows)?;
        assert_eq!(read(&folder.path().join("a.parquet"))?, rows);
        assert_eq!(std::fs::read(folder.path().join("a.parquet"))?, std::fs::read(folder.path().join("b.parquet"))?);
        assert_eq!(to_bytes(&rows)?, std::fs::read(folder.path().join("a.parquet"))?);
        assert_eq!(from_bytes(to_bytes(&rows)?)?, rows);
        assert!(from_bytes(b"no table".to_vec()).is_err());
        Ok(())
    }

    #[test]
    fn a_long_table_or_some_of_its_columns_are_read_as_one_batch() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("long.parquet");
        // More rows than the default size of a batch.
        let rows = batch(vec![
            ("id", Arc::new(Int32Array::from_iter_values(0..3000)) as ArrayRef),
            (
                "text",
                Arc::new((0..3000).map(|row| (row % 3 > 0).then(|| format!("row {row}"))).collect::<StringArray>()),
            ),
            ("more", Arc::new(Int32Array::from_iter_values(1..3001))),
        ])?;
        write(&path, &rows)?;
        assert_eq!(read(&path)?, rows);
        assert_eq!(read_columns(&path, &["more", "text"])?, rows.project(&[1, 2])?);
        let error = read_columns(&path, &["id", "ids"]).expect_err("no such column");
        assert!(error.to_string().ends_with("has no column `ids`; there are id, text, more"), "{error}");
        let parts = batches(&path)?.collect::<Result<Vec<_>>>()?;
        assert_eq!(concat_batches(&rows.schema(), &parts)?, rows);
        let parts = batches_of(&path, &["more"])?.collect::<Result<Vec<_>>>()?;
        assert_eq!(concat_batches(&parts[0].schema(), &parts)?, rows.project(&[2])?);
        assert_eq!(schema(&path)?, rows.schema());
        write(&path, &rows.slice(0, 0))?;
        assert_eq!(read_columns(&path, &["id"])?.num_rows(), 0);
        Ok(())
    }

    #[test]
    fn a_row_group_has_a_fixed_number_of_rows() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("large.parquet");
        let rows = Int32Array::from_iter_values(0..i32::try_from(2 * ROW_GROUP + 1)?);
        write(&path, &batch(vec![("id", Arc::new(rows) as ArrayRef)])?)?;
        let sizes: Vec<i64> = open(&path)?.metadata().row_groups().iter().map(RowGroupMetaData::num_rows).collect();
        assert_eq!(sizes, [122_880, 122_880, 1]);
        Ok(())
    }

    #[test]
    fn the_error_for_a_missing_column_lists_the_columns() -> Result<()> {
        let rows = batch(vec![("id", Arc::new(Int32Array::from(vec![1])) as ArrayRef)])?;
        let error = column::<Int32Array>(&rows, "ids").expect_err("no such column");
        assert_eq!(error.to_string(), "no column `ids`; there are id");
        Ok(())
    }
}
