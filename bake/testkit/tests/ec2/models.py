"""Requests that AWS's published models do not allow are refused, in every protocol; others are not."""

from common import *

unchecked = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
SERVICES = ("ec2", "iam", "ssm", "s3", "route53", "ebs")
ec2, iam, ssm, s3, route53, ebs = (boto3.client(service, config=unchecked) for service in SERVICES)
launch = {"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1}


def said(call, **options):
    """Why a call is refused."""
    try:
        call(**options)
    except ClientError as error:
        assert error.response["Error"]["Code"] == "ValidationError", error
        return error.response["Error"]["Message"]
    raise AssertionError("it was not refused")


for wrong, word in [
    ({"MaxCount": None}, "MaxCount"),
    ({"MetadataOptions": {"HttpTokens": "always"}}, "none of optional, required"),
    ({"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp9"}}]}, "`gp9`"),
    ({"TagSpecifications": [{"ResourceType": "machine", "Tags": []}]}, "`machine`"),
]:
    options = {name: value for name, value in (launch | wrong).items() if value is not None}
    assert word in said(ec2.run_instances, **options), word
assert "does not match" in said(iam.create_role, RoleName="a b", AssumeRolePolicyDocument="{}")
assert "Strong" in said(ssm.put_parameter, Name="/a", Value="b", Type="Strong")
ssm.put_parameter(Name="/a", Value="b", Type="String", Tags=[{"Key": "a", "Value": "b"}])
iam.create_role(RoleName="a", AssumeRolePolicyDocument="{}", Tags=[{"Key": "a", "Value": "b"}])
ec2.describe_instances(Filters=[{"Name": "tag:a", "Values": ["b", "c"]}])

# In a path, a query, headers, and bodies of XML and JSON.
s3.create_bucket(Bucket="one")
s3.put_object(Bucket="one", Key="a/b c", Body=b"x", Metadata={"a": "b"}, IfNoneMatch="*")
assert s3.list_objects_v2(Bucket="one", Prefix="a/", MaxKeys=5)["KeyCount"] == 1
s3.copy_object(Bucket="one", Key="c", CopySource="one/a/b c")
upload = s3.create_multipart_upload(Bucket="one", Key="d")["UploadId"]
part = s3.upload_part(Bucket="one", Key="d", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
parts = [{"ETag": part, "PartNumber": 1}]
s3.complete_multipart_upload(Bucket="one", Key="d", UploadId=upload, MultipartUpload={"Parts": parts})
s3.put_bucket_versioning(Bucket="one", VersioningConfiguration={"Status": "Enabled"})
s3.delete_objects(Bucket="one", Delete={"Objects": [{"Key": "c"}, {"Key": "d"}]})
assert "none of" in said(s3.put_object, Bucket="one", Key="a", ACL="mine")
assert "none of" in said(s3.put_bucket_versioning, Bucket="one", VersioningConfiguration={"Status": "On"})
assert "is no integer" in said(s3.list_objects_v2, Bucket="one", MaxKeys="many")
zone = route53.create_hosted_zone(Name="example.org", CallerReference="1")["HostedZone"]["Id"]
record = {"Name": "a.example.org", "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": "10.0.0.1"}]}


def change(**options):
    """Changes a record."""
    changes = [{"Action": "UPSERT", "ResourceRecordSet": record | options}]
    return route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": changes})


change()
assert "none of" in said(change, Type="B")
assert "TTL" in said(change, TTL=-1)
assert "1024" in said(change, Name="a" * 2000)
assert "CallerReference" in said(route53.create_hosted_zone, Name="example.org")
snapshot = ebs.start_snapshot(VolumeSize=1, Description="one")["SnapshotId"]
assert "VolumeSize" in said(ebs.start_snapshot, VolumeSize=0)
assert "Description" in said(ebs.start_snapshot, VolumeSize=1, Description="a" * 300)
assert "ChangedBlocksCount" in said(ebs.complete_snapshot, SnapshotId=snapshot, ChangedBlocksCount=None)
