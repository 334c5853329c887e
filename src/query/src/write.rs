//! Writes results: as a text table, CSV, JSON lines or Parquet. All but the text table are written while they are read.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::json::writer::{LineDelimited, WriterBuilder};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value};

use super::render;
use super::session::QueryRows;
use raisin_base::error::{Context as _, Result};

/// Writes an aligned text table. The number of rows goes to `note`.
pub async fn as_table(
    rows: QueryRows,
    to: &mut (dyn Write + Send),
    width: Option<usize>,
    note: &mut dyn FnMut(&str),
) -> Result<()> {
    let rows = rows.all().await?;
    if rows.num_columns() > 0 {
        to.write_all(render::table(&rows, width)?.as_bytes())?;
    }
    note(&format!("{} row{}", rows.num_rows(), if rows.num_rows() == 1 { "" } else { "s" }));
    Ok(())
}

/// Writes CSV with a heading. Lists and structs, for which CSV has no form, are written as JSON.
pub async fn as_csv(mut rows: QueryRows, to: &mut (dyn Write + Send)) -> Result<()> {
    let empty = RecordBatch::new_empty(rows.schema.clone());
    let mut writer = csv::WriterBuilder::new().with_header(true).build(to);
    writer.write(&flat(&empty)?)?;
    while let Some(batch) = rows.next().await? {
        writer.write(&flat(&batch)?)?;
    }
    Ok(())
}

/// Writes JSON lines: one object for each row. Nulls are written, so that each line has every column.
pub async fn as_json(mut rows: QueryRows, to: &mut (dyn Write + Send)) -> Result<()> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(to);
    while let Some(batch) = rows.next().await? {
        writer.write(&batch)?;
    }
    Ok(writer.finish()?)
}

pub async fn as_parquet(mut rows: QueryRows, to: &mut (dyn Write + Send)) -> Result<()> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_created_by("raisin".to_owned())
        .build();
    let mut writer = ArrowWriter::try_new(to, rows.schema.clone(), Some(properties))?;
    while let Some(batch) = rows.next().await? {
        writer.write(&batch)?;
    }
    writer.close()?;
    Ok(())
}

/// Writes a temporary file and moves it to its place when it is complete. A query that fails leaves the old file.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".raisin-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    write(file.as_file_mut())?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

pub fn is_broken_pipe(error: &raisin_base::error::Error) -> bool {
    error.chain().any(|cause| {
        let is_broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
        cause.downcast_ref::<std::io::Error>().is_some_and(is_broken) || cause.to_string().contains("Broken pipe")
    })
}

/// The batch with nested columns as JSON text.
fn flat(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields: Vec<Field> = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            fields.push(Field::new(field.name(), DataType::Utf8, true));
            columns.push(Arc::new(as_json_texts(array)?));
        } else {
            fields.push(field.as_ref().clone());
            columns.push(array.clone());
        }
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn as_json_texts(array: &ArrayRef) -> Result<StringArray> {
    let schema = Arc::new(Schema::new(vec![Field::new("value", array.data_type().clone(), true)]));
    let mut lines = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut lines);
    writer.write(&RecordBatch::try_new(schema, vec![array.clone()])?)?;
    writer.finish()?;
    drop(writer);
    let mut texts: Vec<Option<String>> = Vec::with_capacity(array.len());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let row: Map<String, Value> = serde_json::from_slice(line)?;
        texts.push(row.get("value").filter(|value| !value.is_null()).map(Value::to_string));
    }
    Ok(StringArray::from(texts))
}
