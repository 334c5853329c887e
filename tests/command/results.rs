//! What becomes of the results of a program, and which message each failure gives.

use serde_json::json;

use raisin_tests::{CommandOutput, Project};

use crate::{pool, scored, shell};

#[test]
fn what_a_program_writes_is_in_sql_like_any_other_table() {
    let project = scored();
    project.done(&["build", "p.toml"]);
    let scores = project.sql("select id, score from quality.columns order by id");
    let expected: Vec<_> = (0..5).map(|id| json!({"id": id, "score": f64::from(id + 1) * 2.0})).collect();
    assert_eq!(scores, expected);
    assert_eq!(project.sql("select sum(words) as words from quality.lengths"), [json!({"words": 15})]);
    assert_eq!(project.sql("select rows from quality.metrics"), [json!({"rows": 5.0})]);
    assert_eq!(project.sql("select best from best.rows"), [json!({"best": 10.0})]);
    let files: Vec<String> = raisin_tests::files_below(&project.path("out/p/quality/").canonicalize().unwrap())
        .iter()
        .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let expected =
        ["columns.parquet", "lengths.parquet", "manifest.json", "metrics.json", "metrics.parquet", "summary.json"];
    assert_eq!(files, expected);
    // A second run writes the same bytes.
    project.done(&["build", "p.toml", "--force", "quality", "--check"]);
}

#[test]
fn a_program_sees_its_files_its_inputs_and_the_listed_variables_only() {
    let script = "\
        cd \"$PWD\"; find . -type f -o -type l | sort > $1/files; pwd -P > $2/folder\n\
        env | cut -d= -f1 | grep -v -e ^_$ -e ^PWD$ -e ^SHLVL$ -e ^OLDPWD$ | sort > $1/variables\n\
        echo $OMP_NUM_THREADS/$RAYON_NUM_THREADS/$CUDA_VISIBLE_DEVICES/$PYTHONHASHSEED/$MINE/$FROM > $1/values\n\
        wc -l < $3 | tr -d ' ' > $1/lines; head -c 20 $3 > $1/head; cat deep/a.txt > $1/copy\n\
        echo changed > script.sh; echo x > stray\n";
    let project = shell(script, "env = [\"MINE=a {b} c\", \"FROM\", \"UNSET\"]\nresources = { threads = 3 }");
    let text = std::fs::read_to_string(project.path("p.toml")).unwrap();
    project.write("p.toml", &text.replace("files = [\"script.sh\"]", "files = [\"script.sh\", \"deep\", \"*.md\"]"));
    project.write("deep/a.txt", "deep");
    project.write("deep/b/c.txt", "deeper");
    project.write("x.md", "");
    project.write("other.txt", "not listed");
    let mut build = project.raisin(&["build", "p.toml"]);
    let built = CommandOutput::of(build.env("FROM", "outside").env("LEAK", "1"));
    assert_eq!(built.code, 0, "{}", built.stderr);
    let read = |name: &str| std::fs::read_to_string(project.path(&format!("out/p/made/{name}"))).unwrap();
    assert_eq!(read("files"), "./deep/a.txt\n./deep/b/c.txt\n./script.sh\n./x.md\n");
    assert_eq!(read("values"), "3/3//0/a {b} c/outside\n");
    assert_eq!((read("lines").trim(), read("copy").as_str()), ("3", "deep"));
    assert!(read("head").starts_with("{\"id\":0,"), "{}", read("head"));
    let variables = read("variables");
    for variable in variables.lines() {
        let known = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH"];
        let is_known = known.contains(&variable)
            || ["_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHON", "MINE", "FROM"].iter().any(|it| variable.contains(it));
        assert!(is_known, "the program sees {variable}");
    }
    // The file of the user is as it was, and nothing of the working folder stays.
    assert_eq!(std::fs::read_to_string(project.path("script.sh")).unwrap(), script);
    assert!(!project.path("stray").exists() && !project.path("out/p/made/stray").exists());
}

#[test]
fn a_pool_of_a_program_is_a_pool_for_every_other_stage() {
    let script = "sed 's/\"question\"/\"prompt\"/; s/\"answer\"/\"response\"/' > $1/instructions.jsonl < /dev/null\n\
                  for n in 1 2 3; do echo \"{\\\"prompt\\\": \\\"p$n\\\", \\\"response\\\": \\\"r\\\"}\"; done > $1/instructions.jsonl\n";
    let project =
        shell(script, "provides = [\"instructions\"]\n\n[stage.distinct]\nkind = \"dedup\"\ninstructions = \"made\"");
    let (_, told) = project.done(&["build", "p.toml"]);
    assert!(told.contains("3 instructions"), "{told}");
    let rows = project.sql("select id, prompt, response, line from made.instructions where id = 1");
    assert_eq!(rows, [json!({"id": 1, "prompt": "p2", "response": "r", "line": 2})]);
    assert_eq!(project.sql("select count(*) as n from distinct.instructions").len(), 1);
}

/// Builds a project that must fail, and returns what is told.
fn failed(project: &Project) -> String {
    let (code, told) = project.refused(&["build", "p.toml"]);
    assert_eq!(code, 1, "{told}");
    assert!(!project.path("out/p/made").exists(), "a failed stage has a result");
    told
}

#[test]
fn a_program_that_fails_ends_the_stage_with_its_last_lines_and_its_reason() {
    for (script, expected) in [
        ("echo one; echo two >&2; exit 3", &["two", "the program `sh` ended with exit code 3"][..]),
        ("kill -SEGV $$", &["the program `sh` was ended by signal 11 (SIGSEGV)"]),
        ("kill -KILL $$", &["was ended by signal 9 (SIGKILL)", "perhaps because the memory of the machine ran out"]),
        ("python3 -c 'import sys; sys.exit(\"no data\")'", &["no data", "exit code 1"]),
    ] {
        let told = failed(&shell(script, ""));
        assert!(expected.iter().all(|text| told.contains(text)), "{script}: {told}");
    }
    let project = shell("", "");
    let text = std::fs::read_to_string(project.path("p.toml")).unwrap();
    project.write("p.toml", &text.replace("\"sh\", \"script.sh\"", "\"no-such-program\""));
    let told = failed(&project);
    assert!(told.contains("the program `no-such-program` cannot be started") && told.contains("PATH"), "{told}");
    project.write("p.toml", &text.replace("\"sh\", \"script.sh\"", "\"./script.sh\""));
    let told = failed(&project);
    assert!(told.contains("`./script.sh` cannot be started") && told.contains("make it executable"), "{told}");
}

#[test]
fn results_that_are_missing_or_broken_fail_the_stage_with_file_line_and_value() {
    let columns = "provides = [\"columns\"]";
    let instructions = "provides = [\"instructions\"]";
    for (script, more, expected) in [
        ("echo > $1/notes.txt", "tables = [\"pairs\"]", "the program did not write `pairs` into {out}"),
        (
            "echo > $1/notes.txt",
            "tables = [\"pairs\"]",
            "pairs.jsonl, pairs.json, pairs.csv, pairs.parquet; {out} has notes.txt",
        ),
        ("echo a > $1/a.csv; echo > $1/a.jsonl", "tables = [\"a\"]", "the program wrote `a.jsonl` and `a.csv`"),
        (
            "printf '{\"a\": 1}\\n{\"a\": \"x\"}\\n' > $1/a.jsonl",
            "tables = [\"a\"]",
            "a.jsonl, line 2: `a` is a text, and a number in an earlier row",
        ),
        ("printf '{\"a\": 1}\\n{\"a\": \\n' > $1/a.jsonl", "tables = [\"a\"]", "a.jsonl"),
        ("printf 'id,x\\n1\\n' > $1/a.csv", "tables = [\"a\"]", "a.csv"),
        ("echo no parquet > $1/a.parquet", "tables = [\"a\"]", "a.parquet is not a Parquet file"),
        ("echo x > $1/b.parquet", "", "the program wrote the table b.parquet, which the stage does not declare"),
        (
            "echo '{\"id\": 3, \"s\": 1}' > $1/columns.jsonl",
            columns,
            "columns.jsonl, line 1: `id` is 3, and the pool has 3 instructions",
        ),
        (
            "printf '{\"id\": 1, \"s\": 1}\\n{\"id\": 1, \"s\": 1}\\n' > $1/columns.jsonl",
            columns,
            "line 2: the instruction 1 has a row already, in line 1",
        ),
        ("echo '{\"row\": 1, \"s\": 1}' > $1/columns.jsonl", columns, "line 1: there is no `id`; there are `row`, `s`"),
        ("echo '{\"id\": 1, \"s\": \"good\"}' > $1/columns.jsonl", columns, "`s` is \"good\", not a finite number"),
        ("echo '{\"id\": 1, \"s\": NaN}' > $1/columns.jsonl", columns, "`s` holds NaN"),
        ("echo '{\"id\": 1}' > $1/columns.jsonl", columns, "columns.jsonl has no column beside `id`"),
        ("true", columns, "the program wrote nothing into {out}"),
        ("echo > $1/x", columns, "the program did not write `columns` into {out}"),
        (
            "echo '{\"prompt\": \"\", \"response\": \"a\"}' > $1/instructions.jsonl",
            instructions,
            "cannot be read as an instruction, the first in line 1",
        ),
        ("echo '{\"a\": {\"b\": 1}}' > $1/metrics.json", "", "metrics.json has {\"b\":1} as `a`, not a number"),
        ("echo '[1]' > $1/metrics.json", "", "metrics.json is not an object"),
        ("ln -s /etc/passwd $1/link", "", "link"),
    ] {
        let told = failed(&shell(script, more));
        assert!(told.contains(expected), "{script}\n{more}: {told}");
    }
}

#[test]
fn a_script_of_the_user_gives_the_scores_by_which_a_training_selects() {
    let project = Project::with_text(&format!(
        "{}\n{}",
        crate::SCORED,
        r#"
[stage.task]
kind = "generate"
size = 20

[stage.base]
kind = "model"
source = { init = { hidden_size = 16, layers = 1, heads = 2, intermediate_size = 16 } }

[stage.tuned]
kind = "finetune"
instructions = "pool"
model = "base"
task = "task"
select = { method = "scores", stage = "quality", column = "score" }
steps = 2
batch_size = 2
"#
    ));
    for (name, text) in [
        ("pool.jsonl", pool(5).as_str()),
        ("score.py", crate::SCORER),
        ("lib/measure.py", "def measure(text):\n    return abs(len(text) - 2.5)\n"),
        ("conf/score.json", "{\"offset\": 0}"),
    ] {
        project.write(name, text);
    }
    project.done(&["build", "p.toml"]);
    // The answers have 1 to 5 letters: the longest is first, then the shortest and that of 4 letters, in file order.
    let rows = project.sql("select id, score from tuned.selection order by step, slot");
    let ids: Vec<u64> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
    let scores: Vec<f64> = rows.iter().map(|row| row["score"].as_f64().unwrap()).collect();
    assert_eq!((&ids[..1], scores), (&[4][..], vec![5.0, 3.0, 3.0, 1.0]));
    let wrong = project.run(&["build", "p.toml", "--set", "stage.tuned.select.column=scor"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("has no column `scor`"), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("did you mean column = \"score\"?"), "{}", wrong.stderr);
    let both = project.run(&["build", "p.toml", "--set", "stage.tuned.select.path=scores.csv"]);
    assert!(both.code == 2 && both.stderr.contains("either by `stage` or by `path`"), "{}", both.stderr);
    let other = project.run(&["build", "p.toml", "--set", "stage.tuned.instructions=task"]);
    assert!(other.code == 1 && other.stderr.contains("instructions of another pool"), "{}", other.stderr);
}
