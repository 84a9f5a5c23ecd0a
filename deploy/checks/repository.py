"""Whether manifests say what the code, compose and the IAM policies say."""

import importlib.util
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deploy.checks.pods import Pod, pods_of
from deploy.checks.rendering import Resource, name_of
from shared.known_names import PREFIX
from shared.settings import NAMES, FleetSettings

KNOWN = {PREFIX + name.upper() for name in NAMES}
UNITS = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30, "M": 2**20, "G": 2**30}
"""Compose writes M for what Kubernetes writes Mi."""


class Repository:
    """What the repository says of itself."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._compose = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        # Compose builds them without a tag.
        self._images = {
            f"{each['image']}:{project['version']}" if "build" in each else each["image"]
            for each in self._compose.values()
        }

    def contradictions(self, resources: Sequence[Resource]) -> Iterator[str]:
        """Findings about images, commands, resources and settings."""
        for pod in pods_of(resources):
            for container in pod.containers:
                yield from self._of_container(pod, container)
        for resource in resources:
            if resource["kind"] == "ConfigMap":
                yield from _of_settings(resource)

    def _of_container(self, pod: Pod, container: dict[str, Any]) -> Iterator[str]:
        who = f"{pod.owner} {container['name']}"
        if container["image"] not in self._images:
            yield f"{who}: image {container['image']} is none of {sorted(self._images)}"
        for word in container.get("command", ()):
            module = word.rpartition("python -m ")[2] if "python -m" in word else word
            if module.startswith("services.") and importlib.util.find_spec(module) is None:
                yield f"{who}: there is no module {module}"
        for variable in container.get("env", ()):
            yield from _unknown(who, variable["name"])
        limits = self._compose.get(container["name"], {}).get("deploy", {})
        for name, theirs in limits.get("resources", {}).get("limits", {}).items():
            ours = container.get("resources", {}).get("limits", {}).get(name.removesuffix("s"))
            if ours is None or _amount(ours) != _amount(theirs):
                yield f"{who}: limits {name} to {ours}, docker-compose.yml to {theirs}"

    def cluster_contradictions(self, cluster: Resource, base: Sequence[Resource]) -> Iterator[str]:
        """Findings about eksctl's file: whom it allows what, beside deploy/aws/iam."""
        settings = next(
            each["data"]
            for each in base
            if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("settings")
        )
        bucket, _, prefix = settings["AUTOPILOT_POLICY_STORE"].removeprefix("s3://").partition("/")
        values = {
            "BUCKET": bucket,
            "PREFIX": prefix,
            "NAMESPACE": settings["AUTOPILOT_CLOUDWATCH_NAMESPACE"],
        }
        if cluster["metadata"]["region"] != settings["AWS_REGION"]:
            yield f"cluster.yaml is in another region than AWS_REGION={settings['AWS_REGION']}"
        given = {
            each["serviceAccountName"]: each["permissionPolicy"]["Statement"]
            for each in cluster["iam"]["podIdentityAssociations"]
        }
        accounts = {each["metadata"]["name"] for each in base if each["kind"] == "ServiceAccount"}
        for account in sorted(set(given) - accounts):
            yield f"cluster.yaml gives rights to {account}, which is no ServiceAccount"
        for pod in pods_of(base):
            account = pod.spec["serviceAccountName"]
            wanted = [s for c in pod.containers for s in self._statements(c["name"], values)]
            if wanted != given.get(account, []):
                yield f"cluster.yaml: {account} is not allowed exactly what deploy/aws/iam says"

    def _statements(self, service: str, values: dict[str, str]) -> list[Any]:
        path = self._root / "deploy/aws/iam" / f"{service}.json"
        if not path.exists():
            return []
        text = path.read_text()
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        statements: list[Any] = json.loads(text)["Statement"]
        return statements


def _of_settings(resource: Resource) -> Iterator[str]:
    """Findings about a ConfigMap: names of settings, and a fleet file's tables."""
    for name, value in resource.get("data", {}).items():
        if name.endswith(".toml"):
            for fleet, table in tomllib.loads(value).items():
                try:
                    FleetSettings(**table)
                except ValidationError as error:
                    yield f"{name_of(resource)}: fleet {fleet}: {error.errors()[0]['msg']}"
        else:
            yield from _unknown(name_of(resource), name)


def _unknown(who: str, name: str) -> Iterator[str]:
    if name.startswith(PREFIX) and name not in KNOWN:
        yield f"{who}: {name} is not a setting of shared/settings"


def _amount(text: Any) -> float:
    for unit, factor in UNITS.items():
        if str(text).endswith(unit):
            return float(str(text).removesuffix(unit)) * factor
    return float(text)
