//! Tests of right and wrong pipeline files, with small kinds that are declared in this file.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use raisin_contract::{Kind, Needs, ParameterProblem, PipelineSetup, Process};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PoolParameters {
    /// How many.
    #[serde(default = "three")]
    size: u32,
}

fn three() -> u32 {
    3
}

struct Pool;

impl Kind for Pool {
    const NAME: &'static str = "pool";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Instructions.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["instructions"];
    type Parameters = PoolParameters;

    fn needs(_: &PoolParameters, _: &mut Needs) {}

    fn check(parameters: &PoolParameters) -> Result<(), ParameterProblem> {
        if parameters.size == 0 {
            return Err(ParameterProblem::new("/size", "an empty pool is of no use").hint("take at least 1"));
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    Random,
    Length,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Select {
    method: Method,
    #[serde(default)]
    share: Option<f64>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TunedParameters {
    instructions: String,
    #[serde(default)]
    model: Option<String>,
    select: Select,
}

struct Tuned;

impl Kind for Tuned {
    const NAME: &'static str = "tuned";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "A model.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["model"];
    type Parameters = TunedParameters;

    fn needs(parameters: &TunedParameters, needs: &mut Needs) {
        needs.stage("/instructions", &parameters.instructions, "instructions");
        if let Some(model) = &parameters.model {
            needs.stage("/model", model, "model");
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PageParameters {
    of: Vec<String>,
    #[serde(default)]
    #[schemars(skip)]
    setup: Option<PipelineSetup>,
}

struct Page;

impl Kind for Page {
    const NAME: &'static str = "page";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "A page.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const GATHERS: bool = true;
    const SHOWS_SETUP: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = PageParameters;

    fn needs(parameters: &PageParameters, needs: &mut Needs) {
        let stages = parameters.of.iter().enumerate();
        stages.for_each(|(at, stage)| needs.mentioned_stage(format!("/of/{at}"), stage, Vec::new()));
    }
}

static KINDS: &[Declaration] = &[Declaration::of::<Pool>(), Declaration::of::<Tuned>(), Declaration::of::<Page>()];

const GOOD: &str = r#"
[stage.tuned]
kind = "tuned"
instructions = "pool"
select = { method = "random" }

[stage.pool]
kind = "pool"
"#;

/// Loads a pipeline file. No cache exists.
fn load_file(file: &Path, overrides: &[Override]) -> Result<Pipeline> {
    load(file, overrides, KINDS, Path::new("/nowhere"))
}

fn load_text(text: &str, overrides: &[Override]) -> Result<Pipeline> {
    let folder = tempfile::tempdir()?;
    write(folder.path(), "p.toml", text);
    load_file(&folder.path().join("p.toml"), overrides)
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

/// The error message for a wrong pipeline, without the path of the temporary folder.
fn told(text: &str, overrides: &[Override]) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "p.toml", text);
    let error = load_file(&folder.path().join("p.toml"), overrides).err().expect("a problem");
    raisin_base::error::render(&error).replace(&format!("{}/", folder.path().display()), "")
}

fn set(text: &str) -> Override {
    Override::Set(text.to_owned())
}

fn names(pipeline: &Pipeline) -> Vec<&str> {
    pipeline.variants.iter().map(|variant| variant.name.as_str()).collect()
}

#[test]
fn a_stage_cannot_have_the_name_of_a_schema_that_means_something_else() {
    for name in ["raisin", "history", "information_schema", "public"] {
        let words = told(
            &GOOD.replace("stage.pool", &format!("stage.{name}")).replace("\"pool\"\nsel", &format!("\"{name}\"\nsel")),
            &[],
        );
        assert!(words.contains(&format!("the stage name `{name}` is also the name of a schema")), "{words}");
        assert!(
            words.contains("p.toml:7:")
                && words.contains(&format!("hint: give the stage another name, such as `{name}_stage`")),
            "{words}"
        );
    }
    assert!(
        load_text(&GOOD.replace("stage.pool", "stage.pools").replace("\"pool\"\nsel", "\"pools\"\nsel"), &[]).is_ok()
    );
}

#[test]
fn whatever_is_wrong_with_a_pipeline_file_is_a_persons_error() {
    for text in
        ["", "[stage", "[pipeline]\nsed = 3\n", "[stage.a]\nkind = \"pol\"\n[stage.b]\nkind = 3\n", "[sweep]\na = 1\n"]
    {
        let error = load_text(text, &[]).err().expect("a problem");
        assert_eq!(raisin_base::error::exit_code(&error), 2, "{text}");
    }
    let error = load_file(Path::new("/nowhere/p.toml"), &[]).err().expect("a problem");
    assert_eq!(raisin_base::error::exit_code(&error), 2);
}

#[test]
fn stages_come_after_their_inputs_with_defaults_filled_in() {
    let pipeline = load_text(GOOD, &[]).unwrap();
    let stages = &pipeline.variants[0].stages;
    assert_eq!(stages.iter().map(|stage| stage.name.as_str()).collect::<Vec<_>>(), ["pool", "tuned"]);
    assert_eq!(stages[0].resolved.parameters, json!({"size": 3}));
    assert_eq!((pipeline.name.as_str(), names(&pipeline)), ("p", vec![""]));
}

#[test]
fn a_misspelt_parameter_is_pointed_at_with_the_near_name() {
    let text = GOOD.replace("kind = \"pool\"", "kind = \"pool\"\nsizee = 4");
    assert_eq!(
        told(&text, &[]),
        "error: p.toml:9:1: stage `pool`: kind `pool` has no parameter `sizee`\nhint: did you mean `size`?"
    );
    let text = GOOD.replace("method = \"random\"", "method = \"random\", shar = 1.0");
    assert_eq!(
        told(&text, &[]),
        "error: p.toml:5:31: stage `tuned`: kind `tuned` has no parameter `select.shar`\nhint: did you mean `share`?"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_pointed_at() {
    assert_eq!(
        told(&GOOD.replace("\"random\"", "\"randon\""), &[]),
        "error: p.toml:5:21: stage `tuned`, select.method: unknown variant `randon`, expected `random` or `length`\n\
         hint: did you mean `random`?"
    );
    assert_eq!(
        told(&GOOD.replace("instructions = \"pool\"\n", ""), &[]),
        "error: p.toml:2:8: stage `tuned`: missing field `instructions`"
    );
    assert_eq!(
        told(&format!("{GOOD}size = 0"), &[]),
        "error: p.toml:9:8: stage `pool`, size: an empty pool is of no use\nhint: take at least 1"
    );
}

#[test]
fn unknown_keys_kinds_and_syntax_have_a_place() {
    assert_eq!(
        told(&format!("[pipeline]\nsed = 1\n[stages.a]\n{GOOD}"), &[]),
        "error: p.toml has 2 problems\n  p.toml:2:1: [pipeline] has no key `sed`\n    hint: did you mean `seed`?\n  \
         p.toml:3:2: the pipeline has no key `stages`\n    hint: did you mean `stage`?"
    );
    assert_eq!(
        told("[stage.a]\nkind = \"pol\"\n[stage.b]\n", &[]),
        "error: p.toml has 2 problems\n  p.toml:2:8: stage `a`: there is no kind `pol`\n    hint: did you mean `pool`?\n  \
         p.toml:3:8: stage `b` has no `kind`\n    hint: the kinds are `pool`, `tuned`, `page`"
    );
    assert!(told("[pipeline\n", &[]).starts_with("error: p.toml:1:10: this is not TOML: "));
    assert!(told("[pipeline]\nseed = -1\n", &[]).contains("p.toml:2:8: `pipeline.seed` must be an integer from 0 up"));
}

#[test]
fn a_need_must_name_a_stage_that_provides_it() {
    assert_eq!(
        told(&GOOD.replace("= \"pool\"\nselect", "= \"pol\"\nselect"), &[]),
        "error: p.toml:4:16: stage `tuned`, instructions: there is no stage `pol`\nhint: did you mean `pool`?"
    );
    assert_eq!(
        told(&GOOD.replace("= \"pool\"\nselect", "= \"tuned\"\nselect"), &[]),
        "error: p.toml:4:16: stage `tuned`, instructions: `tuned` is of kind `tuned`, which does not provide \
         `instructions`\nhint: stages that provide this: `pool`"
    );
}

#[test]
fn a_cycle_is_named() {
    let other =
        "[stage.other]\nkind = \"tuned\"\ninstructions = \"pool\"\nmodel = \"tuned\"\nselect.method = \"length\"";
    let text = GOOD.replace("select =", "model = \"other\"\nselect =") + other;
    assert_eq!(told(&text, &[]), "error: these stages need each other: tuned -> other -> tuned");
}

#[test]
fn a_sweep_makes_every_combination_with_short_names() {
    let text =
        format!("{GOOD}\n[sweep]\n\"stage.tuned.select.method\" = [\"random\", \"length\"]\npipeline.seed = [1, 2]\n");
    let pipeline = load_text(&text, &[]).unwrap();
    assert_eq!(
        names(&pipeline),
        ["method=random,seed=1", "method=random,seed=2", "method=length,seed=1", "method=length,seed=2"]
    );
    let last = &pipeline.variants[3];
    assert_eq!(last.seed, 2);
    assert_eq!(last.stages[1].resolved.parameters["select"]["method"], "length");
    assert_eq!(last.values["stage.tuned.select.method"], "length");
    let pinned = load_text(&text, &[set("pipeline.seed=7")]).unwrap();
    assert_eq!(names(&pinned), ["method=random", "method=length"]);
    assert_eq!(pinned.variants[0].seed, 7);
    let replaced = load_text(&text, &[Override::Sweep("pipeline.seed=[5]".to_owned())]).unwrap();
    assert_eq!(names(&replaced), ["method=random,seed=5", "method=length,seed=5"]);
}

#[test]
fn a_stage_may_have_a_seed_of_its_own_which_the_variants_share() {
    let text = GOOD.replace("[stage.pool]", "[stage.pool]\nseed = 5") + "\n[sweep]\npipeline.seed = [1, 2]\n";
    let pipeline = load_text(&text, &[]).unwrap();
    let seeds: Vec<Vec<u64>> =
        pipeline.variants.iter().map(|variant| variant.stages.iter().map(|stage| stage.seed).collect()).collect();
    assert_eq!(seeds, [[5, 1], [5, 2]]);
    assert!(!pipeline.variants[0].stages[0].resolved.parameters.to_string().contains("seed"));
    let set = load_text(&text, &[set("stage.pool.seed=6")]).unwrap();
    assert_eq!(set.variants[1].stages[0].seed, 6);
    let words = told(&text.replace("seed = 5", "seed = -5"), &[]);
    assert!(words.contains("stage `pool`, seed: must be an integer from 0 up"), "{words}");
}

#[test]
fn the_seed_of_a_variant_replaces_its_placeholder_in_texts_of_stages() {
    let text = GOOD.replace("\"pool\"\nselect", "\"pool{pipeline.seed}\"\nselect").replace("stage.pool", "stage.pool1");
    let text = format!("{text}\n[stage.pool2]\nkind = \"pool\"\n[sweep]\npipeline.seed = [1, 2]\n");
    let instructions = |overrides: &[Override]| -> Vec<String> {
        let pipeline = load_text(&text, overrides).unwrap();
        let tuned =
            |variant: &Variant| variant.stages.iter().find(|stage| stage.name == "tuned").unwrap().resolved.clone();
        pipeline.variants.iter().map(|variant| tuned(variant).parameters["instructions"].to_string()).collect()
    };
    assert_eq!(instructions(&[]), ["\"pool1\"", "\"pool2\""]);
    assert_eq!(instructions(&[set("pipeline.seed=2")]), ["\"pool2\""]);
    let words = told(&text, &[set("stage.tuned.select.method=a{pipeline.sed}b")]);
    assert_eq!(
        words,
        "error: from --set stage.tuned.select.method=a{pipeline.sed}b: `a{pipeline.sed}b` has a placeholder that does \
         not exist\nhint: the only placeholder is `{pipeline.seed}`"
    );
}

#[test]
fn a_swept_table_is_named_by_its_values() {
    let text = GOOD.replace("method = \"random\"", "method = \"length\"")
        + "\n[sweep]\nstage.tuned.select = [{ method = \"random\" }, { method = \"length\", share = 0.5 }]\n";
    assert_eq!(names(&load_text(&text, &[]).unwrap()), ["select=random", "select=length+0.5"]);
}

#[test]
fn names_of_axes_are_as_short_as_possible_and_unique() {
    let text =
        format!("{GOOD}\n[stage.more]\nkind = \"pool\"\n[sweep]\nstage.pool.size = [1]\nstage.more.size = [2]\n");
    assert_eq!(names(&load_text(&text, &[]).unwrap()), ["pool.size=1,more.size=2"]);
}

#[test]
fn a_wrong_sweep_is_refused_at_its_line() {
    let swept = |line: &str| told(&format!("{GOOD}[sweep]\n{line}"), &[]);
    assert_eq!(
        swept("\"stage.pol.size\" = [1]"),
        "error: p.toml:10:1: there is no stage `pol`\nhint: did you mean `stage.pool`?"
    );
    assert_eq!(
        swept("stage.pool.size = []"),
        "error: p.toml:10:19: the sweep of `stage.pool.size` has no values, so there is nothing to build"
    );
    assert_eq!(
        swept("stage.pool.size = [1]\n\"stage.pool.size\" = [2]"),
        "error: p.toml:11:1: `stage.pool.size` is swept twice"
    );
    assert!(
        swept("stage.pool.size = [1, 1]")
            .contains("p.toml:10:23: the sweep of `stage.pool.size` has the value 1 twice")
    );
    assert!(
        swept("stage.pool.sizes = [1, 2]").contains("p.toml:10:12: stage `pool`: kind `pool` has no parameter `sizes`")
    );
}

#[test]
fn set_changes_parameters_and_says_where_a_wrong_one_came_from() {
    let pipeline = load_text(GOOD, &[set("stage.pool.size=8"), set("stage.tuned.select.method=length")]).unwrap();
    let stages = &pipeline.variants[0].stages;
    assert_eq!(stages[0].resolved.parameters["size"], 8);
    assert_eq!(stages[1].resolved.parameters["select"]["method"], "length");
    assert_eq!(
        told(GOOD, &[set("stage.pool.sise=8")]),
        "error: from --set stage.pool.sise=8: stage `pool`: kind `pool` has no parameter `sise`\nhint: did you mean `size`?"
    );
    assert_eq!(
        told(GOOD, &[set("stage.pol.size=8")]),
        "error: from --set stage.pol.size=8: there is no stage `pol`\nhint: did you mean `stage.pool`?"
    );
    assert!(told(GOOD, &[set("stage.pool.size")]).contains("there is no `=`"));
}

#[test]
fn set_below_a_swept_key_is_refused_because_the_sweep_would_replace_it() {
    let text =
        format!("{GOOD}\n[sweep]\n\"stage.tuned.select\" = [{{method = \"random\"}}, {{method = \"length\"}}]\n");
    let below = set("stage.tuned.select.method=random");
    assert_eq!(
        told(&text, std::slice::from_ref(&below)),
        "error: from --set stage.tuned.select.method=random: `stage.tuned.select.method` is part of \
         `stage.tuned.select`, which is swept\nhint: `--set stage.tuned.select=VALUE` ends this sweep; \
         `--sweep stage.tuned.select=[VALUES]` replaces its values"
    );
    // A `--set` of the whole swept key ends the sweep. A later `--set` may then set a part of the value.
    let pipeline = load_text(&text, &[set("stage.tuned.select={method=\"length\"}"), below]).unwrap();
    assert_eq!(names(&pipeline), [""]);
    assert_eq!(pipeline.variants[0].stages[1].resolved.parameters["select"]["method"], "random");
}

#[test]
fn the_values_of_the_including_file_take_precedence() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "base.toml", GOOD);
    write(folder.path(), "p.toml", "include = \"base.toml\"\n[pipeline]\nseed = 9\n[stage.pool]\nsize = 5\n");
    let pipeline = load_file(&folder.path().join("p.toml"), &[]).unwrap();
    assert_eq!(pipeline.seed_default, 9);
    assert_eq!(pipeline.variants[0].stages[0].resolved.parameters, json!({"size": 5}));
    write(folder.path(), "base.toml", "include = \"p.toml\"\n");
    let error = load_file(&folder.path().join("p.toml"), &[]).err().unwrap();
    assert!(error.to_string().contains("p.toml includes itself"), "{error}");
}

#[test]
fn the_schema_has_each_kind_with_its_parameters() {
    let schema = schema::of(KINDS);
    let kinds = schema["properties"]["stage"]["additionalProperties"]["oneOf"].as_array().unwrap();
    assert_eq!(kinds[0]["properties"]["kind"]["const"], "pool");
    assert_eq!(kinds[0]["properties"]["size"]["description"], "How many.");
    assert_eq!(kinds[1]["required"], json!(["kind", "instructions", "select"]));
}

#[path = "limit_tests.rs"]
mod limits;

#[test]
fn a_page_gets_the_settings_of_the_stages_that_lead_to_it_without_what_is_swept() {
    let text = format!(
        "{GOOD}size = 4\n\n[stage.other]\nkind = \"pool\"\n\n[stage.page]\nkind = \"page\"\nof = [\"tuned\"]\n\n\
         [pipeline]\nname = \"mine\"\nseed = 5\n\n\
         [sweep]\n\"pipeline.seed\" = [5, 6]\n\"stage.tuned.select.method\" = [\"random\", \"length\"]\n"
    );
    let pipeline = load_text(&text, &[set("stage.tuned.select.share=0.5")]).unwrap();
    for variant in &pipeline.variants {
        let page = variant.stages.iter().find(|stage| stage.name == "page").unwrap();
        let expected = json!({
            "pipeline": "mine", "seed": 5,
            "sweep": {"pipeline.seed": [5, 6], "stage.tuned.select.method": ["random", "length"]},
            "stages": [
                {"name": "pool", "kind": "pool", "settings": {"size": 4}},
                {"name": "tuned", "kind": "tuned", "settings": {"instructions": "pool", "select.share": 0.5}},
            ],
        });
        assert_eq!(page.resolved.parameters, json!({"of": ["tuned"], "setup": expected}));
    }
    let own = text.replace("of = [\"tuned\"]", "of = [\"tuned\"]\nsetup = {}");
    assert!(told(&own, &[]).contains("stage `page`, setup: raisin itself gives this"), "{}", told(&own, &[]));
}
