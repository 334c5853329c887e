//! The answer of `raisin diff`: what two sides measured, with paired differences, and which instructions one side
//! selected and the other did not, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::comparison::{less_is_better, outcome};
use super::gather::{Evaluation, Picked, ReportData, in_order};
use super::statistics::{MeanEstimate, mean, weighted_mean};
use raisin_base::error::Result;
use raisin_contract::InputArtifact;
use raisin_contract::diff::{ArtifactPair, DiffQuestion};

/// The maximum number of steps that are listed for an instruction.
const MOST_STEPS: usize = 8;

/// # Errors
/// A table of an artifact cannot be read.
pub fn answer(question: &DiffQuestion) -> Result<String> {
    let mut evaluations: Vec<(&ArtifactPair, [Evaluation; 2])> = Vec::new();
    let mut selections: Vec<(&ArtifactPair, [Vec<Picked>; 2])> = Vec::new();
    for pair in &question.pairs {
        let [mut a, mut b] = [read(pair, 0)?, read(pair, 1)?];
        if let (Some(a), Some(b)) = (a.evaluations.pop(), b.evaluations.pop()) {
            evaluations.push((pair, [a, b]));
        }
        if let (Some(a), Some(b)) = (a.tuned_models.pop(), b.tuned_models.pop()) {
            selections.push((pair, [a.picked, b.picked]));
        }
    }
    Ok(metrics(&evaluations) + &selected(&selections, question.most))
}

fn read(pair: &ArtifactPair, side: usize) -> Result<ReportData> {
    let folder = pair.artifacts[side].clone();
    ReportData::read(&[InputArtifact { stage: pair.label.clone(), variant: serde_json::Map::new(), folder }])
}

/// The metrics of the evaluations, as B minus A.
fn metrics(evaluations: &[(&ArtifactPair, [Evaluation; 2])]) -> String {
    let mut rows: Vec<[String; 5]> = Vec::new();
    for label in in_order(evaluations.iter().map(|(pair, _)| &pair.label)) {
        let of_label: Vec<_> = evaluations.iter().filter(|(pair, _)| pair.label == *label).collect();
        let names = of_label.iter().flat_map(|(_, sides)| &sides[0].metrics).map(|(split, metric, _)| (split, metric));
        for (split, metric) in in_order(names) {
            let value = |side: &Evaluation| {
                let found = side.metrics.iter().find(|(of, name, _)| (of, name) == (split, metric));
                found.map(|(.., value)| *value)
            };
            let pairs: Vec<(f64, f64)> =
                of_label.iter().filter_map(|(_, [a, b])| Some((value(a)?, value(b)?))).collect();
            let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
            let (Some(over), Some(first), Some(second)) = (
                mean(&differences),
                mean(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>()),
                mean(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>()),
            ) else {
                continue;
            };
            let better = if less_is_better(metric) { "lower is better" } else { "higher is better" };
            rows.push([
                label.clone(),
                format!("{metric} on {split} ({better})"),
                format!("{:.4} -> {:.4}", first.mean, second.mean),
                format!("{:+.4}", over.mean),
                intervals(over, over_items(&of_label, metric)),
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let mut text = "\nmetrics, B minus A\n".to_owned();
    for [label, metric, values, difference, interval] in &rows {
        let line = format!(
            "  {label:0$}  {metric:1$}  {values:>2$}  {difference:>3$}  {interval}",
            widths[0], widths[1], widths[2], widths[3]
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The paired difference over the examples, averaged over the repetitions. `None` if the examples are not the same.
fn over_items(pairs: &[&(&ArtifactPair, [Evaluation; 2])], metric: &str) -> Option<MeanEstimate> {
    if !pairs.iter().all(|(pair, _)| pair.same_examples) {
        return None;
    }
    let mut items: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
    for (_, [a, b]) in pairs {
        for (id, item) in &a.items {
            let partner = b.items.get(id).and_then(|other| outcome(other, metric));
            if let (Some((before, weight)), Some((after, _))) = (outcome(item, metric), partner) {
                items.entry(*id).or_default().push((after - before, weight));
            }
        }
    }
    let means = items.values().map(|of| (of.iter().map(|it| it.0).sum::<f64>() / of.len() as f64, of[0].1));
    weighted_mean(&means.collect::<Vec<_>>())
}

fn intervals(seeds: MeanEstimate, items: Option<MeanEstimate>) -> String {
    let text = |estimate: MeanEstimate, what: &str| {
        let (low, high) = estimate.interval?;
        let clear = if estimate.excludes_zero() { "" } else { ", includes no difference" };
        Some(format!("95 % over {} {what}: {low:+.4} ... {high:+.4}{clear}", estimate.count))
    };
    let known = [text(seeds, "seeds"), items.and_then(|items| text(items, "examples"))];
    let known: Vec<String> = known.into_iter().flatten().collect();
    if known.is_empty() { "one seed, other examples: no interval".to_owned() } else { known.join("; ") }
}

/// How often and when a side selected an instruction.
#[derive(Default)]
struct Uses<'p> {
    steps: BTreeSet<u32>,
    times: usize,
    instruction: &'p str,
    id: u32,
}

/// The name of an instruction on both sides: its id or, if the pools differ, its text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name<'p> {
    Id(u32),
    Text(&'p str),
}

fn selected(selections: &[(&ArtifactPair, [Vec<Picked>; 2])], most: usize) -> String {
    let mut text = String::new();
    for (pair, sides) in selections {
        if sides.iter().all(Vec::is_empty) {
            continue;
        }
        let [a, b] = [uses(&sides[0], pair.same_pool), uses(&sides[1], pair.same_pool)];
        let both = a.keys().filter(|name| b.contains_key(name)).count();
        let repetition = if pair.repetition.is_empty() { String::new() } else { format!(", {}", pair.repetition) };
        let _ = writeln!(
            text,
            "  {}{repetition}: {} draws of {} instructions -> {} draws of {}; {both} in both, {} only in A, {} only in B",
            pair.label,
            sides[0].len(),
            a.len(),
            sides[1].len(),
            b.len(),
            a.len() - both,
            b.len() - both,
        );
        if !pair.same_pool {
            text += "    the pools differ: instructions are the same if their first 120 characters are\n";
        }
        only(&mut text, "A", &a, &b, most);
        only(&mut text, "B", &b, &a, most);
    }
    if text.is_empty() { text } else { format!("\nselected instructions (steps count from 1)\n{text}") }
}

fn uses(picked: &[Picked], by_id: bool) -> BTreeMap<Name<'_>, Uses<'_>> {
    let mut found: BTreeMap<Name<'_>, Uses<'_>> = BTreeMap::new();
    for row in picked {
        let name = if by_id { Name::Id(row.id) } else { Name::Text(&row.instruction) };
        let uses = found.entry(name).or_default();
        uses.steps.insert(row.step);
        uses.times += 1;
        (uses.instruction, uses.id) = (&row.instruction, row.id);
    }
    found
}

/// The instructions that one side selected and the other did not, the most frequent first.
fn only(text: &mut String, side: &str, own: &BTreeMap<Name, Uses>, other: &BTreeMap<Name, Uses>, most: usize) {
    let mut rows: Vec<&Uses> = own.iter().filter(|(name, _)| !other.contains_key(name)).map(|(_, uses)| uses).collect();
    rows.sort_by_key(|uses| (std::cmp::Reverse(uses.times), uses.id));
    for uses in rows.iter().take(most) {
        let steps: Vec<String> = uses.steps.iter().take(MOST_STEPS).map(u32::to_string).collect();
        let more = if uses.steps.len() > MOST_STEPS { " ..." } else { "" };
        let times = if uses.times == 1 { "once".to_owned() } else { format!("{} times", uses.times) };
        let steps = format!("{}{more}", steps.join(" "));
        let word = if uses.steps.len() == 1 { "step" } else { "steps" };
        let _ = writeln!(text, "    only {side}  id {}  {times}, {word} {steps}: {}", uses.id, uses.instruction);
    }
    let more = rows.len().saturating_sub(most);
    if more > 0 {
        let _ = writeln!(text, "    only {side}  and {more} more (--all lists them)");
    }
}
