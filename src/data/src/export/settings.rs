//! The settings with which other training programs read the files, in the order of the files.

use serde_json::{Map, Value, json};

use raisin_base::error::{Context as _, Result};
use raisin_contract::Context;
use raisin_kinds::export::ExportForm;

/// Writes dataset_info.json, axolotl.yaml and, for messages, train_trl.py.
pub fn write(forms: &[ExportForm], context: &Context) -> Result<()> {
    let info: Map<String, Value> =
        forms.iter().map(|form| (format!("selection_{}", form.name()), llama_factory(*form))).collect();
    context.write_json("dataset_info.json", &info)?;
    let first = forms.first().copied().unwrap_or(ExportForm::Messages);
    text("axolotl.yaml", &axolotl(first), context)?;
    if forms.contains(&ExportForm::Messages) {
        text("train_trl.py", TRL, context)?;
    }
    Ok(())
}

fn text(name: &str, text: &str, context: &Context) -> Result<()> {
    std::fs::write(context.out().join(name), text).with_context(|| format!("cannot write {name}"))
}

/// The entry of dataset_info.json.
fn llama_factory(form: ExportForm) -> Value {
    match form {
        ExportForm::Messages => json!({
            "file_name": "messages.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }),
        ExportForm::Sharegpt => json!({
            "file_name": "sharegpt.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
        }),
        ExportForm::Alpaca => json!({
            "file_name": "alpaca.jsonl",
            "formatting": "alpaca",
            "columns": {
                "prompt": "instruction",
                "query": "input",
                "response": "output",
                "system": "system",
                "history": "history",
            },
        }),
    }
}

/// The keys of an Axolotl configuration.
fn axolotl(form: ExportForm) -> String {
    let name = form.name();
    let reads = match form {
        ExportForm::Messages => {
            "    type: chat_template\n    field_messages: messages\n    message_property_mappings:\n      role: role\n      \
             content: content\n"
        }
        ExportForm::Sharegpt => {
            "    type: chat_template\n    field_messages: conversations\n    message_property_mappings:\n      role: from\n      \
             content: value\n"
        }
        ExportForm::Alpaca => "    type: alpaca\n",
    };
    format!(
        "# The path is relative to the folder in which Axolotl runs. The last keys keep the order of the file.\ndatasets:\n  - \
         path: {name}.jsonl\n    ds_type: json\n{reads}shuffle_merged_datasets: false\ncurriculum_sampling: true\n\
         sample_packing: false\n"
    )
}

/// The script for TRL.
const TRL: &str = include_str!("../../scripts/train_trl.py");
