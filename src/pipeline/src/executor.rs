//! `[executor]`: where the stages of a pipeline run, and what their jobs ask of a cluster. It is never part of an action
//! key, except for the kind of the device. The engine submits the jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Stage;
use super::explain::find;
use super::resources;
use super::tree::{Table, TableEntry, TreeNode};
use raisin_base::error::{Problem, nearest};
use raisin_contract::declaration::from_json;
use raisin_contract::pointer::dotted;
use raisin_contract::{DeviceKind, Process};

/// Where a stage runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunsOn {
    /// On this machine.
    #[default]
    Local,
    /// As a job of Slurm.
    Slurm,
    /// As a job of another scheduler, by the commands `submit`, `poll` and `cancel`.
    Template,
}

/// The content of `[executor]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorSettings {
    /// Where the stages of `stages` run. Default: local.
    pub run: RunsOn,
    /// The stages that run there. Default: the tensor stages and the stages of kind `command`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<String>>,
    /// The device of the tensors of these stages. Default: that of the build. The machine of the build need not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceKind>,
    /// The partition or queue of the jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// The time limit of a job, such as "90m", "12h", "2d", or a form of Slurm such as "1-12:00:00".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The memory of a job, such as "32GB". Default: `resources.memory` of the stage and 1GB for the process itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// The processor cores of a job. Default: `resources.threads` of the stage, or 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<usize>,
    /// The GPUs of a job. Default: 1 for a tensor stage on CUDA, and for a stage with `resources.gpus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<usize>,
    /// More options for the command that submits, such as `["--account=lab"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Vec<String>>,
    /// The largest number of jobs that run at the same time. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<usize>,
    /// The time between two questions to the scheduler. Default: "30s".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Lines of shell that a job runs first, such as `["module load cuda"]`.
    pub setup: Vec<String>,
    /// The path of the executable `raisin` on the machines of the jobs. Default: that of the build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raisin: Option<String>,
    /// The command of `template` that submits a job. Its last word on standard output is the id of the job.
    pub submit: Vec<String>,
    /// The command of `template` that tells the states of all jobs, one line `ID STATE` for each.
    pub poll: Vec<String>,
    /// The command of `template` that cancels jobs.
    pub cancel: Vec<String>,
    /// Other values for single stages, by the name of the stage.
    pub stage: BTreeMap<String, StageExecutor>,
}

/// What `[executor.stage.NAME]` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StageExecutor {
    /// Where the stage runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunsOn>,
    /// As `executor.partition`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// As `executor.time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// As `executor.memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// As `executor.cpus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<usize>,
    /// As `executor.gpus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<usize>,
    /// As `executor.extra`, which it replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Vec<String>>,
}

/// What the job of a stage asks of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobRequest {
    pub runs_on: RunsOn,
    pub partition: Option<String>,
    /// In minutes.
    pub time: Option<u64>,
    /// In bytes.
    pub memory: Option<u64>,
    pub cpus: usize,
    pub gpus: usize,
    pub extra: Vec<String>,
}

/// The memory of a process of raisin beside that of its stage, in bytes: the libraries and what they keep.
const OWN_MEMORY: u64 = 1_000_000_000;

impl ExecutorSettings {
    /// Whether all stages run on this machine.
    pub fn is_local(&self) -> bool {
        self.run == RunsOn::Local && self.stage.values().all(|own| own.run.is_none_or(|run| run == RunsOn::Local))
    }

    /// Where a stage runs.
    pub fn place(&self, stage: &Stage) -> RunsOn {
        if let Some(run) = self.stage.get(&stage.name).and_then(|own| own.run) {
            return run;
        }
        let is_meant = match &self.stages {
            Some(names) => names.contains(&stage.name),
            None => stage.declaration.computes,
        };
        if is_meant { self.run } else { RunsOn::Local }
    }

    /// The device kind of a stage that runs as a job; `None` if it is that of the build.
    pub fn device(&self, stage: &Stage) -> Option<DeviceKind> {
        self.device.filter(|_| self.place(stage) != RunsOn::Local)
    }

    /// What the job of a stage asks for; `None` if the stage runs on this machine. `on_gpu`: the tensors of the build
    /// are on CUDA. `threads`: the number of threads if nothing gives another.
    pub fn request(&self, stage: &Stage, on_gpu: bool, threads: Option<usize>) -> Option<JobRequest> {
        let runs_on = self.place(stage);
        if runs_on == RunsOn::Local {
            return None;
        }
        let none = StageExecutor::default();
        let own = self.stage.get(&stage.name).unwrap_or(&none);
        let said = &stage.resources;
        let bytes = |text: &String| resources::bytes(text);
        let memory = own.memory.as_ref().or(self.memory.as_ref()).and_then(bytes);
        let takes_gpu = said.gpus.is_some() || (stage.declaration.process == Process::Tensor && on_gpu);
        let time = own.time.as_ref().or(self.time.as_ref());
        Some(JobRequest {
            runs_on,
            partition: own.partition.clone().or_else(|| self.partition.clone()),
            time: time.and_then(|text| minutes(text)),
            memory: memory.or_else(|| said.memory.map(|memory| memory.saturating_add(OWN_MEMORY))),
            cpus: own.cpus.or(self.cpus).or(said.threads).or(threads).unwrap_or(1),
            gpus: own.gpus.or(self.gpus).unwrap_or(usize::from(takes_gpu)),
            extra: own.extra.clone().or_else(|| self.extra.clone()).unwrap_or_default(),
        })
    }

    /// The time between two questions to the scheduler.
    pub fn interval(&self) -> Duration {
        let seconds = self.interval.as_deref().and_then(seconds).unwrap_or(30);
        Duration::from_secs(seconds)
    }

    /// An impossible value that the types allow: the pointer of the key, and the message.
    fn problem(&self) -> Option<(String, String)> {
        let own = self.stage.iter().map(|(name, own)| (format!("/stage/{name}"), &own.time, &own.memory, own.cpus));
        let all = std::iter::once((String::new(), &self.time, &self.memory, self.cpus)).chain(own);
        for (at, time, memory, cpus) in all {
            if time.as_ref().is_some_and(|text| minutes(text).is_none()) {
                let message = "a time looks like \"90m\", \"12h\", \"2d\" or \"1-12:00:00\"";
                return Some((format!("{at}/time"), message.to_owned()));
            }
            if memory.as_ref().is_some_and(|text| resources::bytes(text).is_none_or(|bytes| bytes == 0)) {
                return Some((format!("{at}/memory"), "a size looks like \"500MB\" or \"20GB\"".to_owned()));
            }
            if cpus == Some(0) {
                return Some((format!("{at}/cpus"), "nothing runs with 0 cores".to_owned()));
            }
        }
        if self.jobs == Some(0) {
            return Some(("/jobs".to_owned(), "nothing runs with 0 jobs".to_owned()));
        }
        if self.interval.as_deref().is_some_and(|text| seconds(text).is_none_or(|seconds| seconds == 0)) {
            return Some(("/interval".to_owned(), "an interval looks like \"30s\" or \"2m\"".to_owned()));
        }
        let places = self.stage.values().filter_map(|own| own.run).chain([self.run]);
        if places.into_iter().any(|place| place == RunsOn::Template) {
            let commands = [("submit", &self.submit), ("poll", &self.poll), ("cancel", &self.cancel)];
            if let Some((name, _)) = commands.into_iter().find(|(_, command)| command.is_empty()) {
                let message = format!("with run = \"template\", `{name}` must be a command: a list of its arguments");
                return Some((format!("/{name}"), message));
            }
        }
        None
    }
}

/// A number of seconds: `45s`, `2m`, `1h`, `1d`.
fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let number: u64 = text[..at].trim().parse().ok()?;
    let unit = match &text[at..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A time limit in minutes, rounded up: `90m`, `12h`, or as Slurm writes it: `MINUTES`, `MINUTES:SECONDS`,
/// `HOURS:MINUTES:SECONDS`, `DAYS-HOURS`, `DAYS-HOURS:MINUTES`, `DAYS-HOURS:MINUTES:SECONDS`.
fn minutes(text: &str) -> Option<u64> {
    if let Some(seconds) = seconds(text) {
        return Some(seconds.div_ceil(60)).filter(|minutes| *minutes > 0);
    }
    let (days, rest) = match text.trim().split_once('-') {
        Some((days, rest)) => (Some(days.parse::<u64>().ok()?), rest),
        None => (None, text.trim()),
    };
    let parts: Vec<u64> = rest.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let of_day = match (days, parts.as_slice()) {
        (Some(_), [hours]) => hours.checked_mul(3600)?,
        (Some(_), [hours, minutes]) => hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?,
        (None, [minutes]) => minutes.checked_mul(60)?,
        (None, [minutes, seconds]) => minutes.checked_mul(60)?.checked_add(*seconds)?,
        (_, [hours, minutes, seconds]) => {
            hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?.checked_add(*seconds)?
        }
        _ => return None,
    };
    let seconds = days.unwrap_or_default().checked_mul(86_400)?.checked_add(of_day)?;
    Some(seconds.div_ceil(60)).filter(|minutes| *minutes > 0)
}

/// Reads and checks `[executor]` of a pipeline file.
///
/// # Errors
/// A key is unknown, a value is impossible, or a stage does not exist.
pub fn settings(root: &Table) -> Result<ExecutorSettings, Vec<Problem>> {
    let Some(entry) = root.entry("executor") else { return Ok(ExecutorSettings::default()) };
    read(entry, root.get("stage").and_then(TreeNode::table)).map_err(|problem| vec![problem])
}

fn read(entry: &TableEntry, stages: Option<&Table>) -> Result<ExecutorSettings, Problem> {
    let at = |pointer: &str, message: &str| {
        let key = dotted(pointer);
        let key = if key.is_empty() { "executor".to_owned() } else { format!("executor.{key}") };
        let place = find(entry, pointer);
        let origin = if message.starts_with("unknown field") { place.key } else { place.value };
        origin.problem(format!("{key}: {message}"))
    };
    let settings: ExecutorSettings =
        from_json(entry.node.to_json(), "").map_err(|problem| at(&problem.pointer, &problem.message))?;
    if let Some((pointer, message)) = settings.problem() {
        return Err(at(&pointer, &message));
    }
    let all = || stages.into_iter().flat_map(Table::keys);
    let listed = settings.stages.iter().flatten().enumerate();
    let named = listed.map(|(place, name)| (format!("/stages/{place}"), name));
    for (pointer, name) in named.chain(settings.stage.keys().map(|name| (format!("/stage/{name}"), name))) {
        if !all().any(|known| known == name) {
            let problem = at(&pointer, &format!("there is no stage `{name}`"));
            return Err(match nearest(name, all()) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem,
            });
        }
    }
    Ok(settings)
}

/// The JSON Schema of `[executor]`.
pub fn schema(generator: &mut schemars::SchemaGenerator) -> Value {
    let settings = generator.subschema_for::<ExecutorSettings>().to_value();
    json!({
        "description": "Where the stages run: on this machine, or as jobs of a cluster. It is not part of any action key, \
                        except for the kind of the device.",
        "allOf": [settings],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_slurm_write_them() {
        assert_eq!(["90m", "12h", "2d", "61s"].map(minutes), [Some(90), Some(720), Some(2880), Some(2)]);
        assert_eq!(["30", "30:00", "1:30:00", "1-12"].map(minutes), [Some(30), Some(30), Some(90), Some(2160)]);
        assert_eq!(["1-12:30", "1-12:30:01", "0:0:1"].map(minutes), [Some(2190), Some(2191), Some(1)]);
        assert_eq!(["", "0", "0m", "soon", "1:2:3:4", "-5", "99999999999999999999h"].map(minutes), [None; 7]);
    }
}
