//! Runs a stage of kind `dedup`: finds rows of a pool that say the same, and writes the pool with one row of each group.
//! raisin-corpus finds near-duplicates.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{
    Array as _, ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, RecordBatch, StringArray,
    UInt32Array, UInt64Array,
};
use rayon::prelude::*;

use raisin_base::digest::Digest;
use raisin_base::error::{Error, Problem, Result, nearest};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Progress};
use raisin_corpus::intake::{counted, grouped};
use raisin_corpus::near::{Bands, Comparable, Embeddings, Gram, GramSets, groups, shingles};
use raisin_corpus::overlap::each_word;
use raisin_corpus::{Instruction, Message, for_each_part};
use raisin_kinds::dedup::{ComparedText, GramUnit, KeptRow, Parameters, Sameness};
use raisin_table::{self as table, WriteTable as _};

use crate::kept::write_kept;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let folder = context.input("/instructions")?;
    let ReadPool { rows, lengths, keys, sets } = ReadPool::read(folder, &parameters, context)?;
    let mut found = match parameters.by {
        Sameness::Exact | Sameness::Normalised => FoundGroups::equal(&keys),
        Sameness::Near => FoundGroups::alike(Box::new(GramSets(sets)), &parameters, context),
        Sameness::Semantic => FoundGroups::alike(Box::new(embeddings(rows, context)?), &parameters, context),
    };
    let order = KeepingOrder { lengths, ranks: ranks(folder, rows, &parameters.prefer, context)? };
    if parameters.by == Sameness::Semantic {
        found.divide(parameters.threshold(), &order);
    }
    let kept = order.kept_of_groups(&found.first);
    let is_kept: BooleanArray = kept.iter().enumerate().map(|(row, kept)| Some(row as u32 == *kept)).collect();
    context.write_table("duplicates", &duplicates(&kept, &found)?)?;
    let summary = found.summary(&parameters);
    context.write_table("dedup_summary", &summary.table()?)?;
    write_kept(folder, &is_kept, context)?;
    summary.notes(&parameters).into_iter().for_each(|note| context.note(note));
    Ok(())
}

/// What the comparison needs of a pool. The texts themselves are read in parts and not kept.
#[derive(Default)]
struct ReadPool {
    rows: usize,
    /// The number of characters of each row, if the longest row of a group stays.
    lengths: Option<Vec<u32>>,
    /// The digest of each row by which equal rows are found; `None` for a row without text.
    keys: Vec<Option<Digest>>,
    /// The n-grams of each row, for near-duplicates.
    sets: Vec<Vec<u32>>,
}

impl ReadPool {
    fn read(folder: &Path, parameters: &Parameters, context: &Context) -> Result<Self> {
        let mut pool = Self { lengths: (parameters.keep == KeptRow::Longest).then(Vec::new), ..Self::default() };
        let total = usize::try_from(table::rows(&folder.join("instructions.parquet"))?)?;
        let gram = match parameters.unit {
            GramUnit::Words => Gram::Words(parameters.ngram),
            GramUnit::Characters => Gram::Characters(parameters.ngram),
        };
        let of = parameters.of;
        for_each_part(folder, |part| {
            match parameters.by {
                Sameness::Exact => pool.keys.par_extend(part.par_iter().map(|row| key(row, of, str::to_owned))),
                Sameness::Normalised => pool.keys.par_extend(part.par_iter().map(|row| key(row, of, words_of))),
                Sameness::Near => pool.sets.par_extend(part.par_iter().map(|row| shingles(turns(row, of), gram))),
                Sameness::Semantic => {}
            }
            if let Some(lengths) = &mut pool.lengths {
                let length = |row: &Instruction| row.messages.iter().map(Message::characters).sum::<usize>();
                lengths.extend(part.iter().map(|row| u32::try_from(length(row)).unwrap_or(u32::MAX)));
            }
            pool.rows += part.len();
            progress(context, "reading the pool", pool.rows, total, "rows");
            Ok(())
        })?;
        Ok(pool)
    }
}

/// The digest of the turns of a row after `normal`; `None` if they have no text.
fn key(row: &Instruction, of: ComparedText, normal: fn(&str) -> String) -> Option<Digest> {
    let turns: Vec<String> = turns(row, of).map(normal).collect();
    let has_text = turns.iter().any(|turn| !turn.is_empty());
    // The lengths separate the turns.
    let lengths: Vec<String> = turns.iter().map(|turn| turn.len().to_string()).collect();
    has_text.then(|| Digest::of(format!("{}\n{}", lengths.join(" "), turns.concat()).as_bytes()))
}

/// The turns of a row that are compared.
fn turns(row: &Instruction, of: ComparedText) -> impl Iterator<Item = &str> {
    let last = row.messages.iter().rposition(Message::is_assistant).unwrap_or(row.messages.len());
    let is_compared = move |place: usize| match of {
        ComparedText::Conversation => true,
        ComparedText::Prompt => place < last,
        ComparedText::Response => place == last,
    };
    row.messages.iter().enumerate().filter(move |(place, _)| is_compared(*place)).map(|(_, turn)| turn.content.as_str())
}

fn words_of(text: &str) -> String {
    let mut words = String::new();
    each_word(text, |word| {
        words.push_str(word);
        words.push(' ');
    });
    words
}

/// The groups of a pool.
struct FoundGroups {
    /// For each row a row that stands for its group.
    first: Vec<u32>,
    without_text: u64,
    search: Option<Search>,
}

/// What only the search for near-duplicates knows.
struct Search {
    items: Box<dyn Comparable>,
    bands: Bands,
    compared: u64,
    alike: u64,
    left_out: u64,
    check: BruteForce,
}

impl FoundGroups {
    /// Groups of rows with equal keys.
    fn equal(keys: &[Option<Digest>]) -> Self {
        let mut first_of: HashMap<Digest, u32> = HashMap::new();
        let first = (0..).zip(keys).map(|(row, key)| match key {
            Some(key) => *first_of.entry(*key).or_insert(row),
            None => row,
        });
        let first = first.collect();
        let without_text = keys.iter().filter(|key| key.is_none()).count() as u64;
        Self { first, without_text, search: None }
    }

    /// Groups of rows whose similarity reaches the threshold.
    fn alike(items: Box<dyn Comparable>, parameters: &Parameters, context: &Context) -> Self {
        let threshold = parameters.threshold();
        let bands = match (parameters.bands, parameters.band_rows) {
            (Some(bands), Some(rows)) => Bands { bands, rows },
            _ => Bands::of_threshold(items.agreement(threshold), parameters.hashes),
        };
        // The stage has no seed: the hash functions are part of the method, and the checked rows of its measurement.
        let seed = Seed::new(0).at("dedup");
        let compared = |done| progress(context, "comparing", done, bands.bands, "bands");
        let found = groups(items.as_ref(), threshold, bands, &seed, compared);
        progress(context, "checking", 0, parameters.check, "rows");
        let check = BruteForce::of(items.as_ref(), &found.first, parameters, &seed);
        let without_text = (0..items.count() as u32).filter(|item| items.is_empty(*item)).count() as u64;
        let (compared, alike, left_out) = (found.compared, found.alike, found.left_out);
        let search = Search { items, bands, compared, alike, left_out, check };
        Self { first: found.first, without_text, search: Some(search) }
    }

    /// Divides each group, so that every row is alike to the row of its group that stays. A chain of embeddings leads from
    /// any text to any other: without this, a row could be left out for a row that says something else.
    fn divide(&mut self, threshold: f64, order: &KeepingOrder) {
        let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, first) in (0..).zip(&self.first) {
            members.entry(*first).or_default().push(row);
        }
        for mut group in members.into_values().filter(|group| group.len() > 1) {
            group.sort_by_key(|row| order.place(*row as usize));
            let mut leaders: Vec<u32> = Vec::new();
            for row in group {
                let leader = leaders.iter().copied().find(|leader| self.similarity(*leader, row) >= threshold);
                if leader.is_none() {
                    leaders.push(row);
                }
                self.first[row as usize] = leader.unwrap_or(row);
            }
        }
    }

    fn similarity(&self, a: u32, b: u32) -> f64 {
        self.search.as_ref().map_or(1.0, |search| search.items.similarity(a, b))
    }

    fn summary<'a>(&'a self, parameters: &'a Parameters) -> SearchSummary<'a> {
        let mut sizes: BTreeMap<u32, u64> = BTreeMap::new();
        self.first.iter().for_each(|first| *sizes.entry(*first).or_default() += 1);
        let (groups, largest) = (sizes.values().filter(|size| **size > 1).count(), sizes.values().max());
        SearchSummary {
            rows: self.first.len() as u64,
            kept: sizes.len() as u64,
            groups: groups as u64,
            largest: largest.copied().unwrap_or_default(),
            found: self,
            by: parameters.by.name(),
        }
    }
}

fn progress(context: &Context, phase: &str, done: usize, total: usize, unit: &str) {
    let (done, total) = (done as u64, total as u64);
    context.progress(Progress { phase: phase.to_owned(), done, total, unit: unit.to_owned(), ..Progress::default() });
}

/// The embeddings of the rows of the pool. They are in memory once: 4 bytes for each number.
///
/// # Errors
/// The features are those of another pool.
fn embeddings(rows: usize, context: &Context) -> Result<Embeddings> {
    let path = context.input("/features")?.join("features.parquet");
    let count = table::rows(&path)?;
    let is_other = || {
        let problem = format!("the features are of {count} instructions, and the pool has {rows}");
        Error::from(Problem::new(problem).hint("name the same `instructions` in both stages"))
    };
    if count != rows as u64 {
        return Err(is_other());
    }
    let (mut values, mut missing, mut width) = (Vec::new(), Vec::with_capacity(rows), 1);
    for part in table::batches_of(&path, &["id", "embedding"])? {
        let part = part?;
        let (ids, first) = (table::column::<UInt32Array>(&part, "id")?, missing.len() as u32);
        if !ids.values().iter().copied().eq(first..first + part.num_rows() as u32) {
            return Err(is_other());
        }
        let vectors: &FixedSizeListArray = table::column(&part, "embedding")?;
        width = usize::try_from(vectors.value_length())?;
        values.reserve_exact((rows - missing.len()) * width);
        let numbers: &Float32Array = vectors.values().as_primitive();
        values.extend_from_slice(&numbers.values()[vectors.offset() * width..][..part.num_rows() * width]);
        missing.extend((0..part.num_rows()).map(|row| vectors.is_null(row)));
    }
    Ok(Embeddings::new(values, width, missing))
}

/// The comparison of some rows with every row.
#[derive(Default)]
struct BruteForce {
    rows: u64,
    true_pairs: u64,
    found_pairs: u64,
    joined_pairs: u64,
}

impl BruteForce {
    fn of(items: &dyn Comparable, first: &[u32], parameters: &Parameters, seed: &Seed) -> Self {
        let (count, threshold) = (items.count(), parameters.threshold());
        let rows = seed.at("check").rng().sample(count, parameters.check);
        let checked: BTreeSet<usize> = rows.iter().copied().collect();
        let of_row = |row: &usize| {
            let mut check = Self { rows: 1, ..Self::default() };
            for other in 0..count {
                // A pair of two checked rows counts once.
                if other == *row || (other < *row && checked.contains(&other)) {
                    continue;
                }
                let is_true = items.reaches(*row as u32, other as u32, threshold);
                let is_joined = first[*row] == first[other];
                check.true_pairs += u64::from(is_true);
                check.found_pairs += u64::from(is_true && is_joined);
                check.joined_pairs += u64::from(is_joined);
            }
            check
        };
        let both = |a: Self, b: Self| Self {
            rows: a.rows + b.rows,
            true_pairs: a.true_pairs + b.true_pairs,
            found_pairs: a.found_pairs + b.found_pairs,
            joined_pairs: a.joined_pairs + b.joined_pairs,
        };
        rows.par_iter().map(of_row).reduce(Self::default, both)
    }
}

/// The rank of each row by `prefer`: rows with a lower rank stay.
fn ranks(folder: &Path, rows: usize, prefer: &[String], context: &Context) -> Result<Vec<usize>> {
    if prefer.is_empty() {
        return Ok(vec![0; rows]);
    }
    let path = folder.join("instructions.parquet");
    if table::schema(&path)?.index_of("pool").is_err() {
        return Err(Problem::new("`prefer` names pools, and the instructions do not come from a `mix`")
            .hint(format!("remove `prefer` of stage `{}`, or mix the pools before", context.stage()))
            .into());
    }
    let rows = table::read_columns(&path, &["pool"])?;
    let pools: &StringArray = table::column(&rows, "pool")?;
    let names: BTreeSet<&str> = pools.iter().flatten().collect();
    if let Some(missing) = prefer.iter().find(|name| !names.contains(name.as_str())) {
        let problem = Problem::new(format!("`prefer` names the pool `{missing}`, and no row comes from it"));
        let hint = match nearest(missing, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                format!("the pools are {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
            }
        };
        return Err(problem.hint(hint).into());
    }
    let rank = |pool: Option<&str>| prefer.iter().position(|name| Some(name.as_str()) == pool).unwrap_or(prefer.len());
    Ok(pools.iter().map(rank).collect())
}

/// Which row of a group stays.
struct KeepingOrder {
    /// The number of characters of each row, if the longest row stays.
    lengths: Option<Vec<u32>>,
    ranks: Vec<usize>,
}

impl KeepingOrder {
    /// The row of a group with the least place stays. Of equal rows, this is the first one.
    fn place(&self, row: usize) -> (usize, Reverse<u32>, usize) {
        let length = self.lengths.as_ref().map_or(0, |lengths| lengths[row]);
        (self.ranks[row], Reverse(length), row)
    }

    /// For each row the row of its group that stays.
    fn kept_of_groups(&self, first: &[u32]) -> Vec<u32> {
        let mut best: BTreeMap<u32, usize> = BTreeMap::new();
        for (row, first) in first.iter().enumerate() {
            let best = best.entry(*first).or_insert(row);
            if self.place(row) < self.place(*best) {
                *best = row;
            }
        }
        first.iter().map(|first| best[first] as u32).collect()
    }
}

/// The table `duplicates`.
fn duplicates(kept: &[u32], found: &FoundGroups) -> Result<RecordBatch> {
    let mut new_ids: BTreeMap<u32, u32> = BTreeMap::new();
    for (row, kept) in (0..).zip(kept) {
        if row == *kept {
            new_ids.insert(row, new_ids.len() as u32);
        }
    }
    let pairs: Vec<(u32, u32)> = (0..).zip(kept.iter().copied()).filter(|(row, kept)| row != kept).collect();
    let numbers =
        |of: &dyn Fn(&(u32, u32)) -> u32| -> ArrayRef { Arc::new(UInt32Array::from_iter_values(pairs.iter().map(of))) };
    let similarities = pairs.iter().map(|(row, kept)| found.similarity(*row, *kept));
    table::batch(vec![
        ("pool_id", numbers(&|(row, _)| *row)),
        ("kept_pool_id", numbers(&|(_, kept)| *kept)),
        ("kept_id", numbers(&|(_, kept)| new_ids[kept])),
        ("similarity", Arc::new(Float64Array::from_iter_values(similarities))),
    ])
}

/// The counts of a search.
struct SearchSummary<'a> {
    rows: u64,
    kept: u64,
    groups: u64,
    largest: u64,
    found: &'a FoundGroups,
    by: String,
}

impl SearchSummary<'_> {
    /// The table `dedup_summary`.
    fn table(&self) -> Result<RecordBatch> {
        let search = self.found.search.as_ref();
        let number = |number: u64| -> ArrayRef { Arc::new(UInt64Array::from(vec![number])) };
        let of_search = |of: &dyn Fn(&Search) -> u64| -> ArrayRef { Arc::new(UInt64Array::from(vec![search.map(of)])) };
        let share = |part: &dyn Fn(&BruteForce) -> (u64, u64)| -> ArrayRef {
            let (part, whole) = search.map_or((0, 0), |search| part(&search.check));
            Arc::new(Float64Array::from(vec![(whole > 0).then(|| part as f64 / whole as f64)]))
        };
        table::batch(vec![
            ("rows", number(self.rows)),
            ("kept", number(self.kept)),
            ("left_out", number(self.rows - self.kept)),
            ("groups", number(self.groups)),
            ("largest", number(self.largest)),
            ("without_text", number(self.found.without_text)),
            ("bands", of_search(&|search| search.bands.bands as u64)),
            ("band_rows", of_search(&|search| search.bands.rows as u64)),
            ("compared", of_search(&|search| search.compared)),
            ("alike", of_search(&|search| search.alike)),
            ("not_compared", of_search(&|search| search.left_out)),
            ("checked", of_search(&|search| search.check.rows)),
            ("true_pairs", of_search(&|search| search.check.true_pairs)),
            ("found_pairs", of_search(&|search| search.check.found_pairs)),
            ("joined_pairs", of_search(&|search| search.check.joined_pairs)),
            ("recall", share(&|check| (check.found_pairs, check.true_pairs))),
            ("precision", share(&|check| (check.found_pairs, check.joined_pairs))),
            ("by", Arc::new(StringArray::from(vec![self.by.as_str()]))),
        ])
    }

    /// What a person sees.
    fn notes(&self, parameters: &Parameters) -> Vec<String> {
        let Self { rows, kept, groups, largest, .. } = *self;
        let mut notes = vec![format!(
            "{} left out of {}, {} left; {} of duplicates, the largest has {}",
            grouped(rows - kept),
            counted(rows, "instruction"),
            grouped(kept),
            counted(groups, "group"),
            counted(largest, "row"),
        )];
        if self.found.without_text > 0 {
            let what = if parameters.by == Sameness::Semantic { "an embedding" } else { "a letter or a digit" };
            notes.push(format!("{} without {what}: not compared", counted(self.found.without_text, "row")));
        }
        let Some(Search { check, left_out, .. }) = &self.found.search else { return notes };
        if *left_out > 0 {
            notes.push(format!("{} left out, because very many rows share a band", counted(*left_out, "comparison")));
        }
        if check.rows > 0 {
            let (rows, threshold) = (counted(check.rows, "row"), parameters.threshold());
            let found = match check.true_pairs {
                0 => format!("no pair has a similarity of at least {threshold}"),
                pairs => {
                    let (found, pairs) = (grouped(check.found_pairs), counted(pairs, "pair"));
                    format!("{found} of {pairs} with a similarity of at least {threshold} found")
                }
            };
            notes.push(format!("check of {rows} against all: {found}"));
        }
        notes
    }
}

#[cfg(test)]
#[path = "dedup_tests.rs"]
mod tests;
