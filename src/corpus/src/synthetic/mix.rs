//! Makes a pool, a task and a pre-training text from families, with given shares.

use std::collections::BTreeSet;

use super::corrupt::{arbitrary, plausible};
use super::family::{Skill as _, SyntheticQuestion, wordings};
use crate::artifact::PoolRow;
use crate::message::{Example, conversation};
use raisin_base::error::{Problem, Result};
use raisin_base::random::Rng;
use raisin_base::seed::Seed;
use raisin_settings::{Family, Mix};

/// The number of rows of the pool that are relevant, wrong, corrupted, redundant and irrelevant: the shares of `size`
/// by the method of the largest remainder. Each count differs from its share by less than 1, and the counts sum to
/// `size`.
fn counts(mix: &Mix) -> [usize; 5] {
    let Mix { relevant, wrong, corrupted, redundant, .. } = *mix;
    let rest = (1.0 - (relevant + wrong + corrupted + redundant)).max(0.0);
    let exact = [relevant, wrong, corrupted, redundant, rest].map(|share| share * mix.size as f64);
    let mut counts = exact.map(|count| count as usize);
    let mut order = [0, 1, 2, 3, 4];
    order.sort_by(|&one, &other| exact[other].fract().total_cmp(&exact[one].fract()));
    let missing = mix.size.saturating_sub(counts.iter().sum());
    order.into_iter().take(missing).for_each(|place| counts[place] += 1);
    counts
}

/// The families that are not targets.
fn others(mix: &Mix) -> Vec<Family> {
    mix.families.iter().copied().filter(|family| !mix.targets.contains(family)).collect()
}

/// A synthetic pool, its task, and a pre-training text.
pub struct Mixture {
    pub pool: Vec<PoolRow>,
    pub validation: Vec<Example>,
    pub test: Vec<Example>,
    /// The prompts and responses of the pre-training text.
    pub pretraining: Vec<(String, String)>,
}

/// The average number of near-copies of a redundant question.
const COPIES: usize = 10;
/// The number of draws without a new question after which a family counts as exhausted.
const ATTEMPTS: usize = 2000;
/// What a near-copy adds before and after a question.
const VARIATIONS: [(&str, &str); 8] =
    [("", "."), ("", "!"), ("Please: ", ""), ("", " please"), ("Now: ", ""), ("", " ..."), ("Q: ", ""), ("OK. ", "")];

type QuestionKey = (Family, Vec<String>);

/// Draws questions that were not asked before.
struct Fresh {
    asked: BTreeSet<QuestionKey>,
}

impl Fresh {
    fn draw(&mut self, family: Family, draw: &mut Rng) -> Result<SyntheticQuestion> {
        for _ in 0..ATTEMPTS {
            let question = family.draw(draw);
            if self.asked.insert((family, question.operands.clone())) {
                return Ok(question);
            }
        }
        let name = format!("{family:?}").to_lowercase();
        Err(Problem::new(format!("the family `{name}` has no more different questions"))
            .hint("set a smaller `size`, `validation` or `test`, or name more families")
            .into())
    }
}

/// Makes a mixture. The questions of the pool, of validation and of test are disjoint, in every wording. The
/// pre-training text contains no question of validation or test.
pub fn mix(mix: &Mix, seed: &Seed) -> Result<Mixture> {
    let mut fresh = Fresh { asked: BTreeSet::new() };
    let validation = examples(mix, mix.validation, &mut fresh, &mut seed.at("validation").rng())?;
    let test = examples(mix, mix.test, &mut fresh, &mut seed.at("test").rng())?;
    let held_out = fresh.asked.clone();
    let pool = pool(mix, &mut fresh, seed)?;
    let pretraining = pretraining(mix, &held_out, &mut seed.at("pretraining").rng())?;
    Ok(Mixture { pool, validation, test, pretraining })
}

fn examples(mix: &Mix, count: usize, fresh: &mut Fresh, draw: &mut Rng) -> Result<Vec<Example>> {
    let example = |id: usize| {
        let question = fresh.draw(mix.targets[id % mix.targets.len()], draw)?;
        let messages = conversation(None, &question.prompt, None);
        Ok(Example::open(id as u32, messages, question.answer))
    };
    (0..count).map(example).collect()
}

fn pool(mix: &Mix, fresh: &mut Fresh, seed: &Seed) -> Result<Vec<PoolRow>> {
    let [relevant, wrong, corrupted, redundant, _] = counts(mix);
    let others = others(mix);
    let mut rows: Vec<(String, String, &str)> = Vec::new();
    let mut draw = seed.at("pool").rng();
    for index in 0..relevant {
        let question = fresh.draw(mix.targets[index % mix.targets.len()], &mut draw)?;
        rows.push((question.prompt, question.answer, "relevant"));
    }
    for index in 0..wrong {
        let question = fresh.draw(mix.targets[index % mix.targets.len()], &mut draw)?;
        let answer = plausible(&question, &mut draw);
        rows.push((question.prompt, answer, "wrong"));
    }
    for _ in 0..corrupted {
        let question = fresh.draw(draw.pick(&others), &mut draw)?;
        let answer = arbitrary(&question, &mut draw);
        rows.push((question.prompt, answer, "corrupted"));
    }
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
        let row = PoolRow::new(conversation(None, &prompt, Some(&answer)), 0, line as u64 + 1);
        PoolRow { label: Some(label.to_owned()), ..row }
    };
    Ok(rows.into_iter().enumerate().map(row).collect())
}

/// A near-copy of one of the originals, which take turns. Each near-copy has another wording or another small addition.
fn near_copy(originals: &[SyntheticQuestion], index: usize) -> (String, String, &'static str) {
    let original = &originals[index % originals.len()];
    let copy = index / originals.len();
    let asked = original.family.ask(original.operands.clone(), copy);
    let (before, after) = VARIATIONS[copy / wordings(asked.family).len() % VARIATIONS.len()];
    (format!("{before}{}{after}", asked.prompt), asked.answer, "redundant")
}

fn pretraining(mix: &Mix, held_out: &BTreeSet<QuestionKey>, draw: &mut Rng) -> Result<Vec<(String, String)>> {
    let others = others(mix);
    let mut texts = Vec::new();
    let mut refused = 0;
    while texts.len() < mix.pretraining_size {
        let is_target = draw.unit() < mix.target_share_in_pretraining;
        let family = draw.pick(if is_target { &mix.targets } else { &others });
        let question = family.draw(draw);
        if held_out.contains(&(family, question.operands.clone())) {
            refused += 1;
            if refused > ATTEMPTS + 10 * mix.pretraining_size {
                return Err(Problem::new("validation and test leave no target questions for pre-training")
                    .hint("set a smaller `validation` and `test`")
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
