//! Golden digests: the digest of what each kind writes for the small pipeline, together with the version of the kind.
//! If a kind wrote other bytes under the same version, old caches would give old results beside new ones.
//!
//! Floating-point sums differ between processors. Therefore the digests of tensor stages are kept for each processor
//! name. Stages without tensors have one digest for all processors. `RAISIN_BLESS=1` writes the current digests.

use std::collections::{BTreeMap, BTreeSet};

use raisin_contract::Process;
use raisin_kinds::KINDS;
use serde::{Deserialize, Serialize};

use crate::world::{PIPELINE, build};
use raisin_tests::Project;

#[derive(Default, Serialize, Deserialize)]
struct GoldenDigests {
    versions: BTreeMap<String, u32>,
    /// Digests by processor (or `any`), then by stage and variant.
    digests: BTreeMap<String, BTreeMap<String, String>>,
}

/// The facts by which a mathematics library chooses its code and the sizes of its blocks. On a virtual machine, the name
/// of the processor alone is not sufficient: two machines that agreed in name, family, model and flags gave different
/// digests.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let flags = blake3::hash(value("flags").as_bytes()).to_hex();
    let caches: Vec<String> = (0..)
        .map_while(|index| {
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()
        })
        .map(|size| size.trim().to_owned())
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, family {}, model {}, flags {}, microcode {}, caches {}, {cores} cores",
        value("model name"),
        value("cpu family"),
        value("model"),
        &flags[..8],
        value("microcode"),
        caches.join("/")
    )
}

#[test]
fn no_kind_writes_other_bytes_without_a_new_version() {
    let path = raisin_tests::package().join("tests/golden/digests.json");
    let mut golden: GoldenDigests = std::fs::read(&path)
        .ok()
        .map(|bytes| serde_json::from_slice(&bytes).expect("digests.json"))
        .unwrap_or_default();
    let versions: BTreeMap<String, u32> = KINDS.iter().map(|kind| (kind.name.to_owned(), kind.version)).collect();

    let project = Project::with_pipeline(PIPELINE);
    build(&project);
    let actions = project.sql("select stage, variant, kind, artifact from raisin.actions");
    let text = |row: &serde_json::Value, column: &str| row[column].as_str().unwrap_or_default().to_owned();
    let (mut here, mut differing) = (BTreeMap::new(), BTreeSet::new());
    for row in &actions {
        let kind = KINDS.iter().find(|kind| kind.name == text(row, "kind")).expect("a kind");
        // The results of stages that read from tensor stages also depend on the rounding of these tensor stages.
        let without_tensors = kind.process == Process::Data && ["generate", "ingest", "task"].contains(&kind.name);
        let place = if without_tensors { "any".to_owned() } else { processor() };
        let (stage, variant) = (text(row, "stage"), text(row, "variant"));
        let name = if variant.is_empty() { stage } else { format!("{stage} [{variant}]") };
        let digest = text(row, "artifact");
        let before = golden.digests.get(&place).and_then(|stages| stages.get(&name));
        if before.is_some_and(|before| *before != digest) && golden.versions.get(kind.name) == Some(&kind.version) {
            differing.insert(kind.name);
        }
        here.entry(place).or_insert_with(BTreeMap::new).insert(name, digest);
    }
    if std::env::var_os("RAISIN_BLESS").is_some() {
        if golden.versions != versions {
            let others: Vec<&String> = golden.digests.keys().filter(|place| !here.contains_key(*place)).collect();
            println!("removed the digests of {others:?}, which belong to the old versions: bless there too");
            golden.digests.clear();
        }
        golden.versions = versions;
        golden.digests.extend(here);
        let text = serde_json::to_string_pretty(&golden).expect("JSON") + "\n";
        return std::fs::write(&path, text).expect("digests.json");
    }
    let bless = "RAISIN_BLESS=1 cargo test --workspace --test torture golden_digests";
    assert!(
        differing.is_empty(),
        "{differing:?} write other bytes under the same version. If this is intended, raise VERSION of the kinds that \
         changed, but not of kinds of which only the inputs changed. Then {bless}"
    );
    assert_eq!(golden.versions, versions, "a version changed: {bless}");
    let is_golden =
        |place: &String, stage: &String| golden.digests.get(place).is_some_and(|all| all.contains_key(stage));
    let stages = here.iter().flat_map(|(place, stages)| stages.keys().map(move |stage| (place, stage)));
    let (compared, without): (Vec<_>, Vec<_>) = stages.partition(|(place, stage)| is_golden(place, stage));
    assert!(!compared.is_empty(), "there are no golden digests: {bless}");
    println!("{} digests are the golden digests; {} stages have none here", compared.len(), without.len());
}
