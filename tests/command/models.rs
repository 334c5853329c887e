//! Models that a program writes: they are read as those of the other kinds, and a folder with a fault is refused.

use serde_json::json;

use raisin_tests::Project;

/// A pipeline in which the shell script makes a model of the base of the quickstart.
fn project(script: &str) -> Project {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/quickstart-base");
    let project = Project::with_text(&format!(
        "[stage.pool]\nkind = \"generate\"\nsize = 60\nvalidation = 8\ntest = 16\n\n\
         [stage.base]\nkind = \"model\"\nsource = {{ huggingface = \"{base}\" }}\n\n\
         [stage.adapted]\nkind = \"finetune\"\ninstructions = \"pool\"\nmodel = \"base\"\ntask = \"pool\"\n\
         select = {{ method = \"random\" }}\nsteps = 2\nbatch_size = 4\n\n\
         [stage.made]\nkind = \"command\"\nrun = [\"sh\", \"script.sh\", \"{{out}}\", \"{{base}}\", \"{{adapted}}\"]\n\
         files = [\"script.sh\"]\nprovides = [\"model\"]\n\n\
         [stage.before]\nkind = \"evaluate\"\nmodel = \"base\"\ntask = \"pool\"\nmetrics = [\"loss\"]\n\n\
         [stage.learnt]\nkind = \"evaluate\"\nmodel = \"adapted\"\ntask = \"pool\"\nmetrics = [\"loss\"]\n\n\
         [stage.scores]\nkind = \"evaluate\"\nmodel = \"made\"\ntask = \"pool\"\nmetrics = [\"loss\"]\n"
    ));
    project.write("script.sh", script);
    project
}

/// The files of a model, without what belongs to the store.
const COPY: &str =
    "for file in $2/*; do case $file in */manifest.json) ;; *) cp $file $1;; esac; done; chmod +w $1/*\n";

/// The files of an adapter as PEFT writes it, without tokenizer and configuration of the model.
const ADAPTER: &str = "cp $3/adapter_config.json $3/adapter_model.safetensors $1; chmod +w $1/*\n";

#[test]
fn a_model_and_an_adapter_of_a_program_are_models() {
    let project = project(COPY);
    project.done(&["build", "p.toml"]);
    let equal = |other: &str| {
        let query = format!("select a.loss = b.loss as equal from {other}.items a join scores.items b on a.id = b.id");
        let rows = project.sql(&query);
        rows.len() == 16 && rows.iter().all(|row| *row == json!({"equal": true}))
    };
    assert!(equal("before"));
    project.write("script.sh", ADAPTER);
    project.done(&["build", "p.toml"]);
    assert!(equal("learnt") && !equal("before"));
    let made = project.path("out/p/made");
    assert!(made.join("references.json").is_file() && made.join("tokenizer.json").is_file());
}

#[test]
fn a_model_folder_with_a_fault_fails_the_stage_of_the_program() {
    let cut = "cp $1/model.safetensors $1/x; head -c 1000000 $1/x > $1/model.safetensors; rm $1/x";
    for (change, expected) in [
        ("rm $1/config.json", "the program did not write `config.json` into {out}, which has generation_config.json"),
        ("echo {} > $1/config.json", "config.json, which the program wrote, has no `model_type`"),
        ("echo [] > $1/config.json", "config.json is not a JSON object"),
        ("rm $1/tokenizer.json", "save the tokenizer too: `tokenizer.save_pretrained(OUT)`"),
        ("echo {} > $1/tokenizer.json", "the tokenizer that the program wrote cannot be read"),
        ("mv $1/model.safetensors $1/pytorch_model.bin", "raisin does not open pytorch_model.bin: write safetensors"),
        ("mkdir $1/m; mv $1/*.* $1/m", "save the model into {out} itself"),
        (cut, "because: its header asks for 1432648 bytes, and the file has 1000000"),
        (
            "rm $1/model.safetensors; echo '{\"weight_map\": {\"a\": \"one.safetensors\"}}' > $1/model.safetensors.index.json",
            "model.safetensors.index.json lists this file",
        ),
        ("cp $3/adapter_config.json $1", "the program did not write `adapter_model.safetensors`"),
        (ADAPTER, "the program wrote both an adapter and the weights of a whole model"),
    ] {
        let project = project(&format!("{COPY}{change}\n"));
        let (code, told) = project.refused(&["build", "p.toml", "--only", "made"]);
        assert!(code == 1 && told.contains(expected), "{change}: {told}");
    }
    let project = project(ADAPTER);
    let text = std::fs::read_to_string(project.path("p.toml")).unwrap();
    project.write("p.toml", &text.replace(", \"{base}\", \"{adapted}\"", ""));
    project.write("script.sh", "echo {} > $1/adapter_config.json; echo > $1/adapter_model.safetensors\n");
    let (_, told) = project.refused(&["build", "p.toml", "--only", "made"]);
    assert!(told.contains("no input of the stage is its base model"), "{told}");
}
