//! What an instance is told, as a tree of paths. Main type: [`Tree`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use olbake_local::disk_machine::Subnet;
use serde_json::{Value, json};

use crate::ec2::body::Body;

/// The versions of the service that are answered; all of them say the same.
const VERSIONS: [&str; 4] = ["2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23"];

const INTERFACES: &str = "network/interfaces/macs/";

/// Everything that one instance is told.
#[derive(Debug)]
pub(super) struct Tree {
    /// Below `meta-data/`.
    metadata: BTreeMap<String, String>,
    user_data: Vec<u8>,
    document: String,
}

impl Tree {
    /// What follows from a body.
    pub(super) fn of(body: &Body) -> Self {
        // The hardware address follows from the address, whatever the record says.
        let hardware = Subnet::hardware_address(body.address);
        let recorded = body.metadata.iter();
        let mut metadata: BTreeMap<String, String> =
            recorded.map(|(path, value)| (with_hardware(path, &hardware), value.clone())).collect();
        metadata.insert("mac".to_owned(), hardware.clone());
        for (path, value) in own(body, &hardware) {
            metadata.entry(path).or_insert(value);
        }
        let document = document(body, &metadata);
        Self { metadata, user_data: body.user_data.clone(), document }
    }

    /// The answer to a path; `None`: there is nothing.
    pub(super) fn get(&self, path: &str) -> Option<Vec<u8>> {
        let path = path.trim_start_matches('/');
        if path.is_empty() {
            return Some([&VERSIONS[..], &["latest"]].concat().join("\n").into_bytes());
        }
        let (version, path) = path.split_once('/').unwrap_or((path, ""));
        if version != "latest" && !VERSIONS.contains(&version) {
            return None;
        }
        let text = |text: &str| Some(text.as_bytes().to_vec());
        match path.split_once('/').unwrap_or((path, "")) {
            ("", "") => text("dynamic\nmeta-data\nuser-data"),
            ("user-data", "") => Some(self.user_data.clone()).filter(|data| !data.is_empty()),
            ("dynamic", "") => text("instance-identity/"),
            ("dynamic", "instance-identity" | "instance-identity/") => text("document"),
            ("dynamic", "instance-identity/document") => text(&self.document),
            ("meta-data", path) => self.metadata(path).map(String::into_bytes),
            _ => None,
        }
    }

    fn metadata(&self, path: &str) -> Option<String> {
        if let Some(value) = self.metadata.get(path) {
            return Some(value.clone());
        }
        let folder = path.trim_end_matches('/');
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        if let Some(value) = folder.strip_prefix("public-keys/").and_then(|rest| self.key(rest)) {
            return Some(value);
        }
        let names: BTreeSet<String> = self
            .metadata
            .keys()
            .filter_map(|key| key.strip_prefix(folder.as_str()))
            .map(|rest| rest.split_once('/').map_or(rest.to_owned(), |(name, _)| listed(&folder, name)))
            .collect();
        (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join("\n"))
    }

    /// Keys are listed by number and name, and asked for by number alone.
    fn key(&self, rest: &str) -> Option<String> {
        let (number, rest) = rest.split_once('/')?;
        let named = format!("public-keys/{number}=");
        let (_, value) = self.metadata.iter().find(|(path, _)| path.starts_with(&named))?;
        match rest {
            "" => Some("openssh-key".to_owned()),
            "openssh-key/" => Some(value.clone()),
            _ => None,
        }
    }
}

fn listed(folder: &str, name: &str) -> String {
    if folder == "public-keys/" { name.to_owned() } else { format!("{name}/") }
}

/// A path below an interface, with the hardware address that the instance sees.
fn with_hardware(path: &str, hardware: &str) -> String {
    let below = path.strip_prefix(INTERFACES).and_then(|rest| rest.split_once('/'));
    below.map_or_else(|| path.to_owned(), |(_, rest)| format!("{INTERFACES}{hardware}/{rest}"))
}

/// What need not be told by the record. cloud-init takes an instance whose interface has no VPC for one of EC2's
/// beginnings, whose network it sets up otherwise.
fn own(body: &Body, hardware: &str) -> Vec<(String, String)> {
    let Body { instance, address, prefix, disk: _, user_data: _, metadata } = body;
    let network = Ipv4Addr::from_bits(address.to_bits() & u32::MAX << (32 - u32::from(*prefix).clamp(1, 32)));
    let name = host_name(*address);
    let local = format!("{INTERFACES}{hardware}");
    let mut own = vec![
        ("instance-id".to_owned(), instance.clone()),
        ("local-ipv4".to_owned(), address.to_string()),
        ("local-hostname".to_owned(), name.clone()),
        ("hostname".to_owned(), name.clone()),
        ("block-device-mapping/ami".to_owned(), "/dev/xvda".to_owned()),
        ("block-device-mapping/root".to_owned(), "/dev/xvda".to_owned()),
        ("services/domain".to_owned(), "amazonaws.com".to_owned()),
        ("services/partition".to_owned(), "aws".to_owned()),
        (format!("{local}/device-number"), "0".to_owned()),
        (format!("{local}/mac"), hardware.to_owned()),
        (format!("{local}/vpc-id"), "vpc-00000000".to_owned()),
        (format!("{local}/local-hostname"), name),
        (format!("{local}/local-ipv4s"), address.to_string()),
        (format!("{local}/subnet-ipv4-cidr-block"), format!("{network}/{prefix}")),
    ];
    if let Some(zone) = metadata.get("placement/availability-zone") {
        let region = zone.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        own.push(("placement/region".to_owned(), region.to_owned()));
    }
    own
}

/// The name that an instance gets from its address, without a domain: there is nobody who would answer for it.
pub(in crate::ec2) fn host_name(address: Ipv4Addr) -> String {
    format!("ip-{}", address.to_string().replace('.', "-"))
}

fn document(body: &Body, metadata: &BTreeMap<String, String>) -> String {
    let of = |path: &str| metadata.get(path).map_or(Value::Null, |value| Value::from(value.as_str()));
    let account = metadata.iter().find(|(path, _)| path.ends_with("/owner-id")).map(|(_, value)| value);
    let document = json!({
        "accountId": account,
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" },
        "availabilityZone": of("placement/availability-zone"),
        "billingProducts": null,
        "devpayProductCodes": null,
        "imageId": of("ami-id"),
        "instanceId": body.instance,
        "instanceType": of("instance-type"),
        "kernelId": null,
        "marketplaceProductCodes": null,
        "pendingTime": "2020-01-01T00:00:00Z",
        "privateIp": body.address.to_string(),
        "ramdiskId": null,
        "region": of("placement/region"),
        "version": "2017-09-30",
    });
    format!("{document:#}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::ec2::imds) fn body(number: u8, address: Ipv4Addr) -> Body {
        let metadata = [
            ("placement/availability-zone", "eu-west-1a"),
            ("ami-id", "ami-1"),
            ("public-keys/0=me/openssh-key", "ssh-ed25519 AAAA me"),
            ("tags/instance/Name", "web"),
            ("network/interfaces/macs/0a:00/owner-id", "123456789012"),
        ];
        Body {
            instance: format!("i-{number}"),
            address,
            prefix: 20,
            disk: "/nowhere".into(),
            user_data: b"#cloud-config\n".to_vec(),
            metadata: metadata.map(|(path, value)| (path.to_owned(), value.to_owned())).into(),
        }
    }

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        let tree = Tree::of(&body(1, Ipv4Addr::new(172, 31, 18, 5)));
        let found = tree.get(path).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(found.as_deref(), expected, "{path}");
    }

    #[test]
    fn values_are_found() {
        check("/latest/meta-data/instance-id", Some("i-1"));
        check("/2021-03-23/meta-data/placement/region", Some("eu-west-1"));
        check("/latest/user-data", Some("#cloud-config\n"));
        check("/latest/meta-data/mac", Some("06:ec:ac:1f:12:05"));
        let interface = "/latest/meta-data/network/interfaces/macs/06:ec:ac:1f:12:05";
        check(&format!("{interface}/subnet-ipv4-cidr-block"), Some("172.31.16.0/20"));
        check(&format!("{interface}/owner-id"), Some("123456789012"));
        check("/latest/meta-data/nothing", None);
        check("/1999-01-01/meta-data/instance-id", None);
        check("/latest/user-data/more", None);
    }

    #[test]
    fn folders_are_listed_as_ec2_does() {
        check("/", Some("2009-04-04\n2016-09-02\n2018-09-24\n2021-03-23\nlatest"));
        check("/latest/", Some("dynamic\nmeta-data\nuser-data"));
        check("/latest/meta-data/placement", Some("availability-zone\nregion"));
        check("/latest/meta-data/placement/", Some("availability-zone\nregion"));
        check("/latest/meta-data/tags/", Some("instance/"));
        check("/latest/meta-data/network/interfaces/macs/", Some("06:ec:ac:1f:12:05/"));
        let top = "ami-id\nblock-device-mapping/\nhostname\ninstance-id\nlocal-hostname\nlocal-ipv4\nmac\n\
                   network/\nplacement/\npublic-keys/\nservices/\ntags/";
        check("/latest/meta-data/", Some(top));
        check("/latest/meta-data", Some(top));
    }

    #[test]
    fn keys_are_asked_for_by_number() {
        check("/latest/meta-data/public-keys/", Some("0=me"));
        check("/latest/meta-data/public-keys/0/", Some("openssh-key"));
        check("/latest/meta-data/public-keys/0/openssh-key", Some("ssh-ed25519 AAAA me"));
        check("/latest/meta-data/public-keys/1/openssh-key", None);
    }

    #[test]
    fn the_document_says_who_it_is() {
        let tree = Tree::of(&body(1, Ipv4Addr::new(172, 31, 0, 5)));
        let found = tree.get("/latest/dynamic/instance-identity/document").unwrap();
        let found: Value = serde_json::from_slice(&found).unwrap();
        assert_eq!(found["instanceId"], "i-1");
        assert_eq!(found["accountId"], "123456789012");
        assert_eq!(found["region"], "eu-west-1");
        assert_eq!(found["privateIp"], "172.31.0.5");
    }
}
