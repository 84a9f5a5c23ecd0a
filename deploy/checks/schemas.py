"""Whether a resource has the fields of its kind, and no others."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from deploy.checks.rendering import Resource, name_of

BUILT_IN_GROUPS = ("apps", "autoscaling", "batch", "policy")
"""Groups of Kubernetes' own without a dot; the others end in `.k8s.io`."""
OWN_FIELDS = {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}


def is_built_in(resource: Resource) -> bool:
    """Whether Kubernetes itself brings the kind."""
    group = resource["apiVersion"].rpartition("/")[0]
    return not group or group in BUILT_IN_GROUPS or group.endswith(".k8s.io")


def built_in_findings(resource: Resource, version: str) -> Iterator[str]:
    """What Kubernetes of this version would refuse in one of its own kinds."""
    yield from _built_in_findings(json.dumps(resource), version)


@cache
def _built_in_findings(text: str, version: str) -> tuple[str, ...]:
    """Overlays share most of their resources, and each look takes a tenth of a second."""
    resource = json.loads(text)
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (_sentence(resource, error),)
    except kubernetes_validate.SchemaNotFoundError as error:
        return (f"{name_of(resource)}: {error.message}",)
    return ()


class CustomKinds:
    """Kinds that come with definitions of their own, read from a folder of them."""

    def __init__(self, folder: Path) -> None:
        self._schemas: dict[tuple[str, str], dict[str, Any]] = {}
        for path in sorted(folder.glob("*.json")):
            spec = json.loads(path.read_text())["spec"]
            for version in spec["versions"]:
                api = f"{spec['group']}/{version['name']}"
                schema = _strict(version["schema"]["openAPIV3Schema"])
                schema["properties"] = OWN_FIELDS | schema["properties"]
                self._schemas[api, spec["names"]["kind"]] = schema

    def __contains__(self, resource: Resource) -> bool:
        return (resource["apiVersion"], resource["kind"]) in self._schemas

    def findings(self, resource: Resource) -> Iterator[str]:
        """What its definition refuses; rules in CEL are not run."""
        schema = self._schemas[resource["apiVersion"], resource["kind"]]
        for error in jsonschema.Draft202012Validator(schema).iter_errors(resource):
            yield _sentence(resource, error)


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI as Kubernetes writes it, as JSON Schema; fields it does not name are refused.

    Kubernetes drops them in silence, which is worse.
    """
    made = {key: value for key, value in schema.items() if key not in ("format", "nullable")}
    if "properties" in schema:
        made["properties"] = {k: _strict(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = _strict(schema[key])
    if schema.get("nullable"):
        made = {"anyOf": [made, {"type": "null"}]}
    return made


def _sentence(resource: Resource, error: jsonschema.ValidationError) -> str:
    where = ".".join(map(str, error.absolute_path)) or "it"
    return f"{name_of(resource)}: {where}: {error.message[:300]}"
