//! Fits a conversation to a chat template: what the template has no place for is written as text, and reported.

use serde_json::Value;

use super::finding::{Finding, FindingKind};
use super::frame::ChatFrame;
use super::message::Message;
use super::python_json;

/// A conversation as a template can show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    pub messages: Vec<Message>,
    /// For each message: its place in the conversation as the pool has it, from 0.
    pub places: Vec<usize>,
    pub tools: Vec<Value>,
    /// The reasoning of the last turn, if the template shows reasoning in no form. The caller writes it after the
    /// generation prompt.
    pub thoughts: Option<String>,
    pub findings: Vec<Finding>,
}

/// Whether the template shows a conversation as it is, so that [`fit`] would change nothing.
pub fn fits(frame: &ChatFrame, messages: &[Message], tools: &[Value]) -> bool {
    let any = |has: fn(&Message) -> bool| messages.iter().any(has);
    (frame.reasoning || !any(|it| it.reasoning.is_some()))
        && (frame.tools || tools.is_empty())
        && ((frame.calls && !frame.needs_call_ids) || !any(|it| !it.tool_calls.is_empty()))
        && ((frame.tool_turns && !frame.needs_call_ids) || !any(|it| it.role == "tool"))
        && (frame.system || !any(|it| it.role == "system"))
}

pub fn fit(frame: &ChatFrame, messages: &[Message], tools: &[Value]) -> Fitted {
    let mut fitted = Fitted {
        messages: messages.to_vec(),
        places: (0..messages.len()).collect(),
        tools: tools.to_vec(),
        thoughts: None,
        findings: Vec::new(),
    };
    fitted.reasoning(frame);
    if !frame.tools && !fitted.tools.is_empty() {
        fitted.tools_as_text();
    }
    if !frame.calls {
        fitted.calls_as_text();
    }
    if frame.needs_call_ids {
        fitted.name_calls();
    }
    if !frame.tool_turns {
        fitted.results_as_text();
    }
    if !frame.system {
        fitted.system_as_text();
    }
    fitted
}

/// Reasoning and answer as one text, as R1 and Qwen3 write them.
fn thinking_text(reasoning: &str, answer: &str) -> String {
    format!("<think>\n{}\n</think>\n\n{}", reasoning.trim_matches('\n'), answer.trim_start_matches('\n'))
}

/// The text that follows a generation prompt. Some generation prompts end with an open `<think>` tag.
pub fn completion(generation_prompt: &str, reasoning: &str, answer: &str) -> String {
    let text = thinking_text(reasoning, answer);
    if !generation_prompt.trim_end().ends_with("<think>") {
        return text;
    }
    let opened = text.trim_start_matches("<think>");
    if generation_prompt.ends_with('\n') { opened.trim_start_matches('\n').to_owned() } else { opened.to_owned() }
}

impl Fitted {
    fn found(&mut self, kind: FindingKind) {
        if !self.findings.iter().any(|finding| finding.kind == kind) {
            self.findings.push(Finding::of_row(kind, ""));
        }
    }

    fn reasoning(&mut self, frame: &ChatFrame) {
        if frame.reasoning {
            return;
        }
        let last = self.messages.len().saturating_sub(1);
        for place in 0..self.messages.len() {
            let message = &mut self.messages[place];
            if message.reasoning.as_ref().is_none_or(|text| text.trim().is_empty()) {
                continue;
            }
            let Some(reasoning) = message.reasoning.take() else { continue };
            if frame.thoughts_in_text {
                message.content = thinking_text(&reasoning, &message.content);
                self.found(FindingKind::ReasoningAsText);
            } else if place == last {
                self.thoughts = Some(reasoning);
                self.found(FindingKind::ReasoningAsText);
            } else {
                self.findings.push(Finding::of_turn(FindingKind::ReasoningDropped, place));
            }
        }
    }

    fn tools_as_text(&mut self) {
        let tools: Vec<String> = self.tools.drain(..).map(|tool| python_json::text(&tool)).collect();
        let text = format!("Tools:\n{}", tools.join("\n"));
        match self.messages.first_mut().filter(|first| first.role == "system") {
            Some(system) => system.content = format!("{}\n\n{text}", system.content),
            None => {
                self.messages.insert(0, Message::new("system", text));
                self.places.insert(0, 0);
            }
        }
        self.found(FindingKind::ToolsAsText);
    }

    fn calls_as_text(&mut self) {
        let mut changed = false;
        for message in &mut self.messages {
            for call in std::mem::take(&mut message.tool_calls) {
                let function = call.get("function").unwrap_or(&call);
                if !message.content.is_empty() && !message.content.ends_with('\n') {
                    message.content.push('\n');
                }
                message.content += &format!("<tool_call>\n{}\n</tool_call>", python_json::text(function));
                changed = true;
            }
        }
        if changed {
            self.found(FindingKind::CallsAsText);
        }
    }

    /// Gives each call an identifier of nine letters and digits, and each result the identifier of its call. Calls and
    /// results of a turn are in the same order.
    fn name_calls(&mut self) {
        let (mut number, mut open) = (0, Vec::new());
        for message in &mut self.messages {
            if message.is_assistant() {
                open.clear();
            }
            for call in message.tool_calls.iter_mut().filter_map(Value::as_object_mut) {
                number += 1;
                let id = call.entry("id").or_insert_with(|| format!("call{number:05}").into());
                open.push(id.as_str().unwrap_or_default().to_owned());
            }
            if message.role == "tool" && message.tool_call_id.is_none() && !open.is_empty() {
                message.tool_call_id = Some(open.remove(0));
            }
        }
    }

    /// Turns of tools become turns of the user. Successive turns of tools become one turn.
    fn results_as_text(&mut self) {
        if self.messages.iter().all(|message| message.role != "tool") {
            return;
        }
        let mut messages: Vec<Message> = Vec::with_capacity(self.messages.len());
        let mut places = Vec::with_capacity(self.messages.len());
        let mut in_results = false;
        for (place, message) in self.places.drain(..).zip(self.messages.drain(..)) {
            let is_result = message.role == "tool";
            let text = |message: &Message| format!("<tool_response>\n{}\n</tool_response>", message.content);
            match messages.last_mut().filter(|_| is_result && in_results) {
                Some(last) => last.content += &format!("\n{}", text(&message)),
                None => {
                    messages.push(if is_result { Message::new("user", text(&message)) } else { message });
                    places.push(place);
                }
            }
            in_results = is_result;
        }
        (self.messages, self.places) = (messages, places);
        self.found(FindingKind::CallsAsText);
    }

    fn system_as_text(&mut self) {
        let Some(place) = self.messages.iter().position(|message| message.role == "user") else { return };
        let is_system = |message: &Message| message.role == "system";
        if !self.messages[..place].iter().any(is_system) {
            return;
        }
        let mut texts = Vec::new();
        let turns = std::mem::take(&mut self.messages).into_iter().zip(std::mem::take(&mut self.places));
        for (message, place) in turns {
            if is_system(&message) {
                texts.push(message.content.trim().to_owned());
            } else {
                self.messages.push(message);
                self.places.push(place);
            }
        }
        if let Some(first) = self.messages.iter_mut().find(|message| message.role == "user") {
            texts.push(std::mem::take(&mut first.content));
            first.content = texts.join("\n\n");
        }
        self.found(FindingKind::SystemAsText);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::conversation;
    use crate::template::MessageForm;
    use serde_json::json;

    fn plain() -> ChatFrame {
        ChatFrame {
            generation_prompt: "<a>".to_owned(),
            after_user: None,
            before_answer: None,
            system: false,
            reasoning: false,
            thoughts_in_text: true,
            tools: false,
            calls: false,
            needs_call_ids: false,
            tool_turns: false,
            form: MessageForm::default(),
            special: Vec::new(),
        }
    }

    #[test]
    fn what_has_no_place_becomes_text_and_is_reported() {
        let call = json!({"type": "function", "function": {"name": "look", "arguments": {"at": "here"}}});
        let messages = [
            Message::new("system", "Be brief."),
            Message::new("user", "weather?"),
            Message {
                reasoning: Some("I look.".to_owned()),
                tool_calls: vec![call.clone()],
                ..Message::new("assistant", "")
            },
            Message::new("tool", "rain"),
            Message::new("tool", "wind"),
            Message::new("assistant", "Rain."),
        ];
        let fitted = fit(&plain(), &messages, &[json!({"name": "look"})]);
        let texts: Vec<_> = fitted.messages.iter().map(|it| (it.role.as_str(), it.content.as_str())).collect();
        assert_eq!(
            texts,
            [
                ("user", "Be brief.\n\nTools:\n{\"name\": \"look\"}\n\nweather?"),
                (
                    "assistant",
                    "<think>\nI look.\n</think>\n\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \
                     \"here\"}}\n</tool_call>"
                ),
                ("user", "<tool_response>\nrain\n</tool_response>\n<tool_response>\nwind\n</tool_response>"),
                ("assistant", "Rain."),
            ]
        );
        assert_eq!(fitted.places, [1, 2, 3, 5]);
        let kinds: Vec<FindingKind> = fitted.findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(
            kinds,
            [
                FindingKind::ReasoningAsText,
                FindingKind::ToolsAsText,
                FindingKind::CallsAsText,
                FindingKind::SystemAsText
            ]
        );
    }

    #[test]
    fn calls_without_an_identifier_get_one_if_the_template_needs_it() {
        let frame = ChatFrame { calls: true, needs_call_ids: true, tool_turns: true, ..plain() };
        let call = json!({"type": "function", "function": {"name": "look", "arguments": {}}});
        let named = json!({"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": {}}});
        let messages = [
            Message::new("user", "weather?"),
            Message { tool_calls: vec![call, named], ..Message::new("assistant", "") },
            Message::new("tool", "rain"),
            Message::new("tool", "wind"),
            Message::new("assistant", "Rain."),
        ];
        let fitted = fit(&frame, &messages, &[]).messages;
        assert_eq!(
            (&fitted[1].tool_calls[0]["id"], &fitted[1].tool_calls[1]["id"]),
            (&json!("call00001"), &json!("abcdefghi"))
        );
        let ids: Vec<Option<&str>> = fitted.iter().map(|message| message.tool_call_id.as_deref()).collect();
        assert_eq!(ids, [None, None, Some("call00001"), Some("abcdefghi"), None]);
    }

    #[test]
    fn a_conversation_that_has_a_place_for_everything_stays_as_it_is() {
        let able = ChatFrame { system: true, reasoning: true, tools: true, calls: true, tool_turns: true, ..plain() };
        let messages = conversation(Some("s"), "a", Some("b"));
        assert!(fits(&able, &messages, &[json!({"name": "look"})]) && !fits(&plain(), &messages, &[]));
        let fitted = fit(&able, &messages, &[json!({"name": "look"})]);
        assert_eq!((fitted.messages, fitted.tools.len(), fitted.findings.len()), (messages, 1, 0));
    }

    #[test]
    fn thoughts_follow_the_generation_prompt_if_the_template_shows_them_nowhere() {
        let frame = ChatFrame { thoughts_in_text: false, ..plain() };
        let turn = |text: &str| Message { reasoning: Some("so".to_owned()), ..Message::new("assistant", text) };
        let messages = [Message::new("user", "a"), turn("b"), Message::new("user", "c"), turn("d")];
        let fitted = fit(&frame, &messages, &[]);
        assert_eq!(fitted.thoughts.as_deref(), Some("so"));
        assert_eq!(fitted.findings[0], Finding::of_turn(FindingKind::ReasoningDropped, 1));
        assert_eq!(completion("<a>", "so", "d"), "<think>\nso\n</think>\n\nd");
        assert_eq!(completion("<a><think>\n", "so", "d"), "so\n</think>\n\nd");
        assert_eq!(completion("<a><think>", "so", "d"), "\nso\n</think>\n\nd");
    }
}
