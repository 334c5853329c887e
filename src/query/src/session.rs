//! Runs one query: parses it, looks up its tables, plans and executes it. Only reading is allowed: no DDL, COPY or SET.

use std::future::{Future, poll_fn};
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::CatalogProvider;
use datafusion::common::TableReference;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;

use super::catalog::Catalogs;
use super::problems::{not_a_table, of_plan, of_syntax};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_kinds::syntax::{DIALECT, several_statements};

/// The query for `show tables`: the names of all tables except those of `information_schema`.
const SHOW_TABLES: &str = "select table_schema as \"schema\", table_name as \"table\" from information_schema.tables \
     where table_schema <> 'information_schema' and table_catalog = ";

/// Runs a future to its end on a runtime of this thread.
pub fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("cannot start the query runtime")?;
    Ok(runtime.block_on(future))
}

fn parse(sql: &str) -> Result<Statement> {
    let mut statements = DFParser::parse_sql_with_dialect(sql, &DIALECT).map_err(|error| of_syntax(&error, sql))?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(Problem::usage("the query is empty").into()),
        (Some(_), more) => Err(Problem::usage(several_statements(more + 1)).into()),
    }
}

/// The rows of an answer, batch by batch.
pub struct QueryRows {
    pub schema: SchemaRef,
    stream: SendableRecordBatchStream,
}

impl QueryRows {
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let batch = poll_fn(|context| self.stream.as_mut().poll_next(context)).await.transpose();
        let batch = batch.map_err(|error| of_plan(&error, ""))?;
        let renamed = |batch: RecordBatch| {
            let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            RecordBatch::try_new_with_options(self.schema.clone(), batch.columns().to_vec(), &rows)
        };
        Ok(batch.map(renamed).transpose()?)
    }

    /// All rows in one batch.
    pub async fn all(mut self) -> Result<RecordBatch> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(concat_batches(&self.schema, &batches)?)
    }
}

/// The schema with short names: `avg(acc)` instead of `avg(scores.metrics.acc)`, unless two columns would have the same
/// name.
fn short_headings(schema: &SchemaRef, tables: &[TableReference]) -> SchemaRef {
    let short = |name: &str| tables.iter().fold(name.to_owned(), |name, table| name.replace(&format!("{table}."), ""));
    let names: Vec<String> = schema.fields().iter().map(|field| short(field.name())).collect();
    let fields = schema.fields().iter().zip(&names).map(|(field, name)| {
        let is_unique = names.iter().filter(|other| *other == name).count() == 1;
        if is_unique { field.as_ref().clone().with_name(name) } else { field.as_ref().clone() }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A DataFusion session over the catalogs.
pub struct Session {
    context: SessionContext,
    catalogs: Catalogs,
}

impl Session {
    pub fn over(catalogs: Catalogs) -> Result<Self> {
        // With one partition, the same query always gives its rows in the same order. The runtime has only one thread.
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .with_information_schema(true)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(catalogs.default.clone(), "public");
        let context = SessionContext::new_with_config(config);
        for (name, catalog) in &catalogs.by_name {
            context.register_catalog(name, catalog.clone() as Arc<dyn CatalogProvider>);
        }
        Ok(Self { context, catalogs })
    }

    /// The rows of a query as a stream.
    ///
    /// # Errors
    /// The query cannot be parsed or planned. The error says which names exist.
    pub async fn stream(&self, sql: &str, note: &mut dyn FnMut(&str)) -> Result<QueryRows> {
        let asks_for_names = sql.trim().trim_end_matches(';').trim().eq_ignore_ascii_case("show tables");
        let rewritten = format!("{SHOW_TABLES}'{}' order by 1, 2", self.catalogs.default.replace('\'', "''"));
        let sql = if asks_for_names { rewritten.as_str() } else { sql };
        let statement = parse(sql)?;
        let mut is_of_a_stage = asks_for_names;
        let (tables, _) = resolve_table_references(&statement, true).map_err(|error| of_plan(&error, sql))?;
        for table in &tables {
            is_of_a_stage |= self.check(table)?;
        }
        if is_of_a_stage && self.catalogs.is_ambiguous {
            let others: Vec<&str> = self
                .catalogs
                .by_name
                .keys()
                .map(String::as_str)
                .filter(|name| *name != self.catalogs.default)
                .collect();
            let chosen = &self.catalogs.default;
            note(&format!(
                "pipeline `{chosen}`, whose results changed last; --pipeline chooses: {}",
                others.join(", ")
            ));
        }
        let state = self.context.state();
        let plan = state.statement_to_plan(statement).await.map_err(|error| of_plan(&error, sql))?;
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        read_only.verify_plan(&plan).map_err(|_| of_writing())?;
        let rows = self.context.execute_logical_plan(plan).await.map_err(|error| of_plan(&error, sql))?;
        let stream = rows.execute_stream().await.map_err(|error| of_plan(&error, sql))?;
        Ok(QueryRows { schema: short_headings(&stream.schema(), &tables), stream })
    }

    /// Whether a table belongs to a stage of the default pipeline.
    ///
    /// # Errors
    /// The table does not exist.
    fn check(&self, table: &TableReference) -> Result<bool> {
        if table.schema() == Some("information_schema") {
            return Ok(false);
        }
        let catalog = self.catalogs.by_name.get(table.catalog().unwrap_or(&self.catalogs.default));
        let schema = catalog.and_then(|catalog| catalog.schemas.get(table.schema()?));
        match schema {
            Some(schema) if schema.has(table.table()) => Ok(table.catalog().is_none() && schema.is_of_a_stage()),
            _ => Err(not_a_table(table, &self.catalogs).into()),
        }
    }
}

fn of_writing() -> raisin_base::error::Error {
    let problem = Problem::usage("a query reads; it changes neither tables nor settings");
    problem.hint("to keep a result, use --output, or a stage of kind `sql`").into()
}
