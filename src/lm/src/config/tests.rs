//! Tests of the reading of config.json.

use super::*;

#[test]
fn both_spellings_of_the_rotation_base_are_read() -> Result<()> {
    let old = json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "rope_theta": 5e5, "eos_token_id": [1, 2]});
    let mut new = old.clone();
    new["rope_theta"] = Value::Null;
    new["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5e5});
    assert_eq!(ModelConfig::from_checkpoint(&old)?, ModelConfig::from_checkpoint(&new)?);
    assert_eq!(ModelConfig::from_checkpoint(&old)?.eos_token_id, [1, 2]);
    assert_eq!(ModelConfig::from_checkpoint(&old)?.num_key_value_heads, 2);
    Ok(())
}

#[test]
fn a_written_config_is_read_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut config = ModelConfig::llama(256, 16, 2, 4, 2, 32);
    config.bos_token_id = Some(1);
    config.eos_token_id = vec![2];
    config.write(folder.path())?;
    assert_eq!(ModelConfig::read(folder.path())?, config);
    for (architecture, window) in
        [(Architecture::Mistral, None), (Architecture::Mistral, Some(9)), (Architecture::Qwen2, Some(9))]
    {
        config.set_architecture(architecture);
        config.sliding_window = window;
        config.rope_scaling = Some(RopeScaling::Linear { factor: 2.0 });
        config.write(folder.path())?;
        assert_eq!(ModelConfig::read(folder.path())?, config);
    }
    Ok(())
}

#[test]
fn a_missing_key_gets_the_default_of_transformers() -> Result<()> {
    let of = |kind: &str, more: Value| -> Result<ModelConfig> {
        let mut raw = json!({"model_type": kind, "vocab_size": 8, "hidden_size": 64, "intermediate_size": 8,
            "num_hidden_layers": 2, "num_attention_heads": 32});
        for (key, value) in more.as_object().into_iter().flatten() {
            raw[key] = value.clone();
        }
        ModelConfig::from_checkpoint(&raw)
    };
    let mistral = of("mistral", json!({}))?;
    assert_eq!((mistral.num_key_value_heads, mistral.sliding_window), (8, Some(4096)));
    assert_eq!(of("mistral", json!({"sliding_window": null}))?.sliding_window, None);
    assert_eq!((of("qwen3", json!({}))?.head_dim, of("qwen3", json!({"head_dim": null}))?.head_dim), (128, 2));
    assert_eq!(of("llama", json!({"num_key_value_heads": null}))?.num_key_value_heads, 32);
    let sliding = json!({"use_sliding_window": true, "sliding_window": 7});
    assert_eq!(of("qwen2", sliding.clone())?.sliding_window, None, "the lower 28 layers have no window");
    let with = |from: u32| {
        let mut sliding = sliding.clone();
        sliding["max_window_layers"] = from.into();
        of("qwen2", sliding)
    };
    assert_eq!(with(0)?.sliding_window, Some(7));
    assert!(with(1).expect_err("mixed").to_string().contains("only on the layers from 1 on"));
    Ok(())
}

#[test]
fn quantised_weights_are_refused_by_their_method() {
    let raw = json!({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}});
    let error = ModelConfig::from_checkpoint(&raw).expect_err("quantised");
    assert_eq!(error.to_string(), "the weights are quantised by `gptq`");
}

#[test]
fn an_unknown_architecture_is_named() {
    let error = ModelConfig::from_checkpoint(&json!({"model_type": "mamba"})).expect_err("unknown");
    assert_eq!(error.to_string(), "unknown model_type `mamba`");
}

/// A config.json of a llama with two layers and these keys.
fn llama_with(more: &Value) -> Result<ModelConfig> {
    let mut raw = json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 2, "num_attention_heads": 2});
    for (key, value) in more.as_object().into_iter().flatten() {
        raw[key] = value.clone();
    }
    ModelConfig::from_checkpoint(&raw)
}

#[test]
fn every_key_is_read_or_changes_nothing_or_is_refused_by_name_and_value() -> Result<()> {
    for (more, words) in [
        (json!({"brand_new": 3}), "`brand_new` is 3, and raisin does not know this key"),
        (json!({"attn_logit_softcapping": 50.0}), "`attn_logit_softcapping` is 50.0: the attention logits are capped"),
        (json!({"num_local_experts": 8}), "`num_local_experts` is 8: the layers are mixtures of experts"),
        (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is 0.5"),
        (json!({"residual_multiplier": 0.22}), "`residual_multiplier` is 0.22"),
        (json!({"attention_dropout": 0.1}), "raisin trains without dropout"),
        (json!({"auto_map": {"AutoModel": "code.py"}}), "the model has code of its own"),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "the weights are quantised by `gptq`"),
        (json!({"hidden_act": "gelu"}), "`hidden_act` is `gelu`"),
        (json!({"architectures": ["LlamaForSequenceClassification"]}), "`architectures` is [\"LlamaForSeq"),
        (json!({"rope_scaling": {"type": "longrope", "factor": 2.0}}), "unknown rope scaling `longrope`"),
        (json!({"rope_scaling": {"type": "default", "mrope_section": [8, 8]}}), "the rope scaling has `mrope_section`"),
        (json!({"rope_scaling": {"partial_rotary_factor": 0.25}}), "`partial_rotary_factor` is 0.25"),
        (json!({"rope_scaling": "linear"}), "the rope scaling is \"linear\""),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}),
            "`rope_scaling` and `rope_parameters` are different",
        ),
        (
            json!({"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}}),
            "`low_freq_factor` of the rope scaling is 4",
        ),
    ] {
        let error = llama_with(&more).err().with_context(|| format!("{more} is accepted"))?;
        assert!(format!("{error:#}").contains(words), "{more}: {error:#}");
    }
    // Features that are off, descriptions, and the settings of other programs.
    llama_with(
        &json!({"attn_logit_softcapping": null, "num_experts": 0, "partial_rotary_factor": 1.0, "use_qk_norm": false,
        "attention_dropout": 0.0, "brand_new": null, "transformers_version": "4.40.0", "use_cache": true, "pretraining_tp": 2,
        "_name_or_path": "x", "id2label": {"0": "a"}, "architectures": ["LLaMAForCausalLM"], "hidden_act": "silu",
        "rope_scaling": null, "rope_parameters": {}, "unsloth_version": "2025.1", "temperature": 0.6}),
    )?;
    Ok(())
}

#[test]
fn a_value_of_the_wrong_type_is_no_default() -> Result<()> {
    for (key, value) in [
        ("rms_norm_eps", json!("1e-5")),
        ("rms_norm_eps", json!(null)),
        ("rms_norm_eps", json!(-1)),
        ("rope_theta", json!("5e5")),
        ("num_key_value_heads", json!([2])),
        ("head_dim", json!(4.5)),
        ("max_position_embeddings", json!(-5)),
        ("max_position_embeddings", json!(0)),
        ("attention_bias", json!("true")),
        ("tie_word_embeddings", json!(1)),
        ("hidden_act", json!(3)),
        ("eos_token_id", json!("2")),
        ("eos_token_id", json!([2, -7])),
        ("bos_token_id", json!([1, 2])),
        ("pad_token_id", json!(u64::MAX)),
        ("vocab_size", json!(null)),
        ("hidden_size", json!(1_i64 << 40)),
        ("num_hidden_layers", json!(-1)),
    ] {
        let error = llama_with(&json!({ key: value })).err().with_context(|| format!("{key} = {value} is accepted"))?;
        assert!(format!("{error:#}").contains(&format!("`{key}`")), "{key}: {error:#}");
    }
    let whole = llama_with(&json!({"max_position_embeddings": 8192.0, "pad_token_id": -1}))?;
    assert_eq!((whole.max_position_embeddings, whole.pad_token_id), (8192, None));
    Ok(())
}

#[test]
fn the_types_of_the_layers_must_be_known_and_must_fit_the_window() -> Result<()> {
    let of = |kind: &str, more: Value| {
        let mut raw = more;
        raw["model_type"] = json!(kind);
        raw["num_key_value_heads"] = json!(2);
        llama_with(&raw).map(|config| config.sliding_window)
    };
    let types = |one: &str, two: &str| json!({"layer_types": [one, two]});
    assert_eq!(of("llama", types("full_attention", "attention"))?, None);
    let mut sliding = types("sliding_attention", "sliding_attention");
    sliding["sliding_window"] = json!(6);
    assert_eq!(of("mistral", sliding.clone())?, Some(6));
    for (kind, more, words) in [
        ("llama", sliding.clone(), "says sliding_attention, but the other keys give no sliding window"),
        ("qwen2", sliding.clone(), "says sliding_attention, but the other keys give no sliding window"),
        (
            "mistral",
            types("full_attention", "full_attention"),
            "says full_attention, but the other keys give a sliding",
        ),
        ("qwen3", types("full_attention", "linear_attention"), "has \"linear_attention\" for layer 1"),
        ("qwen3", types("full_attention", "sliding_attention"), "\"sliding_attention\" for layer 1, and \"full_"),
        ("qwen3", json!({"layer_types": ["full_attention"]}), "has 1 entries, but `num_hidden_layers` is 2"),
        ("qwen3", json!({"layer_types": "full_attention"}), "it must be a list"),
    ] {
        let error = of(kind, more.clone()).err().with_context(|| format!("{kind} {more} is accepted"))?;
        assert!(error.to_string().contains(words), "{kind} {more}: {error}");
    }
    // The types take precedence over `max_window_layers`.
    sliding["use_sliding_window"] = json!(true);
    sliding["max_window_layers"] = json!(1);
    assert_eq!(of("qwen2", sliding)?, Some(6));
    let mut full = types("full_attention", "full_attention");
    (full["use_sliding_window"], full["max_window_layers"]) = (json!(true), json!(1));
    assert_eq!(of("qwen3", full)?, None);
    Ok(())
}
