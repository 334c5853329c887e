//! `raisin pin` and `raisin unpin`: set and remove marks by which gc keeps an artifact even if no link leads to it.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::Folders;
use raisin_base::error::{Problem, Result, nearest};
use raisin_base::say;
use raisin_store::{BuildDescription, BuiltStage, Store};

/// Keep the artifacts of a pipeline's last build, whatever later builds link to. Without a pipeline, list the pins.
#[derive(Args)]
pub struct Arguments {
    /// The pipeline's name.
    pipeline: Option<String>,
    /// Only these stages of it, in all variants.
    stages: Vec<String>,
    #[command(flatten)]
    folders: Folders,
}

/// Remove pins, so that gc may remove the artifacts.
#[derive(Args)]
pub struct Unpin {
    /// The name of the pipeline whose last build is unpinned, or the label of a pin from the list of `raisin pin`.
    pipeline: String,
    /// Only these stages of the pipeline, in all variants. Not allowed with the label of a pin.
    stages: Vec<String>,
    #[command(flatten)]
    folders: Folders,
}

fn built(folders: &Folders, pipeline: &str, stages: &[String]) -> Result<Vec<BuiltStage>> {
    let Some(description) = BuildDescription::read(&folders.out.path().join(pipeline))? else {
        return Err(Problem::usage(format!("no pipeline `{pipeline}` was built here"))
            .hint(format!("its links would be in {}", folders.out.path().join(pipeline).display()))
            .into());
    };
    let names = || description.stages.iter().map(|built| built.stage.as_str());
    for stage in stages {
        if !names().any(|name| name == stage) {
            let problem = Problem::usage(format!("the last build of `{pipeline}` has no stage `{stage}`"));
            return Err(match nearest(stage, names()) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem,
            }
            .into());
        }
    }
    let wanted = |built: &BuiltStage| stages.is_empty() || stages.contains(&built.stage);
    Ok(description.stages.into_iter().filter(wanted).collect())
}

fn label(pipeline: &str, built: &BuiltStage) -> String {
    let variant = if built.variant.is_empty() { String::new() } else { format!(" [{}]", built.variant) };
    format!("{pipeline}.{}{variant}", built.stage)
}

pub fn pin(arguments: &Arguments) -> Result<ExitCode> {
    let cache = arguments.folders.cache.path();
    let Some(pipeline) = &arguments.pipeline else {
        let store = Store::expected(&cache)?;
        let pins = store.pins()?;
        for pin in &pins {
            let missing = if store.artifact_folder(pin.digest).is_dir() { "" } else { "  (missing)" };
            super::print(&format!("{}  {}{missing}\n", pin.digest.short(), pin.label))?;
        }
        say!("{} pinned", pins.len());
        return Ok(ExitCode::SUCCESS);
    };
    let built = built(&arguments.folders, pipeline, &arguments.stages)?;
    // The pins of artifacts that are gone keep what the next build makes, so that the cache itself may be gone too.
    let store = Store::open(&cache)?;
    for stage in &built {
        store.pin(stage.artifact, &label(pipeline, stage))?;
    }
    let count = store.pins()?.len();
    say!("{} artifacts of `{pipeline}` are pinned; {count} pins in total", built.len());
    let missing = built.iter().filter(|stage| !store.artifact_folder(stage.artifact).is_dir());
    let missing: Vec<String> = missing.map(|stage| label(pipeline, stage)).collect();
    if missing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say!("{} of them are missing in this cache, so the pins keep nothing yet: {}", missing.len(), missing.join(", "));
    say!("hint: `raisin build` makes them again, and so does `raisin verify --repair`; the pins then keep them");
    Ok(ExitCode::FAILURE)
}

pub fn unpin(arguments: &Unpin) -> Result<ExitCode> {
    let store = Store::expected(&arguments.folders.cache.path())?;
    let mut labelled = store.pins()?;
    labelled.retain(|pin| pin.label == arguments.pipeline);
    if !labelled.is_empty() && !arguments.stages.is_empty() {
        let message = format!("`{}` is the label of a pin, which has no stages", arguments.pipeline);
        return Err(Problem::usage(message).hint("leave out the names of stages").into());
    }
    let digests = if labelled.is_empty() {
        let built = built(&arguments.folders, &arguments.pipeline, &arguments.stages)?;
        built.iter().map(|stage| stage.artifact).collect::<Vec<_>>()
    } else {
        labelled.iter().map(|pin| pin.digest).collect()
    };
    let mut count = 0;
    for digest in digests {
        count += usize::from(store.unpin(digest)?);
    }
    say!("{count} unpinned, {} left", store.pins()?.len());
    Ok(ExitCode::SUCCESS)
}
