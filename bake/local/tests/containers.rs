//! Containers on a real disk: made, changed, booted, thrown away.

mod common;

use common::{Place, assert_clean, base_disk, can_run, host, run};
use olbake_engine::machine::{Builder, Start, Substrate};
use olbake_local::{Access, LocalBuilder, mount_root};

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_kept_and_a_fresh_boot_sees_it() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (builder, place) = (LocalBuilder::new(), Place::new());
    let base = base_disk().await;
    let time = std::time::Instant::now();
    let mut machine = builder.start(place.spec("build", Start::Build, &base)).await.unwrap();
    let work = machine.agent_work_dir().to_string();
    assert_eq!(
        run(&mut *machine, &format!("echo kept > {work}/x; echo changed > /etc/test; cat /etc/test")).await,
        "changed\n"
    );
    eprintln!("copy, start and one agent: {:?}", time.elapsed());
    assert_eq!(
        run(&mut *machine, &format!("cat {work}/x; cat /etc/resolv.conf | grep -c nameserver")).await,
        "kept\n1\n"
    );
    let time = std::time::Instant::now();
    let snapshot = machine.stop().await.unwrap().unwrap();
    eprintln!("stop: {:?}", time.elapsed());
    assert_clean(&snapshot.disk);
    builder.finish(&snapshot, &place.folder("finish")).await.unwrap();

    let time = std::time::Instant::now();
    let mut machine = builder.start(place.spec("fresh", Start::Fresh, &snapshot)).await.unwrap();
    eprintln!("fresh boot: {:?}", time.elapsed());
    assert_eq!(
        run(&mut *machine, "cat /etc/test; rm /etc/test; systemctl --failed -q; systemctl is-system-running")
            .await,
        "changed\nrunning\n"
    );
    let time = std::time::Instant::now();
    assert!(machine.stop().await.unwrap().is_none());
    eprintln!("stop fresh: {:?}", time.elapsed());
    assert_clean(&snapshot.disk);
    let root = mount_root(&snapshot.disk, &place.folder("look"), Access::ReadOnly).unwrap();
    assert!(root.directory().join("etc/test").exists(), "a fresh boot's writes were kept");
    root.close().unwrap();
    let (_, loops) = host("losetup", &["-a"]);
    assert!(!loops.contains(place.path.as_str()), "{loops}");
}
