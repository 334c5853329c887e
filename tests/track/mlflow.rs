//! Runs on a real MLflow server on loopback, read back by MLflow's own client.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::{losses, pipeline};
use raisin_tests::python::{run_python, setting};
use raisin_tests::{CommandOutput, Project, processes};

/// A server whose files lie in a project. The processes end with the value.
struct MlflowServer {
    process: Child,
    address: String,
}

impl MlflowServer {
    fn start(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::create_dir_all(folder).unwrap();
        let mut command = Command::new(setting("RAISIN_SERVERS"));
        command
            .args(["-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1", "--port"])
            .arg(port.to_string());
        command.arg("--backend-store-uri").arg(format!("sqlite:///{}/runs.db", folder.display()));
        command.arg("--artifacts-destination").arg(folder.join("files"));
        command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
        // The server starts workers; all of them are ended together.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let server = Self { process: command.spawn().unwrap(), address: format!("http://127.0.0.1:{port}") };
        let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        // The first start makes the tables of the database.
        (0..9).any(|_| std::panic::catch_unwind(|| processes::wait_for("the server listens", answers)).is_ok());
        assert!(answers(), "the server does not listen");
        server
    }

    fn runs(&self) -> Vec<Value> {
        let printed =
            run_python(&setting("RAISIN_SERVERS"), "mlflow_runs.py", &[Path::new(&self.address), Path::new("chosen")]);
        printed.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for MlflowServer {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.process.wait();
    }
}

fn at(project: &Project, address: &str, arguments: &[&str]) -> CommandOutput {
    let output = CommandOutput::of(project.raisin(arguments).env("MLFLOW_TRACKING_URI", address));
    assert_eq!(output.code, 0, "{}", output.stderr);
    output
}

#[test]
#[cfg_attr(not(has_servers), ignore = "RAISIN_SERVERS is not set: `just test-all` sets it")]
fn an_mlflow_server_gets_each_run_once_also_if_it_was_away_during_the_build() {
    let project = Project::with_text(&pipeline("mlflow = { experiment = \"chosen\" }\n"));
    let git = |arguments: &[&str]| {
        let names = ["-c", "user.name=n", "-c", "user.email=n@localhost"];
        let output = CommandOutput::of(Command::new("git").args(names).args(arguments).current_dir(project.path(".")));
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stdout.trim().to_owned()
    };
    project.write(".gitignore", "cache\nout\nserver\n");
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-qm", "a pipeline"]);
    // Nobody listens at this port.
    let away = project.run(&["build", "p.toml"]);
    assert_eq!(away.code, 0, "{}", away.stderr);
    assert!(away.stderr.contains("MLFLOW_TRACKING_URI is not set"), "{}", away.stderr);

    let server = MlflowServer::start(&project.path("server"));
    let sent = at(&project, &server.address, &["build", "p.toml"]);
    assert!(sent.stderr.contains(&format!("4 runs sent to {}, `chosen`", server.address)), "{}", sent.stderr);
    let runs = server.runs();
    assert_eq!(runs.len(), 4);
    let built = project.built("p");
    for run in &runs {
        let variant = run["name"].as_str().unwrap();
        assert_eq!(run["status"], json!("FINISHED"));
        let points = |metric: &str| run["metrics"][metric].as_array().unwrap().clone();
        let expected: Vec<Value> = losses(&project, variant).into_iter().map(|point| json!(point)).collect();
        assert_eq!((expected.len(), points("tuned.steps/loss")), (4, expected));
        let query = format!("select loss from scores.metrics where variant = '{variant}'");
        assert_eq!(points("scores/test/loss"), [json!([0, project.sql(&query)[0]["loss"]])]);
        let (parameters, tags) = (&run["parameters"], &run["tags"]);
        assert_eq!(parameters["tuned.steps"], json!("4"));
        let parts: Vec<&str> = variant.split([',', '=']).collect();
        assert_eq!(parameters["tuned.select.method"], json!(parts[3]));
        assert_eq!(parameters["tuned.learning_rate"].as_str().unwrap().parse(), parts[1].parse::<f64>());
        for stage in ["tuned", "scores"] {
            let built = built.iter().find(|it| it.stage == stage && it.variant == variant).unwrap();
            assert_eq!(tags[format!("raisin.artifact.{stage}")], json!(built.artifact));
            assert_eq!(tags[format!("raisin.action.{stage}")], json!(built.key));
        }
        assert_eq!((&tags["raisin.pipeline"], &tags["raisin.variant"]), (&json!("p"), &json!(variant)));
        assert_eq!(tags["mlflow.source.git.commit"], json!(git(&["rev-parse", "HEAD"])));
        assert_eq!(tags["raisin.git.dirty"], json!("false"));
        assert_eq!(tags["mlflow.source.name"], json!("p.toml"));
        assert!(run["start"].as_i64().unwrap() > 1_700_000_000_000 && run["start"].as_i64() <= run["end"].as_i64());
    }

    // Nothing is sent twice: neither by the next build, nor on demand, nor by a machine that does not know what was sent.
    let silent = at(&project, &server.address, &["build", "p.toml"]);
    assert!(!silent.stderr.contains("mlflow"), "{}", silent.stderr);
    std::fs::remove_dir_all(project.path("cache/sent")).unwrap();
    for arguments in [&["track", "push", "p.toml"][..], &["track", "push", "p"], &["track", "push"]] {
        let told = at(&project, &server.address, arguments).stderr;
        assert!(told.contains("0 runs sent") && told.contains("4 there already"), "{told}");
    }
    assert_eq!(server.runs(), runs);

    // A run that was sent in part is completed, with each point once.
    let script = ["mlflow_runs.py"];
    let half = [Path::new(&server.address), Path::new("chosen"), Path::new("--halve")];
    run_python(&setting("RAISIN_SERVERS"), script[0], &half).unwrap();
    let told = at(&project, &server.address, &["track", "push", "p.toml"]).stderr;
    assert!(told.contains("1 run sent") && told.contains("3 there already"), "{told}");
    let metrics = |runs: &[Value]| runs.iter().map(|run| run["metrics"].clone()).collect::<Vec<_>>();
    assert_eq!(metrics(&server.runs()), metrics(&runs));

    // More variants: only the new ones are sent.
    let more = ["build", "p.toml", "--sweep", "stage.tuned.learning_rate=[1e-3, 1e-4, 1e-5]"];
    let told = at(&project, &server.address, &more).stderr;
    assert!(told.contains("2 runs sent") && told.contains("4 there already"), "{told}");
    assert_eq!(server.runs().len(), 6);
}
