use super::*;
use crate::message::conversation;
use proptest::prelude::*;

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    each_word(text, |word| words.push(word.to_owned()));
    words
}

fn example(prompt: &str) -> Example {
    let messages = conversation(None, prompt, None);
    Example::open(0, messages, "")
}

fn index(prompts: &[&str], ngram: usize, common: Option<usize>) -> NgramIndex {
    let examples: Vec<Example> = prompts.iter().map(|prompt| example(prompt)).collect();
    NgramIndex::new(&examples, ngram, common)
}

/// Example, shared and all n-grams of every hit.
fn found(index: &NgramIndex, prompt: &str, response: &str) -> Vec<(usize, usize, usize)> {
    let hits = index.hits(&conversation(None, prompt, Some(response)));
    hits.iter().map(|hit| (hit.example, hit.shared, hit.of)).collect()
}

#[test]
fn words_have_neither_case_nor_punctuation_and_a_lone_sign_is_no_word() {
    assert_eq!(words("  Don't PAY $3,000 -- not\u{a0}even\n2 + 2!"), ["dont", "pay", "3000", "not", "even", "2", "2"]);
    assert_eq!(words("ÄRGER, ΟΔΟΣ; ١٢ 数学。"), ["ärger", "οδοσ", "١٢", "数学"]);
    assert!(words("… — 🙂 ?!").is_empty());
}

#[test]
fn n_words_in_a_row_overlap_and_n_minus_1_words_do_not() {
    let index = index(&["a b c d e", "x y z"], 4, None);
    assert_eq!(found(&index, "say: A, b c D!", "no"), [(0, 1, 2)]);
    assert_eq!(found(&index, "no", "A b c d e, indeed"), [(0, 2, 2)]);
    assert!(found(&index, "a b c", "d e").is_empty(), "n-grams do not reach from turn to turn");
    assert!(found(&index, "b c d and then a b c", "").is_empty());
    // A repeated n-gram counts once.
    assert_eq!(found(&index, "a b c d, a b c d", "a b c d"), [(0, 1, 2)]);
}

#[test]
fn a_prompt_shorter_than_n_overlaps_only_an_equal_question() {
    let index = index(&["Plural of cat?", "a b c d"], 4, None);
    assert_eq!(found(&index, "plural of CAT", "cats"), [(0, 1, 1)]);
    assert!(found(&index, "the plural of cat", "cats").is_empty());
    assert!(found(&index, "what is this", "plural of cat").is_empty(), "a response asks nothing");
    let turns = [conversation(None, "hello", Some("hi")), conversation(None, "plural of cat", Some("cats"))].concat();
    assert_eq!(index.hits(&turns).len(), 1);
    assert!(index.hits(&conversation(Some("Plural of cat"), "dog", None)).is_empty());
}

fn conversations(turns: &[&[&str]], ngram: usize) -> NgramIndex {
    let roles = ["user", "assistant"].iter().cycle();
    let message = |(text, role): (&&str, &&str)| Message::new(role, *text);
    let of =
        |turns: &&[&str]| Example { messages: turns.iter().zip(roles.clone()).map(message).collect(), ..example("") };
    NgramIndex::new(&turns.iter().map(of).collect::<Vec<_>>(), ngram, None)
}

#[test]
fn n_grams_of_earlier_turns_count_but_do_not_cross_turns() {
    let index = conversations(&[&["a b c d", "e f g h", "go on"]], 3);
    assert_eq!(found(&index, "say a b c", "no"), [(0, 1, 4)]);
    assert_eq!(found(&index, "a b c d", "e f g h"), [(0, 4, 4)]);
    assert!(found(&index, "c d e f", "h go on").is_empty());
    assert!(found(&index, "go on", "").is_empty(), "many conversations end with the same short turn");
    assert_eq!(index.hits(&conversation(None, "b c d", Some("e f g h")))[0].text, "e f g h");
    let single = conversations(&[&["a b", "c", "d e"]], 1);
    assert_eq!(single.hits(&conversation(None, "a b c d e", None))[0].text, "a b", "a run ends where a turn ends");
}

#[test]
fn a_short_conversation_overlaps_only_if_all_its_turns_follow_each_other() {
    let index = conversations(&[&["plural of ox", "oxen", "and of cow"], &["and of cow"]], 9);
    let asked = |turns: &[(&str, &str)]| {
        let messages: Vec<Message> = turns.iter().map(|(role, text)| Message::new(role, *text)).collect();
        index.hits(&messages).iter().map(|hit| hit.example).collect::<Vec<_>>()
    };
    let whole = [("system", "s"), ("user", "Plural of ox?"), ("assistant", "Oxen."), ("user", "And of cow?")];
    assert_eq!(asked(&whole), [0, 1]);
    assert_eq!(asked(&whole[1..3]), [0; 0]);
    assert_eq!(asked(&[("user", "plural of ox"), ("assistant", "cows"), ("user", "and of cow")]), [1]);
    assert_eq!(asked(&[("user", "unknown words"), ("assistant", "oxen"), ("user", "and of cow")]), [1]);
    assert_eq!(asked(&[("assistant", "and of cow")]), [0; 0]);
}

#[test]
fn a_prompt_without_words_overlaps_nothing() {
    let index = index(&["?!", ""], 2, None);
    assert!(found(&index, "...", "").is_empty());
}

#[test]
fn the_text_shown_is_the_longest_shared_run() {
    let index = index(&["one two three four, five six seven eight nine ten"], 3, None);
    let hits = index.hits(&conversation(None, "One two three! But five six (seven) eight nine.", None));
    assert_eq!(hits, [OverlapHit { example: 0, shared: 4, of: 8, text: "five six seven eight nine".to_owned() }]);
}

#[test]
fn a_common_beginning_is_a_template_and_counts_only_without_common() {
    let prompts = [
        "answer the following question: why is it so",
        "answer the following question: who was it then",
        "answer the following question: when",
    ];
    let row = "answer the following question: where do we go";
    assert_eq!(found(&index(&prompts, 4, None), row, ""), [(0, 1, 5), (1, 1, 5), (2, 1, 2)]);
    let index = index(&prompts, 4, Some(2));
    assert!(found(&index, row, "").is_empty());
    assert_eq!(found(&index, prompts[0], ""), [(0, 4, 4)]);
    let templates = ["answer the following question", "answer the following question!"];
    let index = self::index(&templates, 4, Some(1));
    assert_eq!(found(&index, "Answer the following question.", ""), [(0, 1, 1), (1, 1, 1)], "equal as a whole");
    assert!(found(&index, row, "").is_empty());
}

/// A direct and slow implementation of the definition.
fn plainly(prompts: &[String], ngram: usize, row: &[Message]) -> Vec<(usize, usize, usize)> {
    let grams = |text: &str| -> BTreeSet<Vec<String>> { words(text).windows(ngram).map(<[String]>::to_vec).collect() };
    let of_row: BTreeSet<Vec<String>> = row.iter().flat_map(|message| grams(&message.content)).collect();
    let asks =
        |prompt: &str| row.iter().any(|message| message.role == "user" && words(&message.content) == words(prompt));
    let mut found = Vec::new();
    for (place, prompt) in prompts.iter().enumerate() {
        let of = grams(prompt);
        let shared = of.intersection(&of_row).count();
        if of.is_empty() && !words(prompt).is_empty() && asks(prompt) {
            found.push((place, 1, 1));
        } else if shared > 0 {
            found.push((place, shared, of.len()));
        }
    }
    found
}

proptest! {
    #[test]
    fn the_hits_agree_with_the_definition(
        prompts in proptest::collection::vec("([abAB][.,]? ){0,7}", 0..6),
        prompt in "([abcA][!]? ){0,12}",
        response in "([abc] ){0,12}",
        ngram in 1usize..5,
    ) {
        let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let row = conversation(None, &prompt, Some(&response));
        let hits = index(&texts, ngram, None).hits(&row);
        let found: Vec<_> = hits.iter().map(|hit| (hit.example, hit.shared, hit.of)).collect();
        prop_assert_eq!(found, plainly(&prompts, ngram, &row));
        for hit in hits {
            let is_within = |text: &str| format!(" {} ", words(text).join(" ")).contains(&format!(" {} ", hit.text));
            prop_assert!(is_within(&prompts[hit.example]), "{:?}", hit);
        }
    }

    #[test]
    fn words_of_words_are_the_same_words(text in any::<String>()) {
        let once = words(&text);
        prop_assert_eq!(words(&once.join(" ")), once);
    }
}
