"""`python -m services.prediction.serve`: one policy artefact, without Redis or a policy store.

What the image runs for `serve`, as SageMaker starts it: see deploy/sagemaker.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.prediction.invocations import add_hosting_routes
from shared.entry import run_service
from shared.errors import BadSetting, PolicyError
from shared.http.access import Access, access_of
from shared.http.app import HttpService
from shared.http.health import add_health_routes
from shared.http.server import serve
from shared.policies.runtime import LearntPolicy, load_artefact
from shared.policies.store_seal import SigningKey
from shared.settings import Fleets, Settings, load_hosting_settings

_log = structlog.get_logger(__name__)


def create_app(policy: LearntPolicy, access: Access | None = None) -> HttpService:
    """The service for one loaded policy, which serves every fleet name."""
    parameters = policy.manifest.parameters

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield

    async def ready() -> None:
        """Always ready: the policy is loaded before the app exists."""

    registry = CollectorRegistry()
    app = HttpService(
        title="gameserver-autopilot policy",
        description="One policy: observations in, actions out.",
        lifespan=lifespan,
        registry=registry,
        access=access or Access(),
    )
    add_hosting_routes(app, lambda _: (policy, parameters))
    add_health_routes(app, ready, registry)
    return app


def load(model_dir: Path, key: SigningKey | None = None) -> LearntPolicy:
    """The policy in a folder; raises `BadSetting` if it can't be used."""
    try:
        return load_artefact(model_dir, key)
    except (PolicyError, OSError) as error:
        raise BadSetting(
            f"AUTOPILOT_MODEL_DIR={model_dir}: {error}; put there what "
            "`autopilot policies export --sagemaker` writes"
        ) from error


def main(settings: Settings, _: Fleets) -> None:
    hosting = load_hosting_settings()
    access = access_of(settings)
    policy = load(hosting.model_dir, SigningKey.of(settings.signing_key_file))
    _log.info("policy_loaded", fleet=policy.manifest.fleet, version=policy.version)
    serve(create_app(policy, access), settings.host, hosting.port)


if __name__ == "__main__":
    run_service("prediction", main)
