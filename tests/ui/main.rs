//! Tests of `raisin ui` through the real executables: builds as the page sees them (builds.rs), the SQL box (queries.rs),
//! and who may ask (access.rs). browser.rs looks at the pages with a real browser.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

mod access;
mod browser;
mod builds;
mod queries;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use raisin_tests::{Project, package, processes};
use serde_json::Value;

/// A running `raisin ui`.
pub struct Ui {
    child: Child,
    pub port: u16,
}

/// What the server answered.
pub struct UiAnswer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Ui {
    /// Starts the server on a free port.
    pub fn start(project: &Project, arguments: &[&str]) -> Self {
        let mut command = project.raisin(&["ui", "--port", "0", "--no-open"]);
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("http://127.0.0.1:").and_then(|rest| rest.strip_suffix('/')?.parse().ok());
        let port = port.unwrap_or_else(|| {
            let mut told = String::new();
            child.kill().unwrap();
            child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
            panic!("no address on standard output: {line:?}\n{told}")
        });
        Self { child, port }
    }

    /// Sends a request as it is written here, and reads the answer.
    pub fn send(&self, request: &str) -> UiAnswer {
        let mut stream = self.open(request);
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {request:?}: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        UiAnswer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// Sends a request, and leaves the answer.
    pub fn open(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    pub fn get(&self, path: &str) -> UiAnswer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", self.port))
    }

    /// The state for programs.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.get("/state").body).unwrap()
    }

    /// The state of a stage.
    pub fn stage(&self, name: &str) -> Value {
        let state = self.state();
        let found = state["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == name).cloned();
        found.unwrap_or(Value::Null)
    }

    /// A part of the page as HTML.
    pub fn part(&self, name: &str) -> String {
        let live: Value = serde_json::from_str(&self.get("/live").body).unwrap();
        live["parts"][name]["html"].as_str().unwrap().to_owned()
    }

    fn query(&self, text: &str) -> String {
        format!(
            "POST /sql?pipeline=p HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: {}\r\n\r\n{text}",
            self.port,
            text.len()
        )
    }

    /// The answer of the SQL box.
    pub fn ask(&self, text: &str) -> Value {
        let answer = self.send(&self.query(text));
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{text}: {error}: {}", answer.body))
    }

    /// The error of the SQL box.
    pub fn refused(&self, text: &str) -> String {
        let answer = self.ask(text);
        answer["error"].as_str().unwrap_or_else(|| panic!("{text} was answered: {answer}")).to_owned()
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A build that runs while a test looks at it. If the test fails, the build ends.
pub struct RunningBuild(pub Child, PathBuf);

impl RunningBuild {
    pub fn start(project: &Project, arguments: &[&str]) -> Self {
        let said = project.path("said.txt");
        let file = std::fs::File::create(&said).unwrap();
        let mut command = project.raisin(&["build", "p.toml"]);
        Self(command.args(arguments).stdout(Stdio::null()).stderr(file).spawn().unwrap(), said)
    }

    /// Waits for the end of the build, which must succeed.
    pub fn ends(&mut self) {
        let status = processes::status(&mut self.0);
        assert!(status.success(), "{}", std::fs::read_to_string(&self.1).unwrap());
    }
}

impl Drop for RunningBuild {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pipeline with a training and a report, whose stage `waits` ends when the file `go` is there.
pub fn project() -> Project {
    let base = package().join("pipelines/quickstart-base");
    let project = Project::new();
    project.write(
        "p.toml",
        &format!(
            r#"
[stage.pool]
kind = "generate"
size = 100
validation = 8
test = 16

[stage.base]
kind = "model"
source = {{ huggingface = "{}" }}

[stage.waits]
kind = "command"
run = ["sh", "wait.sh", "{{out}}/rows.csv"]
files = ["wait.sh"]
env = {{ GO = "{}" }}
tables = ["rows"]
resources = {{ threads = 1 }}

[stage.tuned]
kind = "finetune"
instructions = "pool"
model = "base"
task = "pool"
select = {{ method = "random" }}
steps = 4
batch_size = 4
evaluate_every = 2
resources = {{ threads = 1 }}

[stage.scores]
kind = "evaluate"
model = "tuned"
task = "pool"
metrics = ["loss"]
resources = {{ threads = 1 }}

[stage.counted]
kind = "sql"
of = ["waits"]
query = "select count(*) as n from waits.rows"

[stage.report]
kind = "report"
of = ["tuned", "scores"]
"#,
            base.display(),
            project.path("go").display()
        ),
    );
    project.write(
        "wait.sh",
        "echo 'reading <rows>' >&2\necho '{\"progress\": {\"done\": 3, \"total\": 4, \"unit\": \"rows\", \"phase\": \"scoring\"}}'\n\
         while [ ! -e \"$GO\" ]; do sleep 0.05; done\nprintf 'id\\n1\\n2\\n' > \"$1\"\n",
    );
    project
}
