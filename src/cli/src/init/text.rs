//! The text of a new pipeline. The settings are those that did best in docs/results.md; the numbers follow from the data
//! and from the model.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use raisin_base::error::{Problem, Result};
use raisin_contract::look::{DataFindings, DataQuestion, ModelFindings, TaskFindings};
use raisin_kinds::KINDS;

/// What a person wants.
pub struct Wishes<'w> {
    pub name: &'w str,
    pub question: &'w DataQuestion,
    pub model: &'w Path,
    pub steps: Option<usize>,
}

const BATCH: usize = 8;
/// The training steps of each method, if the pool has enough rows (docs/results.md, "mixed-gsm8k").
const STEPS: usize = 40;
/// The layers that a proxy trains. A base with fewer than twice as many layers needs no proxy.
const TRAINED_LAYERS: usize = 6;
/// A model of fewer parameters is trained whole; a larger one by LoRA.
const SMALL: f64 = 2e7;
/// The most groups of validation examples whose gradients `influence` keeps in memory, if an adapter is trained.
const ADAPTER_GROUPS: usize = 64;
/// The same if all weights are trained, whose gradients are larger.
const FULL_GROUPS: usize = 16;
/// The characters of a token, about, except for models of bytes.
const CHARACTERS_OF_A_TOKEN: usize = 3;

#[expect(clippy::too_many_lines, reason = "the text of one file, from its top to its end")]
pub fn pipeline(wishes: &Wishes, data: &DataFindings, model: &ModelFindings) -> Result<String> {
    let Wishes { name, question, .. } = wishes;
    let rows = data.pool.instructions;
    if rows < 2 * BATCH {
        let message = format!(
            "{} has {rows} instructions, and nothing is selected from fewer than {}",
            question.pool.display(),
            2 * BATCH
        );
        return Err(Problem::usage(message).hint("give a larger pool").into());
    }
    let steps = match wishes.steps {
        Some(0) => return Err(Problem::usage("--steps 0 trains nothing").hint("give at least 1").into()),
        Some(steps) => steps,
        // Every method must have something to leave out.
        None => STEPS.min(rows / (2 * BATCH)).max(1),
    };
    let (validation, test) = sizes(question, data)?;
    let per_token = if model.vocabulary < 1000 { 1 } else { CHARACTERS_OF_A_TOKEN };
    let max_tokens = (data.pool.characters / per_token).next_multiple_of(64).clamp(128, 1024).min(model.context);
    let has_proxy = model.layers >= 2 * TRAINED_LAYERS;
    let (trained, adaptation, rate, most_groups) = if has_proxy {
        ("proxy", "{ method = \"top_layers_lora\", rank = 16, alpha = 32 }", "1e-3", ADAPTER_GROUPS)
    } else if model.parameters < SMALL {
        ("base", "{ method = \"full\" }", "1e-3", FULL_GROUPS)
    } else {
        ("base", "{ method = \"lora\", rank = 16, alpha = 32 }", "3e-4", ADAPTER_GROUPS)
    };
    let clusters = (rows / 10).clamp(2, 24);
    let dimensions = 32.min(rows / 2).min(usize::try_from(model.hidden_size).unwrap_or(32)).max(1);
    let probes = 32.min(rows - BATCH);
    let mut groups = String::new();
    if validation > most_groups {
        let _ = writeln!(
            groups,
            "groups = {most_groups}                       # of validation examples, whose mean gradients are compared: limits the memory"
        );
    }
    let top = (steps * BATCH / 4).max(BATCH).min(rows);
    let mut text = format!(
        "#:schema ./pipeline.schema.json\n\
         # Which instructions of {} make {} better at {}?\n\
         #\n\
         #   raisin plan {name}.toml            # what would run\n\
         #   raisin build {name}.toml           # run it; `--set pipeline.seed=17` builds one seed first\n\
         #   raisin kinds selector          # every parameter of a kind of stage\n\
         #\n\
         # Paths are relative to the directory in which raisin is started.\n\
         [pipeline]\nname = {}\n\n",
        comment(&question.pool),
        comment(wishes.model),
        comment(&question.task),
        quoted(name)
    );
    for told in &data.pool.told {
        let _ = writeln!(text, "# {}", one_line(told));
    }
    let _ = write!(
        text,
        "[stage.pool]                      # files of instructions -> one table; rejected records in another\n\
         kind = \"ingest\"\nsources = [{}]\n\n",
        source(&question.pool, &data.pool.settings)
    );
    for told in data.task.told.iter().chain(data.test.iter().flat_map(|test| &test.told)) {
        let _ = writeln!(text, "# {}", one_line(told));
    }
    let _ = write!(
        text,
        "[stage.task]                      # validation examples measure effects; test examples only the result\n\
         kind = \"task\"\nsource = {}\n",
        source(&question.task, &data.task.settings)
    );
    if let (Some(path), Some(found)) = (&question.test, &data.test) {
        let _ = writeln!(text, "test_source = {}", source(path, &found.settings));
    }
    let _ = write!(text, "validation = {validation}\ntest = {test}\n{}\n", scoring(data, per_token));
    let found = format!(
        "{}, {} layers, about {} parameters, {} tokens of context, {} chat template",
        model.architecture,
        model.layers,
        millions(model.parameters),
        model.context,
        if model.has_chat_template { "with a" } else { "no" }
    );
    let _ = write!(text, "# {found}\n[stage.base]\nkind = \"model\"\nsource = {}\n\n", model_source(wishes.model)?);
    if !model.has_chat_template {
        text = text.replace(
            "[stage.base]\n",
            "# Without a chat template, line breaks join the turns (docs/data.md).\n[stage.base]\n",
        );
    }
    if has_proxy {
        let frozen = model.layers - TRAINED_LAYERS;
        let _ = write!(
            text,
            "[stage.proxy]                     # the base with {frozen} frozen layers, whose hidden states are computed once\n\
             kind = \"model\"\n\
             source = {{ prefix = \"base\", train_layers = {TRAINED_LAYERS}, instructions = \"pool\", task = \"task\", \
             test = true, max_tokens = {max_tokens} }}\n\n"
        );
    }
    let _ = write!(
        text,
        "[stage.features]                  # log-probabilities, lengths and embeddings of all rows, computed once\n\
         kind = \"features\"\ninstructions = \"pool\"\nmodel = \"{trained}\"\ntask = \"task\"\n\
         unconditional = false             # true adds log p(y), which only the method `ifd` reads\n\
         max_tokens = {max_tokens}\n\n\
         [stage.influence]                 # how much a short training on the validation examples changes each row's loss\n\
         kind = \"influence\"\ninstructions = \"pool\"\nmodel = \"{trained}\"\ntask = \"task\"\n\
         adaptation = {adaptation}\nlearning_rate = {rate}\n\
         alignment = true                  # compares gradients too: a backward pass for each row\n{groups}\
         max_tokens = {max_tokens}\n\n\
         [stage.clusters]                  # the numbers by which the selector knows a row\n\
         kind = \"clusters\"\nfeatures = \"features\"\ncolumns = [\"influence\"]\n\
         dimensions = {dimensions}\nclusters = {clusters}\n\n\
         [stage.selector]                  # learns in short trainings which rows lower the validation loss, and when\n\
         kind = \"selector\"\ninstructions = \"pool\"\nfeatures = \"clusters\"\nmodel = \"{trained}\"\ntask = \"task\"\n\
         credit = \"effect\"                 # the effect of single rows on the validation loss is measured\n\
         learner = \"posterior\"             # a regression of the effects on the features of the rows\n\
         prior = \"similarity\"              # it starts from the similarity to the validation examples\n\
         adaptation = {adaptation}\nlearning_rate = {rate}\n\
         rounds = 2\nsteps = {steps}{}# as in `tuned`: a policy knows only the stages that it saw\n\
         batch_size = {BATCH}\neffects_every = {}\nprobes = {probes}\nmax_tokens = {max_tokens}\n\n\
         [stage.tuned]                     # the same number of steps with each method\n\
         kind = \"finetune\"\ninstructions = \"pool\"\nfeatures = \"clusters\"\nmodel = \"{trained}\"\ntask = \"task\"\n\
         adaptation = {adaptation}\nlearning_rate = {rate}\nsteps = {steps}\nbatch_size = {BATCH}\n\
         evaluate_every = {}\nmax_tokens = {max_tokens}\n\n\
         [stage.scores]\nkind = \"evaluate\"\nmodel = \"tuned\"\ntask = \"task\"\nmax_tokens = {max_tokens}\n\n\
         [stage.untuned]                   # the base without fine-tuning, for comparison\n\
         kind = \"evaluate\"\nmodel = \"{trained}\"\ntask = \"task\"\nmax_tokens = {max_tokens}\n\n\
         [stage.report]\nkind = \"report\"\ntitle = {}\nof = [\"selector\", \"tuned\", \"scores\", \"untuned\"]\n\n",
        " ".repeat(25_usize.saturating_sub(steps.to_string().len())),
        4.min(steps),
        (steps / 8).max(1),
        quoted(name),
    );
    let _ = write!(
        text,
        "[sweep]                           # each method with each seed; stages that they share run once\n\
         \"stage.tuned.select\" = [\n\
         \x20   {{ method = \"random\" }},                      # the baseline\n\
         \x20   {{ method = \"rds\", top = {top} }},{}# the rows most similar to the validation examples\n\
         \x20   {{ method = \"less\", top = {top} }},{}# the rows whose gradients are the most aligned with theirs\n\
         \x20   {{ method = \"raise\", policy = \"selector\" }},  # what the selector learned\n\
         ]\n\
         \"pipeline.seed\" = [17, 18, 19]    # one seed shows no interval\n",
        " ".repeat(17_usize.saturating_sub(top.to_string().len())),
        " ".repeat(16_usize.saturating_sub(top.to_string().len())),
    );
    Ok(text)
}

/// The numbers of validation and test examples.
///
/// # Errors
/// There are too few questions.
fn sizes(question: &DataQuestion, data: &DataFindings) -> Result<(usize, usize)> {
    let questions = data.task.questions;
    let few = |path: &Path, has: usize, needs: usize| {
        let message = format!("{} has {has} different questions, and at least {needs} are needed", path.display());
        Problem::usage(message).hint("give more questions; those of the test file do not count for the task")
    };
    match (&question.test, &data.test) {
        (Some(path), Some(test)) => {
            if questions == 0 || test.questions == 0 {
                let (path, has) = if questions == 0 { (&question.task, questions) } else { (path, 0) };
                return Err(few(path, has, 1).into());
            }
            Ok((questions.min(128), test.questions.min(256)))
        }
        _ => {
            let validation = (questions / 3).min(128);
            if validation == 0 {
                return Err(few(&question.task, questions, 3).into());
            }
            Ok((validation, (questions - validation).min(256)))
        }
    }
}

fn scoring(data: &DataFindings, per_token: usize) -> String {
    // The test examples are scored. Both files have the same kind of answers, or the file of the task decides.
    let TaskFindings { scoring, extract, characters, reason, .. } = &data.task;
    let mut text = format!("scoring = {}   # {reason}\n", quoted(scoring));
    if let Some(extract) = extract {
        let _ = writeln!(text, "extract = {}", quoted(extract));
    }
    if scoring == "match" {
        let longest = data.test.as_ref().map_or(0, |test| test.characters).max(*characters);
        let tokens = (longest / per_token + 8).next_multiple_of(16).min(256);
        let _ = writeln!(text, "max_new_tokens = {tokens}");
    }
    text
}

/// A pipeline that includes another one, and replaces the data and the model of its stages.
///
/// # Errors
/// The other pipeline is wrong, or has no stage, or several, for a flag.
pub fn from_other(name: &str, from: &Path, [pool, task, test, model]: [&Option<PathBuf>; 4]) -> Result<String> {
    let other = raisin_pipeline::load(from, &[], KINDS, Path::new("cache"))?;
    let mut text = format!(
        "#:schema ./pipeline.schema.json\n# {} with other data or another model. Every stage and parameter below replaces \
         that of the included file.\ninclude = {}\n\n[pipeline]\nname = {}\n",
        comment(from),
        quoted(&from.to_string_lossy()),
        quoted(name)
    );
    let stage_of = |kind: &str, flag: &str, of: &dyn Fn(&Value) -> bool| -> Result<String> {
        let mut names: Vec<&str> = Vec::new();
        for stage in other.variants.iter().flat_map(|variant| &variant.stages) {
            let fits = stage.declaration.name == kind && of(&stage.resolved.parameters);
            if fits && !names.contains(&stage.name.as_str()) {
                names.push(&stage.name);
            }
        }
        match names[..] {
            [one] => Ok(one.to_owned()),
            [] => Err(Problem::usage(format!("{} has no stage of kind {kind} for {flag}", from.display())).into()),
            _ => {
                let message = format!("{} has several stages for {flag}: {}", from.display(), names.join(", "));
                Err(Problem::usage(message)
                    .hint(format!("leave {flag} out, and set the one that you mean by hand"))
                    .into())
            }
        }
    };
    if let Some(pool) = pool {
        super::ask::refuse_missing(pool, "--pool")?;
        let stage = stage_of("ingest", "--pool", &|_| true)?;
        let _ = write!(text, "\n[stage.{}]\nsources = [{}]\n", key(&stage), source(pool, &Map::new()));
    }
    if task.is_some() || test.is_some() {
        let stage = stage_of("task", if task.is_some() { "--task" } else { "--test" }, &|_| true)?;
        let _ = write!(text, "\n[stage.{}]\n", key(&stage));
        for (path, name, flag) in [(task, "source", "--task"), (test, "test_source", "--test")] {
            if let Some(path) = path {
                super::ask::refuse_missing(path, flag)?;
                let _ = writeln!(text, "{name}.path = {}", quoted(&path.to_string_lossy()));
            }
        }
    }
    if let Some(model) = model {
        super::ask::refuse_missing(model, "--model")?;
        let is_file =
            |parameters: &Value| ["gguf", "huggingface"].iter().any(|name| !parameters["source"][name].is_null());
        let stage = stage_of("model", "--model", &is_file)?;
        let _ = write!(text, "\n[stage.{}]\nsource = {}\n", key(&stage), model_source(model)?);
    }
    Ok(text)
}

/// The name of a stage in the header of a table.
fn key(stage: &str) -> String {
    let is_plain = stage.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter));
    if is_plain { stage.to_owned() } else { quoted(stage) }
}

fn model_source(path: &Path) -> Result<String> {
    let kind = if path.metadata().is_ok_and(|found| found.is_dir()) { "huggingface" } else { "gguf" };
    let Some(path) = path.to_str() else {
        return Err(Problem::usage(format!("the path {} is not UTF-8", path.display())).into());
    };
    Ok(format!("{{ {kind} = {} }}", quoted(path)))
}

fn source(path: &Path, settings: &Map<String, Value>) -> String {
    let mut parts = vec![format!("path = {}", quoted(&path.to_string_lossy()))];
    parts.extend(settings.iter().map(|(name, value)| format!("{name} = {value}")));
    format!("{{ {} }}", parts.join(", "))
}

/// A text as a TOML string.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn comment(path: &Path) -> String {
    one_line(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
}

fn one_line(text: &str) -> String {
    raisin_base::printable::one_line(text).into_owned()
}

fn millions(parameters: f64) -> String {
    if parameters < 1e9 { format!("{:.1}M", parameters / 1e6) } else { format!("{:.1}B", parameters / 1e9) }
}
