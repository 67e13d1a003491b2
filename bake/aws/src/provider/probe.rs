//! Health checks asked of instances by their addresses: from where olbake runs, which has to reach them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use olbake_engine::stack::group::{Health, HealthKind};
use olbake_engine::stack::provider::Probe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The most that is read of an answer.
const MOST: u64 = 64 * 1024;

/// Asks one check of one instance.
pub(super) async fn ask(address: IpAddr, check: &Health) -> Probe {
    let limit = check.timeout();
    let asked = async {
        let to = SocketAddr::from((address, check.port.unwrap_or(80)));
        match check.kind {
            HealthKind::Tcp => TcpStream::connect(to).await.map(|_| (true, "accepts".to_owned())),
            HealthKind::Http => http(to, check).await,
            HealthKind::Command => {
                Ok((false, "a command cannot be a health check at AWS: use `http` or `tcp`".to_owned()))
            }
        }
    };
    let (holds, seen) = match tokio::time::timeout(limit, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (false, format!("no answer in {}", seconds(limit))),
    };
    Probe { check: check.name(), holds, seen }
}

fn seconds(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f64())
}

async fn http(to: SocketAddr, check: &Health) -> std::io::Result<(bool, String)> {
    let mut stream = TcpStream::connect(to).await?;
    let request = format!("GET {} HTTP/1.0\r\nHost: {to}\r\nConnection: close\r\n\r\n", check.path);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    Ok(judge(&String::from_utf8_lossy(&answer), check.status, check.contains.as_deref()))
}

/// Whether an answer is the one that is well, and what was seen of it.
fn judge(answer: &str, status: u16, contains: Option<&str>) -> (bool, String) {
    let seen = answer.split_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let has = contains.is_none_or(|text| body.contains(text));
    match seen {
        Some(code) => (code == status && has, code.to_string()),
        None => (false, "no answer in HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_status_and_content() {
        let answer = "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{\"digest\": 1}";
        assert_eq!(judge(answer, 200, Some("digest")), (true, "200".to_owned()));
        assert_eq!(judge(answer, 200, Some("other")), (false, "200".to_owned()));
        assert_eq!(judge("HTTP/1.0 503 No\r\n\r\n", 200, None), (false, "503".to_owned()));
        assert!(!judge("SSH-2.0-OpenSSH", 200, None).0);
    }
}
