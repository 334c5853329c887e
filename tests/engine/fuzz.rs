//! Reads files that were changed at random: pipeline files, plan files, and every file of a cache and of its links. The
//! changed files come from real builds. tests/support/fuzz.rs has the changes and the limits.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use raisin_base::digest::Digest;
use raisin_contract::Action;
use raisin_engine::{self as engine, PlanFile};
use raisin_store::{self as store, ActionRecord, BuildDescription, GcOptions, Manifest, Store};
use raisin_tests::files_below;
use raisin_tests::fuzz::{self, Fuzzing, Limits, Subject, run_subject};
use serde_json::json;

use crate::kinds::KINDS;
use crate::project::{EngineProject, chain};

const LIMITS: Limits = Limits { time: Duration::from_secs(1), memory: 512 << 10 };

const SUBJECTS: [(&str, Subject); 5] =
    [("pipelines", pipelines), ("plans", plans), ("parsers", parsers), ("journals", journals), ("caches", caches)];

/// Not a test: the process of one subject.
#[test]
fn fuzz_process() {
    run_subject(&SUBJECTS, LIMITS);
}

fn holds(subject: &str) {
    fuzz::holds("fuzz::fuzz_process", subject);
}

#[test]
fn no_changed_pipeline_file_causes_a_panic_or_a_hang() {
    holds("pipelines");
}

#[test]
fn no_changed_plan_file_causes_a_panic_or_a_hang() {
    holds("plans");
}

#[test]
fn no_changed_record_manifest_or_description_causes_a_panic_or_a_hang() {
    holds("parsers");
}

#[test]
fn no_changed_journal_causes_a_panic_or_a_hang() {
    holds("journals");
}

#[test]
fn no_changed_file_of_a_cache_causes_a_panic_or_a_hang() {
    holds("caches");
}

fn texts_of(paths: &[&str]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| std::fs::read(raisin_tests::package().join(path)).unwrap()).collect()
}

fn pipelines(fuzzing: &mut Fuzzing) {
    let mut corpus =
        texts_of(&["tests/pipelines/micro.toml", "pipelines/quickstart.toml", "pipelines/alpaca-gsm8k.toml"]);
    corpus.push(b"include = [\"base.toml\", \"base.toml\"]\n[stage.pool]\nsize = 4\n".to_vec());
    std::fs::write(fuzzing.folder.join("base.toml"), &corpus[0]).unwrap();
    while fuzzing.goes_on() {
        let changed = fuzzing.changed(&corpus);
        let cache = fuzzing.folder.join("cache");
        fuzzing.one("changed", &changed, |path| {
            let loaded = raisin_pipeline::load(path, &[], raisin_kinds::KINDS, &cache);
            drop(loaded.map_err(|error| raisin_base::error::render(&error)));
        });
    }
}

/// A project with a build, an expected digest, a pin and a pattern of files.
fn built() -> (EngineProject, raisin_pipeline::Pipeline) {
    let project = EngineProject::new();
    project.write(&[("data/a.txt", "1"), ("data/b.txt", "2")]);
    let mut stages = chain("text", "-");
    stages.push(("list", "several", json!({"path": "data/*.txt"})));
    let pipeline = project.one(&stages);
    assert_eq!(project.build(&pipeline).exit_code(), 0);
    project.build(&pipeline);
    let cache = project.store();
    cache.pin(cache.artifact_digests().unwrap()[0], "story.a").unwrap();
    (project, pipeline)
}

fn plans(fuzzing: &mut Fuzzing) {
    let (project, pipeline) = built();
    let corpus = [
        PlanFile::make(&pipeline, &project.options()).unwrap().1.text().unwrap().into_bytes(),
        PlanFile::make(&project.one(&chain("other", "+")), &project.options()).unwrap().1.text().unwrap().into_bytes(),
    ];
    while fuzzing.goes_on() {
        let changed = fuzzing.changed(&corpus);
        fuzzing.one("changed", &changed, |path| {
            let Ok(Some(plan)) = PlanFile::read(path) else { return };
            let Ok(pipeline) = plan.pipeline(&KINDS) else { return };
            drop(engine::plan(&pipeline, &plan.options(project.options())));
        });
    }
}

/// Action records, manifests, descriptions and actions, which their readers get although a seal protects them.
fn parsers(fuzzing: &mut Fuzzing) {
    let (project, _) = built();
    let cache = project.store();
    let records = cache.actions().unwrap();
    let mut corpus: Vec<Vec<u8>> = records.iter().map(|record| serde_json::to_vec(record).unwrap()).collect();
    corpus.extend(records.iter().map(|record| serde_json::to_vec(&record.action).unwrap()));
    corpus.extend(records.iter().map(|record| cache.manifest(record.artifact).unwrap().to_bytes().unwrap()));
    corpus.push(std::fs::read(project.folder.join("out/story/build.json")).unwrap());
    let manifest = cache.manifest(records[0].artifact).unwrap();
    while fuzzing.goes_on() {
        let changed = fuzzing.changed(&corpus);
        fuzzing.one("build.json", &changed, |path| {
            drop(BuildDescription::read(path.parent().unwrap()));
            if let Ok(read) = Manifest::from_bytes(&changed) {
                std::hint::black_box((read.differences(&manifest).len(), read.bytes()));
            }
            let value = serde_json::from_slice(&changed).unwrap_or_default();
            if let (Ok(action), Ok(other)) = (Action::of_json(&value), Action::of_json(&records[0].action)) {
                drop(engine::words(&engine::differences(&action, &other)));
            }
            drop(ActionRecord::from_bytes(&changed));
            if let Ok(record) = serde_json::from_slice::<ActionRecord>(&changed) {
                ActionRecord::from_bytes(&record.to_bytes().unwrap()).unwrap();
            }
        });
    }
}

/// The line of a journal with a right seal.
fn sealed(line: &str) -> String {
    let body = line.split(",\"seal\":\"").next().unwrap_or_default();
    format!("{body},\"seal\":\"{}\"}}", &Digest::of(body.as_bytes()).to_hex()[..16])
}

fn journals(fuzzing: &mut Fuzzing) {
    let (project, _) = built();
    let cache = project.store();
    let path = files_below(&project.folder.join("cache/journal")).remove(0);
    let journal = std::fs::read(&path).unwrap();
    let text = String::from_utf8(journal.clone()).unwrap();
    assert!(text.lines().all(|line| sealed(line) == line), "the seal of the journal has changed; change this test too");
    let corpus: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).chain([journal]).collect();
    while fuzzing.goes_on() {
        let changed = fuzzing.changed(&corpus);
        let again = String::from_utf8_lossy(&changed).lines().map(|line| sealed(line) + "\n").collect::<String>();
        for bytes in [&changed[..], again.as_bytes()] {
            fuzzing.one("changed", bytes, |_| {
                std::fs::write(&path, bytes).unwrap();
                drop(cache.journal());
                drop(store::verify(&cache, Some(0.0)));
            });
        }
    }
}

/// Copies a folder with its links and modes.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else if kind.is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Changes one file of a cache or of its links, and lets every command look at the cache.
fn caches(fuzzing: &mut Fuzzing) {
    let (project, pipeline) = built();
    let kept = tempfile::tempdir().unwrap();
    let places = ["cache", "out"];
    let back = || {
        for place in places {
            let here = project.folder.join(place);
            if here.exists() {
                store::remove_tree(&here).unwrap();
            }
            copy(&kept.path().join(place), &here);
        }
    };
    places.iter().for_each(|place| copy(&project.folder.join(place), &kept.path().join(place)));
    let files: Vec<PathBuf> =
        places.iter().flat_map(|place| files_below(&kept.path().join(place))).filter(|path| path.is_file()).collect();
    let corpus: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    while fuzzing.goes_on() {
        back();
        let chosen = fuzzing.rng.below(files.len());
        let name = files[chosen].strip_prefix(kept.path()).unwrap();
        let path = project.folder.join(name);
        let mut changed = corpus[chosen].clone();
        let is_memory = ["index", "identity", "checked", "files"]
            .iter()
            .any(|memory| name.starts_with(Path::new("cache").join(memory)));
        // A memory begins with its seal. With a right seal, the reader gets the changed content.
        let sealed = is_memory && changed.len() >= 32 && fuzzing.rng.below(4) > 0;
        if sealed {
            changed.drain(..32);
        }
        for _ in 0..=fuzzing.rng.below(3) {
            fuzzing.change(&mut changed, &corpus);
        }
        if sealed {
            changed.splice(0..0, *Digest::of(&changed).bytes());
        }
        let folder = path.parent().unwrap().to_owned();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        drop(std::fs::remove_file(&path));
        let options = project.options();
        // A build may run stages, which takes most of the time.
        let builds = fuzzing.count.is_multiple_of(4);
        fuzzing.one("changed", &changed, |_| {
            std::fs::write(&path, &changed).unwrap();
            let Ok(cache) = Store::open(&options.cache) else { return };
            drop(engine::plan(&pipeline, &options));
            drop(BuildDescription::read(&options.out.join("story")));
            drop((cache.actions(), cache.artifacts(), cache.pins(), cache.journal()));
            drop(store::gc(&cache, &options.out, &GcOptions::default()));
            drop(store::verify(&cache, None));
            if builds {
                drop(engine::build(&pipeline, &options));
            }
        });
    }
}
