//! Texts as sets of n-grams.

use crate::overlap::each_word;

/// What an n-gram consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gram {
    /// Words in a row, regardless of case and punctuation.
    Words(usize),
    /// Characters in a row, in lower case, each run of white space as one space. For scripts without spaces.
    Characters(usize),
}

/// The n-grams of the turns of a row, as hashes in ascending order without repetition. An n-gram lies in one turn. A turn
/// that is shorter than n counts as one n-gram. The set is empty if no turn has a letter or a digit.
pub fn shingles<'a>(turns: impl IntoIterator<Item = &'a str>, gram: Gram) -> Vec<u32> {
    let mut hashes = Vec::new();
    let mut parts: Vec<u64> = Vec::new();
    for turn in turns {
        parts.clear();
        match gram {
            Gram::Words(_) => each_word(turn, |word| parts.push(hash(word.as_bytes()))),
            Gram::Characters(_) => characters(turn, &mut parts),
        }
        let (Gram::Words(n) | Gram::Characters(n)) = gram;
        if parts.is_empty() {
            continue;
        }
        hashes.extend(parts.windows(n.clamp(1, parts.len())).map(of_parts));
    }
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// The characters of a text; nothing if it has neither a letter nor a digit.
fn characters(text: &str, parts: &mut Vec<u64>) {
    if !text.chars().any(char::is_alphanumeric) {
        return;
    }
    for (place, word) in text.split_whitespace().enumerate() {
        let space = (place > 0).then_some(' ');
        parts.extend(
            space.into_iter().chain(word.chars().flat_map(char::to_lowercase)).map(|letter| mixed(letter as u64)),
        );
    }
}

/// FNV-1a, mixed. The hash does not depend on the machine or on the process.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of the number.
pub(super) fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn of_parts(parts: &[u64]) -> u32 {
    (parts.iter().fold(parts.len() as u64, |hash, part| mixed(hash.rotate_left(5) ^ part)) >> 32) as u32
}

/// The size of the intersection of two sets over the size of their union, from 0 to 1. Sets are in ascending order. Two
/// empty sets have similarity 0: nothing is known about them.
pub fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut left, mut right, mut common) = (0, 0, 0_usize);
    while let (Some(x), Some(y)) = (a.get(left), b.get(right)) {
        common += usize::from(x == y);
        left += usize::from(x <= y);
        right += usize::from(y <= x);
    }
    match a.len() + b.len() - common {
        0 => 0.0,
        union => common as f64 / union as f64,
    }
}

/// Whether [`jaccard`] of two sets reaches a threshold. The comparison ends as soon as too many elements differ, which
/// makes it several times as fast for sets that are not alike.
pub fn reaches(a: &[u32], b: &[u32], threshold: f64) -> bool {
    let sum = a.len() + b.len();
    // With d elements in one set only, the similarity is (sum - d) / (sum + d).
    let most = (sum as f64 * (1.0 - threshold) / (1.0 + threshold)).max(0.0) as usize + 1;
    let (mut left, mut right, mut differing) = (0, 0, a.len().abs_diff(b.len()));
    if differing > most {
        return false;
    }
    differing = 0;
    while let (Some(x), Some(y)) = (a.get(left), b.get(right)) {
        differing += usize::from(x != y);
        if differing > most {
            return false;
        }
        left += usize::from(x <= y);
        right += usize::from(y <= x);
    }
    differing += (a.len() - left) + (b.len() - right);
    sum > 0 && (sum - differing) as f64 / (sum + differing) as f64 >= threshold
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_threshold_is_reached_exactly_if_the_similarity_says_so(
            a in proptest::collection::btree_set(0u32..40, 0..30),
            b in proptest::collection::btree_set(0u32..40, 0..30),
            threshold in prop_oneof![Just(0.0), Just(0.5), Just(0.8), Just(1.0), 0.01f64..1.0],
        ) {
            let (a, b): (Vec<u32>, Vec<u32>) = (a.into_iter().collect(), b.into_iter().collect());
            let is_alike = !(a.is_empty() && b.is_empty()) && jaccard(&a, &b) >= threshold;
            prop_assert_eq!(reaches(&a, &b, threshold), is_alike);
        }
    }

    fn words(text: &str) -> Vec<u32> {
        shingles([text], Gram::Words(3))
    }

    #[test]
    fn case_punctuation_and_spaces_do_not_count() {
        assert_eq!(words("The cat, sat: down!"), words("the  CAT sat\ndown"));
        assert_eq!(words("the cat sat down").len(), 2);
        assert_ne!(words("the cat sat"), words("the cat sat down"));
        assert_eq!(words("cat").len(), 1, "a short text is one n-gram");
        assert_eq!(words("... !"), [] as [u32; 0]);
    }

    #[test]
    fn an_n_gram_lies_in_one_turn() {
        let apart = shingles(["one two three", "four five six"], Gram::Words(3));
        assert_eq!(apart.len(), 2);
        assert_eq!(shingles(["one two three four five six"], Gram::Words(3)).len(), 4);
    }

    #[test]
    fn characters_serve_scripts_without_spaces() {
        let of = |text: &str| shingles([text], Gram::Characters(3));
        let (one, other) = (of("猫は家の中で寝ています"), of("猫は家の中で寝ている"));
        let similarity = jaccard(&one, &other);
        assert!(similarity > 0.5 && similarity < 1.0, "{similarity}");
        assert_eq!(of("A  b"), of("a b"));
    }

    #[test]
    fn the_similarity_is_that_of_the_sets_of_n_grams() {
        let text = |from: usize, to: usize| (from..to).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
        let sets = |text: &str| -> BTreeSet<String> {
            let words: Vec<&str> = text.split(' ').collect();
            words.windows(3).map(|words| words.join(" ")).collect()
        };
        for (a, b) in [((0, 30), (0, 30)), ((0, 30), (5, 40)), ((0, 30), (28, 50)), ((0, 10), (20, 30))] {
            let (a, b) = (text(a.0, a.1), text(b.0, b.1));
            let (x, y) = (sets(&a), sets(&b));
            let exact = x.intersection(&y).count() as f64 / x.union(&y).count() as f64;
            assert!((jaccard(&words(&a), &words(&b)) - exact).abs() < 1e-12);
        }
        assert!(jaccard(&[], &[]).abs() < 1e-12);
    }
}
