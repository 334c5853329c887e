//! The SQL box: answers statements as `raisin sql` does, within limits of time, rows and memory, and without files: on a
//! machine with several users, each of them can ask the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::catalog::Catalogs;
use crate::render::fragment;
use crate::rows::QueryMemory;
use crate::script::pieces;
use crate::session::{Session, StatementAnswer, block_on};
use raisin_base::error::{Problem, Result, render};
use raisin_base::memory::default_limit;
use raisin_contract::ui::UiOptions;
use raisin_store::BuildDescription;

/// The largest number of rows of a result.
pub const MOST_ROWS: usize = 1000;
/// The time after which a query is ended.
pub const MOST_TIME: Duration = Duration::from_secs(30);
/// The memory of a query in bytes, if the machine has twice as much.
const MEMORY: u64 = 2_000_000_000;
/// The number of queries that run at the same time.
pub const MOST_QUERIES: usize = 2;

/// Why a query was stopped.
#[derive(Clone, Default)]
pub struct Stop {
    /// The query ends when this becomes true.
    pub flag: Arc<AtomicBool>,
}

impl Stop {
    pub fn now(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}

/// Whether a build of the pipeline has ended, and left links.
pub fn is_built(options: &UiOptions, pipeline: &str) -> bool {
    options.out.join(pipeline).join(raisin_store::DESCRIPTION).is_file()
}

/// The answer as JSON: `parts` with a `table` (HTML) and `notes` each, or `error`. The status of the response comes
/// first. `unfinished` has the stages that are done in the first build of the pipeline.
pub fn answer(
    options: &UiOptions,
    pipeline: &str,
    unfinished: Option<BuildDescription>,
    text: &str,
    stop: &Stop,
) -> (u16, Value) {
    let began = Instant::now();
    match parts(options, pipeline, unfinished, text, stop) {
        Ok(parts) => (200, json!({ "parts": parts, "seconds": began.elapsed().as_secs_f64() })),
        Err(error) => {
            let words = if began.elapsed() >= MOST_TIME {
                format!(
                    "error: the query did not end within {} s\nhint: `raisin sql` has no such limit",
                    MOST_TIME.as_secs()
                )
            } else {
                render(&error)
            };
            (400, json!({ "error": words }))
        }
    }
}

fn parts(
    options: &UiOptions,
    pipeline: &str,
    unfinished: Option<BuildDescription>,
    text: &str,
    stop: &Stop,
) -> Result<Vec<Value>> {
    let pieces = pieces(text);
    if pieces.is_empty() {
        return Err(Problem::usage("the query is empty").into());
    }
    // The page may show a pipeline that is not built yet; the tables of the runs are there all the same.
    let is_known = unfinished.is_some() || is_built(options, pipeline);
    let pipeline = Some(pipeline).filter(|_| is_known);
    let catalogs = Catalogs::open_with(&options.cache, &options.out, pipeline, unfinished)?;
    let limit = default_limit().map_or(MEMORY, |limit| limit.min(MEMORY));
    let memory = QueryMemory { limit: Some(limit), folder: None, stage: None };
    let session = Session::over(catalogs, memory)?.without_files().stopped_by(stop.flag.clone());
    let mut parts = Vec::new();
    for piece in &pieces {
        let mut notes = Vec::new();
        let answer = block_on(async {
            match session.answer(&piece.text, &mut |note| notes.push(note.to_owned())).await? {
                StatementAnswer::Done(words) => Ok((None, Some(words))),
                StatementAnswer::Rows(rows) => {
                    let tables = rows.tables.clone();
                    let (rows, has_more) = rows.head(MOST_ROWS).await?;
                    let words = match rows.num_rows() {
                        1 => "1 row".to_owned(),
                        count if has_more => format!("the first {count} rows; there are more"),
                        count => format!("{count} rows"),
                    };
                    let html = fragment(&rows, |column| session.meaning_in(&tables, column))?;
                    Ok::<_, raisin_base::error::Error>((Some(html), Some(words)))
                }
            }
        })?;
        let (table, words) = answer?;
        notes.extend(words);
        parts.push(json!({ "table": table, "notes": notes }));
    }
    Ok(parts)
}
