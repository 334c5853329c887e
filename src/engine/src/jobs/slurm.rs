//! Slurm: sbatch, squeue, scancel; sacct where accounting is on.

use std::collections::HashMap;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cluster::{
    Cluster, ClusterError, CommandAnswer, Common, JobState, NewJob, ask, check_command, script, state,
};
use super::files::{JobSpec, Submitting};
use raisin_base::error::Result;

/// Slurm's default of MaxArraySize.
const ARRAY: usize = 1001;

/// What Slurm says if it cannot answer now. These words are those of slurm_errno.c and of the libraries below it.
const SILENT: [&str; 9] = [
    "Socket timed out",
    "Unable to contact slurm controller",
    "Connection refused",
    "Connection timed out",
    "Zero Bytes were transmitted",
    "Slurm temporarily unable to accept job",
    "Resource temporarily unavailable",
    "Communication connection failure",
    "in standby mode",
];

pub struct SlurmCluster {
    common: Common,
    most: OnceLock<usize>,
    /// Whether sacct said that accounting is off.
    has_no_accounting: AtomicBool,
}

impl SlurmCluster {
    pub fn new(common: Common) -> Self {
        Self { common, most: OnceLock::new(), has_no_accounting: AtomicBool::new(false) }
    }

    /// The job with this id.
    fn known(&self, id: String) -> NewJob {
        NewJob { output: Some(self.common.logs.join(format!("{id}.out"))), id }
    }

    /// The states of jobs that squeue does not list any more, if accounting is on.
    fn accounted(&self, ids: &[&str]) -> HashMap<String, JobState> {
        if ids.is_empty() || self.has_no_accounting.load(Ordering::Relaxed) {
            return HashMap::new();
        }
        let mut command = Command::new("sacct");
        command.args(["--allocations", "--parsable2", "--noheader", "--format=JobID,State"]);
        // Without a start, sacct looks at the jobs since midnight only.
        command.args(["--starttime=now-14days", &format!("--jobs={}", ids.join(","))]);
        match ask(&mut command, "") {
            Ok(answer) if answer.succeeded() => states(&answer.stdout),
            Ok(answer) => {
                let is_off = answer.words().contains("accounting storage is disabled");
                self.has_no_accounting.fetch_or(is_off, Ordering::Relaxed);
                HashMap::new()
            }
            Err(_) => {
                // There may be no sacct at all.
                self.has_no_accounting.store(true, Ordering::Relaxed);
                HashMap::new()
            }
        }
    }
}

impl Cluster for SlurmCluster {
    fn name(&self) -> &'static str {
        "slurm"
    }

    fn check(&self) -> Result<()> {
        let hint = "build on a machine from which jobs are submitted, or give `--set executor.run=local`";
        ["sbatch", "squeue", "scancel"].into_iter().try_for_each(|name| check_command(name, hint))
    }

    fn most(&self) -> usize {
        *self.most.get_or_init(|| {
            let answer = ask(Command::new("scontrol").args(["show", "config"]), "");
            let text = answer.map(|answer| answer.stdout).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("MaxArraySize"));
            let number = line.and_then(|line| line.trim_start_matches([' ', '=']).trim().parse().ok());
            number.filter(|most: &usize| *most > 0).unwrap_or(ARRAY)
        })
    }

    fn most_at_once(&self) -> Option<usize> {
        // Slurm itself limits the jobs of an array.
        None
    }

    fn submit(&self, jobs: &[&JobSpec], mark: &str) -> Result<Vec<NewJob>, ClusterError> {
        let Some(first) = jobs.first() else { return Ok(Vec::new()) };
        let logs = &self.common.logs;
        std::fs::create_dir_all(logs)
            .map_err(|error| ClusterError::Refused(format!("cannot create {}: {error}", logs.display())))?;
        // In a path, Slurm reads `%` as the beginning of a pattern.
        let place = logs.to_string_lossy().replace('%', "%%");
        let (is_array, request) = (jobs.len() > 1, &first.request);
        let mut command = Command::new("sbatch");
        command.args(["--parsable", "--requeue", "--open-mode=append"]);
        command.arg(format!("--job-name={}", first.name));
        command.arg(format!("--comment={}{}", comment(mark), first.label));
        command.arg(format!("--output={place}/%{}.out", if is_array { "A_%a" } else { "j" }));
        command.arg(format!("--cpus-per-task={}", request.cpus));
        if is_array {
            let at_once = self.common.jobs.map(|most| format!("%{most}")).unwrap_or_default();
            command.arg(format!("--array=0-{}{at_once}", jobs.len() - 1));
        }
        if let Some(partition) = &request.partition {
            command.arg(format!("--partition={partition}"));
        }
        if let Some(minutes) = request.time {
            command.arg(format!("--time={minutes}"));
        }
        if let Some(memory) = request.memory {
            // Slurm counts in powers of 1024.
            command.arg(format!("--mem={}K", memory.div_ceil(1024)));
        }
        if request.gpus > 0 {
            command.arg(format!("--gres=gpu:{}", request.gpus));
        }
        command.args(&request.extra);
        let text = script(&self.common, jobs, is_array.then_some("$SLURM_ARRAY_TASK_ID"));
        let answer = asked(&mut command, &text)?;
        // The id, and after a semicolon the name of the cluster.
        let last = answer.stdout.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let id = last.split(';').next().unwrap_or_default().trim();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ClusterError::Refused(format!("sbatch gave no id of a job: {}", answer.words())));
        }
        let new = |index: usize| self.known(if is_array { format!("{id}_{index}") } else { id.to_owned() });
        Ok((0..jobs.len()).map(new).collect())
    }

    fn find(&self, begun: &[Submitting]) -> Result<Option<Vec<Option<NewJob>>>, ClusterError> {
        let mut command = Command::new("squeue");
        command.args(["--me", "--array", "--noheader", "--states=all", "--format=%i|%k"]);
        let found = marked(&asked(&mut command, "")?.stdout, begun);
        Ok(Some(found.into_iter().map(|id| id.map(|id| self.known(id))).collect()))
    }

    fn poll(&self, ids: &[&str]) -> Result<HashMap<String, JobState>, ClusterError> {
        let mut command = Command::new("squeue");
        // With the ids as arguments, squeue fails if it has forgotten one of them.
        command.args(["--me", "--array", "--noheader", "--states=all", "--format=%i|%T|%R"]);
        let mut found = states(&asked(&mut command, "")?.stdout);
        let gone: Vec<&str> = ids.iter().copied().filter(|id| !found.contains_key(*id)).collect();
        found.extend(self.accounted(&gone));
        Ok(found)
    }

    fn cancel(&self, ids: &[&str]) -> Result<(), ClusterError> {
        ids.chunks(500).try_for_each(|ids| asked(Command::new("scancel").args(ids), "").map(drop))
    }
}

/// The beginning of the comment of the jobs of a submission.
fn comment(mark: &str) -> String {
    format!("raisin {mark}: ")
}

/// The ids of the jobs of these submissions, by lines `ID|COMMENT`. The id of a job of an array ends with its place.
fn marked(text: &str, begun: &[Submitting]) -> Vec<Option<String>> {
    let id_of = |one: &Submitting| {
        let (comment, end) = (comment(&one.mark), format!("_{}", one.index));
        let mut lines = text.lines().filter_map(|line| line.split_once('|'));
        let is_it = |(id, of): &(&str, &str)| of.starts_with(&comment) && (one.of == 1 || id.trim().ends_with(&end));
        lines.find(is_it).map(|(id, _)| id.trim().to_owned())
    };
    begun.iter().map(id_of).collect()
}

/// Lines `ID|STATE|MORE`. sacct adds to a state who cancelled the job.
fn states(text: &str) -> HashMap<String, JobState> {
    let line = |line: &str| {
        let mut parts = line.splitn(3, '|');
        let (id, name) = (parts.next()?.trim(), parts.next()?.trim());
        let name = name.split(' ').next().unwrap_or(name);
        // A state of a later Slurm is taken as that of a running job: it ends with a state that is known.
        let state = state(name, parts.next().unwrap_or_default());
        Some((id.to_owned(), state.unwrap_or_else(|| JobState::Running(name.to_owned()))))
    };
    text.lines().filter_map(line).collect()
}

fn asked(command: &mut Command, input: &str) -> Result<CommandAnswer, ClusterError> {
    let answer = ask(command, input)?;
    if answer.succeeded() {
        return Ok(answer);
    }
    let words = answer.words();
    let is_silent = SILENT.iter().any(|known| words.contains(known));
    Err(if is_silent { ClusterError::Silent(words) } else { ClusterError::Refused(words) })
}

#[cfg(test)]
mod tests {
    use super::super::cluster::JobEnd;
    use super::*;

    #[test]
    fn a_job_is_found_by_the_mark_of_its_submission_and_its_place_in_it() {
        let begun = |mark: &str, index, of| Submitting {
            runs_on: raisin_pipeline::RunsOn::Slurm,
            mark: mark.to_owned(),
            index,
            of,
            at: String::new(),
        };
        let text = "17_0|raisin ab: p/scored\n17_1|raisin ab: p/scored\n 18 |raisin cd: p/one|two\n19|(null)\nodd\n";
        let asked = [begun("ab", 1, 2), begun("ab", 2, 3), begun("cd", 0, 1), begun("c", 0, 1)];
        assert_eq!(marked(text, &asked), [Some("17_1".to_owned()), None, Some("18".to_owned()), None]);
    }

    #[test]
    fn the_answers_of_squeue_and_sacct_are_read() {
        let found =
            states("17_0|RUNNING|n1\n17_1|PENDING|(Resources)\n18|CANCELLED by 0\n19|NEW_STATE|x\n\nodd line\n");
        assert_eq!(found["17_0"], JobState::Running("n1".to_owned()));
        assert_eq!(found["17_1"], JobState::Pending("Resources".to_owned()));
        assert_eq!(found["18"], JobState::Ended(JobEnd::Cancelled));
        assert_eq!((&found["19"], found.len()), (&JobState::Running("NEW_STATE".to_owned()), 4));
    }
}
