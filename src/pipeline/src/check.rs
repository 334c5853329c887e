//! Checks the tree against the declarations of the kinds: keys are known, parameters are complete, needed stages exist,
//! and the stages can be ordered. explain.rs writes the messages.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;

use super::checked::CheckedParameters;
use super::explain::{find, parameter_problem, suggest, unknown_key};
use super::overrides;
use super::placeholder;
use super::sweep::Combination;
use super::tree::{NodeContent, Table, TableEntry, TreeNode, Written};
use super::{Resources, Stage, Variant};
use raisin_base::error::Problem;
use raisin_contract::declaration::from_json;
use raisin_contract::outputs::ANY_FILE;
use raisin_contract::pointer::dotted;
use raisin_contract::query::RESERVED_SCHEMAS;
use raisin_contract::{DType, Declaration, ParameterProblem, ResolvedParameters, SETUP, StageNeed};

const TOP_KEYS: [&str; 6] = ["include", "pipeline", "cache", "executor", "stage", "sweep"];
const PIPELINE_KEYS: [&str; 3] = ["name", "seed", "dtype"];

/// The content of `[pipeline]`.
pub struct Header {
    pub name: String,
    pub seed: u64,
    pub dtype: Option<DType>,
}

/// Reads and checks `[pipeline]`.
///
/// # Errors
/// `[pipeline]` or the top level of the file has an unknown key, or a value has the wrong type.
pub fn header(root: &Table, file: &Path) -> Result<Header, Vec<Problem>> {
    let mut problems: Vec<Problem> = root
        .entries
        .iter()
        .filter(|entry| !TOP_KEYS.contains(&entry.key.as_str()))
        .map(|entry| unknown_key("the pipeline", entry, &TOP_KEYS))
        .collect();
    let mut header = Header { name: stem(file), seed: 0, dtype: None };
    if let Some(node) = root.get("pipeline") {
        match node.table() {
            None => problems.push(wants(node, "pipeline", "a table")),
            Some(table) => {
                for entry in &table.entries {
                    problems.extend(header_key(&mut header, entry).err());
                }
            }
        }
    }
    if let Some(problem) = bad_name(&header.name).filter(|_| problems.is_empty()) {
        let message = format!("the pipeline name `{}` {problem}: it is the name of a folder under out/", header.name);
        problems.push(match root.get("pipeline").and_then(TreeNode::table).and_then(|table| table.get("name")) {
            Some(node) => node.origin.problem(message),
            None => Problem::usage(message).hint("set a `name` in [pipeline]"),
        });
    }
    if problems.is_empty() { Ok(header) } else { Err(problems) }
}

fn header_key(header: &mut Header, entry: &TableEntry) -> Result<(), Problem> {
    let node = &entry.node;
    match entry.key.as_str() {
        "name" => header.name = node.text().ok_or_else(|| wants(node, "pipeline.name", "a string"))?.to_owned(),
        "seed" => {
            let seed = node.to_json().as_u64();
            header.seed = seed.ok_or_else(|| wants(node, "pipeline.seed", "an integer from 0 up"))?;
        }
        "dtype" => {
            let dtype = serde_json::from_value(node.to_json());
            header.dtype = Some(dtype.map_err(|_| wants(node, "pipeline.dtype", "\"f32\" or \"bf16\""))?);
        }
        _ => return Err(unknown_key("[pipeline]", entry, &PIPELINE_KEYS)),
    }
    Ok(())
}

/// The variant of one combination of the sweep, with its stages resolved and ordered.
///
/// # Errors
/// All problems of the stages of this variant.
pub fn variant(
    root: &Table,
    combination: &Combination<'_>,
    kinds: &'static [Declaration],
    checked: &mut CheckedParameters,
) -> Result<Variant, Vec<Problem>> {
    let mut root = Cow::Borrowed(root);
    for (axis, value) in combination {
        overrides::set(root.to_mut(), &axis.key, &axis.origin, (*value).clone()).map_err(|problem| vec![problem])?;
    }
    let header = header(&root, Path::new("pipeline"))?;
    placeholder::fill(&mut root, header.seed)?;
    let stages = order(stages(&root, kinds, header.seed, checked)?).map_err(|problem| vec![problem])?;
    let values = combination.iter().map(|(axis, value)| (axis.key.clone(), value.to_json())).collect();
    Ok(Variant { name: String::new(), values, seed: header.seed, dtype: header.dtype, stages })
}

struct CheckedStage<'t> {
    entry: &'t TableEntry,
    declaration: &'static Declaration,
    resolved: ResolvedParameters,
    resources: Resources,
    /// `None` without a seed of its own.
    seed: Option<u64>,
}

/// All stages of the file by name; `None` for a stage that has a problem of its own.
type Named<'c, 't> = HashMap<&'c str, Option<&'c CheckedStage<'t>>>;

fn stages(
    root: &Table,
    kinds: &'static [Declaration],
    seed: u64,
    memory: &mut CheckedParameters,
) -> Result<Vec<Stage>, Vec<Problem>> {
    let Some(entry) = root.entry("stage") else {
        return Err(vec![Problem::usage("this pipeline has no stages").hint("a stage begins with [stage.NAME]")]);
    };
    let NodeContent::Table(table) = &entry.node.content else {
        return Err(vec![wants(&entry.node, "stage", "a table")]);
    };
    let mut checked = Vec::with_capacity(table.entries.len());
    let mut problems = Vec::new();
    for entry in &table.entries {
        match stage(entry, kinds, memory) {
            Ok(stage) => checked.push(stage),
            Err(problem) => problems.push(problem),
        }
    }
    // A stage that needs a wrong stage gets no additional problem.
    let mut named: Named<'_, '_> = table.keys().map(|name| (name, None)).collect();
    named.extend(checked.iter().map(|stage| (stage.entry.key.as_str(), Some(stage))));
    for stage in &checked {
        for need in &stage.resolved.needs.stages {
            problems.extend(reference(stage, need, table, &named).err());
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let finished = |stage: CheckedStage<'_>| Stage {
        name: stage.entry.key.clone(),
        declaration: stage.declaration,
        written: needs_written(&stage),
        resolved: stage.resolved,
        resources: stage.resources,
        seed: stage.seed.unwrap_or(seed),
    };
    Ok(checked.into_iter().map(finished).collect())
}

/// Where the paths and the expected digests of the files of a stage, and the programs whose output is in its key, were
/// written, by pointer.
fn needs_written(stage: &CheckedStage<'_>) -> HashMap<String, Written> {
    let needs = &stage.resolved.needs;
    let files = needs.files.iter();
    let files = files.flat_map(|need| std::iter::once(&need.pointer).chain(&need.expected_digest_pointer));
    let pointers = files.chain(needs.printed.iter().map(|need| &need.pointer));
    pointers.map(|pointer| (pointer.clone(), find(stage.entry, pointer).value.written())).collect()
}

fn stage<'t>(
    entry: &'t TableEntry,
    kinds: &'static [Declaration],
    memory: &mut CheckedParameters,
) -> Result<CheckedStage<'t>, Problem> {
    let name = &entry.key;
    if let Some(problem) = bad_stage_name(name) {
        let problem = entry.origin.problem(problem);
        let is_reserved = RESERVED_SCHEMAS.contains(&name.as_str());
        let hint = || format!("give the stage another name, such as `{name}_stage`");
        return Err(if is_reserved { problem.hint(hint()) } else { problem });
    }
    let table = entry.node.table().ok_or_else(|| wants(&entry.node, &format!("stage.{name}"), "a table"))?;
    let all = || kinds.iter().map(|kind| kind.name);
    let listed = || all().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
    let Some(kind) = table.get("kind") else {
        let problem = entry.origin.problem(format!("stage `{name}` has no `kind`"));
        return Err(problem.hint(format!("the kinds are {}", listed())));
    };
    let word = kind.text().ok_or_else(|| wants(kind, &format!("stage.{name}.kind"), "a string"))?;
    let Some(declaration) = kinds.iter().find(|kind| kind.name == word) else {
        let problem = kind.origin.problem(format!("stage `{name}`: there is no kind `{word}`"));
        return Err(suggest(problem, word, all(), Some(format!("the kinds are {}", listed()))));
    };
    let mut parameters = table.to_json();
    parameters.shift_remove("kind");
    if declaration.shows_setup && parameters.contains_key(SETUP) {
        return Err(parameter_problem(entry, &ParameterProblem::new(format!("/{SETUP}"), "raisin itself gives this")));
    }
    let resources =
        resources(parameters.shift_remove("resources")).map_err(|found| parameter_problem(entry, &found))?;
    let seed = seed(parameters.shift_remove("seed"), declaration).map_err(|found| parameter_problem(entry, &found))?;
    match declaration.resolve_unless(Value::Object(parameters), &mut |complete| memory.knows(declaration, complete)) {
        Ok(resolved) if seed.is_some() && !resolved.is_seeded => {
            let message = "this stage draws no random numbers that depend on a seed";
            Err(parameter_problem(entry, &ParameterProblem::new("/seed", message)))
        }
        Ok(resolved) => Ok(CheckedStage { entry, declaration, resolved, resources, seed }),
        Err(problem) => Err(parameter_problem(entry, &problem)),
    }
}

fn resources(written: Option<Value>) -> Result<Resources, ParameterProblem> {
    let Some(written) = written else { return Ok(Resources::default()) };
    let resources: Resources = from_json(written, "/resources")?;
    match resources.problem() {
        Some((parameter, message)) => Err(ParameterProblem::new(format!("/resources/{parameter}"), message)),
        None => Ok(resources),
    }
}

/// The seed that a stage gives itself.
fn seed(written: Option<Value>, declaration: &Declaration) -> Result<Option<u64>, ParameterProblem> {
    let Some(written) = written else { return Ok(None) };
    if !declaration.seeded {
        let message = format!("the kind `{}` draws no random numbers, and has no seed", declaration.name);
        return Err(ParameterProblem::new("/seed", message));
    }
    let seed = written.as_u64();
    seed.map(Some).ok_or_else(|| ParameterProblem::new("/seed", "must be an integer from 0 up"))
}

fn reference(stage: &CheckedStage<'_>, need: &StageNeed, all: &Table, named: &Named<'_, '_>) -> Result<(), Problem> {
    let wanted = need.stage.as_str();
    let provides = |other: &CheckedStage<'_>| need.provides.is_none_or(|what| other.resolved.provides.contains(&what));
    let found = match named.get(wanted) {
        Some(None) => return Ok(()),
        Some(Some(found)) if provides(found) => return mentioned_parts(stage, need, found),
        Some(Some(found)) => Some(found),
        None => None,
    };
    let mention = need.mentions.first();
    let pointer = mention.map_or(&need.pointer, |mention| &mention.pointer);
    let place = find(stage.entry, pointer).value;
    let parameter = dotted(pointer);
    let own = &stage.entry.key;
    let Some(found) = found else {
        let problem = place.problem(format!("stage `{own}`, {parameter}: there is no stage `{wanted}`"));
        let words = mention.map_or(&[][..], |mention| mention.words);
        return Err(suggest(problem, wanted, all.keys().chain(words.iter().copied()), None));
    };
    let (kind, what) = (found.declaration.name, need.provides.unwrap_or_default());
    let said = format!("stage `{own}`, {parameter}: `{wanted}` is of kind `{kind}`");
    let message = if found.declaration.provides.contains(&what) {
        format!("{said}, and does not say that it provides `{what}`")
    } else {
        format!("{said}, which does not provide `{what}`")
    };
    let able: Vec<String> = all
        .keys()
        .filter(|name| name != own && named.get(name).copied().flatten().is_some_and(provides))
        .map(|name| format!("`{name}`"))
        .collect();
    let problem = place.problem(message);
    Err(if able.is_empty() { problem } else { problem.hint(format!("stages that provide this: {}", able.join(", "))) })
}

/// # Errors
/// A text names a table or a file of `found` that its kind does not declare.
fn mentioned_parts(stage: &CheckedStage<'_>, need: &StageNeed, found: &CheckedStage<'_>) -> Result<(), Problem> {
    let names: Vec<&str> = found.declaration.outputs.names(&found.resolved.parameters).collect();
    for mention in &need.mentions {
        let Some(part) = &mention.part else { continue };
        let table = part.strip_suffix(".jsonl").or(part.strip_suffix(".parquet")).unwrap_or(part);
        let file = part.split('/').next().unwrap_or(part);
        if [table, file, ANY_FILE].iter().any(|name| names.contains(name)) {
            continue;
        }
        let place = find(stage.entry, &mention.pointer).value;
        let (own, wanted, kind) = (&stage.entry.key, &need.stage, found.declaration.name);
        let parameter = dotted(&mention.pointer);
        let message =
            format!("stage `{own}`, {parameter}: `{wanted}` is of kind `{kind}`, which has no table or file `{part}`");
        let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(suggest(place.problem(message), part, names, Some(format!("there are {listed}"))));
    }
    Ok(())
}

/// Orders the stages: a stage comes after the stages that it needs. If several stages could come next, the first in the
/// file comes next.
fn order(stages: Vec<Stage>) -> Result<Vec<Stage>, Problem> {
    let places: HashMap<&str, usize> =
        stages.iter().enumerate().map(|(place, stage)| (stage.name.as_str(), place)).collect();
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); stages.len()];
    let mut lacking = vec![0; stages.len()];
    for (place, stage) in stages.iter().enumerate() {
        let needed: BTreeSet<Option<&usize>> =
            stage.resolved.needs.stages.iter().map(|need| places.get(need.stage.as_str())).collect();
        lacking[place] = needed.len();
        needed.into_iter().flatten().for_each(|input| dependents[*input].push(place));
    }
    let mut ready: BTreeSet<usize> = (0..stages.len()).filter(|place| lacking[*place] == 0).collect();
    let mut order = Vec::with_capacity(stages.len());
    while let Some(place) = ready.pop_first() {
        order.push(place);
        for dependent in &dependents[place] {
            lacking[*dependent] -= 1;
            if lacking[*dependent] == 0 {
                ready.insert(*dependent);
            }
        }
    }
    let mut stages: Vec<Option<Stage>> = stages.into_iter().map(Some).collect();
    let ordered: Vec<Stage> = order.into_iter().filter_map(|place| stages[place].take()).collect();
    let waiting: Vec<Stage> = stages.into_iter().flatten().collect();
    if waiting.is_empty() { Ok(ordered) } else { Err(cycle(&waiting)) }
}

/// Finds a cycle in `waiting`, where each stage needs another stage of `waiting`. Following the needs from any stage
/// leads to a stage that was visited before.
fn cycle(waiting: &[Stage]) -> Problem {
    let mut path: Vec<&str> = Vec::new();
    let mut here = &waiting[0];
    loop {
        if let Some(start) = path.iter().position(|name| *name == here.name) {
            let mut names = path.split_off(start);
            names.push(&here.name);
            return Problem::usage(format!("these stages need each other: {}", names.join(" -> ")));
        }
        path.push(&here.name);
        let next = here.resolved.needs.stages.iter().find_map(|need| waiting.iter().find(|s| s.name == need.stage));
        match next {
            Some(next) => here = next,
            None => return Problem::usage(format!("stage `{}` needs a stage that does not exist", here.name)),
        }
    }
}

fn stem(file: &Path) -> String {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What is wrong with a name; `None` if the name is usable. Names become folders, SQL schemas and parts of dotted keys.
pub fn bad_name(name: &str) -> Option<&'static str> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    match name.chars().next() {
        None => Some("is empty"),
        Some(_) if !name.chars().all(plain) => Some("may have letters, digits, `-` and `_` only"),
        Some('-') => Some("may not begin with `-`"),
        Some(_) => None,
    }
}

/// What is wrong with the name of a stage; `None` if the name is usable.
pub fn bad_stage_name(name: &str) -> Option<String> {
    if let Some(problem) = bad_name(name) {
        return Some(format!("the stage name `{name}` {problem}"));
    }
    RESERVED_SCHEMAS.contains(&name).then(|| {
        format!("the stage name `{name}` is also the name of a schema of `raisin sql`, and would hide the schema")
    })
}

pub fn wants(node: &TreeNode, key: &str, what: &str) -> Problem {
    node.origin.problem(format!("`{key}` must be {what}, not {}", shown(node)))
}

fn shown(node: &TreeNode) -> String {
    match &node.content {
        NodeContent::Scalar(value) => value.to_string(),
        _ => node.type_name().to_owned(),
    }
}
