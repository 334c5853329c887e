//! Instructions and tasks as tables: what the stages write, and how later stages read it back.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{Array, ArrayRef, Int32Array, ListArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field};

use super::message::{Example, Instruction, Message, Scoring, Task, conversation, prompt_of};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, anyhow};
use raisin_table as table;

/// An instruction with where it came from: one row of the `instructions` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub messages: Vec<Message>,
    /// Index into the `sources` table.
    pub source: u32,
    /// Line of a JSONL file, record of a JSON array or Parquet file; from 1.
    pub line: u64,
    pub digest: Digest,
    /// Exact copies folded into this row.
    pub duplicates: u32,
    pub label: Option<String>,
}

impl Row {
    pub fn new(messages: Vec<Message>, source: u32, line: u64) -> Self {
        let digest = content_digest(&messages);
        Self { messages, source, line, digest, duplicates: 0, label: None }
    }
}

/// The digest of a conversation's canonical JSON: equal for equal conversations whatever file they came from.
pub fn content_digest(messages: &[Message]) -> Digest {
    let turns = messages.iter().map(|message| serde_json::json!([message.role, message.content])).collect();
    Digest::of_json(&serde_json::Value::Array(turns))
}

/// A conversation as the columns system, prompt, response; `None` where these three cannot say it.
fn plain(messages: &[Message]) -> Option<(Option<&str>, &str, &str)> {
    let role = |index: usize| messages.get(index).map(|message| message.role.as_str());
    let text = |index: usize| messages.get(index).map_or("", |message| message.content.as_str());
    match (role(0), role(1), role(2), messages.len()) {
        (Some("system"), Some("user"), Some("assistant"), 3) => Some((Some(text(0)), text(1), text(2))),
        (Some("user"), Some("assistant"), _, 2) => Some((None, text(0), text(1))),
        _ => None,
    }
}

/// The `instructions` table; the row's position is its id.
pub fn instructions_batch(rows: &[Row]) -> Result<RecordBatch> {
    let mut system = StringBuilder::new();
    let mut prompt = StringBuilder::new();
    let mut response = StringBuilder::new();
    let mut turns = StringBuilder::new();
    for row in rows {
        if let Some((text, question, answer)) = plain(&row.messages) {
            system.append_option(text);
            prompt.append_value(question);
            response.append_value(answer);
            turns.append_null();
        } else {
            let first = row.messages.first().filter(|message| message.role == "system");
            system.append_option(first.map(|message| &message.content));
            prompt.append_value(prompt_of(&row.messages));
            response.append_value(row.messages.last().map_or("", |message| &message.content));
            turns.append_value(serde_json::to_string(&row.messages)?);
        }
    }
    table::batch(vec![
        ("id", Arc::new(UInt32Array::from_iter_values(0..rows.len() as u32)) as ArrayRef),
        ("system", Arc::new(system.finish())),
        ("prompt", Arc::new(prompt.finish())),
        ("response", Arc::new(response.finish())),
        ("messages", Arc::new(turns.finish())),
        ("source", Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.source)))),
        ("line", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.line)))),
        ("digest", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.digest.to_hex())))),
        ("duplicates", Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.duplicates)))),
        ("label", Arc::new(rows.iter().map(|row| row.label.as_deref()).collect::<StringArray>())),
    ])
}

/// The pool of an artifact that provides `instructions`.
pub fn read_instructions(artifact: &Path) -> Result<Vec<Instruction>> {
    let columns = ["id", "system", "prompt", "response", "messages", "label"];
    let rows = table::read_columns(&artifact.join("instructions.parquet"), &columns)?;
    let id: &UInt32Array = table::column(&rows, "id")?;
    let system: &StringArray = table::column(&rows, "system")?;
    let prompt: &StringArray = table::column(&rows, "prompt")?;
    let response: &StringArray = table::column(&rows, "response")?;
    let turns: &StringArray = table::column(&rows, "messages")?;
    let label: &StringArray = table::column(&rows, "label")?;
    (0..rows.num_rows())
        .map(|row| {
            let messages = if turns.is_null(row) {
                conversation(optional(system, row), prompt.value(row), Some(response.value(row)))
            } else {
                serde_json::from_str(turns.value(row))
                    .with_context(|| format!("row {row} of the instructions has unreadable messages"))?
            };
            Ok(Instruction { id: id.value(row), messages, label: optional(label, row).map(str::to_owned) })
        })
        .collect()
}

/// The `validation` or `test` table.
pub fn examples_batch(examples: &[Example]) -> Result<RecordBatch> {
    let system_of = |example: &Example| {
        example.messages.first().filter(|message| message.role == "system").map(|message| message.content.clone())
    };
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let mut choices = ListBuilder::new(StringBuilder::new()).with_field(item);
    for example in examples {
        example.choices.iter().for_each(|choice| choices.values().append_value(choice));
        choices.append(!example.choices.is_empty());
    }
    table::batch(vec![
        ("id", Arc::new(UInt32Array::from_iter_values(examples.iter().map(|example| example.id))) as ArrayRef),
        ("system", Arc::new(examples.iter().map(system_of).collect::<StringArray>())),
        ("prompt", Arc::new(StringArray::from_iter_values(examples.iter().map(Example::prompt)))),
        ("response", Arc::new(StringArray::from_iter_values(examples.iter().map(|example| &example.response)))),
        ("choices", Arc::new(choices.finish())),
        ("answer", Arc::new(examples.iter().map(|row| row.answer.map(|index| index as i32)).collect::<Int32Array>())),
    ])
}

/// The task of an artifact that provides `task`.
pub fn read_task(artifact: &Path) -> Result<Task> {
    let path = artifact.join("task.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let scoring: Scoring =
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
    let system: &StringArray = table::column(&rows, "system")?;
    let prompt: &StringArray = table::column(&rows, "prompt")?;
    let response: &StringArray = table::column(&rows, "response")?;
    let choices: &ListArray = table::column(&rows, "choices")?;
    let answer: &Int32Array = table::column(&rows, "answer")?;
    (0..rows.num_rows())
        .map(|row| {
            let options = if choices.is_null(row) {
                Vec::new()
            } else {
                let list = choices.value(row);
                let list: &StringArray =
                    list.as_any().downcast_ref().ok_or_else(|| anyhow!("the choices are not texts"))?;
                list.iter().flatten().map(str::to_owned).collect()
            };
            let index = (!answer.is_null(row)).then(|| usize::try_from(answer.value(row))).transpose()?;
            Ok(Example {
                id: id.value(row),
                messages: conversation(optional(system, row), prompt.value(row), None),
                response: response.value(row).to_owned(),
                choices: options,
                answer: index,
            })
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
    fn instructions_come_back_as_they_were_written() -> Result<()> {
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
        let rows: Vec<Row> = conversations.iter().map(|messages| Row::new(messages.clone(), 0, 1)).collect();
        let batch = instructions_batch(&rows)?;
        assert_eq!(table::column::<StringArray>(&batch, "prompt")?.value(2), "rain");
        table::write(&folder.path().join("instructions.parquet"), &batch)?;
        let read = read_instructions(folder.path())?;
        assert_eq!(read.iter().map(|row| row.messages.clone()).collect::<Vec<_>>(), conversations);
        assert_eq!(read[3].id, 3);
        Ok(())
    }

    #[test]
    fn the_digest_tells_roles_apart_and_ignores_the_source() {
        let one = Row::new(conversation(None, "a", Some("b")), 0, 1);
        let two = Row::new(conversation(None, "a", Some("b")), 3, 9);
        let other = Row::new(conversation(Some("a"), "b", None), 0, 1);
        assert_eq!(one.digest, two.digest);
        assert_ne!(one.digest, other.digest);
    }

    #[test]
    fn a_task_comes_back_as_it_was_written() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let question = Example {
            id: 0,
            messages: conversation(None, "2 + 2?", None),
            response: "4".into(),
            choices: vec!["3".into(), "4".into()],
            answer: Some(1),
        };
        let open = Example { id: 1, choices: vec![], answer: None, ..question.clone() };
        table::write(&folder.path().join("validation.parquet"), &examples_batch(&[question.clone(), open.clone()])?)?;
        table::write(&folder.path().join("test.parquet"), &examples_batch(&[])?)?;
        let scoring = Scoring { by: Scored::Match, extract: Some(Extract::Exact), max_new_tokens: 16 };
        let json = serde_json::to_string(&scoring)?;
        assert_eq!(json, r#"{"scoring":"match","extract":"exact","max_new_tokens":16}"#);
        std::fs::write(folder.path().join("task.json"), json)?;
        assert_eq!(read_task(folder.path())?, Task { validation: vec![question, open], test: vec![], scoring });
        Ok(())
    }
}
