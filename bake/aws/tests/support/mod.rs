//! A test cloud, and stacks in it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    reason = "tests fail where something is amiss, and use what they need"
)]

pub mod cloud;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_ec2::types::{BlockDeviceMapping, EbsBlockDevice};
use camino::Utf8Path;
use cloud::TestCloud;
use olbake_aws::Account;
use olbake_aws::provider::{Amis, AwsProvider, Patience};
use olbake_core::Digest;
use olbake_core::rollout::Availability;
use olbake_core::stack::declare::Declared;
use olbake_core::stack::planner::Wishes;
use olbake_core::stack::value::Reference;
use olbake_core::stack::{Declaration, StackName};
use olbake_engine::stack::provider::{Object, Provider, ProviderError};
use olbake_engine::stack::{
    Change, Changed, HookCommand, Images, Preview, Refresh, Site, StackError, Stacks,
};
use olbake_engine::state::{HoldOptions, StateStore};
use serde_json::{Map, Value};

/// Times that suit a cloud in which everything happens at once.
pub const PATIENCE: Patience = Patience {
    visible: Duration::from_secs(2),
    absent: Duration::from_millis(20),
    ready: Duration::from_secs(20),
    gone: Duration::from_secs(20),
    poll: Duration::from_millis(10),
};

/// Images that can always be launched.
pub struct AllImages;

#[async_trait::async_trait]
impl Images for AllImages {
    async fn availability(&self, _image: &Digest) -> Result<Availability, StackError> {
        Ok(Availability::Launchable)
    }

    async fn upgrade_hooks(&self, _image: &Digest) -> Result<Vec<HookCommand>, StackError> {
        Ok(Vec::new())
    }
}

/// Images that were registered for a test, by name.
#[derive(Debug, Default)]
pub struct SomeAmis(pub BTreeMap<Digest, String>);

#[async_trait::async_trait]
impl Amis for SomeAmis {
    async fn ami(&self, version: &Digest, _region: &str) -> Result<Option<String>, ProviderError> {
        Ok(self.0.get(version).cloned())
    }
}

/// The digest of an image that every world has: `one`, `two`, `three`.
pub fn image(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// Registers an image of an empty disk for each name.
async fn register(account: &Account, region: &str) -> SomeAmis {
    let ec2 = aws_sdk_ec2::Client::new(account.config());
    let zone = format!("{region}a");
    let volume = ec2.create_volume().availability_zone(zone).size(1).send().await.unwrap();
    let snapshot = ec2.create_snapshot().volume_id(volume.volume_id().unwrap()).send().await.unwrap();
    let snapshot = snapshot.snapshot_id().unwrap();
    let mut images = BTreeMap::new();
    for name in ["one", "two", "three"] {
        let disk = EbsBlockDevice::builder().snapshot_id(snapshot).build();
        let mapping = BlockDeviceMapping::builder().device_name("/dev/xvda").ebs(disk).build();
        let asked = ec2.register_image().name(name).root_device_name("/dev/xvda");
        let registered = asked.block_device_mappings(mapping).send().await.unwrap();
        images.insert(image(name), registered.image_id.unwrap());
    }
    SomeAmis(images)
}

/// A region of the cloud with a provider and states.
pub struct World {
    pub cloud: TestCloud,
    pub account: Account,
    pub provider: Arc<AwsProvider>,
    pub stacks: Stacks,
    _states: tempfile::TempDir,
}

impl World {
    /// None: there is no cloud here.
    pub async fn new(region: &str) -> Option<Self> {
        let states = tempfile::Builder::new().prefix("olbake-stacks-").tempdir_in("/var/tmp").unwrap();
        let folder = Utf8Path::from_path(states.path()).unwrap();
        let cloud = TestCloud::start(folder)?;
        let account = Account::at(&cloud.endpoint, region, "test", "test").await;
        let amis = Arc::new(register(&account, region).await);
        let provider = AwsProvider::open(account.clone(), amis).unwrap().with_patience(PATIENCE);
        let provider = Arc::new(provider);
        let site = Site::new(vec![provider.clone()], Arc::new(AllImages));
        let store = StateStore::open("file://state", folder).unwrap();
        Some(Self { cloud, account, provider, stacks: Stacks { store, site }, _states: states })
    }

    pub async fn change(&self, declaration: &Declaration, wishes: &Wishes) -> Result<Changed, StackError> {
        let change = Change {
            declaration,
            wishes,
            refresh: Refresh::Look,
            expected: None,
            approve: &|_: &Preview| Ok(()),
        };
        self.stacks.change(&change, HoldOptions::here("test", "test").unwrap()).await
    }

    /// Deploys, and looks that nothing is left to do.
    pub async fn bring(&self, declaration: &Declaration) -> Changed {
        let changed =
            self.change(declaration, &Wishes::default()).await.unwrap_or_else(|error| panic!("{error:#?}"));
        self.settled(declaration).await;
        changed
    }

    /// Nothing is left to do, and nothing is there that no state knows of.
    pub async fn settled(&self, declaration: &Declaration) {
        let preview = self.stacks.preview(declaration, &Wishes::default(), Refresh::Look).await.unwrap();
        let left: Vec<_> = preview.plan.actions.iter().map(|action| (&action.key, &action.reasons)).collect();
        assert!(left.is_empty(), "{left:#?}");
        assert_eq!(self.stacks.orphans(&declaration.stack).await.unwrap(), []);
    }

    /// Removes everything; nothing of the stack is there afterwards.
    pub async fn destroy(&self, declaration: &Declaration) {
        let wishes = Wishes { destroy: true, ..Wishes::default() };
        self.change(declaration, &wishes).await.unwrap_or_else(|error| panic!("{error:#?}"));
        assert_eq!(self.of(&declaration.stack).await, []);
    }

    /// What is there of a stack.
    pub async fn of(&self, stack: &StackName) -> Vec<Object> {
        self.provider.list().await.unwrap().into_iter().filter(|object| object.stack == *stack).collect()
    }
}

/// The placeholder of an output.
pub fn output(resource: &str, name: &str) -> Value {
    Value::String(Reference { resource: resource.parse().unwrap(), output: name.to_owned() }.marker())
}

/// A resource, its properties in canonical form.
pub fn resource(name: &str, ty: &str, inputs: &Value) -> Declared {
    let ty = ty.parse().unwrap();
    let inputs = complete(&ty, inputs);
    Declared::new(name.parse().unwrap(), ty, inputs)
}

/// Properties in canonical form.
pub fn complete(ty: &olbake_core::stack::ResourceType, inputs: &Value) -> Map<String, Value> {
    let catalog = olbake_aws::types::catalog();
    let schema = catalog.get(ty).unwrap_or_else(|| panic!("there is no {ty}"));
    schema.coerce(inputs.as_object().unwrap()).unwrap_or_else(|problems| panic!("{ty}: {problems:?}"))
}

/// A declaration of resources, with outputs.
pub fn declaration(stack: &str, resources: Vec<Declared>, outputs: &[(&str, Value)]) -> Declaration {
    let outputs = outputs.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Declaration {
        resources,
        outputs: outputs.collect::<BTreeMap<_, _>>(),
        ..Declaration::new(stack.parse().unwrap())
    }
}
