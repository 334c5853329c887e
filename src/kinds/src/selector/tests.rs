use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::{Parameters, SelectorKind};
use crate::declaration;
use raisin_contract::{Declaration, Kind as _, ParameterProblem};

fn kind() -> &'static Declaration {
    declaration("selector").expect("registered")
}

/// The parameters of a pipeline file: the inputs, and `more`.
fn written(more: &Value) -> Value {
    let mut all = json!({"instructions": "pool", "features": "clusters", "model": "base", "task": "gsm8k"});
    all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    all
}

/// The parameters that are part of the action key.
fn resolved(more: &Value) -> Value {
    kind().resolve(written(more)).expect("sound").parameters
}

fn refused(more: &Value) -> ParameterProblem {
    kind().resolve(written(more)).expect_err("wrong")
}

/// The parameters of the preset `ppo`, as in the action keys since version 8 of the kind.
fn ppo() -> Value {
    let values = json!({
        "instructions": "pool", "features": "clusters", "model": "base", "task": "gsm8k", "preset": "ppo",
        "adaptation": {
            "method": "lora", "rank": 16, "alpha": 32.0, "layers": 8,
            "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
        "learning_rate": 2e-4, "schedule": "cosine", "warmup": 0.0, "max_tokens": 1024, "micro_batch_tokens": 4096,
        "rounds": 20, "episodes_per_round": 1, "steps": 60, "batch_size": 16, "evaluate_every": 1,
        "policy": "hierarchical", "clusters_per_step": 2,
        "state": ["stage", "difficulty", "semantic", "availability"],
        "explore": true, "deployment": "sample", "reuse_penalty": 2.0, "actor_widths": [64], "critic_widths": [64],
        "actor_learning_rate": 0.01, "critic_learning_rate": 0.01, "weight_decay": 0.0, "decay_learning_rate": true,
        "gamma": 0.0, "lambda": 0.95, "epsilon": 0.2, "ratio": "item", "epochs": 6, "minibatches": 4,
        "entropy_bonus": 0.0, "gradient_clip": 0.5, "target_kl": 0.0, "normalise_advantage": true,
        "normalise_reward": true, "baseline": "both", "credit": "contribution",
    });
    let more = json!({
        "on_overlong": "truncate", "keep": "best", "learner": "ppo", "prior": "none", "prior_weight": 1.5,
        "sharpness": 5.0, "repeats": 3.0, "concentration": "limit", "effects_every": 2, "probes": 16,
    });
    with(values, more)
}

/// The parameters of the default preset.
fn standard() -> Value {
    let changes = json!({
        "preset": "default", "learner": "posterior", "prior": "similarity", "rounds": 4, "evaluate_every": 10,
        "policy": "flat", "state": ["stage", "difficulty", "semantic", "availability", "target", "influence", "source"],
        "reuse_penalty": 1.0, "credit": "effect",
    });
    with(ppo(), changes)
}

fn with(mut parameters: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else { panic!("not an object: {changes}") };
    parameters.as_object_mut().expect("an object").extend(changes);
    parameters
}

#[test]
fn parameters_of_the_action_key_are_complete_and_unchanged() {
    let paper = json!({
        "preset": "paper", "learning_rate": 2e-5, "policy": "per_cluster", "explore": false, "deployment": "top",
        "reuse_penalty": 0.0, "actor_learning_rate": 0.1, "critic_learning_rate": 0.2, "weight_decay": 0.01,
        "decay_learning_rate": false, "gamma": 0.99, "lambda": 1.0, "ratio": "product", "epochs": 1, "minibatches": 1,
        "normalise_advantage": false, "normalise_reward": false, "baseline": "critic", "credit": "shared", "keep": "last",
    });
    let changes = json!({
        "rounds": 5, "episodes_per_round": 3, "policy": "flat", "learning_rate": 1e-3, "gamma": 0.5, "state": ["semantic"],
        "actor_widths": [8, 4], "epochs": 2, "baseline": "step", "explore": true,
    });
    assert_eq!(resolved(&json!({})), standard());
    assert_eq!(resolved(&json!({"preset": "ppo"})), ppo());
    assert_eq!(resolved(&json!({"preset": "paper"})), with(ppo(), paper.clone()));
    assert_eq!(resolved(&changes), with(standard(), changes.clone()));
    let both = with(json!({"preset": "paper"}), changes.clone());
    assert_eq!(resolved(&both), with(with(ppo(), paper), changes));
    // Only a switch that is on is written.
    let switched = resolved(&json!({"activation_checkpointing": true}));
    assert_eq!(switched, with(standard(), json!({"activation_checkpointing": true})));
    assert_eq!(resolved(&json!({"activation_checkpointing": false})), standard());
    // A written default, a null, and a second reading of complete parameters change nothing.
    assert_eq!(resolved(&json!({"gamma": 0.0, "epochs": 6, "learning_rate": null, "rounds": null})), standard());
    assert_eq!(kind().resolve(standard()).expect("sound").parameters, standard());
}

#[test]
fn the_schema_is_the_committed_one() {
    let committed: Value =
        serde_json::from_str(include_str!("../../../../schemas/pipeline.schema.json")).expect("valid JSON");
    let kinds = committed.pointer("/properties/stage/additionalProperties/oneOf").expect("the kinds");
    let of_this = kinds.as_array().expect("a list").iter().find(|kind| kind["title"] == "selector").expect("it is one");
    let schema = kind().schema(&mut SchemaSettings::draft07().for_deserialize().into_generator()).to_value();
    let mut properties = of_this["properties"].as_object().expect("an object").clone();
    // Every stage has these properties.
    properties.retain(|name, _| !["kind", "resources", "seed"].contains(&name.as_str()));
    // As text: the order of the parameters counts. The committed schema has no line breaks in descriptions.
    let text = format!("{:#}", schema["properties"]).replace("\\n", " ");
    assert_eq!(text, format!("{:#}", Value::Object(properties)));
    assert_eq!(schema["required"], json!(["instructions", "features", "model", "task"]));
}

#[test]
fn a_wrong_parameter_is_refused_at_its_key() {
    for (more, pointer, message) in [
        (json!({"gama": 0.5}), "/gama", "unknown field `gama`"),
        (json!({"fetures": "clusters"}), "/fetures", "unknown field `fetures`"),
        (json!({"adaptation": {"rnk": 4}}), "/adaptation/rnk", "unknown field `rnk`"),
        (json!({"gamma": "much"}), "/gamma", "invalid type: string \"much\", expected f64"),
        (json!({"model": 3}), "/model", "invalid type: integer `3`, expected a string"),
        (json!({"policy": "flatt"}), "/policy", "unknown variant `flatt`"),
        (json!({"preset": "papr"}), "/preset", "unknown variant `papr`"),
        (json!({"actor_widths": [8, "4"]}), "/actor_widths/1", "invalid type: string \"4\""),
    ] {
        let problem = refused(&more);
        assert_eq!(problem.pointer, pointer, "{problem:?}");
        assert!(problem.message.starts_with(message), "{problem:?}");
    }
    // The message lists the names of both structs. For a nested table, it lists only the names of the table.
    let names = |problem: ParameterProblem| problem.message;
    let of_stage = names(refused(&json!({"gama": 0.5})));
    assert!(of_stage.contains("`gamma`") && of_stage.contains("`features`"), "{of_stage}");
    assert!(!names(refused(&json!({"adaptation": {"rnk": 4}}))).contains("`gamma`"));
    let missing = kind().resolve(json!({"features": "clusters"})).expect_err("no instructions");
    assert_eq!(missing.message, "missing field `instructions`");
}

#[test]
fn every_number_is_finite_and_within_its_range() {
    type Set = fn(&mut Parameters, f64);
    let numbers: [(&str, Set, &[f64]); 17] = [
        ("/adaptation/alpha", |of, value| of.stage.adaptation.alpha = value, &[0.0, -1.0]),
        ("/learning_rate", |of, value| of.stage.learning_rate = value, &[0.0, -1.0]),
        ("/warmup", |of, value| of.stage.warmup = value, &[-0.1, 1.0]),
        ("/prior_weight", |of, value| of.config.prior_weight = value, &[-0.1]),
        ("/sharpness", |of, value| of.config.sharpness = value, &[0.0, -1.0]),
        ("/repeats", |of, value| of.config.repeats = value, &[-0.1]),
        ("/reuse_penalty", |of, value| of.config.reuse_penalty = value, &[-0.1]),
        ("/actor_learning_rate", |of, value| of.config.actor_learning_rate = value, &[0.0, -1.0]),
        ("/critic_learning_rate", |of, value| of.config.critic_learning_rate = value, &[0.0, -1.0]),
        ("/weight_decay", |of, value| of.config.weight_decay = value, &[-0.1]),
        ("/gamma", |of, value| of.config.gamma = value, &[-0.1, 1.1]),
        ("/lambda", |of, value| of.config.lambda = value, &[-0.1, 1.1]),
        // With epsilon = 1 or more, the lower end of the clip range would not be above 0.
        ("/epsilon", |of, value| of.config.epsilon = value, &[0.0, -0.1, 1.0]),
        ("/entropy_bonus", |of, value| of.config.entropy_bonus = value, &[-0.1]),
        ("/gradient_clip", |of, value| of.config.gradient_clip = value, &[0.0, -0.5]),
        ("/target_kl", |of, value| of.config.target_kl = value, &[-0.1]),
        ("/micro_batch_tokens", |of, value| of.stage.micro_batch_tokens = value as usize, &[0.0]),
    ];
    let sound: Parameters = serde_json::from_value(standard()).expect("sound");
    assert_eq!(SelectorKind::check(&sound), Ok(()));
    for (pointer, set, beyond) in numbers {
        let never = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        // A count is always finite.
        let never = if pointer == "/micro_batch_tokens" { &never[..0] } else { &never };
        for &value in beyond.iter().chain(never) {
            let mut parameters = sound.clone();
            set(&mut parameters, value);
            let problem = SelectorKind::check(&parameters).expect_err("out of range");
            assert_eq!(problem.pointer, pointer, "{value}: {problem:?}");
        }
    }
}
