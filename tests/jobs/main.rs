//! Tests of stages that run as jobs of a cluster, through the real executables. runner.rs has a small scheduler of jobs,
//! for `run = "template"`; slurm.rs has a real Slurm on this machine.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

mod runner;
mod slurm;

use raisin_tests::Project;

/// A pool, and a program that scores it in variants. The program writes how far it came into its checkpoint, and waits
/// while the file `wait` exists beside the pipeline.
pub const SCORED: &str = r#"
[pipeline]
name = "scored"

[stage.pool]
kind = "generate"
size = 40

[stage.scored]
kind = "command"
run = ["sh", "score.sh", "{out}", "{work}", "{pool.instructions.jsonl}", "1"]
files = ["score.sh"]
provides = ["columns"]
resources = { threads = 1 }

[stage.best]
kind = "sql"
of = ["scored"]
query = "select max(score) as best, count(*) as n from scored.columns"
"#;

/// Scores by the length of a row. `PLACE` is replaced by the folder of the project.
pub const SCORE: &str = r#"
set -e
if test -e "$2/steps"; then echo "goes on after $(cat "$2/steps") steps"; fi
echo 1 > "$2/steps"
echo "$4" >> PLACE/began
while test -e PLACE/wait; do sleep 0.05; done
test ! -e PLACE/fail || { echo "the reason lies here"; exit 3; }
awk -v by="$4" '{ printf "{\"id\": %d, \"score\": %d}\n", NR - 1, length($0) * by }' "$3" > "$1/columns.jsonl"
"#;

/// A project with the pipeline [`SCORED`], these lines more, and its script.
pub fn scored(more: &str) -> Project {
    let project = Project::with_text(&format!("{SCORED}\n{more}\n"));
    let place = project.path("").display().to_string();
    project.write("score.sh", &SCORE.replace("PLACE/", &place));
    project
}

/// Whether the program has started this many times.
pub fn has_begun(project: &Project, times: usize) -> bool {
    std::fs::read_to_string(project.path("began")).is_ok_and(|text| text.lines().count() >= times)
}

/// The artifacts of a build of the same pipeline on this machine.
pub fn equals_a_local_build(project: &Project, pipeline: &str, name: &str) {
    let arguments = ["build", pipeline, "--set", "executor.run=local", "--cache", "local", "--out", "local-out"];
    project.done(&arguments);
    let [jobs, local] = ["out", "local-out"].map(|out| std::fs::read(project.path(out).join(name).join("build.json")));
    assert!(jobs.unwrap() == local.unwrap(), "the artifacts differ from those of a local build");
}
