//! Instances that are VMs: QEMU on a layer over the baked disk, with a tap on the bridge.
//!
//! Boot inputs come on a small disk, as cloud-init's NoCloud has them: the user's data, and beside it what olbake needs
//! inside: who the machine is, volumes' mounts, and two units that speak over virtio ports. Nothing is written to the
//! baked disk. QEMU is told to press the power button over its control socket.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::plan::Architecture;
use olbake_engine::machine::{INSTANCE_FILE, MachineError};
use serde_json::json;

use super::exec::{Executed, Outcome};
use super::inputs::{self, Address};
use super::instance::{InstanceSpec, State, keeper};
use super::keeper::{quoted, words};
use super::limits::Group;
use super::network::alias;
use super::place::{Link, Place, make_folder, remove, write_whole};
use super::{CloudError, Id, Kind, container, disks, volume};
use crate::guest;
use crate::host::{HostCommand, host_error, io_error};
use crate::kvm;
use crate::preflight::{emulator, firmware};

/// Bytes of memory where no limit says how much.
const MEMORY: u64 = 1 << 30;
/// Kilobytes of the disk with boot inputs.
const SEED: &str = "2048";
/// Its files, and what they are for: `up` is written by the machine when it has booted.
const UP: &str = "up";
const EXEC: &str = "exec";
const CONTROL: &str = "control";
/// How long the control socket may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Runs what it is told, a line each: a number, a time limit in seconds, and a script with every byte escaped. Answers
/// with the number, the status, and both outputs in hexadecimal.
const EXEC_SCRIPT: &str = r#"
exec <>/dev/virtio-ports/org.olbake.exec >&0
work=$(mktemp -d)
while read -r number limit script; do
    if test "$limit" = 0; then echo "$number here"; continue; fi
    printf '%b' "$script" >"$work/script"
    timeout --kill-after=1 "$limit" sh "$work/script" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    hex() { tail -c 65536 "$1" | od -An -v -tx1 | tr -d ' \n'; }
    echo "$number $status .$(hex "$work/out") .$(hex "$work/err")"
done
"#;
const EXEC_UNIT: &str = "[Unit]\nDescription=olbake runs commands\nStartLimitIntervalSec=0\n\n\
     [Service]\nExecStart=/bin/sh /usr/local/lib/olbake-cloud/exec\nRestart=always\nRestartSec=100ms\n";
const WANTED: &str = "\n[Install]\nWantedBy=multi-user.target\n";
const START: &str = "#!/bin/sh\nsystemctl daemon-reload\n\
     systemctl enable --now --no-block olbake-cloud-exec.service olbake-cloud-up.service\n";

/// Prepares its disks and returns the script that runs it.
pub(super) fn prepare(place: &Place, spec: &InstanceSpec, address: &Address) -> Result<String, CloudError> {
    let folder = place.of(Kind::Instance, spec.id.as_str());
    let architecture = if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::Amd64 };
    let (code, variables) =
        firmware(architecture).ok_or_else(|| host_error("no UEFI firmware is installed"))?;
    let disk = disks::keep(place, spec.digest, &spec.disk)?;
    once(&folder.join("disk.qcow2"), |new| {
        let base = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.as_str(), new.as_str()];
        HostCommand::new("qemu-img").args(base).run().map(drop)
    })?;
    once(&folder.join("variables.fd"), |new| {
        fs::copy(variables, new).map(drop).map_err(io_error("cannot make", new))
    })?;
    once(&folder.join("seed.img"), |new| seed(spec, address, &folder, new))?;
    remove(&folder.join(UP))?;
    let accelerated = kvm::runs(architecture, &folder)?;
    let link = place.link(Link::Instance, &spec.id);
    let qemu = qemu(place, spec, address, architecture, accelerated, code.to_str().unwrap_or_default());
    Ok(format!(
        r#"{enter}    ip tuntap add dev {link} mode tap
    ip link set dev {link} alias {alias} master {bridge} up
    exec {locks}sh "$0" apart
    ;;
apart)
    exec unshare --pid --fork --kill-child=KILL -- sh "$0" boot
    ;;
boot)
    : >ready
    exec {qemu}
    ;;
"#,
        enter = Group::named(container::machine_name(place, spec.id.as_str())).enter(),
        alias = quoted(&alias(place, Kind::Instance, &spec.id)),
        bridge = place.link(Link::Bridge, &spec.network),
        locks = container::locks(place, spec),
        qemu = words(qemu),
    ))
}

/// Makes a file that later boots find as it was left; whole or not at all.
fn once(path: &Utf8Path, make: impl FnOnce(&Utf8Path) -> Result<(), MachineError>) -> Result<(), CloudError> {
    if path.exists() {
        return Ok(());
    }
    let new = Utf8PathBuf::from(format!("{path}.new"));
    remove(&new)?;
    make(&new)?;
    Ok(fs::rename(&new, path).map_err(io_error("cannot make", path))?)
}

fn qemu(
    place: &Place,
    spec: &InstanceSpec,
    address: &Address,
    architecture: Architecture,
    accelerated: bool,
    code: &str,
) -> Vec<String> {
    let (program, _) = emulator(architecture);
    let machine = if architecture == Architecture::Amd64 { "q35" } else { "virt" };
    // As in `crate::vm`: all of the emulated processor.
    let (accelerator, processor) = if accelerated { ("kvm", "host") } else { ("tcg,thread=multi", "max") };
    let memory = (spec.limits.memory.unwrap_or(MEMORY) >> 20).max(256).to_string();
    let tap = format!("tap,id=net,ifname={},script=no,downscript=no", place.link(Link::Instance, &spec.id));
    let card = format!("virtio-net-pci,netdev=net,mac={}", address.hardware);
    let code = format!("if=pflash,unit=0,format=raw,readonly=on,file={code}");
    let fixed: [&[&str]; 13] = [
        &[program, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
        &["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny"],
        &["-machine", machine, "-accel", accelerator, "-cpu", processor, "-smp", "2", "-m", &memory],
        &["-drive", &code, "-drive", "if=pflash,unit=1,format=raw,file=variables.fd"],
        &["-drive", "if=none,id=root,format=qcow2,discard=unmap,file=disk.qcow2"],
        &["-device", "virtio-blk-pci,drive=root,bootindex=1", "-device", "virtio-rng-pci"],
        &["-drive", "if=none,id=seed,format=raw,readonly=on,file=seed.img"],
        &["-device", "virtio-blk-pci,drive=seed", "-netdev", &tap, "-device", &card],
        &["-chardev", "file,id=console,path=console.log,append=on", "-serial", "chardev:console"],
        &["-device", "virtio-serial-pci", "-qmp", "unix:control,server=on,wait=off"],
        &["-chardev", "socket,id=exec,path=exec,server=on,wait=off"],
        &["-device", "virtserialport,chardev=exec,name=org.olbake.exec"],
        &["-chardev", "file,id=up,path=up", "-device", "virtserialport,chardev=up,name=org.olbake.up"],
    ];
    let volumes = spec.volumes.iter().enumerate().flat_map(|(number, attached)| {
        let image = volume::image(place, &attached.id);
        let drive = format!("if=none,id=volume{number},format=raw,discard=unmap,file={image}");
        let device = format!("virtio-blk-pci,drive=volume{number},serial=olbake-{number}");
        ["-drive".to_owned(), drive, "-device".to_owned(), device]
    });
    fixed.into_iter().flatten().map(|&word| word.to_owned()).chain(volumes).collect()
}

/// Makes the disk with boot inputs.
fn seed(
    spec: &InstanceSpec,
    address: &Address,
    folder: &Utf8Path,
    image: &Utf8Path,
) -> Result<(), MachineError> {
    let inputs = folder.join("seed");
    make_folder(&inputs)?;
    let files = [
        ("meta-data", inputs::meta_data(spec)),
        ("user-data", user_data(spec)),
        ("network-config", network_config(address)),
    ];
    let mut paths = Vec::new();
    for (name, content) in files {
        let path = inputs.join(name);
        write_whole(&path, content.as_bytes())?;
        paths.push(path);
    }
    HostCommand::new("mkfs.fat").args(["-C", "-n", "CIDATA", image.as_str(), SEED]).run()?;
    HostCommand::new("mcopy")
        .env("MTOOLSRC", "/dev/null")
        .args(["-i", image.as_str()])
        .args(paths)
        .arg("::")
        .run()?;
    Ok(())
}

fn network_config(address: &Address) -> String {
    let Address { address, cidr, hardware } = address;
    let config = json!({"version": 2, "ethernets": {"eth0": {
        "match": {"macaddress": hardware},
        "addresses": [format!("{address}/{}", cidr.prefix())],
        "routes": [{"to": "0.0.0.0/0", "via": cidr.gateway()}],
        "nameservers": {"addresses": [cidr.gateway()]},
    }}});
    format!("{config}\n")
}

/// The user's data and olbake's, in parts that cloud-init tells apart by their first lines. Lists of both are kept.
fn user_data(spec: &InstanceSpec) -> String {
    let file = |path: &str, content: &str| json!({"path": path, "content": content, "permissions": "0644"});
    let mounts = spec.volumes.iter().enumerate().map(|(number, attached)| {
        let device = format!("/dev/disk/by-id/virtio-olbake-{number}");
        json!([device, attached.path, "ext4", "defaults,nofail,noatime", "0", "2"])
    });
    let exec = format!("{}{EXEC_SCRIPT}", guest::wait_for("org.olbake.exec"));
    let exec_unit = format!("{EXEC_UNIT}{WANTED}");
    let up_unit = format!("{}{WANTED}", guest::ready_unit("org.olbake.up"));
    let own = json!({
        "merge_how": "dict(recurse_array,no_replace)+list(append)+str()",
        "write_files": [
            file(INSTANCE_FILE, &spec.identity),
            file("/usr/local/lib/olbake-cloud/exec", &exec),
            file("/etc/systemd/system/olbake-cloud-exec.service", &exec_unit),
            file("/etc/systemd/system/olbake-cloud-up.service", &up_unit),
        ],
        "mounts": mounts.collect::<Vec<_>>(),
    });
    // Not to be found in what a user writes, or else the parts would not be told apart.
    let boundary = format!("olbake-{}", spec.digest.hex());
    let mut text = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n");
    for part in [inputs::user_data(spec), &format!("#cloud-config\n{own}\n"), START] {
        text += &format!("--{boundary}\nContent-Type: text/plain; charset=\"utf-8\"\n\n{part}\n");
    }
    text + &format!("--{boundary}--\n")
}

/// How far it is, by its own word.
pub(super) fn state(place: &Place, id: &Id) -> Result<State, CloudError> {
    let said = fs::read_to_string(place.of(Kind::Instance, id.as_str()).join(UP)).unwrap_or_default();
    Ok(match said.trim() {
        "running" => State::Running,
        "" | "initializing" | "starting" => State::Booting,
        "stopping" => State::Stopping,
        _ => State::Degraded,
    })
}

/// Presses its power button.
pub(super) fn power_off(place: &Place, id: &Id) -> Result<(), CloudError> {
    let folder = place.of(Kind::Instance, id.as_str());
    let press = || -> std::io::Result<()> {
        let mut stream = connect(&folder, CONTROL, ANSWER)?;
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"system_powerdown\"}\n")?;
        // A greeting and two answers: then the button was pressed.
        let mut lines = BufReader::new(stream).lines();
        (0..3).try_for_each(|_| lines.next().transpose().map(drop))
    };
    Ok(press().map_err(io_error("cannot speak with QEMU in", &folder))?)
}

/// Runs a command in it.
pub(super) fn run(place: &Place, id: &Id, argv: &[String], time: Duration) -> Result<Executed, CloudError> {
    let not_yet = |_: std::io::Error| CloudError::NotRunning { id: id.clone(), state: State::Booting };
    let folder = place.of(Kind::Instance, id.as_str());
    if !keeper(place, id).is_ready()? || !state(place, id)?.is_up() {
        return Err(CloudError::NotRunning { id: id.clone(), state: State::Booting });
    }
    let end = Instant::now() + ANSWER;
    let mut stream = connect(&folder, EXEC, ANSWER).map_err(not_yet)?;
    let mut reader = BufReader::new(stream.try_clone().map_err(not_yet)?);
    // Whoever listens says so first: a command is sent once.
    let number = request_name();
    loop {
        stream.write_all(format!("{number} 0\n").as_bytes()).map_err(not_yet)?;
        if answer(&mut reader, &format!("{number} here"), Duration::from_secs(1)).is_some() {
            break;
        }
        if Instant::now() >= end {
            return Err(not_yet(std::io::ErrorKind::TimedOut.into()));
        }
    }
    let script: String = words(argv).bytes().map(|byte| format!("\\0{byte:03o}")).collect();
    let limit = time.as_secs().max(1);
    stream.write_all(format!("{number}-run {limit} {script}\n").as_bytes()).map_err(not_yet)?;
    let patience = time + ANSWER;
    Ok(executed(answer(&mut reader, &format!("{number}-run "), patience).as_deref()))
}

/// A word that no earlier request of any process had.
fn request_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn executed(answer: Option<&str>) -> Executed {
    let mut fields = answer.unwrap_or_default().split(' ').skip(1);
    let status = fields.next().and_then(|status| status.parse().ok());
    let mut output = || fields.next().map(text_of).unwrap_or_default();
    let outcome = match status {
        // What `timeout` says of a command that it ended.
        Some(124 | 137) => Outcome::TimedOut,
        Some(status) => Outcome::Exited(status),
        None => Outcome::TimedOut,
    };
    Executed { outcome, stdout: output(), stderr: output() }
}

fn text_of(field: &str) -> String {
    let digits = field.trim_start_matches('.').as_bytes();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The next line that begins so.
fn answer(reader: &mut BufReader<UnixStream>, beginning: &str, time: Duration) -> Option<String> {
    let end = Instant::now() + time;
    let mut line = Vec::new();
    loop {
        let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        reader.get_ref().set_read_timeout(Some(left)).ok()?;
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) if line.ends_with(b"\n") => {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                line.clear();
                if text.starts_with(beginning.trim_end()) {
                    return Some(text);
                }
            }
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// By way of the open folder, because a socket's path must be short.
fn connect(folder: &Utf8Path, socket: &str, time: Duration) -> std::io::Result<UnixStream> {
    let opened = File::open(folder)?;
    let stream = UnixStream::connect(format!("/proc/self/fd/{}/{socket}", opened.as_raw_fd()))?;
    stream.set_read_timeout(Some(time))?;
    stream.set_write_timeout(Some(time))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let done = executed(Some("71 3 .6f75740a ."));
        assert_eq!(
            done,
            Executed { outcome: Outcome::Exited(3), stdout: "out\n".into(), stderr: String::new() }
        );
        assert_eq!(executed(None).outcome, Outcome::TimedOut);
        assert_eq!(executed(Some("71 124 . .")).outcome, Outcome::TimedOut);
    }
}
