//! Writes results, each format in one function. Tables for people are read whole first; all other formats are written
//! while the rows are read.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_ipc::writer::{FileWriter, StreamWriter};
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::json::writer::{JsonArray, LineDelimited, WriterBuilder};
use parquet::arrow::ArrowWriter;
use serde_json::{Map, Value};

use super::render::{self, Html, Markdown, Markup};
use super::rows::QueryRows;
use raisin_base::error::{Context as _, Result};
use raisin_contract::query::OutputFormat;

/// How a result is written.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub format: OutputFormat,
    /// One line for each column, instead of one line for each row, in the formats for people.
    pub is_expanded: bool,
    /// The width to which tables for people are cut.
    pub width: Option<usize>,
    /// The largest number of rows in a table for people.
    pub most_rows: Option<usize>,
    /// Whether the bytes go into a file.
    pub is_a_file: bool,
}

/// Writes a result. The number of rows of a table for people goes to `note`.
pub async fn write(
    rows: QueryRows,
    form: &Form,
    to: &mut (dyn Write + Send),
    note: &mut dyn FnMut(&str),
) -> Result<()> {
    match form.format {
        OutputFormat::Table | OutputFormat::Box => for_people(rows, form, to, note).await,
        OutputFormat::Csv => as_csv(rows, to).await,
        OutputFormat::Json => as_json(rows, to).await,
        OutputFormat::Jsonl => as_json_lines(rows, to).await,
        OutputFormat::Markdown => as_markup(rows, &Markdown, to).await,
        OutputFormat::Html => as_markup(rows, &Html, to).await,
        OutputFormat::Arrow => as_arrow(rows, form.is_a_file, to).await,
        OutputFormat::Parquet => as_parquet(rows, to).await,
    }
}

async fn for_people(
    rows: QueryRows,
    form: &Form,
    to: &mut (dyn Write + Send),
    note: &mut dyn FnMut(&str),
) -> Result<()> {
    let (rows, left_out) = rows.first(form.most_rows).await?;
    if rows.num_columns() > 0 {
        let text = match form.format {
            _ if form.is_expanded => render::expanded(&rows)?,
            OutputFormat::Box => render::boxed(&rows, form.width)?,
            _ => render::table(&rows, form.width)?,
        };
        to.write_all(text.as_bytes())?;
        // The note goes to standard error, and must come after the rows.
        to.flush()?;
    }
    let count = rows.num_rows() as u64 + left_out;
    let words = format!("{count} row{}", if count == 1 { "" } else { "s" });
    note(&match left_out {
        0 => words,
        _ => format!(
            "{words}, of which {left_out} are not shown: `--rows all` (`\\rows all` at the prompt) shows all, and -o FILE \
             (`\\o FILE`) writes all"
        ),
    });
    Ok(())
}

/// Writes CSV with a heading. Lists and structs, for which CSV has no form, are written as JSON.
async fn as_csv(mut rows: QueryRows, to: &mut (dyn Write + Send)) -> Result<()> {
    let empty = RecordBatch::new_empty(rows.schema.clone());
    let mut writer = csv::WriterBuilder::new().with_header(true).build(to);
    writer.write(&flat(&empty)?)?;
    while let Some(batch) = rows.next().await? {
        writer.write(&flat(&batch)?)?;
    }
    Ok(())
}

/// Writes one JSON array with an object for each row. Nulls are written, so that each object has every column.
async fn as_json(mut rows: QueryRows, to: &mut (dyn Write + Send)) -> Result<()> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(&mut *to);
    while let Some(batch) = rows.next().await? {
        writer.write(&batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(to.write_all(b"\n")?)
}

/// Writes JSON lines: one object for each row. Nulls are written, so that each line has every column.
async fn as_json_lines(mut rows: QueryRows, to: &mut (dyn Write + Send)) -> Result<()> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(to);
    while let Some(batch) = rows.next().await? {
        writer.write(&batch)?;
    }
    Ok(writer.finish()?)
}

async fn as_markup(mut rows: QueryRows, markup: &(dyn Markup + Sync), to: &mut (dyn Write + Send)) -> Result<()> {
    markup.begin(&rows.schema, to)?;
    while let Some(batch) = rows.next().await? {
        markup.rows(&batch, to)?;
    }
    markup.end(to)
}

/// Writes Arrow IPC: the file format, which readers of files expect, or the stream format, which readers of pipes expect.
async fn as_arrow(mut rows: QueryRows, is_a_file: bool, to: &mut (dyn Write + Send)) -> Result<()> {
    if is_a_file {
        let mut writer = FileWriter::try_new(to, &rows.schema)?;
        while let Some(batch) = rows.next().await? {
            writer.write(&batch)?;
        }
        return Ok(writer.finish()?);
    }
    let mut writer = StreamWriter::try_new(to, &rows.schema)?;
    while let Some(batch) = rows.next().await? {
        writer.write(&batch)?;
    }
    Ok(writer.finish()?)
}

async fn as_parquet(mut rows: QueryRows, to: &mut (dyn Write + Send)) -> Result<()> {
    let mut writer = ArrowWriter::try_new(to, rows.schema.clone(), Some(raisin_table::properties()?))?;
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
