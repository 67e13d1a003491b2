//! The least of HTTP/1.1 that a check needs: one request over one connection, plain, to this machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes of a body that are read.
const LONGEST_BODY: u64 = 4 * 1024 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    host: &'a str,
    port: u16,
    path: &'a str,
}

/// Gets a URL. Errors are words for a person.
pub(crate) fn get(url: &str, headers: &BTreeMap<String, String>) -> Result<Answer, String> {
    let Url { host, port, path } = parse(url)?;
    let stream = connect(host, port, PATIENCE)?;
    let broken = |error: std::io::Error| format!("no answer from {host}:{port}: {error}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    let own = [
        ("Host", format!("{host}:{port}")),
        ("Connection", "close".to_owned()),
        ("User-Agent", "olbake".to_owned()),
    ];
    for (name, value) in &own {
        if !headers.keys().any(|given| given.eq_ignore_ascii_case(name)) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    (&stream).write_all(request.as_bytes()).map_err(broken)?;
    read_answer(BufReader::new(&stream))
}

/// Connects to an address or a name that this machine itself knows.
pub(crate) fn connect(host: &str, port: u16, patience: Duration) -> Result<TcpStream, String> {
    let mut last = format!("the name `{host}` is not in /etc/hosts");
    for address in addresses(host) {
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("cannot connect to {host}:{port}: {error}"),
        }
    }
    Err(last)
}

/// A static executable has no resolver; checks are of the machine itself, whose names are in one file.
fn addresses(host: &str) -> Vec<IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    let text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut found: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
        })
        .collect();
    if found.is_empty() && host == "localhost" {
        found = vec![IpAddr::from([127, 0, 0, 1])];
    }
    found
}

fn parse(url: &str) -> Result<Url<'_>, String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("`{url}` does not start with http://"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| format!("`{port}` is not a port"))?)
        }
        _ => (authority, 80),
    };
    if host.is_empty() { Err(format!("`{url}` has no host")) } else { Ok(Url { host, port, path }) }
}

fn read_answer(mut stream: impl BufRead) -> Result<Answer, String> {
    let mut line = || -> Result<String, String> {
        let mut line = Vec::new();
        (&mut stream)
            .take(16 * 1024)
            .read_until(b'\n', &mut line)
            .map_err(|error| format!("no answer: {error}"))?;
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    };
    let status_line = line()?;
    let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("the answer is not HTTP: `{status_line}`"))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok(),
            "transfer-encoding" => chunked = value.to_ascii_lowercase().contains("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    let broken = |error: std::io::Error| format!("the answer broke off: {error}");
    if chunked {
        loop {
            let mut size = String::new();
            (&mut stream).take(1024).read_line(&mut size).map_err(broken)?;
            let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|_| "the answer's chunks cannot be read".to_owned())?;
            if size == 0 || body.len() as u64 + size > LONGEST_BODY {
                break;
            }
            (&mut stream).take(size).read_to_end(&mut body).map_err(broken)?;
            let mut end = String::new();
            (&mut stream).take(2).read_line(&mut end).map_err(broken)?;
        }
    } else {
        stream
            .take(length.unwrap_or(LONGEST_BODY).min(LONGEST_BODY))
            .read_to_end(&mut body)
            .map_err(broken)?;
    }
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(parse("http://127.0.0.1:80/a?b"), Ok(Url { host: "127.0.0.1", port: 80, path: "/a?b" }));
        assert_eq!(parse("http://localhost"), Ok(Url { host: "localhost", port: 80, path: "/" }));
        assert_eq!(parse("http://[::1]:8080/"), Ok(Url { host: "[::1]", port: 8080, path: "/" }));
        assert!(parse("https://x/").is_err());
    }

    #[test]
    fn answers() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more";
        assert_eq!(read_answer(&plain[..]), Ok(Answer { status: 200, body: "hi".into() }));
        let chunked = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(read_answer(&chunked[..]), Ok(Answer { status: 404, body: "abcd".into() }));
        assert!(read_answer(&b"SSH-2.0\r\n"[..]).is_err());
    }
}
