"""KEDA's operator and the autoscaler of Kubernetes, as far as a ScaledObject with one trigger goes.

After pkg/scalers/metrics_api_scaler.go, pkg/fallback/fallback.go and the replica calculator of
Kubernetes: what is asked, what counts as a failure, and how many replicas come of it.
"""

import json
import math
import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

HTTP_SECONDS = 3.0
"""KEDA_HTTP_DEFAULT_TIMEOUT."""
DEFAULT_TOLERANCE = 0.1
"""Of Kubernetes, where a ScaledObject sets none."""
QUANTITY = re.compile(r"^[+-]?\d+(\.\d+)?$")


class TriggerFailed(Exception):
    """A poll without a number."""


def gjson(document: Any, path: str) -> Any:
    """What a GJSON path of plain names and indices finds; None where there is nothing.

    Queries, wildcards and modifiers, which a `valueLocation` of ours does not have, are refused.
    """
    if set(path) & set("*?#|@!{}[]()"):
        raise ValueError(f"{path}: more of GJSON than is played here")
    found = document
    for part in re.split(r"(?<!\\)\.", path):
        name = re.sub(r"\\(.)", r"\1", part)
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            return None
    return found


def value_at(body: str, location: str, form: str) -> float:
    """The number that a metrics-api trigger takes from an answer; raises `TriggerFailed`."""
    if form == "prometheus":
        families = text_string_to_metric_families(body)
        samples = [s for family in families for s in family.samples if s.name == location]
        if len(samples) != 1:
            raise TriggerFailed(f"{len(samples)} samples of {location}")
        return samples[0].value
    try:
        found = gjson(json.loads(body), location)
    except json.JSONDecodeError as error:
        raise TriggerFailed(f"no JSON: {error}") from error
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number and not (isinstance(found, str) and QUANTITY.match(found)):
        raise TriggerFailed(f"valueLocation must point to a number or a quantity, got: {found!r}")
    return float(found)


class Workload:
    """A ScaledObject at work on so many replicas; `secrets` are those that it refers to."""

    def __init__(
        self, manifests: list[dict[str, Any]], secrets: dict[str, dict[str, str]], replicas: int
    ) -> None:
        by_kind = {each["kind"]: each for each in manifests}
        self._spec = by_kind["ScaledObject"]["spec"]
        (self._trigger,) = self._spec["triggers"]
        self._authentication: dict[str, str] = {}
        if "authenticationRef" in self._trigger:
            authentication = by_kind["TriggerAuthentication"]
            assert authentication["metadata"]["name"] == self._trigger["authenticationRef"]["name"]
            self._authentication = {
                each["parameter"]: secrets[each["name"]][each["key"]]
                for each in authentication["spec"]["secretTargetRef"]
            }
        self.replicas = replicas
        self.failures = 0
        self.failure = ""

    def poll(self, address: str) -> int:
        """Replicas after one poll of the trigger, at this address instead of its host."""
        try:
            value = self._ask(address)
        except TriggerFailed as error:
            self.failure = str(error)
            self.failures += 1
            fallback = self._spec.get("fallback")
            if fallback is None or self.failures <= fallback["failureThreshold"]:
                return self.replicas  # the autoscaler has no metric, and does nothing
            value = self._fallback_replicas(fallback) * self._target
        else:
            self.failures = 0
        self.replicas = self.desired(value)
        return self.replicas

    @property
    def _target(self) -> float:
        return float(self._trigger["metadata"]["targetValue"])

    def _ask(self, address: str) -> float:
        metadata, headers = self._trigger["metadata"], {}
        assert self._trigger["type"] == "metrics-api"
        if metadata.get("authMode") == "bearer":
            headers["Authorization"] = f"Bearer {self._authentication['token']}"
        url = urlsplit(metadata["url"])._replace(netloc=urlsplit(address).netloc)
        try:
            answer = httpx.get(urlunsplit(url), headers=headers, timeout=HTTP_SECONDS)
        except httpx.TransportError as error:
            raise TriggerFailed(str(error)) from error
        if answer.status_code != 200:
            raise TriggerFailed(f"api returned {answer.status_code}")
        return value_at(answer.text, metadata["valueLocation"], metadata.get("format", "json"))

    def _fallback_replicas(self, fallback: dict[str, Any]) -> int:
        behaviours = {
            "static": fallback["replicas"],
            "currentReplicasIfHigher": max(self.replicas, fallback["replicas"]),
        }
        return int(behaviours[fallback.get("behavior", "static")])

    def desired(self, value: float) -> int:
        """What the autoscaler makes of a metric's value."""
        assert self._trigger["metricType"] == "AverageValue"
        advanced = self._spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
        behaviour = advanced.get("behavior", {})
        ratio = value / (self._target * self.replicas)
        way = behaviour.get("scaleUp" if ratio > 1 else "scaleDown", {})
        # Kubernetes' own; the other defaults (windows, steps) are set by what is played here.
        if abs(ratio - 1) <= float(way.get("tolerance", DEFAULT_TOLERANCE)):
            return self.replicas
        desired = math.ceil(value / self._target)
        assert way["stabilizationWindowSeconds"] == 0
        (policy,) = way["policies"]
        change = policy["value"]
        if policy["type"] == "Percent":
            change = math.ceil(self.replicas * change / 100)
        desired = min(max(desired, self.replicas - change), self.replicas + change)
        return min(max(desired, self._spec["minReplicaCount"]), self._spec["maxReplicaCount"])
