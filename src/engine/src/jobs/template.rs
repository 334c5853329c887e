//! Schedulers that raisin does not know: three commands of the pipeline file submit, poll and cancel jobs. A command is a
//! list of arguments, without a shell. docs/scale.md has commands for some schedulers.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::cluster::{
    Cluster, ClusterError, CommandAnswer, Common, JobState, NewJob, ask, check_command, script, state,
};
use super::files::{JobSpec, Submitting};
use raisin_base::error::Result;
use raisin_pipeline::ExecutorSettings;

/// The exit code of a command whose scheduler does not answer now: EX_TEMPFAIL of sysexits.h.
const TRY_AGAIN: i32 = 75;

pub struct TemplateCluster {
    common: Common,
    submit: Vec<String>,
    poll: Vec<String>,
    cancel: Vec<String>,
}

impl TemplateCluster {
    pub fn new(common: Common, settings: &ExecutorSettings) -> Self {
        let ExecutorSettings { submit, poll, cancel, .. } = settings.clone();
        Self { common, submit, poll, cancel }
    }
}

impl Cluster for TemplateCluster {
    fn name(&self) -> &'static str {
        "template"
    }

    fn check(&self) -> Result<()> {
        let hint = "it is the first word of a command in [executor]; `--set executor.run=local` builds here";
        let commands = [&self.submit, &self.poll, &self.cancel];
        commands.into_iter().filter_map(|command| command.first()).try_for_each(|name| check_command(name, hint))
    }

    fn most(&self) -> usize {
        1
    }

    fn most_at_once(&self) -> Option<usize> {
        self.common.jobs
    }

    fn submit(&self, jobs: &[&JobSpec], _mark: &str) -> Result<Vec<NewJob>, ClusterError> {
        let mut new = Vec::new();
        for job in jobs {
            let file = job.folder.join("run.sh");
            let write = || {
                std::fs::write(&file, script(&self.common, &[job], None))?;
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))
            };
            write().map_err(|error| ClusterError::Refused(format!("cannot write {}: {error}", file.display())))?;
            let answer = asked(&mut command(&self.submit, Some((job, &file)), &[])?)?;
            let Some(id) = answer.stdout.split_whitespace().last() else {
                return Err(ClusterError::Refused("`submit` printed no id of a job".to_owned()));
            };
            new.push(NewJob { id: id.to_owned(), output: Some(job.folder.join("output")) });
        }
        Ok(new)
    }

    fn find(&self, _begun: &[Submitting]) -> Result<Option<Vec<Option<NewJob>>>, ClusterError> {
        Ok(None)
    }

    fn poll(&self, ids: &[&str]) -> Result<HashMap<String, JobState>, ClusterError> {
        let answer = asked(&mut command(&self.poll, None, ids)?)?;
        answer.stdout.lines().filter(|line| !line.trim().is_empty()).map(state_line).collect()
    }

    fn cancel(&self, ids: &[&str]) -> Result<(), ClusterError> {
        asked(&mut command(&self.cancel, None, ids)?).map(drop)
    }
}

/// A line `ID STATE` with perhaps more words.
fn state_line(line: &str) -> Result<(String, JobState), ClusterError> {
    let mut words = line.split_whitespace();
    let (id, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let more = words.collect::<Vec<_>>().join(" ");
    let state = state(name, &more).ok_or_else(|| {
        ClusterError::Refused(format!(
            "`poll` printed `{line}`; a line is `ID STATE`, and STATE is pending, running, completed, failed, \
             cancelled, timeout, preempted, node_fail or out_of_memory"
        ))
    })?;
    Ok((id.to_owned(), state))
}

/// The command with its placeholders replaced. `{ids}` and `{extra}` become several arguments.
fn command(words: &[String], job: Option<(&JobSpec, &Path)>, ids: &[&str]) -> Result<Command, ClusterError> {
    let mut arguments: Vec<String> = Vec::new();
    for word in words {
        match (word.as_str(), job) {
            ("{ids}", _) => arguments.extend(ids.iter().map(|id| (*id).to_owned())),
            ("{extra}", Some((job, _))) => arguments.extend(job.request.extra.iter().cloned()),
            (word, job) => arguments.push(filled(word, job, ids)?),
        }
    }
    let Some((program, arguments)) = arguments.split_first() else {
        return Err(ClusterError::Refused("a command in [executor] is empty".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// A word with its placeholders replaced. Braces with other words in them stay as they are.
fn filled(word: &str, job: Option<(&JobSpec, &Path)>, ids: &[&str]) -> Result<String, ClusterError> {
    let mut text = word.replace("{ids}", &ids.join(" "));
    let Some((job, file)) = job else { return Ok(text) };
    let request = &job.request;
    let key = job.folder.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let given = [
        ("script", Some(file.display().to_string())),
        ("folder", Some(job.folder.display().to_string())),
        ("output", Some(job.folder.join("output").display().to_string())),
        ("key", Some(key.get(..16).unwrap_or(&key).to_owned())),
        ("name", Some(job.name.clone())),
        ("cpus", Some(request.cpus.to_string())),
        ("gpus", Some(request.gpus.to_string())),
        ("memory_mb", request.memory.map(|bytes| bytes.div_ceil(1_000_000).to_string())),
        ("minutes", request.time.map(|minutes| minutes.to_string())),
        ("partition", request.partition.clone()),
        ("extra", Some(request.extra.join(" "))),
    ];
    for (name, value) in given {
        let placeholder = format!("{{{name}}}");
        if !text.contains(&placeholder) {
            continue;
        }
        let setting = match name {
            "memory_mb" => "memory",
            "minutes" => "time",
            name => name,
        };
        let value = value.ok_or_else(|| {
            ClusterError::Refused(format!(
                "`submit` uses {placeholder}, and [executor] gives the stage `{}` no `{setting}`",
                job.label
            ))
        })?;
        text = text.replace(&placeholder, &value);
    }
    Ok(text)
}

fn asked(command: &mut Command) -> Result<CommandAnswer, ClusterError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let answer = ask(command, "")?;
    match answer.code {
        Some(0) => Ok(answer),
        Some(TRY_AGAIN) => Err(ClusterError::Silent(answer.words())),
        _ => Err(ClusterError::Refused(format!("`{name}` failed: {}", answer.words()))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::JobEnd;
    use super::*;
    use raisin_pipeline::{JobRequest, RunsOn};

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        let request = JobRequest {
            runs_on: RunsOn::Template,
            partition: None,
            time: None,
            memory: Some(1_500_000_000),
            cpus: 2,
            gpus: 1,
            extra: vec!["--a".to_owned(), "b c".to_owned()],
        };
        let folder = Path::new("/c/jobs/0123456789abcdef0123").to_owned();
        let job = JobSpec {
            folder,
            stage: "tuned".to_owned(),
            label: "tuned".to_owned(),
            name: "p-tuned".to_owned(),
            request,
        };
        let made = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let made = command(&words, Some((&job, Path::new("/c/run.sh"))), &[]).map_err(|error| match error {
                ClusterError::Silent(words) | ClusterError::Refused(words) => words,
            })?;
            Ok::<_, String>(made.get_args().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>())
        };
        let words = ["x", "{name}", "-m={memory_mb}M", "{extra}", "{\"gpu\":{gpus}}", "{script}", "j-{key}"];
        let expected = ["p-tuned", "-m=1500M", "--a", "b c", "{\"gpu\":1}", "/c/run.sh", "j-0123456789abcdef"];
        assert_eq!(made(&words).unwrap(), expected);
        assert!(made(&["x", "{minutes}"]).unwrap_err().contains("gives the stage `tuned` no `time`"));
        let ids: Vec<String> = ["poll", "{ids}"].map(str::to_owned).into();
        let polled = command(&ids, None, &["1", "2"]).unwrap_or_else(|_| Command::new("none"));
        assert_eq!(polled.get_args().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn the_lines_of_poll_have_an_id_and_a_state() {
        let (id, state) = state_line("job-1 running on node 7").unwrap_or_else(|_| panic!("a line"));
        assert_eq!((id.as_str(), state), ("job-1", JobState::Running("on node 7".to_owned())));
        let ended = state_line("2 Succeeded").unwrap_or_else(|_| panic!("a line"));
        assert_eq!(ended.1, JobState::Ended(JobEnd::Completed));
        assert!(state_line("3 perhaps").is_err() && state_line("3").is_err());
    }
}
