//! The column `digest` of the tables `instructions`: it is computed from the conversation of a row when a query names it.
//! Stored, it would be a quarter of a table, because digests cannot be compressed (docs/decisions/0039).

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::Column;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions::expr_fn::coalesce;
use datafusion::functions::utils::make_scalar_function;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::SessionContext;

use raisin_corpus::digests::digests_of_rows;

/// The tables with the column.
pub const POOL: &str = "instructions";
/// The name of the column.
pub const DIGEST: &str = "digest";
/// What the column means, for `describe`.
pub const MEANING: &str = "the first 16 bytes of the blake3 of the conversation; equal conversations have equal digests. \
                           It is computed when a query names it";

/// The columns of a conversation.
const CONVERSATION: [&str; 5] = ["system", "prompt", "response", "messages", "tools"];

fn content_digest() -> ScalarUDF {
    let calculate = |arguments: &[ArrayRef]| {
        let columns = CONVERSATION.into_iter().zip(arguments.iter().cloned()).collect();
        let digests = raisin_table::batch(columns).and_then(|rows| digests_of_rows(&rows));
        let digests = digests.map_err(|error| DataFusionError::External(format!("{error:#}").into()))?;
        Ok(Arc::new(digests) as ArrayRef)
    };
    let calculate = Arc::new(make_scalar_function(calculate, vec![]));
    let arguments = vec![DataType::Utf8; CONVERSATION.len()];
    create_udf("content_digest", arguments, DataType::Binary, Volatility::Immutable, calculate)
}

/// Adds the function of the column to a session.
pub fn install(context: &SessionContext) {
    context.register_udf(content_digest());
}

/// The table `instructions` with the column. `None` if the table is no pool: a stage may give a table this name.
pub fn with_digest(pool: &Arc<dyn TableProvider>) -> Result<Option<ViewTable>> {
    let schema = pool.schema();
    if CONVERSATION.iter().any(|name| schema.field_with_name(name).is_err()) {
        return Ok(None);
    }
    let column = |name: &str| Expr::from(Column::new_unqualified(name));
    let computed = content_digest().call(CONVERSATION.iter().map(|name| column(name)).collect());
    let stored = schema.fields().iter().map(|field| field.name().as_str()).filter(|name| *name != DIGEST);
    let mut columns: Vec<Expr> = stored.map(column).collect();
    // Tables of an earlier version of raisin have the column.
    let has_digest = schema.field_with_name(DIGEST).is_ok();
    let digest = if has_digest { coalesce(vec![column(DIGEST), computed]) } else { computed };
    columns.push(digest.alias(DIGEST));
    let plan = LogicalPlanBuilder::scan(POOL, provider_as_source(Arc::clone(pool)), None)?.project(columns)?;
    Ok(Some(ViewTable::new(plan.build()?, None)))
}
