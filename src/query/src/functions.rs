//! What a query may call if its answer is cached: only functions of the tables. The answer of `now()` is another one in
//! the next second, but the action key would stay the same, and the first answer would be served for ever.
//!
//! A function that is not allowed is removed from the session, because the planner also calls functions itself, for
//! example for the arguments of `generate_series`. DataFusion knows the volatility of its functions.

use std::collections::BTreeSet;

use datafusion::common::SchemaError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, Volatility};
use datafusion::prelude::SessionContext;

use super::problems::unknown_function;
use raisin_base::error::{Error, Problem, Result};

/// The functions that SQL calls without parentheses.
const NEED_NO_PARENTHESES: [&str; 3] = ["current_date", "current_time", "current_timestamp"];

/// Functions that DataFusion declares as immutable, although their results are of the machine or of the executable.
const OF_THE_MACHINE: [&str; 1] = ["version"];

/// The functions that a query may not call.
#[derive(Default)]
pub struct Functions {
    /// The stage whose answer is cached; `None` if the query may call all functions.
    stage: Option<String>,
    removed: BTreeSet<String>,
}

impl Functions {
    /// Removes the functions that are not functions of the tables from a session.
    pub fn only_of_tables(context: &SessionContext, stage: &str) -> Self {
        let state = context.state();
        let is_of_tables =
            |name: &str, volatility: Volatility| volatility == Volatility::Immutable && !OF_THE_MACHINE.contains(&name);
        let mut removed = BTreeSet::new();
        for (name, function) in state.scalar_functions() {
            if !is_of_tables(function.name(), function.signature().volatility) {
                removed.insert(name.clone());
                context.deregister_udf(name);
            }
        }
        for (name, function) in state.aggregate_functions() {
            if !is_of_tables(function.name(), function.signature().volatility) {
                removed.insert(name.clone());
                context.deregister_udaf(name);
            }
        }
        for (name, function) in state.window_functions() {
            if !is_of_tables(function.name(), function.signature().volatility) {
                removed.insert(name.clone());
                context.deregister_udwf(name);
            }
        }
        Self { stage: Some(stage.to_owned()), removed }
    }

    /// The problem if the error of the planner is about a removed function.
    pub fn problem(&self, error: &DataFusionError) -> Option<Error> {
        let name = match error.find_root() {
            DataFusionError::Plan(message) => unknown_function(message)?,
            // Without parentheses, the name of a removed function is the name of a column.
            DataFusionError::SchemaError(error, _) => match error.as_ref() {
                SchemaError::FieldNotFound { field, .. } if NEED_NO_PARENTHESES.contains(&field.name()) => field.name(),
                _ => return None,
            },
            _ => return None,
        };
        self.removed.contains(&name.to_lowercase()).then(|| self.refused(&format!("calls `{name}`")))
    }

    /// # Errors
    /// The plan is not one of rows alone: it describes plans, settings or columns, or changes something.
    pub fn check(&self, plan: &LogicalPlan) -> Result<()> {
        if self.stage.is_none() {
            return Ok(());
        }
        let mut refused = None;
        plan.apply_with_subqueries(|node| {
            refused = match node {
                LogicalPlan::Explain(_)
                | LogicalPlan::Analyze(_)
                | LogicalPlan::DescribeTable(_)
                | LogicalPlan::Statement(_)
                | LogicalPlan::Dml(_)
                | LogicalPlan::Ddl(_)
                | LogicalPlan::Copy(_) => Some("is not a SELECT"),
                LogicalPlan::TableScan(scan) if scan.table_name.schema() == Some("information_schema") => {
                    Some("reads `information_schema`")
                }
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            Ok(TreeNodeRecursion::Stop)
        })?;
        refused.map_or(Ok(()), |what| Err(self.refused(what)))
    }

    /// Whether a query may name files as tables. The content of a file is in no action key.
    pub fn allows_files(&self) -> bool {
        self.stage.is_none()
    }

    fn refused(&self, what: &str) -> Error {
        let stage = self.stage.as_deref().unwrap_or_default();
        let message = format!(
            "the query of stage `{stage}` {what}: the result is not a function of the tables, so that its answer \
             cannot be cached"
        );
        let hint =
            "write the value itself into the query, such as timestamp '2026-01-31 12:00:00', or ask with `raisin sql`";
        Problem::usage(message).hint(hint).into()
    }
}
