//! Times the selector on many candidates, without a language model: what a step of a training costs beside its training,
//! and k-means. benches/selector.py compares k-means with scikit-learn.

use std::time::Instant;

use raisin_base::error::{Result, anyhow};
use raisin_base::seed::Seed;
use raisin_selector::chooser::{Chooser as _, StepContext};
use raisin_selector::clustering::kmeans::kmeans;
use raisin_selector::policy::Policy;
use raisin_selector::raise::Raise;
use raisin_selector::state::Candidates;
use raisin_settings::ppo::PpoSettings;
use serde_json::json;

/// F: the number of static columns of a state.
const COLUMNS: usize = 36;
const CLUSTERS: u32 = 4;
const BATCH: usize = 8;
const STEPS: usize = 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.replace(',', "").parse::<usize>().map_err(|_| anyhow!("no number: {text}"));
    let line = match arguments.as_slice() {
        [part, rows] if part == "select" => select(number(rows)?)?,
        [part, file, width, clusters] if part == "kmeans" => cluster(file, number(width)?, number(clusters)?)?,
        _ => return Err(anyhow!("usage: bench-selector select ROWS | kmeans FILE WIDTH CLUSTERS")),
    };
    println!("{line}");
    Ok(())
}

/// Selects batches from random states with a posterior policy of random weights, in the default form.
fn select(rows: usize) -> Result<serde_json::Value> {
    let mut rng = Seed::new(1).at("states").rng();
    let state: Vec<f32> = (0..rows * COLUMNS).map(|_| rng.normal() as f32).collect();
    let ids: Vec<u32> = (0..rows as u32).collect();
    let clusters: Vec<u32> = ids.iter().map(|id| id % CLUSTERS).collect();
    let columns: Vec<String> = (0..COLUMNS).map(|column| format!("column.{column:02}")).collect();
    let start = Instant::now();
    let candidates = Candidates::new(&ids, &clusters, &state, columns)?;
    drop(state);
    let mut policy = Policy::new(&PpoSettings::standard(), &candidates, &Seed::new(2));
    let weights: Vec<f32> = (0..2 * (COLUMNS + CLUSTERS as usize)).map(|_| 0.3 * rng.normal() as f32).collect();
    policy.set_linear(&tch::Tensor::from_slice(&weights).view([-1, 2]));
    let mut chooser = Raise::new(policy, candidates, BATCH, Seed::new(3))?;
    let opened = start.elapsed().as_secs_f64();
    let mut steps = Vec::with_capacity(STEPS);
    for step in 0..STEPS {
        let start = Instant::now();
        chooser.choose(&StepContext { step, total_steps: STEPS, performance: None, last_loss: None })?;
        steps.push(start.elapsed().as_secs_f64());
    }
    steps.sort_by(f64::total_cmp);
    Ok(json!({ "rows": rows, "open": opened, "step": steps[STEPS / 2], "memory_mb": peak_memory() }))
}

fn cluster(file: &str, width: usize, clusters: usize) -> Result<serde_json::Value> {
    let bytes = std::fs::read(file)?;
    let rows: Vec<f32> = bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)).collect();
    let start = Instant::now();
    let found = kmeans(&rows, width, clusters, 100, 4, &Seed::new(4))?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({ "seconds": seconds, "inertia": found.inertia, "converged": found.converged }))
}

/// The peak memory of this process in MB.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kilobytes.map_or(f64::NAN, |kilobytes| kilobytes / 1000.0)
}
