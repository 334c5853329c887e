use super::*;
use serde_json::json;

fn settings(format: TaskFormat, names: [Option<&str>; 3], style: ChoiceStyle) -> QuestionSettings {
    let [prompt, choices, answer] = names.map(|name| name.map(str::to_owned));
    let fields = FieldNames { prompt, ..FieldNames::default() };
    let mapping = Mapping { fields, ..Mapping::default() };
    QuestionSettings { format, mapping, choices, answer, style, ..QuestionSettings::default() }
}

/// The examples of a file with these records, or the reason of each that is none.
fn read(settings: &QuestionSettings, records: &[Value]) -> Vec<Result<Example, String>> {
    let questions = decided(settings, records);
    let outcome = |record: &Value| match questions.read(record).outcome {
        Err(RecordRefusal::Rejected(reason)) => Err(reason),
        Err(other) => panic!("{other:?}"),
        Ok(example) => Ok(example),
    };
    records.iter().map(outcome).collect()
}

fn decided(settings: &QuestionSettings, records: &[Value]) -> Questions {
    let questions = Questions::choose(settings, &records.iter().collect::<Vec<_>>()).expect("a layout");
    let (reader, layout) = questions.answers();
    let mut sum = AnswerCounts::default();
    records.iter().filter_map(|record| reader.read(record).outcome.ok()).for_each(|count| sum.add(count));
    questions.decided(&layout.into_iter().map(|layout| (layout, sum)).collect())
}

/// The right choice of each record.
fn answers(settings: &QuestionSettings, records: &[Value]) -> Vec<Option<usize>> {
    read(settings, records).into_iter().map(|example| example.ok().and_then(|example| example.answer)).collect()
}

const TEXT: ChoiceStyle = ChoiceStyle::Text;

#[test]
fn an_answer_is_a_number_a_label_or_the_choices_text() {
    let settings = settings(TaskFormat::Choices, [Some("q"), Some("c"), Some("a")], TEXT);
    let record = |answer: Value| json!({"q": "2 + 2", "c": ["five", "four"], "a": answer});
    let zero = QuestionSettings { answer_base: Some(0), ..settings.clone() };
    for answer in [json!("B"), json!("four")] {
        assert_eq!(answers(&settings, &[record(answer.clone())]), [Some(1)], "{answer}");
    }
    for answer in [json!(1), json!("1"), json!(1.0)] {
        assert_eq!(answers(&zero, &[record(answer.clone())]), [Some(1)], "{answer}");
        assert_eq!(answers(&settings, &[record(answer.clone()), record(json!(0))]), [Some(1), Some(0)], "{answer}");
        assert_eq!(answers(&settings, &[record(answer)]), [Some(1)], "undecided numbers count from 0");
    }
    for answer in [json!(3), json!("C"), json!(null), json!([1])] {
        assert_eq!(answers(&settings, &[record(answer.clone())]), [None], "{answer}");
    }
    let labelled = json!({"q": "q", "c": {"text": ["x", "y"], "label": ["1", "2"]}, "a": "1"});
    assert_eq!(answers(&settings, &[labelled]), [Some(0)]);
}

#[test]
fn the_answers_of_the_whole_file_say_what_a_number_means() {
    let of = |base: Option<u8>, answers_given: &[Value]| {
        let mut settings = settings(TaskFormat::Choices, [Some("q"), Some("c"), Some("a")], TEXT);
        settings.answer_base = base;
        let record = |answer: &Value| json!({"q": "q", "c": ["x", "y", "z"], "a": answer});
        answers(&settings, &answers_given.iter().map(record).collect::<Vec<_>>())
    };
    assert_eq!(of(None, &[json!("0"), json!("2")]), [Some(0), Some(2)]);
    assert_eq!(of(None, &[json!("1"), json!("3")]), [Some(0), Some(2)], "3 is no number from 0");
    assert_eq!(of(None, &[json!(1), json!(3)]), [Some(0), Some(2)]);
    assert_eq!(of(Some(1), &[json!(1), json!(2)]), [Some(0), Some(1)]);
    assert_eq!(of(Some(0), &[json!("1"), json!("3")]), [Some(1), None]);
    // Choices that are numbers: one record alone could be read in two ways.
    let settings = settings(TaskFormat::Choices, [Some("q"), Some("c"), Some("a")], TEXT);
    let record = |answer: &str| json!({"q": "q", "c": ["1", "2", "3"], "a": answer});
    assert_eq!(answers(&settings, &[record("1"), record("3")]), [Some(0), Some(2)], "all are texts");
    assert_eq!(answers(&settings, &[record("1"), record("0")]), [Some(1), Some(0)], "all are numbers from 0");
}

#[test]
fn published_layouts_are_known_by_their_fields() {
    let settings = settings(TaskFormat::Choices, [None; 3], TEXT);
    for (record, prompt, response) in [
        (json!({"ctx": "He sits", "endings": ["up", "down", "by", "on"], "label": "3", "ind": 7}), "He sits", "on"),
        (json!({"sentence": "_ ran", "option1": "Ann", "option2": "Bo", "answer": "2"}), "_ ran", "Bo"),
        (json!({"goal": "cut", "sol1": "saw", "sol2": "spoon", "label": 0}), "cut", "saw"),
        (
            json!({"question": "hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"}),
            "hot?",
            "fire",
        ),
        (
            json!({"question": "hot?", "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}, "answerKey": "2"}),
            "hot?",
            "fire",
        ),
        (json!({"question": "1 + 0?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 0}), "1 + 0?", "1"),
        (
            json!({"question_stem": "sky is", "choices": {"text": ["blue", "red"], "label": ["A", "B"]}, "answerKey": "A"}),
            "sky is",
            "blue",
        ),
        (
            json!({"question": {"stem": "sky is", "choices": [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}]}, "answerKey": "B"}),
            "sky is",
            "blue",
        ),
        (
            json!({"context": "Rain fell.", "question": "Wet?", "answerA": "dry", "answerB": "wet", "answerC": "hot", "label": "2"}),
            "Rain fell. Wet?",
            "wet",
        ),
        (
            json!({"article": "Rain fell.", "question": "Wet?", "options": ["dry", "wet"], "answer": "B"}),
            "Rain fell. Wet?",
            "wet",
        ),
        (json!({"question": "Which?", "options": ["dry", "wet"], "answer": "B", "answer_index": 1}), "Which?", "wet"),
        (json!({"question": "is it wet", "passage": "Rain fell.", "answer": true}), "is it wet\n\nRain fell.", "yes"),
        (json!({"query": "Q", "choices": ["a", "b"], "gold": 1}), "Q", "b"),
    ] {
        let example = read(&settings, std::slice::from_ref(&record))
            .remove(0)
            .unwrap_or_else(|reason| panic!("{record}: {reason}"));
        assert_eq!((example.prompt(), example.response.content.as_str()), (prompt, response), "{record}");
    }
}

#[test]
fn letters_list_the_choices_below_the_question() {
    let record = json!({"answerKey": "B", "question": {"stem": "Why?", "choices": [
        {"label": "A", "text": "so"}, {"label": "B", "text": "because"}]}});
    let of = |style| {
        read(&settings(TaskFormat::Csqa, [None; 3], style), std::slice::from_ref(&record))
            .remove(0)
            .expect("an example")
    };
    let example = of(ChoiceStyle::Letters);
    assert_eq!(example.prompt(), "Why?\nA. so\nB. because");
    assert_eq!((example.response.content.as_str(), example.choices.len()), ("B", 2));
    let text = of(TEXT);
    assert_eq!((text.prompt(), text.response.content.as_str()), ("Why?", "because"));
}

#[test]
fn a_question_keeps_its_system_text_and_its_context() {
    let settings = settings(TaskFormat::Choices, [Some("query"), None, None], TEXT);
    let record = json!({"query": "Q", "choices": ["a", "b"], "gold": 1, "system": "s", "context": "c"});
    let example = read(&settings, &[record]).remove(0).expect("an example");
    assert_eq!(example.messages, [Message::new("system", "s"), Message::new("user", "Q\n\nc")]);
}

#[test]
fn adapters_take_their_choices_from_the_answer_format() {
    let record = json!({"instruction": "Q\n\nAnswer format: answer1/answer2", "input": "", "output": "the correct \
        answer is answer2", "answer": "answer2", "system": "s"});
    let example = read(&settings(TaskFormat::Adapters, [None; 3], TEXT), &[record]).remove(0).expect("an example");
    assert_eq!((example.answer, example.response.content.as_str()), (Some(1), "the correct answer is answer2"));
    assert_eq!(example.messages[0], Message::new("system", "s"));
}

#[test]
fn open_questions_keep_history_tools_and_thoughts() {
    let mut settings = settings(TaskFormat::Auto, [None; 3], TEXT);
    let record = json!({"tools": [{"name": "f"}], "messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "weight": 0}, {"role": "user", "content": "c"},
        {"role": "assistant", "content": "<think>t</think>d"}]});
    let example = read(&settings, &[record]).remove(0).expect("an example");
    assert_eq!((example.messages.len(), example.tools.len()), (3, 1));
    assert_eq!((example.response.content.as_str(), example.response.reasoning.as_deref()), ("d", Some("t")));
    assert!(!example.messages[1].untrained, "nothing is trained on an example");
    settings.fixed_choices = vec!["A".into(), "B".into()];
    let record = |output: &str| json!({"input": "q", "output": output});
    let examples = read(&settings, &[record("B"), record("E")]);
    assert_eq!(examples[0].as_ref().map(|example| (example.answer, example.choices.len())), Ok((Some(1), 2)));
    assert_eq!(examples[1], Err("the response `E` is none of the choices".to_owned()));
}

#[test]
fn fixed_choices_are_answered_by_truth_values_alone() {
    let settings = settings(TaskFormat::Choices, [Some("question"), Some("=no|yes"), Some("answer")], TEXT);
    let record = |answer: Value| json!({"question": "is it wet", "answer": answer});
    for (answer, index) in [(json!(false), 0), (json!("yes"), 1), (json!("True"), 1)] {
        assert_eq!(answers(&settings, &[record(answer.clone())]), [Some(index)], "{answer}");
    }
    for answer in [json!("A"), json!("B"), json!(0), json!("1")] {
        assert_eq!(answers(&settings, &[record(answer.clone())]), [None], "{answer}");
    }
}

#[test]
fn a_layout_that_leaves_choices_unread_loses() {
    let settings = settings(TaskFormat::Choices, [None; 3], TEXT);
    // More records have truth values as answers than records have two options.
    let record = |options: &[&str], answer: &str| json!({"question": "q", "options": options, "answer": answer});
    let records = [record(&["no", "yes"], "yes"), record(&["no"], "no"), record(&["no"], "yes")];
    assert_eq!(answers(&settings, &records), [Some(1), None, None]);
}
