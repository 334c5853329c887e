//! A table of several Parquet files. Different schemas are unified by column name, and constants become columns.
//!
//! DataFusion's own scan reads the files, with projections and filters pushed down. The constant columns are its
//! partition columns. A UNION ALL over one scan for each file was rejected: for 10,000 artifacts, planning it takes
//! minutes.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{Result as PlanResult, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::object_store::path::Path as ObjectPath;
use datafusion::physical_plan::ExecutionPlan;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::ParquetMetaData;
use serde_json::Value;

use super::parallel::RowGroups;
use super::reading::{LocalFiles, LocalPath, keep_metadata};
use super::sources::{TableFile, text};
use raisin_base::error::{Context as _, Result, bail};

/// The opened files of one table: their metadata has been read.
#[derive(Debug)]
pub struct FilesTable {
    files: Vec<PartitionedFile>,
    schema: TableSchema,
    /// The metadata of the files, if there are few of them.
    metadata: Vec<Arc<ParquetMetaData>>,
    /// The number of rows.
    rows: usize,
}

/// The most files whose metadata are kept in memory. Those of others are read again when a query reads their rows.
const MOST_WITH_METADATA: usize = 64;

impl FilesTable {
    /// # Errors
    /// A file does not exist or is not Parquet, or there are no files.
    pub fn open(files: &[TableFile]) -> Result<Self> {
        if files.is_empty() {
            bail!("a table without files has no columns");
        }
        let opened = files.iter().map(metadata_of).collect::<Result<Vec<_>>>()?;
        let schemas: Vec<SchemaRef> = opened.iter().map(|(metadata, _)| metadata.schema().clone()).collect();
        let file_schema = with_views(&unify(&schemas));
        let constants = constant_fields(files, &file_schema);
        let (mut parts, mut rows) = (Vec::new(), 0);
        for (file, (metadata, on_disk)) in files.iter().zip(&opened) {
            let absolute = file.path.canonicalize().with_context(|| format!("cannot open {}", file.path.display()))?;
            let mut part = PartitionedFile::new("", on_disk.len());
            // By size and time, a process that has read the file before sees that it is another one.
            part.object_meta.last_modified = on_disk.modified()?.into();
            part.object_meta.location = ObjectPath::from_absolute_path(&absolute)?;
            let mut values = Vec::new();
            for (name, field) in &constants {
                values.push(constant(file, name, field.data_type())?);
            }
            rows += usize::try_from(metadata.metadata().file_metadata().num_rows())?;
            let part = part.with_partition_values(values).with_extension(RowGroups::of(metadata.metadata()));
            parts.push(part.with_extension(LocalPath(absolute)));
        }
        let fields: Vec<FieldRef> = constants.into_iter().map(|(_, field)| field).collect();
        let schema = TableSchema::builder(file_schema).with_table_partition_cols(fields).build();
        let few = if opened.len() <= MOST_WITH_METADATA { opened } else { Vec::new() };
        let metadata = few.iter().map(|(metadata, _)| metadata.metadata().clone()).collect();
        Ok(Self { files: parts, schema, metadata, rows })
    }
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        self.schema.table_schema().clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let (url, runtime) = (ObjectStoreUrl::local_filesystem(), state.runtime_env());
        let cache = runtime.cache_manager.get_file_metadata_cache();
        for (file, metadata) in self.files.iter().zip(&self.metadata) {
            keep_metadata(cache.as_ref(), &file.object_meta, metadata);
        }
        // The statistics of the row groups tell which of them a query needs. Those of the pages would be read for every
        // column of every file, and seldom tell more.
        let mut options = state.default_table_options().parquet;
        options.global.enable_page_index = false;
        let reader = Arc::new(LocalFiles::new(runtime.object_store(&url)?, cache));
        let source = ParquetSource::new(self.schema.clone()).with_table_parquet_options(options);
        let source = Arc::new(source.with_parquet_file_reader_factory(reader));
        // The smaller side of a join is read first.
        let mut statistics = Statistics::new_unknown(&self.schema());
        statistics.num_rows = Precision::Exact(self.rows);
        // With one group, the rows are always in the order of the files. `on_all_cores` divides it.
        let config = FileScanConfigBuilder::new(url, source)
            .with_file_group(FileGroup::new(self.files.clone()))
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// The metadata in a file, and those of the file.
fn metadata_of(file: &TableFile) -> Result<(ArrowReaderMetadata, std::fs::Metadata)> {
    let cannot_open = || format!("cannot open {}", file.path.display());
    let opened = File::open(&file.path).with_context(cannot_open)?;
    let on_disk = opened.metadata().with_context(cannot_open)?;
    let metadata = ArrowReaderMetadata::load(&opened, ArrowReaderOptions::new())
        .with_context(|| format!("{} is not a Parquet file", file.path.display()))?;
    Ok((metadata, on_disk))
}

fn schema_of(file: &TableFile) -> Result<SchemaRef> {
    Ok(metadata_of(file)?.0.schema().clone())
}

/// All columns by name, in the order of their first appearance. The type of a column holds the values from all files.
fn unify(schemas: &[SchemaRef]) -> SchemaRef {
    let mut fields: Vec<Field> = Vec::new();
    for field in schemas.iter().flat_map(|schema| schema.fields()) {
        match fields.iter_mut().find(|known| known.name() == field.name()) {
            Some(known) => {
                let merged = common_type(known.data_type(), field.data_type());
                *known = Field::new(known.name(), merged, true);
            }
            None => fields.push(Field::new(field.name(), field.data_type().clone(), true)),
        }
    }
    Arc::new(Schema::new(fields))
}

/// The schema with views of texts, which cost no copy where rows are left out, joined or grouped.
fn with_views(schema: &Schema) -> SchemaRef {
    let with_view = |field: &FieldRef| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => field.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(with_view).collect::<Vec<_>>()))
}

/// The type as which the columns of one name in two files are read.
fn common_type(one: &DataType, other: &DataType) -> DataType {
    use DataType::{FixedSizeList, Float64, Int64, LargeList, List, Null, Utf8};
    match (one, other) {
        (one, other) if one == other => one.clone(),
        (Null, known) | (known, Null) => known.clone(),
        (one, other) if one.is_integer() && other.is_integer() => Int64,
        (one, other) if one.is_numeric() && other.is_numeric() => Float64,
        (
            FixedSizeList(one, _) | List(one) | LargeList(one),
            FixedSizeList(other, _) | List(other) | LargeList(other),
        ) => List(Arc::new(Field::new("item", common_type(one.data_type(), other.data_type()), true))),
        _ => Utf8,
    }
}

/// The names of the constants, each with a column whose name no column of the files has.
fn constant_fields(files: &[TableFile], file_schema: &Schema) -> Vec<(String, FieldRef)> {
    let mut taken: BTreeSet<String> = file_schema.fields().iter().map(|field| field.name().clone()).collect();
    let field = |(name, data_type): (String, DataType)| {
        let mut column = name.clone();
        while !taken.insert(column.clone()) {
            column.push('_');
        }
        (name, Arc::new(Field::new(column, data_type, true)))
    };
    constant_types(files).into_iter().map(field).collect()
}

/// The names of the constants, each with the name of its column.
pub fn constant_columns(files: &[TableFile]) -> Result<Vec<(String, String)>> {
    if files.iter().all(|file| file.constants.is_empty()) {
        return Ok(Vec::new());
    }
    let schemas = files.iter().map(schema_of).collect::<Result<Vec<_>>>()?;
    let fields = constant_fields(files, &unify(&schemas));
    Ok(fields.into_iter().map(|(name, field)| (name, field.name().clone())).collect())
}

/// The names of the constants, each with the type that holds its values from all files.
pub fn constant_types(files: &[TableFile]) -> Vec<(String, DataType)> {
    let mut found: Vec<(String, DataType)> = Vec::new();
    for (name, _) in files.iter().flat_map(|file| &file.constants) {
        if !found.iter().any(|(known, _)| known == name) {
            let values = files.iter().flat_map(|file| &file.constants).filter(|(other, _)| other == name);
            found.push((name.clone(), type_of_values(values.map(|(_, value)| value))));
        }
    }
    found
}

/// The value of a constant in one file; null if the file has none.
pub fn constant(file: &TableFile, name: &str, data_type: &DataType) -> Result<ScalarValue> {
    let value = file.constants.iter().find(|(other, _)| other == name).map_or(&Value::Null, |(_, value)| value);
    scalar(value, data_type)
}

fn type_of_values<'a>(values: impl Iterator<Item = &'a Value>) -> DataType {
    let values: Vec<&Value> = values.filter(|value| !value.is_null()).collect();
    let all = |is: fn(&Value) -> bool| !values.is_empty() && values.iter().all(|value| is(value));
    if all(Value::is_boolean) {
        DataType::Boolean
    } else if all(Value::is_i64) {
        DataType::Int64
    } else if all(Value::is_number) {
        DataType::Float64
    } else {
        DataType::Utf8
    }
}

fn scalar(value: &Value, data_type: &DataType) -> Result<ScalarValue> {
    Ok(match (data_type, value) {
        (_, Value::Null) => ScalarValue::try_from(data_type)?,
        (DataType::Boolean, value) => ScalarValue::Boolean(value.as_bool()),
        (DataType::Int64, value) => ScalarValue::Int64(value.as_i64()),
        (DataType::Float64, value) => ScalarValue::Float64(value.as_f64()),
        (_, value) => ScalarValue::Utf8(Some(text(value))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_different_types_meet_in_one_that_holds_both() {
        let vector = |length| raisin_table::vector_type(length);
        assert_eq!(common_type(&DataType::UInt32, &DataType::Int64), DataType::Int64);
        assert_eq!(common_type(&DataType::UInt32, &DataType::Float32), DataType::Float64);
        assert_eq!(common_type(&DataType::UInt32, &DataType::Utf8), DataType::Utf8);
        assert!(
            matches!(common_type(&vector(2), &vector(3)), DataType::List(item) if item.data_type() == &DataType::Float32)
        );
        assert_eq!(common_type(&vector(2), &vector(2)), vector(2));
    }
}
