//! Names in a network, answered by dnsmasq on the network's first address. Nothing else is answered or asked.
//!
//! Main types: [`RecordSpec`], [`RecordView`].

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::keeper::{Keeper, quoted};
use super::network::NetworkSpec;
use super::place::{Lock, Place, make_folder, remove, write_whole};
use super::{Change, Cidr, CloudError, Ensured, Id, Kind};

/// What a name is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSpec {
    /// Which.
    pub id: Id,
    /// In which network it is answered.
    pub network: Id,
    /// The name: `database.hello`.
    pub name: String,
    /// What it stands for.
    pub addresses: Vec<Ipv4Addr>,
}

/// What a name is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordView {
    /// As it was asked for.
    pub spec: RecordSpec,
    /// Whether it is answered.
    pub served: bool,
}

/// How long the resolver may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
const FOLDER: &str = "names";
const HOSTS: &str = "hosts";

pub(super) fn ensure(place: &Place, spec: &RecordSpec) -> Result<Ensured<RecordView>, CloudError> {
    check(spec)?;
    let RecordSpec { id, network, .. } = spec;
    let _held = place.lock(Kind::Record, id.as_str())?;
    place.expect(Kind::Network, network)?;
    let known: Option<RecordSpec> = place.spec(Kind::Record, id)?;
    if known.as_ref().is_some_and(|known| known.network != *network) {
        return Err(CloudError::Different { kind: Kind::Record, id: id.clone(), what: "network".to_owned() });
    }
    let file = hosts(place, network).join(id.as_str());
    let whole = known.as_ref() == Some(spec) && std::fs::read_to_string(&file).ok() == Some(lines(spec));
    if !whole {
        place.write_spec(Kind::Record, id, spec)?;
        write(place, spec)?;
        keeper(place, network).tell(Signal::HUP)?;
    }
    let view = RecordView { spec: spec.clone(), served: are_served(place, network)? };
    Ok(Ensured { change: Change::of(known.is_some(), whole), view })
}

pub(super) fn inspect(place: &Place, id: &Id) -> Result<Option<RecordView>, CloudError> {
    let Some(spec) = place.spec::<RecordSpec>(Kind::Record, id)? else { return Ok(None) };
    let file = hosts(place, &spec.network).join(id.as_str());
    let written = std::fs::read_to_string(file).ok() == Some(lines(&spec));
    Ok(Some(RecordView { served: written && are_served(place, &spec.network)?, spec }))
}

pub(super) fn delete(place: &Place, id: &Id) -> Result<(), CloudError> {
    let _held = place.lock(Kind::Record, id.as_str())?;
    for network in place.ids(Kind::Network)? {
        let file = hosts(place, &network).join(id.as_str());
        if file.exists() {
            remove(&file)?;
            keeper(place, &network).tell(Signal::HUP)?;
        }
    }
    place.remove(Kind::Record, id.as_str())
}

/// Answers names in a network, where it is not done yet. `lock` is the network's.
pub(super) fn serve(place: &Place, network: &Id, cidr: Cidr, lock: &Lock) -> Result<(), CloudError> {
    let keeper = keeper(place, network);
    if are_served(place, network)? {
        return Ok(());
    }
    keeper.kill()?;
    make_folder(&hosts(place, network))?;
    for id in place.ids(Kind::Record)? {
        let spec: Option<RecordSpec> = place.spec(Kind::Record, &id)?;
        spec.filter(|spec| spec.network == *network).map_or(Ok(()), |spec| write(place, &spec))?;
    }
    if keeper.start(&script(cidr), &[], lock)? {
        let end = Instant::now() + ANSWER;
        while Instant::now() < end {
            if are_served(place, network)? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Err(CloudError::Start { kind: Kind::Network, id: network.clone(), console: keeper.console().tail() })
}

/// Whether names are answered: what answers them accepts connections too.
pub(super) fn are_served(place: &Place, network: &Id) -> Result<bool, CloudError> {
    let Some(NetworkSpec { cidr, .. }) = place.spec(Kind::Network, network)? else { return Ok(false) };
    let address = SocketAddr::from((cidr.gateway(), 53));
    Ok(keeper(place, network).is_ready()? && TcpStream::connect_timeout(&address, ANSWER).is_ok())
}

pub(super) fn stop(place: &Place, network: &Id) -> Result<(), CloudError> {
    keeper(place, network).kill()
}

fn keeper(place: &Place, network: &Id) -> Keeper {
    Keeper::of(place.of(Kind::Network, network.as_str()).join(FOLDER))
}

fn hosts(place: &Place, network: &Id) -> camino::Utf8PathBuf {
    place.of(Kind::Network, network.as_str()).join(FOLDER).join(HOSTS)
}

fn write(place: &Place, spec: &RecordSpec) -> Result<(), CloudError> {
    let folder = hosts(place, &spec.network);
    make_folder(&folder)?;
    Ok(write_whole(&folder.join(spec.id.as_str()), lines(spec).as_bytes())?)
}

fn lines(spec: &RecordSpec) -> String {
    spec.addresses.iter().map(|address| format!("{address} {}\n", spec.name)).collect()
}

fn check(spec: &RecordSpec) -> Result<(), CloudError> {
    let RecordSpec { id, name, .. } = spec;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    let problem = format!("`{name}` is no name of letters, digits, `-` and dots");
    Err(CloudError::Spec { kind: Kind::Record, id: id.clone(), problem })
}

/// It reads all names again when it is told to, and is started again when it ends. It needs no right of root's but
/// the port.
fn script(cidr: Cidr) -> String {
    let listen = quoted(&format!("--listen-address={}", cidr.gateway()));
    format!(
        r#"    exec unshare --pid --fork --kill-child=KILL -- env --default-signal=HUP sh "$0" serve
    ;;
serve)
    # One that has just begun is ended by the signal; the next one reads all there is.
    trap 'kill -HUP "$child" 2>/dev/null || :' HUP
    while :; do
        setpriv --no-new-privs --bounding-set=-all,+net_bind_service,+setgid,+setuid --inh-caps=-all -- \
            dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root --group=root \
            --log-facility=- --no-resolv --no-hosts --hostsdir="$PWD/{HOSTS}" --address=/#/ --local-ttl=1 \
            --bind-interfaces --except-interface=lo {listen} 9>&- &
        child=$!
        : >ready
        while kill -0 "$child" 2>/dev/null; do wait "$child" || :; done
        sleep 0.2
    done
    ;;
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_name() {
        let spec = |name: &str| RecordSpec {
            id: "a".parse().unwrap(),
            network: "n".parse().unwrap(),
            name: name.to_owned(),
            addresses: vec![],
        };
        assert!(check(&spec("database.hello")).is_ok());
        for bad in ["", ".", "a..b", "a b", "a\nb", "-a", &"x".repeat(64)] {
            assert!(check(&spec(bad)).is_err(), "{bad}");
        }
    }
}
