//! Which stage starts next: pure bookkeeping over the graph, with one function for every change of state.

use std::collections::{BTreeSet, HashMap};

use super::graph::NodeId;
use crate::digest::Digest;
use crate::stages::Process;

/// How many stages may run at once.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    pub light: usize,
    pub tensor: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// For so many inputs.
    Waiting(usize),
    /// All inputs are there: to be looked up.
    Ready,
    /// Looked up in vain: to be run.
    Queued,
    /// In a tensor slot, or in none.
    Running(Option<usize>),
    /// Another node of this build runs the same action.
    Following(NodeId),
    Done,
    Failed,
    /// An input failed.
    Skipped,
}

pub struct Schedule {
    states: Vec<State>,
    dependents: Vec<Vec<NodeId>>,
    processes: Vec<Process>,
    ready: BTreeSet<NodeId>,
    queued: BTreeSet<NodeId>,
    /// Which node runs a key, so that no other starts it.
    by_key: HashMap<Digest, NodeId>,
    light_running: usize,
    /// True for a tensor slot in use.
    slots: Vec<bool>,
    light_slots: usize,
}

impl Schedule {
    /// `nodes`: the process of each, and who depends on it. Inputs come before what needs them.
    pub fn new(nodes: impl IntoIterator<Item = (Process, Vec<NodeId>)>, slots: Slots) -> Self {
        let (processes, dependents): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        let mut inputs = vec![0; processes.len()];
        for input in dependents.iter().flatten() {
            inputs[*input] += 1;
        }
        let mut schedule = Self {
            states: inputs.iter().map(|count| State::Waiting(*count)).collect(),
            dependents,
            processes,
            ready: BTreeSet::new(),
            queued: BTreeSet::new(),
            by_key: HashMap::new(),
            light_running: 0,
            slots: vec![false; slots.tensor.max(1)],
            light_slots: slots.light.max(1),
        };
        for id in 0..schedule.states.len() {
            if schedule.states[id] == State::Waiting(0) {
                schedule.change(id, State::Ready);
            }
        }
        schedule
    }

    pub fn state(&self, id: NodeId) -> State {
        self.states[id]
    }

    /// A node whose inputs are all there and that was not looked up yet.
    pub fn next_ready(&self) -> Option<NodeId> {
        self.ready.first().copied()
    }

    /// The node was looked up in vain: it is to be run, or to wait for another that runs the same action.
    pub fn queue(&mut self, id: NodeId, key: Digest) {
        match self.by_key.get(&key) {
            Some(other) => self.change(id, State::Following(*other)),
            None => {
                self.by_key.insert(key, id);
                self.change(id, State::Queued);
            }
        }
    }

    /// Takes the first queued node that a slot is free for; gives the tensor slot, if it has one.
    pub fn start(&mut self) -> Option<(NodeId, Option<usize>)> {
        let slot = self.slots.iter().position(|used| !used);
        let startable = |id: &&NodeId| match self.processes[**id] {
            Process::Light => self.light_running < self.light_slots,
            Process::Tensor => slot.is_some(),
        };
        let id = *self.queued.iter().find(startable)?;
        let slot = slot.filter(|_| self.processes[id] == Process::Tensor);
        self.change(id, State::Running(slot));
        Some((id, slot))
    }

    pub fn done(&mut self, id: NodeId) {
        self.change(id, State::Done);
        for dependent in self.dependents[id].clone() {
            if let State::Waiting(count) = self.states[dependent] {
                let next = if count == 1 { State::Ready } else { State::Waiting(count - 1) };
                self.change(dependent, next);
            }
        }
    }

    /// Everything that needs this node is skipped.
    pub fn failed(&mut self, id: NodeId) {
        self.change(id, State::Failed);
        let mut skipped = self.dependents[id].clone();
        while let Some(next) = skipped.pop() {
            if matches!(self.states[next], State::Waiting(_)) {
                self.change(next, State::Skipped);
                skipped.extend(self.dependents[next].iter().copied());
            }
        }
    }

    /// The nodes that wait for the action that this one ran.
    pub fn followers(&self, id: NodeId) -> Vec<NodeId> {
        (0..self.states.len()).filter(|other| self.states[*other] == State::Following(id)).collect()
    }

    pub fn running(&self) -> usize {
        self.light_running + self.slots.iter().filter(|used| **used).count()
    }

    pub fn count(&self, wanted: impl Fn(State) -> bool) -> u64 {
        self.states.iter().filter(|state| wanted(**state)).count() as u64
    }

    /// The only place where a state changes.
    fn change(&mut self, id: NodeId, to: State) {
        let from = std::mem::replace(&mut self.states[id], to);
        match from {
            State::Ready => drop(self.ready.remove(&id)),
            State::Queued => drop(self.queued.remove(&id)),
            State::Running(Some(slot)) => self.slots[slot] = false,
            State::Running(None) => self.light_running -= 1,
            _ => {}
        }
        match to {
            State::Ready => drop(self.ready.insert(id)),
            State::Queued => drop(self.queued.insert(id)),
            State::Running(Some(slot)) => self.slots[slot] = true,
            State::Running(None) => self.light_running += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A graph in which node n needs those of the nodes before it whose bit is set.
    fn nodes(inputs: &[u8], tensor: &[bool]) -> Vec<(Process, Vec<NodeId>)> {
        let needs = |id: usize, input: usize| input < id && inputs[id] >> (input % 8) & 1 == 1;
        (0..inputs.len())
            .map(|id| {
                let process = if tensor[id] { Process::Tensor } else { Process::Light };
                (process, (id + 1..inputs.len()).filter(|later| needs(*later, id)).collect())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_stage_runs_once_after_its_inputs_within_the_slots_or_is_skipped_for_a_failure(
            stages in prop::collection::vec((any::<u8>(), any::<bool>(), any::<bool>()), 1..20),
            fails in prop::option::of(0..20_usize),
            tensor_slots in 1..3_usize,
        ) {
            let inputs: Vec<u8> = stages.iter().map(|stage| stage.0).collect();
            let tensor: Vec<bool> = stages.iter().map(|stage| stage.1).collect();
            let graph = nodes(&inputs, &tensor);
            let mut schedule = Schedule::new(graph.clone(), Slots { light: 2, tensor: tensor_slots });
            let (mut running, mut done): (Vec<NodeId>, Vec<NodeId>) = (Vec::new(), Vec::new());
            loop {
                while let Some(id) = schedule.next_ready() {
                    for (input, (_, dependents)) in graph.iter().enumerate() {
                        prop_assert!(!dependents.contains(&id) || done.contains(&input));
                    }
                    if stages[id].2 {
                        schedule.done(id);
                        done.push(id);
                    } else {
                        schedule.queue(id, Digest::of(&id.to_le_bytes()));
                    }
                }
                while let Some((id, slot)) = schedule.start() {
                    prop_assert_eq!(slot.is_some(), tensor[id]);
                    running.push(id);
                }
                prop_assert!(running.iter().filter(|id| tensor[**id]).count() <= tensor_slots);
                prop_assert!(running.iter().filter(|id| !tensor[**id]).count() <= 2);
                let Some(id) = running.pop() else { break };
                if fails == Some(id) { schedule.failed(id) } else { schedule.done(id); done.push(id) }
            }
            for (id, _) in graph.iter().enumerate() {
                prop_assert!(matches!(schedule.state(id), State::Done | State::Failed | State::Skipped));
            }
            let failed = schedule.count(|state| state == State::Failed);
            prop_assert!(failed == 1 || schedule.count(|state| state == State::Done) == stages.len() as u64);
        }
    }

    #[test]
    fn stages_with_the_same_action_run_once() {
        let light = || (Process::Light, Vec::new());
        let mut schedule = Schedule::new([light(), light()], Slots { light: 2, tensor: 1 });
        let key = Digest::of(b"key");
        schedule.queue(0, key);
        schedule.queue(1, key);
        assert_eq!(schedule.start(), Some((0, None)));
        assert_eq!(schedule.start(), None);
        assert_eq!(schedule.followers(0), [1]);
    }
}
