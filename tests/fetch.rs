//! Tests of sources from the network, through the real executable `raisin` and a small local server that can behave as
//! real servers do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use raisin_tests::Project;

/// How the server answers requests.
#[derive(Clone, Copy)]
enum Manner {
    /// Sends all requested bytes.
    Well,
    /// Cuts each connection after this number of bytes of the body.
    Cuts(usize),
    /// Cuts the first connection after this number of bytes, and ignores `Range`.
    CutsOnceWithoutRanges(usize),
    /// Cuts each connection after this number of bytes, and sends no version of the file (no ETag).
    CutsAndKnowsNoVersions(usize),
    /// Cuts the first connection after this number of bytes. From then on, the server has another file. `true`:
    /// although the client asks for the rest of the first file, the server sends the rest of the other file.
    Changes(usize, bool),
    /// Cuts the first connection after this number of bytes, and then sends another range than requested.
    Misses(usize),
    /// Sends at most this number of the remaining bytes, and says so in `Content-Range`.
    Portions(usize),
    /// Answers this number of requests with the status for a busy server.
    Busy(usize),
    NotFound,
    /// Announces this number of bytes, and sends a little at a time.
    Announces(u64),
    /// Announces no length, and sends bytes without an end.
    Endless,
}

/// A server of one file. The server records the requests, and lives as long as the test.
struct Server {
    address: String,
    /// The first byte that each request asked for.
    asked: Arc<Mutex<Vec<usize>>>,
    manner: Arc<Mutex<Manner>>,
}

impl Server {
    fn start(content: &str, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (content, manner) = (content.to_owned(), Arc::new(Mutex::new(manner)));
        let (requests, manners) = (Arc::clone(&asked), Arc::clone(&manner));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let manner = *manners.lock().expect("no panic");
                // Ignore the error if the client has closed the connection.
                let _ = answer(stream.expect("a connection"), content.as_bytes(), manner, &requests);
            }
        });
        Self { address: format!("http://127.0.0.1:{port}/data/pool.jsonl?raw=1"), asked, manner }
    }

    fn asked(&self) -> Vec<usize> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn answer(mut stream: TcpStream, content: &[u8], manner: Manner, requests: &Mutex<Vec<usize>>) -> std::io::Result<()> {
    let (mut from, mut only_if) = (None, None);
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok();
        }
        only_if = line.strip_prefix("if-range: ").map(str::to_owned).or(only_if);
        if line.is_empty() {
            break;
        }
    }
    let earlier = {
        let mut requests = requests.lock().expect("no panic");
        requests.push(from.unwrap_or(0));
        requests.len() - 1
    };
    let older = String::from_utf8_lossy(content).replace('q', "Q");
    let content = if matches!(manner, Manner::Changes(..)) && earlier == 0 { older.as_bytes() } else { content };
    let version = format!("\"{}\"", &blake3::hash(content).to_hex()[..16]);
    let same = only_if.is_none_or(|asked| asked == version || matches!(manner, Manner::Changes(_, true)));
    let ranges = same && !matches!(manner, Manner::CutsOnceWithoutRanges(_));
    let from = from.filter(|_| ranges);
    let rest = &content[from.unwrap_or(0).min(content.len())..];
    match manner {
        Manner::NotFound => return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
        Manner::Announces(length) => {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 1000])?;
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        Manner::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 10_000])?;
            }
        }
        Manner::Busy(times) if earlier < times => {
            return stream
                .write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        _ => {}
    }
    let from = from.map(|from| if matches!(manner, Manner::Misses(_)) { from + 7 } else { from });
    let rest = match manner {
        Manner::Misses(_) => &content[from.unwrap_or(0)..],
        Manner::Portions(bytes) if from.is_some() => &rest[..bytes.min(rest.len())],
        _ => rest,
    };
    let head = match from {
        Some(from) if from >= content.len() => {
            let head = format!("HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */{}\r\n", content.len());
            return stream.write_all(format!("{head}content-length: 0\r\nconnection: close\r\n\r\n").as_bytes());
        }
        Some(from) => {
            let (last, length) = (from + rest.len() - 1, content.len());
            format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{last}/{length}\r\n")
        }
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    let known = !matches!(manner, Manner::CutsAndKnowsNoVersions(_));
    let head = if known { format!("{head}etag: {version}\r\n") } else { head };
    write!(stream, "{head}content-length: {}\r\nconnection: close\r\n\r\n", rest.len())?;
    let sent = match manner {
        Manner::Cuts(bytes) | Manner::CutsAndKnowsNoVersions(bytes) => bytes.min(rest.len()),
        Manner::CutsOnceWithoutRanges(bytes)
        | Manner::Changes(bytes, _)
        | Manner::Misses(bytes)
        | Manner::Portions(bytes)
            if earlier == 0 =>
        {
            bytes.min(rest.len())
        }
        _ => rest.len(),
    };
    stream.write_all(&rest[..sent])
}

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("{{\"question\":\"q{n}\",\"answer\":\"a{n}\"}}\n")).collect()
}

/// A project with a pool that comes from the server.
fn project(server: &Server, blake3: Option<&str>) -> Project {
    let project = Project::new();
    let expected = blake3.map(|blake3| format!(", blake3 = \"{blake3}\"")).unwrap_or_default();
    let source = format!("{{ path = \"{}\", format = \"qa\"{expected} }}", server.address);
    project.write("p.toml", &format!("[stage.pool]\nkind = \"ingest\"\nsources = [{source}]\n"));
    project
}

fn blake3_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[test]
fn a_download_that_is_cut_several_times_continues_each_time() {
    let content = lines(3000);
    let piece = content.len() / 7 + 1;
    let server = Server::start(&content, Manner::Cuts(piece));
    let project = project(&server, Some(&blake3_of(&content)));
    // A plan needs only the expected digest, not the file.
    let plan = project.run(&["plan", "p.toml"]);
    assert!(plan.code == 0 && server.asked().is_empty(), "{}", plan.stderr);
    project.done(&["build", "p.toml"]);
    assert_eq!(server.asked(), (0..7).map(|n| n * piece).collect::<Vec<_>>());
    let rows = project.sql("select count(*) as n from pool.instructions");
    assert_eq!(rows, [serde_json::json!({"n": 3000})]);
    // The file gets its name from the address.
    assert_eq!(project.sql("select file from pool.sources"), [serde_json::json!({"file": "pool.jsonl"})]);
    // One download is enough, also for a stage that runs again.
    project.done(&["build", "p.toml", "--force"]);
    assert_eq!(server.asked().len(), 7);
}

#[test]
fn a_download_goes_on_in_the_next_build() {
    let content = lines(2000);
    let server = Server::start(&content, Manner::Cuts(0));
    let project = project(&server, Some(&blake3_of(&content)));
    let failed = project.run(&["build", "p.toml"]);
    assert!(failed.code == 1 && failed.stderr.contains("cannot fetch http://"), "{}", failed.stderr);
    assert!(failed.stderr.contains("after 6 tries"), "{}", failed.stderr);
    let part = std::fs::read_dir(project.path("cache/tmp")).expect("tmp").flatten();
    let part = part.map(|entry| entry.path()).find(|path| path.is_file()).expect("a part");
    std::fs::write(part, &content[..1000]).expect("a download that had come so far");
    *server.manner.lock().expect("no panic") = Manner::Well;
    project.done(&["build", "p.toml"]);
    assert_eq!(server.asked().last(), Some(&1000));
}

#[test]
fn a_download_succeeds_from_a_server_without_ranges_or_busy_for_a_while() {
    let content = lines(2000);
    for (manner, asked) in [
        (Manner::CutsOnceWithoutRanges(1000), vec![0, 1000]),
        (Manner::Busy(3), vec![0, 0, 0, 0]),
        (Manner::Well, vec![0]),
    ] {
        let server = Server::start(&content, manner);
        let project = project(&server, Some(&blake3_of(&content)));
        project.done(&["build", "p.toml"]);
        assert_eq!(server.asked(), asked);
    }
}

#[test]
fn a_file_without_the_expected_digest_is_refused_and_not_kept() {
    let content = lines(10);
    let server = Server::start(&content, Manner::Well);
    let wrong = blake3_of("something else");
    let project = project(&server, Some(&wrong));
    let answer = project.run(&["build", "p.toml"]);
    let words = &answer.stderr;
    assert_eq!(answer.code, 1);
    assert!(words.contains("gives another file than the expected digest says") && words.contains(&wrong), "{words}");
    assert!(words.contains(&blake3_of(&content)), "{words}");
    assert!(std::fs::read_dir(project.path("cache/fetched")).is_err());
    let missing = Server::start("", Manner::NotFound);
    let answer = self::project(&missing, Some(&wrong)).run(&["build", "p.toml"]);
    assert!(answer.code == 1 && answer.stderr.contains("the server answered 404"), "{}", answer.stderr);
    assert_eq!(missing.asked().len(), 1);
}

#[test]
fn an_address_without_a_digest_is_refused_with_the_way_to_get_it() {
    let content = lines(10);
    let server = Server::start(&content, Manner::Cuts(100));
    let project = project(&server, None);
    let refused = project.run(&["build", "p.toml"]);
    assert_eq!(refused.code, 2);
    let hint = format!("raisin digest {}", server.address);
    assert!(refused.stderr.contains("needs a digest") && refused.stderr.contains(&hint), "{}", refused.stderr);
    assert!(refused.stderr.contains("p.toml:3:"), "{}", refused.stderr);
    let digest = project.run(&["digest", &server.address]);
    assert_eq!(digest.stdout, format!("blake3 = \"{}\"\n", blake3_of(&content)), "{}", digest.stderr);
    // A file that was downloaded to compute its digest is not downloaded again.
    let asked = server.asked().len();
    let set = format!("stage.pool.sources.0.blake3={}", blake3_of(&content));
    project.done(&["build", "p.toml", "--set", &set]);
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn a_file_that_changes_while_it_is_fetched_is_never_a_mixture() {
    let content = lines(2000);
    for (manner, asked) in [
        (Manner::Changes(1000, false), vec![0, 1000]),
        (Manner::Changes(1000, true), vec![0, 1000, 0]),
        (Manner::Misses(1000), vec![0, 1000, 0]),
        (Manner::Portions(20_000), vec![0, 20_000, 40_000, 60_000]),
    ] {
        let server = Server::start(&content, manner);
        let project = project(&server, None);
        // The part that an earlier run left may belong to another file.
        let key = blake3::hash(format!("fetch {}", server.address).as_bytes()).to_hex();
        project.write(&format!("cache/tmp/fetch-{}", &key[..12]), &"old".repeat(100));
        let digest = project.run(&["digest", &server.address]);
        assert_eq!(digest.stdout, format!("blake3 = \"{}\"\n", blake3_of(&content)), "{}", digest.stderr);
        assert_eq!(server.asked(), asked);
        let server = Server::start(&content, manner);
        let project = self::project(&server, Some(&blake3_of(&content)));
        let answer = project.run(&["build", "p.toml"]);
        assert_eq!((answer.code, server.asked()), (0, asked), "{}", answer.stderr);
    }
    // Without an expected digest and without a version, raisin cannot know whether the rest belongs to the part.
    let server = Server::start(&content, Manner::CutsAndKnowsNoVersions(1000));
    let answer = project(&server, None).run(&["digest", &server.address]);
    assert!(answer.code == 1 && answer.stderr.contains("after 6 tries"), "{}", answer.stderr);
    assert_eq!(server.asked(), [0; 6]);
}

#[test]
fn a_fetched_file_that_was_damaged_is_fetched_again() {
    use std::os::unix::fs::PermissionsExt as _;
    let content = lines(100);
    let server = Server::start(&content, Manner::Well);
    let project = project(&server, Some(&blake3_of(&content)));
    project.done(&["build", "p.toml"]);
    let file = project.path("cache/fetched").join(blake3_of(&content)).join("pool.jsonl");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    std::fs::write(&file, content.replace("q7\"", "q8\"")).expect("damage");
    project.done(&["build", "p.toml", "--force"]);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), content);
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_length_that_no_disk_can_hold_is_refused_before_the_first_byte() {
    for length in [u64::MAX, u64::MAX / 2, 1 << 50] {
        let server = Server::start("", Manner::Announces(length));
        let answer = project(&server, Some(&blake3_of(""))).run(&["build", "p.toml"]);
        assert_eq!(answer.code, 1, "{}", answer.stderr);
        assert!(answer.stderr.contains("the server announces ") && answer.stderr.contains(" TB"), "{}", answer.stderr);
        assert!(answer.stderr.contains("hint: free some space") && !answer.stderr.contains("raisin itself failed"));
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
#[cfg_attr(not(can_mount), ignore = "`unshare` cannot mount here")]
fn an_endless_answer_leaves_space_on_the_disk_and_no_file() {
    let server = Server::start("", Manner::Endless);
    let project = project(&server, Some(&blake3_of("")));
    let raisin = raisin_tests::executable("raisin");
    let script = format!(
        "mkdir cache && mount -t tmpfs -o size=40m none cache || exit 99\n\
         '{}' build p.toml && exit 98\ndf --output=pcent cache | tail -1; find cache/tmp -type f",
        raisin.display()
    );
    let answer = project.in_a_mount_namespace(&script);
    assert!(answer.stderr.contains("the server has sent 37.") && answer.stderr.contains(" without a length"));
    assert_eq!((answer.code, answer.stdout.trim()), (0, "1%"), "{}", answer.stderr);
}

#[test]
fn a_name_that_is_too_long_for_a_file_is_shortened() {
    let content = lines(10);
    let server = Server::start(&content, Manner::Well);
    let long = Server { address: server.address.replace("pool", &"pool".repeat(100)), ..server };
    let project = project(&long, Some(&blake3_of(&content)));
    project.done(&["build", "p.toml"]);
    let rows = project.sql("select file from pool.sources");
    let name = rows[0]["file"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("poolpool") && name.rsplit('.').next() == Some("jsonl") && name.len() <= 255, "{name}");
    project.finds_all(&["build", "p.toml"]);
}
