//! Renders a conversation, and says which part of the chat each turn of the assistant is.
//!
//! The conversation is rendered twice: as it is, and with [`marks`](super::marks) in its texts. Without the marks, both
//! chats must be equal. Then the marks say where each text lies, without any search for texts. The target of a turn is
//! what the model writes after the generation prompt:
//!
//! - It begins where the generation prompt of the conversation up to the turn ends. The text between the last foreign
//!   text and the turn is compared with the end of the rendered prompt.
//! - It ends with the text that closes the turn in the conversation up to and including the turn.
//! - If the template has `{% generation %}` blocks, these blocks are the targets.
//!
//! A turn that cannot be placed in this way is reported, and is not a target.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value;

use super::finding::{Finding, FindingKind};
use super::fit::{completion, fit, fits};
use super::frame::ChatFrame;
use super::marks::{FoundMark, Marks, Stripped, TextPart, private_characters};
use super::message::Message;
use super::template::{ChatTemplate, ChatValues};
use raisin_base::error::Result;

/// A rendered conversation.
#[derive(Debug, Default)]
pub struct Placed {
    pub text: String,
    /// The targets of each turn of the assistant, in bytes of the text; empty for a turn that is no target.
    pub turns: Vec<Vec<Range<usize>>>,
    /// The text of the last turn without reasoning, calls and the end of the turn; `None` if it is not known.
    pub last_content: Option<Range<usize>>,
    pub findings: Vec<Finding>,
}

/// The numbers of marks in a text that are tried one after the other. A template may compare or cut a text at a place
/// of a mark; then one mark in the middle often passes.
const MARKS: [usize; 2] = [12, 1];

/// Renders a conversation under a template.
///
/// # Errors
/// The template refuses the conversation.
pub fn place(template: &ChatTemplate, frame: &ChatFrame, messages: &[Message], tools: &[Value]) -> Result<Placed> {
    if fits(frame, messages, tools) {
        return FittedChat { template, frame, messages, tools }.place();
    }
    let fitted = fit(frame, messages, tools);
    let chat = FittedChat { template, frame, messages: &fitted.messages, tools: &fitted.tools };
    let mut placed = match &fitted.thoughts {
        None => chat.place()?,
        Some(thoughts) => chat.place_with_thoughts(thoughts)?,
    };
    for finding in &mut placed.findings {
        let place = finding.turn.and_then(|turn| fitted.places.get(turn as usize - 1));
        finding.turn = place.and_then(|place| u32::try_from(place + 1).ok()).or(finding.turn);
    }
    placed.findings.splice(..0, fitted.findings);
    Ok(placed)
}

/// A part of the chat that is a part of a text.
#[derive(Clone, Debug)]
struct Extent {
    range: Range<usize>,
    text: usize,
    /// The part of the core of the text, in bytes.
    covers: Range<usize>,
    /// Whether the same part of the text stands in the chat before.
    is_repeated: bool,
}

struct FittedChat<'a> {
    template: &'a ChatTemplate,
    frame: &'a ChatFrame,
    messages: &'a [Message],
    tools: &'a [Value],
}

/// What stands before and after turns. The same texts at the same places save the rendering of all turns before a turn.
struct KnownEdges<'a> {
    frame: &'a ChatFrame,
    turns: usize,
    /// The role of the turn before, and the text up to the end of the generation prompt.
    prompts: BTreeSet<(Option<String>, String)>,
    /// The role of the next turn, and the text that closes the turn.
    closings: BTreeSet<(String, String)>,
}

impl<'a> KnownEdges<'a> {
    fn of(frame: &'a ChatFrame) -> Self {
        Self { frame, turns: 0, prompts: BTreeSet::new(), closings: BTreeSet::new() }
    }

    /// If exactly this text stands between a text of the speaker and a text of the assistant in the short conversation
    /// of the frame, or in earlier turns of a long conversation: the length of its part before what the assistant
    /// writes.
    fn prompt(&self, speaker: Option<&str>, between: &str) -> Option<usize> {
        let usual = self.frame.after_user.as_deref().filter(|_| speaker == Some("user"));
        if let Some(usual) = usual {
            let is_answered = self.frame.before_answer.as_deref() == Some(between) && between.starts_with(usual);
            if usual == between || is_answered {
                return Some(usual.len());
            }
        }
        let is_repeated = || self.prompts.contains(&(speaker.map(str::to_owned), between.to_owned()));
        (self.are_trusted() && is_repeated()).then_some(between.len())
    }

    fn are_trusted(&self) -> bool {
        self.turns >= 8
    }
}

/// A conversation with marks, and its chat.
struct MarkedChat<'a> {
    of: &'a FittedChat<'a>,
    marks: Marks,
    values: ChatValues,
    chat: Stripped,
    extents: Vec<Extent>,
}

impl FittedChat<'_> {
    fn values(&self, messages: &[Message], tools: &[Value]) -> ChatValues {
        ChatValues::in_form(messages, tools, self.frame.form)
    }

    fn place(&self) -> Result<Placed> {
        let values = self.values(self.messages, self.tools);
        let text = self.template.render(&values, values.turns(), false)?;
        for most in MARKS {
            if let Some(marked) = self.marked(most, "")
                && marked.chat.text == text
            {
                return Ok(marked.placed());
            }
        }
        Ok(self.placed_by_prefixes(&values, text))
    }

    /// The conversation with the reasoning of its last turn written after the generation prompt.
    fn place_with_thoughts(&self, thoughts: &str) -> Result<Placed> {
        let turns = self.messages.len();
        let values = self.values(self.messages, self.tools);
        let text = self.template.render(&values, turns, false)?;
        let prompt = self.template.render(&values, turns - 1, true)?;
        for most in MARKS {
            let Some(mut marked) = self.marked(most, thoughts).filter(|marked| marked.chat.text == text) else {
                continue;
            };
            let Some(end) = marked.own(turns - 1).map(|extents| extents.last().map_or(0, |last| last.range.end)) else {
                continue;
            };
            let Ok(marked_prompt) = self.template.render_marked(&marked.values, turns - 1, true) else { continue };
            if marked.marks.strip(&marked_prompt).text != prompt {
                continue;
            }
            let closing = marked.chat.text[end..].to_owned();
            marked.marks.forget(turns - 1);
            let last = Message { reasoning: Some(thoughts.to_owned()), ..self.messages[turns - 1].clone() };
            let last = marked.marks.message(turns - 1, &last);
            let written = completion(&prompt, last.reasoning.as_deref().unwrap_or_default(), &last.content);
            marked.chat = marked.marks.strip(&format!("{marked_prompt}{}{closing}", written.trim_end()));
            marked.extents = marked.extents_of(&marked.chat);
            return Ok(marked.placed());
        }
        let finding = Finding::of_turn(FindingKind::TurnUnplaced, turns - 1);
        Ok(Placed {
            text,
            turns: vec![Vec::new(); self.assistants().count()],
            last_content: None,
            findings: vec![finding],
        })
    }

    fn assistants(&self) -> impl Iterator<Item = usize> + '_ {
        self.messages.iter().enumerate().filter(|(_, message)| message.is_assistant()).map(|(place, _)| place)
    }

    /// `None` if the template refuses the conversation with marks. `thoughts` are a text that gets marks later.
    fn marked(&self, most: usize, thoughts: &str) -> Option<MarkedChat<'_>> {
        let mut taken = self.template.private.clone();
        taken.extend(private_characters(thoughts));
        for message in self.messages {
            let texts = [Some(&message.content), message.reasoning.as_ref(), message.name.as_ref()];
            taken.extend(texts.into_iter().flatten().flat_map(|text| private_characters(text)));
            taken.extend(
                message.tool_calls.iter().flat_map(|call| private_characters(&call.to_string()).collect::<Vec<_>>()),
            );
        }
        taken.extend(self.tools.iter().flat_map(|tool| private_characters(&tool.to_string()).collect::<Vec<_>>()));
        let mut marks = Marks::new(taken, most);
        let messages: Vec<Message> =
            self.messages.iter().enumerate().map(|(turn, message)| marks.message(turn, message)).collect();
        let tools: Vec<Value> = self.tools.iter().map(|tool| marks.tool(tool)).collect();
        let values = self.values(&messages, &tools);
        let chat = marks.strip(&self.template.render_marked(&values, values.turns(), false).ok()?);
        let mut marked = MarkedChat { of: self, marks, values, chat: Stripped::default(), extents: Vec::new() };
        marked.extents = marked.extents_of(&chat);
        marked.chat = chat;
        Some(marked)
    }

    /// The turns, if marks change the chat: a turn is what it adds to the prompt before it.
    fn placed_by_prefixes(&self, values: &ChatValues, text: String) -> Placed {
        let mut placed = Placed::default();
        for place in self.assistants() {
            let before =
                self.template.render(values, place, true).ok().filter(|before| text.starts_with(before.as_str()));
            let through = if place + 1 == self.messages.len() {
                Some(text.clone())
            } else {
                self.template.render(values, place + 1, false).ok().filter(|through| text.starts_with(through.as_str()))
            };
            let end = |through: &str| self.frame.closed(through).len();
            let range = before.zip(through).map(|(before, through)| before.len()..end(&through));
            let range = range.filter(|range| !range.is_empty() && !self.messages[place].is_empty());
            let range = range.filter(|_| !self.template.has_generations);
            if range.is_none() {
                placed.findings.push(Finding::of_turn(FindingKind::TurnUnplaced, place));
            }
            placed.turns.push(range.into_iter().collect());
        }
        placed.text = text;
        placed
    }
}

impl MarkedChat<'_> {
    fn placed(self) -> Placed {
        let mut placed = Placed::default();
        let mut known = KnownEdges::of(self.of.frame);
        for place in self.of.assistants().collect::<Vec<_>>() {
            let found = self.turn(place, &mut known);
            known.turns += 1;
            placed.findings.extend(found.as_ref().err().map(|kind| Finding::of_turn(*kind, place)));
            if found.is_ok() {
                placed.findings.extend(self.changes(place).map(|kind| Finding::of_turn(kind, place)));
            }
            placed.turns.push(found.unwrap_or_default());
        }
        let turns = self.of.messages.iter().enumerate();
        let others = turns.filter(|(_, message)| !message.is_assistant() && !message.content.trim().is_empty());
        let dropped = others.filter(|(place, _)| !self.extents.iter().any(|it| self.turn_of(it) == Some(*place)));
        placed.findings.extend(dropped.map(|(place, _)| Finding::of_turn(FindingKind::ContextDropped, place)));
        placed.last_content = self.last_content();
        placed.text = self.chat.text;
        placed
    }

    /// The parts of a chat that are parts of texts, in the order of the chat.
    fn extents_of(&self, chat: &Stripped) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut seen = BTreeSet::new();
        for mark in &chat.marks {
            let is_repeated = !seen.insert((mark.text, mark.offset));
            let is_inside = extents.last().is_some_and(|last| {
                let same = last.text == mark.text && last.is_repeated == is_repeated;
                same && last.range.end >= mark.at && last.range.start + mark.offset == mark.at + last.covers.start
            });
            if !is_inside {
                extents.push(self.extent(chat, *mark, is_repeated));
            }
        }
        extents
    }

    /// The largest part of the text around a mark that the chat shows unchanged.
    fn extent(&self, chat: &Stripped, mark: FoundMark, is_repeated: bool) -> Extent {
        let core = self.marks.texts[mark.text].core.as_str();
        let (before, after) = core.split_at(mark.offset);
        let (chat_before, chat_after) = chat.text.split_at(mark.at);
        let (before, chat_before) = (before.bytes().rev(), chat_before.bytes().rev());
        let mut back = before.zip(chat_before).take_while(|(a, b)| a == b).count();
        let mut forth = after.bytes().zip(chat_after.bytes()).take_while(|(a, b)| a == b).count();
        // Two characters can agree in some of their bytes.
        while !core.is_char_boundary(mark.offset - back) {
            back -= 1;
        }
        while !core.is_char_boundary(mark.offset + forth) {
            forth -= 1;
        }
        // The equal ends of a header `<|assistant|>` and of a tag `</think>` in a text are no equal text.
        let from = tag_around(core, mark.offset - back).map_or(mark.offset - back, |tag| tag.end.min(mark.offset));
        let to = tag_around(core, mark.offset + forth).map_or(mark.offset + forth, |tag| tag.start.max(mark.offset));
        Extent {
            range: mark.at + from - mark.offset..mark.at + to - mark.offset,
            text: mark.text,
            covers: from..to,
            is_repeated,
        }
    }

    fn turn_of(&self, extent: &Extent) -> Option<usize> {
        self.marks.texts[extent.text].turn
    }

    /// The extents of a turn; `None` if the chat shows nothing of it.
    fn own(&self, place: usize) -> Option<Vec<&Extent>> {
        let own: Vec<&Extent> =
            self.extents.iter().filter(|it| self.turn_of(it) == Some(place) && !it.is_repeated).collect();
        (!own.is_empty()).then_some(own)
    }

    /// Whether an extent is a text of another turn than `place`. A text of the assistant that the chat repeats later,
    /// such as the name of a tool, is no text of another turn.
    fn is_foreign(&self, extent: &Extent, place: usize) -> bool {
        let turn = self.turn_of(extent);
        let is_assistant = turn.and_then(|turn| self.of.messages.get(turn)).is_some_and(Message::is_assistant);
        turn != Some(place) && !(is_assistant && extent.is_repeated)
    }

    /// The targets of a turn of the assistant.
    fn turn(&self, place: usize, known: &mut KnownEdges) -> Result<Vec<Range<usize>>, FindingKind> {
        if self.of.messages[place].is_empty() {
            return Err(FindingKind::TurnEmpty);
        }
        let own = self.own(place).ok_or(FindingKind::TurnDropped)?;
        let targets = if self.of.template.has_generations {
            self.generations(place, &own)?
        } else {
            let target = self.target(place, &own, known).ok_or(FindingKind::TurnUnplaced)?;
            vec![target]
        };
        let touches = |extent: &Extent, target: &Range<usize>| {
            self.is_foreign(extent, place) && extent.range.start < target.end && target.start < extent.range.end
        };
        if targets.iter().any(|target| self.extents.iter().any(|extent| touches(extent, target))) {
            return Err(FindingKind::TurnUnplaced);
        }
        Ok(targets)
    }

    /// The `{% generation %}` blocks with texts of the turn, and the blocks without any text that follow them.
    fn generations(&self, place: usize, own: &[&Extent]) -> Result<Vec<Range<usize>>, FindingKind> {
        let holds = |block: &Range<usize>, extent: &Extent| {
            extent.range.start < block.end && block.start < extent.range.end.max(extent.range.start + 1)
        };
        let mut blocks = Vec::new();
        for block in &self.chat.generations {
            let is_own = own.iter().any(|extent| holds(block, extent));
            let is_bare = !self.extents.iter().any(|extent| holds(block, extent));
            let follows = || {
                let before = self.extents.iter().filter(|extent| extent.range.end <= block.start);
                before.max_by_key(|extent| extent.range.end).is_some_and(|extent| self.turn_of(extent) == Some(place))
            };
            if is_own || (is_bare && !block.is_empty() && follows()) {
                blocks.push(block.clone());
            }
        }
        if blocks.is_empty() { Err(FindingKind::TurnDropped) } else { Ok(blocks) }
    }

    fn target(&self, place: usize, own: &[&Extent], known: &mut KnownEdges) -> Option<Range<usize>> {
        let first = own.iter().map(|extent| extent.range.start).min()?;
        let last = own.iter().map(|extent| extent.range.end).max()?;
        Some(self.start(place, first, known)?..self.end(place, last, own, known)?)
    }

    /// The end of the generation prompt before a turn whose texts begin at `first`.
    fn start(&self, place: usize, first: usize, known: &mut KnownEdges) -> Option<usize> {
        let foreign = |extent: &&Extent| self.is_foreign(extent, place) && extent.range.end <= first;
        let before = self.extents.iter().filter(foreign).max_by_key(|extent| extent.range.end);
        let from = before.map_or(0, |extent| extent.range.end);
        let between = &self.chat.text[from..first];
        let speaker = place.checked_sub(1).map(|before| self.of.messages[before].role.as_str());
        if let Some(length) = known.prompt(speaker, between) {
            return Some(from + length);
        }
        let prompt = self.of.template.render_marked(&self.values, place, true).ok();
        let prompt = prompt.map(|prompt| self.marks.strip(&prompt));
        if let Some(prompt) = prompt {
            let extents = self.extents_of(&prompt);
            let last = extents.iter().max_by_key(|extent| extent.range.end);
            let same = last.map(|last| (last.text, last.covers.end)) == before.map(|it| (it.text, it.covers.end));
            let tail = &prompt.text[last.map_or(0, |last| last.range.end)..];
            if same && between.starts_with(tail) {
                if between == tail {
                    known.prompts.insert((speaker.map(str::to_owned), tail.to_owned()));
                }
                return Some(from + tail.len());
            }
            // The prompt opens a `<think>` tag, which the turn has in another form.
            let opened = tail.trim_end().strip_suffix("<think>");
            if let Some(tail) = opened.filter(|tail| same && between.starts_with(*tail)) {
                return Some(from + tail.len());
            }
            // The turn begins as the prompt does, but the prompt goes on, for example with an open `<think>` tag.
            if same
                && let Some(rest) = between.strip_prefix(common_prefix(between, tail))
                && rest.trim().is_empty()
            {
                return Some(first - rest.len());
            }
        }
        let generation_prompt = self.of.frame.generation_prompt.as_str();
        (!generation_prompt.is_empty() && between.ends_with(generation_prompt)).then_some(first)
    }

    /// The end of a turn whose texts end at `last`, the text that closes the turn included.
    fn end(&self, place: usize, last: usize, own: &[&Extent], known: &mut KnownEdges) -> Option<usize> {
        let after = &self.chat.text[last..];
        if place + 1 == self.of.messages.len() {
            return Some(last + self.of.frame.closed(after).len());
        }
        let next = &self.of.messages[place + 1].role;
        let mut trusted = known.closings.iter().filter(|(role, _)| known.are_trusted() && role == next);
        if let Some((_, closing)) = trusted.find(|(_, closing)| after.starts_with(closing.as_str())) {
            return Some(last + closing.len());
        }
        let through = self.of.template.render_marked(&self.values, place + 1, false).ok();
        let through = through.map(|through| self.marks.strip(&through));
        if let Some(through) = through {
            let extents = self.extents_of(&through);
            let end = extents
                .iter()
                .filter(|extent| self.turn_of(extent) == Some(place) && !extent.is_repeated)
                .map(|extent| extent.range.end)
                .max();
            let closing = end.map(|end| self.of.frame.closed(&through.text[end..]));
            if let Some(closing) = closing.filter(|closing| after.starts_with(closing)) {
                if !closing.is_empty() {
                    known.closings.insert((next.clone(), closing.to_owned()));
                }
                return Some(last + closing.len());
            }
        }
        // The chat closes the turn in another way than a chat that ends with the turn. Then the turn ends with its text.
        let is_whole = own
            .iter()
            .any(|extent| extent.range.end == last && extent.covers.end == self.marks.texts[extent.text].core.len());
        is_whole.then_some(last)
    }

    /// What the template changed in a turn that it shows.
    fn changes(&self, place: usize) -> impl Iterator<Item = FindingKind> + '_ {
        let shown = |part: TextPart| -> usize {
            let of =
                |extent: &&Extent| self.marks.texts[extent.text].part == part && self.turn_of(extent) == Some(place);
            let mut covers: Vec<(usize, Range<usize>)> = self
                .extents
                .iter()
                .filter(of)
                .filter(|extent| !extent.is_repeated)
                .map(|extent| (extent.text, extent.covers.clone()))
                .collect();
            covers.sort_by_key(|(text, range)| (*text, range.start));
            let (mut shown, mut done) = (0, (usize::MAX, 0));
            for (text, range) in covers {
                let from = if done.0 == text { range.start.max(done.1) } else { range.start };
                shown += range.end.saturating_sub(from);
                done = (text, range.end.max(from));
            }
            shown
        };
        let whole = |part: TextPart| -> usize {
            let of = |text: &&super::marks::MarkedText| text.turn == Some(place) && text.part == part;
            self.marks.texts.iter().filter(of).map(|text| text.core.len()).sum()
        };
        let reasoning = (whole(TextPart::Reasoning) > 0 && shown(TextPart::Reasoning) == 0)
            .then_some(FindingKind::ReasoningDropped);
        let content = (shown(TextPart::Content) < whole(TextPart::Content)).then_some(FindingKind::TurnRewritten);
        reasoning.into_iter().chain(content)
    }

    fn last_content(&self) -> Option<Range<usize>> {
        let last = self.of.messages.len().checked_sub(1)?;
        let own = self.own(last)?;
        let mut content = own.iter().filter(|extent| self.marks.texts[extent.text].part == TextPart::Content);
        let (extent, others) = (content.next()?, content.next());
        let is_whole = extent.covers.len() == self.marks.texts[extent.text].core.len();
        (is_whole && others.is_none()).then(|| extent.range.clone())
    }
}

/// The tag, such as `</think>`, that lies on both sides of a place in a text.
fn tag_around(text: &str, place: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let from = place.saturating_sub(LONGEST_TAG);
    let start = from + memchr::memrchr(b'<', &bytes[from..place])?;
    let to = bytes.len().min(start + LONGEST_TAG);
    let end = start + memchr::memchr(b'>', &bytes[start..to])? + 1;
    (place < end).then_some(start..end)
}

/// The largest number of bytes in a tag.
const LONGEST_TAG: usize = 40;

fn common_prefix<'a>(one: &'a str, other: &str) -> &'a str {
    let length = one.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    &one[..length]
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
