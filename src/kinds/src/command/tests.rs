//! Tests of the declaration: what is read, what is in the key, what is refused.

use serde_json::{Value, json};

use raisin_base::digest::Digest;
use raisin_contract::{Action, DType, Declaration, DeviceKind, Environment, Input};

use crate::declaration;

fn command() -> &'static Declaration {
    declaration("command").unwrap()
}

fn with(more: Value) -> Value {
    let mut stage = json!({"run": ["python3", "score.py", "{pool.instructions}", "{out}"]});
    stage.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    stage
}

fn said(stage: Value) -> String {
    let problem = command().resolve(stage).unwrap_err();
    format!("{}: {} ({})", problem.pointer, problem.message, problem.hint.unwrap_or_default())
}

/// The key of a stage whose inputs all have the same content, whatever their names are.
fn key(stage: Value, seed: u64) -> Digest {
    let resolved = command().resolve(stage).unwrap();
    let artifact = |need: &raisin_contract::StageNeed| Digest::of(need.pointer.as_bytes());
    let stages =
        resolved.needs.stages.iter().map(|need| (need.pointer.as_str(), Input::Artifact(Some(artifact(need)))));
    let file = |pointer| (pointer, Input::File { blake3: Digest::of(b"file"), name: "file".to_owned() });
    let files = resolved.needs.files.iter().map(|need| file(need.pointer.as_str()));
    let environment = Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 };
    let lines = json!(["1.0", "2.0"]);
    let printed = resolved.needs.printed.iter();
    let printed = printed.map(|need| (need.pointer.as_str(), Input::Plain(std::borrow::Cow::Borrowed(&lines))));
    let inputs = stages.chain(files).chain(printed);
    Action::of(command(), &resolved, inputs, seed, &environment).unwrap().key().unwrap()
}

#[test]
fn the_output_of_a_version_command_is_in_the_key_and_the_program_is_not() {
    let plain = key(with(json!({})), 0);
    let one = key(with(json!({"version_command": ["pip", "freeze"]})), 0);
    assert_eq!(key(with(json!({"version_command": ["uv", "pip", "freeze"]})), 0), one);
    assert_ne!(plain, one);
    let wrong = |command: Value| said(with(json!({ "version_command": command })));
    assert_eq!(
        wrong(json!([])),
        "/version_command: there is no program to run (name the program and its arguments: \
         version_command = [\"pip\", \"freeze\"])"
    );
    assert!(
        wrong(json!(["pip freeze"])).starts_with("/version_command/0: `pip freeze` would be the name of a program")
    );
    assert!(wrong(json!(["a", "\0"])).starts_with("/version_command/1: a text with a zero byte"));
}

#[test]
fn the_stages_that_texts_name_are_inputs_in_the_order_of_their_first_mention() {
    let stage = json!({"run": ["x", "{b}", "{a.rows}", "{b.more}"], "env": {"C": "{c}"}, "inputs": ["z"]});
    let resolved = command().resolve(stage).unwrap();
    assert_eq!(resolved.parameters["inputs"], json!(["z", "b", "a", "c"]));
    let named: Vec<&str> = resolved.needs.stages.iter().map(|need| need.stage.as_str()).collect();
    assert_eq!(named, ["z", "b", "a", "c"]);
    let mentions: Vec<&str> = resolved.needs.stages[1].mentions.iter().map(|it| it.pointer.as_str()).collect();
    assert_eq!(mentions, ["/run/1", "/run/3"]);
    // Resolved parameters are read as the same again, for plan files.
    assert_eq!(command().resolve(resolved.parameters.clone()).unwrap(), resolved);
}

#[test]
fn a_renamed_input_has_the_same_key_and_other_changes_have_another_one() {
    let run = |arguments: &[&str]| json!({ "run": arguments });
    let first = key(run(&["x", "{pool.rows}", "{base}"]), 0);
    assert_eq!(key(run(&["x", "{data.rows}", "{model}"]), 0), first);
    assert_ne!(key(run(&["x", "{pool.rows}", "{pool}"]), 0), first);
    assert_ne!(key(run(&["x", "{pool.others}", "{base}"]), 0), first);
    assert_ne!(key(run(&["x", "{pool}", "{base.rows}"]), 0), first);
    assert_ne!(key(run(&["{pool.rows}", "x", "{base}"]), 0), first);
}

#[test]
fn the_seed_is_in_the_key_only_if_the_program_gets_it() {
    let without = json!({"run": ["x"]});
    assert_eq!(key(without.clone(), 1), key(without, 2));
    let with_seed = json!({"run": ["x", "--seed={seed}"]});
    assert_ne!(key(with_seed.clone(), 1), key(with_seed, 2));
    let in_env = json!({"run": ["x"], "env": {"SEED": "{seed}"}});
    assert_ne!(key(in_env.clone(), 1), key(in_env, 2));
}

#[test]
fn the_environment_is_a_table_or_a_list_and_its_order_is_not_in_the_key() {
    let env = |env: Value| command().resolve(json!({"run": ["x"], "env": env})).unwrap().parameters["env"].clone();
    let expected = json!({"A": "1", "B": "{{x}}=2"});
    assert_eq!(env(json!(["B={x}=2", "A=1"])), expected);
    assert_eq!(env(json!({"B": "{{x}}=2", "A": "1"})), expected);
    assert_eq!(env(json!(["RAISIN_NO_SUCH_VARIABLE"])), json!({"RAISIN_NO_SUCH_VARIABLE": null}));
    // cargo gives the tests this variable.
    assert_eq!(env(json!(["CARGO_PKG_NAME"])), json!({"CARGO_PKG_NAME": "raisin-kinds"}));
    assert!(said(with(json!({"env": ["A=1", "A=2"]}))).starts_with("/env/1: `A` is named twice"));
    assert!(said(with(json!({"env": {"A-B": "1"}}))).starts_with("/env: `A-B` is not a name for a variable"));
    assert!(said(with(json!({"env": [1]}))).starts_with("/env/0: must be a text"));
}

#[test]
fn a_file_has_the_place_in_the_working_folder_that_it_has_in_the_project() {
    let place = |file: Value| {
        let resolved = command().resolve(with(json!({"files": [file]}))).unwrap();
        assert_eq!(command().resolve(resolved.parameters.clone()).unwrap(), resolved);
        resolved.parameters["files"][0]["to"].as_str().unwrap().to_owned()
    };
    assert_eq!(place(json!("score.py")), "score.py");
    assert_eq!(place(json!("./src/score.py")), "src/score.py");
    assert_eq!(place(json!("src/")), "src");
    assert_eq!(place(json!("conf/**/*.json")), "conf");
    assert_eq!(place(json!("*.py")), "");
    assert_eq!(place(json!(".")), "");
    assert_eq!(place(json!("../shared/score.py")), "score.py");
    assert_eq!(place(json!("/models/base")), "base");
    assert_eq!(place(json!("/data/*.jsonl")), "");
    assert_eq!(place(json!("https://host/a/b.json")), "b.json");
    assert_eq!(place(json!({"path": "a.json", "to": "x/b.json"})), "x/b.json");
    let files = |files: Value| said(with(json!({"files": files})));
    assert!(files(json!([{"path": "a", "to": "../b"}])).starts_with("/files/0/to: `../b` is not a place"));
    assert!(files(json!([{"path": "a", "to": "/b"}])).starts_with("/files/0/to: "));
    assert!(files(json!(["a/x.py", "../x/a/x.py", "/y/x.py"])).starts_with("/files/2: `../x/a/x.py` and `/y/x.py`"));
    assert!(files(json!([""])).starts_with("/files/0: the path of the file is empty"));
    assert!(files(json!([{"path": "a", "too": "b"}])).starts_with("/files/0"));
}

#[test]
fn impossible_commands_are_refused_with_a_way_out() {
    assert!(said(json!({"run": []})).starts_with("/run: there is no program to run"));
    assert!(said(json!({"run": [""]})).starts_with("/run: there is no program to run"));
    assert!(said(json!({"run": ["python score.py"]})).contains("write one text for each argument"));
    assert!(
        said(json!({"run": ["x", "{\"a\": 1}"]})).starts_with("/run/1: `{\"a\": 1}` is not a placeholder (write {{")
    );
    assert!(said(json!({"run": ["x"], "env": {"A": "{"}})).starts_with("/env/A: `{` has a `{` without"));
    let file = said(json!({"run": ["python3", "{score.py}"], "files": ["score.py"]}));
    assert!(file.starts_with("/run/1: `{score.py}` names a stage, and `score.py` is one of the `files`"), "{file}");
    assert!(said(json!({"run": ["x", "{input:3}"]})).starts_with("/run/1: there is no input `{input:3}`"));
    assert!(said(json!({"run": ["x"], "tables": ["a"]})).starts_with("/run: the program is not told where to write"));
    assert!(said(with(json!({"tables": ["a b"]}))).starts_with("/tables/0: `a b` is not a name for a table"));
    assert!(said(with(json!({"tables": ["a", "a"]}))).starts_with("/tables/1: `a` is named twice"));
    assert!(said(with(json!({"tables": ["metrics"]}))).starts_with("/tables/0: the table `metrics` comes from"));
    let taken = with(json!({"tables": ["columns"], "provides": ["columns"]}));
    assert!(said(taken).starts_with("/tables/0: the table `columns` comes from `provides = [\"columns\"]`"));
    let no_pool = json!({"run": ["x", "{out}"], "provides": ["columns"]});
    assert!(said(no_pool).starts_with("/provides: columns belong to a pool"));
    assert!(said(with(json!({"provides": ["weights"]}))).starts_with("/provides/0: unknown variant `weights`"));
    assert!(said(with(json!({"prefix": "a.b"}))).starts_with("/prefix: "));
}
