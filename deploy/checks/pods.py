"""The pods that resources make, and what has to hold for each of them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from deploy.checks.rendering import Resource, name_of

VOLUMES = ("configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret")
"""Of those that `restricted` allows, what we have a use for."""


class Pod(NamedTuple):
    """A pod as its owner describes it."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def ports(self) -> set[Any]:
        """Numbers and names."""
        ports = [port for each in self.containers for port in each.get("ports", ())]
        return {p["containerPort"] for p in ports} | {p["name"] for p in ports if "name" in p}


def pods_of(resources: Sequence[Resource]) -> list[Pod]:
    """Every pod that a Deployment, StatefulSet or RayCluster makes."""
    return [pod for resource in resources for pod in _pods(resource)]


def _pods(resource: Resource) -> Iterator[Pod]:
    name, spec = name_of(resource), resource.get("spec", {})
    if resource["kind"] in ("Deployment", "StatefulSet"):
        yield _pod(name, spec["template"], {})
    elif resource["kind"] == "RayCluster":
        cluster = {"ray.io/cluster": resource["metadata"]["name"]}
        yield _pod(f"{name} head", spec["headGroupSpec"]["template"], cluster)
        for group in spec.get("workerGroupSpecs", ()):
            yield _pod(f"{name} {group['groupName']}", group["template"], cluster)


def _pod(owner: str, template: dict[str, Any], labels: dict[str, str]) -> Pod:
    return Pod(owner, labels | template.get("metadata", {}).get("labels", {}), template["spec"])


def insecurities(pod: Pod) -> Iterator[str]:
    """What Pod Security `restricted` refuses, and what we ask for beyond it."""
    spec, of_pod = pod.spec, pod.spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{pod.owner}: {field} is not for us"
    if spec.get("automountServiceAccountToken") is not False:
        yield f"{pod.owner}: automountServiceAccountToken has to be false: nobody asks Kubernetes"
    for volume in spec.get("volumes", ()):
        if set(volume) - {"name", *VOLUMES}:
            yield f"{pod.owner}: volume {volume['name']} is of a kind that is not for us"
    for each in pod.containers:
        who, own = f"{pod.owner} {each['name']}", each.get("securityContext", {})
        wanted = {
            "runAsNonRoot": (own.get("runAsNonRoot", of_pod.get("runAsNonRoot")), True),
            "runAsUser above 0": (bool(own.get("runAsUser", of_pod.get("runAsUser"))), True),
            "seccompProfile RuntimeDefault": (
                (own.get("seccompProfile") or of_pod.get("seccompProfile") or {}).get("type"),
                "RuntimeDefault",
            ),
            "allowPrivilegeEscalation false": (own.get("allowPrivilegeEscalation"), False),
            "readOnlyRootFilesystem true": (own.get("readOnlyRootFilesystem"), True),
            "capabilities drop ALL": (own.get("capabilities"), {"drop": ["ALL"]}),
        }
        for what, (found, right) in wanted.items():
            if found != right:
                yield f"{who}: securityContext needs {what}"
        if own.get("privileged") or any("hostPort" in port for port in each.get("ports", ())):
            yield f"{who}: neither privileged nor on a port of the host"


def negligences(pod: Pod) -> Iterator[str]:
    """A container without probes or resources, or a mount without its volume."""
    volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
    for each in pod.containers:
        who = f"{pod.owner} {each['name']}"
        if "livenessProbe" not in each or not {"readinessProbe", "startupProbe"} & set(each):
            yield f"{who}: needs a livenessProbe, and a readinessProbe or startupProbe"
        for kind in ("requests", "limits"):
            if set(each.get("resources", {}).get(kind, ())) != {"cpu", "memory"}:
                yield f"{who}: resources.{kind} have to name cpu and memory"
        for mount in each.get("volumeMounts", ()):
            if mount["name"] not in volumes and "StatefulSet" not in pod.owner:
                yield f"{who}: no volume {mount['name']!r} to mount"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = each.get(probe, {}).get("httpGet", each.get(probe, {}).get("tcpSocket", {}))
            if port and port["port"] not in pod.ports:
                yield f"{who}: {probe} asks port {port['port']!r}, which it does not have"
