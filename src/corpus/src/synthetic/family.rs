//! Twelve tiny skills on made-up words and small numbers. A byte-level model of a few layers can learn them.

use raisin_settings::Family;

use raisin_base::random::Rng;

/// One question of a family. Questions with the same operands ask for the same in other words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntheticQuestion {
    pub family: Family,
    pub operands: Vec<String>,
    pub prompt: String,
    pub answer: String,
}

const CONSONANTS: &[u8] = b"bcdfghklmnprstvwz";
const VOWELS: &[u8] = b"aeiou";

/// The questions of a skill and their answers.
pub trait Skill {
    /// Draws a question and its wording.
    fn draw(self, draw: &mut Rng) -> SyntheticQuestion;

    /// The question with these operands in the wording of this number. A wording has `$1`, `$2`, `$3` for the operands.
    fn ask(self, operands: Vec<String>, wording: usize) -> SyntheticQuestion;
}

impl Skill for Family {
    fn draw(self, draw: &mut Rng) -> SyntheticQuestion {
        let operands = draw_operands(self, draw);
        let wording = draw.below(wordings(self).len());
        self.ask(operands, wording)
    }

    fn ask(self, operands: Vec<String>, wording: usize) -> SyntheticQuestion {
        let wordings = wordings(self);
        let mut prompt = wordings[wording % wordings.len()].to_owned();
        for (index, operand) in operands.iter().enumerate() {
            prompt = prompt.replace(&format!("${}", index + 1), operand);
        }
        let answer = answer(self, &operands);
        SyntheticQuestion { family: self, operands, prompt, answer }
    }
}

fn draw_operands(family: Family, draw: &mut Rng) -> Vec<String> {
    let mut number = |high: usize| draw.below(high + 1).to_string();
    match family {
        Family::Add => vec![number(49), number(49)],
        Family::Next => vec![number(998)],
        Family::Larger => {
            let first = draw.below(100);
            let second = (first + 1 + draw.below(99)) % 100;
            vec![first.to_string(), second.to_string()]
        }
        Family::Initials => (0..3).map(|_| word(draw, 4)).collect(),
        Family::Sort => vec![word(draw, 5)],
        Family::Count => {
            let word = word(draw, 6);
            let letters = word.as_bytes();
            let letter = char::from(draw.pick(letters));
            vec![letter.to_string(), word]
        }
        _ => vec![word(draw, 6)],
    }
}

pub(super) fn wordings(family: Family) -> &'static [&'static str] {
    match family {
        Family::Copy => &["Copy: $1", "Say $1", "Repeat the word $1"],
        Family::Reverse => &["Reverse: $1", "Turn around $1", "$1 backwards"],
        Family::Upper => &["Upper case: $1", "Shout $1", "$1 in capitals"],
        Family::Sort => &["Sort: $1", "Sort the letters of $1", "$1 in order"],
        Family::Count => &["Count $1 in $2", "How many $1 in $2?"],
        Family::Last => &["Last letter: $1", "How does $1 end?"],
        Family::Initials => &["Initials: $1 $2 $3", "First letters of $1 $2 $3"],
        Family::Add => &["Add $1 $2", "$1 + $2", "What is $1 plus $2?"],
        Family::Next => &["Next: $1", "What comes after $1?"],
        Family::Larger => &["Larger: $1 $2", "Which is more, $1 or $2?"],
        Family::Plural => &["Plural: $1", "One $1, many"],
        Family::Vowels => &["Vowels: $1", "Vowels of $1"],
    }
}

fn answer(family: Family, operands: &[String]) -> String {
    let first = operands.first().map_or("", String::as_str);
    let number = |index: usize| operands.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    match family {
        Family::Copy => first.to_owned(),
        Family::Reverse => first.chars().rev().collect(),
        Family::Upper => first.to_ascii_uppercase(),
        Family::Sort => {
            let mut letters: Vec<char> = first.chars().collect();
            letters.sort_unstable();
            letters.into_iter().collect()
        }
        Family::Count => operands.get(1).map_or(0, |word| word.matches(first).count()).to_string(),
        Family::Last => first.chars().last().map(String::from).unwrap_or_default(),
        Family::Initials => operands.iter().filter_map(|word| word.chars().next()).collect(),
        Family::Add => (number(0) + number(1)).to_string(),
        Family::Next => (number(0) + 1).to_string(),
        Family::Larger => number(0).max(number(1)).to_string(),
        Family::Plural => plural(first),
        Family::Vowels => first.chars().filter(|letter| "aeiou".contains(*letter)).collect(),
    }
}

/// The English plural: `bus` -> `buses`, `roty` -> `roties`, `den` -> `dens`.
fn plural(word: &str) -> String {
    if let Some(stem) = word.strip_suffix('y') {
        format!("{stem}ies")
    } else if ["s", "z", "sh", "ch"].iter().any(|ending| word.ends_with(ending)) {
        format!("{word}es")
    } else {
        format!("{word}s")
    }
}

/// A made-up word of 3 to `longest` letters, in which consonants and vowels alternate.
fn word(draw: &mut Rng, longest: usize) -> String {
    let length = draw.between(3, longest);
    let vowel_first = draw.below(4) == 0;
    let mut word: String = (0..length)
        .map(|index| char::from(draw.pick(if (index % 2 == 0) == vowel_first { VOWELS } else { CONSONANTS })))
        .collect();
    // Some words end with `y`, which has a plural of its own.
    if draw.below(6) == 0 && word.ends_with(|letter: char| CONSONANTS.contains(&(letter as u8))) {
        word.pop();
        word.push('y');
    }
    word
}
