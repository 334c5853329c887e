//! The language and the script of a text, by whatlang (trigrams of letters).

/// The ISO 639-3 code of the language of a text, such as `eng`. `None` if the text is too short or too mixed for a
/// reliable answer. Code and numbers make the answer unreliable too.
pub fn language(text: &str) -> Option<&'static str> {
    let found = whatlang::detect(text)?;
    found.is_reliable().then(|| found.lang().code())
}

/// The script of most letters of a text, such as `Latin`; `None` without letters.
pub fn script(text: &str) -> Option<String> {
    whatlang::detect_script(text).map(|script| script.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_a_language_and_a_word_has_none() {
        let english = "Paris is the capital of France, and many people live there.";
        let german = "Der Ausschuss wird seine Ergebnisse über die neue Schule nächste Woche veröffentlichen.";
        let russian = "Комитет опубликует свои выводы о новой школе на следующей неделе.";
        assert_eq!(language(english), Some("eng"));
        assert_eq!(language(german), Some("deu"));
        assert_eq!(language(russian), Some("rus"));
        assert_eq!(language("Name five prime ministers of India."), None, "names are unreliable");
        assert_eq!(language("42"), None);
        assert_eq!(language(""), None);
    }

    #[test]
    fn the_script_is_that_of_most_letters() {
        assert_eq!(script("Привет, world и мир").as_deref(), Some("Cyrillic"));
        assert_eq!(script("hello").as_deref(), Some("Latin"));
        assert_eq!(script("1 + 1"), None);
    }
}
