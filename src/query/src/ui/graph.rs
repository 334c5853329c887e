//! The graph of stages as SVG. The variants of a stage are one box, which says how many of them are in which state. The
//! picture has its natural size, so that names are legible on a phone: it is scrolled there, not shrunk.

use std::fmt::Write as _;

use super::layout::layout;
use super::watched::{SeenStage, SeenState};
use raisin_report::markup::{cut, escape};

/// The sizes of boxes, and the gaps between them, in pixels. A column is as wide as its longest text.
const LEAST_WIDTH: f64 = 76.0;
const HEIGHT: f64 = 44.0;
const GAP: f64 = 16.0;
const BETWEEN: f64 = 36.0;
/// The width of a letter of a name and of the words below it: that of a wide font.
const NAME_LETTER: f64 = 8.3;
const WORDS_LETTER: f64 = 7.3;
const BEND: f64 = 14.0;
const MARGIN: f64 = 6.0;
/// The largest number of characters of a name in a box.
const MOST_CHARACTERS: usize = 22;

/// The stages of one name.
pub struct StageGroup<'s> {
    pub name: &'s str,
    pub kind: &'s str,
    pub members: Vec<&'s SeenStage>,
    inputs: Vec<usize>,
}

/// The stages by their names, inputs first.
pub fn groups(stages: &[SeenStage]) -> Vec<StageGroup<'_>> {
    let found = by_name(stages);
    // In one variant a stage may need another one that appears later, because a shared stage stands where its first
    // variant needs it.
    let mut order = Vec::new();
    let mut seen = vec![false; found.len()];
    (0..found.len()).for_each(|place| visit(&found, place, &mut seen, &mut order));
    let mut new_place = vec![0; found.len()];
    order.iter().enumerate().for_each(|(new, old)| new_place[*old] = new);
    let mut sorted: Vec<Option<StageGroup>> = found.into_iter().map(Some).collect();
    let mut groups: Vec<StageGroup> = order.iter().filter_map(|old| sorted[*old].take()).collect();
    for (place, group) in groups.iter_mut().enumerate() {
        group.inputs = group.inputs.iter().map(|old| new_place[*old]).collect();
        // Names that need each other in different variants have no order: one of the two edges is left out.
        group.inputs.retain(|input| *input < place);
        group.inputs.sort_unstable();
    }
    groups
}

/// Appends the groups that a group needs, and then the group itself.
fn visit(groups: &[StageGroup], place: usize, seen: &mut [bool], order: &mut Vec<usize>) {
    if std::mem::replace(&mut seen[place], true) {
        return;
    }
    groups[place].inputs.iter().for_each(|input| visit(groups, *input, seen, order));
    order.push(place);
}

fn by_name(stages: &[SeenStage]) -> Vec<StageGroup<'_>> {
    let mut found: Vec<StageGroup> = Vec::new();
    let mut place_of: Vec<usize> = Vec::with_capacity(stages.len());
    for stage in stages {
        let known = found.iter().position(|group| group.name == stage.of.stage);
        let place = known.unwrap_or_else(|| {
            found.push(StageGroup {
                name: &stage.of.stage,
                kind: &stage.of.kind,
                members: Vec::new(),
                inputs: Vec::new(),
            });
            found.len() - 1
        });
        place_of.push(place);
        let inputs: Vec<usize> = stage
            .of
            .inputs
            .iter()
            .filter_map(|input| place_of.get(*input).copied())
            .filter(|at| *at != place)
            .collect();
        let group = &mut found[place];
        group.members.push(stage);
        for input in inputs {
            if !group.inputs.contains(&input) {
                group.inputs.push(input);
            }
        }
    }
    found
}

impl StageGroup<'_> {
    /// The state that decides the look of the box: what needs attention first.
    pub fn state(&self) -> &'static str {
        let order = ["failed", "running", "waiting", "not run", "not built", "done", "fetched", "cached"];
        let words: Vec<&str> = self.members.iter().map(|stage| stage.state.word()).collect();
        order.into_iter().find(|word| words.contains(word)).unwrap_or("waiting")
    }

    /// The state in words: `running`, or `12: 3 done, 2 running, 7 waiting`.
    pub fn words(&self) -> String {
        if let [only] = self.members.as_slice() {
            return match only.progress_share() {
                Some(share) => format!("running {:.0} %", (100.0 * share).floor()),
                None => only.state.word().to_owned(),
            };
        }
        let order = ["failed", "running", "done", "fetched", "cached", "waiting", "not run", "not built"];
        let count = |word: &str| self.members.iter().filter(|stage| stage.state.word() == word).count();
        let parts: Vec<String> = order
            .into_iter()
            .map(|word| (count(word), word))
            .filter(|(n, _)| *n > 0)
            .map(|(n, word)| format!("{n} {word}"))
            .collect();
        parts.join(", ")
    }

    /// The share of the work that is done, from 0 to 1; `None` if nothing of it runs.
    fn share(&self) -> Option<f64> {
        let running: Vec<f64> = self
            .members
            .iter()
            .filter(|stage| matches!(stage.state, SeenState::Running(_)))
            .map(|stage| stage.progress_share().unwrap_or(0.0))
            .collect();
        if running.is_empty() {
            return None;
        }
        let done = self.members.iter().filter(|stage| stage.state.artifact().is_some()).count() as f64;
        Some((done + running.iter().sum::<f64>()) / self.members.len() as f64)
    }
}

impl SeenStage {
    /// The share of the running phase that is done, from 0 to 1.
    pub fn progress_share(&self) -> Option<f64> {
        let progress = self.told.as_ref()?.progress.as_ref().filter(|_| matches!(self.state, SeenState::Running(_)))?;
        (progress.total > 0).then(|| (progress.done as f64 / progress.total as f64).min(1.0))
    }
}

/// The graph; empty without stages.
pub fn graph(groups: &[StageGroup]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let laid = layout(&direct(groups), HEIGHT + GAP, BEND);
    let texts: Vec<BoxText> = groups.iter().map(BoxText::of).collect();
    let mut widths = vec![LEAST_WIDTH; laid.columns];
    for (text, (column, _)) in texts.iter().zip(&laid.places) {
        widths[*column] = widths[*column].max(text.width());
    }
    let lefts: Vec<f64> = widths
        .iter()
        .scan(MARGIN, |next, width| {
            let left = *next;
            *next += width + BETWEEN;
            Some(left)
        })
        .collect();
    let (left, right) = (|column: usize| lefts[column], |column: usize| lefts[column] + widths[column]);
    let width = MARGIN + lefts.iter().zip(&widths).map(|(left, width)| left + width).fold(0.0, f64::max);
    let height = 2.0 * MARGIN + laid.height - GAP;
    // The place of an item is the middle of it with its gap below.
    let middle = |y: f64| MARGIN + y - GAP / 2.0;
    let mut body = String::new();
    for way in &laid.ways {
        let mut path = String::new();
        for (place, (column, y)) in way.iter().enumerate() {
            let (x, end, y) = (left(*column), right(*column), middle(*y));
            if let Some((before, from)) = place.checked_sub(1).and_then(|before| way.get(before)) {
                let (from_x, from_y) = (right(*before), middle(*from));
                let half = f64::midpoint(from_x, x);
                let _ = write!(path, "C{half:.1} {from_y:.1} {half:.1} {y:.1} {x:.1} {y:.1}");
            } else {
                let _ = write!(path, "M{end:.1} {y:.1}");
            }
            if place > 0 && place + 1 < way.len() {
                let _ = write!(path, "H{end:.1}");
            }
        }
        let _ = write!(body, "<path class=\"edge\" d=\"{path}\"/>");
    }
    for ((group, BoxText { name, count, words }), (column, y)) in groups.iter().zip(&texts).zip(&laid.places) {
        let (x, y, width) = (left(*column), middle(*y) - HEIGHT / 2.0, widths[*column]);
        let state = group.state().replace(' ', "-");
        let inputs: Vec<&str> = group.inputs.iter().map(|input| groups[*input].name).collect();
        let needs = if inputs.is_empty() { String::new() } else { format!("; needs {}", inputs.join(", ")) };
        let title = format!("{}{count} ({}): {}{needs}", group.name, group.kind, group.words());
        let _ = write!(
            body,
            "<a href=\"#stages\" class=\"node {state}\"><title>{}</title><rect class=\"box\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.0}\" \
             height=\"{HEIGHT}\" rx=\"6\"/><rect class=\"mark\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"5\" height=\"{HEIGHT}\" rx=\"2\"/>\
             <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}<tspan class=\"count\">{count}</tspan></text><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            escape(&title),
            x + 13.0,
            y + 18.0,
            escape(name),
            x + 13.0,
            y + 34.0,
            escape(words),
        );
        if let Some(share) = group.share() {
            let _ = write!(
                body,
                "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"3\"/>",
                x + 5.0,
                y + HEIGHT - 4.0,
                share * (width - 8.0)
            );
        }
        body.push_str("</a>");
    }
    format!(
        "<div class=\"scroll\"><svg class=\"graph\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         role=\"img\" aria-label=\"The stages and their inputs; the table below has the same states\">{body}</svg></div>\n"
    )
}

/// The texts of a box.
struct BoxText {
    name: String,
    count: String,
    words: String,
}

impl BoxText {
    fn of(group: &StageGroup) -> Self {
        let count = if group.members.len() > 1 { format!(" ×{}", group.members.len()) } else { String::new() };
        let name = cut(group.name, MOST_CHARACTERS);
        Self { name, count, words: cut(&group.words(), MOST_CHARACTERS + 4) }
    }

    fn width(&self) -> f64 {
        let letters = |text: &str| raisin_base::columns::width(text) as f64;
        // A running stage may reach 100 %: the box must not change its width at each percent.
        let words = letters(&self.words).max(if self.words.starts_with("running") { 13.0 } else { 0.0 });
        (NAME_LETTER * (letters(&self.name) + letters(&self.count))).max(WORDS_LETTER * words) + 22.0
    }
}

/// The inputs of each group without those that another input needs already: a pool that every stage needs would
/// cross the whole picture. The box tells all inputs.
fn direct(groups: &[StageGroup]) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<bool>> = Vec::with_capacity(groups.len());
    for group in groups {
        let mut needed = vec![false; groups.len()];
        for input in &group.inputs {
            needed[*input] = true;
            needed.iter_mut().zip(&all[*input]).for_each(|(one, other)| *one |= *other);
        }
        all.push(needed);
    }
    let is_direct = |group: &StageGroup, input: usize| group.inputs.iter().all(|other| !all[*other][input]);
    groups.iter().map(|group| group.inputs.iter().copied().filter(|input| is_direct(group, *input)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_base::digest::Digest;
    use raisin_contract::ui::GraphStage;

    fn stage(stage: &str, variant: &str, inputs: &[usize], state: SeenState) -> SeenStage {
        let of =
            GraphStage { stage: stage.into(), variant: variant.into(), kind: "sql".into(), inputs: inputs.to_vec() };
        SeenStage::new(of, state)
    }

    #[test]
    fn variants_are_one_box_that_counts_them_and_names_are_escaped() {
        let digest = Digest::of(b"a");
        let stages = [
            stage("pool", "", &[], SeenState::Cached(digest)),
            stage("tuned", "m=a", &[0], SeenState::Ran { key: digest, artifact: digest, seconds: 1.0 }),
            stage("tuned", "m=b", &[0], SeenState::Running(digest)),
            stage("tuned", "m=c", &[0], SeenState::Waiting),
            stage("<script>", "", &[0, 1, 2, 3], SeenState::Waiting),
        ];
        let groups = groups(&stages);
        let words: Vec<(String, &str)> = groups.iter().map(|group| (group.words(), group.state())).collect();
        let expected = [("cached", "cached"), ("1 running, 1 done, 1 waiting", "running"), ("waiting", "waiting")];
        assert_eq!(words, expected.map(|(words, state)| (words.to_owned(), state)));
        let svg = graph(&groups);
        assert_eq!(svg.matches("class=\"box\"").count(), 3);
        // The pool reaches the last stage over the fine-tunes.
        assert_eq!(svg.matches("class=\"edge\"").count(), 2);
        assert!(svg.contains("needs pool, tuned") && svg.contains("×3") && !svg.contains("<script>"), "{svg}");
        assert_eq!(graph(&[]), "");
    }

    #[test]
    fn a_stage_that_only_a_later_variant_needs_still_stands_before_it() {
        let stages = [
            stage("pool", "", &[], SeenState::Waiting),
            stage("tuned", "m=random", &[0], SeenState::Waiting),
            stage("selector", "", &[0], SeenState::Waiting),
            stage("tuned", "m=raise", &[0, 2], SeenState::Waiting),
        ];
        let groups = groups(&stages);
        let names: Vec<(&str, &[usize])> = groups.iter().map(|group| (group.name, group.inputs.as_slice())).collect();
        assert_eq!(names, [("pool", &[][..]), ("selector", &[0]), ("tuned", &[0, 1])]);
    }
}
