"""Settings of the whole platform, and of a container that serves a single artefact."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.http.access_settings import AccessSettings
from shared.known_names import PREFIX, is_service_address
from shared.redis_address import kept_url

MOST_ACTORS = 1_000
"""Ray actors of one training job: each is a process, usually on a core of its own."""
LAST_SEED = 2**32 - 1
"""NumPy's legacy generators, which RLlib seeds, accept no more."""

Actors = Annotated[int, Field(ge=0, le=MOST_ACTORS)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(AccessSettings):
    """Settings that are the same for every fleet."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    # Where things are.
    redis_port: Port = 6380
    """Port of the Redis that `autopilot up` embeds."""
    redis_url: str = Field(
        default_factory=lambda given: kept_url() or f"redis://127.0.0.1:{given['redis_port']}/0"
    )
    """Address of your own Redis; by default, of the one that `autopilot up` embeds here."""
    redis_password_file: Path | None = None
    """A file with the password of that Redis, for a `redis_url` without one."""
    policy_store: str = ".autopilot/policies"
    """A folder that all services share, or s3://bucket/prefix."""
    signing_key_file: Path | None = None
    """A file with the key that manifests of policies are signed with; others are not read."""
    fleets: Path | None = None
    """A TOML file with a table for each fleet. Without one there is one fleet, `default`."""

    # Addresses to listen on.
    host: str = "127.0.0.1"
    prediction_port: Port = 8000
    matchmaking_port: Port = 8001
    metrics_port: Port = 8003
    console_port: Port = 8002

    # TLS of the prediction service: a mounted certificate, read again when it is renewed.
    tls_cert_file: Path | None = None
    """PEM, with the certificates between it and the caller's CA."""
    tls_key_file: Path | None = None

    # Metrics in CloudWatch, put where AWS is configured (AWS_REGION or AWS_DEFAULT_REGION).
    cloudwatch_namespace: Annotated[str, Field(min_length=1, max_length=255)] = (
        "rl-game-server-autopilot"
    )

    # Training.
    save_model: bool = True
    """Keep the RLlib checkpoint in the policy artefact, to resume from."""
    seed: Annotated[int, Field(ge=0, le=LAST_SEED)] = 0
    num_env_runners: Actors = 0
    """Ray actors that replay demand; 0: the trainer's own process."""
    num_learners: Actors = 0
    """Ray actors that learn; 0: the trainer's own process."""

    # Health: a worker without an HTTP address touches this file regularly (`shared/probe.py`).
    heartbeat: Path | None = None

    # Logs: `json`, `console`, or `auto` (console on a terminal).
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="before")
    @classmethod
    def _without_service_addresses(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Kubernetes sets a port's variable to an address where a Service has its name."""
        return {
            name: value
            for name, value in given.items()
            if not (name.endswith("_port") and is_service_address(value))
        }

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(
                "AUTOPILOT_TLS_CERT_FILE and AUTOPILOT_TLS_KEY_FILE go together: set both, or none"
            )
        return self


class HostingSettings(BaseSettings):
    """Settings of a container that serves a single artefact, as SageMaker runs it."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    model_dir: Path = Field(Path("/opt/ml/model"), validation_alias=f"{PREFIX}MODEL_DIR")
    """Where SageMaker unpacks a model's archive."""
    port: Port = Field(8080, validation_alias="SAGEMAKER_BIND_TO_PORT")
