"""What AWS's published models say of a request: moto takes much that AWS would refuse.

The models are botocore's. A request is read back into the parameters that it was made from, as its protocol writes
them, and those are compared with the model: what is required, unknown names, types, lengths, ranges, patterns, words of
an enumeration.
"""

import functools
import re

import botocore.session
from botocore.validate import ParamValidator
from common import records
from rest import Request, scalar

RECORDS, record = records()
# How botocore calls services whose signatures have another name.
NAMES = {"elasticloadbalancing": "elbv2"}
# Enumerations that grow faster than models are published: EC2 has an error of its own for what they lack.
OPEN = {"InstanceType"}


@functools.cache
def model(service):
    """The model of a service."""
    return botocore.session.get_session().get_service_model(NAMES.get(service, service))


class Query:
    """Parameters of AWS query, read back by the model."""

    def __init__(self, given, flavour):
        self.given = given
        self.ec2 = flavour == "ec2"
        self.used = set()
        self.wrong = []

    def has(self, prefix):
        """Whether there is anything of this name."""
        return any(name == prefix or name.startswith(prefix + ".") for name in self.given)

    def name(self, member, shape):
        """How a member is called in a request."""
        told = shape.serialization
        if self.ec2:
            name = told.get("queryName") or told.get("name") or member
            return name[0].upper() + name[1:] if "queryName" not in told else name
        return told.get("name", member)

    def read(self, shape, prefix):
        """What is under a name."""
        kind = shape.type_name
        if kind == "structure":
            found = {}
            for member, inner in shape.members.items():
                name = self.name(member, inner)
                if inner.type_name == "list" and not self.ec2 and inner.serialization.get("flattened"):
                    name = inner.member.serialization.get("name", name)
                path = f"{prefix}.{name}" if prefix else name
                if self.has(path):
                    found[member] = self.read(inner, path)
            return found
        if kind == "list":
            self.used.add(prefix)
            if not self.ec2 and not shape.serialization.get("flattened"):
                prefix = f"{prefix}.{shape.member.serialization.get('name', 'member')}"
            return self.numbered(prefix, lambda path: self.read(shape.member, path))
        if kind == "map":
            self.used.add(prefix)
            if not shape.serialization.get("flattened"):
                prefix += ".entry"
            key, value = (one.serialization.get("name", name) for one, name in ((shape.key, "key"), (shape.value, "value")))
            return dict(
                self.numbered(
                    prefix, lambda path: (self.given.get(f"{path}.{key}"), self.read(shape.value, f"{path}.{value}"))
                )
            )
        self.used.add(prefix)
        return scalar(shape, self.given.get(prefix, ""), prefix, self.wrong)

    def numbered(self, prefix, read):
        """What is under `PREFIX.1`, `PREFIX.2` and so on."""
        found, number = [], 1
        while self.has(f"{prefix}.{number}"):
            found.append(read(f"{prefix}.{number}"))
            number += 1
        return found

    def unknown(self):
        """Names that the model does not have."""
        return [name for name in self.given if name not in self.used and name not in ("Action", "Version")]


def narrow(shape, value, path, wrong):
    """What botocore's own validator leaves to the service."""
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict):
        for member, inner in shape.members.items():
            if member in value:
                narrow(inner, value[member], f"{path}.{member}", wrong)
    elif kind == "list" and isinstance(value, list):
        for number, one in enumerate(value):
            narrow(shape.member, one, f"{path}[{number}]", wrong)
        most = shape.metadata.get("max")
        if most is not None and len(value) > most:
            wrong.append(f"{path}: {len(value)} of at most {most}")
    elif kind == "map" and isinstance(value, dict):
        for key, one in value.items():
            narrow(shape.value, one, f"{path}.{key}", wrong)
    elif kind == "string" and isinstance(value, str):
        words, most, pattern = shape.enum, shape.metadata.get("max"), shape.metadata.get("pattern")
        if words and shape.name not in OPEN and value not in words:
            wrong.append(f"{path}: `{value}` is none of {', '.join(words)}")
        if most is not None and len(value) > most:
            wrong.append(f"{path}: {len(value)} letters, of at most {most}")
        if pattern and not matches(pattern, value):
            wrong.append(f"{path}: `{value}` does not match `{pattern}`")
    elif kind in ("integer", "long") and isinstance(value, int):
        most = shape.metadata.get("max")
        if most is not None and value > most:
            wrong.append(f"{path}: {value} is more than {most}")


def matches(pattern, value):
    """Whether a text matches a pattern of the models, some of which Python does not read."""
    try:
        return re.search(f"^(?:{pattern})$", value, re.DOTALL) is not None
    except re.error:
        return True


def plain(shape, value):
    """JSON's numbers for times and texts for bytes, as the validator takes them."""
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict):
        return {name: plain(shape.members[name], one) if name in shape.members else one for name, one in value.items()}
    if kind == "list" and isinstance(value, list):
        return [plain(shape.member, one) for one in value]
    if kind == "blob" and isinstance(value, str):
        return value.encode()
    return value


def validate(shape, action, asked):
    """What of parameters the model does not allow."""
    wrong = []
    report = ParamValidator().validate(asked, shape)
    if report.has_errors():
        wrong.append(report.generate_report())
    narrow(shape, asked, action, wrong)
    return wrong


@record
def problems(service, action, parameters, body):
    """What of a request AWS's model does not have."""
    operation = model(service).operation_model(action)
    shape = operation.input_shape
    if shape is None:
        return []
    wrong = []
    if operation.service_model.protocol in ("ec2", "query"):
        query = Query(parameters, operation.service_model.protocol)
        asked = query.read(shape, "")
        wrong += query.wrong + [f"`{name}` is unknown" for name in query.unknown()]
    else:
        asked = plain(shape, body or {})
        wrong += [f"`{name}` is unknown" for name in asked if name not in shape.members]
    return wrong + validate(shape, action, asked)


@record
def rest_problems(service, method, path, query, headers, body):
    """The same of a request to a REST service."""
    request = Request(model(service), method, path, query, headers, body)
    if request.template is None:
        return [f"`{method} {path}` is none of its calls"]
    operation = request.template.operation
    if operation.input_shape is None:
        return []
    asked = request.read()
    return request.wrong + validate(operation.input_shape, operation.name, asked)
