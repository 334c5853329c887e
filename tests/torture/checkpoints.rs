//! Tortures the files in which a killed stage left its work: the next build makes the artifact of an undisturbed build,
//! whatever happened to these files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::kills::kill_all;
use crate::world::{PIPELINE, count, digests, flip, full, tamper, verify_clean};
use raisin_tests::{ArtifactDigests, Project, TestRng, files_below, processes};

/// A stage of each kind that keeps work, with the variant whose artifact is compared, and flags that make it slow
/// enough to be killed in the middle of its work.
const STAGES: [(&str, &[&str]); 6] = [
    ("base", &["stage.base.steps=400"]),
    ("features", &["stage.pool.size=1500"]),
    ("influence", &["stage.pool.size=1500"]),
    ("selector", &["stage.selector.rounds=40"]),
    ("tuned", &["stage.tuned.steps=200"]),
    ("scores", &["stage.pool.size=800", "stage.scores.limit=256"]),
];

struct WorkProject {
    project: Project,
    arguments: Vec<String>,
    stage: &'static str,
}

impl WorkProject {
    fn new(stage: &'static str, settings: &[&str]) -> Self {
        let project = Project::with_pipeline(PIPELINE);
        let mut arguments: Vec<String> = ["build", PIPELINE, "--only", stage].map(str::to_owned).into();
        // One variant, so that the work belongs to one action.
        for setting in settings.iter().chain(&["stage.tuned.select.method=raise"]) {
            arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
        }
        Self { project, arguments, stage }
    }

    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }

    fn build(&self) -> ArtifactDigests {
        let output = processes::output(&mut self.command());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        digests(&self.project)
    }

    /// The command of the build. Its stages save their work after each step.
    fn command(&self) -> Command {
        let mut command = self.project.raisin(&self.arguments());
        command.env("RAISIN_CHECKPOINT_SECONDS", "0").stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Builds until the stage has left work, and kills the build and its workers then. Returns the files of the work.
    fn kill_at_work(&self, rng: &mut TestRng) -> Vec<PathBuf> {
        let began = Instant::now();
        let is_late = || began.elapsed() > Duration::from_mins(2);
        loop {
            assert!(!is_late(), "`{}` never left work", self.stage);
            let mut child = self.command().spawn().expect("raisin starts");
            let patience = Duration::from_millis(rng.below(400) as u64);
            let mut found = None;
            while child.try_wait().expect("a status").is_none() {
                if found.is_none() && self.has_work() {
                    found = Some(Instant::now());
                }
                if is_late() || found.is_some_and(|moment: Instant| moment.elapsed() >= patience) {
                    kill_all(&mut child);
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            processes::status(&mut child);
            if self.has_work() {
                return self.work();
            }
            // The stage ended before it was killed. Its artifact must go, so that it runs again.
            for folder in ["artifacts", "actions"] {
                let path = self.project.path("cache").join(folder);
                raisin_store::remove_tree(&path).expect("removed");
                std::fs::create_dir(&path).expect("a folder");
            }
        }
    }

    fn has_work(&self) -> bool {
        self.work().iter().any(|file| std::fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0))
    }

    /// The files under `work/` of the stage, which is the only stage at work.
    fn work(&self) -> Vec<PathBuf> {
        let staging = std::fs::read_dir(self.project.path("cache/tmp")).into_iter().flatten().flatten();
        let is_of_stage = |folder: &Path| {
            let text = std::fs::read_to_string(folder.join("assignment.json")).unwrap_or_default();
            text.contains(&format!("\"stage\": \"{}\"", self.stage))
        };
        let folders = staging.map(|entry| entry.path()).filter(|folder| is_of_stage(folder));
        folders.flat_map(|folder| files_below(&folder.join("work"))).collect()
    }

    /// Copies the cache with everything in it.
    fn keep(&self, name: &str) {
        copy(&self.project.path("cache"), &self.project.path(name));
    }

    fn restore(&self, name: &str) {
        raisin_store::remove_tree(&self.project.path("cache")).expect("removed");
        copy(&self.project.path(name), &self.project.path("cache"));
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp starts");
    assert!(status.success());
}

/// Damages each file of the work of each kind in turn, and compares the artifact with that of an undisturbed build.
fn damage_of_work(stages: &[(&'static str, &[&str])], rounds: usize) -> usize {
    let mut rng = TestRng::new("work");
    let mut all = 0;
    for (stage, settings) in stages {
        let mut harmed = 0;
        let expected: ArtifactDigests = WorkProject::new(stage, settings).build();
        for _ in 0..rounds {
            let work = WorkProject::new(stage, settings);
            let files = work.kill_at_work(&mut rng);
            work.keep("killed");
            for file in &files {
                for harm in ["flip", "cut", "empty", "missing"] {
                    let length = std::fs::metadata(file).expect("the file").len() as usize;
                    if length == 0 && harm != "missing" {
                        continue;
                    }
                    match harm {
                        "flip" => flip(file, &mut rng),
                        "cut" => tamper(file, |bytes| bytes.truncate(rng.below(length))),
                        "empty" => std::fs::write(file, "").expect("written"),
                        _ => std::fs::remove_file(file).expect("removed"),
                    }
                    let found = work.build();
                    assert_eq!(found, expected, "{stage}: {harm} of {}", file.display());
                    verify_clean(&work.project, harm);
                    harmed += 1;
                    work.restore("killed");
                }
            }
        }
        println!("`{stage}`, killed {rounds} times: {harmed} files of its work damaged, each time the same artifact");
        all += harmed;
    }
    all
}

#[test]
fn a_damaged_file_of_the_work_of_any_kind_does_not_change_the_artifact() {
    let stages = if full() { &STAGES[..] } else { &STAGES[2..3] };
    let harmed = damage_of_work(stages, count(1, 2));
    println!("{harmed} files of work/ of {} kinds flipped, cut, emptied or removed: the same artifacts", stages.len());
}
