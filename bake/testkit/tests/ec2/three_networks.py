from common import *

for number in range(3):
    client("ec2").create_vpc(CidrBlock=f"10.{number}.0.0/16")
