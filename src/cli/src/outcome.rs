//! The last lines of a build: what came out. The engine reads the results of the stages; this file chooses the lines.

use raisin_contract::results::{MethodResult, Results, less_is_better};
use raisin_engine::{StageResults, Summary};

use super::text::{aligned, wrapped};
use raisin_base::columns::width;
use raisin_base::number::number;

/// The maximum number of methods of a metric that are shown, if one metric is shown and if several are.
const MOST_METHODS: usize = 5;
const MOST_OF_SEVERAL: usize = 4;
/// The maximum number of results that are shown if no stage compares them.
const MOST_RESULTS: usize = 6;

/// The lines about the results of a build, none if no stage of this build measured anything. `most` is the width of the
/// terminal.
pub fn lines(summary: &Summary, most: usize) -> Vec<String> {
    let compared: Vec<&StageResults> =
        summary.results.iter().filter(|of| of.compares && !of.results.rows.is_empty()).collect();
    let mut lines = Vec::new();
    for of in &compared {
        if compared.len() > 1 {
            lines.push(format!("{}:", of.label));
        }
        lines.extend(comparison(&of.results, most));
    }
    if compared.is_empty() {
        let measured: Vec<&StageResults> =
            summary.results.iter().filter(|of| !of.compares && !of.results.rows.is_empty()).collect();
        lines.extend(list(&measured, most));
    }
    let pages = summary.results.iter().filter_map(|of| of.page.as_ref());
    lines.extend(pages.map(|page| format!("report: {}", page.display())));
    lines
}

/// The methods on the headline metrics of a comparison, the best first.
fn comparison(results: &Results, most: usize) -> Vec<String> {
    let headlines = results.headlines();
    let shown = if headlines.len() > 1 { MOST_OF_SEVERAL } else { MOST_METHODS };
    headlines.into_iter().flat_map(|rows| metric(rows, results.baseline.as_deref(), shown, most)).collect()
}

fn metric(mut rows: Vec<&MethodResult>, wanted: Option<&str>, shown: usize, most: usize) -> Vec<String> {
    let Some(first) = rows.first().copied() else { return Vec::new() };
    let is_less = less_is_better(&first.metric);
    rows.sort_by(|one, other| {
        let order = one.mean.total_cmp(&other.mean);
        if is_less { order } else { order.reverse() }
    });
    let seeds = rows.iter().map(|row| row.seeds).max().unwrap_or(1);
    let baseline = rows.iter().find(|row| row.is_baseline).copied();
    let all = rows.len();
    // The baseline is always shown: without it, no difference can be judged.
    if let Some(place) = rows.iter().position(|row| row.is_baseline)
        && place >= shown
    {
        rows.swap(shown - 1, place);
    }
    rows.truncate(shown);
    let digits = decimals(&rows);
    let mut table = vec![headings(&rows, seeds, baseline)];
    table.extend(rows.iter().map(|row| cells(row, seeds, baseline.is_some(), digits)));
    // A column without a value has no heading.
    for column in 0..table[0].len() {
        if table[1..].iter().all(|row| row[column].is_empty()) {
            table[0][column].clear();
        }
    }
    let better = if is_less { "lower is better" } else { "higher is better" };
    let mut title = format!("{} on {}, {better}", first.metric, first.split);
    if seeds == 1 {
        title += ", one seed";
    }
    if let (None, Some(wanted)) = (baseline, wanted) {
        title += &format!("; no single method `{wanted}` was scored, so nothing is compared with it");
    }
    let words: Vec<&str> = title.split(' ').collect();
    let mut lines = wrapped(&words, " ", "  ", most);
    lines.extend(table_lines(&table, most));
    match all - rows.len() {
        0 => {}
        1 => lines.push("  and 1 method more".to_owned()),
        more => lines.push(format!("  and {more} methods more")),
    }
    lines
}

/// The table as lines. On a narrow terminal, the difference of a method stands on a second line.
fn table_lines(table: &[Vec<String>], most: usize) -> Vec<String> {
    let lines = aligned(table, &[false, true, true, true, true, true], usize::MAX);
    if lines.iter().all(|line| width(line) <= most) {
        return lines;
    }
    let first: Vec<Vec<String>> =
        table.iter().map(|row| [0, 1, 2, 5].map(|column| row[column].clone()).to_vec()).collect();
    let mut lines = Vec::new();
    for (line, row) in aligned(&first, &[false, true, true, true], most).into_iter().zip(table) {
        lines.push(line);
        let second: Vec<&str> = row[3..5].iter().map(String::as_str).filter(|cell| !cell.is_empty()).collect();
        lines.extend(wrapped(&second, "  ", "  ", most).into_iter().map(|line| format!("      {line}")));
    }
    lines
}

/// What the columns of the rows are.
fn headings(rows: &[&MethodResult], seeds: usize, baseline: Option<&MethodResult>) -> Vec<String> {
    let minus = baseline.map_or_else(String::new, |baseline| format!("minus {}", baseline.method));
    let paired = rows.iter().filter_map(|row| row.difference.as_ref()).filter(|it| it.interval.is_some());
    // If the methods have different numbers of pairs, the number is the largest one.
    let over = match paired.max_by_key(|it| (it.over == "seeds", it.pairs)) {
        Some(paired) if paired.over == "seeds" => format!("95 % over {} seeds", paired.pairs),
        Some(paired) => format!("95 % over {} examples", paired.pairs),
        None => String::new(),
    };
    let mean = if seeds > 1 { format!("95 % over {seeds} seeds") } else { String::new() };
    vec!["method".to_owned(), "mean".to_owned(), mean, minus, over, "total cost".to_owned()]
}

fn cells(row: &MethodResult, seeds: usize, has_baseline: bool, digits: usize) -> Vec<String> {
    let (number, signed) = (|value: f64| number(value, digits), |value: f64| signed(value, digits));
    let interval = match row.interval {
        Some((low, high)) => format!("{} ... {}", number(low), number(high)),
        None if seeds > 1 && row.seeds == 1 => "one seed".to_owned(),
        None => String::new(),
    };
    let (difference, reach) = match &row.difference {
        _ if row.is_baseline => ("baseline".to_owned(), String::new()),
        Some(difference) => {
            let reach = difference.interval.map(|(low, high)| format!("({} ... {})", signed(low), signed(high)));
            (signed(difference.mean), reach.unwrap_or_default())
        }
        None if has_baseline => ("not paired".to_owned(), String::new()),
        None => (String::new(), String::new()),
    };
    let cost = cost(row).unwrap_or_default();
    vec![row.method.clone(), number(row.mean), interval, difference, reach, cost]
}

/// The total cost, as a share of Phi where Phi is known.
fn cost(row: &MethodResult) -> Option<String> {
    match (row.total_phi, row.total_flops) {
        (Some(phi), _) => Some(format!("{phi:.2} Phi")),
        (None, Some(flops)) => Some(format!("{flops:.1e} FLOP")),
        (None, None) => None,
    }
}

/// The results of stages that nothing compares, one line for each.
fn list(measured: &[&StageResults], most: usize) -> Vec<String> {
    let Some(first) = measured.first().and_then(|of| of.results.rows.first()) else { return Vec::new() };
    let row = |of: &&StageResults| {
        let mut cells = vec![of.label.clone()];
        for rows in of.results.headlines() {
            cells.extend(rows.iter().map(|row| format!("{} {}", row.metric, number(row.mean, 3))));
        }
        cells
    };
    let rows: Vec<Vec<String>> = measured.iter().take(MOST_RESULTS).map(row).collect();
    let title =
        format!("on {}, one seed each (a stage of kind report compares them; a lower loss is better):", first.split);
    let words: Vec<&str> = title.split(' ').collect();
    let mut lines = wrapped(&words, " ", "  ", most);
    lines.extend(aligned(&rows, &[], most));
    let more = measured.len().saturating_sub(MOST_RESULTS);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}

/// A number with its sign, also if the number is positive. A number that rounds to zero has none.
fn signed(value: f64, decimals: usize) -> String {
    let text = number(value, decimals);
    let is_zero = !text.contains(|letter: char| ('1'..='9').contains(&letter));
    match (is_zero, value > 0.0) {
        (true, _) => text.trim_start_matches('-').to_owned(),
        (false, true) => format!("+{text}"),
        (false, false) => text,
    }
}

/// The decimals that show the differences of the rows: three, or more if all differences are small.
fn decimals(rows: &[&MethodResult]) -> usize {
    let sizes = rows.iter().filter_map(|row| row.difference.as_ref()).map(|it| it.mean.abs());
    match sizes.fold(0.0, f64::max) {
        largest if largest > 0.0 && largest < 0.001 => 5,
        largest if largest > 0.0 && largest < 0.01 => 4,
        _ => 3,
    }
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
