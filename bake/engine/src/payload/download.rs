//! Downloads: checked while they arrive, kept by digest, tried again where that may help.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use sha2::{Digest as _, Sha256};

use super::{PayloadError, blocking, checked_file};

/// How long to wait before each further attempt.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(6)];

/// Opens the download of a digest: from the cache, or from its URL.
pub(super) async fn fetch(url: &str, digest: &Digest, downloads: &Utf8Path) -> Result<File, PayloadError> {
    /// Tells the thread to stop when the future is dropped.
    struct GiveUp(Arc<AtomicBool>);
    impl Drop for GiveUp {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let given_up = Arc::new(AtomicBool::new(false));
    let _guard = GiveUp(given_up.clone());
    let job = Job { url: url.to_owned(), digest: *digest, directory: downloads.to_owned(), given_up };
    blocking(move || job.run()).await
}

/// A URL for people: without user, password and query, which may be credentials.
pub fn public_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let path = path.find(['?', '#']).map_or(path.to_owned(), |query| format!("{}?…", &path[..query]));
    if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") }
}

struct Job {
    url: String,
    digest: Digest,
    directory: Utf8PathBuf,
    given_up: Arc<AtomicBool>,
}

/// How an attempt failed.
enum Failed {
    /// Another attempt may end otherwise.
    ForNow(String),
    /// It will not.
    ForGood(PayloadError),
}

impl Job {
    fn run(&self) -> Result<File, PayloadError> {
        let kept = self.directory.join(self.digest.hex());
        match checked_file(&kept, &self.digest) {
            Ok(file) => return Ok(file),
            Err(PayloadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            // What was kept is damaged: what is fetched now replaces it.
            Err(PayloadError::Changed { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut pauses = PAUSES.iter();
        loop {
            match self.attempt(&kept) {
                Ok(()) => return checked_file(&kept, &self.digest),
                Err(Failed::ForGood(error)) => return Err(error),
                Err(Failed::ForNow(problem)) => match pauses.next() {
                    Some(pause) => self.pause(*pause)?,
                    None => return Err(self.failed(format!("{problem} ({} attempts)", PAUSES.len() + 1))),
                },
            }
        }
    }

    fn attempt(&self, kept: &Utf8Path) -> Result<(), Failed> {
        let mut body = self.open()?;
        std::fs::create_dir_all(&self.directory).map_err(self.local("create directory"))?;
        // Removed when it is dropped: what is not complete and right is never kept.
        let mut file = tempfile::Builder::new()
            .prefix(".part-")
            .tempfile_in(&self.directory)
            .map_err(self.local("create a file in"))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(Failed::ForGood(self.gone()));
            }
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    file.write_all(&buffer[..count]).map_err(self.local("write to"))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failed::ForNow(format!("the connection broke ({error})"))),
            }
        }
        let found = Digest::from_bytes(hasher.finalize().into());
        if found != self.digest {
            let url = public_url(&self.url);
            return Err(Failed::ForGood(PayloadError::Checksum { url, expected: self.digest, found }));
        }
        file.as_file().sync_all().map_err(self.local("write to"))?;
        file.persist(kept).map_err(|error| self.local("rename in")(error.error))?;
        Ok(())
    }

    fn open(&self) -> Result<Box<dyn Read>, Failed> {
        match self.url.split_once("://") {
            Some(("file", path)) => {
                let path = Utf8PathBuf::from(path);
                let opened = File::open(&path);
                let failed = |source| Failed::ForGood(PayloadError::Io { action: "open", path, source });
                opened.map(|file| Box::new(file) as Box<dyn Read>).map_err(failed)
            }
            Some(("http" | "https", _)) => self.request(),
            _ => Err(Failed::ForGood(self.failed("only http, https and file are known".to_owned()))),
        }
    }

    fn request(&self) -> Result<Box<dyn Read>, Failed> {
        // A proxy comes from the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`.
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent(concat!("olbake/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        match agent.get(&self.url).call() {
            Ok(response) => Ok(Box::new(response.into_body().into_reader())),
            Err(ureq::Error::StatusCode(status)) => {
                let problem = format!("the server answered with status {status}");
                match status {
                    408 | 425 | 429 | 500.. => Err(Failed::ForNow(problem)),
                    _ => Err(Failed::ForGood(self.failed(problem))),
                }
            }
            Err(
                error @ (ureq::Error::Io(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::HostNotFound
                | ureq::Error::ConnectionFailed
                | ureq::Error::Protocol(_)),
            ) => Err(Failed::ForNow(error.to_string())),
            Err(error) => Err(Failed::ForGood(self.failed(error.to_string()))),
        }
    }

    fn pause(&self, pause: Duration) -> Result<(), PayloadError> {
        const STEP: Duration = Duration::from_millis(50);
        let mut left = pause;
        while !left.is_zero() {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(self.gone());
            }
            std::thread::sleep(left.min(STEP));
            left = left.saturating_sub(STEP);
        }
        Ok(())
    }

    fn local(&self, action: &'static str) -> impl Fn(io::Error) -> Failed {
        move |source| Failed::ForGood(PayloadError::Io { action, path: self.directory.clone(), source })
    }

    fn failed(&self, problem: String) -> PayloadError {
        // A message of the client's may quote the URL it was given.
        let url = public_url(&self.url);
        PayloadError::Download { problem: problem.replace(&self.url, &url), url }
    }

    fn gone(&self) -> PayloadError {
        PayloadError::GivenUp { url: public_url(&self.url) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    /// Serves these answers, one a connection, and returns the address.
    fn serve(answers: Vec<String>) -> (String, std::thread::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            for answer in &answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                stream.write_all(answer.as_bytes()).unwrap();
            }
            answers.len()
        });
        (format!("http://user:pass@{address}/file?token=abc"), thread)
    }

    fn answer(status: &str, length: usize, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    }

    async fn fetch_text(url: &str, expect: &str, directory: &Utf8Path) -> Result<String, PayloadError> {
        let mut text = String::new();
        fetch(url, &Digest::of(expect.as_bytes()), directory).await?.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    fn directory() -> (tempfile::TempDir, Utf8PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(directory.path().join("downloads")).unwrap();
        (directory, path)
    }

    #[tokio::test]
    async fn a_busy_server_and_a_torn_body_are_tried_again() {
        let (_guard, path) = directory();
        let answers =
            vec![answer("503 Busy", 0, ""), answer("200 OK", 100, "torn"), answer("200 OK", 5, "whole")];
        let (url, server) = serve(answers);
        assert_eq!(fetch_text(&url, "whole", &path).await.unwrap(), "whole");
        assert_eq!(server.join().unwrap(), 3);
        // Nobody serves any more: it was kept.
        assert_eq!(fetch_text(&url, "whole", &path).await.unwrap(), "whole");
    }

    #[tokio::test]
    async fn a_wrong_checksum_keeps_nothing_and_shows_no_credentials() {
        let (_guard, path) = directory();
        let (url, server) = serve(vec![answer("200 OK", 5, "other")]);
        let error = fetch_text(&url, "whole", &path).await.unwrap_err().to_string();
        server.join().unwrap();
        for text in [Digest::of(b"other"), Digest::of(b"whole")] {
            assert!(error.contains(&text.to_string()), "{error}");
        }
        assert!(error.contains("/file?…") && !error.contains("pass") && !error.contains("abc"), "{error}");
        assert_eq!(path.read_dir_utf8().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_asked_for_twice() {
        let (_guard, path) = directory();
        let (url, server) = serve(vec![answer("404 Not Found", 0, "")]);
        let error = fetch_text(&url, "whole", &path).await.unwrap_err();
        assert!(error.to_string().ends_with("the server answered with status 404"), "{error}");
        server.join().unwrap();
    }

    #[tokio::test]
    async fn a_damaged_kept_file_is_fetched_again() {
        let (guard, path) = directory();
        let source = guard.path().join("source");
        std::fs::write(&source, "whole").unwrap();
        let url = format!("file://{}", source.display());
        fetch_text(&url, "whole", &path).await.unwrap();
        std::fs::write(path.join(Digest::of(b"whole").hex()), "damaged").unwrap();
        assert_eq!(fetch_text(&url, "whole", &path).await.unwrap(), "whole");
        assert!(fetch_text("ftp://host/x", "y", &path).await.is_err());
    }

    #[test]
    fn urls_lose_their_credentials() {
        for (url, expect) in [
            ("https://host/a/b", "https://host/a/b"),
            ("https://user:p@ss@host:8080/a?X-Sig=1#f", "https://host:8080/a?…"),
            ("https://user@host", "https://host"),
            ("https://host?token=1", "https://host?…"),
        ] {
            assert_eq!(public_url(url), expect);
        }
    }
}
