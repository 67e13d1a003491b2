//! New objects of EC2 that other calls do not see yet: calls that name one fail, lists leave it out.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::answer::Refusal;
use super::call::{Call, Protocol};
use super::calls::held;
use super::xml::Element;

/// The start of ids that are hidden, the error that says that there is none, and the field that has it in lists.
const KINDS: [(&str, &str, &str); 15] = [
    ("i", "InvalidInstanceID.NotFound", "instanceId"),
    ("ami", "InvalidAMIID.NotFound", "imageId"),
    ("snap", "InvalidSnapshot.NotFound", "snapshotId"),
    ("vol", "InvalidVolume.NotFound", "volumeId"),
    ("vpc", "InvalidVpcID.NotFound", "vpcId"),
    ("subnet", "InvalidSubnetID.NotFound", "subnetId"),
    ("sg", "InvalidGroup.NotFound", "groupId"),
    ("rtb", "InvalidRouteTableID.NotFound", "routeTableId"),
    ("igw", "InvalidInternetGatewayID.NotFound", "internetGatewayId"),
    ("nat", "NatGatewayNotFound", "natGatewayId"),
    ("eipalloc", "InvalidAllocationID.NotFound", "allocationId"),
    ("lt", "InvalidLaunchTemplateId.NotFound", "launchTemplateId"),
    ("pcx", "InvalidVpcPeeringConnectionID.NotFound", "vpcPeeringConnectionId"),
    ("vpce", "InvalidVpcEndpointId.NotFound", "vpcEndpointId"),
    ("eni", "InvalidNetworkInterfaceID.NotFound", "networkInterfaceId"),
];

/// What calls that make objects begin with.
const MAKES: [&str; 8] = ["Create", "Run", "Register", "Copy", "Start", "Allocate", "Import", "Request"];

#[derive(Default)]
pub(super) struct Visibility {
    hidden: Mutex<HashMap<String, Instant>>,
}

impl Visibility {
    /// Hides what a call made, for as long as asked for.
    pub(super) fn note(&self, call: &Call, answer: &[u8], time: Duration) {
        let makes = MAKES.iter().any(|verb| call.action.starts_with(verb));
        if time.is_zero() || !makes || !matches!(call.protocol, Protocol::Ec2 | Protocol::Ebs) {
            return;
        }
        let named: Vec<&str> = call.parameters.values().map(String::as_str).collect();
        let asked = String::from_utf8_lossy(call.bytes()).into_owned();
        let mut hidden = held(&self.hidden);
        for id in ids(&String::from_utf8_lossy(answer)) {
            if !named.contains(&id) && !asked.contains(id) {
                hidden.insert(id.to_owned(), Instant::now() + time);
            }
        }
    }

    fn is_hidden(&self, id: &str) -> bool {
        let mut hidden = held(&self.hidden);
        let Some(until) = hidden.get(id) else { return false };
        if *until > Instant::now() {
            return true;
        }
        hidden.remove(id);
        false
    }

    /// What a call is answered that names what it cannot see.
    pub(super) fn refusal(&self, call: &Call) -> Option<Refusal> {
        if held(&self.hidden).is_empty() {
            return None;
        }
        if call.protocol == Protocol::Ebs {
            let id = ids(call.head.uri.path()).into_iter().find(|id| self.is_hidden(id))?;
            let message = format!("The snapshot '{id}' does not exist.");
            return Some(Refusal::new("ResourceNotFoundException", message).with_status(404));
        }
        let named = call.parameters.iter().filter(|(name, _)| !name.starts_with("Filter."));
        let id = named.map(|(_, value)| value).find(|value| self.is_hidden(value))?;
        let (_, code, _) = kind(id)?;
        Some(Refusal::new(code, format!("The ID '{id}' does not exist")))
    }

    /// Leaves what is not seen yet out of a list; nothing if it is whole.
    pub(super) fn filter(&self, call: &Call, answer: &[u8]) -> Option<Vec<u8>> {
        if call.protocol != Protocol::Ec2 || !call.reads() || held(&self.hidden).is_empty() {
            return None;
        }
        let mut document = Element::parse(answer).ok()?;
        let mut changed = false;
        document.visit(&mut |element| {
            let before = element.children.len();
            element.children.retain(|child| !self.hides(call, child));
            changed |= element.children.len() != before;
        });
        changed.then(|| document.to_bytes())
    }

    /// Whether an entry of a list is one of a hidden object: the list's own kind, or an empty reservation.
    fn hides(&self, call: &Call, entry: &Element) -> bool {
        if entry.name != "item" {
            return false;
        }
        if let Some(instances) = entry.at("instancesSet") {
            let hidden = |instance: &Element| self.is_hidden(instance.text_at("instanceId"));
            return instances.children.iter().all(hidden);
        }
        KINDS.iter().filter(|(_, _, field)| lists(&call.action, field)).any(|(_, _, field)| {
            let id = entry.text_at(field);
            !id.is_empty() && self.is_hidden(id)
        })
    }
}

/// Whether a call lists the objects that a field identifies: `DescribeImages` those of `imageId`.
fn lists(action: &str, field: &str) -> bool {
    let subject =
        action.trim_start_matches("Describe").trim_end_matches("es").trim_end_matches('s').to_lowercase();
    match field {
        "groupId" => subject == "securitygroup",
        "allocationId" => action == "DescribeAddresses",
        _ => {
            field.trim_end_matches("Id").to_lowercase().trim_end_matches('e') == subject.trim_end_matches('e')
        }
    }
}

fn kind(id: &str) -> Option<&'static (&'static str, &'static str, &'static str)> {
    let (start, rest) = id.split_once('-')?;
    let hexadecimal = (8..=17).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    KINDS.iter().find(|(known, ..)| hexadecimal && *known == start)
}

/// The ids in a text.
fn ids(text: &str) -> Vec<&str> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '-');
    words.filter(|word| kind(word).is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_any_text() {
        let text = r#"<a>ami-0123456789abcdef0</a>{"x":"snap-01234567"} vpc-xyz i-0"#;
        assert_eq!(ids(text), ["ami-0123456789abcdef0", "snap-01234567"]);
    }

    #[test]
    fn a_list_is_one_of_its_own_kind() {
        let of =
            |action| KINDS.iter().filter(|kind| lists(action, kind.2)).map(|kind| kind.0).collect::<Vec<_>>();
        assert_eq!(of("DescribeInstances"), ["i"]);
        assert_eq!(of("DescribeImages"), ["ami"]);
        assert_eq!(of("DescribeVpcs"), ["vpc"]);
        assert_eq!(of("DescribeAddresses"), ["eipalloc"]);
        assert_eq!(of("DescribeSecurityGroups"), ["sg"]);
        assert_eq!(of("DescribeRouteTables"), ["rtb"]);
        assert_eq!(of("DescribeVolumes"), ["vol"]);
    }
}
