//! Jobs of a real Slurm: controller, two node daemons and munge on loopback, which tests/slurm/cluster.sh starts in a
//! folder for each test. Accounting is off.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use raisin_tests::processes::{ended, output, wait_for};
use raisin_tests::{CommandOutput, Project, package};

use crate::{equals_a_local_build, has_begun, scored};

/// A Slurm that stops when the value is dropped.
struct Slurm {
    folder: tempfile::TempDir,
}

impl Slurm {
    fn start() -> Self {
        let slurm = Self { folder: tempfile::tempdir().unwrap() };
        slurm.does("start", &[]);
        slurm
    }

    fn script(&self, action: &str, more: &[&str]) -> Command {
        let mut command = Command::new(package().join("tests/slurm/cluster.sh"));
        command.arg(action).arg(self.folder.path()).args(more);
        command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        command
    }

    fn does(&self, action: &str, more: &[&str]) {
        let done = CommandOutput::from(output(&mut self.script(action, more)));
        assert_eq!(done.code, 0, "{action}: {}{}", done.stdout, done.stderr);
    }

    /// The output of a command of Slurm.
    fn asks(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(arguments).env("SLURM_CONF", self.folder.path().join("slurm.conf"));
        let done = CommandOutput::from(output(&mut command));
        assert_eq!(done.code, 0, "{program} {arguments:?}: {}", done.stderr);
        done.stdout
    }

    /// The ids of the jobs of this user that run now.
    fn running(&self) -> Vec<String> {
        let text = self.asks("squeue", &["--noheader", "--array", "--states=running", "--format=%i"]);
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn raisin(&self, project: &Project, arguments: &[&str]) -> Command {
        let mut command = project.raisin(arguments);
        command.env("SLURM_CONF", self.folder.path().join("slurm.conf"));
        command
    }

    fn build(&self, project: &Project, arguments: &[&str]) -> CommandOutput {
        CommandOutput::of(&mut self.raisin(project, &[&["build", "p.toml"], arguments].concat()))
    }

    fn done(&self, project: &Project, arguments: &[&str]) -> String {
        let output = self.build(project, arguments);
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stderr
    }

    fn begins(&self, project: &Project, arguments: &[&str]) -> Child {
        let mut command = self.raisin(project, &[&["build", "p.toml"], arguments].concat());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        // If it does not stop, the next test has another folder and other ports.
        let _ = self.script("stop", &[]).status();
    }
}

/// A project whose stage `scored` runs as a job of Slurm.
fn with_slurm(more: &str) -> Project {
    scored(&format!("[executor]\nrun = \"slurm\"\ninterval = \"1s\"\nmemory = \"300MB\"\n{more}\n"))
}

/// As `wait_for`, for what a cluster does in its own time.
fn wait_long(what: &str, mut came: impl FnMut() -> bool) {
    let began = Instant::now();
    while !came() {
        assert!(began.elapsed() < Duration::from_mins(4), "it does not happen that {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

const TWENTY: &str = "[sweep]\n\"stage.scored.run.5\" = [\"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\", \"10\", \
                      \"11\", \"12\", \"13\", \"14\", \"15\", \"16\", \"17\", \"18\", \"19\", \"20\"]";

#[test]
#[cfg_attr(not(has_slurm), ignore = "RAISIN_SLURM is not set: `just test-all` sets it")]
fn a_sweep_of_twenty_variants_runs_as_arrays_while_a_node_is_drained_and_one_is_lost() {
    let slurm = Slurm::start();
    let project = with_slurm(&format!("jobs = 6\n{TWENTY}"));
    project.write("wait", "");
    let build = slurm.begins(&project, &[]);
    wait_long("six jobs run", || has_begun(&project, 6) && slurm.running().len() >= 6);
    // No further job comes to the first node. Those that run there go on.
    slurm.asks("scontrol", &["update", "nodename=n1", "state=drain", "reason=test"]);
    let on = |node: &str| slurm.asks("squeue", &["--noheader", "--states=running", "--nodelist", node, "--format=%i"]);
    let (first, second) = (on("n1"), on("n2"));
    assert!(!first.is_empty() && !second.is_empty(), "{first:?} {second:?}");
    // The second node is lost with its jobs. Slurm starts them again on the first, when it is back.
    slurm.does("kill-node", &["n2"]);
    wait_long("the second node is down", || {
        slurm.asks("sinfo", &["--noheader", "--nodes=n2", "--format=%T"]).contains("down")
    });
    slurm.asks("scontrol", &["update", "nodename=n1", "state=resume"]);
    std::fs::remove_file(project.path("wait")).unwrap();
    slurm.does("start-node", &["n2"]);
    let output = CommandOutput::from(ended(build));
    assert_eq!(output.code, 0, "{}", output.stderr);
    // 16 is the limit of this Slurm for an array.
    assert!(output.stderr.contains("submitted as slurm job 1_15"), "{}", output.stderr);
    assert!(output.stderr.contains("submitted as slurm job 2_3") || output.stderr.contains("_3"), "{}", output.stderr);
    let times = std::fs::read_to_string(project.path("began")).unwrap().lines().count();
    assert!(times > 20, "no job was started again: {times}");
    equals_a_local_build(&project, "p.toml", "scored");
    assert_eq!(project.run(&["verify"]).code, 0);
}

#[test]
#[cfg_attr(not(has_slurm), ignore = "RAISIN_SLURM is not set: `just test-all` sets it")]
fn tensor_stages_run_as_jobs_of_slurm_with_the_artifacts_of_a_local_build() {
    let slurm = Slurm::start();
    let project = Project::with_pipeline("micro.toml");
    let text = std::fs::read_to_string(project.path("micro.toml")).unwrap();
    project.write("p.toml", &format!("{text}\n[executor]\nrun = \"slurm\"\ninterval = \"1s\"\nmemory = \"1GB\"\n"));
    let told = slurm.done(&project, &["--threads", "1"]);
    assert!(told.contains("built micro: 16 ran"), "{told}");
    project.done(&["build", "p.toml", "--threads", "1", "--set", "executor.run=local", "--cache", "l", "--out", "lo"]);
    let [jobs, local] = ["out", "lo"].map(|out| std::fs::read(project.path(out).join("micro/build.json")).unwrap());
    assert!(jobs == local, "the artifacts differ from those of a local build");
}

#[test]
#[cfg_attr(not(has_slurm), ignore = "RAISIN_SLURM is not set: `just test-all` sets it")]
fn a_build_survives_a_restart_of_the_controller_and_a_detached_build_finds_its_jobs_again() {
    let slurm = Slurm::start();
    let project = with_slurm("[sweep]\n\"stage.scored.run.5\" = [\"1\", \"2\", \"3\"]");
    project.write("wait", "");
    let told = slurm.done(&project, &["--detach"]);
    assert!(told.contains("left: slurm job 1_2 goes on") && told.contains("3 jobs go on"), "{told}");
    wait_long("the jobs run", || has_begun(&project, 3));
    let build = slurm.begins(&project, &[]);
    std::thread::sleep(Duration::from_secs(3));
    slurm.does("restart-controller", &["40"]);
    std::thread::sleep(Duration::from_secs(3));
    std::fs::remove_file(project.path("wait")).unwrap();
    let output = CommandOutput::from(ended(build));
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("found its slurm job 1_0 again"), "{}", output.stderr);
    assert!(output.stderr.contains("does not tell the states of the jobs now"), "{}", output.stderr);
    assert_eq!(std::fs::read_to_string(project.path("began")).unwrap().lines().count(), 3);
    equals_a_local_build(&project, "p.toml", "scored");
}

#[test]
#[cfg_attr(not(has_slurm), ignore = "RAISIN_SLURM is not set: `just test-all` sets it")]
fn the_jobs_of_a_build_that_was_killed_before_it_knew_their_ids_are_found_by_their_mark() {
    let slurm = Slurm::start();
    for sweep in ["", "[sweep]\n\"stage.scored.run.5\" = [\"1\", \"2\", \"3\"]"] {
        let jobs = if sweep.is_empty() { 1 } else { 3 };
        let project = with_slurm(sweep);
        project.write("wait", "");
        // Submits as sbatch does, and kills the build before it hears the id.
        let script = "#!/bin/sh\nPATH=${PATH#*:}\nsbatch \"$@\" > /dev/null && kill -KILL $PPID\n";
        project.write("bin/sbatch", script);
        let mut rights = std::fs::metadata(project.path("bin/sbatch")).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o755);
        std::fs::set_permissions(project.path("bin/sbatch"), rights).unwrap();
        let mut build = slurm.raisin(&project, &["build", "p.toml"]);
        build.env("PATH", format!("{}:{}", project.path("bin").display(), std::env::var("PATH").unwrap()));
        assert_eq!(CommandOutput::of(&mut build).code, -1);
        wait_long("the jobs run", || has_begun(&project, jobs));
        let build = slurm.begins(&project, &[]);
        std::thread::sleep(Duration::from_secs(2));
        std::fs::remove_file(project.path("wait")).unwrap();
        let output = CommandOutput::from(ended(build));
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert_eq!(output.stderr.matches("found its slurm job").count(), jobs, "{}", output.stderr);
        assert_eq!(std::fs::read_to_string(project.path("began")).unwrap().lines().count(), jobs);
        equals_a_local_build(&project, "p.toml", "scored");
    }
}

#[test]
#[cfg_attr(not(has_slurm), ignore = "RAISIN_SLURM is not set: `just test-all` sets it")]
fn killed_and_cancelled_and_refused_jobs_are_failures_with_their_reason() {
    let slurm = Slurm::start();
    // A partition that does not exist.
    let project = with_slurm("");
    let output = slurm.build(&project, &["--set", "executor.partition=nosuch"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("slurm refused the job"), "{}", output.stderr);
    assert!(output.stderr.contains("Invalid partition name specified"), "{}", output.stderr);
    // A person cancels the job.
    project.write("wait", "");
    let build = slurm.begins(&project, &[]);
    wait_long("the program starts", || has_begun(&project, 1));
    slurm.running().iter().for_each(|id| drop(slurm.asks("scancel", &[id])));
    let output = CommandOutput::from(ended(build));
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(output.stderr.contains("was cancelled by someone else than this build"), "{}", output.stderr);
    // The worker is killed, and the job itself goes on.
    let build = slurm.begins(&project, &[]);
    wait_long("the program starts", || has_begun(&project, 2));
    let workers = Command::new("pgrep").args(["-f", "raisin-data run-stages"]).output().unwrap();
    for pid in String::from_utf8_lossy(&workers.stdout).lines() {
        let place = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let own = slurm.folder.path().display().to_string();
        if String::from_utf8_lossy(&place).contains(&own) && String::from_utf8_lossy(&place).contains("SLURM_JOB_ID") {
            assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
        }
    }
    let output = CommandOutput::from(ended(build));
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(output.stderr.contains("killed (signal 9)"), "{}", output.stderr);
    // `--cancel` ends the job of an interrupted build.
    let build = slurm.begins(&project, &["--cancel"]);
    wait_long("the program starts", || has_begun(&project, 3));
    let pid = rustix::process::Pid::from_child(&build);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = CommandOutput::from(ended(build));
    assert_eq!(output.code, 130, "{}", output.stderr);
    assert!(output.stderr.contains("cancelled slurm job"), "{}", output.stderr);
    wait_for("no job runs", || slurm.running().is_empty());
    std::fs::remove_file(project.path("wait")).unwrap();
    slurm.done(&project, &[]);
    equals_a_local_build(&project, "p.toml", "scored");
}

#[test]
#[cfg_attr(not(has_slurm), ignore = "RAISIN_SLURM is not set: `just test-all` sets it")]
fn a_job_beyond_its_time_goes_on_in_a_new_job_and_a_job_beyond_its_memory_fails_with_a_hint() {
    let slurm = Slurm::start();
    let project = with_slurm("time = \"1m\"");
    project.write("wait", "");
    let build = slurm.begins(&project, &[]);
    let hungry = with_slurm("");
    let script = "x=$(head -c 500000000 /dev/zero | tr '\\0' a); sleep 20; echo ${#x}\n";
    hungry.write("score.sh", script);
    let output = slurm.build(&hungry, &[]);
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(output.stderr.contains("needs more than its memory of 300.0 MB"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: give it more: [executor.stage.scored] memory = "), "{}", output.stderr);
    wait_long("the job is started again", || has_begun(&project, 2));
    std::fs::remove_file(project.path("wait")).unwrap();
    let output = CommandOutput::from(ended(build));
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("reached its time limit; it is submitted again (1 of 3)"), "{}", output.stderr);
    equals_a_local_build(&project, "p.toml", "scored");
}
