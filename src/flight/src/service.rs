//! The methods of Flight SQL. A statement begins when a client asks for its `FlightInfo`, so that the client learns its
//! schema or its error at once; its rows wait for the ticket.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray as _;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandPreparedStatementQuery, CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult,
    ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage,
    SchemaAsIpc, Ticket,
};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::IpcWriteOptions;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures_util::{Stream, TryStreamExt as _, stream};
use prost::Message as _;
use prost::bytes::Bytes;
use raisin_base::error::Result as RaisinResult;
use raisin_contract::flight::{FlightOptions, FlightTask, FlightValue, MOST_STATEMENTS, PARAMETERS};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::access::given;
use super::statement::{Statement, answering_executable};
use super::values;

/// The time after which rows that no client has fetched are given up.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// The largest number of prepared statements.
const MOST_PREPARED: usize = 1000;

/// The only type of tables.
const TABLE: &str = "TABLE";

type FlightRows = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send + 'static>>;
type Handshakes = Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send + 'static>>;

pub struct Service {
    options: FlightOptions,
    executable: PathBuf,
    places: Arc<Semaphore>,
    /// The statements whose rows wait for their tickets.
    waiting: Mutex<HashMap<Bytes, (Instant, Statement)>>,
    prepared: Mutex<HashMap<Bytes, Prepared>>,
    /// The number of the last handle.
    handles: AtomicU64,
    about: SqlInfoData,
}

#[derive(Clone)]
struct Prepared {
    sql: String,
    values: Vec<(String, FlightValue)>,
}

impl Service {
    /// # Errors
    /// There is no executable that answers statements.
    pub fn new(options: FlightOptions) -> RaisinResult<Self> {
        let mut about = SqlInfoDataBuilder::new();
        about.append(SqlInfo::FlightSqlServerName, "raisin");
        about.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
        about.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
        about.append(SqlInfo::FlightSqlServerReadOnly, true);
        about.append(SqlInfo::FlightSqlServerSql, true);
        about.append(SqlInfo::FlightSqlServerSubstrait, false);
        about.append(SqlInfo::FlightSqlServerTransaction, 0i32);
        about.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
        Ok(Self {
            options,
            executable: answering_executable()?,
            places: Arc::new(Semaphore::new(MOST_STATEMENTS)),
            waiting: Mutex::default(),
            prepared: Mutex::default(),
            handles: AtomicU64::new(0),
            about: about.build()?,
        })
    }

    fn handle(&self) -> Bytes {
        self.handles.fetch_add(1, Ordering::Relaxed).to_string().into()
    }

    async fn start(&self, task: FlightTask) -> Result<Statement, Status> {
        locked(&self.waiting).retain(|_, (since, _)| since.elapsed() < FORGOTTEN);
        let permit = self.places.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{MOST_STATEMENTS} statements are open: read their rows to the end, or close them");
            Status::resource_exhausted(message)
        })?;
        Statement::start(&self.executable, &self.options, task, permit).await
    }

    /// Starts a statement, and tells its schema and the ticket for its rows.
    async fn begin(&self, prepared: Prepared, descriptor: FlightDescriptor) -> Result<Response<FlightInfo>, Status> {
        let Prepared { sql, values } = prepared;
        let statement = self.start(FlightTask::Run { sql, values }).await?;
        let (schema, handle) = (statement.schema.clone(), self.handle());
        let ticket = TicketStatementQuery { statement_handle: handle.clone() }.as_any().encode_to_vec();
        locked(&self.waiting).insert(handle, (Instant::now(), statement));
        info(&schema, ticket, descriptor)
    }

    /// The catalogs, schemas and tables; with `columns` also the schemas of the tables.
    async fn tables(&self, columns: bool) -> Result<Vec<ListedTable>, Status> {
        let batches = self.start(FlightTask::Tables { columns }).await?.all().await?;
        let mut tables = Vec::new();
        for batch in &batches {
            let text = |place: usize, row: usize| batch.column(place).as_string::<i32>().value(row).to_owned();
            let schemas = batch.column(3).as_binary::<i32>();
            for row in 0..batch.num_rows() {
                let schema = match schemas.iter().nth(row).flatten() {
                    Some(bytes) => StreamReader::try_new(bytes, None).map_err(of_arrow)?.schema(),
                    None => Arc::new(Schema::empty()),
                };
                tables.push(ListedTable {
                    catalog: text(0, row),
                    schema: text(1, row),
                    table: text(2, row),
                    columns: schema,
                });
            }
        }
        Ok(tables)
    }
}

struct ListedTable {
    catalog: String,
    schema: String,
    table: String,
    columns: SchemaRef,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn of_arrow(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn info(schema: &Schema, ticket: Vec<u8>, descriptor: FlightDescriptor) -> Result<Response<FlightInfo>, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket { ticket: ticket.into() });
    let info = FlightInfo::new().try_with_schema(schema).map_err(of_arrow)?;
    Ok(Response::new(info.with_endpoint(endpoint).with_descriptor(descriptor)))
}

fn encoded(
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
) -> Response<FlightRows> {
    let data = FlightDataEncoderBuilder::new().with_schema(schema).build(rows).map_err(Status::from);
    Response::new(Box::pin(data))
}

/// The answer of one batch.
fn batch(built: Result<RecordBatch, impl std::fmt::Display>) -> Result<Response<FlightRows>, Status> {
    let batch = built.map_err(of_arrow)?;
    Ok(encoded(batch.schema(), stream::iter([Ok(batch)])))
}

fn ipc(schema: &Schema) -> Result<Bytes, Status> {
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into().map_err(of_arrow)?;
    Ok(bytes)
}

fn read_only() -> Status {
    Status::invalid_argument("a query reads; it changes neither tables nor settings")
}

#[tonic::async_trait]
impl FlightSqlService for Service {
    type FlightService = Self;

    /// The access was checked before. Clients send the token that they get here with every request.
    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Handshakes>, Status> {
        let token = given(&request).unwrap_or_default();
        let answer = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
        let mut response = Response::new(Box::pin(stream::iter([Ok(answer)])) as Handshakes);
        let header = format!("Bearer {token}").parse().map_err(of_arrow)?;
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.begin(Prepared { sql: query.query, values: Vec::new() }, request.into_inner()).await
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let prepared = locked(&self.prepared).get(&query.prepared_statement_handle).cloned();
        let prepared = prepared.ok_or_else(|| Status::not_found("the prepared statement is closed"))?;
        self.begin(prepared, request.into_inner()).await
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        _: Request<Ticket>,
    ) -> Result<Response<FlightRows>, Status> {
        let waiting = locked(&self.waiting).remove(&ticket.statement_handle);
        let (_, statement) = waiting.ok_or_else(|| {
            let minutes = FORGOTTEN.as_secs() / 60;
            Status::not_found(format!("the rows were fetched already, or waited for more than {minutes} minutes"))
        })?;
        Ok(encoded(statement.schema.clone(), statement.rows()))
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let described = self.start(FlightTask::Describe { sql: query.query.clone() }).await?.schema.clone();
        let parameters = described.metadata().get(PARAMETERS).map_or_else(Vec::new, |names| {
            // The type is not known before there is a value.
            names.split(',').map(|name| Field::new(name, DataType::Null, true)).collect()
        });
        let (dataset_schema, parameter_schema) = if parameters.is_empty() {
            (ipc(&described)?, Bytes::new())
        } else {
            (Bytes::new(), ipc(&Schema::new(parameters))?)
        };
        let handle = self.handle();
        let mut prepared = locked(&self.prepared);
        if prepared.len() >= MOST_PREPARED {
            let message = format!("{MOST_PREPARED} prepared statements are open: close those that are not needed");
            return Err(Status::resource_exhausted(message));
        }
        prepared.insert(handle.clone(), Prepared { sql: query.query, values: Vec::new() });
        Ok(ActionCreatePreparedStatementResult { prepared_statement_handle: handle, dataset_schema, parameter_schema })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        locked(&self.prepared).remove(&query.prepared_statement_handle);
        Ok(())
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let data = request.into_inner().map_err(|status| FlightError::Tonic(Box::new(status)));
        let batches: Vec<RecordBatch> = FlightRecordBatchStream::new_from_flight_data(data).try_collect().await?;
        let values = values::of_rows(&batches)?;
        let handle = query.prepared_statement_handle;
        match locked(&self.prepared).get_mut(&handle) {
            Some(prepared) => prepared.values = values,
            None => return Err(Status::not_found("the prepared statement is closed")),
        }
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) })
    }

    async fn do_put_statement_update(
        &self,
        _: CommandStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only())
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(&query.into_builder().schema(), query.as_any().encode_to_vec(), request.into_inner())
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        _: Request<Ticket>,
    ) -> Result<Response<FlightRows>, Status> {
        let mut builder = query.into_builder();
        let tables = self.tables(false).await?;
        let names: std::collections::BTreeSet<&String> = tables.iter().map(|table| &table.catalog).collect();
        names.into_iter().for_each(|name| builder.append(name));
        batch(builder.build())
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        info(&query.into_builder().schema(), ticket, request.into_inner())
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        _: Request<Ticket>,
    ) -> Result<Response<FlightRows>, Status> {
        let mut builder = query.into_builder();
        let tables = self.tables(false).await?;
        let names: std::collections::BTreeSet<_> = tables.iter().map(|table| (&table.catalog, &table.schema)).collect();
        names.into_iter().for_each(|(catalog, schema)| builder.append(catalog, schema));
        batch(builder.build())
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        info(&query.into_builder().schema(), ticket, request.into_inner())
    }

    async fn do_get_tables(&self, query: CommandGetTables, _: Request<Ticket>) -> Result<Response<FlightRows>, Status> {
        let columns = query.include_schema;
        let mut builder = query.into_builder();
        for ListedTable { catalog, schema, table, columns } in &self.tables(columns).await? {
            builder.append(catalog, schema, table, TABLE, columns).map_err(of_arrow)?;
        }
        batch(builder.build())
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(&query.into_builder().schema(), query.as_any().encode_to_vec(), request.into_inner())
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        _: Request<Ticket>,
    ) -> Result<Response<FlightRows>, Status> {
        let mut builder = query.into_builder();
        builder.append(TABLE);
        batch(builder.build())
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        info(&query.into_builder(&self.about).schema(), ticket, request.into_inner())
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        _: Request<Ticket>,
    ) -> Result<Response<FlightRows>, Status> {
        batch(query.into_builder(&self.about).build())
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
