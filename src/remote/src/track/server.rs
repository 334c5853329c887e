//! An MLflow server over its REST interface: the requests, and what an answer means.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use ureq::http::Uri;
use ureq::tls::TlsConfig;
use ureq::{Agent, Timeout};

use crate::transport::own_roots;
use raisin_base::error::Problem;
use raisin_base::printable::one_line;
use raisin_contract::track::TRACKING_URI;

const CONNECT: Duration = Duration::from_secs(5);
/// The longest time of one request, and of one request after a build.
const REQUEST: Duration = Duration::from_secs(30);
const REQUEST_AFTER_A_BUILD: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
const LARGEST: u64 = 64 << 20;
/// The longest text of a server that is shown, in characters.
const LONGEST: usize = 300;

pub struct TrackingServer {
    agent: Agent,
    /// The address without credentials, and without a slash at its end.
    pub address: String,
    authorization: Option<String>,
    /// No request goes on after this moment.
    deadline: Option<Instant>,
}

/// Why a request gave nothing.
#[derive(Debug)]
pub enum MlflowTrouble {
    /// No connection, or no answer in time: other requests would fail too.
    Unreachable(String),
    /// The server wants other credentials.
    Denied(u16),
    /// The answer is not one of MLflow.
    Strange(String),
    /// MLflow refuses the request. The code is a word such as `RESOURCE_DOES_NOT_EXIST`.
    Refused { code: String, text: String },
    /// The time for sending is over.
    Late,
}

impl MlflowTrouble {
    /// Whether other requests would fail as well.
    pub fn is_general(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    pub fn problem(&self, address: &str) -> Problem {
        match self {
            Self::Unreachable(cause) => Problem::new(format!("cannot reach MLflow at {address}: {cause}"))
                .hint(format!("start the server, or set {TRACKING_URI} to its address")),
            Self::Denied(status) => {
                Problem::new(format!("MLflow at {address} refuses the credentials (HTTP {status})"))
                    .hint("set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
            }
            Self::Strange(what) => Problem::new(format!("{address} does not answer as MLflow does: {what}"))
                .hint(format!("set {TRACKING_URI} to the address of an MLflow server")),
            Self::Refused { code, text } => Problem::new(format!("MLflow at {address} refuses a run: {code}: {text}")),
            Self::Late => Problem::new(format!("MLflow at {address} is slow: the time for sending is over")),
        }
    }
}

pub type MlflowAnswer<T> = Result<T, MlflowTrouble>;

impl TrackingServer {
    /// The server that the environment names. `limit` is the time for all requests together.
    ///
    /// # Errors
    /// No server is named, its address is not of the web, or the credentials are incomplete. No message has them.
    pub fn from_environment(limit: Option<Duration>) -> Result<Self, Problem> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(address) = variable(TRACKING_URI) else {
            return Err(Problem::usage(format!("{TRACKING_URI} is not set"))
                .hint("set it to the address of the MLflow server, such as http://localhost:5000"));
        };
        let (address, in_address) = parse(&address)?;
        let token = variable("MLFLOW_TRACKING_TOKEN");
        let pair = match (variable("MLFLOW_TRACKING_USERNAME"), variable("MLFLOW_TRACKING_PASSWORD")) {
            (Some(user), Some(password)) => Some(format!("{user}:{password}")),
            (None, None) => in_address,
            (Some(_), None) => return Err(half("USERNAME", "PASSWORD")),
            (None, Some(_)) => return Err(half("PASSWORD", "USERNAME")),
        };
        let authorization = match (token, pair) {
            (_, Some(pair)) => Some(format!("Basic {}", STANDARD.encode(pair))),
            (Some(token), None) => Some(format!("Bearer {token}")),
            (None, None) => None,
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // With a redirect, the credentials would go to another server.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .user_agent(concat!("raisin/", env!("CARGO_PKG_VERSION")));
        if let Some(roots) = own_roots().map_err(|error| Problem::usage(error.to_string()))? {
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let deadline = limit.map(|limit| Instant::now() + limit);
        Ok(Self { agent: config.build().new_agent(), address, authorization, deadline })
    }

    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> MlflowAnswer<Value> {
        let mut request = self.agent.get(self.url(path));
        for (name, value) in query {
            request = request.query(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        answer(request.config().timeout_global(Some(self.time()?)).build().call())
    }

    pub fn post(&self, path: &str, body: &Value) -> MlflowAnswer<Value> {
        let mut request = self.agent.post(self.url(path)).header("content-type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        answer(request.config().timeout_global(Some(self.time()?)).build().send(body.to_string().as_bytes()))
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/2.0/mlflow/{path}", self.address)
    }

    /// The time that a request may take.
    pub fn time(&self) -> MlflowAnswer<Duration> {
        let Some(deadline) = self.deadline else { return Ok(REQUEST) };
        match deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left.min(REQUEST_AFTER_A_BUILD)),
            _ => Err(MlflowTrouble::Late),
        }
    }
}

fn half(given: &str, missing: &str) -> Problem {
    Problem::usage(format!("MLFLOW_TRACKING_{given} is set and MLFLOW_TRACKING_{missing} is not"))
        .hint("set both, or neither")
}

/// The address of a server without credentials, and the credentials of the address.
fn parse(given: &str) -> Result<(String, Option<String>), Problem> {
    // The message does not repeat the address, because it may show credentials.
    let wrong = || {
        Problem::usage(format!("{TRACKING_URI} is no address of a server that raisin can send to"))
            .hint("it looks like http://localhost:5000 or https://mlflow.example.org")
    };
    let uri: Uri = given.trim().parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong());
    };
    if uri.query().is_some() {
        return Err(wrong());
    }
    let (credentials, host) = match authority.as_str().rsplit_once('@') {
        Some((credentials, host)) => (Some(decoded(credentials)), host),
        None => (None, authority.as_str()),
    };
    Ok((format!("{scheme}://{host}{}", uri.path().trim_end_matches('/')), credentials))
}

/// The text without the escapes of addresses, such as `%40`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        let (byte, left) = match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (byte, &after[2..]),
            None => (*first, after),
        };
        bytes.push(byte);
        rest = left;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> MlflowAnswer<Value> {
    let failed = |error: ureq::Error| match error {
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            MlflowTrouble::Unreachable("no connection in time".into())
        }
        ureq::Error::Timeout(_) => MlflowTrouble::Unreachable("no answer in time".into()),
        ureq::Error::BodyExceedsLimit(_) => MlflowTrouble::Strange("the answer is too long".into()),
        error => MlflowTrouble::Unreachable(error.to_string()),
    };
    let mut response = response.map_err(failed)?;
    let status = response.status().as_u16();
    let text = response.body_mut().with_config().limit(LARGEST).lossy_utf8(true).read_to_string().map_err(failed)?;
    meaning(status, &text)
}

fn meaning(status: u16, text: &str) -> MlflowAnswer<Value> {
    if [401, 403].contains(&status) {
        return Err(MlflowTrouble::Denied(status));
    }
    let parsed = serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
    match parsed {
        Some(value) if (200..300).contains(&status) => Ok(value),
        Some(value) if value["error_code"].is_string() => Err(MlflowTrouble::Refused {
            code: shown(value["error_code"].as_str().unwrap_or_default()),
            text: shown(value["message"].as_str().unwrap_or_default()),
        }),
        // A server that is overloaded, or a proxy whose server is away.
        _ if status >= 500 => Err(MlflowTrouble::Unreachable(format!("HTTP {status}"))),
        _ => Err(MlflowTrouble::Strange(format!("HTTP {status}, {}", shown(text)))),
    }
}

/// The beginning of a text of the server, on one line.
fn shown(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = words.chars().take(LONGEST).collect();
    if cut.is_empty() { "an empty answer".to_owned() } else { one_line(&cut).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_loses_its_credentials_and_a_wrong_one_is_not_repeated() {
        let (address, credentials) = parse("https://a%40b:se%3Acret@host:5000/base/").expect("an address");
        assert_eq!((address.as_str(), credentials.as_deref()), ("https://host:5000/base", Some("a@b:se:cret")));
        assert_eq!(parse("http://localhost:5000").expect("an address"), ("http://localhost:5000".to_owned(), None));
        for wrong in ["sqlite:///mlflow.db", "localhost:5000", "./mlruns", "http://u:secret@h/?a=b", "databricks"] {
            let problem = parse(wrong).expect_err(wrong);
            assert!(!problem.message.contains("secret") && problem.hint.is_some(), "{problem:?}");
        }
    }

    #[test]
    fn every_answer_has_a_meaning() {
        assert!(meaning(200, "{}").is_ok());
        let of = |status, text: &str| meaning(status, text).expect_err("a trouble");
        assert!(matches!(of(401, "no"), MlflowTrouble::Denied(401)));
        assert!(matches!(of(200, "<html>welcome</html>"), MlflowTrouble::Strange(_)));
        assert!(
            matches!(of(302, ""), MlflowTrouble::Strange(_))
                && matches!(of(503, "busy"), MlflowTrouble::Unreachable(_))
        );
        let refused = of(404, r#"{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no\u001b[31m\n such"}"#);
        assert!(!refused.is_general() && of(200, "[]").is_general());
        let said = refused.problem("http://h").message;
        assert_eq!(said, "MLflow at http://h refuses a run: RESOURCE_DOES_NOT_EXIST: no\\u{1b}[31m such");
    }
}
