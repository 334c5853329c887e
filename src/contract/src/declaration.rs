//! What a stage kind declares. The engine knows kinds only through this page.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use raisin_base::error::Result;

/// Which executable runs a stage of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// A stage kind as its declaration: its parameters, what it needs and what it provides. How a stage of the kind runs is a
/// function in the executable that [`Kind::PROCESS`] names (see [`crate::KindRunner`]).
pub trait Kind {
    /// The word after `kind =`.
    const NAME: &'static str;
    /// Part of the action key: raise it with every change of what a stage of this kind writes.
    const VERSION: u32;
    /// One sentence for people and for the JSON Schema.
    const ABOUT: &'static str;
    const PROCESS: Process;
    /// Whether results depend on the pipeline's seed; only then it is part of the action key.
    const SEEDED: bool;
    /// A gathering kind runs once for a pipeline and sees its inputs from every variant.
    const GATHERS: bool = false;
    /// What a later stage may want of this one: `instructions`, `task`, `model`, `features`, `clusters`, `policy`,
    /// `selection`, `scores`, `overlap`.
    const PROVIDES: &'static [&'static str];

    /// Defaults are documented on the fields and filled in here, so that writing a default out changes no key.
    type Parameters: Serialize + DeserializeOwned + JsonSchema;

    /// Reads parameters as a person wrote them, and fills in the defaults.
    ///
    /// # Errors
    /// A parameter that is unknown, missing or of the wrong type, by its pointer.
    fn read(written: Value) -> Result<Self::Parameters, ParameterProblem> {
        from_json(written, "")
    }

    /// Names every input. A pointer (RFC 6901) says which parameter holds it.
    fn needs(parameters: &Self::Parameters, needs: &mut Needs);

    /// What the types cannot say: impossible values and combinations, refused before anything runs.
    ///
    /// # Errors
    /// A [`ParameterProblem`] that points at the parameter.
    fn check(_parameters: &Self::Parameters) -> Result<(), ParameterProblem> {
        Ok(())
    }
}

/// A value that cannot be right, by the pointer of its parameter.
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
}

/// The parameter at `pointer` names a stage, which must provide `provides` (anything, if none is given).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageNeed {
    pub pointer: String,
    pub stage: String,
    pub provides: Option<&'static str>,
}

/// The parameter at `pointer` is the path of a file or folder, relative to the pipeline's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNeed {
    pub pointer: String,
    pub path: String,
    /// The pointer of the parameter that may pin the file's blake3.
    pub pin_pointer: Option<String>,
    pub pin: Option<String>,
    /// Whether the stage reads each file of a folder or a pattern such as `data/*.jsonl`.
    pub several: bool,
}

impl Needs {
    pub fn stage(&mut self, pointer: impl Into<String>, stage: &str, provides: &'static str) {
        self.stages.push(StageNeed { pointer: pointer.into(), stage: stage.to_owned(), provides: Some(provides) });
    }

    pub fn any_stage(&mut self, pointer: impl Into<String>, stage: &str) {
        self.stages.push(StageNeed { pointer: pointer.into(), stage: stage.to_owned(), provides: None });
    }

    pub fn file(&mut self, pointer: impl Into<String>, path: &str) {
        self.files.push(FileNeed {
            pointer: pointer.into(),
            path: path.to_owned(),
            pin_pointer: None,
            pin: None,
            several: false,
        });
    }

    /// A file whose digest the user may pin: `at` is the pointer of a table with `path` and `blake3`.
    pub fn pinned_file(&mut self, at: &str, path: &str, blake3: Option<&str>) {
        self.files.push(FileNeed {
            pointer: format!("{at}/path"),
            path: path.to_owned(),
            pin_pointer: Some(format!("{at}/blake3")),
            pin: blake3.map(str::to_owned),
            several: false,
        });
    }

    /// The same, where the path may also be that of a folder, or a pattern: [`crate::Context::files`] gives each file.
    pub fn pinned_files(&mut self, at: &str, path: &str, blake3: Option<&str>) {
        self.pinned_file(at, path, blake3);
        if let Some(need) = self.files.last_mut() {
            need.several = true;
        }
    }
}

/// As [`Declaration::resolve_unless`].
type Resolve = fn(Value, &mut dyn FnMut(&Value) -> bool) -> Result<Resolved, ParameterProblem>;

/// A kind without its type: what the engine and the schema generator work with.
pub struct Declaration {
    pub name: &'static str,
    pub version: u32,
    pub about: &'static str,
    pub process: Process,
    pub seeded: bool,
    pub gathers: bool,
    pub provides: &'static [&'static str],
    resolve: Resolve,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

/// Parameters with every default written out, and the inputs that they name.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    pub parameters: Value,
    pub needs: Needs,
}

impl Declaration {
    pub const fn of<K: Kind>() -> Self {
        Self {
            name: K::NAME,
            version: K::VERSION,
            about: K::ABOUT,
            process: K::PROCESS,
            seeded: K::SEEDED,
            gathers: K::GATHERS,
            provides: K::PROVIDES,
            resolve: resolve::<K>,
            schema: K::Parameters::json_schema,
        }
    }

    /// Checks parameters as a person wrote them (without `kind`) and fills in the defaults.
    ///
    /// # Errors
    /// The first parameter that is unknown, missing, of the wrong type, or impossible.
    pub fn resolve(&self, parameters: Value) -> Result<Resolved, ParameterProblem> {
        self.resolve_unless(parameters, &mut |_| false)
    }

    /// The same; complete parameters of which `checked` says that [`Kind::check`] has passed them are not checked again.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn resolve_unless(
        &self,
        parameters: Value,
        checked: &mut dyn FnMut(&Value) -> bool,
    ) -> Result<Resolved, ParameterProblem> {
        (self.resolve)(parameters, checked)
    }

    pub fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        (self.schema)(generator)
    }
}

/// Reads what a person wrote at the pointer `at`.
///
/// # Errors
/// The first value that does not fit, by its pointer.
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

fn resolve<K: Kind>(parameters: Value, checked: &mut dyn FnMut(&Value) -> bool) -> Result<Resolved, ParameterProblem> {
    let typed = K::read(parameters)?;
    let parameters = serde_json::to_value(&typed)
        .map_err(|error| ParameterProblem::new("", format!("these parameters cannot be written as JSON: {error}")))?;
    if !checked(&parameters) {
        K::check(&typed)?;
    }
    let mut needs = Needs::default();
    K::needs(&typed, &mut needs);
    Ok(Resolved { parameters, needs })
}
