//! `raisin diff`: compares two runs, or two variants of a pipeline's last build. The journal, the action records and
//! build.json say what is compared; raisin-data compares the tables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::Folders;
use super::runs::all_of;
use raisin_base::digest::Digest;
use raisin_base::error::{Problem, Result, nearest};
use raisin_base::say;
use raisin_contract::Action;
use raisin_contract::diff::{ArtifactPair, DiffQuestion};
use raisin_engine::{differences, words};
use raisin_store::{BuildDescription, Run, Store, overrides};

/// The number of instructions that are listed for each side without `--all`.
const MOST_INSTRUCTIONS: usize = 5;

/// Show what two runs, or two variants of a pipeline's last build, differ in: parameters, artifacts, metrics with paired
/// differences, and which instructions one selected and the other did not, and when.
///
/// A and B are runs (from `raisin runs`; a part of the id that only one run has is enough), or variants: values of the
/// sweep, such as `method=raise` or `method=raise,seed=17`. The values that are not given pair the variants.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The first side: a run, or values of a sweep.
    a: String,
    /// The second side.
    b: String,
    /// The pipeline whose variants are compared [default: the pipeline of the last run].
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// List all instructions that only one side selected.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    folders: Folders,
}

const EXAMPLES: &str = "\
Examples:
  raisin diff 4711 4712                                two runs
  raisin diff method=random method=raise               two methods of the last build, paired by seed
  raisin diff method=raise,seed=17 method=raise,seed=18 --pipeline quickstart";

/// One side: its stages by name and by the values that pair them.
struct Side {
    title: String,
    stages: BTreeMap<(String, String), Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    key: Digest,
    artifact: Digest,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let store = Store::expected(&arguments.folders.cache.path())?;
    let all = all_of(&store)?;
    let names = [&arguments.a, &arguments.b];
    let sides = if names.iter().all(|name| name.contains('=')) {
        variants(arguments, &all, names)?
    } else {
        let mut found = Vec::new();
        for name in names {
            found.push(side_of(run_named(&all, name)?, &all)?);
        }
        let Ok(sides) = <[Side; 2]>::try_from(found) else { return Ok(ExitCode::FAILURE) };
        sides
    };
    let [a, b] = with_single_stages_paired(sides);
    let mut text = format!("A  {}\nB  {}\n", a.title, b.title);
    let pairs: Vec<Pair> = a
        .stages
        .iter()
        .filter_map(|(name, one)| b.stages.get(name).map(|other| Pair { name, sides: [*one, *other] }))
        .collect();
    let compared = pairs.iter().map(|pair| ComparedStage::of(&store, pair)).collect::<Result<Vec<_>>>()?;
    text += &parameters(&compared);
    text += &artifacts(&compared, &a, &b);
    super::print(&text)?;
    let mut question =
        DiffQuestion { most: if arguments.all { usize::MAX } else { MOST_INSTRUCTIONS }, ..DiffQuestion::default() };
    let mut gone = Vec::new();
    for of in compared.iter().filter(|of| of.differs && (of.kind == "evaluate" || of.kind == "finetune")) {
        let folders = of.pair.sides.map(|entry| store.artifact_folder(entry.artifact));
        if folders.iter().all(|folder| folder.is_dir()) {
            question.pairs.push(of.question(folders));
        } else {
            gone.push(of.pair.label());
        }
    }
    if !gone.is_empty() {
        say!("left out, because gc removed an artifact: {}", gone.join(", "));
    }
    if question.pairs.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    super::answer::hand_over_diff(&question)
}

/// The run with this id, or the only run whose id contains this text.
fn run_named<'r>(all: &'r [Run], name: &str) -> Result<&'r Run> {
    if let Some(exact) = all.iter().find(|run| run.run == name) {
        return Ok(exact);
    }
    let found: Vec<&Run> = all.iter().filter(|run| !name.is_empty() && run.run.contains(name)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(Problem::usage(format!("`{name}` is neither a run nor a value of a sweep"))
            .hint("`raisin runs` lists the runs; values look like method=raise")
            .into()),
        [one, other, ..] => {
            let message =
                format!("`{name}` is a part of {} ids of runs, such as {} and {}", found.len(), one.run, other.run);
            Err(Problem::usage(message).hint("give more of the id").into())
        }
    }
}

/// The stages of a run. A run that found all as it was has those of the run before of the same links.
fn side_of(run: &Run, all: &[Run]) -> Result<Side> {
    let mut source = run;
    if run.is_without_changes() {
        let place = all.iter().position(|other| other.run == run.run).unwrap_or(0);
        let before = all[..place].iter().rev().find(|other| {
            let same = (&other.pipeline, &other.file, &other.out) == (&run.pipeline, &run.file, &run.out);
            same && !other.stages.is_empty() && other.outcome.as_deref() == Some("built")
        });
        source = before.ok_or_else(|| {
            let message =
                format!("the run {} ran nothing, and the journal has no run whose artifacts it found", run.run);
            Problem::new(message).hint("compare with a run that ran stages: `raisin runs` lists them")
        })?;
    }
    if source.stages.is_empty() {
        let outcome = run.outcome.as_deref().unwrap_or("killed");
        return Err(Problem::usage(format!("the run {} has no artifact to compare: it was {outcome}", run.run)).into());
    }
    let commit = run.commit.as_ref().map(|commit| {
        let dirty = if run.dirty == Some(true) { " with changes" } else { "" };
        format!("commit {}{dirty}", commit.get(..12).unwrap_or(commit))
    });
    let version = run.version.as_ref().map(|version| format!("raisin {version}"));
    let same = (source.run != run.run).then(|| format!("ran nothing: its artifacts are those of {}", source.run));
    let title = [Some(run.run.clone()), run.pipeline.clone(), version, commit, Some(overrides(run)), same];
    let title: Vec<String> = title.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    let stages = source.stages.iter().map(|stage| {
        let entry = Entry { key: stage.key, artifact: stage.artifact };
        ((stage.stage.clone(), stage.variant.clone()), entry)
    });
    Ok(Side { title: title.join("  "), stages: stages.collect() })
}

/// Two variants, or two groups of variants, of the last build of a pipeline.
fn variants(arguments: &Arguments, all: &[Run], names: [&String; 2]) -> Result<[Side; 2]> {
    let pipeline = arguments.pipeline.clone().or_else(|| all.iter().rev().find_map(|run| run.pipeline.clone()));
    let pipeline = pipeline.ok_or_else(|| Problem::usage("no pipeline was built here yet"))?;
    let folder = arguments.folders.out.path().join(&pipeline);
    let Some(description) = BuildDescription::read(&folder)? else {
        return Err(Problem::usage(format!("no pipeline `{pipeline}` was built here"))
            .hint(format!("its links would be in {}", folder.display()))
            .into());
    };
    let side = |name: &String| -> Result<Side> {
        let wanted: Vec<&str> = name.split(',').map(str::trim).collect();
        let mut stages = BTreeMap::new();
        for built in &description.stages {
            let own: Vec<&str> = built.variant.split(',').filter(|word| !word.is_empty()).collect();
            // A stage without variants gathers all of them: it belongs to neither side.
            if own.is_empty() || !wanted.iter().all(|word| own.contains(word)) {
                continue;
            }
            let rest: Vec<&str> = own.into_iter().filter(|word| !wanted.contains(word)).collect();
            let entry = Entry { key: built.key, artifact: built.artifact };
            stages.insert((built.stage.clone(), rest.join(",")), entry);
        }
        if stages.is_empty() {
            let mut known: Vec<&str> = description.stages.iter().flat_map(|built| built.variant.split(',')).collect();
            known.sort_unstable();
            known.dedup();
            known.retain(|word| !word.is_empty());
            let problem = Problem::usage(format!("the last build of `{pipeline}` has no variant with `{name}`"));
            let near = nearest(name, known.iter().copied()).map(|near| format!("did you mean `{near}`? "));
            return Err(problem.hint(format!("{}values: {}", near.unwrap_or_default(), known.join(", "))).into());
        }
        Ok(Side { title: format!("{name}  in the last build of {pipeline}"), stages })
    };
    Ok([side(names[0])?, side(names[1])?])
}

/// Pairs a stage that each side has once, whatever its values are: two runs with another sweep have other variants.
fn with_single_stages_paired([a, mut b]: [Side; 2]) -> [Side; 2] {
    let single = |side: &Side, stage: &str| {
        let mut names = side.stages.keys().filter(|(name, _)| name == stage);
        names.next().cloned().filter(|_| names.next().is_none())
    };
    let names: Vec<String> = a.stages.keys().map(|(name, _)| name.clone()).collect();
    for stage in names {
        if let (Some(own), Some(other)) = (single(&a, &stage), single(&b, &stage))
            && own != other
            && let Some(entry) = b.stages.remove(&other)
        {
            b.stages.insert(own, entry);
        }
    }
    [a, b]
}

fn label((stage, variant): &(String, String)) -> String {
    if variant.is_empty() { stage.clone() } else { format!("{stage} [{variant}]") }
}

struct Pair<'s> {
    name: &'s (String, String),
    sides: [Entry; 2],
}

impl Pair<'_> {
    fn label(&self) -> String {
        label(self.name)
    }
}

/// A pair with what the action records say.
struct ComparedStage<'p, 's> {
    pair: &'p Pair<'s>,
    kind: String,
    differs: bool,
    /// What differs beside the artifacts of inputs, in words.
    reasons: Vec<String>,
    same_examples: bool,
    same_pool: bool,
}

impl<'p, 's> ComparedStage<'p, 's> {
    fn of(store: &Store, pair: &'p Pair<'s>) -> Result<Self> {
        let [one, other] = [store.record(pair.sides[0].key)?, store.record(pair.sides[1].key)?];
        let mut compared = Self {
            pair,
            kind: String::new(),
            differs: pair.sides[0].artifact != pair.sides[1].artifact,
            reasons: Vec::new(),
            same_examples: false,
            same_pool: false,
        };
        let (Some(one), Some(other)) = (one, other) else { return Ok(compared) };
        compared.kind.clone_from(&other.kind);
        let same = |pointers: &[&str]| pointers.iter().all(|at| one.action.pointer(at) == other.action.pointer(at));
        compared.same_examples =
            same(&["/parameters/task", "/parameters/split", "/parameters/limit", "/parameters/overlap"]);
        compared.same_pool = same(&["/parameters/instructions"]);
        if let (Ok(one), Ok(other)) = (Action::of_json(&one.action), Action::of_json(&other.action)) {
            let found = differences(&one, &other);
            compared.reasons = words(&found.into_iter().filter(|it| !it.is_of_an_artifact()).collect::<Vec<_>>());
        }
        Ok(compared)
    }

    fn question(&self, artifacts: [PathBuf; 2]) -> ArtifactPair {
        let (stage, variant) = self.pair.name;
        let (seed, rest): (Vec<&str>, Vec<&str>) =
            variant.split(',').filter(|word| !word.is_empty()).partition(|word| word.starts_with("seed="));
        let label = if rest.is_empty() { stage.clone() } else { format!("{stage} [{}]", rest.join(",")) };
        let (same_examples, same_pool) = (self.same_examples, self.same_pool);
        ArtifactPair { label, repetition: seed.join(","), artifacts, same_examples, same_pool }
    }
}

/// The parameters that differ, each with the stages in which they differ.
fn parameters(compared: &[ComparedStage<'_, '_>]) -> String {
    let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
    for of in compared {
        for reason in &of.reasons {
            let stage = of.pair.name.0.as_str();
            match by_reason.iter_mut().find(|(known, _)| known == reason) {
                Some((_, stages)) if !stages.contains(&stage) => stages.push(stage),
                Some(_) => {}
                None => by_reason.push((reason, vec![stage])),
            }
        }
    }
    if by_reason.is_empty() {
        return "\nno parameter, seed or input file differs\n".to_owned();
    }
    let lines = by_reason.iter().map(|(reason, stages)| format!("  {}: {reason}\n", stages.join(", ")));
    format!("\nparameters, seeds and input files, A -> B\n{}", lines.collect::<String>())
}

fn artifacts(compared: &[ComparedStage<'_, '_>], a: &Side, b: &Side) -> String {
    let labels = |differ: bool| {
        let of = compared.iter().filter(|of| of.differs == differ).map(|of| of.pair.label());
        of.collect::<Vec<_>>()
    };
    let only = |side: &Side, other: &Side| {
        let names = side.stages.keys().filter(|name| !other.stages.contains_key(*name));
        names.map(label).collect::<Vec<_>>()
    };
    let lists =
        [("the same", labels(false)), ("differ", labels(true)), ("only in A", only(a, b)), ("only in B", only(b, a))];
    let mut text = "\nartifacts\n".to_owned();
    for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
        text += &format!("  {:2} {what}: {}\n", names.len(), names.join(", "));
    }
    text
}
