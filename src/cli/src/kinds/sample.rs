//! Sample parameters of a kind: values of the right shapes, which need not pass the check of the kind. They show which
//! inputs a stage can have, and which defaults the kind fills in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use raisin_base::error::{Result, anyhow};
use raisin_contract::{Declaration, ResolvedParameters};

use super::shape::{TableShape, TypeShape, shape, table};

/// Makes one sample.
struct Sampler<'a> {
    whole: &'a Value,
    /// Whether parameters that are not required are left out.
    only_required: bool,
    /// The alternative that is taken for the parameter at a path, if it is not the first.
    taken: Option<(&'a str, usize)>,
    /// The alternatives of each parameter that has several: its words, or no text for each of several shapes.
    alternatives: BTreeMap<String, Vec<String>>,
}

impl<'a> Sampler<'a> {
    fn table(&mut self, at: &str, shape_of: TableShape<'a>) -> Value {
        let mut made = Map::new();
        for (name, schema) in shape_of.keys() {
            if !self.only_required || shape_of.requires(name) {
                let path = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
                made.insert(name.to_owned(), self.value(&path, &shape(schema, self.whole)));
            }
        }
        Value::Object(made)
    }

    fn value(&mut self, at: &str, shape_of: &TypeShape<'a>) -> Value {
        match shape_of {
            TypeShape::Plain("integer") => json!(1),
            TypeShape::Plain("number") => json!(0.5),
            TypeShape::Plain("boolean") => json!(false),
            TypeShape::Plain(_) => json!("x"),
            TypeShape::Words(words) => {
                let place = self.alternative(at, || words.iter().map(|word| word.word.to_owned()).collect());
                json!(words.get(place).map(|word| word.word))
            }
            TypeShape::Array(items) => json!([self.value(&format!("{at}[]"), items)]),
            TypeShape::Table(keys) => self.table(at, *keys),
            TypeShape::Map(values) => json!({"x": self.value(&format!("{at}.NAME"), values)}),
            TypeShape::Either(shapes) => {
                let place = self.alternative(at, || vec![String::new(); shapes.len()]);
                shapes.get(place).map_or(Value::Null, |shape| self.value(at, shape))
            }
        }
    }

    /// The number of the alternative to take for the parameter at a path.
    fn alternative(&mut self, at: &str, names: impl FnOnce() -> Vec<String>) -> usize {
        if self.taken.is_none() {
            self.alternatives.insert(at.to_owned(), names());
        }
        self.taken.filter(|(path, _)| *path == at).map_or(0, |(_, place)| place)
    }
}

/// Parameters with every default written out, whether or not they pass the check of the kind.
fn unchecked(kind: &Declaration, parameters: Value) -> Result<ResolvedParameters> {
    kind.resolve_unless(parameters, &mut |_| true).map_err(|problem| {
        anyhow!("a sample of the parameters of `{}` is refused at {}: {}", kind.name, problem.pointer, problem.message)
    })
}

/// The parameters of a stage that gives only what is required, with every default written out.
///
/// # Errors
/// A type of the parameters reads something else than its JSON Schema says.
pub fn least(kind: &Declaration, whole: &Value) -> Result<Value> {
    let mut sampler = Sampler { whole, only_required: true, taken: None, alternatives: BTreeMap::new() };
    let made = sampler.table("", table(whole));
    Ok(unchecked(kind, made)?.parameters)
}

/// An input that a parameter names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SampleInput {
    /// The dotted name of the parameter, such as `sources[].path`.
    pub parameter: String,
    pub names: InputType,
    /// The conditions under which the stage uses the input: a parameter with one of these words.
    pub only: Vec<(String, Vec<String>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InputType {
    /// A stage of any kind, or a stage that provides this.
    Stage(Option<&'static str>),
    /// A file or a folder.
    File,
    /// A file, a folder, a pattern or an address: each file is read.
    Files,
}

/// The inputs that a stage of this kind can have, in the order of the parameters. They are found with samples: one that
/// gives every parameter, and one more for each other word of each parameter.
///
/// # Errors
/// A type of the parameters reads something else than its JSON Schema says.
pub fn inputs(kind: &Declaration, whole: &Value) -> Result<Vec<SampleInput>> {
    let mut sampler = Sampler { whole, only_required: false, taken: None, alternatives: BTreeMap::new() };
    let made = sampler.table("", table(whole));
    let first = needed(&unchecked(kind, made)?);
    let alternatives = sampler.alternatives;
    let mut all: Vec<(String, InputType)> = first.iter().cloned().collect();
    // For each parameter with alternatives, the inputs with each alternative.
    let mut found: BTreeMap<&str, Vec<BTreeSet<(String, InputType)>>> = BTreeMap::new();
    for (path, words) in &alternatives {
        for place in 0..words.len() {
            let inputs = if place == 0 {
                first.clone()
            } else {
                let taken = Some((path.as_str(), place));
                let mut sampler = Sampler { whole, only_required: false, taken, alternatives: BTreeMap::new() };
                let made = sampler.table("", table(whole));
                needed(&unchecked(kind, made)?)
            };
            all.extend(inputs.iter().cloned());
            found.entry(path).or_default().push(inputs);
        }
    }
    all.sort();
    all.dedup();
    let mut inputs: Vec<SampleInput> = Vec::new();
    for input in all {
        let mut only = Vec::new();
        for (path, words) in &alternatives {
            let Some(with) = found.get(path.as_str()) else { continue };
            let used: Vec<String> = words
                .iter()
                .zip(with)
                .filter(|(_, inputs)| inputs.contains(&input))
                .map(|(word, _)| word.clone())
                .collect();
            let is_said = used.iter().all(|word| !word.is_empty());
            if is_said && !used.is_empty() && used.len() < words.len() {
                only.push((path.clone(), used));
            }
        }
        let (parameter, names) = input;
        inputs.push(SampleInput { parameter, names, only });
    }
    let order = order(whole);
    inputs.sort_by_key(|input| order.iter().position(|path| *path == input.parameter));
    Ok(inputs)
}

/// The inputs of a stage, with the dotted names of their parameters.
fn needed(resolved: &ResolvedParameters) -> BTreeSet<(String, InputType)> {
    let needs = &resolved.needs;
    let stages = needs.stages.iter().map(|need| (dotted(&need.pointer), InputType::Stage(need.provides)));
    let files = needs
        .files
        .iter()
        .map(|need| (dotted(&need.pointer), if need.several { InputType::Files } else { InputType::File }));
    stages.chain(files).collect()
}

/// The dotted name of the parameter at a pointer: `/sources/0/path` is `sources[].path`.
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        if part.bytes().all(|letter| letter.is_ascii_digit()) {
            path.push_str("[]");
        } else {
            path.push_str(if path.is_empty() { "" } else { "." });
            path.push_str(part);
        }
    }
    path
}

/// The dotted names of all parameters, in the order of the declaration. An array also stands for its items.
fn order(whole: &Value) -> Vec<String> {
    fn add<'a>(at: &str, shape_of: &TypeShape<'a>, whole: &'a Value, order: &mut Vec<String>) {
        order.push(at.to_owned());
        match shape_of {
            TypeShape::Array(items) => add(&format!("{at}[]"), items, whole, order),
            TypeShape::Map(values) => add(&format!("{at}.NAME"), values, whole, order),
            TypeShape::Either(shapes) => shapes.iter().for_each(|shape| add(at, shape, whole, order)),
            TypeShape::Table(keys) => {
                for (name, schema) in keys.keys() {
                    let path = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
                    add(&path, &shape(schema, whole), whole, order);
                }
            }
            TypeShape::Plain(_) | TypeShape::Words(_) => {}
        }
    }
    let mut names = Vec::new();
    add("", &TypeShape::Table(table(whole)), whole, &mut names);
    names
}
