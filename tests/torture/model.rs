//! A model-based test of gc: random sequences of builds, failures, interrupts, kills, repairs, renames, moves, switched
//! links, pins and gc at random ages, by two users with one cache. The model knows one rule: what a link or a pin named
//! within the age of gc is there, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use raisin_base::digest::Digest;
use raisin_store::Store;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::count;
use raisin_tests::{CommandOutput, Project, TestRng, age, paths_below};

/// The default age of gc, in hours.
const DAY: u64 = 24;

/// The number of steps of a sequence.
const STEPS: usize = 24;

/// The contents of a source between which a user switches, so that earlier artifacts come back.
const CONTENTS: [&str; 3] = ["one", "two", "three"];

/// One user: a folder with a pipeline, a source and an out folder.
struct User {
    home: PathBuf,
    /// The user id with which commands run; `None`: the own one.
    id: Option<u32>,
    pipeline: &'static str,
    stage: &'static str,
    content: &'static str,
    moved: usize,
}

impl User {
    /// Writes pipeline and source. The stage `steady` never changes.
    fn write(&self) {
        let row = |text: &str| format!("{{\"instruction\": \"Say {text}.\", \"output\": \"{text}\"}}\n");
        std::fs::write(self.home.join("data.jsonl"), row(self.content)).expect("the source");
        std::fs::write(self.home.join("steady.jsonl"), row("steady")).expect("the source");
        let (name, stage) = (self.pipeline, self.stage);
        let text = format!(
            "[pipeline]\nname = \"{name}\"\n\
             [stage.steady]\nkind = \"ingest\"\nsources = [{{ path = \"steady.jsonl\", format = \"alpaca\" }}]\n\
             [stage.{stage}]\nkind = \"ingest\"\nsources = [{{ path = \"data.jsonl\", format = \"alpaca\" }}]\n"
        );
        std::fs::write(self.home.join("p.toml"), text).expect("the pipeline");
    }
}

/// The hour at which each artifact was last named, by the folder of the link or pin that named it.
type LastNamed = BTreeMap<(PathBuf, Digest), u64>;

struct World {
    project: Project,
    users: [User; 2],
    /// The time of the model in hours. Only one kind of step moves the time.
    now: u64,
    named: LastNamed,
    /// What is named at this moment.
    current: BTreeSet<Digest>,
    /// The former out folders that were moved away.
    moved: Vec<PathBuf>,
    /// What happened, for the message of a failure.
    history: Vec<String>,
}

impl World {
    fn new() -> Self {
        let project = Project::new();
        let top = project.path("");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        mode(&top, 0o777);
        let user = |name: &str| {
            let home = top.join(name);
            std::fs::create_dir(&home).expect("a folder");
            for out in ["one", "two"] {
                std::fs::create_dir(home.join(out)).expect("a folder");
            }
            symlink("one", home.join("out")).expect("a link");
            User { home, id: None, pipeline: "p", stage: "pool", content: CONTENTS[0], moved: 0 }
        };
        let users = ["ann", "bob"].map(user);
        users.iter().for_each(User::write);
        Self {
            project,
            users,
            now: 0,
            named: LastNamed::new(),
            current: BTreeSet::new(),
            moved: Vec::new(),
            history: Vec::new(),
        }
    }

    fn command(&self, user: usize, arguments: &[&str]) -> Command {
        let user = &self.users[user];
        let mut command = self.project.raisin(arguments);
        command.current_dir(&user.home).env("RAISIN_CACHE", self.project.path("cache")).stdin(Stdio::null());
        if let Some(id) = user.id {
            command.uid(id);
        }
        command
    }

    fn run(&mut self, user: usize, arguments: &[&str]) -> CommandOutput {
        let answer = CommandOutput::of(&mut self.command(user, arguments));
        self.history.push(format!("user {user}: {arguments:?} -> {}", answer.code));
        answer
    }

    fn store(&self) -> Store {
        Store::open(&self.project.path("cache")).expect("the cache")
    }

    /// Notes what links and pins name at this moment. A folder that was moved away names nothing any more: raisin cannot
    /// tell it from a removed one. Before the next build into the former place, gc removes nothing; after this build,
    /// the day of grace counts.
    fn look(&mut self) {
        let now = self.now;
        self.current.clear();
        for user in &self.users {
            let is_moved = |path: &PathBuf| self.moved.iter().any(|folder| path.starts_with(folder));
            for path in paths_below(&user.home).into_iter().filter(|path| !is_moved(path)) {
                // The links of the user, such as `out`, lead to no digest.
                let target = std::fs::read_link(&path).ok();
                let digest = target.and_then(|target| target.file_name()?.to_str()?.parse::<Digest>().ok());
                if let (Some(digest), Some(place)) = (digest, path.parent()) {
                    self.named.insert((place.to_owned(), digest), now);
                    self.current.insert(digest);
                }
            }
        }
        for pin in self.store().pins().expect("the pins") {
            self.named.insert((PathBuf::from("pins"), pin.digest), now);
            self.current.insert(pin.digest);
        }
    }

    /// Checks that everything that was named within `age` hours is there, whole.
    fn check(&self, age: u64) {
        let store = self.store();
        for ((place, digest), named) in &self.named {
            let ago = self.now - named;
            if ago >= age && !self.current.contains(digest) {
                continue;
            }
            let found = store.inspect(*digest);
            assert!(
                matches!(found, Ok(Some(_))),
                "{} was named by {} {ago} hours ago, and is lost: {found:?}\n{}",
                digest.short(),
                place.display(),
                self.history.join("\n")
            );
        }
    }

    fn build(&mut self, user: usize, rng: &mut TestRng) {
        match rng.below(6) {
            0 => {
                // A source that cannot be read: the stage fails, and the other stage runs.
                std::fs::write(self.users[user].home.join("data.jsonl"), "garbage").expect("the source");
                let answer = self.run(user, &["build", "p.toml", "--keep-going"]);
                assert_eq!(answer.code, 1, "{}\n{}", answer.stderr, self.history.join("\n"));
                self.users[user].write();
            }
            1 | 2 => {
                let signal = if rng.below(2) == 0 { Signal::INT } else { Signal::KILL };
                let mut command = self.command(user, &["build", "p.toml"]);
                let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("raisin starts");
                std::thread::sleep(Duration::from_micros(rng.below(25_000) as u64));
                let _ = kill_process(Pid::from_child(&child), signal);
                let status = child.wait().expect("it ended");
                self.history.push(format!("user {user}: build, signal {signal:?} -> {status}"));
            }
            _ => {
                let answer = self.run(user, &["build", "p.toml"]);
                assert_eq!(answer.code, 0, "{}\n{}", answer.stderr, self.history.join("\n"));
            }
        }
    }

    fn edit(&mut self, user: usize, rng: &mut TestRng) {
        let edited = &mut self.users[user];
        match rng.below(5) {
            0 => edited.stage = if edited.stage == "pool" { "reservoir" } else { "pool" },
            1 => edited.pipeline = if edited.pipeline == "p" { "q" } else { "p" },
            _ => edited.content = CONTENTS[rng.below(CONTENTS.len())],
        }
        edited.write();
        self.history.push(format!("user {user}: {} {} {}", edited.pipeline, edited.stage, edited.content));
    }

    /// Points the link `out` at the other folder, or moves the folder behind it away.
    fn rearrange(&mut self, user: usize, rng: &mut TestRng) {
        let home = self.users[user].home.clone();
        let link = home.join("out");
        let now = std::fs::read_link(&link).expect("the link");
        if rng.below(3) == 0 {
            self.users[user].moved += 1;
            let away = home.join(format!("away-{}", self.users[user].moved));
            std::fs::rename(home.join(&now), &away).expect("moved");
            std::fs::create_dir(home.join(&now)).expect("a new folder");
            // The links in the moved folder are as they were; only their place has another name.
            let from = home.join(&now);
            let names = std::mem::take(&mut self.named).into_iter().map(|((place, digest), moment)| {
                let place = place.strip_prefix(&from).map(|rest| away.join(rest)).unwrap_or(place);
                ((place, digest), moment)
            });
            self.named = names.collect();
            self.moved.push(away);
            self.history.push(format!("user {user}: moved {}", now.display()));
        } else {
            let other = if now == Path::new("one") { "two" } else { "one" };
            std::fs::remove_file(&link).expect("removed");
            symlink(other, &link).expect("a link");
            self.history.push(format!("user {user}: out leads to {other}"));
        }
    }

    /// Flips a byte of an artifact, and has it made again.
    fn damage(&mut self, user: usize, rng: &mut TestRng) {
        let digests = self.store().artifact_digests().expect("the artifacts");
        if digests.is_empty() {
            return;
        }
        let folder = self.store().artifact_folder(digests[rng.below(digests.len())]);
        crate::world::flip(&folder.join("manifest.json"), rng);
        let answer = self.run(user, &["verify", "--repair"]);
        let digest = digests.into_iter().find(|digest| folder.ends_with(digest.to_hex())).expect("it");
        if matches!(self.store().inspect(digest), Ok(Some(_))) {
            assert_eq!(answer.code, 0, "{}\n{}", answer.stderr, self.history.join("\n"));
        } else {
            // The source has another content now, or no pipeline has the stage any more. The loss is said.
            assert_eq!(answer.code, 1, "{}\n{}", answer.stderr, self.history.join("\n"));
            self.named.retain(|(_, named), _| *named != digest);
            self.current.remove(&digest);
            self.forbid_dangling(digest);
        }
    }

    /// Removes the links to an artifact that the test itself has destroyed: the model must not take them for names.
    fn forbid_dangling(&self, digest: Digest) {
        for user in &self.users {
            for path in paths_below(&user.home) {
                if std::fs::read_link(&path).is_ok_and(|target| target.ends_with(digest.to_hex())) {
                    std::fs::remove_file(path).expect("removed");
                }
            }
        }
        let _ = std::fs::remove_file(self.project.path("cache/pins").join(digest.to_hex()));
    }

    fn collect(&mut self, user: usize, rng: &mut TestRng) {
        let (age, text) = match rng.below(4) {
            0 => (0, Some("0")),
            1 => (30, Some("30h")),
            _ => (DAY, None),
        };
        let mut arguments = vec!["gc", "--yes"];
        if let Some(text) = text {
            arguments.extend(["--older-than", text]);
        }
        if rng.below(4) == 0 {
            arguments.extend(["--budget", "1KB"]);
        }
        let answer = self.run(user, &arguments);
        let missing = answer.stderr.contains("is missing");
        assert!(answer.code == 0 || missing, "{}\n{}", answer.stderr, self.history.join("\n"));
        if answer.code == 0 {
            return self.check(age);
        }
        // gc removes nothing while an out folder is missing.
        self.check(u64::MAX);
        if rng.below(2) == 0 {
            arguments.push("--forget");
            assert_eq!(self.run(user, &arguments).code, 0);
            let moved = std::mem::take(&mut self.moved);
            moved.iter().for_each(|folder| std::fs::remove_dir_all(folder).expect("removed"));
            self.named.retain(|(place, _), _| !moved.iter().any(|folder| place.starts_with(folder)));
            self.check(age);
        }
    }

    fn step(&mut self, rng: &mut TestRng) {
        let user = rng.below(2);
        match rng.below(16) {
            0..=5 => self.build(user, rng),
            6..=8 => self.edit(user, rng),
            9 => self.rearrange(user, rng),
            10 => self.damage(user, rng),
            11 => {
                let pipeline = self.users[user].pipeline;
                let word = if rng.below(2) == 0 { "pin" } else { "unpin" };
                self.run(user, &[word, pipeline]);
            }
            12 | 13 => {
                let hours = [1, 23, 25, 49][rng.below(4)];
                age(&self.project.path("cache"), Duration::from_hours(hours));
                self.now += hours;
                self.history.push(format!("{hours} hours later"));
            }
            _ => {
                if self.project.path("cache").exists() {
                    self.collect(user, rng);
                }
            }
        }
        if self.project.path("cache/VERSION").exists() {
            self.look();
        }
    }
}

#[test]
fn what_a_link_or_a_pin_named_within_a_day_is_there_and_whole() {
    let sequences = count(8, 10_000);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for sequence in (thread..sequences).step_by(threads) {
                    let mut rng = TestRng::new(&format!("model {sequence}"));
                    let mut world = World::new();
                    (0..STEPS).for_each(|_| world.step(&mut rng));
                }
            });
        }
    });
    let steps = sequences * STEPS;
    println!("{sequences} sequences, {steps} steps: nothing that was named within the age of gc was lost");
}
