"""Requests of REST services, read back into the parameters that they were made from.

What call it is, method, path and query say; the model (botocore's) has a template of each. Parameters are in the path,
the query, headers, and a body of XML or JSON.
"""

import functools
import json
import re
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

# Headers that every call may have, of signing and of how the body is sent.
COMMON = re.compile(
    r"x-amz-(content-sha256|date|security-token|user-agent|decoded-content-length|trailer|te|sdk-.*|checksum-.*)$"
)
# What every call may have in its query: its own name, and a signature.
ANY = re.compile(r"x-id$|X-Amz-")


class Template:
    """Where a call's parameters are, and what tells it from others."""

    def __init__(self, operation):
        self.operation = operation
        path, _, query = operation.http["requestUri"].partition("?")
        self.constants = parse_qsl(query, keep_blank_values=True)
        labels = re.split(r"(\{[^}]+\})", path.rstrip("/"))
        self.path = re.compile("".join(label_pattern(part) for part in labels) + "$")
        self.labels = [part.strip("{}+") for part in labels if part.startswith("{")]
        self.required = [
            (member.serialization["location"], member.serialization.get("name", name))
            for name, member in self.members().items()
            if name in operation.input_shape.required_members
            and member.serialization.get("location") in ("querystring", "header")
        ]

    def members(self):
        """The parameters of the call."""
        shape = self.operation.input_shape
        return shape.members if shape else {}

    def fits(self, request):
        """How well a request is one of this call; none if it is not."""
        constants = all(request.query.get(name) == [value] for name, value in self.constants)
        if request.method != self.operation.http["method"] or not constants or not self.path.match(request.path):
            return None
        missing = sum(name.lower() not in request.names(where) for where, name in self.required)
        return -missing, len(self.constants) + len(self.required)


def label_pattern(part):
    """What a part of a template's path matches."""
    if not part.startswith("{"):
        return re.escape(part)
    return "(.+)" if part.endswith("+}") else "([^/]+)"


@functools.cache
def templates(service_model):
    """Those of a service."""
    return [Template(service_model.operation_model(name)) for name in service_model.operation_names]


class Request:
    """What was sent."""

    def __init__(self, service_model, method, path, query, headers, body):
        self.method = method
        self.path = path.rstrip("/")
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body
        self.xml = service_model.protocol == "rest-xml"
        self.query = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            self.query.setdefault(name, []).append(value)
        self.wrong = []
        fitting = [(one.fits(self), one) for one in templates(service_model)]
        fitting = [(fit, one) for fit, one in fitting if fit is not None]
        self.template = max(fitting, key=lambda pair: pair[0])[1] if fitting else None

    def names(self, where):
        """What is in a place that has names."""
        return {name.lower() for name in self.query} if where == "querystring" else set(self.headers)

    def read(self):
        """The parameters."""
        template = self.template
        labels = dict(zip(template.labels, template.path.match(self.path).groups()))
        shape = template.operation.input_shape
        payload = shape.serialization.get("payload") if shape else None
        used, asked, body = set(), {}, {}
        for name, member in template.members().items():
            where, wire = member.serialization.get("location"), member.serialization.get("name", name)
            found = None
            if where == "uri":
                found = scalar(member, unquote(labels[wire]), name, self.wrong)
            elif where == "querystring":
                used.add(wire)
                found = self.values(member, self.query.get(wire), name)
            elif where == "header":
                used.add(wire.lower())
                given = self.headers.get(wire.lower())
                found = self.values(member, None if given is None else [given], name)
            elif where == "headers":
                found = {key[len(wire) :]: one for key, one in self.headers.items() if key.startswith(wire.lower())}
                used |= {wire.lower() + key for key in found}
            elif name == payload:
                found = self.payload(member, wire)
            else:
                body[name] = member
            if found not in (None, {}):
                asked[name] = found
        if body and self.body:
            asked |= self.structure(shape, body)
        self.wrong += [
            f"`{name}` is unknown in the query"
            for name in self.query
            if name not in used and name not in dict(template.constants) and not ANY.match(name)
        ]
        self.wrong += [
            f"the header `{name}` is unknown"
            for name in self.headers
            if name.startswith("x-amz-") and name not in used and not COMMON.match(name)
        ]
        return asked

    def values(self, shape, given, path):
        """What a query or a header has."""
        if given is None:
            return None
        if shape.type_name == "list":
            return [scalar(shape.member, one, path, self.wrong) for one in given]
        return scalar(shape, given[0], path, self.wrong)

    def payload(self, shape, wire):
        """A body that is one parameter."""
        if shape.type_name in ("blob", "string"):
            return b""
        if not self.body:
            return None
        return self.structure(shape, shape.members, wire)

    def structure(self, shape, members, root=None):
        """A body of several parameters."""
        if not self.xml:
            asked = json.loads(self.body)
            self.wrong += [f"`{name}` is unknown" for name in asked if name not in members]
            return {name: one for name, one in asked.items() if name in members}
        node = ElementTree.fromstring(self.body)
        expected = root or shape.serialization.get("name")
        if expected and local(node.tag) != expected:
            self.wrong.append(f"the body is `{local(node.tag)}`, not `{expected}`")
        return self.children(members, node)

    def children(self, members, node):
        """The parameters that are elements of an element."""
        found, used = {}, set()
        for name, shape in members.items():
            told = shape.serialization
            wire = told.get("name", name)
            if told.get("xmlAttribute"):
                values = {local(key): one for key, one in node.attrib.items()}
                if wire.split(":")[-1] in values:
                    found[name] = values[wire.split(":")[-1]]
                continue
            flat = shape.type_name == "list" and told.get("flattened")
            if flat:
                wire = shape.member.serialization.get("name", wire)
            used.add(wire)
            nodes = [child for child in node if local(child.tag) == wire]
            if nodes and flat:
                found[name] = [self.element(shape.member, one, name) for one in nodes]
            elif nodes:
                found[name] = self.element(shape, nodes[0], name)
        self.wrong += [f"`{local(child.tag)}` is unknown" for child in node if local(child.tag) not in used]
        return found

    def element(self, shape, node, path):
        """What an element has."""
        if shape.type_name == "structure":
            return self.children(shape.members, node)
        if shape.type_name == "list":
            wire = shape.member.serialization.get("name", "member")
            self.wrong += [f"`{local(child.tag)}` is unknown" for child in node if local(child.tag) != wire]
            return [self.element(shape.member, child, path) for child in node if local(child.tag) == wire]
        return scalar(shape, node.text or "", path, self.wrong)


def scalar(shape, text, path, wrong):
    """A value, of its type."""
    kind = shape.type_name
    try:
        if kind in ("integer", "long"):
            return int(text)
        if kind in ("float", "double"):
            return float(text)
    except ValueError:
        wrong.append(f"{path}: `{text}` is no {kind}")
        return 0
    if kind == "boolean":
        if text not in ("true", "false"):
            wrong.append(f"{path}: `{text}` is neither `true` nor `false`")
        return text == "true"
    return text


def local(tag):
    """A name without its namespace."""
    return tag.rsplit("}", 1)[-1]
