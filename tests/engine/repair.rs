//! Tests of repairs by the engine: order, other artifacts, and what cannot be made again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use raisin_base::digest::Digest;
use raisin_engine::{self as engine, Repair, RepairOutcome};
use raisin_store::{self as store, Accepted, Damage, JournalEvent, JournalLine};
use serde_json::json;

use crate::kinds::KINDS;
use crate::project::{EngineProject, chain};

/// Damages the artifact of a stage of the last build. Returns its digest.
fn harm(project: &EngineProject, stage: &str) -> Digest {
    let folder = project.folder.join("out/story").join(stage).canonicalize().unwrap();
    let file = folder.join("text");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&file, "harmed").unwrap();
    folder.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn cut(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Finds the damages, and repairs them.
fn repair(project: &EngineProject) -> (Vec<Damage>, Repair) {
    let found = store::verify(&project.store(), None).unwrap();
    let damages: Vec<Damage> = found.damages.into_iter().chain(found.missing).collect();
    let repair = engine::repair(&damages, &KINDS, &project.options()).unwrap();
    (damages, repair)
}

fn outcome_of(damages: &[Damage], repair: &Repair, digest: Digest) -> RepairOutcome {
    let place = damages.iter().position(|damage| damage.digest == digest).unwrap();
    repair.outcomes[place].clone()
}

#[test]
fn damaged_inputs_are_made_before_what_is_made_from_them_and_nothing_else_runs() {
    let project = EngineProject::new();
    // No pipeline file exists: the action records say all that a repair needs.
    let pipeline = project.one(&chain("ay", "-"));
    project.build(&pipeline);
    let build_json = std::fs::read(project.folder.join("out/story/build.json")).unwrap();
    for stage in ["d", "c", "a"] {
        harm(&project, stage);
    }
    let (_, repaired) = repair(&project);
    assert_eq!(repaired.outcomes, [RepairOutcome::MadeAgain, RepairOutcome::MadeAgain, RepairOutcome::MadeAgain]);
    assert!(!repaired.interrupted);
    assert_eq!(std::fs::read(project.folder.join("out/story/build.json")).unwrap(), build_json);
    assert_eq!(["a", "b", "c", "d"].map(|stage| project.text(stage)), ["ay", "bee", "ay-bee", "ay-beeay-bee"]);
    assert_eq!(project.build(&pipeline).ran, 0);
}

#[test]
fn a_repair_that_gives_another_artifact_says_so_and_the_lost_one_stays_lost() {
    let project = EngineProject::new();
    let pipeline = project.one(&[("drifts", "write", json!({"drift": true})), ("b", "write", json!({"text": "bee"}))]);
    project.build(&pipeline);
    let lost = harm(&project, "drifts");
    let (damages, repaired) = repair(&project);
    let RepairOutcome::MadeAnother(other) = outcome_of(&damages, &repaired, lost) else { panic!("{repaired:?}") };
    assert!(other != lost && !project.store().artifact_folder(lost).exists());
    // The action record names the new artifact, so that the next build runs only what depends on it.
    let summary = project.build(&pipeline);
    assert_eq!((summary.ran, summary.cached), (0, 2));
}

#[test]
fn what_nothing_describes_and_what_another_version_made_is_not_made_and_the_reason_is_said() {
    let project = EngineProject::new();
    project.build(&project.one(&[("a", "write", json!({"text": "ay"}))]));
    let store = project.store();
    let (lost, key) = (harm(&project, "a"), store.record_keys().unwrap()[0]);
    let not_made = |reason: &str| {
        let (damages, repaired) = repair(&project);
        let RepairOutcome::NotMade(found) = outcome_of(&damages, &repaired, lost) else { panic!("{repaired:?}") };
        assert!(found.contains(reason), "{found}");
    };
    // An older version of the kind made it.
    let mut record = store.record(key).unwrap().unwrap();
    let whole = record.clone();
    record.action["kind_version"] = json!(0);
    store.write_record(&record).unwrap();
    not_made("version 0 of the kind `write` made it, and this raisin has version 1");
    record.action["kind"] = json!("gone");
    record.kind = "gone".into();
    store.write_record(&record).unwrap();
    not_made("this raisin has no kind `gone`");
    // A person accepted the artifact for this action. Nothing says which action made it.
    let accepted = Accepted {
        of: Digest::of(b"other"),
        differences: Vec::new(),
        by: "me".into(),
        at: "2026-01-01T00:00:00Z".into(),
        reason: String::new(),
    };
    let journal = project.folder.join("cache/journal");
    std::fs::rename(&journal, project.folder.join("kept")).unwrap();
    std::fs::create_dir(&journal).unwrap();
    store.write_record(&raisin_store::ActionRecord { accepted: Some(accepted), ..whole.clone() }).unwrap();
    not_made("it was accepted for another action");
    std::fs::remove_dir_all(&journal).unwrap();
    std::fs::rename(project.folder.join("kept"), &journal).unwrap();
    // The record is damaged, and the pipeline file does not exist.
    store.write_record(&whole).unwrap();
    cut(&store.record_file(key));
    let (damages, repaired) = repair(&project);
    let RepairOutcome::NotMade(found) = outcome_of(&damages, &repaired, key) else { panic!("{repaired:?}") };
    assert!(found.contains("cannot read the pipeline") && found.contains("story.toml"), "{found}");
}

#[test]
fn a_failed_action_is_tried_once_and_its_reason_is_said() {
    let project = EngineProject::new();
    let once = project.folder.join("once");
    let pipeline =
        project.one(&[("a", "write", json!({"once": once})), ("b", "join", json!({"left": "a", "right": "a"}))]);
    project.build(&pipeline);
    let (a, b) = (harm(&project, "a"), harm(&project, "b"));
    let (damages, repaired) = repair(&project);
    let RepairOutcome::NotMade(found) = outcome_of(&damages, &repaired, a) else { panic!("{repaired:?}") };
    assert!(found.contains("this is the second time"), "{found}");
    let RepairOutcome::NotMade(found) = outcome_of(&damages, &repaired, b) else { panic!("{repaired:?}") };
    assert!(found.contains("its input") && found.contains(&a.short()), "{found}");
    let starts = |line: &&JournalLine| matches!(&line.event, JournalEvent::Started { stage, .. } if stage == "a");
    assert_eq!(project.store().journal().unwrap().iter().filter(starts).count(), 2, "in the build and in the repair");
    std::fs::remove_file(&once).unwrap();
    let (_, repaired) = repair(&project);
    assert_eq!(repaired.outcomes, [RepairOutcome::MadeAgain, RepairOutcome::MadeAgain]);
    assert_eq!(project.build(&pipeline).ran, 0);
}
