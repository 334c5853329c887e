//! `raisin report`: prints the path of the report of a pipeline, or writes a copy that also says how it was made. The
//! report itself is an artifact, which names neither machine nor time; the journal knows both.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::Folders;
use super::runs::all_of;
use raisin_base::error::{Context as _, Problem, Result, nearest};
use raisin_base::number::number;
use raisin_base::say;
use raisin_base::shell::shell_word;
use raisin_store::{BuildDescription, BuiltStage, Run, Store};

/// Print the path of the report of a pipeline, or write a copy to pass on.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The name of the pipeline [default: the only pipeline with a report under the out folder].
    #[arg(value_name = "NAME")]
    pipeline: Option<String>,
    /// The stage, if the pipeline has several reports.
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Write a copy that also says how the report was made: command, commit, versions, machine, seconds, memory, and the
    /// artifacts.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    folders: Folders,
}

const EXAMPLES: &str = "\
Examples:
  raisin report quickstart
  raisin report quickstart -o quickstart.html";

/// The file of a report in its artifact.
const PAGE: &str = "report.html";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let out = arguments.folders.out.path();
    let (build, stage) = find(&out, arguments.pipeline.as_deref(), arguments.stage.as_deref())?;
    let link = out.join(&build.pipeline).join(&stage.stage).join(PAGE);
    let Some(copy) = &arguments.output else {
        let path = link.canonicalize().with_context(|| format!("cannot find {}", link.display()))?;
        super::print(&format!("{}\n", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    };
    let page = std::fs::read_to_string(&link).with_context(|| format!("cannot read {}", link.display()))?;
    let store = Store::expected(&arguments.folders.cache.path())?;
    let runs = all_of(&store)?;
    let made = runs.iter().rev().find(|run| {
        run.pipeline.as_ref() == Some(&build.pipeline)
            && run.stages.iter().any(|it| it.stage == stage.stage && it.artifact == stage.artifact && it.ran)
    });
    if made.is_none() {
        say!("the journal does not have the run that made this report: the copy does not say how it was made");
    }
    let Some((before, after)) = page.rsplit_once("</main>") else {
        return Err(Problem::new(format!("{} is not a report of raisin", link.display())).into());
    };
    let how = made.map(|run| how_it_was_made(run, &build)).unwrap_or_default();
    std::fs::write(copy, format!("{before}{how}</main>{after}"))
        .with_context(|| format!("cannot write {}", copy.display()))?;
    super::print(&format!("{}\n", copy.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The build and the stage of the report that is wanted.
fn find(out: &Path, pipeline: Option<&str>, stage: Option<&str>) -> Result<(BuildDescription, BuiltStage)> {
    let mut found = Vec::new();
    let mut pipelines = Vec::new();
    for name in folders(out)? {
        if let Some(build) = BuildDescription::read(&out.join(&name))? {
            let reports = build.stages.iter().filter(|built| out.join(&name).join(&built.stage).join(PAGE).is_file());
            let reports: Vec<BuiltStage> = reports.filter(|built| built.variant.is_empty()).cloned().collect();
            pipelines.push(name);
            found.extend(reports.into_iter().map(|report| (build.clone(), report)));
        }
    }
    if let Some(wanted) = pipeline.filter(|wanted| !pipelines.iter().any(|name| name == wanted)) {
        let problem = Problem::usage(format!("{} has no pipeline `{wanted}`", out.display()));
        return Err(match nearest(wanted, pipelines.iter().map(String::as_str)) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint("`raisin build PIPELINE` makes it; --out DIR names another folder"),
        }
        .into());
    }
    found.retain(|(build, report)| {
        pipeline.is_none_or(|wanted| build.pipeline == wanted) && stage.is_none_or(|wanted| report.stage == wanted)
    });
    match found.as_slice() {
        [_] => Ok(found.remove(0)),
        [] => {
            let what = stage.map_or("a report".to_owned(), |stage| format!("a report `{stage}`"));
            let whose =
                pipeline.map_or_else(|| "no pipeline".to_owned(), |name| format!("the pipeline `{name}` does not"));
            let verb = if pipeline.is_some() { "have" } else { "has" };
            let problem = Problem::usage(format!("{whose} {verb} {what} under {}", out.display()));
            Err(problem.hint("a stage of kind `report` writes it; --out DIR names another folder").into())
        }
        [..] => {
            let names = found.iter().map(|(build, report)| format!("{} {}", build.pipeline, report.stage));
            let problem =
                Problem::usage(format!("there are {} reports: {}", found.len(), names.collect::<Vec<_>>().join(", ")));
            Err(problem.hint("name one: `raisin report NAME --stage STAGE`").into())
        }
    }
}

/// The names of the folders in `out`, sorted; none without `out`.
pub fn folders(out: &Path) -> Result<Vec<String>> {
    let Some(entries) = raisin_base::files::if_there(std::fs::read_dir(out))
        .with_context(|| format!("cannot list {}", out.display()))?
    else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(
            entry.with_context(|| format!("cannot list {}", out.display()))?.file_name().to_string_lossy().into_owned(),
        );
    }
    names.sort_unstable();
    Ok(names)
}

/// The section of the copy.
fn how_it_was_made(run: &Run, build: &BuildDescription) -> String {
    let overrides = run.overrides.iter().map(|word| format!(" {}", shell_word(word))).collect::<String>();
    let command = run.file.as_ref().map(|file| format!("raisin build {}{overrides}", shell_word(file)));
    let commit = run.commit.as_ref().map(|commit| match run.dirty {
        Some(true) => format!("{commit}, with changes that are not committed"),
        _ => commit.clone(),
    });
    let memory = run.peak_bytes.map(|bytes| format!("{} GB in the largest stage", number(bytes as f64 / 1e9, 2)));
    let stages = format!("{} ran, {} were in the cache", run.ran, run.cached);
    let facts = [
        ("command", command),
        ("commit", commit),
        ("raisin", run.version.clone()),
        ("machine", run.machine.clone()),
        ("device", run.device.clone()),
        ("started", run.started.clone()),
        ("seconds", run.seconds.map(|seconds| number(seconds, 1))),
        ("memory", memory),
        ("stages", Some(stages)),
    ];
    let mut html = "<h2>How it was made</h2>\n<div class=\"scroll\"><table><tbody>\n".to_owned();
    for (name, fact) in facts {
        if let Some(fact) = fact.filter(|fact| !fact.is_empty()) {
            let _ = writeln!(html, "<tr><td>{name}</td><td class=\"text\">{}</td></tr>", escaped(&fact));
        }
    }
    html.push_str(
        "</tbody></table></div>\n<details><summary>Artifacts</summary>\n<div class=\"scroll\"><table><thead><tr><th>stage</th>\
         <th>variant</th><th>artifact</th></tr></thead><tbody>\n",
    );
    let all: BTreeSet<&str> =
        build.stages.iter().map(|stage| stage.variant.as_str()).filter(|it| !it.is_empty()).collect();
    for (stage, variants) in by_artifact(&build.stages) {
        // A gathering stage has no variant.
        let is_shared = variants == [""] || variants.len() == all.len();
        let shown = if is_shared { "all".to_owned() } else { variants.join("; ") };
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td class=\"text\">{}</td><td class=\"text\"><code>{}</code></td></tr>",
            escaped(&stage.stage),
            escaped(&shown),
            stage.artifact
        );
    }
    html.push_str("</tbody></table></div></details>\n");
    html
}

/// Each artifact of each stage once, with the variants that share it: one stage after the other.
fn by_artifact(stages: &[BuiltStage]) -> Vec<(&BuiltStage, Vec<&str>)> {
    let mut found: Vec<(&BuiltStage, Vec<&str>)> = Vec::new();
    for stage in stages {
        match found.iter_mut().find(|(known, _)| (&known.stage, known.artifact) == (&stage.stage, stage.artifact)) {
            Some((_, variants)) => variants.push(&stage.variant),
            None => found.push((stage, vec![&stage.variant])),
        }
    }
    let first = |wanted: &BuiltStage| stages.iter().position(|stage| stage.stage == wanted.stage);
    found.sort_by_key(|(stage, _)| first(stage));
    found
}

/// A text without markup.
fn escaped(text: &str) -> String {
    let text = raisin_base::printable::printable(text);
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
