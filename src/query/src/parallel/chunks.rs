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
            if rows >= wanted {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A file whose row groups have these numbers of rows, and 100 bytes each.
    fn file(name: &str, rows: &[u64]) -> PartitionedFile {
        let groups = rows.iter().zip(0..).map(|(rows, place)| RowGroup { start: 4 + 100 * place, rows: *rows });
        PartitionedFile::new(name, 4 + 100 * rows.len() as u64).with_extension(RowGroups(groups.collect()))
    }

    /// For each part: the files, and their ranges of bytes.
    fn parts_of(files: &[PartitionedFile], most: u64) -> Option<Vec<String>> {
        let of_file = |file: &PartitionedFile| match &file.range {
            Some(range) => format!("{} {}-{}", file.object_meta.location, range.start, range.end),
            None => file.object_meta.location.to_string(),
        };
        let of_part = |part: FileGroup| part.files().iter().map(of_file).collect::<Vec<_>>().join(", ");
        Some(parts(files, most)?.into_iter().map(of_part).collect())
    }

    #[test]
    fn parts_have_consecutive_row_groups_and_depend_on_the_files_alone() {
        let full = ROW_GROUP as u64;
        let large = file("a", &[full, full, full, 10]);
        let several = parts_of(std::slice::from_ref(&large), 256).unwrap();
        assert_eq!(several, ["a 0-104", "a 104-204", "a 204-304", "a 304-404"]);
        assert_eq!(parts_of(&[large], 2).unwrap(), ["a 0-204", "a 204-404"]);
        // Small files come together, and a file can be divided between two parts.
        let files = [file("a", &[10]), file("b", &[20]), file("c", &[full, full]), file("d", &[5])];
        assert_eq!(parts_of(&files, 256).unwrap(), ["a, b, c 0-104", "c 104-204", "d"]);
        assert_eq!(parts_of(&[file("a", &[10]), file("b", &[20])], 256), None);
        assert_eq!(parts_of(&[PartitionedFile::new("a", 10)], 256), None);
    }
}
