//! What a scheduler of jobs can do for a build, and how its commands are asked. slurm.rs and template.rs are the two
//! kinds of schedulers.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

pub use crate::asked::CommandAnswer;
use crate::asked::{self, Unanswered};

use super::files::{JobSpec, Submitting};
use super::slurm::SlurmCluster;
use super::template::TemplateCluster;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_pipeline::{ExecutorSettings, JobRequest, RunsOn};

/// The longest time for which a command of a scheduler may take to answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The state of a job, as its scheduler says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// The job waits for its turn, for the reason that the scheduler gives.
    Pending(String),
    /// The job runs; the text is what the scheduler adds, such as the name of the node.
    Running(String),
    Ended(JobEnd),
}

/// Why a job ended, as its scheduler says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Completed,
    Failed,
    Cancelled,
    TimeLimit,
    Preempted,
    NodeFailed,
    OutOfMemory,
    /// The scheduler does not know the job any more.
    Gone,
}

impl JobEnd {
    /// Whether the job is worth another attempt: its end says nothing about the stage.
    pub fn is_of_the_cluster(self) -> bool {
        matches!(self, Self::TimeLimit | Self::Preempted | Self::NodeFailed | Self::Gone)
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Completed => "ended",
            Self::Failed => "failed",
            Self::Cancelled => "was cancelled by someone else than this build",
            Self::TimeLimit => "reached its time limit",
            Self::Preempted => "was preempted",
            Self::NodeFailed => "lost its node",
            Self::OutOfMemory => "ran out of memory",
            Self::Gone => "is not known to the scheduler any more",
        }
    }
}

/// The state with this name, in the words of Slurm. Templates use the same words.
pub fn state(name: &str, more: &str) -> Option<JobState> {
    let more = more.trim_matches(['(', ')', ' ']);
    // Slurm's word for a job that has no reason to wait.
    let more = if more == "None" { String::new() } else { more.to_owned() };
    let end = match name.to_ascii_uppercase().as_str() {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD" | "SPECIAL_EXIT" => {
            return Some(JobState::Pending(more));
        }
        "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "STAGE_OUT" | "RESIZING" => {
            return Some(JobState::Running(more));
        }
        "COMPLETED" | "SUCCEEDED" => JobEnd::Completed,
        "FAILED" => JobEnd::Failed,
        "CANCELLED" | "REVOKED" => JobEnd::Cancelled,
        "TIMEOUT" | "DEADLINE" => JobEnd::TimeLimit,
        "PREEMPTED" => JobEnd::Preempted,
        "NODE_FAIL" | "BOOT_FAIL" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => JobEnd::NodeFailed,
        "OUT_OF_MEMORY" => JobEnd::OutOfMemory,
        "GONE" => JobEnd::Gone,
        _ => return None,
    };
    Some(JobState::Ended(end))
}

/// A failed question to a scheduler.
#[derive(Debug)]
pub enum ClusterError {
    /// The scheduler does not answer now. The question can be asked again.
    Silent(String),
    /// The scheduler refuses, with these words.
    Refused(String),
}

/// A job that was just submitted: its id, and the file to which the scheduler writes what the job prints.
pub struct NewJob {
    pub id: String,
    pub output: Option<PathBuf>,
}

/// A scheduler of jobs.
pub trait Cluster: Send + Sync {
    /// The name in messages.
    fn name(&self) -> &'static str;

    /// # Errors
    /// A command of the scheduler is missing on this machine.
    fn check(&self) -> Result<()>;

    /// The largest number of jobs of one submission.
    fn most(&self) -> usize;

    /// The largest number of jobs that the build keeps submitted at a time.
    fn most_at_once(&self) -> Option<usize>;

    /// Submits jobs with equal requests and equal names, at most [`Cluster::most`]. The result has one entry for each. The
    /// scheduler keeps the mark, if it can.
    fn submit(&self, jobs: &[&JobSpec], mark: &str) -> Result<Vec<NewJob>, ClusterError>;

    /// The jobs of submissions that were ended before their ids were known, one entry for each; an entry is `None` if
    /// there is no such job. The whole is `None` if this kind of scheduler cannot be asked.
    fn find(&self, begun: &[Submitting]) -> Result<Option<Vec<Option<NewJob>>>, ClusterError>;

    /// The states of these jobs, by id. A job that is not in the answer is gone.
    fn poll(&self, ids: &[&str]) -> Result<HashMap<String, JobState>, ClusterError>;

    fn cancel(&self, ids: &[&str]) -> Result<(), ClusterError>;
}

/// The schedulers that a pipeline uses.
pub struct Clusters(BTreeMap<RunsOn, Arc<dyn Cluster>>);

/// What every job of a build has in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// The path of `raisin` on the machines of the jobs.
    pub raisin: PathBuf,
    /// The folder in which a job runs.
    pub folder: PathBuf,
    /// Lines of shell that a job runs first.
    pub setup: Vec<String>,
    /// The folder for files of the scheduler.
    pub logs: PathBuf,
    /// The largest number of jobs that run at the same time.
    pub jobs: Option<usize>,
}

impl Clusters {
    /// The schedulers of the requests of a pipeline, whose jobs have their folders below `folder`.
    ///
    /// # Errors
    /// The path of this executable is unknown.
    pub fn of<'r>(
        requests: impl Iterator<Item = &'r JobRequest>,
        settings: &ExecutorSettings,
        project: &Path,
        folder: &Path,
    ) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find the running executable")?;
        let common = Common {
            raisin: settings.raisin.as_ref().map_or(own, PathBuf::from),
            folder: project.to_owned(),
            setup: settings.setup.clone(),
            logs: folder.join("output"),
            jobs: settings.jobs,
        };
        let mut all: BTreeMap<RunsOn, Arc<dyn Cluster>> = BTreeMap::new();
        for request in requests {
            let one: Arc<dyn Cluster> = match request.runs_on {
                RunsOn::Local => continue,
                RunsOn::Slurm => Arc::new(SlurmCluster::new(common.clone())),
                RunsOn::Template => Arc::new(TemplateCluster::new(common.clone(), settings)),
            };
            all.entry(request.runs_on).or_insert(one);
        }
        Ok(Self(all))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// A command of a scheduler is missing on this machine.
    pub fn check(&self) -> Result<()> {
        self.0.values().try_for_each(|cluster| cluster.check())
    }

    pub fn get(&self, runs_on: RunsOn) -> Option<&Arc<dyn Cluster>> {
        self.0.get(&runs_on)
    }
}

/// The script of a job: the set-up, and then `raisin job` for one of the folders. `index` is an expression of the shell
/// for the number of the folder.
pub fn script(common: &Common, jobs: &[&JobSpec], index: Option<&str>) -> String {
    let mut text = "#!/bin/sh\n".to_owned();
    for line in &common.setup {
        text += line;
        text.push('\n');
    }
    text += &format!("cd {} || exit 1\n", quoted(&common.folder.to_string_lossy()));
    text += &format!("exec {} job", quoted(&common.raisin.to_string_lossy()));
    if let Some(index) = index {
        text += &format!(" --index \"{index}\"");
    }
    for job in jobs {
        text += &format!(" \\\n    {}", quoted(&job.folder.to_string_lossy()));
    }
    text + "\n"
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Asks a command of a scheduler, with this standard input.
///
/// # Errors
/// The command cannot be started, or does not answer in time.
pub fn ask(command: &mut Command, input: &str) -> Result<CommandAnswer, ClusterError> {
    asked::ask(command, input, PATIENCE).map_err(|none| match none {
        Unanswered::NotStarted(words) => ClusterError::Refused(words),
        Unanswered::Late(words) => ClusterError::Silent(words),
    })
}

/// # Errors
/// No folder of PATH has an executable of this name.
pub fn check_command(name: &str, hint: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = if name.contains('/') {
        Path::new(name).is_file()
    } else {
        std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
    };
    if is_there {
        return Ok(());
    }
    Err(Problem::new(format!("there is no `{name}` on this machine")).hint(hint).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_quote_is_one_word_of_the_script() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("it's here");
        std::fs::create_dir(&odd).unwrap();
        let common = Common {
            raisin: PathBuf::from("/bin/echo"),
            folder: odd.clone(),
            setup: vec!["WORD=set".to_owned(), "echo $WORD".to_owned()],
            logs: PathBuf::new(),
            jobs: None,
        };
        let request = JobRequest {
            runs_on: RunsOn::Slurm,
            partition: None,
            time: None,
            memory: None,
            cpus: 1,
            gpus: 0,
            extra: Vec::new(),
        };
        let job =
            JobSpec { folder: odd.clone(), stage: String::new(), label: String::new(), name: String::new(), request };
        let text = script(&common, &[&job, &job], Some("${INDEX}"));
        let output = Command::new("sh").args(["-c", &text]).env("INDEX", "1").output().unwrap();
        let odd = odd.display();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("set\njob --index 1 {odd} {odd}\n"));
    }
}
