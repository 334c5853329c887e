//! The parts of the page as HTML, each by its name. Texts of stages, files and journals are escaped.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::REPORT;
use super::curves::{CurveMemory, Curves, plots};
use super::graph::{StageGroup, graph, groups};
use super::watched::{RunPhase, SeenBuild, SeenStage, SeenState, phase_of};
use raisin_base::number::number;
use raisin_base::printable::printable;
use raisin_base::shell::shell_word;
use raisin_contract::Progress;
use raisin_contract::ui::UiOptions;
use raisin_report::markup::escape;
use raisin_store::run_line::{HEADINGS, cells, overrides, when};

/// The largest number of running and failed stages that are shown with their progress or their log.
const MOST_CARDS: usize = 12;

/// The parts in the order of the page.
pub fn parts(options: &UiOptions, seen: &SeenBuild, memory: &mut CurveMemory) -> Vec<(&'static str, String)> {
    let groups = groups(&seen.stages);
    let curves: Vec<(&SeenStage, Curves)> = seen
        .stages
        .iter()
        .map(|stage| (stage, memory.of(seen, stage)))
        .filter(|(_, curves)| !curves.is_empty())
        .collect();
    vec![
        ("build", build(options, seen)),
        ("graph", graph(&groups)),
        ("stages", stages(seen, &groups)),
        ("curves", section("Curves", "curves", &plots_or_words(seen, &curves))),
        ("reports", reports(options, seen)),
        ("runs", runs(seen)),
    ]
}

fn section(title: &str, id: &str, body: &str) -> String {
    if body.is_empty() { String::new() } else { format!("<h2 id=\"{id}\">{title}</h2>\n{body}") }
}

/// What the last run does or did, in one line, and what cannot be read.
fn build(options: &UiOptions, seen: &SeenBuild) -> String {
    let mut html = String::new();
    for problem in &seen.problems {
        let _ = writeln!(html, "<p class=\"problem\">{}</p>", lines(problem));
    }
    let Some(run) = &seen.run else {
        let file = options.pipeline.as_ref().filter(|choice| choice.name == seen.pipeline);
        let file = file.and_then(|choice| choice.file.as_ref()).map(|file| file.display().to_string());
        let command = format!("raisin build {}", file.map_or("PIPELINE".to_owned(), |file| shell_word(&file)));
        let what = match &seen.store {
            None => format!("There is no cache at {} yet.", options.cache.display()),
            Some(_) if seen.pipeline.is_empty() => "No pipeline was built yet.".to_owned(),
            Some(_) => format!("The pipeline {} has no run in the journal yet.", seen.pipeline),
        };
        let _ = writeln!(
            html,
            "<p class=\"status\"><b>Not built.</b> {} <code>{}</code> starts the first build, and this page then shows it.</p>",
            escape(&what),
            escape(&command)
        );
        return html;
    };
    let (class, word) = match (seen.phase, run.outcome.as_deref()) {
        (RunPhase::Running, _) => ("running", "Building"),
        (RunPhase::Killed, _) => ("failed", "Killed"),
        (_, Some("failed")) => ("failed", "Failed"),
        (_, Some("interrupted")) => ("failed", "Interrupted"),
        _ => ("done", "Built"),
    };
    let count = |state: &str| seen.stages.iter().filter(|stage| stage.state.word() == state).count();
    let states = ["failed", "running", "done", "fetched", "cached", "waiting", "not run"];
    let counts: Vec<String> = states
        .iter()
        .map(|state| (count(state), state))
        .filter(|(n, _)| *n > 0)
        .map(|(n, state)| format!("{n} {state}"))
        .collect();
    let mut facts = vec![counts.join(", ")];
    facts.extend(run.seconds.map(duration));
    facts.extend(run.started.as_deref().map(|started| format!("started {}", when(started))));
    let flags = overrides(run);
    facts.extend((!flags.is_empty()).then(|| format!("with {flags}")));
    facts.retain(|fact| !fact.is_empty());
    let _ = writeln!(
        html,
        "<p class=\"status {class}\"><b>{word}</b> <span class=\"facts\">{}</span></p>",
        escape(&facts.join(" · "))
    );
    let all = seen.stages.len();
    if seen.phase == RunPhase::Running && all > 0 {
        let ended = seen.stages.iter().filter(|stage| stage.state.artifact().is_some()).count() as f64;
        let parts: f64 = seen.stages.iter().filter_map(SeenStage::progress_share).sum();
        let _ = writeln!(html, "{}", bar((ended + parts) / all as f64, "stages that have ended"));
    }
    if seen.phase == RunPhase::Killed {
        html.push_str("<p class=\"quiet\">The process of the run is gone and wrote no end. What is finished is kept; the same command goes on from there.</p>\n");
    }
    html
}

/// A bar of progress.
fn bar(share: f64, label: &str) -> String {
    let percent = 100.0 * share.clamp(0.0, 1.0);
    format!(
        "<div class=\"meter\" role=\"progressbar\" aria-label=\"{label}\" aria-valuenow=\"{percent:.0}\"><div style=\"width:{percent:.1}%\"></div></div>"
    )
}

/// The stages that run or failed, and a table of all.
fn stages(seen: &SeenBuild, groups: &[StageGroup]) -> String {
    if seen.stages.is_empty() {
        return String::new();
    }
    let mut html = "<h2 id=\"stages\">Stages</h2>\n".to_owned();
    let mut cards = 0;
    for stage in &seen.stages {
        match &stage.state {
            SeenState::Failed { .. } | SeenState::Running(_) if cards == MOST_CARDS => {
                html.push_str("<p class=\"quiet\">More stages run or failed: see all stages.</p>\n");
                break;
            }
            SeenState::Failed { reason, .. } => failed(&mut html, seen, stage, reason),
            SeenState::Running(_) => running(&mut html, stage),
            _ => continue,
        }
        cards += 1;
    }
    let _ = writeln!(
        html,
        "<details id=\"all-stages\"><summary>All {} stages</summary><div class=\"scroll\"><table><thead><tr><th>stage</th><th>kind</th>\
         <th>state</th><th class=\"n\">seconds</th><th>log</th></tr></thead><tbody>",
        seen.stages.len()
    );
    for stage in groups.iter().flat_map(|group| &group.members) {
        let seconds = match &stage.state {
            SeenState::Ran { seconds, .. } => number(*seconds, 1),
            _ => String::new(),
        };
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td><span class=\"state {}\">{}</span></td><td class=\"n\">{seconds}</td><td>{}</td></tr>",
            escape(&stage.label()),
            escape(&stage.of.kind),
            stage.state.word().replace(' ', "-"),
            stage.state.word(),
            log_link(stage)
        );
    }
    html + "</tbody></table></div></details>\n"
}

fn log_link(stage: &SeenStage) -> String {
    stage.state.key().map_or_else(String::new, |key| format!("<a href=\"/log/{key}\">log</a>"))
}

fn failed(html: &mut String, seen: &SeenBuild, stage: &SeenStage, reason: &str) {
    let _ = writeln!(
        html,
        "<div class=\"card failed\"><p><b>{}</b> failed {}</p><pre>{}</pre>",
        escape(&stage.label()),
        log_link(stage),
        lines(&without_indent(reason))
    );
    if let (Some(store), Some(key)) = (&seen.store, stage.state.key()) {
        let _ = writeln!(html, "<p class=\"quiet\">{}</p>", escape(&store.log_file(key).display().to_string()));
    }
    html.push_str("</div>\n");
}

fn running(html: &mut String, stage: &SeenStage) {
    let told = stage.told.clone().unwrap_or_default();
    let words = told.progress.as_ref().map_or_else(|| "starting".to_owned(), progress_words);
    let _ = writeln!(
        html,
        "<div class=\"card\"><p><b>{}</b> <span class=\"facts\">{}</span> {}</p>",
        escape(&stage.label()),
        escape(&printable(&words)),
        log_link(stage)
    );
    if let Some(share) = stage.progress_share() {
        let _ = writeln!(html, "{}", bar(share, "progress of the stage"));
    }
    if let Some(note) = told.notes.last() {
        let _ = writeln!(html, "<p class=\"quiet\">{}</p>", escape(&printable(note)));
    }
    html.push_str("</div>\n");
}

fn progress_words(progress: &Progress) -> String {
    let mut parts = vec![progress.phase.clone()];
    match (progress.done, progress.total) {
        (0, 0) => {}
        (done, 0) => parts.push(format!("{done} {}", progress.unit)),
        (done, total) => parts.push(format!("{done}/{total} {}", progress.unit)),
    }
    parts.extend(progress.tokens_per_second.filter(|rate| rate.is_finite()).map(|rate| format!("{rate:.0} tokens/s")));
    parts.push(progress.detail.clone());
    parts.retain(|part| !part.is_empty());
    parts.join(" · ")
}

fn plots_or_words(seen: &SeenBuild, curves: &[(&SeenStage, Curves)]) -> String {
    if curves.is_empty() {
        let trains = |stage: &&SeenStage| ["finetune", "selector", "pretrain"].contains(&stage.of.kind.as_str());
        if !seen.stages.iter().any(|stage| trains(&stage)) {
            return String::new();
        }
        let words = "The curves appear when a selector or a fine-tune has made its first steps.";
        return format!("<p class=\"quiet\">{words}</p>\n");
    }
    format!("<div class=\"plots\">{}</div>\n", plots(curves))
}

/// The reports that the last build of the pipeline links.
fn reports(options: &UiOptions, seen: &SeenBuild) -> String {
    let mut html = String::new();
    for stage in seen.stages.iter().filter(|stage| stage.of.kind == "report") {
        let (pipeline, name) = (&seen.pipeline, &stage.of.stage);
        if options.out.join(pipeline).join(name).join(REPORT).is_file() {
            let _ = writeln!(
                html,
                "<li><a href=\"/report/{}/{}\">{}</a> <span class=\"quiet\">of the last finished build</span></li>",
                escape(&encoded(pipeline)),
                escape(&encoded(name)),
                escape(name)
            );
        }
    }
    if html.is_empty() { html } else { section("Reports", "reports", &format!("<ul>{html}</ul>\n")) }
}

/// A part of a path in an address.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The table of `raisin runs`.
fn runs(seen: &SeenBuild) -> String {
    if seen.runs.is_empty() {
        return String::new();
    }
    let mut html = "<div class=\"scroll tall\"><table><thead><tr>".to_owned();
    for heading in HEADINGS {
        let class = if heading == "seconds" { " class=\"n\"" } else { "" };
        let _ = write!(html, "<th{class}>{heading}</th>");
    }
    html.push_str("</tr></thead><tbody>\n");
    for run in &seen.runs {
        let is_shown = seen.run.as_ref().is_some_and(|shown| shown.run == run.run);
        let outcome = if phase_of(run) == RunPhase::Running { "running" } else { "killed" };
        let class = if is_shown { " class=\"best\"" } else { "" };
        let _ = write!(html, "<tr{class}>");
        for (heading, cell) in HEADINGS.iter().zip(cells(run, outcome)) {
            let class = match *heading {
                "seconds" => " class=\"n\"",
                "overrides" | "result" if cell.len() > 24 => " class=\"text\"",
                "overrides" | "result" => "",
                _ => " class=\"tight\"",
            };
            let _ = write!(html, "<td{class}>{}</td>", escape(&cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    section("Runs", "runs", &html)
}

/// The reason of a failure as the terminal shows it, without the indent of the lines after the first.
fn without_indent(reason: &str) -> String {
    reason.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// A text of several lines, which stay lines.
fn lines(text: &str) -> String {
    text.lines().map(|line| escape(&printable(line))).collect::<Vec<_>>().join("\n")
}

fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..100 => format!("{seconds:.1} s"),
        100..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// The state for programs: docs/ui.md describes it.
pub fn state(seen: &SeenBuild) -> Value {
    let stage = |stage: &SeenStage| {
        let told = stage.told.as_ref();
        json!({
            "stage": stage.of.stage,
            "variant": stage.of.variant,
            "kind": stage.of.kind,
            "inputs": stage.of.inputs,
            "state": stage.state.word(),
            "key": stage.state.key(),
            "artifact": stage.state.artifact(),
            "reason": match &stage.state { SeenState::Failed { reason, .. } => Some(reason), _ => None },
            "progress": told.and_then(|told| told.progress.as_ref()),
            "notes": told.map(|told| &told.notes),
        })
    };
    json!({
        "pipeline": seen.pipeline,
        "pipelines": seen.pipelines,
        "phase": match seen.phase {
            RunPhase::None => "none",
            RunPhase::Running => "running",
            RunPhase::Ended => "ended",
            RunPhase::Killed => "killed",
        },
        "run": seen.run.as_ref().map(|run| &run.run),
        "outcome": seen.run.as_ref().and_then(|run| run.outcome.as_ref()),
        "stages": seen.stages.iter().map(stage).collect::<Vec<_>>(),
        "problems": seen.problems,
    })
}
