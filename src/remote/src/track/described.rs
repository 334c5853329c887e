//! The runs that wait to be sent, with what the cache knows about them: the settings of their stages, keys, artifacts,
//! times, the commit. An artifact has none of these, because its key does not cover them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

use super::run::MlflowRun;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::files::if_there;
use raisin_contract::track::{RunToSend, TRACK, TRACKED_RUNS};
use raisin_contract::{Action, Input, Part};
use raisin_store::{ActionRecord, BuildDescription, BuiltStage, Run, Store, runs};

/// The longest value of a parameter and of a tag, in characters. Older servers take no more.
const LONGEST_PARAMETER: usize = 500;
const LONGEST_TAG: usize = 5000;
/// The longest name of a parameter or a tag, in characters.
const LONGEST_NAME: usize = 250;

/// All that is known about the runs of some pipelines.
pub struct Descriptions<'s> {
    store: &'s Store,
    pub stages: Vec<TrackStage>,
    /// The runs of raisin, to look up commits.
    journal: Vec<Run>,
}

/// A `track` stage with runs for MLflow.
pub struct TrackStage {
    build: BuildDescription,
    pub artifact: Digest,
    key: Digest,
    /// One file for each run, sorted.
    pub files: Vec<PathBuf>,
}

/// A run to send.
pub struct WaitingRun {
    pub run: MlflowRun,
    /// The number of values that were too long.
    pub cut: u64,
}

impl<'s> Descriptions<'s> {
    /// # Errors
    /// A pipeline was not built, or a file cannot be read.
    pub fn read(store: &'s Store, out: &Path, pipelines: &[String]) -> Result<Self> {
        let mut stages = Vec::new();
        for pipeline in pipelines {
            let folder = out.join(pipeline);
            let Some(build) = BuildDescription::read(&folder)? else {
                let problem = Problem::usage(format!("there is no build of `{pipeline}` in {}", folder.display()));
                return Err(problem.hint("build it first; --out DIR names another folder").into());
            };
            for stage in build.stages.iter().filter(|stage| stage.kind == TRACK) {
                let files = files(&store.artifact_folder(stage.artifact).join(TRACKED_RUNS))?;
                if !files.is_empty() {
                    stages.push(TrackStage { build: build.clone(), artifact: stage.artifact, key: stage.key, files });
                }
            }
        }
        let journal = if stages.is_empty() { Vec::new() } else { runs(store.journal()?) };
        Ok(Self { store, stages, journal })
    }

    /// The number of all runs.
    pub fn runs(&self) -> u64 {
        self.stages.iter().map(|stage| stage.files.len() as u64).sum()
    }

    /// A run of a stage.
    ///
    /// # Errors
    /// The file cannot be read, or is not one of a `track` stage.
    pub fn run(&self, stage: &TrackStage, file: &Path) -> Result<WaitingRun> {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let waiting: RunToSend =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is unreadable", file.display()))?;
        let mut texts = MlflowTexts::default();
        for (key, value) in &waiting.variant {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            texts.parameter(key.strip_prefix("stage.").unwrap_or(key), &value);
        }
        let mut times = Vec::new();
        for (name, artifact) in &waiting.artifacts {
            texts.tag(&format!("raisin.artifact.{name}"), artifact);
            let Some(built) = built(&stage.build, name, artifact, &waiting) else { continue };
            texts.tag(&format!("raisin.action.{name}"), &built.key.to_hex());
            // A record that is gone or damaged leaves the run without the settings of its stage.
            let Some(record) = self.store.record(built.key).ok().flatten() else { continue };
            times.extend([&record.started, &record.finished].into_iter().filter_map(|time| milliseconds(time)));
            if let Ok(action) = Action::of_json(&record.action) {
                settings(name, &action.parameters, &mut texts);
                if let Some(seed) = action.seed {
                    texts.parameter(&format!("{name}.seed"), &seed.to_string());
                }
            }
        }
        texts.tag("raisin.pipeline", &stage.build.pipeline);
        texts.tag("raisin.variant", &waiting.run);
        let record = self.store.record(stage.key).ok().flatten();
        times.extend(record.as_ref().filter(|_| times.is_empty()).and_then(|record| milliseconds(&record.finished)));
        self.origin(record.as_ref(), &mut texts);
        Ok(WaitingRun {
            cut: texts.cut,
            run: MlflowRun {
                key: Digest::of(&bytes),
                experiment: waiting.experiment,
                name: waiting.run,
                started: times.iter().min().copied().unwrap_or_default(),
                finished: times.iter().max().copied().unwrap_or_default(),
                parameters: texts.parameters,
                tags: texts.tags,
                metrics: waiting.metrics,
            },
        })
    }

    /// The run of raisin that made the `track` stage, with its file and its commit.
    fn origin(&self, record: Option<&ActionRecord>, texts: &mut MlflowTexts) {
        let Some(record) = record else { return };
        texts.tag("raisin.run", &record.run);
        let Some(run) = self.journal.iter().find(|run| run.run == record.run) else { return };
        if let Some(file) = &run.file {
            texts.tag("mlflow.source.name", file);
        }
        if let Some(commit) = &run.commit {
            texts.tag("mlflow.source.git.commit", commit);
            texts.tag("raisin.git.dirty", &run.dirty.unwrap_or_default().to_string());
        }
    }
}

/// The files of a folder, sorted; none without the folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", folder.display());
    let Some(entries) = if_there(std::fs::read_dir(folder)).with_context(cannot)? else { return Ok(Vec::new()) };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().with_context(cannot)?;
    files.sort();
    Ok(files)
}

/// The stage of the build that has this artifact, in the variant of the run.
fn built<'b>(build: &'b BuildDescription, name: &str, artifact: &str, run: &RunToSend) -> Option<&'b BuiltStage> {
    let has = |stage: &&BuiltStage| stage.stage == name && stage.artifact.to_hex() == artifact;
    let in_variant = |stage: &&BuiltStage| run.variant.iter().all(|(key, value)| stage.values.get(key) == Some(value));
    let mut all = build.stages.iter().filter(has);
    all.clone().find(in_variant).or_else(|| all.next())
}

fn milliseconds(time: &str) -> Option<i64> {
    Some(time.parse::<Timestamp>().ok()?.as_millisecond())
}

/// The settings of a stage, without its input stages: the tags have their artifacts.
fn settings(name: &str, part: &Part, texts: &mut MlflowTexts) {
    match part {
        Part::Table(entries) => entries.iter().for_each(|(key, part)| settings(&format!("{name}.{key}"), part, texts)),
        Part::List(items) if items.iter().all(|item| matches!(item, Part::Input(Input::Plain(_)))) => {
            texts.parameter(name, &part.to_json().to_string());
        }
        Part::List(items) => {
            for (place, item) in items.iter().enumerate() {
                settings(&format!("{name}.{place}"), item, texts);
            }
        }
        Part::Input(Input::Plain(value)) => match value.as_ref() {
            Value::Null => {}
            Value::String(text) => texts.parameter(name, text),
            other => texts.parameter(name, &other.to_string()),
        },
        Part::Input(Input::File { blake3, name: file }) => {
            texts.parameter(name, &format!("{file} blake3:{}", blake3.short()));
        }
        Part::Input(Input::Files(files)) => texts.parameter(name, &format!("{} files", files.len())),
        Part::Input(Input::Artifact(_) | Input::Artifacts(_)) => {}
    }
}

/// Parameters and tags in the form that MLflow accepts.
#[derive(Default)]
struct MlflowTexts {
    parameters: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    cut: u64,
}

impl MlflowTexts {
    fn parameter(&mut self, name: &str, value: &str) {
        let value = self.short(value, LONGEST_PARAMETER);
        self.parameters.insert(plain(name), value);
    }

    fn tag(&mut self, name: &str, value: &str) {
        let value = self.short(value, LONGEST_TAG);
        self.tags.insert(plain(name), value);
    }

    fn short(&mut self, text: &str, most: usize) -> String {
        if text.chars().count() <= most {
            return text.to_owned();
        }
        self.cut += 1;
        text.chars().take(most).collect()
    }
}

/// A name of letters, digits and `_-.`. A name that had to change ends with a digest, so that two never become one.
fn plain(name: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
    if name.chars().all(is_plain) && name.chars().count() <= LONGEST_NAME {
        return name.to_owned();
    }
    let changed = name.chars().take(LONGEST_NAME - 20).map(|letter| if is_plain(letter) { letter } else { '_' });
    format!("{}-{}", changed.collect::<String>(), Digest::of(name.as_bytes()).short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_flat_and_the_inputs_are_left_to_the_tags() -> Result<()> {
        let digest = Digest::of(b"x");
        let json = json!({"format": 1, "kind": "finetune", "kind_version": 1, "parameters": {
            "steps": 60, "model": {"artifact": digest}, "select": {"method": "raise", "none": null},
            "weights": [1, 2], "sources": [{"path": {"file": digest, "name": "pool.jsonl"}}], "text": "t".repeat(600),
            "odd name": true}});
        let mut texts = MlflowTexts::default();
        settings("tuned", &Action::of_json(&json)?.parameters, &mut texts);
        let mut found = texts.parameters.clone();
        assert_eq!(found.remove("tuned.text").map(|text| text.len()), Some(500));
        assert_eq!(texts.cut, 1);
        let odd = found.keys().find(|name| name.starts_with("tuned.odd_name-")).cloned().expect("a plain name");
        found.remove(&odd);
        let pairs: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let file = format!("pool.jsonl blake3:{}", digest.short());
        assert_eq!(
            pairs,
            [
                ("tuned.select.method", "raise"),
                ("tuned.sources.0.path", file.as_str()),
                ("tuned.steps", "60"),
                ("tuned.weights", "[1,2]")
            ]
        );
        Ok(())
    }
}
