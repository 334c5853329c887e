//! Reads records of benchmarks as task examples: open questions, and multiple choice in its published layouts.

mod answer;
mod published;

use std::collections::BTreeMap;

use raisin_settings::{ChoiceStyle, FieldNames, Mapping, TaskFormat};
use serde_json::{Map, Value};

use super::formats::fields::{Fields, fields_of, scalar};
use super::formats::parts::Parts;
use super::formats::turns::FoundTurns;
use super::formats::{Choice, Conversation, Readout, RecordReader, RecordRefusal};
use super::message::{Example, Message, prompt_of};
pub use answer::AnswerCounts;
use answer::{AnswerKind, RightAnswer};
use published::{CHOICE_FIELDS, LAYOUTS, Published};

/// The settings of a benchmark.
#[derive(Clone, Debug, Default)]
pub struct QuestionSettings {
    pub format: TaskFormat,
    /// The names of fields and speakers. Its format counts only for open questions.
    pub mapping: Mapping,
    /// The fields of the choices and of the right choice.
    pub choices: Option<String>,
    pub answer: Option<String>,
    /// The number of the first choice, if answers are numbers. If absent, the answers of the file decide.
    pub answer_base: Option<u8>,
    pub style: ChoiceStyle,
    /// The choices of every example of an open format, such as A, B, C, D.
    pub fixed_choices: Vec<String>,
}

/// A reader of the examples of a file.
#[derive(Clone, Debug)]
pub struct Questions {
    style: ChoiceStyle,
    fixed_choices: Vec<String>,
    layout: QuestionLayout,
}

#[derive(Clone, Debug)]
enum QuestionLayout {
    Open(Box<Choice>),
    Multiple(Multiple),
    Adapters(Parts),
}

/// A multiple-choice question: where a record holds its parts, and what its answer is.
#[derive(Clone, Debug)]
struct Multiple {
    fields: Published<String>,
    parts: Parts,
    kind: AnswerKind,
    /// Whether the answers of the file say what they are. Then `kind` is that of the sample.
    is_open: bool,
}

/// A reader of what the answers of a file are. A sample does not tell: a file can be sorted by its answers.
#[derive(Clone, Debug)]
pub struct AnswerReader(Option<Multiple>);

impl RecordReader for AnswerReader {
    type Item = AnswerCounts;

    fn read<'a>(&self, record: &'a Value) -> Readout<'a, AnswerCounts> {
        let given = self.0.as_ref().zip(record.as_object()).and_then(|(of, record)| given_answer(&of.fields, record));
        let mut readout = Readout::rejected("there is no answer to count".to_owned());
        if let Some((value, labels, choices)) = given {
            readout.outcome = Ok(AnswerCounts::of(&RightAnswer { value, labels: &labels, choices: &choices }));
        }
        readout
    }

    fn formats(&self) -> Vec<String> {
        vec![String::new()]
    }
}

impl Questions {
    /// The reader for a file with these records. What the settings leave open follows from `sample`.
    ///
    /// # Errors
    /// No known layout fits.
    pub fn choose(settings: &QuestionSettings, sample: &[&Value]) -> Result<Self, String> {
        let mapping = &settings.mapping;
        let layout = match settings.format {
            TaskFormat::Choices => QuestionLayout::Multiple(Multiple::choose(settings, sample)),
            TaskFormat::Csqa => {
                let fields = Published::of("question.stem", "question.choices", "answerKey");
                QuestionLayout::Multiple(Multiple::new(fields, settings, sample))
            }
            TaskFormat::Adapters => QuestionLayout::Adapters(Parts::new(mapping, &["instruction", "output", "answer"])),
            open => {
                let mapping = Mapping { format: open.open().unwrap_or_default(), ..mapping.clone() };
                QuestionLayout::Open(Box::new(Choice::new(&mapping, sample)?))
            }
        };
        Ok(Self { style: settings.style, fixed_choices: settings.fixed_choices.clone(), layout })
    }

    /// The reader of what the answers are, and the name of the layout, if the answers decide.
    pub fn answers(&self) -> (AnswerReader, Option<String>) {
        match &self.layout {
            QuestionLayout::Multiple(multiple) if multiple.is_open => {
                (AnswerReader(Some(multiple.clone())), Some(multiple.name()))
            }
            _ => (AnswerReader(None), None),
        }
    }

    /// The same reader with what all answers of the files of each layout say.
    #[must_use]
    pub fn decided(mut self, counts: &BTreeMap<String, AnswerCounts>) -> Self {
        if let QuestionLayout::Multiple(multiple) = &mut self.layout
            && let Some(counts) = counts.get(&multiple.name()).filter(|_| multiple.is_open)
        {
            multiple.kind = counts.kind(multiple.fields.base);
        }
        self
    }

    fn open(&self, conversation: Conversation) -> Result<Example, RecordRefusal> {
        let Conversation { mut messages, tools, .. } = conversation;
        let response = messages.pop().ok_or("there is no response")?;
        // Nothing is trained on an example.
        messages.iter_mut().for_each(|message| message.untrained = false);
        let mut answer = None;
        if !self.fixed_choices.is_empty() {
            let wanted = response.content.trim();
            let index = self.fixed_choices.iter().position(|choice| choice == wanted);
            answer = Some(index.ok_or_else(|| format!("the response `{wanted}` is none of the choices"))?);
        }
        let choices = self.fixed_choices.clone();
        Ok(Example { tools, response, choices, answer, ..Example::open(0, messages, "") })
    }

    /// The example of a multiple-choice question.
    fn multiple(&self, of: &Multiple, fields: &Fields, found: &mut FoundTurns) -> Result<Example, String> {
        let (labels, choices) = choices(fields, &of.fields.choices)?;
        let mut messages = of.parts.asked(fields, Some(&of.fields.prompt), found)?;
        of.parts.tools(fields, found)?;
        let question = messages.last_mut().filter(|last| !last.content.trim().is_empty());
        let question = question.ok_or("the question is empty")?;
        if choices.len() < 2 {
            return Err(format!("there are {} choices", choices.len()));
        }
        let value = fields.get(&of.fields.answer).filter(|value| !value.is_null()).ok_or("there is no answer")?;
        let index = RightAnswer { value, labels: &labels, choices: &choices }.find(of.kind)?;
        let choices = match self.style {
            ChoiceStyle::Text => choices,
            ChoiceStyle::Letters => {
                let letters: Vec<String> = (0..choices.len()).map(letter).collect();
                for (letter, choice) in letters.iter().zip(&choices) {
                    question.content.push_str(&format!("\n{letter}. {choice}"));
                }
                letters
            }
        };
        let open = Example::open(0, messages, choices[index].clone());
        let tools = std::mem::take(&mut found.tools);
        Ok(Example { tools, choices, answer: Some(index), ..open })
    }
}

impl RecordReader for Questions {
    type Item = Example;

    fn read<'a>(&self, record: &'a Value) -> Readout<'a, Example> {
        if let QuestionLayout::Open(choice) = &self.layout {
            return choice.read(record).and_then(|conversation| self.open(conversation));
        }
        let Value::Object(map) = record else {
            return Readout::rejected(format!("the record is {}, not an object", fields_of(record)));
        };
        let (fields, mut found) = (Fields::new(map), FoundTurns::default());
        let outcome = match &self.layout {
            QuestionLayout::Multiple(multiple) => self.multiple(multiple, &fields, &mut found),
            QuestionLayout::Adapters(parts) => adapters(parts, &fields, &mut found),
            QuestionLayout::Open(_) => Err("the record is no multiple-choice question".to_owned()),
        };
        let (used, unread, mut unread_below) = fields.split();
        unread_below.append(&mut found.unread);
        let outcome = outcome.map_err(RecordRefusal::Rejected);
        Readout { outcome, format: 0, used, unread, unread_below, notices: found.notices }
    }

    fn formats(&self) -> Vec<String> {
        match &self.layout {
            QuestionLayout::Open(choice) => choice.formats(),
            QuestionLayout::Adapters(_) => vec!["adapters".to_owned()],
            QuestionLayout::Multiple(multiple) => {
                vec![format!("choices ({} is {})", multiple.name(), multiple.kind.name())]
            }
        }
    }
}

impl Multiple {
    fn name(&self) -> String {
        let Published { prompt, choices, answer, .. } = &self.fields;
        format!("{prompt}, {choices}, {answer}")
    }

    /// The published layout that reads most of the sample and leaves no choices unread. Names that the user gives are
    /// kept.
    fn choose(settings: &QuestionSettings, sample: &[&Value]) -> Self {
        let FieldNames { prompt, .. } = &settings.mapping.fields;
        let given = [prompt, &settings.choices, &settings.answer];
        let agrees = |layout: &&Published<&str>| {
            let names = [layout.prompt, layout.choices, layout.answer];
            given.iter().zip(names).all(|(given, name)| given.as_deref().is_none_or(|given| given == name))
        };
        let mut layouts: Vec<Published<String>> = LAYOUTS.iter().filter(agrees).map(Published::owned).collect();
        if layouts.is_empty() {
            let name = |given: &Option<String>, usual: &str| given.clone().unwrap_or_else(|| usual.to_owned());
            let (prompt, choices) = (name(prompt, "query"), name(&settings.choices, "choices"));
            layouts.push(Published::of(&prompt, &choices, &name(&settings.answer, "gold")));
        }
        let readers = layouts.into_iter().map(|fields| Self::new(fields, settings, sample));
        let scored: Vec<((bool, usize), Self)> = readers.map(|reader| (reader.score(sample), reader)).collect();
        let mut best = 0;
        for (place, (score, _)) in scored.iter().enumerate() {
            if *score > scored[best].0 {
                best = place;
            }
        }
        scored
            .into_iter()
            .nth(best)
            .map_or_else(|| Self::new(Published::of("query", "choices", "gold"), settings, sample), |it| it.1)
    }

    fn new(fields: Published<String>, settings: &QuestionSettings, sample: &[&Value]) -> Self {
        let main = [fields.prompt.as_str(), &fields.choices, &fields.answer];
        // A label or a weight of a question is its answer, and filters nothing.
        let parts = Parts::new(&settings.mapping, &main);
        let kind = settings.answer_base.map(AnswerKind::from_base).or(fields.kind);
        let mut multiple = Self { fields, parts, kind: kind.unwrap_or(AnswerKind::Label), is_open: kind.is_none() };
        if multiple.is_open {
            let reader = AnswerReader(Some(multiple.clone()));
            let mut counts = AnswerCounts::default();
            let read = sample.iter().filter_map(|record| reader.read(record).outcome.ok());
            read.for_each(|count| counts.add(count));
            multiple.kind = counts.kind(Some(0));
        }
        multiple
    }

    /// Whether the layout reads records and leaves no field of choices unread, and the number of records that it reads.
    fn score(&self, sample: &[&Value]) -> (bool, usize) {
        let reader = Questions {
            style: ChoiceStyle::Text,
            fixed_choices: Vec::new(),
            layout: QuestionLayout::Multiple(self.clone()),
        };
        let (mut count, mut ignores) = (0, false);
        for record in sample {
            let readout = reader.read(record);
            count += usize::from(readout.outcome.is_ok());
            ignores |= readout.outcome.is_ok() && readout.unread.iter().any(|name| CHOICE_FIELDS.contains(name));
        }
        (count > 0 && !ignores, count)
    }
}

/// The answer, labels and choices of a record.
fn given_answer<'a>(
    of: &Published<String>,
    record: &'a Map<String, Value>,
) -> Option<(&'a Value, Labels, Vec<String>)> {
    let fields = Fields::new(record);
    let (labels, choices) = choices(&fields, &of.choices).ok()?;
    Some((fields.look(&of.answer)?, labels, choices))
}

/// The labels of choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    texts: Vec<String>,
    /// Whether the record has them. Other labels are letters, or the ends of names of fields.
    are_given: bool,
}

pub(crate) fn letter(index: usize) -> String {
    char::from_u32('A' as u32 + index as u32).map_or_else(|| index.to_string(), String::from)
}

/// The labels and texts of choices. `name` is a field, or several such as `option1+option2`, or the choices themselves
/// such as `=no|yes`. A field holds a list of texts, a list of `{"label", "text"}`, or `{"label": [...], "text":
/// [...]}`.
fn choices(fields: &Fields, name: &str) -> Result<(Labels, Vec<String>), String> {
    let letters = |count: usize| Labels { texts: (0..count).map(letter).collect(), are_given: false };
    if let Some(fixed) = name.strip_prefix('=') {
        let choices: Vec<String> = fixed.split('|').map(str::to_owned).collect();
        return Ok((letters(choices.len()), choices));
    }
    if name.contains('+') && !fields.has(name) {
        let names: Vec<&str> = name.split('+').map(str::trim).collect();
        let choices = names.iter().map(|name| fields.joined(name)).collect::<Result<_, _>>()?;
        let shared = names[0].chars().zip(names[1].chars()).take_while(|(one, two)| one == two).count();
        let ends = names.iter().map(|name| name.chars().skip(shared).collect()).collect();
        return Ok((Labels { texts: ends, are_given: false }, choices));
    }
    let texts = |list: &[Value]| -> Result<Vec<String>, String> {
        list.iter().map(|item| scalar(item).ok_or_else(|| format!("`{name}` holds {}", fields_of(item)))).collect()
    };
    match fields.get(name).unwrap_or(&Value::Null) {
        Value::Array(items) if items.iter().all(Value::is_object) && !items.is_empty() => {
            let part = |key: &str| items.iter().map(|item| item[key].clone()).collect::<Vec<_>>();
            let labels = if items.iter().all(|item| item["label"].is_null()) {
                letters(items.len())
            } else {
                Labels { texts: texts(&part("label"))?, are_given: true }
            };
            Ok((labels, texts(&part("text"))?))
        }
        Value::Array(items) => Ok((letters(items.len()), texts(items)?)),
        Value::Object(parts) => {
            let list = |key: &str| parts.get(key).and_then(Value::as_array).map(Vec::as_slice);
            let choices: Vec<String> = texts(list("text").ok_or_else(|| format!("`{name}` has no list `text`"))?)?;
            let labels = match list("label") {
                Some(labels) => Labels { texts: texts(labels)?, are_given: true },
                None => letters(choices.len()),
            };
            Ok((labels, choices))
        }
        Value::Null => Err(format!("there is no `{name}`")),
        other => Err(format!("`{name}` is {}, not a list", fields_of(other))),
    }
}

/// The example of an LLM-Adapters record. Its choices are `the correct answer is <word>`, with each word of `Answer
/// format:`.
fn adapters(parts: &Parts, fields: &Fields, found: &mut FoundTurns) -> Result<Example, String> {
    let messages: Vec<Message> = parts.asked(fields, Some("instruction"), found)?;
    let (_, listed) = prompt_of(&messages)
        .rsplit_once("Answer format: ")
        .ok_or("the instruction does not end with `Answer format:`")?;
    let words: Vec<&str> = listed.trim().split('/').collect();
    let answer = fields.joined("answer")?;
    let index = words.iter().position(|word| *word == answer);
    let index = index.ok_or_else(|| format!("the answer `{answer}` is not among `{}`", listed.trim()))?;
    let choices: Vec<String> = words.iter().map(|word| format!("the correct answer is {word}")).collect();
    fields.get("output");
    let open = Example::open(0, messages, choices[index].clone());
    Ok(Example { choices, answer: Some(index), ..open })
}

#[cfg(test)]
mod tests;
