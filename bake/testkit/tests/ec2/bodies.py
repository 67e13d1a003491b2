from common import *

ec2, ebs, asg, elb = client("ec2"), client("ebs"), client("autoscaling"), client("elbv2")
# Other clouds of the same host must have other networks.
NET = f"10.{64 + os.getpid() % 128}"
USER_DATA = """#cloud-config
write_files:
  - path: /etc/systemd/system/web.service
    content: |
      [Service]
      ExecStart=/usr/bin/python3 -m http.server 80 --directory /srv
      [Install]
      WantedBy=multi-user.target
runcmd:
  - [sh, -c, 'echo served >/srv/index.html; systemctl enable --now web; echo user data was applied >/dev/console']
"""
[debian] = ec2.describe_images(Owners=["136693071363"])["Images"]
vpc = ec2.create_vpc(CidrBlock=f"{NET}.0.0/16")["Vpc"]["VpcId"]
subnets = [
    ec2.create_subnet(VpcId=vpc, CidrBlock=f"{NET}.{number}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
    for number, zone in [(101, "us-east-1a"), (102, "us-east-1b")]
]


def served(address):
    try:
        return urllib.request.urlopen(f"http://{address}/", timeout=2).read() == b"served\n"
    except OSError:
        return False


def state(instance):
    [found] = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    return found["State"]["Name"]


# An instance boots, with its user data.
run = dict(ImageId=debian["ImageId"], InstanceType="t3.micro", MinCount=1, MaxCount=1, SubnetId=subnets[0])
[made] = ec2.run_instances(**run, UserData=USER_DATA)["Instances"]
instance, address = made["InstanceId"], made["PrivateIpAddress"]
assert made["State"]["Name"] == "pending"
until("a service", lambda: served(address), 300)
assert state(instance) == "running"
assert "user data was applied" in ec2.get_console_output(InstanceId=instance)["Output"]

# A snapshot of its disk while it runs has what it wrote, and few blocks more.
[disk] = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])["Volumes"]
snapshot = ec2.create_snapshot(VolumeId=disk["VolumeId"])["SnapshotId"]
completed(ec2, snapshot)
first = debian["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
changed = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=snapshot)["ChangedBlocks"]
assert 0 < len(changed) < len(ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]) / 4, len(changed)

# An image of it; then it stops, starts and ends, by its own will or another's.
image = ec2.create_image(InstanceId=instance, Name="made")["ImageId"]
until("an image", lambda: ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "available")
until("a service", lambda: served(address), 300)
ec2.stop_instances(InstanceIds=[instance])
until("a stop", lambda: state(instance) == "stopped")
assert not served(address)
ec2.start_instances(InstanceIds=[instance])
until("a service", lambda: served(address), 300)
ec2.terminate_instances(InstanceIds=[instance])
until("an end", lambda: not served(address))
ends = "#cloud-config\nruncmd: [[systemctl, --no-block, poweroff]]\n"
[short] = ec2.run_instances(**run, UserData=ends, InstanceInitiatedShutdownBehavior="terminate")["Instances"]
until("an end", lambda: state(short["InstanceId"]) == "terminated", 300)

# A group of the image behind a load balancer.
check = dict(HealthCheckPath="/", HealthCheckIntervalSeconds=5, HealthyThresholdCount=2, HealthCheckTimeoutSeconds=2)
targets = elb.create_target_group(Name="targets", Protocol="HTTP", Port=80, VpcId=vpc, **check)
targets = targets["TargetGroups"][0]["TargetGroupArn"]
balancer = elb.create_load_balancer(Name="balancer", Subnets=subnets)["LoadBalancers"][0]["LoadBalancerArn"]
forward = [{"Type": "forward", "TargetGroupArn": targets}]
elb.create_listener(LoadBalancerArn=balancer, Protocol="HTTP", Port=8080, DefaultActions=forward)
data = {"ImageId": image, "InstanceType": "t3.micro"}
ec2.create_launch_template(LaunchTemplateName="template", LaunchTemplateData=data)
asg.create_auto_scaling_group(
    AutoScalingGroupName="group",
    MinSize=0,
    MaxSize=2,
    DesiredCapacity=2,
    VPCZoneIdentifier=",".join(subnets),
    LaunchTemplate={"LaunchTemplateName": "template", "Version": "1"},
    TargetGroupARNs=[targets],
)


def health():
    found = elb.describe_target_health(TargetGroupArn=targets)["TargetHealthDescriptions"]
    return {one["Target"]["Id"]: one["TargetHealth"]["State"] for one in found}


both_healthy = lambda: list(health().values()) == ["healthy"] * 2
assert list(health().values()) == ["initial"] * 2
until("healthy targets", both_healthy, 300)
place = control("/_balancers", method="GET")[balancer]["address"]
until("an answer", lambda: served(f"{place}:8080"))
one = next(iter(health()))
ec2.terminate_instances(InstanceIds=[one])
until("a replacement", lambda: one not in health() and both_healthy(), 300)
asg.delete_auto_scaling_group(AutoScalingGroupName="group", ForceDelete=True)
until("an end", lambda: not served(f"{place}:8080"))
