//! What the encoding of the rows of a stage cut, left out and changed. Each stage that encodes rows says the counts in
//! one note, and lists the rows in its table `encoding`; no single row ends a stage.
//!
//! The table has one row for each row that was cut (kind `truncated`), each row that was left out (`left_out`), and each
//! [finding](raisin_corpus::Finding) (the name of the finding). A row is either cut or left out, so that both can be
//! counted by `kind`.

mod note;
mod rows;
mod table;

use std::borrow::Cow;
use std::path::Path;

use arrow_array::{Array as _, StringArray, UInt32Array};
use rayon::prelude::*;

use raisin_base::error::{Problem, Result};
use raisin_contract::Context;
use raisin_corpus::intake::grouped;
use raisin_corpus::{Codec, Encoded, Example, FindingKind, Instruction, Sequence, SharedTokens};
use raisin_settings::{Overlong, SequenceLimit};
use raisin_table as tables;

pub use rows::{Cause, EncodedRows, Missing, RowsOf};

/// The origin of a row.
#[derive(Clone, Copy, Debug, Default)]
struct EncodedOrigin {
    id: u32,
    /// The index in [`EncodingReport::files`].
    source: Option<u32>,
    line: Option<u64>,
}

/// One row of the table `encoding`.
#[derive(Clone, Debug)]
struct EncodingRow {
    of: RowsOf,
    metric: Option<&'static str>,
    origin: EncodedOrigin,
    kind: &'static str,
    turn: Option<u32>,
    /// The number of tokens and of targets of the whole row; `None` if they are not known.
    tokens: Option<usize>,
    targets: Option<usize>,
    /// The number of tokens and of targets behind the cut; only for `truncated`.
    cut: Option<(usize, usize)>,
    reason: Cow<'static, str>,
}

/// The counts of one set of rows.
#[derive(Clone, Debug)]
struct Counts {
    of: RowsOf,
    metric: Option<&'static str>,
    rows: usize,
    truncated: usize,
    tokens_cut: usize,
    targets_cut: usize,
    /// For each cause, the number of rows that are left out.
    left_out: Vec<(Cause, usize)>,
    /// The first row of the latest cause, with its reason.
    example_left_out: Option<(Cause, String)>,
    /// For each kind of finding, the number of rows that have such a finding.
    findings: Vec<(FindingKind, usize)>,
    overlong: usize,
    /// The number of tokens of the longest row, and its origin.
    longest: Option<(usize, EncodedOrigin)>,
}

/// Counts and lists what happened to the rows of a stage.
pub struct EncodingReport {
    limit: SequenceLimit,
    /// The names of the pool's files; empty if the pool has no table `sources`.
    files: Vec<String>,
    rows: Vec<EncodingRow>,
    counts: Vec<Counts>,
}

impl EncodingReport {
    pub fn new(limit: SequenceLimit) -> Self {
        Self { limit, files: Vec::new(), rows: Vec::new(), counts: Vec::new() }
    }

    /// The largest number of tokens in a sequence.
    pub fn max_tokens(&self) -> usize {
        self.limit.max_tokens
    }

    /// Takes the rows of a pool. `pool` is the folder of its artifact; `None` for instructions that no file holds.
    ///
    /// # Errors
    /// A row is too long, and `on_overlong` is `error`.
    pub fn instructions(
        &mut self,
        pool: Option<&Path>,
        instructions: &[Instruction],
        encoded: Vec<Encoded>,
    ) -> Result<EncodedRows> {
        self.files = pool.map(source_files).transpose()?.unwrap_or_default();
        let named = self.files.len();
        let origin = |row: &Instruction| EncodedOrigin {
            id: row.id,
            source: Some(row.source).filter(|source| (*source as usize) < named),
            line: Some(row.line).filter(|line| *line > 0),
        };
        self.take(RowsOf::Instructions, None, instructions.iter().map(origin), encoded)
    }

    /// Takes examples with their reference responses. An evaluation names the metric for which it encodes them.
    ///
    /// # Errors
    /// As [`Self::instructions`].
    pub fn examples(
        &mut self,
        of: RowsOf,
        metric: Option<&'static str>,
        examples: &[Example],
        encoded: Vec<Encoded>,
    ) -> Result<EncodedRows> {
        self.take(of, metric, examples.iter().map(origin_of), encoded)
    }

    /// Takes the choices of questions. A question is left out if a choice has no sequence or does not fit: the
    /// probability of a part of a choice cannot be compared with that of a whole choice.
    ///
    /// # Errors
    /// As [`Self::instructions`].
    pub fn choices(
        &mut self,
        of: RowsOf,
        metric: &'static str,
        examples: &[Example],
        encoded: Vec<Vec<Encoded>>,
    ) -> Result<EncodedRows<Vec<Sequence>>> {
        let mut counts = Counts::new(of, Some(metric), examples.len());
        let mut families = EncodedRows::with_capacity(examples.len());
        for (example, choices) in examples.iter().zip(encoded) {
            let origin = origin_of(example);
            let longest = choices.iter().max_by_key(|choice| choice.tokens).map_or(0, |choice| choice.tokens);
            self.measure(&mut counts, origin, longest);
            // A finding about the conversation occurs once for each choice.
            let mut findings: Vec<_> = choices.iter().flat_map(|choice| choice.findings.iter().cloned()).collect();
            findings.sort();
            findings.dedup();
            let all = Encoded { tokens: longest, findings, ..Encoded::default() };
            self.list_findings(&mut counts, origin, &all);
            let missing = self.missing_choice(example, &choices);
            if let Some(missing) = &missing {
                self.leave_out(&mut counts, origin, &all, missing);
            }
            families.push(choices.into_iter().map(|choice| choice.sequence).collect(), missing);
        }
        self.finish(counts)?;
        Ok(families)
    }

    /// Why a question is left out.
    fn missing_choice(&self, example: &Example, choices: &[Encoded]) -> Option<Missing> {
        if example.choices.is_empty() || example.answer.is_none() {
            return Some(Missing::new(Cause::NoChoice, "the example has no choices or no answer"));
        }
        choices.iter().zip(&example.choices).find_map(|(encoded, choice)| {
            let missing = self.missing(encoded).or_else(|| {
                let left = encoded.sequence.as_ref().map_or(0, Sequence::supervised_tokens);
                let (tokens, limit) = (encoded.tokens, self.limit.max_tokens);
                let reason = format!("it does not fit within {limit} tokens: the row has {tokens} tokens");
                (left < encoded.targets).then(|| Missing::new(Cause::CutChoice, reason))
            })?;
            Some(Missing::new(missing.cause, format!("the choice `{choice}`: {}", missing.reason)))
        })
    }

    /// Takes the prompts from which answers are generated, or the reasons why there is no prompt. A prompt is never cut.
    pub fn prompts(
        &mut self,
        of: RowsOf,
        metric: &'static str,
        examples: &[Example],
        prompts: Vec<Result<Vec<u32>, Missing>>,
    ) -> EncodedRows<Vec<u32>> {
        let mut counts = Counts::new(of, Some(metric), examples.len());
        let mut kept = EncodedRows::with_capacity(examples.len());
        for (example, prompt) in examples.iter().zip(prompts) {
            match prompt {
                Ok(prompt) => kept.push(Some(prompt), None),
                Err(missing) => {
                    self.leave_out(&mut counts, origin_of(example), &Encoded::default(), &missing);
                    kept.push(None, Some(missing));
                }
            }
        }
        self.counts.push(counts);
        kept
    }

    fn take(
        &mut self,
        of: RowsOf,
        metric: Option<&'static str>,
        origins: impl Iterator<Item = EncodedOrigin>,
        encoded: Vec<Encoded>,
    ) -> Result<EncodedRows> {
        let mut counts = Counts::new(of, metric, encoded.len());
        let mut rows = EncodedRows::with_capacity(encoded.len());
        for (origin, encoded) in origins.zip(encoded) {
            self.measure(&mut counts, origin, encoded.tokens);
            self.list_findings(&mut counts, origin, &encoded);
            let missing = self.missing(&encoded);
            match &missing {
                Some(missing) => self.leave_out(&mut counts, origin, &encoded, missing),
                None => self.list_cut(&mut counts, origin, &encoded),
            }
            rows.push(encoded.sequence, missing);
        }
        self.finish(counts)?;
        Ok(rows)
    }

    fn measure(&self, counts: &mut Counts, origin: EncodedOrigin, tokens: usize) {
        counts.overlong += usize::from(tokens > self.limit.max_tokens);
        if counts.longest.is_none_or(|(longest, _)| tokens > longest) {
            counts.longest = Some((tokens, origin));
        }
    }

    /// Why a row is left out.
    fn missing(&self, encoded: &Encoded) -> Option<Missing> {
        let limit = self.limit.max_tokens;
        if encoded.tokens > limit && self.limit.on_overlong == Overlong::Drop {
            let tokens = encoded.tokens;
            let reason = format!("longer than max_tokens: {tokens} tokens, and max_tokens is {limit}");
            return Some(Missing::new(Cause::Overlong, reason));
        }
        let reason = encoded.missing(limit)?;
        let refused = encoded.findings.iter().any(|finding| finding.kind == FindingKind::Refused);
        let cause = match encoded.targets {
            0 if refused => Cause::Refused,
            0 => Cause::Unsupervised,
            _ => Cause::NoTarget,
        };
        Some(Missing { cause, reason })
    }

    fn list_findings(&mut self, counts: &mut Counts, origin: EncodedOrigin, encoded: &Encoded) {
        let mut kinds: Vec<FindingKind> = encoded.findings.iter().map(|finding| finding.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.into_iter().for_each(|kind| counted(&mut counts.findings, kind));
        for finding in &encoded.findings {
            let about = finding.kind.about();
            let reason =
                if finding.detail.is_empty() { about.into() } else { format!("{about}: {}", finding.detail).into() };
            self.rows
                .push(EncodingRow { turn: finding.turn, ..row(counts, origin, finding.kind.name(), encoded, reason) });
        }
    }

    fn list_cut(&mut self, counts: &mut Counts, origin: EncodedOrigin, encoded: &Encoded) {
        let limit = self.limit.max_tokens;
        if encoded.tokens <= limit {
            return;
        }
        let left = encoded.sequence.as_ref().map_or(0, Sequence::supervised_tokens);
        let (tokens, targets) = (encoded.cut(limit), encoded.targets.saturating_sub(left));
        counts.truncated += 1;
        counts.tokens_cut += tokens;
        counts.targets_cut += targets;
        let made = row(counts, origin, "truncated", encoded, Cause::Overlong.text().into());
        self.rows.push(EncodingRow { cut: Some((tokens, targets)), ..made });
    }

    fn leave_out(&mut self, counts: &mut Counts, origin: EncodedOrigin, encoded: &Encoded, missing: &Missing) {
        counted(&mut counts.left_out, missing.cause);
        if counts.example_left_out.as_ref().is_none_or(|(cause, _)| missing.cause > *cause) {
            counts.example_left_out = Some((missing.cause, self.placed(counts.of, origin, &missing.reason)));
        }
        self.rows.push(row(counts, origin, "left_out", encoded, missing.cause.text().into()));
    }

    /// # Errors
    /// A row is too long, and `on_overlong` is `error`.
    fn finish(&mut self, counts: Counts) -> Result<()> {
        let Counts { of, rows, overlong, longest, .. } = counts;
        self.counts.push(counts);
        let (Overlong::Error, Some((tokens, origin)), true) = (self.limit.on_overlong, longest, overlong > 0) else {
            return Ok(());
        };
        let place = self.place(origin).unwrap_or_else(|| format!("{} {}", of.one(), origin.id));
        let problem = format!(
            "{} of {} {} are longer than max_tokens = {}: the longest has {} tokens ({place})",
            grouped(overlong as u64),
            grouped(rows as u64),
            of.many(),
            self.limit.max_tokens,
            grouped(tokens as u64),
        );
        let hint = format!("raise max_tokens to {tokens}, or set on_overlong = \"truncate\" or \"drop\"");
        Err(Problem::new(problem).hint(hint).into())
    }

    /// The file and the line of a row.
    fn place(&self, origin: EncodedOrigin) -> Option<String> {
        let file = self.files.get(origin.source? as usize)?;
        Some(origin.line.map_or_else(|| file.clone(), |line| format!("{file}, line {line}")))
    }

    fn placed(&self, of: RowsOf, origin: EncodedOrigin, reason: &str) -> String {
        let place = self.place(origin).unwrap_or_else(|| format!("{} {}", of.one(), origin.id));
        format!("{place}: {reason}")
    }

    /// The reason with the file and the line of the instruction, if the pool has files.
    pub fn reason_with_place(&self, instruction: &Instruction, reason: &str) -> String {
        let (source, line) = (Some(instruction.source), Some(instruction.line).filter(|line| *line > 0));
        match self.place(EncodedOrigin { id: instruction.id, source, line }) {
            Some(place) => format!("{place}: {reason}"),
            None => reason.to_owned(),
        }
    }
}

impl Counts {
    fn new(of: RowsOf, metric: Option<&'static str>, rows: usize) -> Self {
        Self {
            of,
            metric,
            rows,
            truncated: 0,
            tokens_cut: 0,
            targets_cut: 0,
            left_out: Vec::new(),
            example_left_out: None,
            findings: Vec::new(),
            overlong: 0,
            longest: None,
        }
    }
}

fn row(
    counts: &Counts,
    origin: EncodedOrigin,
    kind: &'static str,
    encoded: &Encoded,
    reason: Cow<'static, str>,
) -> EncodingRow {
    let Counts { of, metric, .. } = *counts;
    let known = |number: usize| Some(number).filter(|_| encoded.tokens > 0);
    let (tokens, targets) = (known(encoded.tokens), known(encoded.targets).filter(|_| encoded.targets > 0));
    EncodingRow { of, metric, origin, kind, turn: None, tokens, targets, cut: None, reason }
}

/// Adds one to the count of a key. The keys are in ascending order.
fn counted<K: Ord>(counts: &mut Vec<(K, usize)>, key: K) {
    match counts.binary_search_by(|(known, _)| known.cmp(&key)) {
        Ok(place) => counts[place].1 += 1,
        Err(place) => counts.insert(place, (key, 1)),
    }
}

fn origin_of(example: &Example) -> EncodedOrigin {
    EncodedOrigin { id: example.id, ..EncodedOrigin::default() }
}

/// The names of the files of a pool, by the index in its table `sources`; empty without this table.
pub fn source_files(pool: &Path) -> Result<Vec<String>> {
    let path = pool.join("sources.parquet");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let rows = tables::read_columns(&path, &["source", "file"])?;
    let (sources, files): (&UInt32Array, &StringArray) =
        (tables::column(&rows, "source")?, tables::column(&rows, "file")?);
    let mut names: Vec<(u32, String)> = (0..rows.num_rows())
        .filter(|&row| files.is_valid(row))
        .map(|row| (sources.value(row), files.value(row).to_owned()))
        .collect();
    names.sort_unstable();
    // The indices of the files are 0, 1, 2 and so on.
    Ok(names
        .into_iter()
        .zip(0..)
        .take_while(|((source, _), place)| source == place)
        .map(|((_, file), _)| file)
        .collect())
}

/// Encodes the rows of a pool. The parameter at `pointer` names the pool. Stages with the same tokenizer share the
/// sequences.
pub fn encode_pool(
    codec: &Codec,
    instructions: &[Instruction],
    max_tokens: usize,
    context: &Context,
    pointer: &str,
) -> Result<Vec<Encoded>> {
    let shared = context.shared_tokens(pointer)?.map(|(folder, pool)| SharedTokens { folder, pool });
    codec.pool(instructions, max_tokens, shared)
}

/// Encodes examples with their reference responses.
pub fn encode_examples(codec: &Codec, examples: &[Example], max_tokens: usize) -> Vec<Encoded> {
    examples.par_iter().map(|example| codec.example(example, max_tokens)).collect()
}

#[cfg(test)]
mod tests;
