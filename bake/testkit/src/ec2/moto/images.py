"""Images: their own disks, unique names, tags, and the fields that moto drops. Snapshots that are pending."""

from common import ACCOUNT, ActionResult, ec2, records, refuse, tags_for, true
from moto.core.utils import utcnow
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.responses.elastic_block_store import ElasticBlockStore
from moto.ec2.utils import random_ami_id

RECORDS, record = records()
DEFAULT_MAPPING = Ami.block_device_mappings


def new_image(backend, name, **fields):
    """An image without the snapshot that moto makes up for each."""
    image_id = random_ami_id()
    image = Ami(backend, image_id, name=name, **fields)
    backend.snapshots.pop(image.ebs_snapshot.id, None)
    image.hypervisor, image.root_device_type = "xen", "ebs"
    image.image_location = f"{image.owner_id}/{name}"
    return image


def refuse_taken_name(backend, name):
    """A name is an account's once."""
    for image in list(backend.amis.values()):
        if image.name == name and image.owner_id == backend.account_id:
            refuse(
                "InvalidAMIName.Duplicate",
                f"AMI name {name} is already in use by AMI {image.id}",
            )


def snapshot_of(backend, size, description, image_id=None):
    """A snapshot's record; its volume is none that anybody sees."""
    volume = backend.create_volume(size=size, zone_name=f"{backend.region_name}a")
    snapshot = backend.create_snapshot(volume.id, description, from_ami=image_id)
    backend.volumes.pop(volume.id, None)
    return snapshot


def mapping(backend, given):
    """What an image says of its disks, whole; refuses snapshots that cannot be used."""
    found = []
    for entry in given:
        if "Ebs" not in entry:
            continue
        ebs = dict(entry["Ebs"])
        snapshot = backend.snapshots.get(ebs.get("SnapshotId"))
        if ebs.get("SnapshotId") and not snapshot:
            refuse("InvalidSnapshot.NotFound", f"The snapshot '{ebs['SnapshotId']}' does not exist.")
        if snapshot and snapshot.status != "completed":
            refuse("IncorrectState", f"Snapshot {snapshot.id} is not completed; it is {snapshot.status}")
        least = snapshot.volume_size if snapshot else 8
        ebs["VolumeSize"] = int(ebs.get("VolumeSize") or least)
        if ebs["VolumeSize"] < least:
            refuse("InvalidBlockDeviceMapping", f"Volume of size {ebs['VolumeSize']}GB is smaller than snapshot "
                   f"'{ebs['SnapshotId']}', expect size >= {least}GB")
        ebs.setdefault("VolumeType", "gp2")
        ebs.setdefault("Encrypted", bool(snapshot and snapshot.encrypted))
        ebs["DeleteOnTermination"] = true(ebs.get("DeleteOnTermination", True))
        found.append({"DeviceName": entry["DeviceName"], "Ebs": ebs})
    return found


def register_image(self):
    get, backend = self._get_param, self.ec2_backend
    name = get("Name")
    if not name:
        refuse("MissingParameter", "The request must contain the parameter Name")
    root = get("RootDeviceName") or "/dev/sda1"
    disks = mapping(backend, get("BlockDeviceMappings", []))
    if not any(disk["DeviceName"] == root and disk["Ebs"].get("SnapshotId") for disk in disks):
        refuse("InvalidBlockDeviceMapping", f"The root device {root} has no snapshot")
    refuse_taken_name(backend, name)
    self.error_on_dryrun()
    image = new_image(
        backend,
        name,
        description=get("Description", ""),
        architecture=get("Architecture") or "i386",
        virtualization_type=get("VirtualizationType") or "paravirtual",
        root_device_name=root,
        sriov=get("SriovNetSupport"),
        boot_mode=get("BootMode"),
    )
    image.mapping = disks
    image.ena_support = true(get("EnaSupport", False))
    image.imds_support = get("ImdsSupport")
    image.tpm_support = get("TpmSupport")
    finish(backend, image, tags_for(get("TagSpecifications", []), "image"))
    return ActionResult({"ImageId": image.id})


def finish(backend, image, tags):
    """Makes an image be there, and its snapshots be in use."""
    image.add_tags(tags)
    for disk in image.mapping:
        snapshot = backend.snapshots.get(disk["Ebs"].get("SnapshotId"))
        if snapshot and not snapshot.from_ami:
            snapshot.from_ami = image.id
    backend.amis[image.id] = image


def like(image, source):
    """Gives an image what it has from the one that it was made from."""
    for field in ("ena_support", "imds_support", "tpm_support"):
        setattr(image, field, getattr(source, field, None))


def create_image(self):
    get, backend = self._get_param, self.ec2_backend
    name, instance = get("Name"), self.ec2_backend.get_instance(get("InstanceId"))
    if instance.state in ("terminated", "shutting-down"):
        refuse("IncorrectState", f"Instance '{instance.id}' is not 'running' or 'stopped'")
    refuse_taken_name(backend, name)
    self.error_on_dryrun()
    image = new_image(
        backend,
        name,
        description=get("Description", ""),
        instance=instance,
        root_device_name=instance.root_device_name,
    )
    source = backend.amis.get(instance.image_id)
    image.boot_mode = getattr(source, "boot_mode", None)
    like(image, source)
    image.mapping = []
    tags = get("TagSpecifications", [])
    for device, block in instance.block_device_mapping.items():
        volume = backend.get_volume(block.volume_id)
        snapshot = backend.create_snapshot(volume.id, f"Created by CreateImage({instance.id}) for {image.id}")
        snapshot.from_ami = image.id
        snapshot.add_tags(tags_for(tags, "snapshot"))
        ebs = {"SnapshotId": snapshot.id, "VolumeSize": volume.size, "VolumeType": volume.volume_type}
        ebs |= {"DeleteOnTermination": True, "Encrypted": volume.encrypted}
        image.mapping.append({"DeviceName": device, "Ebs": ebs})
    finish(backend, image, tags_for(tags, "image"))
    return ActionResult({"ImageId": image.id})


def copy_image(self):
    get, backend = self._get_param, self.ec2_backend
    source = ec2(get("SourceRegion")).amis.get(get("SourceImageId"))
    if not source:
        refuse("InvalidAMIID.NotFound", f"The image id '[{get('SourceImageId')}]' does not exist")
    if source.state != "available":
        refuse("InvalidAMIID.Unavailable", f"The image ID '{source.id}' is no longer available")
    refuse_taken_name(backend, get("Name"))
    self.error_on_dryrun()
    image = new_image(
        backend,
        get("Name"),
        description=get("Description", ""),
        source_ami=source,
        root_device_name=source.root_device_name,
        boot_mode=source.boot_mode,
    )
    like(image, source)
    image.source_image_id, image.source_image_region = source.id, get("SourceRegion")
    image.mapping = []
    tags = get("TagSpecifications", [])
    for disk in source.block_device_mappings:
        text = f"Copied for DestinationAmi {image.id} from SourceAmi {source.id}"
        snapshot = snapshot_of(backend, disk["Ebs"]["VolumeSize"], text, image.id)
        snapshot.copied_from = [get("SourceRegion"), disk["Ebs"].get("SnapshotId")]
        snapshot.add_tags(tags_for(tags, "snapshot"))
        image.mapping.append({**disk, "Ebs": {**disk["Ebs"], "SnapshotId": snapshot.id}})
    kept = {tag["key"]: tag["value"] for tag in source.get_tags()} if true(get("CopyImageTags")) else {}
    finish(backend, image, kept | tags_for(tags, "image"))
    return ActionResult({"ImageId": image.id})


def deregister_image(self):
    image_id, backend = self._get_param("ImageId"), self.ec2_backend
    image = backend.amis.get(image_id)
    if getattr(image, "deregistration_protection", None) not in (None, "disabled"):
        refuse("OperationNotPermitted", f"The image '{image_id}' is protected from deregistration")
    self.error_on_dryrun()
    backend.deregister_image(image_id)
    results = []
    if true(self._get_param("DeleteAssociatedSnapshots")):
        for disk in image.block_device_mappings:
            backend.snapshots.pop(disk["Ebs"].get("SnapshotId"), None)
            results.append({"SnapshotId": disk["Ebs"].get("SnapshotId"), "ReturnCode": "success"})
    return ActionResult({"Return": True, "DeleteSnapshotResults": results})


def image_setting(field, value_of):
    """A call that sets a field of an image."""

    def call(self):
        image = self.ec2_backend.describe_images(ami_ids=[self._get_param("ImageId")])[0]
        self.error_on_dryrun()
        value = value_of(self)
        setattr(image, field, value)
        return ActionResult({"Return": value if field == "deregistration_protection" else True})

    return call


def deprecation_time(call):
    return call._get_param("DeprecateAt").strftime("%Y-%m-%dT%H:%M:%S.000Z")


def describe_snapshots(self):
    owners = [ACCOUNT if owner == "self" else owner for owner in self._get_param("OwnerIds", [])]
    found = self.ec2_backend.describe_snapshots(
        snapshot_ids=self._get_param("SnapshotIds", []), filters=self._filters_from_querystring()
    )
    return ActionResult({"Snapshots": [one for one in found if not owners or one.owner_id in owners]})


def apply():
    """Changes moto's classes."""
    Ami.block_device_mappings = property(
        lambda self: self.mapping if hasattr(self, "mapping") else DEFAULT_MAPPING.fget(self)
    )
    Snapshot.progress = property(lambda self: "100%" if self.status == "completed" else "0%")
    calls = {
        "register_image": register_image,
        "create_image": create_image,
        "copy_image": copy_image,
        "deregister_image": deregister_image,
        "enable_image_deprecation": image_setting("deprecation_time", deprecation_time),
        "disable_image_deprecation": image_setting("deprecation_time", lambda _: None),
        "enable_image_deregistration_protection": image_setting(
            "deregistration_protection", lambda _: "enabled"
        ),
        "disable_image_deregistration_protection": image_setting(
            "deregistration_protection", lambda _: "disabled"
        ),
    }
    for name, call in calls.items():
        setattr(AmisResponse, name, call)
    ElasticBlockStore.describe_snapshots = describe_snapshots


@record
def add_image(region, name, owner, architecture, size):
    """An image that is there from the beginning, of another account; its snapshot, too."""
    backend = ec2(region)
    image = new_image(
        backend,
        name,
        owner_id=owner,
        public=True,
        architecture=architecture,
        virtualization_type="hvm",
        root_device_name="/dev/xvda",
    )
    image.boot_mode, image.ena_support, image.imds_support = "uefi", True, "v2.0"
    snapshot = snapshot_of(backend, size, name, image.id)
    snapshot.owner_id = owner
    ebs = {"SnapshotId": snapshot.id, "VolumeSize": size, "VolumeType": "gp3"}
    image.mapping = [{"DeviceName": "/dev/xvda", "Ebs": ebs | {"DeleteOnTermination": True, "Encrypted": False}}]
    finish(backend, image, {})
    return {"image": image.id, "snapshot": snapshot.id}


@record
def start_snapshot(region, size, description, tags, kms_key=None, encrypted=False):
    """A snapshot that is written block by block."""
    snapshot = snapshot_of(ec2(region), size, description)
    snapshot.status, snapshot.encrypted, snapshot.kms_key_id = "pending", encrypted, kms_key
    snapshot.add_tags(tags)
    return {"id": snapshot.id, "owner": snapshot.owner_id, "started": snapshot.start_time.timestamp()}


@record
def snapshot(region, id):
    """What is known of a snapshot."""
    found = ec2(region).snapshots.get(id)
    if not found:
        return None
    return {
        "status": found.status,
        "size": found.volume_size,
        "volume": found.volume.id,
        "volume_snapshot": found.volume.snapshot_id,
        "copied_from": getattr(found, "copied_from", None),
    }


@record
def snapshots():
    """The ids of all of them, by region."""
    from moto.ec2.models import ec2_backends

    return [[region, list(backend.snapshots)] for region, backend in list(ec2_backends[ACCOUNT].items())]


@record
def set_snapshot(region, id, status):
    """Moves a snapshot on, and with it the images that wait for it."""
    backend = ec2(region)
    found = backend.snapshots.get(id)
    if not found:
        return False
    found.status = status
    found.completion_time = utcnow() if status == "completed" else None
    for image in list(backend.amis.values()):
        if any(disk["Ebs"].get("SnapshotId") == id for disk in image.block_device_mappings):
            image.state = "available" if status == "completed" else "pending"
    return True


@record
def image(region, id):
    """What an image was made from, and its snapshots."""
    found = ec2(region).amis.get(id)
    if not found:
        return None
    return {
        "instance": found.instance_id,
        "snapshots": [disk["Ebs"].get("SnapshotId") for disk in found.block_device_mappings],
    }
