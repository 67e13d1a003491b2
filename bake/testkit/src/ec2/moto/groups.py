"""Auto Scaling groups: launches over all subnets from the version that the group names, replacement of what died, and
instance refresh."""

import math
import uuid

import balancers
from common import ACCOUNT, ActionResult, records, true
from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.autoscaling.models import (
    ASG_NAME_TAG,
    AutoScalingBackend,
    FakeAutoScalingGroup,
    InstanceState,
    autoscaling_backends,
)
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.utils import utcnow
from moto.elbv2.models import FakeTargetGroup

RECORDS, record = records()
NOTIFY = AutoScalingBackend.notify_terminate_instances
DELETE = AutoScalingBackend.delete_auto_scaling_group
UPDATE = FakeAutoScalingGroup.update
GOING = ("Terminating", "Terminated", "Standby", "EnteringStandby")
# How many launches fail for lack of capacity, by group.
NO_CAPACITY = {}


def launch(self, count_needed, propagated_tags):
    """Launches one by one, each where the fewest are."""
    tags = {**propagated_tags, **self.instance_tags, ASG_NAME_TAG: self.name}
    subnets = (self.vpc_zone_identifier or "").split(",")
    backend = self.autoscaling_backend.ec2_backend
    template = None
    if self.ec2_launch_template:
        template = {"LaunchTemplateId": self.ec2_launch_template.id, "Version": self.launch_template_version}
    for _ in range(count_needed):
        if NO_CAPACITY.get(self.name, 0) > 0:
            NO_CAPACITY[self.name] -= 1
            note(self, None, "Failed", "We currently do not have sufficient capacity in the Availability Zone "
                 "you requested. Launching EC2 instance failed.")
            continue
        used = [state.instance.subnet_id for state in self.instance_states]
        subnet = min(subnets, key=used.count) or None
        zone = backend.get_subnet(subnet).availability_zone if subnet else self.availability_zones[0]
        try:
            reservation = backend.run_instances(
                self.image_id,
                1,
                self.user_data,
                self.security_groups,
                instance_type=self.instance_type,
                tags={"instance": dict(tags)},
                placement=zone,
                region_name=self.region,
                launch_config=self.launch_config,
                launch_template=template,
                is_instance_type_default=False,
                associate_public_ip=getattr(self.launch_config, "associate_public_ip_address", None),
                subnet_id=subnet,
            )
        except Exception as error:  # what a group cannot launch it tries again, and says why
            note(self, None, "Failed", str(getattr(error, "message", None) or error))
            return
        for instance in reservation.instances:
            instance.autoscaling_group = self
            protected = self.new_instances_protected_from_scale_in
            state = InstanceState(instance, protected_from_scale_in=protected)
            version = self.ec2_launch_template and self.ec2_launch_template.get_version(self.launch_template_version)
            state.launched_version = str(version.number) if version else None
            self.instance_states.append(state)
            note(self, instance.id, "Successful", None)


def note(group, instance, status, problem):
    """An activity, newest first."""
    if not hasattr(group, "activities"):
        group.activities = []
    group.activities.insert(
        0,
        {
            "ActivityId": str(uuid.uuid4()),
            "AutoScalingGroupName": group.name,
            "Description": f"Launching a new EC2 instance: {instance}" if instance else "Launching a new EC2 instance",
            "Cause": "An instance was started in response to a difference between desired and actual capacity.",
            "StartTime": utcnow(),
            "EndTime": utcnow(),
            "StatusCode": status,
            "StatusMessage": problem,
            "Progress": 100,
        },
    )
    del group.activities[100:]


def active_instances(self):
    return [state for state in self.instance_states if state.stored not in GOING]


def shown_lifecycle(self):
    if self.stored == "InService" and self.instance.state == "pending":
        return "Pending"
    return self.stored


def version_launched(self):
    template = self.auto_scaling_group and self.auto_scaling_group.ec2_launch_template
    if template is None:
        return None
    version = getattr(self, "launched_version", None) or str(template.default_version_number)
    return {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name, "Version": version}


def update(self, *arguments, **options):
    """Sizes are checked, and the policy of mixed instances stays where none is given."""
    if options.get("mixed_instances_policy") is None and not options.get("launch_template"):
        options["mixed_instances_policy"] = self.mixed_instances_policy
    UPDATE(self, *arguments, **options)


def notify_terminate_instances(self, instance_ids):
    NOTIFY(self, instance_ids)
    for name in list(self.autoscaling_groups):
        self.update_attached_target_groups(name)


def register(self, targets):
    """Instances that are pending may be registered, those that are gone may not."""
    for target in targets:
        instance = self.ec2_backend.get_instance_by_id(target["Id"])
        if instance is not None and instance.state in ("terminated", "shutting-down"):
            continue
        self.targets[target["Id"]] = {"Id": target["Id"], "Port": target.get("Port", self.port)}
        self.deregistered_targets.pop(target["Id"], None)


def delete_auto_scaling_group(self):
    backend, name = self.autoscaling_backend, self._get_param("AutoScalingGroupName")
    group = backend.autoscaling_groups.get(name)
    if group and group.instance_states and not true(self._get_param("ForceDelete")):
        raise AutoscalingClientError(
            "ResourceInUse",
            "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance request(s) "
            "still in the group.",
        )
    backend.delete_auto_scaling_group(name)
    return ActionResult({})


def delete_group(self, group_name):
    for state in getattr(self.autoscaling_groups.get(group_name), "instance_states", []):
        state.protected_from_scale_in = False
    DELETE(self, group_name)


def describe_scaling_activities(self):
    name = self._get_param("AutoScalingGroupName")
    groups = self.autoscaling_backend.autoscaling_groups
    found = [activity for key, group in groups.items() if name in (None, key)
             for activity in getattr(group, "activities", [])]
    return ActionResult({"Activities": found})


# Instance refresh.

RUNNING = ("Pending", "InProgress", "Cancelling", "Baking")


def group_of(call):
    name = call._get_param("AutoScalingGroupName")
    group = call.autoscaling_backend.autoscaling_groups.get(name)
    if not group:
        raise ValidationError(f"AutoScalingGroup name not found - no such group: {name}")
    if not hasattr(group, "refreshes"):
        group.refreshes = []
    return group


def start_instance_refresh(self):
    group = group_of(self)
    if any(refresh["Status"] in RUNNING for refresh in group.refreshes):
        raise AutoscalingClientError(
            "InstanceRefreshInProgress", "An Instance Refresh is already in progress and blocks this one."
        )
    desired = self._get_param("DesiredConfiguration") or {}
    if desired.get("LaunchTemplate"):
        group._set_launch_configuration(None, desired["LaunchTemplate"], None)
    refresh = {
        "InstanceRefreshId": str(uuid.uuid4()),
        "AutoScalingGroupName": group.name,
        "Status": "Pending",
        "StartTime": utcnow(),
        "PercentageComplete": 0,
        "InstancesToUpdate": len(group.instance_states),
        "Strategy": "Rolling",
        "Preferences": self._get_param("Preferences") or {},
        "DesiredConfiguration": desired or None,
    }
    refresh["left"] = [state.instance.id for state in to_replace(group, refresh)]
    refresh["all"] = max(len(refresh["left"]), 1)
    group.refreshes.insert(0, refresh)
    return ActionResult({"InstanceRefreshId": refresh["InstanceRefreshId"]})


def to_replace(group, refresh):
    if not true(refresh["Preferences"].get("SkipMatching")):
        return list(group.instance_states)
    wanted = None
    if group.ec2_launch_template:
        wanted = str(group.ec2_launch_template.get_version(group.launch_template_version).number)
    return [state for state in group.instance_states if getattr(state, "launched_version", None) != wanted]


def cancel_instance_refresh(self):
    for refresh in group_of(self).refreshes:
        if refresh["Status"] in RUNNING:
            refresh["Status"], refresh["StatusReason"] = "Cancelling", "Cancelled due to user request."
            return ActionResult({"InstanceRefreshId": refresh["InstanceRefreshId"]})
    raise AutoscalingClientError("ActiveInstanceRefreshNotFound", "No in progress Instance Refresh found.")


def describe_instance_refreshes(self):
    ids = self._get_param("InstanceRefreshIds", [])
    shown = [{key: value for key, value in refresh.items() if key not in ("left", "all") and value is not None}
             for refresh in group_of(self).refreshes
             if not ids or refresh["InstanceRefreshId"] in ids]
    start, most = int(self._get_param("NextToken") or 0), int(self._get_param("MaxRecords") or 50)
    following = str(start + most) if len(shown) > start + most else None
    return ActionResult({"InstanceRefreshes": shown[start : start + most], "NextToken": following})


def refresh_step(group, refresh, healthy):
    """Takes out as many as may be missing, and waits for those that replace them."""
    if refresh["Status"] == "Cancelling":
        return end_refresh(refresh, "Cancelled")
    refresh["Status"] = "InProgress"
    alive = [state for state in group.instance_states if healthy(state)]
    least = math.ceil(group.desired_capacity * int(refresh["Preferences"].get("MinHealthyPercentage", 90)) / 100)
    # One at a time always goes on, as in EC2, also where nothing may be missing.
    may_go = max(len(alive) - least, 1 if len(alive) == group.desired_capacity else 0)
    present = {state.instance.id for state in group.instance_states}
    left = [instance for instance in refresh["left"] if instance in present]
    for instance in left[:may_go]:
        left.remove(instance)
        group.autoscaling_backend.terminate_instance(instance, False)
    refresh["left"], refresh["InstancesToUpdate"] = left, len(left)
    refresh["PercentageComplete"] = int(100 * (refresh["all"] - len(left)) / refresh["all"])
    if not left and len([state for state in group.instance_states if healthy(state)]) >= group.desired_capacity:
        end_refresh(refresh, "Successful")


def end_refresh(refresh, status):
    refresh["Status"], refresh["EndTime"] = status, utcnow()
    if status == "Successful":
        refresh["PercentageComplete"] = 100


def apply():
    """Changes moto's classes."""
    InstanceState.stored = "InService"
    InstanceState.lifecycle_state = property(shown_lifecycle, lambda self, value: setattr(self, "stored", value))
    InstanceState.launch_template = property(version_launched)
    FakeAutoScalingGroup.active_instances = active_instances
    FakeAutoScalingGroup.replace_autoscaling_group_instances = launch
    FakeAutoScalingGroup.update = update
    AutoScalingBackend.notify_terminate_instances = notify_terminate_instances
    AutoScalingBackend.delete_auto_scaling_group = delete_group
    FakeTargetGroup.register = register
    calls = (delete_auto_scaling_group, describe_scaling_activities, start_instance_refresh,
             cancel_instance_refresh, describe_instance_refreshes)
    for call in calls:
        setattr(AutoScalingResponse, call.__name__, call)


def mend_group(backend, group, health):
    """Replaces what is dead, launches what is missing, goes on with a refresh."""
    suspended = {process["ProcessName"] for process in group.suspended_processes}

    def dead(state):
        if state.instance.state not in ("pending", "running") or state.health_status == "Unhealthy":
            return True
        return group.health_check_type == "ELB" and health.get(state.instance.id) == "unhealthy"

    if not suspended & {"ReplaceUnhealthy", "Terminate"}:
        gone = [state.instance.id for state in group.instance_states if state.stored == "InService" and dead(state)]
        for instance in gone:
            backend.terminate_instance(instance, False)
    missing = (group.desired_capacity or 0) - len(group.active_instances())
    if missing > 0 and "Launch" not in suspended:
        group.set_desired_capacity(group.desired_capacity)
    for refresh in getattr(group, "refreshes", []):
        if refresh["Status"] in RUNNING:
            refresh_step(group, refresh, lambda state: state.instance.state == "running"
                         and health.get(state.instance.id, "healthy") == "healthy")


@record
def tick():
    """A moment passes. Says in how many groups there is more to do."""
    busy, health = 0, balancers.of_instances()
    for backend in list(autoscaling_backends[ACCOUNT].values()):
        for group in list(backend.autoscaling_groups.values()):
            mend_group(backend, group, health)
            busy += any(refresh["Status"] in RUNNING for refresh in getattr(group, "refreshes", []))
    return busy


@record
def no_capacity(group, times):
    """Has the next launches of a group fail."""
    NO_CAPACITY[group] = times
    return True
