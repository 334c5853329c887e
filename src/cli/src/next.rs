//! The command that a build names at its end: the one that most likely tells more about its results.

use super::pipeline_arguments::{OutFolder, PipelineArguments};
use raisin_base::shell::shell_word;
use raisin_engine::Summary;
use raisin_pipeline::Pipeline;

/// With one seed: more seeds, because one seed shows no interval. With several seeds: what the selector learned or,
/// without a selector, the whole comparison.
pub fn command(pipeline: &Pipeline, arguments: &PipelineArguments, out: &OutFolder, summary: &Summary) -> String {
    let with = |name: &str, path: Option<&std::path::Path>| {
        path.map(|path| format!(" {name} {}", shell_word(&path.display().to_string()))).unwrap_or_default()
    };
    let (cache, folder) = (with("--cache", arguments.cache_flag()), with("--out", out.flag()));
    let compared = summary.results.iter().find(|of| of.compares && !of.results.rows.is_empty());
    let stages = || pipeline.variants.iter().flat_map(|variant| &variant.stages);
    let file = shell_word(&arguments.file().display().to_string());
    let is_plain = !arguments.has_changes() && arguments.file() == pipeline.file;
    let seeds = pipeline.sweep.iter().any(|(key, values)| key == "pipeline.seed" && values.len() > 1);
    let is_seeded = stages().any(|stage| stage.resolved.is_seeded);
    if summary.failures.is_empty() && is_plain && compared.is_some() {
        if !seeds && is_seeded {
            let seed = pipeline.seed_default;
            let seeds: Vec<String> = (0..3).map(|more| seed.saturating_add(more).to_string()).collect();
            let sweep = format!("--sweep 'pipeline.seed=[{}]'", seeds.join(", "));
            return format!("raisin build {file} {sweep}{cache}{folder}   (intervals over seeds)");
        }
        if let Some(selector) = stages().find(|stage| stage.resolved.provides.contains(&"policy")) {
            return format!("raisin explain {file} {}{cache}   (why it picked)", shell_word(&selector.name));
        }
    }
    let named = |stage: &str| {
        let is_plain =
            stage.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
                && !stage.starts_with(|letter: char| letter.is_ascii_digit());
        if is_plain { stage.to_owned() } else { format!("\\\"{stage}\\\"") }
    };
    let name = shell_word(&pipeline.name);
    let query = match (compared, summary.results.first()) {
        (Some(of), _) => format!("select * from {}.comparison order by metric, mean", named(&of.stage)),
        (None, Some(of)) => format!("select * from {}.metrics", named(&of.stage)),
        (None, None) => "show tables".to_owned(),
    };
    format!("raisin sql --pipeline {name}{cache}{folder} \"{query}\"")
}
