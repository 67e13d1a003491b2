from common import *

ec2, ebs = client("ec2"), client("ebs")
image = an_image(ec2, ebs, "image")
run = dict(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1)
count = lambda: sum(len(one["Instances"]) for one in ec2.describe_instances()["Reservations"])


def meet(kind, action="*", **more):
    control("/_faults", {"action": action, "kind": kind, **more})


# Each service has its own words for the same trouble.
WORDS = {
    "ec2": (lambda it: it.describe_vpcs, "RequestLimitExceeded", "InternalError"),
    "autoscaling": (lambda it: it.describe_auto_scaling_groups, "Throttling", "InternalFailure"),
    "elbv2": (lambda it: it.describe_load_balancers, "Throttling", "InternalFailure"),
    "iam": (lambda it: it.list_roles, "Throttling", "InternalFailure"),
    "route53": (lambda it: it.list_hosted_zones, "Throttling", "InternalFailure"),
    "s3": (lambda it: it.list_buckets, "SlowDown", "InternalError"),
    "kms": (lambda it: it.list_keys, "ThrottlingException", "InternalServerError"),
    "ssm": (lambda it: it.describe_parameters, "ThrottlingException", "InternalServerError"),
}
for service, (pick, throttled, unavailable) in WORDS.items():
    call = pick(client(service))
    meet("throttle")
    assert code(call) == throttled, service
    meet("unavailable")
    assert code(call) == unavailable, service
    meet("cut_before")
    assert code(call) == "cut", service
    meet("error", code="AccessDenied", message="no", status=403)
    assert code(call) == "AccessDenied", service
    call()

# It meets the calls that it is for, after those that it leaves alone.
meet("throttle", "ec2:Describe*", skip=1, times=2)
ec2.describe_vpcs()
assert code(ec2.describe_subnets) == code(ec2.describe_vpcs) == "RequestLimitExceeded"
ec2.describe_vpcs()
assert control("/_faults", method="GET") == []

# An answer that is lost is given again for the same token, to the same call only.
meet("cut_after", "RunInstances")
first = dict(run, ClientToken="first")
assert code(ec2.run_instances, **first) == "cut" and count() == 1
ec2.run_instances(**first)
assert count() == 1
assert code(ec2.run_instances, **dict(first, InstanceType="t3.small")) == "IdempotentParameterMismatch"
meet("twice", "RunInstances")
ec2.run_instances(**dict(run, ClientToken="second"))
assert count() == 2
meet("insufficient_capacity", "RunInstances")
assert code(ec2.run_instances, **dict(run, ClientToken="third")) == "InsufficientInstanceCapacity"
zone = dict(Name="x.test", CallerReference="reference")
client("route53").create_hosted_zone(**zone)
assert code(client("route53").create_hosted_zone, **zone) == "HostedZoneAlreadyExists"

# New objects are not seen for a while.
control("/_behaviour", {"visibility_ms": 1000}, "PUT")
vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
seen = lambda: vpc in [one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"]]
assert code(ec2.describe_vpcs, VpcIds=[vpc]) == "InvalidVpcID.NotFound"
assert code(ec2.create_subnet, VpcId=vpc, CidrBlock="10.9.1.0/24") == "InvalidVpcID.NotFound"
assert not seen()
[instance] = ec2.run_instances(**dict(run, ClientToken="fourth"))["Instances"]
assert code(ec2.describe_instances, InstanceIds=[instance["InstanceId"]]) == "InvalidInstanceID.NotFound"
assert count() == 2
until("a network", seen)
ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")
until("an instance", lambda: count() == 3)
control("/_behaviour", {}, "PUT")

# A snapshot that stays pending.
volume = ec2.describe_volumes()["Volumes"][0]["VolumeId"]
meet("stuck_snapshot", "CreateSnapshot")
stuck = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
other = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
completed(ec2, other)
assert ec2.describe_snapshots(SnapshotIds=[stuck])["Snapshots"][0]["State"] == "pending"

# A spot instance that is taken away.
control("/_interrupt", {"instance": instance["InstanceId"]})
[gone] = ec2.describe_instances(InstanceIds=[instance["InstanceId"]])["Reservations"][0]["Instances"]
assert (gone["State"]["Name"], gone["StateReason"]["Code"]) == ("terminated", "Server.SpotInstanceTermination"), gone

# Calls are counted.
control("/_calls", method="DELETE")
ec2.describe_vpcs()
client("iam").list_roles()
counts = control("/_calls", method="GET")
assert counts == {"total": 2, "by_action": {"ec2:DescribeVpcs": 1, "iam:ListRoles": 1}}, counts
control("/_behaviour", {"latency_ms": 200}, "PUT")
before = time.monotonic()
ec2.describe_vpcs()
assert time.monotonic() - before >= 0.2
