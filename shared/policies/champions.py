"""The policy that serves each fleet, kept up to date with the policy store."""

import asyncio

import structlog

from shared.errors import PolicyCorrupt, PolicyError, StoreAway, UnknownFleet
from shared.messages import Champion
from shared.policies.runtime import FleetPolicy, Policy, initial_policy, load_policy, plans_short
from shared.policies.store import PolicyStore
from shared.resilience import Outage
from shared.settings import Fleets

RELOAD_SECONDS = 30.0
"""How often the store is read: while Redis is unavailable no promotion is announced."""

_log = structlog.get_logger(__name__)


class Champions:
    """Every fleet's policy: its champion, or `initial_policy` while it has none.

    The store's pointer is authoritative; a message on the bus only announces that it has changed.
    A policy that can't be used is refused, logged and counted, and the previous one goes on
    serving. Nothing raises.
    """

    def __init__(self, store: PolicyStore, fleets: Fleets) -> None:
        self._store = store
        self._fleets = fleets
        self._serving: dict[str, Policy] = {
            name: initial_policy(settings.parameters) for name, settings in fleets.by_name.items()
        }
        self._refused: dict[str, str] = {}
        self._loading = asyncio.Lock()
        self._outage = Outage("policy_store_is_away", "policy_store_is_back")
        self.refused = 0
        """Policies refused since the start; a version that is retried counts once."""

    def policy(self, fleet: str) -> Policy:
        """The policy that decides for a fleet now; raises `UnknownFleet`."""
        try:
            return self._serving[fleet]
        except KeyError:
            raise UnknownFleet(fleet, self._fleets.names) from None

    async def load_all(self) -> None:
        """Load every fleet's champion from the store, where another policy serves."""
        for fleet in self._fleets.names:
            if not await self._load(fleet, None):
                return

    async def reload(self) -> None:
        """Load changed champions every `RELOAD_SECONDS`, until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            await self.load_all()

    async def apply(self, champion: Champion) -> bool:
        """Load a champion that was promoted. Returns whether its version serves now."""
        if champion.fleet not in self._serving:
            return False
        await self._load(champion.fleet, champion)
        return self._serving[champion.fleet].version == champion.version

    async def _load(self, fleet: str, announced: Champion | None) -> bool:
        """Load a fleet's champion, off the event loop. Returns whether the store is available."""
        async with self._loading:
            try:
                policy = await asyncio.to_thread(self._read, fleet, announced)
            except StoreAway as away:
                self._outage.begin(away)
                return False
            except (PolicyError, OSError) as error:
                self._refuse(fleet, error)
                policy = None
            self._outage.end()
            if policy is not None:
                self._serving[fleet] = policy
                self._refused.pop(fleet, None)
                _log.info("policy_loaded", fleet=fleet, version=policy.version)
                self._warn_if_short(fleet, policy)
            return True

    def _read(self, fleet: str, announced: Champion | None) -> FleetPolicy | None:
        """The policy to change to; None when there is nothing to change."""
        champion = self._store.champion(fleet) or announced
        if champion is None or champion.version == self._serving[fleet].version:
            return None
        try:
            return load_policy(self._store, fleet, champion.version, self._fleets[fleet].parameters)
        except (OSError, ValueError, RuntimeError) as error:
            raise PolicyCorrupt(f"policy {champion.version}: can't be read: {error}") from error

    def _warn_if_short(self, fleet: str, policy: FleetPolicy) -> None:
        parameters = self._fleets[fleet].parameters
        if means := plans_short(policy, parameters):
            _log.warning(
                "policy_kept",
                fleet=fleet,
                version=policy.version,
                lead_steps=policy.lead_steps,
                fleet_lead_steps=parameters.lead_steps,
                means=means,
            )

    def _refuse(self, fleet: str, error: Exception) -> None:
        reason = str(error)
        if self._refused.get(fleet) == reason:
            return
        self._refused[fleet] = reason
        self.refused += 1
        serving = self._serving[fleet].version
        _log.error("policy_refused", fleet=fleet, serving=serving, error=reason)
