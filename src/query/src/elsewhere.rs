//! Queries that other processes execute: the seam between a session and a cluster, which the executable `raisin-cluster`
//! has, and what these processes need to know: the functions of raisin.
//!
//! A session plans a query as always. The cluster gets the plan.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{AggregateUDF, LogicalPlan, ScalarUDF};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::arithmetic::{self, Checked};
use super::{content, json, problems, quality, sample};

pub use super::problems::arrow_is_of_the_query;
pub use super::rows::interruptible;

/// Executes the plans of a session.
#[async_trait]
pub trait Elsewhere: Send + Sync {
    /// The settings of the session with those that its plans need.
    fn settings(&self, settings: SessionConfig) -> SessionConfig;

    /// Removes the functions that one process would not have.
    fn functions(&self, context: &SessionContext);

    /// # Errors
    /// The plan cannot be executed there, or gives other rows there than here, or nobody answers.
    async fn execute(&self, context: &SessionContext, plan: LogicalPlan) -> Result<SendableRecordBatchStream>;
}

/// Adds the functions that a plan can name to the session of a process that executes plans. Such a session plans
/// nothing.
pub fn install(context: &SessionContext) -> Result<()> {
    arithmetic::functions().into_iter().for_each(|function| context.register_udf(function));
    context.register_udaf(checked_sum().as_ref().clone());
    content::install(context);
    quality::install(context);
    sample::install(context);
    // The clone has the same functions.
    json::install(&mut context.clone())
}

/// What a function carries beside its name: the operation between two integers, as the user wrote it. `None` for all
/// other functions.
pub fn written(function: &ScalarUDF) -> Option<&str> {
    let function: &dyn Any = function.inner().as_ref();
    function.downcast_ref::<Checked>().map(Checked::text)
}

/// The function of this name with what [`written`] gave.
///
/// # Errors
/// No operation between two integers has this name.
pub fn function_as_written(name: &str, written: &str) -> Result<Arc<ScalarUDF>> {
    let function = arithmetic::function_as_written(name, written);
    function.map(Arc::new).ok_or_else(|| DataFusionError::Internal(format!("there is no operation `{name}`")))
}

/// The `sum` that does not wrap.
pub fn checked_sum() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(arithmetic::CheckedSum::default()))
}

/// Whether this is [`checked_sum`].
pub fn is_checked_sum(function: &AggregateUDF) -> bool {
    let function: &dyn Any = function.inner().as_ref();
    function.is::<arithmetic::CheckedSum>()
}

/// The error of a query as the user sees it.
pub fn as_problem(error: &DataFusionError) -> raisin_base::error::Error {
    problems::of_plan(error, "")
}
