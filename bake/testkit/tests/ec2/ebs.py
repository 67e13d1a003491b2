from common import *

ec2, ebs = client("ec2"), client("ebs")
one, two, three = (byte * BLOCK for byte in (b"1", b"2", b"3"))

start = dict(VolumeSize=1, ClientToken="token", Description="x", Tags=[{"Key": "a", "Value": "b"}])
first = ebs.start_snapshot(**start)["SnapshotId"]
assert ebs.start_snapshot(**start)["SnapshotId"] == first
assert code(ebs.start_snapshot, **{**start, "VolumeSize": 2}) == "ConflictException"
shown = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
assert [(one["SnapshotId"], one["State"], one["Tags"]) for one in shown] == [(first, "pending", start["Tags"])], shown

# Checksums, counts and places are checked.
put(ebs, first, 0, one)
put(ebs, first, 5, two)
assert code(put, ebs=ebs, snapshot=first, index=6, data=one, said=checksum(two)) == "ValidationException"
assert code(put, ebs=ebs, snapshot=first, index=2048, data=one) == "ValidationException"
assert code(put, ebs=ebs, snapshot="snap-00000000000000000", index=0, data=one) == "ResourceNotFoundException"
assert code(ebs.list_snapshot_blocks, SnapshotId=first) == "ValidationException"
complete = dict(ChecksumAlgorithm="SHA256", ChecksumAggregationMethod="LINEAR")
both = checksum(hashlib.sha256(one).digest() + hashlib.sha256(two).digest())
assert code(ebs.complete_snapshot, SnapshotId=first, ChangedBlocksCount=3) == "ValidationException"
wrong = dict(SnapshotId=first, ChangedBlocksCount=2, Checksum=checksum(one), **complete)
assert code(ebs.complete_snapshot, **wrong) == "ValidationException"
for _ in range(2):
    ebs.complete_snapshot(SnapshotId=first, ChangedBlocksCount=2, Checksum=both, **complete)
completed(ec2, first)
assert code(put, ebs=ebs, snapshot=first, index=7, data=one) == "ValidationException"

# A child has its parent's blocks, and only what is not the same has changed.
child = ebs.start_snapshot(VolumeSize=2, ParentSnapshotId=first)["SnapshotId"]
for index, data in [(0, one), (5, three), (9, one)]:
    put(ebs, child, index, data)
ebs.complete_snapshot(SnapshotId=child, ChangedBlocksCount=3)
completed(ec2, child)
blocks = ebs.list_snapshot_blocks(SnapshotId=child)["Blocks"]
assert [block["BlockIndex"] for block in blocks] == [0, 5, 9]
read = lambda block: ebs.get_snapshot_block(SnapshotId=child, **block)["BlockData"].read()
assert [read(block) for block in blocks] == [one, three, one]
assert code(ebs.get_snapshot_block, SnapshotId=child, BlockIndex=7, BlockToken="x") == "ResourceNotFoundException"
assert code(ebs.get_snapshot_block, SnapshotId=child, BlockIndex=5, BlockToken="x") == "ValidationException"
changed = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=child)["ChangedBlocks"]
assert [(block["BlockIndex"], "FirstBlockToken" in block) for block in changed] == [(5, True), (9, False)], changed
other = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
for index in range(0, 240, 2):
    put(ebs, other, index, one)
ebs.complete_snapshot(SnapshotId=other, ChangedBlocksCount=120)
completed(ec2, other)
unrelated = dict(FirstSnapshotId=first, SecondSnapshotId=other)
assert code(ebs.list_changed_blocks, **unrelated) == "ValidationException"

# Lists come in pages.
page = ebs.list_snapshot_blocks(SnapshotId=other, MaxResults=100)
rest = ebs.list_snapshot_blocks(SnapshotId=other, MaxResults=100, NextToken=page["NextToken"])
assert [block["BlockIndex"] for block in page["Blocks"] + rest["Blocks"]] == list(range(0, 240, 2))
assert "NextToken" not in rest
late = ebs.list_snapshot_blocks(SnapshotId=other, StartingBlockIndex=235)["Blocks"]
assert [block["BlockIndex"] for block in late] == [236, 238]

# A parent that is deleted is still read by its child; a copy elsewhere has the blocks too.
ec2.delete_snapshot(SnapshotId=first)
time.sleep(1.2)
assert read(blocks[0]) == one
far_ec2, far = client("ec2", "eu-west-1"), client("ebs", "eu-west-1")
assert code(far.list_snapshot_blocks, SnapshotId=child) == "ResourceNotFoundException"
copy = far_ec2.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId=child)["SnapshotId"]
completed(far_ec2, copy)
assert len(far.list_snapshot_blocks(SnapshotId=copy)["Blocks"]) == 3
