//! Instance refresh: Auto Scaling replaces the instances, and is followed. There is one at a time; one that leads to
//! the same version is gone on with.

use aws_sdk_autoscaling::types::{
    DesiredConfiguration, InstanceRefresh, InstanceRefreshStatus as Status, LaunchTemplateSpecification,
    RefreshPreferences,
};
use olbake_engine::stack::provider::Object;

use super::super::clients::Aws;
use super::super::problem::{Problem, problem};
use super::{Properties, pinned};

/// How many of the group serve at least, in percent, while others are replaced.
const AT_LEAST: i32 = 100;
/// How many there are at most.
const AT_MOST: i32 = 110;

/// Has Auto Scaling bring a group to a release and to its size.
pub(super) async fn replace(
    aws: &Aws,
    group: &Object,
    properties: &Properties,
    release: &str,
) -> Result<(), Problem> {
    let name = group.id.as_str();
    let version = pinned(aws, group, properties, release).await?;
    let there = super::describe(aws, name).await?;
    let has_instances = there.is_some_and(|group| !group.instances().is_empty());
    if !has_instances {
        // There is nothing to replace: the group starts with the release.
        let call = aws.scaling.update_auto_scaling_group().auto_scaling_group_name(name);
        let call = call.launch_template(version).desired_capacity(properties.size);
        call.send().await.map_err(problem("autoscaling:UpdateAutoScalingGroup"))?;
        return in_service(aws, name, properties).await;
    }
    let call = aws.scaling.set_desired_capacity().auto_scaling_group_name(name);
    let call = call.desired_capacity(properties.size);
    call.send().await.map_err(problem("autoscaling:SetDesiredCapacity"))?;
    let id = match under_way(aws, name).await? {
        Some(refresh) if leads_to(&refresh, &version) => refresh.instance_refresh_id,
        Some(_) => {
            let message = "another instance refresh is under way; it has to end first";
            return Err(Problem::failed("autoscaling:StartInstanceRefresh", message));
        }
        None => Some(begin(aws, name, version).await?),
    };
    follow(aws, name, id.as_deref().unwrap_or_default()).await
}

fn leads_to(refresh: &InstanceRefresh, version: &LaunchTemplateSpecification) -> bool {
    let wanted = refresh.desired_configuration().and_then(DesiredConfiguration::launch_template);
    wanted.is_some_and(|wanted| {
        wanted.launch_template_id() == version.launch_template_id() && wanted.version() == version.version()
    })
}

async fn refreshes(aws: &Aws, group: &str) -> Result<Vec<InstanceRefresh>, Problem> {
    let call = aws.scaling.describe_instance_refreshes().auto_scaling_group_name(group).max_records(10);
    let found = call.send().await.map_err(problem("autoscaling:DescribeInstanceRefreshes"))?;
    Ok(found.instance_refreshes().to_vec())
}

async fn under_way(aws: &Aws, group: &str) -> Result<Option<InstanceRefresh>, Problem> {
    let open = |refresh: &InstanceRefresh| {
        matches!(
            refresh.status(),
            Some(
                Status::Pending
                    | Status::InProgress
                    | Status::Cancelling
                    | Status::RollbackInProgress
                    | Status::Baking
            )
        )
    };
    Ok(refreshes(aws, group).await?.into_iter().find(open))
}

async fn begin(aws: &Aws, group: &str, version: LaunchTemplateSpecification) -> Result<String, Problem> {
    let preferences = RefreshPreferences::builder()
        .min_healthy_percentage(AT_LEAST)
        .max_healthy_percentage(AT_MOST)
        .auto_rollback(true)
        .skip_matching(true)
        .build();
    let call = aws.scaling.start_instance_refresh().auto_scaling_group_name(group).preferences(preferences);
    let call = call.desired_configuration(DesiredConfiguration::builder().launch_template(version).build());
    let begun = call.send().await.map_err(problem("autoscaling:StartInstanceRefresh"))?;
    begun
        .instance_refresh_id
        .ok_or_else(|| Problem::failed("autoscaling:StartInstanceRefresh", "the refresh has no id"))
}

/// Waits until a refresh is over; an error where it did not bring the release.
async fn follow(aws: &Aws, group: &str, id: &str) -> Result<(), Problem> {
    let action = "autoscaling:DescribeInstanceRefreshes";
    let mut looks = aws.looks(aws.patience.ready);
    let mut progress = None;
    loop {
        let found = refreshes(aws, group).await?;
        let refresh = found.into_iter().find(|refresh| refresh.instance_refresh_id() == Some(id));
        if let Some(refresh) = refresh {
            let why = || refresh.status_reason().unwrap_or("AWS does not say why").to_owned();
            match refresh.status() {
                Some(Status::Successful) => return Ok(()),
                Some(Status::Failed | Status::Cancelled | Status::RollbackFailed) => {
                    return Err(Problem::failed(action, format!("the instance refresh failed: {}", why())));
                }
                Some(Status::RollbackSuccessful) => {
                    return Err(Problem::failed(action, format!("it was rolled back: {}", why())));
                }
                _ => {}
            }
            if progress != refresh.percentage_complete {
                // It may take hours, as long as it goes on.
                progress = refresh.percentage_complete;
                looks = aws.looks(aws.patience.ready);
            }
        }
        if !looks.next().await {
            return Err(Problem::failed(action, "the instance refresh does not go on"));
        }
    }
}

/// Waits until as many are in service as there are to be.
async fn in_service(aws: &Aws, group: &str, properties: &Properties) -> Result<(), Problem> {
    let mut looks = aws.looks(aws.patience.ready);
    loop {
        let there = super::describe(aws, group).await?;
        let serving = there.as_ref().map(|group| {
            let state = |instance: &&aws_sdk_autoscaling::types::Instance| {
                instance.lifecycle_state().is_some_and(|state| state.as_str() == "InService")
            };
            group.instances().iter().filter(state).count()
        });
        if serving.and_then(|serving| i32::try_from(serving).ok()) >= Some(properties.size) {
            return Ok(());
        }
        if !looks.next().await {
            return Err(Problem::failed(
                "autoscaling:DescribeAutoScalingGroups",
                "its instances do not come up",
            ));
        }
    }
}
