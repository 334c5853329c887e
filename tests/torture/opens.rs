//! Follows which files the processes of stages open, and compares them with the inputs in the keys of the stages. A file
//! that a stage reads and that is not in its key would give a wrong hit after a change.
//!
//! opens.c is a library that tells every open for reading. The standard library of Rust and libtorch open files through
//! the C library.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use raisin_store::{Lookup, Store};
use serde_json::Value;

use crate::world::{PIPELINE, PreloadLibrary};
use raisin_tests::{Project, processes};

/// The compiled library opens.c.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PreloadLibrary> = OnceLock::new();
    &LIBRARY.get_or_init(|| PreloadLibrary::compile("opens.c")).path
}

/// The paths that each process of another executable than `raisin` opened for reading, by process.
fn opened(project: &Project, command: &mut Command) -> BTreeMap<String, BTreeSet<PathBuf>> {
    let trace = project.path("trace");
    std::fs::write(&trace, "").expect("a trace");
    let output = processes::output(command.env("LD_PRELOAD", library()).env("OPENS_TRACE", &trace));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut opened: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for line in std::fs::read_to_string(trace).expect("a trace").lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let [process, executable, path] = words[..] else { panic!("a line of the trace: {line}") };
        if !executable.ends_with("/raisin") {
            opened.entry(process.to_owned()).or_default().insert(PathBuf::from(path));
        }
    }
    opened
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// The digests of all artifacts in the inputs of an action.
fn artifacts_in(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            found.extend(entries.get("artifact").and_then(Value::as_str).map(str::to_owned));
            entries.values().for_each(|value| artifacts_in(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| artifacts_in(value, found)),
        _ => {}
    }
}

/// The folders of the artifacts in the key of a stage, with the artifacts to which these refer.
fn inputs(store: &Store, key: &str) -> BTreeSet<PathBuf> {
    let Lookup::Hit(record) = store.lookup(key.parse().expect("a key")).expect("a look-up") else {
        panic!("no action {key}");
    };
    let mut wanted = BTreeSet::new();
    artifacts_in(&record.action, &mut wanted);
    let mut folders = BTreeSet::new();
    while let Some(digest) = wanted.pop_first() {
        let folder = store.artifact_folder(digest.parse().expect("a digest"));
        let references = std::fs::read(folder.join("references.json")).unwrap_or_else(|_| b"{}".to_vec());
        let references: BTreeMap<String, String> = serde_json::from_slice(&references).expect("references");
        if folders.insert(folder) {
            wanted.extend(references.into_values());
        }
    }
    folders
}

/// The opened paths that are neither inputs of the stages of their process, nor files of the system or of raisin.
fn foreign(project: &Project, opened: &BTreeMap<String, BTreeSet<PathBuf>>) -> Vec<PathBuf> {
    const SYSTEM: [&str; 10] = ["/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64", "/run", "/bin", "/opt"];
    let store = Store::open(&project.path("cache")).expect("the store");
    let cache = project.path("cache").canonicalize().expect("the cache");
    let executables = raisin_tests::executable("raisin").parent().expect("a folder").to_owned();
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from);
    let root = project.path("");
    let mut foreign = Vec::new();
    for paths in opened.values() {
        let paths: BTreeSet<PathBuf> = paths.iter().map(|path| plain(path)).collect();
        let staging = cache.join("tmp");
        let keys: BTreeSet<PathBuf> = paths
            .iter()
            .filter_map(|path| Some(staging.join(path.strip_prefix(&staging).ok()?.iter().next()?)))
            .collect();
        let name = |key: &PathBuf| key.file_name().expect("a name").to_string_lossy().into_owned();
        let mut allowed: BTreeSet<PathBuf> = keys.iter().flat_map(|key| inputs(&store, &name(key))).collect();
        allowed.extend(keys);
        allowed.extend([cache.join("tokens"), executables.clone(), library().to_owned()]);
        allowed.extend(libtorch.as_ref().and_then(|folder| folder.canonicalize().ok()));
        allowed.extend(libtorch.clone());
        // The project may lie below a folder of the system, such as /dev/shm.
        let of_system =
            |path: &PathBuf| !path.starts_with(&root) && SYSTEM.iter().any(|folder| path.starts_with(folder));
        let is_allowed = |path: &PathBuf| allowed.iter().any(|folder| path.starts_with(folder));
        foreign.extend(paths.into_iter().filter(|path| !of_system(path) && !is_allowed(path)));
    }
    foreign
}

/// Builds a pipeline file with a process for each stage.
fn build(project: &Project, file: &str) -> BTreeMap<String, BTreeSet<PathBuf>> {
    let cache = project.path("cache");
    let mut command = project.raisin(&["build", file, "--fresh-workers", "--device", "cpu", "--cache"]);
    opened(project, command.arg(cache))
}

fn assert_only_inputs(project: &Project, file: &str) -> usize {
    // A process without a staging folder runs no stage: it counts the rows of artifacts for an explanation.
    let is_stage = |paths: &BTreeSet<PathBuf>| paths.iter().any(|path| path.starts_with(project.path("cache/tmp")));
    let mut opened = build(project, file);
    opened.retain(|_, paths| is_stage(paths));
    let foreign = foreign(project, &opened);
    assert!(foreign.is_empty(), "{file}: these are no inputs: {foreign:#?}");
    opened.len()
}

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler")]
fn a_stage_of_any_kind_opens_only_its_inputs() {
    let project = Project::with_pipeline(PIPELINE);
    let row = |text: &str| format!("{{\"instruction\": {text:?}, \"output\": \"it\"}}\n");
    project.write("data/a.jsonl", &["say", "tell", "name"].map(row).concat());
    project.write("data/b.jsonl", "{\"instruction\": \"say it\", \"output\": \"it\"}\n");
    project.write("scores.csv", "row,score\n1,0.5\n2,0.25\n");
    project.write(
        "rows.toml",
        r#"
        include = "micro.toml"
        [pipeline]
        name = "rows"
        [stage.rows]
        kind = "ingest"
        sources = [{ path = "data/*.jsonl", format = "alpaca" }]
        [stage.examples]
        kind = "task"
        source = { path = "data/a.jsonl", format = "alpaca" }
        validation = 1
        test = 1
        scoring = "loss"
        [stage.given]
        kind = "finetune"
        instructions = "rows"
        model = "base"
        task = "pool"
        select = { method = "scores", path = "scores.csv", column = "score" }
        steps = 1
        batch_size = 1
        [stage.shared]
        kind = "overlap"
        instructions = "rows"
        task = "pool"
        "#,
    );
    let stages = assert_only_inputs(&project, "micro.toml");
    assert!(stages >= 12, "{stages} stages with a trace");
    let stages = assert_only_inputs(&project, "rows.toml");
    assert!(stages >= 4, "{stages} stages with a trace");
}

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler")]
fn a_process_that_opens_another_file_is_found() {
    let project = Project::new();
    project.write("other.txt", "no input");
    Store::open(&project.path("cache")).expect("a store");
    let opened = opened(&project, Command::new("cat").arg(project.path("other.txt")));
    assert_eq!(foreign(&project, &opened), [project.path("other.txt")]);
}

/// The files of an adapter in the layout of peft, for a base model that is a folder.
fn as_peft_saves(project: &Project, adapter: &str, base: &str) {
    let from = project.path("out/made/tuned").canonicalize().expect("the adapter");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let to = project.path(adapter).join(name);
        std::fs::create_dir_all(project.path(adapter)).expect("a folder");
        std::fs::write(&to, std::fs::read(from.join(name)).expect("a file")).expect("written");
    }
    let config = project.path(adapter).join("adapter_config.json");
    let mut content: Value = serde_json::from_slice(&std::fs::read(&config).expect("the configuration")).expect("JSON");
    content["base_model_name_or_path"] = base.into();
    std::fs::write(config, content.to_string()).expect("written");
}

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler")]
fn the_base_model_of_an_adapter_is_an_input_and_another_base_is_another_model() {
    let project = Project::with_text(
        r#"
        [stage.loaded]
        kind = "model"
        source = { huggingface = "adapter" }
        "#,
    );
    let made = r#"
        [pipeline]
        name = "made"
        [stage.pool]
        kind = "generate"
        size = 40
        [stage.one]
        kind = "model"
        source = { init = { hidden_size = 16, layers = 1, heads = 2, intermediate_size = 32 } }
        [stage.two]
        kind = "model"
        source = { init = { hidden_size = 16, layers = 1, heads = 2, intermediate_size = 32, seed = 2 } }
        [stage.tuned]
        kind = "finetune"
        instructions = "pool"
        model = "one"
        task = "pool"
        select = { method = "random" }
        adaptation = { method = "lora", rank = 2 }
        steps = 2
        batch_size = 2
        "#;
    project.write("made.toml", made);
    project.done(&["build", "made.toml", "--device", "cpu"]);
    let base = |stage: &str| {
        let _ = std::fs::remove_file(project.path("base"));
        std::os::unix::fs::symlink(project.path("out/made").join(stage), project.path("base")).expect("a link");
    };
    base("one");
    as_peft_saves(&project, "adapter", "../base");
    let (code, words) = project.refused(&["build", "p.toml", "--device", "cpu"]);
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("stage `loaded`, source.huggingface: adapter contains adapter_config.json"), "{words}");
    assert!(words.contains("p.toml:4:"), "{words}");
    let with = |base: &str| {
        let source = format!("{{ huggingface = \"adapter\", base = {base:?} }}");
        project.write("p.toml", &format!("[stage.loaded]\nkind = \"model\"\nsource = {source}\n"));
    };
    with("base");
    assert_eq!(assert_only_inputs(&project, "p.toml"), 1);
    let first = project.digests("p");
    assert!(project.path("out/p/loaded/tokenizer.json").is_file(), "the adapter has no tokenizer, and its base has");
    base("two");
    project.done(&["build", "p.toml", "--device", "cpu"]);
    assert_ne!(project.digests("p"), first);
    base("one");
    project.finds_all(&["build", "p.toml", "--device", "cpu"]);
    assert_eq!(project.digests("p"), first);
    with("adapter");
    let (code, words) = project.refused(&["build", "p.toml", "--device", "cpu"]);
    assert!(code == 2 && words.contains("source.base: adapter contains adapter_config.json"), "{words}");
}
