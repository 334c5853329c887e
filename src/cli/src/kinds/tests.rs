//! Tests of the pages, of the text for a terminal, and of the examples of the kinds.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::collections::BTreeMap;
use std::path::Path;

use raisin_contract::{Declaration, Kind, Needs, Process};
use raisin_kinds::{KINDS, declaration};
use raisin_pipeline::load_text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page::{KindPage, PageState, ParameterRow};
use super::words::{demand, state};
use super::{markdown, pages, terminal};

fn page(name: &str) -> KindPage {
    KindPage::of(declaration(name).unwrap()).unwrap()
}

/// `RAISIN_BLESS=1 cargo test -p raisin committed_pages_are_current` writes the pages again.
#[test]
fn committed_pages_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kinds");
    if std::env::var_os("RAISIN_BLESS").is_some() {
        super::write_pages(&folder).unwrap();
    }
    for (name, text) in pages().unwrap() {
        let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        let again = "run `RAISIN_BLESS=1 cargo test -p raisin committed_pages_are_current`";
        assert!(committed == text, "docs/kinds/{name} is not current: {again}");
    }
}

#[test]
fn links_between_pages_and_to_headings_lead_somewhere() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kinds");
    let mut count = 0;
    for (name, text) in pages().unwrap() {
        let slug = |heading: &str| heading.to_lowercase().replace(' ', "-").replace(['`', '[', ']', '.'], "");
        let headings = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.split_once("# ")).map(|(_, heading)| slug(heading)).collect()
        };
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { text.clone() } else { std::fs::read_to_string(folder.join(file)).unwrap() };
            assert!(heading.is_empty() || headings(&target).contains(&heading.to_owned()), "{name}: {link}");
            count += 1;
        }
    }
    assert!(count > KINDS.len(), "{count} links");
}

#[test]
fn every_word_has_a_meaning_and_every_absence_a_consequence() {
    let says =
        ["If absent", "Without it", "default", "either", "Usual name", "only if this setting names", "With format"];
    let mut silent = Vec::new();
    for kind in KINDS {
        let page = KindPage::of(kind).unwrap();
        for parameter in page.groups.iter().flat_map(|group| &group.parameters) {
            let ParameterRow { path, about, words, .. } = parameter;
            for (word, meaning) in words {
                assert!(!meaning.is_empty(), "{} {path}: the word `{word}` has no meaning", kind.name);
            }
            // The defaults of a table are those of its keys.
            if parameter.state == PageState::Optional
                && parameter.groups.is_empty()
                && !says.iter().any(|words| about.contains(words))
            {
                silent.push(format!("{} {path}: {about}", kind.name));
            }
        }
    }
    assert!(silent.is_empty(), "these do not say what happens without them:\n{}", silent.join("\n"));
}

#[test]
fn every_kind_has_examples_that_pass_the_checks_of_a_pipeline() {
    for kind in KINDS {
        assert!(!kind.examples.is_empty(), "{} has no example", kind.name);
        for example in kind.examples {
            let pipeline = load_text("example.toml", example.text, KINDS);
            let pipeline = pipeline.unwrap_or_else(|error| panic!("{}, {}: {error:#}", kind.name, example.title));
            let stages = &pipeline.variants[0].stages;
            let has_stage = stages.iter().any(|stage| stage.declaration.name == kind.name);
            assert!(has_stage, "the example `{}` has no stage of kind {}", example.title, kind.name);
        }
    }
}

#[test]
fn every_parameter_word_table_column_and_file_has_a_meaning() {
    for kind in KINDS {
        let page = page(kind.name);
        for parameter in page.groups.iter().flat_map(|group| &group.parameters) {
            let at = format!("{}: {}", kind.name, parameter.path);
            assert!(!parameter.about.is_empty() && !parameter.type_name.is_empty(), "{at}");
            for (word, about) in &parameter.words {
                assert!(!about.is_empty(), "{at}: {word}");
            }
        }
        for table in kind.outputs.tables {
            let columns: Vec<&str> = table.columns().map(|column| column.name).collect();
            assert!(!columns.is_empty() || table.further.is_some(), "{}: {}", kind.name, table.name);
            let different: std::collections::BTreeSet<&str> = columns.iter().copied().collect();
            assert_eq!(different.len(), columns.len(), "{}: {}", kind.name, table.name);
            assert!(table.columns().all(|column| !column.about.is_empty()), "{}: {}", kind.name, table.name);
        }
    }
}

#[test]
fn every_kind_has_the_tables_that_its_roles_promise() {
    let tables = |name: &str| declaration(name).unwrap().outputs.tables.iter().map(|table| table.name);
    for kind in KINDS {
        for provided in kind.provides {
            let promised: &[&str] = match *provided {
                "instructions" => &["instructions"],
                "task" => &["validation", "test"],
                "features" => &["features"],
                "columns" => &["columns"],
                "clusters" => &["clusters"],
                "selection" => &["selection"],
                "scores" => &["metrics", "items"],
                "overlap" => &["overlap", "overlap_summary"],
                _ => &[],
            };
            for table in promised {
                assert!(tables(kind.name).any(|name| name == *table), "{} has no table {table}", kind.name);
            }
        }
    }
}

#[test]
fn inputs_are_found_with_what_they_must_provide_and_with_their_conditions() {
    let inputs = |name: &str| -> Vec<String> {
        page(name).inputs.iter().map(|input| format!("{}: {}", input.parameter, demand(input))).collect()
    };
    assert_eq!(inputs("generate"), Vec::<String>::new());
    assert_eq!(inputs("ingest"), ["sources[].path: a file, a folder, a pattern or an address"]);
    assert_eq!(inputs("report"), ["of[]: a stage of any kind"]);
    let finetune = inputs("finetune");
    assert!(
        finetune.contains(
            &"select.policy: a stage that provides `policy`: `selector`; only with `select.method` `raise`".to_owned()
        ),
        "{finetune:#?}"
    );
    assert!(
        finetune.contains(&"select.path: a file or a folder; only with `select.method` `scores`".to_owned()),
        "{finetune:#?}"
    );
    assert_eq!(
        inputs("model"),
        [
            "source.gguf: a file or a folder",
            "source.huggingface: a file or a folder",
            "source.base: a file or a folder",
            "source.init.tokenizer: a file or a folder",
            "source.prefix: a stage that provides `model`: `command`, `model`, `pretrain` or `finetune`",
            "source.instructions: a stage that provides `instructions`: `ingest`, `generate`, `overlap`, `mix`, `dedup`, `filter` or `command`",
            "source.task: a stage that provides `task`: `generate` or `task`",
        ]
    );
}

#[test]
fn ranges_are_those_that_the_checks_enforce() {
    let range = |name: &str, path: &str| {
        let page = page(name);
        let parameter = page.groups.iter().flat_map(|group| &group.parameters).find(|it| it.path == path);
        parameter.unwrap().range.clone().unwrap_or_default()
    };
    for (kind, path, expected) in [
        ("ingest", "max_length", "at least 1"),
        ("ingest", "sample", "at least 1"),
        ("ingest", "sample_seed", "at least 0"),
        ("finetune", "max_tokens", "at least 2"),
        ("finetune", "warmup", "from 0 to below 1"),
        ("finetune", "learning_rate", "above 0"),
        ("finetune", "weight_decay", "at least 0"),
        ("finetune", "steps", "at least 1"),
        ("finetune", "adaptation.layers", "at least 1"),
        ("selector", "epsilon", "above 0 and below 1"),
        ("selector", "gamma", "from 0 to 1"),
        ("selector", "adaptation.rank", "at least 1"),
        ("selector", "adaptation.alpha", "above 0"),
        ("model", "source.init.context", "from 2 to 16777216"),
        ("model", "source.train_layers", "at least 1"),
        ("model", "source.init.layers", ""),
        ("selector", "adaptation.layers", "at least 1"),
        ("generate", "relevant", "from 0 to 1"),
        ("generate", "size", "from 1 to 4294967295"),
        ("evaluate", "limit", "at least 1"),
    ] {
        assert_eq!(range(kind, path), expected, "{kind}: {path}");
    }
}

#[test]
fn defaults_are_those_that_the_kind_fills_in() {
    let state = |name: &str, path: &str| {
        let page = page(name);
        page.groups.iter().flat_map(|group| &group.parameters).find(|it| it.path == path).unwrap().state.clone()
    };
    let default = |value: serde_json::Value| PageState::Default(value);
    assert_eq!(state("ingest", "sources"), PageState::Required);
    assert_eq!(state("ingest", "sample"), PageState::Optional);
    assert_eq!(state("ingest", "sources[].format"), default("auto".into()));
    assert_eq!(state("selector", "rounds"), default(4.into()));
    assert_eq!(state("selector", "learning_rate"), default(2e-4.into()));
    assert_eq!(state("finetune", "activation_checkpointing"), default(false.into()));
    assert_eq!(state("finetune", "select.third"), default("middle".into()));
    assert_eq!(state("finetune", "adaptation.rank"), default(16.into()));
}

#[test]
fn a_kind_is_described_for_a_terminal() {
    insta::assert_snapshot!(terminal::describe(&page("clusters")), @r#"
    clusters: Reduces and standardises features into each candidate's state, and groups candidates.
      Runs in `raisin-worker`, with tensors, on a GPU if there is one.
      Draws random numbers: depends on `pipeline.seed`, or on a `seed` of the stage.
      Runs once for each variant of a sweep that differs in its parameters or inputs.
      Provides `clusters`.

    parameters:

      features  (string; required)
          The stage whose features are reduced and grouped.

      instructions  (string; optional)
          The pool of the features. With it, the state has a column for each source of the pool, such as
          `source.code.jsonl`: 1 for the rows of the source, 0 for the others. A source is a file, or
          the name that a `filter` gave to rows as `source`. The pool needs 2 to 32 sources for this. If
          absent, the state has no such columns.

      columns  (array of strings; optional)
          Stages with further numbers of each instruction, such as `influence` stages. Their columns
          join the static state under the name of the kind, for example as `influence.relative_drop`. At
          most one stage of a kind. If absent, the state has only the numbers of the features.

      like  (string; optional)
          Another `clusters` stage. The rows get the principal components, the scales and the clusters
          of that stage, so that the numbers of a state mean the same in both. So a policy that was
          trained with that stage can select from these rows. Both need features of the same model. With
          `like`, leave out `dimensions`, `clusters`, `whiten`, `iterations` and `starts`. If absent,
          the components, scales and clusters come from the rows themselves.

      dimensions  (integer, at least 1; default 32)
          The number of dimensions that an embedding is reduced to.

      clusters  (integer, at least 1; default 4)
          C: the number of clusters.

      whiten  (boolean; default true)
          Scales every reduced dimension to variance 1 in the state. k-means runs on the principal
          components without this scaling, because scaling would give directions of noise as much weight
          as the directions that separate candidates.

      iterations  (integer, at least 1; default 100)
          The largest number of iterations of k-means.

      starts  (integer, at least 1; default 4)
          The number of starts of k-means. The start with the tightest clusters is kept. Of more than
          65,536 rows, the starts cluster a sample of so many rows, and only the best one goes on with
          all rows.

    inputs:
      features      a stage that provides `features`: `command` or `features`
      instructions  a stage that provides `instructions`: `ingest`, `generate`, `overlap`, `mix`,
                    `dedup`, `filter` or `command`
      columns[]     a stage that provides `columns`: `filter`, `command` or `influence`
      like          a stage that provides `clusters`: `clusters`

    tables:

      clusters
          One row for each instruction with complete features: the candidates.
          id                    u32: the `id` of the instruction in the pool
          cluster               u32: the cluster, from 0
          state                 vector of f32: the static state; `columns` of constants.json names its
                                numbers
          prompt_tokens         u32: as in the table `features`. Null if the features come from a program
                                that did not write the number
          response_tokens       u32: as in the table `features`. Null if the features come from a program
                                that did not write the number
          logp_conditional      f32: as in the table `features`, in nats. Null if the features come from a
                                program that did not write the number
          logp_unconditional    f32: as in the table `features`, in nats. Null if the features have
                                `unconditional = false`, or come from a program that did not write it
          unconditional_tokens  u32: as in the table `features`. Null if the features have `unconditional
                                = false`, or come from a program that did not write it

    files:
      constants.json          the names, means and deviations of the numbers of a state, measures of
                              the clusters, and `basis`, a digest of all that decides what the numbers
                              of a state mean; and `embedding` of the features, if it is not `whole`
      projection.safetensors  the principal components, the centres of the clusters, the means and
                              deviations of the numbers of a state, and the mean embedding that
                              similarities subtract
      references.json         the digest of the artifact with the features, and of each artifact of
                              `columns`: `{"features": ...}`

    example: Sixteen dimensions and eight clusters

        [stage.pool]
        kind = "generate"

        [stage.base]
        kind = "model"
        source = { huggingface = "pipelines/quickstart-base" }

        [stage.features]
        kind = "features"
        instructions = "pool"
        model = "base"

        [stage.clusters]
        kind = "clusters"
        features = "features"
        dimensions = 16
        clusters = 8
    "#);
}

#[test]
fn the_terminal_says_what_the_page_says() {
    for kind in KINDS {
        let page = page(kind.name);
        let text = terminal::describe(&page);
        let markdown = markdown::page(&page);
        let mut names: Vec<&str> = vec![kind.about];
        for parameter in page.groups.iter().flat_map(|group| &group.parameters) {
            names.push(&parameter.path);
            names.extend(parameter.words.iter().map(|(word, _)| word.as_str()));
        }
        for table in kind.outputs.tables {
            names.push(table.name);
            names.extend(table.columns().map(|column| column.name));
        }
        names.extend(kind.outputs.files().map(|file| file.name));
        for example in kind.examples {
            names.push(example.title);
            names.extend(example.text.lines());
        }
        for name in names {
            assert!(text.contains(name), "the terminal, {}: {name}", kind.name);
            assert!(markdown.contains(name), "the page, {}: {name}", kind.name);
        }
        assert!(text.lines().all(|line| line.chars().count() <= 120 && line.trim_end() == line), "{text}");
    }
    let ingest = terminal::describe(&page("ingest"));
    assert!(ingest.contains("\n  sources[].format  (word; default \"auto\")\n"), "{ingest}");
}

/// A kind whose parameters have the shapes that the kinds of raisin may have one day.
struct EveryShape;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShapesParameters {
    /// One stage, or several.
    of: OneOrSeveral,
    /// The fields by name.
    #[serde(default)]
    fields: BTreeMap<String, ShownField>,
    /// The limits.
    #[serde(default)]
    limits: Vec<Vec<u32>>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrSeveral {
    One(String),
    Several(Vec<String>),
}

/// How a field is read.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShownField {
    /// What happens if the field is missing.
    missing: MissingMeaning,
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum MissingMeaning {
    /// The record is rejected.
    Reject,
    /// The field is empty.
    Empty,
}

impl Kind for EveryShape {
    const NAME: &'static str = "shapes";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Has every shape.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = ShapesParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        match &parameters.of {
            OneOrSeveral::One(stage) => needs.stage("/of", stage, "task"),
            OneOrSeveral::Several(stages) => {
                stages
                    .iter()
                    .enumerate()
                    .for_each(|(place, stage)| needs.stage_of_query(format!("/of/{place}"), stage, None, true));
            }
        }
    }
}

static SHAPES: Declaration = Declaration::of::<EveryShape>();

#[test]
fn maps_alternatives_and_nested_arrays_are_described() {
    let page = KindPage::of(&SHAPES).unwrap();
    let of = |parameter: &ParameterRow| format!("{}: {}, {}", parameter.path, parameter.type_name, state(parameter));
    let parameters: Vec<String> = page.groups.iter().flat_map(|group| group.parameters.iter().map(of)).collect();
    assert_eq!(
        parameters,
        [
            "of: string or array of strings, required",
            "fields: table of tables, optional",
            "limits: array of arrays of integers, default []",
            "fields.NAME.missing: word, required",
        ]
    );
    let inputs: Vec<String> =
        page.inputs.iter().map(|input| format!("{}: {}", input.parameter, demand(input))).collect();
    assert_eq!(inputs, ["of: a stage that provides `task`: `generate` or `task`", "of[]: a stage of any kind"]);
    assert!(terminal::describe(&page).contains("        reject  The record is rejected.\n"));
}
