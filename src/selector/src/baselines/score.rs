//! Baselines with one score for each candidate: `length`, `scores`, `column`, `warm-loss`, `less`, `ifd`, `perplexity`
//! and `sspl`.

use super::queue::{Order, Queue, RankedCandidate};
use crate::chooser::ChooserInputs;
use raisin_base::error::Result;
use raisin_settings::{SelectionMethod, Third};

pub const NO_LOG_PROB: &str = "without a log-probability";

/// `length`: the longest responses come first.
pub fn length(inputs: &ChooserInputs) -> Result<Queue> {
    let pool = inputs.pool;
    let tokens = pool.column(&pool.response_tokens, "response lengths", SelectionMethod::Length)?;
    let (entries, missing) = sorted(tokens.iter().map(|tokens| tokens.map(f64::from)), Best::Highest);
    Queue::new(SelectionMethod::Length, inputs, &entries, Order::Given, counted("without a length", missing))
}

/// `scores`, `column`, `warm-loss` and `less`: a given score; the highest come first.
pub fn given(method: SelectionMethod, inputs: &ChooserInputs) -> Result<Queue> {
    let pool = inputs.pool;
    let scores = pool.column(&pool.scores, "scores", method)?;
    let (entries, missing) = sorted(scores.iter().copied(), Best::Highest);
    Queue::new(method, inputs, &entries, Order::Given, counted("without a score", missing))
}

/// `ifd`: instruction-following difficulty, mean NLL(y|x) / mean NLL(y); the highest come first. Above 1, the prompt
/// makes the response less likely, and the candidate is excluded.
pub fn ifd(inputs: &ChooserInputs) -> Result<Queue> {
    let pool = inputs.pool;
    let conditional = mean_loss(inputs, &pool.logp_conditional, &pool.response_tokens, SelectionMethod::Ifd)?;
    let unconditional = mean_loss(inputs, &pool.logp_unconditional, &pool.unconditional_tokens, SelectionMethod::Ifd)?;
    let scores = conditional.iter().zip(&unconditional).map(|(with, without)| match (with, without) {
        (Some(with), Some(without)) if *without > 0.0 => Some(with / without),
        _ => None,
    });
    let (mut entries, missing) = sorted(scores, Best::Highest);
    let scored = entries.len();
    entries.retain(|entry| entry.score.is_some_and(|score| score <= 1.0));
    let mut excluded = counted(NO_LOG_PROB, missing);
    excluded.extend(counted("with an IFD above 1", scored - entries.len()));
    Queue::new(SelectionMethod::Ifd, inputs, &entries, Order::Given, excluded)
}

/// `perplexity`: one third of the candidates by mean NLL(y|x), in random order.
pub fn perplexity(inputs: &ChooserInputs) -> Result<Queue> {
    let losses =
        mean_loss(inputs, &inputs.pool.logp_conditional, &inputs.pool.response_tokens, SelectionMethod::Perplexity)?;
    let (entries, missing) = sorted(losses.into_iter(), Best::Lowest);
    let (first, second) = (entries.len() / 3, entries.len() * 2 / 3);
    let third = match inputs.third {
        Third::Low => &entries[..first],
        Third::Middle => &entries[first..second],
        Third::High => &entries[second..],
    };
    let mut excluded = counted(NO_LOG_PROB, missing);
    excluded.extend(counted("in the other thirds", entries.len() - third.len()));
    Queue::new(SelectionMethod::Perplexity, inputs, third, Order::Shuffled(inputs.seed.at("perplexity")), excluded)
}

/// `sspl`: the candidates are sorted by mean NLL(y|x) and divided into T equal buckets. Batch t is a random draw from
/// bucket t, so that the run goes from easy to hard. If a bucket is smaller than a batch, the batch also draws from the
/// candidates beside the bucket.
pub fn sspl(inputs: &ChooserInputs) -> Result<Queue> {
    let losses = mean_loss(inputs, &inputs.pool.logp_conditional, &inputs.pool.response_tokens, SelectionMethod::Sspl)?;
    let (entries, missing) = sorted(losses.into_iter(), Best::Lowest);
    let (n, batch, steps) = (entries.len(), inputs.batch_size, inputs.total_steps.max(1));
    let mut schedule = Vec::with_capacity(steps * batch);
    for step in 0..steps {
        let (mut start, mut end) = (n * step / steps, n * (step + 1) / steps);
        if end - start < batch {
            start = usize::midpoint(start, end).saturating_sub(batch / 2).min(n.saturating_sub(batch));
            end = (start + batch).min(n);
        }
        let mut bucket = entries[start..end].to_vec();
        inputs.seed.at("sspl").at(step).rng().shuffle(&mut bucket);
        schedule.extend(bucket.into_iter().take(batch));
    }
    if n < batch {
        schedule = entries;
    }
    Queue::new(SelectionMethod::Sspl, inputs, &schedule, Order::Given, counted(NO_LOG_PROB, missing))
}

/// The mean negative log-likelihood per token: minus each sum of log-probabilities, divided by the number of its
/// tokens.
pub fn mean_loss(
    inputs: &ChooserInputs,
    log_probs: &[Option<f64>],
    tokens: &[Option<u32>],
    method: SelectionMethod,
) -> Result<Vec<Option<f64>>> {
    let log_probs = inputs.pool.column(log_probs, "log-probabilities", method)?;
    let tokens = inputs.pool.column(tokens, "response lengths", method)?;
    Ok(log_probs
        .iter()
        .zip(tokens)
        .map(|(log_prob, tokens)| match (log_prob, tokens) {
            (Some(log_prob), Some(tokens)) if *tokens > 0 => Some(-log_prob / f64::from(*tokens)),
            _ => None,
        })
        .collect())
}

#[derive(Clone, Copy, PartialEq)]
enum Best {
    Highest,
    Lowest,
}

/// The candidates with a finite score, the best first and equal scores in the order of the rows, and the number of the
/// other candidates.
fn sorted(scores: impl Iterator<Item = Option<f64>>, best: Best) -> (Vec<RankedCandidate>, usize) {
    let scores: Vec<Option<f64>> = scores.collect();
    let finite = |(row, score): (usize, &Option<f64>)| Some((row, score.filter(|score| score.is_finite())?));
    let mut ranked: Vec<(usize, f64)> = scores.iter().enumerate().filter_map(finite).collect();
    ranked.sort_by(|(_, one), (_, two)| if best == Best::Highest { two.total_cmp(one) } else { one.total_cmp(two) });
    let missing = scores.len() - ranked.len();
    (ranked.into_iter().map(|(row, score)| RankedCandidate { row, score: Some(score) }).collect(), missing)
}

/// An entry of [`Chooser::excluded`](crate::Chooser::excluded); none for a count of 0.
pub fn counted(reason: &str, count: usize) -> Vec<(String, usize)> {
    if count == 0 { Vec::new() } else { vec![(reason.to_owned(), count)] }
}
