//! Computes projections with the same input as one product: q, k and v; gate and up. This is for a GPU, where kernel
//! launches limit the speed of a small model, and the arithmetic does not. The adapters of a group take part as one
//! pair of low-rank factors over all episodes; [`LowPlan`] makes the factors once for a pass. joined.rs decides when
//! the groups get adapters.

use tch::{Device, Kind as TensorKind, Tensor};

use super::batch::EpisodeSpans;
use super::layer::{Layer, Projection};
use raisin_base::error::Result;

/// Projections with the same input, with stacked weights.
pub(super) struct ProjectionGroup {
    /// `[outputs of all members, inputs]`
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// The low-rank factors of the adapters. `Some` only while passes are joined and the layer has adapters.
    pub low: Option<Low>,
}

/// The low-rank factors of all adapters of a group. Each adapter has rows of its own in both factors. In `b`, the
/// columns outside the outputs of the adapter's projection are zero.
pub(super) struct Low {
    /// `[members * episodes * rank, inputs]`
    pub a: Tensor,
    /// `[members * episodes * rank, outputs of all members]`
    pub b: Tensor,
    pub members: i64,
    pub episodes: i64,
}

impl ProjectionGroup {
    /// `[tokens, inputs]` to `[tokens, outputs of all members]`.
    pub fn forward(&self, x: &Tensor, episode_spans: &EpisodeSpans) -> Result<Tensor> {
        // Another dtype than that of the weights: see `Model::compute_in`.
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(x.kind())).transpose()?;
        let mut y = x.f_linear(&self.weight.f_to_kind(x.kind())?, bias.as_ref())?;
        let Some(Low { a, b, members, episodes }) = &self.low else { return Ok(y) };
        // [tokens, members * episodes * rank]
        let mut low = x.f_linear(a, None::<&Tensor>)?;
        if *episodes > 1 {
            // The product applied all adapters to all tokens. The block-diagonal mask removes the adapters of other
            // episodes.
            let block_diagonal_mask = episode_spans.block_diagonal_mask(x.device())?.f_view([-1, 1, *episodes, 1])?;
            let tokens = x.size2()?.0;
            low = low.f_view([tokens, *members, *episodes, -1])?.f_mul(&block_diagonal_mask)?.f_view([tokens, -1])?;
        }
        Ok(y.f_addmm_(&low, b)?)
    }
}

/// The projection groups of a layer: q, k and v; o; gate and up; down.
pub(super) struct ProjectionGroups(pub [ProjectionGroup; 4]);

impl ProjectionGroups {
    /// A copy without adapters. The copy and the original share the memory of their tensors.
    pub fn shallow_clone(&self) -> Self {
        Self(self.0.each_ref().map(|group| ProjectionGroup {
            weight: group.weight.shallow_clone(),
            bias: group.bias.as_ref().map(Tensor::shallow_clone),
            low: None,
        }))
    }

    fn has_adapters(&self) -> bool {
        self.0.iter().any(|group| group.low.is_some())
    }
}

impl Layer {
    fn has_bias(&self) -> bool {
        self.projections().iter().any(|projection| projection.bias.is_some())
    }

    /// The shapes of the tensors that [`Self::take_joined`] cuts out of one flat tensor: the norms, and then one
    /// stacked weight for each group. If the layer has biases, the biases lie between the weights, so each parameter
    /// has a shape of its own.
    pub fn joined_shapes(&self) -> Vec<Vec<i64>> {
        let mut shapes: Vec<Vec<i64>> = self.parameters().iter().map(|parameter| parameter.value.size()).collect();
        if !self.has_bias() {
            shapes.truncate(self.norms());
            let inputs = |members: &[&Projection]| members[0].weight.value.size()[1];
            shapes.extend(self.members().map(|members| vec![outputs(&members), inputs(&members)]));
        }
        shapes
    }

    /// From now on the layer computes with the tensors that `next` cuts out, until the autograd leaves are attached
    /// again.
    pub fn take_joined(&mut self, mut next: impl FnMut() -> Result<Tensor>) -> Result<()> {
        let (norms, has_bias) = (self.norms(), self.has_bias());
        for parameter in self.parameters_mut().into_iter().take(if has_bias { usize::MAX } else { norms }) {
            parameter.value = next()?;
        }
        if !has_bias {
            let weights = [next()?, next()?, next()?, next()?];
            let group = |weight| ProjectionGroup { weight, bias: None, low: None };
            self.groups = Some(ProjectionGroups(weights.map(group)));
        }
        Ok(())
    }

    /// The number of parameters that are norms. The norms come first.
    fn norms(&self) -> usize {
        if self.head_norms.is_some() { 4 } else { 2 }
    }

    /// The projections of each group.
    pub fn members(&self) -> [Vec<&Projection>; 4] {
        [vec![&self.q, &self.k, &self.v], vec![&self.o], vec![&self.gate, &self.up], vec![&self.down]]
    }

    /// Stacks the weights of each group, unless the groups exist already. The projections' own weights become views of
    /// the stacked weights.
    pub fn group(&mut self) -> Result<()> {
        if self.groups.is_some() {
            return Ok(());
        }
        let together = |members: &mut [&mut Projection]| -> Result<ProjectionGroup> {
            let weights: Vec<&Tensor> = members.iter().map(|projection| &projection.weight.value).collect();
            let weight = if let [single] = weights[..] { single.shallow_clone() } else { Tensor::f_cat(&weights, 0)? };
            let biases: Option<Vec<&Tensor>> =
                members.iter().map(|projection| projection.bias.as_ref().map(|bias| &bias.value)).collect();
            let bias = biases.map(|biases| Tensor::f_cat(&biases, 0)).transpose()?;
            let mut start = 0;
            for projection in members {
                let outputs = projection.weight.value.size2()?.0;
                projection.weight.value = weight.f_narrow(0, start, outputs)?;
                start += outputs;
            }
            Ok(ProjectionGroup { weight, bias, low: None })
        };
        self.groups = Some(ProjectionGroups([
            together(&mut [&mut self.q, &mut self.k, &mut self.v])?,
            together(&mut [&mut self.o])?,
            together(&mut [&mut self.gate, &mut self.up])?,
            together(&mut [&mut self.down])?,
        ]));
        Ok(())
    }

    /// The groups. `None` if the projections have adapters that the groups do not contain.
    pub fn grouped(&self) -> Option<&ProjectionGroups> {
        let known = |groups: &&ProjectionGroups| {
            groups.has_adapters() || self.projections().iter().all(|projection| projection.adapter.is_none())
        };
        self.groups.as_ref().filter(known)
    }
}

/// The number of outputs of all these projections together.
fn outputs(members: &[&Projection]) -> i64 {
    members.iter().map(|projection| projection.weight.value.size()[0]).sum()
}

/// The index map from the trained numbers of all adapters to the low-rank factors. With this map, one call makes the
/// factors of all groups.
pub(super) struct LowPlan {
    /// For each trained number, its index among the factors, which lie one after another: `[trained numbers]`. An index
    /// takes eight bytes; the number itself and the optimizer's two moments take twelve. This memory is the price of
    /// one call for all adapters.
    places: Tensor,
    factors: Vec<Factors>,
    episodes: i64,
    scale: f64,
}

/// Shape and position of the factors of one group of a layer.
struct Factors {
    layer: usize,
    group: usize,
    /// The index at which the group's factor A starts. Factor B follows.
    start: i64,
    members: i64,
    rank: i64,
    inputs: i64,
    outputs: i64,
}

impl LowPlan {
    /// The map for trained numbers in this order: episode by episode; within an episode projection by projection; A
    /// before B.
    pub fn new(layers: &[Layer], episodes: usize, device: Device) -> Result<Self> {
        let episodes = episodes as i64;
        let (mut factors, mut scale) = (Vec::<Factors>::new(), 1.0);
        for (number, layer) in layers.iter().enumerate() {
            for (group, members) in layer.members().into_iter().enumerate() {
                let adapters: Vec<_> = members.iter().filter_map(|projection| projection.adapter.as_ref()).collect();
                let Some(first) = adapters.first() else { continue };
                let (rank, inputs) = first.a.size2()?;
                scale = first.scale;
                let start =
                    factors.last().map_or(0, |last| last.start + last.size(episodes, last.inputs + last.outputs));
                let (members, outputs) = (adapters.len() as i64, outputs(&members));
                factors.push(Factors { layer: number, group, start, members, rank, inputs, outputs });
            }
        }
        let mut places = Vec::new();
        for episode in 0..episodes {
            for of in &factors {
                of.places(&layers[of.layer].members()[of.group], episode, episodes, &mut places);
            }
        }
        let places = Tensor::f_from_slice(&places)?.f_to_device(device)?;
        Ok(Self { places, factors, episodes, scale })
    }

    /// Makes the factors of all groups in a few calls, and passes the factors of each group to `set` (layer, group,
    /// factors).
    pub fn make(&self, flat: &Tensor, compute: TensorKind, mut set: impl FnMut(usize, usize, Low)) -> Result<()> {
        let episodes = self.episodes;
        let sizes = |of: &Factors| [of.size(episodes, of.inputs), of.size(episodes, of.outputs)];
        let sizes: Vec<i64> = self.factors.iter().flat_map(sizes).collect();
        // Each factor gets the square root of the scale. The multiplication comes before the cast, so a number is
        // rounded once.
        let scaled = flat.f_mul_scalar(self.scale.sqrt())?.f_to_kind(compute)?;
        // All factors, one after another: [sum of sizes]
        let all = Tensor::f_zeros([sizes.iter().sum::<i64>()], (compute, flat.device()))?;
        let all = all.f_index_copy(0, &self.places, &scaled)?;
        let mut parts = all.f_split_with_sizes(sizes.as_slice(), 0)?.into_iter();
        for of in &self.factors {
            if let (Some(a), Some(b)) = (parts.next(), parts.next()) {
                let (a, b) = (a.f_view([-1, of.inputs])?, b.f_view([-1, of.outputs])?);
                set(of.layer, of.group, Low { a, b, members: of.members, episodes });
            }
        }
        Ok(())
    }
}

impl Factors {
    /// How many numbers a factor with this width has.
    fn size(&self, episodes: i64, width: i64) -> i64 {
        self.members * episodes * self.rank * width
    }

    /// Appends the indices of one episode's adapters, in the order of the trained numbers.
    fn places(&self, members: &[&Projection], episode: i64, episodes: i64, places: &mut Vec<i64>) {
        let Self { start, rank, inputs, outputs, .. } = *self;
        let of_b = start + self.size(episodes, inputs);
        let (mut member, mut column) = (0, 0);
        for projection in members {
            let width = projection.weight.value.size()[0];
            if projection.adapter.is_some() {
                let row = (member * episodes + episode) * rank;
                places.extend(start + row * inputs..start + (row + rank) * inputs);
                let place = |output: i64| (row..row + rank).map(move |row| of_b + row * outputs + output);
                places.extend((column..column + width).flat_map(place));
                member += 1;
            }
            column += width;
        }
    }
}
