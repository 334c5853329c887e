//! Builds at once.

use std::collections::BTreeMap;
use std::process::Stdio;

use raisin::digest::Digest;
use raisin::store::{JournalEvent, Store};

use crate::support::Project;
use crate::world::{Chance, PIPELINE, count, digests, undisturbed, verify_clean};

#[test]
fn many_processes_on_one_cache_make_each_action_once() {
    let (processes, rounds) = (count(8, 16), count(1, 50));
    let mut chance = Chance::of("many");
    let targets = ["", "pool", "features", "clusters", "selector", "scores", "report"];
    for round in 0..rounds {
        let project = Project::with_pipeline(PIPELINE);
        let builds: Vec<_> = (0..processes)
            .map(|_| {
                let target = targets[chance.below(targets.len() as u64) as usize];
                let mut arguments = vec!["build", PIPELINE];
                if !target.is_empty() {
                    arguments.extend(["--only", target]);
                }
                let mut command = project.raisin(&arguments);
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("raisin starts")
            })
            .collect();
        for build in builds {
            let output = build.wait_with_output().expect("it ended");
            assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let store = Store::open(&project.path("cache")).expect("a store");
        let mut times: BTreeMap<Digest, usize> = BTreeMap::new();
        for line in store.journal().expect("the journal") {
            if let JournalEvent::Finished { key, .. } = line.event {
                *times.entry(key).or_default() += 1;
            }
        }
        assert!(!times.is_empty() && times.values().all(|&times| times == 1), "round {round}: {times:?}");
        assert_eq!(project.run(&["build", PIPELINE]).code, 0);
        assert_eq!(&digests(&project), undisturbed(), "round {round}");
        verify_clean(&project, "many builds");
    }
    println!("{rounds} rounds of {processes} processes: all succeeded, each action ran once");
}

#[test]
fn a_sweep_built_while_gc_runs_loses_nothing() {
    let (variants, at_once) = (count(20, 100), count(10, 20));
    let project = Project::new();
    let text = |number: usize| {
        format!(
            "[pipeline]\nname = \"v{number}\"\nseed = {number}\n[stage.pool]\nkind = \"generate\"\nsize = 60\n\
             [stage.counted]\nkind = \"sql\"\nof = [\"pool\"]\nquery = \"select label, count(*) as n from \
             pool.instructions group by label order by label\"\n"
        )
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let collected = std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) || rounds < count(5, 200) {
                let answer = project.run(&["gc", "--yes"]);
                assert!(answer.code == 0 || answer.stderr.contains("build"), "gc: {}", answer.stderr);
                rounds += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            rounds
        });
        for first in (0..variants).step_by(at_once) {
            let builds: Vec<_> = (first..(first + at_once).min(variants))
                .map(|number| {
                    let file = format!("v{number}.toml");
                    project.write(&file, &text(number));
                    let mut command = project.raisin(&["build", &file]);
                    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("raisin starts")
                })
                .collect();
            for (offset, build) in builds.into_iter().enumerate() {
                let output = build.wait_with_output().expect("it ended");
                let words = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "variant {}: {words}", first + offset);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        collector.join().expect("gc went on")
    });
    for number in 0..variants {
        let again = project.run(&["build", &format!("v{number}.toml")]);
        assert!(again.code == 0 && again.stderr.contains("nothing to run"), "variant {number}: {}", again.stderr);
    }
    verify_clean(&project, "gc in a loop");
    println!("{variants} of {variants} variants, {at_once} at a time, beside {collected} rounds of gc");
}
