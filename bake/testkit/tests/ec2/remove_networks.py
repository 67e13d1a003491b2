from common import *

ec2 = client("ec2")
made = [vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"] if not vpc["IsDefault"]]
for vpc in made:
    ec2.delete_vpc(VpcId=vpc)
print(len(made))
