use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn recipe() -> Mix {
    let (validation, test, pretraining_size) = (20, 40, 300);
    Mix { size: 600, validation, test, pretraining_size, target_share_in_pretraining: 0.1, ..Mix::default() }
}

/// The family and the right answer of a prompt, computed from its text alone and without the code of the generator.
fn solve(prompt: &str) -> Option<(&'static str, String)> {
    let mut text = prompt.trim_end_matches(['.', '!', ' ']);
    for before in ["Please: ", "Now: ", "Q: ", "OK. "] {
        text = text.strip_prefix(before).unwrap_or(text);
    }
    let text = text.strip_suffix(" please").unwrap_or(text);
    let words: Vec<&str> = text.split([' ', '?', ',', ':']).filter(|word| !word.is_empty()).collect();
    let numbers: Vec<i64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let last = *words.last()?;
    let has = |word: &str| words.contains(&word);
    let sum = || numbers.iter().sum::<i64>().to_string();
    let spell = |letters: Vec<u8>| String::from_utf8(letters).expect("ASCII");
    Some(if has("Add") || has("+") || has("plus") {
        ("add", sum())
    } else if text.starts_with("Next") || has("after") {
        ("next", (numbers[0] + 1).to_string())
    } else if has("Larger") || text.starts_with("Which is more") {
        ("larger", numbers.iter().max()?.to_string())
    } else if has("Sort") || text.ends_with("in order") {
        let mut letters = if has("Sort") { last } else { words[0] }.as_bytes().to_vec();
        for end in (1..letters.len()).rev() {
            (0..end).for_each(|at| {
                if letters[at] > letters[at + 1] {
                    letters.swap(at, at + 1);
                }
            });
        }
        ("sort", spell(letters))
    } else if has("Reverse") || has("Turn") || text.ends_with("backwards") {
        let word = if text.ends_with("backwards") { words[0] } else { last };
        ("reverse", (0..word.len()).map(|at| &word[word.len() - 1 - at..word.len() - at]).collect())
    } else if has("Upper") || has("Shout") || text.ends_with("capitals") {
        let word = if text.ends_with("capitals") { words[0] } else { last };
        ("upper", spell(word.bytes().map(|byte| byte - 32).collect()))
    } else if has("Count") || has("many") && has("How") {
        let at = words.iter().position(|word| *word == "in")?;
        ("count", words[at + 1].split(words[at - 1]).count().saturating_sub(1).to_string())
    } else if has("Last") || text.starts_with("How does") {
        let word = if has("Last") { last } else { words[2] };
        ("last", word[word.len() - 1..].to_owned())
    } else if has("Initials") || text.starts_with("First letters") {
        ("initials", words[words.len() - 3..].iter().map(|word| &word[..1]).collect())
    } else if has("Plural") || text.starts_with("One ") {
        let word = if has("Plural") { last } else { words[1] };
        let ending = match word.as_bytes() {
            [.., b'y'] => return Some(("plural", word[..word.len() - 1].to_owned() + "ies")),
            [.., b's' | b'z'] | [.., b's' | b'c', b'h'] => "es",
            _ => "s",
        };
        ("plural", word.to_owned() + ending)
    } else if has("Vowels") {
        ("vowels", last.replace(|letter| !"aeiou".contains(letter), ""))
    } else if has("Copy") || has("Say") || has("Repeat") {
        ("copy", last.to_owned())
    } else {
        return None;
    })
}

fn by_label(pool: &[PoolRow]) -> BTreeMap<&str, Vec<(&str, &str)>> {
    let mut labels: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for row in pool {
        let pair = (row.messages[0].content.as_str(), row.messages[1].content.as_str());
        labels.entry(row.label.as_deref().unwrap_or_default()).or_default().push(pair);
    }
    labels
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn clean_rows_are_right_and_wrong_rows_are_wrong_by_an_independent_solver(seed: u64) {
        let made = mix(&recipe(), &Seed::new(seed)).expect("made");
        for (label, rows) in by_label(&made.pool) {
            for (prompt, response) in rows {
                let Some((family, answer)) = solve(prompt) else { panic!("no known wording: {prompt}") };
                let is_target = ["add", "sort"].contains(&family);
                prop_assert_eq!(is_target, ["relevant", "wrong"].contains(&label), "{} {}", label, prompt);
                let is_clean = ["relevant", "irrelevant", "redundant"].contains(&label);
                prop_assert_eq!(answer == response, is_clean, "{}: {} -> {}", label, prompt, response);
                prop_assert!(!response.is_empty() && prompt.len() + response.len() <= 60, "{} -> {}", prompt, response);
            }
        }
        for example in made.validation.iter().chain(&made.test) {
            let (family, answer) = solve(example.prompt()).expect("a known wording");
            prop_assert!(["add", "sort"].contains(&family));
            prop_assert_eq!(answer, example.response.content.clone());
        }
    }

    #[test]
    fn shares_are_honoured_and_every_prompt_is_asked_once(
        seed: u64, size in 50usize..800, relevant in 0.0..0.2, wrong in 0.0..0.2, corrupted in 0.0..0.3, redundant in 0.0..0.1,
    ) {
        let recipe = Mix { size, relevant, wrong, corrupted, redundant, ..recipe() };
        let made = mix(&recipe, &Seed::new(seed)).expect("made");
        prop_assert_eq!(made.pool.len(), size);
        let labels = by_label(&made.pool);
        let count = |label: &str| labels.get(label).map_or(0, Vec::len);
        for (label, share) in [("relevant", relevant), ("wrong", wrong), ("corrupted", corrupted), ("redundant", redundant)] {
            prop_assert!((count(label) as f64 - share * size as f64).abs() < 1.0, "{}: {}", label, count(label));
        }
        let prompts: BTreeSet<&str> = made.pool.iter().map(|row| row.messages[0].content.as_str()).collect();
        prop_assert_eq!(prompts.len(), size);
    }

    #[test]
    fn no_held_out_question_is_in_the_pool_or_in_pretraining(seed: u64) {
        let made = mix(&recipe(), &Seed::new(seed)).expect("made");
        // The operands, in order, identify a question in every wording.
        let asked = |prompt: &str| {
            let operands = prompt.split([' ', '?', ':']).filter(|word| word.parse::<u64>().is_ok());
            let operands: Vec<&str> = operands.collect();
            if operands.is_empty() { prompt.to_owned() } else { operands.join(" ") }
        };
        let held: BTreeSet<String> = made.test.iter().chain(&made.validation).map(|it| asked(it.prompt())).collect();
        prop_assert_eq!(held.len(), 60);
        for row in made.pool.iter().filter(|row| ["relevant", "wrong"].contains(&row.label.as_deref().unwrap_or_default())) {
            prop_assert!(!held.contains(&asked(&row.messages[0].content)));
        }
        let targets = made.pretraining.iter().filter(|(prompt, _)| matches!(solve(prompt), Some(("add" | "sort", _))));
        let targets: Vec<_> = targets.collect();
        prop_assert!((10..60).contains(&targets.len()), "{} of 300 at a share of 0.1", targets.len());
        prop_assert!(targets.iter().all(|(prompt, _)| !held.contains(&asked(prompt))));
    }
}

#[test]
fn a_seed_gives_the_same_mixture_and_another_seed_another() {
    let pool = |seed: u64| mix(&recipe(), &Seed::new(seed)).expect("made").pool;
    assert_eq!(pool(3), pool(3));
    assert_ne!(pool(3), pool(4));
}

#[test]
fn an_exhausted_family_is_an_error() {
    let recipe = Mix { test: 3000, targets: vec![Family::Next], ..recipe() };
    let error = mix(&recipe, &Seed::new(1)).err().expect("only 999 numbers");
    assert_eq!(error.to_string(), "the family `next` has no more different questions");
}

#[test]
fn shares_with_fractions_give_the_requested_number_of_rows() {
    let made = |size: usize, shares: [f64; 4]| {
        let [relevant, wrong, corrupted, redundant] = shares;
        let pool =
            mix(&Mix { size, relevant, wrong, corrupted, redundant, ..recipe() }, &Seed::new(1)).expect("made").pool;
        let count = |label: &str| pool.iter().filter(|row| row.label.as_deref() == Some(label)).count();
        (pool.len(), ["relevant", "wrong", "corrupted", "redundant", "irrelevant"].map(count))
    };
    assert_eq!(made(3, [0.5, 0.5, 0.0, 0.0]), (3, [2, 1, 0, 0, 0]));
    assert_eq!(made(1, [0.25, 0.25, 0.25, 0.25]), (1, [1, 0, 0, 0, 0]));
    assert_eq!(made(10, [0.15, 0.15, 0.3, 0.4]), (10, [2, 1, 3, 4, 0]));
    assert_eq!(made(100, [0.08, 0.06, 0.25, 0.05]), (100, [8, 6, 25, 5, 56]));
    assert_eq!(made(100, [0.29, 0.07, 0.57, 0.07]), (100, [29, 7, 57, 7, 0]), "29 % of 100 is 28.999999999999996");
}
