//! A moto server for one test program, and a wire to it that can be listened to and cut.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

pub(crate) mod cloud;
pub(crate) mod wire;

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use olbake_aws::Account;

pub(crate) const REGION: &str = "us-east-1";

/// A moto server that ends with this value.
pub(crate) struct Moto {
    child: Child,
    pub(crate) port: u16,
}

impl Moto {
    /// Starts one; none where it is not installed and need not be.
    pub(crate) fn start() -> Option<Self> {
        let home = std::env::var("HOME").unwrap_or_default();
        let program = std::env::var("OLBAKE_MOTO")
            .unwrap_or_else(|_| format!("{home}/.cache/olbake/moto/bin/moto_server"));
        if !std::path::Path::new(&program).exists() {
            let message = format!("`{program}` is not there: `cargo xtask cloud` installs it");
            assert!(!std::env::var("OLBAKE_TEST_REQUIRE").is_ok_and(|value| value == "1"), "{message}");
            eprintln!("SKIPPED: {message}");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { child, port };
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(moto);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("moto does not answer");
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn account(&self) -> Account {
        account(&self.endpoint()).await
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) async fn account(endpoint: &str) -> Account {
    Account::at(endpoint, REGION, "test", "test").await
}
