//! A host's root file system that holds still while its disk is copied. Main type: [`Frozen`].
//!
//! Who freezes it is a shell on the host, which thaws it when told to, or when its connection is gone: a host whose root
//! stays frozen cannot even be shut down. What it needs after the freeze is in it already, or only read.

use std::time::Duration;

use openssh::{Child, ChildStdin, ChildStdout, Stdio};
use tokio::io::{AsyncReadExt, BufReader};

use crate::agent::{Errors, command_line, line};
use crate::connection::{Connection, chain};
use crate::error::SshError;

/// File systems beside the root that may be on its disk and know no freeze: they are written through, and then only read.
const BOOT: &str = "/boot/efi /efi /boot";
/// How long it may take until all that was written is on the disk.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the last word may take to come.
const LAST_WORD: Duration = Duration::from_secs(10);

const FROZEN: &str = "olbake frozen";

/// A root file system on which nothing is written. Dropping it lets go, without waiting.
pub struct Frozen {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The command, and what it runs over.
    _child: Child<std::sync::Arc<openssh::Session>>,
    host: String,
}

impl Connection {
    /// Writes through what is in memory and freezes the root file system.
    pub async fn freeze(&self) -> Result<Frozen, SshError> {
        let host = self.host().to_owned();
        let lost =
            |error: &openssh::Error| SshError::Unreachable { host: host.clone(), reason: chain(error) };
        let mut command = self.command(&command_line(&script()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().await.map_err(|error| lost(&error))?;
        let input = child.stdin().take().expect("standard input was asked for");
        let mut output = BufReader::new(child.stdout().take().expect("standard output was asked for"));
        let mut errors = Errors::collect(child.stderr().take().expect("standard error was asked for"));
        let said = tokio::time::timeout(PATIENCE, async {
            while let Some(said) = line(&mut output).await {
                if said.trim_end() == FROZEN {
                    return true;
                }
            }
            false
        });
        if said.await.unwrap_or(false) {
            return Ok(Frozen { input, output, _child: child, host });
        }
        drop(input);
        Err(SshError::Freeze { host, output: errors.words().await })
    }
}

impl Frozen {
    /// Lets it be written to again.
    pub async fn thaw(mut self) -> Result<(), SshError> {
        drop(self.input);
        let mut rest = String::new();
        let end = tokio::time::timeout(LAST_WORD, self.output.read_to_string(&mut rest)).await;
        match end {
            Ok(Ok(_)) if rest.trim_end() == "olbake thawed" => Ok(()),
            _ => Err(SshError::Freeze { host: self.host, output: "it did not thaw".to_owned() }),
        }
    }
}

fn script() -> String {
    format!(
        r#"sync
for place in {BOOT}; do
  mountpoint -q "$place" && mount -o remount,ro "$place"
done
fsfreeze --freeze / || exit 1
echo {FROZEN}
read -r _
fsfreeze --unfreeze / && echo olbake thawed
"#
    )
}
