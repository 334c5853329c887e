//! Reads the bytes of Parquet files. DataFusion's own reader fills each buffer with zeros before it reads into it, and does
//! not know the metadata that were read when the table was opened.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, CachedParquetMetaData};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;
use rustix::buffer::spare_capacity;

/// Where a file is: an extension of a [`PartitionedFile`].
#[derive(Debug)]
pub struct LocalPath(pub PathBuf);

/// Makes the readers of local files.
#[derive(Debug)]
pub struct LocalFiles {
    /// Reads metadata, and keeps them for other parts of a file and other statements.
    of_metadata: CachedParquetFileReaderFactory,
}

impl LocalFiles {
    pub fn new(store: Arc<dyn ObjectStore>, cache: Arc<FileMetadataCache>) -> Self {
        Self { of_metadata: CachedParquetFileReaderFactory::new(store, cache) }
    }
}

/// Tells the readers the metadata of a file that was read before.
pub fn keep_metadata(cache: &FileMetadataCache, file: &ObjectMeta, metadata: &Arc<ParquetMetaData>) {
    let metadata = Arc::new(CachedParquetMetaData::new(metadata.clone()));
    cache.put(&file.location, CachedFileMetadataEntry::new(file.clone(), metadata));
}

impl ParquetFileReaderFactory for LocalFiles {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> PlanResult<Box<dyn AsyncFileReader + Send>> {
        let path = file.extensions.get::<LocalPath>().map(|path| path.0.clone());
        let path = path.ok_or_else(|| DataFusionError::Internal("a file without a path".to_owned()))?;
        // A file that cannot be opened is an error when it is read.
        let opened = File::open(&path).ok().map(Arc::new);
        let of_metadata = self.of_metadata.create_reader(partition, file, hint, metrics)?;
        Ok(Box::new(LocalFile { path, opened, of_metadata }))
    }
}

struct LocalFile {
    path: PathBuf,
    opened: Option<Arc<File>>,
    of_metadata: Box<dyn AsyncFileReader + Send>,
}

impl AsyncFileReader for LocalFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        let ranges = self.get_byte_ranges(vec![range]);
        async move { Ok(ranges.await?.pop().unwrap_or_default()) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            let (path, opened) = (self.path.clone(), self.opened.clone());
            if let Some(file) = &opened
                && let Some(read) = ranges.iter().map(|range| read_if_in_memory(file, range.clone())).collect()
            {
                return Ok(read);
            }
            // Reading can wait for the disk, and must not stop what else runs on this thread.
            let reading = tokio::task::spawn_blocking(move || {
                let told =
                    |error: io::Error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()));
                let file = opened.map_or_else(|| File::open(&path).map(Arc::new), Ok).map_err(told)?;
                let read = ranges.into_iter().map(|range| read(&file, range)).collect::<io::Result<Vec<_>>>();
                Ok::<_, io::Error>((file, read.map_err(told)?))
            });
            let read = reading.await.map_err(|error| ParquetError::External(error.into()))?;
            let (file, read) = read.map_err(|error| ParquetError::External(error.into()))?;
            self.opened = Some(file);
            Ok(read)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        self.of_metadata.get_metadata(options)
    }
}

/// The bytes, if the system has all of them in its memory. Another thread would cost more than copying them.
fn read_if_in_memory(file: &File, range: Range<u64>) -> Option<Bytes> {
    let length = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
    let mut bytes: Vec<u8> = Vec::with_capacity(length);
    while bytes.len() < length {
        let free = &mut bytes.spare_capacity_mut()[..];
        let part = libc::iovec { iov_base: free.as_mut_ptr().cast(), iov_len: free.len() };
        let at = i64::try_from(range.start + bytes.len() as u64).ok()?;
        // SAFETY: the part is the free room of the vector, which lives and is not used otherwise during the call.
        let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, at, libc::RWF_NOWAIT) };
        let read = usize::try_from(read).ok().filter(|read| *read > 0)?;
        // SAFETY: the call wrote this many bytes behind those that the vector has, into its free room.
        unsafe { bytes.set_len(bytes.len() + read) };
    }
    bytes.truncate(length);
    Some(bytes.into())
}

/// # Errors
/// The file cannot be read, or ends before the range does.
fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = range.start + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(length);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let content: Vec<u8> = (0..100_000_u32).map(|place| (place % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        for range in [0..100_000, 7..70_001, 5..5, 99_999..100_000] {
            assert_eq!(read(&file, range.clone()).unwrap(), content[range.start as usize..range.end as usize]);
        }
        assert_eq!(read(&file, 50_000..100_001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read_if_in_memory(&file, 50_000..100_001), None);
        let read = read_if_in_memory(&file, 7..70_001).expect("the bytes were written just now");
        assert_eq!(read, content[7..70_001]);
    }
}
