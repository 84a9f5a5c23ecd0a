"""Whether the resources of a kustomization fit each other: labels, ports, names."""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from deploy.checks.pods import Pod, pods_of
from deploy.checks.rendering import Resource, name_of

NAMESPACE = "gameserver-autopilot"
SECRETS = frozenset({"tokens", "redis", "prediction-tls", "keda-token"})
"""Made by hand, as deploy/eks/README.md says."""
CLUSTER_WIDE = ("Namespace", "StorageClass")


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", ()):
        if rule["operator"] != "In":
            raise ValueError(f"no check knows the operator {rule['operator']}")
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def mismatches(resources: Sequence[Resource]) -> Iterator[str]:
    """Every finding about how these resources refer to each other."""
    pods = pods_of(resources)
    for resource in resources:
        if resource["kind"] not in CLUSTER_WIDE:
            namespace = resource["metadata"].get("namespace")
            if namespace != NAMESPACE:
                yield f"{name_of(resource)}: is in namespace {namespace}, not in {NAMESPACE}"
        check = _CHECKS.get(resource["kind"])
        if check is not None:
            yield from check(resource, pods, resources)
    for pod in pods:
        yield from _of_pod(pod, resources)
    yield from _isolation(resources)


def _named(resources: Sequence[Resource], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in resources if each["kind"] == kind}


def _selected(
    resource: Resource, selector: dict[str, Any], pods: Sequence[Pod]
) -> tuple[list[Pod], list[str]]:
    found = [pod for pod in pods if matches(selector, pod.labels)]
    return found, [] if found else [f"{name_of(resource)}: selects no pod with {selector}"]


def _service(resource: Resource, pods: Sequence[Pod], _: Any) -> Iterator[str]:
    selected, findings = _selected(resource, {"matchLabels": resource["spec"]["selector"]}, pods)
    yield from findings
    for port in resource["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        if selected and not any(target in pod.ports for pod in selected):
            yield f"{name_of(resource)}: no pod of its has the port {target!r}"


def _workload(resource: Resource, _: Any, resources: Sequence[Resource]) -> Iterator[str]:
    spec, name = resource["spec"], name_of(resource)
    labels = spec["template"]["metadata"]["labels"]
    if not matches(spec["selector"], labels):
        yield f"{name}: its selector does not take its own pods {labels}"
    spread = spec["template"]["spec"].get("topologySpreadConstraints", ())
    for constraint in spread:
        if not matches(constraint["labelSelector"], labels):
            yield f"{name}: a topologySpreadConstraint counts other pods than its own"
    if spec.get("replicas", 2) > 1:
        budgets = [each for each in resources if each["kind"] == "PodDisruptionBudget"]
        if not any(matches(budget["spec"]["selector"], labels) for budget in budgets):
            yield f"{name}: has no PodDisruptionBudget"
        if not spread:
            yield f"{name}: has no topologySpreadConstraints"


def _budget(resource: Resource, pods: Sequence[Pod], _: Any) -> Iterator[str]:
    yield from _selected(resource, resource["spec"]["selector"], pods)[1]


def _policy(resource: Resource, pods: Sequence[Pod], _: Any) -> Iterator[str]:
    spec = resource["spec"]
    selected, findings = _selected(resource, spec["podSelector"], pods)
    yield from findings
    for way, side in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(way, ()):
            peers = [p for p in rule.get(side, ()) if set(p) == {"podSelector"}]
            others = [_selected(resource, peer["podSelector"], pods) for peer in peers]
            for _found, missing in others:
                yield from missing
            if not rule.get(side):
                yield f"{name_of(resource)}: an {way} rule without `{side}` lets everybody through"
            # A port's name is looked up in the pods that are reached.
            reached = (
                selected if way == "ingress" else [pod for found, _ in others for pod in found]
            )
            for port in rule.get("ports", ()):
                if reached and not any(port["port"] in pod.ports for pod in reached):
                    yield f"{name_of(resource)}: no pod reached has the port {port['port']!r}"


def _scaled(resource: Resource, _: Any, resources: Sequence[Resource]) -> Iterator[str]:
    spec, name = resource["spec"], name_of(resource)
    target = spec["scaleTargetRef"]
    wanted = f"{target.get('kind', 'Deployment')}/{target['name']}"
    found = [each for each in resources if name_of(each) == wanted]
    if not found:
        yield f"{name}: there is no {wanted} to scale"
    if any("replicas" in each["spec"] for each in found):
        yield f"{name}: {wanted} sets replicas, so that applying it takes KEDA's number back"
    authentications = _named(resources, "TriggerAuthentication")
    for trigger in spec["triggers"]:
        authentication = trigger.get("authenticationRef", {}).get("name")
        if authentication is not None and authentication not in authentications:
            yield f"{name}: there is no TriggerAuthentication {authentication}"
        yield from wrong_address(name, trigger["metadata"].get("url", ""), resources)


def _authentication(resource: Resource, _: Any, resources: Sequence[Resource]) -> Iterator[str]:
    for each in resource["spec"].get("secretTargetRef", ()):
        if each["name"] not in SECRETS | _named(resources, "Secret"):
            yield f"{name_of(resource)}: there is no Secret {each['name']}"


def wrong_address(name: str, url: str, resources: Sequence[Resource]) -> Iterator[str]:
    """A finding unless a URL within our namespace is of a service that there is, and its port."""
    address = urlsplit(url)
    service, _, namespace = (address.hostname or "").partition(".")
    if namespace.removesuffix(".svc") != NAMESPACE:
        return
    ports = [
        port["port"]
        for each in resources
        if name_of(each) == f"Service/{service}"
        for port in each["spec"]["ports"]
    ]
    if address.port not in ports:
        yield f"{name}: {url}: the service {service} has the ports {ports}"


def _of_pod(pod: Pod, resources: Sequence[Resource]) -> Iterator[str]:
    if pod.spec.get("serviceAccountName") not in _named(resources, "ServiceAccount"):
        yield f"{pod.owner}: there is no ServiceAccount {pod.spec.get('serviceAccountName')}"
    maps, secrets = _named(resources, "ConfigMap"), SECRETS | _named(resources, "Secret")
    for kind, name in _sources(pod):
        if name not in (maps if kind == "ConfigMap" else secrets):
            yield f"{pod.owner}: there is no {kind} {name}"


def _sources(pod: Pod) -> Iterator[tuple[str, str]]:
    """Kind and name of every ConfigMap and Secret that a pod reads."""
    for each in pod.containers:
        values = [variable.get("valueFrom", {}) for variable in each.get("env", ())]
        for source in [*each.get("envFrom", ()), *values]:
            for field, kind in (
                ("configMapRef", "ConfigMap"),
                ("configMapKeyRef", "ConfigMap"),
                ("secretRef", "Secret"),
                ("secretKeyRef", "Secret"),
            ):
                if field in source:
                    yield kind, source[field]["name"]
    for volume in pod.spec.get("volumes", ()):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]


def _isolation(resources: Sequence[Resource]) -> Iterator[str]:
    """Who is not named gets nowhere: one policy takes every pod and allows nothing."""
    for each in resources:
        spec = each["spec"] if each["kind"] == "NetworkPolicy" else {}
        both = set(spec.get("policyTypes", ())) == {"Ingress", "Egress"}
        if both and spec["podSelector"] == {} and not {"ingress", "egress"} & set(spec):
            return
    yield "no NetworkPolicy denies everything to every pod"


_CHECKS = {
    "Deployment": _workload,
    "NetworkPolicy": _policy,
    "PodDisruptionBudget": _budget,
    "ScaledObject": _scaled,
    "Service": _service,
    "StatefulSet": _workload,
    "TriggerAuthentication": _authentication,
}
