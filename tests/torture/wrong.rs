//! Files that are not what they were.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use raisin::store::{Journal, JournalEvent, Store};

use crate::support::Project;
use crate::world::{Chance, PIPELINE, build, count, digests, files_below, full, tamper, undisturbed, verify_clean};

/// `cache/artifacts/<digest>/...` or `cache/actions/<key>.json`, as it is told to a person.
fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn one_flipped_byte_in_any_file_is_found_and_made_good() {
    let project = Project::with_pipeline(PIPELINE);
    build(&project);
    let expected = undisturbed();
    let mut chance = Chance::of("flips");
    let kept = |folder: &str| files_below(&project.path("cache").join(folder));
    let mut victims: Vec<PathBuf> = kept("artifacts").into_iter().chain(kept("actions")).collect();
    if !full() {
        let step = victims.len().div_ceil(12);
        victims = victims.into_iter().skip(chance.below(step as u64) as usize).step_by(step).collect();
    }
    let all = victims.len();
    for victim in victims {
        let original = std::fs::read(&victim).expect("the file");
        tamper(&victim, |bytes| {
            let place = chance.below(bytes.len() as u64) as usize;
            bytes[place] ^= 1 << chance.below(8);
        });
        let words = build(&project);
        assert!(words.contains(&name(&victim)) || words.contains("set aside"), "{}: {words}", victim.display());
        assert_eq!(&digests(&project), expected, "{}", victim.display());
        if victim.starts_with(project.path("cache/artifacts")) {
            assert_eq!(std::fs::read(&victim).expect("made again"), original, "{}", victim.display());
        }
        verify_clean(&project, &format!("the repair of {}", victim.display()));
    }
    println!("{all} files with one flipped byte: {all} found, {all} made again, 0 served");
}

#[test]
fn a_file_that_is_cut_missing_swapped_or_added_is_found_and_made_good() {
    let project = Project::with_pipeline(PIPELINE);
    build(&project);
    let mut chance = Chance::of("files");
    let artifacts: BTreeSet<PathBuf> = files_below(&project.path("cache/artifacts"))
        .into_iter()
        .filter(|path| !path.ends_with("manifest.json"))
        .collect();
    let artifacts: Vec<PathBuf> = artifacts.into_iter().collect();
    let rounds = count(2, 25);
    for _ in 0..rounds {
        for harm in ["cut", "missing", "swapped", "added"] {
            let victim = &artifacts[chance.below(artifacts.len() as u64) as usize];
            let folder = victim.parent().expect("a folder");
            let writable = |yes: bool| {
                use std::os::unix::fs::PermissionsExt as _;
                let mode = if yes { 0o755 } else { 0o555 };
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).expect("chmod");
            };
            match harm {
                "cut" => tamper(victim, |bytes| bytes.truncate(bytes.len() / 2)),
                "missing" => {
                    writable(true);
                    std::fs::remove_file(victim).expect("removed");
                    writable(false);
                }
                "swapped" => {
                    let other = &artifacts[chance.below(artifacts.len() as u64) as usize];
                    let content = std::fs::read(other).expect("another file");
                    if content == std::fs::read(victim).expect("the file") {
                        continue;
                    }
                    tamper(victim, |bytes| *bytes = content);
                }
                _ => {
                    writable(true);
                    std::fs::write(folder.join("added.txt"), "added").expect("written");
                    writable(false);
                }
            }
            let words = build(&project);
            assert!(words.contains("set aside"), "{harm} {}: {words}", victim.display());
            assert_eq!(&digests(&project), undisturbed(), "{harm} {}", victim.display());
            verify_clean(&project, harm);
        }
    }
    println!("{} files cut, missing, swapped or added: all found, all made again", rounds * 4);
}

#[test]
fn a_journal_cut_anywhere_near_its_end_is_read_as_far_as_it_goes() {
    let project = Project::with_pipeline(PIPELINE);
    build(&project);
    let journal = files_below(&project.path("cache/journal")).pop().expect("a journal");
    let whole = std::fs::read(&journal).expect("the journal");
    let cuts = whole.len().min(count(256, 4096));
    let store = Store::open(&project.path("cache")).expect("a store");
    for cut in 1..=cuts {
        std::fs::write(&journal, &whole[..whole.len() - cut]).expect("cut");
        let before = store.journal().expect("what is left").len();
        let mut begun = Journal::begin(&store).expect("a run begins");
        begun
            .write(JournalEvent::RunStarted { pipeline: "p".into(), file: "p.toml".into(), pid: 1 })
            .expect("a line is written");
        drop(begun);
        assert_eq!(store.journal().expect("all lines").len(), before + 1, "cut {cut}");
    }
    // And with the executables, at a few places.
    for cut in [1, 2, cuts / 2, cuts] {
        std::fs::write(&journal, &whole[..whole.len() - cut]).expect("cut");
        assert!(build(&project).contains("nothing to run"));
        assert_eq!(project.run(&["sql", "select count(*) from raisin.runs"]).code, 0);
    }
    println!("{cuts} of {cuts} cuts of the journal start and go on");
}
