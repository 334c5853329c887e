//! Checks before the first stage runs that the links can be written under out/ at the end of the build. Otherwise the
//! mistake would be reported only after hours of stages.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use super::links::{link_of, refuse_other_file, target_of};
use raisin_base::error::{Problem, Result};
use raisin_base::files::temporary_beside;
use raisin_pipeline::Pipeline;

const HINT: &str = "name another folder with --out, or make this folder usable";

/// # Errors
/// A link of the pipeline cannot be written: the folder has the links of another pipeline file, the folder is not
/// writable, a name is too long for the file system, or something else lies in the place of the link.
pub fn check(pipeline: &Pipeline, out: &Path) -> Result<()> {
    let folder = out.join(&pipeline.name);
    refuse_other_file(&folder, pipeline)?;
    std::fs::create_dir_all(&folder).map_err(|error| unusable("cannot create", &folder, &error).hint(HINT))?;
    try_link(&folder)?;
    let mut tried = BTreeSet::from([folder.clone()]);
    for variant in &pipeline.variants {
        for stage in &variant.stages {
            let name = if stage.declaration.gathers { "" } else { variant.name.as_str() };
            let link = link_of(&folder, name, &stage.name);
            let place = link.parent().unwrap_or(&folder).to_owned();
            match link.symlink_metadata() {
                Ok(there) if there.is_dir() => {
                    let message = format!("{} is a folder, where a link must lie", link.display());
                    return Err(Problem::new(message).hint("move the folder away, or rename the stage").into());
                }
                Ok(_) => drop(target_of(&link)?),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let hint = "rename the stage or the variant, or name another folder with --out";
                    return Err(unusable("cannot link", &link, &error).hint(hint).into());
                }
            }
            if tried.insert(place.clone()) && place.is_dir() {
                try_link(&place)?;
            }
        }
    }
    Ok(())
}

/// Creates and removes a link, which is the only exact way to learn whether that is possible.
fn try_link(folder: &Path) -> Result<()> {
    let link = temporary_beside(&folder.join("try"));
    std::os::unix::fs::symlink("nowhere", &link)
        .and_then(|()| std::fs::remove_file(&link))
        .map_err(|error| unusable("cannot write links into", folder, &error).hint(HINT).into())
}

fn unusable(what: &str, path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(format!("{what} {}: {error}", path.display()))
}
