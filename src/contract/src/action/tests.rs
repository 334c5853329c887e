//! Tests of actions: JSON and canonical JSON come back unchanged, for random actions and random JSON.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f32>().prop_filter("JSON has none", |number| number.is_finite()).prop_map(|n| json!(f64::from(n))),
        "\\PC{0,8}".prop_map(Value::from),
        "[\"\\\\\n\t\u{7f}a]{0,4}".prop_map(Value::from),
    ]
}

fn input() -> impl Strategy<Value = Input<'static>> {
    let gathered =
        ("[a-c]{1,3}", prop::collection::btree_map("[a-c.]{1,3}", scalar(), 0..3), prop::option::of(digest()))
            .prop_map(|(stage, variant, artifact)| GatheredArtifact {
                stage,
                variant: variant.into_iter().collect(),
                artifact,
            });
    prop_oneof![
        3 => scalar().prop_map(|value| Input::Plain(Cow::Owned(value))),
        1 => prop::option::of(digest()).prop_map(Input::Artifact),
        1 => prop::collection::vec(gathered, 0..3).prop_map(Input::Artifacts),
        1 => (digest(), "\\PC{0,8}").prop_map(|(blake3, name)| Input::File { blake3, name }),
        1 => prop::collection::btree_map("\\PC{0,4}", digest(), 0..3).prop_map(|files| Input::Files(Arc::new(files))),
    ]
}

fn part() -> impl Strategy<Value = Part<'static>> {
    input().prop_map(Part::Input).prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Part::List),
            // The entries are in reverse order, and no table has the form of an input.
            prop::collection::btree_map("[a-d]\"?", inner, 0..4).prop_map(|entries| {
                Part::Table(entries.into_iter().rev().map(|(name, part)| (Cow::Owned(name), part)).collect())
            }),
        ]
    })
}

prop_compose! {
    fn action()(parameters in part(), seed in prop::option::of(any::<u64>()), kind in "[a-z]{1,6}\"?",
        version in any::<u32>(), device in any::<Option<bool>>()) -> Action<'static> {
        let environment = device.map(|cuda| NumericEnvironment {
            device: if cuda { DeviceKind::Cuda } else { DeviceKind::Cpu },
            dtype: if cuda { DType::Bf16 } else { DType::F32 },
        });
        Action { format: ACTION_FORMAT, kind: kind.into(), kind_version: version, parameters, seed, environment }
    }
}

/// Random JSON, with objects that have exactly or almost the form of an input.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => scalar(),
        1 => digest().prop_map(|digest| Value::from(digest.to_hex())),
        1 => digest().prop_map(|digest| Value::from(digest.to_hex().to_uppercase())),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(
                prop_oneof![
                    Just("artifact".to_owned()),
                    Just("artifacts".to_owned()),
                    Just("file".to_owned()),
                    Just("files".to_owned()),
                    Just("name".to_owned()),
                    Just("stage".to_owned()),
                    Just("variant".to_owned())
                ],
                inner,
                0..4
            )
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn an_action_is_read_as_it_was_written(action in action()) {
        let json = action.to_json();
        prop_assert_eq!(&Action::of_json(&json).unwrap(), &action);
        prop_assert_eq!(action.canonical(), canonical(&json));
        prop_assert_eq!(action.key(), (!action.parameters.is_pending()).then(|| Digest::of_json(&json)));
        prop_assert_eq!(action.clone().into_owned(), action);
    }

    /// This also holds for JSON that `to_json` never writes: reading an action record or a plan loses nothing.
    #[test]
    fn json_that_is_read_as_an_action_is_written_unchanged(parameters in any_json()) {
        let json = json!({"format": 1, "kind": "k", "kind_version": 2, "parameters": parameters, "seed": 3});
        let action = Action::of_json(&json).unwrap();
        prop_assert_eq!(action.to_json().to_string(), json.to_string());
        prop_assert_eq!(action.canonical(), canonical(&json));
    }
}

#[test]
fn json_that_is_no_action_is_refused_with_the_missing_member() {
    let refused = |json: Value| Action::of_json(&json).map(|_| ()).unwrap_err().to_string();
    assert!(refused(json!([])).contains("a JSON object"));
    assert!(refused(json!({"format": 1, "kind": "k", "parameters": {}})).contains("kind_version"));
    let other = json!({"format": 1, "kind": "k", "kind_version": 1, "parameters": {}, "weather": "fine"});
    assert!(refused(other).contains("no member `weather`"));
}

#[test]
fn a_value_that_looks_like_an_input_is_plain_where_no_need_points() {
    let written = json!({"table": {"artifact": null}, "of": ["one"]});
    let part = Part::plain(&written);
    assert!(!part.is_pending() && part.to_json() == written);
    assert!(matches!(part.at("/of/0"), Some(Part::Input(Input::Plain(_)))));
    assert!(part.at("/of/1").is_none() && part.at("/table/artifact/x").is_none());
}
