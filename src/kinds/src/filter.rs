//! The `filter` kind: makes a pool of the rows of another pool that a query gives.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};

use crate::queried::check_tables;
use crate::syntax::{answer_columns, contains_name};
use crate::{check_distinct, is_off, outputs};

pub struct FilterKind;

/// Parameters of a `filter` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose instructions are the pool. To filter several pools, filter their `mix`.
    pub instructions: String,
    /// One SELECT that gives the `id` of each row of the pool that stays. Tables are named stage.table, as on the command
    /// line, but have no columns of a sweep: the query sees its own variant alone. The columns `system`, `prompt`, `response`, `messages` and `tools` of the answer replace those of the row.
    /// The columns `weight` (a number above 0), `source` (a text) and `tags` (a list of texts) set those of the row. Further
    /// columns go into the table `columns`.
    pub query: String,
    /// Further stages whose tables the query names, each once. If absent, the query reads tables of `instructions` alone.
    #[serde(default)]
    pub of: Vec<String>,
    /// Whether the query may give a row several times; the pool then has copies of the row. By default, this is an error,
    /// because a join that finds several partners does it by accident.
    #[serde(default, skip_serializing_if = "is_off")]
    pub repeats: bool,
}

impl Parameters {
    /// All stages whose tables the query can name.
    pub fn stages(&self) -> Vec<String> {
        std::iter::once(&self.instructions).chain(&self.of).cloned().collect()
    }
}

impl Kind for FilterKind {
    const NAME: &'static str = "filter";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Makes a pool of the rows of another pool that a query gives.";
    const PROCESS: Process = Process::Sql;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["instructions", "columns"];
    const TABLES: &'static [TableDeclaration] = outputs::filter::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::filter::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::filter::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        // The query names tables by their stages. Without the names in the key, two stages that change their names
        // would give another answer under the same key.
        let is_named = |stage: &str| contains_name(&parameters.query, stage);
        let pool = &parameters.instructions;
        needs.stage_of_query("/instructions", pool, Some("instructions"), is_named(pool));
        for (place, stage) in parameters.of.iter().enumerate() {
            needs.stage_of_query(format!("/of/{place}"), stage, None, is_named(stage));
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let Parameters { instructions, query, of, .. } = parameters;
        check_distinct("/of", of, String::clone)?;
        if let Some(place) = of.iter().position(|stage| stage == instructions) {
            let message =
                format!("`{instructions}` is the stage of `instructions`, whose tables the query has already");
            return Err(ParameterProblem::new(format!("/of/{place}"), message).hint("leave it out"));
        }
        check_tables(query, &parameters.stages(), of)?;
        let columns = answer_columns(query).map_err(|problem| ParameterProblem {
            pointer: "/query".to_owned(),
            message: problem.message,
            hint: problem.hint,
        })?;
        match columns {
            Some(names) if !names.iter().any(|name| name == "id") => {
                let problem = ParameterProblem::new("/query", "the answer of the query has no column `id`");
                Err(problem.hint(format!("begin with: select id from {instructions}.instructions where ...")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::declaration;

    fn said(parameters: Value) -> String {
        let problem = declaration("filter").unwrap().resolve(parameters).unwrap_err();
        format!("{}: {} ({})", problem.pointer, problem.message, problem.hint.unwrap_or_default())
    }

    #[test]
    fn a_query_that_cannot_make_a_pool_is_refused_before_any_stage_runs() {
        let query = |sql: &str| said(json!({"instructions": "pool", "query": sql, "of": ["lengths"]}));
        assert_eq!(
            query("select prompt from pool.instructions"),
            "/query: the answer of the query has no column `id` (begin with: select id from pool.instructions where ...)"
        );
        assert_eq!(
            query("select id from pol.instructions"),
            "/query: the stage `pol` is not in `of` (did you mean `pool`?)"
        );
        assert_eq!(
            query("select id from scored.rows"),
            "/query: the stage `scored` is not in `of` (add the stage: of = [..., \"scored\"])"
        );
        assert!(query("delete from pool.instructions").starts_with("/query: the query is not a SELECT"));
        let twice = said(json!({"instructions": "pool", "query": "select 1 as id", "of": ["pool"]}));
        assert!(twice.starts_with("/of/0: `pool` is the stage of `instructions`"), "{twice}");
    }

    #[test]
    fn only_a_name_that_the_query_has_is_in_the_key() {
        let parameters = json!({
            "instructions": "pool", "query": "select id from pool.instructions", "of": ["lengths"],
        });
        let needs = declaration("filter").unwrap().resolve(parameters).unwrap().needs;
        let named: Vec<_> = needs.stages.iter().map(|need| (need.stage.as_str(), need.by_name)).collect();
        assert_eq!(named, [("pool", true), ("lengths", false)]);
    }
}
