//! Holds machines until it is killed, for tests of what is left behind then:
//! `hold DISK AGENT WORK_ROOT KIND…`, with kinds `build`, `booted`, `fresh` and `vm`. Says `ready` when all run.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::machine::{Builder, MachineSpec, Snapshot, Start, Substrate, WorkDisk};
use olbake_local::LocalBuilder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    olbake_local::isolate()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(hold())
}

async fn hold() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().map(Utf8PathBuf::from).ok_or("expected DISK AGENT WORK_ROOT KIND…");
    let (disk, agent, work_root) = (next()?, next()?, next()?);
    let mut held = Vec::new();
    for kind in arguments {
        let mut machine = LocalBuilder::new().start(spec(&kind, &disk, &agent, &work_root)?).await?;
        held.push((machine.agent().await?, machine));
    }
    println!("ready");
    std::future::pending::<()>().await;
    Ok(())
}

fn spec(
    kind: &str,
    disk: &Utf8Path,
    agent: &Utf8Path,
    work_root: &Utf8Path,
) -> Result<MachineSpec, Box<dyn std::error::Error>> {
    let (substrate, start) = match kind {
        "build" => (Substrate::Container, Start::Build),
        "booted" => (Substrate::Container, Start::BuildBooted),
        "fresh" => (Substrate::Container, Start::Fresh),
        "vm" => (Substrate::Vm, Start::Fresh),
        _ => return Err(format!("unknown kind `{kind}`").into()),
    };
    let work_dir = work_root.join(kind);
    fs::create_dir_all(&work_dir)?;
    Ok(MachineSpec {
        name: kind.to_owned(),
        substrate,
        start,
        parent: Snapshot { disk: disk.to_owned() },
        disk: Some(WorkDisk::Copy(work_root.join(format!("{kind}.raw")))),
        work_dir,
        package_cache: None,
        agent: agent.to_owned(),
        instance: None,
        beside: None,
    })
}
