//! What a chat template writes around the turns, and which parts of a conversation it shows. This is found out once for
//! each template, by rendering short conversations.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use serde_json::json;

use super::message::Message;
use super::python_json;
use super::template::{Arguments, ChatTemplate, ChatValues, MessageForm, REASONING_KEYS};

/// The abilities of a chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatFrame {
    /// The text that `add_generation_prompt` adds; empty for a template without this text.
    pub generation_prompt: String,
    /// The text between the text of a user and what the assistant writes: the end of the turn, and the generation
    /// prompt. `None` if the template shows texts of users changed.
    pub after_user: Option<String>,
    /// The text between the text of a user and the answer, for example with empty thoughts.
    pub before_answer: Option<String>,
    /// Whether a system text is shown.
    pub system: bool,
    /// Whether the reasoning of the last turn is shown.
    pub reasoning: bool,
    /// Whether `<think>` in the text of the last turn is shown.
    pub thoughts_in_text: bool,
    /// Whether the tools of a conversation are shown.
    pub tools: bool,
    /// Whether calls of tools are shown.
    pub calls: bool,
    /// Whether the template refuses calls without an `id`.
    pub needs_call_ids: bool,
    /// Whether the turns of a tool are shown.
    pub tool_turns: bool,
    /// The form of the messages.
    pub form: MessageForm,
    /// The special tokens, one of which usually ends a turn.
    pub special: Vec<String>,
}

const ASK: &str = "Probing question";
const ANSWER: &str = "Probing answer";
const SYSTEM: &str = "Probing system text";
const THOUGHT: &str = "Probing thought";
const RESULT: &str = "Probing result";
const PLACE: &str = "Probing place";

impl ChatFrame {
    pub fn of(template: &ChatTemplate, special: Vec<String>) -> Self {
        let mut form = MessageForm::default();
        let ask = Message::new("user", ASK);
        let answer = Message::new("assistant", ANSWER);
        let plain = [ask.clone(), answer.clone()];
        let probe = |form| Probe { template, form };
        if probe(form).chat(&plain, &[], false).is_none() {
            // The template demands more of a conversation than the short ones have. Then the conversations of the pool
            // are rendered as they are.
            return Self::able(special);
        }
        let parts = MessageForm { has_parts: true, ..form };
        if !probe(form).shows(&plain, ANSWER) && probe(parts).shows(&plain, ANSWER) {
            form = parts;
        }
        let alone = std::slice::from_ref(&ask);
        let (without, with) = (probe(form).chat(alone, &[], false), probe(form).chat(alone, &[], true));
        let after_user = with.as_ref().and_then(|with| with.rsplit_once(ASK)).map(|(_, after)| after.to_owned());
        let answered = probe(form).chat(&plain, &[], false);
        let before_answer = answered.and_then(|chat| {
            let (_, after) = chat.rsplit_once(ASK)?;
            after.split_once(ANSWER).map(|(between, _)| between.to_owned())
        });
        let generation_prompt =
            without.zip(with).and_then(|(without, with)| with.strip_prefix(&without).map(str::to_owned));
        let thinking = [ask.clone(), Message { reasoning: Some(THOUGHT.to_owned()), ..answer.clone() }];
        let keys = REASONING_KEYS.into_iter().map(|reasoning| MessageForm { reasoning, ..form });
        let reasoning = keys.into_iter().find(|form| probe(*form).shows(&thinking, THOUGHT));
        form = reasoning.unwrap_or(form);
        let thinking_in_text = Message::new("assistant", format!("<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"));
        let tools = [json!({"type": "function", "function": {"name": "probing_tool", "description": "A probing tool.",
            "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "A place."}},
            "required": ["place"]}}})];
        let shown_tools = probe(form).chat(alone, &tools, false).is_some_and(|chat| chat.contains("probing_tool"));
        let arguments = [Arguments::Object, Arguments::Text].map(|arguments| MessageForm { arguments, ..form });
        let calls = arguments.into_iter().find(|form| probe(*form).shows_calls());
        form = calls.unwrap_or(form);
        let result = Message { tool_call_id: Some(CALL.to_owned()), ..Message::new("tool", RESULT) };
        let tool_turns = match calls {
            Some(_) => probe(form).called(true).is_some_and(|chat| chat.contains(RESULT)),
            None => probe(form).shows(&[ask.clone(), answer.clone(), result, answer.clone()], RESULT),
        };
        Self {
            generation_prompt: generation_prompt.unwrap_or_default(),
            after_user,
            before_answer,
            system: probe(form).shows(&[Message::new("system", SYSTEM), ask.clone(), answer], SYSTEM),
            reasoning: reasoning.is_some(),
            thoughts_in_text: probe(form).shows(&[ask, thinking_in_text], THOUGHT),
            tools: shown_tools,
            calls: calls.is_some(),
            needs_call_ids: calls.is_some() && probe(form).called(false).is_none(),
            tool_turns,
            form,
            special,
        }
    }

    /// A chat up to its last special token: without the white space after the end-of-turn token, such as the line break
    /// of ChatML. A chat that ends with another text is whole.
    pub fn closed<'t>(&self, chat: &'t str) -> &'t str {
        let trimmed = chat.trim_end();
        if self.special.iter().any(|token| trimmed.ends_with(token.as_str())) { trimmed } else { chat }
    }

    fn able(special: Vec<String>) -> Self {
        Self {
            generation_prompt: String::new(),
            after_user: None,
            before_answer: None,
            system: true,
            reasoning: true,
            thoughts_in_text: true,
            tools: true,
            calls: true,
            needs_call_ids: false,
            tool_turns: true,
            form: MessageForm::default(),
            special,
        }
    }
}

/// Some templates accept only identifiers of nine letters and digits.
const CALL: &str = "abcdefghi";

/// Renders short conversations in one form.
#[derive(Clone, Copy)]
struct Probe<'a> {
    template: &'a ChatTemplate,
    form: MessageForm,
}

impl Probe<'_> {
    fn chat(self, messages: &[Message], tools: &[serde_json::Value], prompt: bool) -> Option<String> {
        self.template.render(&ChatValues::in_form(messages, tools, self.form), messages.len(), prompt).ok()
    }

    fn shows(self, messages: &[Message], text: &str) -> bool {
        self.chat(messages, &[], false).is_some_and(|chat| chat.contains(text) && chat.contains(ASK))
    }

    /// A conversation with a call and its result.
    fn called(self, has_id: bool) -> Option<String> {
        let arguments = json!({"place": PLACE});
        let mut call = json!({"type": "function", "function": {"name": "probing_tool", "arguments": arguments}});
        if has_id {
            call["id"] = CALL.into();
        }
        let call = Message { tool_calls: vec![call], ..Message::new("assistant", "") };
        let name = Some("probing_tool".to_owned());
        let result = Message { tool_call_id: has_id.then(|| CALL.to_owned()), name, ..Message::new("tool", RESULT) };
        let messages = [Message::new("user", ASK), call, result, Message::new("assistant", ANSWER)];
        let chat = match self.form.arguments {
            Arguments::Object => ChatValues::with_calls(&messages, &[], self.form, with_printed_arguments),
            Arguments::Text => ChatValues::in_form(&messages, &[], self.form),
        };
        self.template.render(&chat, messages.len(), false).ok()
    }

    /// Whether the template shows the arguments of a call as JSON. A template that prints a mapping as it is would print
    /// the form of Python instead: such a template expects the JSON text.
    fn shows_calls(self) -> bool {
        let json = [format!("\"place\": \"{PLACE}\""), format!("\"place\":\"{PLACE}\"")];
        self.called(true).is_some_and(|chat| match self.form.arguments {
            Arguments::Object => !chat.contains(PRINTED) && chat.contains(PLACE),
            Arguments::Text => json.iter().any(|json| chat.contains(json)),
        })
    }
}

fn with_printed_arguments(call: &serde_json::Value) -> Value {
    let part = |key: &str| python_json::value(&call[key]);
    let arguments = Value::from_object(PrintedMapping(python_json::value(&call["function"]["arguments"])));
    let name = python_json::value(&call["function"]["name"]);
    let function = Value::from_pairs([("name", name), ("arguments", arguments)]);
    let id = call.get("id").map(|id| ("id", python_json::value(id)));
    Value::from_pairs([("type", part("type")), ("function", function)].into_iter().chain(id))
}

/// What [`PrintedMapping`] prints.
const PRINTED: &str = "a mapping, printed as it is";

/// A mapping that shows whether a template prints it as it is.
#[derive(Debug)]
struct PrintedMapping(Value);

impl Object for PrintedMapping {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get_item(key).ok().filter(|value| !value.is_undefined())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.try_iter().into_iter().flatten().collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PRINTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: &str) -> ChatFrame {
        ChatFrame::of(&ChatTemplate::compile(source, Vec::new()).expect("a template"), Vec::new())
    }

    #[test]
    fn the_abilities_of_a_template_are_found() {
        let plain = frame(
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}",
        );
        assert_eq!(plain.generation_prompt, "<a>");
        assert!(plain.system && plain.thoughts_in_text && plain.tool_turns);
        assert!(!plain.reasoning && !plain.tools && !plain.calls);

        let able = frame(
            "{{ tools | tojson if tools }}{% for m in messages %}{{ m.reasoning_content }}{{ m.content }}\
             {{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}",
        );
        assert!(able.reasoning && able.tools);
        assert_eq!((able.form, able.calls, able.generation_prompt.as_str()), (MessageForm::default(), true, ""));

        let printing = frame(
            "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments }}{% endfor %}\
             {% endfor %}",
        );
        assert_eq!(printing.form.arguments, Arguments::Text);

        let joining = frame(
            "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ 'x' + c.function.arguments }}\
             {% endfor %}{% endfor %}",
        );
        assert_eq!(joining.form.arguments, Arguments::Text);

        let parts = frame(
            "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{{ m.thinking }}{% endfor %}",
        );
        assert!(parts.form.has_parts && parts.reasoning);
        assert_eq!(parts.form.reasoning, "thinking");

        let strict = frame(
            "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no') }}{% endif %}\
             {{ m.content.split('</think>')[-1] }}{% endfor %}",
        );
        assert!(!strict.system && !strict.tool_turns && !strict.thoughts_in_text);
    }

    #[test]
    fn a_template_that_refuses_short_conversations_gets_conversations_as_they_are() {
        let frame = frame("{{ raise_exception('a system text first') if messages[0].role != 'system' }}");
        assert_eq!(frame, ChatFrame::able(Vec::new()));
    }
}
