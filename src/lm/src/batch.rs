//! Many sequences in one row of tokens, laid out once: positions, targets, and how attention regroups the rows.
//!
//! Everything but attention runs on `[tokens, hidden]` without any padding, and so does attention where a GPU has kernels for
//! rows of all lengths. Elsewhere rows of similar length
//! form groups `[rows, length]`; one gather brings q, k and v into the order of the groups, one brings the result
//! back. Within a group shorter rows are padded at their end, where causal attention never looks.
//!
//! Sequences that begin alike can share a row: their common prefix once, and then what each goes on with, its branch.
//! A branch sees the prefix and itself.

use std::cell::OnceCell;

use tch::{Device, Kind as TensorKind, Tensor};

use super::device::has_flash_kernels;
use super::layout::{AttentionLayout, Padding, RowGroup, on};
use raisin_base::error::{Result, ensure};
use raisin_corpus::Sequence;

/// Packed sequences on a device.
pub struct Batch {
    pub(super) ids: Tensor,
    pub(super) positions: Tensor,
    /// Packed positions whose hidden state predicts a supervised token.
    pub(super) predictors: Tensor,
    /// The tokens they should predict.
    pub(super) targets: Tensor,
    padding: Padding,
    /// Made when attention asks for it.
    layout: OnceCell<AttentionLayout>,
    /// Where there are flash kernels and rows have no branches: where each row begins and the last one ends, `[rows + 1]`
    /// in 32 bits.
    starts: Option<Tensor>,
    longest: usize,
    spans: Vec<(usize, usize)>,
    supervised_rows: Vec<usize>,
    supervised: usize,
    episode_spans: EpisodeSpans,
    /// Of each packed token its branch (0 in a prefix, from 1 on in one) and position. Empty where no row has branches.
    branches: Vec<(u32, i64)>,
}

/// What belongs to one of several episodes that share a pass: the next so many tokens, and supervised tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EpisodeSpan {
    pub tokens: i64,
    pub supervised: i64,
}

/// Of all episodes; empty where there is but one.
#[derive(Default)]
pub(super) struct EpisodeSpans {
    pub each: Vec<EpisodeSpan>,
    block_diagonal_mask: OnceCell<Tensor>,
}

impl EpisodeSpans {
    fn new(each: Vec<EpisodeSpan>) -> Self {
        Self { each, block_diagonal_mask: OnceCell::new() }
    }

    /// Which episode a token belongs to, `[tokens, episodes]`, true or false.
    pub fn block_diagonal_mask(&self, device: Device) -> Result<&Tensor> {
        if let Some(block_diagonal_mask) = self.block_diagonal_mask.get() {
            return Ok(block_diagonal_mask);
        }
        let number = |(number, span): (i64, &EpisodeSpan)| std::iter::repeat_n(number, span.tokens as usize);
        let numbers: Vec<i64> = (0..).zip(&self.each).flat_map(number).collect();
        let episodes = Tensor::f_arange(self.each.len() as i64, (TensorKind::Int64, device))?;
        let block_diagonal_mask = on(&numbers, device)?.f_unsqueeze(1)?.f_eq_tensor(&episodes)?;
        Ok(self.block_diagonal_mask.get_or_init(|| block_diagonal_mask))
    }
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
        Ok(Self {
            padding: Padding::on(device),
            layout: OnceCell::new(),
            starts: starts(&spans, device)?,
            longest: spans.iter().map(|(start, end)| end - start).max().unwrap_or(0),
            supervised: targets.len(),
            ids: on(&ids, device)?,
            positions: on(&positions, device)?,
            predictors: on(&predictors, device)?,
            targets: on(&targets, device)?,
            spans,
            supervised_rows,
            episode_spans: EpisodeSpans::default(),
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
            let start = positions.len();
            positions.extend(0..shared as i64);
            branches.extend((0..shared as i64).map(|position| (0, position)));
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
                branches.extend(positions[branches.len()..].iter().map(|&position| (number as u32 + 1, position)));
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
            starts: None,
            ..packed
        })
    }

    /// `[rows, length, length]` for the rows of a group, in its order: 0 where a token (second dimension) may look at
    /// another (third), minus infinity elsewhere. `None` where no row has branches.
    pub(super) fn branch_mask(&self, first: usize, group: RowGroup, window: Option<i64>) -> Result<Option<Tensor>> {
        if self.branches.is_empty() {
            return Ok(None);
        }
        let length = group.length as usize;
        let mut mask = vec![f32::NEG_INFINITY; group.rows as usize * length * length];
        for (&row, mask) in self.layout()?.order[first..].iter().zip(mask.chunks_mut(length * length)) {
            let (start, end) = self.spans[row];
            let (tokens, padding) = mask.split_at_mut((end - start) * length);
            for (place, mask) in tokens.chunks_mut(length).enumerate() {
                let (branch, position) = self.branches[start + place];
                for (&(other, seen), mask) in self.branches[start..=start + place].iter().zip(mask) {
                    let near = window.is_none_or(|window| position - seen < window);
                    if near && (other == 0 || other == branch) {
                        *mask = 0.0;
                    }
                }
            }
            // Looked at by nothing, but a softmax needs something to look at.
            padding.chunks_mut(length).for_each(|mask| mask[0] = 0.0);
        }
        let mask = Tensor::f_from_slice(&mask)?.f_view([group.rows, group.length, group.length])?;
        Ok(Some(mask.f_to_device(self.device())?))
    }

    /// The rows of several episodes, one episode after the other; an episode may have none in this pass.
    pub fn side_by_side(episodes: &[Vec<&Sequence>], device: Device) -> Result<Self> {
        let mut batch = Self::pack(&episodes.concat(), device)?;
        let span = |rows: &Vec<&Sequence>| EpisodeSpan {
            tokens: rows.iter().map(|row| row.tokens.len() as i64).sum(),
            supervised: rows.iter().map(|row| row.supervised_tokens() as i64).sum(),
        };
        batch.episode_spans = EpisodeSpans::new(episodes.iter().map(span).collect());
        batch.padding = Padding::of_many(batch.rows(), device);
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
        let offsets =
            Tensor::f_arange(copies, (TensorKind::Int64, device))?.f_mul_scalar(tokens as i64)?.f_unsqueeze(1)?;
        let span = EpisodeSpan { tokens: tokens as i64, supervised: self.supervised as i64 };
        Ok(Self {
            padding: Padding::of_many(spans.len(), device),
            layout: OnceCell::new(),
            starts: if self.starts.is_some() { starts(&spans, device)? } else { None },
            longest: self.longest,
            supervised: self.supervised * episodes,
            ids: self.ids.f_repeat([copies])?,
            positions: self.positions.f_repeat([copies])?,
            predictors: self.predictors.f_unsqueeze(0)?.f_add(&offsets)?.f_reshape([-1])?,
            targets: self.targets.f_repeat([copies])?,
            supervised_rows: self.supervised_rows.repeat(episodes),
            spans,
            episode_spans: EpisodeSpans::new(vec![span; episodes]),
            branches: self.branches.repeat(episodes),
        })
    }

    /// How attention sees the rows where it goes by groups of them.
    pub(super) fn layout(&self) -> Result<&AttentionLayout> {
        if let Some(layout) = self.layout.get() {
            return Ok(layout);
        }
        let layout = AttentionLayout::new(&self.spans, self.padding, self.device())?;
        Ok(self.layout.get_or_init(|| layout))
    }

    pub(super) fn starts(&self) -> Option<&Tensor> {
        self.starts.as_ref()
    }

    /// Which tokens belong to which episode; empty where all belong to one.
    pub(super) fn episode_spans(&self) -> &EpisodeSpans {
        &self.episode_spans
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

fn starts(spans: &[(usize, usize)], device: Device) -> Result<Option<Tensor>> {
    if !has_flash_kernels(device) {
        return Ok(None);
    }
    let starts: Vec<i32> = std::iter::once(0).chain(spans.iter().map(|(_, end)| *end as i32)).collect();
    Ok(Some(Tensor::f_from_slice(&starts)?.f_to_device(device)?))
}

/// How many tokens all of these begin with.
fn common_prefix(family: &[&Sequence]) -> usize {
    let Some((first, rest)) = family.split_first() else { return 0 };
    let shared = |other: &&Sequence| first.tokens.iter().zip(&other.tokens).take_while(|(one, two)| one == two).count();
    rest.iter().map(shared).min().unwrap_or(first.tokens.len())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
