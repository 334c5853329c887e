//! Writes canonical JSON piece by piece, as [`raisin_base::digest::canonical`] writes a whole value. A build writes the
//! canonical JSON of every action, and making a `Value` first would take longer.

use serde_json::Value;

use raisin_base::digest::Digest;

pub fn put_digest(digest: Option<Digest>, text: &mut String) {
    match digest {
        Some(digest) => put_text(&digest.to_hex(), text),
        None => text.push_str("null"),
    }
}

/// Appends a text as serde_json writes it. A text without special characters, the common case, needs no escape.
pub fn put_text(plain: &str, text: &mut String) {
    if plain.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        return text.push_str(&Value::from(plain).to_string());
    }
    text.push('"');
    text.push_str(plain);
    text.push('"');
}

/// `entries` must be sorted by name.
pub fn put_table<'t, T>(
    text: &mut String,
    entries: impl IntoIterator<Item = (&'t str, T)>,
    put: impl Fn(T, &mut String),
) {
    put_all(text, ['{', '}'], entries, |(name, value), text| {
        put_text(name, text);
        text.push(':');
        put(value, text);
    });
}

/// Puts all items, with commas between them and brackets around them.
pub fn put_all<T>(
    text: &mut String,
    [open, close]: [char; 2],
    items: impl IntoIterator<Item = T>,
    put: impl Fn(T, &mut String),
) {
    text.push(open);
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        put(item, text);
    }
    text.push(close);
}
