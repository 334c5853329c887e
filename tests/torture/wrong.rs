//! Tortures a cache with changed, cut, missing and swapped files.

use std::path::{Path, PathBuf};

use raisin_store::{Journal, JournalEvent, RunStart, Store};

use crate::world::{PIPELINE, build, count, digests, flip, full, tamper, undisturbed, verify_clean};
use raisin_tests::{Project, TestRng, files_below};

/// The name of an artifact or action record in messages, from its path: `cache/artifacts/<digest>/...` or
/// `cache/actions/<key>.json`.
fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn one_flipped_byte_in_any_file_is_found_and_the_file_is_made_again() {
    let project = Project::with_pipeline(PIPELINE);
    build(&project);
    let expected = undisturbed();
    let mut rng = TestRng::new("flips");
    let kept = |folder: &str| files_below(&project.path("cache").join(folder));
    let mut victims: Vec<PathBuf> = kept("artifacts").into_iter().chain(kept("actions")).collect();
    if !full() {
        let step = victims.len().div_ceil(12);
        victims = victims.into_iter().skip(rng.below(step)).step_by(step).collect();
    }
    let all = victims.len();
    for victim in victims {
        let original = std::fs::read(&victim).expect("the file");
        flip(&victim, &mut rng);
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

/// Other files of the store: the memories, the version of the layout, and the journal.
#[test]
fn one_flipped_byte_in_any_other_file_of_the_store_is_found_and_ignored() {
    let project = Project::with_pipeline(PIPELINE);
    project.write("row.jsonl", "{\"instruction\": \"say\", \"output\": \"it\"}\n");
    project.write(
        "rows.toml",
        "[stage.rows]\nkind = \"ingest\"\nsources = [{ path = \"row.jsonl\", format = \"alpaca\" }]\n",
    );
    // The store remembers the digest of an input file only after the file was unchanged for two seconds.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    project.done(&["build", "rows.toml"]);
    build(&project);
    // Build again, so that the files that only a second build writes also exist.
    build(&project);
    let mut rng = TestRng::new("memories");
    let kept = |name: &str| files_below(&project.path("cache").join(name));
    let folders = ["identity", "index", "checked", "tokens", "journal"];
    let mut victims: Vec<PathBuf> = folders.into_iter().flat_map(kept).collect();
    assert!(!kept("tokens").is_empty());
    victims.extend(["VERSION", "files"].map(|name| project.path("cache").join(name)));
    assert!(victims.iter().all(|path| path.is_file()), "{victims:?}");
    if !full() {
        let step = victims.len().div_ceil(8);
        victims = victims.into_iter().rev().step_by(step).collect();
    }
    let all = victims.len();
    for victim in victims {
        let what = victim.display();
        flip(&victim, &mut rng);
        if victim.starts_with(project.path("cache/tokens")) {
            // Only a stage that runs reads tokens.
            project.done(&["build", PIPELINE, "--force"]);
        } else {
            let words = build(&project);
            assert!(words.contains("nothing to run"), "{what}: {words}");
        }
        assert_eq!(&digests(&project), undisturbed(), "{what}");
        assert_eq!(project.run(&["plan", "rows.toml"]).stdout.matches("1 cached").count(), 1, "{what}");
        flip(&victim, &mut rng);
        let answer = project.run(&["verify"]);
        let told = match victim.parent().and_then(|folder| folder.file_name()).and_then(|name| name.to_str()) {
            Some("journal") => "lines of the journal cannot be read",
            _ if victim.ends_with("VERSION") => "0 damaged",
            _ => "damaged memories",
        };
        assert!(answer.code == 0 && answer.stderr.contains(told), "{what}: {}", answer.stderr);
        if victim.ends_with("VERSION") {
            assert_eq!(std::fs::read_to_string(&victim).expect("it").lines().next(), Some("1"));
        }
    }
    println!("{all} other files of the store with one flipped byte: {all} found, none believed");
}

#[test]
fn a_file_that_is_cut_missing_swapped_or_added_is_found_and_repaired() {
    let project = Project::with_pipeline(PIPELINE);
    build(&project);
    let mut rng = TestRng::new("files");
    let mut artifacts = files_below(&project.path("cache/artifacts"));
    artifacts.retain(|path| !path.ends_with("manifest.json"));
    let rounds = count(2, 25);
    for _ in 0..rounds {
        for harm in ["cut", "missing", "swapped", "added"] {
            let victim = &artifacts[rng.below(artifacts.len())];
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
                    let other = &artifacts[rng.below(artifacts.len())];
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
fn verify_with_repair_makes_damaged_artifacts_and_records_again() {
    let project = Project::with_pipeline(PIPELINE);
    build(&project);
    let mut rng = TestRng::new("repair");
    // Flips a bit of a file whose content does not have the text `without`, and returns the path of the file.
    let mut flip_one = |folder: &str, without: Option<&str>| {
        let mut files = files_below(&project.path("cache").join(folder));
        files.retain(|file| {
            without.is_none_or(|text| !std::fs::read_to_string(file).unwrap_or_default().contains(text))
        });
        let victim = files.swap_remove(rng.below(files.len()));
        tamper(&victim, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        victim
    };
    for _ in 0..count(1, 5) {
        let victim = flip_one("artifacts", None);
        // Without its record, nobody knows which stage made an artifact. So another record is damaged.
        let artifacts = project.path("cache").join("artifacts");
        let digest = victim.strip_prefix(&artifacts).ok().and_then(|below| below.iter().next());
        flip_one("actions", Some(digest.and_then(|digest| digest.to_str()).expect("a digest")));
        let answer = project.run(&["verify", "--repair"]);
        assert!(answer.code == 0 && answer.stderr.contains("2 of 2 made again"), "{}", answer.stderr);
        assert!(answer.stderr.contains("(made by micro."), "{}", answer.stderr);
        let words = build(&project);
        assert!(words.contains("nothing to run"), "{words}");
        assert_eq!(&digests(&project), undisturbed());
        verify_clean(&project, "a repair");
    }
}

#[test]
fn a_journal_cut_anywhere_near_its_end_keeps_its_whole_lines() {
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
            .write(JournalEvent::RunStarted(RunStart {
                pipeline: "p".into(),
                file: "p.toml".into(),
                pid: 1,
                ..RunStart::default()
            }))
            .expect("a line is written");
        drop(begun);
        assert_eq!(store.journal().expect("all lines").len(), before + 1, "cut {cut}");
    }
    // The executables must also work with a cut journal.
    let some: Vec<usize> = if full() { (1..=cuts).collect() } else { vec![1, 2, cuts / 2, cuts] };
    for &cut in &some {
        std::fs::write(&journal, &whole[..whole.len() - cut]).expect("cut");
        assert!(build(&project).contains("nothing to run"));
    }
    project.done(&["sql", "select count(*) from raisin.runs"]);
    println!("{cuts} of {cuts} cuts of the journal start and go on, {} of them with the executable", some.len());
}
