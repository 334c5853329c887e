//! Which contents a pool has, by the hash of each.
//!
//! A pool of a million rows waits for memory at each look-up, because hashes are spread over all of the table. Therefore a
//! slot has only the row and a part of its hash, and the slots of many look-ups are touched before the first of them, so
//! that the processor fetches them side by side.

use std::hint::black_box;

/// The hash of a content: good as a random number.
pub type ContentHash = [u8; 16];

/// The hash of each row, and a table of the rows. Rows are only looked up, so that the order of the table has no effect.
#[derive(Default)]
pub struct SeenContents {
    hashes: Vec<ContentHash>,
    /// 0, or what [`slot_of`] gives. The number of slots is a power of two, and at most half of them are taken.
    slots: Vec<u64>,
}

const FEWEST: usize = 1 << 14;

/// A slot: a part of a hash as the high half, and the number of the row plus 1 as the low one.
fn slot_of(hash: &ContentHash, row: u32) -> u64 {
    (part(hash) << 32) | (u64::from(row) + 1)
}

fn row_of(slot: u64) -> u32 {
    (slot as u32).wrapping_sub(1)
}

/// The place in the table at which the search begins.
fn place(hash: &ContentHash) -> usize {
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) as usize | (usize::from(hash[4]) << 32)
}

fn part(hash: &ContentHash) -> u64 {
    u64::from(u32::from_le_bytes([hash[8], hash[9], hash[10], hash[11]]))
}

impl SeenContents {
    /// The first row with this content: a new one if there is none.
    pub fn first(&mut self, hash: &ContentHash) -> u32 {
        if 2 * self.hashes.len() >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = place(hash) & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                // A table has fewer than u32::MAX rows: `instructions_part` says so.
                let row = self.hashes.len() as u32;
                self.slots[at] = slot_of(hash, row);
                self.hashes.push(*hash);
                return row;
            }
            if slot >> 32 == part(hash) && self.hashes[row_of(slot) as usize] == *hash {
                return row_of(slot);
            }
            at = (at + 1) & mask;
        }
    }

    /// Brings the slots of these contents into the processor, before they are looked up.
    pub fn fetch<'h>(&self, hashes: impl Iterator<Item = &'h ContentHash>) {
        let Some(mask) = self.slots.len().checked_sub(1) else { return };
        black_box(hashes.fold(0, |sum, hash| sum ^ self.slots[place(hash) & mask]));
    }

    fn grow(&mut self) {
        let count = (2 * self.slots.len()).max(FEWEST);
        self.slots = Vec::new();
        self.slots = vec![0; count];
        for (hash, row) in self.hashes.iter().zip(0..) {
            let mut at = place(hash) & (count - 1);
            while self.slots[at] != 0 {
                at = (at + 1) & (count - 1);
            }
            self.slots[at] = slot_of(hash, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_first_row_of_each_content_is_found_also_where_hashes_share_their_parts() {
        // Few different parts, so that many hashes have the same slot and the same part.
        let hash = |number: u32| {
            let (mut hash, content) = ([0; 16], number % 3000);
            hash[0] = (content % 7) as u8;
            hash[8] = (content % 5) as u8;
            hash[12..].copy_from_slice(&content.to_le_bytes());
            hash
        };
        let (mut seen, mut known) = (SeenContents::default(), HashMap::new());
        for number in 0..9000 {
            let hash = hash(number);
            seen.fetch([hash].iter());
            let next = known.len() as u32;
            let expected = *known.entry(hash).or_insert(next);
            assert_eq!(seen.first(&hash), expected);
        }
        assert_eq!(known.len(), 3000);
    }
}
