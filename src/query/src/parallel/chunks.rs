//! Divides the scan of Parquet files into parts of consecutive row groups. The parts depend on the files alone, never on
//! the machine, so that whatever is calculated for each part is the same everywhere.

use std::sync::Arc;

use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use parquet::file::metadata::ParquetMetaData;
use raisin_table::ROW_GROUP;

/// The row groups of a file: an extension of a [`PartitionedFile`].
#[derive(Debug)]
pub struct RowGroups(Vec<RowGroup>);

#[derive(Clone, Copy, Debug)]
struct RowGroup {
    /// Where its first page begins, in bytes: the place by which a scan of a range finds the row group.
    start: i64,
    rows: u64,
}

impl RowGroups {
    pub fn of(metadata: &ParquetMetaData) -> Self {
        let of_group = |group: &parquet::file::metadata::RowGroupMetaData| {
            let first = group.columns().first()?;
            let start = first.dictionary_page_offset().unwrap_or_else(|| first.data_page_offset());
            Some(RowGroup { start, rows: u64::try_from(group.num_rows()).ok()? })
        };
        Self(metadata.row_groups().iter().filter_map(of_group).collect())
    }
}

/// The scan in at most `most` parts, in the order of the rows. `None` if the scan is no scan of Parquet files without a
/// limit, or has too few rows for two parts.
pub fn divided(plan: &Arc<dyn ExecutionPlan>, most: usize) -> Option<Arc<dyn ExecutionPlan>> {
    let scan = plan.downcast_ref::<DataSourceExec>()?;
    let config = scan.data_source().downcast_ref::<FileScanConfig>()?;
    if config.limit.is_some() || config.file_groups.len() != 1 {
        return None;
    }
    let groups = parts(config.file_groups[0].files(), most as u64)?;
    let config = FileScanConfigBuilder::from(config.clone()).with_file_groups(groups).build();
    Some(DataSourceExec::from_data_source(config))
}

fn parts(files: &[PartitionedFile], most: u64) -> Option<Vec<FileGroup>> {
    let row_groups: Vec<&RowGroups> =
        files.iter().map(|file| file.extensions.get::<RowGroups>()).collect::<Option<_>>()?;
    let total: u64 = row_groups.iter().flat_map(|groups| &groups.0).map(|group| group.rows).sum();
    let wanted = (ROW_GROUP as u64).max(total.div_ceil(most));
    let (mut parts, mut part, mut rows): (Vec<Vec<PartitionedFile>>, Vec<PartitionedFile>, u64) = <_>::default();
    for (file, groups) in files.iter().zip(&row_groups) {
        let end = i64::try_from(file.object_meta.size).ok()?;
        let mut from = 0;
        for (place, group) in groups.0.iter().enumerate() {
            if rows > 0 && rows + group.rows > wanted {
                if place > 0 {
                    part.push(ranged(file, from, group.start));
                    from = group.start;
                }
                parts.push(std::mem::take(&mut part));
                rows = 0;
            }
            rows += group.rows;
        }
        part.push(if from == 0 { file.clone() } else { ranged(file, from, end) });
    }
    parts.push(part);
    (parts.len() > 1).then(|| parts.into_iter().map(FileGroup::new).collect())
}

fn ranged(file: &PartitionedFile, start: i64, end: i64) -> PartitionedFile {
    PartitionedFile { range: Some(FileRange { start, end }), ..file.clone() }
}

/// Whether a plan reads more than one partition.
pub fn is_divided(plan: &Arc<dyn ExecutionPlan>) -> bool {
    use datafusion::physical_plan::ExecutionPlanProperties as _;
    plan.output_partitioning().partition_count() > 1
}
