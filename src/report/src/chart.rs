//! Plots as inline SVG: lines with bands, stacked shares, intervals. The plots need no script and no other file.
//!
//! The colours are CSS variables of the page. They come from the palette of Okabe and Ito, which people with any colour
//! vision can distinguish. Lines also differ in their dashes. Plots are 480 units wide, so that text is readable on a
//! phone.

use std::fmt::Write as _;

use super::markup::{count, cut, escape, number};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// The width of a letter of a tick.
const LETTER: f64 = 7.0;
/// The largest number of marks of a line.
const MOST_MARKS: usize = 60;
/// The number of colours that the page defines.
pub const COLOURS: usize = 8;

/// A line with an optional band.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub label: String,
    /// The number of the colour: the place of the method among all methods. A method has one colour on the whole page.
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
    /// (x, low, high)
    pub band: Vec<(f64, f64, f64)>,
    /// Whether the line is thin and has no legend: the line of one seed, behind the mean.
    pub is_faint: bool,
}

/// The texts of a plot.
#[derive(Clone, Copy, Debug)]
pub struct ChartLabels<'a> {
    pub title: &'a str,
    /// What the plot shows, for people who cannot see it.
    pub description: &'a str,
    pub x: &'a str,
    pub y: &'a str,
}

/// Lines over a common axis, which need not begin at zero.
pub fn lines(words: ChartLabels, series: &[Series]) -> String {
    let all = series.iter().flat_map(|series| {
        let band = series.band.iter().flat_map(|(x, low, high)| [(*x, *low), (*x, *high)]);
        series.points.iter().copied().chain(band)
    });
    let all: Vec<(f64, f64)> = all.filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    if all.is_empty() {
        return String::new();
    }
    let frame = Frame::around(&all);
    let (mut body, mut marks) = (String::new(), String::new());
    for one in series.iter().filter(|one| one.band.len() > 1) {
        let upper = one.band.iter().map(|(x, _, high)| frame.place(*x, *high));
        let lower = one.band.iter().rev().map(|(x, low, _)| frame.place(*x, *low));
        let points: Vec<String> = upper.chain(lower).collect();
        let _ = write!(body, "<polygon class=\"f{} band\" points=\"{}\"/>", one.colour % COLOURS, points.join(" "));
    }
    let mut ordered: Vec<&Series> = series.iter().collect();
    ordered.sort_by_key(|one| !one.is_faint);
    for one in ordered {
        let points: Vec<String> = one.points.iter().map(|(x, y)| frame.place(*x, *y)).collect();
        let class = if one.is_faint { " faint" } else { "" };
        let name = escape(&one.label);
        let style = style(one.colour);
        let _ = write!(
            body,
            "<polyline class=\"{style}{class}\" points=\"{}\"><title>{name}</title></polyline>",
            points.join(" ")
        );
        if let (false, [only]) = (one.is_faint, points.as_slice()) {
            let (x, y) = only.split_once(',').unwrap_or(("0", "0"));
            let _ = write!(body, "<circle class=\"f{}\" cx=\"{x}\" cy=\"{y}\" r=\"4\"/>", one.colour % COLOURS);
        }
        if !one.is_faint {
            marks.push_str(&values(&frame, one, words));
        }
    }
    // The marks lie above all lines, so that no line keeps the pointer from them.
    body.push_str(&marks);
    let legend: Vec<(&str, usize)> =
        series.iter().filter(|one| !one.is_faint).map(|one| (one.label.as_str(), one.colour)).collect();
    figure(words, &(frame.axes(words) + &body), HEIGHT, &line_legend(&legend))
}

/// Marks at the points of a line that nobody sees before the pointer rests on one: it then tells its value. A long line has
/// a mark at every few points and at the last one.
fn values(frame: &Frame, of: &Series, words: ChartLabels) -> String {
    let every = of.points.len().div_ceil(MOST_MARKS).max(1);
    let mut marks = String::new();
    for (place, (x, y)) in of.points.iter().enumerate() {
        if (place % every == 0 || place + 1 == of.points.len()) && x.is_finite() && y.is_finite() {
            let _ = write!(
                marks,
                "<circle class=\"hit f{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"6\"><title>{}: {} {}, {} {}</title></circle>",
                of.colour % COLOURS,
                frame.left(*x),
                frame.top(*y),
                escape(&of.label),
                escape(words.y),
                number(*y),
                escape(words.x),
                if x.fract() == 0.0 && x.abs() < 1e5 { format!("{x:.0}") } else { count(*x) },
            );
        }
    }
    marks
}

/// Shares of categories that sum to 1, stacked in one column for each place on the x axis.
pub fn shares(words: ChartLabels, categories: &[(String, usize)], columns: &[(f64, Vec<f64>)]) -> String {
    let Some((first, last)) = columns.first().zip(columns.last()) else { return String::new() };
    let spacing = if columns.len() > 1 { (last.0 - first.0) / (columns.len() - 1) as f64 } else { 1.0 };
    let frame = Frame { x: (first.0 - 0.5 * spacing, last.0 + 0.5 * spacing), y: (0.0, 1.0), has_whole_x: true };
    let mut body = String::new();
    for (x, values) in columns {
        let total: f64 = values.iter().sum();
        let mut from = 0.0;
        for (value, (label, colour)) in values.iter().zip(categories) {
            let share = if total > 0.0 { value / total } else { 0.0 };
            if share > 0.0 {
                let (left, right) = (frame.left(x - 0.5 * spacing), frame.left(x + 0.5 * spacing));
                let (top, bottom) = (frame.top(from + share), frame.top(from));
                let _ = write!(
                    body,
                    "<rect class=\"f{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{} {}: {:.0} %</title></rect>",
                    colour % COLOURS,
                    right - left + 0.3,
                    bottom - top,
                    escape(label),
                    number_of_place(*x),
                    100.0 * share
                );
            }
            from += share;
        }
    }
    let legend: Vec<(&str, usize)> = categories.iter().map(|(label, colour)| (label.as_str(), *colour)).collect();
    figure(words, &(body + &frame.axes(words)), HEIGHT, &box_legend(&legend))
}

/// A mean with its interval, and the values of which it is the mean.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    pub label: String,
    pub colour: usize,
    pub mean: f64,
    pub interval: Option<(f64, f64)>,
    /// (name, value)
    pub values: Vec<(String, f64)>,
}

impl Interval {
    /// The least and the greatest number of the row.
    pub fn ends(&self) -> (f64, f64) {
        let (low, high) = self.interval.unwrap_or((self.mean, self.mean));
        self.values.iter().fold((low, high), |(low, high), (_, value)| (low.min(*value), high.max(*value)))
    }
}

/// Means and their intervals, one below the other, with a small dot for each value and a line at the mean of the
/// reference.
pub fn intervals(words: ChartLabels, rows: &[Interval], reference: Option<(f64, &str)>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let ends = rows.iter().flat_map(|row| {
        let (low, high) = row.ends();
        [low, row.mean, high]
    });
    let mut all: Vec<f64> = ends.chain(reference.map(|(value, _)| value)).filter(|value| value.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (all.first(), all.last()) else { return String::new() };
    let margin = if most > least { 0.06 * (most - least) } else { 0.1 + 0.1 * most.abs() };
    let (low, high) = (least - margin, most + margin);
    let line = 26.0;
    let left = 150.0;
    let height = TOP + line * rows.len() as f64 + BOTTOM;
    let place = |value: f64| left + (value - low) / (high - low) * (WIDTH - left - RIGHT);
    let bottom = height - BOTTOM;
    let mut body = String::new();
    for tick in ticks(low, high, 5) {
        let x = place(tick);
        let _ = write!(
            body,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 17.0,
            tick_text(tick, (high - low) / 5.0)
        );
    }
    if let Some((value, name)) = reference {
        let x = place(value);
        let _ = write!(
            body,
            "<line class=\"reference\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\"><title>{}</title></line>",
            escape(name)
        );
    }
    for (row, Interval { label, colour, mean, interval, values }) in rows.iter().enumerate() {
        let y = TOP + line * (row as f64 + 0.5);
        let shown = escape(&cut(label, 22));
        let _ = write!(body, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{shown}</text>", left - 8.0, y + 4.0);
        if let Some((from, to)) = interval {
            let (from, to) = (place(*from), place(*to));
            let _ = write!(
                body,
                "<path class=\"l{} solid\" d=\"M{from:.1} {y:.1}H{to:.1}M{from:.1} {:.1}v8M{to:.1} {:.1}v8\"/>",
                colour % COLOURS,
                y - 4.0,
                y - 4.0
            );
        }
        // A single value is the mean.
        for (name, value) in values.iter().filter(|_| values.len() > 1) {
            let _ = write!(
                body,
                "<circle class=\"f{} single\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}, {}: {}</title></circle>",
                colour % COLOURS,
                place(*value),
                escape(label),
                escape(name),
                number(*value)
            );
        }
        let _ = write!(
            body,
            "<circle class=\"f{}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{}: {}</title></circle>",
            colour % COLOURS,
            place(*mean),
            escape(label),
            number(*mean)
        );
    }
    let middle = f64::midpoint(left, WIDTH - RIGHT);
    let _ = write!(
        body,
        "<text class=\"axis\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        height - 8.0,
        escape(words.x)
    );
    figure(words, &body, height, "")
}

struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    /// Whether all places on the x axis are whole numbers.
    has_whole_x: bool,
}

impl Frame {
    fn around(points: &[(f64, f64)]) -> Self {
        let range = |of: fn(&(f64, f64)) -> f64, margin: f64| {
            let low = points.iter().map(of).fold(f64::INFINITY, f64::min);
            let high = points.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
            if high > low {
                (low - margin * (high - low), high + margin * (high - low))
            } else {
                (low - 0.5 * low.abs().max(1.0) * 0.1, high + 0.5 * high.abs().max(1.0) * 0.1)
            }
        };
        let has_whole_x = points.iter().all(|(x, _)| x.fract() == 0.0);
        Self { x: range(|point| point.0, 0.0), y: range(|point| point.1, 0.06), has_whole_x }
    }

    fn left(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn top(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn place(&self, x: f64, y: f64) -> String {
        format!("{:.1},{:.1}", self.left(x), self.top(y))
    }

    fn axes(&self, words: ChartLabels) -> String {
        let mut text = String::new();
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in ticks(self.y.0, self.y.1, 5) {
            let y = self.top(tick);
            let _ = write!(
                text,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                tick_text(tick, (self.y.1 - self.y.0) / 5.0)
            );
        }
        let on_x = ticks(self.x.0, self.x.1, 6);
        // Steps and rounds are whole numbers.
        let on_x =
            if self.has_whole_x { on_x.into_iter().filter(|tick| tick.fract().abs() < 1e-9).collect() } else { on_x };
        for tick in on_x {
            let x = self.left(tick);
            let shown = tick_text(tick, (self.x.1 - self.x.0) / 6.0);
            // The text of the last tick ends with the picture at the latest.
            let is_cut = x + LETTER / 2.0 * shown.chars().count() as f64 > WIDTH;
            let (at, anchor) = if is_cut { (WIDTH, "end") } else { (x, "middle") };
            let _ = write!(
                text,
                "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                bottom + 4.0,
                bottom + 17.0,
                shown
            );
        }
        let (middle, centre) = (f64::midpoint(LEFT, right), f64::midpoint(TOP, bottom));
        let _ = write!(
            text,
            "<line class=\"tick\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/><text class=\"axis\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text class=\"axis\" transform=\"translate(13 {centre:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 8.0,
            escape(words.x),
            escape(words.y)
        );
        text
    }
}

/// About `wanted` round numbers inside a range.
pub fn ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let raw = (high - low) / wanted.max(1) as f64;
    if !raw.is_finite() || raw <= 0.0 {
        return Vec::new();
    }
    let power = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= raw * 0.999).unwrap_or(raw);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|place| place as f64 * step).collect()
}

/// The text of a tick, with as many decimals as the spacing of ticks needs.
fn tick_text(value: f64, spacing: f64) -> String {
    if spacing >= 2000.0 {
        return whole_count(value);
    }
    let decimals = if spacing >= 1.0 { 0 } else { (-spacing.log10().floor()).clamp(0.0, 6.0) as usize };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    match text.strip_prefix('-') {
        Some("0") => "0".to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// A count as short as possible: 0, 5 k, 150 G.
fn whole_count(value: f64) -> String {
    let text = count(value);
    let (digits, prefix) = text.split_once(' ').unwrap_or((&text, ""));
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    if prefix.is_empty() { digits.to_owned() } else { format!("{digits} {prefix}") }
}

fn number_of_place(value: f64) -> String {
    if value.fract() == 0.0 { format!("at {value:.0}") } else { format!("at {value:.1}") }
}

fn style(colour: usize) -> String {
    format!("l{} d{}", colour % COLOURS, (colour / 2) % 4)
}

fn figure(words: ChartLabels, body: &str, height: f64, legend: &str) -> String {
    let (title, description) = (escape(words.title), escape(words.description));
    format!(
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}. {description}\"><title>{title}</title><desc>{description}</desc>{body}</svg>{legend}</figure>\n"
    )
}

fn line_legend(entries: &[(&str, usize)]) -> String {
    let sample = |colour: usize| {
        format!(
            "<svg viewBox=\"0 0 28 10\" class=\"sample\" aria-hidden=\"true\"><line class=\"{}\" x1=\"1\" x2=\"27\" y1=\"5\" y2=\"5\"/></svg>",
            style(colour)
        )
    };
    legend(entries, sample)
}

fn box_legend(entries: &[(&str, usize)]) -> String {
    let sample = |colour: usize| {
        format!(
            "<svg viewBox=\"0 0 12 12\" class=\"sample box\" aria-hidden=\"true\"><rect class=\"f{}\" width=\"12\" height=\"12\"/></svg>",
            colour % COLOURS
        )
    };
    legend(entries, sample)
}

fn legend(entries: &[(&str, usize)], sample: impl Fn(usize) -> String) -> String {
    let items: Vec<String> =
        entries.iter().map(|(label, colour)| format!("<li>{}{}</li>", sample(*colour), escape(label))).collect();
    if items.is_empty() { String::new() } else { format!("<ul class=\"legend\">{}</ul>", items.join("")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: ChartLabels = ChartLabels { title: "a < b", description: "one \"line\"", x: "step", y: "loss" };

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(
            ticks(0.93, 1.07, 4).iter().map(|tick| tick_text(*tick, 0.035)).collect::<Vec<_>>(),
            ["0.95", "1", "1.05"]
        );
        assert!(ticks(1.0, 1.0, 5).is_empty());
    }

    #[test]
    fn a_plot_without_data_is_empty_and_a_plot_of_one_point_has_a_circle() {
        assert_eq!(lines(WORDS, &[]), "");
        assert_eq!(shares(WORDS, &[], &[]), "");
        assert_eq!(intervals(WORDS, &[], Some((0.0, "a"))), "");
        let one = lines(WORDS, &[Series { label: "x".into(), points: vec![(1.0, 2.0)], ..Series::default() }]);
        assert!(one.contains("r=\"4\"") && !one.contains("NaN"), "{one}");
    }

    #[test]
    fn the_points_of_a_line_tell_their_values_and_a_long_line_has_few_marks() {
        let points: Vec<(f64, f64)> = (0..1000u32).map(|step| (f64::from(step), 0.5)).collect();
        let svg = lines(WORDS, &[Series { label: "a".into(), points, ..Series::default() }]);
        assert!(svg.contains("<title>a: loss 0.5000, step 17</title>"), "{svg}");
        assert!(svg.contains("<title>a: loss 0.5000, step 999</title>"));
        assert!(svg.matches("class=\"hit").count() <= MOST_MARKS + 1);
    }

    #[test]
    fn large_ticks_have_a_prefix_and_rounds_are_whole() {
        let series =
            |last: f64| [Series { label: "a".into(), points: vec![(1.0, 1.0), (last, 2.0)], ..Series::default() }];
        let svg = lines(WORDS, &series(8e11));
        assert!(svg.contains(">200 G</text>") && !svg.contains("000000"), "{svg}");
        let svg = lines(WORDS, &series(2.0));
        assert!(svg.contains(">1</text>") && svg.contains(">2</text>"), "{svg}");
        assert!(!svg.contains("text-anchor=\"middle\">1.2</text>"), "{svg}");
    }

    #[test]
    fn the_texts_of_a_plot_are_escaped() {
        let series = [Series { label: "<script>".into(), points: vec![(0.0, 1.0), (1.0, 2.0)], ..Series::default() }];
        let svg = lines(WORDS, &series);
        assert!(svg.contains("a &lt; b") && svg.contains("&lt;script&gt;") && !svg.contains("<script"), "{svg}");
    }
}
