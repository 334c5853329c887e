//! Marks of submissions. A build can be killed, or its connection can break, between the submission of a job and the
//! answer with the id. The mark lies in the folder of the job before the submission begins, and the scheduler keeps it
//! with the job, so that the next submission finds the job instead of submitting a second one.

use super::cluster::{Cluster, ClusterError, NewJob};
use super::files::{self, JobSpec, SUBMITTING, Submitted, Submitting, random_word};
use raisin_base::error::Result;

/// What became of an earlier submission of a job.
pub enum EarlierJob {
    /// There was none, or it did not reach the scheduler.
    None,
    Found(Submitted),
    /// The scheduler cannot be asked. The text is for the user.
    Unknown(String),
}

/// Asks the scheduler once for the jobs of earlier submissions whose ids nobody knows, if there were any. The result has
/// an entry for each job, or is empty.
pub fn find<'s>(
    cluster: &dyn Cluster,
    jobs: impl Iterator<Item = &'s JobSpec> + Clone,
) -> std::result::Result<Vec<EarlierJob>, ClusterError> {
    // A mark that cannot be read is that of no submission: a file gets its name after its content.
    let read = |job: &JobSpec| {
        let begun = files::read::<Submitting>(&job.folder.join(SUBMITTING)).ok().flatten();
        begun.filter(|begun| begun.runs_on == job.request.runs_on)
    };
    let all: Vec<Option<Submitting>> = jobs.clone().map(read).collect();
    let begun: Vec<Submitting> = all.iter().flatten().cloned().collect();
    if begun.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = cluster.find(&begun)?.map(Vec::into_iter);
    let earlier = |(job, begun): (&JobSpec, Option<Submitting>)| match (begun, &mut found) {
        (None, _) => EarlierJob::None,
        (Some(begun), None) => EarlierJob::Unknown(format!(
            "a submission of {} ended before the id of its job was known: this build submits another one. If the first \
             one is there, cancel it: its name is `{}`, and its folder {}",
            begun.at,
            job.name,
            job.folder.display()
        )),
        (Some(begun), Some(found)) => match found.next().flatten() {
            None => EarlierJob::None,
            Some(NewJob { id, output }) => {
                EarlierJob::Found(Submitted { runs_on: begun.runs_on, id, again: 0, at: begun.at, output })
            }
        },
    };
    Ok(jobs.zip(all).map(earlier).collect())
}

/// Writes the mark of a submission into the folders of its jobs.
///
/// # Errors
/// A file cannot be written.
pub fn write(jobs: &[&JobSpec]) -> Result<String> {
    let (mark, at) = (random_word(), jiff::Timestamp::now().to_string());
    for (index, job) in jobs.iter().enumerate() {
        let begun =
            Submitting { runs_on: job.request.runs_on, mark: mark.clone(), index, of: jobs.len(), at: at.clone() };
        files::write(&job.folder.join(SUBMITTING), &begun)?;
    }
    Ok(mark)
}

/// Removes the mark of a submission whose end is known.
pub fn remove(job: &JobSpec) {
    // If it stays, the next submission asks the scheduler once.
    let _ = std::fs::remove_file(job.folder.join(SUBMITTING));
}
