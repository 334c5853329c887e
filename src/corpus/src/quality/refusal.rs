//! Answers that refuse, and answers that speak of the model instead of the question.

/// The number of characters at the beginning of a text in which a refusal is looked for.
const BEGINNING: usize = 200;

/// What such answers say, in lower case and with plain apostrophes.
const PHRASES: [&str; 19] = [
    "i'm sorry, but",
    "i am sorry, but",
    "i'm sorry, i can",
    "sorry, i can't",
    "sorry, i cannot",
    "sorry, but i can",
    "i apologize, but i",
    "i must decline",
    "as an ai,",
    "as an ai language",
    "as an ai model",
    "as an ai assistant",
    "as a language model",
    "as a large language model",
    "i'm just an ai",
    "i am just an ai",
    "i'm an ai language model",
    "i am an ai language model",
    "i don't have personal opinions",
];

/// Beginnings that refuse only together with one of [`DEEDS`]: `I cannot wait` refuses nothing.
const UNABLE: [&str; 8] = [
    "i cannot ",
    "i can't ",
    "i can not ",
    "i'm unable to ",
    "i am unable to ",
    "i'm not able to ",
    "i am not able to ",
    "i will not ",
];

const DEEDS: [&str; 18] = [
    "access", "answer", "assist", "browse", "comply", "complete", "create", "do that", "engage", "fulfil", "generate",
    "give you", "help", "offer", "perform", "provide", "support", "write",
];

/// Whether an answer begins with an English refusal, such as `I'm sorry, but`, or speaks as a model, such as `As an AI
/// language model`. Only the first 200 characters are read.
pub fn is_refusal(text: &str) -> bool {
    let plain = |letter: char| if letter == '\u{2019}' { '\'' } else { letter };
    let beginning: String = text.chars().take(BEGINNING).map(plain).flat_map(char::to_lowercase).collect();
    // `Hawaii cannot` has no `i cannot`.
    let places = |phrase: &'static str| {
        let begins_word = |at: usize| !beginning[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        beginning.match_indices(phrase).map(|(at, _)| at).filter(move |at| begins_word(*at))
    };
    let follows_deed = |start: &'static str| {
        places(start).any(|at| DEEDS.iter().any(|deed| beginning[at + start.len()..].starts_with(deed)))
    };
    PHRASES.iter().any(|phrase| places(phrase).next().is_some()) || UNABLE.iter().any(|start| follows_deed(start))
}

#[cfg(test)]
mod tests {
    use super::is_refusal;

    #[test]
    fn refusals_are_found_and_ordinary_answers_are_not() {
        for text in [
            "I'm sorry, but I can't help with that.",
            "I\u{2019}m sorry, but the text is missing.",
            "As an AI language model, I have no preferences.",
            "Unfortunately, I am unable to provide the weather.",
            "I cannot assist with this request.",
        ] {
            assert!(is_refusal(text), "{text}");
        }
        for text in [
            "I cannot wait to see you!",
            "The shop is sorry but closed.",
            "Paris is the capital of France.",
            "He said as an aide would.",
            "DeepMind was an AI company in London.",
            "She works as an AI engineer.",
            "Delhi will not support the plan.",
            "Hawaii cannot provide this power.",
            "",
        ] {
            assert!(!is_refusal(text), "{text}");
        }
        let late = format!("{} I'm sorry, but I can't.", "A long answer. ".repeat(20));
        assert!(!is_refusal(&late), "only the beginning counts");
    }
}
