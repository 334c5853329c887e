//! Two versions of raisin at work on one cache at the same time: the executables of this tree, and those of the last
//! release, in the folder that RAISIN_LAST_RELEASE names.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::kills::kill_all;
use crate::world::{count, digests, expected_of_small, full, small, verify_clean};
use raisin_tests::{CommandOutput, Project, TestRng, processes};

/// A command with the executables of the last release.
fn released(project: &Project, arguments: &[&str]) -> Command {
    let folder = PathBuf::from(std::env::var_os("RAISIN_LAST_RELEASE").expect("the test is ignored without it"));
    let mut command = Command::new(folder.join("raisin"));
    project.place(command.args(arguments)).env("RAISIN_WORKER", folder.join("raisin-worker"));
    command
}

#[test]
#[cfg_attr(not(has_last_release), ignore = "RAISIN_LAST_RELEASE names no folder with the last release's executables")]
fn the_last_release_and_this_one_at_work_on_one_cache_and_killed_at_random_agree() {
    let rounds = count(10, 500);
    let mut rng = TestRng::new("release");
    let (mut kills, mut project) = (0, small());
    for round in 0..rounds {
        if round % 5 == 0 {
            project = small();
        }
        let size = format!("stage.pool.size={}", 60 + rng.below(3));
        let start = |is_old: bool, arguments: &[&str]| -> Child {
            let mut command = if is_old { released(&project, arguments) } else { project.raisin(arguments) };
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("raisin starts")
        };
        let mut builds: Vec<(bool, Child)> = Vec::new();
        for is_old in [true, false, rng.below(2) == 0] {
            let arguments: &[&str] = match rng.below(4) {
                0 => &["build", "small.toml", "--set", &size, "--force"],
                1 => &["build", "small.toml", "--set", &size],
                2 => &["gc", "--yes"],
                _ => &["build", "small.toml"],
            };
            builds.push((is_old, start(is_old, arguments)));
        }
        for (is_old, mut build) in builds {
            std::thread::sleep(Duration::from_micros(rng.below(150_000) as u64));
            if rng.below(3) != 0 && build.try_wait().expect("a status").is_none() {
                kill_all(&mut build);
                kills += 1;
                continue;
            }
            let output = CommandOutput::from(processes::ended(build));
            // gc refuses to start while a build runs.
            let is_fine = output.code == 0 || output.stderr.contains("is using this cache");
            assert!(is_fine, "round {round}, old: {is_old}: {}", output.stderr);
        }
        for is_old in [rng.below(2) == 0, false] {
            let mut command = if is_old { released(&project, &["verify"]) } else { project.raisin(&["verify"]) };
            let output = CommandOutput::of(&mut command);
            assert_eq!(output.code, 0, "round {round}, old: {is_old}: {}", output.stderr);
        }
        // Both versions find the artifacts of the other.
        let (first, second) = if rng.below(2) == 0 { (true, false) } else { (false, true) };
        for (place, is_old) in [first, second].into_iter().enumerate() {
            let arguments = ["build", "small.toml"];
            let mut command = if is_old { released(&project, &arguments) } else { project.raisin(&arguments) };
            let output = CommandOutput::of(&mut command);
            assert_eq!(output.code, 0, "round {round}, old: {is_old}: {}", output.stderr);
            assert!(place == 0 || output.stderr.contains("nothing to run"), "round {round}: {}", output.stderr);
        }
        assert_eq!(&digests(&project), expected_of_small(), "round {round}");
        if full() || round + 1 == rounds {
            verify_clean(&project, "both versions");
        }
    }
    println!("{rounds} rounds of both versions on one cache, {kills} kills: verify clean, the same artifacts");
}
