//! Reads records of benchmarks as task examples: open questions, and multiple choice in its published layouts.

use raisin_settings::{ChoiceStyle, TaskFormat};
use serde_json::{Map, Value};

use super::formats::{Reader, alpaca, fields_of, qa, required, scalar};
use super::message::{Example, Message, conversation, prompt_of};

/// Where a record holds the parts of an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Questions {
    pub prompt: String,
    pub choices: String,
    pub answer: String,
    pub style: ChoiceStyle,
    /// The choices of every example of an open format, such as A, B, C, D.
    pub fixed_choices: Vec<String>,
    pub layout: QuestionLayout,
}

/// A [`TaskFormat`] in which `auto` is replaced by a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuestionLayout {
    Open(Reader),
    Choices,
    Csqa,
    Adapters,
}

impl Questions {
    /// The example of a record, with the id 0.
    ///
    /// # Errors
    /// The reason why the record is not an example.
    pub fn read(&self, record: &Value) -> Result<Example, String> {
        let object = || record.as_object().ok_or_else(|| format!("the record is {}, not an object", fields_of(record)));
        match &self.layout {
            QuestionLayout::Open(reader) => self.open(reader.read(record)?),
            QuestionLayout::Choices => {
                let object = object()?;
                let (labels, choices) = choice_list(object.get(&self.choices).unwrap_or(&Value::Null), &self.choices)?;
                self.multiple(qa::fields(object, &self.prompt)?, &labels, choices, object.get(&self.answer))
            }
            QuestionLayout::Csqa => {
                let question = object()?.get("question").and_then(Value::as_object).ok_or("there is no `question`")?;
                let listed = question.get("choices").unwrap_or(&Value::Null);
                let (labels, choices) = choice_list(listed, "question.choices")?;
                self.multiple(required(question, "stem")?, &labels, choices, record.get("answerKey"))
            }
            QuestionLayout::Adapters => adapters(object()?),
        }
    }

    fn open(&self, mut messages: Vec<Message>) -> Result<Example, String> {
        let response = messages.pop().map(|message| message.content).ok_or("there is no response")?;
        let mut answer = None;
        if !self.fixed_choices.is_empty() {
            let wanted = response.trim();
            let index = self.fixed_choices.iter().position(|choice| choice == wanted);
            answer = Some(index.ok_or_else(|| format!("the response `{wanted}` is none of the choices"))?);
        }
        Ok(Example { id: 0, messages, response, choices: self.fixed_choices.clone(), answer })
    }

    fn multiple(
        &self,
        question: String,
        labels: &[String],
        choices: Vec<String>,
        answer: Option<&Value>,
    ) -> Result<Example, String> {
        if question.trim().is_empty() {
            return Err("the question is empty".to_owned());
        }
        if choices.len() < 2 {
            return Err(format!("there are {} choices", choices.len()));
        }
        let answer = answer.filter(|value| !value.is_null()).ok_or("there is no answer")?;
        let index = find_answer(answer, labels, &choices)?;
        let (prompt, choices) = match self.style {
            ChoiceStyle::Text => (question, choices),
            ChoiceStyle::Letters => {
                let letters: Vec<String> = (0..choices.len()).map(letter).collect();
                let listed = letters.iter().zip(&choices).map(|(letter, choice)| format!("\n{letter}. {choice}"));
                (question + &listed.collect::<String>(), letters)
            }
        };
        let response = choices[index].clone();
        Ok(Example { id: 0, messages: conversation(None, &prompt, None), response, choices, answer: Some(index) })
    }
}

/// The reader of an open format. For the format `auto`, and for `qa` without field names, the reader is guessed from
/// `sample`.
pub fn open_reader(
    format: TaskFormat,
    prompt: Option<&str>,
    response: Option<&str>,
    sample: &[&Value],
) -> Result<Reader, String> {
    Reader::choose(format.open().unwrap_or_default(), prompt, response, sample)
}

fn letter(index: usize) -> String {
    char::from_u32('A' as u32 + index as u32).map_or_else(|| index.to_string(), String::from)
}

/// The labels and texts of choices, which are a list of texts, a list of `{"label", "text"}`, or `{"label": [...],
/// "text": [...]}`.
fn choice_list(value: &Value, name: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let texts = |list: &[Value]| {
        list.iter().map(|item| scalar(item).ok_or_else(|| format!("`{name}` holds {}", fields_of(item)))).collect()
    };
    let letters = |count: usize| (0..count).map(letter).collect::<Vec<_>>();
    match value {
        Value::Array(items) if items.iter().all(Value::is_object) && !items.is_empty() => {
            let part = |key: &str| items.iter().map(|item| item[key].clone()).collect::<Vec<_>>();
            let labels = if items.iter().all(|item| item["label"].is_null()) {
                letters(items.len())
            } else {
                texts(&part("label"))?
            };
            Ok((labels, texts(&part("text"))?))
        }
        Value::Array(items) => Ok((letters(items.len()), texts(items)?)),
        Value::Object(parts) => {
            let list = |key: &str| parts.get(key).and_then(Value::as_array).map(Vec::as_slice);
            let choices: Vec<String> = texts(list("text").ok_or_else(|| format!("`{name}` has no list `text`"))?)?;
            let labels = list("label").map_or_else(|| Ok(letters(choices.len())), texts)?;
            Ok((labels, choices))
        }
        Value::Null => Err(format!("there is no `{name}`")),
        other => Err(format!("`{name}` is {}, not a list", fields_of(other))),
    }
}

/// The index of the right choice, which is given as its number from 0, its label or its text.
fn find_answer(answer: &Value, labels: &[String], choices: &[String]) -> Result<usize, String> {
    let text = scalar(answer).ok_or_else(|| format!("the answer is {}", fields_of(answer)))?;
    let number = || answer.as_u64().map(|number| number as usize).filter(|&index| index < choices.len());
    labels
        .iter()
        .position(|label| answer.is_string() && *label == text)
        .or_else(|| choices.iter().position(|choice| answer.is_string() && *choice == text))
        .or_else(number)
        .filter(|&index| index < choices.len())
        .ok_or_else(|| format!("the answer `{text}` is none of the {} choices", choices.len()))
}

/// The example of an LLM-Adapters record. Its choices are `the correct answer is <word>`, with each word of `Answer
/// format:`.
fn adapters(record: &Map<String, Value>) -> Result<Example, String> {
    let messages = alpaca::asked(record)?;
    let (_, listed) = prompt_of(&messages)
        .rsplit_once("Answer format: ")
        .ok_or("the instruction does not end with `Answer format:`")?;
    let words: Vec<&str> = listed.trim().split('/').collect();
    let answer = required(record, "answer")?;
    let index = words.iter().position(|word| *word == answer);
    let index = index.ok_or_else(|| format!("the answer `{answer}` is not among `{}`", listed.trim()))?;
    let choices: Vec<String> = words.iter().map(|word| format!("the correct answer is {word}")).collect();
    let response = choices[index].clone();
    Ok(Example { id: 0, messages, response, choices, answer: Some(index) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn questions(layout: QuestionLayout, style: ChoiceStyle) -> Questions {
        let name = str::to_owned;
        let fixed_choices = vec![];
        Questions { prompt: name("q"), choices: name("c"), answer: name("a"), style, fixed_choices, layout }
    }

    #[test]
    fn an_answer_is_a_number_a_label_or_the_choices_text() {
        let reader = questions(QuestionLayout::Choices, ChoiceStyle::Text);
        for answer in [json!(1), json!("B"), json!("four")] {
            let example = reader.read(&json!({"q": "2 + 2", "c": ["five", "four"], "a": answer})).expect("an example");
            assert_eq!((example.answer, example.response.as_str()), (Some(1), "four"));
        }
        for answer in [json!(2), json!("C"), json!(null), json!([1])] {
            assert!(reader.read(&json!({"q": "2 + 2", "c": ["five", "four"], "a": answer})).is_err());
        }
        let labelled = json!({"q": "q", "c": {"text": ["x", "y"], "label": ["1", "2"]}, "a": "1"});
        assert_eq!(reader.read(&labelled).expect("an example").answer, Some(0));
    }

    #[test]
    fn letters_list_the_choices_below_the_question() {
        let record = json!({"answerKey": "B", "question": {"stem": "Why?", "choices": [
            {"label": "A", "text": "so"}, {"label": "B", "text": "because"}]}});
        let example = questions(QuestionLayout::Csqa, ChoiceStyle::Letters).read(&record).expect("an example");
        assert_eq!(example.prompt(), "Why?\nA. so\nB. because");
        assert_eq!((example.response.as_str(), example.choices.len()), ("B", 2));
        let text = questions(QuestionLayout::Csqa, ChoiceStyle::Text).read(&record).expect("an example");
        assert_eq!((text.prompt(), text.response.as_str()), ("Why?", "because"));
    }

    #[test]
    fn adapters_take_their_choices_from_the_answer_format() {
        let record = json!({"instruction": "Q\n\nAnswer format: answer1/answer2", "input": "", "output": "the correct \
            answer is answer2", "answer": "answer2", "system": "s"});
        let example = questions(QuestionLayout::Adapters, ChoiceStyle::Text).read(&record).expect("an example");
        assert_eq!((example.answer, example.response.as_str()), (Some(1), "the correct answer is answer2"));
        assert_eq!(example.messages[0], Message::new("system", "s"));
    }

    #[test]
    fn fixed_choices_are_matched_by_the_response() {
        let reader = Reader::Qa { prompt: "input".into(), response: "output".into() };
        let mut questions = questions(QuestionLayout::Open(reader), ChoiceStyle::Text);
        questions.fixed_choices = vec!["A".into(), "B".into()];
        let example = questions.read(&json!({"input": "q", "output": "B"})).expect("an example");
        assert_eq!((example.answer, example.choices.len()), (Some(1), 2));
        assert!(questions.read(&json!({"input": "q", "output": "E"})).is_err());
    }
}
