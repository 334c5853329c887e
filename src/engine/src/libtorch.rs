//! Finds libtorch for raisin-worker, without loading libtorch. child.rs sets the library path of the worker.
//!
//! The first of these places that has a libtorch of the right version is taken:
//!
//! 1. `LIBTORCH`: the folder that contains `lib/libtorch_cpu.so`. If the variable names another folder, that is an error.
//! 2. The package torch in the Python environment of the executable: `<venv>/lib/python3*/site-packages/torch/lib`.
//! 3. The folder of the project, `.libtorch` or `RAISIN_LIBTORCH`, which `raisin doctor --install-libtorch` makes.
//! 4. The folder that the executable was linked with. An executable from a wheel does not look there, because that
//!    folder belongs to the machine on which the wheel was built.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::installation::Installation;
use raisin_base::error::{Problem, Result};
use raisin_base::machine;

/// A libtorch that the worker can load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libtorch {
    /// The folder that contains libtorch_cpu.so itself, and not a link to it: the libraries beside it find each other by
    /// their own run path.
    pub folder: PathBuf,
    pub place: LibtorchPlace,
}

/// Why a libtorch was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LibtorchPlace {
    Variable,
    Environment,
    Project,
    Linked,
}

impl fmt::Display for LibtorchPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Variable => "the variable LIBTORCH names this folder",
            Self::Environment => "the package torch in the Python environment of this executable",
            Self::Project => "the folder .libtorch of this project (or RAISIN_LIBTORCH)",
            Self::Linked => "the folder that raisin was compiled with",
        })
    }
}

/// The result of a search.
#[derive(Debug, Default)]
pub struct LibtorchSearch {
    pub found: Option<Libtorch>,
    /// The places that were looked at before and not taken, each with the reason.
    pub passed: Vec<String>,
}

/// # Errors
/// `LIBTORCH` names a folder without libtorch.
pub fn find_libtorch() -> Result<LibtorchSearch> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    find(&LibtorchPlaces {
        installation: &Installation::here(),
        variable: set("LIBTORCH"),
        project: set("RAISIN_LIBTORCH").map_or_else(|| PathBuf::from(".libtorch"), PathBuf::from),
        linked: option_env!("LIBTORCH").map(PathBuf::from),
    })
}

/// The folder of the libtorch that the worker loads.
///
/// # Errors
/// As [`find_libtorch`]; or the executable is from a wheel, and there is no libtorch.
pub fn libtorch_to_load() -> Result<Option<Libtorch>> {
    let search = find_libtorch()?;
    if search.found.is_none() && Installation::here().is_wheel {
        let places = search.passed.join("; ");
        return Err(Problem::new(format!("there is no libtorch {} for raisin-worker ({places})", machine::LIBTORCH))
            .hint(HOW_TO_INSTALL)
            .into());
    }
    Ok(search.found)
}

/// The two ways to get a libtorch.
pub const HOW_TO_INSTALL: &str = "`raisin doctor --install-libtorch` downloads the CPU libraries (545 MB) into .libtorch; \
                                  `pip install 'torch==2.11.*'` in the environment of raisin also brings CUDA";

struct LibtorchPlaces<'a> {
    installation: &'a Installation,
    variable: Option<OsString>,
    project: PathBuf,
    linked: Option<PathBuf>,
}

fn find(places: &LibtorchPlaces<'_>) -> Result<LibtorchSearch> {
    if let Some(variable) = &places.variable {
        let folder = Path::new(variable).join("lib");
        let Some(folder) = real_folder(&folder) else {
            let message =
                format!("LIBTORCH is {}, but {} has no libtorch_cpu.so", variable.display(), folder.display());
            return Err(Problem::new(message)
                .hint("unset LIBTORCH, or set it to the folder of a libtorch 2.11, which contains `lib`")
                .into());
        };
        return Ok(LibtorchSearch {
            found: Some(Libtorch { folder, place: LibtorchPlace::Variable }),
            passed: Vec::new(),
        });
    }
    let mut passed = vec!["LIBTORCH is not set".to_owned()];
    let mut take = |folder: &Path, place: LibtorchPlace| {
        let Some(real) = real_folder(folder) else {
            passed.push(format!("no libtorch in {}", folder.display()));
            return None;
        };
        if let Some(other) = machine::libtorch_version(&real).filter(|version| !is_right(version)) {
            passed.push(format!("libtorch in {} is {other}, but raisin needs {}", real.display(), machine::LIBTORCH));
            return None;
        }
        Some(Libtorch { folder: real, place })
    };
    let environment = places.installation.packages.iter().map(|folder| folder.join("torch/lib"));
    let found = if places.installation.is_wheel {
        environment.into_iter().find_map(|folder| take(&folder, LibtorchPlace::Environment))
    } else {
        // Beside an executable that cargo made, there is no Python environment that is worth a remark.
        let mut there = environment.filter(|folder| folder.is_dir());
        there.find_map(|folder| take(&folder, LibtorchPlace::Environment))
    };
    let found = found.or_else(|| take(&places.project.join("link/lib"), LibtorchPlace::Project)).or_else(|| {
        match &places.linked {
            Some(linked) if !places.installation.is_wheel => take(&linked.join("lib"), LibtorchPlace::Linked),
            _ => None,
        }
    });
    Ok(LibtorchSearch { found, passed })
}

/// Whether raisin's bindings fit to this version: versions with the same first two numbers are compatible.
fn is_right(version: &str) -> bool {
    let series = |version: &str| version.rsplit_once('.').map(|(series, _)| series.to_owned());
    series(version) == series(machine::LIBTORCH)
}

fn real_folder(folder: &Path) -> Option<PathBuf> {
    Some(folder.join("libtorch_cpu.so").canonicalize().ok()?.parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::installation::tests::environment;
    use super::*;
    use raisin_base::error::render;

    fn torch(folder: &Path, version: (u32, u32, u32)) {
        let include = folder.join("include/torch/headeronly");
        std::fs::create_dir_all(&include).expect("a folder");
        std::fs::create_dir_all(folder.join("lib")).expect("a folder");
        std::fs::write(folder.join("lib/libtorch_cpu.so"), "").expect("a file");
        let (major, minor, patch) = version;
        let lines = [("MAJOR", major), ("MINOR", minor), ("PATCH", patch)];
        let text: String = lines.iter().map(|(name, n)| format!("#define TORCH_VERSION_{name} {n}\n")).collect();
        std::fs::write(include.join("version.h"), text).expect("a file");
    }

    #[test]
    fn the_variable_comes_before_the_environment_the_project_and_the_linked_folder() {
        let top = tempfile::tempdir().expect("a folder");
        let top = top.path().canonicalize().expect("a path");
        let (_, packages) = environment(&top.join("venv"));
        let all = [top.join("own"), packages.join("torch"), top.join(".libtorch/link"), top.join("linked")];
        let find_with = |is_wheel: bool, variable: Option<&Path>| {
            find(&LibtorchPlaces {
                installation: &Installation { packages: vec![packages.clone()], is_wheel },
                variable: variable.map(|path| path.as_os_str().to_owned()),
                project: top.join(".libtorch"),
                linked: Some(top.join("linked")),
            })
        };
        let place = |is_wheel| find_with(is_wheel, None).expect("a search").found.map(|found| found.place);
        assert_eq!(place(true), None);
        torch(&all[3], (2, 11, 0));
        // The folder of the machine that made the wheel does not count on another machine.
        assert_eq!((place(true), place(false)), (None, Some(LibtorchPlace::Linked)));
        torch(&all[2], (2, 11, 0));
        assert_eq!(place(true), Some(LibtorchPlace::Project));
        torch(&all[1], (2, 10, 1));
        let search = find_with(true, None).expect("a search");
        assert_eq!(search.found.expect("one").place, LibtorchPlace::Project);
        assert!(search.passed[1].ends_with("is 2.10.1, but raisin needs 2.11.0"), "{:?}", search.passed);
        torch(&all[1], (2, 11, 3));
        let found = find_with(true, None).expect("a search").found.expect("one");
        assert_eq!(found, Libtorch { folder: all[1].join("lib"), place: LibtorchPlace::Environment });
        let said = render(&find_with(true, Some(&all[0])).expect_err("nothing is there"));
        assert!(said.contains("own/lib has no libtorch_cpu.so") && said.contains("hint: unset LIBTORCH"), "{said}");
        // A person who names a folder decides, also about the version.
        torch(&all[0], (2, 4, 0));
        let found = find_with(true, Some(&all[0])).expect("a search").found.expect("one");
        assert_eq!(found.place, LibtorchPlace::Variable);
    }
}
