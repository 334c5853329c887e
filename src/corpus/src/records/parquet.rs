//! Reads the rows of a Parquet file. A damaged group of rows costs its own rows.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Schema};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::ChunkReader;

use super::source::{ByteSource, Compression, open};
use super::{FileDamage, RawRecord, RecordChunk, columns};
use raisin_base::error::{Context as _, Problem, Result};

/// The number of rows that are decoded together.
const DECODED: usize = 4096;

/// The same for files with lists and structs. A row of a Parquet file can be far larger than its share of the file, because
/// equal values are stored once. Texts of other columns are views of the stored ones, but lists are copied.
const DECODED_LISTS: usize = 128;

/// A Parquet file is read from its end, so that a compressed one must be unpacked into memory.
const MOST_UNPACKED: u64 = 1 << 30;

/// Reads the file. The number of bytes for `take` is estimated from the share of rows.
pub fn read(
    path: &Path,
    compression: Option<Compression>,
    take: impl FnMut(Vec<RawRecord>, u64) -> Result<()>,
) -> Result<Vec<FileDamage>> {
    let Some(compression) = compression else {
        let file = open(path)?;
        let size = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        return groups(path, || file.try_clone().map_err(Into::into), size, take);
    };
    let mut source = ByteSource::open(path)?;
    let mut bytes = Vec::new();
    let unpack = "unpack it; Parquet files are compressed inside";
    let length = (&mut source).take(MOST_UNPACKED + 1).read_to_end(&mut bytes).map_err(|error| {
        Problem::new(format!("{} cannot be unpacked: {error}", path.display())).hint("copy it again")
    })?;
    if length as u64 > MOST_UNPACKED {
        let what = format!("{} is a large Parquet file, compressed as {}", path.display(), compression.name());
        return Err(Problem::new(what).hint(unpack).into());
    }
    let bytes = bytes::Bytes::from(bytes);
    groups(path, || Ok(bytes.clone()), source.size, take)
}

/// The same with texts as views: a text that the file stores once is in memory once, and none is copied.
fn with_views(metadata: ArrowReaderMetadata) -> Result<ArrowReaderMetadata, ParquetError> {
    let with_view = |field: &FieldRef| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => field.clone(),
    };
    let schema = metadata.schema();
    let fields: Vec<FieldRef> = schema.fields().iter().map(with_view).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let options = ArrowReaderOptions::default().with_schema(schema);
    ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)
}

fn groups<R: ChunkReader + 'static>(
    path: &Path,
    file: impl Fn() -> Result<R>,
    size: u64,
    mut take: impl FnMut(Vec<RawRecord>, u64) -> Result<()>,
) -> Result<Vec<FileDamage>> {
    let reader = file()?;
    let metadata = columns::guarded(|| {
        let metadata = ArrowReaderMetadata::load(&reader, ArrowReaderOptions::default());
        metadata.and_then(with_views).map_err(|error| error.to_string())
    })
    .map_err(|reason| {
        Problem::new(format!("{} is not a readable Parquet file: {reason}", path.display()))
            .hint("copy or download it again: its end may be missing")
    })?;
    let has_lists = metadata.schema().fields().iter().any(|field| field.data_type().is_nested());
    let decoded = if has_lists { DECODED_LISTS } else { DECODED };
    let total = u64::try_from(metadata.metadata().file_metadata().num_rows())?.max(1);
    // The product of two large numbers needs more than 64 bits.
    let taken = |line: u64| (u128::from(size) * u128::from(line.min(total)) / u128::from(total)) as u64;
    let (mut chunk, mut damage) = (RecordChunk::first(), Vec::new());
    let mut before = 0;
    for (index, group) in metadata.metadata().row_groups().iter().enumerate() {
        let rows = u64::try_from(group.num_rows())?;
        let mut line = before;
        let failure = 'group: {
            let reader = file()?;
            let opened = columns::guarded(|| {
                ParquetRecordBatchReaderBuilder::new_with_metadata(reader, metadata.clone())
                    .with_batch_size(decoded)
                    .with_row_groups(vec![index])
                    .build()
                    .map_err(|error| error.to_string())
            });
            let mut batches = match opened {
                Ok(batches) => batches,
                Err(reason) => break 'group Some(reason),
            };
            loop {
                match columns::guarded(|| batches.next().transpose().map_err(|error| error.to_string())) {
                    Ok(None) => break 'group (line - before < rows).then(|| "rows are missing".to_owned()),
                    Err(reason) => break 'group Some(reason),
                    Ok(Some(batch)) => {
                        for record in columns::rows(&batch, line) {
                            if let Some(full) = chunk.add(record) {
                                take(full, taken(line))?;
                            }
                        }
                        line += batch.num_rows() as u64;
                    }
                }
            }
        };
        if let Some(reason) = failure {
            let lost = (before + rows).saturating_sub(line).max(1);
            let bytes = u64::try_from(group.compressed_size())? * lost / rows.max(1);
            damage.push(FileDamage::rows(line + 1, lost, bytes, format!("cannot read a group of rows: {reason}")));
        }
        before += rows;
    }
    let told = u64::try_from(metadata.metadata().file_metadata().num_rows())?;
    if told > before {
        let reason = "the file says that it has more rows than its groups have".to_owned();
        damage.push(FileDamage::rows(before + 1, told - before, 0, reason));
    }
    take(chunk.records, size)?;
    Ok(damage)
}
