"""Instances: what they take from their image and launch template, and the states of those that have a body."""

import ipaddress
import os

from common import ACCOUNT, ActionResult, ec2, records, refuse, tags_for, true
from moto.autoscaling.models import autoscaling_backends
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.instances import Instance, InstanceState, StateReason
from moto.ec2.responses.launch_templates import LaunchTemplates
from moto.ec2.utils import parse_user_data
from moto.elbv2.models import elbv2_backends

RECORDS, record = records()
BODIES = os.environ.get("OLBAKE_BODIES") == "1"
CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
CREATE_SUBNET = EC2Backend.create_subnet
RUN = EC2Backend.run_instances
START, STOP = Instance.start, Instance.stop
TERMINATE = EC2Backend.terminate_instances


def template_data(backend, kwargs):
    """What the launch template says, if there is one."""
    given = kwargs.get("launch_template")
    return backend._get_template_from_args(given).data if given else {}


def check_image(backend, image_id):
    """An image that is there and can be used."""
    if not image_id:
        refuse("MissingParameter", "The request must contain the parameter ImageId")
    image = backend.amis.get(image_id)
    if not image:
        refuse("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    if image.state != "available":
        refuse("InvalidAMIID.Unavailable", f"The image ID '[{image_id}]' is {image.state}")
    return image


def disks(image, given):
    """The image's disks, as the request changes them, in the form that moto reads."""
    merged = {disk["DeviceName"]: dict(disk["Ebs"]) for disk in image.block_device_mappings}
    for entry in given or []:
        if entry.get("NoDevice") == "":
            merged.pop(entry["DeviceName"], None)
        elif "Ebs" in entry:
            known = merged.setdefault(entry["DeviceName"], {})
            known |= {key: value for key, value in entry["Ebs"].items() if value not in (None, "")}
    for device, ebs in merged.items():
        for snapshot in [ebs.get("SnapshotId")]:
            least = image.ec2_backend.snapshots[snapshot].volume_size if snapshot in image.ec2_backend.snapshots else 1
            if int(ebs.get("VolumeSize") or least) < least:
                refuse("InvalidBlockDeviceMapping", f"Volume of size {ebs['VolumeSize']}GB is smaller than snapshot "
                       f"'{snapshot}', expect size >= {least}GB")
        ebs["VolumeSize"] = int(ebs.get("VolumeSize") or 8)
        ebs["DeleteOnTermination"] = true(ebs.get("DeleteOnTermination", True))
        ebs["Encrypted"] = true(ebs.get("Encrypted", False))
    return [{"DeviceName": device, "VirtualName": None, "NoDevice": None, "Ebs": ebs} for device, ebs in merged.items()]


def fill_from_template(kwargs, data):
    """What moto does not take from a launch template."""
    for key, field in {
        "metadata_options": "MetadataOptions",
        "instance_initiated_shutdown_behavior": "InstanceInitiatedShutdownBehavior",
        "disable_api_termination": "DisableApiTermination",
        "disable_api_stop": "DisableApiStop",
        "ebs_optimized": "EbsOptimized",
        "nics": "NetworkInterfaces",
    }.items():
        if not kwargs.get(key) and data.get(field):
            kwargs[key] = data[field]
    market = data.get("InstanceMarketOptions", {}).get("MarketType")
    if not kwargs.get("instance_market_options") and market:
        kwargs["instance_market_options"] = market
    tags = kwargs.get("tags") or {}
    for kind in ("instance", "volume"):
        tags[kind] = tags_for(data.get("TagSpecifications"), kind) | tags.get(kind, {})
    kwargs["tags"] = tags
    groups = [group for nic in kwargs.get("nics") or [] for group in nic.get("Groups", [])]
    if groups and not kwargs.get("security_group_ids"):
        kwargs["security_group_ids"] = groups
        kwargs["nics"] = [{**nic, "Groups": []} for nic in kwargs["nics"]]


def profile(kwargs, data):
    """The instance profile of the launch template, if the request has none: by ARN or by name."""
    if kwargs.get("iam_instance_profile_name") or kwargs.get("iam_instance_profile_arn"):
        return None
    given = data.get("IamInstanceProfile") or {}
    if given.get("Arn"):
        return {"iam_instance_profile_arn": given["Arn"]}
    return {"iam_instance_profile_name": given["Name"]} if given.get("Name") else None


def run_instances(self, image_id, count, user_data, security_group_names, **kwargs):
    data = template_data(self, kwargs)
    image_id = image_id or data.get("ImageId")
    image = check_image(self, image_id)
    fill_from_template(kwargs, data)
    given = kwargs.get("block_device_mappings") or data.get("BlockDeviceMappings")
    kwargs["block_device_mappings"] = disks(image, given)
    reservation = RUN(self, image_id, count, user_data, security_group_names, **kwargs)
    given = profile(kwargs, data)
    for instance in reservation.instances:
        for nic in instance.nics.values():
            nic.delete_on_termination = True
        if given:
            self.associate_iam_instance_profile(instance_id=instance.id, **given)
        if BODIES:
            set_state(instance, "pending")
    return reservation


def create_launch_template_version(self):
    """With what the version has that it is made from."""
    get, backend = self._get_param, self.ec2_backend
    name = get("LaunchTemplateName")
    if name:
        template = backend.get_launch_template_by_name(name)
    else:
        template = backend.get_launch_template(get("LaunchTemplateId"))
    data = dict(get("LaunchTemplateData", {}))
    if data.get("UserData"):
        data["UserData"] = parse_user_data(get("LaunchTemplateData.UserData"))
    if get("SourceVersion"):
        data = {**template.get_version(get("SourceVersion")).data, **data}
    self.error_on_dryrun()
    version = template.create_version(data, get("VersionDescription"))
    said = {
        "CreateTime": version.create_time,
        "CreatedBy": f"arn:aws:iam::{ACCOUNT}:root",
        "DefaultVersion": template.is_default(version),
        "LaunchTemplateData": version.data,
        "LaunchTemplateId": template.id,
        "LaunchTemplateName": template.name,
        "VersionDescription": version.description,
        "VersionNumber": version.number,
    }
    return ActionResult({"LaunchTemplateVersion": said})


def terminate_instances(self, instance_ids):
    ended = TERMINATE(self, instance_ids)
    elbv2_backends[self.account_id][self.region_name].notify_terminate_instances(instance_ids)
    return ended


def set_state(instance, state):
    """Moves an instance on."""
    instance._state.name, instance._state.code = state, CODES[state]


def start(self):
    before = START(self)
    if BODIES and before.name != "running":
        set_state(self, "pending")
    return before


def stop(self):
    was = self.state
    before = STOP(self)
    if BODIES and was != "stopped":
        set_state(self, "stopping")
    return before


def create_subnet(self, vpc_id, *rest, **more):
    """Only a default network has default subnets: to moto, the first of a zone is one, wherever it is."""
    subnet = CREATE_SUBNET(self, vpc_id, *rest, **more)
    if not self.get_vpc(vpc_id).is_default:
        subnet.default_for_az = False
        subnet.map_public_ip_on_launch = False
    return subnet


def apply():
    """Changes moto's classes."""
    EC2Backend.create_subnet = create_subnet
    EC2Backend.run_instances = run_instances
    EC2Backend.terminate_instances = terminate_instances
    Instance.start, Instance.stop = start, stop
    LaunchTemplates.create_launch_template_version = create_launch_template_version


def instance_record(region, instance):
    """What makes a body, and what its metadata service answers."""
    root = instance.block_device_mapping.get(instance.root_device_name)
    volume = instance.ec2_backend.volumes.get(root.volume_id) if root else None
    subnet = instance.ec2_backend.get_subnet(instance.subnet_id) if instance.subnet_id else None
    return {
        "id": instance.id,
        "region": region,
        "state": instance.state,
        "image": instance.image_id,
        "address": instance.private_ip_address,
        "prefix": ipaddress.ip_network(subnet.cidr_block).prefixlen if subnet else 24,
        "user_data": str(instance.user_data or ""),
        "volume": volume.id if volume else None,
        "snapshot": volume.snapshot_id if volume else None,
        "size": volume.size if volume else None,
        "on_shutdown": instance.instance_initiated_shutdown_behavior,
        "spot": instance.lifecycle == "spot",
        "metadata": metadata(region, instance),
    }


def metadata(region, instance):
    """The metadata service's leaves, by path."""
    zone = instance.availability_zone or f"{region}a"
    found = {
        "ami-id": instance.image_id,
        "ami-launch-index": str(instance.ami_launch_index),
        "hostname": instance.private_dns_name,
        "instance-id": instance.id,
        "instance-life-cycle": instance.lifecycle or "on-demand",
        "instance-type": instance.instance_type,
        "local-hostname": instance.private_dns_name,
        "local-ipv4": instance.private_ip_address,
        "placement/availability-zone": zone,
        "placement/region": region,
        "security-groups": "\n".join(group.name for group in instance.security_groups),
    }
    pairs = instance.ec2_backend.describe_key_pairs([]) if instance.key_name else []
    key = next((pair for pair in pairs if pair.key_name == instance.key_name), None)
    if key and key.material_public:
        public = key.material_public
        public = public.decode() if isinstance(public, bytes) else public
        found[f"public-keys/0={key.key_name}/openssh-key"] = public.strip()
    if instance.metadata_options.instance_metadata_tags == "enabled":
        found |= {f"tags/instance/{tag['key']}": tag["value"] for tag in instance.get_tags()}
    return found


@record
def instances():
    """All instances of all regions."""
    found = []
    for region, backend in list(ec2_backends[ACCOUNT].items()):
        found += [instance_record(region, one) for one in list(backend.all_instances())]
    return found


@record
def set_instance(region, id, state, was=None, reason=None):
    """Moves an instance on that its body moved, if it still is where it was; ends it if it ended itself."""
    backend = ec2(region)
    instance = backend.get_instance_by_id(id)
    if instance is None or instance.state == "terminated" or was not in (None, instance.state):
        return False
    if state != "terminated":
        set_state(instance, state)
    else:
        instance.disable_api_termination = False
        backend.terminate_instances([id])
        autoscaling_backends[ACCOUNT][region].notify_terminate_instances([id])
    if reason:
        instance.state_reason = StateReason(f"{reason}: {state}", reason)
    return True
