//! Updates out/<pipeline>/: the links to the artifacts of the last build, and build.json, which describes them.
//!
//! The links are for users, and they are roots of gc. build.json is the catalog for SQL.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::resolve::Resolver;
use super::waiting;
use raisin_base::digest::{Digest, canonical};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::files::{if_there, is_temporary, resolved, temporary_beside};
use raisin_pipeline::Pipeline;
use raisin_store::{BuildDescription, BuiltStage, DESCRIPTION, Store, note_use_of, write_atomically};

/// The result of [`update`].
#[derive(Clone, Debug, Default)]
pub struct LinkUpdate {
    /// Whether build.json differs from before, and with it the links.
    pub changed: bool,
    /// The links that lead to artifacts of an earlier build, because this build has no artifact of these stages: stage
    /// and variant.
    pub earlier: Vec<String>,
    /// Lines for the user.
    pub notes: Vec<String>,
}

/// What [`update`] does while another process updates the same links.
pub struct LinkWait<'w> {
    pub say: &'w dyn Fn(String),
    pub gives_up: &'w dyn Fn() -> bool,
}

/// Refuses to build into the folder of another pipeline file: two pipelines of the same name would remove each other's
/// links. `folder` is out/<pipeline>. If the other file does not exist any more, it was moved, and is not in the way.
///
/// # Errors
/// The links in the folder are of another pipeline file.
pub fn refuse_other_file(folder: &Path, pipeline: &Pipeline) -> Result<()> {
    let before = BuildDescription::read(folder).ok().flatten();
    is_of_this_file(folder, before.as_ref(), pipeline)
}

fn is_of_this_file(folder: &Path, before: Option<&BuildDescription>, pipeline: &Pipeline) -> Result<()> {
    let Some(other) = before.and_then(|before| before.file.as_ref()) else { return Ok(()) };
    let file = file_of(pipeline)?;
    if *other == file || is_gone(other) {
        return Ok(());
    }
    let (folder, name) = (folder.display(), &pipeline.name);
    let message = format!("{folder} has the results of {}, and {} has the same name", other.display(), file.display());
    Err(Problem::usage(message)
        .hint(format!(
            "give one of the pipelines another name (`name = ...` under [pipeline]), or build with another --out; to \
             use the name `{name}` for {} from now on, remove {folder}",
            file.display()
        ))
        .into())
}

/// The path of a pipeline file as build.json has it. JSON has no other texts than UTF-8.
fn file_of(pipeline: &Pipeline) -> Result<PathBuf> {
    let file = resolved(&pipeline.file).with_context(|| format!("cannot find {}", pipeline.file.display()))?;
    Ok(PathBuf::from(file.to_string_lossy().into_owned()))
}

/// Updates out/<pipeline>/ after a build. `keys` has the key of each node that has an artifact. Returns `None` if the
/// caller gave up waiting for another process; the links are then as before.
///
/// A link stays until a build has a newer artifact of the stage, or the pipeline no longer has the stage. Therefore no
/// result disappears if a build fails, is interrupted, or leaves stages out.
pub fn update(
    resolver: &mut Resolver<'_>,
    keys: &[Option<Digest>],
    out: &Path,
    wait: &LinkWait<'_>,
) -> Result<Option<LinkUpdate>> {
    let pipeline = resolver.graph.pipeline;
    let folder = out.join(&pipeline.name);
    let digest = digest_of_links(resolver, keys);
    if let Some(digest) = digest
        && resolver.index.has_links(digest)
    {
        // A person may have removed the note.
        resolver.store.note_out_folder(out)?;
        return Ok(Some(LinkUpdate::default()));
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let shown = folder.display().to_string();
    let folder = folder.canonicalize()?;
    // Only one build at a time may update the links: another build of the same pipeline would remove links that this
    // build is about to list.
    let key = Digest::of(format!("links {}", folder.display()).as_bytes());
    let doing = format!("updating the links in {shown}");
    let Some(_lock) = waiting::lock(&resolver.store, key, &doing, wait.say, wait.gives_up)? else { return Ok(None) };
    let mut notes = Vec::new();
    let before = BuildDescription::read(&folder).unwrap_or_else(|error| {
        notes.push(format!("{error:#}; links of stages that the pipeline no longer has stay"));
        None
    });
    is_of_this_file(&folder, before.as_ref(), pipeline)?;
    let file = Some(file_of(pipeline)?);
    let description =
        |stages| BuildDescription { format: 1, pipeline: pipeline.name.clone(), file: file.clone(), stages };
    if !folder.join(DESCRIPTION).exists() {
        resolver.store.note_return_of(out)?;
        // gc takes a noted out folder without links and without a description for missing. After this line, the folder
        // has a description, also if the process is killed.
        write_description(&folder, &description(Vec::new()))?;
    }
    let mut places = LinkFolders { store: &resolver.store, noted: vec![out.canonicalize()?], all: BTreeSet::new() };
    resolver.store.note_out_folder(out)?;
    places.add(&folder)?;

    let (mut stages, mut earlier) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    let mut wanted = BTreeSet::new();
    for (index, variant) in pipeline.variants.iter().enumerate() {
        for stage in &variant.stages {
            let gathers = stage.declaration.gathers;
            let name = if gathers { "" } else { variant.name.as_str() };
            if !seen.insert((name, stage.name.as_str())) {
                continue;
            }
            let link = link_of(&folder, name, &stage.name);
            let place = link.parent().unwrap_or(&folder).to_owned();
            let target = |artifact| relative(&place, &resolver.store.artifact_folder(artifact));
            let id = resolver.graph.node(index, &stage.name);
            if let Some((artifact, key)) = id.and_then(|id| Some((resolver.artifacts[id]?, keys[id]?))) {
                places.add(&place)?;
                set_link(&link, &target(artifact), &resolver.store)?;
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
                    let target = target(old.artifact);
                    if !is_gone(&resolver.store.artifact_folder(old.artifact)) {
                        places.add(&place)?;
                        set_link(&link, &target, &resolver.store)?;
                    } else if !leads_into_another_cache(&link, old.artifact, &target) {
                        continue;
                    }
                }
                stages.push(old.clone());
                earlier.push(if name.is_empty() { stage.name.clone() } else { format!("{} [{name}]", stage.name) });
            }
            wanted.insert(link);
        }
    }
    for old in before.iter().flat_map(|before| &before.stages) {
        let link = link_of(&folder, &old.variant, &old.stage);
        // A description that a person has edited must not name a link elsewhere.
        let is_plain = !old.stage.contains('/') && !matches!(old.stage.as_str(), "" | "." | "..");
        if is_plain && !wanted.contains(&link) {
            remove_link(&link, &folder, &resolver.store)?;
        }
    }
    places.all.iter().try_for_each(|place| remove_temporary(place, &resolver.store))?;
    let description = description(stages);
    let changed = before.as_ref() != Some(&description);
    if changed {
        write_description(&folder, &description)?;
    }
    if let Some(digest) = digest {
        let mut places = places.all;
        places.insert(folder.join(DESCRIPTION));
        resolver.index.remember_links(digest, places);
    }
    Ok(Some(LinkUpdate { changed, earlier, notes }))
}

fn write_description(folder: &Path, description: &BuildDescription) -> Result<()> {
    let text = serde_json::to_string_pretty(description)? + "\n";
    write_atomically(&folder.join(DESCRIPTION), text.as_bytes())
}

/// The folders that hold links.
struct LinkFolders<'s> {
    store: &'s Store,
    /// The folders below which gc looks for links, without symbolic links.
    noted: Vec<PathBuf>,
    all: BTreeSet<PathBuf>,
}

impl LinkFolders<'_> {
    /// Creates a folder for links. If a symbolic link of the user leads out of the out folder, gc must know the folder
    /// to which it leads, because the user can point the link elsewhere later.
    fn add(&mut self, place: &Path) -> Result<()> {
        if self.all.contains(place) {
            return Ok(());
        }
        std::fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
        let real = place.canonicalize()?;
        if !self.noted.iter().any(|noted| real.starts_with(noted)) {
            self.store.note_out_folder(&real)?;
            self.noted.push(real);
        }
        self.all.insert(place.to_owned());
        Ok(())
    }
}

/// The path of the link of a stage; `variant` is empty for a stage without variants.
pub fn link_of(folder: &Path, variant: &str, stage: &str) -> PathBuf {
    let place = if variant.is_empty() { folder.to_owned() } else { folder.join(file_name(variant)) };
    place.join(stage)
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

/// The target of the link that a build wrote at this path; `None` if nothing is there.
///
/// # Errors
/// At the path is something that no build wrote.
pub fn target_of(link: &Path) -> Result<Option<PathBuf>> {
    if if_there(link.symlink_metadata()).with_context(|| format!("cannot read {}", link.display()))?.is_none() {
        return Ok(None);
    }
    match std::fs::read_link(link) {
        Ok(target) if digest_of(&target).is_some() => Ok(Some(target)),
        _ => {
            let message = format!("{} is not a link that a build wrote", link.display());
            let hint = "a build needs this name for the link to a stage: move the file elsewhere, or rename the stage";
            Err(Problem::new(message).hint(hint).into())
        }
    }
}

/// Points a link at an artifact. The artifact to which the link led before counts as used until now.
///
/// # Errors
/// At the path of the link is something that no build wrote.
fn set_link(link: &Path, target: &Path, store: &Store) -> Result<()> {
    let before = target_of(link)?;
    if before.as_deref() == Some(target) {
        return Ok(());
    }
    if let Some(before) = before {
        release(link, &before, store)?;
    }
    let set = || -> std::io::Result<()> {
        // Replace the link by a rename, so that there is always either the old link or the new link.
        let temporary = temporary_beside(link);
        std::os::unix::fs::symlink(target, &temporary)?;
        std::fs::rename(&temporary, link).inspect_err(|_| drop(std::fs::remove_file(&temporary)))
    };
    set().with_context(|| format!("cannot link {}", link.display()))
}

/// Notes that the artifact of a link is used until now. The link may lead into another cache, in which this user may
/// not write. That is no failure of this build.
fn release(link: &Path, target: &Path, store: &Store) -> Result<()> {
    let artifact = link.parent().unwrap_or(Path::new("/")).join(target);
    let noted = note_use_of(&artifact);
    let folder = artifact.parent().and_then(|folder| folder.canonicalize().ok());
    if folder.is_some_and(|folder| folder == store.root().join("artifacts")) { noted } else { Ok(()) }
}

/// Removes the temporary links that a killed build has left in a folder of links. The caller must hold the lock of the
/// links.
fn remove_temporary(folder: &Path, store: &Store) -> Result<()> {
    let cannot = || format!("cannot read {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if is_temporary(&path)
            && let Ok(target) = std::fs::read_link(&path)
            && digest_of(&target).is_some()
        {
            release(&path, &target, store)?;
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Removes the link of a stage that the pipeline no longer has, and the folder of its variant if that becomes empty.
/// `folder` is the folder of the pipeline.
fn remove_link(link: &Path, folder: &Path, store: &Store) -> Result<()> {
    let Ok(target) = std::fs::read_link(link) else { return Ok(()) };
    if digest_of(&target).is_none() {
        return Ok(());
    }
    let place = link.parent().unwrap_or(folder);
    release(link, &target, store)?;
    std::fs::remove_file(link).with_context(|| format!("cannot remove {}", link.display()))?;
    if place != folder {
        // Fails if the folder is not empty. Such a folder stays, because other files in it are not from raisin.
        let _ = std::fs::remove_dir(place);
    }
    Ok(())
}

/// The digest of the artifact to which the target of a link leads.
fn digest_of(target: &Path) -> Option<Digest> {
    target.file_name()?.to_str()?.parse().ok()
}

/// Whether a link leads to the existing folder of this artifact.
fn leads_to(link: &Path, artifact: Digest) -> bool {
    std::fs::read_link(link).is_ok_and(|target| digest_of(&target) == Some(artifact)) && link.is_dir()
}

/// Whether a link leads to this artifact in another place than `target`, the place in this cache. The disk of another
/// cache may not be mounted, so that the link seems to lead nowhere.
fn leads_into_another_cache(link: &Path, artifact: Digest, target: &Path) -> bool {
    std::fs::read_link(link).is_ok_and(|now| digest_of(&now) == Some(artifact) && now != target)
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
