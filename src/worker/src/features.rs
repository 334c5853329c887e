//! Runs a stage of kind `features`: computes the features of every instruction with an auxiliary model (docs/method.md,
//! section 2). The kind `clusters` reduces and clusters the features.
//!
//! One forward pass over prompts and responses gives log p(y | x), the lengths and two pooled embeddings; with a proxy,
//! it starts from the cached hidden states of the rows. A second pass over the responses alone gives log p(y). y are the
//! supervised tokens of a row: the responses of all its turns, cut at `max_tokens`. Both passes score the same tokens.
//! The rows are described block by block, so that the features of a large pool need not be in memory together. In a
//! block, rows of similar length form a batch. Finished batches go into the work folder, so that a killed pass continues
//! after the last of them and writes the same bytes.

mod cached;
mod parts;
mod rows;

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray};
use serde_json::json;
use tch::{Device, Kind as TensorKind, Tensor, no_grad};

use crate::encoding::EncodingReport;
use crate::learning::{check_context, checkpoint_interval, codec, device, limit_with_proxy, open, phase_cost, speed};
use crate::tables::{numbers, vector_column};
use cached::CachedStates;
use parts::{Done, in_id_order, open_parts, save_part};
use raisin_base::error::Result;
use raisin_contract::{Context, Cost, Progress};
use raisin_corpus::{Sequence, read_instructions, read_task};
use raisin_kinds::features::{EmbeddedTokens, Parameters};
use raisin_lm::out_of_memory::{in_groups, micro_batches};
use raisin_lm::proxy::PrefixStates;
use raisin_lm::{Batch, Model, longest_first};
use raisin_table::{self as table, WriteTable as _};
use raisin_training::Meter;
use rows::{EncodedRow, RowEncoder};

/// The number of rows of a block.
const BLOCK: usize = 16_384;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let loading = Meter::start(device(context)?);
    let folder = context.input("/model")?;
    let codec = codec(folder)?;
    let model = open(folder, context)?;
    let states = if folder.join("proxy.json").is_file() { Some(PrefixStates::open(folder)?) } else { None };
    context.cost(phase_cost("load", loading.stop()));
    let limit = parameters.sequence_limit();
    let limit = states.as_ref().map_or(limit, |states| limit_with_proxy(limit, states, context));
    let mut encoding = EncodingReport::new(limit);
    let instructions = read_instructions(context.input("/instructions")?)?;
    let unconditional = parameters.unconditional;
    let rows = RowEncoder { codec: &codec, max_tokens: limit.max_tokens, unconditional };
    let encoded = rows.instructions(&instructions, context, &mut encoding)?;
    // The examples are encoded here too, so that a wrong example is found before hours of work on the instructions.
    let examples = if parameters.task.is_some() { read_task(context.input("/task")?)?.validation } else { Vec::new() };
    let encoded_examples = rows.examples(&examples, &mut encoding)?;
    encoding.tell(&codec, context);
    let sequences = encoded.iter().chain(&encoded_examples).flat_map(|row| [&row.whole, &row.alone]).flatten();
    check_context(&model, limit.max_tokens, sequences)?;
    let cached = states.as_ref().map(|states| CachedStates::of_pool(states, &encoded)).transpose()?;
    // Wrong states of the examples are found before hours of work on the instructions too.
    let cached_examples = match &states {
        Some(states) if parameters.task.is_some() => Some(CachedStates::of_validation(states, &encoded_examples)?),
        _ => None,
    };
    let prefix_layers = states.as_ref().map_or(0, |states| states.config.prefix_layers);
    let pass = FeaturePass { prefix_layers, ..FeaturePass::new(context, &model, &parameters) };
    let missing = pass.write("features", "features", &encoded, cached.as_ref())?;
    note_missing(context, "instructions", missing, &encoded);
    if parameters.task.is_some() {
        let missing = pass.write("validation", "validation_features", &encoded_examples, cached_examples.as_ref())?;
        note_missing(context, "validation examples", missing, &encoded_examples);
    }
    encoding.write(context)?;
    // The summary counts all rows, also those of earlier attempts.
    let mut all = PassTokens::default();
    encoded.iter().chain(&encoded_examples).for_each(|row| all.add(row));
    let mut summary = json!({
        "pass": "features",
        "tokens": all.tokens(),
        "supervised_tokens": all.supervised,
        "flops": pass.flops(&all),
        "unconditional": unconditional,
    });
    if parameters.embedding != EmbeddedTokens::default() {
        summary["embedding"] = json!(parameters.embedding);
    }
    context.write_json("summary.json", &summary)
}

/// The tokens of both passes.
#[derive(Clone, Copy, Debug, Default)]
struct PassTokens {
    /// Of the pass over prompts and responses.
    whole: u64,
    /// Of the pass over the responses alone.
    alone: u64,
    supervised: u64,
}

impl PassTokens {
    fn add(&mut self, row: &EncodedRow) {
        let count = |sequence: &Option<Sequence>| sequence.as_ref().map_or(0, |sequence| sequence.tokens.len() as u64);
        self.whole += count(&row.whole);
        self.alone += count(&row.alone);
        let supervised = |sequence: &Sequence| sequence.supervised_tokens() as u64;
        self.supervised += [&row.whole, &row.alone].into_iter().flatten().map(supervised).sum::<u64>();
    }

    fn tokens(&self) -> u64 {
        self.whole + self.alone
    }
}

/// Says how many rows could be encoded, but have no features. `missing` rows have a null among their features.
fn note_missing(context: &Context, rows: &str, missing: usize, encoded: &[EncodedRow]) {
    let left_out = encoded.iter().filter(|row| row.whole.is_none()).count();
    let count = missing.saturating_sub(left_out);
    if count > 0 {
        let of = encoded.len();
        context.note(format!("{count} of {of} {rows} have tokens, but no features; column `missing` says why"));
    }
}

/// The forward passes over one set of rows.
struct FeaturePass<'a> {
    context: &'a Context,
    model: &'a Model,
    parameters: &'a Parameters,
    /// The number of layers below the cached states of a proxy; 0 without a proxy.
    prefix_layers: usize,
    /// The number of tokens that a forward pass can hold: `batch_tokens`, or less after a pass ran out of memory.
    fits: Cell<usize>,
    /// Finished batches are saved after each interval.
    interval: Duration,
    /// The number of rows of a block.
    block: usize,
}

/// How far the pass over one set of rows is.
struct Advance<'a> {
    phase: &'a str,
    total: usize,
    start: Instant,
    /// The tokens of this attempt.
    tokens: PassTokens,
}

/// One row of the table `features`.
#[derive(Clone, Debug, Default)]
struct FeatureRow {
    id: u32,
    prompt_tokens: Option<u32>,
    response_tokens: Option<u32>,
    /// The number of tokens of the responses alone. It differs from `response_tokens` if the tokenizer joins the edge
    /// of a response with the text before it.
    alone_tokens: Option<u32>,
    conditional: Option<f32>,
    unconditional: Option<f32>,
    mean: Option<Vec<f32>>,
    weighted: Option<Vec<f32>>,
    missing: Option<String>,
}

impl<'a> FeaturePass<'a> {
    fn new(context: &'a Context, model: &'a Model, parameters: &'a Parameters) -> Self {
        let fits = Cell::new(parameters.batch_tokens);
        let interval = checkpoint_interval();
        Self { context, model, parameters, prefix_layers: 0, fits, interval, block: BLOCK }
    }

    /// The FLOPs of both passes. The layers of a frozen prefix ran in the stage of the proxy.
    fn flops(&self, tokens: &PassTokens) -> f64 {
        tokens.whole as f64 * self.model.flops_per_token_from(self.prefix_layers, false)
            + tokens.alone as f64 * self.model.flops_per_token(false)
    }

    /// Writes the features of all rows, in their order, into a table. Returns the number of rows with a null among their
    /// features.
    fn write(&self, phase: &str, table: &str, encoded: &[EncodedRow], cached: Option<&CachedStates>) -> Result<usize> {
        let running = Meter::start(device(self.context)?);
        let tokens = PassTokens::default();
        let mut advance = Advance { phase, total: encoded.len(), start: Instant::now(), tokens };
        let mut writer = self.context.table_writer(table, self.table(&[])?.schema())?;
        let mut missing = 0;
        if encoded.len() > self.block {
            // So that a lack of memory shows at the start.
            let (order, batches) = self.batches(encoded);
            if let Some(longest) = batches.first() {
                let longest: Vec<&EncodedRow> = order[longest.clone()].iter().map(|&row| &encoded[row]).collect();
                self.rows(&longest, cached)?;
            }
        }
        for (number, block) in encoded.chunks(self.block).enumerate() {
            let rows = self.describe(number, block, cached, &mut advance)?;
            let reasons: &StringArray = table::column(&rows, "missing")?;
            missing += reasons.len() - reasons.null_count();
            writer.write(&rows)?;
        }
        writer.close()?;
        self.context.cost(Cost {
            tokens: advance.tokens.tokens(),
            supervised_tokens: advance.tokens.supervised,
            flops: self.flops(&advance.tokens),
            ..phase_cost("forward", running.stop())
        });
        Ok(missing)
    }

    /// The rows by length, the longest first, and the batches as ranges of this order.
    fn batches(&self, encoded: &[EncodedRow]) -> (Vec<usize>, Vec<Range<usize>>) {
        let lengths: Vec<usize> =
            encoded.iter().map(|row| row.whole.as_ref().map_or(1, |whole| whole.tokens.len())).collect();
        let order = longest_first(&lengths);
        let lengths: Vec<usize> = order.iter().map(|&row| lengths[row]).collect();
        (order, micro_batches(&lengths, self.parameters.batch_tokens))
    }

    /// The features of the rows of a block, in the order of their ids. Saved batches of an earlier attempt are not
    /// computed again.
    fn describe(
        &self,
        block: usize,
        encoded: &[EncodedRow],
        cached: Option<&CachedStates>,
        advance: &mut Advance,
    ) -> Result<RecordBatch> {
        let (order, batches) = self.batches(encoded);
        let before = block * self.block;
        let is_last = before + encoded.len() >= advance.total;
        let (mut records, earlier) = open_parts(self.context, advance.phase, block)?;
        let (mut parts, mut next) = (Vec::with_capacity(earlier.len() + 1), 0);
        for (done, part) in earlier {
            parts.push(part);
            next = done.next;
            self.fits.set(done.fits);
        }
        let mut pending: Vec<FeatureRow> = Vec::new();
        let mut last_saved = Instant::now();
        while let Some(range) = batches.get(next) {
            let members = &order[range.clone()];
            let members: Vec<&EncodedRow> = members.iter().map(|&row| &encoded[row]).collect();
            members.iter().for_each(|row| advance.tokens.add(row));
            pending.extend(self.rows(&members, cached)?);
            next += 1;
            // A finished block is saved as a whole. The rest of the last block is written into the table at once.
            let is_finished = next == batches.len();
            let is_due = if is_finished { !is_last } else { last_saved.elapsed() >= self.interval };
            if is_due {
                let part = self.table(&std::mem::take(&mut pending))?;
                save_part(&mut records, Done { next, fits: self.fits.get() }, &part)?;
                parts.push(part);
                last_saved = Instant::now();
            }
            self.context.progress(Progress {
                phase: advance.phase.to_owned(),
                done: (before + range.end) as u64,
                total: advance.total as u64,
                unit: "rows".to_owned(),
                tokens_per_second: speed(advance.tokens.tokens(), advance.start.elapsed()),
                ..Progress::default()
            });
        }
        parts.push(self.table(&pending)?);
        in_id_order(&parts)
    }

    /// The rows of one batch: both passes.
    fn rows(&self, members: &[&EncodedRow], cached: Option<&CachedStates>) -> Result<Vec<FeatureRow>> {
        let mut rows: Vec<FeatureRow> = members
            .iter()
            .map(|row| FeatureRow { id: row.id, missing: row.missing.clone(), ..FeatureRow::default() })
            .collect();
        let wholes: Vec<Option<&Sequence>> = members.iter().map(|row| row.whole.as_ref()).collect();
        let states = |positions: &[usize]| {
            let rows = || positions.iter().map(|&position| members[position]).collect::<Vec<_>>();
            cached.map(|cached| cached.of(&rows())).transpose()
        };
        for (position, sequence, described) in self.forward_each(&wholes, &states, true)? {
            let row = &mut rows[position];
            let responses = sequence.supervised_tokens() as u32;
            let prompts = sequence.tokens.len() as u32 - responses;
            (row.prompt_tokens, row.response_tokens) = (Some(prompts), Some(responses));
            (row.conditional, row.mean, row.weighted) = (Some(described.log_prob), described.mean, described.weighted);
        }
        let alone: Vec<Option<&Sequence>> = members.iter().map(|row| row.alone.as_ref()).collect();
        for (position, sequence, described) in self.forward_each(&alone, &|_| Ok(None), false)? {
            let row = &mut rows[position];
            (row.unconditional, row.alone_tokens) =
                (Some(described.log_prob), Some(sequence.supervised_tokens() as u32));
        }
        rows.iter_mut().for_each(FeatureRow::settle);
        Ok(rows)
    }

    /// The forward pass over the rows that have a sequence: position, sequence and result of each. If the pass does not
    /// fit in memory, it runs in several groups. `states` gives the cached states of the rows at some positions.
    fn forward_each<'s>(
        &self,
        rows: &[Option<&'s Sequence>],
        states: &dyn Fn(&[usize]) -> Result<Option<Tensor>>,
        pooled: bool,
    ) -> Result<Vec<(usize, &'s Sequence, Described)>> {
        let present = |(position, row): (usize, Option<&'s Sequence>)| Some((position, row?));
        let (positions, sequences): (Vec<usize>, Vec<&Sequence>) =
            rows.iter().copied().enumerate().filter_map(present).unzip();
        if sequences.is_empty() {
            return Ok(Vec::new());
        }
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.tokens.len()).collect();
        let mut described = Vec::with_capacity(sequences.len());
        let before = self.fits.get();
        let mut fits = before;
        in_groups(&lengths, &mut fits, |rows| {
            let states = states(&positions[rows.clone()])?;
            described.extend(self.forward(&sequences[rows], states.as_ref(), pooled)?);
            Ok(())
        })?;
        if fits < before {
            self.fits.set(fits);
            self.model
                .tell(&format!("there was no memory for {before} tokens at a time; the limit is now {fits} tokens"));
        }
        let rows = positions.into_iter().zip(sequences).zip(described);
        Ok(rows.map(|((position, sequence), described)| (position, sequence, described)).collect())
    }

    /// `states` are the states that enter the first layer above the prefix; without them, all layers run.
    fn forward(&self, sequences: &[&Sequence], states: Option<&Tensor>, pooled: bool) -> Result<Vec<Described>> {
        no_grad(|| {
            let batch = Batch::pack(sequences, device(self.context)?)?;
            let hidden = match states {
                Some(states) => self.model.hidden_from(self.prefix_layers, states, &batch)?,
                None => self.model.hidden(&batch)?,
            };
            let log_probs = self.model.token_log_probs(&hidden, &batch)?.f_to_device(Device::Cpu)?;
            let log_probs: Vec<f32> = Vec::try_from(log_probs)?;
            let vectors = if pooled {
                pool(sequences, self.parameters.embedding, &hidden)?
            } else {
                vec![(None, None); sequences.len()]
            };
            let mut start = 0;
            Ok(sequences
                .iter()
                .zip(vectors)
                .map(|(sequence, (mean, weighted))| {
                    let end = start + sequence.supervised_tokens();
                    let sum: f64 = log_probs[start..end].iter().copied().map(f64::from).sum();
                    start = end;
                    Described { log_prob: sum as f32, mean, weighted }
                })
                .collect())
        })
    }

    fn table(&self, rows: &[FeatureRow]) -> Result<RecordBatch> {
        let width = self.model.config.hidden_size as usize;
        let vectors = |of: &dyn Fn(&FeatureRow) -> Option<&Vec<f32>>| -> Result<ArrayRef> {
            let values = rows.iter().flat_map(|row| of(row).cloned().unwrap_or_else(|| vec![0.0; width])).collect();
            vector_column(values, width, Some(rows.iter().map(|row| of(row).is_some()).collect()))
        };
        table::batch(vec![
            ("id", numbers(rows, |row| Some(row.id))),
            ("prompt_tokens", numbers(rows, |row| row.prompt_tokens)),
            ("response_tokens", numbers(rows, |row| row.response_tokens)),
            ("logp_conditional", Arc::new(rows.iter().map(|row| row.conditional).collect::<Float32Array>())),
            ("logp_unconditional", Arc::new(rows.iter().map(|row| row.unconditional).collect::<Float32Array>())),
            ("unconditional_tokens", numbers(rows, |row| row.alone_tokens)),
            ("embedding", vectors(&|row| row.mean.as_ref())?),
            ("weighted_embedding", vectors(&|row| row.weighted.as_ref())?),
            ("missing", Arc::new(rows.iter().map(|row| row.missing.as_deref()).collect::<StringArray>())),
        ])
    }
}

/// The result of one forward pass for one row.
struct Described {
    /// The sum over the supervised tokens.
    log_prob: f32,
    mean: Option<Vec<f32>>,
    weighted: Option<Vec<f32>>,
}

impl FeatureRow {
    /// Makes values that are not finite null, and states the reason.
    fn settle(&mut self) {
        let unusable = |value: Option<f32>| value.is_some_and(|value| !value.is_finite());
        if unusable(self.conditional) || unusable(self.unconditional) {
            self.missing.get_or_insert_with(|| "the model's log-probability is not a finite number".to_owned());
        }
        self.conditional = self.conditional.filter(|value| value.is_finite());
        self.unconditional = self.unconditional.filter(|value| value.is_finite());
        for vector in [&mut self.mean, &mut self.weighted] {
            if vector.as_ref().is_some_and(|vector| vector.iter().any(|value| !value.is_finite())) {
                *vector = None;
                self.missing.get_or_insert_with(|| "the model's hidden state is not a finite number".to_owned());
            }
        }
    }
}

/// The mean and the weighted mean of the hidden states of a row.
type Pooled = (Option<Vec<f32>>, Option<Vec<f32>>);

/// For each row the mean of its hidden states over the tokens that are `embedded`, and the mean that is weighted by the
/// position among them (weights 1, 2, 3, ... divided by their sum), as one matrix product: [2 rows, tokens] x
/// [tokens, hidden].
fn pool(sequences: &[&Sequence], embedded: EmbeddedTokens, hidden: &Tensor) -> Result<Vec<Pooled>> {
    let tokens: usize = sequences.iter().map(|sequence| sequence.tokens.len()).sum();
    let rows = sequences.len();
    let mut weights = vec![0f32; 2 * rows * tokens];
    let mut start = 0;
    for (row, sequence) in sequences.iter().enumerate() {
        let is_embedded = |offset: &usize| embedded == EmbeddedTokens::Whole || sequence.supervised[*offset];
        let offsets: Vec<usize> = (0..sequence.tokens.len()).filter(is_embedded).collect();
        let count = offsets.len();
        let positions = (count * (count + 1) / 2) as f32;
        for (position, offset) in offsets.into_iter().enumerate() {
            weights[row * tokens + start + offset] = 1.0 / count as f32;
            weights[(rows + row) * tokens + start + offset] = (position + 1) as f32 / positions;
        }
        start += sequence.tokens.len();
    }
    let weights = Tensor::f_from_slice(&weights)?.f_view([2 * rows as i64, tokens as i64])?;
    let pooled = weights.f_to_device(hidden.device())?.f_matmul(&hidden.f_to_kind(TensorKind::Float)?)?;
    let width = pooled.size2()?.1 as usize;
    let values: Vec<f32> = Vec::try_from(pooled.f_to_device(Device::Cpu)?.f_reshape([-1])?)?;
    let vector = |row: usize| values[row * width..(row + 1) * width].to_vec();
    Ok((0..rows).map(|row| (Some(vector(row)), Some(vector(rows + row)))).collect())
}

#[cfg(test)]
mod tests;
