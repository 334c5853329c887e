//! Groups the rows of a batch for attention: which rows share one call, and which tokens a gather must move for this.
//! This file handles neither heads nor weights.

use std::cmp::Reverse;

use tch::{Device, Kind as TensorKind, Tensor};

use raisin_base::error::Result;

/// The limits of padding. A row may join a row group of longer rows as long as the padding costs less than another
/// call.
#[derive(Clone, Copy)]
pub(super) struct Padding {
    /// The largest share of the entries of a group that may be padding.
    share: f64,
    /// The largest number of attention scores (length x length) that padding may add to a row.
    scores: i64,
}

impl Padding {
    /// The limits for this device. A GPU needs few large calls. On the CPU, long rows are not padded. Measured with 16
    /// rows of 22 to 250 tokens, SmolLM2-135M in bf16: 83 to 98 tokens/s in training without padding, 74 to 77 tokens/s
    /// with a share of a quarter. For short rows, the number of calls decides the cost: rows below 64 tokens share one
    /// group.
    pub fn on(device: Device) -> Self {
        Self { share: if device.is_cuda() { 0.25 } else { 0.0 }, scores: 64 * 64 }
    }

    /// The limits for the rows of several episodes. There are so many rows that groups of nearly equal rows are large
    /// enough.
    pub fn of_many(rows: usize, device: Device) -> Self {
        let usual = Self::on(device);
        if device.is_cuda() { usual } else { Self { scores: usual.scores * 16 / rows.max(16) as i64, ..usual } }
    }
}

/// The rows of one attention call, padded to the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttentionGroup {
    pub rows: i64,
    pub length: i64,
}

/// The row groups of a batch, and the index tensors that move tokens between the packed order and the groups.
pub(super) struct AttentionLayout {
    pub groups: Vec<AttentionGroup>,
    /// The row numbers, group after group.
    pub order: Vec<usize>,
    /// The number of leading groups whose rows lie in the packed tokens in the right order, from the first token on.
    /// These groups need no gather.
    in_place: usize,
    /// The tokens behind those groups, if there are any.
    moved: Option<Moved>,
}

/// Tokens whose packed order differs from the order of the groups.
struct Moved {
    /// The number of these tokens.
    tokens: i64,
    /// Indices into these tokens, group after group, with padding: `[sum of rows * length]`.
    gather: Tensor,
    /// For each of these tokens, its index in the gathered order: `[tokens]`.
    scatter: Tensor,
}

impl AttentionLayout {
    /// The layout of rows with these token spans.
    pub fn new(spans: &[(usize, usize)], padding: Padding, device: Device) -> Result<Self> {
        let lengths: Vec<usize> = spans.iter().map(|(start, end)| end - start).collect();
        let (order, groups) = group_rows(&lengths, padding);
        let total = spans.last().map_or(0, |(_, end)| *end);
        let (mut in_place, mut start) = (0, 0);
        let mut remaining = order.as_slice();
        for group in &groups {
            let (rows, others) = remaining.split_at(group.rows as usize);
            let length = group.length as usize;
            let lies_there = (start..).step_by(length).zip(rows).all(|(at, &row)| spans[row] == (at, at + length));
            if !lies_there {
                break;
            }
            (in_place, start, remaining) = (in_place + 1, start + rows.len() * length, others);
        }
        let mut gather = Vec::new();
        let mut scatter = vec![0; total - start];
        for group in &groups[in_place..] {
            let (rows, others) = remaining.split_at(group.rows as usize);
            remaining = others;
            for &row in rows {
                let (first, end) = (spans[row].0 - start, spans[row].1 - start);
                for offset in 0..group.length as usize {
                    // Padding repeats the last token of the row. So the padding is finite, and causal attention hides
                    // it.
                    let token = (first + offset).min(end - 1);
                    if first + offset < end {
                        scatter[token] = gather.len() as i64;
                    }
                    gather.push(token as i64);
                }
            }
        }
        let moved = if gather.is_empty() {
            None
        } else {
            let tokens = scatter.len() as i64;
            Some(Moved { tokens, gather: on(&gather, device)?, scatter: on(&scatter, device)? })
        };
        Ok(Self { groups, order, in_place, moved })
    }

    /// Splits `[tokens, width]` in packed order into `[rows * length, width]` for each group.
    ///
    /// The split is one call, because the backward pass of a slice would fill a whole tensor with zeros. The gather is
    /// an embedding look-up: its backward pass sums rows, but the backward pass of index_select adds whole slices one
    /// by one.
    pub fn regroup(&self, packed: &Tensor) -> Result<Vec<Tensor>> {
        let sizes: Vec<i64> = self.groups.iter().map(|group| group.rows * group.length).collect();
        let (in_place, moved_sizes) = sizes.split_at(self.in_place);
        let Some(Moved { tokens, gather, .. }) = &self.moved else { return split(packed, in_place) };
        let mut parts = split(packed, &[in_place, &[*tokens]].concat())?;
        if let Some(moved) = parts.pop() {
            let moved = Tensor::f_embedding(&moved, gather, -1, false, false)?;
            parts.extend(split(&moved, moved_sizes)?);
        }
        Ok(parts)
    }

    /// Joins the parts of the groups in packed order, without the padding: `[tokens, width]`.
    pub fn join(&self, mut parts: Vec<Tensor>) -> Result<Tensor> {
        if let Some(Moved { scatter, .. }) = &self.moved {
            let moved = cat(parts.split_off(self.in_place))?;
            parts.push(Tensor::f_embedding(&moved, scatter, -1, false, false)?);
        }
        cat(parts)
    }
}

/// A tensor of integers on this device.
pub(super) fn on(values: &[i64], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_to_kind(TensorKind::Int64)?.f_to_device(device)?)
}

fn split(tensor: &Tensor, sizes: &[i64]) -> Result<Vec<Tensor>> {
    Ok(if sizes.len() == 1 { vec![tensor.shallow_clone()] } else { tensor.f_split_with_sizes(sizes, 0)? })
}

fn cat(mut parts: Vec<Tensor>) -> Result<Tensor> {
    Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::f_cat(&parts, 0)? })
}

/// The best order of the rows of a batch: the longest rows first, equal rows in the given order.
pub fn longest_first(lengths: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| Reverse(lengths[row]));
    order
}

/// Sorts the rows by length (equal rows keep the given order), and cuts them into groups within the limits of padding.
/// Returns the order and the groups.
fn group_rows(lengths: &[usize], padding: Padding) -> (Vec<usize>, Vec<AttentionGroup>) {
    let order = longest_first(lengths);
    let mut groups: Vec<AttentionGroup> = Vec::new();
    let mut tokens = 0;
    for &row in &order {
        let length = lengths[row];
        if let Some(group) = groups.last_mut() {
            let length = length as i64;
            let places = (group.rows + 1) * group.length;
            let within_share = (places - (tokens + length)) as f64 <= padding.share * places as f64;
            if within_share || group.length * group.length - length * length <= padding.scores {
                group.rows += 1;
                tokens += length;
                continue;
            }
        }
        groups.push(AttentionGroup { rows: 1, length: length as i64 });
        tokens = length as i64;
    }
    (order, groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_repeats_the_last_token_and_is_dropped_on_the_way_back() -> Result<()> {
        let layout = AttentionLayout::new(&[(0, 3), (3, 5)], Padding { share: 0.5, scores: 0 }, Device::Cpu)?;
        assert_eq!(layout.groups, [AttentionGroup { rows: 2, length: 3 }]);
        let packed = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0]).view([-1, 1]);
        let parts = layout.regroup(&packed)?;
        assert_eq!(Vec::<f32>::try_from(parts[0].view([-1]))?, [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]);
        assert_eq!(Vec::<f32>::try_from(layout.join(parts)?.view([-1]))?, [1.0, 2.0, 3.0, 4.0, 5.0]);
        Ok(())
    }

    #[test]
    fn rows_with_the_longest_first_are_not_moved_except_padded_rows() -> Result<()> {
        let spans = [(0, 5), (5, 9), (9, 13), (13, 15), (15, 16)];
        let layout = AttentionLayout::new(&spans, Padding { share: 0.0, scores: 3 }, Device::Cpu)?;
        assert_eq!(
            layout.groups.iter().map(|group| (group.rows, group.length)).collect::<Vec<_>>(),
            [(1, 5), (2, 4), (2, 2)]
        );
        assert_eq!((layout.in_place, layout.moved.as_ref().map(|moved| moved.tokens)), (2, Some(3)));
        let unsorted = AttentionLayout::new(&[(0, 2), (2, 5)], Padding { share: 0.0, scores: 0 }, Device::Cpu)?;
        assert_eq!(unsorted.in_place, 0);
        assert_eq!(longest_first(&[3, 7, 3, 9]), [3, 1, 0, 2]);
        Ok(())
    }

    proptest! {
        #[test]
        fn every_token_returns_to_its_place(
            lengths in proptest::collection::vec(1usize..40, 1..12)
        ) {
            let mut tokens = 0;
            let spans: Vec<(usize, usize)> = lengths.iter().map(|length| (tokens, { tokens += length; tokens })).collect();
            let layout = AttentionLayout::new(&spans, Padding::on(Device::Cpu), Device::Cpu).expect("laid out");
            let packed = Tensor::arange(tokens as i64, (TensorKind::Float, Device::Cpu)).view([-1, 1]);
            let parts = layout.regroup(&packed).expect("cut");
            let places: i64 = layout.groups.iter().map(|group| group.rows * group.length).sum();
            prop_assert_eq!(parts.iter().map(|part| part.size()[0]).sum::<i64>(), places);
            prop_assert!(places >= tokens as i64);
            let back = layout.join(parts).expect("joined");
            prop_assert_eq!(Vec::<f32>::try_from(back.view([-1])).expect("floats"), Vec::<f32>::try_from(packed.view([-1])).expect("floats"));
        }

        #[test]
        fn groups_cover_every_row_and_waste_no_more_than_allowed(
            lengths in proptest::collection::vec(1usize..40, 1..12), waste in 0.0f64..0.6
        ) {
            let (order, groups) = group_rows(&lengths, Padding { share: waste, scores: 0 });
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..lengths.len()).collect::<Vec<_>>());
            let mut remaining = order.into_iter();
            for group in groups {
                let rows: Vec<usize> = remaining.by_ref().take(group.rows as usize).map(|row| lengths[row]).collect();
                prop_assert_eq!(rows.iter().max().map(|&length| length as i64), Some(group.length));
                let places = group.rows * group.length;
                prop_assert!((places - rows.iter().sum::<usize>() as i64) as f64 <= waste * places as f64);
            }
        }
    }
}
