//! Tests of the rules of PEFT. tests/lm/adapters.rs compares with PEFT itself.

use super::*;
use serde_json::json;

fn with(more: &Value) -> Result<PeftConfig> {
    let mut raw = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]});
    for (key, value) in more.as_object().into_iter().flatten() {
        raw[key] = value.clone();
    }
    PeftConfig::of(&raw)
}

/// The scale of the adapters on q_proj, v_proj and down_proj of the layers 0, 1 and 10; 0 stands for no adapter.
fn scales(more: &Value) -> Result<[[f64; 3]; 3]> {
    let config = with(more)?;
    let mut scales = [[0.0; 3]; 3];
    for (row, layer) in [0, 1, 10].into_iter().enumerate() {
        for (column, part) in ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"].into_iter().enumerate() {
            let shape = config.adapter_of(&format!("model.layers.{layer}.{part}"))?;
            scales[row][column] = shape.map_or(0.0, |shape| shape.scale);
        }
    }
    Ok(scales)
}

#[test]
fn modules_are_selected_as_peft_selects_them() -> Result<()> {
    let (all, none) = ([2.0, 0.0, 2.0], [0.0; 3]);
    assert_eq!(scales(&json!({}))?, [all; 3]);
    assert_eq!(scales(&json!({"target_modules": "all-linear"}))?, [[2.0; 3]; 3]);
    let full = json!({"target_modules": ["model.layers.0.self_attn.q_proj", "layers.10.mlp.down_proj"]});
    assert_eq!(scales(&full)?, [[2.0, 0.0, 0.0], none, [0.0, 0.0, 2.0]]);
    assert_eq!(scales(&json!({"target_modules": ["proj", "1.mlp.down_proj"]}))?, [none, [0.0, 0.0, 2.0], none]);
    // A pattern must fit the whole name.
    assert_eq!(scales(&json!({"target_modules": "q_proj|v_proj"}))?, [none; 3]);
    assert_eq!(scales(&json!({"target_modules": ".*\\.(q_proj|v_proj)"}))?, [[2.0, 2.0, 0.0]; 3]);
    let ahead = json!({"target_modules": "model\\.layers\\.(?!0\\.).*down_proj"});
    assert_eq!(scales(&ahead)?, [none, [0.0, 0.0, 2.0], [0.0, 0.0, 2.0]]);
    assert_eq!(scales(&json!({"exclude_modules": ["down_proj"]}))?, [[2.0, 0.0, 0.0]; 3]);
    assert_eq!(scales(&json!({"exclude_modules": ".*\\.1\\..*"}))?, [all, none, all]);
    for layers in [json!(1), json!([1])] {
        assert_eq!(scales(&json!({"layers_to_transform": layers}))?, [none, all, none]);
    }
    assert_eq!(scales(&json!({"layers_to_transform": []}))?, [all; 3]);
    let pattern = |pattern: Value| scales(&json!({"layers_to_transform": [0, 10], "layers_pattern": pattern}));
    assert_eq!(pattern(json!("layers"))?, [all, none, all]);
    assert_eq!(pattern(json!(["blocks", "layers"]))?, [all, none, all]);
    assert_eq!(pattern(json!("blocks"))?, [none; 3]);
    // A whole name is selected whatever its layer is.
    let both = json!({"target_modules": ["model.layers.0.self_attn.q_proj", "down_proj"], "layers_to_transform": [1]});
    assert_eq!(scales(&both)?, [[2.0, 0.0, 0.0], [0.0, 0.0, 2.0], none]);
    Ok(())
}

#[test]
fn ranks_and_scales_are_those_of_peft() -> Result<()> {
    let patterns = json!({"rank_pattern": {"q_proj": 2, "layers.1.self_attn.q_proj": 16},
        "alpha_pattern": {"^model.layers.10.*": 4.0}});
    assert_eq!(scales(&patterns)?, [[4.0, 0.0, 2.0], [4.0, 0.0, 2.0], [2.0, 0.0, 1.0]], "the first pattern counts");
    let config = with(&patterns)?;
    let shape = config.adapter_of("model.layers.1.self_attn.q_proj")?;
    assert_eq!(shape, Some(AdapterShape { rank: 2, scale: 4.0 }));
    assert_eq!(scales(&json!({"use_rslora": true}))?, [[4.0, 0.0, 4.0]; 3]);
    Ok(())
}

#[test]
fn a_feature_that_changes_the_computation_is_refused_by_name() -> Result<()> {
    let refused = [
        json!({"peft_type": "LOHA"}),
        json!({"task_type": "SEQ_CLS"}),
        json!({"bias": "lora_only"}),
        json!({"init_lora_weights": "pissa_niter_4"}),
        json!({"use_dora": true}),
        json!({"lora_bias": true}),
        json!({"modules_to_save": ["lm_head"]}),
        json!({"layer_replication": [[0, 2], [1, 3]]}),
        json!({"alora_invocation_tokens": [5]}),
        json!({"target_parameters": ["mlp.experts"]}),
        json!({"trainable_token_indices": [3]}),
        json!({"use_qalora": true}),
        json!({"something_new": 3}),
        json!({"target_modules": null}),
        json!({"target_modules": "("}),
        json!({"target_modules": [1]}),
        json!({"rank_pattern": {"q_proj": 0.5}}),
        json!({"layers_to_transform": ["1"]}),
        json!({"r": 0}),
        json!({"lora_alpha": "8"}),
    ];
    for more in refused {
        let key = more.as_object().and_then(|keys| keys.keys().next().cloned()).unwrap_or_default();
        let error = with(&more).err().with_context(|| format!("{more} is accepted"))?;
        assert!(error.to_string().contains(&format!("`{key}`")), "{more}: {error}");
    }
    // Settings of the training, and features that are off.
    for more in [
        json!({"init_lora_weights": "gaussian", "lora_dropout": 0.1, "fan_in_fan_out": true, "inference_mode": false}),
        json!({"something_new": false, "use_dora": false, "modules_to_save": [], "something_newer": {}}),
    ] {
        assert!(with(&more).is_ok(), "{more}");
    }
    Ok(())
}
