//! Holds the stack of a folder in one of three roles: `holder append|act|race FOLDER`. Started by
//! `tests/state_processes.rs`, which kills, stops and talks to it.
#![allow(clippy::unwrap_used, reason = "whoever started it sees that it ended")]

#[path = "../tests/common/ledger.rs"]
mod ledger;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use ledger::{add, here, hold, store};
use olbake_engine::state::{HoldOptions, Takeover};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, path] = &arguments[..] else { panic!("say append|act|race and a folder") };
    let path = &Utf8PathBuf::from(path);
    match role.as_str() {
        "append" => append(path).await,
        "act" => act(path).await,
        "race" => race(path).await,
        other => panic!("there is no role `{other}`"),
    }
}

fn heard() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Appends, in groups, until it is killed, and keeps a list of what it was told is durable.
async fn append(path: &Utf8Path) {
    let list = path.join(format!("acknowledged-{}", std::process::id()));
    let mut acknowledged = File::create(list).unwrap();
    let held = Arc::new(hold(&store(path), here(HoldOptions::TTL)).await.unwrap());
    println!("held");
    for round in 0.. {
        let appends: Vec<_> = (0..3)
            .map(|number| {
                let name = format!("{}-{round}-{number}", std::process::id());
                let held = held.clone();
                tokio::spawn(async move {
                    held.append(add(&name, 1)).await.unwrap();
                    name
                })
            })
            .collect();
        for append in appends {
            let line = format!("{}\n", append.await.unwrap());
            acknowledged.write_all(line.as_bytes()).unwrap();
        }
    }
}

/// Appends when it is told to and says how that went.
async fn act(path: &Utf8Path) {
    let held = hold(&store(path), here(Duration::from_millis(600))).await.unwrap();
    held.append(add("before", 1)).await.unwrap();
    println!("held");
    let mut effects = File::create(path.join("effects")).unwrap();
    while heard() == "act" {
        // What a provider's call is: an intent, a permit, the effect.
        let intent = held.append(add("act", 1)).await;
        match intent.and_then(|_| held.permit()) {
            Ok(()) => {
                effects.write_all(b"effect\n").unwrap();
                println!("acted");
            }
            Err(error) => println!("refused: {error}"),
        }
    }
}

/// Holds, counts up by one, closes; many times.
async fn race(path: &Utf8Path) {
    let store = store(path);
    println!("ready");
    heard();
    for _ in 0..5 {
        let wait = Takeover::Wait(Duration::from_secs(120));
        let held = hold(&store, HoldOptions { takeover: wait, ..here(HoldOptions::TTL) }).await.unwrap();
        let seen = held.with(|state| state.records).await.unwrap();
        held.append(add(&format!("after-{seen}"), 1)).await.unwrap();
        held.close("counted").await.unwrap();
    }
    println!("finished");
}
