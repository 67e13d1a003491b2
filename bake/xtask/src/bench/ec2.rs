//! A bake on an instance of the test cloud beside Packer's amazon-ebs with the same recipe as a shell provisioner.
//!
//! Both start from the same image, install one package, write a few files, and end when their image is there. olbake does
//! more: it removes what identifies the build, searches for leaks, boots a candidate and checks it, and reads the disk
//! into its store.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use super::cloud::{Cloud, Instances};
use super::{Figure, Target, median, process};
use crate::build::{self, Built, Profile};

pub(super) const FIGURES: [&str; 2] = ["ec2.bake.packer.ratio", "ec2.bake.api_calls.ratio"];

const REPEATS: usize = 3;

const COMPONENT: &str = r##"def install(s, m):
    apt.packages(["nginx-light"])

def configure(s, m):
    for n in range(10):
        files.content("/etc/nginx/conf.d/%d.conf" % n, "# NUMBER %d\n" % n, mode = 0o644)

def units(s, m):
    systemd.service("nginx.service", enabled = True)

def verify(s, m):
    check.unit("nginx.service", active = True)

component(name = "bench", install = install, configure = configure, units = units, verify = verify)
"##;
const IMAGE: &str = r#"image(
    name = "bench",
    base = ami("136693071363", "debian-12-*"),
    components = [use("//components/bench")],
)
"#;

pub(super) fn measure(built: &Built) -> Result<Vec<Figure>> {
    ensure!(installed()?, "packer cannot be installed: apt-get install packer");
    let olbake = build::with_aws()?;
    let cloud = build::test_cloud(Profile::Release)?;
    let folder = Utf8PathBuf::from(format!("/var/tmp/olbake-bench-ec2-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("cannot make `{folder}`"))?;
    let measured = compare(&olbake, built, &cloud, &folder);
    // What cannot be removed is in the folder for temporary things.
    drop(std::fs::remove_dir_all(&folder));
    measured
}

/// Whether Packer is there, after installing it if need be.
fn installed() -> Result<bool> {
    let is_there =
        || Command::new("packer").arg("version").output().is_ok_and(|output| output.status.success());
    if !is_there() {
        Command::new("apt-get").args(["install", "-y", "-qq", "packer"]).status()?;
    }
    Ok(is_there())
}

fn compare(olbake: &Utf8Path, built: &Built, cloud: &Utf8Path, folder: &Utf8Path) -> Result<Vec<Figure>> {
    let cloud = Cloud::start(cloud, &folder.join("cloud"), Instances::Run)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut our_calls, mut their_calls) = (Vec::new(), Vec::new());
    for number in 0..REPEATS {
        write_recipe(folder, number)?;
        write_template(folder, &cloud.endpoint(), number)?;
        let mut bake = Command::new(olbake);
        bake.args(["bake", "bench", "--on", "ec2", "--json"]).current_dir(folder.join("workspace"));
        bake.envs(cloud.environment()).env("OLBAKE_AGENT", &built.agent).env_remove("OLBAKE_CACHE");
        let (seconds, calls) = counted(&cloud, &mut bake)?;
        ours.push(seconds);
        our_calls.push(calls);
        let mut packer = Command::new("packer");
        packer.args(["build", "template.json"]).current_dir(folder).envs(cloud.environment());
        packer.env("CHECKPOINT_DISABLE", "1").env("PACKER_CACHE_DIR", folder.join("packer").as_str());
        let (seconds, calls) = counted(&cloud, &mut packer)?;
        theirs.push(seconds);
        their_calls.push(calls);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let (our_calls, their_calls) = (median(our_calls), median(their_calls));
    Ok(vec![
        Figure {
            name: FIGURES[0],
            value: theirs / ours,
            unit: "×",
            against: format!(
                "{ours:.1} s, seal, fresh boot and checks included; packer 1.6.6: {theirs:.1} s"
            ),
            target: Target::AtLeast(2.0),
        },
        Figure {
            name: FIGURES[1],
            value: our_calls / their_calls,
            unit: "×",
            against: format!("{our_calls:.0} calls but for reading blocks; packer: {their_calls:.0}"),
            target: Target::AtMost(0.5),
        },
    ])
}

/// Seconds that a command takes, and the calls of EC2 that it makes.
fn counted(cloud: &Cloud, command: &mut Command) -> Result<(f64, f64)> {
    cloud.ask("DELETE", "/_calls", "")?;
    let taken = process::run(command)?;
    let counts = cloud.ask("GET", "/_calls", "")?;
    let by_action = counts["by_action"].as_object().context("the test cloud counts no calls")?;
    let calls = by_action.iter().filter(|(name, _)| name.starts_with("ec2:"));
    Ok((taken.seconds, calls.filter_map(|(_, count)| count.as_f64()).sum()))
}

fn write_recipe(folder: &Utf8Path, number: usize) -> Result<()> {
    let workspace = folder.join("workspace");
    for (file, text) in [
        ("olbake.toml", "[ec2]\naddress = \"private\"\n".to_owned()),
        ("components/bench/component.star", COMPONENT.replace("NUMBER", &number.to_string())),
        ("images/bench/image.star", IMAGE.to_owned()),
    ] {
        let path = workspace.join(file);
        std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        std::fs::write(path, text)?;
    }
    Ok(())
}

fn write_template(folder: &Utf8Path, endpoint: &str, number: usize) -> Result<()> {
    let files = (0..10).map(|n| format!("echo '# {number} {n}' > /etc/nginx/conf.d/{n}.conf"));
    let mut lines = vec![
        "apt-get update -qq".to_owned(),
        "DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nginx-light".to_owned(),
    ];
    lines.extend(files);
    lines.push("systemctl enable nginx.service".to_owned());
    let template = serde_json::json!({
        "builders": [{
            "type": "amazon-ebs", "region": "us-east-1", "custom_endpoint_ec2": endpoint,
            "access_key": "test", "secret_key": "test", "skip_region_validation": true,
            "source_ami_filter": {
                "filters": {"name": "debian-12-*"}, "owners": ["136693071363"], "most_recent": true,
            },
            "instance_type": "t3.medium", "ssh_username": "admin", "ssh_interface": "private_ip",
            "ami_name": format!("bench-{number}"),
        }],
        "provisioners": [{
            "type": "shell", "execute_command": "sudo -E sh '{{ .Path }}'", "inline": lines,
        }],
    });
    std::fs::write(folder.join("template.json"), template.to_string())?;
    Ok(())
}
