//! Runs one query: parses it, looks up its tables, plans and executes it. Only reading is allowed: no DDL, COPY or SET.

use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::CatalogProvider;
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;

use super::catalog::{Catalogs, unreadable_pipeline};
use super::functions::Functions;
use super::pool::QueryPool;
use super::problems::{not_a_table, of_plan, of_syntax};
use raisin_base::error::{Context as _, Error, Problem, Result};
use raisin_contract::memory::exceeded;
use raisin_kinds::syntax::{DIALECT, check_size, no_sample, several_statements, takes_a_sample};

/// The query for `show tables`: the names of all tables except those of `information_schema`.
const SHOW_TABLES: &str = "select table_schema as \"schema\", table_name as \"table\" from information_schema.tables \
     where table_schema <> 'information_schema' and table_catalog = ";

/// Runs a future to its end on a runtime of this thread.
pub fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("cannot start the query runtime")?;
    Ok(runtime.block_on(future))
}

fn parse(sql: &str) -> Result<Statement> {
    check_size(sql)?;
    let mut statements = DFParser::parse_sql_with_dialect(sql, &DIALECT).map_err(|error| of_syntax(&error, sql))?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(Problem::usage("the query is empty").into()),
        (Some(_), more) => Err(Problem::usage(several_statements(more + 1)).into()),
    }
}

/// The memory of a query.
#[derive(Clone, Debug)]
pub struct QueryMemory {
    /// The limit in bytes; `None` for no limit.
    pub limit: Option<u64>,
    /// The folder into which sorts, joins and groups write the rows that do not fit into the limit. `None` if such a
    /// query fails.
    pub folder: Option<PathBuf>,
    /// The stage to which the limit belongs; `None` for a query on the command line.
    pub stage: Option<String>,
}

impl QueryMemory {
    /// The error of a query. DataFusion tells a lack of memory by operators and reservations, which no user knows.
    fn problem(&self, error: &DataFusionError, sql: &str) -> Error {
        match (error.find_root(), self.limit) {
            (DataFusionError::ResourcesExhausted(_), Some(limit)) => self.exceeded(limit),
            _ => of_plan(error, sql),
        }
    }

    fn exceeded(&self, limit: u64) -> Error {
        match &self.stage {
            Some(stage) => exceeded(stage, limit).into(),
            None => {
                let message =
                    format!("the query needs more than half of the machine's memory, {} MB", limit / 1_000_000);
                Problem::new(message).hint("ask for fewer rows or columns, or write the answer with --output").into()
            }
        }
    }
}

/// The rows of an answer, batch by batch.
pub struct QueryRows {
    pub schema: SchemaRef,
    stream: SendableRecordBatchStream,
    pool: Option<Arc<QueryPool>>,
    memory: QueryMemory,
}

impl QueryRows {
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let batch = poll_fn(|context| self.stream.as_mut().poll_next(context)).await.transpose();
        let batch = batch.map_err(|error| self.memory.problem(&error, ""))?;
        let renamed = |batch: RecordBatch| {
            let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            RecordBatch::try_new_with_options(self.schema.clone(), batch.columns().to_vec(), &rows)
        };
        Ok(batch.map(renamed).transpose()?)
    }

    /// Whether the memory was short, so that the order of the rows can depend on the limit.
    pub fn memory_was_short(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.was_short())
    }

    /// All rows in one batch.
    pub async fn all(mut self) -> Result<RecordBatch> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = self.next().await? {
            bytes += batch.get_array_memory_size() as u64;
            // Joining the batches takes the same memory again.
            if let Some(limit) = self.memory.limit.filter(|limit| bytes > limit / 2) {
                return Err(self.memory.exceeded(limit));
            }
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
    memory: QueryMemory,
    pool: Option<Arc<QueryPool>>,
    functions: Functions,
}

impl Session {
    pub fn over(catalogs: Catalogs, memory: QueryMemory) -> Result<Self> {
        // With one partition, the same query always gives its rows in the same order. The runtime has only one thread.
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_information_schema(true)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(catalogs.default.clone(), "public");
        let mut runtime = RuntimeEnvBuilder::new();
        let mut pool = None;
        if let Some(limit) = memory.limit {
            // The other half is for what the pool does not count: pages and batches on their way, and the writer.
            let bytes = usize::try_from(limit / 2)?;
            // A sort reserves this memory for merging, whatever it sorts.
            let reserved = config.options().execution.sort_spill_reservation_bytes.min(bytes / 8);
            config = config.with_sort_spill_reservation_bytes(reserved);
            let made = Arc::new(QueryPool::new(bytes));
            runtime = runtime.with_memory_pool(made.clone());
            pool = Some(made);
        }
        let disk = match &memory.folder {
            Some(folder) => DiskManagerMode::Directories(vec![folder.clone()]),
            None => DiskManagerMode::Disabled,
        };
        runtime = runtime.with_disk_manager_builder(DiskManagerBuilder::default().with_mode(disk));
        let context = SessionContext::new_with_config_rt(config, runtime.build_arc()?);
        for (name, catalog) in &catalogs.by_name {
            context.register_catalog(name, catalog.clone() as Arc<dyn CatalogProvider>);
        }
        Ok(Self { context, catalogs, memory, pool, functions: Functions::default() })
    }

    /// Refuses everything whose result depends on more than the tables, for an answer that is cached.
    #[must_use]
    pub fn only_of_tables(mut self, stage: &str) -> Self {
        self.functions = Functions::only_of_tables(&self.context, stage);
        self
    }

    /// The rows of a query as a stream.
    ///
    /// # Errors
    /// The query cannot be parsed or planned. The error says which names exist.
    pub async fn stream(&self, sql: &str, note: &mut dyn FnMut(&str)) -> Result<QueryRows> {
        let rows = self.begin(sql, note).await;
        // Also after an error: a warning about a file that cannot be read can explain why a table is not there.
        self.catalogs.warnings.take().iter().for_each(|warning| note(&format!("warning: {warning}")));
        rows
    }

    /// As [`Session::stream`], without the warnings.
    async fn begin(&self, sql: &str, note: &mut dyn FnMut(&str)) -> Result<QueryRows> {
        let asks_for_names = sql.trim().trim_end_matches(';').trim().eq_ignore_ascii_case("show tables");
        let rewritten = format!("{SHOW_TABLES}'{}' order by 1, 2", self.catalogs.default.replace('\'', "''"));
        let sql = if asks_for_names { rewritten.as_str() } else { sql };
        let statement = parse(sql)?;
        let mut is_of_a_stage = asks_for_names;
        if let Statement::Statement(statement) = &statement
            && takes_a_sample(statement)
        {
            return Err(no_sample().into());
        }
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
        let plan = state.statement_to_plan(statement).await;
        let plan = plan.map_err(|error| self.functions.problem(&error).unwrap_or_else(|| of_plan(&error, sql)))?;
        self.functions.check(&plan)?;
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        read_only.verify_plan(&plan).map_err(|_| of_writing())?;
        let problem = |error: DataFusionError| self.memory.problem(&error, sql);
        let rows = self.context.execute_logical_plan(plan).await.map_err(problem)?;
        let plan = rows.create_physical_plan().await.map_err(problem)?;
        let stream = execute_stream(plan, self.context.task_ctx()).map_err(problem)?;
        let schema = short_headings(&stream.schema(), &tables);
        Ok(QueryRows { schema, stream, pool: self.pool.clone(), memory: self.memory.clone() })
    }

    /// Whether a table belongs to a stage of the default pipeline.
    ///
    /// # Errors
    /// The table does not exist.
    fn check(&self, table: &TableReference) -> Result<bool> {
        if table.schema() == Some("information_schema") {
            return Ok(false);
        }
        let pipeline = table.catalog().unwrap_or(&self.catalogs.default);
        let catalog = self.catalogs.by_name.get(pipeline);
        let schema = catalog.and_then(|catalog| catalog.schemas.get(table.schema()?));
        match schema {
            Some(schema) if schema.has(table.table()) => Ok(table.catalog().is_none() && schema.is_of_a_stage()),
            _ => match self.catalogs.unreadable.get(pipeline) {
                Some(reason) => Err(unreadable_pipeline(pipeline, reason).into()),
                None => Err(not_a_table(table, &self.catalogs).into()),
            },
        }
    }
}

fn of_writing() -> raisin_base::error::Error {
    let problem = Problem::usage("a query reads; it changes neither tables nor settings");
    problem.hint("to keep a result, use --output, or a stage of kind `sql`").into()
}
