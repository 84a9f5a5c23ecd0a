"""The policy that serves each fleet, kept in step with the policy store."""

import asyncio

import structlog

from shared.errors import PolicyCorrupt, PolicyError, UnknownFleet
from shared.messages import Champion
from shared.policies import LearntPolicy, Policy, RulePolicy, load_policy
from shared.policy_store import PolicyStore
from shared.settings import Fleets

_log = structlog.get_logger(__name__)


class Champions:
    """Every fleet's policy: its champion, or the plain rule while it has none.

    The store's pointer is the truth; a message on the bus only says that it moved. A policy that
    can't serve is refused, logged and counted, and the one before goes on. Nothing raises.
    """

    def __init__(self, store: PolicyStore, fleets: Fleets) -> None:
        self._store = store
        self._fleets = fleets
        self._serving: dict[str, Policy] = {
            name: RulePolicy(settings.parameters) for name, settings in fleets.by_name.items()
        }
        self._refused: dict[str, str] = {}
        self._loading = asyncio.Lock()
        self.refused = 0
        """Policies refused since the start; a version that is tried again counts once."""

    def policy(self, fleet: str) -> Policy:
        """What decides for a fleet now; raises `UnknownFleet`."""
        try:
            return self._serving[fleet]
        except KeyError:
            raise UnknownFleet(fleet, self._fleets.names) from None

    async def load_all(self) -> None:
        """Load every fleet's champion from the store, where it is not the one that serves."""
        for fleet in self._fleets.names:
            await self._load(fleet, None)

    async def apply(self, champion: Champion) -> bool:
        """Follow a champion that has moved; say whether its version serves now."""
        if champion.fleet not in self._serving:
            return False
        await self._load(champion.fleet, champion)
        return self._serving[champion.fleet].version == champion.version

    async def _load(self, fleet: str, told: Champion | None) -> None:
        """Reads files and hashes them, so off the event loop."""
        async with self._loading:
            try:
                policy = await asyncio.to_thread(self._read, fleet, told)
            except (PolicyError, OSError) as error:
                self._refuse(fleet, error)
                return
            if policy is not None:
                self._serving[fleet] = policy
                self._refused.pop(fleet, None)
                _log.info("policy_loaded", fleet=fleet, version=policy.version)

    def _read(self, fleet: str, told: Champion | None) -> LearntPolicy | None:
        """The policy to change to, or None when there is nothing to change."""
        champion = self._store.champion(fleet) or told
        if champion is None or champion.version == self._serving[fleet].version:
            return None
        try:
            return load_policy(self._store, fleet, champion.version, self._fleets[fleet].parameters)
        except (OSError, ValueError, RuntimeError) as error:
            raise PolicyCorrupt(f"policy {champion.version}: can't be read: {error}") from error

    def _refuse(self, fleet: str, error: Exception) -> None:
        reason = str(error)
        if self._refused.get(fleet) == reason:
            return
        self._refused[fleet] = reason
        self.refused += 1
        serving = self._serving[fleet].version
        _log.error("policy_refused", fleet=fleet, serving=serving, error=reason)
