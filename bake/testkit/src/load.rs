//! A load on an HTTP service: so many requests a second, whatever the service does, and an account of each. Main
//! type: [`Load`].
//!
//! Requests are due at fixed times (an open loop): where one takes long, the others are sent all the same, as users
//! would send them. A request has failed when no connection is made, the connection ends before the answer does, the
//! answer takes longer than [`LIMIT`], or its status is not 200. Nothing is tried again.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an answer may take.
pub const LIMIT: Duration = Duration::from_secs(10);
/// How many requests are under way at the same time at most.
const WORKERS: u64 = 32;
/// How many requests a connection is used for, so that new ones are made all the time.
const PER_CONNECTION: u32 = 20;
/// How many failures are kept in full.
const KEPT: usize = 20;

/// Requests that are being sent.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    path: String,
    /// Nanoseconds between two requests.
    pause: u64,
    start: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    account: Mutex<Report>,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The first failures: seconds since the start, and what was seen.
    pub failures: Vec<(f64, String)>,
    /// Seconds from when each was due to its answer's end, sorted once the load has stopped.
    pub seconds: Vec<f32>,
    /// Answers by the text that was looked for in them.
    pub answers: std::collections::BTreeMap<String, u64>,
}

impl Load {
    /// Starts sending `rate` requests a second to `http://ADDRESS` and a path.
    pub fn start(address: SocketAddr, path: &str, rate: u32) -> Self {
        let shared = Arc::new(Shared {
            address,
            path: path.to_owned(),
            pause: 1_000_000_000 / u64::from(rate.max(1)),
            start: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            account: Mutex::default(),
        });
        let worker = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || work(&shared))
        };
        let workers = (0..WORKERS).map(worker).collect();
        Self { shared, workers }
    }

    /// What became of the requests so far.
    pub fn so_far(&self) -> Report {
        self.shared.account.lock().expect("no worker panics with the account in hand").clone()
    }

    /// Stops sending, waits for the answers, and gives the account.
    pub fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
        let mut report =
            self.shared.account.lock().expect("no worker panics with the account in hand").clone();
        report.seconds.sort_by(f32::total_cmp);
        report
    }
}

impl Report {
    /// The time within which a part of the requests (0 to 1) was answered, in seconds.
    pub fn quantile(&self, part: f64) -> f32 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in a list"
        )]
        let place = ((self.seconds.len() as f64 * part) as usize).min(self.seconds.len().saturating_sub(1));
        self.seconds.get(place).copied().unwrap_or_default()
    }
}

fn work(shared: &Shared) {
    let mut connection: Option<(BufReader<TcpStream>, u32)> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let due = shared.start + Duration::from_nanos(number.saturating_mul(shared.pause));
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let answer = request(shared, &mut connection);
        let took = due.elapsed().as_secs_f32();
        let mut account = shared.account.lock().expect("no worker panics with the account in hand");
        account.sent += 1;
        account.seconds.push(took);
        match answer {
            Ok(body) => *account.answers.entry(version(&body)).or_default() += 1,
            Err(error) => {
                account.failed += 1;
                if account.failures.len() < KEPT {
                    account.failures.push((shared.start.elapsed().as_secs_f64(), error.to_string()));
                }
            }
        }
    }
}

/// What an answer of `hello` says of itself.
fn version(body: &str) -> String {
    let after = body.split("\"version\": \"").nth(1).unwrap_or_default();
    after.split('"').next().unwrap_or_default().to_owned()
}

fn request(shared: &Shared, kept: &mut Option<(BufReader<TcpStream>, u32)>) -> io::Result<String> {
    let (mut stream, used) = match kept.take() {
        Some((stream, used)) if used < PER_CONNECTION => (stream, used),
        _ => (connect(shared.address)?, 0),
    };
    let last = used + 1 >= PER_CONNECTION;
    let end = if last { "close" } else { "keep-alive" };
    let head =
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {end}\r\n\r\n", shared.path, shared.address);
    stream.get_mut().write_all(head.as_bytes())?;
    let (status, body, closes) = answer(&mut stream)?;
    if !closes && !last {
        *kept = Some((stream, used + 1));
    }
    if status == 200 { Ok(body) } else { Err(io::Error::other(format!("status {status}"))) }
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Status, body, and whether the connection ends with it.
fn answer(stream: &mut BufReader<TcpStream>) -> io::Result<(u16, String, bool)> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before an answer"));
    }
    let status =
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| wrong("no status"))?;
    let (mut length, mut chunked, mut closes) = (None, false, false);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse::<usize>().ok(),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => closes = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let body = match (chunked, length) {
        (true, _) => chunks(stream)?,
        (false, Some(length)) => exactly(stream, length)?,
        (false, None) => return Err(wrong("an answer without a length")),
    };
    Ok((status, String::from_utf8_lossy(&body).into_owned(), closes))
}

fn exactly(stream: &mut BufReader<TcpStream>, length: usize) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim_end().split(';').next().unwrap_or_default(), 16)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        body.extend(exactly(stream, size)?);
        exactly(stream, 2)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use std::net::TcpListener;

    use super::*;

    /// A service that answers so many requests, and then ends connections without an answer.
    fn service(answers: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(AtomicU64::new(answers as u64));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let left = left.clone();
                std::thread::spawn(move || serve(stream, &left));
            }
        });
        address
    }

    fn serve(stream: TcpStream, left: &AtomicU64) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
                return;
            }
            let body = "{\"version\": \"1\"}";
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if reader.get_mut().write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    }

    #[test]
    fn every_request_is_accounted_for() {
        let load = Load::start(service(30), "/", 500);
        while load.so_far().sent < 60 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let report = load.stop();
        assert_eq!(report.answers["1"], 30);
        assert_eq!(report.failed, report.sent - 30);
        assert_eq!(report.seconds.len() as u64, report.sent);
        assert!(report.quantile(0.5) <= report.quantile(0.99));
    }

    #[test]
    fn nobody_there_is_a_failure() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let load = Load::start(address, "/", 100);
        while load.so_far().sent < 5 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let report = load.stop();
        assert_eq!(report.sent, report.failed);
    }
}
