//! Where the results come from: one line below the heading, and all settings at the end of the page.

use std::fmt::Write as _;

use serde_json::Value;

use super::gather::ReportData;
use super::markup::escape;
use raisin_contract::{PipelineSetup, StageSetup};

/// The settings by which a line names a stage, the first that it has.
const SOURCES: [&str; 6] = ["source.huggingface", "source.gguf", "source.path", "sources", "source", "instructions"];

/// The line below the heading `title`: pipeline, models, pools, task, seeds and test examples.
pub fn origin(title: &str, setup: &PipelineSetup, gathered: &ReportData) -> String {
    let named = |kinds: &[&str]| -> Vec<String> {
        setup.stages.iter().filter(|stage| kinds.contains(&stage.kind.as_str())).map(source).collect()
    };
    let seeds = match setup.sweep.get("pipeline.seed").and_then(Value::as_array) {
        Some(seeds) => seeds.iter().map(shown).collect::<Vec<_>>(),
        None => vec![setup.seed.to_string()],
    };
    let tested = gathered.evaluations.iter().map(|evaluation| evaluation.items.len()).max().unwrap_or(0);
    let task = named(&["task"]);
    let mut parts = Vec::new();
    if title != setup.pipeline {
        parts.push(format!("pipeline <code>{}</code>", escape(&setup.pipeline)));
    }
    for (word, names) in [
        ("model", named(&["model", "pretrain"])),
        ("pool", named(&["ingest", "generate", "mix", "filter", "dedup"])),
        ("task", task),
    ] {
        if !names.is_empty() {
            let plural = if names.len() > 1 { "s" } else { "" };
            parts.push(format!("{word}{plural} {}", names.join(", ")));
        }
    }
    parts.push(format!("seed{} {}", if seeds.len() > 1 { "s" } else { "" }, escape(&seeds.join(", "))));
    if tested > 0 {
        parts.push(format!("{tested} scored examples"));
    }
    format!("<p class=\"origin\">{}</p>\n", parts.join(" · "))
}

/// A stage and where its data comes from.
fn source(stage: &StageSetup) -> String {
    let found = SOURCES.iter().find_map(|key| {
        let value = stage.settings.get(*key)?;
        let first = value.as_array().and_then(|sources| sources.first());
        let path = first.map_or(Some(value), |first| first.get("path").or(Some(first)));
        path.and_then(Value::as_str).map(str::to_owned)
    });
    let name = format!("<code>{}</code>", escape(&stage.name));
    match found {
        Some(path) => format!("{name} ({})", escape(&path)),
        None => format!("{name} ({})", escape(&stage.kind)),
    }
}

/// All settings that the pipeline file gives, as a table.
pub fn settings(setup: &PipelineSetup) -> String {
    let mut html =
        "<h2>Setup</h2>\n<p class=\"quiet\">The settings that the pipeline file gives for the stages behind this \
                    page. All others have their defaults: <code>raisin kinds KIND</code> lists them.</p>\n"
            .to_owned();
    if !setup.sweep.is_empty() {
        html.push_str("<div class=\"scroll\"><table><thead><tr><th>swept</th><th>values</th></tr></thead><tbody>\n");
        for (key, values) in &setup.sweep {
            let values: Vec<String> = values.as_array().into_iter().flatten().map(shown).collect();
            let _ = writeln!(
                html,
                "<tr><td><code>{}</code></td><td class=\"text\">{}</td></tr>",
                escape(key),
                escape(&values.join("; "))
            );
        }
        html.push_str("</tbody></table></div>\n");
    }
    html.push_str(
        "<details><summary>Stages and their settings</summary>\n<div class=\"scroll\"><table><thead><tr><th>stage</th>\
         <th>kind</th><th>settings</th></tr></thead><tbody>\n",
    );
    for stage in &setup.stages {
        let settings: Vec<String> = stage
            .settings
            .iter()
            .map(|(key, value)| format!("<code>{}</code> = {}", escape(key), escape(&shown(value))))
            .collect();
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>",
            escape(&stage.name),
            escape(&stage.kind),
            settings.join("<br>")
        );
    }
    html.push_str("</tbody></table></div></details>\n");
    html
}

/// A value as a person would write it: texts without quotes, tables without braces at the outside.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(entries) => {
            entries.iter().map(|(key, value)| format!("{key} = {}", shown(value))).collect::<Vec<_>>().join(", ")
        }
        Value::Array(values) => format!("[{}]", values.iter().map(shown).collect::<Vec<_>>().join(", ")),
        value => value.to_string(),
    }
}
