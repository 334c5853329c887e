//! The `command` kind: runs any program as a stage. placeholder.rs reads the texts of the command.

pub mod placeholder;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Component, Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use raisin_base::error::nearest;
use raisin_contract::declaration::from_json;
use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process, StageMention};

use crate::{check_distinct, outputs, word};
use placeholder::{NamedInput, TextPiece, WORDS, escaped, pieces, with_places};

pub struct CommandKind;

/// What a program can provide for stages of other kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CommandRole {
    /// A pool. The program writes `instructions.jsonl` (or `.json`, `.csv`, `.parquet`), which is read as the kind
    /// `ingest` reads a file; no record may be rejected. The artifact has the tables `instructions`, `rejects` and
    /// `sources`.
    Instructions,
    /// Numbers of the instructions of a pool, such as scores. The program writes `columns.jsonl` (or `.json`, `.csv`,
    /// `.parquet`): `id`, the id of the instruction, and further columns of numbers. The pool is the first input with a
    /// table `instructions`. `select = { method = "scores", stage = ... }` of a `finetune` and `columns` of a `clusters`
    /// use them.
    Columns,
    /// Embeddings of the instructions of a pool, by a model of your own, for `clusters`, `dedup` with `by = "semantic"` and
    /// `select = { method = "rds" }`. The program writes `features.jsonl` (or `.json`, `.csv`, `.parquet`): `id`, the id of
    /// the instruction; `embedding`, a list of as many numbers in each row, or null; and, as far as it knows them,
    /// `weighted_embedding` (by default equal to `embedding`), by which rows are compared with the validation examples,
    /// `prompt_tokens`, `response_tokens`, `logp_conditional`, `logp_unconditional` and `unconditional_tokens` (the table
    /// `features` says what they are). A state has no columns of numbers that are absent. The pool is the first input with a
    /// table `instructions`. For `rds` and the columns of a state that know the target, the program writes
    /// `validation_features` too, with the ids of the table `validation` of a task that is an input.
    Features,
    /// A language model, for `finetune`, `evaluate`, `features` and the other kinds that read one. The program writes a
    /// Hugging Face folder into `{out}` itself: `config.json`, `model.safetensors` (or its shards and
    /// `model.safetensors.index.json`) and `tokenizer.json`, as `save_pretrained` does. Or it writes an adapter of PEFT:
    /// `adapter_config.json` and `adapter_model.safetensors`; the first input that is a model is its base.
    Model,
}

impl CommandRole {
    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Columns => "columns",
            Self::Features => "features",
            Self::Model => "model",
        }
    }

    /// The tables that a stage with this role has.
    fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Instructions => &["instructions", "rejects", "sources"],
            Self::Columns => &["columns"],
            Self::Features => &["features", "validation_features"],
            Self::Model => &[],
        }
    }
}

/// The table that `metrics.json` becomes.
pub const METRICS: &str = "metrics";

/// A file, a folder or a pattern of files that the program reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandFile {
    pub path: String,
    #[serde(default)]
    pub blake3: Option<String>,
    /// The place in the working folder: of the file, or of the folder that contains the files. It is in the key, because
    /// the program sees it. `None` in what a person wrote.
    #[serde(default)]
    pub to: Option<String>,
}

/// How a pipeline file names an entry of `files`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the JSON Schema is made from it")]
enum WrittenPath {
    /// The path: `"score.py"`.
    Path(String),
    /// The path with more settings.
    Table(WrittenPathTable),
}

/// An entry of `files` with more settings.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the JSON Schema is made from it")]
struct WrittenPathTable {
    /// A file, a folder (all its files), a pattern such as `conf/*.json`, or an `https://` address (which needs
    /// `blake3`).
    path: String,
    /// The digest that the file must have: `raisin digest PATH` prints it. If absent, the file is taken whatever its
    /// digest is.
    #[serde(default)]
    blake3: Option<String>,
    /// The place in the working folder of the program. If absent, it is `path`, or the last part of a `path` that leads
    /// out of the project.
    #[serde(default)]
    to: Option<String>,
}

/// How a pipeline file gives `env`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the JSON Schema is made from it")]
enum WrittenEnvironment {
    Table(BTreeMap<String, String>),
    List(Vec<String>),
}

/// Parameters of a `command` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The program and its arguments. No shell reads them. `{STAGE}` stands for the folder of the artifact of a stage,
    /// `{STAGE.TABLE}` and `{STAGE.FILE}` for one file of it, `{STAGE.TABLE.jsonl}` for a table as JSON lines; `{out}` for
    /// the folder of the results, `{work}` for a folder that outlives a kill, `{seed}`, `{threads}` and `{gpus}` for
    /// numbers; `{{` and `}}` for braces.
    pub run: Vec<String>,
    /// The stages whose artifacts the program reads. The stages that `run` and `env` name are added by default.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// The scripts, folders and other files that the program reads. They lie in the working folder of the program as in
    /// the project, so that `run = ["python", "score.py"]` finds `score.py`. By default there are none.
    #[serde(default)]
    #[schemars(with = "Vec<WrittenPath>")]
    pub files: Vec<CommandFile>,
    /// The variables of the environment of the program: a table (`{ MODE = "fast" }`, with the placeholders of `run`), or
    /// a list in which `"MODE"` takes the value from the environment of raisin and `"MODE=fast"` gives it. The values are
    /// in the key and, in plain text, in the cache. By default there are none beside those that every program gets.
    #[serde(default)]
    #[schemars(with = "WrittenEnvironment")]
    pub env: BTreeMap<String, Option<String>>,
    /// A text that is in the key, for what the key cannot see, such as the version of the program or of its container.
    /// If absent, and without `version_command`, a new version of the program does not run the stage again.
    #[serde(default)]
    pub version: Option<String>,
    /// A program with its arguments, such as `["pip", "freeze"]`. What it prints is in the key, line by line, in place of
    /// the program itself. It runs at the beginning of every build and plan, in the folder of the pipeline file, with the
    /// environment of raisin, and for at most a minute; a build with nothing to do takes as long as it does. If absent,
    /// no program is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_command: Option<Vec<String>>,
    /// What the stage provides for stages of other kinds. By default nothing.
    #[serde(default)]
    pub provides: Vec<CommandRole>,
    /// The tables that the program writes into `{out}`: for the name `pairs`, the file `pairs.jsonl`, `pairs.json`,
    /// `pairs.csv` or `pairs.parquet`. By default there are none.
    #[serde(default)]
    pub tables: Vec<String>,
    /// The first part of the names of `columns` in a state: the column `score` is `command.score` by default.
    #[serde(default = "default_prefix")]
    pub prefix: String,
}

fn default_prefix() -> String {
    "command".to_owned()
}

impl Parameters {
    /// The texts with placeholders: the pointer of each, and the text.
    fn texts(&self) -> impl Iterator<Item = (String, &str)> {
        let run = self.run.iter().enumerate().map(|(place, text)| (format!("/run/{place}"), text.as_str()));
        let env = self.env.iter().filter_map(|(name, value)| Some((format!("/env/{name}"), value.as_deref()?)));
        run.chain(env)
    }

    /// Whether a text has one of [`WORDS`].
    pub fn uses(&self, word: &str) -> bool {
        self.texts().any(|(_, text)| {
            pieces(text)
                .is_ok_and(|pieces| pieces.iter().any(|piece| matches!(piece, TextPiece::Word(it) if *it == word)))
        })
    }

    /// Every mention of a stage in a text: the name of the stage, and the mention.
    fn mentions(&self) -> Vec<(String, StageMention)> {
        let mut mentions = Vec::new();
        for (pointer, text) in self.texts() {
            for piece in pieces(text).unwrap_or_default() {
                if let TextPiece::Input(input) = piece
                    && let NamedInput::Stage(name) = input.stage
                {
                    let part = input.part.map(str::to_owned);
                    mentions.push((name.to_owned(), StageMention { pointer: pointer.clone(), part, words: &WORDS }));
                }
            }
        }
        mentions
    }
}

impl Kind for CommandKind {
    const NAME: &'static str = "command";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Runs any program, and keeps what it writes.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = true;
    const SEEDED_IF: Option<&'static str> = Some("if the program gets `{seed}`");
    const COMPUTES: bool = true;
    const PROVIDES: &'static [&'static str] = &["instructions", "columns", "features", "model"];
    const TABLES: &'static [TableDeclaration] = outputs::command::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::command::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::command::EXAMPLES;
    type Parameters = Parameters;

    fn read(mut written: Value) -> Result<Parameters, ParameterProblem> {
        if let Some(files) = written.get_mut("files").and_then(Value::as_array_mut) {
            files.iter_mut().filter(|file| file.is_string()).for_each(|file| *file = json!({ "path": file.take() }));
        }
        if let Some(env) = written.get_mut("env")
            && let Some(list) = env.as_array()
        {
            *env = of_list(list)?;
        }
        let mut parameters: Parameters = from_json(written, "")?;
        for file in &mut parameters.files {
            file.to.get_or_insert_with(|| usual_place(&file.path));
        }
        for (stage, _) in parameters.mentions() {
            if !parameters.inputs.contains(&stage) {
                parameters.inputs.push(stage);
            }
        }
        Ok(parameters)
    }

    fn provides(parameters: &Parameters) -> Vec<&'static str> {
        parameters.provides.iter().map(|role| role.name()).collect()
    }

    fn is_seeded(parameters: &Parameters) -> bool {
        parameters.uses("seed")
    }

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        let all = parameters.mentions();
        for (place, stage) in parameters.inputs.iter().enumerate() {
            let own = all.iter().filter(|(name, _)| name == stage).map(|(_, mention)| mention.clone());
            needs.mentioned_stage(format!("/inputs/{place}"), stage, own.collect());
        }
        for (place, file) in parameters.files.iter().enumerate() {
            needs.files_with_digest(&format!("/files/{place}"), &file.path, file.blake3.as_deref());
        }
        if let Some(command) = &parameters.version_command {
            needs.printed("/version_command", command);
        }
        for (pointer, text) in parameters.texts() {
            if let Some(in_key) = with_places(text, &parameters.inputs) {
                needs.in_key(pointer, json!(in_key));
            }
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        check_run(parameters)?;
        parameters.version_command.as_deref().map_or(Ok(()), check_version_command)?;
        check_files(&parameters.files)?;
        check_env(&parameters.env)?;
        check_outputs(parameters)
    }
}

/// The environment that a list such as `["CUDA_HOME", "MODE=fast"]` gives. A value has no placeholders.
fn of_list(list: &[Value]) -> Result<Value, ParameterProblem> {
    let mut env = serde_json::Map::new();
    for (place, entry) in list.iter().enumerate() {
        let wrong = |message: String| ParameterProblem::new(format!("/env/{place}"), message);
        let text = entry.as_str().ok_or_else(|| wrong(format!("must be a text such as \"NAME\", not {entry}")))?;
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None if text.is_empty() || text.contains('\0') => (text, None),
            None => match std::env::var_os(text).map(std::ffi::OsString::into_string) {
                Some(Err(_)) => return Err(wrong(format!("the value of {text} is not UTF-8"))),
                value => (text, value.and_then(Result::ok)),
            },
        };
        if env.insert(name.to_owned(), json!(value.as_deref().map(escaped))).is_some() {
            return Err(wrong(format!("`{name}` is named twice")));
        }
    }
    Ok(Value::Object(env))
}

/// The place of an entry of `files` in the working folder. A pattern has the place of the folder before its first
/// wildcard.
fn usual_place(path: &str) -> String {
    if path.contains("://") {
        return path.rsplit('/').next().unwrap_or(path).to_owned();
    }
    let plain: Vec<&str> = path.split('/').take_while(|step| !step.contains(['*', '?', '['])).collect();
    let plain = plain.join("/");
    let inside = Path::new(&plain).components().all(|step| matches!(step, Component::Normal(_) | Component::CurDir));
    if inside {
        let steps = Path::new(&plain).components().filter(|step| matches!(step, Component::Normal(_)));
        return steps.map(|step| step.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    }
    let last = Path::new(&plain).file_name().map(|name| name.to_string_lossy().into_owned());
    // A pattern in a folder outside of the project puts its files directly into the working folder.
    last.filter(|_| plain.len() == path.len()).unwrap_or_default()
}

fn check_run(parameters: &Parameters) -> Result<(), ParameterProblem> {
    if parameters.run.first().is_none_or(String::is_empty) {
        let problem = ParameterProblem::new("/run", "there is no program to run");
        return Err(problem.hint("name the program and its arguments: run = [\"python\", \"score.py\", \"{out}\"]"));
    }
    for (pointer, text) in parameters.texts() {
        if text.contains('\0') {
            return Err(ParameterProblem::new(pointer, "a text with a zero byte cannot be given to a program"));
        }
        for piece in pieces(text).map_err(|it| ParameterProblem::new(&pointer, it.message).hint(it.hint))? {
            let TextPiece::Input(input) = piece else { continue };
            let written = input.to_string();
            if parameters.files.iter().any(|file| file.path == written || file.to.as_deref() == Some(&written)) {
                let message = format!("`{{{written}}}` names a stage, and `{written}` is one of the `files`");
                let hint =
                    format!("the files lie in the working folder of the program: write {written} without braces");
                return Err(ParameterProblem::new(pointer, message).hint(hint));
            }
            if matches!(input.stage, NamedInput::Place(_)) && input.place(&parameters.inputs).is_none() {
                return Err(ParameterProblem::new(pointer, format!("there is no input `{{{written}}}`")));
            }
        }
    }
    check_words("run", &parameters.run)
}

fn check_version_command(command: &[String]) -> Result<(), ParameterProblem> {
    if command.first().is_none_or(String::is_empty) {
        let problem = ParameterProblem::new("/version_command", "there is no program to run");
        return Err(problem.hint("name the program and its arguments: version_command = [\"pip\", \"freeze\"]"));
    }
    if let Some(place) = command.iter().position(|text| text.contains('\0')) {
        let message = "a text with a zero byte cannot be given to a program";
        return Err(ParameterProblem::new(format!("/version_command/{place}"), message));
    }
    check_words("version_command", command)
}

/// # Errors
/// The only text has a space: it looks like a line for a shell.
fn check_words(key: &str, command: &[String]) -> Result<(), ParameterProblem> {
    let [only] = command else { return Ok(()) };
    if !only.contains(' ') {
        return Ok(());
    }
    let message = format!("`{only}` would be the name of a program, with its spaces");
    let hint = format!("write one text for each argument; for a shell, {key} = [\"sh\", \"-c\", \"...\"]");
    Err(ParameterProblem::new(format!("/{key}/0"), message).hint(hint))
}

fn check_files(files: &[CommandFile]) -> Result<(), ParameterProblem> {
    for (place, file) in files.iter().enumerate() {
        let wrong = |key: &str, message: String| Err(ParameterProblem::new(format!("/files/{place}{key}"), message));
        if file.path.is_empty() {
            return wrong("", "the path of the file is empty".to_owned());
        }
        let to = file.to.as_deref().unwrap_or_default();
        let steps: Vec<Component> = Path::new(to).components().collect();
        if !steps.iter().all(|step| matches!(step, Component::Normal(_))) || to.ends_with('/') {
            return wrong("/to", format!("`{to}` is not a place in the working folder, such as `conf/train.json`"));
        }
        let is_single = |file: &CommandFile| !file.path.contains(['*', '?', '[']);
        let mut others = files[..place].iter();
        if let Some(other) = others.find(|other| other.to == file.to && (is_single(other) || is_single(file))) {
            let message =
                format!("`{}` and `{}` have the same place `{to}` in the working folder", other.path, file.path);
            let problem = ParameterProblem::new(format!("/files/{place}"), message);
            return Err(problem.hint(format!("give another place: {{ path = \"{}\", to = \"...\" }}", file.path)));
        }
    }
    Ok(())
}

fn check_env(env: &BTreeMap<String, Option<String>>) -> Result<(), ParameterProblem> {
    for name in env.keys() {
        let is_name = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
            && name.starts_with(|first: char| !first.is_ascii_digit());
        if !is_name {
            let problem = ParameterProblem::new("/env", format!("`{name}` is not a name for a variable"));
            return Err(problem.hint("use letters, digits and `_`"));
        }
    }
    Ok(())
}

fn check_outputs(parameters: &Parameters) -> Result<(), ParameterProblem> {
    let Parameters { provides, tables, prefix, .. } = parameters;
    check_distinct("/provides", provides, word)?;
    check_distinct("/tables", tables, String::clone)?;
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    for (place, table) in tables.iter().enumerate() {
        let wrong = |message: String| ParameterProblem::new(format!("/tables/{place}"), message);
        if !is_name(table) {
            return Err(wrong(format!("`{table}` is not a name for a table")).hint("use letters, digits and `_`"));
        }
        if table == METRICS {
            return Err(wrong("the table `metrics` comes from the file metrics.json".to_owned())
                .hint("remove it here, and write {out}/metrics.json: an object of numbers"));
        }
        if let Some(role) = provides.iter().find(|role| role.tables().contains(&table.as_str())) {
            let message = format!("the table `{table}` comes from `provides = [\"{}\"]`", role.name());
            return Err(wrong(message).hint("remove it here"));
        }
    }
    if !is_name(prefix) {
        let problem = ParameterProblem::new("/prefix", format!("`{prefix}` is not a name for columns"));
        return Err(problem.hint("use letters, digits and `_`"));
    }
    // A misspelt `{out}` is the name of a stage that does not exist, which another check reports.
    let is_misspelt = || parameters.inputs.iter().any(|stage| nearest(stage, ["out"]).is_some());
    let has_results = !provides.is_empty() || !tables.is_empty();
    if has_results && !parameters.uses("out") && !is_misspelt() {
        let problem = ParameterProblem::new("/run", "the program is not told where to write its results");
        return Err(problem.hint("give it {out}, for example run = [\"python\", \"score.py\", \"--out\", \"{out}\"]"));
    }
    let of_pool = provides.iter().find(|role| matches!(role, CommandRole::Columns | CommandRole::Features));
    if let Some(role) = of_pool.filter(|_| parameters.inputs.is_empty()) {
        let message = format!("{} belong to a pool, and the stage has no input", role.name());
        let problem = ParameterProblem::new("/provides", message);
        return Err(problem.hint("give the program a pool, for example {pool.instructions.jsonl}"));
    }
    Ok(())
}
