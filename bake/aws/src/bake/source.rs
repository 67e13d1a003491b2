//! What an image starts from on EC2: looked up by owner and name, kept in `olbake.lock`.

use aws_sdk_ec2::types::{Filter, Image};
use olbake_core::OperationId;
use olbake_core::operation::{Action, Operation, PackageRequest, PackageState, Phase};
use olbake_core::plan::{Architecture, Base, Layer, Plan};
use olbake_engine::lock::{LockFile, LockedAmi};

use super::{Ec2Bake, Ec2BakeError, Result};
use crate::error::AwsError;

/// An image that instances start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) image: String,
    pub(super) name: String,
    /// The device that it boots from.
    pub(super) device: String,
    /// GiB of its disk.
    pub(super) size: u64,
}

impl Origin {
    pub(super) fn of(image: &Image) -> Self {
        let root = image.root_device_name().unwrap_or("/dev/xvda");
        let mappings = image.block_device_mappings();
        let disk = mappings.iter().find(|mapping| mapping.device_name() == Some(root));
        let size = disk.and_then(|mapping| mapping.ebs()?.volume_size()).unwrap_or_default();
        Self {
            image: image.image_id().unwrap_or_default().to_owned(),
            name: image.name().unwrap_or_default().to_owned(),
            device: root.to_owned(),
            size: u64::try_from(size).unwrap_or_default(),
        }
    }
}

/// The packages that a base was to have are the first layer of what starts from a ready image.
pub(super) fn with_packages(mut plan: Plan, packages: &[String]) -> Plan {
    if packages.is_empty() {
        return plan;
    }
    let component: olbake_core::ComponentName = "debian".parse().expect("a valid name");
    let requests =
        packages.iter().map(|name| PackageRequest { name: name.clone(), state: PackageState::Present });
    let operation = Operation {
        id: OperationId::new(&component, Phase::Install, 1),
        phase: Phase::Install,
        title: format!("apt.packages {}", packages.join(" ")),
        spans: Vec::new(),
        action: Action::AptPackages {
            packages: requests.collect(),
            recommends: false,
            start_services: false,
        },
        when_changed: Vec::new(),
        after: Vec::new(),
    };
    let layer = Layer {
        component,
        source: "images".into(),
        settings: std::collections::BTreeMap::default(),
        operations: vec![operation],
        booted: None,
        key: plan.key,
    };
    plan.layers.insert(0, layer);
    plan
}

impl Ec2Bake {
    /// The base of an owner and a name: the image that was chosen for them once, or now.
    pub(super) async fn locked(&self, owner: &str, name: &str, plan: &Plan) -> Result<Base> {
        let lock = LockFile::new(&self.workspace);
        let chosen = match lock.ami(owner, name)? {
            Some(chosen) => chosen,
            None => {
                let image = self.newest(owner, name, plan.architecture).await?;
                let chosen = image.name().unwrap_or_default().to_owned();
                let entry =
                    LockedAmi { owner: owner.to_owned(), filter: name.to_owned(), name: chosen.clone() };
                lock.put_ami(entry)?;
                chosen
            }
        };
        Ok(Base::Ami { owner: owner.to_owned(), name: chosen })
    }

    /// The newest image of an owner and a name, which may have `*` and `?`.
    pub(super) async fn newest(&self, owner: &str, name: &str, architecture: Architecture) -> Result<Image> {
        let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
        let client = aws_sdk_ec2::Client::new(self.account.config());
        let kernel = match architecture {
            Architecture::Amd64 => "x86_64",
            Architecture::Arm64 => "arm64",
        };
        let call = client
            .describe_images()
            .owners(owner)
            .filters(filter("name", name))
            .filters(filter("architecture", kernel))
            .filters(filter("state", "available"))
            .filters(filter("root-device-type", "ebs"));
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeImages"))?;
        let images = found.images.unwrap_or_default().into_iter();
        let newest = images.max_by_key(|image| image.creation_date().unwrap_or_default().to_owned());
        newest.ok_or_else(|| Ec2BakeError::NoSource {
            owner: owner.to_owned(),
            name: name.to_owned(),
            region: self.account.region().unwrap_or_default().to_owned(),
        })
    }
}
