//! A dozen tiny skills on made-up words and small numbers: short enough for a byte-level model of a few layers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::corpus::draw::Draw;

/// A skill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// The same word again.
    #[default]
    Copy,
    /// The word from its end.
    Reverse,
    /// In capitals.
    Upper,
    /// The word's letters in alphabetical order.
    Sort,
    /// How often a letter occurs.
    Count,
    /// The last letter.
    Last,
    /// The first letters of three words.
    Initials,
    /// The sum of two numbers below 50.
    Add,
    /// The number that follows.
    Next,
    /// The larger of two numbers.
    Larger,
    /// The English plural.
    Plural,
    /// The vowels of a word.
    Vowels,
}

/// One question of a family. Two questions with the same operands ask for the same thing in other words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub family: Family,
    pub operands: Vec<String>,
    pub prompt: String,
    pub answer: String,
}

const CONSONANTS: &[u8] = b"bcdfghklmnprstvwz";
const VOWELS: &[u8] = b"aeiou";

impl Family {
    pub const ALL: [Self; 12] = [
        Self::Copy,
        Self::Reverse,
        Self::Upper,
        Self::Sort,
        Self::Count,
        Self::Last,
        Self::Initials,
        Self::Add,
        Self::Next,
        Self::Larger,
        Self::Plural,
        Self::Vowels,
    ];

    /// A question, asked in one of the family's wordings.
    pub fn draw(self, draw: &mut Draw) -> Question {
        let operands = self.draw_operands(draw);
        let wording = draw.below(self.wordings().len());
        self.ask(operands, wording)
    }

    /// The question with these operands in a wording; `$1`, `$2`, `$3` stand for the operands.
    pub fn ask(self, operands: Vec<String>, wording: usize) -> Question {
        let wordings = self.wordings();
        let mut prompt = wordings[wording % wordings.len()].to_owned();
        for (index, operand) in operands.iter().enumerate() {
            prompt = prompt.replace(&format!("${}", index + 1), operand);
        }
        let answer = self.answer(&operands);
        Question { family: self, operands, prompt, answer }
    }

    fn draw_operands(self, draw: &mut Draw) -> Vec<String> {
        let mut number = |high: usize| draw.below(high + 1).to_string();
        match self {
            Self::Add => vec![number(49), number(49)],
            Self::Next => vec![number(998)],
            Self::Larger => {
                let first = draw.below(100);
                let second = (first + 1 + draw.below(99)) % 100;
                vec![first.to_string(), second.to_string()]
            }
            Self::Initials => (0..3).map(|_| word(draw, 4)).collect(),
            Self::Sort => vec![word(draw, 5)],
            Self::Count => {
                let word = word(draw, 6);
                let letters = word.as_bytes();
                let letter = char::from(draw.pick(letters));
                vec![letter.to_string(), word]
            }
            _ => vec![word(draw, 6)],
        }
    }

    pub(super) fn wordings(self) -> &'static [&'static str] {
        match self {
            Self::Copy => &["Copy: $1", "Say $1", "Repeat the word $1"],
            Self::Reverse => &["Reverse: $1", "Turn around $1", "$1 backwards"],
            Self::Upper => &["Upper case: $1", "Shout $1", "$1 in capitals"],
            Self::Sort => &["Sort: $1", "Sort the letters of $1", "$1 in order"],
            Self::Count => &["Count $1 in $2", "How many $1 in $2?"],
            Self::Last => &["Last letter: $1", "How does $1 end?"],
            Self::Initials => &["Initials: $1 $2 $3", "First letters of $1 $2 $3"],
            Self::Add => &["Add $1 $2", "$1 + $2", "What is $1 plus $2?"],
            Self::Next => &["Next: $1", "What comes after $1?"],
            Self::Larger => &["Larger: $1 $2", "Which is more, $1 or $2?"],
            Self::Plural => &["Plural: $1", "One $1, many"],
            Self::Vowels => &["Vowels: $1", "Vowels of $1"],
        }
    }

    fn answer(self, operands: &[String]) -> String {
        let first = operands.first().map_or("", String::as_str);
        let number = |index: usize| operands.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        match self {
            Self::Copy => first.to_owned(),
            Self::Reverse => first.chars().rev().collect(),
            Self::Upper => first.to_ascii_uppercase(),
            Self::Sort => {
                let mut letters: Vec<char> = first.chars().collect();
                letters.sort_unstable();
                letters.into_iter().collect()
            }
            Self::Count => operands.get(1).map_or(0, |word| word.matches(first).count()).to_string(),
            Self::Last => first.chars().last().map(String::from).unwrap_or_default(),
            Self::Initials => operands.iter().filter_map(|word| word.chars().next()).collect(),
            Self::Add => (number(0) + number(1)).to_string(),
            Self::Next => (number(0) + 1).to_string(),
            Self::Larger => number(0).max(number(1)).to_string(),
            Self::Plural => plural(first),
            Self::Vowels => first.chars().filter(|letter| "aeiou".contains(*letter)).collect(),
        }
    }
}

/// `bus` -> `buses`, `roty` -> `roties`, `den` -> `dens`.
fn plural(word: &str) -> String {
    if let Some(stem) = word.strip_suffix('y') {
        format!("{stem}ies")
    } else if ["s", "z", "sh", "ch"].iter().any(|ending| word.ends_with(ending)) {
        format!("{word}es")
    } else {
        format!("{word}s")
    }
}

/// A word that could be one: consonants and vowels in turn, 3 to `longest` letters.
fn word(draw: &mut Draw, longest: usize) -> String {
    let length = draw.between(3, longest);
    let vowel_first = draw.below(4) == 0;
    let mut word: String = (0..length)
        .map(|index| char::from(draw.pick(if (index % 2 == 0) == vowel_first { VOWELS } else { CONSONANTS })))
        .collect();
    // Now and then the ending that makes plurals interesting.
    if draw.below(6) == 0 && word.ends_with(|letter: char| CONSONANTS.contains(&(letter as u8))) {
        word.pop();
        word.push('y');
    }
    word
}
