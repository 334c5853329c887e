//! Chat templates: Jinja text of a tokenizer folder, rendered the way `transformers` renders it.
//!
//! `strftime_now` is not offered: a text that holds today's date would make the same action give another artifact
//! tomorrow. Templates ask whether it is defined and fall back to a fixed date.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::message::Message;
use crate::error::{Context as _, Result};

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(String, String)>,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// `special_tokens` are the names that the template may use: `bos_token`, `eos_token`, ...
    pub fn compile(source: &str, special_tokens: Vec<(String, String)>) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", python_json);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .context("the chat template is invalid")?;
        Ok(Self { environment, special_tokens })
    }

    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let specials = self.special_tokens.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let specials = Value::from_pairs(specials);
        let messages: Vec<Value> = messages.iter().map(|message| Value::from_object(message.clone())).collect();
        let values = context! {
            messages, add_generation_prompt, tools => (), documents => (), ..specials
        };
        let template = self.environment.get_template(NAME)?;
        template.render(values).context("the chat template does not accept this conversation")
    }
}

/// A message as a template sees it: `message.role`, `message['content']`.
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

/// `{% generation %}` marks assistant text for transformers' own masks; a block that is always taken renders the same.
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

/// `json.dumps(value, ensure_ascii=False, indent=indent)`: Python's spacing, nothing escaped for HTML.
fn python_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut text = String::new();
    write_json(value, indent, 0, &mut text)?;
    Ok(Value::from(text))
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, text: &mut String) -> Result<(), Error> {
    let is_map = match value.kind() {
        ValueKind::Map => true,
        ValueKind::Seq | ValueKind::Iterable => false,
        ValueKind::String => {
            text.push_str(&serde_json::Value::from(value.as_str().unwrap_or_default()).to_string());
            return Ok(());
        }
        ValueKind::None => {
            text.push_str("null");
            return Ok(());
        }
        ValueKind::Bool | ValueKind::Number => {
            text.push_str(&value.to_string());
            return Ok(());
        }
        kind => return Err(Error::new(ErrorKind::InvalidOperation, format!("{kind} cannot be written as JSON"))),
    };
    let line = |depth: usize, text: &mut String| {
        if let Some(width) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    text.push(if is_map { '{' } else { '[' });
    let mut is_empty = true;
    for item in value.try_iter()? {
        if !is_empty {
            text.push_str(if indent.is_some() { "," } else { ", " });
        }
        is_empty = false;
        line(depth + 1, text);
        if is_map {
            text.push_str(&serde_json::Value::from(item.to_string()).to_string());
            text.push_str(": ");
            write_json(&value.get_item(&item)?, indent, depth + 1, text)?;
        } else {
            write_json(&item, indent, depth + 1, text)?;
        }
    }
    if !is_empty {
        line(depth, text);
    }
    text.push(if is_map { '}' } else { ']' });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::message::conversation;

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
    fn the_clock_is_not_offered() -> Result<()> {
        assert_eq!(render("{% if strftime_now is defined %}now{% else %}fixed{% endif %}")?, "fixed");
        Ok(())
    }
}
