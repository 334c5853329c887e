//! Tests of what a person does every day: begin with `init`, see what came out, list and compare runs, take an acceptance
//! back. Through the real executables.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::path::Path;
use std::process::Command;

use raisin_tests::{Project, package};
use serde_json::{Value, json};

/// The lines of a build after its last line of progress.
fn ending(stderr: &str) -> Vec<&str> {
    let lines: Vec<&str> = stderr.lines().collect();
    let last =
        lines.iter().rposition(|line| ["built ", "failed ", "interrupted "].iter().any(|it| line.starts_with(it)));
    lines[last.unwrap() + 1..].to_vec()
}

#[test]
fn a_build_ends_with_its_result_and_runs_can_be_compared() {
    let project = Project::with_pipeline("micro.toml");
    let (stdout, first) = project.done(&["build", "micro.toml"]);
    assert_eq!(stdout, "", "standard output is for data");
    let lines = ending(&first);
    assert!(lines[0] == "loss on test, lower is better, one seed" && lines[1].contains("minus random"), "{first}");
    for method in ["raise", "random", "length"] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("  {method} "))), "{method}\n{first}");
    }
    assert!(lines.iter().any(|line| line.starts_with("  random ") && line.contains("  baseline  ")), "{first}");
    assert!(lines.contains(&"report: out/micro/report/report.html"), "{first}");
    assert!(lines.last().unwrap().starts_with("next:   raisin build micro.toml --sweep 'pipeline.seed=[5, 6, 7]'"));
    assert!(project.path("out/micro/report/report.html").is_file());

    // Everything is cached, and the result is the same one.
    let (_, second) = project.done(&["build", "micro.toml"]);
    assert!(second.contains("nothing to run"), "{second}");
    assert_eq!(ending(&second), lines);
    let quiet = project.run(&["build", "micro.toml", "--quiet"]);
    assert_eq!((quiet.code, quiet.stdout.as_str(), quiet.stderr.as_str()), (0, "", ""));

    passes_on_the_report(&project);

    // A part of the pipeline has the results of this part, and no comparison of an earlier build.
    let (_, part) = project.done(&["build", "micro.toml", "--only", "scores"]);
    let part = ending(&part);
    assert!(
        part[0].starts_with("on test, one seed each") && part.iter().any(|it| it.contains("scores [method=raise]"))
    );
    assert!(!part.iter().any(|line| line.starts_with("report: ")), "{part:?}");
    let (_, none) = project.done(&["build", "micro.toml", "--only", "tuned"]);
    assert_eq!(ending(&none), [""; 0]);

    // Without a baseline, nothing is called a difference.
    let (_, alone) = project.done(&["build", "micro.toml", "--set", "stage.report.baseline=nobody"]);
    assert!(ending(&alone).join(" ").contains("no single method `nobody` was scored"), "{alone}");

    // A failed stage leaves no result of an earlier build.
    let failed = project.run(&["build", "micro.toml", "--set", "stage.scores.metrics=[\"choice\"]", "--keep-going"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert_eq!(ending(&failed.stderr), [""; 0], "{}", failed.stderr);
    assert!(failed.stderr.contains("hint: the whole log: cat cache/logs/"), "{}", failed.stderr);

    lists_runs(&project);
    compares_runs(&project);
}

fn passes_on_the_report(project: &Project) {
    let (path, _) = project.done(&["report", "micro"]);
    let page = std::fs::read_to_string(path.trim_end()).unwrap();
    assert!(page.contains("<h1>micro</h1>") && page.contains("<h2>Setup</h2>"));
    // The only report needs no name. The copy has the page and, at its end, the facts of the run that made it.
    project.done(&["report", "-o", "copy.html"]);
    let copy = std::fs::read_to_string(project.path("copy.html")).unwrap();
    assert!(copy.starts_with(page.strip_suffix("</main>\n</body>\n</html>\n").unwrap()));
    for fact in ["<h2>How it was made</h2>", "raisin build micro.toml", env!("CARGO_PKG_VERSION"), "<td>cpu</td>"] {
        let fact = fact.replace("<td>cpu</td>", "<td>device</td><td class=\"text\">cpu</td>");
        assert!(copy.contains(&fact), "{fact}");
    }
    let rows = ["<td>base</td><td class=\"text\">all</td>", "<td>tuned</td><td class=\"text\">method=raise</td>"];
    assert!(rows.iter().all(|row| copy.contains(row)), "an artifact that all variants share is told from the others");
    let (_, told) = project.refused(&["report", "mico"]);
    assert!(told.contains("out has no pipeline `mico`") && told.contains("did you mean `micro`?"), "{told}");
    let (_, told) = project.refused(&["report", "micro", "--stage", "scores"]);
    assert!(told.contains("the pipeline `micro` does not have a report `scores` under out"), "{told}");
    let (_, told) = project.refused(&["report", "--out", "nowhere"]);
    assert!(told.contains("no pipeline has a report under nowhere"), "{told}");
}

fn runs(project: &Project) -> Vec<Value> {
    let (json, _) = project.done(&["runs", "--format", "json"]);
    let (lines, _) = project.done(&["runs", "--format", "jsonl"]);
    let all: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>(), all);
    all
}

fn lists_runs(project: &Project) {
    let all = runs(project);
    let outcomes: Vec<&str> = all.iter().map(|run| run["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["failed", "built", "built", "built", "built", "built", "built"], "the newest comes first");
    assert_eq!(all[1]["overrides"], json!(["--set stage.report.baseline=nobody"]));
    assert_eq!(all[2]["overrides"], json!(["--only tuned"]));
    let first = &all[6];
    assert_eq!((first["device"].as_str(), first["cached"].as_u64()), (Some("cpu"), Some(0)));
    assert_eq!(first["version"], json!(env!("CARGO_PKG_VERSION")));
    assert!(first["ran"].as_u64() > Some(10) && first["peak_bytes"].as_u64() > Some(1_000_000), "{first}");
    assert!(
        first["results"].as_array().unwrap().iter().any(|row| row["method"] == "random" && row["baseline"] == true)
    );
    // The folder is in no repository.
    assert_eq!((&first["commit"], &first["dirty"]), (&Value::Null, &Value::Null));
    let (table, note) = project.done(&["runs", "--limit", "2", "--sort", "seconds", "--pipeline", "micro"]);
    let id = first["run"].as_str().unwrap();
    assert!(table.lines().any(|line| line.contains(&id[id.len() - 8..])), "{table}");
    assert!(table.contains("loss ") && note.contains("and 5 more: --limit N shows more"), "{table}{note}");
    let (csv, _) = project.done(&["runs", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 8);
    let (code, words) = project.refused(&["runs", "--pipeline", "mikro"]);
    assert!(code == 2 && words.contains("did you mean `micro`?"), "{words}");
    let rows = project.sql("select run, version, device, overrides from raisin.runs order by run desc");
    assert_eq!((rows.len(), &rows[2]["overrides"]), (7, &json!("--only tuned")));
    let rows = project.sql("select distinct method, variant, run from history.selection order by method");
    let methods: Vec<&str> = rows.iter().filter_map(|row| row["method"].as_str()).collect();
    assert_eq!(methods, ["length", "raise", "random"], "{rows:?}");
    assert!(rows.iter().any(|row| row["variant"] == "method=raise" && row["run"] == first["run"]), "{rows:?}");
    let rows =
        project.sql("select distinct method from history.metrics where parameters like '%\"limit\":16%' order by 1");
    assert_eq!(rows.len(), 3, "{rows:?}");
}

fn compares_runs(project: &Project) {
    let (variants, _) = project.done(&["diff", "method=random", "method=length"]);
    for part in [
        "tuned: select.method: \"random\" -> \"length\"",
        "differ: ",
        "metrics, B minus A",
        "loss on test (lower is better)",
        "% over 16 examples",
        "selected instructions (steps count from 1)",
        "only in A, ",
        "    only B  id ",
    ] {
        assert!(variants.contains(part), "{part}\n{variants}");
    }
    project.done(&["build", "micro.toml", "--set", "stage.tuned.steps=3"]);
    let all = runs(project);
    // A run that ran nothing has the artifacts of the run that it found.
    let (newest, cached) = (all[0]["run"].as_str().unwrap(), all[6]["run"].as_str().unwrap());
    let (diff, _) = project.done(&["diff", cached, newest]);
    assert!(diff.contains("ran nothing: its artifacts are those of"), "{diff}");
    assert!(diff.contains("--set stage.tuned.steps=3"), "{diff}");
    assert!(diff.contains("  tuned: steps: 4 -> 3\n"), "{diff}");
    assert!(diff.contains("16 draws of "), "{diff}");
    let (code, words) = project.refused(&["diff", "2", newest]);
    assert!(code == 2 && words.contains("give more of the id"), "{words}");
    let (code, words) = project.refused(&["diff", "method=rasie", "method=random"]);
    assert!(code == 2 && words.contains("did you mean `method=raise`?"), "{words}");
}

#[test]
fn a_run_in_a_repository_keeps_its_commit() {
    let project = Project::with_text("[stage.pool]\nkind = \"generate\"\nsize = 60\n");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@example.org"]).args(arguments);
        let done = command.current_dir(project.path("")).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet"]);
    git(&["add", "p.toml"]);
    git(&["commit", "--quiet", "--no-gpg-sign", "-m", "one"]);
    let commit = git(&["rev-parse", "HEAD"]);
    project.done(&["build", "p.toml"]);
    project.write("p.toml", "[stage.pool]\nkind = \"generate\"\nsize = 61\n");
    project.done(&["build", "p.toml"]);
    let all = runs(&project);
    let state = |run: &Value| (run["commit"].clone(), run["dirty"].clone());
    assert_eq!(state(&all[1]), (json!(commit), json!(false)));
    assert_eq!(state(&all[0]), (json!(commit), json!(true)));
}

#[test]
fn an_acceptance_is_told_and_can_be_taken_back() {
    let project = Project::with_text("[stage.pool]\nkind = \"generate\"\nsize = 60\n");
    project.done(&["build", "p.toml"]);
    project.write("p.toml", "[stage.pool]\nkind = \"generate\"\nsize = 61\n");
    let (code, words) = {
        let output = project.run(&["accept", "p.toml", "pool", "--undo"]);
        (output.code, output.stderr)
    };
    assert!(code == 0 && words.contains("there is nothing to take back"), "{words}");
    project.done(&["accept", "p.toml", "pool", "--reason", "no difference"]);
    for _ in 0..2 {
        let (_, built) = project.done(&["build", "p.toml"]);
        assert!(built.contains("1 stage has an accepted artifact, which another action made: pool"), "{built}");
        assert!(built.contains("nothing to run"), "{built}");
    }
    let (undone, _) = project.done(&["accept", "p.toml", "pool", "--undo"]);
    assert!(undone.contains("pool: taken back: accepted by ") && undone.contains("(no difference)"), "{undone}");
    let (_, built) = project.done(&["build", "p.toml"]);
    assert!(built.contains("1 ran") && !built.contains("accepted"), "{built}");
}

#[test]
fn a_misspelt_command_names_a_command_that_answers() {
    let project = Project::with_text("");
    for misspelt in ["run", "bild", "run-stage", "worker"] {
        let (code, words) = project.refused(&[misspelt]);
        assert!(code == 2 && !words.contains("run-stages") && !words.contains("answer"), "{misspelt}\n{words}");
    }
}

fn lines(count: usize, line: impl Fn(usize) -> Value) -> String {
    (0..count).map(|n| format!("{}\n", line(n))).collect()
}

/// Copies the model of the quickstart.
fn with_model() -> Project {
    let project = Project::new();
    std::fs::create_dir(project.path("model")).unwrap();
    for entry in std::fs::read_dir(package().join("pipelines/quickstart-base")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, project.path("model").join(path.file_name().unwrap())).unwrap();
    }
    project
}

#[test]
fn init_quickstart_writes_what_a_build_needs() {
    let project = Project::new();
    let (_, told) = project.done(&["init", "quickstart", "trial"]);
    assert!(told.contains("wrote trial/quickstart.toml") && told.contains("cd trial && raisin build quickstart.toml"));
    let mut plan = project.raisin(&["plan", "quickstart.toml"]);
    let plan = plan.current_dir(project.path("trial")).output().unwrap();
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    let mut base = project.raisin(&["build", "quickstart.toml", "--only", "base"]);
    let base = base.current_dir(project.path("trial")).output().unwrap();
    assert!(base.status.success(), "{}", String::from_utf8_lossy(&base.stderr));
    // Nothing is overwritten.
    std::fs::write(project.path("trial/quickstart.toml"), "mine").unwrap();
    let (code, words) = project.refused(&["init", "quickstart", "trial"]);
    assert!(code == 2 && words.contains("trial/quickstart.toml exists"), "{words}");
    assert_eq!(std::fs::read_to_string(project.path("trial/quickstart.toml")).unwrap(), "mine");
    project.done(&["init", "quickstart", "trial", "--force"]);
    assert_ne!(std::fs::read_to_string(project.path("trial/quickstart.toml")).unwrap(), "mine");
    let (code, words) = project.refused(&["init", "quickstart", "--pool", "x"]);
    assert!(code == 2 && words.contains("takes no --pool"), "{words}");
}

#[test]
fn init_writes_a_pipeline_that_plans_for_each_form_of_data() {
    let project = with_model();
    let alpaca = lines(60, |n| json!({"instruction": format!("i{n}"), "input": "", "output": format!("o{n}")}));
    project.write("alpaca.jsonl", &alpaca);
    project.write("pool/a.jsonl", &alpaca);
    project.write("pool/b.jsonl", &alpaca.replace("\"output\":\"o", "\"output\":\"p"));
    let csv: String = (0..60).map(|n| format!("p{n},c{n}\n")).collect();
    project.write("pool.csv", &format!("prompt,completion\n{csv}"));
    let turns = |n: usize| json!([{"from": "human", "value": format!("q{n}")}, {"from": "gpt", "value": "a"}]);
    project.write(
        "chat.json",
        &Value::from((0..60).map(|n| json!({"conversations": turns(n)})).collect::<Vec<_>>()).to_string(),
    );
    project
        .write("gsm8k.jsonl", &lines(30, |n| json!({"question": format!("q{n}"), "answer": format!("so\n#### {n}")})));
    project.write("test.jsonl", &lines(9, |n| json!({"question": format!("t{n}"), "answer": format!("so\n#### {n}")})));
    let choice = |n: usize| json!({"question": format!("q{n}"), "choices": ["x", "y"], "answer": n % 2});
    project.write("choices.jsonl", &lines(30, choice));
    project.write("long.jsonl", &lines(30, |n| json!({"prompt": format!("q{n}"), "response": "word ".repeat(20 + n)})));
    let cases: [(&str, &str, Option<&str>, &[&str]); 5] = [
        (
            "alpaca.jsonl",
            "gsm8k.jsonl",
            Some("test.jsonl"),
            &["format = \"alpaca\"", "scoring = \"match\"", "extract = \"gsm8k\"", "test = 9\n"],
        ),
        (
            "pool.csv",
            "choices.jsonl",
            None,
            &["prompt = \"prompt\", response = \"completion\"", "scoring = \"choice\"", "validation = 10\ntest = 20\n"],
        ),
        ("chat.json", "long.jsonl", None, &["format = \"sharegpt\"", "scoring = \"loss\""]),
        ("pool", "gsm8k.jsonl", None, &["# a.jsonl: 60 records", "# b.jsonl: 60 records"]),
        ("alpaca.jsonl", "alpaca.jsonl", None, &["scoring = \"match\"", "extract = \"exact\""]),
    ];
    for (place, (pool, task, test, parts)) in cases.into_iter().enumerate() {
        let name = format!("mine{place}");
        let mut arguments = vec!["init", &name, "--pool", pool, "--task", task, "--model", "model"];
        arguments.extend(test.into_iter().flat_map(|test| ["--test", test]));
        project.done(&arguments);
        let file = format!("{name}.toml");
        let text = std::fs::read_to_string(project.path(&file)).unwrap();
        for part in parts {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.starts_with("#:schema ./pipeline.schema.json\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 160), "{text}");
        let (plan, _) = project.done(&["plan", &file]);
        assert!(plan.contains("selector"), "{plan}");
        // The data are read as the look read them.
        project.done(&["build", &file, "--only", "pool", "--only", "task", "--only", "base"]);
    }
    assert!(project.path("pipeline.schema.json").is_file());
    refuses_what_is_wrong(&project);
    starts_from_another(&project);
}

fn refuses_what_is_wrong(project: &Project) {
    let good = ["--pool", "alpaca.jsonl", "--task", "gsm8k.jsonl", "--model", "model"];
    let refused = |name: &str, flags: &[&str]| project.refused(&[&["init", name], flags].concat());
    let (code, words) = refused("mine0", &good);
    assert!(code == 2 && words.contains("mine0.toml exists") && words.contains("--force"), "{words}");
    let (code, words) = refused("new", &good[..4]);
    assert!(code == 2 && words.contains("--model is missing"), "{words}");
    let (code, words) = refused("new", &["--pool", "nowhere.jsonl"]);
    assert!(code == 2 && words.contains("--pool: cannot read nowhere.jsonl: No such file"), "{words}");
    project.write("odd.jsonl", "\n{\"a\": 1}\n");
    let (code, words) = refused("new", &["--pool", "odd.jsonl", "--task", "gsm8k.jsonl", "--model", "model"]);
    assert!(code == 2 && words.contains("odd.jsonl, line 2: ") && words.contains("{\"a\": 1}"), "{words}");
    let (code, words) = refused("new", &["--pool", "alpaca.jsonl", "--task", "gsm8k.jsonl", "--model", "pool"]);
    assert!(code != 0 && words.contains("pool has no config.json"), "{words}");
    let (code, words) = refused("../new", &good);
    assert!(code == 2 && words.contains("no name for a pipeline"), "{words}");
    assert!(!project.path("new.toml").exists());
}

fn starts_from_another(project: &Project) {
    project.done(&["init", "other", "--from", "mine0.toml", "--pool", "pool.csv"]);
    let text = std::fs::read_to_string(project.path("other.toml")).unwrap();
    assert!(
        text.contains("include = \"mine0.toml\"") && text.contains("[stage.pool]\nsources = [{ path = \"pool.csv\" }]")
    );
    project.done(&["plan", "other.toml"]);
    let (_, built) = project.done(&["build", "other.toml", "--only", "pool"]);
    assert!(built.contains("60 instructions"), "{built}");
}

#[test]
fn an_initialised_pipeline_builds_to_its_result() {
    let project = with_model();
    let pool =
        lines(60, |n| json!({"instruction": format!("add {n} and 1"), "input": "", "output": format!("{}", n + 1)}));
    project.write("pool.jsonl", &pool);
    project.write(
        "task.jsonl",
        &lines(24, |n| json!({"question": format!("add {n} and 2"), "answer": format!("{}", n + 2)})),
    );
    project.done(&["init", "mine", "--pool", "pool.jsonl", "--task", "task.jsonl", "--model", "model", "--steps", "2"]);
    let (_, built) = project.done(&["build", "mine.toml", "--set", "pipeline.seed=17"]);
    assert!(ending(&built)[0].starts_with("loss on test"), "{built}");
    assert!(Path::new(&project.path("out/mine/report/report.html")).is_file());
}
