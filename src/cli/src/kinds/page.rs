//! What `raisin kinds` says about one kind, collected from its declaration. terminal.rs and markdown.rs print it.

use serde_json::Value;

use raisin_base::error::Result;
use raisin_contract::Declaration;
use raisin_kinds::KINDS;
use raisin_pipeline::{load_text, schema};

use super::ranges;
use super::sample::{self, SampleInput};
use super::shape::{TableShape, TypeShape, Word, shape, table, text};

pub struct KindPage {
    pub kind: &'static Declaration,
    pub inputs: Vec<SampleInput>,
    /// The parameters of the stage, and then those of each table in them, from the outside to the inside.
    pub groups: Vec<ParameterGroup>,
}

/// The keys of one table.
pub struct ParameterGroup {
    /// The dotted name of the table, such as `sources[]`; empty for the parameters of the stage.
    pub path: String,
    pub about: String,
    pub parameters: Vec<ParameterRow>,
}

pub struct ParameterRow {
    /// The dotted name, such as `sources[].format`.
    pub path: String,
    /// The type, such as `array of tables`.
    pub type_name: String,
    pub state: PageState,
    /// The range of a number, such as `at least 1`.
    pub range: Option<String>,
    pub about: String,
    /// The words that the parameter can be, with their meanings.
    pub words: Vec<(String, String)>,
    /// The paths of the groups with the keys of the tables that the parameter holds.
    pub groups: Vec<String>,
}

/// Whether a pipeline file must give a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum PageState {
    Required,
    Optional,
    Default(Value),
}

impl KindPage {
    pub fn of(kind: &'static Declaration) -> Result<Self> {
        let whole = schema::of_kind(kind);
        let mut examples = Vec::new();
        for example in kind.examples {
            let pipeline = load_text("example.toml", example.text, KINDS)?;
            let stages = pipeline.variants.iter().take(1).flat_map(|variant| &variant.stages);
            let stages = stages.filter(|stage| stage.declaration.name == kind.name);
            examples.extend(stages.map(|stage| stage.resolved.parameters.clone()));
        }
        let least = sample::least(kind, &whole)?;
        let mut collector = Collector { kind, whole: &whole, least: &least, examples: &examples, groups: Vec::new() };
        collector.group("", "", table(&whole), kind.about);
        Ok(Self { kind, inputs: sample::inputs(kind, &whole)?, groups: collector.groups })
    }

    pub fn group(&self, path: &str) -> Option<&ParameterGroup> {
        self.groups.iter().find(|group| group.path == path)
    }
}

/// The names of the kinds that provide this.
pub fn providers(provided: &str) -> Vec<&'static str> {
    KINDS.iter().filter(|kind| kind.provides.contains(&provided)).map(|kind| kind.name).collect()
}

struct Collector<'a> {
    kind: &'static Declaration,
    whole: &'a Value,
    /// The parameters of a stage that gives only what is required.
    least: &'a Value,
    /// The parameters of the stages of the examples.
    examples: &'a [Value],
    groups: Vec<ParameterGroup>,
}

impl<'a> Collector<'a> {
    /// Adds the keys of a table, and the tables in it. `at` is the dotted name of the table, `pointer` its JSON pointer
    /// in parameters.
    fn group(&mut self, at: &str, pointer: &str, keys: TableShape<'a>, about: &str) {
        let place = self.groups.len();
        self.groups.push(ParameterGroup { path: at.to_owned(), about: about.to_owned(), parameters: Vec::new() });
        let siblings = keys.keys().filter_map(|(name, schema)| match shape(schema, self.whole) {
            TypeShape::Words(words) => Some((name.to_owned(), words.iter().map(|word| word.word.to_owned()).collect())),
            _ => None,
        });
        let siblings: Vec<(String, Vec<String>)> = siblings.collect();
        for (name, schema) in keys.keys() {
            let path = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
            let pointer = format!("{pointer}/{name}");
            let shape_of = shape(schema, self.whole);
            let parameter = ParameterRow {
                type_name: type_name(&shape_of, false),
                state: self.state(keys, name, &pointer, schema, &shape_of),
                range: self.range(&shape_of, &pointer, schema, &siblings),
                about: text(schema, "description").replace("\n\n", " "),
                words: words(&shape_of).iter().map(|word| (word.word.to_owned(), word.about.to_owned())).collect(),
                groups: inner(&path, &pointer, &shape_of).into_iter().map(|(path, ..)| path).collect(),
                path: path.clone(),
            };
            self.groups[place].parameters.push(parameter);
            for (path, pointer, keys) in inner(&path, &pointer, &shape_of) {
                self.group(&path, &pointer, keys, keys.about);
            }
        }
    }

    fn state(&self, keys: TableShape, name: &str, pointer: &str, schema: &Value, shape_of: &TypeShape) -> PageState {
        if keys.requires(name) {
            return PageState::Required;
        }
        if matches!(shape_of, TypeShape::Table(_) | TypeShape::Map(_)) {
            return PageState::Optional;
        }
        let written = schema.get("default").filter(|default| !default.is_null());
        let filled_in = || self.least.pointer(pointer).filter(|default| !default.is_null());
        // serde skips a switch that is off; see `raisin_kinds::is_off`.
        let is_switch = schema.get("type").is_some_and(|name| name == "boolean");
        match written.or_else(filled_in) {
            Some(default) => PageState::Default(default.clone()),
            None if is_switch => PageState::Default(Value::Bool(false)),
            None => PageState::Optional,
        }
    }

    /// The range of a number. `siblings` are the parameters of the same table that can be words.
    fn range(
        &self,
        shape_of: &TypeShape,
        pointer: &str,
        schema: &Value,
        siblings: &[(String, Vec<String>)],
    ) -> Option<String> {
        let questions = || ranges::questions(self.kind, self.examples, pointer, siblings);
        match shape_of {
            TypeShape::Plain("integer") => ranges::of_integer(&questions(), text(schema, "format")),
            TypeShape::Plain("number") => ranges::of_number(&questions()),
            _ => None,
        }
    }
}

/// The tables in a parameter: dotted name, JSON pointer, keys.
fn inner<'a>(path: &str, pointer: &str, shape_of: &TypeShape<'a>) -> Vec<(String, String, TableShape<'a>)> {
    match shape_of {
        TypeShape::Table(keys) => vec![(path.to_owned(), pointer.to_owned(), *keys)],
        TypeShape::Array(items) => inner(&format!("{path}[]"), &format!("{pointer}/0"), items),
        TypeShape::Map(values) => inner(&format!("{path}.NAME"), &format!("{pointer}/NAME"), values),
        TypeShape::Either(shapes) => shapes.iter().flat_map(|shape| inner(path, pointer, shape)).collect(),
        TypeShape::Plain(_) | TypeShape::Words(_) => Vec::new(),
    }
}

fn type_name(shape_of: &TypeShape, several: bool) -> String {
    let name = |one: &str| if several { format!("{one}s") } else { one.to_owned() };
    match shape_of {
        TypeShape::Plain(plain) => name(plain),
        TypeShape::Words(_) => name("word"),
        TypeShape::Table(_) => name("table"),
        TypeShape::Array(items) => format!("{} of {}", name("array"), type_name(items, true)),
        TypeShape::Map(values) => format!("{} of {}", name("table"), type_name(values, true)),
        TypeShape::Either(shapes) => {
            let mut names: Vec<String> = shapes.iter().map(|shape| type_name(shape, several)).collect();
            names.dedup();
            names.join(" or ")
        }
    }
}

fn words<'s, 'a>(shape_of: &'s TypeShape<'a>) -> Vec<&'s Word<'a>> {
    match shape_of {
        TypeShape::Words(words) => words.iter().collect(),
        TypeShape::Array(inside) | TypeShape::Map(inside) => words(inside),
        TypeShape::Either(shapes) => shapes.iter().flat_map(words).collect(),
        TypeShape::Plain(_) | TypeShape::Table(_) => Vec::new(),
    }
}
