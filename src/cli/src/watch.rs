//! `raisin build --watch`: builds again when what the pipeline asks for changes. The engine builds.
//!
//! The pipeline is read again in intervals, and its input files are looked at as before a build: the store remembers the
//! digest of an unchanged file. Therefore exactly those edits count that could change an action, also of included files
//! and of files that a pattern finds, and an edit of a comment does not count. Notifications of the kernel would miss
//! edits on network file systems.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::pipeline_arguments::PipelineArguments;
use raisin_base::error::{Result, render};
use raisin_base::say;
use raisin_engine::{self as engine, Interrupt, Summary};
use raisin_store::Store;

/// The shortest time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Of a large pipeline, a look takes long. Looking takes at most this part of a core: one in `SHARE`.
const SHARE: u32 = 20;

/// Builds, and builds again after each change, until a signal ends the process.
pub fn watch(pipeline: &PipelineArguments, build: impl Fn() -> Result<Summary>) -> Result<ExitCode> {
    let mut asked = asked_now(pipeline);
    loop {
        // An edit during the build is noticed after it, because `asked` was read before.
        match build() {
            Ok(summary) if summary.interrupted => return Ok(ExitCode::from(summary.exit_code())),
            Ok(_) => {}
            Err(error) => say::say(&render(&error)),
        }
        say!("watching {} and its files: an edit builds again, Ctrl-C ends", pipeline.file().display());
        let _ends_on_signal = Interrupt::watch()?;
        asked = changed_since(&asked, pipeline);
    }
}

/// Waits until the pipeline asks for something else, and has asked for the same in two looks: an editor may write a
/// file in several steps.
fn changed_since(before: &str, pipeline: &PipelineArguments) -> String {
    let mut last = before.to_owned();
    loop {
        let began = Instant::now();
        let now = asked_now(pipeline);
        if now == last && now != before {
            return now;
        }
        last = now;
        std::thread::sleep(INTERVAL.max(began.elapsed() * SHARE));
    }
}

/// Everything that the pipeline file and the flags ask for, or why they are wrong.
fn asked_now(pipeline: &PipelineArguments) -> String {
    asked(pipeline).unwrap_or_else(|error| render(&error))
}

fn asked(arguments: &PipelineArguments) -> Result<String> {
    let pipeline = arguments.load()?;
    let store = Store::open(&arguments.options().cache)?;
    let mut text = format!("{} {:?}\n", pipeline.name, pipeline.sweep);
    let mut files = BTreeMap::new();
    for (variant, stage) in
        pipeline.variants.iter().flat_map(|variant| variant.stages.iter().map(move |s| (variant, s)))
    {
        let (kind, parameters) = (stage.declaration.name, &stage.resolved.parameters);
        text += &format!("{} {:?} {} {kind} {} {parameters}\n", variant.name, variant.dtype, stage.name, stage.seed);
        for need in stage.resolved.needs.files.iter().filter(|need| !engine::is_address(&need.path)) {
            files.entry(need.path.clone()).or_insert_with(|| match engine::digest_of(&store, &need.path) {
                Ok(digest) => digest.to_string(),
                Err(error) => format!("{error:#}"),
            });
        }
    }
    Ok(text + &format!("{files:?}"))
}
