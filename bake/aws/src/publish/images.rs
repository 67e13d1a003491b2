//! Images and snapshots of EC2, as publishing needs them. Main type: [`Images`].

use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    ArchitectureValues, BlockDeviceMapping, BootModeValues, CreateVolumePermission,
    CreateVolumePermissionModifications, EbsBlockDevice, Filter, Image, ImageState, ImdsSupportValues,
    LaunchPermission, LaunchPermissionModifications, ResourceType, Snapshot, SnapshotState, Tag,
    TagSpecification, VolumeType,
};
use olbake_core::plan::Architecture;
use olbake_core::time::Timestamp;
use olbake_core::{Digest, ImageRef};

use super::{PublishError, Share, TOKEN_TAG, VERSION_TAG};
use crate::account::Account;
use crate::error::{AwsError, AwsErrorKind};
use crate::pause::Backoff;

/// The first device: what an image boots from.
const ROOT_DEVICE: &str = "/dev/xvda";
/// How often is looked whether something is ready: at first after the shortest time, then ever later.
const SOONEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(15);
/// How long is waited in all, where nobody says.
const PATIENCE: Duration = Duration::from_secs(40 * 60);
/// How long what was just made may not be seen.
const UNSEEN: Duration = Duration::from_secs(120);
/// The longest name AWS takes.
const LONGEST: usize = 128;

/// The name of a version's image: image, variant and half of the digest. It tells versions apart, so that who makes it
/// twice finds the first.
pub fn image_name(image: &ImageRef, version: &Digest) -> String {
    let digest = &version.hex()[..32];
    let name: String = format!("olbake/{image}").chars().take(LONGEST - 1 - digest.len()).collect();
    format!("{name}/{digest}")
}

/// What an image is made of.
pub(super) struct Register<'a> {
    pub(super) name: &'a str,
    pub(super) description: &'a str,
    pub(super) architecture: Architecture,
    pub(super) snapshot: &'a str,
    /// GiB.
    pub(super) size: u64,
    pub(super) tags: &'a [(String, String)],
}

/// The images and snapshots of a region.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    pub(crate) client: Client,
    region: String,
    patience: Duration,
}

type Result<T> = std::result::Result<T, PublishError>;

fn filter(name: &str, values: Vec<String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values)).build()
}

fn tags(kind: ResourceType, tags: &[(String, String)]) -> TagSpecification {
    let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags.collect())).build()
}

/// The version that tags name.
pub(crate) fn version_of(tags: &[Tag]) -> Option<&str> {
    tags.iter().find(|tag| tag.key() == Some(VERSION_TAG)).and_then(Tag::value)
}

/// The snapshot of an image's first disk.
pub(crate) fn snapshot_of(image: &Image) -> Option<String> {
    let root = image.root_device_name();
    let mappings = image.block_device_mappings();
    let mapping = mappings.iter().find(|mapping| mapping.device_name() == root).or(mappings.first())?;
    mapping.ebs()?.snapshot_id().map(str::to_owned)
}

impl Images {
    pub(crate) fn new(account: &Account, region: &str) -> Self {
        let client = Client::new(account.in_region(region).config());
        Self { client, region: region.to_owned(), patience: PATIENCE }
    }

    /// How long a snapshot or an image may be pending.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn aws(&self) -> impl FnOnce(AwsError) -> PublishError {
        PublishError::aws(&self.region)
    }

    /// Our own image of a name.
    pub(super) async fn by_name(&self, name: &str) -> Result<Option<Image>> {
        let call =
            self.client.describe_images().owners("self").filters(filter("name", vec![name.to_owned()]));
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeImages")).map_err(self.aws())?;
        Ok(found.images.unwrap_or_default().into_iter().next())
    }

    /// An image that may not be there.
    pub(crate) async fn by_id(&self, id: &str) -> Result<Option<Image>> {
        let call = self.client.describe_images().filters(filter("image-id", vec![id.to_owned()]));
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeImages")).map_err(self.aws())?;
        Ok(found.images.unwrap_or_default().into_iter().next())
    }

    /// Those of some snapshots that are there.
    pub(super) async fn snapshots(&self, ids: Vec<String>) -> Result<Vec<Snapshot>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let call = self.client.describe_snapshots().filters(filter("snapshot-id", ids));
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeSnapshots")).map_err(self.aws())?;
        Ok(found.snapshots.unwrap_or_default())
    }

    /// The snapshots that a bake made, by its token, except those that AWS gave up.
    pub(crate) async fn by_token(&self, token: &str) -> Result<Vec<String>> {
        let ours = filter(&format!("tag:{TOKEN_TAG}"), vec![token.to_owned()]);
        let call = self.client.describe_snapshots().owner_ids("self").filters(ours);
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeSnapshots")).map_err(self.aws())?;
        let snapshots = found.snapshots.unwrap_or_default().into_iter();
        let good = snapshots.filter(|snapshot| snapshot.state() != Some(&SnapshotState::Error));
        Ok(good.filter_map(|snapshot| snapshot.snapshot_id).collect())
    }

    /// Removes the images that a bake made for itself, by its token. Their snapshots stay.
    pub(crate) async fn remove_by_token(&self, token: &str) -> Result<()> {
        let ours = filter(&format!("tag:{TOKEN_TAG}"), vec![token.to_owned()]);
        let call = self.client.describe_images().owners("self").filters(ours);
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeImages")).map_err(self.aws())?;
        for image in found.images() {
            let id = image.image_id().unwrap_or_default();
            let call = self.client.deregister_image().image_id(id).send().await;
            match call.map_err(AwsError::of("ec2:DeregisterImage")) {
                Err(error) if error.kind != AwsErrorKind::NotFound => return Err(self.aws()(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes a snapshot; one that an image is made of stays.
    pub(crate) async fn remove_snapshot(&self, id: &str) -> Result<()> {
        let call = self.client.delete_snapshot().snapshot_id(id).send().await;
        match call.map_err(AwsError::of("ec2:DeleteSnapshot")) {
            Err(error) if error.kind == AwsErrorKind::NotFound || error.is("InvalidSnapshot.InUse") => Ok(()),
            other => other.map(drop).map_err(self.aws()),
        }
    }

    /// The image by which a snapshot is tried before it is anything: registered, or found by its name.
    pub(crate) async fn candidate(
        &self,
        name: &str,
        architecture: Architecture,
        snapshot: &Snapshot,
        tags: &[(String, String)],
    ) -> Result<String> {
        let what = Register {
            name,
            description: "an image that a bake tries, removed with it",
            architecture,
            snapshot: snapshot.snapshot_id().unwrap_or_default(),
            size: snapshot.volume_size().and_then(|size| u64::try_from(size).ok()).unwrap_or(1),
            tags,
        };
        match self.register_once(&what).await {
            Ok(id) => Ok(id),
            Err(error) => {
                let taken = error.is("InvalidAMIName.Duplicate") || error.is_passing();
                let found = if taken { self.by_name(name).await? } else { None };
                found.and_then(|image| image.image_id).ok_or_else(|| self.aws()(error))
            }
        }
    }

    /// Waits until a snapshot can be used.
    pub(crate) async fn wait_for_snapshot(&self, id: &str) -> Result<Snapshot> {
        let mut watch = Watch::new();
        loop {
            let found = self.snapshots(vec![id.to_owned()]).await?.into_iter().next();
            match found.as_ref().and_then(Snapshot::state) {
                Some(SnapshotState::Completed) => return Ok(found.expect("its state was read from it")),
                Some(SnapshotState::Error) => {
                    let problem = found.and_then(|found| found.state_message).unwrap_or_default();
                    return Err(self.broken(id, problem));
                }
                None if watch.waited >= UNSEEN => return Err(self.broken(id, "it is gone".to_owned())),
                _ => self.wait(&mut watch, id).await?,
            }
        }
    }

    /// Waits until an image can be started from.
    pub(crate) async fn wait_for_image(&self, id: &str) -> Result<Image> {
        let mut watch = Watch::new();
        loop {
            let found = self.by_id(id).await?;
            match found.as_ref().and_then(Image::state) {
                Some(ImageState::Available) => return Ok(found.expect("its state was read from it")),
                Some(
                    state @ (ImageState::Failed
                    | ImageState::Error
                    | ImageState::Invalid
                    | ImageState::Deregistered),
                ) => {
                    let reason = found.as_ref().and_then(|image| image.state_reason()?.message());
                    return Err(self.broken(id, reason.unwrap_or(state.as_str()).to_owned()));
                }
                None if watch.waited >= UNSEEN => return Err(self.broken(id, "it is gone".to_owned())),
                _ => self.wait(&mut watch, id).await?,
            }
        }
    }

    async fn wait(&self, watch: &mut Watch, id: &str) -> Result<()> {
        if watch.waited >= self.patience {
            return Err(PublishError::Pending { region: self.region.clone(), id: id.to_owned() });
        }
        watch.wait().await;
        Ok(())
    }

    fn broken(&self, id: &str, problem: String) -> PublishError {
        PublishError::Broken { region: self.region.clone(), id: id.to_owned(), problem }
    }

    /// Registers an image of a snapshot, or finds the one of that name, if it is of the same version.
    pub(super) async fn register(&self, what: &Register<'_>, version: &Digest) -> Result<String> {
        let mut pauses = Backoff::new();
        loop {
            let error = match self.register_once(what).await {
                Ok(id) => return Ok(id),
                Err(error) => error,
            };
            let taken = error.is("InvalidAMIName.Duplicate");
            if !(taken || error.is_passing()) || pauses.count() >= 8 {
                return Err(PublishError::aws(&self.region)(error));
            }
            // Who lost the answer finds the image by its name; it may take a moment to be seen.
            pauses.wait().await;
            if let Some(image) = self.ours(what.name, version).await? {
                return Ok(image);
            }
        }
    }

    /// The image of a name, if it is of this version; an error where it is of another.
    pub(super) async fn ours(&self, name: &str, version: &Digest) -> Result<Option<String>> {
        let Some(image) = self.by_name(name).await? else { return Ok(None) };
        let id = image.image_id().unwrap_or_default().to_owned();
        // An image may have lost its tags; its snapshot says the same.
        let of = match version_of(image.tags()) {
            Some(of) => Some(of.to_owned()),
            None => {
                let snapshots = self.snapshots(snapshot_of(&image).into_iter().collect()).await?;
                snapshots.first().and_then(|found| version_of(found.tags())).map(str::to_owned)
            }
        };
        if of.as_deref() == Some(version.to_string().as_str()) {
            return Ok(Some(id));
        }
        Err(PublishError::NameTaken { region: self.region.clone(), name: name.to_owned(), image: id })
    }

    async fn register_once(&self, what: &Register<'_>) -> std::result::Result<String, AwsError> {
        let Register { name, description, architecture, snapshot, size, tags: with } = what;
        let disk = EbsBlockDevice::builder()
            .snapshot_id(*snapshot)
            .volume_type(VolumeType::Gp3)
            .volume_size(i32::try_from(*size).unwrap_or(i32::MAX))
            .delete_on_termination(true)
            .build();
        let architecture = match architecture {
            Architecture::Amd64 => ArchitectureValues::X8664,
            Architecture::Arm64 => ArchitectureValues::Arm64,
        };
        let call = self
            .client
            .register_image()
            .name(*name)
            .description(*description)
            .architecture(architecture)
            .root_device_name(ROOT_DEVICE)
            .block_device_mappings(BlockDeviceMapping::builder().device_name(ROOT_DEVICE).ebs(disk).build())
            .virtualization_type("hvm")
            .boot_mode(BootModeValues::Uefi)
            .ena_support(true)
            .sriov_net_support("simple")
            .imds_support(ImdsSupportValues::V20)
            .tag_specifications(tags(ResourceType::Image, with));
        let answer = call.send().await.map_err(AwsError::of("ec2:RegisterImage"))?;
        let none = || AwsError::said("ec2:RegisterImage", AwsErrorKind::Unsure, "the answer names no image");
        answer.image_id.ok_or_else(none)
    }

    /// Has AWS copy an image of another region.
    pub(super) async fn copy(
        &self,
        from: (&str, &str),
        name: &str,
        token: &str,
        kms_key: Option<&str>,
        with: &[(String, String)],
    ) -> Result<String> {
        let (region, image) = from;
        let call = self
            .client
            .copy_image()
            .source_region(region)
            .source_image_id(image)
            .name(name)
            .client_token(token)
            .set_encrypted(kms_key.map(|_| true))
            .set_kms_key_id(kms_key.map(str::to_owned))
            .tag_specifications(tags(ResourceType::Image, with))
            .tag_specifications(tags(ResourceType::Snapshot, with));
        let answer = call.send().await.map_err(AwsError::of("ec2:CopyImage")).map_err(self.aws())?;
        Ok(answer.image_id.unwrap_or_default())
    }

    /// Lets others start an image, and read its snapshot: the snapshot first, so that who sees the image can use it.
    pub(super) async fn share(&self, image: &str, snapshot: &str, share: &[Share]) -> Result<()> {
        let accounts = share.iter().filter_map(|share| match share {
            Share::Account(account) => Some(account),
            _ => None,
        });
        let readers: Vec<CreateVolumePermission> =
            accounts.map(|account| CreateVolumePermission::builder().user_id(account).build()).collect();
        if !readers.is_empty() {
            let add = CreateVolumePermissionModifications::builder().set_add(Some(readers)).build();
            let call =
                self.client.modify_snapshot_attribute().snapshot_id(snapshot).create_volume_permission(add);
            let done = call.send().await.map_err(AwsError::of("ec2:ModifySnapshotAttribute"));
            done.map_err(self.aws())?;
        }
        if share.is_empty() {
            return Ok(());
        }
        let starters = share.iter().map(|share| {
            let permission = LaunchPermission::builder();
            match share {
                Share::Account(account) => permission.user_id(account).build(),
                Share::Organization(arn) => permission.organization_arn(arn).build(),
                Share::Unit(arn) => permission.organizational_unit_arn(arn).build(),
            }
        });
        let add = LaunchPermissionModifications::builder().set_add(Some(starters.collect())).build();
        let call = self.client.modify_image_attribute().image_id(image).launch_permission(add);
        let done = call.send().await.map_err(AwsError::of("ec2:ModifyImageAttribute"));
        done.map(drop).map_err(self.aws())
    }

    /// Has AWS call an image deprecated from a time on.
    pub(super) async fn deprecate(&self, image: &str, at: Timestamp) -> Result<()> {
        let seconds = i64::try_from(at.seconds()).unwrap_or(i64::MAX);
        let at = aws_smithy_types::DateTime::from_secs(seconds);
        let call = self.client.enable_image_deprecation().image_id(image).deprecate_at(at);
        let done = call.send().await.map_err(AwsError::of("ec2:EnableImageDeprecation"));
        done.map(drop).map_err(self.aws())
    }
}

/// Looks ever more seldom.
struct Watch {
    next: Duration,
    waited: Duration,
}

impl Watch {
    const fn new() -> Self {
        Self { next: SOONEST, waited: Duration::ZERO }
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.waited += self.next;
        self.next = self.next.mul_f64(1.5).min(LATEST);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use super::*;

    #[test]
    fn names_tell_versions_apart_and_are_short_enough() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let web: ImageRef = "web/large".parse().unwrap();
        assert_eq!(image_name(&web, &one), format!("olbake/web/large/{}", &one.hex()[..32]));
        let long: ImageRef = format!("{}/{}", "a".repeat(64), "b".repeat(64)).parse().unwrap();
        assert_eq!(image_name(&long, &one).len(), LONGEST);
        assert_ne!(image_name(&long, &one), image_name(&long, &two));
    }
}
