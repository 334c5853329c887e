//! Leftovers: files and folders of a cache that nothing needs any more. They are staging folders of killed stages,
//! files that were set aside, and logs, memories, locks and temporary files whose action or artifact is gone. This file
//! only lists leftovers; gc.rs removes them, and also decides about artifacts.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Store;
use super::gc::YOUNG;
use super::memories::MEMORIES;
use super::used::USED;
use raisin_base::digest::Digest;
pub(super) use raisin_base::files::is_temporary;
use raisin_base::files::resolved;

/// The age at which a file of `checked/` is a leftover. Such a file is written when a pipeline file changes, and
/// nothing tells to which pipeline file it belongs. Therefore gc also removes the file of a pipeline file that exists
/// but has not changed for this time; the next load then checks the parameters again. The same holds for `sent/`: the
/// next build asks the server again.
const CHECKED_STAYS: Duration = Duration::from_hours(30 * 24);

/// The age at which the folder of a job without an artifact is a leftover.
const JOB_STAYS: Duration = Duration::from_hours(30 * 24);

/// The leftovers that are older than `older_than`, or, without `older_than`, older than the limit for their type.
/// `outs` are the out folders. `freed` are the actions that gc removes in this run.
pub(super) fn leftovers(
    store: &Store,
    older_than: Option<Duration>,
    outs: &BTreeSet<PathBuf>,
    freed: &[Digest],
) -> Vec<PathBuf> {
    let root = &store.root;
    let mut found = Vec::new();
    // Fetched files are removed only if `older_than` is given: nothing tells which pipelines need them. They can be
    // fetched again.
    for (folder, stays) in [("tmp", YOUNG), ("damaged", Duration::ZERO), ("fetched", Duration::MAX)] {
        found.extend(below(&root.join(folder)).filter(|path| old(newest(path), older_than.unwrap_or(stays))));
    }
    // A job may wait in a queue for days, and writes nothing meanwhile. Its folder goes when its artifact was made otherwise.
    let is_made = |path: &PathBuf| {
        let key = path.file_name().and_then(|name| name.to_str()?.parse::<Digest>().ok());
        key.is_some_and(|key| store.record_file(key).exists())
    };
    let jobs = below(&store.jobs_folder()).filter(|path| !path.ends_with("output"));
    let outputs = below(&store.jobs_folder().join("output"));
    found.extend(jobs.chain(outputs).filter(|path| {
        let stays = if is_made(path) { YOUNG } else { JOB_STAYS };
        old(newest(path), older_than.unwrap_or(stays).max(YOUNG))
    }));
    let age = older_than.unwrap_or(YOUNG);
    let aged = |path: &PathBuf, age| old(changed(path), age);
    let freed: BTreeSet<&Digest> = freed.iter().collect();
    found.extend(below(&root.join("logs")).filter(|path| {
        let key = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log")?.parse::<Digest>().ok());
        key.is_some_and(|key| {
            let is_gone = freed.contains(&key) || !store.record_file(key).exists();
            is_gone && !store.staging_folder(key).exists()
        }) && aged(path, age)
    }));
    let indexes: BTreeSet<String> = outs.iter().flat_map(|out| below(out)).map(|path| index_name(&path)).collect();
    found.extend(below(&root.join("index")).filter(|path| {
        let known = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| indexes.contains(name));
        !known && !is_temporary(path) && aged(path, age)
    }));
    for folder in ["identity", USED] {
        found.extend(below(&root.join(folder)).filter(|path| {
            let digest = path.file_name().and_then(|name| name.to_str()?.parse::<Digest>().ok());
            digest.is_some_and(|digest| !store.artifact_folder(digest).exists()) && aged(path, age)
        }));
    }
    found.extend(below(&root.join("tokens")).filter(|path| !is_temporary(path) && aged(path, age)));
    for folder in ["checked", "sent"] {
        found.extend(below(&root.join(folder)).filter(|path| !is_temporary(path) && aged(path, CHECKED_STAYS)));
    }
    // Commands without a lock may be writing locks and temporary files at this moment. Therefore these have a fixed
    // minimum age, whatever `older_than` is.
    let stays = |path: &Path| ["store", "artifacts", "files"].iter().any(|name| path.ends_with(name));
    let locks = below(&store.locks).filter(|path| !stays(path));
    found.extend(locks.filter(|path| aged(path, YOUNG)));
    let folders = ["", "actions", "pins", "roots"].iter().chain(&MEMORIES).map(|name| root.join(name));
    let temporaries = folders.flat_map(|folder| below(&folder)).filter(|path| is_temporary(path));
    found.extend(temporaries.filter(|path| aged(path, YOUNG)));
    found.sort();
    found.dedup();
    found
}

/// The file name of the index of the pipeline whose links are in the folder `out`. If a link in the path of this folder
/// is pointed elsewhere, the index is another one: there are no links in the other folder yet.
pub(super) fn index_name(out: &Path) -> String {
    let name = resolved(out).unwrap_or_else(|_| out.to_owned());
    Digest::of(name.as_os_str().as_bytes()).to_hex()
}

fn below(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

pub(super) fn old(moment: SystemTime, age: Duration) -> bool {
    moment.elapsed().is_ok_and(|elapsed| elapsed >= age)
}

/// The modification time of a path itself. For the folder of an artifact, it is the time when the artifact was made.
pub(super) fn changed(path: &Path) -> SystemTime {
    path.symlink_metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The newest modification time of a path and everything below it.
fn newest(path: &Path) -> SystemTime {
    let below = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) { newest(&entry.path()) } else { changed(&entry.path()) }
    });
    below.chain([changed(path)]).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::sample;
    use super::*;

    fn put(path: &Path, days: u64) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
        let moment = SystemTime::now() - Duration::from_hours(24 * days);
        std::fs::File::open(path).unwrap().set_modified(moment).unwrap();
    }

    #[test]
    fn files_that_are_young_or_still_needed_are_no_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let [live, gone, killed] = ["live", "gone", "killed"].map(|name| Digest::of(name.as_bytes()));
        store.write_record(&sample(live, live)).unwrap();
        std::fs::create_dir_all(store.staging_folder(killed)).unwrap();
        let out = folder.path().join("out");
        std::fs::create_dir_all(out.join("story")).unwrap();
        let (known, unknown) = (index_name(&out.join("story")), index_name(&out.join("tale")));
        let paths = |names: &[String]| names.iter().map(|name| store.root().join(name)).collect::<Vec<_>>();
        let stays = paths(&[
            format!("logs/{live}.log"),
            format!("logs/{killed}.log"),
            format!("index/{known}"),
            format!("checked/{gone}"),
            format!("sent/{gone}"),
            "locks/store".into(),
            format!("jobs/{killed}/job.json"),
            "actions/.no-temporary".into(),
        ]);
        let mut goes = paths(&[
            format!("logs/{gone}.log"),
            format!("index/{unknown}"),
            format!("identity/{gone}"),
            format!("used/{gone}"),
            format!("tokens/{gone}"),
            format!("locks/{gone}"),
            format!("jobs/{live}/job.json"),
            format!("actions/.{gone}.json.17.3"),
            ".files.17.3".into(),
            ".VERSION.17446744073709551615.0".into(),
        ]);
        stays.iter().chain(&goes).for_each(|path| put(path, 0));
        assert_eq!(leftovers(&store, None, &BTreeSet::from([out.clone()]), &[]), [] as [PathBuf; 0]);
        stays.iter().chain(&goes).for_each(|path| put(path, 2));
        // The whole folder of a job goes.
        for path in &mut goes {
            if path.ends_with("job.json") {
                path.pop();
                let moment = SystemTime::now() - Duration::from_hours(48);
                std::fs::File::open(path).unwrap().set_modified(moment).unwrap();
            }
        }
        goes.sort();
        assert_eq!(leftovers(&store, None, &BTreeSet::from([out.clone()]), &[]), goes);
        put(&store.root().join(format!("checked/{gone}")), 40);
        let all = leftovers(&store, None, &BTreeSet::from([out]), &[live]);
        assert_eq!(all.len(), goes.len() + 2);
    }
}
