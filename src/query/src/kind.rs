//! Runs a stage of kind `sql`: answers a query over the tables of other stages.

use std::collections::BTreeMap;

use raisin_base::error::Result;
use raisin_contract::Context;
use raisin_kinds::sql::Parameters;
use raisin_table::WriteTable as _;

use crate::sources::{TableFile, spread};
use crate::{TableFiles, collect, tables_of};

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let rows = collect(&parameters.query, gathered_tables(&parameters.of, context)?)?;
    context.note(format!("{} rows", rows.num_rows()));
    context.write_table(&parameters.table, &rows)
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
        let context = Context::silent(assignment).unwrap();
        run(serde_json::from_value(parameters).unwrap(), &context).unwrap();
        let rows = read(&context.out().join("best.parquet")).unwrap();
        assert_eq!(column::<Int64Array>(&rows, "seed").unwrap().values(), &[18, 17]);
        assert_eq!(column::<Float64Array>(&rows, "acc").unwrap().values(), &[0.18, 0.17]);
    }
}
