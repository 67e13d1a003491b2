//! Instances of a bake: started by a token, tagged in the call that makes them, and ended by the token. Main type:
//! [`Instances`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::retry::RetryConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, Filter, HttpTokensState, IamInstanceProfileSpecification, Instance,
    InstanceMarketOptionsRequest, InstanceMetadataOptionsRequest, InstanceStateName, IpPermission, IpRange,
    MarketType, ResourceType, ShutdownBehavior, SpotInstanceType, SpotMarketOptions, Subnet, Tag,
    TagSpecification, VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use olbake_core::digest::FieldDigest;
use olbake_engine::config::{Address, Ec2};
use tokio::sync::OnceCell;

use super::source::Origin;
use super::{Ec2BakeError, Result};
use crate::account::Account;
use crate::error::{AwsError, AwsErrorKind};
use crate::pause::Backoff;
use crate::publish::{IMAGE_TAG, OPERATION_TAG, TOKEN_TAG};

/// How often is looked how an instance is: at first after the shortest time, then ever later.
const SOONEST: Duration = Duration::from_millis(600);
const LATEST: Duration = Duration::from_secs(5);
/// How long an instance may take to run, to stop, to end.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long what was just made may not be seen.
const UNSEEN: Duration = Duration::from_secs(60);
/// How often a launch is tried whose answer does not come, or says that there are too many calls.
const TRIES: u32 = 10;
/// How much of a console is shown.
const TAIL: usize = 3000;

/// What AWS says where another type, another market or another time may do.
const NO_CAPACITY: [&str; 9] = [
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InstanceLimitExceeded",
    "VcpuLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "InsufficientCapacity",
    "Unsupported",
    "ServerInternal",
];

/// What an instance is to be.
pub(super) struct Launch<'a> {
    pub(super) origin: &'a Origin,
    /// What it is for: `bake`, `verify`. With the token it tells calls apart.
    pub(super) purpose: &'static str,
    /// Its name, for people.
    pub(super) name: String,
    pub(super) user_data: String,
    pub(super) network: &'a Network,
    /// GiB of the disk at least.
    pub(super) size: u64,
}

/// Where instances are put.
#[derive(Clone, Debug)]
pub(super) struct Network {
    subnet: String,
    groups: Vec<String>,
}

/// An instance that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Launched {
    pub(super) id: String,
    /// Its address, if it has the one that it is reached by from the beginning.
    address: Option<String>,
}

impl Launched {
    /// It, where nothing is left to be asked: whether it runs is seen when it answers.
    pub(super) fn at_once(&self) -> Option<Running> {
        Some(Running { id: self.id.clone(), address: self.address.clone()?, volume: None })
    }
}

/// An instance that runs, or is about to.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) id: String,
    pub(super) address: String,
    /// Its first disk, where that was seen.
    volume: Option<String>,
}

/// The instances of one bake.
#[derive(Clone, Debug)]
pub(super) struct Instances {
    pub(super) client: Client,
    /// Does not try again by itself: where there is no room, another type is tried at once.
    once: Client,
    region: String,
    pub(super) token: String,
    image: String,
    config: Ec2,
    /// Looked up once.
    network: Arc<OnceCell<Network>>,
}

fn filter(name: &str, values: &[&str]) -> Filter {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// Looks ever more seldom, up to a limit.
struct Watch {
    next: Duration,
    since: Instant,
    patience: Duration,
}

impl Watch {
    fn new(patience: Duration) -> Self {
        Self { next: SOONEST, since: Instant::now(), patience }
    }

    async fn wait(&mut self, id: &str) -> Result<()> {
        if self.since.elapsed() >= self.patience {
            return Err(Ec2BakeError::Slow { id: id.to_owned(), seconds: self.patience.as_secs() });
        }
        tokio::time::sleep(self.next).await;
        self.next = self.next.mul_f64(1.5).min(LATEST);
        Ok(())
    }
}

impl Instances {
    pub(super) fn new(account: &Account, config: &Ec2, token: &str, image: &str) -> Self {
        let config_once = aws_sdk_ec2::config::Builder::from(account.config())
            .retry_config(RetryConfig::disabled())
            .build();
        Self {
            client: Client::new(account.config()),
            once: Client::from_conf(config_once),
            region: account.region().unwrap_or_default().to_owned(),
            token: token.to_owned(),
            image: image.to_owned(),
            config: config.clone(),
            network: Arc::default(),
        }
    }

    /// The tags of everything that the bake makes.
    pub(super) fn tags(&self, name: &str) -> Vec<(String, String)> {
        [("Name", name), (IMAGE_TAG, &self.image), (OPERATION_TAG, "bake"), (TOKEN_TAG, &self.token)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    pub(super) fn tagged(&self, kind: ResourceType, name: &str) -> TagSpecification {
        let tags =
            self.tags(name).into_iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
        TagSpecification::builder().resource_type(kind).set_tags(Some(tags.collect())).build()
    }

    fn ours(&self) -> Filter {
        filter(&format!("tag:{TOKEN_TAG}"), &[&self.token])
    }

    /// The subnet, and the groups: those that were named, or one of the bake's own.
    pub(super) async fn network(&self) -> Result<&Network> {
        self.network.get_or_try_init(|| self.make_network()).await
    }

    async fn make_network(&self) -> Result<Network> {
        let subnet = self.subnet().await?;
        let id = subnet.subnet_id().unwrap_or_default().to_owned();
        let groups = match self.config.security_groups.as_slice() {
            [] => vec![self.own_group(subnet.vpc_id().unwrap_or_default()).await?],
            groups => groups.to_vec(),
        };
        Ok(Network { subnet: id, groups })
    }

    async fn subnet(&self) -> Result<Subnet> {
        let region = || self.region.clone();
        let call = self.client.describe_subnets();
        let (call, missing) = match &self.config.subnet {
            None => (
                call.filters(filter("default-for-az", &["true"])),
                Ec2BakeError::NoNetwork { region: region() },
            ),
            Some(subnet) => {
                let by = match subnet.strip_prefix("tag:").and_then(|tag| tag.split_once('=')) {
                    Some((key, value)) => filter(&format!("tag:{key}"), &[value]),
                    None => filter("subnet-id", &[subnet]),
                };
                let missing = Ec2BakeError::NoSubnet { subnet: subnet.clone(), region: region() };
                (call.filters(by), missing)
            }
        };
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeSubnets"))?;
        let mut subnets = found.subnets.unwrap_or_default();
        subnets.sort_by_key(|subnet| subnet.subnet_id().unwrap_or_default().to_owned());
        subnets.into_iter().next().ok_or(missing)
    }

    /// A security group that lets in to the bake's SSH server and to nothing else.
    async fn own_group(&self, vpc: &str) -> Result<String> {
        let name = format!("olbake-bake-{}", self.token);
        let call = self
            .client
            .create_security_group()
            .group_name(&name)
            .description("a bake of olbake, removed with it")
            .vpc_id(vpc)
            .tag_specifications(self.tagged(ResourceType::SecurityGroup, &name));
        let group = match call.send().await.map_err(AwsError::of("ec2:CreateSecurityGroup")) {
            Ok(made) => made.group_id.unwrap_or_default(),
            // The name is ours alone: an answer was lost.
            Err(error) if error.is("InvalidGroup.Duplicate") || error.is_passing() => {
                self.groups().await?.into_iter().next().ok_or(error)?
            }
            Err(error) => return Err(error.into()),
        };
        let port = i32::from(self.config.port);
        let permission = IpPermission::builder()
            .ip_protocol("tcp")
            .from_port(port)
            .to_port(port)
            .ip_ranges(IpRange::builder().cidr_ip(&self.config.allow_from).build())
            .build();
        let call = self.client.authorize_security_group_ingress().group_id(&group).ip_permissions(permission);
        match call.send().await.map_err(AwsError::of("ec2:AuthorizeSecurityGroupIngress")) {
            Err(error) if !error.is("InvalidPermission.Duplicate") => Err(error.into()),
            _ => Ok(group),
        }
    }

    async fn groups(&self) -> Result<Vec<String>> {
        let call = self.client.describe_security_groups().filters(self.ours());
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeSecurityGroups"))?;
        Ok(found.security_groups().iter().filter_map(|group| group.group_id().map(str::to_owned)).collect())
    }

    /// Starts an instance: of the first type, on the first market, that has room. Says too what was tried before.
    pub(super) async fn launch(&self, launch: &Launch<'_>) -> Result<(Launched, Vec<String>)> {
        let markets: &[bool] = if self.config.spot { &[true, false] } else { &[false] };
        let mut tried = Vec::new();
        for spot in markets {
            for kind in &self.config.instance_types {
                match self.launch_one(launch, kind, *spot).await {
                    Ok(launched) => return Ok((launched, tried)),
                    Err(error) if is_no_capacity(&error) => {
                        let market = if *spot { ", spot" } else { "" };
                        let code = error.code.as_deref().unwrap_or("no code");
                        tried.push(format!("{kind}{market}: {} ({code})", error.message));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Err(Ec2BakeError::Capacity { tried })
    }

    async fn launch_one(
        &self,
        launch: &Launch<'_>,
        kind: &str,
        spot: bool,
    ) -> std::result::Result<Launched, AwsError> {
        let Launch { origin, purpose, name, user_data, network, size } = launch;
        let token = FieldDigest::new("olbake instance")
            .field("token", self.token.as_bytes())
            // With keys of this process: what another one began is found by its tag, and removed.
            .field("user data", user_data.as_bytes())
            .field("purpose", purpose.as_bytes())
            .field("type", kind.as_bytes())
            .field("spot", &[u8::from(spot)])
            .finish();
        let size = i32::try_from((*size).max(origin.size)).unwrap_or(i32::MAX);
        let disk = EbsBlockDevice::builder()
            .volume_size(size)
            .volume_type(VolumeType::Gp3)
            .delete_on_termination(true)
            .set_encrypted(self.config.kms_key.as_ref().map(|_| true))
            .set_kms_key_id(self.config.kms_key.clone());
        let profile = self.config.instance_profile.as_ref();
        let market = spot.then(|| {
            let once = SpotMarketOptions::builder().spot_instance_type(SpotInstanceType::OneTime).build();
            InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(once).build()
        });
        let call = self
            .once
            .run_instances()
            .client_token(&token.hex()[..64])
            .image_id(&origin.image)
            .instance_type(kind.into())
            .min_count(1)
            .max_count(1)
            .subnet_id(&network.subnet)
            .set_security_group_ids(Some(network.groups.clone()))
            .user_data(BASE64.encode(user_data))
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .metadata_options(
                InstanceMetadataOptionsRequest::builder().http_tokens(HttpTokensState::Required).build(),
            )
            .block_device_mappings(
                BlockDeviceMapping::builder().device_name(&origin.device).ebs(disk.build()).build(),
            )
            .set_iam_instance_profile(
                profile.map(|name| IamInstanceProfileSpecification::builder().name(name).build()),
            )
            .set_instance_market_options(market)
            .tag_specifications(self.tagged(ResourceType::Instance, name))
            .tag_specifications(self.tagged(ResourceType::Volume, name));
        let mut pauses = Backoff::new();
        let answer = loop {
            match call.clone().send().await.map_err(AwsError::of("ec2:RunInstances")) {
                Ok(answer) => break answer,
                Err(error) if is_no_capacity(&error) || !error.is_passing() || pauses.count() >= TRIES => {
                    return Err(error);
                }
                Err(_) => pauses.wait().await,
            }
        };
        let none =
            || AwsError::said("ec2:RunInstances", AwsErrorKind::Unsure, "the answer names no instance");
        let instance = answer.instances().first().ok_or_else(none)?;
        let id = instance.instance_id().map(str::to_owned).ok_or_else(none)?;
        let private = instance.private_ip_address().filter(|address| !address.is_empty());
        let address = private.filter(|_| matches!(self.config.address, Address::Private));
        Ok(Launched { id, address: address.map(str::to_owned) })
    }

    /// Waits until an instance runs.
    pub(super) async fn running(&self, id: &str) -> Result<Running> {
        let mut watch = Watch::new(PATIENCE);
        loop {
            watch.wait(id).await?;
            if let Some(instance) = self.look(id, watch.since).await? {
                match state(&instance) {
                    InstanceStateName::Running => {
                        if let Some(running) = self.reached(id, &instance) {
                            return Ok(running);
                        }
                    }
                    InstanceStateName::Pending => {}
                    _ => return Err(gone(id, &instance)),
                }
            }
        }
    }

    fn reached(&self, id: &str, instance: &Instance) -> Option<Running> {
        let (public, private) = (instance.public_ip_address(), instance.private_ip_address());
        let address = match self.config.address {
            Address::Private => private,
            Address::Public => public,
            Address::Any => public.or(private),
        };
        let address = address.filter(|address| !address.is_empty())?.to_owned();
        Some(Running { id: id.to_owned(), address, volume: volume_of(instance) })
    }

    /// The first disk of an instance.
    pub(super) async fn volume(&self, running: &Running) -> Result<String> {
        let seen = match &running.volume {
            Some(volume) => Some(volume.clone()),
            None => self.look(&running.id, Instant::now()).await?.as_ref().and_then(volume_of),
        };
        let none =
            || AwsError::said("ec2:DescribeInstances", AwsErrorKind::Unsure, "the instance has no disk");
        Ok(seen.ok_or_else(none)?)
    }

    /// An error, unless an instance still runs.
    pub(super) async fn still_there(&self, id: &str) -> Result<()> {
        match self.look(id, Instant::now()).await? {
            Some(instance)
                if matches!(state(&instance), InstanceStateName::Running | InstanceStateName::Pending) =>
            {
                Ok(())
            }
            Some(instance) => Err(gone(id, &instance)),
            None => Ok(()),
        }
    }

    /// An instance; none where it cannot be seen yet.
    async fn look(&self, id: &str, since: Instant) -> Result<Option<Instance>> {
        let call = self.client.describe_instances().instance_ids(id).send().await;
        match call.map_err(AwsError::of("ec2:DescribeInstances")) {
            Ok(found) => {
                let mut instances = found
                    .reservations
                    .unwrap_or_default()
                    .into_iter()
                    .flat_map(|one| one.instances.unwrap_or_default());
                Ok(instances.next())
            }
            Err(error) if error.kind == AwsErrorKind::NotFound && since.elapsed() < UNSEEN => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The end of what an instance wrote to its console; empty where it says nothing.
    pub(super) async fn console(&self, id: &str) -> String {
        let said = self.client.get_console_output().instance_id(id).send().await;
        let output = said.ok().and_then(|said| said.output).unwrap_or_default();
        let bytes = BASE64.decode(output.trim()).unwrap_or_else(|_| output.into_bytes());
        let text = String::from_utf8_lossy(&bytes);
        let from = text.char_indices().rev().nth(TAIL).map_or(0, |(at, _)| at);
        text[from..].to_owned()
    }

    /// Asks for the end of an instance, and does not wait for it.
    pub(super) async fn terminate(&self, ids: Vec<String>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let call = self.client.terminate_instances().set_instance_ids(Some(ids)).send().await;
        match call.map_err(AwsError::of("ec2:TerminateInstances")) {
            Err(error) if error.kind != AwsErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Ends every instance of the bake and removes its group. Waits only where the group must wait.
    pub(super) async fn sweep(&self) -> Result<()> {
        // Who made the group knows it; what another process began is found by its tag.
        let groups = match (self.network.get(), self.config.security_groups.is_empty()) {
            (Some(network), true) => network.groups.clone(),
            _ => self.groups().await?,
        };
        let mut watch = Watch::new(PATIENCE);
        loop {
            let left = self.left().await?;
            let doomed = left.iter().filter(|(_, ending)| !ending).map(|(id, _)| id.clone()).collect();
            self.terminate(doomed).await?;
            if left.is_empty() || groups.is_empty() {
                break;
            }
            watch.wait(&left[0].0).await?;
        }
        for group in groups {
            self.remove_group(&group).await?;
        }
        Ok(())
    }

    /// The instances of the bake that are not at their end, and whether they go there.
    async fn left(&self) -> Result<Vec<(String, bool)>> {
        let states =
            filter("instance-state-name", &["pending", "running", "stopping", "stopped", "shutting-down"]);
        let call = self.client.describe_instances().filters(self.ours()).filters(states);
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeInstances"))?;
        let instances = found.reservations().iter().flat_map(|one| one.instances());
        Ok(instances
            .filter_map(|one| {
                Some((one.instance_id()?.to_owned(), state(one) == InstanceStateName::ShuttingDown))
            })
            .collect())
    }

    async fn remove_group(&self, group: &str) -> Result<()> {
        let mut watch = Watch::new(PATIENCE);
        loop {
            let call = self.client.delete_security_group().group_id(group).send().await;
            match call.map_err(AwsError::of("ec2:DeleteSecurityGroup")) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind == AwsErrorKind::NotFound => return Ok(()),
                // What used it is seen a little longer.
                Err(error) if error.is("DependencyViolation") => watch.wait(group).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn state(instance: &Instance) -> InstanceStateName {
    let name = instance.state().and_then(|state| state.name());
    name.cloned().unwrap_or(InstanceStateName::Pending)
}

fn volume_of(instance: &Instance) -> Option<String> {
    let root = instance.root_device_name();
    let disks = instance.block_device_mappings();
    let disk = disks.iter().find(|disk| disk.device_name() == root).or(disks.first())?;
    disk.ebs()?.volume_id().map(str::to_owned)
}

fn gone(id: &str, instance: &Instance) -> Ec2BakeError {
    let said = instance.state_reason().and_then(|reason| reason.message());
    let reason = said.or(instance.state_transition_reason()).filter(|reason| !reason.is_empty());
    Ec2BakeError::Gone {
        instance: id.to_owned(),
        state: state(instance).as_str().to_owned(),
        reason: reason.map(str::to_owned),
    }
}

fn is_no_capacity(error: &AwsError) -> bool {
    NO_CAPACITY.iter().any(|code| error.is(code))
}
