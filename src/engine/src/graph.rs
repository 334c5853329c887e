//! The build graph: the stages of all variants. A stage that variants share is one graph node. resolve.rs forms the
//! actions of the nodes.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use raisin_base::error::{Problem, Result, anyhow, bail, nearest};
use raisin_contract::ui::GraphStage;
use raisin_contract::{Part, Process};
use raisin_pipeline::{Pipeline, Stage, Variant};

pub type NodeId = usize;

/// A stage of one or several variants. In [`Graph::nodes`], the inputs of a node come before the node.
pub struct StageNode<'a> {
    pub stage: &'a Stage,
    /// Indices of the variants that have this stage with the same inputs.
    pub variants: Vec<usize>,
    pub needs: Vec<Need>,
    pub dependents: Vec<NodeId>,
}

/// An input stage: one node, or several nodes for a gathering kind.
pub struct Need {
    pub pointer: String,
    pub stage: String,
    /// Whether the name of the stage is in the key of a gathering kind.
    pub by_name: bool,
    pub nodes: Vec<NodeId>,
}

pub struct Graph<'a> {
    pub pipeline: &'a Pipeline,
    pub nodes: Vec<StageNode<'a>>,
    identities: HashMap<String, NodeId>,
    /// The node of a stage in a variant; `None` while the inputs of the stage are visited.
    by_name: HashMap<(usize, &'a str), Option<NodeId>>,
    stages: Vec<HashMap<&'a str, &'a Stage>>,
}

impl<'a> Graph<'a> {
    /// Builds the graph of the stages in `only` and their inputs. If `only` is empty, builds the graph of all stages.
    ///
    /// # Errors
    /// No stage has one of the names in `only`, or stages need each other in a cycle.
    pub fn of(pipeline: &'a Pipeline, only: &[String]) -> Result<Self> {
        let stages: Vec<HashMap<&str, &Stage>> = pipeline
            .variants
            .iter()
            .map(|variant| variant.stages.iter().map(|stage| (stage.name.as_str(), stage)).collect())
            .collect();
        let names: BTreeSet<&str> = stages.iter().flat_map(|stages| stages.keys().copied()).collect();
        for name in only {
            if !names.contains(name.as_str()) {
                return Err(unknown_stage(name, &format!("in `{}`", pipeline.name), names.iter().copied()).into());
            }
        }
        let mut graph =
            Self { pipeline, nodes: Vec::new(), identities: HashMap::new(), by_name: HashMap::new(), stages };
        for (index, variant) in pipeline.variants.iter().enumerate() {
            for stage in &variant.stages {
                if only.is_empty() || only.contains(&stage.name) {
                    graph.visit(index, &stage.name)?;
                }
            }
        }
        Ok(graph)
    }

    /// The node of a stage in a variant, if the graph contains it.
    pub fn node(&self, variant: usize, stage: &str) -> Option<NodeId> {
        self.by_name.get(&(variant, stage)).copied().flatten()
    }

    /// The stage name, with the variant if not all variants share the node: `features`, or `features [method=raise]`.
    pub fn label(&self, id: NodeId) -> String {
        let node = &self.nodes[id];
        let all = self.pipeline.variants.len();
        match node.variants.as_slice() {
            [one] if all > 1 => format!("{} [{}]", node.stage.name, self.pipeline.variants[*one].name),
            some if some.len() == all => node.stage.name.clone(),
            some => {
                let common = common_values(some.iter().map(|index| &self.pipeline.variants[*index]));
                let variants = match words_of_values(&common) {
                    words if words.is_empty() => format!("{} variants", some.len()),
                    words => words,
                };
                format!("{} [{variants}]", node.stage.name)
            }
        }
    }

    /// The variant name for action records and the journal. One variant: its name. Several variants: the part that
    /// their names have in common, such as `method=raise`; if nothing is in common, all names. All variants: empty.
    pub fn variant_name(&self, id: NodeId) -> String {
        let variants = &self.nodes[id].variants;
        if let [one] = variants.as_slice() {
            return self.pipeline.variants[*one].name.clone();
        }
        if variants.len() == self.pipeline.variants.len() {
            return String::new();
        }
        let names: Vec<&str> = variants.iter().map(|index| self.pipeline.variants[*index].name.as_str()).collect();
        in_common(&names).unwrap_or_else(|| names.join(";"))
    }

    /// The nodes in steps: the inputs of a node are in earlier steps. Within a step, the nodes are in their order.
    pub fn steps(&self) -> Vec<Vec<NodeId>> {
        let mut depths: Vec<usize> = Vec::with_capacity(self.nodes.len());
        let mut steps: Vec<Vec<NodeId>> = Vec::new();
        for (id, node) in self.nodes.iter().enumerate() {
            let inputs = node.needs.iter().flat_map(|need| &need.nodes);
            let depth = inputs.map(|input| depths[*input] + 1).max().unwrap_or(0);
            depths.push(depth);
            if steps.len() == depth {
                steps.push(Vec::new());
            }
            steps[depth].push(id);
        }
        steps
    }

    /// All stages, under the names of their events in the journal.
    pub fn outline(&self) -> Vec<GraphStage> {
        let stage = |(id, node): (NodeId, &StageNode<'_>)| {
            let inputs: BTreeSet<NodeId> = node.needs.iter().flat_map(|need| need.nodes.iter().copied()).collect();
            GraphStage {
                stage: node.stage.name.clone(),
                variant: self.variant_name(id),
                kind: node.stage.declaration.name.to_owned(),
                inputs: inputs.into_iter().collect(),
            }
        };
        self.nodes.iter().enumerate().map(stage).collect()
    }

    fn visit(&mut self, variant: usize, name: &str) -> Result<NodeId> {
        let Some(stage) = self.stages[variant].get(name).copied() else {
            bail!("variant `{}` has no stage `{name}`", self.pipeline.variants[variant].name);
        };
        match self.by_name.get(&(variant, stage.name.as_str())) {
            Some(Some(id)) => return Ok(*id),
            Some(None) => return Err(Problem::usage(format!("stage `{name}` needs itself")).into()),
            None => {}
        }
        let gathers = stage.declaration.gathers;
        let seen: Vec<usize> = if gathers { self.with_stage(name) } else { vec![variant] };
        for index in &seen {
            self.by_name.insert((*index, &stage.name), None);
        }
        if let Some(other) = seen.iter().find(|index| self.stages[**index][name].resolved != stage.resolved) {
            let message = format!(
                "stage `{name}` sees all variants at once, so the sweep cannot change it, as it does in variant `{}`",
                self.pipeline.variants[*other].name
            );
            return Err(Problem::usage(message).into());
        }
        let mut needs = Vec::new();
        for need in &stage.resolved.needs.stages {
            let sources = if gathers { self.with_stage(&need.stage) } else { vec![variant] };
            let mut nodes = Vec::new();
            for source in sources {
                let id = self.visit(source, &need.stage)?;
                if !nodes.contains(&id) {
                    nodes.push(id);
                }
            }
            let (pointer, stage) = (need.pointer.clone(), need.stage.clone());
            needs.push(Need { pointer, stage, by_name: need.by_name, nodes });
        }
        // Without a sweep no node can be shared, so no identity is needed.
        let identity = (self.pipeline.variants.len() > 1).then(|| self.identity(stage, variant, &needs));
        let id = match identity.as_ref().and_then(|identity| self.identities.get(identity)) {
            Some(id) => *id,
            None => self.add(stage, needs, identity),
        };
        for index in seen {
            self.nodes[id].variants.push(index);
            self.by_name.insert((index, &stage.name), Some(id));
        }
        Ok(id)
    }

    fn add(&mut self, stage: &'a Stage, needs: Vec<Need>, identity: Option<String>) -> NodeId {
        let id = self.nodes.len();
        let inputs: BTreeSet<NodeId> = needs.iter().flat_map(|need| need.nodes.iter().copied()).collect();
        for input in inputs {
            self.nodes[input].dependents.push(id);
        }
        self.nodes.push(StageNode { stage, variants: Vec::new(), needs, dependents: Vec::new() });
        self.identities.extend(identity.map(|identity| (identity, id)));
        id
    }

    fn with_stage(&self, name: &str) -> Vec<usize> {
        (0..self.stages.len()).filter(|index| self.stages[*index].contains_key(name)).collect()
    }

    /// A text that is equal for stages of two variants if both must have the same action, whatever artifacts their
    /// inputs get. The text contains all parts of the action that the pipeline file declares, and the input nodes.
    /// Files appear as written, with their expected digests, because each expected digest is checked.
    fn identity(&self, stage: &Stage, variant: usize, needs: &[Need]) -> String {
        let declaration = stage.declaration;
        let variant = &self.pipeline.variants[variant];
        let inputs: Vec<_> = needs.iter().map(|need| &need.nodes).collect();
        let seed = stage.resolved.is_seeded.then_some(stage.seed);
        let dtype = (declaration.process == Process::Tensor).then_some(variant.dtype);
        let written = Part::plain(&stage.resolved.parameters).canonical();
        format!("{} {} {inputs:?} {seed:?} {dtype:?} {written}", stage.name, declaration.name)
    }

    /// The variant from which a node takes its dtype.
    pub fn variant(&self, id: NodeId) -> Result<&'a Variant> {
        let first = self.nodes[id].variants.first().ok_or_else(|| anyhow!("a stage without a variant"))?;
        Ok(&self.pipeline.variants[*first])
    }
}

/// The stages of a pipeline and their inputs. Nothing is looked up.
///
/// # Errors
/// Stages need each other in a cycle.
pub fn outline(pipeline: &Pipeline) -> Result<Vec<GraphStage>> {
    Ok(Graph::of(pipeline, &[])?.outline())
}

/// The problem that there is no stage of this name in the place that was searched.
pub fn unknown_stage<'n>(name: &str, place: &str, names: impl Iterator<Item = &'n str> + Clone) -> Problem {
    let problem = Problem::usage(format!("there is no stage `{name}` {place}"));
    problem.hint(match nearest(name, names.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: BTreeSet<&str> = names.collect();
            format!("the stages are {}", all.into_iter().collect::<Vec<_>>().join(", "))
        }
    })
}

/// The comma-separated parts that all names contain, in the order of the first name; `None` if there are none.
fn in_common(names: &[&str]) -> Option<String> {
    let has = |name: &str, word: &str| name.split(',').any(|other| other == word);
    let words = names.first()?.split(',').filter(|word| names.iter().all(|name| has(name, word)));
    let words = words.collect::<Vec<_>>().join(",");
    (!words.is_empty()).then_some(words)
}

/// The values of a sweep as text, such as `method="raise",seed=17`.
pub fn words_of_values(values: &Map<String, Value>) -> String {
    let word = |(key, value): (&String, &Value)| format!("{}={value}", key.rsplit('.').next().unwrap_or(key));
    values.iter().map(word).collect::<Vec<_>>().join(",")
}

/// The sweep values that are equal in all these variants.
pub fn common_values<'v>(variants: impl IntoIterator<Item = &'v Variant>) -> Map<String, Value> {
    let mut variants = variants.into_iter();
    let mut common = variants.next().map(|variant| variant.values.clone()).unwrap_or_default();
    for variant in variants {
        common.retain(|key, value| variant.values.get(key) == Some(value));
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_stage_is_named_by_the_common_words_of_its_variants() {
        assert_eq!(in_common(&["m=a,seed=1", "m=a,seed=2"]).as_deref(), Some("m=a"));
        assert_eq!(in_common(&["m=a,k=3,seed=1", "m=b,k=3,seed=1"]).as_deref(), Some("k=3,seed=1"));
        assert_eq!(in_common(&["m=a,seed=1", "m=b,seed=2"]), None);
    }
}
