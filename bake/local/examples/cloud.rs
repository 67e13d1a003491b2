//! Uses a local cloud as a command does, for tests of what is left when it is killed and for a look by hand:
//! `cloud FOLDER network ID CIDR`, `… launch ID NETWORK DISK [VOLUME:PATH…]`, `… ensure …` (without waiting for the boot), `… terminate ID`,
//! `… kill ID`, `… group COUNT NETWORK DISK`, `… inspect ID`,
//! `… exec ID COMMAND…`, `… console ID`, `… volume ID MIB`, `… list`, `… destroy`. With `VM` in its
//! environment, what it launches is a VM.

use std::time::Duration;

use camino::Utf8Path;
use olbake_core::Digest;
use olbake_engine::machine::Substrate;
use olbake_local::cloud::{Attached, Cloud, InstanceSpec, Limits, NetworkSpec, VolumeSpec};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    olbake_local::isolate()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&words))
}

async fn run(words: &[&str]) -> Result<()> {
    let [folder, words @ ..] = words else { return Err("expected FOLDER VERB …".into()) };
    let cloud = Cloud::open(Utf8Path::new(folder))?;
    match words {
        ["network", id, cidr] => {
            let spec = NetworkSpec { id: id.parse()?, cidr: cidr.parse()? };
            println!("{}", serde_json::to_string(&cloud.ensure_network(spec).await?)?);
        }
        ["volume", id, mib] => {
            let spec = VolumeSpec { id: id.parse()?, size: mib.parse::<u64>()? << 20 };
            println!("{}", serde_json::to_string(&cloud.ensure_volume(spec).await?)?);
        }
        ["launch", id, network, disk, volumes @ ..] => {
            let done = cloud.ensure_instance(instance(id, network, disk, volumes)?).await?;
            println!("{}", serde_json::to_string(&done)?);
            let view = cloud.await_boot(&id.parse()?, Duration::from_secs(300)).await?;
            println!("{}", view.map_or("gone".to_owned(), |view| view.state.to_string()));
        }
        ["ensure", id, network, disk, volumes @ ..] => {
            let done = cloud.ensure_instance(instance(id, network, disk, volumes)?).await?;
            println!("{}", serde_json::to_string(&done)?);
        }
        ["group", count, network, disk] => group(&cloud, count.parse()?, network, disk).await?,
        ["inspect", id] => {
            println!("{}", serde_json::to_string_pretty(&cloud.inspect_instance(&id.parse()?).await?)?);
        }
        ["exec", id, command @ ..] => {
            let command = command.iter().map(|&word| word.to_owned()).collect();
            let done = cloud.exec(&id.parse()?, command, Duration::from_secs(60)).await?;
            print!("{}", done.stdout);
            eprint!("{}", done.stderr);
            println!("{:?}", done.outcome);
        }
        ["console", id] => println!("{}", cloud.console(&id.parse()?).await?),
        ["terminate", id] => cloud.terminate_instance(&id.parse()?, Duration::from_secs(30)).await?,
        ["kill", id] => cloud.terminate_instance(&id.parse()?, Duration::ZERO).await?,
        ["list"] => {
            for found in cloud.list().await? {
                println!("{}", serde_json::to_string(&found)?);
            }
        }
        ["destroy"] => cloud.destroy_all().await?,
        other => return Err(format!("unknown: {}", other.join(" ")).into()),
    }
    Ok(())
}

/// Launches many at once, and says how long that took and what they weigh.
async fn group(cloud: &Cloud, count: u32, network: &str, disk: &str) -> Result<()> {
    let started = std::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        let (cloud, spec) = (cloud.clone(), instance(&format!("group-{number}"), network, disk, &[])?);
        tasks.spawn(async move {
            let id = spec.id.clone();
            cloud.ensure_instance(spec).await?;
            cloud.await_boot(&id, Duration::from_secs(500)).await
        });
    }
    let mut views = Vec::new();
    while let Some(view) = tasks.join_next().await {
        views.extend(view??);
    }
    let up = views.iter().filter(|view| view.state.is_up()).count();
    let memory: u64 = views.iter().filter_map(|view| view.memory).sum();
    println!("{up} of {count} up after {:.1} s", started.elapsed().as_secs_f64());
    println!("{:.1} MiB each", memory as f64 / f64::from(count) / f64::from(1 << 20));
    Ok(())
}

fn instance(id: &str, network: &str, disk: &str, volumes: &[&str]) -> Result<InstanceSpec> {
    // The file's name stands for its content: nothing here ever changes a disk.
    let digest = Digest::of(disk.as_bytes());
    let attached = |text: &&str| -> Result<Attached> {
        let (id, path) = text.split_once(':').ok_or("expected VOLUME:PATH")?;
        Ok(Attached { id: id.parse()?, path: path.into() })
    };
    Ok(InstanceSpec {
        id: id.parse()?,
        name: id.to_owned(),
        network: network.parse()?,
        digest,
        disk: disk.into(),
        identity: format!("{{\"image\": \"web\", \"variant\": null, \"digest\": \"{digest}\"}}\n"),
        user_data: None,
        volumes: volumes.iter().map(attached).collect::<Result<_>>()?,
        substrate: if std::env::var_os("VM").is_some() { Substrate::Vm } else { Substrate::Container },
        limits: Limits::default(),
    })
}
