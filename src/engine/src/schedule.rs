//! The scheduler: decides which stage starts next. It only keeps the states of the graph nodes and the resources that
//! running stages take; it starts no process and reads no file. A single function changes a state.

use std::collections::{BTreeSet, HashMap};

use super::graph::NodeId;
use super::resources::{Capacity, Demand, WHOLE_GPU};
use raisin_base::digest::Digest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageState {
    /// Waits for this number of inputs.
    Waiting(usize),
    /// All inputs are known; the node must be looked up.
    Ready,
    /// The local look-up was a miss; the shared cache is asked.
    Asked,
    /// The look-up was a miss; the node must run.
    Queued,
    /// Runs, on this GPU or without a GPU.
    Running(Option<usize>),
    /// Another node of this build will run or runs the same action.
    Following(NodeId),
    Done,
    Failed,
    /// An input of the node failed, so the node does not run.
    Skipped,
}

/// What happens with a node after a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterMiss {
    /// The node runs, or another node runs the same action for it.
    Waits,
    /// The given node has run the same action successfully: the caller takes its artifact. No state was changed.
    WasDone(NodeId),
    /// The given node ran the same action and failed. No state was changed.
    HasFailed(NodeId),
}

pub struct Scheduler {
    states: Vec<StageState>,
    dependents: Vec<Vec<NodeId>>,
    demands: Vec<Demand>,
    capacity: Capacity,
    taken: Taken,
    ready: BTreeSet<NodeId>,
    queued: BTreeSet<NodeId>,
    /// The node that runs a key or has run it, so that no other node starts the same key.
    by_key: HashMap<Digest, NodeId>,
}

/// The largest number of jobs of a cluster that a build watches at the same time. Each has a thread that waits.
const MOST_JOBS: usize = 1000;

/// Where a stage can run: on this GPU, or without a GPU.
struct Room {
    gpu: Option<usize>,
}

/// The sum of what the running stages take.
#[derive(Debug, Default)]
struct Taken {
    short: usize,
    computing: usize,
    /// Threads of stages that compute. Other stages are not counted here, because they are short and wait for files more
    /// than they compute.
    threads: usize,
    memory: u64,
    /// For each GPU, the sum of the shares.
    gpus: Vec<u64>,
    /// Jobs of a cluster.
    jobs: usize,
}

impl Scheduler {
    /// `nodes` has the demand and the dependents of each node. In the order of `nodes`, an input comes before its
    /// dependents.
    pub fn new(nodes: impl IntoIterator<Item = (Demand, Vec<NodeId>)>, capacity: Capacity) -> Self {
        let (demands, dependents): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        let mut inputs = vec![0; demands.len()];
        for input in dependents.iter().flatten() {
            inputs[*input] += 1;
        }
        let mut scheduler = Self {
            states: inputs.iter().map(|count| StageState::Waiting(*count)).collect(),
            dependents,
            demands,
            capacity,
            taken: Taken { gpus: vec![0; capacity.gpus], ..Taken::default() },
            ready: BTreeSet::new(),
            queued: BTreeSet::new(),
            by_key: HashMap::new(),
        };
        for id in 0..scheduler.states.len() {
            if scheduler.states[id] == StageState::Waiting(0) {
                scheduler.change(id, StageState::Ready);
            }
        }
        scheduler
    }

    pub fn state(&self, id: NodeId) -> StageState {
        self.states[id]
    }

    pub fn demand(&self, id: NodeId) -> Demand {
        self.demands[id]
    }

    /// A node whose inputs are all known and that was not looked up yet.
    pub fn next_ready(&self) -> Option<NodeId> {
        self.ready.first().copied()
    }

    /// Call this after a miss: the node is queued, or follows another node that runs the same action. A node never
    /// follows a node that has ended, because it would then wait for ever.
    pub fn queue(&mut self, id: NodeId, key: Digest) -> AfterMiss {
        self.enter(id, key, StageState::Queued)
    }

    /// As [`Self::queue`], but the shared cache is asked first. Call `queue` or `done` when it has answered.
    pub fn ask(&mut self, id: NodeId, key: Digest) -> AfterMiss {
        self.enter(id, key, StageState::Asked)
    }

    fn enter(&mut self, id: NodeId, key: Digest, state: StageState) -> AfterMiss {
        let other = *self.by_key.entry(key).or_insert(id);
        match self.states[other] {
            _ if other == id => self.change(id, state),
            StageState::Done => return AfterMiss::WasDone(other),
            StageState::Failed => return AfterMiss::HasFailed(other),
            _ => self.change(id, StageState::Following(other)),
        }
        AfterMiss::Waits
    }

    /// Starts the first queued node for which threads, memory and GPUs are free. Returns the node and its GPU, if it
    /// has one.
    pub fn start(&mut self) -> Option<(NodeId, Option<usize>)> {
        let (id, Room { gpu }) = self.queued.iter().find_map(|id| Some((*id, self.room(self.demands[*id])?)))?;
        self.change(id, StageState::Running(gpu));
        Some((id, gpu))
    }

    /// Where a stage can run now, or `None` if the free resources are not sufficient. A stage that demands more than
    /// the machine has runs alone.
    fn room(&self, demand: Demand) -> Option<Room> {
        let Taken { short, computing, threads, memory, ref gpus, jobs } = self.taken;
        if demand.is_on_cluster {
            return (jobs < MOST_JOBS).then_some(Room { gpu: None });
        }
        let fits = if demand.computes {
            computing < self.capacity.tensor_stages
                && (computing == 0 || threads.saturating_add(demand.threads) <= self.capacity.cores)
        } else {
            short < self.capacity.cores
        };
        if !fits || (short + computing > 0 && memory.saturating_add(demand.memory) > self.capacity.memory) {
            return None;
        }
        if demand.gpu == 0 {
            return Some(Room { gpu: None });
        }
        gpus.iter().position(|taken| taken + demand.gpu <= WHOLE_GPU).map(|gpu| Room { gpu: Some(gpu) })
    }

    pub fn done(&mut self, id: NodeId) {
        self.change(id, StageState::Done);
        for dependent in self.dependents[id].clone() {
            if let StageState::Waiting(count) = self.states[dependent] {
                let next = if count == 1 { StageState::Ready } else { StageState::Waiting(count - 1) };
                self.change(dependent, next);
            }
        }
    }

    /// Marks the node as failed, and all nodes that depend on it as skipped.
    pub fn failed(&mut self, id: NodeId) {
        self.change(id, StageState::Failed);
        let mut skipped = self.dependents[id].clone();
        while let Some(next) = skipped.pop() {
            if matches!(self.states[next], StageState::Waiting(_)) {
                self.change(next, StageState::Skipped);
                skipped.extend(self.dependents[next].iter().copied());
            }
        }
    }

    /// The nodes that wait for the action that this node runs.
    pub fn followers(&self, id: NodeId) -> Vec<NodeId> {
        (0..self.states.len()).filter(|other| self.states[*other] == StageState::Following(id)).collect()
    }

    pub fn running(&self) -> usize {
        self.taken.short + self.taken.computing + self.taken.jobs
    }

    pub fn count(&self, wanted: impl Fn(StageState) -> bool) -> u64 {
        self.states.iter().filter(|state| wanted(**state)).count() as u64
    }

    /// The only function that changes a state.
    fn change(&mut self, id: NodeId, to: StageState) {
        let from = std::mem::replace(&mut self.states[id], to);
        match from {
            StageState::Ready => drop(self.ready.remove(&id)),
            StageState::Queued => drop(self.queued.remove(&id)),
            StageState::Running(gpu) => self.taken.give_back(self.demands[id], gpu),
            _ => {}
        }
        match to {
            StageState::Ready => drop(self.ready.insert(id)),
            StageState::Queued => drop(self.queued.insert(id)),
            StageState::Running(gpu) => self.taken.take(self.demands[id], gpu),
            _ => {}
        }
    }
}

impl Taken {
    fn take(&mut self, demand: Demand, gpu: Option<usize>) {
        if demand.is_on_cluster {
            self.jobs += 1;
            return;
        }
        if demand.computes {
            (self.computing, self.threads) = (self.computing + 1, self.threads.saturating_add(demand.threads));
        } else {
            self.short += 1;
        }
        self.memory = self.memory.saturating_add(demand.memory);
        if let Some(gpu) = gpu {
            self.gpus[gpu] += demand.gpu;
        }
    }

    fn give_back(&mut self, demand: Demand, gpu: Option<usize>) {
        if demand.is_on_cluster {
            self.jobs -= 1;
            return;
        }
        if demand.computes {
            (self.computing, self.threads) = (self.computing - 1, self.threads.saturating_sub(demand.threads));
        } else {
            self.short -= 1;
        }
        self.memory = self.memory.saturating_sub(demand.memory);
        if let Some(gpu) = gpu {
            self.gpus[gpu] -= demand.gpu;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: Capacity = Capacity::with(2, 1000, 0, usize::MAX);

    fn short_stage() -> Demand {
        Demand { computes: false, threads: 1, memory: 100, gpu: 0, is_on_cluster: false }
    }

    fn tensor(threads: usize, memory: u64, gpu: u64) -> Demand {
        Demand { computes: true, threads, memory, gpu, is_on_cluster: false }
    }

    /// A graph in which node n needs each earlier node whose bit is set in `inputs[n]`.
    fn nodes(inputs: &[u8], demands: &[Demand]) -> Vec<(Demand, Vec<NodeId>)> {
        let needs = |id: usize, input: usize| input < id && inputs[id] >> (input % 8) & 1 == 1;
        let dependents = |id: usize| (id + 1..inputs.len()).filter(|later| needs(*later, id)).collect();
        (0..inputs.len()).map(|id| (demands[id], dependents(id))).collect()
    }

    /// The nodes that start if all nodes are ready, each with its GPU.
    fn started(demands: &[Demand], capacity: Capacity) -> Vec<(NodeId, Option<usize>)> {
        let mut scheduler = Scheduler::new(demands.iter().map(|demand| (*demand, Vec::new())), capacity);
        while let Some(id) = scheduler.next_ready() {
            scheduler.queue(id, Digest::of(&id.to_le_bytes()));
        }
        std::iter::from_fn(|| scheduler.start()).collect()
    }

    prop_compose! {
        fn demand()(has_no_tensors in any::<bool>(), threads in 1..4_usize, memory in 0..1500_u64, gpu in 1..=WHOLE_GPU)
            -> Demand {
            if has_no_tensors { Demand { memory, ..short_stage() } } else { tensor(threads, memory, gpu) }
        }
    }

    proptest! {
        #[test]
        fn every_stage_runs_once_after_its_inputs_within_the_machine_or_is_skipped_for_a_failure(
            stages in prop::collection::vec((any::<u8>(), demand(), any::<bool>()), 1..20),
            fails in prop::option::of(0..20_usize),
            gpus in 0..3_usize,
            tensor_stages in 1..3_usize,
        ) {
            let inputs: Vec<u8> = stages.iter().map(|stage| stage.0).collect();
            let on_gpus = |demand: Demand| if gpus == 0 { Demand { gpu: 0, ..demand } } else { demand };
            let demands: Vec<Demand> = stages.iter().map(|stage| on_gpus(stage.1)).collect();
            let graph = nodes(&inputs, &demands);
            let capacity = Capacity::with(4, 2000, gpus, tensor_stages);
            let mut scheduler = Scheduler::new(graph.clone(), capacity);
            let (mut running, mut done): (Vec<(NodeId, Option<usize>)>, Vec<NodeId>) = (Vec::new(), Vec::new());
            loop {
                while let Some(id) = scheduler.next_ready() {
                    for (input, (_, dependents)) in graph.iter().enumerate() {
                        prop_assert!(!dependents.contains(&id) || done.contains(&input));
                    }
                    if stages[id].2 {
                        scheduler.done(id);
                        done.push(id);
                    } else {
                        scheduler.queue(id, Digest::of(&id.to_le_bytes()));
                    }
                }
                while let Some((id, gpu)) = scheduler.start() {
                    prop_assert_eq!(gpu.is_some(), demands[id].gpu > 0);
                    running.push((id, gpu));
                }
                let total = |of: &dyn Fn(&Demand) -> u64| running.iter().map(|(id, _)| of(&demands[*id])).sum::<u64>();
                let tensors = total(&|demand| u64::from(demand.computes));
                prop_assert!(tensors <= tensor_stages as u64 && running.len() as u64 - tensors <= 4);
                prop_assert!(running.len() <= 1 || total(&|demand| demand.memory) <= 2000);
                for index in 0..gpus {
                    let here = running.iter().filter(|(_, gpu)| *gpu == Some(index));
                    prop_assert!(here.map(|(id, _)| demands[*id].gpu).sum::<u64>() <= WHOLE_GPU);
                }
                let Some((id, _)) = running.pop() else { break };
                if fails == Some(id) { scheduler.failed(id) } else { scheduler.done(id); done.push(id) }
            }
            for (id, _) in graph.iter().enumerate() {
                let ended = matches!(scheduler.state(id), StageState::Done | StageState::Failed | StageState::Skipped);
                prop_assert!(ended);
            }
            let failed = scheduler.count(|state| state == StageState::Failed);
            prop_assert!(failed == 1 || scheduler.count(|state| state == StageState::Done) == stages.len() as u64);
        }
    }

    #[test]
    fn stages_with_the_same_action_run_once() {
        let mut scheduler = Scheduler::new([(short_stage(), Vec::new()), (short_stage(), Vec::new())], CAPACITY);
        let key = Digest::of(b"key");
        scheduler.queue(0, key);
        scheduler.queue(1, key);
        assert_eq!(scheduler.start(), Some((0, None)));
        assert_eq!(scheduler.start(), None);
        assert_eq!(scheduler.followers(0), [1]);
    }

    #[test]
    fn a_stage_that_the_shared_cache_is_asked_for_takes_nothing_and_other_stages_follow_it() {
        let mut scheduler =
            Scheduler::new([(tensor(2, 900, 0), vec![2]), (short_stage(), vec![]), (short_stage(), vec![])], CAPACITY);
        let key = Digest::of(b"key");
        assert_eq!(scheduler.ask(0, key), AfterMiss::Waits);
        assert_eq!(scheduler.ask(1, key), AfterMiss::Waits);
        assert_eq!((scheduler.state(0), scheduler.state(1)), (StageState::Asked, StageState::Following(0)));
        assert_eq!((scheduler.start(), scheduler.running(), scheduler.next_ready()), (None, 0, None));
        // The shared cache does not have it: the stage runs.
        assert_eq!(scheduler.queue(0, key), AfterMiss::Waits);
        assert_eq!(scheduler.start(), Some((0, None)));
        scheduler.done(0);
        assert_eq!((scheduler.next_ready(), scheduler.followers(0)), (Some(2), vec![1]));
        // The shared cache has it.
        assert_eq!(scheduler.ask(2, Digest::of(b"other")), AfterMiss::Waits);
        scheduler.done(2);
        assert_eq!(scheduler.state(2), StageState::Done);
    }

    #[test]
    fn no_stage_follows_a_stage_that_has_ended() {
        let mut scheduler = Scheduler::new(
            [(short_stage(), Vec::new()), (short_stage(), Vec::new()), (short_stage(), Vec::new())],
            CAPACITY,
        );
        let key = Digest::of(b"key");
        assert_eq!(scheduler.queue(0, key), AfterMiss::Waits);
        assert_eq!(scheduler.start(), Some((0, None)));
        scheduler.done(0);
        assert_eq!(scheduler.queue(1, key), AfterMiss::WasDone(0));
        assert_eq!(scheduler.state(1), StageState::Ready);
        let other = Digest::of(b"other");
        scheduler.queue(1, other);
        scheduler.failed(1);
        assert_eq!(scheduler.queue(2, other), AfterMiss::HasFailed(1));
    }

    #[test]
    fn stages_run_side_by_side_as_far_as_threads_memory_and_gpus_go() {
        let ids =
            |demands: &[Demand], capacity| started(demands, capacity).iter().map(|(id, _)| *id).collect::<Vec<_>>();
        // Two cores: one stage with two threads, or two stages with one thread each. Stages without tensors run beside
        // them.
        assert_eq!(ids(&[tensor(2, 0, 0), tensor(2, 0, 0), short_stage()], CAPACITY), [0, 2]);
        assert_eq!(ids(&[tensor(1, 0, 0), tensor(1, 0, 0), tensor(1, 0, 0)], CAPACITY), [0, 1]);
        assert_eq!(ids(&[tensor(1, 0, 0), tensor(1, 0, 0)], Capacity::with(2, 1000, 0, 1)), [0]);
        // A number of threads that no machine has is no reason to panic.
        let absurd = tensor(usize::MAX, u64::MAX, 0);
        assert_eq!(ids(&[tensor(1, 0, 0), absurd, absurd], CAPACITY), [0]);
        assert_eq!(ids(&[absurd, absurd, tensor(1, 0, 0)], CAPACITY), [0]);
        // Memory: a stage that does not fit waits. A stage that demands more than the machine has runs alone.
        assert_eq!(ids(&[tensor(1, 600, 0), tensor(1, 600, 0), tensor(1, 300, 0)], CAPACITY), [0, 2]);
        assert_eq!(ids(&[tensor(1, 5000, 0), short_stage()], CAPACITY), [0]);
        // A stage gets a GPU of its own, unless its share says that it can run beside others.
        let two = Capacity::with(8, 1000, 2, usize::MAX);
        let (whole, half) = (tensor(1, 0, WHOLE_GPU), tensor(1, 0, WHOLE_GPU / 2));
        assert_eq!(started(&[whole, half, half, half], two), [(0, Some(0)), (1, Some(1)), (2, Some(1))]);
        // The sum of the shares on a GPU is at most one.
        let one = Capacity::with(8, 1000, 1, usize::MAX);
        let three = |share: f64| started(&[tensor(1, 0, super::super::resources::share(share)); 3], one).len();
        assert_eq!([three(0.3333), three(0.3334)], [3, 2]);
    }
}
