//! Jobs by three commands of the pipeline file. The scheduler is runner.sh.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use raisin_base::seed::Seed;
use raisin_store::Store;
use raisin_tests::processes::{ended, wait_for};
use raisin_tests::{CommandOutput, Project, executable, package};

use crate::{equals_a_local_build, has_begun, scored};

/// A project whose stage `scored` runs as a job of runner.sh.
fn with_runner(more: &str) -> Project {
    let script = package().join("tests/jobs/runner.sh").display().to_string();
    scored(&format!(
        "[executor]\nrun = \"template\"\ninterval = \"1s\"\n\
         submit = [\"{script}\", \"submit\", \"jobs\", \"{{script}}\", \"{{output}}\"]\n\
         poll = [\"{script}\", \"poll\", \"jobs\", \"{{ids}}\"]\n\
         cancel = [\"{script}\", \"cancel\", \"jobs\", \"{{ids}}\"]\n{more}\n"
    ))
}

/// The numbers of the jobs that were submitted.
fn submitted(project: &Project) -> usize {
    let entries = std::fs::read_dir(project.path("jobs")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("job")).count()
}

fn lose(project: &Project, job: &str, state: &str) {
    let script = package().join("tests/jobs/runner.sh");
    let mut command = Command::new(script);
    let status = project.place(command.args(["lose", "jobs", job, state])).status().unwrap();
    assert!(status.success());
}

/// Whether the processes of a job have ended, soon.
fn has_ended(project: &Project, number: usize) -> bool {
    let leader = std::fs::read_to_string(project.path(&format!("jobs/job{number}/pid"))).unwrap();
    let process = PathBuf::from(format!("/proc/{}/cmdline", leader.trim()));
    // A process that has ended and that nobody has waited for has an empty command line.
    let is_alive = || std::fs::read(&process).is_ok_and(|words| !words.is_empty());
    wait_for("the job ends", || !is_alive());
    true
}

/// The folder of the only job in the cache.
fn job_folder(project: &Project) -> PathBuf {
    let entries = std::fs::read_dir(project.path("cache/jobs")).unwrap().flatten();
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.join("job.json").exists()).collect();
    assert_eq!(folders.len(), 1);
    folders.remove(0)
}

#[test]
fn the_variants_of_a_sweep_run_as_jobs_and_every_artifact_equals_that_of_a_local_build() {
    let project = with_runner("jobs = 3\n[sweep]\n\"stage.scored.run.5\" = [\"1\", \"2\", \"3\", \"4\", \"5\"]");
    let (_, told) = project.done(&["build", "p.toml"]);
    assert!(told.contains("submitted as template job job1"), "{told}");
    assert_eq!(submitted(&project), 5, "{told}");
    project.finds_all(&["build", "p.toml"]);
    equals_a_local_build(&project, "p.toml", "scored");
    assert!(
        !project.path("cache/jobs").read_dir().unwrap().flatten().any(|left| left.path().join("job.json").exists())
    );
    // The time of the job is in the record, and its log is that of the stage.
    let actions = Store::open(&project.path("cache")).unwrap().actions().unwrap();
    assert!(actions.iter().filter(|action| action.stage == "scored").all(|action| action.seconds > 0.0));
    assert_eq!(project.run(&["verify"]).code, 0);
}

#[test]
fn tensor_stages_run_as_jobs_and_every_artifact_equals_that_of_a_local_build() {
    let project = Project::with_pipeline("micro.toml");
    let script = package().join("tests/jobs/runner.sh").display().to_string();
    let text = std::fs::read_to_string(project.path("micro.toml")).unwrap();
    let executor = format!(
        "[executor]\nrun = \"template\"\ninterval = \"1s\"\njobs = 2\n\
         submit = [\"{script}\", \"submit\", \"jobs\", \"{{script}}\", \"{{output}}\"]\n\
         poll = [\"{script}\", \"poll\", \"jobs\", \"{{ids}}\"]\n\
         cancel = [\"{script}\", \"cancel\", \"jobs\", \"{{ids}}\"]\n"
    );
    project.write("micro.toml", &format!("{text}\n{executor}"));
    project.done(&["build", "micro.toml", "--threads", "1"]);
    assert_eq!(submitted(&project), 13);
    let arguments = ["--set", "executor.run=local", "--cache", "local", "--out", "local-out"];
    project.done(&[&["build", "micro.toml", "--threads", "1"], &arguments[..]].concat());
    let [jobs, local] = ["out", "local-out"].map(|out| std::fs::read(project.path(out).join("micro/build.json")));
    assert!(jobs.unwrap() == local.unwrap(), "the artifacts differ from those of a local build");
}

#[test]
fn a_detached_build_leaves_its_jobs_and_the_same_command_finds_them_again() {
    let project = with_runner("");
    project.write("jobs/hold", "");
    let (_, told) = project.done(&["build", "p.toml", "--detach"]);
    assert!(told.contains("left: template job job1 goes on"), "{told}");
    assert!(told.contains("detached scored: 1 job goes on, 1 ran"), "{told}");
    let (_, told) = project.done(&["build", "p.toml", "--detach"]);
    assert!(told.contains("found its template job job1 again"), "{told}");
    std::fs::remove_file(project.path("jobs/hold")).unwrap();
    let (_, told) = project.done(&["build", "p.toml"]);
    assert!(told.contains("found its template job job1 again") && told.contains("2 ran"), "{told}");
    assert_eq!(submitted(&project), 1);
    equals_a_local_build(&project, "p.toml", "scored");
}

#[test]
fn a_build_that_was_killed_while_it_submitted_makes_the_next_one_name_the_job_that_may_be_there() {
    let project = with_runner("");
    project.write("jobs/kill", "");
    project.write("wait", "");
    let killed = project.run(&["build", "p.toml"]);
    assert_eq!((killed.code, submitted(&project)), (-1, 1), "{}", killed.stderr);
    let folder = job_folder(&project);
    assert!(folder.join("submitting.json").exists() && !folder.join("submitted.json").exists());
    wait_for("the first job runs", || has_begun(&project, 1));
    std::fs::remove_file(project.path("wait")).unwrap();
    let (_, told) = project.done(&["build", "p.toml"]);
    assert!(told.contains("ended before the id of its job was known: this build submits another one"), "{told}");
    assert!(told.contains(&format!("its folder {}", folder.display())), "{told}");
    equals_a_local_build(&project, "p.toml", "scored");
    // Once the id is known, nothing is said.
    let (_, told) = project.done(&["build", "p.toml", "--force"]);
    assert!(!told.contains("ended before the id"), "{told}");
}

#[test]
fn a_job_that_ends_while_no_build_watches_is_collected() {
    let project = with_runner("");
    project.done(&["build", "p.toml", "--detach"]);
    wait_for("the job ends", || job_folder(&project).join("done.json").exists());
    let (_, told) = project.done(&["build", "p.toml"]);
    assert_eq!(submitted(&project), 1, "{told}");
    assert!(told.contains("found its template job job1 again"), "{told}");
}

#[test]
fn a_build_takes_over_a_result_that_a_killed_build_has_taken_over_in_part() {
    let job_ended = || {
        let project = with_runner("");
        project.done(&["build", "p.toml", "--detach"]);
        wait_for("the job ends", || job_folder(&project).join("done.json").exists());
        // The artifact that the build will make.
        project.done(&["build", "p.toml", "--set", "executor.run=local", "--cache", "local", "--out", "local-out"]);
        let local = Store::open(&project.path("local")).unwrap();
        let action = local.actions().unwrap().into_iter().find(|action| action.stage == "scored").unwrap();
        let entries = std::fs::read_dir(job_folder(&project)).unwrap().flatten().map(|entry| entry.path());
        let attempt = entries.into_iter().find(|path| path.join("out").is_dir()).unwrap();
        (project, attempt, local.artifact_folder(action.artifact))
    };
    let builds = |project: &Project, jobs: usize| {
        let (_, told) = project.done(&["build", "p.toml"]);
        assert_eq!(submitted(project), jobs, "{told}");
        equals_a_local_build(project, "p.toml", "scored");
        assert_eq!(project.run(&["verify"]).code, 0);
    };

    // The build was killed while it wrote the manifest.
    let (project, attempt, artifact) = job_ended();
    let manifest = std::fs::read(artifact.join("manifest.json")).unwrap();
    std::fs::write(attempt.join("out/manifest.json"), &manifest[..manifest.len() - 9]).unwrap();
    builds(&project, 1);

    // The build was killed when the artifact was in its place, and the record of the action was not.
    let (project, attempt, artifact) = job_ended();
    let copied = Command::new("cp").arg("-a").args([&artifact, &project.path("cache/artifacts")]).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(attempt.join("out")).unwrap();
    let digest = artifact.file_name().unwrap().to_str().unwrap();
    std::fs::write(attempt.join("artifact.json"), format!("{digest:?}")).unwrap();
    builds(&project, 1);

    // Somebody removed the results.
    let (project, attempt, _) = job_ended();
    std::fs::remove_dir_all(attempt.join("out")).unwrap();
    let failed = project.run(&["build", "p.toml"]);
    assert!(
        failed.code == 1 && failed.stderr.contains("the job has ended, and its results are gone"),
        "{}",
        failed.stderr
    );
    builds(&project, 2);
}

#[test]
fn a_build_with_jobs_that_is_killed_again_and_again_ends_with_the_artifacts_of_a_local_build() {
    let full = std::env::var("RAISIN_TORTURE").is_ok_and(|word| word == "full");
    let (builds, mut kills) = (if full { 60 } else { 3 }, 0);
    // The times of the kills are drawn; which work they hit depends on the machine.
    let mut rng = Seed::new(7).rng();
    for _ in 0..builds {
        let project = with_runner("");
        for _ in 0..8 {
            let mut build = project.start(&["build", "p.toml"]);
            std::thread::sleep(Duration::from_millis(rng.below(1000) as u64));
            // A build that has ended already has succeeded.
            match build.try_wait().unwrap() {
                Some(status) => assert!(status.success()),
                None => {
                    build.kill().unwrap();
                    build.wait().unwrap();
                    kills += 1;
                }
            }
        }
        project.done(&["build", "p.toml"]);
        equals_a_local_build(&project, "p.toml", "scored");
        assert_eq!(project.run(&["verify"]).code, 0);
    }
    assert!(kills >= builds, "{kills} kills in {builds} builds");
    println!("{kills} kills in {builds} builds");
}

#[test]
fn the_jobs_of_a_killed_build_go_on_and_are_found_again() {
    let project = with_runner("");
    project.write("wait", "");
    let mut build = project.start(&["build", "p.toml"]);
    wait_for("the program starts", || has_begun(&project, 1));
    // A build that is killed before it has written this file does not know its job any more.
    wait_for("the build knows its job", || job_folder(&project).join("submitted.json").exists());
    build.kill().unwrap();
    build.wait().unwrap();
    std::fs::remove_file(project.path("wait")).unwrap();
    let (_, told) = project.done(&["build", "p.toml"]);
    assert!(told.contains("found its template job job1 again"), "{told}");
    assert_eq!(submitted(&project), 1);
}

#[test]
fn an_interrupted_build_leaves_its_jobs_or_cancels_them() {
    for (flag, words, goes_on) in [
        (None, "left: template job job1 goes on", true),
        (Some("--leave"), "left: template job job1 goes on", true),
        (Some("--cancel"), "cancelled template job job1", false),
    ] {
        let project = with_runner("");
        project.write("wait", "");
        let arguments = [&["build", "p.toml"][..], &flag.into_iter().collect::<Vec<_>>()].concat();
        let mut build = project.raisin(&arguments);
        let build = build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("the program starts", || has_begun(&project, 1));
        let pid = rustix::process::Pid::from_child(&build);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let output = CommandOutput::from(ended(build));
        assert_eq!(output.code, 130, "{}", output.stderr);
        assert!(output.stderr.contains(words), "{flag:?}: {}", output.stderr);
        assert!(goes_on || has_ended(&project, 1), "the job was not cancelled");
        std::fs::remove_file(project.path("wait")).unwrap();
        let (_, told) = project.done(&["build", "p.toml"]);
        assert_eq!(told.contains("found its template job job1 again"), goes_on, "{told}");
        assert_eq!(submitted(&project), if goes_on { 1 } else { 2 }, "{told}");
        equals_a_local_build(&project, "p.toml", "scored");
    }
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set")]
fn on_a_terminal_a_build_asks_what_becomes_of_its_jobs() {
    for (answer, words, goes_on) in [
        ("y", "cancelled template job job1", false),
        ("", "left: template job job1 goes on", true),
        ("ctrl-c", "left: template job job1 goes on", true),
    ] {
        let project = with_runner("");
        project.write("wait", "");
        let mut command = Command::new(std::env::var("RAISIN_PYTHON").unwrap());
        command.arg(package().join("tests/python/answer.py")).arg(answer).arg(project.path("began"));
        command.arg(executable("raisin")).args(["build", "p.toml"]);
        let output = CommandOutput::of(project.place(&mut command));
        assert_eq!(output.code, 130, "{}{}", output.stdout, output.stderr);
        assert!(output.stdout.contains("1 job runs or waits on the cluster. Cancel? [y/N]"), "{}", output.stdout);
        assert!(output.stdout.contains(words), "{answer}: {}", output.stdout);
        assert!(goes_on || has_ended(&project, 1), "the job was not cancelled");
        std::fs::remove_file(project.path("wait")).unwrap();
        let (_, told) = project.done(&["build", "p.toml"]);
        assert_eq!(told.contains("found its template job job1 again"), goes_on, "{told}");
    }
}

#[test]
fn a_job_that_loses_its_node_goes_on_from_its_checkpoint_and_not_for_ever() {
    let project = with_runner("");
    project.write("wait", "");
    let mut build = project.raisin(&["build", "p.toml"]);
    let build = build.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    for (number, state) in (1..).zip(["node_fail", "preempted", "timeout"]) {
        wait_for("the program starts", || has_begun(&project, number));
        lose(&project, &format!("job{number}"), state);
    }
    wait_for("the program starts", || has_begun(&project, 4));
    std::fs::remove_file(project.path("wait")).unwrap();
    let output = CommandOutput::from(ended(build));
    assert_eq!(output.code, 0, "{}", output.stderr);
    for words in ["job1 lost its node", "job2 was preempted", "job3 reached its time limit", "(3 of 3)"] {
        assert!(output.stderr.contains(words), "{words}: {}", output.stderr);
    }
    let logs = project.path("cache/logs").read_dir().unwrap().flatten();
    let logs: String = logs.map(|log| std::fs::read_to_string(log.path()).unwrap()).collect();
    assert!(logs.contains("goes on after 1 steps"), "{logs}{}", output.stderr);
    equals_a_local_build(&project, "p.toml", "scored");

    let project = with_runner("");
    project.write("wait", "");
    let mut build = project.raisin(&["build", "p.toml"]);
    let build = build.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    for number in 1..=4 {
        wait_for("the program starts", || has_begun(&project, number));
        lose(&project, &format!("job{number}"), "timeout");
    }
    let output = CommandOutput::from(ended(build));
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(output.stderr.contains("template job job4 reached its time limit 4 times"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: give it more time: [executor.stage.scored] time"), "{}", output.stderr);
    // The next build goes on from the checkpoint.
    std::fs::remove_file(project.path("wait")).unwrap();
    project.done(&["build", "p.toml"]);
    assert_eq!(submitted(&project), 5);
}

#[test]
fn a_failure_says_what_the_stage_or_the_scheduler_said() {
    let project = with_runner("");
    // The stage fails: the log, and a new job with the next build.
    project.write("fail", "");
    let output = project.run(&["build", "p.toml"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("the reason lies here"), "{}", output.stderr);
    std::fs::remove_file(project.path("fail")).unwrap();
    project.done(&["build", "p.toml"]);
    assert_eq!(submitted(&project), 2);

    // A refused job.
    let project = with_runner("");
    project.write("jobs/refuse", "error: you have no account here\n");
    let output = project.run(&["build", "p.toml"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("template refused the job"), "{}", output.stderr);
    assert!(output.stderr.contains("you have no account here"), "{}", output.stderr);

    // A job that cannot even start raisin.
    let output = project.run(&["build", "p.toml", "--set", "executor.raisin=/nowhere/raisin"]);
    assert!(output.stderr.contains("you have no account here"), "{}", output.stderr);
    std::fs::remove_file(project.path("jobs/refuse")).unwrap();
    let output = project.run(&["build", "p.toml", "--set", "executor.raisin=/nowhere/raisin"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("template job job1 failed"), "{}", output.stderr);
    assert!(output.stderr.contains("/nowhere/raisin: not found"), "{}", output.stderr);

    // A command that is not there.
    let output = project.run(&["build", "p.toml", "--set", "executor.poll=[\"no-such-poll\"]"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("there is no `no-such-poll` on this machine"), "{}", output.stderr);

    // Memory.
    project.write("wait", "");
    let mut build = project.raisin(&["build", "p.toml", "--set", "executor.memory=3GB"]);
    let build = build.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the program starts", || has_begun(&project, 1));
    lose(&project, "job2", "out_of_memory");
    let output = CommandOutput::from(ended(build));
    assert!(output.stderr.contains("job job2 needs more than its memory of 3.0 GB"), "{}", output.stderr);
    assert!(output.stderr.contains("[executor.stage.scored] memory = "), "{}", output.stderr);
}

#[test]
fn a_scheduler_that_does_not_answer_is_asked_again() {
    let project = with_runner("");
    project.write("jobs/silent", "");
    let mut build = project.raisin(&["build", "p.toml"]);
    let build = build.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    std::fs::remove_file(project.path("jobs/silent")).unwrap();
    let output = CommandOutput::from(ended(build));
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("template does not answer, next attempt in 2 s"), "{}", output.stderr);
    assert_eq!(submitted(&project), 1);
}

#[test]
fn force_and_check_run_new_jobs_and_a_changed_input_cancels_the_old_one() {
    let project = with_runner("");
    project.done(&["build", "p.toml"]);
    let (_, told) = project.done(&["build", "p.toml", "--force", "scored", "--check"]);
    assert!(told.contains("twice the same"), "{told}");
    assert_eq!(submitted(&project), 3);

    let project = with_runner("");
    project.write("wait", "");
    project.done(&["build", "p.toml", "--detach"]);
    wait_for("the program starts", || has_begun(&project, 1));
    // The same bytes with another time: what the job has read is not sure any more.
    let text = std::fs::read_to_string(project.path("score.sh")).unwrap();
    std::fs::remove_file(project.path("wait")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    project.write("score.sh", &text);
    project.write("wait", "");
    project.done(&["build", "p.toml", "--detach"]);
    assert_eq!(submitted(&project), 2);
    std::fs::remove_file(project.path("wait")).unwrap();
    project.done(&["build", "p.toml"]);
    equals_a_local_build(&project, "p.toml", "scored");
}

#[test]
fn wrong_settings_are_refused_with_their_place() {
    for (lines, words) in [
        ("[executor]\nrun = \"slrum\"", "unknown variant `slrum`"),
        ("[executor]\nrunn = \"slurm\"", "unknown field `runn`"),
        ("[executor]\nrun = \"slurm\"\ntime = \"soon\"", "a time looks like"),
        ("[executor]\nrun = \"slurm\"\nmemory = \"much\"", "a size looks like"),
        (
            "[executor]\nrun = \"slurm\"\nstages = [\"scord\"]",
            "there is no stage `scord`\nhint: did you mean `scored`?",
        ),
        ("[executor.stage.scord]\ntime = \"2h\"", "there is no stage `scord`"),
        ("[executor]\nrun = \"template\"", "`submit` must be a command"),
        ("[sweep]\n\"executor.time\" = [\"1h\", \"2h\"]", "`executor.time` cannot be swept"),
    ] {
        let project = scored(lines);
        let (code, told) = project.refused(&["build", "p.toml"]);
        assert_eq!(code, 2, "{told}");
        assert!(told.contains(words) && told.contains("p.toml:"), "{words}: {told}");
    }
}
