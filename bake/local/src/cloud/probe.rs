//! Questions to a service from outside: does it accept, and what does it answer?

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

/// The most that is read of an answer.
const BODY: u64 = 1 << 20;

/// What a service answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The status: 200.
    pub status: u16,
    /// The body; what is no text in it is replaced.
    pub body: String,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A request failed.
    #[error("`{url}` does not answer")]
    Http {
        /// What was asked for.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// No connection was made.
    #[error("`{address}` does not accept connections")]
    Tcp {
        /// To where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This process is ending.
    #[error("olbake is stopping")]
    Stopping,
}

/// Asks by GET, directly and without following where the answer points. Any status is an answer.
pub async fn http(url: &str, time: Duration) -> Result<Answer, ProbeError> {
    let url = url.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        ask(&url, time).map_err(|source| ProbeError::Http { url, source: Box::new(source) })
    });
    asked.await.unwrap_or(Err(ProbeError::Stopping))
}

fn ask(url: &str, time: Duration) -> Result<Answer, ureq::Error> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(time))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .build()
        .new_agent();
    let mut response = agent.get(url).call()?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(BODY).read_to_vec()?;
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// Connects, and no more.
pub async fn tcp(address: SocketAddr, time: Duration) -> Result<(), ProbeError> {
    let connected = tokio::time::timeout(time, tokio::net::TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    connected.map(drop).map_err(|source| ProbeError::Tcp { address, source })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn any_status_is_an_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            let answer = "HTTP/1.1 503 no\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let answer = http(&format!("http://{address}/"), TIME).await.unwrap();
        assert_eq!(answer, Answer { status: 503, body: "no".into() });
        server.join().unwrap();
        assert!(tcp(address, TIME).await.is_err());
        assert!(http(&format!("http://{address}/"), TIME).await.is_err());
    }
}
