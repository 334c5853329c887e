//! Runs a stage of kind `sql`: answers a query over the tables of other stages.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::compute::BatchCoalescer;

use raisin_base::error::{Context as _, Result};
use raisin_base::files::if_there;
use raisin_contract::Context;
use raisin_kinds::sql::Parameters;
use raisin_table::Writer;

use crate::catalog::Catalogs;
use crate::rows::{QueryMemory, QueryRows};
use crate::session::{Session, block_on};
use crate::sources::{TableFile, spread};
use crate::{TableFiles, tables_of};

/// The number of rows that are written together. A fixed number makes the bytes of the table independent of the batches
/// in which the rows come.
const WRITTEN_AT_ONCE: usize = 8192;

/// What a stage says if its memory was short.
pub const NOTE_OF_MEMORY: &str = "the memory of the stage was short for a time: with more memory, rows that no ORDER BY \
                                  orders may come in another order, and sums may differ in the last digits";

/// The memory of the query of a stage, with an empty folder for the rows that do not fit.
pub fn memory_of(context: &Context) -> Result<QueryMemory> {
    let folder = context.temporary();
    // A killed stage leaves rows there.
    if_there(std::fs::remove_dir_all(&folder)).with_context(|| format!("cannot clear {}", folder.display()))?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(QueryMemory { limit: context.memory(), folder: Some(folder), stage: Some(context.stage().to_owned()) })
}

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let memory = memory_of(context)?;
    let tables = Catalogs::of_tables(gathered_tables(&parameters.of, context)?);
    let path = context.out().join(format!("{}.parquet", parameters.table));
    let (count, memory_was_short) = block_on(async {
        let session = Session::over(tables, memory)?.only_of_tables(context.stage());
        let mut rows = session.stream(&parameters.query).await?;
        let count = write(&mut rows, &path).await?;
        Ok::<_, raisin_base::error::Error>((count, rows.memory_was_short()))
    })??;
    context.note(format!("{count} rows"));
    if memory_was_short {
        context.note(NOTE_OF_MEMORY.to_owned());
    }
    Ok(())
}

/// Writes the rows as a table while they are read. Without ORDER BY, the rows are in the order of the files and of the
/// rows in a file, on any number of cores. Returns the number of rows.
pub async fn write(rows: &mut QueryRows, path: &Path) -> Result<u64> {
    let mut writer = Writer::create(path, rows.schema.clone())?;
    let mut coalescer = BatchCoalescer::new(rows.schema.clone(), WRITTEN_AT_ONCE);
    let mut count = 0;
    while let Some(batch) = rows.next().await? {
        count += batch.num_rows() as u64;
        coalescer.push_batch(batch)?;
        while let Some(batch) = coalescer.next_completed_batch() {
            writer.write(&batch)?;
        }
    }
    coalescer.finish_buffered_batch()?;
    while let Some(batch) = coalescer.next_completed_batch() {
        writer.write(&batch)?;
    }
    writer.close()?;
    Ok(count)
}

/// All tables of the stages, each over all variants.
fn gathered_tables(of: &[String], context: &Context) -> Result<BTreeMap<String, TableFiles>> {
    let mut tables: BTreeMap<String, TableFiles> = BTreeMap::new();
    for (place, stage) in of.iter().enumerate() {
        let sources = context.gathered(&format!("/of/{place}"))?;
        let sources: Vec<_> = sources.iter().map(|source| (source.folder.clone(), source.variant.clone())).collect();
        for (folder, constants) in spread(&sources) {
            for (table, path) in tables_of(&folder)? {
                let file = TableFile { path, constants: constants.clone() };
                tables.entry(stage.clone()).or_default().entry(table).or_default().push(file);
            }
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use serde_json::json;

    use super::*;
    use raisin_contract::{Assignment, InputArtifact};
    use raisin_table::{batch, column, read, write};

    #[test]
    fn a_query_sees_every_variant_of_its_stages() {
        let folder = tempfile::tempdir().unwrap();
        let source = |seed: i64| {
            let artifact = folder.path().join(seed.to_string());
            std::fs::create_dir_all(&artifact).unwrap();
            let rows = batch(vec![
                ("metric", Arc::new(StringArray::from(vec!["acc"])) as ArrayRef),
                ("value", Arc::new(Float64Array::from(vec![seed as f64 / 100.0]))),
            ]);
            write(&artifact.join("metrics.parquet"), &rows.unwrap()).unwrap();
            let variant = json!({"pipeline.seed": seed}).as_object().cloned().unwrap();
            InputArtifact { stage: "scores".into(), variant, folder: artifact }
        };
        let query = "select seed, acc from scores.metrics order by seed desc";
        let parameters = json!({"query": query, "of": ["scores"], "table": "best"});
        let mut assignment = Assignment::for_test("sql", folder.path().join("run"), &[]);
        assignment.stages = [("/of/0".to_owned(), vec![source(17), source(18)])].into();
        assignment.parameters = parameters.clone();
        let context = raisin_kinds::context_for_test(assignment).unwrap();
        run(serde_json::from_value(parameters).unwrap(), &context).unwrap();
        context.check_outputs().unwrap();
        let rows = read(&context.out().join("best.parquet")).unwrap();
        assert_eq!(column::<Int64Array>(&rows, "seed").unwrap().values(), &[18, 17]);
        assert_eq!(column::<Float64Array>(&rows, "acc").unwrap().values(), &[0.18, 0.17]);
    }
}
