//! Decodes the block formats of GGUF tensors into numbers. gguf.rs reads the files and knows the names of the tensors.
//!
//! A block holds 32 values, or 256 values for the formats with `K`: small integers, and the scales and offsets that
//! turn the integers into numbers.

use half::{bf16, f16};
use rayon::prelude::*;

use raisin_base::error::{Problem, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl BlockType {
    pub fn from_id(id: u32) -> Result<Self> {
        Ok(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::BF16,
            other => {
                return Err(Problem::new(format!("the tensor type {other} is not supported"))
                    .hint("supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K")
                    .into());
            }
        })
    }

    /// The number of values of a block.
    pub fn values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// The number of bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }
}

/// The number types into which values are dequantised.
pub(super) trait Number: Copy + Send {
    fn of(value: f32) -> Self;
}

impl Number for f32 {
    fn of(value: f32) -> Self {
        value
    }
}

impl Number for bf16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// Dequantises whole blocks, in `rows` rows of equal length. Row r of the result is row `order(r)` of the bytes.
pub(super) fn dequantise<T: Number>(
    block: BlockType,
    bytes: &[u8],
    rows: usize,
    order: &(dyn Fn(usize) -> usize + Sync),
    values: &mut [T],
) {
    if values.is_empty() {
        return;
    }
    let (width, stored) = (values.len() / rows, bytes.len() / rows);
    values.par_chunks_mut(width).enumerate().for_each(|(row, values)| {
        let start = order(row) * stored;
        // A tensor of one row is long, so the blocks within a row are also divided among the threads.
        let tasks = values.par_chunks_mut(block.values() * BLOCKS_AT_A_TIME);
        tasks.zip(bytes[start..start + stored].par_chunks(block.bytes() * BLOCKS_AT_A_TIME)).for_each(
            |(values, bytes)| match block {
                BlockType::F32 => numbers(bytes, values, f32::from_le_bytes),
                BlockType::F16 => numbers(bytes, values, |bytes| f16::from_le_bytes(bytes).to_f32()),
                BlockType::BF16 => numbers(bytes, values, |bytes| bf16::from_le_bytes(bytes).to_f32()),
                _ => blocks(block, bytes, values),
            },
        );
    });
}

/// Converts numbers that are stored without blocks.
fn numbers<T: Number, const N: usize>(bytes: &[u8], values: &mut [T], read: impl Fn([u8; N]) -> f32) {
    let (bytes, _) = bytes.as_chunks::<N>();
    values.iter_mut().zip(bytes).for_each(|(value, bytes)| *value = T::of(read(*bytes)));
}

/// Dequantises whole blocks of a quantised format.
fn blocks<T: Number>(block: BlockType, bytes: &[u8], values: &mut [T]) {
    let mut whole = [0.0; LARGEST];
    let whole = &mut whole[..block.values()];
    for (values, bytes) in values.chunks_exact_mut(block.values()).zip(bytes.chunks_exact(block.bytes())) {
        one(block, bytes, whole);
        values.iter_mut().zip(&*whole).for_each(|(value, &number)| *value = T::of(number));
    }
}

/// Blocks per task of the thread pool.
const BLOCKS_AT_A_TIME: usize = 4096;

/// The number of values of the largest block.
const LARGEST: usize = 256;

/// The f16 number at this byte, as f32.
fn half_at(bytes: &[u8], place: usize) -> f32 {
    f16::from_le_bytes([bytes[place], bytes[place + 1]]).to_f32()
}

/// Dequantises one block.
fn one(block: BlockType, bytes: &[u8], values: &mut [f32]) {
    match block {
        // These formats have no blocks; `dequantise` reads them directly.
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => {}
        BlockType::Q4_0 => {
            let d = half_at(bytes, 0);
            nibbles(&bytes[2..], |place, q| values[place] = (i32::from(q) - 8) as f32 * d);
        }
        BlockType::Q4_1 => {
            let (d, m) = (half_at(bytes, 0), half_at(bytes, 2));
            nibbles(&bytes[4..], |place, q| values[place] = f32::from(q) * d + m);
        }
        BlockType::Q5_0 => {
            let (d, high) = (half_at(bytes, 0), high_bits(bytes, 2));
            nibbles(&bytes[6..], |place, q| {
                values[place] = (i32::from(q | fifth(high, place)) - 16) as f32 * d;
            });
        }
        BlockType::Q5_1 => {
            let (d, m, high) = (half_at(bytes, 0), half_at(bytes, 2), high_bits(bytes, 4));
            nibbles(&bytes[8..], |place, q| values[place] = f32::from(q | fifth(high, place)) * d + m);
        }
        BlockType::Q8_0 => {
            let d = half_at(bytes, 0);
            for (value, &q) in values.iter_mut().zip(&bytes[2..]) {
                *value = f32::from(q.cast_signed()) * d;
            }
        }
        BlockType::Q4K => q4_k(bytes, values),
        BlockType::Q5K => q5_k(bytes, values),
        BlockType::Q6K => q6_k(bytes, values),
    }
}

/// Unpacks 32 four-bit numbers from 16 bytes: the low halves of the bytes are the first 16 numbers.
fn nibbles(bytes: &[u8], mut put: impl FnMut(usize, u8)) {
    for (place, &byte) in bytes[..16].iter().enumerate() {
        put(place, byte & 0xF);
        put(place + 16, byte >> 4);
    }
}

/// The 32 high bits of the five-bit numbers of a block.
fn high_bits(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes([bytes[place], bytes[place + 1], bytes[place + 2], bytes[place + 3]])
}

/// The fifth bit of a five-bit number, at its place.
fn fifth(high: u32, place: usize) -> u8 {
    (((high >> place) & 1) as u8) << 4
}

/// The six-bit scale and minimum of sub-block `j`. The 12 bytes pack eight scales and eight minima.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 0xF) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(minimum))
}

fn q4_k(bytes: &[u8], values: &mut [f32]) {
    let (d, minimum) = (half_at(bytes, 0), half_at(bytes, 2));
    let (scales, quants) = (&bytes[4..16], &bytes[16..]);
    for (j, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, offset) = scale_and_minimum(scales, j);
        let (scale, offset) = (d * scale, minimum * offset);
        for (value, &byte) in values.iter_mut().zip(&quants[32 * (j / 2)..]) {
            *value = scale * f32::from(if j % 2 == 0 { byte & 0xF } else { byte >> 4 }) - offset;
        }
    }
}

fn q5_k(bytes: &[u8], values: &mut [f32]) {
    let (d, minimum) = (half_at(bytes, 0), half_at(bytes, 2));
    let (scales, high, quants) = (&bytes[4..16], &bytes[16..48], &bytes[48..]);
    for (j, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, offset) = scale_and_minimum(scales, j);
        let (scale, offset) = (d * scale, minimum * offset);
        for (place, value) in values.iter_mut().enumerate() {
            let byte = quants[32 * (j / 2) + place];
            let low = if j % 2 == 0 { byte & 0xF } else { byte >> 4 };
            *value = scale * f32::from(low | (((high[place] >> j) & 1) << 4)) - offset;
        }
    }
}

fn q6_k(bytes: &[u8], values: &mut [f32]) {
    let (low, high, scales) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
    let d = half_at(bytes, 208);
    for (place, value) in values.iter_mut().enumerate() {
        // A block has two halves of 128 values. Within a half, there are four runs of 32 values. Two runs share a low
        // byte (one nibble each), and all four runs share a high byte (two bits each).
        let (half, run, offset) = (place / 128, place % 128 / 32, place % 32);
        let byte = low[64 * half + 32 * (run % 2) + offset];
        let nibble = if run < 2 { byte & 0xF } else { byte >> 4 };
        let pair = (high[32 * half + offset] >> (2 * run)) & 3;
        let scale = f32::from(scales[8 * half + 2 * run + offset / 16].cast_signed());
        *value = d * scale * (i32::from(nibble | (pair << 4)) - 32) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(block: BlockType, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0f32; bytes.len() / block.bytes() * block.values()];
        dequantise(block, bytes, 1, &|row| row, &mut values);
        values
    }

    #[test]
    fn rows_have_the_requested_order_and_dtype() {
        // The small fraction does not fit into bf16.
        let number = |place: u16| f32::from(place) + 0.001;
        let bytes: Vec<u8> = (0..6).flat_map(|place| number(place).to_le_bytes()).collect();
        let mut values = [0.0f32; 6];
        dequantise(BlockType::F32, &bytes, 3, &|row| (row + 1) % 3, &mut values);
        assert_eq!(values.map(f32::to_bits), [2, 3, 4, 5, 0, 1].map(|place| number(place).to_bits()));
        let mut halves = [bf16::ZERO; 6];
        dequantise(BlockType::F32, &bytes, 3, &|row| row, &mut halves);
        assert_eq!(halves[1..], [1.0, 2.0, 3.0, 4.0, 5.0].map(bf16::from_f32));
    }

    #[test]
    fn a_q4_1_block_is_scale_times_number_plus_offset() {
        let mut bytes = f16::from_f32(0.5).to_le_bytes().to_vec();
        bytes.extend(f16::from_f32(-1.0).to_le_bytes());
        bytes.extend([0x30; 16]);
        let values = floats(BlockType::Q4_1, &bytes);
        assert_eq!(values, [[-1.0; 16], [0.5; 16]].concat());
    }

    #[test]
    fn every_format_fills_every_value_of_its_block() {
        for block in [BlockType::Q4_0, BlockType::Q5_0, BlockType::Q8_0, BlockType::Q4K, BlockType::Q5K, BlockType::Q6K]
        {
            // With all bits set, the scales are NaN. So a value that was not written shows as zero.
            let values = floats(block, &vec![0xFF; block.bytes() * 3]);
            assert_eq!(values.len(), 3 * block.values());
            assert!(values.iter().all(|value| value.is_nan()), "{block:?}");
        }
    }
}
