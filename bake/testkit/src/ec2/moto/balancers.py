"""Load balancers: the health of targets as it was measured, and what the proxy needs to make them work."""

from common import ACCOUNT, records
from moto.ec2.models import ec2_backends
from moto.elbv2.exceptions import DuplicateListenerError, DuplicateLoadBalancerName
from moto.elbv2.models import ELBv2Backend, FakeTargetGroup, elbv2_backends

RECORDS, record = records()
HEALTH_FOR = FakeTargetGroup.health_for
CREATE_LOAD_BALANCER = ELBv2Backend.create_load_balancer
CREATE_LISTENER = ELBv2Backend.create_listener
# What was measured: by group and target, a state, a reason and a description.
MEASURED = {}
# What a test says, by target.
SAID = {}


def health_for(self, target, ec2_backend):
    """What is said, what was measured, or what moto thinks."""
    health = HEALTH_FOR(self, target, ec2_backend)
    if target["Id"] not in self.targets:
        return health
    instance = ec2_backend.get_instance_by_id(target["Id"])
    if instance is not None and instance.state == "pending":
        health.status, health.reason = "initial", "Elb.InitialHealthChecking"
        health.description = "Initial health checks in progress"
    measured = MEASURED.get(self.arn, {}).get(target["Id"])
    if measured:
        health.status, health.reason, health.description = measured
    if target["Id"] in SAID:
        health.status, health.reason = SAID[target["Id"]], "Target.FailedHealthChecks"
        health.description = "Health checks failed"
    if health.status == "healthy":
        health.reason = health.description = None
    return health


def create_load_balancer(self, name, security_groups, subnet_ids, *rest, **more):
    """A name is one load balancer's: moto looks whether an ARN that it has just thought of is there."""
    for one in self.load_balancers.values():
        if one.name == name:
            if sorted(subnet.id for subnet in one.subnets) == sorted(subnet_ids or []):
                return one
            raise DuplicateLoadBalancerName()
    return CREATE_LOAD_BALANCER(self, name, security_groups, subnet_ids, *rest, **more)


def create_listener(self, load_balancer_arn, protocol, port, *rest, **more):
    """A port is one listener's: moto looks for it among ARNs."""
    balancer = self.load_balancers.get(load_balancer_arn)
    if balancer and any(str(one.port) == str(port) for one in balancer.listeners.values()):
        raise DuplicateListenerError()
    return CREATE_LISTENER(self, load_balancer_arn, protocol, port, *rest, **more)


def apply():
    """Changes moto's classes."""
    FakeTargetGroup.health_for = health_for
    ELBv2Backend.create_load_balancer = create_load_balancer
    ELBv2Backend.create_listener = create_listener


@record
def say_health(target, state):
    """Has a target be in a state, whatever is measured; no state: what is measured counts again."""
    SAID.pop(target, None)
    if state:
        SAID[target] = state
    return True


@record
def set_health(measured):
    """What was measured of all targets."""
    MEASURED.clear()
    MEASURED.update(measured)
    return True


def of_instances():
    """The worst state of each instance in the groups that it is in."""
    found = {}
    for region, backend in list(elbv2_backends[ACCOUNT].items()):
        for group in list(backend.target_groups.values()):
            for target in list(group.targets.values()):
                state = group.health_for(target, ec2_backends[ACCOUNT][region]).status
                if found.get(target["Id"], "healthy") == "healthy":
                    found[target["Id"]] = state
    return found


def address_of(backend, target):
    """Where a target is."""
    instance = backend.get_instance_by_id(target["Id"])
    return instance.private_ip_address if instance else target["Id"]


def described(group, backend):
    """A target group."""
    port = group.health_check_port
    return {
        "check": {
            "protocol": group.health_check_protocol or "HTTP",
            "path": group.health_check_path or "/",
            "port": int(port) if str(port).isdigit() else None,
            "interval": int(group.health_check_interval_seconds),
            "timeout": int(group.health_check_timeout_seconds),
            "healthy": int(group.healthy_threshold_count),
            "unhealthy": int(group.unhealthy_threshold_count),
            "matcher": str((getattr(group, "matcher", None) or {}).get("HttpCode") or "200"),
        },
        "deregistration_delay": int(group.attributes.get("deregistration_delay.timeout_seconds", 300)),
        "targets": [
            {"id": target["Id"], "address": address_of(backend, target), "port": int(target["Port"])}
            for target in list(group.targets.values())
        ],
    }


def action(actions):
    """The last of a rule's actions, which says where requests go."""
    data = actions[-1].data
    if data.get("Type") == "fixed-response":
        fixed = data["FixedResponseConfig"]
        return {
            "fixed": {
                "status": int(fixed["StatusCode"]),
                "content_type": fixed.get("ContentType") or "text/plain",
                "body": fixed.get("MessageBody") or "",
            }
        }
    if data.get("Type") == "redirect":
        to = data["RedirectConfig"]
        path = to.get("Path", "/")
        path = "/" if "#{" in path else path
        host = to.get("Host", "#{host}")
        # Where the host stays the same, only the path is told: the port is then the same, too.
        place = path if "#{" in host else f"{to.get('Protocol', 'HTTP').lower()}://{host}{path}"
        return {"redirect": {"status": int(to["StatusCode"].removeprefix("HTTP_")), "location": place}}
    groups = (data.get("ForwardConfig") or {}).get("TargetGroups")
    groups = groups or [{"TargetGroupArn": data["TargetGroupArn"], "Weight": 1}]
    return {"forward": {group["TargetGroupArn"]: int(group.get("Weight", 1)) for group in groups}}


def values(conditions, field):
    """What a rule's conditions say of a field."""
    found = []
    for condition in conditions:
        if condition.get("Field") == field:
            config = condition.get("PathPatternConfig") or condition.get("HostHeaderConfig") or {}
            found += config.get("Values") or condition.get("Values") or []
    return found


def listener(one):
    """A listener with its rules."""
    rules = sorted(one._non_default_rules.values(), key=lambda rule: int(rule.priority))
    return {
        "port": int(one.port),
        "protocol": one.protocol,
        "default": action(one.default_actions),
        "rules": [
            {
                "hosts": values(rule.conditions, "host-header"),
                "paths": values(rule.conditions, "path-pattern"),
                "action": action(rule.actions),
            }
            for rule in rules
        ],
    }


@record
def load_balancers():
    """All load balancers and target groups, by ARN."""
    found = {"balancers": {}, "groups": {}}
    for region, backend in list(elbv2_backends[ACCOUNT].items()):
        for group in list(backend.target_groups.values()):
            found["groups"][group.arn] = described(group, ec2_backends[ACCOUNT][region])
        for balancer in list(backend.load_balancers.values()):
            found["balancers"][balancer.arn] = [listener(one) for one in list(balancer.listeners.values())]
    return found
