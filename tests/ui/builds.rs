//! Builds as the page sees them, from before the first one to a deleted cache.

use raisin_tests::{Project, package, paths_below, processes};
use rustix::process::{Pid, Signal, kill_process};

use crate::{RunningBuild, Ui, project};

#[test]
fn a_build_is_seen_from_its_first_stage_to_its_report() {
    let project = project();
    let ui = Ui::start(&project, &["p.toml"]);
    // Before the first build.
    assert_eq!((ui.state()["phase"].as_str(), ui.stage("waits")["state"].as_str()), (Some("none"), Some("not built")));
    let words = ui.part("build");
    assert!(words.contains("Not built") && words.contains("raisin build p.toml"), "{words}");
    assert!(ui.part("graph").contains(">scores<"), "the graph is there before the first build");
    assert!(!project.path("cache").exists() && !project.path("out").exists(), "the page writes nothing");

    // While the build runs.
    let mut build = RunningBuild::start(&project, &[]);
    processes::wait_for("the stage runs and its progress is seen", || {
        let stage = ui.stage("waits");
        stage["state"] == "running" && stage["progress"]["done"] == 3
    });
    processes::wait_for("the training has ended", || ui.stage("tuned")["state"] == "done");
    let (state, counted) = (ui.state(), ui.stage("counted"));
    assert!(state["phase"] == "running" && state["outcome"].is_null(), "{state}");
    assert!(counted["state"] == "waiting" && counted["inputs"].as_array().unwrap().len() == 1, "{counted}");
    // The box has the tables of the stages that are done, before there is a link.
    assert!(!project.path("out/p/build.json").exists());
    let done = ui.ask("select count(*) as n from tuned.steps")["parts"][0]["table"].clone();
    assert!(done.as_str().unwrap().contains("<td class=\"number\">4</td>"), "{done}");
    let said = ui.refused("select * from waits.rows");
    assert!(said.contains("there is no") && !said.contains('<'), "{said}");
    let tables = ui.ask("show tables")["parts"][0]["table"].clone();
    assert!(tables.as_str().unwrap().contains("<td>instructions</td>"), "{tables}");
    let stages = ui.part("stages");
    assert!(stages.contains("scoring · 3/4 rows"), "{stages}");
    let graph = ui.part("graph");
    assert!(graph.contains("running 75 %") && graph.contains("waiting"), "{graph}");
    assert!(ui.part("runs").contains("running") && ui.part("build").contains("Building"));
    let log = ui.get(&format!("/log/{}", ui.stage("waits")["key"].as_str().unwrap()));
    assert!(
        log.status == 200 && log.head.contains("text/plain") && log.body.contains("reading <rows>"),
        "{}",
        log.body
    );

    // After its end.
    project.write("go", "");
    build.ends();
    processes::wait_for("the end is seen", || ui.state()["outcome"] == "built");
    let state = ui.state();
    assert!(state["stages"].as_array().unwrap().iter().all(|stage| stage["state"] == "done"), "{state}");
    let curves = ui.part("curves");
    // The steps that `evaluate_every` names, and a value when the pointer rests on a mark.
    let rows = project.sql("select -performance as loss from tuned.steps where step = 2");
    let loss = rows[0]["loss"].as_f64().unwrap();
    assert!(curves.contains(&format!("<title>tuned: validation loss {loss:.3}")), "{curves}");
    assert!(curves.contains("Training loss by step"));
    assert!(ui.part("reports").contains("href=\"/report/p/report\""));
    let page = std::fs::read_to_string(project.path("out/p/report/report.html")).unwrap();
    let report = ui.get("/report/p/report");
    assert!(report.status == 200 && report.body == page);
    assert!(report.head.contains("sandbox"), "{}", report.head);

    // The table of runs has the cells of `raisin runs`.
    let (listed, _) = project.done(&["runs"]);
    let runs = ui.part("runs");
    for word in listed.lines().last().unwrap().split_whitespace() {
        assert!(runs.contains(word), "{word} of {listed} is in {runs}");
    }

    // A build that finds everything, and one that the page does not know yet.
    project.finds_all(&["build", "p.toml"]);
    processes::wait_for("everything is cached", || ui.stage("tuned")["state"] == "cached");
    assert_eq!(ui.state()["outcome"], "built");
    assert!(ui.stage("counted")["inputs"].as_array().unwrap().len() == 1, "the graph stays");
}

#[test]
fn the_progress_and_the_curves_of_a_job_of_a_cluster_are_seen() {
    let project = project();
    let script = package().join("tests/jobs/runner.sh").display().to_string();
    let text = std::fs::read_to_string(project.path("p.toml")).unwrap();
    let executor = format!(
        "[executor]\nrun = \"template\"\ninterval = \"1s\"\nstages = [\"waits\", \"tuned\"]\n\
         submit = [\"{script}\", \"submit\", \"jobs\", \"{{script}}\", \"{{output}}\"]\n\
         poll = [\"{script}\", \"poll\", \"jobs\", \"{{ids}}\"]\n\
         cancel = [\"{script}\", \"cancel\", \"jobs\", \"{{ids}}\"]\n"
    );
    project.write("p.toml", &format!("{text}\n{executor}"));
    let ui = Ui::start(&project, &["p.toml"]);
    let mut build = RunningBuild::start(&project, &[]);
    processes::wait_for("the progress of the job is seen", || ui.stage("waits")["progress"]["done"] == 3);
    assert!(ui.part("stages").contains("scoring · 3/4 rows"), "{}", ui.part("stages"));
    // A build that is killed leaves the job. The next one finds it and shows the same.
    build.0.kill().unwrap();
    build.0.wait().unwrap();
    let mut build = RunningBuild::start(&project, &[]);
    processes::wait_for("the progress of the job is seen again", || {
        let stage = ui.stage("waits");
        stage["state"] == "running" && stage["progress"]["done"] == 3
    });
    project.write("go", "");
    build.ends();
    processes::wait_for("the end is seen", || ui.state()["outcome"] == "built");
    assert!(ui.part("curves").contains("<title>tuned: validation loss"), "{}", ui.part("curves"));
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    let project = Project::new();
    let ui = Ui::start(&project, &[]);
    let live: serde_json::Value = serde_json::from_str(&ui.get("/live").body).unwrap();
    let parts = live["parts"].as_object().unwrap();
    let since: Vec<String> =
        parts.iter().map(|(name, part)| format!("{name}:{}", part["digest"].as_str().unwrap())).collect();
    assert_eq!(ui.get(&format!("/live?since={}", since.join(","))).status, 204);
    assert_eq!(ui.get(&format!("/live?since={}", since[1..].join(","))).status, 200);
}

#[test]
fn a_failed_stage_shows_its_last_lines_and_its_log() {
    let project = project();
    project.write("wait.sh", "echo 'no column <b>prompt</b>' >&2\nexit 3\n");
    let ui = Ui::start(&project, &[]);
    assert_eq!(project.run(&["build", "p.toml", "--keep-going"]).code, 1);
    let failed = ui.stage("waits");
    assert!(failed["state"] == "failed" && failed["reason"].as_str().unwrap().contains("no column"), "{failed}");
    assert_eq!(
        (ui.stage("counted")["state"].as_str(), ui.stage("tuned")["state"].as_str()),
        (Some("not run"), Some("done"))
    );
    let stages = ui.part("stages");
    let key = failed["key"].as_str().unwrap();
    assert!(stages.contains("no column &lt;b&gt;prompt") && !stages.contains("<b>prompt"), "{stages}");
    assert!(
        stages.contains(&format!("logs/{key}.log")) && stages.contains(&format!("href=\"/log/{key}\"")),
        "{stages}"
    );
    assert!(ui.part("build").contains("Failed") && ui.part("graph").contains("node failed"));
}

#[test]
fn a_run_that_was_killed_is_not_running_for_ever() {
    let project = project();
    let ui = Ui::start(&project, &[]);
    let mut build = RunningBuild::start(&project, &[]);
    processes::wait_for("the stage runs", || ui.stage("waits")["state"] == "running");
    kill_process(Pid::from_child(&build.0), Signal::KILL).unwrap();
    build.0.wait().unwrap();
    processes::wait_for("the run counts as killed", || ui.state()["phase"] == "killed");
    assert_eq!(ui.stage("waits")["state"], "not run");
    assert!(ui.part("runs").contains("killed") && ui.part("build").contains("Killed"));
}

#[test]
fn a_cache_may_be_collected_or_deleted_while_the_page_looks() {
    let project = project();
    project.write("go", "");
    project.done(&["build", "p.toml"]);
    let ui = Ui::start(&project, &["p"]);
    assert!(ui.part("curves").contains("<svg"));
    let before = paths_below(&project.path("cache"));
    for path in ["/live", "/state", "/report/p/report"] {
        assert_eq!(ui.get(path).status, 200, "{path}");
    }
    ui.ask("select count(*) from pool.instructions");
    assert_eq!(before, paths_below(&project.path("cache")), "the page writes nothing");
    std::fs::remove_dir_all(project.path("out")).unwrap();
    project.done(&["gc", "--yes", "--older-than", "0d", "--forget"]);
    assert_eq!((ui.get("/live").status, ui.get("/report/p/report").status), (200, 404));
    assert!(!ui.part("curves").contains("broken"));
    let mut remove = std::process::Command::new("rm");
    assert!(remove.arg("-rf").arg(project.path("cache")).status().unwrap().success());
    let state = ui.state();
    assert!(state["phase"] == "none" && state["problems"].as_array().unwrap().is_empty(), "{state}");
    assert!(ui.part("build").contains("There is no cache"));
    assert!(!project.path("cache").exists(), "looking does not create the cache again");
    project.done(&["build", "p.toml"]);
    assert_eq!(ui.state()["outcome"], "built");
}
