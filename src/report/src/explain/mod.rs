//! The answer of `raisin explain`: which columns and clusters drive the choice of a selector at which place of a
//! training, and why an instruction is picked or not.

mod instruction;
mod lines;
mod selector;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::gather::Picked;
use crate::learned::{LearnedCluster, LearnedEffects, ShownPlaces, thousands};
use crate::markup::two_decimals;
use lines::{prompt, table, with_width, wrapped};
use raisin_base::error::{Problem, Result};
use raisin_contract::explain::{ExplainOptions, SelectorArtifacts};
use selector::ExplainedSelector;

/// The numbers of columns, of clusters at the top and at the bottom, and of example prompts that are shown.
const COLUMNS: usize = 12;
const TOP_CLUSTERS: usize = 5;
const BOTTOM_CLUSTERS: usize = 3;
const EXAMPLES: usize = 2;
/// The numbers of clusters and of rounds that are shown of a policy without effects.
const SHARES: usize = 12;
const ROUNDS: usize = 6;

/// The explanation of all selectors, as text.
///
/// # Errors
/// An artifact cannot be read, an id is not in the pool, or the step is after the end of an episode.
pub fn answer(options: &ExplainOptions) -> Result<String> {
    let texts: Vec<String> =
        options.selectors.iter().map(|selector| explained(selector, options)).collect::<Result<_>>()?;
    Ok(texts.join("\n\n"))
}

fn explained(of: &SelectorArtifacts, options: &ExplainOptions) -> Result<String> {
    let selector = ExplainedSelector::read(of)?;
    let places = match options.step {
        None => ShownPlaces::default(),
        Some(step) if (1..=selector.steps).contains(&step) => ShownPlaces::with_step(step, selector.steps),
        Some(step) => {
            let problem = Problem::usage(format!("an episode of `{}` has no step {step}", of.label));
            return Err(problem.hint(format!("the steps go from 1 to {}", selector.steps)).into());
        }
    };
    if let Some(id) = options.ids.iter().find(|id| !selector.prompts.contains_key(id)) {
        let problem = Problem::usage(format!("the pool of `{}` has no instruction with the id {id}", of.label));
        let last = selector.prompts.last_key_value().map_or(0, |(last, _)| *last);
        return Err(problem.hint(format!("the ids of the pool go from 0 to {last}")).into());
    }
    let mut text = format!("{}\n{}", of.label, headline(&selector));
    match &selector.learned {
        Some(learned) => {
            text += &columns(&selector, learned, &places);
            text += &clusters(&selector, learned, &places, options.step);
        }
        None => text += &shares_by_round(&selector, options.step),
    }
    for id in &options.ids {
        text += &instruction::explained(&selector, of, *id, &places)?;
    }
    Ok(text)
}

fn headline(selector: &ExplainedSelector) -> String {
    let mut text = match (selector.credit.sentences(), &selector.learned) {
        (Some(sentences), _) => sentences,
        (None, Some(_)) => "No effect of a row was measured.".to_owned(),
        (None, None) => String::new(),
    };
    if selector.learned.is_none() {
        let reason = if selector.learner == "ppo" {
            "The learner of this policy is PPO: a network scores the candidates, so there are no effects of columns or \
             candidates."
        } else {
            "Too few effects were measured for effects of columns or candidates."
        };
        text = if text.is_empty() { reason.to_owned() } else { format!("{text} {reason}") };
    }
    if let Some((column, weight)) = &selector.prior {
        text += &format!(" The prior is {weight} times the column {column}, in scores.");
    }
    if let Some(effective) = selector.credit.effective_candidates {
        text += &format!(
            " In the last round, a slot was drawn among {} of {} candidates in effect.",
            thousands(effective),
            thousands(selector.clusters.len() as f64)
        );
    }
    wrapped(&text, "")
}

/// The columns with the clearest effects.
fn columns(selector: &ExplainedSelector, learned: &LearnedEffects, places: &ShownPlaces) -> String {
    let mut text = "\n".to_owned()
        + &wrapped(
            "Columns: by how many standard deviations of the weighted effects one standard deviation of the column, the \
             membership in the cluster, or one earlier selection (times_selected) changes that of a row (± half of the \
             95 % interval).",
            "",
        );
    let mut headings = vec![String::new(), "column".to_owned()];
    headings.extend(places.shown.iter().map(|place| place.words.clone()));
    let (ordered, left_out) = learned.clearest_columns(places, COLUMNS);
    let mut unclear = false;
    let rows: Vec<Vec<String>> = ordered
        .iter()
        .map(|column| {
            let estimates: Vec<_> = places.shown.iter().map(|place| column.effect.at(place.time)).collect();
            let is_unclear = estimates.iter().all(|estimate| estimate.includes_zero());
            unclear |= is_unclear;
            let mut row = vec![if is_unclear { "?".to_owned() } else { String::new() }, column.name.clone()];
            row.extend(estimates.into_iter().map(with_width));
            row
        })
        .collect();
    text += &table(&headings, |column| column < 2, &rows);
    let mut notes = Vec::new();
    if left_out > 0 {
        notes.push(format!("{left_out} columns with less clear effects are left out."));
    }
    if unclear {
        notes.push("?: each interval includes 0.".to_owned());
    }
    for column in ordered.iter().filter(|column| column.effect.prior != 0.0) {
        let part = two_decimals(column.effect.prior);
        notes.push(format!("Of the effect of {}, the prior declares {part} at every place.", column.name));
    }
    if let Some((column, _)) = &selector.prior
        && learned.columns.iter().all(|known| known.name != *column)
    {
        notes.push(format!("The prior has no effect: the clusters have no column {column}."));
    }
    if !notes.is_empty() {
        text += &wrapped(&notes.join(" "), "  ");
    }
    text
}

/// The clusters at the top and at the bottom of the order by mean expected effect.
fn clusters(selector: &ExplainedSelector, learned: &LearnedEffects, places: &ShownPlaces, step: Option<u32>) -> String {
    let all = learned.clusters(places, selector.shown_selections(step));
    let selected = match step {
        Some(step) => format!("at step {step} of all rounds"),
        None => format!("in round {}, the last", selector.last_round()),
    };
    let about = format!(
        "Clusters: the mean expected effect of their candidates, and their share of the rows selected {selected}."
    );
    let mut text = "\n".to_owned() + &wrapped(&about, "");
    let mut headings = vec!["cluster".to_owned(), "candidates".to_owned(), "share".to_owned()];
    headings.extend(places.shown.iter().map(|place| place.words.clone()));
    headings.push("for example".to_owned());
    let row = |cluster: &LearnedCluster| {
        let share = cluster.share.map_or("–".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        let mut row = vec![cluster.cluster.to_string(), thousands(cluster.members.len() as f64), share];
        row.extend(cluster.means.iter().map(|mean| two_decimals(*mean)));
        let examples = cluster.members.iter().take(EXAMPLES).filter_map(|id| selector.prompts.get(id));
        row.push(examples.map(|example| prompt(example)).collect::<Vec<_>>().join(" | "));
        row
    };
    let left_out = all.len().saturating_sub(TOP_CLUSTERS + BOTTOM_CLUSTERS);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (place, cluster) in all.iter().enumerate() {
        if left_out > 0 && place == TOP_CLUSTERS {
            rows.push(vec!["…".to_owned()]);
        }
        if left_out == 0 || place < TOP_CLUSTERS || place >= TOP_CLUSTERS + left_out {
            rows.push(row(cluster));
        }
    }
    let last = headings.len() - 1;
    text += &table(&headings, |column| column == last, &rows);
    if left_out > 0 {
        text += &format!("  {left_out} clusters between them are left out.\n");
    }
    text
}

/// The share of each cluster and the effective number of candidates, round by round, of a policy without effects.
fn shares_by_round(selector: &ExplainedSelector, step: Option<u32>) -> String {
    let count = selector.credit.rounds;
    let chosen: Vec<u32> = if count <= ROUNDS {
        (0..count as u32).collect()
    } else {
        (0..ROUNDS).map(|place| (place * (count - 1) / (ROUNDS - 1)) as u32).collect()
    };
    let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
    for cluster in selector.clusters.values() {
        *sizes.entry(*cluster).or_default() += 1;
    }
    let share = |cluster: u32, round: u32| {
        let is_shown = |row: &&Picked| row.round == Some(round) && step.is_none_or(|step| row.step == step);
        let of_round = || selector.picked.iter().filter(is_shown);
        let own = of_round().filter(|row| selector.clusters.get(&row.id) == Some(&cluster)).count();
        own as f64 / of_round().count().max(1) as f64
    };
    let mut rows: Vec<(f64, u32, Vec<String>)> = Vec::new();
    for (cluster, size) in &sizes {
        let shares: Vec<f64> = chosen.iter().map(|round| share(*cluster, *round)).collect();
        let mut row = vec![cluster.to_string(), thousands(*size as f64)];
        row.extend(shares.iter().map(|share| format!("{:.1} %", 100.0 * share)));
        rows.push((shares.last().copied().unwrap_or(0.0), *cluster, row));
    }
    rows.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    let left_out = rows.len().saturating_sub(SHARES);
    let mut shown: Vec<Vec<String>> = rows.into_iter().take(SHARES).map(|(_, _, row)| row).collect();
    let mut effective = vec!["effective candidates".to_owned(), thousands(selector.clusters.len() as f64)];
    effective.extend(chosen.iter().map(|round| {
        let of_round = selector.effective_candidates.get(*round as usize).copied().flatten();
        of_round.map_or("–".to_owned(), thousands)
    }));
    shown.push(effective);
    let mut headings = vec!["cluster".to_owned(), "candidates".to_owned()];
    headings.extend(chosen.iter().map(|round| format!("round {round}")));
    let at_step = step.map_or(String::new(), |step| format!(" at step {step}"));
    let mut text = format!("\nClusters: their share of the rows selected{at_step}, by round.\n");
    text += &table(&headings, |column| column == 0, &shown);
    if left_out > 0 {
        text += &format!("  {left_out} clusters with smaller shares in the last round are left out.\n");
    }
    text
}
