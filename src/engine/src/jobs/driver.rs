//! The thread that submits, watches and cancels the jobs of a build. The threads of the stages wait for its answers
//! (queue.rs).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::cluster::{Cluster, ClusterError, JobEnd, JobState};
use super::files::{self, AttemptEnd, DONE, JobEnding, JobSpec, SUBMITTED, Submitted};
use super::marks;
use super::queue::{JobAnswer, JobQueue, JobRun, QueueRequest, RunTimes};
use super::watched::WatchedJob;
use raisin_base::error::Problem;
use raisin_pipeline::RunsOn;

/// How long the driver gathers jobs before it submits them, so that equal variants become one array.
const GATHER: Duration = Duration::from_millis(300);

/// The shortest time between two looks at the files of all jobs, and the time that each job adds to it.
pub const LOOK: Duration = Duration::from_millis(250);
const LOOK_PER_JOB: Duration = Duration::from_millis(2);

/// How often a job that the cluster lost is submitted again.
const MOST_AGAIN: u32 = 3;

/// The longest time between two questions to a scheduler that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// What a scheduler prints about a job that took too much memory, if its state does not say so.
const MEMORY_WORDS: [&str; 3] = ["exceeded memory limit", "Exceeded job memory limit", "oom_kill"];

/// A job that is to be submitted.
struct QueuedJob {
    spec: JobSpec,
    answers: Sender<JobAnswer>,
    /// How often it was submitted again.
    again: u32,
    /// When it may be submitted.
    from: Instant,
    /// How often the scheduler did not answer.
    unanswered: u32,
}

/// The answer of a scheduler to the question for the states of jobs.
struct States {
    runs_on: RunsOn,
    /// The jobs that were asked for.
    ids: BTreeSet<String>,
    told: Result<HashMap<String, JobState>, ClusterError>,
}

pub struct Driver<'q> {
    queue: &'q JobQueue,
    requests: Receiver<QueueRequest>,
    waiting: Vec<QueuedJob>,
    watched: Vec<WatchedJob>,
    looked: Instant,
    polled: Instant,
    /// The schedulers that are asked for states now. They may take long to answer, while the files still are looked at.
    asked: BTreeSet<RunsOn>,
    answers: (Sender<States>, Receiver<States>),
    /// How often in a row a scheduler did not answer a question about states.
    unanswered: BTreeMap<RunsOn, u32>,
    /// The build does not watch any more.
    is_over: bool,
}

impl<'q> Driver<'q> {
    pub fn new(queue: &'q JobQueue, requests: Receiver<QueueRequest>) -> Self {
        let now = Instant::now();
        let (waiting, watched) = (Vec::new(), Vec::new());
        Self {
            queue,
            requests,
            waiting,
            watched,
            looked: now,
            polled: now,
            asked: BTreeSet::new(),
            answers: channel(),
            unanswered: BTreeMap::new(),
            is_over: false,
        }
    }

    pub fn run(mut self) {
        loop {
            match self.requests.recv_timeout(if self.waiting.is_empty() { LOOK } else { LOOK / 5 }) {
                Ok(QueueRequest::Run { spec, answers }) => self.take(*spec, answers),
                Ok(QueueRequest::End { cancel }) => self.end(cancel),
                Ok(QueueRequest::Over) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.submit_due();
            let each = LOOK_PER_JOB * u32::try_from(self.watched.len()).unwrap_or(u32::MAX);
            if self.looked.elapsed() >= LOOK.max(each) {
                self.look();
                self.looked = Instant::now();
            }
            if !self.watched.is_empty() && self.polled.elapsed() >= self.pause() {
                self.poll();
                self.polled = Instant::now();
            }
            while let Ok(states) = self.answers.1.try_recv() {
                self.hear(states);
            }
            let capped = self.waiting.iter().filter(|one| one.unanswered == 0 && self.room(&one.spec) == 0).count();
            self.queue.counts.live.store(self.watched.len(), Ordering::SeqCst);
            self.queue.counts.settled.store(self.watched.len() + capped, Ordering::SeqCst);
        }
    }

    /// The time between two questions to the schedulers.
    fn pause(&self) -> Duration {
        let unanswered = self.unanswered.values().copied().max().unwrap_or_default();
        self.queue.interval.saturating_mul(1 << unanswered.min(10)).min(LONGEST_PAUSE.max(self.queue.interval))
    }

    fn cluster(&self, runs_on: RunsOn) -> Option<&'q dyn Cluster> {
        self.queue.clusters.get(runs_on).map(AsRef::as_ref)
    }

    /// The number of jobs that may be submitted to the cluster of this job now.
    fn room(&self, spec: &JobSpec) -> usize {
        let runs_on = spec.request.runs_on;
        let most = self.cluster(runs_on).and_then(Cluster::most_at_once).unwrap_or(usize::MAX);
        most.saturating_sub(self.watched.iter().filter(|one| one.submitted.runs_on == runs_on).count())
    }

    /// Takes a job: finds the job that an earlier build submitted, or queues it for submission.
    fn take(&mut self, spec: JobSpec, answers: Sender<JobAnswer>) {
        if self.is_over {
            return drop(answers.send(JobAnswer::Left { words: "not submitted".to_owned(), goes_on: false }));
        }
        let found = files::read::<Submitted>(&spec.folder.join(SUBMITTED)).ok().flatten();
        match found.filter(|found| found.runs_on == spec.request.runs_on) {
            Some(submitted) => {
                let name = self.cluster(submitted.runs_on).map_or("", Cluster::name);
                let words = format!("found its {name} job {} again", submitted.id);
                self.watch(spec, answers, submitted, words);
            }
            None => self.wait(spec, answers, 0),
        }
    }

    fn wait(&mut self, spec: JobSpec, answers: Sender<JobAnswer>, again: u32) {
        self.waiting.push(QueuedJob { spec, answers, again, from: Instant::now() + GATHER, unanswered: 0 });
    }

    fn watch(&mut self, spec: JobSpec, answers: Sender<JobAnswer>, submitted: Submitted, words: String) {
        if self.watched.is_empty() {
            // The scheduler is asked soon after the first submission, and then at its interval.
            self.polled = Instant::now();
        }
        let mut job = WatchedJob {
            spec,
            answers,
            submitted,
            since: Instant::now(),
            said: String::new(),
            ended: None,
            attempt: String::new(),
            offset: 0,
        };
        job.says(words);
        self.watched.push(job);
    }

    /// Submits the jobs whose time has come, jobs with equal names and requests together.
    fn submit_due(&mut self) {
        let now = Instant::now();
        if !self.waiting.iter().any(|one| one.from <= now) {
            return;
        }
        let mut groups: BTreeMap<(RunsOn, String, _), Vec<QueuedJob>> = BTreeMap::new();
        let mut later = Vec::new();
        let mut rooms: BTreeMap<RunsOn, usize> = BTreeMap::new();
        for one in std::mem::take(&mut self.waiting) {
            let runs_on = one.spec.request.runs_on;
            let free = self.room(&one.spec);
            let room = rooms.entry(runs_on).or_insert(free);
            // What a silent scheduler must be asked again comes at its own time; a new job goes with its group.
            if *room == 0 || (one.unanswered > 0 && one.from > now) {
                later.push(one);
                continue;
            }
            *room -= 1;
            let group = (runs_on, one.spec.name.clone(), one.spec.request.clone());
            groups.entry(group).or_default().push(one);
        }
        self.waiting = later;
        for ((runs_on, ..), mut jobs) in groups {
            let Some(cluster) = self.cluster(runs_on) else { continue };
            while !jobs.is_empty() {
                let rest = jobs.split_off(jobs.len().min(cluster.most()));
                self.submit(cluster, std::mem::replace(&mut jobs, rest));
            }
        }
    }

    /// Submits jobs, except those that an earlier submission has submitted without knowing their ids.
    fn submit(&mut self, cluster: &dyn Cluster, jobs: Vec<QueuedJob>) {
        let found = match marks::find(cluster, jobs.iter().map(|one| &one.spec)) {
            Ok(found) => found,
            Err(ClusterError::Silent(words)) => return self.is_silent(cluster, jobs, &words),
            // A scheduler that cannot be asked for marks gets the jobs all the same.
            Err(ClusterError::Refused(words)) => {
                let text = format!("{} does not tell its jobs: {words}", cluster.name());
                jobs.first().into_iter().for_each(|one| drop(one.answers.send(JobAnswer::Note(text.clone()))));
                Vec::new()
            }
        };
        let mut new = Vec::new();
        for (place, one) in jobs.into_iter().enumerate() {
            match found.get(place) {
                Some(marks::EarlierJob::Found(submitted)) => {
                    let words = format!("found its {} job {} again", cluster.name(), submitted.id);
                    keep(&one, submitted, cluster.name());
                    self.watch(one.spec, one.answers, submitted.clone(), words);
                }
                earlier => {
                    if let Some(marks::EarlierJob::Unknown(text)) = earlier {
                        drop(one.answers.send(JobAnswer::Note(text.clone())));
                    }
                    new.push(one);
                }
            }
        }
        if !new.is_empty() {
            self.submit_new(cluster, new);
        }
    }

    fn submit_new(&mut self, cluster: &dyn Cluster, jobs: Vec<QueuedJob>) {
        let specs: Vec<&JobSpec> = jobs.iter().map(|one| &one.spec).collect();
        let (runs_on, name) = (specs[0].request.runs_on, cluster.name());
        // A job may run before its submission has ended.
        self.queue.counts.live.store(self.watched.len() + jobs.len(), Ordering::SeqCst);
        let mark = match marks::write(&specs) {
            Ok(mark) => mark,
            Err(error) => {
                for one in jobs {
                    drop(one.answers.send(JobAnswer::Failed(Problem::new(format!("{error:#}")))));
                }
                return;
            }
        };
        match cluster.submit(&specs, &mark) {
            Ok(new) => {
                let at = jiff::Timestamp::now().to_string();
                for (one, new) in jobs.into_iter().zip(new) {
                    let again = one.again;
                    let submitted = Submitted { runs_on, id: new.id, again, at: at.clone(), output: new.output };
                    let words = format!("submitted as {name} job {}", submitted.id);
                    keep(&one, &submitted, name);
                    self.watch(one.spec, one.answers, submitted, words);
                }
            }
            // The marks stay: the scheduler may have taken the jobs.
            Err(ClusterError::Silent(words)) => self.is_silent(cluster, jobs, &words),
            Err(ClusterError::Refused(words)) => {
                for one in jobs {
                    marks::remove(&one.spec);
                    let problem = Problem::new(format!("{name} refused the job:\n    {words}"));
                    let hint = "what the job asks for stands in [executor] and in `resources` of the stage";
                    drop(one.answers.send(JobAnswer::Failed(problem.hint(hint))));
                }
            }
        }
    }

    /// The scheduler does not answer: the jobs wait.
    fn is_silent(&mut self, cluster: &dyn Cluster, jobs: Vec<QueuedJob>, words: &str) {
        for mut one in jobs {
            let pause = Duration::from_secs(2 << one.unanswered.min(8)).min(LONGEST_PAUSE);
            one.from = Instant::now() + pause;
            one.unanswered += 1;
            let text = format!("{} does not answer, next attempt in {} s: {words}", cluster.name(), pause.as_secs());
            drop(one.answers.send(JobAnswer::Says(text)));
            self.waiting.push(one);
        }
    }

    /// Looks at the files of all jobs, and draws the conclusions about jobs that ended without a result.
    fn look(&mut self) {
        for mut job in std::mem::take(&mut self.watched) {
            // The folder is listed before the file is read, which refreshes the folder on a network file system.
            let attempts = files::attempts(&job.spec.folder);
            match files::read::<AttemptEnd>(&job.spec.folder.join(DONE)) {
                Ok(Some(done)) => self.is_done(job, &done),
                Err(error) => drop(job.answers.send(JobAnswer::Failed(Problem::new(format!("{error:#}"))))),
                Ok(None) => {
                    if let Some(last) = attempts.last() {
                        job.read_events(last);
                    }
                    match job.conclusion(self.queue.file_patience) {
                        Some(end) => self.has_ended(job, end),
                        None => self.watched.push(job),
                    }
                }
            }
        }
    }

    fn is_done(&mut self, mut job: WatchedJob, done: &AttemptEnd) {
        job.read_events(&done.attempt);
        if done.ending == JobEnding::Died(9) && self.lacked_memory(&job) {
            return job.lacks_memory();
        }
        let run = JobRun {
            ending: done.ending.into(),
            attempt: job.spec.folder.join(&done.attempt),
            times: RunTimes { started: done.started.clone(), finished: done.finished.clone(), seconds: done.seconds },
        };
        if let (JobEnding::Done, Some(output)) = (done.ending, &job.submitted.output) {
            // What the scheduler wrote about a job that succeeded is not needed; usually it is empty.
            let _ = std::fs::remove_file(output);
        }
        drop(job.answers.send(JobAnswer::Ended(Box::new(run))));
    }

    /// Whether the scheduler killed the process of a job because of its memory.
    fn lacked_memory(&self, job: &WatchedJob) -> bool {
        let id = job.submitted.id.as_str();
        let states = self.cluster(job.submitted.runs_on).map(|cluster| cluster.poll(&[id]));
        let state = states.and_then(|states| states.ok()?.remove(id));
        state == Some(JobState::Ended(JobEnd::OutOfMemory)) || job.output_has(&MEMORY_WORDS)
    }

    /// A job has ended without a result.
    fn has_ended(&mut self, job: WatchedJob, end: JobEnd) {
        let name = self.cluster(job.submitted.runs_on).map_or("", Cluster::name);
        let (id, again) = (job.submitted.id.clone(), job.submitted.again);
        if end == JobEnd::OutOfMemory || (end == JobEnd::Failed && job.output_has(&MEMORY_WORDS)) {
            return job.lacks_memory();
        }
        job.forget();
        if end.is_of_the_cluster() && again < MOST_AGAIN {
            let text = format!(
                "{name} job {id} {}; it is submitted again ({} of {MOST_AGAIN}) and goes on from its checkpoint",
                end.words(),
                again + 1
            );
            drop(job.answers.send(JobAnswer::Note(text)));
            return self.wait(job.spec, job.answers, again + 1);
        }
        let mut message = format!("{name} job {id} {}", end.words());
        let mut hint = None;
        match end {
            JobEnd::Completed => {
                message += ", and wrote no result";
                let folder = job.spec.folder.display();
                hint =
                    Some(format!("the cache must be the same folder on all machines: the job should write {folder}"));
            }
            JobEnd::TimeLimit => {
                message += &format!(" {} times", MOST_AGAIN + 1);
                let stage = &job.spec.stage;
                hint = Some(format!("give it more time: [executor.stage.{stage}] time = \"24h\""));
            }
            end if end.is_of_the_cluster() => message += &format!(" {} times", MOST_AGAIN + 1),
            _ => {}
        }
        let tail = job.tail();
        if !tail.is_empty() {
            message += &format!("\n    {tail}");
        }
        if let (None, Some(output)) = (&hint, job.submitted.output.as_ref().filter(|output| output.exists())) {
            hint = Some(format!("the whole output: {}", output.display()));
        }
        let problem = Problem::new(message);
        let problem = hint.into_iter().fold(problem, Problem::hint);
        drop(job.answers.send(JobAnswer::Failed(problem)));
    }

    /// Asks each scheduler once for the states of all its jobs, in a thread that nobody waits for.
    fn poll(&mut self) {
        let mut of: BTreeMap<RunsOn, BTreeSet<String>> = BTreeMap::new();
        for job in &self.watched {
            of.entry(job.submitted.runs_on).or_default().insert(job.submitted.id.clone());
        }
        for (runs_on, ids) in of {
            let Some(cluster) = self.queue.clusters.get(runs_on).cloned() else { continue };
            if !self.asked.insert(runs_on) {
                continue;
            }
            let answers = self.answers.0.clone();
            let ask = move || {
                let told = cluster.poll(&ids.iter().map(String::as_str).collect::<Vec<_>>());
                drop(answers.send(States { runs_on, ids, told }));
            };
            if std::thread::Builder::new().spawn(ask).is_err() {
                // The next tick asks again.
                self.asked.remove(&runs_on);
            }
        }
    }

    fn hear(&mut self, States { runs_on, ids, told }: States) {
        self.asked.remove(&runs_on);
        let name = self.cluster(runs_on).map_or("", Cluster::name);
        let is_asked = |job: &&mut WatchedJob| job.submitted.runs_on == runs_on && ids.contains(&job.submitted.id);
        match told {
            Ok(mut states) => {
                self.unanswered.remove(&runs_on);
                for job in self.watched.iter_mut().filter(is_asked) {
                    let state = states.remove(&job.submitted.id);
                    job.hears(name, state.unwrap_or(JobState::Ended(JobEnd::Gone)));
                }
            }
            Err(error) => {
                let unanswered = self.unanswered.entry(runs_on).or_default();
                *unanswered += 1;
                if *unanswered == 1
                    && let Some(job) = self.watched.iter_mut().find(|job| is_asked(job))
                {
                    let text = format!("{name} does not tell the states of the jobs now: {}", words_of(&error));
                    drop(job.answers.send(JobAnswer::Note(text)));
                }
            }
        }
    }

    fn end(&mut self, cancel: bool) {
        self.is_over = true;
        let mut failures: BTreeMap<RunsOn, String> = BTreeMap::new();
        if cancel {
            let mut of: BTreeMap<RunsOn, Vec<&str>> = BTreeMap::new();
            for job in &self.watched {
                of.entry(job.submitted.runs_on).or_default().push(&job.submitted.id);
            }
            for (runs_on, ids) in of {
                if let Some(Err(error)) = self.cluster(runs_on).map(|cluster| cluster.cancel(&ids)) {
                    failures.insert(runs_on, words_of(&error));
                }
            }
        }
        for job in std::mem::take(&mut self.watched) {
            let Submitted { runs_on, id, .. } = &job.submitted;
            let name = self.cluster(*runs_on).map_or("", Cluster::name);
            let (words, goes_on) = match failures.get(runs_on) {
                _ if !cancel => (format!("left: {name} job {id} goes on"), true),
                Some(failure) => (format!("{name} job {id} cannot be cancelled, and goes on: {failure}"), true),
                None => (format!("cancelled {name} job {id}"), false),
            };
            if !goes_on {
                job.forget();
            }
            drop(job.answers.send(JobAnswer::Left { words, goes_on }));
        }
        for one in self.waiting.drain(..) {
            drop(one.answers.send(JobAnswer::Left { words: "not submitted".to_owned(), goes_on: false }));
        }
        self.queue.counts.live.store(0, Ordering::SeqCst);
    }
}

/// Keeps the id of a job for later builds.
fn keep(one: &QueuedJob, submitted: &Submitted, name: &str) {
    match files::write(&one.spec.folder.join(SUBMITTED), submitted) {
        Ok(()) => marks::remove(&one.spec),
        Err(error) => {
            let text = format!("{error:#}; a later build will not find {name} job {}", submitted.id);
            drop(one.answers.send(JobAnswer::Note(text)));
        }
    }
}

pub fn words_of(error: &ClusterError) -> String {
    match error {
        ClusterError::Silent(words) | ClusterError::Refused(words) => words.clone(),
    }
}
