//! Tortures a cache with several builds at the same time, also beside gc.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raisin_base::digest::Digest;
use raisin_store::{JournalEvent, Store};

use crate::world::{PIPELINE, count, digests, undisturbed, verify_clean};
use raisin_tests::{Project, TestRng, processes};

#[test]
fn many_processes_on_one_cache_make_each_action_once() {
    let (processes, rounds) = (count(8, 16), count(1, 50));
    let mut rng = TestRng::new("many");
    let targets = ["", "pool", "features", "clusters", "selector", "scores", "report"];
    for round in 0..rounds {
        let project = Project::with_pipeline(PIPELINE);
        let builds: Vec<_> = (0..processes)
            .map(|_| {
                let target = targets[rng.below(targets.len())];
                let mut arguments = vec!["build", PIPELINE];
                if !target.is_empty() {
                    arguments.extend(["--only", target]);
                }
                start(&project, &arguments)
            })
            .collect();
        for build in builds {
            succeeds(build, &format!("round {round}"));
        }
        let times = times_run(&project);
        assert!(!times.is_empty() && times.values().all(|&times| times == 1), "round {round}: {times:?}");
        project.done(&["build", PIPELINE]);
        assert_eq!(&digests(&project), undisturbed(), "round {round}");
        verify_clean(&project, "many builds");
    }
    println!("{rounds} rounds of {processes} processes: all succeeded, each action ran once");
}

/// Calls `work` while `gc --yes` runs again and again. Returns the number of gc runs that got the lock, and the number
/// of all gc runs.
fn beside_gc(project: &Project, rounds: usize, work: impl FnOnce()) -> (usize, usize) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let (mut turns, mut tries) = (0, 0);
            while !stop.load(Ordering::Relaxed) || tries < rounds {
                // The first build makes the cache, and without a cache gc refuses to run.
                let is_first = !project.path("cache").join("VERSION").exists();
                let answer = project.run(&["gc", "--yes", "--older-than", "0"]);
                let (said, code) = (&answer.stderr, answer.code);
                let is_refused = said.contains("is using this cache") || is_first && said.contains("no cache here");
                assert!(code == 0 || is_refused, "gc: {said}");
                turns += usize::from(answer.code == 0);
                tries += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            (turns, tries)
        });
        // The thread that runs gc must end, also if `work` panics.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let rounds = collector.join().expect("gc went on");
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        rounds
    })
}

/// The number of runs of each action.
pub fn times_run(project: &Project) -> BTreeMap<Digest, usize> {
    let store = Store::open(&project.path("cache")).expect("a store");
    let mut times: BTreeMap<Digest, usize> = BTreeMap::new();
    for line in store.journal().expect("the journal") {
        if let JournalEvent::Finished { key, .. } = line.event {
            *times.entry(key).or_default() += 1;
        }
    }
    times
}

fn start(project: &Project, arguments: &[&str]) -> Child {
    project.raisin(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("raisin starts")
}

fn succeeds(build: Child, what: &str) {
    let output = processes::ended(build);
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

const STAGES: &str = "[stage.pool]\nkind = \"generate\"\nsize = 60\n[stage.counted]\nkind = \"sql\"\nof = [\"pool\"]\n\
    query = \"select label, count(*) as n from pool.instructions group by label order by label\"\n";

/// Processes in two containers that share a cache can have the same process id. Each process here is the first one of
/// its own process namespace, so all of them have the id 1.
#[test]
#[cfg_attr(not(has_pid_namespaces), ignore = "`unshare` cannot make process namespaces here")]
fn first_builds_at_once_with_equal_process_ids_all_succeed() {
    let (rounds, processes) = (count(3, 50), 8);
    for _ in 0..rounds {
        let project = crate::world::small();
        let builds: Vec<_> = (0..processes)
            .map(|_| {
                let mut command = Command::new("unshare");
                command.args(["--pid", "--fork"]);
                if !rustix::process::geteuid().is_root() {
                    command.args(["--map-root-user", "--user"]);
                }
                command.arg(raisin_tests::executable("raisin")).args(["build", "small.toml", "--quiet"]);
                project.place(&mut command).stdout(Stdio::null()).stderr(Stdio::piped());
                command.spawn().expect("unshare starts")
            })
            .collect();
        builds.into_iter().for_each(|build| succeeds(build, "a first build"));
        assert!(times_run(&project).values().all(|&times| times == 1));
        verify_clean(&project, "first builds at once");
    }
    println!("{0} of {0} first builds of processes with the id 1, {processes} at once", rounds * processes);
}

#[test]
fn pipelines_built_side_by_side_while_gc_runs_lose_nothing() {
    let (pipelines, at_once, rounds) = (count(20, 100), count(10, 20), count(5, 200));
    let project = Project::new();
    let (turns, tries) = beside_gc(&project, rounds, || {
        for first in (0..pipelines).step_by(at_once) {
            let numbers = first..(first + at_once).min(pipelines);
            let builds: Vec<_> = numbers
                .map(|number| {
                    let file = format!("v{number}.toml");
                    project.write(&file, &format!("[pipeline]\nname = \"v{number}\"\nseed = {number}\n{STAGES}"));
                    start(&project, &["build", &file])
                })
                .collect();
            builds.into_iter().for_each(|build| succeeds(build, "a pipeline"));
        }
    });
    for number in 0..pipelines {
        project.finds_all(&["build", &format!("v{number}.toml")]);
    }
    verify_clean(&project, "gc in a loop");
    println!(
        "{pipelines} of {pipelines} pipelines, {at_once} at a time, beside {tries} rounds of gc ({turns} with no build \
         at that moment): nothing live was removed"
    );
}

#[test]
fn a_sweep_of_many_variants_built_by_many_processes_runs_each_action_once() {
    let (variants, processes, rounds) = (count(12, 100), count(6, 20), count(5, 200));
    let project = Project::new();
    let seeds: Vec<String> = (0..variants).map(|seed| seed.to_string()).collect();
    let sweep = format!("[sweep]\n\"pipeline.seed\" = [{}]\n", seeds.join(", "));
    project.write("sweep.toml", &format!("[pipeline]\nname = \"sweep\"\n{STAGES}{sweep}"));
    let (turns, tries) = beside_gc(&project, rounds, || {
        let builds: Vec<_> = (0..processes).map(|_| start(&project, &["build", "sweep.toml"])).collect();
        builds.into_iter().for_each(|build| succeeds(build, "the sweep"));
    });
    let times = times_run(&project);
    // One pool for each variant, and one query that sees all pools.
    assert_eq!(times.len(), variants + 1);
    assert!(times.values().all(|&times| times == 1), "{times:?}");
    project.finds_all(&["build", "sweep.toml"]);
    assert_eq!(project.built("sweep").len(), variants + 1);
    verify_clean(&project, "a sweep");
    println!(
        "a sweep of {variants} variants built by {processes} processes at once, beside {tries} rounds of gc ({turns} \
         with no build at that moment): all succeeded, each of {} actions ran once",
        times.len()
    );
}
