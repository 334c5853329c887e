//! Stage kinds of a few lines.

use std::time::Duration;

use raisin::error::{Result, bail};
use raisin::stages::{Context, Declaration, Kind, Needs, Process};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Writes its text without the blanks around it.
pub struct Write;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WriteParameters {
    text: String,
    milliseconds: u64,
    fail: bool,
    /// Ends in the middle when there is no checkpoint yet.
    die_once: bool,
}

impl Default for WriteParameters {
    fn default() -> Self {
        Self { text: "hello".into(), milliseconds: 0, fail: false, die_once: false }
    }
}

impl Kind for Write {
    const NAME: &'static str = "write";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Writes a text.";
    const PROCESS: Process = Process::Light;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = WriteParameters;

    fn needs(_: &Self::Parameters, _: &mut Needs) {}

    fn run(parameters: Self::Parameters, context: &Context) -> Result<()> {
        std::thread::sleep(Duration::from_millis(parameters.milliseconds));
        let checkpoint = context.work().join("checkpoint");
        if parameters.die_once && !checkpoint.exists() {
            std::fs::write(checkpoint, "half")?;
            bail!("died in the middle");
        }
        if parameters.fail {
            eprintln!("the reason lies here");
            bail!("was told to fail");
        }
        let resumed = if checkpoint.exists() { " resumed" } else { "" };
        std::fs::write(context.out().join("text"), format!("{}{resumed}", parameters.text.trim()))?;
        Ok(())
    }
}

/// Joins the texts of two stages and its seed.
pub struct Join;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinParameters {
    left: String,
    right: String,
    #[serde(default)]
    between: String,
}

impl Kind for Join {
    const NAME: &'static str = "join";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Joins two texts.";
    const PROCESS: Process = Process::Light;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = JoinParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        needs.any_stage("/left", &parameters.left);
        needs.any_stage("/right", &parameters.right);
    }

    fn run(parameters: Self::Parameters, context: &Context) -> Result<()> {
        let left = std::fs::read_to_string(context.input("/left")?.join("text"))?;
        let right = std::fs::read_to_string(context.input("/right")?.join("text"))?;
        let text = format!("{left}{}{right}", parameters.between);
        std::fs::write(context.out().join("text"), text)?;
        std::fs::write(context.out().join("seed"), context.seed().number().to_string())?;
        Ok(())
    }
}

/// Copies a file, slowly.
pub struct Copy;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyParameters {
    path: String,
    #[serde(default)]
    blake3: Option<String>,
    #[serde(default)]
    milliseconds: u64,
}

impl Kind for Copy {
    const NAME: &'static str = "copy";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Copies a file.";
    const PROCESS: Process = Process::Light;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = CopyParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        needs.pinned_file("", &parameters.path, parameters.blake3.as_deref());
    }

    fn run(parameters: Self::Parameters, context: &Context) -> Result<()> {
        let text = std::fs::read(context.file("/path")?)?;
        std::thread::sleep(Duration::from_millis(parameters.milliseconds));
        std::fs::write(context.out().join("text"), text)?;
        Ok(())
    }
}

/// Lists what all variants made.
pub struct Show;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowParameters {
    of: Vec<String>,
}

impl Kind for Show {
    const NAME: &'static str = "show";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Lists texts.";
    const PROCESS: Process = Process::Light;
    const SEEDED: bool = false;
    const GATHERS: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = ShowParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        for (index, stage) in parameters.of.iter().enumerate() {
            needs.any_stage(format!("/of/{index}"), stage);
        }
    }

    fn run(parameters: Self::Parameters, context: &Context) -> Result<()> {
        let mut text = String::new();
        for index in 0..parameters.of.len() {
            for source in context.gathered(&format!("/of/{index}"))? {
                let content = std::fs::read_to_string(source.folder.join("text"))?;
                text += &format!("{} {} {content}\n", source.stage, Value::Object(source.variant.clone()));
            }
        }
        std::fs::write(context.out().join("text"), text)?;
        Ok(())
    }
}

pub static KINDS: [Declaration; 4] =
    [Declaration::of::<Write>(), Declaration::of::<Join>(), Declaration::of::<Copy>(), Declaration::of::<Show>()];
