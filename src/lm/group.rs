//! Projections of one input as one product: q, k and v; gate and up. For a GPU, where a small model waits for calls and not
//! for arithmetic. Adapters take part as one pair of factors over all episodes, made for a whole pass by [`LowPlan`].

use tch::{Device, Kind, Tensor};

use super::batch::Lanes;
use super::layer::{Layer, Linear};
use crate::error::Result;

/// Projections of the same input, one below the other.
pub(super) struct Group {
    /// [outputs of all, in]
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// While passes are joined and the layer has adapters.
    pub low: Option<Low>,
}

/// What adapters add to a group. Each has rows of its own in the two factors, zero where its projection's outputs are not.
pub(super) struct Low {
    /// [members * episodes * rank, in]
    pub a: Tensor,
    /// [members * episodes * rank, outputs of all]
    pub b: Tensor,
    pub members: i64,
    pub episodes: i64,
}

impl Group {
    /// `[tokens, in]` to `[tokens, outputs of all]`.
    pub fn forward(&self, x: &Tensor, lanes: &Lanes) -> Result<Tensor> {
        let mut y = x.f_linear(&self.weight, self.bias.as_ref())?;
        let Some(Low { a, b, members, episodes }) = &self.low else { return Ok(y) };
        let mut low = x.f_linear(a, None::<&Tensor>)?;
        if *episodes > 1 {
            // All adapters have seen all rows: what is not theirs is struck out.
            let owners = lanes.owners(x.device())?.f_view([-1, 1, *episodes, 1])?;
            let tokens = x.size2()?.0;
            low = low.f_view([tokens, *members, *episodes, -1])?.f_mul(&owners)?.f_view([tokens, -1])?;
        }
        Ok(y.f_addmm_(&low, b)?)
    }
}

/// The groups of a layer.
pub(super) struct Groups {
    pub qkv: Group,
    pub o: Group,
    pub gate_up: Group,
    pub down: Group,
}

impl Groups {
    /// Without biases and adapters.
    pub fn of_weights(qkv: Tensor, o: Tensor, gate_up: Tensor, down: Tensor) -> Self {
        let group = |weight| Group { weight, bias: None, low: None };
        Self { qkv: group(qkv), o: group(o), gate_up: group(gate_up), down: group(down) }
    }

    /// The same weights without adapters; nothing is copied.
    pub fn shallow_clone(&self) -> Self {
        let group = |group: &Group| Group {
            weight: group.weight.shallow_clone(),
            bias: group.bias.as_ref().map(Tensor::shallow_clone),
            low: None,
        };
        let Self { qkv, o, gate_up, down } = self;
        Self { qkv: group(qkv), o: group(o), gate_up: group(gate_up), down: group(down) }
    }

    pub fn all_mut(&mut self) -> [&mut Group; 4] {
        [&mut self.qkv, &mut self.o, &mut self.gate_up, &mut self.down]
    }

    pub fn has_adapters(&self) -> bool {
        [&self.qkv, &self.o, &self.gate_up, &self.down].iter().any(|group| group.low.is_some())
    }
}

impl Layer {
    /// What the names of its parameters begin with.
    pub fn prefix(&self) -> &str {
        self.q.name.strip_suffix("self_attn.q_proj").unwrap_or_default()
    }

    pub fn has_bias(&self) -> bool {
        self.linears().iter().any(|linear| linear.bias.is_some())
    }

    /// The projections of each group.
    pub fn members(&self) -> [Vec<&Linear>; 4] {
        [vec![&self.q, &self.k, &self.v], vec![&self.o], vec![&self.gate, &self.up], vec![&self.down]]
    }

    /// Lays the weights of each group one below the other. The projections' own weights become views of that.
    pub fn group(&mut self) -> Result<()> {
        let together = |members: &mut [&mut Linear]| -> Result<Group> {
            let weights: Vec<&Tensor> = members.iter().map(|linear| &linear.weight.value).collect();
            let weight = if let [single] = weights[..] { single.shallow_clone() } else { Tensor::f_cat(&weights, 0)? };
            let biases: Option<Vec<&Tensor>> =
                members.iter().map(|linear| linear.bias.as_ref().map(|bias| &bias.value)).collect();
            let bias = biases.map(|biases| Tensor::f_cat(&biases, 0)).transpose()?;
            let mut start = 0;
            for linear in members {
                let outputs = linear.weight.value.size2()?.0;
                linear.weight.value = weight.f_narrow(0, start, outputs)?;
                start += outputs;
            }
            Ok(Group { weight, bias, low: None })
        };
        self.groups = Some(Groups {
            qkv: together(&mut [&mut self.q, &mut self.k, &mut self.v])?,
            o: together(&mut [&mut self.o])?,
            gate_up: together(&mut [&mut self.gate, &mut self.up])?,
            down: together(&mut [&mut self.down])?,
        });
        Ok(())
    }

    /// The groups, unless there are adapters that they do not know.
    pub fn grouped(&self) -> Option<&Groups> {
        let known =
            |groups: &&Groups| groups.has_adapters() || self.linears().iter().all(|linear| linear.adapter.is_none());
        self.groups.as_ref().filter(known)
    }
}

/// Where the numbers of all adapters go when the factors of all groups are made at once.
pub(super) struct LowPlan {
    /// For each trained number its place in the factors, which lie one after another.
    places: Tensor,
    factors: Vec<Factors>,
    scale: f64,
}

/// Those of one group of a layer.
struct Factors {
    layer: usize,
    group: usize,
    members: i64,
    rank: i64,
    inputs: i64,
    outputs: i64,
}

impl LowPlan {
    /// For trained numbers that lie episode by episode, in each projection by projection, A before B.
    pub fn new(layers: &[Layer], episodes: usize, device: Device) -> Result<Self> {
        let (mut factors, mut starts) = (Vec::new(), Vec::new());
        let (mut total, mut scale) = (0, 1.0);
        for (number, layer) in layers.iter().enumerate() {
            for (group, members) in layer.members().into_iter().enumerate() {
                let adapters: Vec<_> = members.iter().filter_map(|linear| linear.adapter.as_ref()).collect();
                let Some(first) = adapters.first() else { continue };
                let (rank, inputs) = first.a.size2()?;
                scale = first.scale;
                let outputs = members.iter().map(|linear| linear.weight.value.size()[0]).sum();
                let rows = adapters.len() as i64 * episodes as i64 * rank;
                starts.push(total);
                total += rows * (inputs + outputs);
                factors.push(Factors { layer: number, group, members: adapters.len() as i64, rank, inputs, outputs });
            }
        }
        let mut places: Vec<i64> = Vec::new();
        for episode in 0..episodes as i64 {
            let mut groups = factors.iter().zip(&starts);
            for layer in layers {
                for members in layer.members() {
                    if members.iter().all(|linear| linear.adapter.is_none()) {
                        continue;
                    }
                    let Some((factors, start)) = groups.next() else { continue };
                    let Factors { members: count, rank, inputs, outputs, .. } = factors;
                    let of_b = start + count * episodes as i64 * rank * inputs;
                    let (mut member, mut column) = (0, 0);
                    for linear in members {
                        let width = linear.weight.value.size()[0];
                        if linear.adapter.is_some() {
                            let row = (member * episodes as i64 + episode) * rank;
                            places.extend(start + row * inputs..start + (row + rank) * inputs);
                            for output in column..column + width {
                                places.extend((0..*rank).map(|factor| of_b + (row + factor) * outputs + output));
                            }
                            member += 1;
                        }
                        column += width;
                    }
                }
            }
        }
        let places = Tensor::f_from_slice(&places)?.f_to_device(device)?;
        Ok(Self { places, factors, scale })
    }

    /// The factors, made of all trained numbers in a handful of calls. What belongs to each group is handed to `set`.
    pub fn make(
        &self,
        flat: &Tensor,
        episodes: i64,
        compute: Kind,
        mut set: impl FnMut(usize, usize, Low),
    ) -> Result<()> {
        let size = |of: &Factors, width: i64| of.members * episodes * of.rank * width;
        let sizes: Vec<i64> = self.factors.iter().flat_map(|of| [size(of, of.inputs), size(of, of.outputs)]).collect();
        // The scale of their product is shared out to both, before the only rounding.
        let scaled = flat.f_mul_scalar(self.scale.sqrt())?.f_to_kind(compute)?;
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
