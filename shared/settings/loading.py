"""Loads the settings of this process from the environment and the fleet file."""

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_settings import SettingsError

from shared.errors import BadSetting
from shared.known_names import PREFIX, check_names
from shared.messages import FleetId
from shared.redaction import keep_password_of, keep_secret, redact
from shared.redis_address import with_password_of
from shared.settings.aws import SECRETS_OF_AWS
from shared.settings.fleets import Fleets, FleetSettings
from shared.settings.platform import HostingSettings, Settings

NAMES = frozenset({*Settings.model_fields, *FleetSettings.model_fields, "model_dir"})
"""Names of all settings, in lower case and without the prefix."""

_WRITE_INSTEAD = {
    "zoneinfo_str": "there is no such time zone: write one such as Europe/Berlin",
    "time_delta_parsing": "write seconds, or '3:00:00' for hours, minutes and seconds",
    "time_delta_type": "write seconds, or '3:00:00' for hours, minutes and seconds",
    "tuple_type": "write an array, with a table or an object for each",
    "unexpected_keyword_argument": "there is no such field",
}
"""What to do, by the type of pydantic's error, where pydantic's message does not say it."""


def load_settings() -> Settings:
    """Settings of this process; raises `BadSetting` with the variable's name and the reason."""
    check_names(os.environ, NAMES)
    try:
        settings = Settings()
    except ValidationError as error:
        raise BadSetting(_reason(error, PREFIX, str.upper)) from error
    settings = _with_password(settings)
    keep_secret(*(os.environ.get(name, "") for name in SECRETS_OF_AWS))
    keep_secret(*(t.get_secret_value() for t in (settings.api_token, settings.agones_token) if t))
    keep_password_of(settings.redis_url)
    return settings


def _with_password(settings: Settings) -> Settings:
    file = settings.redis_password_file
    if file is None:
        return settings
    if "redis_url" not in settings.model_fields_set:
        raise BadSetting(
            f"AUTOPILOT_REDIS_PASSWORD_FILE={file} goes with AUTOPILOT_REDIS_URL: set both, or none"
        )
    return settings.model_copy(update={"redis_url": with_password_of(settings.redis_url, file)})


def load_hosting_settings() -> HostingSettings:
    """Settings of a container that serves one artefact; raises `BadSetting` as `load_settings`."""
    try:
        return HostingSettings()
    except ValidationError as error:
        raise BadSetting(_reason(error, "", str)) from error


def load_fleets(settings: Settings) -> Fleets:
    """Settings of every fleet: the fleet file's tables over the environment variables."""
    tables: dict[str, Any] = {"default": {}}
    if settings.fleets is not None:
        tables = _tables(settings.fleets)
    fleets = Fleets({name: _fleet(name, table) for name, table in tables.items()})
    for fleet in fleets.by_name.values():
        keep_password_of(fleet.matchmaking_url)
        keep_password_of(fleet.gs_inventory_url)
    return fleets


def _fleet(name: str, table: dict[str, Any]) -> FleetSettings:
    try:
        TypeAdapter(FleetId).validate_python(name)
    except ValidationError:
        raise BadSetting(
            f"{name!r} can't be a fleet's name: use letters, digits, - and _, at most 63"
        ) from None
    try:
        return FleetSettings(**table)
    except ValidationError as error:
        where = f"fleet {name!r}: " if table else ""
        raise BadSetting(where + _reason(error, PREFIX, str.upper)) from error
    except SettingsError as error:
        raise BadSetting(
            f'{PREFIX}SCHEDULED_FLOORS is not JSON: write [{{"cron": "0 18 * * FRI", '
            '"zone": "Europe/Berlin", "duration": "3:00:00", "servers": 50}]'
        ) from error


def _tables(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadSetting(f"AUTOPILOT_FLEETS={path}: can't read it: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
        raise BadSetting(f"AUTOPILOT_FLEETS={path} is not TOML: {error}") from error
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise BadSetting(f"AUTOPILOT_FLEETS={path}: write one table a fleet, such as [default]")
    return tables


def _reason(error: ValidationError, prefix: str, case: Any) -> str:
    first = error.errors()[0]
    name = prefix + case(str(first["loc"][0])) if first["loc"] else ""
    within = "".join(f"[{at!r}]" for at in first["loc"][1:])
    message = _WRITE_INSTEAD.get(first["type"], first["msg"].removeprefix("Value error, "))
    if name.endswith("_TOKEN"):
        return f"{name}: {message}"
    return redact(f"{name}{within}={first['input']!r}: {message}" if name else message)
