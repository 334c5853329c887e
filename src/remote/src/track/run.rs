//! One run on an MLflow server. A run is found again by the tag [`KEY`]; a run that was sent in part is completed, so
//! that sending twice gives one run with each point once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::server::{MlflowAnswer, MlflowTrouble, TrackingServer};
use raisin_base::digest::Digest;

/// The tag with the digest of the run's content.
const KEY: &str = "raisin.key";

/// The most metrics, and the most parameters or tags, that MLflow takes in one request.
const METRICS_AT_ONCE: usize = 1000;
const ENTRIES_AT_ONCE: usize = 100;
/// The most points of the history of a metric in one answer.
const POINTS_AT_ONCE: u64 = 25_000;

/// A run with everything that is sent.
pub struct MlflowRun {
    pub key: Digest,
    pub experiment: String,
    pub name: String,
    /// Milliseconds since 1970.
    pub started: i64,
    pub finished: i64,
    pub parameters: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, Vec<(i64, f64)>>,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    New,
    /// An earlier attempt had sent a part of it.
    Completed,
    WasThere,
}

/// Sends a run, unless the server has it.
pub fn send(server: &TrackingServer, experiment: &str, run: &MlflowRun) -> MlflowAnswer<Sent> {
    let key = run.key.to_hex();
    let search = json!({
        "experiment_ids": [experiment],
        "filter": format!("tags.`{KEY}` = '{key}'"),
        "run_view_type": "ACTIVE_ONLY",
        "max_results": 1,
    });
    let found = server.post("runs/search", &search)?;
    // Null if there is none.
    let found = &found["runs"][0]["info"];
    let (id, sent) = match (id_of(found), found["status"].as_str()) {
        (Some(_), Some("FINISHED")) => return Ok(Sent::WasThere),
        (Some(id), _) => (id, Sent::Completed),
        (None, _) => {
            let create = json!({
                "experiment_id": experiment,
                "run_name": run.name,
                "start_time": run.started,
                "tags": [{"key": KEY, "value": key}],
            });
            let made = server.post("runs/create", &create)?;
            let id =
                id_of(&made["run"]["info"]).ok_or_else(|| MlflowTrouble::Strange("a new run without an id".into()))?;
            (id, Sent::New)
        }
    };
    let entry = |(key, value): (&String, &String)| json!({"key": key, "value": value});
    let parameters: Vec<Value> = run.parameters.iter().map(entry).collect();
    let tags: Vec<Value> = run.tags.iter().map(entry).collect();
    let mut points = Vec::new();
    for (metric, all) in &run.metrics {
        let there = if sent == Sent::Completed { steps(server, &id, metric)? } else { BTreeSet::new() };
        for (step, value) in all.iter().filter(|(step, _)| !there.contains(step)) {
            points.push(json!({"key": metric, "value": value, "step": step, "timestamp": run.finished}));
        }
    }
    for (field, entries, most) in
        [("params", parameters, ENTRIES_AT_ONCE), ("tags", tags, ENTRIES_AT_ONCE), ("metrics", points, METRICS_AT_ONCE)]
    {
        for some in entries.chunks(most) {
            server.post("runs/log-batch", &json!({"run_id": id, field: some}))?;
        }
    }
    // Last, because a run that is not finished is completed by the next attempt.
    server.post("runs/update", &json!({"run_id": id, "status": "FINISHED", "end_time": run.finished}))?;
    Ok(sent)
}

/// The id of an experiment, which is made if it does not exist.
pub fn experiment(server: &TrackingServer, name: &str) -> MlflowAnswer<String> {
    let get = || server.get("experiments/get-by-name", &[("experiment_name", name)]);
    let is_refused =
        |error: &MlflowTrouble, with: &str| matches!(error, MlflowTrouble::Refused { code, .. } if code == with);
    let found = match get() {
        Err(error) if is_refused(&error, "RESOURCE_DOES_NOT_EXIST") => {
            match server.post("experiments/create", &json!({"name": name})) {
                // Somebody else made it at this moment.
                Err(error) if is_refused(&error, "RESOURCE_ALREADY_EXISTS") => get()?,
                made => return text(&made?["experiment_id"]).ok_or_else(without_id),
            }
        }
        found => found?,
    };
    let found = &found["experiment"];
    if found["lifecycle_stage"].as_str() == Some("deleted") {
        let text = format!("the experiment `{name}` is deleted; restore it there, or name another one");
        return Err(MlflowTrouble::Refused { code: "deleted".into(), text });
    }
    text(&found["experiment_id"]).ok_or_else(without_id)
}

fn without_id() -> MlflowTrouble {
    MlflowTrouble::Strange("an experiment without an id".into())
}

/// The steps of a metric that a run has.
fn steps(server: &TrackingServer, run: &str, metric: &str) -> MlflowAnswer<BTreeSet<i64>> {
    let mut steps = BTreeSet::new();
    let most = POINTS_AT_ONCE.to_string();
    let mut token = String::new();
    loop {
        let mut query = vec![("run_id", run), ("metric_key", metric), ("max_results", &most)];
        if !token.is_empty() {
            query.push(("page_token", &token));
        }
        let page = server.get("metrics/get-history", &query)?;
        for point in page["metrics"].as_array().into_iter().flatten() {
            steps.extend(text(&point["step"]).and_then(|step| step.parse::<i64>().ok()));
        }
        match page["next_page_token"].as_str().filter(|token| !token.is_empty()) {
            Some(next) => token = next.to_owned(),
            None => return Ok(steps),
        }
    }
}

fn id_of(info: &Value) -> Option<String> {
    text(&info["run_id"])
}

/// A number or a text: servers write numbers of 64 bits as either.
fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|number| number.to_string()))
}
