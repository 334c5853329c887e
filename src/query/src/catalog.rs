//! The catalogs, schemas and tables for queries. Names are listed from folders. A table is opened when a query names
//! the table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result as PlanResult};
use serde_json::Value;

use super::files::{FilesTable, constant_columns};
use super::history::{self, TOOL_TABLES};
use super::sources::{Member, TableFile, distinct};
use super::{TableFiles, content, pivot, quality, tables_of};
use raisin_base::error::{Context as _, Problem, Result, nearest};
use raisin_base::files::if_there;
use raisin_contract::query::{HISTORY, TOOL};
use raisin_store::{BuildDescription, DESCRIPTION, Store, no_cache};

/// All catalogs. One of them is the default.
#[derive(Debug)]
pub struct Catalogs {
    pub default: String,
    pub by_name: BTreeMap<String, Arc<Catalog>>,
    /// Whether the default is one of several pipelines and the user did not choose it.
    pub is_ambiguous: bool,
    /// The pipelines whose description cannot be read, each with the reason.
    pub unreadable: BTreeMap<String, String>,
    /// The folder of the cache, if there is no cache.
    pub without_cache: Option<PathBuf>,
    pub warnings: Arc<Warnings>,
}

/// What was left out of the tables, for the user. Tables are opened while a query is planned.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub fn add(&self, text: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains(&text) {
            all.push(text);
        }
    }

    /// The warnings since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Catalogs {
    /// The catalogs of the pipelines in `out/`. What is no pipeline, and a pipeline whose description cannot be read,
    /// is left out with a warning.
    ///
    /// # Errors
    /// The named pipeline was not built or there is no cache, its description cannot be read, or `out/` cannot be listed.
    pub fn open(cache: &Path, out: &Path, pipeline: Option<&str>) -> Result<Self> {
        Self::open_with(cache, out, pipeline, None)
    }

    /// As [`Catalogs::open`], also with the stages of a build that goes on: the first one of its pipeline.
    ///
    /// # Errors
    /// As [`Catalogs::open`].
    pub fn open_with(
        cache: &Path,
        out: &Path,
        pipeline: Option<&str>,
        unfinished: Option<BuildDescription>,
    ) -> Result<Self> {
        let Some(store) = Store::existing(cache)? else {
            return match pipeline {
                Some(_) => Err(no_cache(cache).into()),
                None => Ok(Self::without_cache(cache)),
            };
        };
        let store = Arc::new(store);
        let warnings = Arc::<Warnings>::default();
        let PipelinesBelowOut { mut built, unreadable } = built_pipelines(out, &warnings)?;
        built.extend(unfinished.map(|build| (SystemTime::now(), build)));
        let names: Vec<&str> = built.iter().map(|(_, description)| description.pipeline.as_str()).collect();
        let default = match pipeline {
            Some(name) if names.contains(&name) => name.to_owned(),
            Some(name) => match unreadable.get(name) {
                Some(reason) => return Err(unreadable_pipeline(name, reason).into()),
                None => return Err(not_built(name, &names, out).into()),
            },
            // The only pipeline is the default, so that a query over its tables fails with the reason.
            None if built.is_empty() && unreadable.len() == 1 => unreadable.keys().cloned().collect(),
            None => {
                built.iter().max_by_key(|(changed, _)| *changed).map_or(TOOL.to_owned(), |(_, it)| it.pipeline.clone())
            }
        };
        let is_ambiguous = pipeline.is_none() && built.len() > 1;
        let history = Arc::new(Schema::of(SchemaOrigin::History(store.clone(), warnings.clone())));
        let tool = |description: Option<BuildDescription>| {
            let place = SchemaOrigin::Tool(store.clone(), description, warnings.clone());
            Arc::new(Schema::of(place))
        };
        let mut by_name = BTreeMap::new();
        for (_, description) in built {
            let mut schemas = stage_schemas(&store, out, &description, &warnings);
            let name = description.pipeline.clone();
            schemas.insert(TOOL.to_owned(), tool(Some(description)));
            schemas.insert(HISTORY.to_owned(), history.clone());
            by_name.insert(name, Arc::new(Catalog { schemas }));
        }
        if by_name.is_empty() {
            let schemas = BTreeMap::from([(TOOL.to_owned(), tool(None)), (HISTORY.to_owned(), history)]);
            by_name.insert(default.clone(), Arc::new(Catalog { schemas }));
        }
        Ok(Self { default, by_name, is_ambiguous, unreadable, without_cache: None, warnings: warnings.clone() })
    }

    /// One catalog without tables.
    fn without_cache(cache: &Path) -> Self {
        let by_name = BTreeMap::from([(TOOL.to_owned(), Arc::new(Catalog { schemas: BTreeMap::new() }))]);
        Self {
            default: TOOL.to_owned(),
            by_name,
            is_ambiguous: false,
            unreadable: BTreeMap::new(),
            without_cache: Some(cache.to_owned()),
            warnings: Arc::default(),
        }
    }

    /// One catalog with the given tables.
    pub fn of_tables(tables: BTreeMap<String, TableFiles>) -> Self {
        let schema =
            |files| Arc::new(Schema { files: OnceLock::from(with_views(files)), ..Schema::of(SchemaOrigin::Given) });
        let schemas = tables.into_iter().map(|(name, files)| (name, schema(files))).collect();
        let by_name = BTreeMap::from([("stages".to_owned(), Arc::new(Catalog { schemas }))]);
        let (unreadable, warnings) = (BTreeMap::new(), Arc::default());
        Self { default: "stages".to_owned(), by_name, is_ambiguous: false, unreadable, without_cache: None, warnings }
    }

    pub fn default_catalog(&self) -> Option<&Catalog> {
        self.by_name.get(&self.default).map(Arc::as_ref)
    }
}

/// What lies in `out/`.
struct PipelinesBelowOut {
    /// The descriptions of the pipelines, each with the time of its last change.
    built: Vec<(SystemTime, BuildDescription)>,
    unreadable: BTreeMap<String, String>,
}

/// Reads the descriptions in the folders of `out/`. Users keep other files there too; hidden ones are not mentioned.
fn built_pipelines(out: &Path, warnings: &Warnings) -> Result<PipelinesBelowOut> {
    let mut found = PipelinesBelowOut { built: Vec::new(), unreadable: BTreeMap::new() };
    let entries = if_there(std::fs::read_dir(out)).with_context(|| format!("cannot list {}", out.display()))?;
    let Some(entries) = entries else { return Ok(found) };
    let mut folders = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    folders.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    folders.sort();
    let mut places: BTreeMap<String, (PathBuf, SystemTime, BuildDescription)> = BTreeMap::new();
    for folder in folders {
        let skipped = |why: &str| warnings.add(format!("{} is skipped: {why}", folder.display()));
        match folder.metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                skipped("a file, and no folder of a pipeline");
                continue;
            }
            Err(error) => {
                skipped(&error.to_string());
                continue;
            }
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let changed = || -> Result<SystemTime> { Ok(folder.join(DESCRIPTION).metadata()?.modified()?) };
        match BuildDescription::read(&folder).and_then(|read| read.map(|read| Ok((changed()?, read))).transpose()) {
            Ok(None) => skipped("it has no build.json, which `raisin build` writes"),
            Ok(Some((changed, description))) => {
                let has_its_name = name == description.pipeline;
                match places.get(&description.pipeline) {
                    // A copy of the folder of a pipeline has the same description.
                    Some((other, ..)) if !has_its_name => {
                        skipped(&format!("{} is the folder of pipeline `{}`", other.display(), description.pipeline));
                    }
                    other => {
                        if let Some((other, ..)) = other {
                            let of = format!("{} is the folder of pipeline `{name}`", folder.display());
                            warnings.add(format!("{} is skipped: {of}", other.display()));
                        }
                        places.insert(description.pipeline.clone(), (folder, changed, description));
                    }
                }
            }
            Err(error) => {
                let reason = format!("{error:#}");
                skipped(&reason);
                found.unreadable.insert(name, reason);
            }
        }
    }
    found.built = places.into_values().map(|(_, changed, description)| (changed, description)).collect();
    Ok(found)
}

/// The problem of a query over a pipeline whose description cannot be read.
pub fn unreadable_pipeline(name: &str, reason: &str) -> Problem {
    Problem::new(format!("the results of pipeline `{name}` cannot be found: {reason}"))
        .hint("build the pipeline again: the build writes a new build.json")
}

fn not_built(name: &str, names: &[&str], out: &Path) -> Problem {
    let problem = Problem::usage(format!("no pipeline `{name}` was built into {}", out.display()));
    match nearest(name, names.iter().copied()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None if names.is_empty() => problem.hint("there is none yet: build one with `raisin build`"),
        None => problem.hint(format!("there are {}", names.join(", "))),
    }
}

fn stage_schemas(
    store: &Arc<Store>,
    out: &Path,
    description: &BuildDescription,
    warnings: &Arc<Warnings>,
) -> BTreeMap<String, Arc<Schema>> {
    let mut members: BTreeMap<String, Vec<Member<PathBuf>>> = BTreeMap::new();
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let sweeps = description.stages.iter().any(|built| !built.variant.is_empty());
    for built in &description.stages {
        let member = Member {
            // In a pipeline with a sweep, a gathering stage has a column `variant` too. It is null.
            variant: built.variant.clone(),
            values: built.values.clone(),
            identity: built.key.to_hex(),
            of: store.artifact_folder(built.artifact),
        };
        members.entry(built.stage.clone()).or_default().push(member);
        let known = kinds.entry(built.stage.clone()).or_default();
        if !known.contains(&built.kind) {
            known.push(built.kind.clone());
        }
    }
    let elsewhere = elsewhere(store, out, description);
    let mut schema = |stage: &str, members: Vec<Member<PathBuf>>| {
        let mut artifacts = distinct(&members);
        for (_, constants) in &mut artifacts {
            if sweeps && constants.is_empty() {
                constants.push(("variant".to_owned(), Value::Null));
            }
        }
        let place = match &elsewhere {
            Some(problem) => SchemaOrigin::Elsewhere(problem.clone()),
            None => SchemaOrigin::Stage(artifacts, warnings.clone()),
        };
        Arc::new(Schema { kinds: kinds.remove(stage).unwrap_or_default(), ..Schema::of(place) })
    };
    let schema_of = |(stage, members): (String, _)| {
        let schema = schema(&stage, members);
        (stage, schema)
    };
    members.into_iter().map(schema_of).collect()
}

/// The problem if the cache has no artifact of a pipeline at all: the pipeline was built into another cache, or its
/// cache was moved.
fn elsewhere(store: &Store, out: &Path, description: &BuildDescription) -> Option<Problem> {
    let mut folders = description.stages.iter().map(|built| store.artifact_folder(built.artifact));
    if description.stages.is_empty() || folders.any(|folder| folder.is_dir()) {
        return None;
    }
    let folder = out.join(&description.pipeline);
    let cache = store.root().display();
    let problem = Problem::new(format!(
        "the cache {cache} has none of the {} artifacts of {}",
        description.stages.len(),
        folder.display()
    ));
    Some(match linked_cache(&folder) {
        Some(linked) if linked.is_dir() => {
            problem.hint(format!("the links there lead into {}: add --cache {}", linked.display(), linked.display()))
        }
        Some(linked) => problem.hint(format!(
            "the links there lead into {}, which is gone: add --cache with the folder to which it was moved, or build \
             the pipeline again",
            linked.display()
        )),
        None => problem.hint("add --cache with the folder of their cache, or build the pipeline again"),
    })
}

/// The cache into which the links of a pipeline lead: .../artifacts/DIGEST without its last two parts.
fn linked_cache(folder: &Path) -> Option<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if let Ok(target) = std::fs::read_link(&path) {
                let target = path.parent()?.join(target);
                return clean(target.parent()?.parent()?);
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    None
}

/// An absolute path without `..`, also where nothing exists.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut cleaned = PathBuf::new();
    for part in std::path::absolute(path).ok()?.components() {
        match part {
            std::path::Component::ParentDir => {
                cleaned.pop();
            }
            part => cleaned.push(part),
        }
    }
    Some(cleaned)
}

/// The schemas of one pipeline.
#[derive(Debug)]
pub struct Catalog {
    pub schemas: BTreeMap<String, Arc<Schema>>,
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        self.schemas.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        Some(self.schemas.get(name)?.clone())
    }
}

/// The origin of the tables of a schema.
#[derive(Debug)]
enum SchemaOrigin {
    /// The distinct artifacts of a stage, with their constant columns.
    Stage(Vec<(PathBuf, Vec<(String, Value)>)>, Arc<Warnings>),
    /// A stage of whose pipeline the cache has nothing.
    Elsewhere(Problem),
    Tool(Arc<Store>, Option<BuildDescription>, Arc<Warnings>),
    History(Arc<Store>, Arc<Warnings>),
    Given,
}

#[derive(Debug)]
pub struct Schema {
    place: SchemaOrigin,
    /// The kinds of the stage. A pipeline whose kind of a stage is swept has several.
    kinds: Vec<String>,
    /// The files of each table, listed when they are first needed.
    files: OnceLock<TableFiles>,
}

impl Schema {
    fn of(place: SchemaOrigin) -> Self {
        Self { place, kinds: Vec::new(), files: OnceLock::new() }
    }

    /// The kinds of the stage.
    pub fn kinds(&self) -> &[String] {
        &self.kinds
    }

    /// The names of the constants of the sweep.
    pub fn swept_columns(&self) -> Vec<String> {
        let SchemaOrigin::Stage(artifacts, _) = &self.place else { return Vec::new() };
        artifacts
            .first()
            .map_or_else(Vec::new, |(_, constants)| constants.iter().map(|(name, _)| name.clone()).collect())
    }

    pub fn names(&self) -> Vec<String> {
        match &self.place {
            SchemaOrigin::Tool(..) => TOOL_TABLES.iter().map(|name| (*name).to_owned()).collect(),
            SchemaOrigin::History(store, _) => {
                self.files.get().map_or_else(|| history::table_names(store), |files| files.keys().cloned().collect())
            }
            SchemaOrigin::Stage(..) | SchemaOrigin::Elsewhere(_) | SchemaOrigin::Given => {
                self.files().keys().cloned().collect()
            }
        }
    }

    /// The problem if the cache has nothing of the pipeline of this stage.
    pub fn elsewhere(&self) -> Option<&Problem> {
        match &self.place {
            SchemaOrigin::Elsewhere(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether the schema has a table of this name.
    pub fn has(&self, name: &str) -> bool {
        match &self.place {
            SchemaOrigin::Tool(..) => TOOL_TABLES.contains(&name),
            // The tables of an artifact that is gone cannot be listed. `open` then reports that the artifact is gone.
            SchemaOrigin::Stage(artifacts, _) if artifacts.iter().any(|(folder, _)| !folder.is_dir()) => true,
            SchemaOrigin::Elsewhere(_) => true,
            SchemaOrigin::History(..) | SchemaOrigin::Stage(..) | SchemaOrigin::Given => {
                self.files().contains_key(name)
            }
        }
    }

    /// The files of each table; `None` for tables that have no files.
    pub fn table_files(&self) -> Option<&TableFiles> {
        match &self.place {
            SchemaOrigin::Stage(..) | SchemaOrigin::History(..) | SchemaOrigin::Given => Some(self.files()),
            SchemaOrigin::Tool(..) | SchemaOrigin::Elsewhere(_) => None,
        }
    }

    pub fn is_of_a_stage(&self) -> bool {
        matches!(self.place, SchemaOrigin::Stage(..) | SchemaOrigin::Elsewhere(_) | SchemaOrigin::Given)
    }

    fn files(&self) -> &TableFiles {
        self.files.get_or_init(|| match &self.place {
            SchemaOrigin::Stage(artifacts, warnings) => with_views(files_of(artifacts, warnings)),
            SchemaOrigin::History(store, warnings) => {
                with_long_metrics(files_of(&history::artifacts(store, warnings), warnings))
            }
            SchemaOrigin::Tool(..) | SchemaOrigin::Elsewhere(_) | SchemaOrigin::Given => BTreeMap::new(),
        })
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match &self.place {
            SchemaOrigin::Tool(store, description, warnings) => {
                return history::tool_table(store, description.as_ref(), name, warnings);
            }
            SchemaOrigin::Stage(artifacts, _) => {
                if let Some((gone, _)) = artifacts.iter().find(|(folder, _)| !folder.is_dir()) {
                    let message = format!("the artifact {} is no longer there", gone.display());
                    return Err(Problem::new(message).hint("build the pipeline again").into());
                }
            }
            SchemaOrigin::Elsewhere(problem) => return Err(problem.clone().into()),
            SchemaOrigin::History(..) | SchemaOrigin::Given => {}
        }
        let Some(files) = self.files().get(name) else { return Ok(None) };
        if name == pivot::WIDE
            && let Some(table) = pivot::wide_table(files)?
        {
            return Ok(Some(Arc::new(table)));
        }
        let table: Arc<dyn TableProvider> = Arc::new(FilesTable::open(files)?);
        if quality::is_view(name, files) {
            let constants = constant_columns(files)?;
            let names: Vec<String> = constants.into_iter().map(|(_, column)| column).collect();
            return Ok(quality::view(table, &names)?.map(|view| Arc::new(view) as Arc<dyn TableProvider>));
        }
        if name == content::POOL
            && let Some(view) = content::with_digest(&table)?
        {
            return Ok(Some(Arc::new(view)));
        }
        Ok(Some(table))
    }
}

fn files_of(artifacts: &[(PathBuf, Vec<(String, Value)>)], warnings: &Warnings) -> TableFiles {
    let mut files = TableFiles::new();
    for (folder, constants) in artifacts {
        let tables = tables_of(folder).unwrap_or_else(|error| {
            warnings.add(format!("{error:#}, so that its tables are left out"));
            BTreeMap::new()
        });
        for (table, path) in tables {
            files.entry(table).or_default().push(TableFile { path, constants: constants.clone() });
        }
    }
    files
}

/// The files of a stage, and the tables that are views of others.
fn with_views(files: TableFiles) -> TableFiles {
    quality::with_view(with_long_metrics(files))
}

/// The files, and the table that is shown wide a second time under a name that shows its rows unchanged.
fn with_long_metrics(mut files: TableFiles) -> TableFiles {
    if let Some(metrics) = files.get(pivot::WIDE).cloned() {
        files.entry(pivot::LONG.to_owned()).or_insert(metrics);
    }
    files
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        self.names()
    }

    async fn table(&self, name: &str) -> PlanResult<Option<Arc<dyn TableProvider>>> {
        self.open(name).map_err(|error| match error.downcast::<Problem>() {
            Ok(problem) => DataFusionError::External(Box::new(problem)),
            Err(error) => DataFusionError::External(format!("{error:#}").into()),
        })
    }

    /// The type of every table, without opening it. `show tables` asks for the type of each listed table, and must not
    /// read all files.
    async fn table_type(&self, _name: &str) -> PlanResult<Option<TableType>> {
        Ok(Some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.has(name)
    }
}
