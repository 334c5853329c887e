//! The tree of a pipeline file: every key and value has its origin. This file parses TOML and merges trees; include.rs
//! reads the files.
//!
//! The values of the crate `toml` do not have the origin: after files are merged and flags are applied, the origin
//! would be lost. A problem with a value can be found much later, when the kind checks its parameters.

use std::cell::OnceCell;
use std::rc::Rc;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use raisin_base::error::{FilePosition, Problem};

/// A pipeline file or a flag of the command line, in which something was written.
#[derive(Debug)]
pub enum WrittenIn {
    File {
        name: String,
        text: String,
        /// The offset of the beginning of each line; computed when the first place is needed.
        lines: OnceCell<Vec<usize>>,
    },
    /// A flag, such as `--set pipeline.seed=3`.
    Flag(String),
}

/// Where a key or a value was written.
#[derive(Clone, Debug)]
pub struct Origin {
    source: Rc<WrittenIn>,
    /// The offset in the text of a file, in bytes. Unused for a flag.
    offset: usize,
}

/// A value of a pipeline file, with its origin.
#[derive(Clone, Debug)]
pub struct TreeNode {
    pub content: NodeContent,
    pub origin: Origin,
}

#[derive(Clone, Debug)]
pub enum NodeContent {
    Scalar(Value),
    Array(Vec<TreeNode>),
    Table(Table),
}

/// A table, with its entries in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub entries: Vec<TableEntry>,
    /// Whether the table was written as `{ ... }`. An including file replaces an inline table as a whole; other tables
    /// are merged.
    pub inline: bool,
}

/// A key and its value in a table of a pipeline file.
#[derive(Clone, Debug)]
pub struct TableEntry {
    pub key: String,
    pub origin: Origin,
    pub node: TreeNode,
}

impl Origin {
    pub fn flag(text: String) -> Self {
        Self { source: Rc::new(WrittenIn::Flag(text)), offset: 0 }
    }

    /// A problem at this origin.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        self.written().problem(message)
    }

    /// The origin in a form that does not need the tree.
    pub fn written(&self) -> Written {
        match &*self.source {
            WrittenIn::File { name, text, lines } => {
                let lines = lines.get_or_init(|| line_starts(text));
                Written::At(place(name, text, lines, self.offset))
            }
            WrittenIn::Flag(flag) => Written::By(flag.clone()),
        }
    }
}

/// Where a value was written, for problems that are found after the load, for example when the engine plans the stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    At(FilePosition),
    /// In a flag, such as `--set stage.pool.size=3`.
    By(String),
}

impl Written {
    /// A problem at this place.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        match self {
            Self::At(place) => Problem::usage(message).at(place.clone()),
            Self::By(flag) => Problem::usage(format!("from {flag}: {}", message.into())),
        }
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

fn place(file: &str, text: &str, lines: &[usize], offset: usize) -> FilePosition {
    let offset = offset.min(text.len());
    let line = lines.partition_point(|start| *start <= offset);
    let start = lines.get(line - 1).copied().unwrap_or_default();
    let before = text.get(start..offset).unwrap_or_default();
    FilePosition { file: file.to_owned(), line, column: before.chars().count() + 1 }
}

impl TreeNode {
    /// Parses the text of a pipeline file.
    ///
    /// # Errors
    /// The text is not TOML. The error has the place of the mistake.
    pub fn parse(file: &str, text: String) -> Result<Self, Problem> {
        let table = DeTable::parse(&text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            Problem::usage(format!("this is not TOML: {}", error.message())).at(place(
                file,
                &text,
                &line_starts(&text),
                offset,
            ))
        })?;
        let source = WrittenIn::File { name: file.to_owned(), text: text.clone(), lines: OnceCell::new() };
        let source = Rc::new(source);
        let origin = Origin { source: Rc::clone(&source), offset: 0 };
        let table = table_of(table.get_ref(), &source, false)?;
        Ok(Self { content: NodeContent::Table(table), origin })
    }

    /// Parses a value from the command line as TOML. If it is not TOML, the value is the text itself.
    ///
    /// # Errors
    /// The value contains a number that JSON cannot hold.
    pub fn parse_flag(text: &str, origin: &Origin) -> Result<Self, Problem> {
        match DeValue::parse(text) {
            Ok(value) => node_of(&value, &origin.source),
            Err(_) => Ok(Self { content: NodeContent::Scalar(Value::String(text.to_owned())), origin: origin.clone() }),
        }
    }

    pub fn table(&self) -> Option<&Table> {
        match &self.content {
            NodeContent::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.content {
            NodeContent::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The type of the value for messages, such as `a string` or `an array`.
    pub fn type_name(&self) -> &'static str {
        match &self.content {
            NodeContent::Scalar(Value::String(_)) => "a string",
            NodeContent::Scalar(Value::Bool(_)) => "a boolean",
            NodeContent::Scalar(_) => "a number",
            NodeContent::Array(_) => "an array",
            NodeContent::Table(_) => "a table",
        }
    }

    pub fn to_json(&self) -> Value {
        match &self.content {
            NodeContent::Scalar(value) => value.clone(),
            NodeContent::Array(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            NodeContent::Table(table) => Value::Object(table.to_json()),
        }
    }
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&TreeNode> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub fn entry(&self, key: &str) -> Option<&TableEntry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub fn entry_mut(&mut self, key: &str) -> Option<&mut TableEntry> {
        self.entries.iter_mut().find(|entry| entry.key == key)
    }

    pub fn remove(&mut self, key: &str) -> Option<TableEntry> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at))
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    pub fn to_json(&self) -> Map<String, Value> {
        self.entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect()
    }

    /// Merges `other` into this table. The values of `other` take precedence. Tables that are not inline are merged.
    pub fn merge(&mut self, other: Table) {
        for entry in other.entries {
            match self.entry_mut(&entry.key) {
                None => self.entries.push(entry),
                Some(old) => {
                    (old.origin, old.node.origin) = (entry.origin, entry.node.origin);
                    match (&mut old.node.content, entry.node.content) {
                        (NodeContent::Table(table), NodeContent::Table(other)) if !table.inline && !other.inline => {
                            table.merge(other);
                        }
                        (content, other) => *content = other,
                    }
                }
            }
        }
    }
}

fn table_of(table: &DeTable<'_>, source: &Rc<WrittenIn>, inline: bool) -> Result<Table, Problem> {
    let mut spanned: Vec<_> = table.iter().collect();
    spanned.sort_by_key(|(key, _)| key.span().start);
    let mut entries = Vec::with_capacity(spanned.len());
    for (key, value) in spanned {
        entries.push(TableEntry {
            key: key.get_ref().to_string(),
            origin: Origin { source: Rc::clone(source), offset: key.span().start },
            node: node_of(value, source)?,
        });
    }
    Ok(Table { entries, inline })
}

fn node_of(value: &Spanned<DeValue<'_>>, source: &Rc<WrittenIn>) -> Result<TreeNode, Problem> {
    let origin = Origin { source: Rc::clone(source), offset: value.span().start };
    let content = match value.get_ref() {
        DeValue::String(text) => NodeContent::Scalar(Value::String(text.to_string())),
        DeValue::Boolean(yes) => NodeContent::Scalar(Value::Bool(*yes)),
        DeValue::Datetime(moment) => NodeContent::Scalar(Value::String(moment.to_string())),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix())
                .map(Number::from)
                .or_else(|_| u64::from_str_radix(integer.as_str(), integer.radix()).map(Number::from));
            let number = number.map_err(|_| origin.problem("this integer does not fit 64 bits"))?;
            NodeContent::Scalar(Value::Number(number))
        }
        DeValue::Float(float) => {
            let number = float.as_str().parse().ok().and_then(Number::from_f64);
            NodeContent::Scalar(Value::Number(number.ok_or_else(|| origin.problem("this is not a finite number"))?))
        }
        DeValue::Array(items) => {
            NodeContent::Array(items.iter().map(|item| node_of(item, source)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let inline = match &**source {
                WrittenIn::File { text, .. } => text[value.span().start..].starts_with('{'),
                WrittenIn::Flag(_) => true,
            };
            NodeContent::Table(table_of(table, source, inline)?)
        }
    };
    Ok(TreeNode { content, origin })
}
