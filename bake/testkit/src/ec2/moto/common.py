"""What all mends need."""

from moto.core.responses import ActionResult  # noqa: F401
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends

ACCOUNT = "123456789012"


def ec2(region):
    """The records of EC2 in a region."""
    return ec2_backends[ACCOUNT][region]


def refuse(code, message):
    """Answers a call of EC2 with an error."""
    raise EC2ClientError(code, message)


def records():
    """A table of functions that the proxy calls, and the decorator that fills it."""
    table = {}

    def record(function):
        table[function.__name__] = function
        return function

    return table, record


def tags_for(specifications, kind):
    """The tags that a TagSpecification has for a kind of resource."""
    found = {}
    for specification in specifications or []:
        if specification.get("ResourceType") == kind:
            found |= {tag["Key"]: tag.get("Value", "") for tag in specification.get("Tags", [])}
    return found


def true(value):
    """Whether a parameter is true, however it was written."""
    return value is True or str(value).lower() == "true"
