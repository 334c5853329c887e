//! Tests of the counts and lists of a stage, and of the stages of all kinds with rows that are too long or refused.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use serde_json::{Value, json};

use super::*;
use crate::fixture::{ROWS, TensorFixture};
use raisin_base::error::render;
use raisin_corpus::message::conversation;
use raisin_corpus::{Finding, byte_tokenizer, read_instructions};
use raisin_table::{self as table, column};

/// The kinds that encode the pool of the fixture, with the pointers of their inputs.
const KINDS: [&str; 5] = ["features", "finetune", "selector", "model", "pretrain"];

/// Runs a stage on the artifacts of the fixture. `change` has more parameters.
fn stage(store: &TensorFixture, kind: &str, folder: &str, change: &Value) -> Result<()> {
    stage_with_model(store, kind, folder, "model", change)
}

fn stage_with_model(store: &TensorFixture, kind: &str, folder: &str, model: &str, change: &Value) -> Result<()> {
    let mut parameters = match kind {
        "features" => json!({"instructions": "pool", "model": "model", "task": "task"}),
        "finetune" => json!({"instructions": "pool", "model": "model", "task": "task", "steps": 3, "batch_size": 2,
            "select": {"method": "random"}, "adaptation": {"method": "full"}}),
        "selector" => json!({"instructions": "pool", "features": "clusters", "model": "model", "task": "task",
            "rounds": 1, "steps": 2, "batch_size": 2, "adaptation": {"method": "full"}}),
        "pretrain" => json!({"model": "model", "text": "pool", "steps": 2, "batch_size": 4, "loss": "response"}),
        "evaluate" => json!({"model": "model", "task": "task", "split": "validation"}),
        _ => json!({"prefix": "model", "train_layers": 1, "instructions": "pool", "task": "task"}),
    };
    parameters.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    let inputs = match kind {
        "pretrain" => vec![("/model", model), ("/text", "pool")],
        "model" => vec![("/source/prefix", model), ("/source/instructions", "pool"), ("/source/task", "task")],
        _ => vec![("/instructions", "pool"), ("/model", model), ("/task", "task"), ("/features", "clusters")],
    };
    let context = store.context(kind, folder, &inputs, &[])?;
    match kind {
        "features" => crate::features::run(serde_json::from_value(parameters)?, &context),
        "finetune" => crate::finetune::run(serde_json::from_value(parameters)?, &context),
        "selector" => crate::selector::run(serde_json::from_value(parameters)?, &context),
        "pretrain" => crate::pretrain::run(serde_json::from_value(parameters)?, &context),
        "evaluate" => crate::evaluate::run(serde_json::from_value(parameters)?, &context),
        _ => crate::model::run(serde_json::from_value(json!({"source": parameters}))?, &context),
    }
}

fn counts(wanted: &[(&str, &str, u32)]) -> Vec<(String, String, u32)> {
    wanted.iter().map(|(of, kind, count)| ((*of).to_owned(), (*kind).to_owned(), *count)).collect()
}

fn texts(rows: &RecordBatch, name: &str) -> Result<Vec<Option<String>>> {
    Ok(column::<StringArray>(rows, name)?.iter().map(|text| text.map(str::to_owned)).collect())
}

/// A row of which `kept` tokens are left, the last `targets_kept` of them targets.
fn row(tokens: usize, targets: usize, kept: usize, targets_kept: usize) -> Encoded {
    let supervised = (0..kept).map(|place| place + targets_kept >= kept).collect();
    let sequence = (targets_kept > 0).then(|| Sequence { tokens: vec![1; kept], supervised });
    Encoded { sequence, tokens, targets, findings: Vec::new() }
}

#[test]
fn a_note_counts_what_was_cut_left_out_and_changed_and_the_table_lists_it() -> Result<()> {
    let store = TensorFixture::new()?;
    let sources = table::batch(vec![
        ("source", Arc::new(UInt32Array::from(vec![0, 1])) as ArrayRef),
        ("file", Arc::new(StringArray::from(vec!["a.jsonl", "b.jsonl"]))),
    ])?;
    table::write(&store.artifact("pool").join("sources.parquet"), &sources)?;
    let changed = Encoded { findings: vec![Finding::of_turn(FindingKind::ReasoningDropped, 1)], ..row(8, 3, 8, 3) };
    let silent = Encoded { findings: vec![Finding::of_turn(FindingKind::TurnDropped, 3)], ..row(8, 0, 8, 0) };
    let encoded = vec![
        row(6, 3, 6, 3),
        row(14, 6, 10, 2),
        row(20, 3, 10, 0),
        Encoded::refused("roles must alternate"),
        changed,
        silent,
    ];
    let instruction = |id: u32| Instruction { id, source: id / 3, line: 4 + u64::from(id), ..Instruction::default() };
    let instructions: Vec<Instruction> = (0..6).map(instruction).collect();
    let mut report = EncodingReport::new(SequenceLimit { max_tokens: 10, on_overlong: Overlong::Truncate });
    let rows = report.instructions(Some(&store.artifact("pool")), &instructions, encoded)?;
    assert_eq!(rows.places(), [0, 1, 4]);
    assert_eq!(
        report.note("features").expect("there is something to say"),
        "1 of 6 instructions cut at 10 tokens (4 tokens, 4 of them targets); \
         3 of 6 instructions left out: no response token within max_tokens (1), no turn that carries a loss (1), \
         refused by the chat template or the tokenizer (1), for example b.jsonl, line 7: \
         the chat template or the tokenizer refuses the conversation: roles must alternate; \
         1 of 6 instructions: the chat template leaves out a turn, which is not trained on; \
         1 of 6 instructions: the chat template leaves out the reasoning of a turn (see features.encoding)"
    );
    report.write(&store.context("features", "run", &[], &[])?)?;
    let listed = store.table("run", "encoding")?;
    let numbers = |name: &str| Ok::<_, raisin_base::error::Error>(column::<UInt64Array>(&listed, name)?.clone());
    let kinds = texts(&listed, "kind")?;
    let kinds: Vec<&str> = kinds.iter().flatten().map(String::as_str).collect();
    assert_eq!(
        kinds,
        ["truncated", "left_out", "refused", "left_out", "reasoning_dropped", "turn_dropped", "left_out"]
    );
    assert_eq!(column::<UInt32Array>(&listed, "id")?.values(), &[1, 2, 3, 3, 4, 5, 5]);
    let files = texts(&listed, "file")?;
    assert_eq!(files.iter().filter(|file| file.as_deref() == Some("b.jsonl")).count(), 5);
    assert_eq!(numbers("line")?.values(), &[5, 6, 7, 7, 8, 9, 9]);
    let turns: Vec<Option<u32>> = column::<UInt32Array>(&listed, "turn")?.iter().collect();
    assert_eq!(turns, [None, None, None, None, Some(2), Some(4), None]);
    let tokens: Vec<Option<u64>> = numbers("tokens")?.iter().collect();
    assert_eq!(tokens, [Some(14), Some(20), None, None, Some(8), Some(8), Some(8)]);
    let cut: Vec<Option<u64>> = numbers("targets_cut")?.iter().collect();
    assert_eq!((cut[0], &cut[1..]), (Some(4), &[None; 6][..]));
    let reasons = texts(&listed, "reason")?;
    assert_eq!(reasons[1].as_deref(), Some("no response token within max_tokens"));
    assert!(reasons[2].as_ref().is_some_and(|reason| reason.ends_with("roles must alternate")));
    Ok(())
}

#[test]
fn rows_that_are_encoded_as_they_are_need_no_note_and_give_an_empty_table() -> Result<()> {
    let store = TensorFixture::new()?;
    let mut report = EncodingReport::new(SequenceLimit::default());
    report.instructions(None, &[Instruction::default()], vec![row(6, 3, 6, 3)])?;
    assert_eq!(report.note("features"), None);
    report.write(&store.context("features", "run", &[], &[])?)?;
    assert_eq!(store.table("run", "encoding")?.num_rows(), 0);
    Ok(())
}

#[test]
fn a_row_of_a_pool_without_files_has_no_file() -> Result<()> {
    let store = TensorFixture::new()?;
    std::fs::remove_file(store.artifact("pool").join("sources.parquet"))?;
    stage(&store, "features", "run", &json!({}))?;
    let listed = store.table("run", "encoding")?;
    assert_eq!((texts(&listed, "file")?, listed.num_rows()), (vec![None], 1));
    let missing = texts(&store.table("run", "features")?, "missing")?;
    assert!(missing[ROWS - 1].as_ref().is_some_and(|reason| reason.starts_with("no response token is left")));
    Ok(())
}

#[test]
fn each_kind_lists_the_rows_that_it_cuts_or_leaves_out() -> Result<()> {
    let store = TensorFixture::new()?;
    for kind in KINDS {
        // Rows 8, 9 and 10 have 29, 30 and 32 tokens; the response of row 11 lies behind the cut.
        stage(&store, kind, kind, &json!({"max_tokens": 28}))?;
        let wanted = counts(&[("instructions", "left_out", 1), ("instructions", "truncated", 3)]);
        assert_eq!(store.encoding(kind)?, wanted, "{kind}");
        let listed = store.table(kind, "encoding")?;
        for name in ["tokens_cut", "targets_cut"] {
            let sum: u64 = column::<UInt64Array>(&listed, name)?.iter().flatten().sum();
            assert_eq!(sum, 1 + 2 + 4, "{kind}: {name}");
        }
        assert!(column::<UInt64Array>(&listed, "max_tokens")?.values().iter().all(|limit| *limit == 28));
    }
    Ok(())
}

#[test]
fn with_drop_each_kind_leaves_out_the_rows_that_are_too_long() -> Result<()> {
    let store = TensorFixture::new()?;
    for kind in KINDS {
        stage(&store, kind, kind, &json!({"max_tokens": 28, "on_overlong": "drop"}))?;
        assert_eq!(store.encoding(kind)?, counts(&[("instructions", "left_out", 4)]), "{kind}");
    }
    let missing = texts(&store.table("features", "features")?, "missing")?;
    assert_eq!(missing.iter().flatten().count(), 4);
    assert_eq!(
        missing[8].as_deref(),
        Some("rows.jsonl, line 9: longer than max_tokens: 29 tokens, and max_tokens is 28")
    );
    Ok(())
}

#[test]
fn with_error_each_kind_fails_before_the_work_and_names_the_longest_row() -> Result<()> {
    let store = TensorFixture::new()?;
    for kind in KINDS {
        let failed = stage(&store, kind, kind, &json!({"max_tokens": 28, "on_overlong": "error"}));
        let said = render(&failed.expect_err("a row is too long"));
        let wanted = "4 of 12 instructions are longer than max_tokens = 28: the longest has 1,222 tokens \
                      (rows.jsonl, line 12)";
        assert!(said.contains(wanted), "{kind}: {said}");
        assert!(said.contains("hint: raise max_tokens to 1222, or set on_overlong"), "{kind}: {said}");
        assert!(store.written(kind)?.is_empty(), "{kind}");
        // Without a row that is too long, the stage runs.
        stage(&store, kind, kind, &json!({"max_tokens": 1222, "on_overlong": "error"}))?;
        assert_eq!(store.table(kind, "encoding")?.num_rows(), 0, "{kind}");
    }
    let failed = stage(&store, "evaluate", "evaluate", &json!({"max_tokens": 10, "on_overlong": "error"}));
    let said = render(&failed.expect_err("an example is too long"));
    assert!(said.contains("3 of 3 validation examples are longer than max_tokens = 10"), "{said}");
    assert!(said.contains("16 tokens (validation example 0)"), "{said}");
    Ok(())
}

#[test]
fn no_kind_ends_because_the_template_refuses_a_row_and_an_example() -> Result<()> {
    let store = TensorFixture::new()?;
    store.refuse("question 3")?;
    for kind in KINDS {
        stage(&store, kind, kind, &json!({}))?;
        let wanted = counts(&[("instructions", "left_out", 2), ("instructions", "refused", 1)]);
        assert_eq!(store.encoding(kind)?, wanted, "{kind}");
    }
    let missing = texts(&store.table("features", "features")?, "missing")?;
    let reason = missing[3].as_deref().unwrap_or_default();
    assert!(reason.starts_with("rows.jsonl, line 4: the chat template or the tokenizer refuses"), "{reason}");
    assert!(reason.contains("question 3 is refused"), "{reason}");
    let trained = store.table("finetune", "selection")?;
    assert!(!column::<UInt32Array>(&trained, "id")?.values().contains(&3));
    // The clusters go on without both rows.
    store.keep("features", "described")?;
    let context = store.context("clusters", "clustered", &[("/features", "described")], &[])?;
    crate::clusters::run(
        serde_json::from_value(json!({"features": "described", "dimensions": 2, "clusters": 2}))?,
        &context,
    )?;
    assert_eq!(store.table("clustered", "clusters")?.num_rows(), ROWS - 2);

    store.refuse("1 + 1?")?;
    for kind in ["features", "finetune", "selector", "model"] {
        stage(&store, kind, kind, &json!({}))?;
        let of = [("instructions", "left_out", 1), ("validation", "left_out", 1), ("validation", "refused", 1)];
        assert_eq!(store.encoding(kind)?, counts(&of), "{kind}");
    }
    let missing = texts(&store.table("features", "validation_features")?, "missing")?;
    assert!(missing[0].is_none() && missing[1].is_some() && missing[2].is_none(), "{missing:?}");

    store.refuse("+ 1?")?;
    for kind in ["finetune", "selector", "model"] {
        let said = render(&stage(&store, kind, kind, &json!({})).expect_err("no example is left"));
        assert!(said.contains("none of the 3 validation examples can be used"), "{kind}: {said}");
        assert!(said.contains("+ 1? is refused"), "{kind}: {said}");
    }
    Ok(())
}

#[test]
fn an_evaluation_leaves_out_examples_that_cannot_be_encoded_and_counts_the_others() -> Result<()> {
    let store = TensorFixture::new()?;
    store.refuse("1 + 1?")?;
    stage(&store, "evaluate", "run", &json!({"metrics": ["loss", "choice", "match"]}))?;
    let metrics = store.table("run", "metrics")?;
    assert_eq!(column::<UInt32Array>(&metrics, "n")?.values(), &[2; 5]);
    let items = store.table("run", "items")?;
    let losses: &Float64Array = column(&items, "loss")?;
    assert!(losses.is_valid(0) && losses.is_null(1) && losses.is_valid(2));
    for name in ["chosen", "generated", "prediction"] {
        let given: Vec<bool> = texts(&items, name)?.iter().map(Option::is_some).collect();
        assert_eq!(given, [true, false, true], "{name}");
    }
    let missing = texts(&items, "missing")?;
    assert!(missing[0].is_none() && missing[2].is_none());
    let reason = missing[1].as_deref().unwrap_or_default();
    for metric in ["loss: ", "; choice: ", "; match: "] {
        assert!(reason.contains(metric), "{reason}");
    }
    assert!(reason.contains("1 + 1? is refused"), "{reason}");
    let listed = store.table("run", "encoding")?;
    let by_metric = texts(&listed, "metric")?;
    let kinds = texts(&listed, "kind")?;
    let left_out: Vec<_> =
        by_metric.iter().flatten().zip(kinds.iter().flatten()).filter(|(_, kind)| *kind == "left_out").collect();
    assert_eq!(left_out.iter().map(|(metric, _)| metric.as_str()).collect::<Vec<_>>(), ["loss", "choice", "match"]);
    // The mean of the others is not changed by the example that is left out.
    stage(&store, "evaluate", "whole", &json!({"metrics": ["loss"]}))?;
    let value = |folder: &str| -> Result<f64> {
        Ok(column::<Float64Array>(&store.table(folder, "metrics")?, "value")?.value(0))
    };
    let mean = losses.value(0).midpoint(losses.value(2));
    assert!((value("run")? - mean).abs() < 1e-6 && (value("whole")? - mean).abs() < 1e-6);

    store.refuse("+ 1?")?;
    for metric in ["loss", "choice", "match"] {
        let failed = stage(&store, "evaluate", "none", &json!({"metrics": [metric]}));
        let said = render(&failed.expect_err("no example is left"));
        assert!(said.contains(&format!("none of the 3 validation examples can be used for `{metric}`")), "{said}");
        assert!(said.contains("+ 1? is refused") && store.written("none")?.is_empty(), "{said}");
    }
    Ok(())
}

#[test]
fn a_question_with_a_choice_that_does_not_fit_is_left_out_with_all_its_choices() -> Result<()> {
    let store = TensorFixture::new()?;
    let example = |id: u32, long: &str| {
        let messages = conversation(None, "why?", None);
        Example { choices: vec!["so".into(), long.into()], answer: Some(0), ..Example::open(id, messages, "so") }
    };
    // `why?` and the marks of its turns have 7 tokens. The end-of-turn token of a choice need not fit.
    store.write_examples("validation", &[example(0, "because"), example(1, "because!"), example(2, "then")])?;
    stage(&store, "evaluate", "run", &json!({"metrics": ["choice"], "max_tokens": 14}))?;
    let items = store.table("run", "items")?;
    let chosen: Vec<bool> = texts(&items, "chosen")?.iter().map(Option::is_some).collect();
    assert_eq!(chosen, [true, false, true]);
    let missing = texts(&items, "missing")?;
    assert_eq!(
        missing[1].as_deref(),
        Some("choice: the choice `because!`: it does not fit within 14 tokens: the row has 16 tokens")
    );
    assert_eq!(column::<UInt32Array>(&store.table("run", "metrics")?, "n")?.values(), &[2, 2]);
    assert_eq!(store.encoding("run")?, counts(&[("validation", "left_out", 1)]));
    // An example without choices is left out too.
    let open = Example::open(3, conversation(None, "why?", None), "so");
    store.write_examples("validation", &[example(0, "because"), open])?;
    stage(&store, "evaluate", "mixed", &json!({"metrics": ["choice"]}))?;
    assert_eq!(column::<UInt32Array>(&store.table("mixed", "metrics")?, "n")?.values(), &[1, 1]);
    Ok(())
}

#[test]
fn a_prompt_longer_than_the_context_is_left_out_of_the_generation() -> Result<()> {
    let store = TensorFixture::new()?;
    store.shorten_context(20)?;
    let example = |id: u32, prompt: &str| Example::open(id, conversation(None, prompt, None), "#### 1");
    store.write_examples("validation", &[example(0, "short"), example(1, &"long".repeat(5))])?;
    stage(&store, "evaluate", "run", &json!({"metrics": ["match"]}))?;
    let missing = texts(&store.table("run", "items")?, "missing")?;
    let wanted = "match: the prompt has 23 tokens, and the context of the model is 20";
    assert_eq!(missing, [None, Some(wanted.to_owned())]);
    assert_eq!(column::<UInt32Array>(&store.table("run", "metrics")?, "n")?.values(), &[1, 1]);
    Ok(())
}

#[test]
fn a_proxy_decides_which_rows_its_stages_leave_out() -> Result<()> {
    let store = TensorFixture::new()?;
    store.refuse("1 + 1?")?;
    for on_overlong in ["drop", "truncate"] {
        let limit = json!({"max_tokens": 28, "on_overlong": on_overlong});
        stage(&store, "model", "making", &limit)?;
        std::fs::copy(
            store.artifact("model").join("chat_template.jinja"),
            store.artifact("making/out/chat_template.jinja"),
        )?;
        let proxy = format!("proxy-{on_overlong}");
        store.keep("making", &proxy)?;
        // The stages ask for other limits. Only `drop` can leave out more rows than the proxy does.
        for asked in ["truncate", "drop"] {
            let left_out = if [on_overlong, asked].contains(&"drop") { 4 } else { 1 };
            for kind in ["finetune", "selector"] {
                let run = format!("{kind}-{on_overlong}-{asked}");
                let change = json!({"on_overlong": asked, "batch_size": 2});
                stage_with_model(&store, kind, &run, &proxy, &change)?;
                let listed = store.encoding(&run)?;
                let of = |kind: &str| {
                    let found = listed.iter().find(|(of, name, _)| of == "instructions" && name == kind);
                    found.map_or(0, |(_, _, count)| *count)
                };
                assert_eq!((of("left_out"), of("truncated")), (left_out, if left_out == 4 { 0 } else { 3 }), "{run}");
                assert!(listed.contains(&("validation".to_owned(), "left_out".to_owned(), 1)), "{run}");
            }
        }
    }
    // Examples of the same lengths are other examples.
    let example =
        |id: u32| Example::open(id, conversation(None, &format!("{id} - 1?"), None), format!("#### {}", id + 1));
    store.write_examples("validation", &[example(0), example(1), example(2)])?;
    let failed = stage_with_model(&store, "finetune", "other", "proxy-truncate", &json!({}));
    let said = render(&failed.expect_err("other examples"));
    assert!(said.contains("the proxy's cached states belong to other validation examples"), "{said}");
    Ok(())
}

#[test]
fn the_end_of_a_cut_answer_is_not_trained_on() -> Result<()> {
    let store = TensorFixture::new()?;
    let codec = Codec::load(&store.artifact("model"))?;
    let instruction = &read_instructions(&store.artifact("pool"))?[5];
    let whole = codec.instruction(instruction, 1024);
    let tokens = whole.sequence.expect("a response").tokens;
    assert_eq!((tokens.len(), tokens.last()), (whole.tokens, Some(&byte_tokenizer::END)));
    for limit in 14..whole.tokens {
        let cut = codec.instruction(instruction, limit).sequence.expect("a part of the response");
        let targets: Vec<u32> =
            cut.tokens.iter().zip(&cut.supervised).filter(|(_, target)| **target).map(|(token, _)| *token).collect();
        assert_eq!(targets.len(), limit - 13, "the answer begins with token 14");
        assert!(!targets.contains(&byte_tokenizer::END) && cut.tokens.len() == limit);
    }
    Ok(())
}
