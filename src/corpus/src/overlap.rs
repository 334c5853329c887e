//! Which texts share word n-grams with a task's examples, or ask the very same. Knows nothing of files or stages.
//!
//! The usual measure of contamination (GPT-3, appendix C; the decontamination of lm-evaluation-harness): texts are cut
//! into words without case and punctuation, and thirteen of these in a row are no coincidence. The words of the task get
//! numbers, and n-grams are looked up as lists of numbers: what is found is equal word by word, where two 64-bit hashes
//! might be equal by chance, and most windows of a pool end at a word that the task does not know, before any look-up.
//! One pass over the pool, and no memory of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::message::{Example, Message};

/// Hands over the words of a text: lower case, with nothing but letters and digits left, cut at white space. A script that
/// is written without spaces has one word a sentence.
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

/// A text that overlaps an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Position of the example.
    pub example: usize,
    /// Distinct n-grams of the example's prompt that the text has; 1 where the prompts are equal as a whole.
    pub shared: usize,
    /// Distinct n-grams of the example's prompt that count; 1 where it is compared as a whole.
    pub of: usize,
    /// The longest run of the example's words whose n-grams are all shared.
    pub text: String,
}

/// The prompts of examples, to be found in other texts.
pub struct Index {
    ngram: usize,
    /// The task's words by their number, and the other way.
    words: Vec<String>,
    vocabulary: HashMap<String, u32>,
    /// Numbers of the n-grams that count. Looked up only: its order never matters.
    grams: HashMap<Vec<u32>, usize>,
    /// By the n-gram's number, the examples that have it.
    holders: Vec<Vec<usize>>,
    /// Examples without an n-gram that counts, by all their words.
    whole: HashMap<Vec<u32>, Vec<usize>>,
    examples: Vec<Indexed>,
}

struct Indexed {
    words: Vec<u32>,
    /// The number of the n-gram that begins at each word, where it counts.
    grams: Vec<Option<usize>>,
    /// How many distinct ones these are.
    of: usize,
}

impl Index {
    /// n-grams of more than `common` examples do not count: they are the task's own template.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>, ngram: usize, common: Option<usize>) -> Self {
        let ngram = ngram.max(1);
        let mut index = Self {
            ngram,
            words: Vec::new(),
            vocabulary: HashMap::new(),
            grams: HashMap::new(),
            holders: Vec::new(),
            whole: HashMap::new(),
            examples: Vec::new(),
        };
        for (place, example) in examples.into_iter().enumerate() {
            let mut words = Vec::new();
            each_word(example.prompt(), |word| words.push(index.number(word)));
            let grams: Vec<Option<usize>> = words.windows(ngram).map(|gram| Some(index.gram(gram, place))).collect();
            index.examples.push(Indexed { words, grams, of: 0 });
        }
        let counts: Vec<bool> =
            index.holders.iter().map(|holders| common.is_none_or(|common| holders.len() <= common)).collect();
        index.grams.retain(|_, gram| counts[*gram]);
        for (place, example) in index.examples.iter_mut().enumerate() {
            example.grams.iter_mut().for_each(|gram| *gram = gram.filter(|gram| counts[*gram]));
            example.of = example.grams.iter().flatten().collect::<BTreeSet<_>>().len();
            if example.of == 0 && !example.words.is_empty() {
                example.of = 1;
                index.whole.entry(example.words.clone()).or_default().push(place);
            }
        }
        index
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

    /// The number of an n-gram that the example at `place` has. Examples come in order, so the last holder is the newest.
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

    /// The examples that a conversation overlaps, in their order. n-grams may be in any of its turns, but do not reach from
    /// one into the next; a prompt as a whole must be a whole turn that is not the assistant's and not the system's.
    pub fn hits(&self, messages: &[Message]) -> Vec<Hit> {
        let mut found = BTreeSet::new();
        let mut equal = BTreeSet::new();
        // Words that the task knows, since the last one that it does not.
        let mut run: Vec<u32> = Vec::new();
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
            if is_known && !message.is_assistant() && message.role != "system" {
                equal.extend(self.whole.get(&run).into_iter().flatten().copied());
            }
        }
        let mut shared: BTreeMap<usize, usize> = equal.into_iter().map(|example| (example, 1)).collect();
        for example in found.iter().flat_map(|&gram| &self.holders[gram]) {
            *shared.entry(*example).or_default() += 1;
        }
        let hit = |(example, shared)| {
            let indexed: &Indexed = &self.examples[example];
            Hit { example, shared, of: indexed.of, text: self.longest_run(indexed, &found) }
        };
        shared.into_iter().map(hit).collect()
    }

    /// All of an example that has no n-gram that counts; else its longest run of words with all n-grams found.
    fn longest_run(&self, example: &Indexed, found: &BTreeSet<usize>) -> String {
        let (mut best, mut start) = (0..0, 0);
        for (place, gram) in example.grams.iter().enumerate() {
            if !gram.is_some_and(|gram| found.contains(&gram)) {
                start = place + 1;
            } else if place + 1 - start > best.len() {
                best = start..place + 1;
            }
        }
        let words =
            if best.is_empty() { &example.words[..] } else { &example.words[best.start..best.end + self.ngram - 1] };
        words.iter().map(|&word| self.words[word as usize].as_str()).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
#[path = "overlap_tests.rs"]
mod tests;
