//! Why an instruction is picked or not.

use super::lines::{prompt, table, times, with_interval, wrapped};
use super::selector::{ExplainedSelector, state_of};
use crate::gather::Picked;
use crate::learned::{LearnedCandidate, LearnedEffects, ShownPlaces, thousands};
use crate::markup::two_decimals;
use raisin_base::error::Result;
use raisin_contract::explain::SelectorArtifacts;

/// The numbers of columns, of measurements and of selections that are shown.
const COLUMNS: usize = 5;
const MEASUREMENTS: usize = 6;
const SELECTIONS: usize = 8;

pub fn explained(
    selector: &ExplainedSelector,
    of: &SelectorArtifacts,
    id: u32,
    places: &ShownPlaces,
) -> Result<String> {
    let words = selector.prompts.get(&id).map(|text| prompt(text)).unwrap_or_default();
    let mut text = format!("\nInstruction {id}: {words}\n");
    let Some(cluster) = selector.clusters.get(&id) else {
        return Ok(text + "  It is no candidate: the clusters leave it out, because its features are not complete.\n");
    };
    let size = selector.clusters.values().filter(|other| *other == cluster).count();
    text += &format!("  It belongs to cluster {cluster}, with {} candidates.\n", thousands(size as f64));
    let learned = selector.learned.as_ref();
    let candidate =
        learned.and_then(|learned| Some((learned, learned.candidates.iter().find(|candidate| candidate.id == id)?)));
    if let Some((learned, candidate)) = candidate {
        text += &ranks(learned, candidate, places);
        text += &contributions(learned, candidate, of, places)?;
    }
    let own: Vec<&Picked> = selector.picked.iter().filter(|row| row.id == id).collect();
    let mut sentences = vec![measurements(selector, id)];
    let episodes =
        if selector.episodes == 1 { "1 episode".to_owned() } else { format!("{} episodes", selector.episodes) };
    let in_round = |row: &Picked| format!("round {} step {}", row.round.unwrap_or(0), row.step);
    sentences.push(format!("It was selected {} in {episodes}{}.", times(own.len()), listed(&own, in_round)));
    for (label, picked) in &selector.deployed {
        let of_run: Vec<&Picked> = picked.iter().filter(|row| row.id == id).collect();
        let steps = listed(&of_run, |row| format!("step {}", row.step));
        sentences.push(format!("The run {label} selected it {}{steps}.", times(of_run.len())));
    }
    sentences.retain(|sentence| !sentence.is_empty());
    text += &wrapped(&sentences.join(" "), "  ");
    if let Some((learned, candidate)) = candidate {
        text += &wrapped(&verdict(selector, learned, candidate, own.len(), places), "  ");
    }
    Ok(text)
}

/// The rank and the expected effect at each place, and the part of the prior.
fn ranks(learned: &LearnedEffects, candidate: &LearnedCandidate, places: &ShownPlaces) -> String {
    let headings = ["place", "rank", "expected effect", "of the prior", "learned"].map(str::to_owned);
    let rows: Vec<Vec<String>> = places
        .shown
        .iter()
        .map(|place| {
            let estimate = candidate.effect.at(place.time);
            vec![
                place.words.clone(),
                rank_of(learned, candidate, place.time),
                with_interval(estimate),
                two_decimals(candidate.effect.prior),
                two_decimals(estimate.value - candidate.effect.prior),
            ]
        })
        .collect();
    table(&headings, |column| column == 0, &rows)
}

fn rank_of(learned: &LearnedEffects, candidate: &LearnedCandidate, time: f64) -> String {
    let rank = learned.rank(candidate, time) as f64;
    format!("{} of {}", thousands(rank), thousands(learned.candidates.len() as f64))
}

/// The columns that contribute most to the expected effect: the effect of the column times its value.
fn contributions(
    learned: &LearnedEffects,
    candidate: &LearnedCandidate,
    of: &SelectorArtifacts,
    places: &ShownPlaces,
) -> Result<String> {
    let state = state_of(&of.clusters, candidate.id)?;
    let of_cluster = format!("cluster.{:02}", candidate.cluster);
    let mut parts: Vec<(&str, f64, Vec<f64>)> = Vec::new();
    for column in &learned.columns {
        let value = match state.get(&column.name) {
            Some(value) => *value,
            None if column.name == of_cluster => 1.0,
            None => continue,
        };
        let at = places.shown.iter().map(|place| value * column.effect.at(place.time).value).collect();
        parts.push((&column.name, value, at));
    }
    let size = |part: &(&str, f64, Vec<f64>)| part.2.iter().map(|value| value.abs()).fold(0.0, f64::max);
    parts.sort_by(|one, other| size(other).total_cmp(&size(one)).then(one.0.cmp(other.0)));
    let left_out = parts.len().saturating_sub(COLUMNS);
    parts.truncate(COLUMNS);
    let mut headings = vec!["column".to_owned(), "value".to_owned()];
    headings.extend(places.shown.iter().map(|place| place.words.clone()));
    let mut rows = Vec::new();
    for (name, value, at) in &parts {
        let mut row = vec![(*name).to_owned(), two_decimals(*value)];
        row.extend(at.iter().map(|part| two_decimals(*part)));
        rows.push(row);
    }
    if left_out > 0 {
        let mut row = vec![format!("{left_out} other columns together"), String::new()];
        for (number, place) in places.shown.iter().enumerate() {
            let shown: f64 = parts.iter().map(|(_, _, at)| at[number]).sum();
            row.push(two_decimals(candidate.effect.at(place.time).value - shown));
        }
        rows.push(row);
    }
    let about = "  The largest parts of the expected effect (the effect of a column times its value in deviations):\n";
    Ok(about.to_owned() + &table(&headings, |column| column == 0, &rows))
}

/// The measured effects of the instruction.
fn measurements(selector: &ExplainedSelector, id: u32) -> String {
    let own: Vec<_> = selector.measured.iter().filter(|row| row.id == id).collect();
    if selector.measured.is_empty() {
        return String::new();
    }
    if own.is_empty() {
        return "Its effect was never measured: its expected effect comes from candidates like it.".to_owned();
    }
    let shown: Vec<String> = own
        .iter()
        .take(MEASUREMENTS)
        .map(|row| format!("{} in round {} at step {}", nats(row.effect), row.round, row.step))
        .collect();
    let more =
        if own.len() > MEASUREMENTS { format!(", and {} more", own.len() - MEASUREMENTS) } else { String::new() };
    let count = times(own.len());
    format!("Its effect was measured {count}, in nats per token: {}{more}.", shown.join(", "))
}

/// A number with a sign and four decimals; with an exponent if it is small.
fn nats(effect: f64) -> String {
    if effect == 0.0 || effect.abs() >= 0.001 { format!("{effect:+.4}") } else { format!("{effect:+.1e}") }
}

/// Where rows were selected: ` (round 0 step 3, ...)`.
fn listed(rows: &[&Picked], place: impl Fn(&Picked) -> String) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = rows.iter().take(SELECTIONS).map(|row| place(row)).collect();
    let more = if rows.len() > SELECTIONS { format!(", and {} more", rows.len() - SELECTIONS) } else { String::new() };
    format!(" ({}{more})", shown.join(", "))
}

/// One sentence: why the instruction was picked or not.
fn verdict(
    selector: &ExplainedSelector,
    learned: &LearnedEffects,
    candidate: &LearnedCandidate,
    selected: usize,
    places: &ShownPlaces,
) -> String {
    let Some((place, rank)) =
        places.shown.iter().map(|place| (place, learned.rank(candidate, place.time))).min_by_key(|(_, rank)| *rank)
    else {
        return String::new();
    };
    let deployed: usize =
        selector.deployed.iter().flat_map(|(_, picked)| picked).filter(|row| row.id == candidate.id).count();
    let (low, high) = candidate.effect.at(place.time).interval();
    let expected = format!(
        "its best rank is {} of {}, {}, with the expected effect {} ({} to {})",
        thousands(rank as f64),
        thousands(learned.candidates.len() as f64),
        place.words,
        two_decimals(candidate.effect.at(place.time).value),
        two_decimals(low),
        two_decimals(high)
    );
    let slots = selector.steps as usize * selector.batch_size as usize;
    let slots_of = thousands(slots as f64);
    let is_in_reach = rank <= slots;
    let first = format!("among the first {slots_of}, the number of slots of an episode");
    match (selected + deployed > 0, is_in_reach) {
        (true, true) => format!("It was picked, in line with its rank {first}: {expected}."),
        (true, false) => {
            format!("It was picked, although it never ranks {first}, because draws are random: {expected}.")
        }
        (false, true) => format!("It was not picked, although it ranks {first}, because draws are random: {expected}."),
        (false, false) => format!("It was not picked, in line with its rank, which is never {first}: {expected}."),
    }
}
