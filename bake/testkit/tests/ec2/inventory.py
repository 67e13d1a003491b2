"""Says what there is in the account, except what is there from the beginning: JSON, by kind."""

import json

import boto3

ec2 = boto3.client("ec2")
states = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
reservations = ec2.describe_instances(Filters=states)["Reservations"]
vpcs = [vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"] if not vpc["IsDefault"]]
groups = [group for group in ec2.describe_security_groups()["SecurityGroups"] if group["GroupName"] != "default"]
found = {
    "instances": [one["InstanceId"] for held in reservations for one in held["Instances"]],
    "volumes": [volume["VolumeId"] for volume in ec2.describe_volumes()["Volumes"]],
    "groups": [group["GroupName"] for group in groups],
    "vpcs": vpcs,
    "addresses": [address["AllocationId"] for address in ec2.describe_addresses()["Addresses"]],
    "templates": [one["LaunchTemplateName"] for one in ec2.describe_launch_templates()["LaunchTemplates"]],
    "scaling": [
        group["AutoScalingGroupName"]
        for group in boto3.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    ],
    "balancers": [
        one["LoadBalancerName"] for one in boto3.client("elbv2").describe_load_balancers()["LoadBalancers"]
    ],
    "roles": [role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"]],
    "images": {
        image["ImageId"]: [disk["Ebs"]["SnapshotId"] for disk in image["BlockDeviceMappings"]]
        for image in ec2.describe_images(Owners=["self"])["Images"]
    },
    "snapshots": [snapshot["SnapshotId"] for snapshot in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]],
}
print(json.dumps(found))
