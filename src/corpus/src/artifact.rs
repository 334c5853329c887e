//! The tables of instructions and tasks: stages write them here, and later stages read them here.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder, StringBuilder, UInt32Builder, UInt64Builder};
use arrow_array::cast::AsArray as _;
use arrow_array::{
    Array, ArrayRef, Int32Array, ListArray, RecordBatch, StringArray, UInt32Array, UInt64Array, new_null_array,
};
use arrow_schema::{DataType, Field};

use serde_json::Value;

use super::message::{Example, Instruction, Message, ScoringRule, Task, conversation, prompt_of};
use raisin_base::error::{Context as _, Result, anyhow};
use raisin_table as table;

/// One row of the `instructions` table: a conversation and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRow {
    pub messages: Vec<Message>,
    /// The tools that the assistant may call, as JSON schemas of the OpenAI interface.
    pub tools: Vec<Value>,
    /// The rejected response of a preference file. It is kept for queries; no stage trains on it.
    pub rejected: Option<String>,
    /// The index of the file in the `sources` table.
    pub source: u32,
    /// The position of the record in its file, from 1: in a JSONL file the line, in other files the number of the
    /// record.
    pub line: u64,
    /// The number of exact copies that were folded into this row.
    pub duplicates: u32,
    pub label: Option<String>,
}

impl PoolRow {
    pub fn new(messages: Vec<Message>, source: u32, line: u64) -> Self {
        Self::with_tools(messages, Vec::new(), source, line)
    }

    pub fn with_tools(messages: Vec<Message>, tools: Vec<Value>, source: u32, line: u64) -> Self {
        Self { messages, tools, rejected: None, source, line, duplicates: 0, label: None }
    }
}

/// A conversation as the columns system, prompt and response; `None` if these three columns do not hold all of it.
fn plain(messages: &[Message]) -> Option<(Option<&str>, &str, &str)> {
    if !messages.iter().all(Message::is_text) {
        return None;
    }
    let prompt = prompt_place(messages.iter().map(|message| message.role.as_str()))?;
    let text = |index: usize| messages[index].content.as_str();
    Some(((prompt == 1).then(|| text(0)), text(prompt), text(prompt + 1)))
}

/// The place of the prompt among turns of these roles, if they are a prompt and a response, or a system text before both.
fn prompt_place<'r>(mut roles: impl Iterator<Item = &'r str>) -> Option<usize> {
    match [roles.next(), roles.next(), roles.next(), roles.next()] {
        [Some("system"), Some("user"), Some("assistant"), None] => Some(1),
        [Some("user"), Some("assistant"), None, None] => Some(0),
        _ => None,
    }
}

/// The columns of a conversation in the tables `instructions`, `validation` and `test`. `messages` is null if `system`,
/// `prompt` and `response` hold the whole conversation; otherwise `messages` is all turns as JSON, the response
/// included. `tools` is the JSON list of the tools that the assistant may call; null without tools.
#[derive(Default)]
pub struct ConversationColumns {
    system: OptionalTexts,
    prompt: StringBuilder,
    response: StringBuilder,
    messages: OptionalTexts,
    tools: OptionalTexts,
}

/// A column of texts that most tables do not have: nulls before the first text are only counted.
#[derive(Default)]
struct OptionalTexts {
    nulls: usize,
    texts: Option<StringBuilder>,
}

impl OptionalTexts {
    /// The column from the first text on.
    fn texts(&mut self) -> &mut StringBuilder {
        self.texts.get_or_insert_with(|| {
            let mut texts = StringBuilder::new();
            texts.append_nulls(self.nulls);
            texts
        })
    }

    fn append_null(&mut self) {
        match &mut self.texts {
            Some(texts) => texts.append_null(),
            None => self.nulls += 1,
        }
    }

    fn append_value(&mut self, text: impl AsRef<str>) {
        self.texts().append_value(text);
    }

    fn append_option(&mut self, text: Option<impl AsRef<str>>) {
        match text {
            Some(text) => self.append_value(text),
            None => self.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self.texts {
            Some(mut texts) => Arc::new(texts.finish()),
            None => new_null_array(&DataType::Utf8, self.nulls),
        }
    }
}

impl ConversationColumns {
    pub fn push(&mut self, conversation: &[Message], tools: &[Value]) -> Result<()> {
        let tools = (!tools.is_empty()).then(|| serde_json::to_string(tools)).transpose()?;
        self.tools.append_option(tools);
        if let Some((system, prompt, response)) = plain(conversation) {
            self.system.append_option(system);
            self.prompt.append_value(prompt);
            self.response.append_value(response);
            self.messages.append_null();
        } else {
            let first = conversation.first().filter(|message| message.role == "system");
            self.system.append_option(first.map(|message| &message.content));
            self.prompt.append_value(prompt_of(conversation));
            self.response.append_value(conversation.last().map_or("", |message| &message.content));
            self.messages.append_value(serde_json::to_string(conversation)?);
        }
        Ok(())
    }

    /// Adds a conversation without tools, of which `write` writes the text of each turn. Returns false if the columns
    /// system, prompt and response do not hold turns of these roles: then nothing is added.
    ///
    /// # Errors
    /// `write` fails.
    pub fn push_texts<'r>(
        &mut self,
        roles: impl Iterator<Item = &'r str>,
        write: impl Fn(usize, &mut StringBuilder) -> fmt::Result,
    ) -> Result<bool> {
        let Some(prompt) = prompt_place(roles) else { return Ok(false) };
        let add = |turn: usize, column: &mut StringBuilder| -> Result<()> {
            write(turn, column)?;
            column.append_value("");
            Ok(())
        };
        match prompt {
            0 => self.system.append_null(),
            _ => add(0, self.system.texts())?,
        }
        add(prompt, &mut self.prompt)?;
        add(prompt + 1, &mut self.response)?;
        self.messages.append_null();
        self.tools.append_null();
        Ok(true)
    }

    pub(crate) fn finish(mut self) -> Vec<(&'static str, ArrayRef)> {
        vec![
            ("system", self.system.finish()),
            ("prompt", Arc::new(self.prompt.finish())),
            ("response", Arc::new(self.response.finish())),
            ("messages", self.messages.finish()),
            ("tools", self.tools.finish()),
        ]
    }
}

/// A row of the table `instructions`, in whatever form it is kept.
pub trait TableRow {
    /// Adds the conversation.
    ///
    /// # Errors
    /// The turns cannot be written as JSON.
    fn add(&self, columns: &mut ConversationColumns) -> Result<()>;

    fn rejected(&self) -> Option<Cow<'_, str>>;

    fn origin(&self) -> RowOrigin<'_>;
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug)]
pub struct RowOrigin<'r> {
    pub source: u32,
    pub line: u64,
    pub duplicates: u32,
    pub label: Option<&'r str>,
}

impl TableRow for PoolRow {
    fn add(&self, columns: &mut ConversationColumns) -> Result<()> {
        columns.push(&self.messages, &self.tools)
    }

    fn rejected(&self) -> Option<Cow<'_, str>> {
        self.rejected.as_deref().map(Cow::Borrowed)
    }

    fn origin(&self) -> RowOrigin<'_> {
        let Self { source, line, duplicates, label, .. } = self;
        RowOrigin { source: *source, line: *line, duplicates: *duplicates, label: label.as_deref() }
    }
}

impl<R: TableRow> TableRow for &R {
    fn add(&self, columns: &mut ConversationColumns) -> Result<()> {
        (*self).add(columns)
    }

    fn rejected(&self) -> Option<Cow<'_, str>> {
        (*self).rejected()
    }

    fn origin(&self) -> RowOrigin<'_> {
        (*self).origin()
    }
}

/// The numbers of rows.
fn row_numbers(rows: Range<usize>) -> Result<UInt32Array> {
    let number = |row: usize| {
        u32::try_from(row).map_err(|_| anyhow!("more rows than the {} that a table of instructions holds", u32::MAX))
    };
    Ok(UInt32Array::from_iter_values(number(rows.start)?..number(rows.end)?))
}

/// The `instructions` table. The position of a row is its id. A row that is given by value is dropped when the columns
/// have it, so that all rows and all columns are not in memory together.
pub fn instructions_batch<R: TableRow>(rows: impl IntoIterator<Item = R>) -> Result<RecordBatch> {
    instructions_part(0, rows)
}

/// A part of the `instructions` table. `first` is the id of its first row.
pub fn instructions_part<R: TableRow>(first: usize, rows: impl IntoIterator<Item = R>) -> Result<RecordBatch> {
    let mut count = 0;
    let mut conversations = ConversationColumns::default();
    let (mut sources, mut lines) = (UInt32Builder::new(), UInt64Builder::new());
    let mut duplicates = UInt32Builder::new();
    let (mut rejected, mut labels) = (OptionalTexts::default(), OptionalTexts::default());
    for row in rows {
        count += 1;
        row.add(&mut conversations)?;
        rejected.append_option(row.rejected());
        let origin = row.origin();
        sources.append_value(origin.source);
        lines.append_value(origin.line);
        duplicates.append_value(origin.duplicates);
        labels.append_option(origin.label);
    }
    let mut columns = vec![("id", Arc::new(row_numbers(first..first + count)?) as ArrayRef)];
    columns.extend(conversations.finish());
    columns.extend([
        ("rejected", rejected.finish()),
        ("source", Arc::new(sources.finish()) as ArrayRef),
        ("line", Arc::new(lines.finish())),
        ("duplicates", Arc::new(duplicates.finish())),
        ("label", labels.finish()),
    ]);
    table::batch(columns)
}

/// Rows of a pool as a pool of their own. They get new ids, because an id is always the position of a row. `pool_id` is
/// the id in the whole pool.
pub fn renumbered(rows: RecordBatch, ids: UInt32Array) -> Result<RecordBatch> {
    let schema = rows.schema();
    let mut columns: Vec<(&str, ArrayRef)> =
        schema.fields().iter().map(|field| field.name().as_str()).zip(rows.columns().iter().cloned()).collect();
    let ids: ArrayRef = Arc::new(ids);
    let before = columns.iter_mut().find(|(name, _)| *name == "id").map(|(_, column)| std::mem::replace(column, ids));
    // The pool may itself be a part of a pool, or a mix, and have this column.
    columns.retain(|(name, _)| *name != "pool_id");
    columns.extend(before.map(|before| ("pool_id", before)));
    table::batch(columns)
}

/// Copies the table `sources` of a pool, to which the column `source` of its rows refers, if there is one.
pub fn copy_sources(pool: &Path, to: &Path) -> Result<()> {
    let sources = pool.join("sources.parquet");
    if sources.is_file() {
        std::fs::copy(&sources, to.join("sources.parquet"))
            .with_context(|| format!("cannot copy {}", sources.display()))?;
    }
    Ok(())
}

/// The columns of the table `instructions` that an [`Instruction`] holds.
const READ: [&str; 9] = ["id", "system", "prompt", "response", "messages", "tools", "source", "line", "label"];

/// Reads the pool of an artifact that provides `instructions`.
pub fn read_instructions(artifact: &Path) -> Result<Vec<Instruction>> {
    let mut all = Vec::new();
    for_each_part(artifact, |part| {
        all.extend(part);
        Ok(())
    })?;
    Ok(all)
}

/// Calls `take` with the instructions of a pool, some thousands at a time, so that they need not be in memory together.
///
/// # Errors
/// The table cannot be read, or `take` fails.
pub fn for_each_part(artifact: &Path, mut take: impl FnMut(Vec<Instruction>) -> Result<()>) -> Result<()> {
    let path = artifact.join("instructions.parquet");
    let place = path.to_string_lossy();
    for rows in table::batches_of(&path, &READ)? {
        let rows = rows?;
        let id: &UInt32Array = table::column(&rows, "id")?;
        let label: &StringArray = table::column(&rows, "label")?;
        let source: &UInt32Array = table::column(&rows, "source")?;
        let line: &UInt64Array = table::column(&rows, "line")?;
        let instruction = |(row, conversation): (usize, Result<_>)| {
            let (messages, tools) = conversation?;
            let label = optional(label, row).map(str::to_owned);
            let (id, source, line) = (id.value(row), source.value(row), line.value(row));
            Ok(Instruction { id, messages, tools, label, source, line })
        };
        take(conversations(&rows, &place)?.enumerate().map(instruction).collect::<Result<_>>()?)?;
    }
    Ok(())
}

/// The conversation of each row of a table, the response included, and its tools. `place` names the table in errors.
pub(crate) fn conversations<'a>(
    rows: &'a RecordBatch,
    place: &'a str,
) -> Result<impl Iterator<Item = Result<(Vec<Message>, Vec<Value>)>> + 'a> {
    let system: &StringArray = table::column(rows, "system")?;
    let prompt: &StringArray = table::column(rows, "prompt")?;
    let response: &StringArray = table::column(rows, "response")?;
    let json_column = |name: &str| -> Result<Option<&StringArray>> {
        rows.column_by_name(name).map(|_| table::column(rows, name)).transpose()
    };
    let (turns, tools) = (json_column("messages")?, json_column("tools")?);
    Ok((0..rows.num_rows()).map(move |row| {
        let text = |column: Option<&'a StringArray>| column.and_then(|column| optional(column, row));
        let unreadable = |what: &str| format!("row {row} of {place} has unreadable {what}");
        let messages = match text(turns) {
            None => conversation(optional(system, row), prompt.value(row), Some(response.value(row))),
            Some(turns) => serde_json::from_str(turns).with_context(|| unreadable("messages"))?,
        };
        let tools = text(tools).map(serde_json::from_str).transpose().with_context(|| unreadable("tools"))?;
        Ok((messages, tools.unwrap_or_default()))
    }))
}

/// The `validation` or `test` table.
pub fn examples_batch(examples: &[Example]) -> Result<RecordBatch> {
    batch_of(examples, &columns_left_out(examples))
}

/// The `validation` and `test` tables of one task, with the same columns.
pub fn task_batches(validation: &[Example], test: &[Example]) -> Result<[RecordBatch; 2]> {
    let left_out = columns_left_out(validation.iter().chain(test));
    Ok([batch_of(validation, &left_out)?, batch_of(test, &left_out)?])
}

/// A task of single questions has no column `messages`: `system`, `prompt` and `response` hold the whole conversations.
/// A task without tools has no column `tools`.
fn columns_left_out<'a>(examples: impl IntoIterator<Item = &'a Example> + Clone) -> Vec<&'static str> {
    let single = examples.clone().into_iter().all(|example| plain(&example.answered()).is_some());
    let toolless = examples.into_iter().all(|example| example.tools.is_empty());
    [("messages", single), ("tools", toolless)].into_iter().filter(|(_, out)| *out).map(|(name, _)| name).collect()
}

fn batch_of(examples: &[Example], left_out: &[&str]) -> Result<RecordBatch> {
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let mut choices = ListBuilder::new(StringBuilder::new()).with_field(item);
    let mut answers = Int32Builder::new();
    let mut conversations = ConversationColumns::default();
    for example in examples {
        conversations.push(&example.answered(), &example.tools)?;
        example.choices.iter().for_each(|choice| choices.values().append_value(choice));
        choices.append(!example.choices.is_empty());
        answers.append_option(example.answer.map(i32::try_from).transpose()?);
    }
    let ids = UInt32Array::from_iter_values(examples.iter().map(|example| example.id));
    let mut columns = vec![("id", Arc::new(ids) as ArrayRef)];
    columns.extend(conversations.finish().into_iter().filter(|(name, _)| !left_out.contains(name)));
    columns.push(("choices", Arc::new(choices.finish())));
    columns.push(("answer", Arc::new(answers.finish())));
    table::batch(columns)
}

/// Reads the task of an artifact that provides `task`.
pub fn read_task(artifact: &Path) -> Result<Task> {
    let path = artifact.join("task.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let scoring: ScoringRule =
        serde_json::from_slice(&text).with_context(|| format!("{} is not a task description", path.display()))?;
    Ok(Task {
        validation: read_examples(&artifact.join("validation.parquet"))?,
        test: read_examples(&artifact.join("test.parquet"))?,
        scoring,
    })
}

fn read_examples(path: &Path) -> Result<Vec<Example>> {
    let rows = table::read(path)?;
    let id: &UInt32Array = table::column(&rows, "id")?;
    let choices: &ListArray = table::column(&rows, "choices")?;
    let answer: &Int32Array = table::column(&rows, "answer")?;
    conversations(&rows, &path.to_string_lossy())?
        .enumerate()
        .map(|(row, conversation)| {
            let (mut messages, tools) = conversation?;
            let response = messages.pop().filter(Message::is_assistant);
            let response = response
                .ok_or_else(|| anyhow!("row {row} of {}: the last message is not of the assistant", path.display()))?;
            let choices = if choices.is_null(row) {
                Vec::new()
            } else {
                let list = choices.value(row);
                let list = list.as_string_opt::<i32>().ok_or_else(|| anyhow!("the choices are not texts"))?;
                list.iter().flatten().map(str::to_owned).collect()
            };
            let answer = (!answer.is_null(row)).then(|| usize::try_from(answer.value(row))).transpose()?;
            Ok(Example { id: id.value(row), messages, tools, response, choices, answer })
        })
        .collect()
}

fn optional(column: &StringArray, row: usize) -> Option<&str> {
    (!column.is_null(row)).then(|| column.value(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_settings::{Extract, Scored};

    #[test]
    fn instructions_are_read_back_as_written() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let tools = vec![
            Message::new("user", "weather?"),
            Message::new("assistant", "{\"call\": 1}"),
            Message::new("tool", "rain"),
            Message::new("assistant", "It rains."),
        ];
        let conversations = [
            conversation(None, "a", Some("b")),
            conversation(Some("s"), "a", Some("b")),
            tools,
            vec![Message::new("assistant", "no prompt")],
        ];
        let rows: Vec<PoolRow> = conversations.iter().map(|messages| PoolRow::new(messages.clone(), 0, 1)).collect();
        let batch = instructions_batch(&rows)?;
        assert_eq!(table::column::<StringArray>(&batch, "prompt")?.value(2), "rain");
        table::write(&folder.path().join("instructions.parquet"), &batch)?;
        let read = read_instructions(folder.path())?;
        assert_eq!(read.iter().map(|row| row.messages.clone()).collect::<Vec<_>>(), conversations);
        assert_eq!(read[3].id, 3);
        Ok(())
    }

    #[test]
    fn a_task_is_read_back_as_written() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let open = Example::open(1, conversation(None, "2 + 2?", None), "4");
        let choices = vec!["3".into(), "4".into()];
        let question = Example { id: 0, choices, answer: Some(1), ..open.clone() };
        table::write(&folder.path().join("validation.parquet"), &examples_batch(&[question.clone(), open.clone()])?)?;
        table::write(&folder.path().join("test.parquet"), &examples_batch(&[])?)?;
        let scoring = ScoringRule { by: Scored::Match, extract: Some(Extract::Exact), max_new_tokens: 16 };
        let json = serde_json::to_string(&scoring)?;
        assert_eq!(json, r#"{"scoring":"match","extract":"exact","max_new_tokens":16}"#);
        std::fs::write(folder.path().join("task.json"), json)?;
        assert_eq!(read_task(folder.path())?, Task { validation: vec![question, open], test: vec![], scoring });
        Ok(())
    }

    #[test]
    fn a_task_keeps_the_whole_conversation_of_each_example() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let example = |id: u32, messages: Vec<Message>| Example::open(id, messages, "blue");
        let mut history = conversation(Some("be brief"), "my cat is white", Some("noted"));
        history.push(Message::new("user", "and its eyes?"));
        let tool = vec![Message::new("user", "eyes?"), Message::new("assistant", "look()"), Message::new("tool", "b")];
        let odd = vec![Message::new("user", "eyes?"), Message::new("assistant", "wait")];
        let validation = vec![example(0, history), example(1, conversation(None, "eyes?", None))];
        let test = vec![example(0, tool), example(1, odd), example(2, vec![Message::new("system", "say a colour")])];
        let [first, second] = task_batches(&validation, &test)?;
        assert_eq!(table::column::<StringArray>(&first, "prompt")?.value(0), "and its eyes?");
        assert!(table::column::<StringArray>(&first, "messages")?.is_null(1));
        table::write(&folder.path().join("validation.parquet"), &first)?;
        table::write(&folder.path().join("test.parquet"), &second)?;
        std::fs::write(folder.path().join("task.json"), r#"{"scoring":"loss","extract":null,"max_new_tokens":1}"#)?;
        let read = read_task(folder.path())?;
        assert_eq!((read.validation, read.test), (validation.clone(), test));
        // Both tables have the column if one of them needs it. A task of single questions has no such column.
        let [first, second] = task_batches(&validation[1..], &validation[..1])?;
        assert_eq!(first.schema(), second.schema());
        let [first, _] = task_batches(&validation[1..], &[])?;
        assert!(first.column_by_name("messages").is_none());
        Ok(())
    }
}
