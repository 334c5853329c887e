//! Chat templates: the Jinja text of a tokenizer folder, rendered as `transformers` renders it.
//!
//! The current date in a template is fixed: with the real date, the same action would give another artifact on another
//! day. The templates of Llama 3 use the fixed date if no date is available.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::message::Message;
use super::python_json;
use raisin_base::error::{Context as _, Error as AnyError, Problem, Result};

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(String, String)>,
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
        // In Python, texts and mappings can be iterated and indexed.
        environment.add_test("iterable", is_container);
        environment.add_test("sequence", is_container);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .context("the chat template is invalid")?;
        Ok(Self { environment, special_tokens })
    }

    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages = messages.iter().map(|message| Value::from_object(message.clone())).collect();
        self.render_with(messages, Value::from(()), add_generation_prompt)
    }

    /// Renders messages as the OpenAI interface writes them (with tool calls and typed contents), and the JSON schemas
    /// of the tools that the model may call.
    pub fn render_json(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&[serde_json::Value]>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let messages = messages.iter().map(|message| python_json::value(&without_nulls(message))).collect();
        let tools = tools.map_or(Value::from(()), |tools| tools.iter().map(python_json::value).collect());
        self.render_with(messages, tools, add_generation_prompt)
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
            AnyError::new(error).context("the chat template does not accept this conversation")
        })
    }
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
impl Object for Message {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "role" => Some(Value::from(&self.role)),
            "content" => Some(Value::from(&self.content)),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["role", "content"])
    }
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Replaces `{% generation %}`, which marks assistant text for the masks of `transformers`, by a block that is always
/// rendered.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inner = &rest[start + 2..start + length];
        let word = inner.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        text.push_str(&rest[..start + 2]);
        match word {
            "generation" => text.push_str(&inner.replace("generation", "if true")),
            "endgeneration" => text.push_str(&inner.replace("endgeneration", "endif")),
            _ => text.push_str(inner),
        }
        text.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    text.push_str(rest);
    text
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
        ChatTemplate::compile(source, specials)?.render(&conversation(Some("s"), "a <b>", Some("c")), true)
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
        let text = ChatTemplate::compile(source, Vec::new())?.render(&messages, true)?;
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
        let text = ChatTemplate::compile(source, Vec::new())?.render_json(&messages, Some(&tools), false)?;
        let wanted = "{\"zeta\": 1, \"alpha\": true, \"beta\": null}\
                      {\n  \"z\": [\n    1.0,\n    1e-07\n  ],\n  \"a\": \"ü\"\n}";
        assert_eq!(text, wanted);
        Ok(())
    }
}
