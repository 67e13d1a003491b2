//! Runs a test cloud in the foreground until Ctrl-C, and prints what to export so that clients talk to it:
//! `cargo run -p olbake-testkit --features ec2 --example testcloud -- [--root FOLDER] [--port N]`.
//! `cargo xtask cloud` runs it.

use std::error::Error;

use olbake_testkit::ec2::{Config, TestCloud};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cloud = TestCloud::start(config()?).await?;
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

fn config() -> Result<Config, Box<dyn Error>> {
    let mut config = Config::new("/var/tmp/olbake-cloud");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("`{argument}` needs a value"));
        match argument.as_str() {
            "--root" => config.root = value()?.into(),
            "--port" => config.port = value()?.parse()?,
            _ => return Err(format!("unknown argument `{argument}`: say --root FOLDER or --port N").into()),
        }
    }
    Ok(config)
}
