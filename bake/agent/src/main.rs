//! The agent: a static executable that carries a plan's operations out on the machine it runs on.
//!
//! It speaks [`olbake_core::protocol`] over its standard streams and knows nothing of where the other end is; `--holder`
//! says which olbake it works for, where several may reach the machine. It has no settings of its own, starts no
//! interpreter unless a recipe asks for one, and leaves nothing behind.
//!
//! The executable that travels is built by
//! ```text
//! RUSTFLAGS="-C target-feature=+crt-static …" \
//!     cargo build --profile agent -p olbake-agent --target x86_64-unknown-linux-gnu
//! ```
//! and must stay below 2 MB; the README has all options.

mod accounts;
mod blobs;
mod context;
mod diff;
mod dpkg;
mod edit;
mod error;
mod execute;
mod hold;
mod http;
mod journal;
mod ops;
mod outbox;
mod process;
mod schedule;
mod search;
mod secrets;
mod session;
mod world;

use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use outbox::Outbox;

const USAGE: &str = "usage: olbake-agent [--holder TOKEN | --version]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ending = match arguments[..] {
        [] => serve_standard_streams(None),
        ["--holder", token] => serve_standard_streams(Some(token)),
        ["--version"] => {
            println!("olbake-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match ending {
        Ok(ending) => ExitCode::from(u8::try_from(ending.code()).unwrap_or(1)),
        Err(error) => {
            eprintln!("olbake-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve_standard_streams(holder: Option<&str>) -> std::io::Result<session::Ending> {
    // Frames need a stream of their own: what anything in this process prints must not get between them.
    let output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    Ok(session::serve(input, &Arc::new(Outbox::new(Box::new(output))), holder))
}
