//! The sections of the page after the results. A section is empty if no artifact has its tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::chart::{COLOURS, ChartLabels, Series, lines, shares};
use super::comparison::{average, cost_of, full_flops, phi_of};
use super::dictionary::SELECTION;
use super::gather::{CurvePoint, Picked, ReportData, RoundPoint, TrainingCost, TunedModel, in_order};
use super::markup::{count, cut, escape, number};

/// The largest number of columns in a plot of shares. If there are more steps, several steps share a column.
const COLUMNS: usize = 48;
/// The number of instructions in a list of the most selected ones.
const SAMPLE: usize = 10;

/// The number of the colour of a method: its place among all methods.
pub fn colour(labels: &[String], label: &str) -> usize {
    labels.iter().position(|known| known == label).unwrap_or(0)
}

/// A label with a dot in the colour of its method, as HTML.
pub fn dot(labels: &[String], label: &str) -> String {
    format!(
        "<span class=\"dot\" style=\"background:var(--c{})\"></span>{}",
        colour(labels, label) % COLOURS,
        escape(label)
    )
}

/// The place of a point on a horizontal axis.
type CurvePlace = fn(&CurvePoint) -> f64;

/// The learning curves: validation loss by step, by tokens and by total FLOPs, as the mean and the range over seeds.
pub fn learning(gathered: &ReportData, labels: &[String]) -> String {
    let of_model = |place: fn(&CurvePoint) -> f64| -> Vec<Series> {
        let curve =
            |model: &TunedModel| model.progress.iter().map(|at| (at.step, place(at), -at.performance)).collect();
        let of_label = |label: &String| {
            let runs: Vec<Vec<(f64, f64, f64)>> = gathered.tuned_models_of(label).map(curve).collect();
            let (points, band) = mean_and_range(&runs);
            Series { label: label.clone(), colour: colour(labels, label), points, band, is_faint: false }
        };
        labels.iter().map(of_label).filter(|series| series.points.len() > 1).collect()
    };
    let mut plots = String::new();
    let axes: [(&str, &str, CurvePlace); 3] = [
        ("by step", "training step", |at| at.step),
        ("by tokens", "tokens of the training", |at| at.tokens),
        ("by total cost", "FLOPs of the training and of all that came before", |at| at.total_flops),
    ];
    for (by, x, place) in axes {
        plots += &curves(of_model(place), by, x);
    }
    if plots.is_empty() {
        return String::new();
    }
    format!(
        "<h2>Learning curves</h2>\n<p class=\"quiet\">The lines are means over seeds; the bands reach from the least to the \
         greatest seed. Total cost counts features, hidden states, influence and the training of a selector, in full for \
         each method that uses them.</p>\n<div class=\"plots\">{plots}</div>\n"
    )
}

/// The curves along one axis. If some methods reach much farther than most, such as full training, which may have a
/// hundred times as many steps, the others get a plot of their own.
fn curves(mut series: Vec<Series>, by: &str, x: &str) -> String {
    let last = |series: &Series| series.points.last().map_or(0.0, |point| point.0);
    let mut ends: Vec<f64> = series.iter().map(last).collect();
    ends.sort_by(f64::total_cmp);
    let (Some(&typical), Some(&most)) = (ends.get(ends.len() / 2), ends.last()) else { return String::new() };
    let title = format!("Validation loss {by}");
    let description =
        "One line a method: the mean over seeds; the band is the range from the least to the greatest seed.";
    let words = ChartLabels { title: &title, description, x, y: "validation loss" };
    let all = lines(words, &series);
    if most <= 2.0 * typical {
        return all;
    }
    for one in &mut series {
        one.points.retain(|(x, _)| *x <= typical);
        one.band.retain(|(x, ..)| *x <= typical);
    }
    series.retain(|one| one.points.len() > 1);
    let title = format!("{title}, up to {}", count(typical));
    lines(ChartLabels { title: &title, ..words }, &series) + &all
}

/// (x, least y, greatest y)
type Band = Vec<(f64, f64, f64)>;

/// The mean after each step that all runs have measured, and the range if there are several runs. A run is a list of
/// (step, x, y); the x of the steps is averaged over the runs too.
fn mean_and_range(runs: &[Vec<(f64, f64, f64)>]) -> (Vec<(f64, f64)>, Band) {
    let Some(first) = runs.first() else { return Default::default() };
    let (mut points, mut band) = (Vec::new(), Vec::new());
    for (step, ..) in first {
        #[expect(clippy::float_cmp, reason = "steps are whole numbers")]
        let at = |run: &Vec<(f64, f64, f64)>| run.iter().find(|(other, ..)| other == step).map(|(_, x, y)| (*x, *y));
        let values: Vec<(f64, f64)> = runs.iter().filter_map(at).collect();
        if values.len() < runs.len() {
            continue;
        }
        let count = values.len() as f64;
        let x = values.iter().map(|(x, _)| x).sum::<f64>() / count;
        points.push((x, values.iter().map(|(_, y)| y).sum::<f64>() / count));
        if values.len() > 1 {
            let low = values.iter().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
            band.push((x, low, values.iter().map(|(_, y)| *y).fold(f64::NEG_INFINITY, f64::max)));
        }
    }
    (points, band)
}

/// The shares of labels and of clusters in the batches of each method, by step.
pub fn selected(gathered: &ReportData, labels: &[String]) -> String {
    let mut html = String::new();
    for (heading, is_by_label) in [("by kind", true), ("by cluster", false)] {
        let mut plots = String::new();
        // A cluster has another number with each seed, so that only one seed is shown. A label means the same with all
        // seeds.
        let kept = if is_by_label { usize::MAX } else { 1 };
        let groups = labels.iter().filter_map(|label| {
            let rows: Vec<&Picked> =
                gathered.tuned_models_of(label).take(kept).flat_map(|model| &model.picked).collect();
            (!rows.is_empty()).then_some((label, rows))
        });
        let groups: Vec<(&String, Vec<&Picked>)> = groups.collect();
        let all: Vec<&Picked> = groups.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
        let Some(categories) = Categories::of(&all, is_by_label) else { continue };
        for (label, rows) in groups {
            let title = format!("{label}: {heading}");
            let words = ChartLabels {
                title: &title,
                description: "Share of each in the batches, by training step.",
                x: "training step",
                y: "share of the batch",
            };
            plots.push_str(&categories.plot(words, &rows, |row| row.step));
        }
        let _ = write!(html, "<h3>What was selected when, {heading}</h3>\n<div class=\"plots\">{plots}</div>\n");
    }
    if html.is_empty() { html } else { format!("<h2>Selection</h2>\n{html}") }
}

/// The categories of a stacked plot: the most frequent ones, and one for all others.
struct Categories {
    names: Vec<(String, usize)>,
    is_by_label: bool,
}

impl Categories {
    /// `None` if fewer than half of the rows have a category.
    fn of(rows: &[&Picked], is_by_label: bool) -> Option<Self> {
        // The cluster stands before the name, so that cluster 10 comes after cluster 9.
        let mut counts: BTreeMap<(Option<u32>, String), usize> = BTreeMap::new();
        for row in rows {
            if let Some(name) = category(row, is_by_label) {
                *counts.entry((row.cluster.filter(|_| !is_by_label), name)).or_default() += 1;
            }
        }
        if 2 * counts.values().sum::<usize>() < rows.len() {
            return None;
        }
        let mut by_count: Vec<_> = counts.iter().collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let kept: BTreeSet<_> = by_count.iter().take(COLOURS - 1).map(|(key, _)| *key).collect();
        // The label `relevant`, whose share should grow, is at the bottom of the stack.
        let mut keys: Vec<&(Option<u32>, String)> = counts.keys().collect();
        keys.sort_by_key(|(cluster, name)| (name != "relevant", *cluster, name.clone()));
        let mut names: Vec<(String, usize)> = keys
            .into_iter()
            .filter(|key| kept.contains(key))
            .enumerate()
            .map(|(place, (_, name))| (name.clone(), place))
            .collect();
        if names.is_empty() {
            return None;
        }
        if counts.len() > names.len() {
            names.push(("others".to_owned(), COLOURS - 1));
        }
        Some(Self { names, is_by_label })
    }

    fn plot(&self, words: ChartLabels, rows: &[&Picked], place: impl Fn(&Picked) -> u32) -> String {
        let places = || rows.iter().map(|row| place(row));
        let (Some(first), Some(last)) = (places().min(), places().max()) else { return String::new() };
        let width = ((last - first) as usize + 1).div_ceil(COLUMNS);
        let mut columns: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for row in rows {
            let column =
                columns.entry((place(row) - first) as usize / width).or_insert_with(|| vec![0.0; self.names.len()]);
            let Some(name) = category(row, self.is_by_label) else { continue };
            let category = self.names.iter().position(|(known, _)| *known == name);
            column[category.unwrap_or(self.names.len() - 1)] += 1.0;
        }
        let at = |column: usize| f64::from(first) + (column * width) as f64 + 0.5 * (width as f64 - 1.0);
        let columns: Vec<(f64, Vec<f64>)> = columns.into_iter().map(|(column, values)| (at(column), values)).collect();
        shares(words, &self.names, &columns)
    }
}

/// The name of a row's category: its label or its cluster.
fn category(row: &Picked, is_by_label: bool) -> Option<String> {
    if is_by_label { row.label.clone() } else { row.cluster.map(|cluster| format!("cluster {cluster}")) }
}

/// The training of the selector: rewards, performance and selections by round.
pub fn training(gathered: &ReportData) -> String {
    if gathered.selectors.is_empty() {
        return String::new();
    }
    let trained = in_order(gathered.selectors.iter().map(|selector| &selector.name.label));
    let by_round = |value: fn(&RoundPoint) -> Option<f64>| {
        let mut series = Vec::new();
        for (colour, label) in trained.iter().enumerate() {
            let at = |row: &RoundPoint| Some((row.0 + 1.0, row.0 + 1.0, value(row)?));
            let runs: Vec<Vec<(f64, f64, f64)>> =
                gathered.selectors_of(label).map(|selector| selector.rounds.iter().filter_map(at).collect()).collect();
            let (points, _) = mean_and_range(&runs);
            let mut name = (*label).clone();
            if runs.len() > 1 {
                name = format!("{label}, mean of {} seeds", runs.len());
                series.extend(runs.into_iter().map(|run| Series {
                    label: "one seed".to_owned(),
                    colour,
                    points: run.into_iter().map(|(_, x, y)| (x, y)).collect(),
                    is_faint: true,
                    ..Series::default()
                }));
            }
            series.push(Series { label: name, colour, points, ..Series::default() });
        }
        series
    };
    let reward = ChartLabels {
        title: "Reward by round",
        description: "Sum of an episode's rewards: the gain of performance from its start to its end.",
        x: "round",
        y: "episode reward",
    };
    let end = ChartLabels {
        title: "Validation loss at the end of an episode, by round",
        description: "The loss that the proxy reaches with the policy of each round.",
        x: "round",
        y: "validation loss",
    };
    let mut plots = lines(reward, &by_round(|row| row.1)) + &lines(end, &by_round(|row| Some(-row.2?)));
    for (title, is_by_label) in [
        ("What the policy selected, by kind and round", true),
        ("What the policy selected, by cluster and round", false),
    ] {
        let kept = if is_by_label { usize::MAX } else { 1 };
        let picked = gathered.selectors.iter().take(kept).flat_map(|selector| &selector.picked);
        let rows: Vec<&Picked> = picked.filter(|row| row.round.is_some()).collect();
        if let Some(categories) = Categories::of(&rows, is_by_label) {
            let words =
                ChartLabels { title, description: "Share of each in all batches of a round.", x: "round", y: "share" };
            plots.push_str(&categories.plot(words, &rows, |row| row.round.unwrap_or(0).saturating_add(1)));
        }
    }
    format!("<h2>Training of the selector</h2>\n<div class=\"plots\">{plots}</div>\n")
}

/// The instructions that each method selected most often, in its first seed.
pub fn samples(gathered: &ReportData, labels: &[String]) -> String {
    let mut html = String::new();
    for label in labels {
        let Some(model) = gathered.tuned_models_of(label).next() else { continue };
        let mut by_id: BTreeMap<u32, Vec<&Picked>> = BTreeMap::new();
        for row in &model.picked {
            by_id.entry(row.id).or_default().push(row);
        }
        let score = |rows: &[&Picked]| {
            let scores: Vec<f64> = rows.iter().filter_map(|row| row.score).collect();
            (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
        };
        let mut top: Vec<(u32, usize, Option<f64>, &Picked)> =
            by_id.iter().filter_map(|(id, rows)| Some((*id, rows.len(), score(rows), *rows.first()?))).collect();
        let different = top.len();
        top.sort_by(|one, other| {
            let scores = |row: &(u32, usize, Option<f64>, &Picked)| row.2.unwrap_or(f64::NEG_INFINITY);
            other.1.cmp(&one.1).then(scores(other).total_cmp(&scores(one))).then(one.0.cmp(&other.0))
        });
        top.truncate(SAMPLE);
        if top.is_empty() {
            continue;
        }
        let has = |of: fn(&Picked) -> bool| top.iter().any(|row| of(row.3));
        let (has_kind, has_cluster, has_score) =
            (has(|row| row.label.is_some()), has(|row| row.cluster.is_some()), top.iter().any(|row| row.2.is_some()));
        let open = if html.is_empty() { " open" } else { "" };
        let _ = write!(
            html,
            "<details{open}><summary>{}: {} selected, {different} different</summary><div class=\"scroll\"><table><thead><tr><th class=\"n\" title=\"how often the \
             method took the instruction\">times</th>",
            escape(label),
            model.picked.len()
        );
        for (shown, head, is_number, column) in [
            (has_score, "score", true, "score"),
            (has_cluster, "cluster", true, "cluster"),
            (has_kind, "kind", false, "label"),
            (true, "instruction", false, "instruction"),
        ] {
            if shown {
                html.push_str(&SELECTION.cell(head, is_number, &[column]));
            }
        }
        html.push_str("</tr></thead><tbody>\n");
        for (_, times, score, row) in top {
            let _ = write!(html, "<tr><td class=\"n\">{times}</td>");
            if has_score {
                let _ = write!(html, "<td class=\"n\">{}</td>", score.map_or("–".to_owned(), number));
            }
            if has_cluster {
                let cluster = row.cluster.map_or("–".to_owned(), |cluster| cluster.to_string());
                let _ = write!(html, "<td class=\"n\">{cluster}</td>");
            }
            if has_kind {
                let _ = write!(html, "<td>{}</td>", escape(row.label.as_deref().unwrap_or("–")));
            }
            let _ = writeln!(html, "<td class=\"text\">{}</td></tr>", escape(&cut(&row.instruction, 160)));
        }
        html.push_str("</tbody></table></div></details>\n");
    }
    if html.is_empty() {
        return html;
    }
    format!(
        "<h2>Most selected instructions</h2>\n<p class=\"quiet\">Of the first seed: by how often they were taken, then by score.</p>\n{html}"
    )
}

/// The costs of training, of validation passes and of the episodes of the selector, as means over seeds.
pub fn costs(gathered: &ReportData, labels: &[String]) -> String {
    let mut rows: Vec<(String, TrainingCost)> = Vec::new();
    for label in labels {
        rows.extend(cost_of(gathered, label).map(|cost| (dot(labels, label), cost)));
    }
    for label in in_order(gathered.selectors.iter().map(|selector| &selector.name.label)) {
        let of: Vec<TrainingCost> = gathered.selectors_of(label).map(|selector| selector.cost).collect();
        rows.extend(average(&of).map(|cost| (format!("training of the selector ({})", escape(label)), cost)));
        let passes = || gathered.selectors_of(label).flat_map(|selector| &selector.passes);
        for pass in in_order(passes().map(|(pass, _)| pass)) {
            let of: Vec<TrainingCost> = passes().filter(|(other, _)| other == pass).map(|(_, cost)| *cost).collect();
            rows.extend(average(&of).map(|cost| (format!("{} before it ({})", escape(pass), escape(label)), cost)));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let full = full_flops(gathered);
    let has_phi = rows.iter().any(|(_, cost)| phi_of(cost, full).is_some());
    let phi = if has_phi { "<th class=\"n\">Φ</th>" } else { "" };
    let mut html = format!(
        "<h2>Cost</h2>\n<div class=\"scroll\"><table><thead><tr><th></th><th class=\"n\">steps</th><th class=\"n\">tokens</th>\
         <th class=\"n\">supervised tokens</th><th class=\"n\">FLOPs</th><th class=\"n\">validation FLOPs</th><th class=\"n\">FLOPs before</th>{phi}</tr></thead><tbody>\n"
    );
    for (name, cost) in rows {
        let _ = write!(html, "<tr><td>{name}</td>");
        let numbers =
            [cost.steps, cost.tokens, cost.supervised_tokens, cost.flops, cost.evaluation_flops, cost.before_flops];
        for value in numbers {
            let _ = write!(html, "<td class=\"n\">{}</td>", count(value));
        }
        if has_phi {
            let shown = phi_of(&cost, full).map_or("–".to_owned(), |full| number(cost.total_flops() / full));
            let _ = write!(html, "<td class=\"n\">{shown}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str(
        "</tbody></table></div>\n<p class=\"quiet\">Means over seeds. FLOPs before: features, hidden states, influence and \
         the training of a selector, in full for each method that uses them. The rows of selectors and of passes are \
         parts of these.",
    );
    if has_phi {
        html.push_str(
            " Φ is the sum of the three kinds of FLOPs, as a share of the training FLOPs of three epochs of the pool. In \
             the result tables, the column Φ counts the training alone, and “Φ in all” is the sum.",
        );
    }
    html.push_str("</p>\n");
    html
}

/// The notes on how to read the numbers.
pub fn notes(gathered: &ReportData, has_results: bool) -> String {
    let mut html = String::new();
    if has_results {
        html.push_str(
            "<p class=\"quiet\">Intervals over seeds are Student t intervals of the mean, with each seed as one observation; \
             differences are paired by seed. Intervals over items take each test item as one observation, its difference \
             averaged over the paired seeds; for the loss, items count by their tokens (ratio estimator). Neither is \
             corrected for the number of comparisons. Colour marks differences whose interval leaves out zero.</p>\n",
        );
    }
    if !gathered.ignored.is_empty() {
        let names: Vec<String> = gathered.ignored.iter().map(|stage| escape(stage)).collect();
        let _ = writeln!(
            html,
            "<p class=\"quiet\">Not shown, as they hold no table that this page knows: {}.</p>",
            names.join(", ")
        );
    }
    if html.is_empty() { html } else { format!("<h2>Notes</h2>\n{html}") }
}
