//! The chooser of every baseline: a sequence of candidates, served batch by batch and repeated after its end.

use serde_json::{Value, json};

use super::score::counted;
use crate::chooser::{Chooser, ChooserInputs, SelectedCandidate, StepContext};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::seed::Seed;
use raisin_settings::SelectionMethod;

/// One entry of the sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankedCandidate {
    /// Row of the pool.
    pub row: usize,
    pub score: Option<f64>,
}

/// The order in which the entries are served.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// In the given order, the best first.
    Given,
    /// In a new random order in each pass.
    Shuffled(Seed),
}

pub struct Queue {
    entries: Vec<SelectedCandidate>,
    order: Order,
    /// With weights, entries of a larger weight come sooner in a pass of a random order.
    weights: Option<Vec<f64>>,
    batch_size: usize,
    excluded: Vec<(String, usize)>,
    /// The entries of this pass that are not served yet. The next entry is at the end.
    waiting: Vec<usize>,
    passes: usize,
    batches: u64,
}

impl Queue {
    /// `excluded` counts, for each reason, the candidates that are not in `entries`. With [`ChooserInputs::top`], only
    /// the first entries are served, in a new random order in each pass.
    ///
    /// # Errors
    /// There are fewer entries than a batch needs.
    pub fn new(
        method: SelectionMethod,
        inputs: &ChooserInputs,
        entries: &[RankedCandidate],
        order: Order,
        mut excluded: Vec<(String, usize)>,
    ) -> Result<Self> {
        let (mut entries, mut order) = (entries, order);
        if let Some(top) = inputs.top {
            entries = &entries[..top.min(entries.len())];
            order = Order::Shuffled(inputs.seed.at("top"));
            let others: usize = excluded.iter().map(|(_, count)| count).sum();
            let below = inputs.pool.ids.len().saturating_sub(entries.len() + others);
            excluded.extend(counted(&format!("not among the best {top}"), below));
        }
        if entries.len() < inputs.batch_size {
            let reasons: Vec<String> = excluded.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            return Err(Problem::new(format!(
                "method `{}` can choose from {} of {} candidates, but a batch needs {}{}{}",
                method.name(),
                entries.len(),
                inputs.pool.ids.len(),
                inputs.batch_size,
                if reasons.is_empty() { "" } else { "; excluded: " },
                reasons.join(", "),
            ))
            .hint("a larger pool, a smaller batch, or another method")
            .into());
        }
        let entries = entries
            .iter()
            .map(|entry| SelectedCandidate {
                id: inputs.pool.ids[entry.row],
                cluster: inputs.pool.cluster(entry.row),
                score: entry.score,
                log_prob: None,
            })
            .collect();
        let batch_size = inputs.batch_size;
        Ok(Self { entries, order, weights: None, batch_size, excluded, waiting: Vec::new(), passes: 0, batches: 0 })
    }

    /// The queue with a weight for each entry.
    pub fn weighted(self, weights: Vec<f64>) -> Self {
        Self { weights: Some(weights), ..self }
    }

    /// Starts the next pass. Candidates that are already in the unfinished batch come last in the pass.
    fn next_pass(&mut self, batch: &[usize]) {
        let mut pass: Vec<usize> = (0..self.entries.len()).collect();
        if let Order::Shuffled(seed) = self.order {
            let mut rng = seed.at("pass").at(self.passes).rng();
            match &self.weights {
                Some(weights) => pass = rng.weighted_order(weights),
                None => rng.shuffle(&mut pass),
            }
        }
        let taken = |entry: &usize| batch.iter().any(|&other| self.entries[other].id == self.entries[*entry].id);
        let (late, soon): (Vec<usize>, Vec<usize>) = pass.into_iter().partition(taken);
        self.waiting = soon.into_iter().chain(late).rev().collect();
        self.passes += 1;
    }

    fn next_batch(&mut self) -> Vec<SelectedCandidate> {
        let mut batch = Vec::with_capacity(self.batch_size);
        while batch.len() < self.batch_size {
            match self.waiting.pop() {
                Some(entry) => batch.push(entry),
                None => self.next_pass(&batch),
            }
        }
        self.batches += 1;
        batch.into_iter().map(|entry| self.entries[entry]).collect()
    }
}

impl Chooser for Queue {
    fn choose(&mut self, _context: &StepContext) -> Result<Vec<SelectedCandidate>> {
        Ok(self.next_batch())
    }

    fn excluded(&self) -> Vec<(String, usize)> {
        self.excluded.clone()
    }

    fn state(&self) -> Value {
        json!({ "batches": self.batches })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let batches = state["batches"]
            .as_u64()
            .with_context(|| format!("the saved state of the method cannot be read: {state}"))?;
        (self.waiting, self.passes, self.batches) = (Vec::new(), 0, 0);
        for _ in 0..batches {
            self.next_batch();
        }
        Ok(())
    }
}
