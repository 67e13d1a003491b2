from common import *

ec2, ebs, asg, elb = client("ec2"), client("ebs"), client("autoscaling"), client("elbv2")
old, new = an_image(ec2, ebs, "old"), an_image(ec2, ebs, "new")
subnets = ec2.describe_subnets()["Subnets"][:2]
ids = [subnet["SubnetId"] for subnet in subnets]
target = dict(Name="targets", Protocol="HTTP", Port=80, VpcId=subnets[0]["VpcId"])
targets = elb.create_target_group(**target)["TargetGroups"][0]["TargetGroupArn"]
data = {"ImageId": old, "InstanceType": "t3.micro"}
template = ec2.create_launch_template(LaunchTemplateName="template", LaunchTemplateData=data)["LaunchTemplate"]
template = template["LaunchTemplateId"]
asg.create_auto_scaling_group(
    AutoScalingGroupName="group",
    MinSize=0,
    MaxSize=6,
    DesiredCapacity=4,
    HealthCheckType="ELB",
    VPCZoneIdentifier=",".join(ids),
    LaunchTemplate={"LaunchTemplateId": template, "Version": "1"},
    TargetGroupARNs=[targets],
)


def members():
    """The instances of the group."""
    [group] = asg.describe_auto_scaling_groups()["AutoScalingGroups"]
    return {one["InstanceId"]: one for one in group["Instances"]}


def healthy():
    """The targets that are."""
    found = elb.describe_target_health(TargetGroupArn=targets)["TargetHealthDescriptions"]
    return {one["Target"]["Id"] for one in found if one["TargetHealth"]["State"] == "healthy"}


# Instances are spread over the subnets, and targets.
first = members()
zones = [one["AvailabilityZone"] for one in first.values()]
assert all(zones.count(zone) == 2 for zone in zones), zones
assert healthy() == set(first)

# What dies is replaced, however it dies; the dead are no targets.
one, two, *_ = first
ec2.terminate_instances(InstanceIds=[one])
until("a replacement", lambda: one not in members() and len(members()) == 4 and healthy() == set(members()))
ec2.stop_instances(InstanceIds=[two])
until("a replacement", lambda: two not in members() and len(members()) == 4 and healthy() == set(members()))
three = next(iter(members()))
control("/_health", {"target": three, "state": "unhealthy"})
until("a replacement", lambda: three not in members() and len(members()) == 4 and healthy() == set(members()))

# A refresh replaces all of them, one at a time goes on.
assert code(asg.cancel_instance_refresh, AutoScalingGroupName="group") == "ActiveInstanceRefreshNotFound"
ec2.create_launch_template_version(LaunchTemplateId=template, SourceVersion="1", LaunchTemplateData={"ImageId": new})
before = set(members())
desired = {"LaunchTemplate": {"LaunchTemplateId": template, "Version": "2"}}
refresh = dict(AutoScalingGroupName="group", DesiredConfiguration=desired, Preferences={"MinHealthyPercentage": 75})
refresh_id = asg.start_instance_refresh(**refresh)["InstanceRefreshId"]
assert code(asg.start_instance_refresh, **refresh) == "InstanceRefreshInProgress"


def state():
    """Of the newest refresh."""
    [found] = asg.describe_instance_refreshes(AutoScalingGroupName="group", MaxRecords=1)["InstanceRefreshes"]
    assert found["InstanceRefreshId"] == refresh_id
    assert len(members()) >= 3
    return found["Status"]


until("the refresh's end", lambda: state() == "Successful")
assert not before & set(members())
assert {one["LaunchTemplate"]["Version"] for one in members().values()} == {"2"}
found = ec2.describe_instances(InstanceIds=list(members()))["Reservations"]
assert {instance["ImageId"] for one in found for instance in one["Instances"]} == {new}

# One that is cancelled ends where it is.
refresh_id = asg.start_instance_refresh(AutoScalingGroupName="group")["InstanceRefreshId"]
asg.cancel_instance_refresh(AutoScalingGroupName="group")
until("the refresh's end", lambda: state() == "Cancelled")

# Without capacity the group stays smaller, says why, and tries again.
control("/_no_capacity", {"group": "group", "times": 1})
asg.set_desired_capacity(AutoScalingGroupName="group", DesiredCapacity=5)
activities = asg.describe_scaling_activities(AutoScalingGroupName="group")["Activities"]
assert any("sufficient capacity" in one.get("StatusMessage", "") for one in activities)
until("another try", lambda: len(members()) == 5)

assert code(asg.delete_auto_scaling_group, AutoScalingGroupName="group") == "ResourceInUse"
asg.delete_auto_scaling_group(AutoScalingGroupName="group", ForceDelete=True)
assert not healthy()
running = [{"Name": "instance-state-name", "Values": ["running"]}]
assert not [one for one in ec2.describe_instances(Filters=running)["Reservations"]]
