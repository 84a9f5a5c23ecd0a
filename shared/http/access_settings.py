"""The settings of access to the services: tokens and host names."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from shared.http.hosts import host_fault
from shared.http.tokens import token_fault


def _a_token(token: SecretStr) -> SecretStr:
    if fault := token_fault(token.get_secret_value()):
        raise ValueError(fault)
    return token


def _a_folder(path: object) -> object:
    if path == "":
        raise ValueError("it is empty: name a folder, or leave it out")
    return path


def _host_names(names: object) -> object:
    if not isinstance(names, str):
        return names
    split = tuple(name.strip().lower() for name in names.split(",") if name.strip())
    for fault in filter(None, map(host_fault, split)):
        raise ValueError(fault)
    return split


Token = Annotated[SecretStr, AfterValidator(_a_token)]


class AccessSettings(BaseSettings):
    """With any token set, everything except health requires one: see shared/http/access.py."""

    api_token: Token | None = None
    """Has every role."""
    tokens: Annotated[Path | None, BeforeValidator(_a_folder)] = None
    """A folder with the files `report`, `read`, `operate` and `agones`, one token per line; read
    again when they change."""
    agones_token: Token | None = None
    """The password in the URL of the Agones webhook; valid for nothing else."""
    open_access: bool = False
    """Listen beyond this machine without a token."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_host_names)] = ()
    """Host names to accept in addition to the default ones: see shared/http/hosts.py."""
