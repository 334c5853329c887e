//! The failure table of the shared cache against an S3 server on loopback, behind a proxy that fails as networks and
//! stores do (tests/python/remote_store.py).

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use raisin_tests::{CommandOutput, Project, TestRng, processes, python};
use serde_json::{Value, json};

use super::{BuildCounts, SHARED, ask, build, counts, machine, verified};

/// An S3 server with an empty bucket. The process ends with the value.
struct S3Server {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    endpoint: String,
    manner: String,
}

impl S3Server {
    fn start() -> Self {
        let script = raisin_tests::package().join("tests/python/remote_store.py");
        let mut command = Command::new(python::setting("RAISIN_PYTHON"));
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("the server starts");
        let commands = process.stdin.take().expect("its input");
        let answers = BufReader::new(process.stdout.take().expect("its output"));
        let mut store = Self { process, commands, answers, endpoint: String::new(), manner: "well".to_owned() };
        let port = store.answer()["port"].as_u64().expect("a port");
        store.endpoint = format!("http://127.0.0.1:{port}");
        store
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the server says {line:?}: {error}"))
    }

    fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.commands, "{command}").expect("the server listens");
        self.answer()
    }

    fn behaves(&mut self, manner: &str) {
        self.behaves_as(&json!({ "manner": manner }));
    }

    fn behaves_as(&mut self, manner: &Value) {
        self.ask(manner);
        manner["manner"].as_str().expect("a name").clone_into(&mut self.manner);
    }

    /// The number of requests and of faults since the last change of the manner.
    fn counts(&mut self) -> (u64, u64) {
        let counts = self.ask(&json!({ "counts": true }));
        let sum = |name: &str| counts[name].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        (sum("requests"), sum("faults"))
    }

    /// The largest number of requests at the same time since the last change of the manner.
    fn most_at_once(&mut self) -> u64 {
        self.ask(&json!({ "counts": true }))["most"].as_u64().expect("a number")
    }

    fn keys(&mut self, kind: &str) -> Vec<String> {
        let keys = self.ask(&json!({ "keys": format!("prefix/v1/{kind}/") }));
        keys.as_array().expect("keys").iter().filter_map(|key| key.as_str().map(str::to_owned)).collect()
    }

    fn variables(&self, mode: &'static str) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("RAISIN_REMOTE", "s3://bucket/prefix".to_owned()),
            ("RAISIN_REMOTE_MODE", mode.to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "hidden-secret".to_owned()),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ])
    }

    fn run(&self, machine: &Project, mode: &'static str, arguments: &[&str]) -> CommandOutput {
        let variables = self.variables(mode);
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        ask(machine, &variables, arguments)
    }

    /// A build that must succeed.
    fn build(&self, machine: &Project, mode: &'static str) -> (BuildCounts, String) {
        let output = self.run(machine, mode, &["build", "p.toml"]);
        assert_eq!(output.code, 0, "{}:\n{}", self.manner, output.stderr);
        (counts(&output.stderr), output.stderr)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const ALL_RAN: BuildCounts = BuildCounts { ran: 5, fetched: 0, cached: 0 };
const ALL_FETCHED: BuildCounts = BuildCounts { ran: 0, fetched: 5, cached: 0 };

fn warnings(told: &str) -> usize {
    told.matches("warning:").count()
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_second_machine_fetches_everything_from_s3_and_a_build_with_nothing_to_do_asks_nothing() {
    let mut store = S3Server::start();
    let (one, two) = (machine(), machine());
    let (counts, told) = store.build(&one, "read-write");
    assert_eq!((counts, warnings(&told)), (ALL_RAN, 0), "{told}");
    assert_eq!((store.keys("action").len(), store.keys("artifact").len()), (5, 5));
    let (counts, told) = store.build(&two, "read");
    assert_eq!((counts, warnings(&told)), (ALL_FETCHED, 0), "{told}");
    assert_eq!(one.digests("shared"), two.digests("shared"));
    verified(&two);
    store.behaves("well");
    assert_eq!(store.build(&two, "read-write").0.cached, 5);
    assert_eq!(store.counts(), (0, 0), "a build with nothing to do asked the network");
    let check = store.run(&one, "read-write", &["remote", "check"]);
    for expected in ["create once  honoured", "replace once honoured", "deleting     works"] {
        assert!(check.stdout.contains(expected), "{expected}:\n{}{}", check.stdout, check.stderr);
    }
    let used = store.run(&one, "read", &["remote", "du"]);
    assert!(used.stdout.contains("together"), "{}{}", used.stdout, used.stderr);
    // No file of either machine, and no object, has the credentials.
    let records: Vec<String> = store.keys("action");
    for key in records {
        assert!(!store.ask(&json!({ "get": key })).to_string().contains("hidden-secret"));
    }
    for file in raisin_tests::files_below(&one.path("")) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains("hidden-secret"), "{}", file.display());
    }
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_record_whose_files_are_gone_is_a_miss_and_is_replaced_under_its_condition() {
    let mut store = S3Server::start();
    let (one, two, three) = (machine(), machine(), machine());
    store.build(&one, "read-write");
    for key in store.keys("blob") {
        store.ask(&json!({ "delete": key }));
    }
    let (counts, told) = store.build(&two, "read-write");
    assert_eq!(counts, ALL_RAN, "{told}");
    assert!(told.contains("is gone; the stage runs"), "{told}");
    assert_eq!(store.build(&three, "read").0, ALL_FETCHED);
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn of_two_writers_with_different_bytes_the_first_one_stays_and_the_second_one_says_so() {
    let mut store = S3Server::start();
    let random = "[pipeline]\nname = \"shared\"\n[stage.made]\nkind = \"command\"\n\
                  run = [\"sh\", \"-c\", \"head -c 12 /dev/urandom | od -An -tx1 > {out}/a.txt\"]\n";
    let (one, two) = (Project::with_text(random), Project::with_text(random));
    // Both look before either has written.
    let built = one.run(&["build", "p.toml"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let built = two.run(&["build", "p.toml"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_ne!(one.digests("shared"), two.digests("shared"));
    let pushed = store.run(&one, "read-write", &["remote", "push", "p.toml"]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let before = store.keys("action").iter().map(|key| store.ask(&json!({ "get": key }))).collect::<Vec<_>>();
    let pushed = store.run(&two, "read-write", &["remote", "push", "p.toml"]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert!(pushed.stderr.contains("made: the shared cache has another artifact of this action"), "{}", pushed.stderr);
    let after = store.keys("action").iter().map(|key| store.ask(&json!({ "get": key }))).collect::<Vec<_>>();
    assert_eq!(before, after);
    let three = Project::with_text(random);
    assert_eq!(store.build(&three, "read").0.fetched, 1);
    assert_eq!(three.digests("shared"), one.digests("shared"));
    // The second machine keeps its own artifact.
    assert_eq!(store.build(&two, "read-write").0.cached, 1);
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_store_without_conditional_writes_is_named_and_used_with_care() {
    let mut store = S3Server::start();
    let (one, two, three) = (machine(), machine(), machine());
    store.behaves("no_conditions");
    let (counts, told) = store.build(&one, "read-write");
    assert_eq!((counts, warnings(&told)), (ALL_RAN, 1), "{told}");
    assert!(told.contains("only if it is not there"), "{told}");
    assert_eq!(store.build(&two, "read-write").0, ALL_FETCHED);
    let check = store.run(&one, "read-write", &["remote", "check"]);
    assert!(check.stdout.contains("create once  not supported"), "{}{}", check.stdout, check.stderr);
    store.behaves("ignores_conditions");
    let check = store.run(&one, "read-write", &["remote", "check"]);
    assert!(check.stdout.contains("create once  IGNORED"), "{}{}", check.stdout, check.stderr);
    assert!(check.stdout.contains("replace once IGNORED"), "{}{}", check.stdout, check.stderr);
    store.behaves("no_conditions");
    // A record that cannot be used is replaced also without conditions.
    let key = store.keys("action").remove(0);
    store.ask(&json!({ "put": key, "text": "{}" }));
    let (counts, told) = store.build(&three, "read-write");
    assert_eq!((counts.ran, counts.fetched), (1, 4), "{told}");
    assert_eq!(store.build(&machine(), "read").0, ALL_FETCHED);
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_cut_connection_a_lost_answer_and_a_slow_store_change_nothing_but_the_time() {
    let mut store = S3Server::start();
    let (one, two) = (machine(), machine());
    store.behaves("lost_answer");
    let (counts, told) = store.build(&one, "read-write");
    assert_eq!((counts, warnings(&told)), (ALL_RAN, 0), "{told}");
    assert_eq!((store.keys("action").len(), store.counts().1), (5, 1));
    store.behaves("cut_once");
    let (counts, told) = store.build(&two, "read");
    assert_eq!((counts, warnings(&told)), (ALL_FETCHED, 0), "{told}");
    assert_eq!(store.counts().1, 1, "nothing was cut");
    verified(&two);
    let three = machine();
    store.behaves_as(&json!({ "manner": "slow", "seconds": 0.3 }));
    let (counts, told) = store.build(&three, "read");
    assert_eq!((counts, warnings(&told)), (ALL_FETCHED, 0), "{told}");
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_plan_and_a_pull_ask_for_the_stages_of_a_step_at_the_same_time() {
    let mut store = S3Server::start();
    let (one, two) = (machine(), machine());
    let text = format!("{SHARED}\n[sweep]\n\"stage.more.size\" = [40, 41, 42, 43, 44, 45]\n");
    [&one, &two].into_iter().for_each(|machine| machine.write("p.toml", &text));
    // The pool, six variants of three stages, and the stage that gathers them.
    let stages = 1 + 6 * 3 + 1;
    assert_eq!(store.build(&one, "read-write").0.ran, stages);
    let labels = |text: &str| -> Vec<String> {
        let rows = text.lines().take_while(|line| line.starts_with("  "));
        let label = |line: &str| line.split("  ").find(|word| !word.is_empty()).map(str::to_owned);
        rows.filter(|line| !line.starts_with("   ")).filter_map(label).collect()
    };
    let alone = two.run(&["plan", "p.toml"]).stdout;
    store.behaves_as(&json!({ "manner": "slow", "seconds": 0.2 }));
    let plan = store.run(&two, "read", &["plan", "p.toml"]).stdout;
    assert!(plan.contains(&format!("0 would run, {stages} would be fetched")), "{plan}");
    assert_eq!(labels(&plan), labels(&alone), "the order of the stages");
    let most = store.most_at_once();
    assert!(most >= 4, "at most {most} requests at the same time");
    store.behaves_as(&json!({ "manner": "slow", "seconds": 0.2 }));
    let pulled = store.run(&two, "read", &["remote", "pull", "p.toml"]).stderr;
    assert!(pulled.contains(&format!("fetched {stages} artifacts")), "{pulled}");
    let most = store.most_at_once();
    assert!(most >= 4, "at most {most} requests at the same time");
    assert_eq!(store.build(&two, "read").0.cached, stages);
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn an_outage_gives_one_warning_and_a_local_build_and_does_not_hang() {
    let mut store = S3Server::start();
    let (one, two, three) = (machine(), machine(), machine());
    store.build(&one, "read-write");
    store.behaves("outage");
    let began = Instant::now();
    let (counts, told) = store.build(&two, "read-write");
    assert_eq!((counts, warnings(&told)), (ALL_RAN, 1), "{told}");
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    // Nobody listens at all.
    store.endpoint = "http://127.0.0.1:9".to_owned();
    let (counts, told) = store.build(&three, "read");
    assert_eq!((counts, warnings(&told)), (ALL_RAN, 1), "{told}");
    assert!(told.contains("s3://bucket/prefix cannot be used: there is no connection"), "{told}");
    let check = store.run(&one, "read", &["remote", "check"]);
    assert_eq!(check.code, 1);
    assert!(check.stderr.contains("there is no connection"), "{}", check.stderr);
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn wrong_bytes_and_poisoned_records_are_never_used() {
    let mut store = S3Server::start();
    let (one, two, three) = (machine(), machine(), machine());
    store.build(&one, "read-write");
    store.behaves("wrong_bytes");
    let (counts, told) = store.build(&two, "read");
    assert_eq!(counts, ALL_RAN, "{told}");
    assert!(told.contains("is not what was written; the stage runs"), "{told}");
    verified(&two);
    store.behaves("well");
    let records = store.keys("action");
    let of_another = store.ask(&json!({ "get": records[0] }));
    store.ask(&json!({ "put": records[1], "text": of_another }));
    let (counts, told) = store.build(&three, "read-write");
    assert_eq!((counts.ran, counts.fetched), (1, 4), "{told}");
    assert!(told.contains("belongs to another key"), "{told}");
    assert_eq!(store.build(&machine(), "read").0, ALL_FETCHED);
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn rights_to_read_only_and_no_rights_give_one_warning_each() {
    let mut store = S3Server::start();
    let (one, two, three, four) = (machine(), machine(), machine(), machine());
    store.behaves("read_only");
    let (counts, told) = store.build(&one, "read-write");
    assert_eq!((counts, warnings(&told)), (ALL_RAN, 1), "{told}");
    assert!(told.contains("may not write") && told.contains("not uploaded"), "{told}");
    let check = store.run(&one, "read-write", &["remote", "check"]);
    assert!(check.stdout.contains("writing      not allowed"), "{}{}", check.stdout, check.stderr);
    store.behaves("well");
    store.build(&two, "read-write");
    store.behaves("read_only");
    assert_eq!(store.build(&three, "read-write").0, ALL_FETCHED);
    store.behaves("denied");
    let (counts, told) = store.build(&four, "read");
    assert_eq!((counts, warnings(&told)), (ALL_RAN, 1), "{told}");
    assert!(told.contains("access is denied"), "{told}");
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_bucket_that_does_not_exist_is_named() {
    let store = S3Server::start();
    let one = machine();
    let mut variables = store.variables("read");
    variables.insert("RAISIN_REMOTE", "s3://other/prefix".to_owned());
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (counts, told) = build(&one, &variables, &[]);
    assert_eq!((counts, warnings(&told)), (ALL_RAN, 1), "{told}");
    assert!(told.contains("the bucket does not exist"), "{told}");
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn an_interrupt_during_a_slow_transfer_ends_the_build_within_two_seconds() {
    let mut store = S3Server::start();
    let (one, two) = (machine(), machine());
    store.build(&one, "read-write");
    for (machine, mode) in [(&two, "read"), (&machine(), "read-write")] {
        store.behaves("silent");
        let mut command = machine.raisin(&["build", "p.toml"]);
        command.envs(store.variables(mode)).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("raisin starts");
        std::thread::sleep(Duration::from_millis(1500));
        let began = Instant::now();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
        let output = CommandOutput::from(processes::ended(child));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(output.code, 130, "{}", output.stderr);
        store.behaves("well");
        let (counts, told) = store.build(machine, mode);
        assert_eq!(counts.ran, 0, "{told}");
    }
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_build_that_does_not_wait_gives_its_uploads_up_and_a_push_sends_them() {
    let mut store = S3Server::start();
    let one = machine();
    store.behaves_as(&json!({ "manner": "slow", "seconds": 1.0 }));
    let output = store.run(&one, "read-write", &["build", "p.toml", "--no-wait"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("not uploaded: `raisin remote push` uploads later"), "{}", output.stderr);
    store.behaves("well");
    assert!(store.keys("action").len() < 5);
    let pushed = store.run(&one, "read-write", &["remote", "push", "p.toml"]);
    assert_eq!((pushed.code, store.keys("action").len()), (0, 5), "{}", pushed.stderr);
    assert_eq!(store.build(&machine(), "read").0, ALL_FETCHED);
}

/// Many builds on new machines, while requests fail at random. Every build must succeed with the right artifacts, also
/// if it falls back to running its stages, with at most one warning. Afterwards, the shared cache must be whole.
#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn no_fault_between_client_and_server_gives_a_wrong_artifact_or_fails_a_build() {
    let wanted = if std::env::var("RAISIN_TORTURE").is_ok_and(|word| word == "full") { 1000 } else { 40 };
    let mut rng = TestRng::new("faults of a shared cache");
    let mut store = S3Server::start();
    let reference = machine();
    build(&reference, &[], &[]);
    let expected = reference.digests("shared");
    let (mut faults, mut requests, mut builds, mut fetched, mut ran, mut warned) = (0, 0, 0, 0, 0, 0);
    while faults < wanted {
        let rate = [0.05, 0.2, 0.5, 0.8][rng.below(4)];
        let seed = rng.below(1 << 30);
        store.behaves_as(&json!({ "manner": "storm", "seed": seed, "rate": rate }));
        let machine = machine();
        let mode = ["read", "read-write"][rng.below(2)];
        let (counts, told) = store.build(&machine, mode);
        assert_eq!(machine.digests("shared"), expected, "seed {seed}, rate {rate}\n{told}");
        verified(&machine);
        assert!(warnings(&told) <= 1, "seed {seed}, rate {rate}\n{told}");
        (builds, fetched, ran) = (builds + 1, fetched + counts.fetched, ran + counts.ran);
        warned += usize::from(warnings(&told) > 0);
        let (asked, failed) = store.counts();
        (requests, faults) = (requests + asked, faults + failed);
    }
    // What was uploaded during the faults is right, and what is missing can be uploaded.
    store.behaves("well");
    let pushed = store.run(&reference, "read-write", &["remote", "push", "p.toml"]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let last = machine();
    let (counts, told) = store.build(&last, "read");
    assert_eq!(counts, ALL_FETCHED, "{told}");
    assert_eq!(last.digests("shared"), expected);
    verified(&last);
    println!(
        "{faults} faults in {requests} requests of {builds} builds: 0 wrong artifacts, 0 lost; {fetched} stages fetched, \
         {ran} ran, {warned} builds with a warning"
    );
}
