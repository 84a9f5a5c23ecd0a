"""Whether Redis has a password that everybody who needs it is given, and services have tokens."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from deploy.checks.pods import Pod, pods_of
from deploy.checks.rendering import Resource, name_of

PASSWORD = ("redis", "password")
"""The Secret and its key."""
TOKENS = "tokens"
ROLES = frozenset({"report", "read", "operate", "agones"})
NEEDED = {
    "services.matchmaking": frozenset({"report", "read"}),
    "services.prediction": frozenset({"read"}),
    "services.environment": frozenset({"read"}),
    "services.metrics": frozenset({"read"}),
}
"""The tokens without which a service would refuse its callers, or be refused."""
WITH_REDIS = (*NEEDED, "services.trainer")

Container = dict[str, Any]


def unprotected(resources: Sequence[Resource]) -> Iterator[str]:
    """Every finding about passwords and tokens in the pods of a kustomization."""
    settings: dict[str, str] = {}
    for each in resources:
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("settings"):
            settings |= each["data"]
    for pod in pods_of(resources):
        for container in pod.containers:
            who = f"{pod.owner} {container['name']}"
            command = " ".join(container.get("command", ()))
            yield from _secrets_as_variables(who, container)
            if "redis-server" in command:
                yield from _of_redis(who, command, container, pod)
            yield from _of_service(who, _module(command), container, pod, settings)


def unauthenticated(resource: Resource) -> Iterator[str]:
    """Triggers of KEDA that ask one of our services without a token."""
    for trigger in resource.get("spec", {}).get("triggers", ()):
        metadata = trigger["metadata"]
        if trigger["type"] == "metrics-api" and (
            metadata.get("authMode") != "bearer" or "authenticationRef" not in trigger
        ):
            yield f"{name_of(resource)}: asks {metadata['url']} without a bearer token"


def _of_redis(who: str, command: str, container: Container, pod: Pod) -> Iterator[str]:
    password = re.search(r"^\s*requirepass \$\(cat (\S+)\)$", command, re.MULTILINE)
    if password is None:
        yield f"{who}: redis-server takes no password: requirepass $(cat FILE), on standard input"
    elif _secret_at(password[1], container, pod) != PASSWORD:
        yield f"{who}: {password[1]} is not the key password of the Secret redis"
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = " ".join(container.get(name, {}).get("exec", {}).get("command", ()))
        if "redis-cli" in asked and ("REDISCLI_AUTH" not in asked or "grep -q PONG" not in asked):
            yield f"{who}: {name} has no password, or takes NOAUTH for an answer"


def _of_service(
    who: str, module: str, container: Container, pod: Pod, settings: dict[str, str]
) -> Iterator[str]:
    if module in WITH_REDIS:
        yield from _of_redis_client(who, container, pod)
    tokens = _mounted_tokens(settings.get("AUTOPILOT_TOKENS", ""), container, pod)
    if module not in NEEDED:
        if tokens:
            yield f"{who}: needs no token, and mounts {sorted(tokens)}"
        return
    if not NEEDED[module] <= tokens <= ROLES:
        yield (
            f"{who}: needs the tokens {sorted(NEEDED[module])} of the Secret {TOKENS}, mounted at "
            f"AUTOPILOT_TOKENS, and has {sorted(tokens)}"
        )


def _of_redis_client(who: str, container: Container, pod: Pod) -> Iterator[str]:
    variables = {each["name"]: each for each in container.get("env", ())}
    file = variables.get("AUTOPILOT_REDIS_PASSWORD_FILE", {}).get("value")
    address = variables.get("AUTOPILOT_REDIS_URL", {}).get("valueFrom", {}).get("secretKeyRef", {})
    if file is None and (not address or address.get("optional")):
        yield f"{who}: has no password of Redis: set AUTOPILOT_REDIS_PASSWORD_FILE"
    if file is not None and _secret_at(file, container, pod) != PASSWORD:
        yield f"{who}: {file} is not the key password of the Secret redis"


def _secrets_as_variables(who: str, container: Container) -> Iterator[str]:
    """All keys of a Secret at once: what is added to it lands in every environment."""
    for source in container.get("envFrom", ()):
        if "secretRef" in source:
            yield f"{who}: takes the whole Secret {source['secretRef']['name']} as variables"


def _secret_at(file: str, container: Container, pod: Pod) -> tuple[str, str] | None:
    """Secret and key of a mounted file, if it has to be there."""
    folder, _, key = file.rpartition("/")
    secret = _secret_volume(folder, container, pod)
    if secret is None:
        return None
    keys = {item["path"]: item["key"] for item in secret.get("items", ())} or {key: key}
    return (secret["secretName"], keys[key]) if key in keys else None


def _mounted_tokens(folder: str, container: Container, pod: Pod) -> frozenset[str]:
    """Roles whose tokens are mounted where a service looks for them."""
    secret = _secret_volume(folder, container, pod)
    if secret is None or secret["secretName"] != TOKENS:
        return frozenset()
    return frozenset(
        item["path"] for item in secret.get("items", ()) if item["path"] == item["key"]
    )


def _secret_volume(folder: str, container: Container, pod: Pod) -> dict[str, Any] | None:
    """The Secret that is mounted at a folder, unless it may be missing or is cut off by subPath.

    What is mounted by subPath is never renewed.
    """
    volumes = {each["name"]: each.get("secret") for each in pod.spec.get("volumes", ())}
    for mount in container.get("volumeMounts", ()):
        if mount["mountPath"] == folder and "subPath" not in mount:
            secret: dict[str, Any] | None = volumes.get(mount["name"])
            return None if secret is None or secret.get("optional") else secret
    return None


def _module(command: str) -> str:
    found = re.search(r"python -m (services\.\w+)", command)
    return "" if found is None else found[1]
