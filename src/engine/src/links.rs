//! Updates out/<pipeline>/: the links to the artifacts of the last build, and build.json, which describes them.
//!
//! The links are for users, and they are roots of gc. build.json is the catalog for SQL.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::resolve::Resolver;
use raisin_base::digest::{Digest, canonical};
use raisin_base::error::{Context as _, Result};
use raisin_store::{BuildDescription, BuiltStage, DESCRIPTION, Waiting, write_atomically};

/// The result of [`update`].
pub struct LinkUpdate {
    /// Whether build.json differs from before, and with it the links.
    pub changed: bool,
    /// The number of links that lead to artifacts of an earlier build, because this build has no artifact of these
    /// stages.
    pub earlier: u64,
}

/// Updates out/<pipeline>/ after a build. `keys` has the key of each node that has an artifact.
///
/// A link stays until a build has a newer artifact of the stage, or the pipeline no longer has the stage. Therefore no
/// result disappears if a build fails, is interrupted, or leaves stages out.
pub fn update(resolver: &mut Resolver<'_>, keys: &[Option<Digest>], out: &Path) -> Result<LinkUpdate> {
    let pipeline = resolver.graph.pipeline;
    let folder = out.join(&pipeline.name);
    resolver.store.note_out_folder(out)?;
    let digest = digest_of_links(resolver, keys);
    if let Some(digest) = digest
        && resolver.index.has_links(digest)
    {
        return Ok(LinkUpdate { changed: false, earlier: 0 });
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    // Only one build at a time may update the links: another build of the same pipeline would remove links that this
    // build is about to list. The wait is short.
    let key = Digest::of(format!("links {}", folder.display()).as_bytes());
    let _lock = resolver.store.lock(key, |_| Waiting::GoOn)?;
    let before = BuildDescription::read(&folder).ok().flatten();

    let (mut stages, mut earlier) = (Vec::new(), 0);
    let mut seen = BTreeSet::new();
    let mut wanted = BTreeSet::new();
    let mut places = BTreeSet::from([folder.clone()]);
    for (index, variant) in pipeline.variants.iter().enumerate() {
        for stage in &variant.stages {
            let gathers = stage.declaration.gathers;
            let name = if gathers { "" } else { variant.name.as_str() };
            if !seen.insert((name, stage.name.as_str())) {
                continue;
            }
            let place = if name.is_empty() { folder.clone() } else { folder.join(file_name(name)) };
            let link = place.join(&stage.name);
            let target = |artifact| relative(&place, &resolver.store.artifact_folder(artifact));
            let id = resolver.graph.node(index, &stage.name);
            if let Some((artifact, key)) = id.and_then(|id| Some((resolver.artifacts[id]?, keys[id]?))) {
                set_link(&link, &target(artifact))?;
                stages.push(BuiltStage {
                    stage: stage.name.clone(),
                    kind: stage.declaration.name.to_owned(),
                    variant: name.to_owned(),
                    values: if gathers { Map::new() } else { variant.values.clone() },
                    artifact,
                    key,
                });
            } else {
                let same = |old: &&BuiltStage| old.stage == stage.name && old.variant == name;
                let Some(old) = before.as_ref().and_then(|before| before.stages.iter().find(same)) else { continue };
                // The link may lead into another cache, and gc of that cache relies on the link.
                if !leads_to(&link, old.artifact) {
                    if is_gone(&resolver.store.artifact_folder(old.artifact)) {
                        continue;
                    }
                    set_link(&link, &target(old.artifact))?;
                }
                stages.push(old.clone());
                earlier += 1;
            }
            wanted.insert(link);
            places.insert(place);
        }
    }
    remove_others(&folder, &wanted, 0)?;
    let description = BuildDescription { format: 1, pipeline: pipeline.name.clone(), stages };
    let changed = before.as_ref() != Some(&description);
    if changed {
        let text = serde_json::to_string_pretty(&description)? + "\n";
        write_atomically(&folder.join(DESCRIPTION), text.as_bytes())?;
    }
    if let Some(digest) = digest {
        places.insert(folder.join(DESCRIPTION));
        resolver.index.remember_links(digest, places);
    }
    Ok(LinkUpdate { changed, earlier })
}

/// The digest of all data from which the links and build.json are made. `None` if a stage has no artifact in this
/// build, because then the links also depend on earlier builds.
fn digest_of_links(resolver: &Resolver<'_>, keys: &[Option<Digest>]) -> Option<Digest> {
    let pipeline = resolver.graph.pipeline;
    let mut bytes = Vec::new();
    let mut put = |text: &[u8]| {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text);
    };
    put(resolver.store.root().as_os_str().as_bytes());
    put(pipeline.name.as_bytes());
    for (index, variant) in pipeline.variants.iter().enumerate() {
        put(variant.name.as_bytes());
        put(canonical(&Value::Object(variant.values.clone())).as_bytes());
        for stage in &variant.stages {
            let id = resolver.graph.node(index, &stage.name)?;
            put(stage.name.as_bytes());
            put(stage.declaration.name.as_bytes());
            for digest in [resolver.artifacts[id]?, keys[id]?] {
                put(digest.bytes());
            }
        }
    }
    Some(Digest::of(&bytes))
}

/// The maximum length of a variant's folder name in bytes. File systems allow 255 bytes, but a person reads fewer.
const LONGEST_NAME: usize = 120;

/// Converts a variant name to a folder name. A name that is too long is cut, and a digest of the whole name keeps it
/// unique.
fn file_name(variant: &str) -> String {
    let mut name = variant.replace('/', "_");
    if name.starts_with('.') {
        name.insert(0, '_');
    }
    if name.len() > LONGEST_NAME {
        let digest = Digest::of(variant.as_bytes()).short();
        name.truncate(name.floor_char_boundary(LONGEST_NAME - digest.len() - 1));
        name = format!("{name}~{digest}");
    }
    name
}

fn set_link(link: &Path, target: &Path) -> Result<()> {
    if std::fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let set = || -> std::io::Result<()> {
        if let Some(folder) = link.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Replace the link by a rename, so that there is always either the old link or the new link.
        let mut name = link.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let temporary = link.with_file_name(name);
        let _ = std::fs::remove_file(&temporary);
        std::os::unix::fs::symlink(target, &temporary)?;
        std::fs::rename(&temporary, link).inspect_err(|_| drop(std::fs::remove_file(&temporary)))
    };
    set().with_context(|| format!("cannot link {}", link.display()))
}

/// Removes links that the last build did not set, and folders that become empty. Removes nothing else.
fn remove_others(folder: &Path, wanted: &BTreeSet<PathBuf>, depth: usize) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_symlink() && !wanted.contains(&path) && artifact_of(&path).is_some() {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        } else if kind.is_dir() && depth == 0 {
            remove_others(&path, wanted, 1)?;
            // Fails if the folder is not empty. Such a folder stays, because other files in it are not from raisin.
            let _ = std::fs::remove_dir(&path);
        }
    }
    Ok(())
}

/// The artifact to which a link leads, read from the target path.
fn artifact_of(link: &Path) -> Option<Digest> {
    std::fs::read_link(link).ok()?.file_name()?.to_str()?.parse().ok()
}

/// Whether a link leads to the existing folder of this artifact.
fn leads_to(link: &Path, artifact: Digest) -> bool {
    artifact_of(link) == Some(artifact) && link.is_dir()
}

/// Whether a path does not exist. If the path cannot be examined, it counts as existing.
fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// The relative path from a folder to a path; both are absolute.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(one, other)| one == other).count();
    let up = from.components().skip(shared).map(|_| std::path::Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_of_a_variant_is_cut_and_still_its_own() {
        assert_eq!(file_name("method=raise,seed=17"), "method=raise,seed=17");
        assert_eq!(file_name("../x"), "_.._x");
        let long = |last: &str| file_name(&format!("text={}{last}", "ä".repeat(200)));
        assert!(long("1").len() <= LONGEST_NAME && long("1").starts_with("text=ä"), "{}", long("1"));
        assert_ne!(long("1"), long("2"));
    }
}
