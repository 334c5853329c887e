//! A tracking server that is away, silent, or another one: a build warns once, and has its result.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use raisin_tests::{CommandOutput, Project};

/// A pipeline that sends one run, without training.
fn project() -> Project {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/quickstart-base");
    Project::with_text(&format!(
        "[stage.pool]\nkind = \"generate\"\nsize = 40\nvalidation = 4\ntest = 4\n\n\
         [stage.base]\nkind = \"model\"\nsource = {{ huggingface = \"{base}\" }}\n\n\
         [stage.scores]\nkind = \"evaluate\"\nmodel = \"base\"\ntask = \"pool\"\nmetrics = [\"loss\"]\n\n\
         [stage.board]\nkind = \"track\"\nof = [\"scores\"]\nmlflow = {{ experiment = \"e\" }}\n"
    ))
}

/// A server that gives the same answer to every request; with `None` it never answers. Its address without the scheme,
/// and the heads of the requests.
fn server(answer: Option<&'static str>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let kept = heads.clone();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 8192];
            let count = stream.read(&mut buffer).unwrap_or(0);
            kept.lock().unwrap().push(String::from_utf8_lossy(&buffer[..count]).into_owned());
            if let Some(answer) = answer {
                let _ = stream.write_all(answer.as_bytes());
            } else {
                open.push(stream);
            }
        }
    });
    (address, heads)
}

/// Builds with these variables. The build must succeed.
fn build(project: &Project, variables: &[(&str, &str)]) -> String {
    let mut command = project.raisin(&["build", "p.toml"]);
    let output = CommandOutput::of(command.envs(variables.iter().copied()));
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(project.path("out/p/board/mlflow/all.json").is_file());
    output.stderr
}

const PAGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\nconnection: close\r\n\r\n<html>hi</html>";
const DENIED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[test]
fn whatever_a_tracking_server_does_the_build_is_complete_and_warns_once() {
    let project = project();
    let (page, _) = server(Some(PAGE));
    let (denied, heads) = server(Some(DENIED));
    let (silent, _) = server(None);
    // A port at which nobody listens any more.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let uri = |host: &str| format!("http://{host}");
    for (address, expected) in [
        (uri(&closed), "cannot reach MLflow at"),
        (uri(&page), "does not answer as MLflow does: HTTP 200, <html>hi</html>"),
        (uri(&denied), "refuses the credentials (HTTP 401)"),
        (uri(&silent), "no answer in time"),
        (uri("no-such-host.invalid"), "cannot reach MLflow at"),
        ("sqlite:///runs.db".to_owned(), "no address of a server"),
        (String::new(), "MLFLOW_TRACKING_URI is not set"),
    ] {
        let told = build(&project, &[("MLFLOW_TRACKING_URI", &address)]);
        assert!(told.contains(expected), "{address}: {told}");
        assert_eq!(told.matches("warning: ").count(), 1, "{told}");
        assert_eq!(told.matches("`raisin track push p.toml`, sends them").count(), 1, "{told}");
        assert!(told.contains("hint: "), "{told}");
        // On demand, it is a failure.
        let mut command = project.raisin(&["track", "push", "p.toml"]);
        if address != uri(&silent) {
            let output = CommandOutput::of(command.env("MLFLOW_TRACKING_URI", &address));
            assert!(output.code > 0 && output.stderr.contains(expected), "{}", output.stderr);
        }
    }

    // Credentials reach the server, and nothing else.
    let secret = "a-secret-that-nobody-sees";
    let variables = [("MLFLOW_TRACKING_URI", uri(&denied)), ("MLFLOW_TRACKING_TOKEN", secret.to_owned())];
    let told = build(&project, &variables.each_ref().map(|(name, value)| (*name, value.as_str())));
    let in_address = format!("http://user:{secret}@{denied}");
    let again = build(&project, &[("MLFLOW_TRACKING_URI", &in_address)]);
    assert!(heads.lock().unwrap().iter().any(|head| head.contains(&format!("authorization: Bearer {secret}"))));
    // `user:a-secret-that-nobody-sees` in base64.
    let basic = "authorization: Basic dXNlcjphLXNlY3JldC10aGF0LW5vYm9keS1zZWVz";
    assert!(heads.lock().unwrap().iter().any(|head| head.contains(basic)));
    assert!(!told.contains(secret) && !again.contains(secret), "{told}{again}");
    for path in raisin_tests::files_below(&project.path("cache")) {
        let bytes = std::fs::read(&path).unwrap();
        let is_there = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!is_there, "{} has the secret", path.display());
    }
}

#[test]
fn what_is_to_be_sent_can_be_named_wrong() {
    let project = Project::with_text("[stage.pool]\nkind = \"generate\"\nsize = 40\n");
    project.done(&["build", "p.toml"]);
    let (code, told) = project.refused(&["track", "push", "pp"]);
    assert!(code == 2 && told.contains("did you mean `p`?"), "{told}");
    let (code, told) = project.refused(&["track", "push", "p"]);
    assert!(code == 2 && told.contains("`p` has no runs for MLflow"), "{told}");
    project.write("q.toml", "[stage.b]\nkind = \"track\"\nof = [\"b2\"]\nmlflow = { experiment = \" \" }\n");
    let (code, told) = project.refused(&["plan", "q.toml"]);
    assert!(code == 2 && told.contains("the experiment has no name"), "{told}");
}
