//! Support for comparisons with Python programs: runs the scripts of tests/python with the packages of its
//! requirements.txt.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::processes;
use raisin_base::error::{Result, ensure};

/// A path from the environment. A test that needs the path is ignored if the variable was not set when the test was
/// compiled.
pub fn setting(name: &str) -> PathBuf {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    PathBuf::from(value.unwrap_or_else(|| panic!("{name} is not set: `just test` sets it")))
}

/// Runs a script of tests/python. Returns its standard output.
pub fn run_python(python: &Path, script: &str, arguments: &[&Path]) -> Result<String> {
    let script = crate::package().join("tests/python").join(script);
    let output = processes::output(Command::new(python).arg(&script).args(arguments));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{printed}");
    ensure!(output.status.success(), "{}:\n{}", script.display(), String::from_utf8_lossy(&output.stderr));
    Ok(printed)
}
