//! The search for texts that share word n-grams with the examples of a task, or that ask the same question.
//!
//! This is the usual measure of contamination (GPT-3, appendix C; the decontamination of lm-evaluation-harness): texts
//! are cut into words without case and punctuation, and n words in a row (usually 13) that are equal count as overlap.
//!
//! Each word of the task gets a number, and an n-gram is looked up as a list of these numbers. Two n-grams are
//! therefore equal word by word, which equal hashes would not guarantee. Most windows of a pool contain a word that the
//! task does not have; they need no look-up. The search reads the pool once and keeps no text of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::message::{Example, Message};

/// Calls `take` with each word of a text. Words are separated by white space; they are in lower case and keep only
/// letters and digits. In a script without spaces, a whole sentence is one word.
pub fn each_word(text: &str, mut take: impl FnMut(&str)) {
    let mut word = String::new();
    for part in text.split_whitespace() {
        word.clear();
        word.extend(part.chars().flat_map(char::to_lowercase).filter(|letter| letter.is_alphanumeric()));
        if !word.is_empty() {
            take(&word);
        }
    }
}

/// An example that a text overlaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlapHit {
    /// Position of the example.
    pub example: usize,
    /// The number of distinct n-grams of the example in the text; 1 if the example is compared as a whole.
    pub shared: usize,
    /// The number of distinct n-grams of the example that count; 1 if the example is compared as a whole.
    pub of: usize,
    /// The longest run of the example's words whose n-grams are all shared.
    pub text: String,
}

/// Separates turns in a list of word numbers. No word has this number.
const TURN: u32 = u32::MAX;

/// The conversations of examples, prepared for the search in other texts.
pub struct NgramIndex {
    ngram: usize,
    /// The words of the task by number, and the numbers by word.
    words: Vec<String>,
    vocabulary: HashMap<String, u32>,
    /// The numbers of the n-grams that count. The map is only looked up, so that its order has no effect.
    grams: HashMap<Vec<u32>, usize>,
    /// For each n-gram, the examples that have it.
    holders: Vec<Vec<usize>>,
    /// The examples without an n-gram that counts, by the words of all their turns, with [`TURN`] between two turns.
    whole: HashMap<Vec<u32>, Vec<usize>>,
    /// The numbers of turns that the examples in `whole` have.
    whole_turns: BTreeSet<usize>,
    examples: Vec<IndexedExample>,
}

struct IndexedExample {
    turns: Vec<IndexedTurn>,
    /// The number of distinct n-grams that count; 1 if the example is compared as a whole.
    of: usize,
}

struct IndexedTurn {
    words: Vec<u32>,
    /// For each word at which an n-gram begins: the number of the n-gram if it counts.
    grams: Vec<Option<usize>>,
}

impl NgramIndex {
    /// Indexes all turns of each example except the system's. n-grams of more than `common` examples do not count: they
    /// belong to the template of the task.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>, ngram: usize, common: Option<usize>) -> Self {
        let ngram = ngram.max(1);
        let mut index = Self {
            ngram,
            words: Vec::new(),
            vocabulary: HashMap::new(),
            grams: HashMap::new(),
            holders: Vec::new(),
            whole: HashMap::new(),
            whole_turns: BTreeSet::new(),
            examples: Vec::new(),
        };
        for (place, example) in examples.into_iter().enumerate() {
            let turns = example.messages.iter().filter(|message| message.role != "system");
            let turns = turns.map(|message| index.turn(&message.content, place)).collect();
            index.examples.push(IndexedExample { turns, of: 0 });
        }
        let counts: Vec<bool> =
            index.holders.iter().map(|holders| common.is_none_or(|common| holders.len() <= common)).collect();
        index.grams.retain(|_, gram| counts[*gram]);
        for (place, example) in index.examples.iter_mut().enumerate() {
            let grams = example.turns.iter_mut().flat_map(|turn| &mut turn.grams);
            grams.for_each(|gram| *gram = gram.filter(|gram| counts[*gram]));
            let grams = example.turns.iter().flat_map(|turn| turn.grams.iter().flatten());
            example.of = grams.collect::<BTreeSet<_>>().len();
            if example.of == 0 && example.turns.iter().any(|turn| !turn.words.is_empty()) {
                example.of = 1;
                let turns: Vec<&[u32]> = example.turns.iter().map(|turn| turn.words.as_slice()).collect();
                index.whole.entry(turns.join(&TURN)).or_default().push(place);
                index.whole_turns.insert(turns.len());
            }
        }
        index
    }

    fn turn(&mut self, text: &str, place: usize) -> IndexedTurn {
        let mut words = Vec::new();
        each_word(text, |word| words.push(self.number(word)));
        let grams = words.windows(self.ngram).map(|gram| Some(self.gram(gram, place))).collect();
        IndexedTurn { words, grams }
    }

    fn number(&mut self, word: &str) -> u32 {
        if let Some(&number) = self.vocabulary.get(word) {
            return number;
        }
        let number = self.words.len() as u32;
        self.words.push(word.to_owned());
        self.vocabulary.insert(word.to_owned(), number);
        number
    }

    /// The number of an n-gram that the example at `place` has. Because examples are indexed in order, only the last
    /// holder can be this example.
    fn gram(&mut self, words: &[u32], place: usize) -> usize {
        if let Some(&gram) = self.grams.get(words) {
            if self.holders[gram].last() != Some(&place) {
                self.holders[gram].push(place);
            }
            return gram;
        }
        let gram = self.holders.len();
        self.grams.insert(words.to_vec(), gram);
        self.holders.push(vec![place]);
        gram
    }

    /// The examples that a conversation overlaps, in their order. An n-gram may lie in any turn, but not across two
    /// turns. An example that is compared as a whole overlaps if the conversation has its turns one after another, or,
    /// if the example has one turn, if a turn that asks (neither the system's nor the assistant's) is equal to it.
    pub fn hits(&self, messages: &[Message]) -> Vec<OverlapHit> {
        let mut found = BTreeSet::new();
        let mut equal = BTreeSet::new();
        // The numbers of the last words of the turn, back to the last word that the task does not have.
        let mut run: Vec<u32> = Vec::new();
        // The turns up to the current one; `None` for a turn with an unknown word.
        let mut turns: Vec<Option<Vec<u32>>> = Vec::new();
        for message in messages {
            run.clear();
            let mut is_known = true;
            each_word(&message.content, |word| match self.vocabulary.get(word) {
                Some(&number) => {
                    run.push(number);
                    let gram = run.len().checked_sub(self.ngram).and_then(|start| self.grams.get(&run[start..]));
                    found.extend(gram.copied());
                }
                None => {
                    is_known = false;
                    run.clear();
                }
            });
            if message.role == "system" || self.whole.is_empty() {
                continue;
            }
            turns.push(is_known.then(|| run.clone()));
            for &count in self.whole_turns.iter().filter(|&&count| count > 1 || !message.is_assistant()) {
                let last = turns.len().checked_sub(count).map(|start| &turns[start..]);
                let known: Option<Vec<&[u32]>> = last.and_then(|turns| turns.iter().map(Option::as_deref).collect());
                let examples = known.and_then(|turns| self.whole.get(&turns.join(&TURN)));
                equal.extend(examples.into_iter().flatten().copied());
            }
        }
        let mut shared: BTreeMap<usize, usize> = equal.into_iter().map(|example| (example, 1)).collect();
        for example in found.iter().flat_map(|&gram| &self.holders[gram]) {
            *shared.entry(*example).or_default() += 1;
        }
        let hit = |(example, shared)| {
            let indexed: &IndexedExample = &self.examples[example];
            OverlapHit { example, shared, of: indexed.of, text: self.longest_run(indexed, &found) }
        };
        shared.into_iter().map(hit).collect()
    }

    /// The longest run of an example's words within a turn whose n-grams are all found; all words of the example if it
    /// has no such run, because it was compared as a whole.
    fn longest_run(&self, example: &IndexedExample, found: &BTreeSet<usize>) -> String {
        let mut best: &[u32] = &[];
        for turn in &example.turns {
            let mut start = 0;
            for (place, gram) in turn.grams.iter().enumerate() {
                if !gram.is_some_and(|gram| found.contains(&gram)) {
                    start = place + 1;
                } else if place + self.ngram - start > best.len() {
                    best = &turn.words[start..place + self.ngram];
                }
            }
        }
        let all = example.turns.iter().flat_map(|turn| &turn.words);
        let words: Vec<&u32> = if best.is_empty() { all.collect() } else { best.iter().collect() };
        words.into_iter().map(|&word| self.words[word as usize].as_str()).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
#[path = "overlap_tests.rs"]
mod tests;
