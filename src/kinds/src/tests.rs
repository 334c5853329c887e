//! The parameters that the `check` of each kind refuses, by their pointers.

#![allow(clippy::unwrap_used, reason = "a declaration that is missing ends the test")]

use raisin_base::digest::Digest;
use raisin_contract::{Action, DType, DeviceKind, Environment, GatheredArtifact, Input, Kind as _};
use serde_json::{Value, json};

use crate::{declaration, generate, model};

/// `required`, with the parameters of `more` added or replaced.
fn with(mut required: Value, more: &Value) -> Value {
    required.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    required
}

/// The pointer that the check of a kind refuses; empty if the check passes.
fn refused(kind: &str, parameters: Value) -> String {
    declaration(kind).unwrap().resolve(parameters).err().map(|problem| problem.pointer).unwrap_or_default()
}

fn generated(more: Value) -> String {
    refused("generate", more)
}

#[test]
fn generate_refuses_impossible_shares_and_counts() {
    assert_eq!(generated(json!({})), "");
    assert_eq!(generated(json!({"relevant": 0.7, "corrupted": 0.4})), "/corrupted");
    assert_eq!(generated(json!({"wrong": -0.1})), "/wrong");
    assert_eq!(generated(json!({"families": ["add"], "targets": ["add"]})), "/families");
    assert_eq!(generated(json!({"families": ["copy", "add", "copy"]})), "/families/2");
    assert_eq!(generated(json!({"targets": []})), "/targets");
    assert_eq!(generated(json!({"targets": ["add", "add"]})), "/targets/1");
    for count in ["size", "validation", "test"] {
        assert_eq!(generated(json!({count: 0})), format!("/{count}"));
        assert_eq!(generated(json!({count: 5_000_000_000_u64})), format!("/{count}"));
    }
    assert_eq!(generated(json!({"pretraining_size": 5_000_000_000_u64})), "/pretraining_size");
    let mut parameters = generate::Parameters { redundant: f64::NAN, ..generate::Parameters::default() };
    assert_eq!(generate::GenerateKind::check(&parameters).unwrap_err().pointer, "/redundant");
    parameters = generate::Parameters { target_share_in_pretraining: f64::NAN, ..generate::Parameters::default() };
    assert_eq!(generate::GenerateKind::check(&parameters).unwrap_err().pointer, "/target_share_in_pretraining");
}

#[test]
fn ingest_refuses_an_empty_list_single_field_names_and_field_names_for_other_formats() {
    let source = |source: Value| refused("ingest", json!({"sources": [source]}));
    assert_eq!(source(json!({"path": "a", "prompt": "q"})), "/sources/0/prompt");
    let both = json!({"path": "a", "format": "alpaca", "prompt": "q", "response": "a"});
    assert_eq!(source(both), "/sources/0/response");
    assert_eq!(source(json!({"path": "a", "prompt": "q", "response": "a"})), "");
    assert_eq!(refused("ingest", json!({"sources": []})), "/sources");
    for (fields, wrong) in [
        (json!({"messages": "turns", "role": "who"}), ""),
        (json!({"messages": "dialog", "response": "chosen"}), ""),
        (json!({"prompt": "q+r", "response": "a.0", "system": "", "context": "c"}), ""),
        (json!({"prompt": "q"}), "/sources/0/fields/prompt"),
        (json!({"response": "a"}), "/sources/0/fields/response"),
        (json!({"prompt": "", "response": "a"}), "/sources/0/fields/prompt"),
        (json!({"prompt": "q+", "response": "a"}), "/sources/0/fields/prompt"),
        (json!({"messages": "m", "prompt": "q"}), "/sources/0/fields/prompt"),
        (json!({"messages": "m", "history": "h"}), "/sources/0/fields/history"),
    ] {
        assert_eq!(source(json!({"path": "a", "fields": fields})), wrong, "{fields}");
    }
    let twice = json!({"path": "a", "prompt": "q", "response": "a", "fields": {"prompt": "q"}});
    assert_eq!(source(twice), "/sources/0/prompt");
    let alpaca = json!({"path": "a", "format": "alpaca", "fields": {"messages": "m"}});
    assert_eq!(source(alpaca), "/sources/0/fields/messages");
    assert_eq!(source(json!({"path": "a", "format": "alpaca", "fields": {"system": "s"}})), "");
    assert_eq!(source(json!({"path": "a", "roles": {"owl": "assistant", "cat": "user"}})), "");
    for share in [-0.1, 1.1] {
        let share = json!({"sources": [{"path": "a"}], "max_rejected": share});
        assert_eq!(refused("ingest", share), "/max_rejected");
    }
    for key in ["max_length", "sample"] {
        assert_eq!(refused("ingest", json!({"sources": [{"path": "a"}], key: 0})), format!("/{key}"));
    }
}

#[test]
fn task_refuses_impossible_combinations() {
    let task = |parameters: Value| refused("task", parameters);
    assert_eq!(task(json!({"source": {"path": "a"}, "scoring": "choice"})), "/source/format");
    assert_eq!(task(json!({"source": {"path": "a"}, "extract": "gsm8k"})), "/extract");
    assert_eq!(task(json!({"source": {"path": "a", "format": "qa", "answer": "x"}})), "/source/answer");
    assert_eq!(task(json!({"source": {"path": "a", "format": "csqa", "prompt": "x"}})), "/source/prompt");
    for (format, base, wrong) in
        [("choices", 1, ""), ("choices", 2, "/source/answer_base"), ("qa", 0, "/source/answer_base")]
    {
        let task = json!({"source": {"path": "a", "format": format, "answer_base": base}});
        assert_eq!(refused("task", task), wrong, "{format} {base}");
    }
    let named = json!({"source": {"path": "a", "format": "messages", "prompt": "q", "response": "r"}});
    let problem = declaration("task").unwrap().resolve(named).unwrap_err();
    assert_eq!(problem.message, "the format `messages` has its own fields");
    assert_eq!(task(json!({"source": {"path": "a"}, "validation": 0})), "/validation");
    assert_eq!(task(json!({"source": {"path": "a"}, "scoring": "match", "max_new_tokens": 0})), "/max_new_tokens");
    let choices = |choices: Value| task(json!({"source": {"path": "a", "fixed_choices": choices}}));
    assert_eq!(choices(json!(["A", "B", "A"])), "/source/fixed_choices/2");
    assert_eq!(choices(json!(["A"])), "/source/fixed_choices");
    assert_eq!(choices(json!(["A", "B"])), "");
}

#[test]
fn overlap_refuses_lengths_and_counts_of_zero() {
    let required = json!({"instructions": "pool", "task": "task"});
    for key in ["ngram", "common"] {
        assert_eq!(refused("overlap", with(required.clone(), &json!({key: 0}))), format!("/{key}"));
    }
    let resolved = declaration("overlap").unwrap().resolve(required).unwrap();
    assert_eq!((&resolved.parameters["ngram"], &resolved.parameters["drop"]), (&json!(13), &json!("test")));
}

#[test]
fn evaluate_refuses_a_repeated_metric_and_sizes_of_zero() {
    let evaluate = |more: Value| refused("evaluate", with(json!({"model": "m", "task": "t"}), &more));
    assert_eq!(evaluate(json!({"metrics": ["loss", "choice", "match"]})), "");
    assert_eq!(evaluate(json!({"metrics": ["loss", "choice", "loss"]})), "/metrics/2");
    assert_eq!(evaluate(json!({"metrics": ["match", "match"]})), "/metrics/1");
    for key in ["limit", "batch_tokens", "generate_rows", "max_tokens"] {
        assert_eq!(evaluate(json!({key: 0})), format!("/{key}"));
    }
    assert_eq!(evaluate(json!({"max_tokens": 1})), "/max_tokens");
}

#[test]
fn features_and_clusters_refuse_sizes_of_zero() {
    let features = |more: Value| refused("features", with(json!({"instructions": "p", "model": "m"}), &more));
    assert_eq!(features(json!({"batch_tokens": 0})), "/batch_tokens");
    assert_eq!(features(json!({"max_tokens": 1})), "/max_tokens");
    assert_eq!(refused("clusters", json!({"features": "f", "columns": ["a", "b", "a"]})), "/columns/2");
    for key in ["dimensions", "clusters", "iterations", "starts"] {
        assert_eq!(refused("clusters", json!({"features": "f", key: 0})), format!("/{key}"));
        assert_eq!(refused("clusters", json!({"features": "f", "like": "c", key: 4})), format!("/{key}"));
    }
    assert_eq!(refused("clusters", json!({"features": "f", "like": "c", "whiten": true})), "/whiten");
    let resolved = |parameters: Value| declaration("clusters").unwrap().resolve(parameters).unwrap().parameters;
    let written =
        json!({"features": "f", "dimensions": 32, "clusters": 4, "whiten": true, "iterations": 100, "starts": 4});
    assert_eq!(resolved(written), resolved(json!({"features": "f"})));
    assert_ne!(resolved(json!({"features": "f", "clusters": 5})), resolved(json!({"features": "f"})));
    assert_eq!(refused("clusters", json!({"features": "f", "like": "c", "columns": ["a"]})), "");
}

#[test]
fn every_kind_that_encodes_rows_has_the_same_limit_of_a_sequence() {
    let required = [
        ("features", json!({"instructions": "p", "model": "m"})),
        ("influence", json!({"instructions": "p", "model": "m", "task": "t"})),
        (
            "finetune",
            json!({"instructions": "p", "model": "m", "task": "t", "select": {"method": "random"}, "steps": 1}),
        ),
        ("selector", json!({"instructions": "p", "features": "f", "model": "m", "task": "t"})),
        ("pretrain", json!({"model": "m", "text": "p", "steps": 1})),
        ("evaluate", json!({"model": "m", "task": "t"})),
    ];
    for (kind, required) in required {
        let resolved =
            |more: Value| declaration(kind).unwrap().resolve(with(required.clone(), &more)).unwrap().parameters;
        let limit = |parameters: Value| (parameters["max_tokens"].clone(), parameters["on_overlong"].clone());
        assert_eq!(limit(resolved(json!({}))), (json!(1024), json!("truncate")), "{kind}");
        let given = json!({"max_tokens": 9, "on_overlong": "drop"});
        assert_eq!(limit(resolved(given)), (json!(9), json!("drop")), "{kind}");
        assert_eq!(refused(kind, with(required.clone(), &json!({"on_overlong": "cut"}))), "/on_overlong", "{kind}");
        assert_eq!(refused(kind, with(required.clone(), &json!({"max_tokens": 1}))), "/max_tokens", "{kind}");
    }
    let source = json!({"prefix": "base", "train_layers": 1, "instructions": "pool", "task": "task"});
    let model: crate::model::Parameters = serde_json::from_value(json!({"source": source})).expect("sound");
    assert_eq!(model.source.sequence_limit(), raisin_settings::SequenceLimit::default());
}

#[test]
fn report_refuses_an_empty_list_and_a_repeated_stage() {
    assert_eq!(refused("report", json!({"of": []})), "/of");
    assert_eq!(refused("report", json!({"of": ["scores", "tuned", "scores"]})), "/of/2");
    assert_eq!(refused("report", json!({"of": ["scores", "tuned"]})), "");
}

#[test]
fn model_refuses_impossible_sources() {
    let said = |source: Value| declaration("model").unwrap().resolve(json!({"source": source})).unwrap_err().message;
    assert_eq!(said(json!({})), "a model has one source, but 0 are given");
    assert_eq!(said(json!({"gguf": "a", "huggingface": "b"})), "a model has one source, but 2 are given");
    assert_eq!(said(json!({"prefix": "base"})), "a frozen prefix needs `train_layers`");
    assert_eq!(said(json!({"gguf": "a", "train_layers": 2})), "`train_layers` belongs to `prefix`, which is not given");
    let init = json!({"hidden_size": 8, "layers": 1, "heads": 2, "intermediate_size": 8});
    let odd = json!({"init": with(init.clone(), &json!({"hidden_size": 10}))});
    assert!(said(odd).starts_with("impossible shape: `hidden_size` / `heads` is 5"));

    let source = |source: Value| refused("model", json!({"source": source}));
    let prefix = json!({"prefix": "base", "train_layers": 1, "instructions": "pool", "task": "task"});
    assert_eq!(source(prefix.clone()), "");
    assert_eq!(source(with(prefix.clone(), &json!({"max_tokens": 1}))), "/source/max_tokens");
    assert_eq!(source(with(prefix.clone(), &json!({"on_overlong": "drop"}))), "");
    assert_eq!(source(with(prefix.clone(), &json!({"on_overlong": "cut"}))), "/source/on_overlong");
    assert_eq!(source(json!({"gguf": "a", "on_overlong": "drop"})), "/source/on_overlong");
    assert_eq!(source(with(prefix, &json!({"train_layers": 0}))), "/source/train_layers");
    let shaped = |more: Value| source(json!({"init": with(init.clone(), &more)}));
    assert_eq!(shaped(json!({})), "");
    assert_eq!(shaped(json!({"context": 1})), "/source/init/context");
    assert_eq!(shaped(json!({"rope_theta": 0.0})), "/source/init/rope_theta");
    assert_eq!(shaped(json!({"layers": 0})), "/source/init");
    assert_eq!(shaped(json!({"context": 1_000_000_000_000_u64})), "/source/init/context");
    let message = |more: Value| said(json!({"init": with(init.clone(), &more)}));
    let large = message(json!({"layers": 1_000_000_000_u64}));
    assert_eq!(large, "impossible shape: 1000000000 layers are more than the limit of 10000");
    let wide = message(json!({"hidden_size": 1_000_000, "intermediate_size": 1_000_000, "layers": 80}));
    assert_eq!(wide, "impossible shape: its layers have 2240000 GB of weights in f32, and the limit is 100 GB");
    let most = json!({"hidden_size": i64::MAX - 1, "intermediate_size": i64::MAX, "heads": 1, "layers": 10_000});
    assert!(message(most).starts_with("impossible shape: its layers have "));
    // The shape of Llama 2 with 13 billion weights.
    let usual = json!({"hidden_size": 5120, "intermediate_size": 13824, "heads": 40, "layers": 40, "context": 4096});
    assert_eq!(shaped(usual), "");
    assert_eq!(source(json!({"gguf": "a", "base": "b"})), "/source/base");
    assert_eq!(source(json!({"huggingface": "a", "base": "b"})), "");
    let parameters = json!({"source": {"init": init}});
    let mut parameters: model::Parameters = serde_json::from_value(parameters).unwrap();
    parameters.source.init.as_mut().unwrap().rope_theta = f64::NAN;
    assert_eq!(model::ModelKind::check(&parameters).unwrap_err().pointer, "/source/init/rope_theta");
}

/// The key of a stage whose inputs all have the same content, whatever their names are.
fn key(kind: &str, parameters: Value) -> Digest {
    let declaration = declaration(kind).unwrap();
    let resolved = declaration.resolve(parameters).unwrap();
    let artifact = Some(Digest::of(b"artifact"));
    let inputs = resolved.needs.stages.iter().map(|need| {
        let stage = if need.by_name { need.stage.clone() } else { String::new() };
        let gathered = || vec![GatheredArtifact { stage, variant: serde_json::Map::new(), artifact }];
        let is_named = declaration.gathers || need.by_name;
        let input = if is_named { Input::Artifacts(gathered()) } else { Input::Artifact(artifact) };
        (need.pointer.as_str(), input)
    });
    let file = |pointer| (pointer, Input::File { blake3: Digest::of(b"file"), name: "file".to_owned() });
    let inputs = inputs.chain(resolved.needs.files.iter().map(|need| file(need.pointer.as_str())));
    let environment = Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 };
    Action::of(declaration, &resolved, inputs, 17, &environment).unwrap().key().unwrap()
}

#[test]
fn the_name_of_a_stage_or_file_that_a_method_ignores_is_not_in_the_key() {
    let stage = |select: Value, features: Option<&str>| {
        let mut stage = json!({"instructions": "pool", "model": "m", "task": "t", "steps": 3, "select": select});
        if let Some(features) = features {
            stage["features"] = json!(features);
        }
        key("finetune", stage)
    };
    let bare = stage(json!({"method": "random"}), None);
    for (select, features) in [
        (json!({"method": "random"}), Some("clusters")),
        (json!({"method": "random", "policy": "selector"}), None),
        (json!({"method": "random", "policy": "renamed", "path": "scores.csv"}), Some("renamed too")),
    ] {
        assert_eq!(stage(select.clone(), features), bare, "{select}");
    }
    // A method that reads the stages has their artifacts in its key, and no names either.
    let raise = |policy: &str, features: &str| stage(json!({"method": "raise", "policy": policy}), Some(features));
    assert_eq!(raise("selector", "clusters"), raise("renamed", "renamed too"));
    assert_ne!(raise("selector", "clusters"), bare);
    assert_ne!(stage(json!({"method": "full"}), None), bare);
}

#[test]
fn the_name_of_a_stage_is_in_the_key_of_a_query_only_if_the_query_contains_it() {
    let query = |of: [&str; 2]| key("sql", json!({"query": "select * from pool.rows", "of": of}));
    assert_eq!(query(["pool", "scores"]), query(["pool", "renamed"]));
    assert_ne!(query(["pool", "scores"]), query(["scores", "pool"]));
    let report = |of: &str| key("report", json!({"of": [of]}));
    assert_ne!(report("scores"), report("renamed"), "a report shows the names");
}
