//! The tables and views that the statements of one session create, and the files that they name. They lie in the schema
//! `public` of the default catalog, and are gone with the session.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::Result as PlanResult;
use datafusion::execution::options::{CsvReadOptions, JsonReadOptions};
use datafusion::prelude::SessionContext;

use super::catalog::Catalog;
use super::files::FilesTable;
use super::sources::TableFile;
use raisin_base::error::{Problem, Result};

/// The schema of tables that are named without a schema.
pub const PUBLIC: &str = "public";

#[derive(Debug, Default)]
pub struct Temporary {
    created: Mutex<BTreeMap<String, Arc<dyn TableProvider>>>,
    /// The files that a query named, by their names in the query.
    files: Mutex<BTreeMap<String, Arc<dyn TableProvider>>>,
}

type Tables = BTreeMap<String, Arc<dyn TableProvider>>;

fn locked(tables: &Mutex<Tables>) -> MutexGuard<'_, Tables> {
    tables.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Temporary {
    pub fn has(&self, name: &str) -> bool {
        locked(&self.created).contains_key(name)
    }

    pub fn names(&self) -> Vec<String> {
        locked(&self.created).keys().cloned().collect()
    }

    /// # Errors
    /// There is one of this name, and it shall not be replaced.
    pub fn create(&self, name: &str, table: Arc<dyn TableProvider>, or_replace: bool) -> Result<()> {
        let mut created = locked(&self.created);
        if created.contains_key(name) && !or_replace {
            let problem = Problem::usage(format!("there is already a table or view `{name}`"));
            return Err(problem.hint("write `create or replace temp ...`, or drop it").into());
        }
        created.insert(name.to_owned(), table);
        Ok(())
    }

    /// Whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        locked(&self.created).remove(name).is_some()
    }

    /// Opens the file that a query names as a table, such as `from 'rows.parquet'`. Does nothing if the name is not
    /// that of a file.
    ///
    /// # Errors
    /// The file does not exist, or cannot be read.
    pub async fn open_file(&self, name: &str, context: &SessionContext) -> Result<bool> {
        let Some(kind) = FileKind::of(name) else { return Ok(false) };
        let paths = files_of(name)?;
        let Some(first) = paths.first() else {
            let problem = Problem::usage(format!("there is no file `{name}`"));
            return Err(problem.hint("the path is relative to the folder in which raisin runs").into());
        };
        let table: Arc<dyn TableProvider> = match kind {
            FileKind::Parquet => {
                let files: Vec<TableFile> =
                    paths.into_iter().map(|path| TableFile { path, constants: Vec::new() }).collect();
                Arc::new(FilesTable::open(&files)?)
            }
            FileKind::Csv | FileKind::JsonLines if paths.len() > 1 => {
                let problem = Problem::usage(format!("`{name}` matches {} files", paths.len()));
                return Err(problem.hint("only Parquet files can be read together; name one file").into());
            }
            FileKind::Csv => {
                let ending = ending(first);
                let delimiter = if ending.eq_ignore_ascii_case(".tsv") { b'\t' } else { b',' };
                let options = CsvReadOptions::new().file_extension(&ending).delimiter(delimiter);
                let options = options.schema_infer_max_records(usize::MAX);
                context.read_csv(text(first), options).await?.into_view()
            }
            FileKind::JsonLines => {
                let ending = ending(first);
                // By default, a field that only later records have would be missing without a word.
                let options = JsonReadOptions::default().file_extension(&ending);
                let options = options.schema_infer_max_records(usize::MAX);
                context.read_json(text(first), options).await?.into_view()
            }
        };
        locked(&self.files).insert(name.to_owned(), table);
        Ok(true)
    }
}

fn text(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn ending(path: &Path) -> String {
    format!(".{}", path.extension().unwrap_or_default().to_string_lossy())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Parquet,
    Csv,
    JsonLines,
}

impl FileKind {
    fn of(name: &str) -> Option<Self> {
        match Path::new(name).extension()?.to_str()?.to_lowercase().as_str() {
            "parquet" => Some(Self::Parquet),
            "csv" | "tsv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// The file, or the files that match a pattern, in the order of their names.
fn files_of(name: &str) -> Result<Vec<PathBuf>> {
    if Path::new(name).is_file() {
        return Ok(vec![PathBuf::from(name)]);
    }
    let paths = glob::glob(name).map_err(|error| Problem::usage(format!("`{name}` is no pattern: {error}")))?;
    let mut found = paths.collect::<std::result::Result<Vec<_>, _>>()?;
    found.retain(|path| path.is_file());
    Ok(found)
}

#[async_trait]
impl SchemaProvider for Temporary {
    fn table_names(&self) -> Vec<String> {
        self.names()
    }

    async fn table(&self, name: &str) -> PlanResult<Option<Arc<dyn TableProvider>>> {
        let created = locked(&self.created).get(name).cloned();
        Ok(created.or_else(|| locked(&self.files).get(name).cloned()))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.has(name) || locked(&self.files).contains_key(name)
    }
}

/// A catalog, and the schema [`PUBLIC`].
#[derive(Debug)]
pub struct WithTemporary {
    pub catalog: Arc<Catalog>,
    pub temporary: Arc<Temporary>,
}

impl CatalogProvider for WithTemporary {
    fn schema_names(&self) -> Vec<String> {
        let mut names = self.catalog.schema_names();
        if !self.temporary.names().is_empty() {
            names.push(PUBLIC.to_owned());
        }
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == PUBLIC { Some(self.temporary.clone()) } else { self.catalog.schema(name) }
    }
}
