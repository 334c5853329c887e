//! HTTP/1.1 for one program on the same machine: reads a request, refuses what does not come from the page itself, and
//! writes a response. Each connection serves one request. httparse parses the head.
//!
//! The server listens on the loopback interface only. A page of another site that is open in the browser must not be
//! able to ask it: with a name that leads to 127.0.0.1 (DNS rebinding) the `Host` is another one, and a request from
//! another page has another `Origin` or `Sec-Fetch-Site`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use raisin_base::error::{Result, bail};

/// The largest head of a request, in bytes.
const MOST_HEAD: usize = 16 * 1024;
/// The largest body of a request, in bytes: an SQL query.
const MOST_BODY: usize = 1024 * 1024;
/// The time that a client has to send its request or to take the response.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    /// Decoded, without the query.
    pub path: String,
    /// The parameters behind `?`, decoded.
    pub parameters: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// Reads a request. `None` if the client closed the connection before it sent one.
    ///
    /// # Errors
    /// The response that tells what is wrong with the request.
    pub fn read(stream: &mut TcpStream) -> std::result::Result<Option<Self>, Response> {
        let wrong = |words: &str| Response::text(400, words);
        // If the patience cannot be set, a slow client only holds its own thread.
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let mut bytes = Vec::new();
        let (mut request, length, begin) = loop {
            if let Some(found) = Self::parse(&bytes).map_err(|_| wrong("this is no HTTP request"))? {
                break found;
            }
            if bytes.len() > MOST_HEAD {
                return Err(Response::text(431, "the head of the request is too long"));
            }
            match read_some(stream, &mut bytes) {
                Ok(0) if bytes.is_empty() => return Ok(None),
                Ok(0) => return Err(wrong("the request ends before its head does")),
                Ok(_) => {}
                Err(_) => return Err(Response::text(408, "the request did not come in time")),
            }
        };
        if length > MOST_BODY {
            return Err(Response::text(413, "the body of the request is larger than 1 MiB"));
        }
        while bytes.len() < begin + length {
            match read_some(stream, &mut bytes) {
                Ok(1..) => {}
                Ok(0) => return Err(wrong("the request ends before its body does")),
                Err(_) => return Err(Response::text(408, "the request did not come in time")),
            }
        }
        request.body = bytes[begin..begin + length].to_vec();
        Ok(Some(request))
    }

    /// The head of a request, the length of its body, and where the body begins. `None` if the head is not whole.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(begin) = parsed.parse(bytes)? else { return Ok(None) };
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
        let headers: Vec<(String, String)> =
            parsed.headers.iter().map(|header| (header.name.to_lowercase(), text(header.value))).collect();
        let target = parsed.path.unwrap_or("/");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameters = query.split('&').filter_map(|pair| pair.split_once('='));
        let request = Self {
            method: parsed.method.unwrap_or_default().to_owned(),
            path: decoded(path, false),
            parameters: parameters.map(|(name, value)| (decoded(name, true), decoded(value, true))).collect(),
            headers,
            body: Vec::new(),
        };
        if request.header("transfer-encoding").is_some() {
            bail!("a body in chunks is not read");
        }
        let length = request.header("content-length").map_or(Ok(0), str::parse)?;
        Ok(Some((request, length, begin)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Why a request does not come from the page of this server or from a program of this machine.
    pub fn refusal(&self, port: u16) -> Option<Response> {
        let names = ["127.0.0.1", "localhost"].map(|name| format!("{name}:{port}"));
        // Without a port in the header, the port is 80.
        let is_own = |host: &str| {
            names
                .iter()
                .any(|name| name == host || (port == 80 && name.split_once(':').is_some_and(|(name, _)| name == host)))
        };
        let refused = |words: String| Some(Response::text(403, &words));
        match self.header("host") {
            Some(host) if is_own(host) => {}
            host => {
                let host = host.unwrap_or("(none)");
                return refused(format!("the Host {host} is not this server: open http://{}", names[0]));
            }
        }
        if let Some(origin) = self.header("origin")
            && !origin.strip_prefix("http://").is_some_and(is_own)
        {
            return refused(format!("requests of the page {origin} are not answered"));
        }
        if let Some(site) = self.header("sec-fetch-site")
            && !["same-origin", "none"].contains(&site)
            // A link from elsewhere may open the page itself, which tells the other site nothing.
            && !(self.path == "/" && self.header("sec-fetch-mode") == Some("navigate"))
        {
            return refused("requests of other sites are not answered".to_owned());
        }
        None
    }
}

/// Reads what is there, up to 16 KiB. Returns the number of bytes; 0 at the end.
fn read_some(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut buffer = [0; 16 * 1024];
    let count = stream.read(&mut buffer)?;
    bytes.extend_from_slice(&buffer[..count]);
    Ok(count)
}

/// A text with `%41` as `A` and, in a query, `+` as a space.
fn decoded(text: &str, is_query: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) if is_query => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A response.
#[derive(Debug)]
pub struct Response {
    status: u16,
    content_type: &'static str,
    policy: &'static str,
    body: Vec<u8>,
}

/// The page loads its own script and style, asks its own server, and nothing else.
const OWN_PAGE: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
                        img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// A report is a page without a script.
const REPORT: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

impl Response {
    fn of(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, policy: OWN_PAGE, body: body.into() }
    }

    pub fn text(status: u16, words: &str) -> Self {
        Self::of(status, "text/plain; charset=utf-8", format!("{words}\n"))
    }

    pub fn html(body: impl Into<Vec<u8>>) -> Self {
        Self::of(200, "text/html; charset=utf-8", body)
    }

    /// A page that another stage wrote.
    pub fn report(body: Vec<u8>) -> Self {
        Self { policy: REPORT, ..Self::html(body) }
    }

    pub fn style(body: String) -> Self {
        Self::of(200, "text/css; charset=utf-8", body)
    }

    pub fn script(body: &str) -> Self {
        Self::of(200, "text/javascript; charset=utf-8", body)
    }

    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::of(status, "application/json", value.to_string())
    }

    /// The client has the newest state already.
    pub fn nothing_new() -> Self {
        Self::of(204, "text/plain", Vec::new())
    }

    /// Writes the response. `with_body` is false for the method HEAD. An error means that the client has gone.
    pub fn write(&self, stream: &mut TcpStream, with_body: bool) -> std::io::Result<()> {
        let reason = match self.status {
            200 => "OK",
            204 => "No Content",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        let Self { status, content_type, policy, body } = self;
        let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
        if *status == 405 {
            head += "Allow: GET, HEAD\r\n";
        }
        head += &format!(
            "Content-Type: {content_type}\r\nContent-Length: {}\r\nContent-Security-Policy: {policy}\r\n\
             X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: \
             same-origin\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        if with_body {
            stream.write_all(body)?;
        }
        stream.flush()
    }
}

/// Whether the client has closed the connection. Waits up to `wait` for that.
pub fn is_gone(stream: &TcpStream, wait: Duration) -> bool {
    if stream.set_read_timeout(Some(wait)).is_err() {
        return true;
    }
    match stream.peek(&mut [0]) {
        Ok(0) => true,
        // The client sends more, which nobody reads.
        Ok(_) => {
            std::thread::sleep(wait);
            false
        }
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Request {
        Request::parse(text.as_bytes()).expect("a request").expect("a whole head").0
    }

    #[test]
    fn a_request_is_read_with_its_parameters() {
        let request = parsed("GET /log/a%2Fb?pipeline=my+pipe%21&since= HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/log/a/b"));
        assert_eq!(request.parameter("pipeline"), Some("my pipe!"));
        assert_eq!((request.parameter("since"), request.parameter("other")), (Some(""), None));
        assert!(Request::parse(b"GET / HTTP/1.1\r\nHost: x\r\n").expect("a beginning").is_none());
        for wrong in [
            "nonsense\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        ] {
            assert!(Request::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert_eq!(decoded("%zz%4", true), "%zz%4");
    }

    #[test]
    fn only_the_own_page_and_programs_of_the_machine_are_answered() {
        let refused = |headers: &str| {
            parsed(&format!("GET /live HTTP/1.1\r\n{headers}\r\n\r\n")).refusal(7700).map(|refusal| refusal.status)
        };
        for own in [
            "Host: 127.0.0.1:7700",
            "Host: localhost:7700",
            "Host: localhost:7700\r\nOrigin: http://localhost:7700\r\nSec-Fetch-Site: same-origin",
            "Host: 127.0.0.1:7700\r\nSec-Fetch-Site: none",
        ] {
            assert_eq!(refused(own), None, "{own}");
        }
        for other in [
            "X: y",
            "Host: evil.example:7700",
            "Host: 127.0.0.1:7701",
            "Host: 127.0.0.1",
            "Host: 127.0.0.1:7700.evil.example",
            "Host: 127.0.0.1:7700\r\nOrigin: http://evil.example",
            "Host: 127.0.0.1:7700\r\nOrigin: null",
            "Host: 127.0.0.1:7700\r\nOrigin: https://127.0.0.1:7700",
            "Host: 127.0.0.1:7700\r\nSec-Fetch-Site: cross-site",
        ] {
            assert_eq!(refused(other), Some(403), "{other}");
        }
        let link =
            "GET / HTTP/1.1\r\nHost: localhost:7700\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n\r\n";
        assert!(parsed(link).refusal(7700).is_none());
    }
}
