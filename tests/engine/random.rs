//! Tests random graphs under random edits: an incremental build with a cache of earlier builds must give the same
//! results as a build with an empty cache. A short form runs with the other tests; `just torture` runs 10,000 cases.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use raisin_engine::{self as engine, Options};
use raisin_pipeline::Pipeline;
use raisin_store::{self as store, BuildDescription, GcOptions};
use serde_json::{Value, json};

use crate::kinds::run_assignment;
use crate::project::{EngineProject, StageText};
use raisin_tests::TestRng;

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const FILES: [&str; 3] = ["one.txt", "two.txt", "three.txt"];
/// The texts of `write` stages. Two of the texts give the same bytes, so that early cutoff happens; see `write`.
const TEXTS: [&str; 4] = ["ay", "ay  ", "bee", "sea"];

/// The content of the pipeline file and of the input files.
#[derive(Clone)]
struct ProjectState {
    stages: Vec<Planned>,
    seed: u64,
    files: [String; 3],
}

#[derive(Clone)]
struct Planned {
    name: &'static str,
    kind: RandomKind,
}

#[derive(Clone)]
enum RandomKind {
    Write { text: &'static str },
    Copy { file: usize },
    Join { left: &'static str, right: &'static str, between: &'static str },
}

impl ProjectState {
    fn new(rng: &mut TestRng) -> Self {
        let files = [(); 3].map(|()| rng.one_of(&TEXTS).to_owned());
        let mut state = Self { stages: Vec::new(), seed: 1, files };
        for _ in 0..2 + rng.below(4) {
            state.add(rng);
        }
        state
    }

    fn add(&mut self, rng: &mut TestRng) {
        let free: Vec<&'static str> =
            NAMES.into_iter().filter(|name| self.stages.iter().all(|stage| stage.name != *name)).collect();
        if let Some(name) = free.first() {
            let kind = self.kind(self.stages.len(), rng);
            self.stages.push(Planned { name, kind });
        }
    }

    /// A random kind for the stage at this position. Its inputs are earlier stages.
    fn kind(&self, place: usize, rng: &mut TestRng) -> RandomKind {
        match rng.below(if place == 0 { 2 } else { 5 }) {
            0 => RandomKind::Write { text: rng.one_of(&TEXTS) },
            1 => RandomKind::Copy { file: rng.below(FILES.len()) },
            _ => {
                let (left, right) = (self.stages[rng.below(place)].name, self.stages[rng.below(place)].name);
                RandomKind::Join { left, right, between: rng.one_of(&["-", "+"]) }
            }
        }
    }

    /// Makes one random edit. If the edit removes a stage, the dependents of this stage get another input.
    fn edit(&mut self, rng: &mut TestRng) {
        let place = rng.below(self.stages.len());
        match rng.below(8) {
            0 => self.add(rng),
            1 if self.stages.len() > 1 => {
                let gone = self.stages.remove(place).name;
                for place in 0..self.stages.len() {
                    if matches!(self.stages[place].kind, RandomKind::Join { left, right, .. } if left == gone || right == gone)
                    {
                        self.stages[place].kind = self.kind(place, rng);
                    }
                }
            }
            2 => self.seed = 1 + rng.below(2) as u64,
            3 | 4 => self.files[rng.below(FILES.len())] = rng.one_of(&TEXTS).to_owned(),
            _ => self.stages[place].kind = self.kind(place, rng),
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
                    RandomKind::Write { text } => ("write", json!({ "text": text })),
                    RandomKind::Copy { file } => ("copy", json!({ "path": FILES[*file] })),
                    RandomKind::Join { left, right, between } => {
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
    let mut rng = TestRng::new("graphs");
    let (mut done, mut ran, mut clean_ran) = (0, 0, 0);
    while done < cases {
        let project = EngineProject::new();
        let _workers = ShellWorkers::open(&project);
        let mut earlier = vec![ProjectState::new(&mut rng)];
        for _ in 0..25.min(cases - done) {
            let mut state = earlier[earlier.len() - 1].clone();
            match rng.below(10) {
                0 => state = earlier[rng.below(earlier.len())].clone(),
                1 => {
                    let options = GcOptions { yes: true, older_than: Some(Duration::ZERO), ..GcOptions::default() };
                    let (cache, out) = (project.folder.join("kept/cache"), project.folder.join("kept/out"));
                    store::gc(&store::Store::open(&cache).unwrap(), &out, &options).unwrap();
                    state.edit(&mut rng);
                }
                edits => (0..=edits % 3).for_each(|_| state.edit(&mut rng)),
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

fn shown(state: &ProjectState) -> String {
    let stages: Vec<Value> = state
        .stages
        .iter()
        .map(|stage| match &stage.kind {
            RandomKind::Write { text } => json!([stage.name, text]),
            RandomKind::Copy { file } => json!([stage.name, FILES[*file], state.files[*file]]),
            RandomKind::Join { left, right, between } => json!([stage.name, left, between, right]),
        })
        .collect();
    Value::from(stages).to_string()
}
