//! Tests of the wheel that setup/wheel.py makes from the compiled executables, and of the Python package in it.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use raisin_tests::python::{run_python, setting};
use raisin_tests::{CommandOutput, Project, executable, package};

/// Runs a command that must succeed. Returns its standard output.
fn done(command: &mut Command) -> String {
    let output = CommandOutput::of(command);
    assert_eq!(output.code, 0, "{command:?}\n{}\n{}", output.stdout, output.stderr);
    output.stdout
}

/// Makes a wheel of the executables of this test's build.
fn wheel(python: &Path, folder: &Path) -> PathBuf {
    let executables = executable("raisin").parent().unwrap().to_owned();
    let mut command = Command::new(python);
    command.arg(package().join("setup/wheel.py")).arg("--executables").arg(executables).arg("--dist").arg(folder);
    // Compressing well takes longer than all other steps of the test.
    // `just test` does not compile raisin-flight.
    done(command.args(["--level", "1", "--without", "raisin-flight"]));
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(matches!(files.as_slice(), [one] if one.extension().unwrap() == "whl"), "{files:?}");
    files[0].clone()
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_wheel_installs_into_an_empty_environment_and_finds_its_own_files() {
    let python = setting("RAISIN_PYTHON");
    let project = Project::new();
    let wheel = wheel(&python, &project.path("dist"));
    run_python(&python, "check_wheel.py", &[&wheel]).unwrap();

    done(Command::new(&python).args(["-m", "venv"]).arg(project.path("venv")));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"];
    done(Command::new(project.path("venv/bin/python")).args(pip).arg(&wheel));
    let installed = |arguments: &[&str]| {
        let mut command = Command::new(project.path("venv/bin/raisin"));
        project.place(command.args(arguments));
        for name in ["RAISIN_WORKER", "RAISIN_LIBTORCH", "LIBTORCH", "LD_LIBRARY_PATH", "PYTHONPATH"] {
            command.env_remove(name);
        }
        command.env("PATH", "/usr/bin:/bin");
        command
    };
    assert_eq!(done(&mut installed(&["--version"])), format!("raisin {}\n", env!("CARGO_PKG_VERSION")));
    project.write(
        "p.toml",
        "[stage.pool]\nkind = \"generate\"\nsize = 60\n\n[stage.q]\nkind = \"sql\"\n\
                             of = [\"pool\"]\nquery = \"select count(*) as n from pool.instructions\"\n",
    );
    assert!(done(&mut installed(&["plan", "p.toml"])).contains("2 would run"));
    // These two executables need no libtorch.
    done(&mut installed(&["build", "p.toml"]));
    assert_eq!(done(&mut installed(&["sql", "select n from q.rows", "--format", "csv"])), "n\n60\n");

    // Without libtorch, a build that needs it is refused before the first stage, with what to do.
    let tensors = package().join("tests/pipelines/micro.toml");
    let output = CommandOutput::of(&mut installed(&["build", tensors.to_str().unwrap()]));
    assert_eq!(output.code, 1, "{}", output.stderr);
    for part in ["there is no libtorch 2.11.0", "LIBTORCH is not set", "no libtorch in", "--install-libtorch"] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    assert!(!output.stderr.contains(" ran in "), "{}", output.stderr);
    let output = CommandOutput::of(&mut installed(&["doctor"]));
    assert!(output.code == 1 && output.stdout.contains("--install-libtorch"), "{}", output.stdout);

    // With a torch in the environment, the worker of the wheel loads it. This torch is a link to the one of the tests.
    let find =
        "import sysconfig, importlib.util; print(importlib.util.find_spec('torch').submodule_search_locations[0])";
    let torch = PathBuf::from(done(Command::new(&python).args(["-c", find])).trim());
    let place = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let packages = done(Command::new(project.path("venv/bin/python")).args(["-c", place]));
    std::os::unix::fs::symlink(&torch, Path::new(packages.trim()).join("torch")).unwrap();
    let doctor = done(&mut installed(&["doctor"]));
    assert!(doctor.contains("the package torch in the Python environment of this executable"), "{doctor}");
    assert!(doctor.contains("GFLOP/s"), "{doctor}");
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn the_python_package_builds_queries_and_reports_errors() {
    let project = Project::new();
    let mut command = Command::new(setting("RAISIN_PYTHON"));
    command.arg(package().join("tests/python/package.py")).arg(executable("raisin"));
    project.place(&mut command).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = CommandOutput::of(&mut command);
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
}

#[test]
#[cfg_attr(not(all(has_python, has_notebooks)), ignore = "RAISIN_NOTEBOOKS is not set: `just test-all` sets it")]
fn the_example_notebook_runs_from_the_first_cell_to_the_last() {
    let project = Project::new();
    std::fs::create_dir_all(project.path("pipelines/quickstart-base")).unwrap();
    for name in ["quickstart.toml", "quickstart-base"] {
        let from = package().join("pipelines").join(name);
        done(Command::new("cp").arg("-r").arg(from).arg(project.path("pipelines")));
    }
    let mut command = Command::new(setting("RAISIN_PYTHON"));
    command.arg(package().join("tests/python/notebook.py")).arg(package().join("examples/quickstart.ipynb"));
    project.place(&mut command).env("RAISIN_EXECUTABLE", executable("raisin"));
    let printed = done(command.env("PYTHONPATH", package().join("python")).env("PYTHONDONTWRITEBYTECODE", "1"));
    for part in ["built quickstart", "oracle", "report.html", "model.safetensors"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn the_tab_key_completes_commands_stages_parameters_tables_and_columns() {
    let project = Project::with_text("[stage.pool]\nkind = \"generate\"\nsize = 60\n");
    project.done(&["build", "p.toml"]);
    let mut command = Command::new(setting("RAISIN_PYTHON"));
    command.arg(package().join("tests/python/completions.py")).arg(executable("raisin").parent().unwrap());
    println!("{}", done(project.place(&mut command)));
}

#[test]
#[cfg_attr(not(all(has_python, has_shells)), ignore = "RAISIN_SHELLS is not set: `just test-all` sets it")]
fn the_tab_key_completes_in_zsh_and_fish_too() {
    for shell in ["zsh", "fish"] {
        let project = Project::with_text("[stage.pool]\nkind = \"generate\"\nsize = 60\n");
        project.done(&["build", "p.toml"]);
        let mut command = Command::new(setting("RAISIN_PYTHON"));
        command.arg(package().join("tests/python/completions_elsewhere.py")).arg(shell);
        command.arg(executable("raisin").parent().unwrap());
        println!("{shell}:\n{}", done(project.place(&mut command)));
    }
}
