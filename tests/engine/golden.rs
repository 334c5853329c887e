//! Golden tests of action keys: the canonical JSON of actions as literals. If the canonical form changes, every key
//! changes, and all existing caches become useless.
//!
//! The actions come from the action records of a build.

use raisin_base::digest::{Digest, canonical};
use serde_json::{Value, json};

use crate::project::EngineProject;

/// The keys and the canonical actions of the stages with this name, sorted by the text of the action.
fn actions(project: &EngineProject, stage: &str) -> Vec<(String, String)> {
    let records = project.store().actions().unwrap().into_iter().filter(|record| record.stage == stage);
    let mut found: Vec<_> = records.map(|record| (record.key.to_hex(), canonical(&record.action))).collect();
    found.sort_by(|one, other| one.1.cmp(&other.1));
    assert!(found.iter().all(|(key, text)| *key == Digest::of(text.as_bytes()).to_hex()));
    found
}

fn golden(key: &str, text: &str) -> (String, String) {
    (key.to_owned(), text.to_owned())
}

#[test]
fn an_action_with_every_kind_of_input_has_the_key_that_it_always_had() {
    let project = EngineProject::new();
    // The hidden file is not part of the input.
    project.write(&[("some/pool.jsonl", "one"), ("whole/a", "1"), ("whole/deep/b", "2"), ("whole/.c", "3")]);
    project.write(&[("several/x.txt", "4"), ("several/y.txt", "5"), ("several/z.md", "6")]);
    let plain: Value = json!({"text": "é \"quoted\"\n", "whole": -3, "large": u64::MAX, "part": 0.1, "tiny": 2.5e-7,
        "true": true, "nothing": null, "list": [1, [], {}], "table": {"b": 1, "a": {"Z": 2, "": 3}}, "empty": {}});
    let everything = json!({
        "of": ["first", "second"],
        "pinned": {"path": "some/pool.jsonl", "blake3": Digest::of(b"one").to_hex()},
        "folder": "whole",
        "pattern": {"path": "several/*.txt"},
        "plain": plain,
    });
    let stages = [
        ("first", "write", json!({"text": "one"})),
        ("second", "write", json!({"text": "two"})),
        ("all", "everything", everything),
    ];
    let pipeline = project.pipeline(vec![EngineProject::variant("", json!({}), u64::MAX - 5, &stages)]);
    assert_eq!(project.build(&pipeline).exit_code(), 0);
    assert_eq!(
        actions(&project, "all"),
        [golden(
            "153c1ea73b9d3ed6e4d4fe110fa5f8604af02318d420ff8b589f7928b47f9000",
            r#"{"environment":{"device":"cpu","dtype":"f32"},"format":1,"kind":"everything","kind_version":7,"parameters":{"folder":{"files":{"a":"d63bd9a826af91c1fea371965a64e11ee20f13e46b5f52c59901136605b3a487","deep/b":"813e9b729141e7f385afa0a2d0df3e6c3789e427ffe4aeef566a565bc8f2fe3d"}},"of":[{"artifact":"bf6d77d5f8d5ac22a1046b242522b5de690f73b905b00c46c54175eca6cdcb74"},{"artifact":"4ae2a3bac7e3d32910b32cfee80b249a3626f25f6947718025c62b472499e0a1"}],"pattern":{"blake3":null,"path":{"files":{"x.txt":"e67a9c4536256f1ec7495a146b5442fa7c0ed99e258a08260a4a244fa31c7c61","y.txt":"b3372b584dc0df6ce757fa43f459ca1f0c4180a08762cbfa41d022ca24f63d9f"}}},"pinned":{"blake3":null,"path":{"file":"d33fb48ab5adff269ae172b29a6913ff04f6f266207a7a8e976f2ecd571d4492","name":"pool.jsonl"}},"plain":{"empty":{},"large":18446744073709551615,"list":[1,[],{}],"nothing":null,"part":0.1,"table":{"a":{"":3,"Z":2},"b":1},"text":"é \"quoted\"\n","tiny":2.5e-7,"true":true,"whole":-3}},"seed":18446744073709551610}"#
        )]
    );
}

#[test]
fn an_action_that_gathers_has_the_key_that_it_always_had() {
    let project = EngineProject::new();
    let variants = [("x", 1), ("y", 2)].map(|(text, seed)| {
        let stages = [
            ("shared", "write", json!({"text": "shared"})),
            ("own", "write", json!({"text": text})),
            ("list", "show", json!({"of": ["own", "shared"]})),
        ];
        let values = json!({"stage.own.text": text, "pipeline.seed": seed});
        EngineProject::variant(&format!("text={text},seed={seed}"), values, seed, &stages)
    });
    assert_eq!(project.build(&project.pipeline(variants.into())).exit_code(), 0);
    assert_eq!(
        actions(&project, "list"),
        [golden(
            "bf6ba32c47beaf92512583f714c78539aa3d6f19e406d5eccc967204b1c782ad",
            r#"{"format":1,"kind":"show","kind_version":1,"parameters":{"of":[{"artifacts":[{"artifact":"c82666c8862ab734ec75aa6ce35b21ad150acfe532470a87c20f83d3d424bbe9","stage":"own","variant":{"pipeline.seed":1,"stage.own.text":"x"}},{"artifact":"1570a816d5663bf05d02a44b43f1556a420b53f17e2e359805e083bc3f08e540","stage":"own","variant":{"pipeline.seed":2,"stage.own.text":"y"}}]},{"artifacts":[{"artifact":"6aed3dec72e124f2bbdea7676b8d436a7ded5294355c0146a3ef20f3bd0531a0","stage":"shared","variant":{}}]}]}}"#
        )]
    );
}

#[test]
fn an_action_without_inputs_has_the_key_that_it_always_had() {
    let project = EngineProject::new();
    std::fs::write(project.folder.join("data.txt"), "data").unwrap();
    project.build(&project.one(&[("copy", "copy", json!({"path": "data.txt"})), ("list", "show", json!({"of": []}))]));
    assert_eq!(
        actions(&project, "copy"),
        [golden(
            "57d7188f092137ea60b89d1285c43eac32f3b8d80b8c24e82710811f450feace",
            r#"{"format":1,"kind":"copy","kind_version":1,"parameters":{"after":null,"blake3":null,"milliseconds":0,"path":{"file":"28a249c2e4d3a92bc0a16ed8f1b5cf83ca20415ee12e502b096624902bbc97bd","name":"data.txt"}}}"#
        )]
    );
    assert_eq!(
        actions(&project, "list"),
        [golden(
            "c8bd8ca9b15b4008f595d6dcac06e6281de981735706f157622b51fdd38ced96",
            r#"{"format":1,"kind":"show","kind_version":1,"parameters":{"of":[]}}"#
        )]
    );
}
