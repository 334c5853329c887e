//! Tests of the kind `command` through the real executables: what runs again after an edit and why (edits.rs), what
//! becomes of the results and which message a failure gives (results.rs), models and features that a program
//! writes (models.rs, features.rs), how a program ends (ends.rs).

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

mod edits;
mod ends;
mod features;
mod models;
mod results;

use raisin_tests::Project;

/// A pool of questions, a scorer in Python with a module and a configuration, and a query over its scores.
pub const SCORED: &str = r#"
[stage.pool]
kind = "ingest"
sources = [{ path = "pool.jsonl", format = "qa" }]

[stage.quality]
kind = "command"
run = ["python3", "score.py", "--scale", "2", "--pool", "{pool.instructions.jsonl}", "{out}"]
files = ["score.py", "lib", "conf/*.json"]
env = { MODE = "plain" }
version = "1"
provides = ["columns"]
tables = ["lengths"]

[stage.best]
kind = "sql"
of = ["quality"]
query = "select max(score) as best from quality.columns"
"#;

pub const SCORER: &str = r#"
import argparse, json, os
from lib.measure import measure

parser = argparse.ArgumentParser()
parser.add_argument("--scale", type=float)
parser.add_argument("--pool")
parser.add_argument("--seed", default="none")
parser.add_argument("out")
given = parser.parse_args()
with open("conf/score.json") as file:
    offset = json.load(file)["offset"]
rows = [json.loads(line) for line in open(given.pool)]
with open(given.out + "/columns.jsonl", "w") as columns, open(given.out + "/lengths.csv", "w") as lengths:
    lengths.write("id,words\n")
    for done, row in enumerate(rows):
        score = measure(row["response"]) * given.scale + offset
        columns.write(json.dumps({"id": row["id"], "score": score}) + "\n")
        lengths.write("%d,%d\n" % (row["id"], len(row["prompt"].split())))
        print(json.dumps({"progress": (done + 1) / len(rows)}))
with open(given.out + "/metrics.json", "w") as file:
    json.dump({"rows": len(rows)}, file)
print("mode", os.environ["MODE"], "seed", given.seed)
"#;

pub fn pool(rows: usize) -> String {
    (0..rows).map(|n| format!("{{\"question\":\"what is {n}\",\"answer\":\"{}\"}}\n", "x".repeat(n + 1))).collect()
}

/// The project of [`SCORED`] with all its files.
pub fn scored() -> Project {
    let project = Project::with_text(SCORED);
    project.write("pool.jsonl", &pool(5));
    project.write("score.py", SCORER);
    project.write("lib/measure.py", "def measure(text):\n    return float(len(text))\n");
    project.write("conf/score.json", "{\"offset\": 0}");
    project
}

/// A project with one stage `made` of kind `command` that runs a shell script. `more` are further lines of the stage.
pub fn shell(script: &str, more: &str) -> Project {
    let project = Project::with_text(&format!(
        "[stage.pool]\nkind = \"ingest\"\nsources = [{{ path = \"pool.jsonl\", format = \"qa\" }}]\n\n\
         [stage.made]\nkind = \"command\"\nrun = [\"sh\", \"script.sh\", \"{{out}}\", \"{{work}}\", \
         \"{{pool.instructions.jsonl}}\"]\nfiles = [\"script.sh\"]\n{more}\n"
    ));
    project.write("pool.jsonl", &pool(3));
    project.write("script.sh", script);
    project
}
