//! Tests random graphs under random edits: an incremental build with a cache of earlier builds must give the same
//! results as a build with an empty cache. A short form runs with the other tests; `just torture` runs 10,000 cases.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use raisin_base::seed::Seed;
use raisin_engine::{self as engine, Options};
use raisin_pipeline::Pipeline;
use raisin_store::{self as store, BuildDescription, GcOptions};
use rand_chacha::rand_core::Rng as _;
use serde_json::{Value, json};

use crate::kinds::run_assignment;
use crate::project::{EngineProject, StageText};

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const FILES: [&str; 3] = ["one.txt", "two.txt", "three.txt"];
/// The texts of `write` stages. Two of the texts give the same bytes, so that early cutoff happens; see `write`.
const TEXTS: [&str; 4] = ["ay", "ay  ", "bee", "sea"];

struct Chance(rand_chacha::ChaCha8Rng);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn one_of<'t, T: ?Sized>(&mut self, all: &[&'t T]) -> &'t T {
        all[self.below(all.len())]
    }
}

/// The content of the pipeline file.
#[derive(Clone)]
struct State {
    stages: Vec<Planned>,
    seed: u64,
    files: [String; 3],
}

#[derive(Clone)]
struct Planned {
    name: &'static str,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Write { text: &'static str },
    Copy { file: usize },
    Join { left: &'static str, right: &'static str, between: &'static str },
}

impl State {
    fn new(chance: &mut Chance) -> Self {
        let files = [(); 3].map(|()| chance.one_of(&TEXTS).to_owned());
        let mut state = Self { stages: Vec::new(), seed: 1, files };
        for _ in 0..2 + chance.below(4) {
            state.add(chance);
        }
        state
    }

    fn add(&mut self, chance: &mut Chance) {
        let free: Vec<&'static str> =
            NAMES.into_iter().filter(|name| self.stages.iter().all(|stage| stage.name != *name)).collect();
        if let Some(name) = free.first() {
            let kind = self.kind(self.stages.len(), chance);
            self.stages.push(Planned { name, kind });
        }
    }

    /// A random kind for the stage at this position. Its inputs are earlier stages.
    fn kind(&self, place: usize, chance: &mut Chance) -> Kind {
        match chance.below(if place == 0 { 2 } else { 5 }) {
            0 => Kind::Write { text: chance.one_of(&TEXTS) },
            1 => Kind::Copy { file: chance.below(FILES.len()) },
            _ => {
                let (left, right) = (self.stages[chance.below(place)].name, self.stages[chance.below(place)].name);
                Kind::Join { left, right, between: chance.one_of(&["-", "+"]) }
            }
        }
    }

    /// Makes one random edit. If the edit removes a stage, the dependents of this stage get another input.
    fn edit(&mut self, chance: &mut Chance) {
        let place = chance.below(self.stages.len());
        match chance.below(8) {
            0 => self.add(chance),
            1 if self.stages.len() > 1 => {
                let gone = self.stages.remove(place).name;
                for place in 0..self.stages.len() {
                    if matches!(self.stages[place].kind, Kind::Join { left, right, .. } if left == gone || right == gone)
                    {
                        self.stages[place].kind = self.kind(place, chance);
                    }
                }
            }
            2 => self.seed = 1 + chance.below(2) as u64,
            3 | 4 => self.files[chance.below(FILES.len())] = chance.one_of(&TEXTS).to_owned(),
            _ => self.stages[place].kind = self.kind(place, chance),
        }
    }

    fn write_files(&self, project: &EngineProject) {
        for (name, text) in FILES.iter().zip(&self.files) {
            std::fs::write(project.folder.join(name), text).unwrap();
        }
    }

    fn pipeline(&self, project: &EngineProject) -> Pipeline {
        let stages: Vec<StageText<'_>> = self
            .stages
            .iter()
            .map(|stage| {
                let (kind, parameters) = match &stage.kind {
                    Kind::Write { text } => ("write", json!({ "text": text })),
                    Kind::Copy { file } => ("copy", json!({ "path": FILES[*file] })),
                    Kind::Join { left, right, between } => {
                        ("join", json!({ "left": left, "right": right, "between": between }))
                    }
                };
                (stage.name, kind, parameters)
            })
            .collect();
        project.pipeline(vec![EngineProject::variant("", json!({}), self.seed, &stages)])
    }
}

/// Builds, and returns what the build left: for each stage, key, artifact and text, read through the links.
fn built(pipeline: &Pipeline, options: &Options) -> (u64, BTreeMap<String, (String, String, String)>) {
    let summary = engine::build(pipeline, options).unwrap();
    assert_eq!(summary.exit_code(), 0, "{:?}", summary.failures);
    let description = BuildDescription::read(&summary.out).unwrap().unwrap();
    let links = std::fs::read_dir(&summary.out).unwrap().count();
    assert_eq!(links, description.stages.len() + 1, "links of stages that are gone, or none of those that are there");
    let stages = description.stages.into_iter().map(|built| {
        let text = std::fs::read_to_string(summary.out.join(&built.stage).join("text")).unwrap();
        (built.stage, (built.key.to_hex(), built.artifact.to_hex(), text))
    });
    (summary.ran, stages.collect())
}

/// Runs the stages of a project inside the test process. Each worker is a process of its own, but only a shell that
/// passes requests on and waits for replies. A worker of this executable would load libtorch, with which all tests are
/// linked, in each of about 30,000 builds.
struct ShellWorkers {
    requests: PathBuf,
}

impl ShellWorkers {
    fn open(project: &EngineProject) -> Self {
        let requests = project.folder.join("requests");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, requests.as_path(), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        // The shell opens the pipe once for reading and writing. Otherwise it could see an end of file between two
        // replies.
        let script = format!(
            "#!/bin/sh\nrequests='{}'\nmkfifo \"$requests.$$\"\nexec 3<> \"$requests.$$\"\nwhile read -r request; do\n\
             echo \"$$ $request\" > \"$requests\"\nread -r reply <&3\necho \"$reply\"\ndone\n",
            requests.display()
        );
        std::fs::write(project.folder.join("raisin-data"), script).unwrap();
        // Also open for writing, so that the pipe does not end when a shell closes it.
        let pipe = std::fs::File::options().read(true).write(true).open(&requests).unwrap();
        let replies = requests.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok).take_while(|line| line != "end") {
                let (worker, request) = line.split_once(' ').unwrap();
                let request: Value = serde_json::from_str(request).unwrap();
                let replies = replies.with_added_extension(worker);
                std::thread::spawn(move || {
                    let assignment = std::fs::read(request["assignment"].as_str().unwrap()).unwrap();
                    let made = run_assignment(serde_json::from_slice(&assignment).unwrap());
                    let ended = if made.is_ok() { "done" } else { "failed" };
                    std::fs::write(replies, format!("{}\n", json!({"ended": ended, "leaves": false}))).unwrap();
                });
            }
        });
        Self { requests }
    }
}

impl Drop for ShellWorkers {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.requests, "end\n");
    }
}

fn options(project: &EngineProject, place: &str) -> Options {
    Options {
        cache: project.folder.join(place).join("cache"),
        out: project.folder.join(place).join("out"),
        ..project.options()
    }
}

#[test]
fn an_incremental_build_of_a_random_graph_after_random_edits_is_a_clean_build() {
    let full = std::env::var("RAISIN_TORTURE").is_ok_and(|word| word == "full");
    let cases = if full { 10_000 } else { 12 };
    let seed = std::env::var("RAISIN_TORTURE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut chance = Chance(Seed::new(seed).at("graphs").rng());
    let (mut done, mut ran, mut clean_ran) = (0, 0, 0);
    while done < cases {
        let project = EngineProject::new();
        let _kitchen = ShellWorkers::open(&project);
        let mut earlier = vec![State::new(&mut chance)];
        for _ in 0..25.min(cases - done) {
            let mut state = earlier[earlier.len() - 1].clone();
            match chance.below(10) {
                0 => state = earlier[chance.below(earlier.len())].clone(),
                1 => {
                    let options = GcOptions { yes: true, older_than: Some(Duration::ZERO), ..GcOptions::default() };
                    let (cache, out) = (project.folder.join("kept/cache"), project.folder.join("kept/out"));
                    store::gc(&store::Store::open(&cache).unwrap(), &out, &options).unwrap();
                    state.edit(&mut chance);
                }
                edits => (0..=edits % 3).for_each(|_| state.edit(&mut chance)),
            }
            state.write_files(&project);
            let pipeline = state.pipeline(&project);
            let (some, incremental) = built(&pipeline, &options(&project, "kept"));
            let (all, clean) = built(&pipeline, &options(&project, "clean"));
            assert_eq!(incremental, clean, "case {done}: {}", shown(&state));
            // A second build has nothing to run.
            assert_eq!(built(&pipeline, &options(&project, "kept")), (0, incremental), "case {done}");
            // The artifacts in the cache are read-only, so the usual removal would fail.
            store::remove_tree(&project.folder.join("clean")).unwrap();
            (done, ran, clean_ran) = (done + 1, ran + some, clean_ran + all);
            if done % 1000 == 0 {
                println!("{done} edits without a difference");
            }
            earlier.push(state);
        }
        store::remove_tree(&project.folder.join("kept")).unwrap();
    }
    assert!(ran < clean_ran, "nothing was ever reused: the check checks nothing");
    println!("{done} edits of random graphs: no difference; {ran} stages ran where clean builds ran {clean_ran}");
}

fn shown(state: &State) -> String {
    let stages: Vec<Value> = state
        .stages
        .iter()
        .map(|stage| match &stage.kind {
            Kind::Write { text } => json!([stage.name, text]),
            Kind::Copy { file } => json!([stage.name, FILES[*file], state.files[*file]]),
            Kind::Join { left, right, between } => json!([stage.name, left, between, right]),
        })
        .collect();
    Value::from(stages).to_string()
}
