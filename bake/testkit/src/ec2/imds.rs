//! The metadata service of instances: 169.254.169.254, version 2 only.
//!
//! One server listens on each subnet's bridge and knows the one who asks by its address. What it answers is a tree
//! of paths, as the proxy gave it with what follows from the body itself; listings, tokens and errors are as EC2
//! has them. Main types: [`Directory`], [`Server`].

mod tokens;
mod tree;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, SERVER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use olbake_local::disk_machine::METADATA_ADDRESS;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::body::Body;
use tokens::Tokens;
use tree::Tree;
pub(super) use tree::host_name;

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TIME: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// The longest that a token is good for.
const LONGEST: u64 = 21_600;

/// Who the instances are, by their addresses. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    trees: Arc<Mutex<BTreeMap<Ipv4Addr, Arc<Tree>>>>,
    tokens: Arc<Mutex<Tokens>>,
}

impl Directory {
    /// Tells an instance who it is from now on.
    pub(super) fn put(&self, body: &Body) {
        let tree = Arc::new(Tree::of(body));
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).insert(body.address, tree);
    }

    /// Answers the one with an address no more.
    pub(super) fn remove(&self, address: Ipv4Addr) {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    fn tree(&self, source: Ipv4Addr) -> Option<Arc<Tree>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).get(&source).cloned()
    }

    fn answer(&self, source: Ipv4Addr, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
        let Some(tree) = self.tree(source) else { return Answer::of(StatusCode::NOT_FOUND) };
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let now = Instant::now();
        if *method == Method::PUT && path == "/latest/api/token" {
            // A token is not for those behind a proxy.
            if headers.contains_key("x-forwarded-for") {
                return Answer::of(StatusCode::FORBIDDEN);
            }
            let seconds = header(TOKEN_TIME).and_then(|text| text.parse().ok());
            let Some(seconds) = seconds.filter(|seconds| (1..=LONGEST).contains(seconds)) else {
                return Answer::of(StatusCode::BAD_REQUEST);
            };
            let made = tokens.make(source, now + Duration::from_secs(seconds));
            return made.map_or(Answer::of(StatusCode::INTERNAL_SERVER_ERROR), |token| Answer {
                lasts: Some(seconds),
                ..Answer::found(token.into_bytes())
            });
        }
        if *method != Method::GET && *method != Method::HEAD {
            return Answer::of(StatusCode::METHOD_NOT_ALLOWED);
        }
        if !header(TOKEN).is_some_and(|token| tokens.holds(token, source, now)) {
            return Answer::of(StatusCode::UNAUTHORIZED);
        }
        tree.get(path).map_or(Answer::of(StatusCode::NOT_FOUND), Answer::found)
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    content: Vec<u8>,
    /// How many seconds a token is good for.
    lasts: Option<u64>,
}

impl Answer {
    fn of(status: StatusCode) -> Self {
        Self { status, content: Vec::new(), lasts: None }
    }

    fn found(content: Vec<u8>) -> Self {
        Self { content, ..Self::of(StatusCode::OK) }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.content));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(SERVER, "EC2ws".parse().expect("a plain word is a header's value"));
        headers.insert(CONTENT_TYPE, "text/plain".parse().expect("a plain word is a header's value"));
        if let Some(seconds) = self.lasts {
            headers.insert(TOKEN_TIME, seconds.into());
        }
        response
    }
}

/// The service on one bridge. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Server(JoinHandle<()>);

impl Server {
    /// Serves on a bridge that has the service's address.
    pub(super) fn start(runtime: &Handle, bridge: &str, directory: Directory) -> io::Result<Self> {
        let _inside = runtime.enter();
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        // The address is on other bridges too, and theirs are other servers.
        socket.bind_device(Some(bridge.as_bytes()))?;
        socket.bind(SocketAddr::from((METADATA_ADDRESS, 80)))?;
        let listener = socket.listen(256)?;
        Ok(Self(runtime.spawn(serve(listener, directory))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(listener: TcpListener, directory: Directory) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // What cannot be accepted is asked again by whoever asked.
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let IpAddr::V4(source) = peer.ip() else { continue };
        let directory = directory.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let answer = directory.answer(source, request.method(), request.uri().path(), request.headers());
            async { Ok::<_, Infallible>(answer.into_response()) }
        });
        // Connections end when this does.
        connections
            .spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        while connections.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 5);
    const THERE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 6);

    fn directory() -> Directory {
        let directory = Directory::default();
        for (number, address) in [(5, HERE), (6, THERE)] {
            directory.put(&tree::tests::body(number, address));
        }
        directory
    }

    fn ask(
        directory: &Directory,
        source: Ipv4Addr,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> (u16, String) {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let answer = directory.answer(source, &method, path, &headers);
        (answer.status.as_u16(), String::from_utf8(answer.content).unwrap())
    }

    fn token(directory: &Directory, source: Ipv4Addr) -> String {
        let (status, token) = ask(directory, source, Method::PUT, "/latest/api/token", &[(TOKEN_TIME, "60")]);
        assert_eq!(status, 200);
        token
    }

    #[test]
    fn nothing_is_told_without_a_token() {
        let directory = directory();
        let path = "/latest/meta-data/instance-id";
        assert_eq!(ask(&directory, HERE, Method::GET, path, &[]).0, 401);
        assert_eq!(ask(&directory, HERE, Method::GET, path, &[(TOKEN, "guess")]).0, 401);
        let own = token(&directory, HERE);
        assert_eq!(ask(&directory, HERE, Method::GET, path, &[(TOKEN, &own)]), (200, "i-5".into()));
        assert_eq!(ask(&directory, THERE, Method::GET, path, &[(TOKEN, &own)]).0, 401, "another's token");
        let other = token(&directory, THERE);
        assert_eq!(ask(&directory, THERE, Method::GET, path, &[(TOKEN, &other)]), (200, "i-6".into()));
        assert_eq!(ask(&directory, Ipv4Addr::LOCALHOST, Method::GET, path, &[(TOKEN, &own)]).0, 404);
    }

    #[test]
    fn a_token_has_a_time_and_is_for_the_instance_alone() {
        let directory = directory();
        for bad in ["0", "21601", "soon"] {
            let asked = ask(&directory, HERE, Method::PUT, "/latest/api/token", &[(TOKEN_TIME, bad)]);
            assert_eq!(asked.0, 400, "{bad}");
        }
        assert_eq!(ask(&directory, HERE, Method::PUT, "/latest/api/token", &[]).0, 400);
        let behind = [(TOKEN_TIME, "60"), ("x-forwarded-for", "10.0.0.1")];
        assert_eq!(ask(&directory, HERE, Method::PUT, "/latest/api/token", &behind).0, 403);
        assert_eq!(ask(&directory, HERE, Method::POST, "/latest/meta-data/", &[]).0, 405);
    }
}
