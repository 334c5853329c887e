//! Many sequences in one row of tokens, laid out once: positions, targets, and how attention regroups the rows.
//!
//! Everything but attention runs on `[tokens, hidden]` without any padding. For attention, rows of similar length
//! form groups `[rows, length]`; one gather brings q, k and v into the order of the groups, one brings the result
//! back. Within a group shorter rows are padded at their end, where causal attention never looks.
//!
//! Sequences that begin alike can share a row: their common prefix once, and then what each goes on with, its branch.
//! A branch sees the prefix and itself.

use tch::{Device, Kind, Tensor};

use crate::corpus::Sequence;
use crate::error::{Result, ensure};

/// When a row may join a group of longer rows: as long as padding costs less than another group of calls.
#[derive(Clone, Copy)]
struct Padding {
    /// The share of a group's places that may be padding.
    share: f64,
    /// Attention scores (length x length) that a row may add to its own by being padded.
    scores: i64,
}

impl Padding {
    /// A GPU wants few large calls. On the CPU long rows are not padded (16 rows of 22 to 250 tokens, SmolLM2-135M in
    /// bf16: 83 to 98 tokens/s in training without padding, 74 to 77 with a quarter), but for short ones the calls are
    /// all that counts: rows below 64 tokens share one group.
    fn on(device: Device) -> Self {
        Self { share: if device.is_cuda() { 0.25 } else { 0.0 }, scores: 64 * 64 }
    }

    /// For the rows of several episodes: there are so many that groups of nearly equal rows are large enough.
    fn of_many(rows: usize, device: Device) -> Self {
        let usual = Self::on(device);
        if device.is_cuda() { usual } else { Self { scores: usual.scores * 16 / rows.max(16) as i64, ..usual } }
    }
}

/// Rows of one attention call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub rows: i64,
    pub length: i64,
}

/// How attention sees the batch.
pub(super) struct Layout {
    pub groups: Vec<Group>,
    /// The rows of the groups, group after group.
    pub order: Vec<usize>,
    /// So many groups lie in the packed tokens as they are, one after another from the first token on.
    in_place: usize,
    /// What lies behind those, if anything does.
    moved: Option<Moved>,
}

/// Tokens whose order is not that of the groups.
struct Moved {
    /// How many they are.
    tokens: i64,
    /// Into these tokens, group after group, padding included.
    gather: Tensor,
    /// For each of these tokens its place in the gathered order.
    scatter: Tensor,
}

/// Packed sequences on a device.
pub struct Batch {
    pub(super) ids: Tensor,
    pub(super) positions: Tensor,
    /// Packed positions whose hidden state predicts a supervised token.
    pub(super) predictors: Tensor,
    /// The tokens they should predict.
    pub(super) targets: Tensor,
    pub(super) layout: Layout,
    longest: usize,
    spans: Vec<(usize, usize)>,
    supervised_rows: Vec<usize>,
    supervised: usize,
    lanes: Vec<Lane>,
    /// Of each packed token: 0 in a prefix, from 1 on in a branch. Empty where no row has branches.
    branches: Vec<u32>,
}

/// What belongs to one of several episodes that share a pass: the next so many tokens, and supervised tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lane {
    pub tokens: i64,
    pub supervised: i64,
}

impl Batch {
    /// Lays the sequences out one after another. Rows keep their order; with the longest first ([`longest_first`])
    /// attention has less to move.
    pub fn pack(sequences: &[&Sequence], device: Device) -> Result<Self> {
        ensure!(!sequences.is_empty(), "a batch needs at least one sequence");
        let total: usize = sequences.iter().map(|sequence| sequence.tokens.len()).sum();
        let mut ids = Vec::with_capacity(total);
        let mut positions = Vec::with_capacity(total);
        let mut spans = Vec::with_capacity(sequences.len());
        let mut supervised_rows = Vec::with_capacity(sequences.len());
        let (mut predictors, mut targets) = (Vec::new(), Vec::new());
        for (row, sequence) in sequences.iter().enumerate() {
            ensure!(!sequence.tokens.is_empty(), "sequence {row} of the batch has no tokens");
            ensure!(
                sequence.supervised.len() == sequence.tokens.len(),
                "sequence {row} has {} tokens but {} supervision marks",
                sequence.tokens.len(),
                sequence.supervised.len()
            );
            ensure!(!sequence.supervised[0], "sequence {row} supervises its first token, which nothing predicts");
            let start = ids.len();
            let before = targets.len();
            for (offset, (&token, &supervised)) in sequence.tokens.iter().zip(&sequence.supervised).enumerate() {
                if supervised {
                    predictors.push((start + offset - 1) as i64);
                    targets.push(i64::from(token));
                }
                ids.push(i64::from(token));
                positions.push(offset as i64);
            }
            spans.push((start, ids.len()));
            supervised_rows.push(targets.len() - before);
        }
        let lengths: Vec<usize> = spans.iter().map(|(start, end)| end - start).collect();
        Ok(Self {
            layout: Layout::of(&spans, &lengths, device)?,
            longest: lengths.iter().copied().max().unwrap_or(0),
            supervised: targets.len(),
            ids: on(&ids, device)?,
            positions: on(&positions, device)?,
            predictors: on(&predictors, device)?,
            targets: on(&targets, device)?,
            spans,
            supervised_rows,
            lanes: Vec::new(),
            branches: Vec::new(),
        })
    }

    /// A row for each family of sequences, with what they begin with computed once. Supervised tokens come sequence
    /// after sequence; a row's spans are the family's.
    pub fn pack_families(families: &[Vec<&Sequence>], device: Device) -> Result<Self> {
        let (mut rows, mut branches) = (Vec::with_capacity(families.len()), Vec::new());
        let mut positions = Vec::new();
        let (mut predictors, mut targets, mut supervised_rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut longest = 0;
        for family in families {
            let shared = common_prefix(family);
            let mut tokens = family.first().map_or(&[][..], |first| &first.tokens[..shared]).to_vec();
            branches.resize(branches.len() + shared, 0);
            let start = positions.len();
            positions.extend(0..shared as i64);
            for (number, sequence) in family.iter().enumerate() {
                let branch = start + tokens.len();
                let place = |offset: usize| if offset < shared { start + offset } else { branch + offset - shared };
                let before = targets.len();
                for (offset, &token) in sequence.tokens.iter().enumerate().filter(|(at, _)| sequence.supervised[*at]) {
                    ensure!(offset > 0, "a sequence supervises its first token, which nothing predicts");
                    predictors.push(place(offset - 1) as i64);
                    targets.push(i64::from(token));
                }
                supervised_rows.push(targets.len() - before);
                tokens.extend(&sequence.tokens[shared..]);
                positions.extend(shared as i64..sequence.tokens.len() as i64);
                branches.resize(start + tokens.len(), number as u32 + 1);
                longest = longest.max(sequence.tokens.len());
            }
            rows.push(Sequence { supervised: vec![false; tokens.len()], tokens });
        }
        let packed = Self::pack(&rows.iter().collect::<Vec<_>>(), device)?;
        Ok(Self {
            positions: on(&positions, device)?,
            predictors: on(&predictors, device)?,
            supervised: targets.len(),
            targets: on(&targets, device)?,
            longest,
            supervised_rows,
            branches,
            ..packed
        })
    }

    /// `[rows, length, length]` for the rows of a group, in its order: 0 where a token (second dimension) may look at
    /// another (third), minus infinity elsewhere. `None` where no row has branches.
    pub(super) fn branch_mask(&self, first: usize, group: Group, window: Option<i64>) -> Result<Option<Tensor>> {
        if self.branches.is_empty() {
            return Ok(None);
        }
        let length = group.length as usize;
        let positions = Vec::<i64>::try_from(self.positions.f_to_device(Device::Cpu)?)?;
        let mut mask = vec![f32::NEG_INFINITY; group.rows as usize * length * length];
        for (&row, mask) in self.layout.order[first..].iter().zip(mask.chunks_mut(length * length)) {
            let (start, end) = self.spans[row];
            for (token, mask) in (start..start + length).zip(mask.chunks_mut(length)) {
                if token >= end {
                    // Padding: looked at by nothing, but a softmax needs something to look at.
                    mask[0] = 0.0;
                    continue;
                }
                for (seen, mask) in (start..=token).zip(mask) {
                    let near = window.is_none_or(|window| positions[token] - positions[seen] < window);
                    if near && (self.branches[seen] == 0 || self.branches[seen] == self.branches[token]) {
                        *mask = 0.0;
                    }
                }
            }
        }
        let mask = Tensor::f_from_slice(&mask)?.f_view([group.rows, group.length, group.length])?;
        Ok(Some(mask.f_to_device(self.device())?))
    }

    /// The rows of several episodes, one episode after the other; an episode may have none in this pass.
    pub fn side_by_side(episodes: &[Vec<&Sequence>], device: Device) -> Result<Self> {
        let mut batch = Self::pack(&episodes.concat(), device)?;
        let lane = |rows: &Vec<&Sequence>| Lane {
            tokens: rows.iter().map(|row| row.tokens.len() as i64).sum(),
            supervised: rows.iter().map(|row| row.supervised_tokens() as i64).sum(),
        };
        batch.lanes = episodes.iter().map(lane).collect();
        let lengths: Vec<usize> = batch.spans.iter().map(|(start, end)| end - start).collect();
        batch.layout = Layout::padded(&batch.spans, &lengths, Padding::of_many(lengths.len(), device), device)?;
        Ok(batch)
    }

    /// The same rows once for each of so many episodes.
    pub fn repeated(&self, episodes: usize) -> Result<Self> {
        let device = self.device();
        let tokens = self.tokens();
        let copies = episodes as i64;
        let spans: Vec<(usize, usize)> = (0..episodes)
            .flat_map(|copy| self.spans.iter().map(move |(start, end)| (start + copy * tokens, end + copy * tokens)))
            .collect();
        let lengths: Vec<usize> = spans.iter().map(|(start, end)| end - start).collect();
        let offsets = Tensor::f_arange(copies, (Kind::Int64, device))?.f_mul_scalar(tokens as i64)?.f_unsqueeze(1)?;
        let lane = Lane { tokens: tokens as i64, supervised: self.supervised as i64 };
        Ok(Self {
            layout: Layout::padded(&spans, &lengths, Padding::of_many(lengths.len(), device), device)?,
            longest: self.longest,
            supervised: self.supervised * episodes,
            ids: self.ids.f_repeat([copies])?,
            positions: self.positions.f_repeat([copies])?,
            predictors: self.predictors.f_unsqueeze(0)?.f_add(&offsets)?.f_reshape([-1])?,
            targets: self.targets.f_repeat([copies])?,
            supervised_rows: self.supervised_rows.repeat(episodes),
            spans,
            lanes: vec![lane; episodes],
            branches: self.branches.repeat(episodes),
        })
    }

    /// Which tokens belong to which episode; empty where all belong to one.
    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// Tokens that are computed.
    pub fn tokens(&self) -> usize {
        self.spans.last().map_or(0, |(_, end)| *end)
    }

    /// Tokens that carry a loss.
    pub fn supervised(&self) -> usize {
        self.supervised
    }

    pub fn rows(&self) -> usize {
        self.spans.len()
    }

    /// The token range `start..end` of each row, in the order given to [`Batch::pack`].
    pub fn row_spans(&self) -> &[(usize, usize)] {
        &self.spans
    }

    /// How many supervised tokens each row has.
    pub fn supervised_rows(&self) -> &[usize] {
        &self.supervised_rows
    }

    /// The length of the longest sequence.
    pub fn longest(&self) -> usize {
        self.longest
    }

    pub fn device(&self) -> Device {
        self.ids.device()
    }
}

/// How many tokens all of these begin with.
fn common_prefix(family: &[&Sequence]) -> usize {
    let Some((first, rest)) = family.split_first() else { return 0 };
    let shared = |other: &&Sequence| first.tokens.iter().zip(&other.tokens).take_while(|(one, two)| one == two).count();
    rest.iter().map(shared).min().unwrap_or(first.tokens.len())
}

fn on(values: &[i64], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_to_kind(Kind::Int64)?.f_to_device(device)?)
}

impl Layout {
    fn of(spans: &[(usize, usize)], lengths: &[usize], device: Device) -> Result<Self> {
        Self::padded(spans, lengths, Padding::on(device), device)
    }

    fn padded(spans: &[(usize, usize)], lengths: &[usize], padding: Padding, device: Device) -> Result<Self> {
        let (order, groups) = group_rows(lengths, padding);
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
                    // Padding repeats the row's last token: finite, and never looked at.
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

    /// `[tokens, width]` of the packed order, cut into `[places, width]` for each group.
    ///
    /// Cut once: the backward pass of a slice would fill a whole tensor with zeros. What moves does so by an embedding
    /// look-up, because its backward pass adds rows up where index_select's adds whole slices one by one.
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

    /// The groups' parts in the packed order again, without padding.
    pub fn join(&self, mut parts: Vec<Tensor>) -> Result<Tensor> {
        if let Some(Moved { scatter, .. }) = &self.moved {
            let moved = cat(parts.split_off(self.in_place))?;
            parts.push(Tensor::f_embedding(&moved, scatter, -1, false, false)?);
        }
        cat(parts)
    }
}

fn split(tensor: &Tensor, sizes: &[i64]) -> Result<Vec<Tensor>> {
    Ok(if sizes.len() == 1 { vec![tensor.shallow_clone()] } else { tensor.f_split_with_sizes(sizes, 0)? })
}

fn cat(mut parts: Vec<Tensor>) -> Result<Tensor> {
    Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::f_cat(&parts, 0)? })
}

/// The rows in the order in which a batch of them is laid out best: the longest first, and as they were among equals.
pub fn longest_first(lengths: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    order
}

/// Rows sorted by length (the order given decides among equals), cut into groups as long as padding stays small.
fn group_rows(lengths: &[usize], padding: Padding) -> (Vec<usize>, Vec<Group>) {
    if lengths.windows(2).all(|pair| pair[0] == pair[1]) {
        let length = lengths.first().copied().unwrap_or(0) as i64;
        return ((0..lengths.len()).collect(), vec![Group { rows: lengths.len() as i64, length }]);
    }
    let order = longest_first(lengths);
    let mut groups: Vec<Group> = Vec::new();
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
        groups.push(Group { rows: 1, length: length as i64 });
        tokens = length as i64;
    }
    (order, groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(tokens: &[u32], supervised_from: usize) -> Sequence {
        let supervised = (0..tokens.len()).map(|place| place >= supervised_from).collect();
        Sequence { tokens: tokens.to_vec(), supervised }
    }

    #[test]
    fn targets_are_predicted_from_the_token_before() -> Result<()> {
        let batch = Batch::pack(&[&sequence(&[5, 6, 7], 1), &sequence(&[8, 9], 1)], Device::Cpu)?;
        assert_eq!(Vec::<i64>::try_from(&batch.predictors)?, [0, 1, 3]);
        assert_eq!(Vec::<i64>::try_from(&batch.targets)?, [6, 7, 9]);
        assert_eq!(Vec::<i64>::try_from(&batch.positions)?, [0, 1, 2, 0, 1]);
        assert_eq!(batch.row_spans(), [(0, 3), (3, 5)]);
        assert_eq!(batch.supervised_rows(), [2, 1]);
        Ok(())
    }

    #[test]
    fn a_supervised_first_token_is_refused() {
        assert!(Batch::pack(&[&sequence(&[5, 6], 0)], Device::Cpu).is_err());
    }

    #[test]
    fn padding_repeats_the_last_token_and_is_dropped_on_the_way_back() -> Result<()> {
        let layout = Layout::padded(&[(0, 3), (3, 5)], &[3, 2], Padding { share: 0.5, scores: 0 }, Device::Cpu)?;
        assert_eq!(layout.groups, [Group { rows: 2, length: 3 }]);
        let packed = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0]).view([-1, 1]);
        let parts = layout.regroup(&packed)?;
        assert_eq!(Vec::<f32>::try_from(parts[0].view([-1]))?, [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]);
        assert_eq!(Vec::<f32>::try_from(layout.join(parts)?.view([-1]))?, [1.0, 2.0, 3.0, 4.0, 5.0]);
        Ok(())
    }

    #[test]
    fn rows_with_the_longest_first_are_not_moved_but_for_those_that_are_padded() -> Result<()> {
        let spans = [(0, 5), (5, 9), (9, 13), (13, 15), (15, 16)];
        let lengths = spans.map(|(start, end)| end - start);
        let layout = Layout::padded(&spans, &lengths, Padding { share: 0.0, scores: 3 }, Device::Cpu)?;
        assert_eq!(
            layout.groups.iter().map(|group| (group.rows, group.length)).collect::<Vec<_>>(),
            [(1, 5), (2, 4), (2, 2)]
        );
        assert_eq!((layout.in_place, layout.moved.as_ref().map(|moved| moved.tokens)), (2, Some(3)));
        let unsorted = Layout::padded(&[(0, 2), (2, 5)], &[2, 3], Padding { share: 0.0, scores: 0 }, Device::Cpu)?;
        assert_eq!(unsorted.in_place, 0);
        assert_eq!(longest_first(&[3, 7, 3, 9]), [3, 1, 0, 2]);
        Ok(())
    }

    proptest! {
        #[test]
        fn every_token_comes_back_to_its_place(
            lengths in proptest::collection::vec(1usize..40, 1..12)
        ) {
            let sequences: Vec<Sequence> =
                lengths.iter().map(|&length| sequence(&vec![1; length], length)).collect();
            let batch = Batch::pack(&sequences.iter().collect::<Vec<_>>(), Device::Cpu).expect("packs");
            let packed = Tensor::arange(batch.tokens() as i64, (Kind::Float, Device::Cpu)).view([-1, 1]);
            let parts = batch.layout.regroup(&packed).expect("cut");
            let places: i64 = batch.layout.groups.iter().map(|group| group.rows * group.length).sum();
            prop_assert_eq!(parts.iter().map(|part| part.size()[0]).sum::<i64>(), places);
            prop_assert!(places >= batch.tokens() as i64);
            let back = batch.layout.join(parts).expect("joined");
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
