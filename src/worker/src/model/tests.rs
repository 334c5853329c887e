//! Tests of the kind `model`.

use super::*;
use raisin_base::error::{Context as _, render};
use raisin_contract::{Assignment, Declaration};
use raisin_corpus::artifact::{PoolRow, examples_batch, instructions_batch};
use raisin_corpus::{Example, Message};
use raisin_lm::proxy::PrefixStates;
use raisin_table as table;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn made(parameters: Value, inputs: &[(&str, PathBuf)], folder: PathBuf) -> Result<()> {
    made_of(parameters, inputs, &[], folder)
}

/// Runs a stage with these artifacts and these files.
fn made_of(parameters: Value, inputs: &[(&str, PathBuf)], files: &[(&str, &Path)], folder: PathBuf) -> Result<()> {
    let resolved = Declaration::of::<raisin_kinds::model::ModelKind>()
        .resolve(parameters)
        .map_err(|problem| raisin_base::error::anyhow!(problem.message))?;
    let mut assignment = Assignment::for_test("model", folder, inputs);
    assignment.files = files.iter().map(|(pointer, path)| ((*pointer).to_owned(), path.to_path_buf())).collect();
    let context = raisin_kinds::context_for_test(assignment)?;
    run(serde_json::from_value(resolved.parameters)?, &context)
}

fn tiny() -> Value {
    json!({"source": {"init": {"hidden_size": 16, "layers": 3, "heads": 2, "intermediate_size": 24, "context": 64}}})
}

#[test]
fn fresh_weights_can_be_loaded_and_have_the_same_bytes_twice() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    made(tiny(), &[], at("a"))?;
    made(tiny(), &[], at("b"))?;
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert_eq!(std::fs::read(at("a/out").join(name))?, std::fs::read(at("b/out").join(name))?, "{name}");
    }
    let model = lm::Model::load(&at("a/out"), Device::Cpu, TensorKind::Float)?;
    assert_eq!(model.config.vocab_size, byte_tokenizer::VOCABULARY_SIZE as i64);
    assert_eq!(model.config.eos_token_id, [byte_tokenizer::END]);
    Ok(())
}

#[test]
fn a_proxy_has_the_states_of_pool_and_validation_and_loads_its_base() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    made(tiny(), &[], at("base"))?;
    let turns = |text: &str| vec![Message::new("user", text), Message::new("assistant", "yes")];
    std::fs::create_dir_all(at("pool"))?;
    let rows = [PoolRow::new(turns("one"), 0, 1), PoolRow::new(turns("a second, longer one"), 0, 2)];
    table::write(&at("pool/instructions.parquet"), &instructions_batch(&rows)?)?;
    std::fs::create_dir_all(at("task"))?;
    let example = Example::open(0, [turns("and then?"), vec![Message::new("user", "what?")]].concat(), "this");
    for name in ["validation", "test"] {
        table::write(&at("task").join(format!("{name}.parquet")), &examples_batch(std::slice::from_ref(&example))?)?;
    }
    std::fs::write(at("task/task.json"), r#"{"scoring": "loss", "max_new_tokens": 8}"#)?;
    // As in the store, artifacts are neighbouring folders whose names are digests.
    std::fs::rename(at("base/out"), at("0123"))?;
    let source = json!({"prefix": "base", "train_layers": 1, "instructions": "pool", "task": "task"});
    let inputs = [("/source/prefix", at("0123")), ("/source/instructions", at("pool")), ("/source/task", at("task"))];
    made(json!({"source": source}), &inputs, at("proxy"))?;
    std::fs::rename(at("proxy/out"), at("4567"))?;
    let states = PrefixStates::open(&at("4567"))?;
    assert_eq!((states.pool_rows(), states.config.prefix_layers, states.validation_tokens()?.len()), (2, 2, 1));
    let instructions = read_instructions(&at("pool"))?;
    let sequence = Codec::load(&at("4567"))?.instruction(&instructions[1], states.config.max_tokens).sequence;
    states.check(1, &sequence.context("a sequence")?)?;
    let whole = Codec::load(&at("4567"))?.example(&example, states.config.max_tokens).sequence;
    assert_eq!(states.validation_tokens()?, [whole.context("a sequence")?.tokens], "with all turns");
    assert_eq!(lm::Model::load(&at("4567"), Device::Cpu, TensorKind::Float)?.config.num_hidden_layers, 3);
    let source = json!({"prefix": "base", "train_layers": 3, "instructions": "pool", "task": "task"});
    let error = made(json!({"source": source}), &inputs, at("all")).expect_err("nothing would be frozen");
    assert!(error.to_string().contains("the base has 3 layers"), "{error}");
    Ok(())
}

/// A model folder as transformers saves it, with everything that `from_pretrained` reads.
fn saved(at: &Path) -> Result<()> {
    made(tiny(), &[], at.to_owned())?;
    let folder = at.join("out");
    for (name, text) in KEPT {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(path, text)?;
    }
    Ok(())
}

/// Files that raisin keeps byte for byte.
const KEPT: [(&str, &str); 5] = [
    (
        "generation_config.json",
        "{\"eos_token_id\": [3, 7],\n\"temperature\":0.6, \"top_p\": 0.95, \"do_sample\": true}",
    ),
    ("chat_template.jinja", "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"),
    ("additional_chat_templates/tool_use.jinja", "{{ tools }}"),
    ("added_tokens.json", "{ \"<|end|>\": 256 }"),
    ("special_tokens_map.json", "{\"eos_token\": \"<|end|>\"}"),
];

#[test]
fn what_from_pretrained_reads_is_kept_byte_for_byte() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    saved(&at("saved"))?;
    let source = at("saved/out");
    let from = |name: &str, path: &Path| -> Result<()> {
        made_of(json!({"source": {"huggingface": "x"}}), &[], &[("/source/huggingface", path)], at(name))
    };
    from("one", &source)?;
    // A second stage reads the artifact of the first.
    from("two", &at("one/out"))?;
    for stage in ["one", "two"] {
        let out = at(stage).join("out");
        for (name, text) in KEPT {
            assert_eq!(std::fs::read_to_string(out.join(name))?, text, "{stage}: {name}");
        }
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            assert_eq!(std::fs::read(out.join(name))?, std::fs::read(source.join(name))?, "{stage}: {name}");
        }
        let stop = codec(&out)?.stop_tokens().to_vec();
        assert_eq!(stop, [3, 7, byte_tokenizer::END], "of generation_config.json and of the tokenizer");
    }
    // Without generation_config.json, the file gets the tokens of config.json.
    std::fs::remove_file(source.join("generation_config.json"))?;
    from("three", &source)?;
    let written: Value = serde_json::from_slice(&std::fs::read(at("three/out/generation_config.json"))?)?;
    assert_eq!(written["eos_token_id"], byte_tokenizer::END);
    Ok(())
}

#[test]
fn a_token_without_a_row_in_the_embedding_is_refused_before_any_weight_is_read() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    saved(&at("saved"))?;
    let source = at("saved/out");
    let refused = || -> Result<String> {
        let parameters = json!({"source": {"huggingface": "x"}});
        let error = made_of(parameters, &[], &[("/source/huggingface", &source)], at("made")).err();
        assert!(!at("made/out/model.safetensors").exists());
        Ok(render(&error.context("the folder is accepted")?))
    };
    let path = source.join("tokenizer.json");
    let whole = std::fs::read_to_string(&path)?;
    let mut tokenizer: Value = serde_json::from_str(&whole)?;
    let mut added = tokenizer["added_tokens"][0].clone();
    (added["id"], added["content"]) = (json!(260), json!("<|extra|>"));
    tokenizer["added_tokens"].as_array_mut().context("a list")?.push(added);
    std::fs::write(&path, tokenizer.to_string())?;
    // No weights are there: the tokenizer is refused first.
    std::fs::rename(source.join("model.safetensors"), at("weights"))?;
    let words = refused()?;
    for part in
        ["tokenizer.json has the token \"<|extra|>\" with the number 260", "only 260 rows", "resize_token_embeddings"]
    {
        assert!(words.contains(part), "{words}");
    }
    // Stages that open an artifact with a model check the same.
    assert!(render(&codec(&source).err().context("accepted")?).contains("resize_token_embeddings"));
    std::fs::write(&path, &whole)?;
    std::fs::write(source.join("generation_config.json"), "{\"eos_token_id\": 300}")?;
    assert!(refused()?.contains("the token 300 ends a generation"), "{}", refused()?);
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")?;
    assert!(refused()?.contains("tokenizer.json is a pointer of git LFS"), "{}", refused()?);
    std::fs::remove_file(&path)?;
    assert!(refused()?.contains("has no tokenizer.json"), "{}", refused()?);
    std::fs::write(source.join("tokenizer.model"), "x")?;
    let words = refused()?;
    assert!(words.contains("raisin does not read tokenizer.model. Convert the tokenizer: python -c"), "{words}");
    Ok(())
}

#[test]
fn fresh_weights_have_a_row_for_the_token_with_the_largest_number() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let tokenizer = at("tokenizer");
    std::fs::create_dir(&tokenizer)?;
    byte_tokenizer::write(&tokenizer, 64)?;
    // The numbers of the tokens have a gap.
    let path = tokenizer.join("tokenizer.json");
    let mut content: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    content["model"]["vocab"]["ĀĀ"] = json!(299);
    std::fs::write(&path, content.to_string())?;
    let mut parameters = tiny();
    parameters["source"]["init"]["tokenizer"] = json!("tokenizer");
    made_of(parameters, &[], &[("/source/init/tokenizer", &tokenizer)], at("made"))?;
    assert_eq!(lm::ModelConfig::read(&at("made/out"))?.vocab_size, 300);
    codec(&at("made/out"))?;
    Ok(())
}

#[test]
fn an_adapter_without_a_tokenizer_gets_the_files_of_its_base() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    saved(&at("saved"))?;
    let base = at("saved/out");
    let mut model = lm::Model::load(&base, Device::Cpu, TensorKind::Float)?;
    let targets = lm::TARGETS.map(str::to_owned).to_vec();
    model.prepare(&lm::Adaptation::Lora { rank: 2, alpha: 4.0, targets }, &Seed::new(1))?;
    model.save_adapter(&at("exported"), None)?;
    for (name, text) in KEPT {
        assert_eq!(std::fs::read_to_string(at("exported").join(name))?, text, "the export of an adapter: {name}");
    }
    std::fs::create_dir(at("adapter"))?;
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(at("exported").join(name), at("adapter").join(name))?;
    }
    let source = json!({"huggingface": "adapter", "base": "base"});
    let files: [(&str, &Path); 2] = [("/source/huggingface", &at("adapter")), ("/source/base", &base)];
    made_of(json!({"source": source}), &[], &files, at("made"))?;
    for (name, text) in KEPT {
        assert_eq!(std::fs::read_to_string(at("made/out").join(name))?, text, "{name}");
    }
    Ok(())
}
