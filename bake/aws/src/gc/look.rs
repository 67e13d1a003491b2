//! Asks a region what is there, and removes what can go. Main type: [`Region`].

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_autoscaling::types::LaunchTemplateSpecification;
use aws_sdk_ec2::types::{Filter, Image, Tag};
use aws_smithy_types::DateTime;
use olbake_core::time::Timestamp;

use super::Kind;
use super::decide::{Doomed, ImageRow, Inventory, Leftover};
use crate::account::Account;
use crate::error::{AwsError, AwsErrorKind};
use crate::publish::images::version_of;
use crate::publish::{OPERATION_TAG, VERSION_TAG};

type Result<T> = std::result::Result<T, AwsError>;

/// A region of the account.
#[derive(Debug)]
pub(super) struct Region {
    ec2: aws_sdk_ec2::Client,
    groups: aws_sdk_autoscaling::Client,
}

fn tagged(key: &str) -> Filter {
    Filter::builder().name("tag-key").values(key).build()
}

fn one_of(name: &str, values: &[&str]) -> Filter {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

fn time(at: Option<&DateTime>) -> Option<Timestamp> {
    at.and_then(|at| u64::try_from(at.secs()).ok()).map(Timestamp::from_seconds)
}

fn name(tags: &[Tag]) -> String {
    tags.iter().find(|tag| tag.key() == Some("Name")).and_then(Tag::value).unwrap_or_default().to_owned()
}

impl Region {
    pub(super) fn new(account: &Account, region: &str) -> Self {
        let account = account.in_region(region);
        Self {
            ec2: aws_sdk_ec2::Client::new(account.config()),
            groups: aws_sdk_autoscaling::Client::new(account.config()),
        }
    }

    pub(super) async fn inventory(&self) -> Result<Inventory> {
        let images = self.images().await?;
        let mut used = self.used_by_instances().await?;
        used.extend(self.used_by_templates().await?);
        used.extend(self.used_by_groups().await?);
        let is_ours = |image: &&Image| {
            image.tags().iter().any(|tag| matches!(tag.key(), Some(VERSION_TAG | OPERATION_TAG)))
        };
        Ok(Inventory {
            of_images: images.iter().flat_map(snapshots_of).collect(),
            images: images.iter().filter(is_ours).map(image_row).collect(),
            snapshots: self.snapshots().await?,
            instances: self.instances().await?,
            volumes: self.volumes().await?,
            groups: self.security_groups().await?,
            used,
        })
    }

    async fn images(&self) -> Result<Vec<Image>> {
        let mut pages = self.ec2.describe_images().owners("self").into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(image) = pages.next().await {
            found.push(image.map_err(AwsError::of("ec2:DescribeImages"))?);
        }
        Ok(found)
    }

    async fn snapshots(&self) -> Result<Vec<Leftover>> {
        let mut found: BTreeMap<String, Leftover> = BTreeMap::new();
        for key in [VERSION_TAG, OPERATION_TAG] {
            let call = self.ec2.describe_snapshots().owner_ids("self").filters(tagged(key));
            let mut pages = call.into_paginator().items().send();
            while let Some(snapshot) = pages.next().await {
                let snapshot = snapshot.map_err(AwsError::of("ec2:DescribeSnapshots"))?;
                let Some(id) = snapshot.snapshot_id() else { continue };
                let created = time(snapshot.start_time());
                let leftover = Leftover { id: id.to_owned(), name: name(snapshot.tags()), created };
                found.insert(id.to_owned(), leftover);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Machines that a command made for itself. Those of stacks have no such tag.
    async fn instances(&self) -> Result<Vec<Leftover>> {
        let states = one_of("instance-state-name", &["pending", "running", "stopping", "stopped"]);
        let call = self.ec2.describe_instances().filters(tagged(OPERATION_TAG)).filters(states);
        let mut pages = call.into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(reservation) = pages.next().await {
            let reservation = reservation.map_err(AwsError::of("ec2:DescribeInstances"))?;
            found.extend(reservation.instances().iter().filter_map(|instance| {
                let id = instance.instance_id()?.to_owned();
                Some(Leftover { id, name: name(instance.tags()), created: time(instance.launch_time()) })
            }));
        }
        Ok(found)
    }

    async fn volumes(&self) -> Result<Vec<Leftover>> {
        let free = one_of("status", &["available"]);
        let call = self.ec2.describe_volumes().filters(tagged(OPERATION_TAG)).filters(free);
        let mut pages = call.into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(volume) = pages.next().await {
            let volume = volume.map_err(AwsError::of("ec2:DescribeVolumes"))?;
            let Some(id) = volume.volume_id() else { continue };
            let created = time(volume.create_time());
            found.push(Leftover { id: id.to_owned(), name: name(volume.tags()), created });
        }
        Ok(found)
    }

    async fn security_groups(&self) -> Result<Vec<Leftover>> {
        let call = self.ec2.describe_security_groups().filters(tagged(OPERATION_TAG));
        let mut pages = call.into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(group) = pages.next().await {
            let group = group.map_err(AwsError::of("ec2:DescribeSecurityGroups"))?;
            let Some(id) = group.group_id() else { continue };
            let name = group.group_name().unwrap_or_default().to_owned();
            found.push(Leftover { id: id.to_owned(), name, created: None });
        }
        Ok(found)
    }

    async fn used_by_instances(&self) -> Result<BTreeMap<String, String>> {
        let states = one_of("instance-state-name", &["pending", "running", "stopping", "stopped"]);
        let mut pages = self.ec2.describe_instances().filters(states).into_paginator().items().send();
        let mut used = BTreeMap::new();
        while let Some(reservation) = pages.next().await {
            let reservation = reservation.map_err(AwsError::of("ec2:DescribeInstances"))?;
            for instance in reservation.instances() {
                let (Some(image), Some(id)) = (instance.image_id(), instance.instance_id()) else { continue };
                used.insert(image.to_owned(), format!("the instance `{id}`"));
            }
        }
        Ok(used)
    }

    /// What the versions of templates name that something new would start from: the default and the latest.
    async fn used_by_templates(&self) -> Result<BTreeMap<String, String>> {
        self.images_of_templates(None, &["$Default", "$Latest"]).await
    }

    async fn images_of_templates(
        &self,
        template: Option<&str>,
        versions: &[&str],
    ) -> Result<BTreeMap<String, String>> {
        let mut used = BTreeMap::new();
        let call = self.ec2.describe_launch_template_versions();
        let call = call.set_launch_template_id(template.map(str::to_owned));
        let call = call.set_versions(Some(versions.iter().map(|version| (*version).to_owned()).collect()));
        let mut pages = call.into_paginator().items().send();
        while let Some(version) = pages.next().await {
            let version = match version.map_err(AwsError::of("ec2:DescribeLaunchTemplateVersions")) {
                Ok(version) => version,
                // A template that is gone names nothing.
                Err(error) if error.kind == AwsErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            let image = version.launch_template_data().and_then(|data| data.image_id());
            let (Some(image), Some(template)) = (image, version.launch_template_name()) else { continue };
            let number = version.version_number().unwrap_or_default();
            used.insert(image.to_owned(), format!("version {number} of the launch template `{template}`"));
        }
        Ok(used)
    }

    /// What Auto Scaling groups would start, by the version of a template that they are pinned to.
    async fn used_by_groups(&self) -> Result<BTreeMap<String, String>> {
        let mut pages = self.groups.describe_auto_scaling_groups().into_paginator().items().send();
        let mut used = BTreeMap::new();
        let mut seen = BTreeSet::new();
        while let Some(group) = pages.next().await {
            let group = group.map_err(AwsError::of("autoscaling:DescribeAutoScalingGroups"))?;
            let mixed = group.mixed_instances_policy().and_then(|policy| policy.launch_template());
            let specifications: Vec<&LaunchTemplateSpecification> =
                [group.launch_template(), mixed.and_then(|mixed| mixed.launch_template_specification())]
                    .into_iter()
                    .flatten()
                    .chain(
                        mixed
                            .into_iter()
                            .flat_map(|mixed| mixed.overrides())
                            .filter_map(|one| one.launch_template_specification()),
                    )
                    .collect();
            for specification in specifications {
                let Some(id) = specification.launch_template_id() else { continue };
                let version = specification.version().unwrap_or("$Default");
                if seen.insert((id.to_owned(), version.to_owned())) {
                    let by = group.auto_scaling_group_name().unwrap_or_default();
                    let images = self.images_of_templates(Some(id), &[version]).await?;
                    used.extend(
                        images.into_keys().map(|image| (image, format!("the Auto Scaling group `{by}`"))),
                    );
                }
            }
        }
        Ok(used)
    }

    /// Removes what can go. A snapshot that is gone already is no trouble.
    pub(super) async fn remove(&self, doomed: &Doomed) -> Result<()> {
        let Doomed { kind, id, snapshots, .. } = doomed;
        match kind {
            Kind::Instance => {
                let call = self.ec2.terminate_instances().instance_ids(id).send();
                call.await.map(drop).map_err(AwsError::of("ec2:TerminateInstances"))
            }
            Kind::Image => {
                let call = self.ec2.deregister_image().image_id(id).send().await;
                match call.map_err(AwsError::of("ec2:DeregisterImage")) {
                    Err(error) if error.kind != AwsErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                for snapshot in snapshots {
                    self.remove_snapshot(snapshot).await?;
                }
                Ok(())
            }
            Kind::Snapshot => self.remove_snapshot(id).await,
            Kind::Volume => {
                let call = self.ec2.delete_volume().volume_id(id).send();
                call.await.map(drop).map_err(AwsError::of("ec2:DeleteVolume"))
            }
            Kind::SecurityGroup => {
                let call = self.ec2.delete_security_group().group_id(id).send();
                call.await.map(drop).map_err(AwsError::of("ec2:DeleteSecurityGroup"))
            }
        }
    }

    async fn remove_snapshot(&self, id: &str) -> Result<()> {
        let call = self.ec2.delete_snapshot().snapshot_id(id).send().await;
        match call.map_err(AwsError::of("ec2:DeleteSnapshot")) {
            // It is gone, or another image is made of it too.
            Err(error) if error.kind == AwsErrorKind::NotFound || error.is("InvalidSnapshot.InUse") => Ok(()),
            other => other.map(drop),
        }
    }
}

fn snapshots_of(image: &Image) -> Vec<String> {
    let disks = image.block_device_mappings().iter().filter_map(|mapping| mapping.ebs()?.snapshot_id());
    disks.map(str::to_owned).collect()
}

fn image_row(image: &Image) -> ImageRow {
    ImageRow {
        id: image.image_id().unwrap_or_default().to_owned(),
        name: image.name().unwrap_or_default().to_owned(),
        version: version_of(image.tags()).and_then(|text| text.parse().ok()),
        snapshots: snapshots_of(image),
        created: image.creation_date().and_then(created),
    }
}

/// EC2 writes milliseconds.
fn created(text: &str) -> Option<Timestamp> {
    let (seconds, _) = text.split_once('.').unwrap_or((text.trim_end_matches('Z'), ""));
    format!("{seconds}Z").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_images_are_read() {
        let expected = Timestamp::from_civil([2026, 11, 22], [18, 20, 1]);
        assert_eq!(created("2026-11-22T18:20:01.000Z"), expected);
        assert_eq!(created("2026-11-22T18:20:01Z"), expected);
        assert_eq!(created("soon"), None);
    }
}
