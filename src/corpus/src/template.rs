//! Chat templates: the Jinja text of a tokenizer folder, rendered as `transformers` renders it.
//!
//! The current date in a template is fixed: with the real date, the same action would give another artifact on another
//! day. The templates of Llama 3 use the fixed date if no date is available.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::marks::{GENERATION, private_characters};
use super::message::Message;
use super::python_json;
use super::template_size::check_size;
use raisin_base::error::{Context as _, Error as AnyError, Problem, Result};
use raisin_base::stack::on_large_stack;

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(String, String)>,
    /// Whether the template has `{% generation %}` blocks, which say what the assistant writes.
    pub(super) has_generations: bool,
    /// Private-use characters in the source.
    pub(super) private: Vec<char>,
}

/// How a template expects the arguments of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arguments {
    #[default]
    Object,
    /// The JSON text of the arguments.
    Text,
}

/// The form in which a template expects messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageForm {
    pub arguments: Arguments,
    /// The key of the reasoning.
    pub reasoning: &'static str,
    /// Whether a content is a list of typed parts: `[{"type": "text", "text": ...}]`.
    pub has_parts: bool,
}

/// The keys under which templates look for reasoning.
pub const REASONING_KEYS: [&str; 4] = ["reasoning_content", "thinking", "reasoning", "thought"];

impl Default for MessageForm {
    fn default() -> Self {
        Self { arguments: Arguments::Object, reasoning: REASONING_KEYS[0], has_parts: false }
    }
}

/// A conversation as values of a template.
pub struct ChatValues {
    messages: Vec<Value>,
    tools: Value,
}

const NAME: &str = "chat_template";

/// The work that a template may do for one conversation: about this many instructions, or 64 times as many bytes. A
/// usual template needs some hundreds for each message.
const MOST_STEPS: u64 = 4_000_000;

/// The largest indentation of JSON.
const MOST_INDENT: usize = 1000;

impl ChatTemplate {
    /// `special_tokens` are the names and texts that the template may use: `bos_token`, `eos_token`, ...
    pub fn compile(source: &str, special_tokens: Vec<(String, String)>) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_fuel(Some(MOST_STEPS));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        // Python prints a float with all its digits and an exponent: 1e-05, 1.0.
        environment
            .add_filter("string", |value: &Value| python_json::float_text(value).unwrap_or_else(|| value.to_string()));
        environment.set_formatter(|out, state, value| match python_json::float_text(value) {
            Some(text) => out.write_str(&text).map_err(Error::from),
            None => minijinja::escape_formatter(out, state, value),
        });
        // In Python, texts and mappings can be iterated and indexed.
        environment.add_test("iterable", is_container);
        environment.add_test("sequence", is_container);
        check_size(source)?;
        environment.add_filter(GENERATION_FILTER, |text: String| format!("{}{text}{}", GENERATION[0], GENERATION[1]));
        let (source, has_generations) = with_generation_filters(source);
        let private = private_characters(&source).collect();
        // The compiler recurses into chains such as `{% elif %}`.
        on_large_stack(|| environment.add_template_owned(NAME, source))?.context("the chat template is invalid")?;
        Ok(Self { environment, special_tokens, has_generations, private })
    }

    /// Renders the first `turns` messages of a conversation.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn render(&self, chat: &ChatValues, turns: usize, add_generation_prompt: bool) -> Result<String> {
        let text = self.render_marked(chat, turns, add_generation_prompt)?;
        Ok(if self.has_generations { text.replace(GENERATION, "") } else { text })
    }

    /// As [`Self::render`], with marks around the output of `{% generation %}` blocks.
    pub(super) fn render_marked(&self, chat: &ChatValues, turns: usize, add_generation_prompt: bool) -> Result<String> {
        let messages = chat.messages.iter().take(turns).cloned().collect();
        self.render_with(messages, chat.tools.clone(), add_generation_prompt)
    }

    fn render_with(&self, messages: Vec<Value>, tools: Value, add_generation_prompt: bool) -> Result<String> {
        let specials = self.special_tokens.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let specials = Value::from_pairs(specials);
        let values = context! {
            messages, add_generation_prompt, tools, documents => (), ..specials
        };
        let template = self.environment.get_template(NAME)?;
        template.render(values).map_err(|error| {
            if error.kind() == ErrorKind::OutOfFuel {
                let message = format!("the chat template needs more than {MOST_STEPS} steps for one conversation");
                return Problem::new(message)
                    .hint("the template may loop for ever; look at chat_template.jinja or tokenizer_config.json")
                    .into();
            }
            AnyError::msg(said(&error))
        })
    }
}

/// What a template says where it refuses a conversation, in one line.
fn said(error: &Error) -> String {
    let mut innermost = error;
    while let Some(inner) = std::error::Error::source(innermost).and_then(|source| source.downcast_ref::<Error>()) {
        innermost = inner;
    }
    let detail = innermost.detail().map_or_else(|| innermost.kind().to_string(), str::to_owned);
    let detail = detail.split_whitespace().collect::<Vec<_>>().join(" ");
    innermost.line().map_or(detail.clone(), |line| format!("{detail} (line {line} of the chat template)"))
}

impl ChatValues {
    pub fn new(messages: &[Message], tools: &[serde_json::Value]) -> Self {
        Self::in_form(messages, tools, MessageForm::default())
    }

    pub fn in_form(messages: &[Message], tools: &[serde_json::Value], form: MessageForm) -> Self {
        let call = match form.arguments {
            Arguments::Object => python_json::value,
            Arguments::Text => |call: &serde_json::Value| python_json::value(&with_arguments_as_text(call)),
        };
        Self::with_calls(messages, tools, form, call)
    }

    /// A conversation whose calls of tools are the values that `call` gives.
    pub(super) fn with_calls(
        messages: &[Message],
        tools: &[serde_json::Value],
        form: MessageForm,
        call: fn(&serde_json::Value) -> Value,
    ) -> Self {
        let messages = messages.iter().map(|message| ChatTurn::of(message, form, call)).collect();
        Self { messages, tools: tools_value((!tools.is_empty()).then_some(tools)) }
    }

    /// Messages as the OpenAI interface writes them, with tool calls and typed contents.
    pub fn of_json(messages: &[serde_json::Value], tools: Option<&[serde_json::Value]>) -> Self {
        let messages = messages.iter().map(|message| python_json::value(&without_nulls(message))).collect();
        Self { messages, tools: tools_value(tools) }
    }

    pub fn turns(&self) -> usize {
        self.messages.len()
    }
}

/// As in `transformers`, a conversation without tools has the tools `None`.
fn tools_value(tools: Option<&[serde_json::Value]>) -> Value {
    tools.map_or(Value::from(()), |tools| tools.iter().map(python_json::value).collect())
}

/// The message without null values: as in `transformers`, a template does not see a key whose value is null.
fn without_nulls(message: &serde_json::Value) -> serde_json::Value {
    let mut message = message.clone();
    if let Some(entries) = message.as_object_mut() {
        entries.retain(|_, value| !value.is_null());
    }
    message
}

/// The attributes of a message in a template: `message.role`, `message['content']`.
#[derive(Debug)]
struct ChatTurn(Vec<(&'static str, Value)>);

impl ChatTurn {
    fn of(message: &Message, form: MessageForm, call: fn(&serde_json::Value) -> Value) -> Value {
        let content = if form.has_parts && !message.content.is_empty() {
            let part = [("type", Value::from("text")), ("text", Value::from(&message.content))];
            Value::from(vec![Value::from_pairs(part)])
        } else {
            Value::from(&message.content)
        };
        let mut entries = vec![("role", Value::from(&message.role)), ("content", content)];
        let texts =
            [(form.reasoning, &message.reasoning), ("name", &message.name), ("tool_call_id", &message.tool_call_id)];
        entries.extend(texts.into_iter().filter_map(|(key, text)| Some((key, Value::from(text.as_ref()?)))));
        if !message.tool_calls.is_empty() {
            entries.push(("tool_calls", message.tool_calls.iter().map(call).collect()));
        }
        Value::from_object(Self(entries))
    }
}

fn with_arguments_as_text(call: &serde_json::Value) -> serde_json::Value {
    let mut call = call.clone();
    if let Some(arguments) = call.pointer_mut("/function/arguments").filter(|arguments| !arguments.is_string()) {
        *arguments = python_json::text(arguments).into();
    }
    call
}

impl Object for ChatTurn {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(name, _)| Value::from(*name)).collect())
    }
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The filter that puts marks around the output of `{% generation %}` blocks.
const GENERATION_FILTER: &str = "generation_of_the_assistant";

/// Replaces `{% generation %}`, which marks assistant text for the masks of `transformers`, by a filter block. Returns
/// the source, and whether it has such blocks.
fn with_generation_filters(source: &str) -> (String, bool) {
    let mut text = String::with_capacity(source.len());
    let (mut rest, mut found) = (source, false);
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start + 2..].find("%}") else { break };
        let inner = &rest[start + 2..start + 2 + length];
        let word = inner.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        text.push_str(&rest[..start + 2]);
        match word {
            "generation" => {
                found = true;
                text.push_str(&inner.replace("generation", &format!("filter {GENERATION_FILTER}")));
            }
            "endgeneration" => text.push_str(&inner.replace("endgeneration", "endfilter")),
            _ => text.push_str(inner),
        }
        text.push_str("%}");
        rest = &rest[start + 2 + length + 2..];
    }
    text.push_str(rest);
    (text, found)
}

/// The fixed date of templates: 26 July 2024, at noon.
fn strftime_now(format: String) -> Result<String, Error> {
    let now = jiff::civil::date(2024, 7, 26).at(12, 0, 0, 0);
    jiff::fmt::strtime::format(&format, now).map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// `json.dumps` with its keyword arguments, as `transformers` offers it to templates.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let indent = options.get::<Option<usize>>("indent")?;
    if indent.is_some_and(|indent| indent > MOST_INDENT) {
        let message = format!("an indentation of more than {MOST_INDENT} blanks");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let separators = match options.get::<Option<Vec<String>>>("separators")?.as_deref() {
        None => None,
        Some([item, key]) => Some((item.clone(), key.clone())),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators are two texts")),
    };
    options.assert_all_used()?;
    let style = python_json::JsonStyle::new(indent, separators, ascii, sort_keys);
    Ok(Value::from(python_json::write(value, &style)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::conversation;

    fn render(source: &str) -> Result<String> {
        let specials = vec![("eos_token".to_owned(), "</s>".to_owned())];
        let chat = ChatValues::new(&conversation(Some("s"), "a <b>", Some("c")), &[]);
        ChatTemplate::compile(source, specials)?.render(&chat, 3, true)
    }

    #[test]
    fn blocks_are_trimmed_and_python_methods_work() -> Result<()> {
        let source = "{% for m in messages %}\n  {% if m.role.startswith('u') %}\n{{ m['content'].upper() }}{{ eos_token }}\n  {% endif %}\n{% endfor %}";
        assert_eq!(render(source)?, "A <B></s>\n");
        Ok(())
    }

    #[test]
    fn json_has_pythons_spacing_and_no_html_escapes() -> Result<()> {
        assert_eq!(render("{{ messages[1:2] | tojson }}")?, r#"[{"role": "user", "content": "a <b>"}]"#);
        assert_eq!(
            render("{{ messages[2] | tojson(indent=1) }}")?,
            "{\n \"role\": \"assistant\",\n \"content\": \"c\"\n}"
        );
        Ok(())
    }

    #[test]
    fn generation_tags_render_their_content() -> Result<()> {
        assert_eq!(render("a {%- generation -%} b {%- endgeneration %} c")?, "ab c");
        // The signs of a tag must not overlap.
        assert!(render("{%}").is_err() && render("{%} %}").is_err());
        Ok(())
    }

    #[test]
    fn an_exception_of_the_template_is_an_error_with_its_text() {
        let error = render("{{ raise_exception('roles must alternate') }}").expect_err("raised");
        assert!(format!("{error:#}").contains("roles must alternate"));
    }

    #[test]
    fn a_template_without_an_end_or_with_a_gigabyte_of_output_is_refused() {
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% set c = a %}{% endfor %}{% endfor %}";
        let doubled = "{% set ns = namespace(t='0123456789') %}{% for a in range(40) %}{% set ns.t = ns.t ~ ns.t %}\
                       {% endfor %}{{ ns.t | length }}";
        let repeated = "{{ 'x' * 2000000000 }}";
        let indented = "{{ messages | tojson(indent=2000000000) }}";
        let dated = "{{ strftime_now('%2000000000Y') }}";
        let recursive = "{% macro again(n) %}{{ again(n + 1) }}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}";
        let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
        let listed = format!("{{{{ {}{} }}}}", "[".repeat(100_000), "]".repeat(100_000));
        for source in [endless, doubled, repeated, indented, dated, recursive, &nested, &listed] {
            let began = std::time::Instant::now();
            let error = render(source).expect_err("refused");
            assert!(began.elapsed().as_secs() < 5, "{} took {:?}", &source[..40], began.elapsed());
            if source == endless {
                assert!(format!("{error:#}").contains("more than 4000000 steps"), "{error:#}");
            }
        }
    }

    #[test]
    fn a_long_conversation_needs_far_fewer_steps_than_the_limit() -> Result<()> {
        let messages: Vec<Message> =
            (0..2000).flat_map(|_| conversation(None, &"question ".repeat(500), Some("answer"))).collect();
        let source = "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m['content'] | trim }}\
                      {% else %}{{ '<|assistant|>' + m['content'].strip() }}{% endif %}{% endfor %}";
        let text = ChatTemplate::compile(source, Vec::new())?.render(
            &ChatValues::new(&messages, &[]),
            messages.len(),
            true,
        )?;
        assert!(text.len() > 9_000_000);
        Ok(())
    }

    #[test]
    fn the_date_is_fixed() -> Result<()> {
        assert_eq!(
            render("{{ strftime_now('%d %b %Y') }}, {{ strftime_now('%Y-%m-%d') }}")?,
            "26 Jul 2024, 2024-07-26"
        );
        Ok(())
    }

    #[test]
    fn tools_and_tool_calls_keep_the_order_of_their_keys() -> Result<()> {
        let source = "{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}{% if m.tool_calls %}\
                      {{ m.tool_calls[0].function.arguments | tojson(indent=2) }}{% endif %}{% endfor %}";
        let tools = [serde_json::json!({"zeta": 1, "alpha": true, "beta": null})];
        let call = serde_json::json!({"function": {"name": "f", "arguments": {"z": [1.0, 1e-7], "a": "ü"}}});
        let messages = [serde_json::json!({"role": "assistant", "tool_calls": [call]})];
        let chat = ChatValues::of_json(&messages, Some(&tools));
        let text = ChatTemplate::compile(source, Vec::new())?.render(&chat, 1, false)?;
        let wanted = "{\"zeta\": 1, \"alpha\": true, \"beta\": null}\
                      {\n  \"z\": [\n    1.0,\n    1e-07\n  ],\n  \"a\": \"ü\"\n}";
        assert_eq!(text, wanted);
        Ok(())
    }
}
