//! Tortures a cache with several builds between which no lock holds, as on a network file system on which flock is
//! local to each machine. docs/decisions/0021 says what holds and what does not.

use std::process::Stdio;

use crate::faults::shim;
use crate::many::times_run;
use crate::world::{count, digests, expected_of_small, small, verify_clean};
use raisin_tests::{CommandOutput, processes};

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler `cc`")]
fn without_locks_between_machines_actions_run_several_times_and_no_wrong_artifact_is_served() {
    let (processes, rounds) = (count(8, 16), count(2, 50));
    let mut most = 0;
    for round in 0..rounds {
        let project = small();
        let start = |machine: usize| {
            // Each machine has its own out folder: links are kept in order by a lock.
            let mut command = project.raisin(&["build", "small.toml", "--out", &format!("out-{machine}")]);
            command.env("LD_PRELOAD", shim()).env("TORTURE_FLOCK", "local").env("RAISIN_MACHINE", machine.to_string());
            command.env("RAISIN_LOCKS", project.path("locks-of-machines"));
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("raisin starts")
        };
        let builds: Vec<_> = (0..processes).map(start).collect();
        for build in builds {
            let output = CommandOutput::from(processes::ended(build));
            assert_eq!(output.code, 0, "round {round}: {}", output.stderr);
        }
        // The lock files of each machine lie on its own disk, and none in the cache.
        let locks = project.path("locks-of-machines").read_dir().expect("a folder").count();
        assert_eq!((locks, project.path("cache/locks/store").exists()), (processes, false));
        most = most.max(times_run(&project).into_values().max().unwrap_or(0));
        verify_clean(&project, "builds without locks");
        project.done(&["build", "small.toml"]);
        assert_eq!(&digests(&project), expected_of_small(), "round {round}");
    }
    println!(
        "{rounds} rounds of {processes} builds without locks between them: all succeeded, an action ran up to {most} \
         times, no wrong artifact"
    );
}
