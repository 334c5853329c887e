//! A model-based test of gc: random sequences of builds, failures, interrupts, kills, repairs, renames, moves, switched
//! links, pins and gc at random ages, by two users with one cache. The model knows one rule: what a link or a pin named
//! within the age of gc is there, whole. If the test runs as root, the users are two users of the system, and the cache
//! is open to both.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use raisin_base::digest::Digest;
use raisin_store::Store;
use rustix::process::Signal;

use crate::kills::kill;
use crate::rights::{is_root, reachable};
use crate::world::count;
use raisin_tests::{CommandOutput, Project, TestRng, age, paths_below, processes};

/// The default age of gc, in hours.
const DAY: u64 = 24;

/// The number of steps of a sequence.
const STEPS: usize = 24;

/// The contents of a source between which a user switches, so that earlier artifacts come back.
const CONTENTS: [&str; 3] = ["one", "two", "three"];

/// One user: a folder with a pipeline, a source and an out folder.
struct User {
    home: PathBuf,
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

/// The user ids of the two users, if there are two users of the system.
const IDS: [u32; 2] = [65_532, 65_533];

struct World<'e> {
    project: Project,
    /// An executable that every user can run, if there are two users of the system.
    for_all: Option<&'e Path>,
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

/// Creates a folder in which every user may write.
fn open_folder(path: &Path) {
    std::fs::create_dir_all(path).expect("a folder");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
}

impl<'e> World<'e> {
    fn new(for_all: Option<&'e Path>) -> Self {
        let project = Project::new();
        let top = project.path("");
        open_folder(&top);
        let user = |name: &str| {
            let home = top.join(name);
            open_folder(&home);
            ["one", "two"].iter().for_each(|out| open_folder(&home.join(out)));
            symlink("one", home.join("out")).expect("a link");
            User { home, pipeline: "p", stage: "pool", content: CONTENTS[0], moved: 0 }
        };
        let users = ["ann", "bob"].map(user);
        users.iter().for_each(User::write);
        Self {
            project,
            for_all,
            users,
            now: 0,
            named: LastNamed::new(),
            current: BTreeSet::new(),
            moved: Vec::new(),
            history: Vec::new(),
        }
    }

    fn command(&self, user: usize, arguments: &[&str]) -> Command {
        let mut command = match self.for_all {
            None => self.project.raisin(arguments),
            Some(executable) => {
                let mut command = Command::new("sh");
                command.args(["-c", "umask 0 && exec \"$0\" \"$@\""]).arg(executable).args(arguments);
                self.project.place(&mut command).uid(IDS[user]).gid(IDS[user]);
                command
            }
        };
        command.current_dir(&self.users[user].home).env("RAISIN_CACHE", self.project.path("cache"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command, and tries it again while the cache is in use: the children of a killed build hold its lock until
    /// the system has ended them, which takes long on a machine with much other work.
    fn run(&mut self, user: usize, arguments: &[&str]) -> CommandOutput {
        let mut answer = CommandOutput::of(&mut self.command(user, arguments));
        for _ in 0..100 {
            if !answer.stderr.contains("is using this cache") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            answer = CommandOutput::of(&mut self.command(user, arguments));
        }
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
        let store = self.store();
        // A user can pin an artifact that the test has destroyed. Such a pin keeps nothing, and `pin` says so.
        let is_there = |digest| store.artifact_folder(digest).exists();
        for pin in store.pins().expect("the pins").into_iter().filter(|pin| is_there(pin.digest)) {
            self.named.insert((PathBuf::from("pins"), pin.digest), now);
            self.current.insert(pin.digest);
        }
    }

    /// Checks that everything that was named within `age` hours is there, whole. gc may have removed the rest, so that
    /// the model forgets it.
    fn check(&mut self, age: u64) {
        let store = self.store();
        let (now, current) = (self.now, &self.current);
        self.named.retain(|(_, digest), named| now - *named < age || current.contains(digest));
        for ((place, digest), named) in &self.named {
            let ago = self.now - named;
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
                kill(child.id(), signal);
                let status = processes::status(&mut child);
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
            open_folder(&home.join(&now));
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
        // Only the owner can set an artifact aside.
        let owner = folder.metadata().expect("the artifact").uid();
        let user = IDS.iter().position(|id| *id == owner).unwrap_or(user);
        let answer = self.run(user, &["verify", "--repair"]);
        let digest = digests.into_iter().find(|digest| folder.ends_with(digest.to_hex())).expect("it");
        if matches!(self.store().inspect(digest), Ok(Some(_))) {
            // An artifact that was lost before may be missing still.
            let is_said = answer.code == 0 || answer.stderr.contains("\nnot made again: ");
            assert!(is_said, "{}\n{}", answer.stderr, self.history.join("\n"));
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
            10 if self.project.path("cache/VERSION").exists() => self.damage(user, rng),
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
                if self.project.path("cache/VERSION").exists() {
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
    let shared = Project::new();
    open_folder(&shared.path(""));
    let for_all = is_root().then(|| reachable(&shared));
    let for_all = for_all.as_deref();
    let done = &AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for sequence in (thread..sequences).step_by(threads) {
                    let mut rng = TestRng::new(&format!("model {sequence}"));
                    let mut world = World::new(for_all);
                    (0..STEPS).for_each(|_| world.step(&mut rng));
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done.is_multiple_of(500) {
                        println!("{done} of {sequences} sequences");
                    }
                }
            });
        }
    });
    let steps = sequences * STEPS;
    let users = if for_all.is_some() { "two users" } else { "one user" };
    println!("{sequences} sequences, {steps} steps, {users}: nothing that was named within the age of gc was lost");
}
