//! The results: one sentence for each metric, plots of the intervals, and tables of the comparison.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::chart::{ChartLabels, Interval, intervals};
use super::comparison::{MethodScore, SeedValue, is_called, less_is_better};
use super::dictionary::COMPARISON;
use super::gather::in_order;
use super::markup::{count, escape, number, signed};
use super::sections::{colour, dot};
use super::statistics::MeanEstimate;

/// The section with the results of all methods.
pub fn results(rows: &[MethodScore], labels: &[String], reference: Option<&str>, baseline: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let groups: Vec<Group> = in_order(rows.iter().map(|row| (&row.split, &row.metric)))
        .into_iter()
        .map(|(split, metric)| {
            let of = rows.iter().filter(|row| (&row.split, &row.metric) == (split, metric));
            Group { split, metric, is_less: less_is_better(metric), rows: of.collect() }
        })
        .collect();
    let mut html = "<h2>Result</h2>\n".to_owned();
    match reference {
        Some(reference) => groups.iter().for_each(|group| html.push_str(&finding(group, reference))),
        None => {
            let _ = writeln!(
                html,
                "<p class=\"quiet\">{}, so nothing is compared with it.</p>",
                escape(&no_baseline(labels, baseline))
            );
        }
    }
    let mut plots = String::new();
    let mut tables = String::new();
    for group in &groups {
        let Group { split, metric, is_less, rows } = group;
        let direction = if *is_less { "less is better" } else { "more is better" };
        let bars: Vec<Interval> = rows
            .iter()
            .map(|row| Interval {
                label: row.method.clone(),
                colour: colour(labels, &row.method),
                mean: row.value.mean,
                interval: row.value.interval,
                values: named(&row.by_seed),
            })
            .collect();
        let line = rows
            .iter()
            .find(|row| Some(row.method.as_str()) == reference)
            .map(|row| (row.value.mean, row.method.as_str()));
        let title = format!("{metric} on {split} ({direction})");
        let (bars, left_out) = comparable(bars, rows);
        let caption = if left_out.is_empty() {
            title.clone()
        } else {
            format!("{title}; off the scale: {}", left_out.join(", "))
        };
        let description = "Mean over seeds with its 95 % interval, for each method, and a small dot for each seed; numbers \
                           are in the table below.";
        plots.push_str(&intervals(ChartLabels { title: &caption, description, x: metric, y: "" }, &bars, line));
        if let Some(reference) = reference {
            plots.push_str(&differences(group, labels, reference));
        }
        tables.push_str(&comparison(group, labels, reference, &title));
    }
    let _ = write!(html, "<div class=\"plots\">{plots}</div>\n{tables}");
    html
}

/// The methods on one metric of one split.
struct Group<'a> {
    split: &'a str,
    metric: &'a str,
    /// Whether a smaller value is better.
    is_less: bool,
    rows: Vec<&'a MethodScore>,
}

impl Group<'_> {
    /// Compares two methods: the better one is greater.
    fn compare(&self, one: &MethodScore, other: &MethodScore) -> Ordering {
        let order = one.value.mean.total_cmp(&other.value.mean);
        if self.is_less { order.reverse() } else { order }
    }
}

/// The values of seeds with their names.
fn named(by_seed: &[SeedValue]) -> Vec<(String, f64)> {
    let name =
        |seed: &Option<String>| seed.as_ref().map_or_else(|| "all seeds".to_owned(), |seed| format!("seed {seed}"));
    by_seed.iter().map(|(seed, value)| (name(seed), *value)).collect()
}

/// The plot of the differences to the baseline, paired by seed. Empty without at least two paired seeds.
fn differences(group: &Group, labels: &[String], reference: &str) -> String {
    let bars: Vec<Interval> = group
        .rows
        .iter()
        .filter_map(|row| {
            let difference = row.difference.as_ref()?;
            let estimate = difference.over_seeds.filter(|estimate| estimate.interval.is_some())?;
            let values = named(&difference.by_seed);
            let colour = colour(labels, &row.method);
            Some(Interval {
                label: row.method.clone(),
                colour,
                mean: estimate.mean,
                interval: estimate.interval,
                values,
            })
        })
        .collect();
    let (bars, left_out) = comparable(bars, &group.rows);
    let direction = if group.is_less { "less is better" } else { "more is better" };
    let mut title = format!("{} on {} minus {reference}, paired by seed ({direction})", group.metric, group.split);
    if !left_out.is_empty() {
        title += &format!("; off the scale: {}", left_out.join(", "));
    }
    let description = "Mean difference with its 95 % interval over seeds, and a small dot for each seed.";
    let x = format!("{} minus {reference}", group.metric);
    intervals(ChartLabels { title: &title, description, x: &x, y: "" }, &bars, Some((0.0, reference)))
}

/// The reason why there is no baseline.
pub fn no_baseline(labels: &[String], baseline: &str) -> String {
    let several: Vec<&str> = labels.iter().map(String::as_str).filter(|label| is_called(label, baseline)).collect();
    if several.is_empty() {
        return format!("No method called “{baseline}” was scored");
    }
    format!("Several methods are called “{baseline}” ({})", several.join("; "))
}

/// The intervals to draw, and the texts of the intervals that are left out. An untuned model is left out if its value
/// is so far from the others that their differences would be invisible.
fn comparable(bars: Vec<Interval>, rows: &[&MethodScore]) -> (Vec<Interval>, Vec<String>) {
    let reach = |bars: &mut dyn Iterator<Item = &Interval>| {
        let ends = bars.flat_map(|bar| {
            let (low, high) = bar.ends();
            [low, high]
        });
        let (low, high) =
            ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), end| (low.min(end), high.max(end)));
        high - low
    };
    let is_tuned = |label: &str| rows.iter().any(|row| row.method == label && row.cost.is_some());
    let tuned = reach(&mut bars.iter().filter(|bar| is_tuned(&bar.label)));
    if tuned.is_nan() || tuned <= 0.0 || reach(&mut bars.iter()) < 2.0 * tuned {
        return (bars, Vec::new());
    }
    let (drawn, left_out): (Vec<Interval>, Vec<Interval>) = bars.into_iter().partition(|bar| is_tuned(&bar.label));
    (drawn, left_out.into_iter().map(|bar| format!("{} ({})", bar.label, number(bar.mean))).collect())
}

/// One sentence: the best method against the baseline.
fn finding(group: &Group, reference: &str) -> String {
    // An oracle reads the labels of synthetic data: its score is a bound, not the score of a method.
    let is_method = |row: &MethodScore| !row.method.starts_with("oracle");
    let best = |is_shown: fn(&MethodScore) -> bool| {
        // `max_by` returns the last of equal rows. The first of them is the first row of the table below.
        let rows = group.rows.iter().rev().copied().filter(|row| is_shown(row));
        rows.max_by(|one, other| group.compare(one, other))
    };
    // If an oracle is the first row of the table below, the sentence names the oracle too. Otherwise sentence and table
    // would seem to disagree.
    let aside = if best(|_| true).is_some_and(|row| !is_method(row)) {
        " (apart from the oracle, which sees the labels)"
    } else {
        ""
    };
    let Some(best) = best(is_method) else { return String::new() };
    let name = escape(&best.method);
    let against = escape(reference);
    let baseline = group.rows.iter().find(|row| row.method == reference);
    let text = match &best.difference {
        _ if baseline.is_some_and(|row| group.compare(best, row).is_eq()) => {
            format!("No method is better than the baseline <b>{against}</b>{aside}")
        }
        None => format!("<b>{name}</b> is best{aside}; the baseline {against} was not scored on it"),
        Some(difference) if difference.mean().is_none() => {
            format!("<b>{name}</b> is best{aside}; no run of it has the seed of a run of the baseline {against}")
        }
        Some(difference) => {
            let mean = difference.mean().unwrap_or_default();
            let finding = format!("<b>{name}</b> is best{aside}, {} against {against}", signed(mean));
            let verdict =
                |estimate: Option<MeanEstimate>, what: &str| match estimate.and_then(|it| Some((it, it.interval?))) {
                    Some((estimate, (low, high))) => {
                        let clear = if estimate.excludes_zero() { "" } else { ", which includes no difference" };
                        format!("; 95 % over {} {what}: {} … {}{clear}", estimate.count, signed(low), signed(high))
                    }
                    None => String::new(),
                };
            finding + &verdict(difference.over_seeds, "seeds") + &verdict(difference.over_items, "items")
        }
    };
    format!("<p class=\"finding\">{} on {}: {text}.</p>\n", escape(group.metric), escape(group.split))
}

/// The table of a group, with the best method first.
fn comparison(group: &Group, labels: &[String], reference: Option<&str>, title: &str) -> String {
    let has_phi = group.rows.iter().any(|row| row.phi.is_some());
    let against = reference.map(escape).unwrap_or_default();
    let mut html = format!(
        "<h3>{}</h3><div class=\"scroll\"><table><thead><tr>{}",
        escape(title),
        COMPARISON.cell("method", false, &["method"])
    );
    let mut heading = |text: &str, columns: &[&str]| html.push_str(&COMPARISON.cell(text, true, columns));
    heading("mean", &["mean"]);
    heading("95 % over seeds", &["ci_low", "ci_high"]);
    heading("seeds", &["n_seeds"]);
    if reference.is_some() {
        heading(&format!("−\u{a0}{against}"), &["difference"]);
        heading("95 % over seeds", &["difference_low", "difference_high"]);
        heading("95 % over items", &["items_low", "items_high"]);
        heading("items", &["paired_items"]);
    }
    heading("steps", &["steps"]);
    if has_phi {
        heading("Φ", &["phi"]);
        heading("Φ in all", &["total_phi"]);
    }
    html.push_str("</tr></thead><tbody>\n");
    let mut best_first = group.rows.clone();
    best_first.sort_by(|one, other| group.compare(other, one));
    for (place, row) in best_first.into_iter().enumerate() {
        let class = if place == 0 { " class=\"best\"" } else { "" };
        let cell = |text: &str| format!("<td class=\"n\">{text}</td>");
        let _ = write!(html, "<tr{class}><td>{}</td>{}", dot(labels, &row.method), cell(&number(row.value.mean)));
        let _ = write!(html, "<td class=\"n r\">{}</td>", range(row.value.interval, number));
        html.push_str(&cell(&row.value.count.to_string()));
        if reference.is_some() {
            match &row.difference {
                None => {
                    let is_reference = Some(row.method.as_str()) == reference;
                    html.push_str(&cell(if is_reference { "baseline" } else { "–" }));
                    html.push_str(&cell("–").repeat(3));
                }
                Some(difference) => {
                    html.push_str(&cell(&difference.mean().map_or("–".to_owned(), signed)));
                    for estimate in [difference.over_seeds, difference.over_items] {
                        let class = match estimate {
                            Some(estimate) if !estimate.excludes_zero() => "n",
                            Some(estimate) if (estimate.mean < 0.0) == group.is_less => "n good",
                            Some(_) => "n bad",
                            None => "n",
                        };
                        let shown = range(estimate.and_then(|it| it.interval), signed);
                        let _ = write!(html, "<td class=\"{class} r\">{shown}</td>");
                    }
                    html.push_str(&cell(&difference.over_items.map_or("–".to_owned(), |it| it.count.to_string())));
                }
            }
        }
        html.push_str(&cell(&row.cost.as_ref().map_or("–".to_owned(), |cost| count(cost.steps))));
        if has_phi {
            for phi in [row.phi, row.total_phi] {
                html.push_str(&cell(&phi.map_or("–".to_owned(), number)));
            }
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

fn range(interval: Option<(f64, f64)>, show: fn(f64) -> String) -> String {
    interval.map_or_else(|| "–".to_owned(), |(low, high)| format!("{}\u{a0}… {}", show(low), show(high)))
}
