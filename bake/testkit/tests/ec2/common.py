"""What scripts of tests need: clients of the cloud that the environment names, and errors as their codes."""

import base64
import hashlib
import json
import os
import time
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
BLOCK = 512 * 1024


def client(service, region=None, attempts=1):
    return boto3.client(service, region_name=region, config=Config(retries={"total_max_attempts": attempts}))


def code(call, **options):
    """The code of the error that a call ends in."""
    try:
        answer = call(**options)
    except ClientError as error:
        return error.response["Error"]["Code"]
    except ConnectionClosedError:
        return "cut"
    raise AssertionError(f"no error: {answer}")


def control(path, asked=None, method="POST"):
    body = None if asked is None else json.dumps(asked).encode()
    return json.load(urllib.request.urlopen(urllib.request.Request(ENDPOINT + path, body, method=method)))


def until(what, check, seconds=120):
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.1)
    return found


def checksum(data):
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def put(ebs, snapshot, index, data, said=None):
    return ebs.put_snapshot_block(
        SnapshotId=snapshot,
        BlockIndex=index,
        BlockData=data,
        DataLength=BLOCK,
        Checksum=said or checksum(data),
        ChecksumAlgorithm="SHA256",
    )


def completed(ec2, snapshot):
    state = lambda: ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "completed"
    return until("a completed snapshot", state)


def an_image(ec2, ebs, name):
    """An image of one block."""
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    put(ebs, snapshot, 0, b"1" * BLOCK)
    ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=1)
    completed(ec2, snapshot)
    disks = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}]
    said = dict(Name=name, Architecture="x86_64", RootDeviceName="/dev/xvda", BlockDeviceMappings=disks)
    return ec2.register_image(**said)["ImageId"]
