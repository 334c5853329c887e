//! The declaration of a kind: parameters, needs, checks, version and executable. The engine knows a kind only by its
//! declaration; serve.rs connects a kind with the function that runs its stages.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use raisin_base::error::Result;

use crate::outputs::{ExamplePipeline, FileDeclaration, Outputs, TableDeclaration};

/// The executable that runs the stages of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Process {
    /// `raisin-data`: rows and files, no tensors.
    Data,
    /// `raisin-worker`: tensors, perhaps a GPU.
    Tensor,
    /// `raisin-sql`: queries.
    Sql,
}

impl Process {
    pub fn executable(self) -> &'static str {
        match self {
            Self::Data => "raisin-data",
            Self::Tensor => "raisin-worker",
            Self::Sql => "raisin-sql",
        }
    }
}

/// A kind, declared: parameters, needs, and what its artifacts provide. The function that runs a stage of the kind is
/// in the executable that [`Kind::PROCESS`] names (see [`crate::KindRunner`]).
pub trait Kind {
    /// The name of the kind: the value of `kind` in a pipeline file.
    const NAME: &'static str;
    /// Part of the action key. Raise it with every change of the bytes that a stage of this kind writes.
    const VERSION: u32;
    /// One sentence for users, also used in the JSON Schema.
    const ABOUT: &'static str;
    const PROCESS: Process;
    /// Whether results depend on the seed of the pipeline. Only then the seed is part of the action key.
    const SEEDED: bool;
    /// The condition under which results depend on the seed, as a clause after "only"; `None`: always, if [`Kind::SEEDED`].
    const SEEDED_IF: Option<&'static str> = None;
    /// Whether this is a gathering kind: its stage runs once for a pipeline and sees its inputs from every variant.
    const GATHERS: bool = false;
    /// Whether a stage of this kind shows where its inputs come from. The loader of pipelines then gives it the parameter
    /// [`crate::SETUP`]: name, seed and sweep of the pipeline, and the settings of all stages that lead to it.
    const SHOWS_SETUP: bool = false;
    /// The names that a stage of this kind provides, and that the need of another stage can demand: `instructions`,
    /// `task`, `model`, `features`, `columns`, `clusters`, `policy`, `selection`, `scores`, `overlap`. If it depends on
    /// the parameters what a stage provides, these are all names, and [`Kind::provides`] gives those of a stage.
    const PROVIDES: &'static [&'static str];
    /// Whether a stage of this kind gets the threads and GPUs of `resources`. A stage of another kind counts as short: it
    /// has one thread, which the scheduler does not count.
    const COMPUTES: bool = matches!(Self::PROCESS, Process::Tensor);
    /// The tables that a stage of this kind writes. A stage fails if it writes another table.
    const TABLES: &'static [TableDeclaration] = &[];
    /// The other files that a stage of this kind writes. A stage fails if it writes another file.
    const FILES: &'static [&'static [FileDeclaration]] = &[];
    /// Complete pipelines with a stage of this kind. Together they give every parameter that has a range of its own.
    const EXAMPLES: &'static [ExamplePipeline] = &[];

    /// The parameters. Defaults are documented on the fields. Deserialisation fills the defaults in; therefore a
    /// default that is written out does not change the key.
    type Parameters: Serialize + DeserializeOwned + JsonSchema;

    /// Reads parameters as a person wrote them, and fills in the defaults.
    ///
    /// # Errors
    /// A parameter is unknown, missing or of the wrong type. The error has its pointer.
    fn read(written: Value) -> Result<Self::Parameters, ParameterProblem> {
        from_json(written, "")
    }

    /// The names of [`Kind::PROVIDES`] that a stage with these parameters provides.
    fn provides(_parameters: &Self::Parameters) -> Vec<&'static str> {
        Self::PROVIDES.to_vec()
    }

    /// Whether the result of a stage with these parameters depends on the seed. Never true if [`Kind::SEEDED`] is false.
    fn is_seeded(_parameters: &Self::Parameters) -> bool {
        Self::SEEDED
    }

    /// Adds every need of the stage to `needs`. A pointer (RFC 6901) says which parameter names the input.
    fn needs(parameters: &Self::Parameters, needs: &mut Needs);

    /// Refuses impossible values and combinations that the types allow. The check runs before any stage runs.
    ///
    /// # Errors
    /// A [`ParameterProblem`] that points at the parameter.
    fn check(_parameters: &Self::Parameters) -> Result<(), ParameterProblem> {
        Ok(())
    }
}

/// A wrong value, with the pointer of its parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterProblem {
    pub pointer: String,
    pub message: String,
    pub hint: Option<String>,
}

impl ParameterProblem {
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The inputs of one stage: other stages, and files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub stages: Vec<StageNeed>,
    pub files: Vec<FileNeed>,
    /// The pointers of parameters that name a stage or a file which this stage does not use. They are not in the key.
    pub ignored: Vec<String>,
    /// What the key has in place of the parameter at a pointer, for a text that contains the names of stages.
    pub replaced: Vec<(String, Value)>,
    /// The programs whose output is in the key.
    pub printed: Vec<PrintedNeed>,
}

/// The key has the output of a program in place of the parameter at `pointer`, which is the program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrintedNeed {
    pub pointer: String,
    pub command: Vec<String>,
}

/// The parameter at `pointer` names a stage. If `provides` is given, that stage must provide it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageNeed {
    pub pointer: String,
    pub stage: String,
    pub provides: Option<&'static str>,
    /// Whether the name of the stage is in the key, because the result depends on the name.
    pub by_name: bool,
    /// Where the user names the stage, if the user does not write the parameter at `pointer`.
    pub mentions: Vec<StageMention>,
}

/// A text of a stage that names another stage and, perhaps, a table or a file of its artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageMention {
    /// The pointer of the text.
    pub pointer: String,
    /// The table or file, such as `instructions` or `config.json`. `TABLE.jsonl` is the table as JSON lines.
    pub part: Option<String>,
    /// Other words that the text could have in place of the name of a stage, for "did you mean".
    pub words: &'static [&'static str],
}

/// The parameter at `pointer` is the path of a file or folder, relative to the pipeline's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileNeed {
    pub pointer: String,
    pub path: String,
    /// The pointer of the parameter that may hold the expected digest of the file.
    pub expected_digest_pointer: Option<String>,
    /// The expected digest of the file.
    pub expected_digest: Option<String>,
    /// Whether the stage reads each file of a folder or a pattern such as `data/*.jsonl`.
    pub several: bool,
    /// Files that make the folder unusable for this parameter.
    pub refused: &'static [RefusedFile],
}

/// A file that a folder must not contain, for example because the file makes the stage read files that are no inputs.
#[derive(Debug, PartialEq, Eq)]
pub struct RefusedFile {
    pub name: &'static str,
    /// The reason, as a clause after the name of the file: `it needs ...`.
    pub reason: &'static str,
    pub hint: &'static str,
}

impl Needs {
    /// Adds a stage that must provide `provides`. Its name is not in the key.
    pub fn stage(&mut self, pointer: impl Into<String>, stage: &str, provides: &'static str) {
        let (pointer, stage) = (pointer.into(), stage.to_owned());
        self.stages.push(StageNeed { pointer, stage, provides: Some(provides), by_name: false, mentions: Vec::new() });
    }

    /// Adds a stage whose tables a query can name. `by_name`: whether the query contains the name, which is then in the
    /// key.
    pub fn stage_of_query(
        &mut self,
        pointer: impl Into<String>,
        stage: &str,
        provides: Option<&'static str>,
        by_name: bool,
    ) {
        let (pointer, stage) = (pointer.into(), stage.to_owned());
        self.stages.push(StageNeed { pointer, stage, provides, by_name, mentions: Vec::new() });
    }

    /// Adds a stage, of any kind, that texts of the stage mention. Its name is not in the key.
    pub fn mentioned_stage(&mut self, pointer: impl Into<String>, stage: &str, mentions: Vec<StageMention>) {
        let (pointer, stage) = (pointer.into(), stage.to_owned());
        self.stages.push(StageNeed { pointer, stage, provides: None, by_name: false, mentions });
    }

    /// Leaves the parameter at `pointer`, which names a stage or a file that this stage does not use, out of the key.
    /// Otherwise the stage would run again when that stage or file gets another name.
    pub fn ignores(&mut self, pointer: &str) {
        self.ignored.push(pointer.to_owned());
    }

    /// The key has `value` in place of the parameter at `pointer`, for example a text in which the places of inputs stand
    /// for the names of stages. Otherwise the stage would run again when an input gets another name.
    pub fn in_key(&mut self, pointer: impl Into<String>, value: Value) {
        self.replaced.push((pointer.into(), value));
    }

    /// The key has the output of this program in place of the parameter at `pointer`.
    pub fn printed(&mut self, pointer: impl Into<String>, command: &[String]) {
        self.printed.push(PrintedNeed { pointer: pointer.into(), command: command.to_vec() });
    }

    pub fn file(&mut self, pointer: impl Into<String>, path: &str) {
        self.files.push(FileNeed { pointer: pointer.into(), path: path.to_owned(), ..FileNeed::default() });
    }

    /// Adds a folder that must not contain these files.
    pub fn folder_without(&mut self, pointer: impl Into<String>, path: &str, refused: &'static [RefusedFile]) {
        self.file(pointer, path);
        if let Some(need) = self.files.last_mut() {
            need.refused = refused;
        }
    }

    /// Adds a file for which the user can give an expected digest. `at` is the pointer of a table with `path` and
    /// `blake3`.
    pub fn file_with_digest(&mut self, at: &str, path: &str, blake3: Option<&str>) {
        self.files.push(FileNeed {
            pointer: format!("{at}/path"),
            path: path.to_owned(),
            expected_digest_pointer: Some(format!("{at}/blake3")),
            expected_digest: blake3.map(str::to_owned),
            ..FileNeed::default()
        });
    }

    /// Adds a file, a folder or a pattern for which the user can give an expected digest. [`crate::Context::files`]
    /// gives each file.
    pub fn files_with_digest(&mut self, at: &str, path: &str, blake3: Option<&str>) {
        self.file_with_digest(at, path, blake3);
        if let Some(need) = self.files.last_mut() {
            need.several = true;
        }
    }
}

/// The function behind [`Declaration::resolve_unless`].
type Resolve = fn(Value, &mut dyn FnMut(&Value) -> bool) -> Result<ResolvedParameters, ParameterProblem>;

/// The declaration of a kind as a value, without the type of its parameters. The engine and the schema generator use
/// it.
pub struct Declaration {
    pub name: &'static str,
    pub version: u32,
    pub about: &'static str,
    pub process: Process,
    pub seeded: bool,
    pub seeded_if: Option<&'static str>,
    pub gathers: bool,
    pub shows_setup: bool,
    pub provides: &'static [&'static str],
    pub computes: bool,
    pub outputs: Outputs,
    pub examples: &'static [ExamplePipeline],
    resolve: Resolve,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

/// Parameters with every default written out, and the inputs that they name.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedParameters {
    pub parameters: Value,
    pub needs: Needs,
    /// What a stage with these parameters provides.
    pub provides: Vec<&'static str>,
    /// Whether the seed is part of the key of a stage with these parameters.
    pub is_seeded: bool,
}

impl Declaration {
    pub const fn of<K: Kind>() -> Self {
        Self {
            name: K::NAME,
            version: K::VERSION,
            about: K::ABOUT,
            process: K::PROCESS,
            seeded: K::SEEDED,
            seeded_if: K::SEEDED_IF,
            gathers: K::GATHERS,
            shows_setup: K::SHOWS_SETUP,
            provides: K::PROVIDES,
            computes: K::COMPUTES,
            outputs: Outputs { tables: K::TABLES, files: K::FILES },
            examples: K::EXAMPLES,
            resolve: resolve::<K>,
            schema: K::Parameters::json_schema,
        }
    }

    /// Checks parameters as a person wrote them (without `kind`) and fills in the defaults.
    ///
    /// # Errors
    /// A parameter is unknown, missing, of the wrong type, or impossible. The error names the first one.
    pub fn resolve(&self, parameters: Value) -> Result<ResolvedParameters, ParameterProblem> {
        self.resolve_unless(parameters, &mut |_| false)
    }

    /// As [`Self::resolve`]. If `checked` returns true for the complete parameters, [`Kind::check`] accepted them
    /// earlier and is not called again.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn resolve_unless(
        &self,
        parameters: Value,
        checked: &mut dyn FnMut(&Value) -> bool,
    ) -> Result<ResolvedParameters, ParameterProblem> {
        (self.resolve)(parameters, checked)
    }

    pub fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        (self.schema)(generator)
    }
}

/// Reads the value that a person wrote at the pointer `at`.
///
/// # Errors
/// A value does not have the type `T`. The error has the pointer of the first such value.
pub fn from_json<T: DeserializeOwned>(written: Value, at: &str) -> Result<T, ParameterProblem> {
    serde_path_to_error::deserialize(written).map_err(|error| {
        let mut pointer = at.to_owned();
        for segment in error.path() {
            match segment {
                serde_path_to_error::Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                serde_path_to_error::Segment::Map { key } => pointer.push_str(&format!("/{key}")),
                serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => {}
            }
        }
        ParameterProblem::new(pointer, error.into_inner().to_string())
    })
}

fn resolve<K: Kind>(
    parameters: Value,
    checked: &mut dyn FnMut(&Value) -> bool,
) -> Result<ResolvedParameters, ParameterProblem> {
    let typed = K::read(parameters)?;
    let parameters = serde_json::to_value(&typed)
        .map_err(|error| ParameterProblem::new("", format!("these parameters cannot be written as JSON: {error}")))?;
    if !checked(&parameters) {
        K::check(&typed)?;
    }
    let mut needs = Needs::default();
    K::needs(&typed, &mut needs);
    let (provides, is_seeded) = (K::provides(&typed), K::is_seeded(&typed));
    Ok(ResolvedParameters { parameters, needs, provides, is_seeded })
}
