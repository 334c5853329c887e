//! Replaces texts of the rows of a pool: a stage of kind `filter` gives new ones.

use arrow_array::{Array as _, ArrayRef, RecordBatch, StringArray, UInt32Array};
use serde_json::Value;

use super::artifact::{ConversationColumns, conversations};
use super::message::Message;
use raisin_base::error::{Problem, Result};
use raisin_table as table;

/// The columns that can be replaced.
pub const REPLACEABLE: [&str; 5] = ["system", "prompt", "response", "messages", "tools"];

/// Replaces columns of rows of the table `instructions`. `given` has one text for each row, under the names of
/// [`REPLACEABLE`]. A given text replaces the turn that the column shows: `prompt` the last turn that asks, `response` the
/// last turn, `messages` all turns. Gives the rows, and the number of rows whose conversation changed. `ids` are the ids of
/// the rows for errors.
///
/// # Errors
/// A row has no prompt or no response, or given JSON cannot be read. The error names the first such row.
pub fn replace_texts(
    rows: &RecordBatch,
    given: &[(&str, StringArray)],
    ids: &UInt32Array,
) -> Result<(RecordBatch, u64)> {
    if given.is_empty() {
        return Ok((rows.clone(), 0));
    }
    let mut columns = ConversationColumns::default();
    let mut changed = 0;
    for (row, old) in conversations(rows, "the pool")?.enumerate() {
        let (old_turns, old_tools) = old?;
        let (mut turns, mut tools) = (old_turns.clone(), old_tools.clone());
        for (name, texts) in given {
            let text = texts.is_valid(row).then(|| texts.value(row));
            set(name, text, &mut turns, &mut tools).map_err(|what| unusable(ids.value(row), name, &what))?;
        }
        // A row of the pool that stays as it is needs no check.
        if turns != old_turns
            && let Some((name, what)) = fault(&turns)
        {
            return Err(unusable(ids.value(row), name, what).into());
        }
        changed += u64::from(turns != old_turns || tools != old_tools);
        columns.push(&turns, &tools)?;
    }
    let new: Vec<(&str, ArrayRef)> = columns.finish();
    let schema = rows.schema();
    let fields = schema.fields().iter().zip(rows.columns()).map(|(field, old)| {
        let name = field.name().as_str();
        let replaced = new.iter().find(|(other, _)| *other == name).map(|(_, column)| column);
        (name, replaced.unwrap_or(old).clone())
    });
    Ok((table::batch(fields.collect())?, changed))
}

/// Replaces what the column `name` shows. The error says what is wrong with the text.
fn set(name: &str, text: Option<&str>, turns: &mut Vec<Message>, tools: &mut Vec<Value>) -> Result<(), String> {
    let has_system = turns.first().is_some_and(|turn| turn.role == "system");
    match (name, text) {
        ("system", None) if has_system => {
            turns.remove(0);
        }
        // In the table, a null `messages` says that the other columns hold the whole conversation.
        ("system" | "messages", None) => {}
        ("system", Some(text)) if has_system => text.clone_into(&mut turns[0].content),
        ("system", Some(text)) => turns.insert(0, Message::new("system", text)),
        ("prompt", Some(text)) => {
            let asks = |turn: &&mut Message| !turn.is_assistant() && turn.role != "system";
            match turns.iter_mut().rev().find(asks) {
                Some(turn) => text.clone_into(&mut turn.content),
                None if text.is_empty() => {}
                None => return Err("the conversation has no turn that asks".to_owned()),
            }
        }
        ("response", Some(text)) => match turns.last_mut().filter(|turn| turn.is_assistant()) {
            Some(turn) => text.clone_into(&mut turn.content),
            None => return Err("the conversation ends with no turn of the assistant".to_owned()),
        },
        ("messages", Some(text)) => {
            *turns = serde_json::from_str(text).map_err(|error| format!("no list of turns: {error}"))?;
        }
        ("tools", None) => tools.clear(),
        ("tools", Some(text)) => {
            *tools = serde_json::from_str(text).map_err(|error| format!("no list of tools: {error}"))?;
        }
        _ => return Err("null".to_owned()),
    }
    Ok(())
}

const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// Why no training can use a conversation, with the column that shows it: the rules by which `ingest` refuses records.
fn fault(turns: &[Message]) -> Option<(&'static str, &'static str)> {
    if turns.iter().any(|turn| !ROLES.contains(&turn.role.as_str())) {
        return Some(("messages", "a role is none of system, user, assistant and tool"));
    }
    let Some(last) = turns.last().filter(|turn| turn.is_assistant()) else {
        return Some(("messages", "the last turn must be of the assistant"));
    };
    if last.content.trim().is_empty() && last.tool_calls.is_empty() {
        return Some(("response", "the response is empty"));
    }
    let asks = |turn: &Message| !turn.is_assistant() && !turn.content.trim().is_empty();
    (!turns.iter().any(asks)).then_some(("prompt", "the prompt is empty"))
}

fn unusable(id: u32, name: &str, what: &str) -> Problem {
    Problem::new(format!("the query gives row {id} of the pool a `{name}` that cannot be used: {what}"))
        .hint("leave such rows out in WHERE")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use crate::artifact::{PoolRow, instructions_batch};
    use crate::message::conversation;

    fn texts(texts: &[Option<&str>]) -> StringArray {
        texts.iter().copied().collect()
    }

    fn rows() -> RecordBatch {
        let several = vec![
            Message::new("user", "one?"),
            Message::new("assistant", "1"),
            Message::new("user", "two?"),
            Message::new("assistant", "2"),
        ];
        let pool = [PoolRow::new(conversation(None, "a", Some("b")), 0, 1), PoolRow::new(several, 0, 2)];
        instructions_batch(&pool).unwrap()
    }

    fn read(rows: &RecordBatch) -> Vec<Vec<String>> {
        let turn = |turn: Message| format!("{}: {}", turn.role, turn.content);
        let all = conversations(rows, "rows").unwrap();
        all.map(|row| row.unwrap().0.into_iter().map(turn).collect()).collect()
    }

    #[test]
    fn a_text_replaces_the_turn_that_the_column_shows() {
        let rows = rows();
        let ids = UInt32Array::from(vec![0, 1]);
        let given = [("response", texts(&[Some("B"), Some("2")])), ("system", texts(&[Some("s"), None]))];
        let (new, changed) = replace_texts(&rows, &given, &ids).unwrap();
        assert_eq!(changed, 1, "the second row is as before");
        assert_eq!(read(&new)[0], ["system: s", "user: a", "assistant: B"]);
        assert_eq!(read(&new)[1], read(&rows)[1]);
        let (new, _) = replace_texts(&rows, &[("prompt", texts(&[Some("a"), Some("zwei?")]))], &ids).unwrap();
        assert_eq!(read(&new)[1], ["user: one?", "assistant: 1", "user: zwei?", "assistant: 2"]);
        let short = r#"[{"role": "user", "content": "two?"}, {"role": "assistant", "content": "2"}]"#;
        let (new, changed) = replace_texts(&rows, &[("messages", texts(&[None, Some(short)]))], &ids).unwrap();
        assert_eq!((changed, read(&new)[1].len()), (1, 2), "turns can be dropped");
        assert!(table::column::<StringArray>(&new, "messages").unwrap().is_null(1), "one question and its answer");
    }

    #[test]
    fn a_conversation_that_ingest_would_refuse_is_refused_and_a_row_that_stays_is_not() {
        let call = Message { tool_calls: vec![json!({"type": "function"})], ..Message::new("assistant", "") };
        let rows = instructions_batch(&[PoolRow::new(vec![Message::new("user", "a"), call], 0, 1)]).unwrap();
        let ids = UInt32Array::from(vec![7]);
        let (_, changed) = replace_texts(&rows, &[("response", texts(&[Some("")]))], &ids).unwrap();
        assert_eq!(changed, 0, "a call without a text is a response");
        let said = |name: &'static str, text: &str| {
            replace_texts(&rows, &[(name, texts(&[Some(text)]))], &ids).unwrap_err().to_string()
        };
        assert!(said("prompt", " ").ends_with("`prompt` that cannot be used: the prompt is empty"));
        let strange = r#"[{"role": "human", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
        assert!(said("messages", strange).contains("a role is none of"), "{}", said("messages", strange));
        let silent = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]"#;
        assert!(said("messages", silent).ends_with("the response is empty"));
    }

    #[test]
    fn a_row_without_a_usable_text_is_named() {
        let ids = UInt32Array::from(vec![40, 41]);
        let said = |name: &'static str, second: Option<&str>| {
            replace_texts(&rows(), &[(name, texts(&[Some("[]"), second]))], &ids).unwrap_err().to_string()
        };
        assert_eq!(said("response", None), "the query gives row 41 of the pool a `response` that cannot be used: null");
        let empty = said("response", Some(" \n"));
        assert!(
            empty.ends_with("row 41 of the pool a `response` that cannot be used: the response is empty"),
            "{empty}"
        );
        assert!(said("messages", Some("[{}]")).contains("row 40 of the pool a `messages`"));
        assert!(said("prompt", None).contains("row 41 of the pool a `prompt`"));
        assert!(said("messages", None).contains("row 40 of the pool a `messages`"), "an empty list has no answer");
        assert!(
            said("tools", Some("{")).contains("row 41 of the pool a `tools` that cannot be used: no list of tools")
        );
    }
}
