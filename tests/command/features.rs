//! Embeddings that a program writes: the kinds that read features read them, and a table with a fault is refused.

use serde_json::{Value, json};

use raisin_tests::Project;

use crate::shell;

/// A pool of the quickstart, with clusters of features that the script `script.sh` writes, and a selection by them. The
/// script gets the folder of the results, the table of a stage of kind `features`, the pool, and the validation examples.
fn project(script: &str) -> Project {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/quickstart-base");
    let project = Project::with_text(&format!(
        "[stage.pool]\nkind = \"generate\"\nsize = 60\nvalidation = 8\ntest = 16\n\n\
         [stage.base]\nkind = \"model\"\nsource = {{ huggingface = \"{base}\" }}\n\n\
         [stage.own]\nkind = \"features\"\ninstructions = \"pool\"\nmodel = \"base\"\ntask = \"pool\"\n\n\
         [stage.made]\nkind = \"command\"\nrun = [\"sh\", \"script.sh\", \"{{out}}\", \"{{own}}\", \
         \"{{pool.instructions.jsonl}}\", \"{{pool.validation.jsonl}}\"]\n\
         files = [\"script.sh\"]\nprovides = [\"features\"]\n\n\
         [stage.expected]\nkind = \"clusters\"\nfeatures = \"own\"\ndimensions = 3\nclusters = 4\n\n\
         [stage.grouped]\nkind = \"clusters\"\nfeatures = \"made\"\ndimensions = 3\nclusters = 4\n\n\
         [stage.tuned]\nkind = \"finetune\"\ninstructions = \"pool\"\nmodel = \"base\"\ntask = \"pool\"\n\
         features = \"grouped\"\nselect = {{ method = \"rds\" }}\nsteps = 2\nbatch_size = 4\n"
    ));
    project.write("script.sh", script);
    project
}

#[test]
fn features_of_a_program_are_read_as_those_of_the_kind_features() {
    let project = project("cp $2/features.parquet $2/validation_features.parquet $1; chmod +w $1/*\n");
    project.done(&["build", "p.toml"]);
    let table = |stage: &str| std::fs::read(project.path(&format!("out/p/{stage}/clusters.parquet"))).unwrap();
    assert!(table("grouped") == table("expected"));
    let equal = "select count(*) as equal from own.features a join made.features b on a = b";
    assert!(project.sql("select count(*) as n from made.features") == [json!({"n": 60})], "{equal}");
}

/// Writes embeddings alone. The embedding of row 7 is that of all validation examples; the others lie across to it.
const EMBED: &str = "python3 embed.py $1 $3 $4\n";
const EMBED_PY: &str = r#"
import json, math, sys
out, pool, validation = sys.argv[1:]
rows = [json.loads(line) for line in open(pool)]
examples = [json.loads(line) for line in open(validation)]
with open(out + "/features.jsonl", "w") as file:
    # The order of the rows does not count, and a row may be missing.
    for row in reversed(rows):
        n = row["id"]
        vector = [9, 0, 0, 0] if n == 7 else [0, math.sin(n), math.cos(n), 1 + n % 3]
        if n == 5:
            continue
        file.write(json.dumps({"id": n, "embedding": None if n == 4 else vector}) + "\n")
with open(out + "/validation_features.jsonl", "w") as file:
    for row in examples:
        file.write(json.dumps({"id": row["id"], "embedding": [2, 0, 0, 0.1]}) + "\n")
"#;

#[test]
fn embeddings_alone_are_enough_for_clusters_and_for_a_selection_by_similarity() {
    let project = project(EMBED);
    project.write("embed.py", EMBED_PY);
    let text = std::fs::read_to_string(project.path("p.toml")).unwrap();
    let text = text.replace("files = [\"script.sh\"]", "files = [\"script.sh\", \"embed.py\"]");
    project.write("p.toml", &text);
    let (_, told) = project.done(&["build", "p.toml"]);
    for note in [
        "1 of 60 instructions have no row in features.jsonl",
        "1 of 60 instructions have no embedding in features.jsonl",
        "the features have no prompt_tokens, response_tokens, logp_conditional, logp_unconditional, \
         unconditional_tokens, so that the state of a candidate has none",
        "2 of 60 instructions have no complete features and are no candidates",
    ] {
        assert!(told.contains(note), "no `{note}` in\n{told}");
    }
    let missing = project.sql("select id, missing from made.features where embedding is null order by id");
    let words = [(4, "the program wrote no embedding"), (5, "the program wrote no row")];
    assert_eq!(missing, words.map(|(id, words)| json!({"id": id, "missing": words})));
    let constants: Value =
        serde_json::from_slice(&std::fs::read(project.path("out/p/grouped/constants.json")).unwrap()).unwrap();
    let columns: Vec<String> = serde_json::from_value(constants["columns"].clone()).unwrap();
    let target = ["target.similarity_mean", "target.similarity_max", "target.similarity_top"];
    assert_eq!(columns, [&["semantic.00", "semantic.01", "semantic.02"], target.as_slice()].concat());
    let first = "select id from tuned.selection order by step, slot limit 1";
    assert_eq!(project.sql(first), [json!({"id": 7})]);
    // The bytes do not depend on the order in which the program wrote the rows.
    let digest = project.digests("p");
    project.write("embed.py", &EMBED_PY.replace("reversed(rows)", "rows"));
    project.done(&["build", "p.toml"]);
    assert_eq!(project.digests("p"), digest);
    // What needs log-probabilities says so.
    project.write("p.toml", &text.replace("method = \"rds\"", "method = \"perplexity\""));
    let (_, told) = project.refused(&["build", "p.toml"]);
    assert!(told.contains("`perplexity` needs log p(y|x)") && told.contains("a stage of kind `features`"), "{told}");
}

#[test]
fn features_with_a_fault_fail_the_stage_of_the_program() {
    let row = |id: &str, more: &str| format!("{{\"id\": {id}, \"embedding\": [1, 2]{more}}}");
    let (zero, one) = (row("0", ""), row("1", ""));
    let cases = [
        (vec![zero.clone(), row("3", "")], "features.jsonl, row 2: `id` is 3, and there are 3 rows"),
        (vec![zero.clone(), row("\"x\"", "")], "`id` is a text, and a number in an earlier row"),
        (vec![zero.clone(), one.clone(), zero.clone()], "features.jsonl, row 3: the id 0 is in row 1 too"),
        (
            vec![zero.clone(), row("1", ", \"embeding\": 1")],
            "which features do not have\n    hint: did you mean `embedding`?",
        ),
        (vec!["{\"id\": 0}".to_owned()], "features.jsonl has no column `embedding`"),
        (
            vec![zero.clone(), "{\"id\": 1, \"embedding\": [1]}".to_owned()],
            "features.jsonl, row 2: `embedding` has 1 numbers, and an earlier row has 2",
        ),
        (
            vec![zero.clone(), "{\"id\": 1, \"embedding\": {}}".to_owned()],
            "row 2: `embedding` is not a list of numbers",
        ),
        (vec!["{\"id\": 0, \"embedding\": 1}".to_owned()], "`embedding` of features.jsonl is not a list of numbers"),
        (vec!["{\"id\": 0, \"embedding\": [1e60, 0]}".to_owned()], "row 1: number 1 of `embedding` is inf"),
        (vec![zero.clone(), row("1", ", \"response_tokens\": -1")], "row 2: `response_tokens` is not a number from 0"),
        (vec![row("0", ", \"response_tokens\": 1.5")], "`response_tokens` of features.jsonl is not a column of whole"),
        (
            vec![row("0", ", \"logp_conditional\": \"x\"")],
            "`logp_conditional` of features.jsonl is not a column of numbers",
        ),
        (Vec::new(), "features.csv, features.parquet; {out} has done"),
    ];
    for (rows, expected) in cases {
        let script = match rows.as_slice() {
            [] => "echo > $1/done\n".to_owned(),
            rows => format!("cat > $1/features.jsonl <<'END'\n{}\nEND\n", rows.join("\n")),
        };
        let project = shell(&script, "provides = [\"features\"]");
        let (code, told) = project.refused(&["build", "p.toml"]);
        assert!(code == 1 && told.contains(expected), "{rows:?}: {told}");
    }
    let script = "echo '{\"id\": 0, \"embedding\": [1]}' | tee $1/features.jsonl > $1/validation_features.jsonl\n";
    let (_, told) = shell(script, "provides = [\"features\"]").refused(&["build", "p.toml"]);
    assert!(told.contains("no input has a table `validation`"), "{told}");
}
