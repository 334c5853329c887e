//! After each edit, exactly the stages run that it concerns, and the plan says why.

use raisin_tests::{CommandOutput, Project};

use crate::{SCORER, pool, scored};

/// The stages that the last build ran, sorted by name.
fn ran(project: &Project, told: &str) -> Vec<String> {
    if told.contains("nothing to run") {
        return Vec::new();
    }
    let query = "select stage from raisin.actions where run = (select max(run) from raisin.runs) order by stage";
    project.sql(query).iter().map(|row| row["stage"].as_str().unwrap().to_owned()).collect()
}

/// Makes edits one after the other.
struct Edits {
    project: Project,
    pipeline: String,
    variables: Vec<(&'static str, &'static str)>,
}

impl Edits {
    fn new() -> Self {
        let project = scored();
        Self { pipeline: crate::SCORED.to_owned(), project, variables: Vec::new() }
    }

    fn raisin(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = self.project.raisin(arguments);
        CommandOutput::of(command.envs(self.variables.iter().copied()))
    }

    /// Plans and builds. `expected` ran, and a line of the plan has the reason.
    fn builds(&self, edit: &str, expected: &[&str], reason: &str) {
        let plan = self.raisin(&["plan", "p.toml"]);
        assert_eq!(plan.code, 0, "{edit}: {}", plan.stderr);
        assert!(plan.stdout.contains(reason), "{edit}: no reason `{reason}`\n{}", plan.stdout);
        let built = self.raisin(&["build", "p.toml"]);
        assert_eq!(built.code, 0, "{edit}: {}", built.stderr);
        assert_eq!(ran(&self.project, &built.stderr), expected, "{edit}\n{}", plan.stdout);
    }

    /// Replaces a text of the pipeline.
    fn edits(&mut self, from: &str, to: &str) {
        assert!(self.pipeline.contains(from), "there is no `{from}` in\n{}", self.pipeline);
        self.pipeline = self.pipeline.replace(from, to);
        self.project.write("p.toml", &self.pipeline);
    }

    fn refuses(&self, edit: &str, expected: &str) {
        let plan = self.raisin(&["build", "p.toml"]);
        assert!(plan.code == 2 && plan.stderr.contains(expected), "{edit}: {} {}", plan.code, plan.stderr);
    }
}

const ALL: [&str; 3] = ["best", "pool", "quality"];
const NONE: [&str; 0] = [];
/// The script ran again and wrote the same bytes: the query does not run.
const SCRIPT: [&str; 1] = ["quality"];
const SCRIPT_AND_QUERY: [&str; 2] = ["best", "quality"];

#[test]
fn files_of_a_command_are_in_its_key_by_content_and_place() {
    let mut edits = Edits::new();
    edits.builds("the first build", &ALL, "never built");
    edits.builds("nothing", &NONE, "0 would run");
    edits.project.write("score.py", &format!("# A comment.\n{SCORER}"));
    edits.builds("a comment in the script", &SCRIPT, "file score.py (files.0.path): other bytes");
    edits.project.write("score.py", &SCORER.replace("+ offset", "+ offset + 1"));
    edits.builds("other scores", &SCRIPT_AND_QUERY, "file score.py (files.0.path): other bytes");
    raisin_tests::age(&edits.project.path("score.py"), std::time::Duration::from_mins(1));
    let touched = std::fs::File::options().append(true).open(edits.project.path("score.py")).unwrap();
    touched.set_modified(std::time::SystemTime::now()).unwrap();
    edits.builds("another time of the script", &NONE, "0 would run");
    edits.project.write("lib/measure.py", "def measure(text):\n    return 2.0 * len(text)\n");
    edits.builds("another module", &SCRIPT_AND_QUERY, "files files.1.path: other bytes: measure.py");
    edits.project.write("lib/more.py", "");
    edits.builds("a new file in a folder", &SCRIPT, "files files.1.path: new: more.py");
    std::fs::rename(edits.project.path("lib/more.py"), edits.project.path("lib/most.py")).unwrap();
    edits.builds("a renamed file in a folder", &SCRIPT, "files files.1.path: new: most.py; gone: more.py");
    std::fs::remove_file(edits.project.path("lib/most.py")).unwrap();
    edits.builds("the file is gone: as before", &NONE, "0 would run");
    edits.project.write("lib/.hidden", "x");
    edits.builds("a hidden file", &NONE, "0 would run");
    edits.project.write("conf/score.json", "{\"offset\": 7}");
    edits.builds("a file of a pattern", &SCRIPT_AND_QUERY, "files files.2.path: other bytes: score.json");
    edits.project.write("conf/other.txt", "x");
    edits.builds("a file that no pattern matches", &NONE, "0 would run");
    std::fs::rename(edits.project.path("score.py"), edits.project.path("conf/moved.py")).unwrap();
    edits.edits("\"score.py\", \"lib\"", "{ path = \"conf/moved.py\", to = \"score.py\" }, \"lib\"");
    edits.builds("another name of the script, at the same place", &SCRIPT, "file files.0.path: score.py -> moved.py");
    edits.edits("to = \"score.py\"", "to = \"tool/../score.py\"");
    edits.refuses("a place with dots", "`tool/../score.py` is not a place in the working folder");
    edits.edits("to = \"tool/../score.py\"", &format!("to = \"score.py\", blake3 = \"{}\"", "0".repeat(64)));
    edits.refuses("another digest", "conf/moved.py does not have the expected digest");
}

#[test]
fn parameters_of_a_command_are_in_its_key_and_names_and_resources_are_not() {
    let mut edits = Edits::new();
    edits.builds("the first build", &ALL, "never built");
    edits.edits("[stage.quality]", "# A comment.\n[stage.quality]");
    edits.builds("a comment in the pipeline", &NONE, "0 would run");
    edits.edits("MODE = \"plain\"", "MODE = \"fast\"");
    edits.builds("another value in env", &SCRIPT, "env.MODE: \"plain\" -> \"fast\"");
    edits.edits("MODE = \"fast\"", "MODE = \"fast\", MORE = \"{work}\"");
    edits.builds("one more variable", &SCRIPT, "env.MORE: nothing -> \"{work}\"");
    edits.edits("env = { MODE = \"fast\", MORE = \"{work}\" }", "env = [\"MODE=fast\"]");
    edits.builds("the same variables as before, as a list", &NONE, "0 would run");
    edits.edits("\"MODE=fast\"", "\"MODE\"");
    edits.variables = vec![("MODE", "fast"), ("UNSEEN", "1")];
    edits.builds("the same value from the environment", &NONE, "0 would run");
    edits.variables = vec![("MODE", "slow"), ("UNSEEN", "2")];
    edits.builds("another value from the environment", &SCRIPT, "env.MODE: \"fast\" -> \"slow\"");
    edits.edits("version = \"1\"", "version = \"2\"");
    edits.builds("another version", &SCRIPT, "version: \"1\" -> \"2\"");
    edits.edits("\"--scale\", \"2\"", "\"--scale\", \"2.0\"");
    edits.builds("another argument", &SCRIPT, "run.3: \"2\" -> \"2.0\"");
    edits.edits("\"{pool.instructions.jsonl}\", \"{out}\"]", "\"{pool.instructions.jsonl}\", \"--\", \"{out}\"]");
    edits.builds("one more argument", &SCRIPT, "run.6: nothing -> \"--\"");
    let (one, other) = ("\"--scale\", \"2.0\", \"--pool\"", "\"--pool\"");
    edits.edits(one, other);
    edits.edits("\"--\", \"{out}\"", "\"--scale\", \"2.0\", \"{out}\"");
    edits.builds("another order of arguments", &SCRIPT, "run.2: ");
    edits.edits("tables = [\"lengths\"]", "tables = []");
    edits.builds("a table that is a file now", &SCRIPT_AND_QUERY, "tables.0: \"lengths\" -> nothing");
    assert!(edits.project.path("out/p/quality/lengths.csv").is_file());
    edits.edits("[stage.pool]", "[stage.questions]");
    edits.edits("{pool.instructions.jsonl}", "{questions.instructions.jsonl}");
    edits.builds("another name of the input", &NONE, "0 would run");
    edits.edits("[stage.quality]", "[stage.scorer]");
    edits.edits("of = [\"quality\"]", "of = [\"scorer\"]");
    edits.edits("from quality.columns", "from scorer.columns");
    edits.builds("another name of the command", &["best"], "query: ");
    edits.edits("version = \"2\"", "version = \"2\"\nresources = { threads = 3, memory = \"2GB\" }");
    edits.builds("other resources", &NONE, "0 would run");
    edits.project.write("pool.jsonl", &pool(6));
    edits.builds("one more row", &["best", "questions", "scorer"], "input questions will be made anew");
    edits.edits("[stage.questions]", "[pipeline]\nseed = 3\n\n[stage.questions]");
    edits.builds("another seed that nobody uses", &NONE, "0 would run");
    edits.edits("\"{out}\"]", "\"--seed={seed}\", \"{out}\"]");
    edits.builds("the program gets the seed", &["scorer"], "seed none -> 3");
    edits.edits("seed = 3", "seed = 4");
    edits.builds("another seed", &["scorer"], "seed 3 -> 4");
    edits.edits("version = \"2\"", "version = \"2\"\nseed = 3");
    edits.builds("a seed of the stage, as before", &NONE, "0 would run");
    edits.edits("\"--seed={seed}\", ", "");
    edits.refuses("a seed without use", "this stage draws no random numbers that depend on a seed");
}

#[test]
fn what_a_version_command_prints_is_in_the_key() {
    let mut edits = Edits::new();
    edits.builds("the first build", &ALL, "never built");
    edits.project.write("packages.txt", "numpy 2.3\ntorch 2.10\n");
    edits.edits("version = \"1\"", "version_command = [\"cat\", \"packages.txt\"]");
    edits.builds("a version command", &SCRIPT, "version_command: nothing -> [\"numpy 2.3\",\"torch 2.10\"]");
    edits.builds("no change", &NONE, "");
    edits.edits("[\"cat\", \"packages.txt\"]", "[\"sh\", \"-c\", \"sort packages.txt; echo\"]");
    edits.builds("another program that prints the same", &NONE, "");
    edits.project.write("packages.txt", "numpy 2.3\ntorch 2.11\n");
    edits.builds("another output", &SCRIPT, "version_command.1: \"torch 2.10\" -> \"torch 2.11\"");
    edits.project.write("packages.txt", "numpy 2.3\npillow 12\ntorch 2.11\n");
    edits.builds("a new line", &SCRIPT, "version_command.1: nothing -> \"pillow 12\"");
    let columns = edits.project.path("out/p/quality/columns.parquet").canonicalize().unwrap();
    std::fs::set_permissions(&columns, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&columns, "damaged").unwrap();
    let repaired = edits.raisin(&["verify", "--repair"]);
    assert_eq!(repaired.code, 0, "{}{}", repaired.stdout, repaired.stderr);
    edits.builds("after a repair", &NONE, "");
    edits.edits("sort packages.txt; echo", "echo lost >&2; exit 3");
    edits.refuses(
        "a failure",
        "p.toml:11:19: stage `quality`, version_command: `sh -c echo lost >&2; exit 3` ended with exit code 3: lost",
    );
    edits.edits("echo lost >&2; exit 3", "true");
    edits.refuses("no output", "version_command: `sh -c true` printed nothing");
    edits.edits("[\"sh\", \"-c\", \"true\"]", "[\"freeze-packages\"]");
    edits.refuses("a missing program", "version_command: cannot run `freeze-packages`: No such file");
}

#[test]
fn a_wrong_name_in_a_text_is_refused_before_anything_runs() {
    for (from, to, expected) in [
        ("{out}", "{ouput}", "stage `quality`, run.6: there is no stage `ouput`"),
        ("{out}", "{ouut}", "did you mean `out`?"),
        ("{pool.instructions.jsonl}", "{pol.instructions}", "did you mean `pool`?"),
        (
            "{pool.instructions.jsonl}",
            "{pool.instrctions}",
            "run.5: `pool` is of kind `ingest`, which has no table or file `instrctions`",
        ),
        ("{pool.instructions.jsonl}", "{pool.instrctions}", "did you mean `instructions`?"),
        ("{pool.instructions.jsonl}", "{pool.x.csv}", "there are `instructions`, `rejects`, `sources`"),
        ("\"score.py\", \"--scale\"", "\"{score.py}\", \"--scale\"", "write score.py without braces"),
        ("\"--pool\"", "\"{\"", "run.4: `{` has a `{` without a `}` after it"),
        ("provides = [\"columns\"]", "provides = [\"colums\"]", "did you mean `columns`?"),
        ("version", "verson", "did you mean `version`?"),
        ("\"conf/*.json\"", "\"conf/*.yaml\"", "files.2.path: no file matches"),
        ("\"score.py\", \"lib\"", "\"scorer.py\", \"lib\"", "files.0.path: there is no file"),
    ] {
        let project = scored();
        let text = crate::SCORED.replacen(from, to, 1);
        assert_ne!(text, crate::SCORED);
        project.write("p.toml", &text);
        let (code, told) = project.refused(&["build", "p.toml"]);
        assert!(code == 2 && told.contains(expected), "{to}: {code} {told}");
        assert!(!project.path("out").exists(), "{to}: something ran");
    }
}

#[test]
fn a_stage_that_does_not_provide_what_another_one_needs_is_refused() {
    let project = scored();
    let with = |more: &str| project.write("p.toml", &format!("{}\n{more}", crate::SCORED));
    with("[stage.overlap]\nkind = \"dedup\"\ninstructions = \"quality\"");
    let (code, told) = project.refused(&["build", "p.toml"]);
    let expected = "stage `overlap`, instructions: `quality` is of kind `command`, and does not say that it provides \
                    `instructions`";
    assert!(code == 2 && told.contains(expected), "{told}");
}

#[test]
fn a_plan_file_of_a_command_is_built_and_a_damaged_artifact_is_made_again() {
    let project = scored();
    project.done(&["plan", "p.toml", "--out", "plan.json"]);
    let (_, told) = project.done(&["build", "plan.json"]);
    assert!(told.contains("3 ran"), "{told}");
    project.finds_all(&["build", "p.toml"]);
    let before = project.digests("p");
    let columns = project.path("out/p/quality/columns.parquet").canonicalize().unwrap();
    std::fs::set_permissions(&columns, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&columns, "damaged").unwrap();
    let (_, told) = project.done(&["verify", "--repair"]);
    assert!(told.contains("made again") || told.contains("repaired"), "{told}");
    project.finds_all(&["build", "p.toml"]);
    assert_eq!(project.digests("p"), before);
}
