//! `cargo xtask`: everything that CI, the README and developers call.
//!
//! | command | what it does |
//! |---|---|
//! | `setup` | installs the Debian packages that olbake drives, when root |
//! | `build` | builds the agent and olbake, and puts them together in `target/release` |
//! | `demo` | bakes the example images, deploys, upgrades and promotes them in the local cloud, and says what it did |
//! | `cloud` | runs a test cloud (EC2 and its neighbours on the loopback) until Ctrl-C |
//! | `test` | runs every test there is |
//! | `bench` | measures every figure side by side with its peer or floor |
//! | `fmt`, `lint` | rustfmt and clippy, as CI runs them |

mod bench;
mod build;
mod cloud;
mod demo;
mod setup;
mod test;

use anyhow::Result;
use camino::Utf8PathBuf;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything that CI, the README and developers call")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the Debian packages that olbake drives (as root; otherwise say which are missing)
    Setup,
    /// Build the agent and olbake, and put them together in target/release
    Build,
    /// Bake the example images, deploy, upgrade and promote them in the local cloud, and say what was done
    Demo {
        /// Leave nothing but the images behind
        #[arg(long)]
        clean: bool,
    },
    /// Run a test cloud, EC2 and its neighbours on the loopback, until Ctrl-C; print what clients must export
    Cloud {
        /// Where it keeps disks and snapshots
        #[arg(long, default_value = "/var/tmp/olbake-cloud")]
        root: Utf8PathBuf,
        /// Where it listens
        #[arg(long, default_value_t = 4566)]
        port: u16,
        /// Only keep records: instances do not run (as where the caller is not root)
        #[arg(long)]
        records_only: bool,
    },
    /// Run every test there is
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Measure figures side by side with their peers and floors
    Bench {
        /// Figures, by the start of their names; all when none is given
        figures: Vec<String>,
        /// One JSON object a figure
        #[arg(long)]
        json: bool,
    },
    /// Format the code, or check that it is
    Fmt {
        /// Only check
        #[arg(long)]
        check: bool,
    },
    /// Run clippy as CI does
    Lint,
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Build => build::release().map(|built| println!("{}", built.olbake)),
        Task::Demo { clean } => demo::run(if clean { demo::Leave::Nothing } else { demo::Leave::Stacks }),
        Task::Cloud { root, port, records_only } => cloud::run(
            &root,
            port,
            if records_only { cloud::Instances::Records } else { cloud::Instances::Run },
        ),
        Task::Test { filter } => test::run(filter.as_deref()),
        Task::Bench { figures, json } => bench::run(&figures, json),
        Task::Fmt { check } => test::fmt(check),
        Task::Lint => test::lint(),
    }
}
