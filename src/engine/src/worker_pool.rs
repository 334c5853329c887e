//! The worker pool: the worker threads of a build. A worker thread owns at most one worker and makes one action after
//! another. How one action is made is in execute.rs; which action comes next is in schedule.rs.
//!
//! A worker thread lives as long as the build, because the kernel kills a worker when the thread that started the
//! worker ends.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

use super::child::Children;
use super::execute::{Job, JobMessage, JobNews, StagePlace, execute};
use super::graph::NodeId;
use super::jobs::JobQueue;
use super::worker::Worker;
use raisin_base::error::{Context as _, Result};
use raisin_base::panics::caught;
use raisin_contract::Process;
use raisin_store::Store;

pub struct WorkerPool<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    store: &'scope Store,
    children: &'scope Children,
    messages: Sender<JobMessage>,
    /// The way to the jobs of the build, if it has any.
    queue: Option<&'scope JobQueue>,
    all: Vec<WorkerThread>,
}

struct WorkerThread {
    process: Process,
    /// A worker uses one GPU for its whole life, because a CUDA context on a second GPU would take memory there.
    gpu: Option<usize>,
    /// Whether the thread waits for jobs of a cluster. It then has no worker.
    is_on_cluster: bool,
    jobs: Sender<Job>,
    at_work: Option<NodeId>,
}

impl<'scope, 'env> WorkerPool<'scope, 'env> {
    pub fn new(
        scope: &'scope Scope<'scope, 'env>,
        store: &'scope Store,
        children: &'scope Children,
        messages: Sender<JobMessage>,
        queue: Option<&'scope JobQueue>,
    ) -> Self {
        Self { scope, store, children, messages, queue, all: Vec::new() }
    }

    /// Gives the job to a free worker thread of the same executable and GPU. Starts a new worker thread if there is
    /// none.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(&mut self, job: Job, gpu: Option<usize>) -> Result<()> {
        let (process, is_on_cluster) = (job.process, job.on_cluster.is_some());
        let is_free = |thread: &WorkerThread| {
            let is_like = thread.process == process && thread.gpu == gpu && thread.is_on_cluster == is_on_cluster;
            thread.at_work.is_none() && is_like
        };
        let index = match self.all.iter().position(is_free) {
            Some(index) => index,
            None => {
                let (store, children, messages, queue) = (self.store, self.children, self.messages.clone(), self.queue);
                let (jobs, receiver) = channel();
                std::thread::Builder::new()
                    .spawn_scoped(self.scope, move || run(receiver, store, children, &messages, queue))
                    .context("cannot start a thread")?;
                self.all.push(WorkerThread { process, gpu, is_on_cluster, jobs, at_work: None });
                self.all.len() - 1
            }
        };
        let thread = &mut self.all[index];
        thread.at_work = Some(job.id);
        // Sending cannot fail: a worker thread ends only when this sender is dropped.
        drop(thread.jobs.send(job));
        Ok(())
    }

    pub fn ended(&mut self, id: NodeId) {
        self.all.iter_mut().filter(|thread| thread.at_work == Some(id)).for_each(|thread| thread.at_work = None);
    }
}

fn run(
    jobs: Receiver<Job>,
    store: &Store,
    children: &Children,
    messages: &Sender<JobMessage>,
    queue: Option<&JobQueue>,
) {
    let mut worker: Option<Worker<'_>> = None;
    for job in jobs {
        let id = job.id;
        // A panic counts as a failure of this stage, because the build waits for a message about each stage.
        let place = StagePlace { worker: &mut worker, queue };
        let result = caught(|| execute(job, store, children, messages, place)).unwrap_or_else(|panic| {
            // The worker may be in the middle of a stage whose events nobody reads any more. Therefore the worker is
            // dropped. If this also panics, the first panic stays the reason, and this thread still takes jobs.
            let _ = caught(|| worker = None);
            Err(panic)
        });
        drop(messages.send(JobMessage { id, news: JobNews::Ended(Box::new(result)) }));
    }
}
