//! The instances of a group, as rollouts launch, attach, weigh, drain and terminate them.
//!
//! | step | call |
//! |---|---|
//! | launch | RunInstances with the pinned template, tags and a token; without a target group it joins at once |
//! | attach | AttachInstances and RegisterTargets; of weight 0: RegisterTargets with the idle target group |
//! | weigh | ModifyListener or ModifyRule: shares of the two target groups |
//! | drain | DetachInstances with less capacity, DeregisterTargets |
//! | terminate | TerminateInstances, after it has left the group |
//! | keep | UpdateAutoScalingGroup: the pinned version of the release that holds |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_ec2::types::InstanceStateName;
use aws_sdk_elasticloadbalancingv2::types::{TargetDescription, TargetHealthStateEnum};
use olbake_core::Digest;
use olbake_core::rollout::{InstanceId, Lien, Verdict};
use olbake_engine::stack::group::{self, Health};
use olbake_engine::stack::provider::{Fleet, Launch, Life, Object, ProviderError, Seen};
use serde_json::{Map, Value};

use super::super::balancing::{shares, weigh};
use super::super::clients::Aws;
use super::super::kind::read;
use super::super::probe;
use super::super::problem::{Problem, problem};
use super::super::{AwsProvider, command};
use super::instances::{Found, by_name, named, of_group, start, terminate, until_running};
use super::{Behind, IMAGE, Properties, RELEASE, SLOT, describe, front, pin, refresh, unless_gone};

/// What would change a group while a rollout does.
const PROCESSES: [&str; 3] = ["AZRebalance", "AlarmNotification", "ScheduledActions"];
/// The total of shares.
const TOTAL: u32 = 100;

/// The target group that has the requests.
pub(super) async fn active(aws: &Aws, behind: &Behind) -> Result<String, Problem> {
    let (Some(idle), Some(listener)) = (&behind.idle_target_group_arn, &behind.listener_arn) else {
        return Ok(behind.target_group_arn.clone());
    };
    let shares = shares(aws, listener).await?;
    let share = |arn: &String| shares.get(arn).copied().unwrap_or_default();
    Ok(if share(idle) > share(&behind.target_group_arn) { idle } else { &behind.target_group_arn }.clone())
}

/// What target groups say of their targets, by instance: where it is, and how it is.
type Fronted = BTreeMap<String, (String, TargetHealthStateEnum)>;

async fn fronted(aws: &Aws, behind: Option<&Behind>) -> Result<Fronted, Problem> {
    let mut found = Fronted::new();
    for arn in behind.map(Behind::targets).unwrap_or_default() {
        let call = aws.balancing.describe_target_health().target_group_arn(&arn);
        let answer = call.send().await.map_err(problem("elasticloadbalancing:DescribeTargetHealth"))?;
        for target in answer.target_health_descriptions() {
            let id = target.target().and_then(|target| target.id());
            let state = target.target_health().and_then(|health| health.state());
            if let (Some(id), Some(state)) = (id, state) {
                // One that leaves one group may be in the other.
                let leaves = *state == TargetHealthStateEnum::Draining;
                if !(leaves && found.contains_key(id)) {
                    found.insert(id.to_owned(), (arn.clone(), state.clone()));
                }
            }
        }
    }
    Ok(found)
}

fn life(found: &Found) -> Life {
    match found.state() {
        Some(InstanceStateName::Running) => Life::Running,
        Some(InstanceStateName::Pending) | None => Life::Booting,
        _ => Life::Stopped,
    }
}

fn verdict(state: &TargetHealthStateEnum) -> Verdict {
    match state {
        TargetHealthStateEnum::Healthy => Verdict::Passing,
        TargetHealthStateEnum::Unhealthy | TargetHealthStateEnum::UnhealthyDraining => Verdict::Failing,
        _ => Verdict::Unknown,
    }
}

/// An instance as rollouts see it, but for the checks that are asked of it.
fn see(instance: InstanceId, found: &Found, fronted: &Fronted, image: Option<Digest>) -> Seen {
    let digest = |tag: &str| found.tags.get(tag).and_then(|text| text.parse::<Digest>().ok());
    let target = fronted.get(&found.native).map(|(_, state)| state);
    let drains = target == Some(&TargetHealthStateEnum::Draining);
    let running = life(found) == Life::Running;
    let since = found.instance.launch_time().and_then(|time| u64::try_from(time.to_millis().ok()?).ok());
    Seen {
        instance,
        release: digest(RELEASE),
        slot: found.tags.get(SLOT).and_then(|slot| slot.parse().ok()),
        since,
        life: life(found),
        address: found.instance.private_ip_address().map(str::to_owned),
        image: image.filter(|_| running),
        in_service: target.filter(|_| !drains).map(verdict),
        // How many it still serves is not told.
        draining: drains.then_some(1),
        checks: Vec::new(),
        console: None,
    }
}

impl AwsProvider {
    /// The instance that a rollout calls so; an error where there is none.
    async fn instance(&self, group: &Object, name: &InstanceId) -> Result<Found, ProviderError> {
        let found = named(&self.aws, group.id.as_str(), name).await.map_err(Problem::after)?;
        let gone = || ProviderError::refused(format!("there is no instance `{name}`"));
        found.into_iter().next().ok_or_else(gone)
    }

    /// The images that instances really run: what they were launched from, not what their tags say.
    async fn images(&self, found: &[&Found]) -> Result<BTreeMap<String, Digest>, Problem> {
        let mut known = BTreeMap::new();
        let digests: BTreeSet<Digest> =
            found.iter().filter_map(|found| found.tags.get(IMAGE)?.parse().ok()).collect();
        for digest in digests {
            if let Some(ami) = self.aws.published(&digest).await? {
                known.insert(ami, digest);
            }
        }
        Ok(known)
    }

    async fn join(&self, group: &Object, id: &str) -> Result<(), Problem> {
        until_running(&self.aws, id).await?;
        let there = describe(&self.aws, group.id.as_str()).await?;
        let member = there
            .is_some_and(|group| group.instances().iter().any(|instance| instance.instance_id() == Some(id)));
        if member {
            return Ok(());
        }
        let call = self.aws.scaling.attach_instances().auto_scaling_group_name(group.id.as_str());
        let call = call.instance_ids(id);
        call.send().await.map_err(problem("autoscaling:AttachInstances")).map(drop)
    }

    async fn leave(&self, group: &Object, id: &str) -> Result<(), Problem> {
        let there = describe(&self.aws, group.id.as_str()).await?;
        let member = there
            .is_some_and(|group| group.instances().iter().any(|instance| instance.instance_id() == Some(id)));
        if !member {
            return Ok(());
        }
        let detach = || async {
            let call = self.aws.scaling.detach_instances().auto_scaling_group_name(group.id.as_str());
            let call = call.instance_ids(id).should_decrement_desired_capacity(true);
            call.send().await.map_err(problem("autoscaling:DetachInstances"))
        };
        self.aws.once_free(detach).await.map(drop)
    }

    async fn register(&self, target_group: &str, id: &str) -> Result<(), Problem> {
        let target = TargetDescription::builder().id(id).build();
        let call = self.aws.balancing.register_targets().target_group_arn(target_group).targets(target);
        call.send().await.map_err(problem("elasticloadbalancing:RegisterTargets")).map(drop)
    }

    async fn deregister(&self, behind: &Behind, id: &str) -> Result<(), Problem> {
        let fronted = fronted(&self.aws, Some(behind)).await?;
        let leaves = |state: &TargetHealthStateEnum| *state == TargetHealthStateEnum::Draining;
        if let Some((arn, _)) = fronted.get(id).filter(|(_, state)| !leaves(state)) {
            let target = TargetDescription::builder().id(id).build();
            let call = self.aws.balancing.deregister_targets().target_group_arn(arn).targets(target);
            unless_gone(
                call.send().await.map_err(problem("elasticloadbalancing:DeregisterTargets")).map(drop),
            )?;
        }
        Ok(())
    }

    /// The target group in which new instances of a blue-green rollout wait.
    async fn idle(&self, behind: &Behind) -> Result<String, Problem> {
        let (Some(idle), Some(_)) = (&behind.idle_target_group_arn, &behind.listener_arn) else {
            let message = "`load_balancer` has no `idle_target_group_arn` and `listener_arn`: they are needed for \
                           blue-green rollouts";
            return Err(Problem::refused("elasticloadbalancing:ModifyListener", message));
        };
        let active = active(&self.aws, behind).await?;
        Ok(if active == *idle { behind.target_group_arn.clone() } else { idle.clone() })
    }

    /// All that is seen of a group, and what asks each instance.
    async fn look(&self, group: &Object, properties: &Properties) -> Result<Vec<Seen>, Problem> {
        let found = by_name(of_group(&self.aws, group.id.as_str()).await?);
        let fronted = fronted(&self.aws, properties.load_balancer.as_ref()).await?;
        let images = self.images(&found.values().collect::<Vec<_>>()).await?;
        let there = found.into_iter().filter(|(_, found)| !found.is_going());
        let see = |(name, found): (InstanceId, Found)| {
            let image = found.instance.image_id().and_then(|ami| images.get(ami).copied());
            see(name, &found, &fronted, image)
        };
        Ok(there.map(see).collect())
    }

    /// Has new instances of the weights' two sets have their shares: each set is in a target group of its own.
    async fn divide(
        &self,
        group: &Object,
        behind: &Behind,
        weights: &[(InstanceId, u32)],
    ) -> Result<(), Problem> {
        let Some(listener) = &behind.listener_arn else { return Ok(()) };
        let found = by_name(of_group(&self.aws, group.id.as_str()).await?);
        let fronted = fronted(&self.aws, Some(behind)).await?;
        let mut sums: BTreeMap<String, u64> = behind.targets().into_iter().map(|arn| (arn, 0)).collect();
        for (name, weight) in weights {
            let target = found.get(name).and_then(|found| fronted.get(&found.native));
            if let Some(sum) = target.and_then(|(arn, _)| sums.get_mut(arn)) {
                *sum += u64::from(*weight);
            }
        }
        let all = sums.values().sum::<u64>();
        if all == 0 {
            return Ok(());
        }
        let share = |sum: u64| i32::try_from((sum * u64::from(TOTAL) + all / 2) / all).unwrap_or_default();
        let wanted = sums.into_iter().map(|(arn, sum)| (arn, share(sum))).collect();
        if shares(&self.aws, listener).await? == wanted {
            return Ok(());
        }
        weigh(&self.aws, listener, &wanted).await
    }

    async fn ask(&self, seen: &mut Seen, checks: &[Health]) {
        let address = seen.address.as_ref().and_then(|address| address.parse::<IpAddr>().ok());
        let Some(address) = address.filter(|_| seen.life == Life::Running) else { return };
        for check in checks {
            seen.checks.push(probe::ask(address, check).await);
        }
    }
}

#[async_trait]
impl Fleet for AwsProvider {
    async fn observe(&self, group: &Object, inputs: &Map<String, Value>) -> Result<Vec<Seen>, ProviderError> {
        let checks = group::Group::read(inputs).map_err(ProviderError::refused)?.health;
        let mut seen = self.look(group, &read(inputs)?).await.map_err(Problem::after)?;
        for seen in &mut seen {
            self.ask(seen, &checks).await;
        }
        Ok(seen)
    }

    async fn launch(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        launch: &Launch,
    ) -> Result<(), ProviderError> {
        let properties: Properties = read(inputs)?;
        let mut release = inputs.clone();
        release.extend(launch.properties.clone());
        let release: Properties = read(&release)?;
        let found = named(&self.aws, group.id.as_str(), &launch.instance).await.map_err(Problem::after)?;
        let id = match found.first() {
            Some(found) => {
                if life(found) == Life::Stopped {
                    let call = self.aws.ec2.start_instances().instance_ids(&found.native);
                    call.send().await.map_err(problem("ec2:StartInstances")).map_err(Problem::after)?;
                }
                found.native.clone()
            }
            None => {
                let subnets = &properties.subnet_ids;
                start(&self.aws, group, subnets, launch, &release).await.map_err(Problem::after)?
            }
        };
        if properties.load_balancer.is_none() {
            self.join(group, &id).await.map_err(Problem::after)?;
        }
        Ok(())
    }

    async fn attach(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        instance: &InstanceId,
        weight: u32,
    ) -> Result<(), ProviderError> {
        let Some(behind) = read::<Properties>(inputs)?.load_balancer else { return Ok(()) };
        let found = self.instance(group, instance).await?;
        let attach = async {
            if weight == 0 {
                return self.register(&self.idle(&behind).await?, &found.native).await;
            }
            self.join(group, &found.native).await?;
            self.register(&active(&self.aws, &behind).await?, &found.native).await
        };
        attach.await.map_err(Problem::after)
    }

    async fn weigh(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        weights: &[(InstanceId, u32)],
    ) -> Result<(), ProviderError> {
        let Some(behind) = read::<Properties>(inputs)?.load_balancer else { return Ok(()) };
        self.divide(group, &behind, weights).await.map_err(Problem::after)
    }

    async fn drain(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        instance: &InstanceId,
    ) -> Result<(), ProviderError> {
        let properties: Properties = read(inputs)?;
        let drain = async {
            for found in named(&self.aws, group.id.as_str(), instance).await? {
                self.leave(group, &found.native).await?;
                if let Some(behind) = &properties.load_balancer {
                    self.deregister(behind, &found.native).await?;
                }
            }
            Ok(())
        };
        drain.await.map_err(Problem::after)
    }

    async fn detach(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        instance: &InstanceId,
    ) -> Result<(), ProviderError> {
        self.drain(group, inputs, instance).await
    }

    async fn run(
        &self,
        group: &Object,
        instance: &InstanceId,
        argv: &[String],
        limit: Duration,
    ) -> Result<(), ProviderError> {
        let found = self.instance(group, instance).await?;
        command::run(&self.aws, &found.native, argv, limit).await
    }

    async fn room(&self, _group: &Object, inputs: &Map<String, Value>) -> Result<Option<u32>, ProviderError> {
        let Properties { subnet_ids, .. } = read(inputs)?;
        let call = self.aws.ec2.describe_subnets().set_subnet_ids(Some(subnet_ids));
        let answer = call.send().await.map_err(problem("ec2:DescribeSubnets")).map_err(Problem::after)?;
        let free =
            answer.subnets().iter().map(|subnet| subnet.available_ip_address_count().unwrap_or_default());
        Ok(u32::try_from(free.sum::<i32>()).ok())
    }

    async fn terminate(&self, group: &Object, instance: &InstanceId) -> Result<(), ProviderError> {
        let end = async {
            let found = named(&self.aws, group.id.as_str(), instance).await?;
            for found in &found {
                self.leave(group, &found.native).await?;
            }
            terminate(&self.aws, found.into_iter().map(|found| found.native).collect()).await
        };
        end.await.map_err(Problem::after)
    }

    fn liens(&self) -> BTreeSet<Lien> {
        BTreeSet::from([Lien::SuspendedProcesses])
    }

    async fn take(&self, group: &Object, lien: Lien) -> Result<(), ProviderError> {
        if lien != Lien::SuspendedProcesses {
            return Ok(());
        }
        let call = self.aws.scaling.suspend_processes().auto_scaling_group_name(group.id.as_str());
        let call = call.set_scaling_processes(Some(PROCESSES.map(str::to_owned).to_vec()));
        call.send().await.map_err(problem("autoscaling:SuspendProcesses")).map_err(Problem::after).map(drop)
    }

    async fn release(&self, group: &Object, lien: Lien) -> Result<(), ProviderError> {
        if lien != Lien::SuspendedProcesses {
            return Ok(());
        }
        let call = self.aws.scaling.resume_processes().auto_scaling_group_name(group.id.as_str());
        let call = call.set_scaling_processes(Some(PROCESSES.map(str::to_owned).to_vec()));
        call.send().await.map_err(problem("autoscaling:ResumeProcesses")).map_err(Problem::after).map(drop)
    }

    async fn keep(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        release: &Digest,
        properties: &Map<String, Value>,
    ) -> Result<(), ProviderError> {
        let mut complete = inputs.clone();
        complete.extend(properties.clone());
        let properties: Properties = read(&complete)?;
        let keep = async {
            pin(&self.aws, group, &properties, &release.to_string()).await?;
            front(&self.aws, group.id.as_str(), properties.load_balancer.as_ref()).await?;
            // What waited in the idle target group is not the group's yet.
            let release = release.to_string();
            for found in of_group(&self.aws, group.id.as_str()).await? {
                if found.tags.get(RELEASE) == Some(&release) && life(&found) == Life::Running {
                    self.join(group, &found.native).await?;
                }
            }
            Ok(())
        };
        keep.await.map_err(Problem::after)
    }

    fn delegates(&self, inputs: &Map<String, Value>) -> bool {
        inputs.get("delegate").is_some_and(|delegate| !delegate.is_null())
    }

    async fn delegate(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        release: &Digest,
    ) -> Result<(), ProviderError> {
        let properties: Properties = read(inputs)?;
        refresh::replace(&self.aws, group, &properties, &release.to_string()).await.map_err(Problem::after)
    }
}
