//! `raisin ui`: a page that shows builds while they run: the graph of stages with their states, the curves of the
//! trainings, the runs, the reports, and an SQL box. It only reads: it takes no lock and writes nothing.
//!
//! | module | concern |
//! |---|---|
//! | [`http`] | requests and responses, and who may ask |
//! | [`watched`] | the journal and the staging folders: what a build does |
//! | [`graph`], [`layout`] | the stages as a picture |
//! | [`curves`] | the plots of the trainings |
//! | [`parts`] | the parts of the page as HTML |
//! | [`question`] | the SQL box |
//!
//! The page asks for its parts every second (`/live`), and gets those that have changed. Each connection has a thread,
//! because a query blocks its thread.

mod curves;
mod graph;
mod http;
mod layout;
mod parts;
mod question;
mod watched;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use self::curves::CurveMemory;
use self::http::{Request, Response, is_gone};
use self::question::{MOST_QUERIES, MOST_TIME, Stop};
use self::watched::BuildWatch;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::say;
use raisin_base::stack::LARGE_STACK;
use raisin_contract::ui::UiOptions;
use raisin_store::{BuildDescription, Store};

/// The largest number of connections at the same time.
const MOST_CONNECTIONS: usize = 64;
/// The last bytes of a log that are shown.
const MOST_OF_LOG: u64 = 1_000_000;
/// The file of a report in its artifact.
const REPORT: &str = "report.html";

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What all connections share.
struct UiServer {
    options: UiOptions,
    port: u16,
    watched: Mutex<(BuildWatch, CurveMemory)>,
    connections: AtomicUsize,
    queries: AtomicUsize,
}

/// Serves the page until the process is ended.
///
/// # Errors
/// The port is in use.
pub fn run(options: UiOptions) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            let problem = Problem::usage(format!("port {} is in use", options.port));
            problem.hint("another `raisin ui` may run; --port N takes another port, and --port 0 any free one")
        }
        std::io::ErrorKind::PermissionDenied => {
            Problem::usage(format!("port {} may not be used: {error}", options.port)).hint("take a port above 1023")
        }
        _ => Problem::new(format!("cannot listen on port {}: {error}", options.port)),
    })?;
    let port = listener.local_addr().context("cannot learn the port")?.port();
    let url = format!("http://127.0.0.1:{port}/");
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{url}").and_then(|()| stdout.flush())?;
    say!("the page only reads, and only this machine can open it; Ctrl-C ends");
    if options.open {
        open(&url);
    }
    let server = Arc::new(UiServer {
        options,
        port,
        watched: Mutex::default(),
        connections: AtomicUsize::new(0),
        queries: AtomicUsize::new(0),
    });
    for stream in listener.incoming() {
        // A connection that is already gone, or too many open files for a moment.
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let server = server.clone();
        let serve = move || server.serve(stream);
        if let Err(error) = std::thread::Builder::new().spawn(serve) {
            say!("warning: a request is not answered: {error}");
        }
    }
    Ok(())
}

/// Opens the page in a browser, if there is a desktop.
fn open(url: &str) {
    let is_there = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !is_there("DISPLAY") && !is_there("WAYLAND_DISPLAY") {
        return;
    }
    let mut command = Command::new("xdg-open");
    // The browser may live longer than this process, and its messages are no business of the user of raisin.
    if command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().is_err() {
        say!("no browser was opened, because there is no `xdg-open`");
    }
}

impl UiServer {
    fn serve(&self, mut stream: TcpStream) {
        let count = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (response, with_body) = if count > MOST_CONNECTIONS {
            (Response::text(503, "too many connections"), true)
        } else {
            match Request::read(&mut stream) {
                Ok(Some(request)) => {
                    let refusal = request.refusal(self.port);
                    let response = refusal.unwrap_or_else(|| self.answer(&request, &stream));
                    (response, request.method != "HEAD")
                }
                Ok(None) => {
                    self.connections.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
                Err(response) => (response, true),
            }
        };
        // An error means that the client has gone.
        let _ = response.write(&mut stream, with_body);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        self.connections.fetch_sub(1, Ordering::SeqCst);
    }

    fn answer(&self, request: &Request, stream: &TcpStream) -> Response {
        let is_query = request.path == "/sql";
        match (request.method.as_str(), is_query) {
            ("POST", true) => return self.query(request, stream),
            ("GET" | "HEAD", false) => {}
            ("GET" | "HEAD", true) => return Response::text(400, "send the query as the body of a POST"),
            _ => return Response::text(405, "this server only reads"),
        }
        let parts: Vec<&str> = request.path.split('/').skip(1).collect();
        match parts.as_slice() {
            [""] => Response::html(PAGE),
            ["page.css"] => Response::style(format!("{}{STYLE}", raisin_report::page::STYLE)),
            ["page.js"] => Response::script(SCRIPT),
            ["live"] => self.live(request),
            ["state"] => self.state(request),
            ["log", key] => self.log(key),
            ["report", pipeline, stage] => self.report(pipeline, stage),
            _ => Response::text(404, "there is no such page"),
        }
    }

    fn locked(&self) -> MutexGuard<'_, (BuildWatch, CurveMemory)> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parts of the page that differ from those that the client has. `since` has the digests of those.
    fn live(&self, request: &Request) -> Response {
        let (seen, html) = {
            let (watched, memory) = &mut *self.locked();
            let seen = watched.look(&self.options, request.parameter("pipeline").filter(|name| !name.is_empty()));
            let html = parts::parts(&self.options, &seen, memory);
            memory.keep(&seen);
            (seen, html)
        };
        let known: Vec<&str> = request.parameter("since").unwrap_or_default().split(',').collect();
        let mut changed = serde_json::Map::new();
        for (name, html) in html {
            let digest = Digest::of(html.as_bytes()).short();
            if !known.contains(&format!("{name}:{digest}").as_str()) {
                changed.insert(name.to_owned(), json!({ "digest": digest, "html": html }));
            }
        }
        if changed.is_empty() {
            return Response::nothing_new();
        }
        Response::json(200, &json!({ "pipeline": seen.pipeline, "pipelines": seen.pipelines, "parts": changed }))
    }

    /// The state for programs.
    fn state(&self, request: &Request) -> Response {
        let pipeline = request.parameter("pipeline").filter(|name| !name.is_empty());
        let seen = self.locked().0.look(&self.options, pipeline);
        Response::json(200, &parts::state(&seen))
    }

    /// The end of a log.
    fn log(&self, key: &str) -> Response {
        let Ok(key) = key.parse::<Digest>() else { return Response::text(404, "this is no key") };
        let Ok(Some(store)) = Store::looked_at(&self.options.cache) else {
            return Response::text(404, "there is no cache");
        };
        let path = store.log_file(key);
        let read = || -> std::io::Result<(Vec<u8>, u64)> {
            use std::io::{Read as _, Seek as _};
            let mut file = std::fs::File::open(&path)?;
            let left_out = file.metadata()?.len().saturating_sub(MOST_OF_LOG);
            file.seek(std::io::SeekFrom::Start(left_out))?;
            let mut bytes = Vec::new();
            file.take(2 * MOST_OF_LOG).read_to_end(&mut bytes)?;
            Ok((bytes, left_out))
        };
        match read() {
            Ok((bytes, left_out)) => {
                let text = String::from_utf8_lossy(&bytes);
                let first =
                    if left_out > 0 { format!("(the first {left_out} bytes are left out)\n") } else { String::new() };
                Response::text(200, &format!("{}\n\n{first}{text}", path.display()))
            }
            Err(error) => Response::text(404, &format!("cannot read {}: {error}", path.display())),
        }
    }

    /// The report of a stage. Only stages that the last build links have one.
    fn report(&self, pipeline: &str, stage: &str) -> Response {
        let folder = self.options.out.join(pipeline);
        let is_name = !pipeline.contains("..") && !pipeline.contains('/');
        let build = if is_name { BuildDescription::read(&folder).ok().flatten() } else { None };
        let built =
            build.and_then(|build| build.stages.into_iter().find(|it| it.stage == stage && it.variant.is_empty()));
        let store = Store::looked_at(&self.options.cache).ok().flatten();
        let Some((built, store)) = built.zip(store) else { return Response::text(404, "there is no such report") };
        let path = store.artifact_folder(built.artifact).join(REPORT);
        match std::fs::read(&path) {
            Ok(page) => Response::report(page),
            Err(error) => Response::text(404, &format!("cannot read {}: {error}", path.display())),
        }
    }

    /// Runs a query in a thread of its own. This thread watches the client: when it goes, or when the time is over, the
    /// query ends.
    fn query(&self, request: &Request, stream: &TcpStream) -> Response {
        let count = self.queries.fetch_add(1, Ordering::SeqCst) + 1;
        let response = if count > MOST_QUERIES {
            let words = format!("error: {MOST_QUERIES} queries run already");
            Response::json(503, &json!({ "error": words }))
        } else {
            self.run_query(request, stream)
        };
        self.queries.fetch_sub(1, Ordering::SeqCst);
        response
    }

    fn run_query(&self, request: &Request, stream: &TcpStream) -> Response {
        let Ok(text) = std::str::from_utf8(&request.body) else {
            return Response::json(400, &json!({ "error": "error: the query is not UTF-8" }));
        };
        let pipeline = request.parameter("pipeline").unwrap_or_default();
        let unfinished = if question::is_built(&self.options, pipeline) {
            None
        } else {
            self.locked().0.look(&self.options, Some(pipeline)).unfinished()
        };
        let stop = Stop::default();
        let began = Instant::now();
        std::thread::scope(|scope| {
            let run = || question::answer(&self.options, pipeline, unfinished, text, &stop);
            let thread = match std::thread::Builder::new().stack_size(LARGE_STACK).spawn_scoped(scope, run) {
                Ok(thread) => thread,
                Err(error) => return Response::json(503, &json!({ "error": format!("error: {error}") })),
            };
            while !thread.is_finished() {
                if began.elapsed() > MOST_TIME || is_gone(stream, Duration::from_millis(20)) {
                    stop.now();
                    break;
                }
            }
            match thread.join() {
                Ok((status, value)) => Response::json(status, &value),
                Err(_) => Response::json(500, &json!({ "error": "error: raisin itself failed in this query" })),
            }
        })
    }
}
