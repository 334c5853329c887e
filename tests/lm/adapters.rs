//! Compares adapters with PEFT: adapters that PEFT has saved, and adapters of a build that PEFT loads by their folder.

use std::path::Path;

use raisin_base::error::{Context as _, Result, render};
use raisin_corpus::Sequence;
use raisin_lm::{Batch, Model};
use tch::{Device, Kind as TensorKind};

use crate::{largest_difference, tensors};
use raisin_tests::Project;
use raisin_tests::python::{run_python, setting};

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn adapters_of_peft_compute_what_peft_computes_and_the_others_are_refused_by_name() -> Result<()> {
    let python = setting("RAISIN_PYTHON");
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    run_python(&python, "adapters.py", &[folder.path()])?;
    let base = folder.path().join("base");
    let load = |name: &str| Model::load_on_base(&folder.path().join(name), &base, Device::Cpu, TensorKind::Float);
    let (mut largest, mut compared) = (0f64, 0);
    for (name, words) in [
        ("plain", ""),
        ("all-linear", ""),
        ("full-names", ""),
        ("pattern", ""),
        ("layers", ""),
        ("one-layer", ""),
        ("excluded", ""),
        ("excluded-pattern", ""),
        ("ranks", ""),
        ("rslora", ""),
        ("gaussian", ""),
        ("no-dora", "`use_dora` is true"),
        ("no-bias", "`bias` is \"lora_only\""),
        ("no-lora-bias", "`lora_bias` is true"),
        ("no-saved-modules", "`modules_to_save` is [\"lm_head\"]"),
        ("no-head", "contains `base_model.model.lm_head."),
        ("no-embedding", "contains `base_model.model.model.embed_tokens"),
        ("no-pissa", "`init_lora_weights` is \"pissa\""),
        ("no-replication", "`layer_replication` is [[0,2],[1,3]]"),
        ("no-new-tokens", "`trainable_token_indices` is [3,4]"),
    ] {
        if !words.is_empty() {
            let error = render(&load(name).err().with_context(|| format!("{name} is accepted"))?);
            assert!(error.contains(words) && error.contains("merge_and_unload"), "{name}: {error}");
            continue;
        }
        let model = load(name).context(name)?;
        let expected = tensors(&folder.path().join(name).join("expected.safetensors"))?;
        let tokens: Vec<u32> =
            Vec::<i64>::try_from(expected.read("tokens")?)?.into_iter().map(|id| id as u32).collect();
        let sequence = Sequence { supervised: vec![false; tokens.len()], tokens };
        let batch = Batch::pack(&[&sequence], Device::Cpu)?;
        let logits = tch::no_grad(|| model.logits(&model.hidden(&batch)?))?;
        let difference = largest_difference(&logits, &expected.read("logits")?);
        assert!(difference < 2e-5, "{name}: {difference:e}");
        assert!(model.save(&folder.path().join("refused")).is_err(), "saving would lose the adapter");
        // The merged weights are the same model.
        model.save_merged(&folder.path().join("merged"))?;
        let merged = Model::load(&folder.path().join("merged"), Device::Cpu, TensorKind::Float)?;
        let merged = tch::no_grad(|| merged.logits(&merged.hidden(&batch)?))?;
        let difference = largest_difference(&merged, &logits);
        assert!(difference < 2e-5, "{name}, merged: {difference:e}");
        (largest, compared) = (largest.max(difference), compared + 1);
    }
    println!("{compared} adapters of peft, {largest:e} from peft at most");
    Ok(())
}

/// A base, a proxy of the base, and an adapter on the base.
const TUNED: &str = r#"
    [pipeline]
    name = "p"
    [stage.pool]
    kind = "generate"
    size = 40
    [stage.base]
    kind = "model"
    source = { init = { hidden_size = 16, layers = 2, heads = 2, intermediate_size = 32 } }
    [stage.proxy]
    kind = "model"
    source = { prefix = "base", train_layers = 1, instructions = "pool", task = "pool" }
    [stage.tuned]
    kind = "finetune"
    instructions = "pool"
    model = "base"
    task = "pool"
    select = { method = "random" }
    adaptation = { method = "lora", rank = 2 }
    learning_rate = 0.05
    steps = 4
    batch_size = 2
"#;

/// A copy of the stage `tuned` of [`TUNED`] with these changes.
fn copy(name: &str, changes: &[(&str, &str)]) -> String {
    let stage = TUNED.split("[stage.tuned]").nth(1).unwrap_or_default();
    let stage = changes.iter().fold(stage.to_owned(), |stage, (from, to)| stage.replace(from, to));
    format!("    [stage.{name}]{stage}")
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn peft_loads_the_adapters_of_a_build_by_their_folders_alone() -> Result<()> {
    let merge = ("steps = 4", "merge = true\n    steps = 4");
    let proxy = ("model = \"base\"", "model = \"proxy\"");
    let top = ("method = \"lora\"", "method = \"top_layers_lora\"");
    let again = ("model = \"base\"", "model = \"tuned\"");
    let stages = [
        TUNED.to_owned(),
        copy("whole", &[merge]),
        copy("upper", &[proxy, top]),
        copy("upper_whole", &[proxy, top, merge]),
        copy("again", &[again]),
    ];
    let project = Project::with_text(&stages.concat());
    let (_, told) = project.done(&["build", "p.toml", "--device", "cpu"]);
    let adapter = std::fs::read_to_string(project.path("out/p/tuned/adapter_config.json"))?;
    let base = project.digests("p")[&("base".to_owned(), String::new())];
    assert!(adapter.contains(&format!("\"base_model_name_or_path\": \"cache/artifacts/{base}\"")), "{adapter}");
    // PEFT puts no adapter on a base that is an adapter itself.
    assert!(told.contains("the base of this adapter is an adapter itself"), "{told}");
    let again = std::fs::read_to_string(project.path("out/p/again/adapter_config.json"))?;
    assert!(again.contains("\"base_model_name_or_path\": null"), "{again}");
    let pairs = ["out/p/tuned:out/p/whole", "out/p/upper:out/p/upper_whole"].map(Path::new);
    run_python(&setting("RAISIN_PYTHON"), "auto_peft.py", &[&project.path(""), pairs[0], pairs[1]])?;
    Ok(())
}
