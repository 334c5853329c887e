//! The rows of one partition that can be among the first of their group. Rows come in batches; from time to time, those
//! that have fallen behind are left out, and each group learns which rows it need not take any more.

use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, filter_record_batch, take_arrays, take_record_batch};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use datafusion::error::Result;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::super::division::own_texts;
use super::{First, Ties};
use raisin_rows::{LAST, words};

/// The rows that are collected before some are left out for the first time.
const FEW_ROWS: usize = 4096;

/// The rows after which it is clear whether most of them stay.
const ENOUGH_ROWS: usize = 1 << 16;

/// The rows that can still be among the first of their group, in their order.
pub struct KeptRows {
    first: First,
    schema: SchemaRef,
    groups: Box<dyn GroupValues>,
    converter: RowConverter,
    blocks: Vec<KeptBlock>,
    /// For each group: the last row that counts, if there are enough rows before it.
    lasts: Vec<Option<OwnedRow>>,
    /// For each group: the word of that row's first value.
    last_words: Vec<u64>,
    rows: usize,
    rows_seen: usize,
    /// The number of rows after which some are left out.
    next: usize,
    /// The memory of the rows, in bytes.
    bytes: usize,
    /// Room for the numbers of one batch.
    group_of_row: Vec<usize>,
    word_of_row: Vec<u64>,
}

/// Rows, and what orders them.
struct KeptBlock {
    rows: RecordBatch,
    groups: Vec<u32>,
    keys: Rows,
    words: Vec<u64>,
}

impl KeptRows {
    pub fn new(first: First, schema: SchemaRef) -> Result<Self> {
        let field = |key: &Arc<dyn PhysicalExpr>| key.return_field(&schema);
        let fields = first.groups.iter().map(field).collect::<Result<Vec<_>>>()?;
        let of_groups = Schema::new(fields);
        let groups = new_group_values(Arc::new(of_groups), &GroupOrdering::None)?;
        let sort_field =
            |key: &PhysicalSortExpr| Ok(SortField::new_with_options(key.expr.data_type(&schema)?, key.options));
        let converter = RowConverter::new(first.order.iter().map(sort_field).collect::<Result<_>>()?)?;
        Ok(Self {
            first,
            schema,
            groups,
            converter,
            blocks: Vec::new(),
            lasts: Vec::new(),
            last_words: Vec::new(),
            rows: 0,
            rows_seen: 0,
            next: FEW_ROWS,
            bytes: 0,
            group_of_row: Vec::new(),
            word_of_row: Vec::new(),
        })
    }

    /// Takes the rows of a batch that can be among the first.
    pub fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let columns = |keys: &[Arc<dyn PhysicalExpr>]| {
            keys.iter().map(|key| key.evaluate(batch)?.into_array(batch.num_rows())).collect::<Result<Vec<_>>>()
        };
        self.rows_seen += batch.num_rows();
        self.groups.intern(&columns(&self.first.groups)?, &mut self.group_of_row)?;
        self.lasts.resize(self.groups.len(), None);
        self.last_words.resize(self.groups.len(), LAST);
        let order: Vec<_> = self.first.order.iter().map(|key| key.expr.clone()).collect();
        let order = columns(&order)?;
        words(&order[0], self.first.order[0].options, &mut self.word_of_row);
        let can_be_first = |row: &u32| {
            let row = *row as usize;
            self.word_of_row[row] <= self.last_words[self.group_of_row[row]]
        };
        let candidates: Vec<u32> = (0..batch.num_rows() as u32).filter(can_be_first).collect();
        if candidates.is_empty() {
            return Ok(());
        }
        let candidates = UInt32Array::from(candidates);
        let keys = self.converter.convert_columns(&take_arrays(&order, &candidates, None)?)?;
        let is_before = |place: usize| match &self.lasts[self.group_of_row[candidates.value(place) as usize]] {
            Some(last) if self.first.ties == Ties::InTheirOrder => keys.row(place) < last.row(),
            Some(last) => keys.row(place) <= last.row(),
            None => true,
        };
        let places: Vec<usize> = (0..candidates.len()).filter(|place| is_before(*place)).collect();
        let taken = UInt32Array::from_iter_values(places.iter().map(|place| candidates.value(*place)));
        if taken.is_empty() {
            return Ok(());
        }
        let is_whole = taken.len() == batch.num_rows();
        let rows = if is_whole { batch.clone() } else { own_texts(&take_record_batch(batch, &taken)?)? };
        let keys = if places.len() == candidates.len() { keys } else { self.chosen(&keys, &places) };
        let groups = taken.values().iter().map(|row| self.group_of_row[*row as usize] as u32).collect();
        let words = taken.values().iter().map(|row| self.word_of_row[*row as usize]).collect();
        self.bytes += rows.get_array_memory_size() + keys.size() + 12 * taken.len();
        self.rows += taken.len();
        self.blocks.push(KeptBlock { rows, groups, keys, words });
        if self.rows >= self.next {
            self.leave_out()?;
        }
        Ok(())
    }

    fn chosen(&self, keys: &Rows, places: &[usize]) -> Rows {
        let mut chosen = self.converter.empty_rows(places.len(), 0);
        places.iter().for_each(|place| chosen.push(keys.row(*place)));
        chosen
    }

    /// Whether so many rows stay that it is cheaper to pass on all.
    pub fn is_of_no_use(&self) -> bool {
        self.rows_seen >= ENOUGH_ROWS && 2 * self.rows > self.rows_seen
    }

    /// The memory, in bytes.
    pub fn size(&self) -> usize {
        let of_group = size_of::<Option<OwnedRow>>() + size_of::<u64>();
        self.bytes + self.groups.size() + of_group * self.lasts.capacity()
    }

    /// All rows that are left, in their order.
    pub fn finish(mut self) -> Result<Vec<RecordBatch>> {
        self.leave_out()?;
        Ok(self.into_rows())
    }

    /// As [`Self::finish`], without leaving rows out once more.
    pub fn into_rows(self) -> Vec<RecordBatch> {
        self.blocks.into_iter().map(|block| block.rows).collect()
    }

    /// Leaves out the rows that are not among the first of those seen so far.
    fn leave_out(&mut self) -> Result<()> {
        let mut starts = vec![0; self.groups.len() + 1];
        self.blocks.iter().flat_map(|block| &block.groups).for_each(|group| starts[*group as usize + 1] += 1);
        for group in 1..starts.len() {
            starts[group] += starts[group - 1];
        }
        // The rows by their groups, each group in the order of the rows.
        let mut ends = starts.clone();
        let mut by_group = vec![(0_u32, 0_u32); self.rows];
        for (block, number) in self.blocks.iter().zip(0..) {
            for (group, row) in block.groups.iter().zip(0..) {
                let end = &mut ends[*group as usize];
                by_group[*end] = (number, row);
                *end += 1;
            }
        }
        let mut stays: Vec<Vec<bool>> = self.blocks.iter().map(|block| vec![true; block.groups.len()]).collect();
        for group in 0..self.groups.len() {
            let rows = &mut by_group[starts[group]..starts[group + 1]];
            if rows.len() < self.first.count {
                continue;
            }
            let key = |(block, row): &(u32, u32)| self.blocks[*block as usize].keys.row(*row as usize);
            let Some(end) = end_of_first(rows, &self.first, key) else { continue };
            for (block, row) in &rows[end..] {
                stays[*block as usize][*row as usize] = false;
            }
            let last = rows[end - 1];
            self.lasts[group] = Some(key(&last).owned());
            self.last_words[group] = self.blocks[last.0 as usize].words[last.1 as usize];
        }
        self.compact(stays)?;
        self.next = FEW_ROWS.max(2 * self.rows);
        Ok(())
    }

    /// Puts the rows that stay into one block.
    fn compact(&mut self, stays: Vec<Vec<bool>>) -> Result<()> {
        let count = stays.iter().flatten().filter(|stays| **stays).count();
        let mut keys = self.converter.empty_rows(count, 0);
        let (mut groups, mut words, mut batches) = (Vec::with_capacity(count), Vec::with_capacity(count), Vec::new());
        for (block, stays) in self.blocks.drain(..).zip(stays) {
            for (row, _) in stays.iter().enumerate().filter(|(_, stays)| **stays) {
                keys.push(block.keys.row(row));
                groups.push(block.groups[row]);
                words.push(block.words[row]);
            }
            batches.push(filter_record_batch(&block.rows, &BooleanArray::from(stays))?);
        }
        let rows = own_texts(&concat_batches(&self.schema, &batches)?)?;
        self.bytes = rows.get_array_memory_size() + keys.size() + 12 * count;
        self.rows = count;
        if count > 0 {
            self.blocks.push(KeptBlock { rows, groups, keys, words });
        }
        Ok(())
    }
}

/// Puts the first rows of a group, in the order of the keys, before the others, and gives the place of their end. The
/// last of them comes last by the order. `None` if no row is known to be behind.
fn end_of_first<K: Ord>(rows: &mut [(u32, u32)], first: &First, key: impl Fn(&(u32, u32)) -> K) -> Option<usize> {
    match first.ties {
        Ties::InTheirOrder => {
            let by_place = |one: &(u32, u32), other: &(u32, u32)| key(one).cmp(&key(other)).then(one.cmp(other));
            rows.select_nth_unstable_by(first.count - 1, by_place);
            Some(first.count)
        }
        Ties::Together => {
            rows.sort_unstable_by_key(&key);
            let last = key(&rows[first.count - 1]);
            Some(rows.partition_point(|row| key(row) <= last))
        }
        Ties::AsOne => {
            rows.sort_unstable_by_key(&key);
            let mut end = 0;
            for _ in 0..first.count {
                let last = key(rows.get(end)?);
                end += rows[end..].partition_point(|row| key(row) <= last);
            }
            Some(end)
        }
    }
}
