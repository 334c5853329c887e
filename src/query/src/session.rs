//! Runs one statement after another: parses it, looks up its tables, plans and executes it. Only reading is allowed: no
//! COPY, no SET, and no tables but temporary ones.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::CatalogProvider;
use datafusion::common::{Column, TableReference};
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection, cast};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as AnyStatement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Query, Statement};

use super::arithmetic;
use super::catalog::{Catalogs, unreadable_pipeline};
use super::content;
use super::dictionary::meaning;
use super::elsewhere::Elsewhere;
use super::functions::Functions;
use super::json::{self, with_json_as_text};
use super::parallel::{Sides, on_all_cores};
use super::pool::QueryPool;
use super::prepare::{Values, parameters, prepare};
use super::problems::{not_a_table, of_plan};
use super::quality;
use super::rows::{QueryMemory, QueryRows, interruptible, plain, short_headings};
use super::sample;
use super::special::{Asked, asked, literal, parse};
use super::summary;
use super::temporary::{PUBLIC, Temporary, WithTemporary};
use raisin_base::error::{Context as _, Error, Problem, Result};
use raisin_base::stack::LARGE_STACK;
use raisin_kinds::syntax::ignored_clause;
use raisin_store::no_cache;

/// A projection whose expressions name the columns of the plan as its schema has them. The builder of DataFusion would
/// look up unqualified names once more, also in the tables below, and find `id` twice after `join ... using (id)`.
pub fn projection(plan: LogicalPlan, expressions: impl Iterator<Item = Expr>) -> PlanResult<LogicalPlan> {
    Ok(LogicalPlan::Projection(Projection::try_new(expressions.collect(), Arc::new(plan))?))
}

/// The rows of a part after which nearly distinct keys are no longer grouped in the part.
const PROBED_ROWS: usize = 8192;

/// The table name of the answer of a query that is sorted.
const ANSWER: &str = "the answer";

/// Runs a future to its end on this thread. Parts of queries run on as many other threads as there are cores.
pub fn block_on<F: Future>(future: F) -> Result<F::Output> {
    block_on_threads(std::thread::available_parallelism().map_or(1, NonZeroUsize::get), future)
}

/// As [`block_on`], with this number of other threads.
pub fn block_on_threads<F: Future>(threads: usize, future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("query")
        // Threads also evaluate expressions, whose trees are deep if the query has many terms.
        .thread_stack_size(LARGE_STACK)
        // Connections are for a query that runs on a cluster.
        .enable_all()
        .build()
        .context("cannot start the query runtime")?;
    Ok(runtime.block_on(future))
}

/// What a statement gives.
pub enum StatementAnswer {
    Rows(QueryRows),
    /// What was done, in words.
    Done(String),
}

/// A DataFusion session over the catalogs.
pub struct Session {
    context: SessionContext,
    pub catalogs: Catalogs,
    pub temporary: Arc<Temporary>,
    memory: QueryMemory,
    pool: Option<Arc<QueryPool>>,
    functions: Functions,
    /// Whether a statement may name files as tables.
    reads_files: bool,
    /// The values of `$name`.
    values: Values,
    /// The values that a statement has used.
    used: std::sync::Mutex<BTreeSet<String>>,
    /// When this becomes true, the query ends with an error.
    stop: Arc<AtomicBool>,
    /// Who executes the plans; `None` for this process.
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

impl Session {
    pub fn over(catalogs: Catalogs, memory: QueryMemory) -> Result<Self> {
        Self::executed_by(catalogs, memory, None)
    }

    /// As [`Session::over`], with plans that another process executes.
    pub fn executed_by(catalogs: Catalogs, memory: QueryMemory, elsewhere: Option<Arc<dyn Elsewhere>>) -> Result<Self> {
        // With one partition, the same query always gives its rows in the same order; `on_all_cores` divides the plan.
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_information_schema(true)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(catalogs.default.clone(), PUBLIC);
        // Such a filter depends on the rows that other parts have seen so far: of two equal rows, now one stays, now the
        // other.
        config.options_mut().optimizer.enable_dynamic_filter_pushdown = false;
        config.options_mut().optimizer.enable_topk_dynamic_filter_pushdown = false;
        config.options_mut().optimizer.enable_join_dynamic_filter_pushdown = false;
        config.options_mut().optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        config.options_mut().execution.enable_file_stream_work_stealing = false;
        // After this many rows of a part it is known whether grouping them saves work for those that put the groups of all
        // parts together. DataFusion's own 100,000 rows are most of a part.
        config.options_mut().execution.skip_partial_aggregation_probe_rows_threshold = PROBED_ROWS;
        let mut runtime = RuntimeEnvBuilder::new();
        let mut pool = None;
        if let Some(limit) = memory.limit {
            // The other half is for what the pool does not count: pages and batches on their way, and the writer.
            let bytes = usize::try_from(limit / 2)?;
            // Each part of a sort reserves this memory for merging, whatever it sorts.
            let reserved = config.options().execution.sort_spill_reservation_bytes.min(bytes / 32);
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
        if let Some(elsewhere) = &elsewhere {
            config = elsewhere.settings(config);
        }
        let mut context = SessionContext::new_with_config_rt(config, runtime.build_arc()?);
        arithmetic::install(&mut context)?;
        content::install(&context);
        quality::install(&context);
        sample::install(&context);
        json::install(&mut context)?;
        if let Some(elsewhere) = &elsewhere {
            elsewhere.functions(&context);
        }
        let temporary = Arc::<Temporary>::default();
        for (name, catalog) in &catalogs.by_name {
            let provider: Arc<dyn CatalogProvider> = if *name == catalogs.default {
                Arc::new(WithTemporary { catalog: catalog.clone(), temporary: temporary.clone() })
            } else {
                catalog.clone()
            };
            context.register_catalog(name, provider);
        }
        let functions = Functions::default();
        let (values, used, stop) = (Values::new(), std::sync::Mutex::default(), Arc::default());
        let reads_files = true;
        Ok(Self { context, catalogs, temporary, memory, pool, functions, reads_files, values, used, stop, elsewhere })
    }

    /// Refuses everything whose result depends on more than the tables, for an answer that is cached.
    #[must_use]
    pub fn only_of_tables(mut self, stage: &str) -> Self {
        self.functions = Functions::only_of_tables(&self.context, stage);
        self
    }

    /// Reads the tables of the catalogs, and no files.
    #[must_use]
    pub fn without_files(mut self) -> Self {
        self.reads_files = false;
        self
    }

    /// The meaning of a column of one of these tables; `None` if nobody declared it.
    pub fn meaning_in(&self, tables: &[TableReference], column: &str) -> Option<String> {
        tables.iter().find_map(|table| meaning(&self.catalogs, table, column))
    }

    /// The values of `$name` in the statements.
    #[must_use]
    pub fn with_values(mut self, values: &[(String, String)]) -> Self {
        self.values = values.iter().cloned().collect::<BTreeMap<_, _>>();
        self
    }

    /// When the flag becomes true, the query ends with an error.
    #[must_use]
    pub fn stopped_by(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// The names of the parameters that no statement has used.
    pub fn unused_values(&self) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.values.keys().filter(|name| !used.contains(*name)).cloned().collect()
    }

    /// The names of all functions, in alphabetical order.
    pub fn function_names(&self) -> Vec<String> {
        let state = self.context.state();
        let scalar = state.scalar_functions().keys();
        let others = state.aggregate_functions().keys().chain(state.window_functions().keys());
        let names: BTreeSet<String> = scalar.chain(others).cloned().collect();
        names.into_iter().collect()
    }

    /// The names of the columns of a table.
    pub async fn column_names(&self, table: &str) -> Result<Vec<String>> {
        let columns = self.columns_of(&format!("select * from {table}"), &mut |_| {}).await?;
        Ok(columns.fields().iter().map(|field| field.name().clone()).collect())
    }

    /// The rows of a query as a stream, for an answer that is cached.
    ///
    /// # Errors
    /// The query cannot be parsed or planned. The error says which names exist.
    pub async fn stream(&self, sql: &str) -> Result<QueryRows> {
        self.rows(parse(sql)?, sql, &mut |_| {}).await
    }

    /// The rows of a query in the order of its column `id`, nulls first, and the names of its columns. `id` is the first
    /// column, as i64. With `is_total`, rows of equal ids are in the order of their other columns.
    ///
    /// # Errors
    /// The query cannot be parsed or planned, or has no column `id` of integers.
    pub async fn stream_by_id(&self, sql: &str, is_total: bool) -> Result<(QueryRows, Vec<String>)> {
        let PlannedStatement { plan, tables } = self.plan(parse(sql)?, sql, &mut |_| {}).await?;
        let schema = short_headings(plan.schema().inner(), &tables);
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let Some(place) = names.iter().position(|name| name == "id") else {
            let problem = Problem::usage(format!("the query gives no column `id`; it gives {}", names.join(", ")));
            return Err(problem.hint("give the `id` of each row of the pool that stays").into());
        };
        let data_type = schema.field(place).data_type();
        if !data_type.is_integer() {
            let problem = Problem::usage(format!("the column `id` of the query has the type {data_type}"));
            return Err(problem.hint("give the `id` of each row of the pool that stays").into());
        }
        let mut columns: Vec<(String, Expr)> =
            names.into_iter().zip(plan.schema().columns().into_iter().map(Expr::from)).collect();
        let (id, expression) = columns.remove(place);
        columns.insert(0, (id, cast(expression, DataType::Int64)));
        let keys = if is_total { columns.len() } else { 1 };
        // With a table name of their own, the columns are not mistaken for columns of the query's tables.
        let named = |name: &String| Expr::from(Column::new(Some(ANSWER), name));
        let order: Vec<_> = columns[..keys].iter().map(|(name, _)| named(name).sort(true, true)).collect();
        let names = columns.iter().map(|(name, _)| name.clone()).collect();
        let projected = columns.into_iter().map(|(name, expression)| expression.alias(name));
        let plan = projection(plan, projected)
            .and_then(|plan| LogicalPlanBuilder::from(plan).alias(ANSWER))
            .and_then(|plan| plan.sort(order))
            .and_then(LogicalPlanBuilder::build)
            .map_err(|error| of_plan(&error, sql))?;
        Ok((self.execute(plan, &tables, sql).await?, names))
    }

    /// The answer of one statement.
    ///
    /// # Errors
    /// The statement cannot be parsed or planned. The error says which names exist.
    pub async fn answer(&self, sql: &str, note: &mut dyn FnMut(&str)) -> Result<StatementAnswer> {
        let answer = self.begin(sql, note).await;
        // Also after an error: a warning about a file that cannot be read can explain why a table is not there.
        self.catalogs.warnings.take().iter().for_each(|warning| note(&format!("warning: {warning}")));
        answer
    }

    /// As [`Session::answer`], without the warnings.
    async fn begin(&self, sql: &str, note: &mut dyn FnMut(&str)) -> Result<StatementAnswer> {
        let rewritten = match asked(sql)? {
            Asked::Other(statement) => return Ok(StatementAnswer::Rows(self.rows(statement, sql, note).await?)),
            Asked::Tables => {
                self.tell_of_missing_results(note);
                self.tell_of_other_pipelines(note);
                self.table_names()
            }
            Asked::Schemas => {
                self.tell_of_missing_results(note);
                self.tell_of_other_pipelines(note);
                format!("select distinct \"schema\" from ({}) order by 1", self.table_names())
            }
            Asked::Columns(table) => {
                let columns = self.columns_of(&format!("select * from {table}"), note).await?;
                let table = TableReference::parse_str(&table);
                let query = summary::columns(&columns, |column| meaning(&self.catalogs, &table, column));
                return Ok(StatementAnswer::Rows(self.rows(parse(&query)?, sql, note).await?));
            }
            Asked::Summary(of) => {
                let query = summary::as_query(&of);
                let columns = self.columns_of(&query, note).await?;
                summary::of(&query, &columns)
            }
            Asked::Create { name, query, columns, or_replace, is_view } => {
                let plan = self.plan_of(*query, &columns, sql, note).await?;
                return self.create(&name, plan, or_replace, is_view, sql).await.map(StatementAnswer::Done);
            }
            Asked::Drop { names, if_exists } => return self.drop(&names, if_exists).map(StatementAnswer::Done),
        };
        Ok(StatementAnswer::Rows(self.rows(parse(&rewritten)?, &rewritten, &mut |_| {}).await?))
    }

    /// A query for the names of the tables of the default catalog.
    fn table_names(&self) -> String {
        format!(
            "select table_schema as \"schema\", table_name as \"table\" from information_schema.tables \
             where table_schema <> 'information_schema' and table_catalog = {} order by 1, 2",
            literal(&self.catalogs.default)
        )
    }

    /// The names and the types of the columns of a query.
    async fn columns_of(&self, sql: &str, note: &mut dyn FnMut(&str)) -> Result<SchemaRef> {
        let plan = self.plan(parse(sql)?, sql, note).await?;
        Ok(plain(plan.plan.schema().inner()))
    }

    async fn plan_of(
        &self,
        query: Query,
        columns: &[String],
        sql: &str,
        note: &mut dyn FnMut(&str),
    ) -> Result<LogicalPlan> {
        let statement = AnyStatement::Statement(Box::new(Statement::Query(Box::new(query))));
        let plan = self.plan(statement, sql, note).await?;
        let names: Vec<String> = if columns.is_empty() {
            short_headings(plan.plan.schema().inner(), &plan.tables)
                .fields()
                .iter()
                .map(|it| it.name().clone())
                .collect()
        } else {
            columns.to_vec()
        };
        let old = plan.plan.schema().columns();
        if old.len() != names.len() {
            let message = format!("the query has {} columns, and {} names are given", old.len(), names.len());
            return Err(Problem::usage(message).into());
        }
        let renamed = old.into_iter().zip(names).map(|(column, name)| Expr::from(column).alias(name));
        projection(plan.plan, renamed).map_err(|error| of_plan(&error, sql))
    }

    async fn create(
        &self,
        name: &str,
        plan: LogicalPlan,
        or_replace: bool,
        is_view: bool,
        sql: &str,
    ) -> Result<String> {
        if is_view {
            self.temporary.create(name, Arc::new(ViewTable::new(plan, Some(sql.trim().to_owned()))), or_replace)?;
            return Ok(format!("view `{name}`"));
        }
        let rows = self.execute(plan, &[], sql).await?.all().await?;
        let count = rows.num_rows();
        self.temporary.create(name, Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?), or_replace)?;
        Ok(format!("table `{name}` of {count} row{}", if count == 1 { "" } else { "s" }))
    }

    fn drop(&self, names: &[String], if_exists: bool) -> Result<String> {
        let mut dropped = Vec::new();
        for name in names {
            if self.temporary.remove(name) {
                dropped.push(format!("`{name}`"));
            } else if !if_exists {
                let problem = Problem::usage(format!("there is no temporary table or view `{name}`"));
                return Err(problem
                    .hint("the tables of stages cannot be dropped; `raisin gc` removes artifacts")
                    .into());
            }
        }
        Ok(if dropped.is_empty() { "nothing to drop".to_owned() } else { format!("dropped {}", dropped.join(", ")) })
    }

    async fn rows(&self, statement: AnyStatement, sql: &str, note: &mut dyn FnMut(&str)) -> Result<QueryRows> {
        let PlannedStatement { plan, tables } = self.plan(statement, sql, note).await?;
        self.execute(plan, &tables, sql).await
    }

    async fn execute(&self, plan: LogicalPlan, tables: &[TableReference], sql: &str) -> Result<QueryRows> {
        let problem = |error: DataFusionError| self.memory.problem(&error, sql);
        let stream = match &self.elsewhere {
            Some(elsewhere) => elsewhere.execute(&self.context, plan).await.map_err(problem)?,
            None => {
                let rows = self.context.execute_logical_plan(plan).await.map_err(problem)?;
                let plan = rows.create_physical_plan().await.map_err(problem)?;
                let threads = tokio::runtime::Handle::current().metrics().num_workers();
                let plan = on_all_cores(plan, Sides::of(threads, self.memory.limit))
                    .and_then(interruptible)
                    .map_err(problem)?;
                execute_stream(plan, self.context.task_ctx()).map_err(problem)?
            }
        };
        let schema = short_headings(&stream.schema(), tables);
        let (pool, memory, stop) = (self.pool.clone(), self.memory.clone(), self.stop.clone());
        Ok(QueryRows { schema, stream, tables: tables.to_vec(), stop, pool, memory })
    }

    /// The plan of a statement that only reads.
    async fn plan(
        &self,
        mut statement: AnyStatement,
        sql: &str,
        note: &mut dyn FnMut(&str),
    ) -> Result<PlannedStatement> {
        if let AnyStatement::Statement(statement) = &statement
            && let Some(problem) = ignored_clause(statement)
        {
            return Err(problem.into());
        }
        let state = self.context.state();
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(parameters(&statement));
        prepare(&mut statement, &self.values, &|name| state.scalar_functions().contains_key(name))?;
        let (tables, _) = resolve_table_references(&statement, true).map_err(|error| of_plan(&error, sql))?;
        let mut is_of_a_stage = false;
        for table in &tables {
            is_of_a_stage |= self.check(table).await?;
        }
        if is_of_a_stage {
            self.tell_of_other_pipelines(note);
        }
        let plan = state.statement_to_plan(statement).await;
        let plan = plan.map_err(|error| self.functions.problem(&error).unwrap_or_else(|| of_plan(&error, sql)))?;
        self.functions.check(&plan)?;
        let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        read_only.verify_plan(&plan).map_err(|_| of_writing())?;
        let plan = with_json_as_text(plan).map_err(|error| of_plan(&error, sql))?;
        Ok(PlannedStatement { plan, tables })
    }

    /// Says why a list of tables is shorter than the user expects: there is no cache, or another one.
    fn tell_of_missing_results(&self, note: &mut dyn FnMut(&str)) {
        let elsewhere = || {
            let schemas = self.catalogs.default_catalog()?.schemas.values();
            schemas.into_iter().find_map(|schema| schema.elsewhere()).cloned()
        };
        let problem = match &self.catalogs.without_cache {
            Some(cache) => Some(no_cache(cache)),
            None => elsewhere(),
        };
        if let Some(problem) = problem {
            note(&problem.message);
            problem.hint.iter().for_each(|hint| note(&format!("hint: {hint}")));
        }
    }

    /// Says which pipeline was chosen, if there are several and the user chose none.
    fn tell_of_other_pipelines(&self, note: &mut dyn FnMut(&str)) {
        if !self.catalogs.is_ambiguous {
            return;
        }
        let chosen = &self.catalogs.default;
        let names = self.catalogs.by_name.keys().map(String::as_str);
        let others: Vec<&str> = names.filter(|name| name != chosen).collect();
        note(&format!("pipeline `{chosen}`, whose results changed last; --pipeline chooses: {}", others.join(", ")));
    }

    /// Whether a table belongs to a stage of the default pipeline.
    ///
    /// # Errors
    /// The table does not exist.
    async fn check(&self, table: &TableReference) -> Result<bool> {
        if table.schema() == Some("information_schema") {
            return Ok(false);
        }
        let is_of_the_default = table.catalog().is_none_or(|catalog| catalog == self.catalogs.default);
        if is_of_the_default && table.schema().is_none_or(|schema| schema == PUBLIC) {
            if !self.reads_files && (table.table().contains('/') || table.table().contains('.')) {
                let problem = Problem::usage(format!("`{}` is no table, and files are not read here", table.table()));
                return Err(problem.hint("`raisin sql` on the command line reads files").into());
            }
            let may_read_files = self.reads_files && self.functions.allows_files();
            let is_a_function =
                table.schema().is_none() && self.context.state().table_functions().contains_key(table.table());
            if is_a_function
                || self.temporary.has(table.table())
                || (may_read_files && self.temporary.open_file(table.table(), &self.context).await?)
            {
                return Ok(false);
            }
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

struct PlannedStatement {
    plan: LogicalPlan,
    /// The tables that the statement names.
    tables: Vec<TableReference>,
}

fn of_writing() -> Error {
    let problem = Problem::usage("a query reads; it changes neither tables nor settings");
    problem.hint("to keep a result, use --output, `create temp table t as select ...`, or a stage of kind `sql`").into()
}
