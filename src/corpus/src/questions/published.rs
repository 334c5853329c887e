//! The fields of multiple-choice questions as benchmarks publish them.

use super::answer::AnswerKind;

/// Where a record holds question, choices and answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published<Name> {
    pub prompt: Name,
    pub choices: Name,
    pub answer: Name,
    /// What the answer is, if the layout says it.
    pub kind: Option<AnswerKind>,
    /// The number of the first choice, for answers that are numbers and do not say it themselves.
    pub base: Option<u8>,
}

const fn layout(
    prompt: &'static str,
    choices: &'static str,
    answer: &'static str,
    kind: Option<AnswerKind>,
) -> Published<&'static str> {
    Published { prompt, choices, answer, kind, base: None }
}

const fn counted(layout: Published<&'static str>, base: u8) -> Published<&'static str> {
    Published { base: Some(base), ..layout }
}

/// LLM-Foundry, MMLU, ARC, OpenBookQA, CommonsenseQA, HellaSwag, Winogrande, PIQA, SocialIQA, RACE, MMLU-Pro, BoolQ.
pub const LAYOUTS: [Published<&str>; 12] = [
    counted(layout("query", "choices", "gold", None), 0),
    layout("question", "choices", "answer", None),
    layout("question", "choices", "answerKey", None),
    layout("question_stem", "choices", "answerKey", None),
    layout("question.stem", "question.choices", "answerKey", None),
    layout("ctx", "endings", "label", Some(AnswerKind::Number(0))),
    layout("sentence", "option1+option2", "answer", Some(AnswerKind::Number(1))),
    layout("goal", "sol1+sol2", "label", Some(AnswerKind::Number(0))),
    layout("context+question", "answerA+answerB+answerC", "label", Some(AnswerKind::Number(1))),
    layout("article+question", "options", "answer", None),
    layout("question", "options", "answer", None),
    layout("question", "=no|yes", "answer", Some(AnswerKind::Truth)),
];

/// Names of fields that hold choices. A layout that leaves one unread is not that of the file.
pub const CHOICE_FIELDS: [&str; 12] = [
    "choices",
    "options",
    "endings",
    "option1",
    "option2",
    "sol1",
    "sol2",
    "answerA",
    "answerB",
    "opa",
    "opb",
    "candidates",
];

impl Published<&str> {
    pub fn owned(&self) -> Published<String> {
        Published { kind: self.kind, base: self.base, ..Published::of(self.prompt, self.choices, self.answer) }
    }
}

impl Published<String> {
    pub fn of(prompt: &str, choices: &str, answer: &str) -> Self {
        let (prompt, choices, answer) = (prompt.to_owned(), choices.to_owned(), answer.to_owned());
        Self { prompt, choices, answer, kind: None, base: None }
    }
}
