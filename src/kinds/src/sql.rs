//! The `sql` kind: answers a query over the tables of other stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};

use crate::queried::check_tables;
use crate::syntax::contains_name;
use crate::{check_of, need_all, outputs};

pub struct SqlKind;

/// Parameters of an `sql` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// One SELECT. Tables are named stage.table, as on the command line. In a pipeline with a sweep, each table has a
    /// column `variant` and one column for each swept key. Without ORDER BY the rows are in the order of the tables.
    pub query: String,
    /// The stages whose tables the query names, each once. The query sees all variants of them.
    pub of: Vec<String>,
    /// The name of the resulting table.
    #[serde(default = "default_table")]
    pub table: String,
}

fn default_table() -> String {
    "rows".to_owned()
}

impl Kind for SqlKind {
    const NAME: &'static str = "sql";
    const VERSION: u32 = 6;
    const ABOUT: &'static str = "Answers a query over the tables of other stages, of all variants together.";
    const PROCESS: Process = Process::Sql;
    const SEEDED: bool = false;
    const GATHERS: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    const TABLES: &'static [TableDeclaration] = outputs::sql::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::sql::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::sql::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        // `needs` is called in every build, and parsing the query would take longer than the rest of the call.
        need_all(&parameters.of, needs, |stage| contains_name(&parameters.query, stage));
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let hint = "name the stages whose tables the query reads: of = [\"scores\"]";
        check_of(&parameters.of, "a query needs at least one stage", hint)?;
        let is_name =
            |name: &str| !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        if !is_name(&parameters.table) {
            let message = format!("`{}` is not a name for a table", parameters.table);
            return Err(ParameterProblem::new("/table", message).hint("use letters, digits and `_`"));
        }
        check_tables(&parameters.query, &parameters.of, &parameters.of)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::declaration;

    /// What the check says, with its place and hint.
    fn said(parameters: Value) -> String {
        let problem = declaration("sql").unwrap().resolve(parameters).unwrap_err();
        format!("{}: {} ({})", problem.pointer, problem.message, problem.hint.unwrap_or_default())
    }

    #[test]
    fn a_wrong_query_is_refused_before_any_stage_runs() {
        let query = |sql: &str| said(json!({"query": sql, "of": ["scores"]}));
        assert!(
            query("selec 1").starts_with("/query: the query is not SQL that raisin understands"),
            "{}",
            query("selec 1")
        );
        let names = query("select * from information_schema.tables");
        assert!(names.starts_with("/query: the query reads `information_schema`"), "{names}");
        assert_eq!(
            query("select * from score.metrics"),
            "/query: the stage `score` is not in `of` (did you mean `scores`?)"
        );
        let bare = "/query: the table `metrics` has no stage before its name (tables are named stage.table, such as `scores.metrics`)";
        assert_eq!(query("select * from metrics"), bare);
        let none = said(json!({"query": "select 1", "of": []}));
        assert!(none.starts_with("/of: a query needs at least one stage"), "{none}");
        let twice = said(json!({"query": "select 1", "of": ["a", "b", "a"]}));
        assert!(twice.starts_with("/of/2: `a` is named twice"), "{twice}");
        let table = said(json!({"query": "select 1", "of": ["a"], "table": "../x"}));
        assert!(table.starts_with("/table: `../x` is not a name for a table"), "{table}");
    }
}
