//! A set of texts in the order of their first rows. The texts of a batch are looked up together: first their places in the
//! table, then the texts there. So the processor waits for many places in the memory at the same time, and not for one
//! after the other.

use std::sync::Arc;

use arrow_array::builder::make_view;
use arrow_array::{Array as _, ArrayRef, StringViewArray, UInt64Array};
use arrow_buffer::{Buffer, NullBuffer, ScalarBuffer};

/// The bytes of a block of texts. A longer text has a block of its own.
const BLOCK: usize = 2 << 20;

/// The texts that a view holds by itself have at most this many bytes.
const MOST_IN_VIEW: usize = 12;

/// The slots of a new table, as a power of two.
const FIRST_BITS: u32 = 12;

/// What stands for a text that is not in the table, among the places of those that are.
const MISSING: u32 = u32::MAX;

pub struct TextSet {
    /// 0, or the number of a text plus 1, with the lower half of its hash in the upper half. The upper bits of a hash say
    /// where to look first; the lower ones are equal for many rows, because the rows were divided by them.
    slots: Vec<u64>,
    bits: u32,
    views: Vec<u128>,
    hashes: Vec<u64>,
    /// Of each text, if there are places.
    places: Option<Vec<u64>>,
    blocks: Vec<Vec<u8>>,
    bytes: usize,
    /// The number of the null, if there is one.
    null: Option<u32>,
    /// Room for the numbers of one batch.
    found: Vec<u32>,
}

impl Default for TextSet {
    fn default() -> Self {
        Self {
            slots: vec![0; 1 << FIRST_BITS],
            bits: FIRST_BITS,
            views: Vec::new(),
            hashes: Vec::new(),
            places: None,
            blocks: Vec::new(),
            bytes: 0,
            null: None,
            found: Vec::new(),
        }
    }
}

impl TextSet {
    /// Adds the texts of a batch that are not there yet.
    pub fn add(&mut self, texts: &StringViewArray, places: Option<&UInt64Array>, hashes: &UInt64Array) {
        self.make_room(texts.len());
        if places.is_some() {
            self.places.get_or_insert_default();
        }
        let hashes = hashes.values();
        // The table is larger than the caches of the processor. No step of this loop waits for an earlier one.
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        found.extend(hashes.iter().map(|hash| self.number_by_hash(*hash)));
        for (row, number) in found.iter().enumerate() {
            let is_known = match number {
                &MISSING => false,
                number => texts.is_valid(row) && self.is_at(*number, texts, row),
            };
            if !is_known {
                self.add_one(texts, row, places.map_or(0, |places| places.value(row)), hashes[row]);
            }
        }
        self.found = found;
    }

    /// The first text with this hash, or [`MISSING`]. It may be another text.
    fn number_by_hash(&self, hash: u64) -> u32 {
        let mask = self.slots.len() - 1;
        let mut slot = (hash >> (u64::BITS - self.bits)) as usize;
        loop {
            let entry = self.slots[slot];
            if entry == 0 {
                return MISSING;
            }
            if entry >> 32 == hash & u64::from(u32::MAX) {
                return entry as u32 - 1;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn add_one(&mut self, texts: &StringViewArray, row: usize, place: u64, hash: u64) {
        if texts.is_null(row) {
            if self.null.is_none() {
                self.null = Some(self.views.len() as u32);
                self.push(0, place, hash);
            }
            return;
        }
        let mask = self.slots.len() - 1;
        let mut slot = (hash >> (u64::BITS - self.bits)) as usize;
        while self.slots[slot] != 0 {
            let entry = self.slots[slot];
            if entry >> 32 == hash & u64::from(u32::MAX) && self.is_at(entry as u32 - 1, texts, row) {
                return;
            }
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = entry_of(hash, self.views.len());
        let view = self.copied(texts.value(row).as_bytes());
        self.push(view, place, hash);
    }

    fn push(&mut self, view: u128, place: u64, hash: u64) {
        self.views.push(view);
        self.places.iter_mut().for_each(|places| places.push(place));
        self.hashes.push(hash);
    }

    /// A view of a copy of the text.
    fn copied(&mut self, text: &[u8]) -> u128 {
        if text.len() <= MOST_IN_VIEW {
            return make_view(text, 0, 0);
        }
        let fits = |block: &Vec<u8>| block.capacity() - block.len() >= text.len();
        if !self.blocks.last().is_some_and(fits) {
            let capacity = BLOCK.max(text.len());
            self.blocks.push(Vec::with_capacity(capacity));
            self.bytes += capacity;
        }
        let number = self.blocks.len() - 1;
        let block = &mut self.blocks[number];
        let view = make_view(text, number as u32, block.len() as u32);
        block.extend_from_slice(text);
        view
    }

    /// Whether the text of this number is that of the row.
    fn is_at(&self, number: u32, texts: &StringViewArray, row: usize) -> bool {
        let (known, view) = (self.views[number as usize], texts.views()[row]);
        let length = view as u32 as usize;
        if length <= MOST_IN_VIEW {
            return known == view;
        }
        // The length and the first four bytes.
        if known as u64 != view as u64 {
            return false;
        }
        let (block, start) = ((known >> 64) as u32 as usize, (known >> 96) as usize);
        self.blocks[block][start..start + length] == *texts.value(row).as_bytes()
    }

    /// Makes the table so large that half of it stays free after this many new texts.
    fn make_room(&mut self, more: usize) {
        if 2 * (self.views.len() + more) <= self.slots.len() {
            return;
        }
        // Twice as large as needed, so that this happens seldom.
        self.slots = vec![0; (4 * (self.views.len() + more)).next_power_of_two()];
        self.bits = self.slots.len().trailing_zeros();
        let mask = self.slots.len() - 1;
        for (number, hash) in self.hashes.iter().enumerate().filter(|(number, _)| self.null != Some(*number as u32)) {
            let mut slot = (hash >> (u64::BITS - self.bits)) as usize;
            while self.slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            self.slots[slot] = entry_of(*hash, number);
        }
    }

    /// The memory, in bytes.
    pub fn size(&self) -> usize {
        let of_text = size_of::<u128>() + 2 * size_of::<u64>();
        self.bytes + of_text * self.views.capacity() + size_of::<u64>() * self.slots.capacity()
    }

    /// The texts, and the places of their first rows if there are places.
    pub fn into_columns(self) -> Vec<ArrayRef> {
        let is_null = |null: u32| (0..self.views.len()).map(|number| number as u32 != null).collect::<NullBuffer>();
        let nulls = self.null.map(is_null);
        let buffers: Vec<Buffer> = self.blocks.into_iter().map(Buffer::from_vec).collect();
        // SAFETY: each view is that of a text that `copied` wrote into the block it names, whole and in UTF-8, or has the
        // text in itself; the view of the null is that of the empty text.
        let texts = unsafe { StringViewArray::new_unchecked(ScalarBuffer::from(self.views), buffers, nulls) };
        let places = self.places.map(|places| Arc::new(UInt64Array::from(places)) as ArrayRef);
        std::iter::once(Arc::new(texts) as ArrayRef).chain(places).collect()
    }
}

fn entry_of(hash: u64, number: usize) -> u64 {
    hash << 32 | (number as u64 + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow_array::cast::AsArray as _;
    use arrow_array::types::UInt64Type;

    use super::*;

    /// A text for each number: none, empty, short ones, some that differ only after the first letters, and a very long one.
    fn text(number: u64) -> Option<String> {
        match number % 500 {
            0 => None,
            1 => Some(String::new()),
            2 => Some("long ".repeat(1 << 19)),
            other if other < 200 => Some(format!("{other}")),
            other => Some(format!("the same first letters, and then {}", other * number % 3000)),
        }
    }

    #[test]
    fn a_set_has_each_text_once_with_the_place_of_its_first_row() {
        // A hash of few bits gives many texts the same hash, or the same place in the table.
        for hash_of in [|hash: u64| hash, |hash: u64| hash % 7, |hash: u64| hash << 40, |_| 0] {
            let (mut set, mut firsts, mut order) = (TextSet::default(), HashMap::new(), Vec::new());
            let mut next = 0_u64;
            for batch in 0..40_u64 {
                let numbers: Vec<u64> = (0..batch * 13).map(|row| (row * 7919 + batch * 31) % 1000).collect();
                let texts: Vec<Option<String>> = numbers.iter().map(|number| text(*number)).collect();
                let places: Vec<u64> = (next..next + texts.len() as u64).collect();
                next += texts.len() as u64;
                let hashes = texts.iter().map(|text| {
                    let of_bytes = |text: &String| {
                        text.bytes()
                            .fold(7_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15))
                    };
                    hash_of(text.as_ref().map_or(0, of_bytes))
                });
                let hashes = hashes.collect::<Vec<u64>>().into();
                for (text, place) in texts.iter().zip(&places) {
                    firsts.entry(text.clone()).or_insert_with(|| {
                        order.push(text.clone());
                        *place
                    });
                }
                set.add(&StringViewArray::from_iter(texts), Some(&places.into()), &hashes);
            }
            assert!(set.size() > 2 << 20);
            let columns = set.into_columns();
            let found: Vec<Option<String>> =
                columns[0].as_string_view().iter().map(|text| text.map(str::to_owned)).collect();
            assert!(found == order);
            let places = columns[1].as_primitive::<UInt64Type>();
            assert!(order.iter().zip(places.values()).all(|(text, place)| firsts[text] == *place));
        }
    }
}
