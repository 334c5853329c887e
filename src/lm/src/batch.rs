//! Packs many sequences into one row of tokens: positions, targets, the span of each row, the spans of episodes, and
//! the masks of branches. layout.rs groups the rows for attention.
//!
//! Everything except attention runs on `[tokens, hidden]` without padding. Attention also runs without padding if the
//! GPU has a fused kernel for rows of different lengths. Otherwise, rows of similar length form row groups
//! `[rows, length]`: one gather brings q, k and v into the order of the groups, and one gather brings the result back.
//! Within a group, shorter rows are padded at their end. The causal mask hides the padding.
//!
//! Sequences with a common prefix can share a row. The row holds the prefix once, and then the rest of each sequence,
//! its branch. A token of a branch attends to the prefix and to its own branch only.

use std::cell::OnceCell;

use tch::{Device, Kind as TensorKind, Tensor};

use super::device::has_flash_kernels;
use super::layout::{AttentionGroup, AttentionLayout, Padding, on};
use raisin_base::error::{Result, ensure};
use raisin_corpus::Sequence;

/// Packed sequences on a device.
pub struct Batch {
    /// Token ids, `[tokens]`.
    pub(super) ids: Tensor,
    /// The position of each token in its sequence, `[tokens]`.
    pub(super) positions: Tensor,
    /// Indices of the packed tokens whose hidden states predict a supervised token: `[supervised]`.
    pub(super) predictors: Tensor,
    /// The supervised tokens, as targets of the predictors: `[supervised]`.
    pub(super) targets: Tensor,
    padding: Padding,
    /// Made at the first use by attention.
    layout: OnceCell<AttentionLayout>,
    /// The start of each row and the end of the last row: `[rows + 1]` in 32 bits. `None` if the device has no fused
    /// kernels, or if the rows have branches.
    starts: Option<Tensor>,
    /// The length of the longest sequence.
    longest: usize,
    /// The token range `start..end` of each row.
    spans: Vec<(usize, usize)>,
    /// The number of supervised tokens of each row; for families, of each sequence.
    supervised_rows: Vec<usize>,
    episode_spans: EpisodeSpans,
    /// Branch and position of each packed token. Branch 0 is the prefix; branches count from 1. Empty if no row has
    /// branches.
    branches: Vec<(u32, i64)>,
}

/// The tokens of one episode in a shared pass, as counts. The spans of the episodes follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EpisodeSpan {
    pub tokens: i64,
    pub supervised: i64,
}

/// The spans of all episodes of a shared pass. Empty if all tokens belong to one episode.
#[derive(Default)]
pub(super) struct EpisodeSpans {
    pub each: Vec<EpisodeSpan>,
    block_diagonal_mask: OnceCell<Tensor>,
}

impl EpisodeSpans {
    fn new(each: Vec<EpisodeSpan>) -> Self {
        Self { each, block_diagonal_mask: OnceCell::new() }
    }

    /// The block-diagonal mask, `[tokens, episodes]` of bool: true where the token belongs to the episode.
    pub fn block_diagonal_mask(&self, device: Device) -> Result<&Tensor> {
        if let Some(block_diagonal_mask) = self.block_diagonal_mask.get() {
            return Ok(block_diagonal_mask);
        }
        // The number of the episode of each token: [tokens]
        let number = |(number, span): (i64, &EpisodeSpan)| std::iter::repeat_n(number, span.tokens as usize);
        let numbers: Vec<i64> = (0..).zip(&self.each).flat_map(number).collect();
        let episodes = Tensor::f_arange(self.each.len() as i64, (TensorKind::Int64, device))?;
        let block_diagonal_mask = on(&numbers, device)?.f_unsqueeze(1)?.f_eq_tensor(&episodes)?;
        Ok(self.block_diagonal_mask.get_or_init(|| block_diagonal_mask))
    }
}

impl Batch {
    /// Packs the sequences one after another. The rows keep their order. If the longest rows come first
    /// ([`longest_first`]), attention has to move fewer tokens.
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
            ensure!(
                !sequence.supervised[0],
                "sequence {row} supervises its first token, but no token predicts the first token"
            );
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

    /// Packs each family of sequences into one row: the common prefix is computed once, and each sequence adds a
    /// branch. The supervised tokens are in the order of the sequences. The row spans are the spans of the families.
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
                // The packed index of the token at `offset` of this sequence.
                let place = |offset: usize| if offset < shared { start + offset } else { branch + offset - shared };
                let before = targets.len();
                for (offset, &token) in sequence.tokens.iter().enumerate().filter(|(at, _)| sequence.supervised[*at]) {
                    ensure!(offset > 0, "a sequence supervises its first token, but no token predicts the first token");
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
            targets: on(&targets, device)?,
            longest,
            supervised_rows,
            branches,
            starts: None,
            ..packed
        })
    }

    /// The mask of a row group whose rows have branches, `[rows, length, length]`, in the row order of the group: 0
    /// where a token (second dimension) may attend to another token (third dimension), minus infinity elsewhere. `None`
    /// if no row has branches. `first` is the index of the group's first row in the order of the layout.
    pub(super) fn branch_mask(
        &self,
        first: usize,
        group: AttentionGroup,
        window: Option<i64>,
    ) -> Result<Option<Tensor>> {
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
            // No real token attends to the padding. But a softmax needs at least one entry that is not minus infinity.
            padding.chunks_mut(length).for_each(|mask| mask[0] = 0.0);
        }
        // [rows, length, length]
        let mask = Tensor::f_from_slice(&mask)?.f_view([group.rows, group.length, group.length])?;
        Ok(Some(mask.f_to_device(self.device())?))
    }

    /// Packs the rows of several episodes, one episode after another. An episode may have no rows in this pass. The
    /// rows of a single episode are packed by [`Batch::pack`].
    pub fn side_by_side(episodes: &[Vec<&Sequence>], device: Device) -> Result<Self> {
        if let [alone] = episodes {
            return Self::pack(alone, device);
        }
        let mut batch = Self::pack(&episodes.concat(), device)?;
        let span = |rows: &Vec<&Sequence>| EpisodeSpan {
            tokens: rows.iter().map(|row| row.tokens.len() as i64).sum(),
            supervised: rows.iter().map(|row| row.supervised_tokens() as i64).sum(),
        };
        batch.episode_spans = EpisodeSpans::new(episodes.iter().map(span).collect());
        batch.padding = Padding::of_many(batch.rows(), device);
        Ok(batch)
    }

    /// The rows of this batch, repeated for each of `episodes` episodes.
    pub fn repeated(&self, episodes: usize) -> Result<Self> {
        let device = self.device();
        let tokens = self.tokens();
        let copies = episodes as i64;
        let spans: Vec<(usize, usize)> = (0..episodes)
            .flat_map(|copy| self.spans.iter().map(move |(start, end)| (start + copy * tokens, end + copy * tokens)))
            .collect();
        // [episodes, 1]: the packed index of the first token of each copy
        let offsets =
            Tensor::f_arange(copies, (TensorKind::Int64, device))?.f_mul_scalar(tokens as i64)?.f_unsqueeze(1)?;
        let span = EpisodeSpan { tokens: tokens as i64, supervised: self.supervised() as i64 };
        Ok(Self {
            padding: Padding::of_many(spans.len(), device),
            layout: OnceCell::new(),
            starts: if self.starts.is_some() { starts(&spans, device)? } else { None },
            longest: self.longest,
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

    /// The row groups of this batch, for attention with padding.
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

    /// The tokens of each episode. Empty if all tokens belong to one episode.
    pub(super) fn episode_spans(&self) -> &EpisodeSpans {
        &self.episode_spans
    }

    /// Tokens that a forward pass computes.
    pub fn tokens(&self) -> usize {
        self.spans.last().map_or(0, |(_, end)| *end)
    }

    /// Tokens that carry a loss.
    pub fn supervised(&self) -> usize {
        self.supervised_rows.iter().sum()
    }

    pub fn rows(&self) -> usize {
        self.spans.len()
    }

    /// The token range `start..end` of each row, in the order given to [`Batch::pack`].
    pub fn row_spans(&self) -> &[(usize, usize)] {
        &self.spans
    }

    /// The number of supervised tokens of each row; for families ([`Batch::pack_families`]), of each sequence.
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

/// The length in tokens of the longest common prefix of all sequences.
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
