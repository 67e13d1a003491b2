//! HAProxy's runtime interface: commands to a socket in the balancer's folder. Main type: [`Runtime`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use camino::Utf8PathBuf;

use super::Id;
use super::balancer::Health;

const SOCKET: &str = "admin.sock";
const PATIENCE: Duration = Duration::from_secs(5);
/// Bits of a server's administrative state: switched off, and given nothing new.
const OFF: u32 = 0x01;
const DRAINED: u32 = 0x08;

/// The way to a process whose configuration has a socket `admin.sock`, and servers `s0`, `s1`, … in each backend:
/// slots, which are members or empty. It begins with `description olbake:WORD`.
#[derive(Clone, Debug)]
pub struct Runtime {
    folder: Utf8PathBuf,
}

/// What a slot is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The member's address.
    pub address: Ipv4Addr,
    /// The port that it answers on.
    pub port: u16,
    /// Its share, 0 to 256.
    pub weight: u16,
    /// Whether it is to get nothing new.
    pub draining: bool,
}

/// What the process says of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    backend: String,
    name: String,
    address: String,
    port: String,
    weight: u32,
    state: u32,
}

/// The state of a slot for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    backend: String,
    name: String,
    pub(super) health: Health,
    pub(super) check: String,
    pub(super) sessions: u32,
}

impl Line {
    pub(super) fn is_of(&self, backend: &Id, slot: u16) -> bool {
        self.backend == backend.as_str() && self.name == format!("s{slot}")
    }
}

impl Runtime {
    /// To the process of a folder.
    pub fn of(folder: Utf8PathBuf) -> Self {
        Self { folder }
    }

    /// The word for the configuration that the process has read.
    pub fn structure(&self) -> Result<String, String> {
        let answer = self.ask("show info")?;
        let line = answer.lines().find_map(|line| line.strip_prefix("description: olbake:"));
        line.map(|word| word.trim().to_owned()).ok_or_else(|| format!("unexpected: {answer}"))
    }

    /// What it says of each slot.
    pub(super) fn statistics(&self) -> Result<Vec<Line>, String> {
        Ok(lines(&self.ask("show stat")?))
    }

    /// Makes every slot what it is to be; whether one was not.
    pub fn converge(&self, wanted: impl Fn(&str, u16) -> Option<Slot>) -> Result<bool, String> {
        let commands: Vec<String> = servers(&self.ask("show servers state")?)
            .iter()
            .filter_map(|server| Some((server, server.name.strip_prefix('s')?.parse().ok()?)))
            .flat_map(|(server, slot)| server.commands(wanted(&server.backend, slot)))
            .collect();
        // As many as fit into the line that it reads at once.
        for some in commands.chunks(64) {
            let answer = self.ask(&some.join(";"))?;
            // What changes an address or a port says so; everything else is quiet.
            let told =
                answer.lines().map(str::trim).find(|line| !line.is_empty() && !line.contains("changed from"));
            if let Some(problem) = told.filter(|line| !line.contains("no need to change")) {
                return Err(problem.to_owned());
            }
        }
        Ok(!commands.is_empty())
    }

    /// By way of the open folder, because a socket's path must be short.
    fn ask(&self, command: &str) -> Result<String, String> {
        let ask = || -> std::io::Result<String> {
            let folder = File::open(&self.folder)?;
            let mut stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(format!("{command}\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().map_err(|error| format!("HAProxy does not answer: {error}"))
    }
}

impl Server {
    /// What it takes to make it what it is to be.
    fn commands(&self, wanted: Option<Slot>) -> Vec<String> {
        let Self { backend, name, .. } = self;
        let set = |what: String| format!("set server {backend}/{name} {what}");
        let off = self.state & OFF != 0;
        let Some(Slot { address, port, weight, draining }) = wanted else {
            return if off { Vec::new() } else { vec![set("state maint".to_owned())] };
        };
        let mut commands = Vec::new();
        let elsewhere = self.address != address.to_string() || self.port != port.to_string();
        if elsewhere && !off {
            commands.push("state maint".to_owned());
        }
        if elsewhere {
            commands.push(format!("addr {address} port {port}"));
        }
        let drained = self.state & DRAINED != 0;
        if off || elsewhere {
            // It is asked nothing before it has passed its checks.
            commands.extend(["state drain".to_owned(), "health down".to_owned()]);
        }
        // A process that was started on a member that drains knows it by its weight.
        if !draining && self.weight != u32::from(weight) {
            commands.push(format!("weight {weight}"));
        }
        if draining && !(off || elsewhere || drained) {
            commands.push("state drain".to_owned());
        }
        if !draining && (off || elsewhere || drained) {
            commands.push("state ready".to_owned());
        }
        commands.into_iter().map(set).collect()
    }
}

/// Reads the answer to `show servers state`: a version, the names of columns, a line for each server.
fn servers(answer: &str) -> Vec<Server> {
    let header = answer.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default();
    let columns: BTreeMap<&str, usize> = header.split(' ').enumerate().map(|(at, name)| (name, at)).collect();
    let rows =
        answer.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect::<Vec<_>>());
    rows.filter_map(|row| {
        let field = |name: &str| row.get(*columns.get(name)?).map(|text| (*text).to_owned());
        Some(Server {
            backend: field("be_name")?,
            name: field("srv_name")?,
            address: field("srv_addr")?,
            port: field("srv_port")?,
            weight: field("srv_uweight")?.parse().ok()?,
            state: field("srv_admin_state")?.parse().ok()?,
        })
    })
    .collect()
}

/// Reads the answer to `show stat`: names of columns, a line for each frontend, backend and server.
fn lines(answer: &str) -> Vec<Line> {
    let mut rows = answer.lines();
    let header = rows.next().unwrap_or_default().trim_start_matches("# ");
    let columns: BTreeMap<&str, usize> = header.split(',').enumerate().map(|(at, name)| (name, at)).collect();
    rows.filter_map(|row| {
        let row: Vec<&str> = row.split(',').collect();
        let field = |name: &str| row.get(*columns.get(name)?).map(|text| (*text).to_owned());
        let code = field("check_code").filter(|code| !code.is_empty());
        let check = field("check_status")?;
        // A member that drains is checked all the same.
        let health = match field("status")?.split(' ').next() {
            Some("UP" | "no" | "NOLB") => Health::Up,
            Some("DRAIN") if check.starts_with("L7OK") || check.starts_with("L4OK") => Health::Up,
            Some("DOWN" | "DRAIN") => Health::Down,
            _ => Health::Unknown,
        };
        Some(Line {
            backend: field("pxname")?,
            name: field("svname")?,
            health,
            check: code.map_or_else(|| check.clone(), |code| format!("{check}/{code}")),
            sessions: field("scur")?.parse().ok()?,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n3 web 1 s0 10.0.0.2 2 0 100 1 10 15 3 4 6 0 0 0 - 80 - 0 0 - - 0\n3 web 2 s1 127.0.0.1 0 5 1 1 10 1 0 2 14 0 0 0 - 1 - 0 0 - - 0\n\n";

    fn commands(slot: u16, wanted: Option<Slot>) -> Vec<String> {
        let servers = servers(STATE);
        let commands = servers[usize::from(slot)].commands(wanted);
        commands
            .iter()
            .map(|line| line.split_once(' ').unwrap().1.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    fn slot() -> Slot {
        Slot { address: Ipv4Addr::new(10, 0, 0, 2), port: 80, weight: 100, draining: false }
    }

    #[test]
    fn what_is_as_it_is_to_be_is_left_alone() {
        assert!(commands(0, Some(slot())).is_empty());
        assert!(commands(1, None).is_empty());
    }

    #[test]
    fn a_new_member_gets_nothing_before_it_is_healthy() {
        assert_eq!(
            commands(1, Some(slot())),
            [
                "web/s1 addr 10.0.0.2 port 80",
                "web/s1 state drain",
                "web/s1 health down",
                "web/s1 weight 100",
                "web/s1 state ready"
            ]
        );
    }

    #[test]
    fn members_drain_weigh_and_leave() {
        assert_eq!(commands(0, Some(Slot { draining: true, ..slot() })), ["web/s0 state drain"]);
        assert_eq!(commands(0, Some(Slot { weight: 5, ..slot() })), ["web/s0 weight 5"]);
        assert_eq!(commands(0, None), ["web/s0 state maint"]);
        assert_eq!(
            commands(0, Some(Slot { port: 81, ..slot() })),
            [
                "web/s0 state maint",
                "web/s0 addr 10.0.0.2 port 81",
                "web/s0 state drain",
                "web/s0 health down",
                "web/s0 state ready"
            ]
        );
    }

    #[test]
    fn statistics_are_read_by_their_columns() {
        let answer = "# pxname,svname,qcur,scur,status,check_status,check_code,\nweb,s0,0,3,UP 1/2,L7OK,200,\nweb,s1,0,0,DRAIN,L4CON,,\nweb,s2,0,0,MAINT,,,\n\n";
        let lines = lines(answer);
        assert_eq!(
            (lines[0].health, lines[0].sessions, lines[0].check.as_str()),
            (Health::Up, 3, "L7OK/200")
        );
        assert_eq!((lines[1].health, lines[2].health), (Health::Down, Health::Unknown));
        assert!(lines[1].is_of(&"web".parse().unwrap(), 1));
    }
}
