//! Text for HTML and SVG: escaping, and the formats of numbers.

/// A text in which nothing is markup. Control characters that HTML forbids become replacement characters.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' | '\r' => escaped.push(' '),
            // Bidirectional overrides would reorder other text of the page.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// The first `characters` characters of a text.
pub fn cut(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    text.chars().take(characters.saturating_sub(1)).chain(['…']).collect()
}

/// A number with this many significant digits and a typographic minus sign. A number below 0.0001 has an exponent.
fn significant(value: f64, digits: i32) -> String {
    // The sum of no numbers is -0.
    let value = value + 0.0;
    let magnitude = value.abs();
    let text = if magnitude != 0.0 && magnitude < 1e-4 {
        format!("{value:.2e}")
    } else {
        let order = if magnitude == 0.0 { digits } else { magnitude.log10().floor() as i32 };
        format!("{value:.*}", (digits - 1 - order).clamp(0, 6) as usize)
    };
    text.replace('-', "−")
}

/// A number with four significant digits.
pub fn number(value: f64) -> String {
    significant(value, 4)
}

/// A number with three significant digits and a sign, also if the number is positive.
pub fn signed(value: f64) -> String {
    let text = significant(value, 3);
    if value == 0.0 || text.starts_with('−') { text } else { format!("+{text}") }
}

/// A number with a sign and two decimals, for texts that are no HTML; without a sign if it rounds to 0.
pub fn two_decimals(value: f64) -> String {
    let text = format!("{value:+.2}");
    if text.ends_with("0.00") && text.len() == 5 { "0.00".to_owned() } else { text }
}

/// A count with a prefix: 12.3 k, 4.5 M, 6.7 T.
pub fn count(value: f64) -> String {
    const PREFIXES: [(f64, &str); 7] =
        [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];
    let value = value + 0.0;
    let (scale, prefix) = PREFIXES.into_iter().find(|(scale, _)| value.abs() >= *scale * 0.9995).unwrap_or((1.0, ""));
    let scaled = value / scale;
    let decimals = if prefix.is_empty() && scaled.fract() == 0.0 {
        0
    } else {
        (2 - scaled.abs().max(1.0).log10().floor() as i32).clamp(0, 2) as usize
    };
    let text = format!("{scaled:.decimals$}");
    if prefix.is_empty() { text } else { format!("{text} {prefix}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_have_four_digits_and_counts_three() {
        let shown = [0.0, 0.5, -0.012_346, 1.0 / 3.0, 12.3456, 123_456.7, -0.000_000_1].map(number);
        assert_eq!(shown, ["0", "0.5000", "−0.01235", "0.3333", "12.35", "123457", "−1.00e−7"]);
        assert_eq!([0.5, -0.5, 0.0].map(signed), ["+0.500", "−0.500", "0"]);
        assert_eq!([0.005, -0.004, 0.004, -12.0].map(two_decimals), ["+0.01", "0.00", "0.00", "-12.00"]);
        assert_eq!(
            [0.0, 12.0, 999.7, 12_345.0, 4.5e6, 1.234e15].map(count),
            ["0", "12", "1.00 k", "12.3 k", "4.50 M", "1.23 P"]
        );
        assert_eq!([number(-0.0), count(-0.0), signed(-0.0)], ["0", "0", "0"]);
    }

    proptest! {
        #[test]
        fn escaped_text_holds_no_markup(text in any::<String>()) {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            let is_entity = |rest: &str| ["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|it| rest.starts_with(it));
            prop_assert!(escaped.split('&').skip(1).all(is_entity));
        }
    }
}
