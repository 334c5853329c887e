//! The note of a stage on the encoding of its rows.

use super::{Counts, EncodingReport};
use raisin_contract::Context;
use raisin_corpus::intake::grouped;
use raisin_corpus::{Codec, FindingKind};

impl EncodingReport {
    /// Says the counts in one note, and where the rows are listed. Says nothing if every row was encoded as it is.
    pub fn tell(&self, codec: &Codec, context: &Context) {
        codec.default_note().into_iter().for_each(|text| context.note(text));
        self.note(context.stage()).into_iter().for_each(|text| context.note(text));
    }

    pub(super) fn note(&self, stage: &str) -> Option<String> {
        let clauses: Vec<String> = self.counts.iter().flat_map(|counts| self.clauses(counts)).collect();
        (!clauses.is_empty()).then(|| format!("{} (see {stage}.encoding)", clauses.join("; ")))
    }

    fn clauses(&self, counts: &Counts) -> Vec<String> {
        let number = |count: usize| grouped(count as u64);
        let rows = format!("{} {}", number(counts.rows), counts.of.many());
        let metric = |word: &str| counts.metric.map(|metric| format!(" {word} `{metric}`")).unwrap_or_default();
        let mut clauses = Vec::new();
        if counts.truncated > 0 {
            clauses.push(format!(
                "{} of {rows} cut at {} tokens{} ({} tokens, {} of them targets)",
                number(counts.truncated),
                number(self.limit.max_tokens),
                metric("for"),
                number(counts.tokens_cut),
                number(counts.targets_cut),
            ));
        }
        if let Some((cause, example)) = &counts.example_left_out {
            let total = counts.left_out.iter().map(|(_, count)| count).sum();
            let of = |count: usize| {
                if counts.left_out.len() > 1 { format!(" ({})", number(count)) } else { String::new() }
            };
            let causes: Vec<String> =
                counts.left_out.iter().map(|(cause, count)| format!("{}{}", cause.text(), of(*count))).collect();
            let causes = causes.join(", ");
            // A row that is too long needs no example.
            let example = if cause.needs_example() { format!(", for example {example}") } else { String::new() };
            clauses.push(format!("{} of {rows} left out{}: {causes}{example}", number(total), metric("of")));
        }
        for (kind, count) in counts.findings.iter().filter(|(kind, _)| *kind != FindingKind::Refused) {
            clauses.push(format!("{} of {rows}: {}", number(*count), kind.about()));
        }
        clauses
    }
}
