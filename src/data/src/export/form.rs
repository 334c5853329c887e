//! A conversation in the forms of other training programs.

use serde_json::{Map, Value, json};

use raisin_corpus::{Instruction, Message};
use raisin_kinds::export::ExportForm;

/// The record of an instruction. Each form has the same keys in all records, because programs take the type of a column
/// from its first rows.
///
/// # Errors
/// The form cannot hold the conversation; the text says why.
pub fn of(form: ExportForm, instruction: &Instruction) -> Result<Map<String, Value>, &'static str> {
    if instruction.messages.iter().any(|message| message.untrained) {
        return Err("a turn is excluded from training");
    }
    match form {
        ExportForm::Messages => Ok(messages(instruction)),
        ExportForm::Sharegpt => sharegpt(instruction),
        ExportForm::Alpaca => alpaca(instruction),
    }
}

fn messages(instruction: &Instruction) -> Map<String, Value> {
    let mut record = Map::new();
    record.insert("messages".to_owned(), json!(instruction.messages));
    if !instruction.tools.is_empty() {
        record.insert("tools".to_owned(), json!(instruction.tools));
    }
    record
}

/// The system text, and the other turns.
fn divided(instruction: &Instruction) -> (&str, &[Message]) {
    match instruction.messages.as_slice() {
        [first, rest @ ..] if first.role == "system" => (&first.content, rest),
        all => ("", all),
    }
}

fn sharegpt(instruction: &Instruction) -> Result<Map<String, Value>, &'static str> {
    let (system, turns) = divided(instruction);
    let turn = |message: &Message| {
        if message.reasoning.is_some() {
            return Err("a turn has thoughts beside its text");
        }
        let (from, value) = match (message.role.as_str(), message.tool_calls.as_slice()) {
            ("user", []) => ("human", message.content.clone()),
            ("assistant", []) => ("gpt", message.content.clone()),
            ("assistant", [call]) if message.content.is_empty() => ("function_call", call["function"].to_string()),
            ("assistant", _) => return Err("a turn has a text and a call, or several calls"),
            ("tool", _) => ("observation", message.content.clone()),
            _ => return Err("a turn has a role that the form does not know"),
        };
        Ok(json!({"from": from, "value": value}))
    };
    let turns = turns.iter().map(turn).collect::<Result<Vec<_>, _>>()?;
    // Axolotl reads an empty text as broken JSON.
    let tools = (!instruction.tools.is_empty()).then(|| json!(instruction.tools).to_string());
    let record = json!({"conversations": turns, "system": system, "tools": tools});
    Ok(record.as_object().cloned().unwrap_or_default())
}

fn alpaca(instruction: &Instruction) -> Result<Map<String, Value>, &'static str> {
    let (system, turns) = divided(instruction);
    if !instruction.tools.is_empty() || !turns.iter().all(Message::is_text) {
        return Err("the conversation has tools or thoughts");
    }
    let mut pairs = Vec::new();
    for pair in turns.chunks(2) {
        match pair {
            [user, assistant] if user.role == "user" && assistant.is_assistant() => {
                pairs.push((user.content.as_str(), assistant.content.as_str()));
            }
            _ => return Err("the turns do not alternate between user and assistant"),
        }
    }
    let (prompt, response) = pairs.pop().ok_or("the conversation has no turn of the user")?;
    let record = json!({"instruction": prompt, "input": "", "output": response, "system": system, "history": pairs});
    Ok(record.as_object().cloned().unwrap_or_default())
}
