//! Wrong answers of two kinds: those that look right at a glance, and those that are anything.

use super::family::{Question, Skill as _};
use crate::draw::Draw;
use raisin_settings::Family;

/// An answer of the right form that is wrong: another number near by, or the letters in another order.
pub fn plausible(question: &Question, draw: &mut Draw) -> String {
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
    // One letter, or one letter again and again: no other order is different.
    replaced(&question.answer, draw)
}

/// An answer that has little to do with the question, and is not by chance the right one.
pub fn arbitrary(question: &Question, draw: &mut Draw) -> String {
    let answer = match draw.below(4) {
        0 => plausible(question, draw),
        1 => question.family.draw(draw).answer,
        2 => Family::ALL[draw.below(Family::ALL.len())].draw(draw).answer,
        _ => question.operands.last().cloned().unwrap_or_default(),
    };
    if answer == question.answer || answer.is_empty() { replaced(&question.answer, draw) } else { answer }
}

/// The text with its first character exchanged for a different one.
fn replaced(text: &str, draw: &mut Draw) -> String {
    let first = text.chars().next();
    let others: Vec<char> = ('a'..='z').filter(|letter| Some(*letter) != first).collect();
    let mut answer = draw.pick(&others).to_string();
    answer.extend(text.chars().skip(1));
    answer
}
