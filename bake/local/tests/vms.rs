//! A VM on a real disk, booted under UEFI.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

mod common;

use common::{Place, assert_clean, base_disk, can_run, run};
use olbake_engine::machine::{Builder, MachineSpec, Start, Substrate};
use olbake_local::LocalBuilder;
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_boots_under_uefi_and_is_not_changed() {
    if !can_run(Substrate::Vm) {
        return;
    }
    // However slow the emulation, a conversation that never ends is a failure.
    let limit = std::time::Duration::from_secs(900);
    tokio::time::timeout(limit, boot_and_talk()).await.expect("the VM was looked at in time");
}

async fn boot_and_talk() {
    let (builder, place) = (LocalBuilder::new(), Place::new());
    let base = base_disk().await;
    let time = std::time::Instant::now();
    let spec = MachineSpec { substrate: Substrate::Vm, ..place.spec("vm", Start::Fresh, &base) };
    let work_dir = spec.work_dir.clone();
    let mut machine = match builder.start(spec).await {
        Ok(machine) => machine,
        Err(olbake_engine::machine::MachineError::Boot { message, console }) => {
            panic!("{message}\n{console}")
        }
        Err(error) => panic!("{error:?}"),
    };
    eprintln!("VM up: {:?}", time.elapsed());
    let work = machine.agent_work_dir().to_string();
    assert_eq!(
        run(&mut *machine, &format!("echo kept >{work}/x; findmnt -no FSTYPE /; echo")).await,
        "ext4\n\n"
    );
    let state =
        run(&mut *machine, &format!("cat {work}/x; systemctl --failed -q; systemctl is-system-running"))
            .await;
    assert_eq!(state, "kept\nrunning\n", "{}", machine.console());
    assert!(machine.console().contains("Debian"), "{}", machine.console());
    // A stream that is dropped does no harm to the next: at once, with something half said, and while the agent
    // writes more than anybody has room for. Its agent is ended.
    drop(machine.agent().await.unwrap());
    assert_eq!(run(&mut *machine, "echo again").await, "again\n");
    for given_up in ["half a line", "exec yes\n"] {
        let mut stream = machine.agent().await.unwrap();
        stream.input.write_all(given_up.as_bytes()).await.unwrap();
        drop(stream);
        assert_eq!(run(&mut *machine, "echo again").await, "again\n", "after {given_up}");
    }
    assert_eq!(run(&mut *machine, "grep -lsx yes /proc/[0-9]*/comm | wc -l").await, "0\n");
    eprintln!("sessions done: {:?}", time.elapsed());
    assert!(machine.stop().await.unwrap().is_none());
    assert!(!work_dir.join("disk.raw").exists());
    assert_clean(&base.disk);
}
