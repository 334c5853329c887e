//! The section with what each selector learned: the clearest columns and the clusters.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::dictionary::COLUMN_EFFECTS;
use super::gather::{ReportData, TrainedSelector};
use super::learned::{EffectEstimate, LearnedCluster, LearnedEffects, ShownPlaces, thousands};
use super::markup::{cut, escape, two_decimals};

/// The numbers of columns and of example prompts in the tables.
const COLUMNS: usize = 12;
const EXAMPLES: usize = 2;

/// The columns of the tables at the places that are shown.
const PLACES: [(&str, &str); 3] =
    [("at_start", "at_start_deviation"), ("in_middle", "in_middle_deviation"), ("at_end", "at_end_deviation")];

/// A part for each selector that learned effects. The first part is open.
pub fn learned(gathered: &ReportData) -> String {
    let mut html = String::new();
    for selector in &gathered.selectors {
        let Some(learned) = &selector.learned else { continue };
        let open = if html.is_empty() { " open" } else { "" };
        let seed = selector.name.seed.as_ref().map_or(String::new(), |seed| format!(", seed {}", escape(seed)));
        let _ = writeln!(html, "<details{open}><summary>{}{seed}</summary>", escape(&selector.name.label));
        html.push_str(&credit(selector));
        html.push_str(&columns(learned));
        html.push_str(&clusters(selector, learned));
        html.push_str("</details>\n");
    }
    if html.is_empty() {
        return html;
    }
    format!(
        "<h2>What the selector learned</h2>\n<p class=\"quiet\">Effects are in standard deviations of the measured effects, \
         with their 95 % intervals; colour marks intervals that leave out zero. <code>raisin explain</code> shows more, \
         also for single instructions.</p>\n{html}"
    )
}

fn credit(selector: &TrainedSelector) -> String {
    let Some(sentences) = selector.credit.sentences() else { return String::new() };
    let effective = selector.credit.effective_candidates.map_or(String::new(), |effective| {
        format!(" In the last round, a slot was drawn among {} candidates in effect.", thousands(effective))
    });
    format!("<p>{}{effective}</p>\n", escape(&sentences))
}

/// The columns with the clearest effects.
fn columns(learned: &LearnedEffects) -> String {
    let places = ShownPlaces::default();
    let (ordered, left_out) = learned.clearest_columns(&places, COLUMNS);
    let mut html =
        "<h3>Columns: the effect of one standard deviation of the column, of the membership in the cluster, or of one earlier selection (times_selected)</h3>\
         <div class=\"scroll\"><table><thead><tr>"
            .to_owned();
    html.push_str(&COLUMN_EFFECTS.cell("column", false, &["column"]));
    for (number, place) in places.shown.iter().enumerate() {
        let (effect, deviation) = PLACES.get(number).copied().unwrap_or_default();
        html.push_str(&COLUMN_EFFECTS.cell(&escape(&place.words), true, &[effect]));
        html.push_str(&COLUMN_EFFECTS.cell("95 %", true, &[effect, deviation]));
    }
    html.push_str("</tr></thead><tbody>\n");
    for column in &ordered {
        let _ = write!(html, "<tr><td>{}</td>", escape(&column.name));
        for place in &places.shown {
            let estimate = column.effect.at(place.time);
            let class = class_of(estimate);
            let _ = write!(html, "<td class=\"{class}\">{}</td>", signed(estimate.value));
            let interval = if estimate.deviation == 0.0 {
                "declared".to_owned()
            } else {
                let (low, high) = estimate.interval();
                format!("{}\u{a0}… {}", signed(low), signed(high))
            };
            let _ = write!(html, "<td class=\"n r\">{interval}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    let mut notes = String::new();
    if left_out > 0 {
        let _ = write!(notes, "{left_out} columns with less clear effects are left out.");
    }
    for column in ordered.iter().filter(|column| column.effect.prior != 0.0) {
        let (name, prior) = (escape(&column.name), signed(column.effect.prior));
        let _ = write!(notes, " Of the effect of {name}, the prior declares {prior} at every place.");
    }
    if !notes.is_empty() {
        let _ = writeln!(html, "<p class=\"quiet\">{}</p>", notes.trim_start());
    }
    html
}

fn signed(value: f64) -> String {
    two_decimals(value).replace('-', "−")
}

fn class_of(estimate: EffectEstimate) -> &'static str {
    match (estimate.includes_zero(), estimate.value > 0.0) {
        (true, _) => "n",
        (false, true) => "n good",
        (false, false) => "n bad",
    }
}

/// All clusters, those with the greatest mean expected effect first.
fn clusters(selector: &TrainedSelector, learned: &LearnedEffects) -> String {
    let places = ShownPlaces::default();
    let last = selector.credit.rounds.saturating_sub(1) as u32;
    let of_last = || selector.picked.iter().filter(|row| row.round == Some(last));
    // The selections are the only rows whose texts the artifact has.
    let texts: BTreeMap<u32, &str> = selector.picked.iter().map(|row| (row.id, row.instruction.as_str())).collect();
    let mut html = "<h3>Clusters: the mean expected effect of their candidates</h3><div class=\"scroll\"><table><thead><tr>\
                    <th class=\"n\" title=\"the number of the cluster\">cluster</th><th class=\"n\">candidates</th><th class=\"n\">share of the last round</th>"
        .to_owned();
    for place in &places.shown {
        let _ = write!(html, "<th class=\"n\">{}</th>", escape(&place.words));
    }
    html.push_str("<th>for example</th></tr></thead><tbody>\n");
    let row = |cluster: &LearnedCluster| {
        let share = cluster.share.map_or("–".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        let mut row = format!(
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{share}</td>",
            cluster.cluster,
            cluster.members.len()
        );
        for mean in &cluster.means {
            let _ = write!(row, "<td class=\"n\">{}</td>", signed(*mean));
        }
        let examples = cluster.members.iter().filter_map(|id| texts.get(id)).take(EXAMPLES);
        let examples: Vec<String> = examples.map(|text| escape(&cut(text, 80))).collect();
        let shown = if examples.is_empty() { "–".to_owned() } else { examples.join("<br>") };
        let _ = writeln!(row, "<td class=\"text\">{shown}</td></tr>");
        row
    };
    for cluster in learned.clusters(&places, of_last()) {
        html.push_str(&row(&cluster));
    }
    html.push_str("</tbody></table></div>\n");
    html
}
