"""Requests that AWS's published models do not allow are refused, in every protocol; others are not."""

from common import *

unchecked = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
ec2, iam, ssm = (boto3.client(service, config=unchecked) for service in ("ec2", "iam", "ssm"))
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
