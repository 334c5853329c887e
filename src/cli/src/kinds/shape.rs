//! The shape of a parameter, from the JSON Schema of its kind. The pages, the sample values and the ranges need the
//! shape.

use serde_json::{Map, Value};

/// What a parameter can be.
pub enum TypeShape<'a> {
    /// `string`, `integer`, `number` or `boolean`; the other type names of JSON Schema do not occur.
    Plain(&'a str),
    /// One of these words.
    Words(Vec<Word<'a>>),
    Array(Box<TypeShape<'a>>),
    /// A table with these keys.
    Table(TableShape<'a>),
    /// A table with any keys.
    Map(Box<TypeShape<'a>>),
    /// Any of several shapes.
    Either(Vec<TypeShape<'a>>),
}

/// A word that a pipeline file can write, and its meaning (may be empty).
pub struct Word<'a> {
    pub word: &'a str,
    pub about: &'a str,
}

#[derive(Clone, Copy)]
pub struct TableShape<'a> {
    pub keys: Option<&'a Map<String, Value>>,
    required: Option<&'a Vec<Value>>,
    pub about: &'a str,
}

impl<'a> TableShape<'a> {
    /// The keys with their schemas, in the order of the declaration. The keys of a stage that are no parameters of its
    /// kind are left out.
    pub fn keys(self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let is_stage = self.keys.is_some_and(|keys| keys.contains_key("kind") && keys.contains_key("resources"));
        let own = move |(name, _): &(&'a String, &'a Value)| {
            !(is_stage && ["kind", "resources", "seed"].contains(&name.as_str()))
        };
        self.keys.into_iter().flatten().filter(own).map(|(name, schema)| (name.as_str(), schema))
    }

    pub fn requires(self, name: &str) -> bool {
        self.required.is_some_and(|required| required.iter().any(|required| required == name))
    }
}

pub fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The shape of a table whose schema this is.
pub fn table(schema: &Value) -> TableShape<'_> {
    TableShape {
        keys: schema.get("properties").and_then(Value::as_object),
        required: schema.get("required").and_then(Value::as_array),
        about: text(schema, "description"),
    }
}

/// The shape that a schema describes. `whole` is the schema of the kind, with the definitions.
pub fn shape<'a>(schema: &'a Value, whole: &'a Value) -> TypeShape<'a> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let definition = name.strip_prefix('#').and_then(|pointer| whole.pointer(pointer));
        return definition.map_or(TypeShape::Either(Vec::new()), |definition| shape(definition, whole));
    }
    if let Some(words) = words(schema) {
        return TypeShape::Words(words);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        if let Some(several) = schema.get(key).and_then(Value::as_array) {
            return either(several.iter().filter(|part| text(part, "type") != "null").map(|part| shape(part, whole)));
        }
    }
    match schema.get("type") {
        Some(Value::String(name)) => of_type(name, schema, whole),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            either(names.map(|name| of_type(name, schema, whole)))
        }
        _ => TypeShape::Either(Vec::new()),
    }
}

fn of_type<'a>(name: &'a str, schema: &'a Value, whole: &'a Value) -> TypeShape<'a> {
    let part = |key: &str| Box::new(schema.get(key).map_or(TypeShape::Either(Vec::new()), |part| shape(part, whole)));
    match name {
        "array" => TypeShape::Array(part("items")),
        "object" if schema.get("properties").is_some() => TypeShape::Table(table(schema)),
        "object" => TypeShape::Map(part("additionalProperties")),
        plain => TypeShape::Plain(plain),
    }
}

/// One shape of several. Words and strings stay apart; a single shape stands for itself.
fn either<'a>(shapes: impl Iterator<Item = TypeShape<'a>>) -> TypeShape<'a> {
    let mut shapes: Vec<TypeShape> = shapes.collect();
    if shapes.len() == 1 { shapes.remove(0) } else { TypeShape::Either(shapes) }
}

/// The words of an enumeration; `None` if the schema is no enumeration of words.
fn words(schema: &Value) -> Option<Vec<Word<'_>>> {
    if let Some(several) = schema.get("oneOf").and_then(Value::as_array) {
        let parts: Option<Vec<Vec<Word>>> = several.iter().map(words).collect();
        return parts.map(|parts| parts.into_iter().flatten().collect());
    }
    // In an enumeration with one description for several words, the description is not that of a word.
    if let Some(several) = schema.get("enum").and_then(Value::as_array) {
        return several.iter().map(|word| Some(Word { word: word.as_str()?, about: "" })).collect();
    }
    Some(vec![Word { word: schema.get("const")?.as_str()?, about: text(schema, "description") }])
}
