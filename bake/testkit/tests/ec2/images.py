from common import *

ec2, ebs, iam = client("ec2"), client("ebs"), client("iam")
snapshot = ebs.start_snapshot(VolumeSize=3)["SnapshotId"]
disks = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3"}}]
tags = [{"Key": "made-by", "Value": "test"}]
said = dict(
    Name="web-1",
    Architecture="x86_64",
    RootDeviceName="/dev/xvda",
    BootMode="uefi",
    EnaSupport=True,
    ImdsSupport="v2.0",
    VirtualizationType="hvm",
    BlockDeviceMappings=disks,
    TagSpecifications=[{"ResourceType": "image", "Tags": tags}],
)
assert code(ec2.register_image, **said) == "IncorrectState"
ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=0)
completed(ec2, snapshot)
image = ec2.register_image(**said)["ImageId"]
assert code(ec2.register_image, **said) == "InvalidAMIName.Duplicate"
assert code(ec2.delete_snapshot, SnapshotId=snapshot) == "InvalidSnapshot.InUse"
[shown] = ec2.describe_images(Owners=["self"], Filters=[{"Name": "tag:made-by", "Values": ["test"]}])["Images"]
assert (shown["ImageId"], shown["BootMode"], shown["ImdsSupport"]) == (image, "uefi", "v2.0"), shown
assert shown["EnaSupport"] and shown["Tags"] == tags
assert shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] == snapshot
assert shown["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 3

# What cannot be run is refused.
run = dict(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1)
assert code(ec2.run_instances, **{**run, "ImageId": "ami-00000000000000000"}) == "InvalidAMIID.NotFound"
assert code(ec2.run_instances, **{**run, "InstanceType": "t9.micro"}).startswith("InvalidInstanceType")

# A launch template's settings reach its instances; a version goes on from its source.
iam.create_role(RoleName="role", AssumeRolePolicyDocument="{}")
iam.create_instance_profile(InstanceProfileName="profile")
iam.add_role_to_instance_profile(InstanceProfileName="profile", RoleName="role")
data = {
    "ImageId": image,
    "InstanceType": "t3.micro",
    "IamInstanceProfile": {"Name": "profile"},
    "MetadataOptions": {"HttpTokens": "required"},
    "TagSpecifications": [{"ResourceType": "volume", "Tags": tags}],
}
template = ec2.create_launch_template(LaunchTemplateName="template", LaunchTemplateData=data)["LaunchTemplate"]
template = template["LaunchTemplateId"]
given = {"InstanceType": "t3.small"}
ec2.create_launch_template_version(LaunchTemplateId=template, SourceVersion="1", LaunchTemplateData=given)
source = {"LaunchTemplateId": template, "Version": "2"}
[instance] = ec2.run_instances(LaunchTemplate=source, MinCount=1, MaxCount=1)["Instances"]
[found] = ec2.describe_instances(InstanceIds=[instance["InstanceId"]])["Reservations"][0]["Instances"]
assert (found["InstanceType"], found["MetadataOptions"]["HttpTokens"]) == ("t3.small", "required"), found
assert found["IamInstanceProfile"]["Arn"].endswith("/profile")
[volume] = ec2.describe_volumes()["Volumes"]
assert (volume["SnapshotId"], volume["Size"], volume["Tags"]) == (snapshot, 3, tags), volume

# An image of an instance waits for its snapshot, and is copied to another region.
control("/_behaviour", {"snapshot_ms": 500}, "PUT")
both = [{"ResourceType": kind, "Tags": tags} for kind in ("image", "snapshot")]
made = ec2.create_image(InstanceId=found["InstanceId"], Name="made", TagSpecifications=both)["ImageId"]
state = lambda ec2, image: ec2.describe_images(ImageIds=[image])["Images"][0]["State"]
assert state(ec2, made) == "pending"
assert code(ec2.run_instances, **{**run, "ImageId": made}) == "InvalidAMIID.Unavailable"
until("an image", lambda: state(ec2, made) == "available")
[taken] = ec2.describe_snapshots(Filters=[{"Name": "tag:made-by", "Values": ["test"]}])["Snapshots"]
far = client("ec2", "eu-west-1")
copy = dict(SourceRegion="us-east-1", SourceImageId=made, Name="copy", ClientToken="token", CopyImageTags=True)
copied = far.copy_image(**copy)["ImageId"]
assert far.copy_image(**copy)["ImageId"] == copied
until("a copy", lambda: state(far, copied) == "available")
assert far.describe_images(ImageIds=[copied])["Images"][0]["Tags"] == tags
ec2.enable_image_deprecation(ImageId=made, DeprecateAt="2027-01-01T00:00:00Z")
assert ec2.describe_images(ImageIds=[made])["Images"][0]["DeprecationTime"].startswith("2027-01-01T00:00:00")

# All of it can be taken away again.
ec2.deregister_image(ImageId=made, DeleteAssociatedSnapshots=True)
ec2.deregister_image(ImageId=image)
ec2.delete_snapshot(SnapshotId=snapshot)
ec2.terminate_instances(InstanceIds=[found["InstanceId"]])
assert not ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
assert not ec2.describe_volumes()["Volumes"] and not ec2.describe_network_interfaces()["NetworkInterfaces"]
