//! Wrong answers of two kinds: plausible answers and arbitrary answers.

use super::family::{Skill as _, SyntheticQuestion};
use raisin_base::random::Rng;
use raisin_settings::Family;

/// A wrong answer in the form of a right one: a number close to the right number, or the right letters in another
/// order.
pub fn plausible(question: &SyntheticQuestion, draw: &mut Rng) -> String {
    if let Ok(number) = question.answer.parse::<usize>() {
        let distance = draw.between(1, 9);
        let below = draw.below(2) == 0 && number >= distance;
        return if below { number - distance } else { number + distance }.to_string();
    }
    let mut letters: Vec<char> = question.answer.chars().collect();
    for _ in 0..8 {
        draw.shuffle(&mut letters);
        let shuffled: String = letters.iter().collect();
        if shuffled != question.answer {
            return shuffled;
        }
    }
    // If all letters are equal, every order of them is the same.
    replaced(&question.answer, draw)
}

/// An answer that is unrelated to the question, and never the right one by chance.
pub fn arbitrary(question: &SyntheticQuestion, draw: &mut Rng) -> String {
    let answer = match draw.below(4) {
        0 => plausible(question, draw),
        1 => question.family.draw(draw).answer,
        2 => Family::ALL[draw.below(Family::ALL.len())].draw(draw).answer,
        _ => question.operands.last().cloned().unwrap_or_default(),
    };
    if answer == question.answer || answer.is_empty() { replaced(&question.answer, draw) } else { answer }
}

/// The text with another first character.
fn replaced(text: &str, draw: &mut Rng) -> String {
    let first = text.chars().next();
    let others: Vec<char> = ('a'..='z').filter(|letter| Some(*letter) != first).collect();
    let mut answer = draw.pick(&others).to_string();
    answer.extend(text.chars().skip(1));
    answer
}
