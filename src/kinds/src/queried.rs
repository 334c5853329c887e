//! What the kinds `sql` and `filter` check in a query before any stage runs.

use raisin_base::error::nearest;
use raisin_contract::ParameterProblem;

use crate::syntax::references;

/// Refuses a query that names a table of another stage than `stages`. `of` is the parameter to which a missing stage is
/// added.
///
/// # Errors
/// The problem points at `/query`.
pub fn check_tables(query: &str, stages: &[String], of: &[String]) -> Result<(), ParameterProblem> {
    let tables = references(query).map_err(|problem| ParameterProblem {
        pointer: "/query".to_owned(),
        message: problem.message,
        hint: problem.hint,
    })?;
    for (stage, table) in &tables {
        let problem = |message: String| ParameterProblem::new("/query", message);
        if stage == "information_schema" {
            let what = "the query reads `information_schema`, which describes raisin and not the tables of stages";
            return Err(problem(what.to_owned()).hint("ask with `raisin sql`"));
        }
        if stage.is_empty() {
            let example = stages.first().map_or("stage", String::as_str);
            return Err(problem(format!("the table `{table}` has no stage before its name"))
                .hint(format!("tables are named stage.table, such as `{example}.{table}`")));
        }
        if !stages.contains(stage) {
            let problem = problem(format!("the stage `{stage}` is not in `of`"));
            return Err(match nearest(stage, stages.iter().map(String::as_str)) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None if of.is_empty() => problem.hint(format!("add the stage: of = [\"{stage}\"]")),
                None => problem.hint(format!("add the stage: of = [..., \"{stage}\"]")),
            });
        }
    }
    Ok(())
}
