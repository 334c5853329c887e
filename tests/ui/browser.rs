//! The report and the page of `raisin ui` in a real browser, during a real build. Pictures are compared with approved ones
//! in tests/golden/pages; `RAISIN_BLESS=1` writes these. `just test-all` installs the browser.

use std::path::PathBuf;
use std::process::Command;

use raisin_tests::python::setting;
use raisin_tests::{CommandOutput, Project, package, processes};
use serde_json::{Value, json};

use crate::{RunningBuild, Ui, project};

/// The largest share of pixels that may differ from the approved picture. Numbers in the last digit, and the edges of
/// letters, differ between machines; a part that is missing or elsewhere differs more.
const MOST_DIFFERENCE: f64 = 0.008;
/// The largest size of an approved picture, in bytes.
const MOST_BYTES: u64 = 100_000;

/// Runs tests/python/browser.py. Returns its lines.
fn look(asked: &Value) -> Vec<Value> {
    let script = package().join("tests/python/browser.py");
    let output = CommandOutput::of(Command::new(setting("RAISIN_BROWSER")).arg(script).arg(asked.to_string()));
    assert_eq!(output.code, 0, "{}", output.stderr);
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Takes pictures in these modes, and compares each with the approved one.
fn compare(page: &str, url: &str, ready: &str, modes: &[(&str, u32)]) {
    let made = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pages");
    let shots: Vec<Value> = modes
        .iter()
        .map(|(mode, height)| {
            let name = format!("{page}-{mode}.png");
            let approved = package().join("tests/golden/pages").join(&name);
            json!({ "name": name, "url": url, "ready": ready, "mode": mode, "height": height,
                    "made": made.join(&name), "approved": approved })
        })
        .collect();
    let bless = std::env::var_os("RAISIN_BLESS").is_some();
    for seen in look(&json!({ "do": "shots", "shots": shots, "bless": bless })) {
        let differs = seen["differs"].as_f64().unwrap();
        assert!(
            differs <= MOST_DIFFERENCE,
            "{} differs from the approved picture in {:.2} % of its pixels: look at {}, and approve it with RAISIN_BLESS=1",
            seen["name"],
            100.0 * differs,
            made.display()
        );
        assert!(seen["bytes"].as_u64().unwrap() < MOST_BYTES, "the picture is too large: {seen}");
        assert!(seen["fits"] == true, "the page is wider than its window: {seen}");
        assert_eq!((&seen["errors"], &seen["scrolls"]), (&json!([]), &json!([])), "{seen}");
    }
}

/// A pipeline with two methods and three seeds, small enough for a test.
fn swept() -> Project {
    let project = project();
    let pipeline = std::fs::read_to_string(project.path("p.toml")).unwrap();
    let pipeline = pipeline.replace("steps = 4", "steps = 12").replace("batch_size = 4", "batch_size = 8");
    let sweep = "\n[sweep]\n\"stage.tuned.select.method\" = [\"random\", \"length\"]\n\"pipeline.seed\" = [1, 2, 3]\n";
    project.write("p.toml", &(pipeline + sweep));
    project
}

#[test]
#[cfg_attr(not(has_browser), ignore = "RAISIN_BROWSER is not set: `just test-all` sets it")]
fn the_report_and_the_page_look_as_approved() {
    let project = swept();
    let ui = Ui::start(&project, &["p.toml"]);
    let mut build = RunningBuild::start(&project, &[]);
    processes::wait_for("the stage runs", || ui.stage("waits")["state"] == "running");
    let ended = || {
        let state = ui.state();
        let stages = state["stages"].as_array().unwrap().clone();
        stages.iter().filter(|stage| stage["stage"] == "scores").all(|stage| stage["state"] == "done")
            && stages.iter().any(|stage| stage["stage"] == "scores")
    };
    let began = std::time::Instant::now();
    while !ended() {
        assert!(began.elapsed().as_secs() < 300, "the trainings do not end: {}", ui.state());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let url = format!("http://127.0.0.1:{}/", ui.port);
    compare("ui", &url, "#part-graph svg", &[("light", 1300), ("dark", 1300), ("narrow", 1500)]);
    project.write("go", "");
    build.ends();
    let report = format!("file://{}", project.path("out/p/report/report.html").display());
    compare("report", &report, "h1", &[("light", 1500), ("dark", 1500), ("narrow", 1500), ("print", 0)]);
}

#[test]
#[cfg_attr(not(has_browser), ignore = "RAISIN_BROWSER is not set: `just test-all` sets it")]
fn a_person_sees_a_build_end_without_loading_the_page_again() {
    let project = project();
    let ui = Ui::start(&project, &["p.toml"]);
    let mut build = RunningBuild::start(&project, &[]);
    let asked = json!({ "do": "watch", "url": format!("http://127.0.0.1:{}/", ui.port), "go": project.path("go") });
    let seen = look(&asked).remove(0);
    build.ends();
    assert!(seen["while"].as_str().unwrap().starts_with("Building") && seen["title"] == "p – raisin", "{seen}");
    // The first stages have ended while the build runs.
    assert_eq!(seen["cells"], json!(["base", "model", "pool", "generate"]));
    assert_eq!(seen["meaning"], "Utf8: the name of the stage in the pipeline");
    assert!(seen["error"].as_str().unwrap().starts_with("error: there is no column `nothing`"), "{seen}");
    assert_eq!(seen["states"], json!(vec!["done"; 7]), "what a person has unfolded stays so");
    assert_eq!(seen["query"], "select nothing from raisin.actions", "what a person has written stays");
    assert!(seen["value"].as_str().unwrap().starts_with("tuned: validation loss "), "{seen}");
    assert_eq!((&seen["report"], &seen["errors"]), (&json!("p"), &json!([])), "{seen}");
    assert!(seen["heading"].as_str().unwrap().starts_with("method: "), "{seen}");
}
