//! How the running executable was installed: from a wheel, into a Python environment, or from source. libtorch.rs looks
//! for libtorch there.

use std::path::{Path, PathBuf};

/// The surroundings of the executable `raisin`.
#[derive(Debug)]
pub struct Installation {
    /// The folders of Python packages that belong to the executable, such as `<venv>/lib/python3.12/site-packages` for
    /// `<venv>/bin/raisin`. Newer versions of Python come first.
    pub packages: Vec<PathBuf>,
    /// Whether the executable comes from raisin's wheel: then raisin's Python package lies in one of the folders.
    pub is_wheel: bool,
}

impl Installation {
    /// The installation of the running executable.
    pub fn here() -> Self {
        std::env::current_exe().map_or(Self { packages: Vec::new(), is_wheel: false }, |own| Self::of(&own))
    }

    fn of(executable: &Path) -> Self {
        let prefix = executable.parent().and_then(Path::parent);
        let mut packages: Vec<PathBuf> = Vec::new();
        for folder in prefix.iter().flat_map(|prefix| ["lib", "lib64"].map(|name| prefix.join(name))) {
            // `lib64` is often a link to `lib`.
            let is_new =
                |found: &PathBuf| packages.iter().all(|known| known.canonicalize().ok() != found.canonicalize().ok());
            let new: Vec<PathBuf> = python_folders(&folder).into_iter().filter(is_new).collect();
            packages.extend(new);
        }
        let has_package = |folder: &Path| folder.join("raisin/__init__.py").is_file();
        // With `pip install --target FOLDER`, packages lie in FOLDER itself, and executables in FOLDER/bin.
        packages.extend(prefix.filter(|prefix| has_package(prefix)).map(Path::to_owned));
        let is_wheel = packages.iter().any(|folder| has_package(folder));
        Self { packages, is_wheel }
    }

    /// What to do if an executable of raisin is missing.
    pub fn repair(&self) -> &'static str {
        if self.is_wheel {
            "`pip install --force-reinstall --no-deps raisin` installs all executables again"
        } else {
            "`cargo build --workspace` makes all executables but raisin-flight, which `just flight` makes"
        }
    }
}

/// The folders of packages in `<prefix>/lib`. Debian's own Python has `dist-packages` instead of `site-packages`.
fn python_folders(library: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(library).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let minor = entry.file_name().to_str()?.strip_prefix("python3.")?.parse().ok()?;
            Some((minor, entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    let folders =
        found.into_iter().flat_map(|(_, path)| ["site-packages", "dist-packages"].map(|name| path.join(name)));
    folders.filter(|folder| folder.is_dir()).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A Python environment with an executable and an empty folder of packages.
    pub fn environment(top: &Path) -> (PathBuf, PathBuf) {
        let packages = top.join("lib/python3.12/site-packages");
        std::fs::create_dir_all(&packages).expect("a folder");
        std::fs::create_dir_all(top.join("bin")).expect("a folder");
        (top.join("bin/raisin"), packages)
    }

    #[test]
    fn an_executable_of_a_wheel_knows_its_environment() {
        let top = tempfile::tempdir().expect("a folder");
        let (own, packages) = environment(top.path());
        std::fs::create_dir_all(top.path().join("lib/python3.9/dist-packages")).expect("a folder");
        let installation = Installation::of(&own);
        assert!(!installation.is_wheel);
        let older = top.path().join("lib/python3.9/dist-packages");
        std::os::unix::fs::symlink("lib", top.path().join("lib64")).expect("a link");
        assert_eq!(Installation::of(&own).packages, [packages.clone(), older]);
        assert_eq!(installation.packages.len(), 2);
        std::fs::create_dir(packages.join("raisin")).expect("a folder");
        std::fs::write(packages.join("raisin/__init__.py"), "").expect("a file");
        assert!(Installation::of(&own).is_wheel);
        let target = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(target.path().join("raisin")).expect("a folder");
        std::fs::write(target.path().join("raisin/__init__.py"), "").expect("a file");
        let installation = Installation::of(&target.path().join("bin/raisin"));
        assert!(installation.is_wheel && installation.packages == [target.path()]);
    }
}
