"""Agones' FleetAutoscaler controller, as its pkg/fleetautoscalers has it, and a fleet for it."""

import base64
import json
import ssl
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx

TIMEOUT_SECONDS = 15.0
INT32 = range(-(2**31), 2**31)


class PolicyFailed(Exception):
    """An error of one policy: a chain goes on to its next entry."""


class ControllerPanic(Exception):
    """A null pointer was followed: the controller ends, and no fleet is scaled until it is back."""


@dataclass
class AgonesFleet:
    """A Fleet: what is asked for, and what there is."""

    name: str = "game-servers"
    namespace: str = "games"
    annotations: dict[str, str] = field(default_factory=dict)
    spec_replicas: int = 10
    replicas: int = 10
    ready: int = 10
    allocated: int = 0
    reserved: int = 0

    def allocate(self, servers: int) -> None:
        """So many are allocated now: out of those that are ready, or back to them."""
        self.ready -= servers - self.allocated
        self.allocated = servers

    def settle(self, starting: int = 0) -> None:
        """The fleet follows its spec, but for servers that are `starting` yet.

        Allocated and reserved servers are never removed.
        """
        held = self.allocated + self.reserved
        self.ready = max(self.spec_replicas - starting - held, 0)
        self.replicas = max(self.spec_replicas, held)

    @property
    def status(self) -> dict[str, Any]:
        return {
            "replicas": self.replicas,
            "readyReplicas": self.ready,
            "reservedReplicas": self.reserved,
            "allocatedReplicas": self.allocated,
        }


@dataclass(frozen=True)
class Applied:
    """What one sync has done; `by` is the chain entry's id, or the policy's type."""

    by: str
    replicas: int


class AgonesController:
    """Syncs one FleetAutoscaler; `metadata` is the feature gate FleetAutoscaleRequestMetaData."""

    def __init__(
        self,
        autoscaler: dict[str, Any],
        fleet: AgonesFleet,
        *,
        metadata: bool = False,
        timeout_s: float = TIMEOUT_SECONDS,
    ) -> None:
        self._policy = autoscaler["spec"]["policy"]
        self._fleet = fleet
        self._metadata = metadata
        self._timeout_s = timeout_s
        self.errors: list[str] = []

    def sync(self) -> Applied:
        """Compute the fleet's size and set it; raises `PolicyFailed` where nothing could be."""
        applied = self._desired(self._policy, self._policy["type"])
        self._fleet.spec_replicas = applied.replicas
        return applied

    def _desired(self, policy: dict[str, Any], name: str) -> Applied:
        kind: Literal["Buffer", "Webhook", "Chain"] = policy["type"]
        if kind == "Buffer":
            return Applied(name, self._buffer(policy["buffer"]))
        if kind == "Webhook":
            return Applied(name, self._webhook(policy["webhook"]))
        return self._chain(policy["chain"])

    def _chain(self, entries: list[dict[str, Any]]) -> Applied:
        for entry in entries:
            try:
                return self._desired(entry, entry["id"])
            except PolicyFailed as error:
                self.errors.append(str(error))
        raise PolicyFailed(self.errors[-1])

    def _buffer(self, buffer: dict[str, Any]) -> int:
        wanted = self._fleet.allocated + int(buffer["bufferSize"])
        return min(max(wanted, buffer["minReplicas"]), buffer["maxReplicas"])

    def _webhook(self, webhook: dict[str, Any]) -> int:
        request: dict[str, Any] = {
            "uid": str(uuid.uuid4()),
            "name": self._fleet.name,
            "namespace": self._fleet.namespace,
            "status": self._fleet.status,
        }
        if self._metadata and self._fleet.annotations:
            request["annotations"] = self._fleet.annotations
        answer = self._post(webhook, {"request": request, "response": None})
        response = _response_of(answer)
        assert response["uid"] == request["uid"], "not asked by Agones, but promised by us"
        return int(response["replicas"]) if response["scale"] else self._fleet.replicas

    def _post(self, webhook: dict[str, Any], review: dict[str, Any]) -> bytes:
        url = url_of(webhook)
        trusting: ssl.SSLContext | bool = True
        if "caBundle" in webhook:
            bundle = base64.b64decode(webhook["caBundle"]).decode()
            trusting = ssl.create_default_context(cadata=bundle)
        try:
            # What stands before the @ becomes a header, as Go's client has it.
            answer = httpx.post(url, json=review, timeout=self._timeout_s, verify=trusting)
        except httpx.TransportError as error:
            raise PolicyFailed(repr(error)) from error
        if answer.status_code != 200:
            raise PolicyFailed(f"bad status code {answer.status_code} from the server: {url}")
        return answer.content


def url_of(webhook: dict[str, Any]) -> str:
    """Where a webhook is."""
    if "url" in webhook:
        return str(webhook["url"])
    service = webhook["service"]
    scheme = "https" if "caBundle" in webhook else "http"
    host = f"{service['name']}.{service['namespace']}.svc:{service.get('port', 8000)}"
    # A path, and nothing else: a question mark in it is escaped.
    return f"{scheme}://{host}/{quote(service.get('path', '').lstrip('/'))}"


def _response_of(answer: bytes) -> dict[str, Any]:
    """As Go fills its structs: what is missing is zero, what is of another type fails."""
    try:
        review = json.loads(answer)
    except ValueError as error:
        raise PolicyFailed(f"not JSON: {answer!r}") from error
    if not isinstance(review, dict):
        raise PolicyFailed(f"no object: {answer!r}")
    response = review.get("response")
    if response is None:
        raise ControllerPanic("invalid memory address or nil pointer dereference")
    filled = {"uid": "", "scale": False, "replicas": 0}
    if not isinstance(response, dict):
        raise PolicyFailed(f"no object: {answer!r}")
    for name, zero in filled.items():
        value = response.get(name, zero)
        if type(value) is not type(zero) or (name == "replicas" and value not in INT32):
            raise PolicyFailed(f"cannot unmarshal {name}: {answer!r}")
        filled[name] = value
    return filled
