//! HTTP for the crate object_store: each request runs in a blocking thread with ureq, which raisin also uses for
//! downloads. Therefore no second HTTP client and no second TLS library is compiled.

use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use tokio::sync::{mpsc, oneshot};
use ureq::http::{Method, Request};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Timeout};

/// The longest time for a connection with TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest time in which no byte arrives or leaves, also while a store thinks about its answer.
const STALLED: Duration = Duration::from_secs(20);

const CHUNK: usize = 64 << 10;

/// Makes clients that use ureq.
#[derive(Debug)]
pub struct UreqConnector;

impl HttpConnector for UreqConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // object_store asks for a shorter time for the credentials of a virtual machine, which do not exist elsewhere.
        let asked = options.get_config_value(&ClientConfigKey::ConnectTimeout);
        let connect = if asked.as_deref() == Some("1s") { Duration::from_secs(1) } else { CONNECT };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_per_read(Some(STALLED))
            .timeout_per_write(Some(STALLED))
            .user_agent(concat!("raisin/", env!("CARGO_PKG_VERSION")));
        if let Some(roots) = own_roots().map_err(|source| object_store::Error::Generic { store: "TLS", source })? {
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(HttpClient::new(UreqService { agent: config.build().new_agent() }))
    }
}

/// The certificates of the file that `SSL_CERT_FILE` names, for a store with an authority of its own. `None`: the usual
/// authorities of the web.
pub fn own_roots() -> Result<Option<RootCerts>, Box<dyn std::error::Error + Send + Sync>> {
    let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) else { return Ok(None) };
    let shown = std::path::Path::new(&path).display().to_string();
    let bytes = std::fs::read(&path).map_err(|error| format!("cannot read SSL_CERT_FILE {shown}: {error}"))?;
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&bytes) {
        let item = item.map_err(|error| format!("SSL_CERT_FILE {shown} is no PEM file: {error}"))?;
        if let PemItem::Certificate(certificate) = item {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(format!("SSL_CERT_FILE {shown} has no certificate").into());
    }
    Ok(Some(RootCerts::from(certificates)))
}

struct UreqService {
    agent: Agent,
}

impl fmt::Debug for UreqService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UreqService")
    }
}

#[async_trait]
impl HttpService for UreqService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let request = Request::from_parts(parts, body);
        let agent = self.agent.clone();
        let (head_sender, head) = oneshot::channel();
        let (chunk_sender, chunks) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || run(&agent, request, head_sender, &chunk_sender));
        let head = head.await.map_err(|_| HttpError::new(HttpErrorKind::Unknown, NoAnswer))??;
        Ok(head.map(|()| HttpResponseBody::new(ChannelBody(chunks))))
    }
}

type BodyChunk = Result<Bytes, HttpError>;

/// Sends the request, and passes the head and then the body of the answer on.
fn run(
    agent: &Agent,
    request: Request<Bytes>,
    head: oneshot::Sender<Result<ureq::http::Response<()>, HttpError>>,
    chunks: &mpsc::Sender<BodyChunk>,
) {
    let has_body = !request.body().is_empty() || matches!(*request.method(), Method::PUT | Method::POST);
    let (parts, body) = request.into_parts();
    let answer = if has_body {
        agent.run(Request::from_parts(parts, &body[..]))
    } else {
        agent.run(Request::from_parts(parts, ()))
    };
    let answer = match answer {
        Ok(answer) => answer,
        // If nobody waits any more, nobody needs the error.
        Err(error) => return drop(head.send(Err(failure(error)))),
    };
    let (parts, body) = answer.into_parts();
    if head.send(Ok(ureq::http::Response::from_parts(parts, ()))).is_err() {
        return;
    }
    let mut reader = body.into_reader();
    let mut buffer = vec![0; CHUNK];
    loop {
        let chunk = match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(HttpError::new(HttpErrorKind::Interrupted, error)),
        };
        let is_last = chunk.is_err();
        if chunks.blocking_send(chunk).is_err() || is_last {
            return;
        }
    }
}

fn failure(error: ureq::Error) -> HttpError {
    use ureq::Error::{ConnectionFailed, HostNotFound, Io, Protocol};
    let kind = match &error {
        HostNotFound | ConnectionFailed | ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            HttpErrorKind::Connect
        }
        Io(error) if error.kind() == ErrorKind::ConnectionRefused => HttpErrorKind::Connect,
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        Io(_) | Protocol(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

/// The thread of a request ended without an answer.
#[derive(Debug)]
struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request ended without an answer")
    }
}

impl std::error::Error for NoAnswer {}

/// The body of an answer, as its thread reads it.
struct ChannelBody(mpsc::Receiver<BodyChunk>);

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}
