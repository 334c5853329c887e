//! `sql`: a query over other stages' tables, cached like any stage. Leaves the answering to the query room.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Kind, Needs, ParameterProblem, Process};
use crate::error::{Result, nearest, render};
use crate::query::{TableFile, Tables, collect, references, spread, tables_of};

pub struct Sql;

/// Parameters of an `sql` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// One SELECT. Tables are named stage.table, as on the command line; where the pipeline sweeps they have a column
    /// `variant` and one for each swept key. Without ORDER BY the rows come in the order of the tables.
    pub query: String,
    /// The stages whose tables the query names; it sees every variant of them.
    pub of: Vec<String>,
    /// What the resulting table is called.
    #[serde(default = "default_table")]
    pub table: String,
}

fn default_table() -> String {
    "rows".to_owned()
}

impl Kind for Sql {
    const NAME: &'static str = "sql";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Answers a query over the tables of other stages, of all variants together.";
    const PROCESS: Process = Process::Light;
    const SEEDED: bool = false;
    const GATHERS: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        for (place, stage) in parameters.of.iter().enumerate() {
            needs.any_stage(format!("/of/{place}"), stage);
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        if parameters.of.is_empty() {
            let problem = ParameterProblem::new("/of", "a query needs at least one stage to ask");
            return Err(problem.hint("name the stages whose tables it uses: of = [\"scores\"]"));
        }
        let is_name =
            |name: &str| !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        if !is_name(&parameters.table) {
            let message = format!("`{}` is no name for a table", parameters.table);
            return Err(ParameterProblem::new("/table", message).hint("use letters, digits and `_`"));
        }
        let tables = references(&parameters.query).map_err(|error| {
            let text = render(&error);
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let (message, hint) = text.split_once("\nhint: ").unwrap_or((text, ""));
            let problem = ParameterProblem::new("/query", message);
            if hint.is_empty() { problem } else { problem.hint(hint) }
        })?;
        let known: BTreeSet<&str> = parameters.of.iter().map(String::as_str).collect();
        for (stage, table) in &tables {
            if stage.is_empty() {
                let problem = ParameterProblem::new("/query", format!("the table `{table}` is of no stage"));
                return Err(
                    problem.hint(format!("tables are named stage.table, such as `{}.{table}`", parameters.of[0]))
                );
            }
            if !known.contains(stage.as_str()) {
                let problem = ParameterProblem::new("/query", format!("the stage `{stage}` is not in `of`"));
                return Err(match nearest(stage, known.iter().copied()) {
                    Some(near) => problem.hint(format!("did you mean `{near}`?")),
                    None => problem.hint(format!("add it: of = [..., \"{stage}\"]")),
                });
            }
        }
        Ok(())
    }

    fn run(parameters: Parameters, context: &Context) -> Result<()> {
        let rows = collect(&parameters.query, gathered_tables(&parameters.of, context)?)?;
        context.note(format!("{} rows", rows.num_rows()));
        context.write_table(&parameters.table, &rows)
    }
}

/// Every table of the stages, over all their variants.
fn gathered_tables(of: &[String], context: &Context) -> Result<Tables> {
    let mut tables: Tables = BTreeMap::new();
    for (place, stage) in of.iter().enumerate() {
        let sources = context.gathered(&format!("/of/{place}"))?;
        let sources: Vec<_> = sources.iter().map(|source| (source.folder.clone(), source.variant.clone())).collect();
        for (folder, constants) in spread(&sources) {
            for (table, path) in tables_of(&folder)? {
                let file = TableFile { path, constants: constants.clone() };
                tables.entry((stage.clone(), table)).or_default().push(file);
            }
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use serde_json::{Value, json};

    use super::*;
    use crate::stages::{Assignment, DType, DeviceKind, Environment, Source, declaration};
    use crate::table::{batch, column, read, write};

    /// What the check says, with its place and hint.
    fn said(parameters: Value) -> String {
        let problem = declaration("sql").unwrap().resolve(parameters).unwrap_err();
        format!("{}: {} ({})", problem.pointer, problem.message, problem.hint.unwrap_or_default())
    }

    #[test]
    fn a_query_that_cannot_be_right_is_refused_before_anything_runs() {
        let query = |sql: &str| said(json!({"query": sql, "of": ["scores"]}));
        assert!(
            query("selec 1").starts_with("/query: the query is not SQL that raisin understands"),
            "{}",
            query("selec 1")
        );
        assert_eq!(
            query("select * from score.metrics"),
            "/query: the stage `score` is not in `of` (did you mean `scores`?)"
        );
        let bare =
            "/query: the table `metrics` is of no stage (tables are named stage.table, such as `scores.metrics`)";
        assert_eq!(query("select * from metrics"), bare);
        let none = said(json!({"query": "select 1", "of": []}));
        assert!(none.starts_with("/of: a query needs at least one stage"), "{none}");
        let table = said(json!({"query": "select 1", "of": ["a"], "table": "../x"}));
        assert!(table.starts_with("/table: `../x` is no name for a table"), "{table}");
    }

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
            Source { stage: "scores".into(), variant, folder: artifact }
        };
        let query = "select seed, acc from scores.metrics order by seed desc";
        let parameters = json!({"query": query, "of": ["scores"], "table": "best"});
        let assignment = Assignment {
            kind: "sql".into(),
            stage: "asked".into(),
            parameters: parameters.clone(),
            stages: [("/of/0".to_owned(), vec![source(17), source(18)])].into(),
            files: BTreeMap::new(),
            seed: 0,
            environment: Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 },
            threads: 1,
            folder: folder.path().join("run"),
        };
        let context = Context::silent(assignment).unwrap();
        Sql::run(serde_json::from_value(parameters).unwrap(), &context).unwrap();
        let rows = read(&context.out().join("best.parquet")).unwrap();
        assert_eq!(column::<Int64Array>(&rows, "seed").unwrap().values(), &[18, 17]);
        assert_eq!(column::<Float64Array>(&rows, "acc").unwrap().values(), &[0.18, 0.17]);
    }
}
