//! Runs a test cloud in the foreground until Ctrl-C, and prints what to export so that clients talk to it:
//! `cargo run -p olbake-testkit --features ec2 --example testcloud -- [--root FOLDER] [--port N]
//! [--cache FOLDER] [--records-only]`.
//! `cargo xtask cloud` runs it.

use std::error::Error;

use camino::Utf8PathBuf;
use olbake_testkit::ec2::body::HostBodies;
use olbake_testkit::ec2::{Config, TestCloud};
use tokio::signal::unix::{SignalKind, signal};

/// What was asked for.
struct Arguments {
    root: Utf8PathBuf,
    port: u16,
    /// Where the public image is kept.
    cache: Option<Utf8PathBuf>,
    instances: Instances,
}

/// Whether instances run.
enum Instances {
    /// They do, where the host can have them.
    Run,
    /// They are records.
    Records,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { root, port, cache, instances } = arguments()?;
    let mut config = config(root, cache, &instances).await?;
    config.port = port;
    let cloud = TestCloud::start(config).await?;
    for (name, value) in cloud.environment() {
        println!("export {name}={value}");
    }
    eprintln!("the test cloud runs at {}; Ctrl-C ends it and all that is in it", cloud.endpoint());
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminate.recv() => {}
    }
    cloud.stop().await;
    Ok(())
}

async fn config(
    root: Utf8PathBuf,
    cache: Option<Utf8PathBuf>,
    instances: &Instances,
) -> Result<Config, Box<dyn Error>> {
    let lacks = match instances {
        Instances::Records => vec!["it was asked for".to_owned()],
        Instances::Run => HostBodies::preflight().err().unwrap_or_default(),
    };
    if !lacks.is_empty() {
        eprintln!("instances are records only: {}", lacks.join("; "));
        return Ok(Config::new(root));
    }
    let cache = match cache {
        Some(cache) => cache,
        None => Utf8PathBuf::from(std::env::var("HOME").map_err(|_| "`HOME` is not set")?)
            .join(".cache/olbake/testcloud"),
    };
    Ok(Config::with_bodies(root, &cache, &|line| eprintln!("{line}")).await?)
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut found =
        Arguments { root: "/var/tmp/olbake-cloud".into(), port: 0, cache: None, instances: Instances::Run };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("`{argument}` needs a value"));
        match argument.as_str() {
            "--root" => found.root = value()?.into(),
            "--cache" => found.cache = Some(value()?.into()),
            "--port" => found.port = value()?.parse()?,
            "--records-only" => found.instances = Instances::Records,
            _ => {
                let known = "--root FOLDER, --port N, --cache FOLDER, --records-only";
                return Err(format!("unknown argument `{argument}`; there are {known}").into());
            }
        }
    }
    Ok(found)
}
