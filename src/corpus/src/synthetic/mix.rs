//! Puts a pool, a task and a pre-training text together from families, in given shares.

use std::collections::BTreeSet;

use super::corrupt::{arbitrary, plausible};
use super::family::{Question, Skill as _, wordings};
use crate::artifact::Row;
use crate::draw::Draw;
use crate::message::{Example, conversation};
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_settings::Family;

/// What to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    pub size: usize,
    pub relevant: f64,
    pub wrong: f64,
    pub corrupted: f64,
    pub redundant: f64,
    pub families: Vec<Family>,
    pub targets: Vec<Family>,
    pub validation: usize,
    pub test: usize,
    pub pretraining: usize,
    pub target_share_in_pretraining: f64,
}

/// What was made.
pub struct Mixture {
    pub pool: Vec<Row>,
    pub validation: Vec<Example>,
    pub test: Vec<Example>,
    /// Prompts and responses.
    pub pretraining: Vec<(String, String)>,
}

/// How many near-copies a redundant question has, on average.
const COPIES: usize = 10;
/// How often a fresh question is looked for before its family counts as used up.
const ATTEMPTS: usize = 2000;
/// The small changes of wording that make a near-copy.
const VARIATIONS: [(&str, &str); 8] =
    [("", "."), ("", "!"), ("Please: ", ""), ("", " please"), ("Now: ", ""), ("", " ..."), ("Q: ", ""), ("OK. ", "")];

type Key = (Family, Vec<String>);

/// Questions that were not asked before.
struct Fresh {
    asked: BTreeSet<Key>,
}

impl Fresh {
    fn draw(&mut self, family: Family, draw: &mut Draw) -> Result<Question> {
        for _ in 0..ATTEMPTS {
            let question = family.draw(draw);
            if self.asked.insert((family, question.operands.clone())) {
                return Ok(question);
            }
        }
        let name = format!("{family:?}").to_lowercase();
        Err(Problem::new(format!("the family `{name}` has no more different questions"))
            .hint("lower `size`, `validation` or `test`, or name more families")
            .into())
    }
}

/// No question of the pool, of validation and of test is in another of the three, in whatever wording; none of
/// validation and test is in the pre-training text.
pub fn mix(mix: &Mix, seed: &Seed) -> Result<Mixture> {
    let mut fresh = Fresh { asked: BTreeSet::new() };
    let validation = examples(mix, mix.validation, &mut fresh, &mut Draw::new(&seed.at("validation")))?;
    let test = examples(mix, mix.test, &mut fresh, &mut Draw::new(&seed.at("test")))?;
    let held_out = fresh.asked.clone();
    let pool = pool(mix, &mut fresh, seed)?;
    let pretraining = pretraining(mix, &held_out, &mut Draw::new(&seed.at("pretraining")))?;
    Ok(Mixture { pool, validation, test, pretraining })
}

fn examples(mix: &Mix, count: usize, fresh: &mut Fresh, draw: &mut Draw) -> Result<Vec<Example>> {
    let example = |id: usize| {
        let question = fresh.draw(mix.targets[id % mix.targets.len()], draw)?;
        let messages = conversation(None, &question.prompt, None);
        Ok(Example { id: id as u32, messages, response: question.answer, choices: Vec::new(), answer: None })
    };
    (0..count).map(example).collect()
}

fn pool(mix: &Mix, fresh: &mut Fresh, seed: &Seed) -> Result<Vec<Row>> {
    let count = |share: f64| (share * mix.size as f64).round() as usize;
    let others: Vec<Family> = mix.families.iter().copied().filter(|family| !mix.targets.contains(family)).collect();
    let mut rows: Vec<(String, String, &str)> = Vec::with_capacity(mix.size);
    let mut draw = Draw::new(&seed.at("pool"));
    for index in 0..count(mix.relevant) {
        let question = fresh.draw(mix.targets[index % mix.targets.len()], &mut draw)?;
        rows.push((question.prompt, question.answer, "relevant"));
    }
    for index in 0..count(mix.wrong) {
        let question = fresh.draw(mix.targets[index % mix.targets.len()], &mut draw)?;
        let answer = plausible(&question, &mut draw);
        rows.push((question.prompt, answer, "wrong"));
    }
    for _ in 0..count(mix.corrupted) {
        let question = fresh.draw(draw.pick(&others), &mut draw)?;
        let answer = arbitrary(&question, &mut draw);
        rows.push((question.prompt, answer, "corrupted"));
    }
    let redundant = count(mix.redundant);
    let mut originals = Vec::new();
    for _ in 0..redundant.div_ceil(COPIES) {
        originals.push(fresh.draw(draw.pick(&others), &mut draw)?);
    }
    rows.extend((0..redundant).map(|index| near_copy(&originals, index)));
    while rows.len() < mix.size {
        let question = fresh.draw(draw.pick(&others), &mut draw)?;
        rows.push((question.prompt, question.answer, "irrelevant"));
    }
    draw.shuffle(&mut rows);
    let row = |(line, (prompt, answer, label)): (usize, (String, String, &str))| {
        let row = Row::new(conversation(None, &prompt, Some(&answer)), 0, line as u64 + 1);
        Row { label: Some(label.to_owned()), ..row }
    };
    Ok(rows.into_iter().enumerate().map(row).collect())
}

/// The originals in turn, each time in another wording and with another small change.
fn near_copy(originals: &[Question], index: usize) -> (String, String, &'static str) {
    let original = &originals[index % originals.len()];
    let copy = index / originals.len();
    let asked = original.family.ask(original.operands.clone(), copy);
    let (before, after) = VARIATIONS[copy / wordings(asked.family).len() % VARIATIONS.len()];
    (format!("{before}{}{after}", asked.prompt), asked.answer, "redundant")
}

fn pretraining(mix: &Mix, held_out: &BTreeSet<Key>, draw: &mut Draw) -> Result<Vec<(String, String)>> {
    let others: Vec<Family> = mix.families.iter().copied().filter(|family| !mix.targets.contains(family)).collect();
    let mut texts = Vec::with_capacity(mix.pretraining);
    let mut refused = 0;
    while texts.len() < mix.pretraining {
        let is_target = draw.unit() < mix.target_share_in_pretraining;
        let family = draw.pick(if is_target { &mix.targets } else { &others });
        let question = family.draw(draw);
        if held_out.contains(&(family, question.operands.clone())) {
            refused += 1;
            if refused > ATTEMPTS + 10 * mix.pretraining {
                return Err(Problem::new("validation and test leave no target questions for pre-training")
                    .hint("lower `validation` and `test`")
                    .into());
            }
            continue;
        }
        texts.push((question.prompt, question.answer));
    }
    Ok(texts)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
