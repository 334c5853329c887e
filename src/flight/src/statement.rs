//! A statement: a `raisin-sql` that answers it, and its rows. Dropping the value ends the process, so that a client that
//! cancels, disconnects or forgets a result stops the work for it.

use std::io::{BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arrow_array::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_ipc::reader::StreamReader;
use arrow_schema::SchemaRef;
use futures_util::Stream;
use futures_util::stream::unfold;
use raisin_base::error::{Problem, Result};
use raisin_contract::flight::{FlightOptions, FlightQuestion, FlightTask};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

/// The number of batches that are read ahead of the client.
const AHEAD: usize = 2;

/// The executable that answers statements: it lies beside this one.
///
/// # Errors
/// It does not exist.
pub fn answering_executable() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().unwrap_or(Path::new(".")).join("raisin-sql");
    if path.is_file() {
        return Ok(path);
    }
    let problem = Problem::new(format!("there is no executable {}, which answers the statements", path.display()));
    Err(problem.hint("compile it, or install raisin again").into())
}

/// A statement whose schema is known.
pub struct Statement {
    pub schema: SchemaRef,
    reader: StreamReader<BufReader<ChildStdout>>,
    process: StatementProcess,
}

/// A process that ends with the value.
struct StatementProcess {
    shared: Arc<StatementShared>,
    /// The process ends when this is closed, also if the server is killed.
    input: Option<ChildStdin>,
    /// One of the places for statements.
    _permit: OwnedSemaphorePermit,
}

struct StatementShared {
    child: Mutex<Child>,
    /// What the process says on standard error.
    said: Mutex<Option<JoinHandle<String>>>,
}

impl Drop for StatementProcess {
    fn drop(&mut self) {
        drop(self.input.take());
        let mut child = self.shared.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl StatementShared {
    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of a process whose output has ended; `None` if the process succeeded.
    fn failure(&self) -> Option<Status> {
        let status = self.child().wait();
        let handle = self.said.lock().unwrap_or_else(PoisonError::into_inner).take();
        let said = handle.and_then(|handle| handle.join().ok()).unwrap_or_default();
        match status {
            Ok(status) if status.success() => None,
            // The statement is wrong, as `raisin sql` would say.
            Ok(status) if status.code() == Some(2) => Some(Status::invalid_argument(said.trim())),
            Ok(_) if !said.trim().is_empty() => Some(Status::internal(said.trim())),
            Ok(status) => Some(Status::internal(format!("raisin-sql ended with {status}"))),
            Err(error) => Some(Status::internal(format!("raisin-sql cannot be awaited: {error}"))),
        }
    }
}

impl Statement {
    /// Starts a statement, and waits for its schema.
    pub async fn start(
        executable: &Path,
        options: &FlightOptions,
        task: FlightTask,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, Status> {
        let (cache, out, pipeline) = (options.cache.clone(), options.out.clone(), options.pipeline.clone());
        let question = serde_json::to_string(&FlightQuestion { cache, out, pipeline, task });
        let question = question.map_err(|error| Status::internal(error.to_string()))?;
        let cannot = |error: std::io::Error| Status::internal(format!("cannot start raisin-sql: {error}"));
        let mut command = Command::new(executable);
        command.arg("flight").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let said = std::thread::spawn(move || {
            let mut said = Vec::new();
            let _ = errors.map(|mut errors| errors.read_to_end(&mut said));
            String::from_utf8_lossy(&said).into_owned()
        });
        let shared = Arc::new(StatementShared { child: Mutex::new(child), said: Mutex::new(Some(said)) });
        // From here on, the process ends also if the client goes before the schema is there.
        let mut process = StatementProcess { shared: shared.clone(), input, _permit: permit };
        let (Some(input), Some(output)) = (process.input.as_mut(), output) else {
            return Err(Status::internal("raisin-sql has no pipes"));
        };
        // A process that has failed already says why.
        let _ = writeln!(input, "{question}").and_then(|()| input.flush());
        let read = move || match StreamReader::try_new(BufReader::new(output), None) {
            Ok(reader) => Ok(reader),
            Err(error) => Err(shared.failure().unwrap_or_else(|| Status::internal(error.to_string()))),
        };
        let reader = tokio::task::spawn_blocking(read).await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Self { schema: reader.schema(), reader, process })
    }

    /// The rows, batch by batch.
    pub fn rows(self) -> impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (mut reader, shared) = (self.reader, self.process.shared.clone());
        tokio::task::spawn_blocking(move || {
            let mut failed = false;
            for batch in &mut reader {
                failed = batch.is_err();
                // Without a receiver, the client is gone.
                if sender.blocking_send(batch.map_err(FlightError::from)).is_err() || failed {
                    break;
                }
            }
            if !failed
                && !sender.is_closed()
                && let Some(status) = shared.failure()
            {
                let _ = sender.blocking_send(Err(FlightError::Tonic(Box::new(status))));
            }
        });
        // The stream owns the process: it ends when the stream is dropped.
        unfold((receiver, self.process), |(mut receiver, process)| async move {
            let batch = receiver.recv().await?;
            Some((batch, (receiver, process)))
        })
    }

    /// All rows.
    pub async fn all(self) -> Result<Vec<RecordBatch>, Status> {
        use futures_util::TryStreamExt as _;
        self.rows().try_collect().await.map_err(Status::from)
    }
}
