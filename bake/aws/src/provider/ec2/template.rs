//! `aws.launch_template`: how instances are launched, but for their image, which is the group's.
//!
//! A change makes another version of the template; versions stay, so that what ran before can be launched again. The
//! description of a version says what is in it: properties that were there before are the version that they were.

use async_trait::async_trait;
use aws_sdk_ec2::types::builders::RequestLaunchTemplateDataBuilder;
use aws_sdk_ec2::types::{
    LaunchTemplateBlockDeviceMappingRequest as Device, LaunchTemplateEbsBlockDeviceRequest as Disk,
    LaunchTemplateHttpTokensState, LaunchTemplateIamInstanceProfileSpecificationRequest as Profile,
    LaunchTemplateInstanceMetadataOptionsRequest as Metadata, LaunchTemplateVersion,
    RequestLaunchTemplateData, ResourceType, VolumeType,
};
use base64::Engine as _;
use olbake_core::digest::FieldDigest;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::owner::token;
use super::super::problem::{Problem, problem};
use super::{all, by_tags, retag, sighting, specification};

pub(super) struct LaunchTemplate;

/// How instances are launched.
#[derive(Clone, Debug, Deserialize)]
pub(in super::super) struct Template {
    instance_type: String,
    security_group_ids: Vec<String>,
    instance_profile: Option<String>,
    user_data: Option<String>,
    key_name: Option<String>,
    disk: Option<Root>,
    ebs_optimized: Option<bool>,
}

/// The disk that instances boot from.
#[derive(Clone, Debug, Deserialize)]
struct Root {
    device: String,
    size: u64,
    volume_type: String,
    kms_key_id: Option<String>,
}

/// One gigabyte, as EBS counts.
const GIB: u64 = 1 << 30;

impl Template {
    /// As AWS takes it.
    fn request(&self) -> RequestLaunchTemplateDataBuilder {
        let Self {
            instance_type,
            security_group_ids,
            instance_profile,
            user_data,
            key_name,
            disk,
            ebs_optimized,
        } = self;
        let encoded = |text: &String| base64::engine::general_purpose::STANDARD.encode(text);
        // An instance's role is for those who can ask twice, not for whoever tricks a proxy into asking once.
        let metadata = Metadata::builder().http_tokens(LaunchTemplateHttpTokensState::Required).build();
        RequestLaunchTemplateData::builder()
            .instance_type(instance_type.as_str().into())
            .set_security_group_ids(Some(security_group_ids.clone()))
            .set_iam_instance_profile(
                instance_profile.as_ref().map(|name| Profile::builder().name(name).build()),
            )
            .set_user_data(user_data.as_ref().map(encoded))
            .set_key_name(key_name.clone())
            .set_block_device_mappings(disk.as_ref().map(|root| vec![root.device()]))
            .set_ebs_optimized(*ebs_optimized)
            .metadata_options(metadata)
    }
}

impl Root {
    fn device(&self) -> Device {
        let Self { device, size, volume_type, kms_key_id } = self;
        let size = i32::try_from(size.div_ceil(GIB)).unwrap_or(i32::MAX);
        let disk = Disk::builder()
            .volume_size(size)
            .volume_type(VolumeType::from(volume_type.as_str()))
            .set_encrypted(kms_key_id.as_ref().map(|_| true))
            .set_kms_key_id(kms_key_id.clone())
            .delete_on_termination(true);
        Device::builder().device_name(device).ebs(disk.build()).build()
    }
}

/// A version as it is seen, in the form of the properties.
impl From<&aws_sdk_ec2::types::ResponseLaunchTemplateData> for Template {
    fn from(data: &aws_sdk_ec2::types::ResponseLaunchTemplateData) -> Self {
        let decoded = |text: &str| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
            String::from_utf8(bytes).ok()
        };
        let disk = data.block_device_mappings().first().and_then(|device| {
            let disk = device.ebs()?;
            Some(Root {
                device: device.device_name()?.to_owned(),
                size: u64::try_from(disk.volume_size()?).ok()?.saturating_mul(GIB),
                volume_type: disk.volume_type().map_or("gp3", |ty| ty.as_str()).to_owned(),
                kms_key_id: disk.kms_key_id().map(str::to_owned),
            })
        });
        Self {
            instance_type: data.instance_type().map(|ty| ty.as_str().to_owned()).unwrap_or_default(),
            security_group_ids: data.security_group_ids().to_vec(),
            instance_profile: data
                .iam_instance_profile()
                .and_then(|profile| profile.name())
                .map(str::to_owned),
            user_data: data.user_data().and_then(decoded),
            key_name: data.key_name().map(str::to_owned),
            disk,
            ebs_optimized: data.ebs_optimized(),
        }
    }
}

/// What a version's description begins with.
const MADE: &str = "olbake ";

/// What the description of a version says of what is in it.
fn description(inputs: &Map<String, Value>) -> String {
    let content: Map<String, Value> =
        inputs.iter().filter(|(name, _)| *name != "tags").map(|(k, v)| (k.clone(), v.clone())).collect();
    let digest = FieldDigest::new("olbake launch template 1")
        .field("content", olbake_core::canonical::to_string(&content).as_bytes());
    format!("{MADE}{}", &digest.finish().hex()[..32])
}

/// Every version of a template.
async fn versions(aws: &Aws, template: &str) -> Result<Vec<LaunchTemplateVersion>, Problem> {
    let call = aws.ec2.describe_launch_template_versions().launch_template_id(template).max_results(200);
    Ok(all!("ec2:DescribeLaunchTemplateVersions", call))
}

/// The version with a description; made if it is not there.
async fn version(
    aws: &Aws,
    template: &str,
    description: &str,
    data: RequestLaunchTemplateData,
) -> Result<i64, Problem> {
    let known = versions(aws, template).await?;
    let same = known.iter().find(|version| version.version_description() == Some(description));
    if let Some(number) = same.and_then(LaunchTemplateVersion::version_number) {
        return Ok(number);
    }
    let digest = FieldDigest::new("olbake launch template version 1")
        .field("template", template.as_bytes())
        .field("description", description.as_bytes());
    let call = aws.ec2.create_launch_template_version().launch_template_id(template);
    let call = call.client_token(&digest.finish().hex()[..32]);
    let call = call.version_description(description).launch_template_data(data);
    let made = call.send().await.map_err(problem("ec2:CreateLaunchTemplateVersion"))?;
    let number = made.launch_template_version().and_then(LaunchTemplateVersion::version_number);
    number.ok_or_else(|| Problem::failed("ec2:CreateLaunchTemplateVersion", "the version has no number"))
}

/// What a group launches by itself: a version of a template with an image and tags.
pub(in super::super) struct Release<'a> {
    pub(in super::super) template: &'a str,
    pub(in super::super) version: i64,
    /// The image at EC2.
    pub(in super::super) ami: &'a str,
    pub(in super::super) tags: &'a super::super::owner::Tags,
}

/// The number of a release's version.
pub(in super::super) async fn release_version(aws: &Aws, release: &Release<'_>) -> Result<i64, Problem> {
    let Release { template, version: base, ami, tags } = release;
    let call = aws.ec2.describe_launch_template_versions().launch_template_id(*template);
    let found = call.versions(base.to_string()).send().await;
    let found = found.map_err(problem("ec2:DescribeLaunchTemplateVersions"))?;
    let data = found.launch_template_versions().first().and_then(|version| version.launch_template_data());
    let Some(data) = data else {
        let message = format!("`{template}` has no version {base}");
        return Err(Problem::refused("ec2:DescribeLaunchTemplateVersions", message));
    };
    let specification = aws_sdk_ec2::types::LaunchTemplateTagSpecificationRequest::builder()
        .resource_type(ResourceType::Instance)
        .set_tags(Some(tags.iter().map(|(key, value)| super::tag(key, value)).collect()))
        .build();
    let data = Template::from(data).request().image_id(*ami).tag_specifications(specification).build();
    let tags = olbake_core::canonical::to_string(tags);
    let digest = FieldDigest::new("olbake launch template release 1")
        .field("base", base.to_string().as_bytes())
        .field("ami", ami.as_bytes())
        .field("tags", tags.as_bytes());
    version(aws, template, &format!("{MADE}release {}", &digest.finish().hex()[..32]), data).await
}

#[async_trait]
impl Kind for LaunchTemplate {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_launch_templates().filters(by_tags(which)).max_results(200);
        let templates = all!("ec2:DescribeLaunchTemplates", call);
        let see = |template: &aws_sdk_ec2::types::LaunchTemplate| {
            let seen = sighting(template.launch_template_id(), template.tags(), json!({}))?;
            Some(seen.gives("version", template.default_version_number()))
        };
        Ok(templates.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let template: Template = wanted.read("ec2:CreateLaunchTemplate")?;
        let call = aws.ec2.create_launch_template().launch_template_name(wanted.id().as_str());
        let call = call.client_token(token(wanted.object, wanted.inputs));
        let call = call.version_description(description(wanted.inputs));
        let call = call.launch_template_data(template.request().build());
        let call = call.tag_specifications(specification(ResourceType::LaunchTemplate, wanted));
        call.send().await.map_err(problem("ec2:CreateLaunchTemplate")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let template: Template = wanted.read("ec2:CreateLaunchTemplateVersion")?;
        let data = template.request().build();
        let number = version(aws, &there.native, &description(wanted.inputs), data).await?;
        let retagged = retag(aws, there, wanted).await?;
        if there.outputs.get("version") == Some(&json!(number)) {
            return Ok(retagged);
        }
        let call = aws.ec2.modify_launch_template().launch_template_id(&there.native);
        let call = call.default_version(number.to_string());
        call.send().await.map_err(problem("ec2:ModifyLaunchTemplate"))?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.ec2.delete_launch_template().launch_template_id(&there.native);
        call.send().await.map_err(problem("ec2:DeleteLaunchTemplate")).map(drop)
    }
}
