//! Offline runs, uploaded by the real `wandb sync` to a receiver on loopback, which keeps what arrives.

use serde_json::{Value, json};

use super::{losses, pipeline};
use raisin_tests::Project;
use raisin_tests::python::{run_python, setting};

#[test]
#[cfg_attr(not(has_servers), ignore = "RAISIN_SERVERS is not set: `just test-all` sets it")]
fn wandb_sync_uploads_every_run_with_its_settings_and_its_history() {
    let project = Project::with_text(&pipeline("wandb = { project = \"selection\" }\n"));
    project.done(&["build", "p.toml"]);
    let folder = project.path("out/p/board/wandb");
    let sync = || run_python(&setting("RAISIN_SERVERS"), "wandb_sync.py", &[&folder]).unwrap();
    let printed = sync();
    let runs: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(runs.len(), 4);
    let artifacts = project.digests("p");
    for run in &runs {
        let variant = run["name"].as_str().unwrap();
        assert_eq!((&run["project"], &run["exit"]), (&json!("selection"), &json!(0)));
        let parts: Vec<&str> = variant.split([',', '=']).collect();
        assert_eq!(run["config"]["tuned.learning_rate"]["value"].to_string().parse(), parts[1].parse::<f64>());
        assert_eq!(run["config"]["tuned.select.method"]["value"], json!(parts[3]));
        let tuned = artifacts[&("tuned".to_owned(), variant.to_owned())].to_hex();
        assert_eq!(run["config"]["raisin"]["value"]["artifacts"]["tuned"], json!(tuned));
        let losses = losses(&project, variant);
        let history = run["history"].as_array().unwrap();
        let rows: Vec<&Value> = history.iter().filter(|row| !row["tuned.steps/loss"].is_null()).collect();
        assert_eq!((losses.len(), rows.len()), (4, 4));
        for ((step, loss), row) in losses.iter().zip(&rows) {
            assert_eq!((step, Some(*loss)), (&row["_step"], row["tuned.steps/loss"].as_f64()));
        }
        let query = format!("select loss from scores.metrics where variant = '{variant}'");
        let loss = &project.sql(&query)[0]["loss"];
        assert_eq!((&history[0]["_step"], &history[0]["scores/test/loss"]), (&json!(0), loss));
        assert_eq!((&run["summary"]["scores/test/loss"], &run["summary"]["_step"]), (loss, &json!(4)));
    }
    // A second upload is one of the same runs, and the artifact is as it was.
    assert_eq!(sync(), printed);
    project.done(&["verify"]);
}
