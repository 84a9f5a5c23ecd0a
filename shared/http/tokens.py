"""Bearer tokens by role: from the settings, and from mounted files that may change."""

import asyncio
import hmac
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import structlog

from shared.errors import BadSetting
from shared.redaction import keep_secret

LOOK_SECONDS = 1.0
"""How often the files are read again; they are a few lines."""
LONGEST_TOKEN = 1_024


class Role(StrEnum):
    """The role of a token; in the folder AUTOPILOT_TOKENS there is a file for each."""

    REPORT = "report"
    """Post demand, and the reviews of Agones, which report a fleet's counts."""
    READ = "read"
    """Read everything."""
    OPERATE = "operate"
    """Read everything, and change how the platform runs."""
    AGONES = "agones"
    """Post the reviews of Agones, and nothing else."""


Roles = frozenset[Role]
NOBODY: Roles = frozenset()
REPORTERS: Roles = frozenset({Role.REPORT})
READERS: Roles = frozenset({Role.READ, Role.OPERATE})
OPERATORS: Roles = frozenset({Role.OPERATE})
WEBHOOKS: Roles = frozenset({Role.REPORT, Role.AGONES})
ALL_ROLES: Roles = frozenset(Role)

_log = structlog.get_logger(__name__)


class Tokens:
    """All valid tokens with their roles; without any, access is open.

    If a file can't be read or has no token any more, its previous tokens stay valid: an error
    neither opens access nor locks everyone out. Tokens of a removed file are invalid, unless
    no file with a token would be left.
    """

    def __init__(
        self, everything: str | None = None, agones: str | None = None, folder: Path | None = None
    ) -> None:
        """`everything` is a token with all roles. Raises `BadSetting` for an unusable folder."""
        self._given = [
            (token, roles)
            for token, roles in ((everything, ALL_ROLES), (agones, frozenset({Role.AGONES})))
            if token is not None
        ]
        self._folder = folder
        self._of_files: dict[Role, tuple[str, ...]] = {}
        self._faults: set[str] = set()
        self._unknown: set[str] = set()
        if folder is not None:
            self._of_files, faults = _read(folder, {})
            if faults:
                raise BadSetting(f"AUTOPILOT_TOKENS={folder}: {faults[0]}")
            self._warn_of_unknown_files(folder)
        self._roles_of = self._put_together()

    def __bool__(self) -> bool:
        return bool(self._roles_of)

    def roles_of(self, sent: bytes) -> Roles:
        """The roles of a received token, compared in constant time with every valid one."""
        found = NOBODY
        for token, roles in self._roles_of.items():
            if hmac.compare_digest(sent, token):
                found |= roles
        return found

    def with_any(self, roles: Roles) -> tuple[str, ...]:
        """The tokens with any of these roles, those of files first."""
        return tuple(token.decode() for token, held in self._roles_of.items() if held & roles)

    def counts(self) -> dict[str, int]:
        """The number of tokens by role."""
        return {role.value: len(self.with_any(frozenset({role}))) for role in Role}

    async def renew_for_ever(self) -> None:
        """Check for changed tokens until cancelled; returns at once without a folder."""
        while self._folder is not None:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.renew)

    def renew(self) -> None:
        """Read the files again; an error is logged once."""
        if self._folder is None:
            return
        newest, faults = _read(self._folder, self._of_files)
        for fault in faults:
            if fault not in self._faults:
                _log.error(
                    "tokens_not_read",
                    reason=fault,
                    folder=str(self._folder),
                    advice="the previous tokens stay valid; fix the file",
                )
        self._faults = set(faults)
        self._warn_of_unknown_files(self._folder)
        if newest != self._of_files:
            self._of_files = newest
            self._roles_of = self._put_together()
            _log.info("tokens_read", **self.counts())

    def _put_together(self) -> Mapping[bytes, Roles]:
        of_files = [
            (token, frozenset({role}))
            for role, tokens in self._of_files.items()
            for token in tokens
        ]
        roles_of: dict[bytes, Roles] = {}
        for token, roles in (*of_files, *self._given):
            roles_of[token.encode()] = roles_of.get(token.encode(), NOBODY) | roles
        keep_secret(*(token.decode() for token in roles_of))
        return roles_of

    def _warn_of_unknown_files(self, folder: Path) -> None:
        """Warn of files that are not named after a role; Kubernetes' own begin with a dot."""
        try:
            names = {each.name for each in folder.iterdir() if not each.name.startswith(".")}
        except OSError:
            return
        unknown = names - set(Role)
        for name in sorted(unknown - self._unknown):
            _log.warning("tokens_of_no_role", file=str(folder / name), roles=[*Role])
        self._unknown = unknown


def token_fault(token: str) -> str | None:
    """Why a text is not a valid token, without showing it; None if it is."""
    if not token.strip():
        return "it is empty: write a token, or leave it out"
    if len(token) > LONGEST_TOKEN:
        return f"it has {len(token)} characters: write at most {LONGEST_TOKEN}"
    if not all("!" <= character <= "~" for character in token):
        return "it has a space, a line break or a character beyond ASCII, which no header carries"
    return None


def _read(
    folder: Path, before: dict[Role, tuple[str, ...]]
) -> tuple[dict[Role, tuple[str, ...]], list[str]]:
    """``(tokens by role, errors)``; a file with an error keeps its tokens in `before`."""
    found: dict[Role, tuple[str, ...]] = {}
    faults: list[str] = []
    for role in Role:
        try:
            found[role] = _tokens_of((folder / role).read_text("utf-8", errors="replace"))
        except FileNotFoundError:
            continue
        except OSError as error:
            faults.append(f"can't read the file {role}: {error.strerror}")
        except ValueError as fault:
            faults.append(f"the file {role}: {fault}")
        else:
            continue
        if role in before:
            found[role] = before[role]
    if not found and not faults:
        faults.append(f"there is none of the files {', '.join(Role)}: create one of them")
    return found or before, faults


def _tokens_of(text: str) -> tuple[str, ...]:
    """The tokens in a file, one per line; raises `ValueError` for an invalid one."""
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if fault := token_fault(line.strip()):
            raise ValueError(f"line {number}: {fault}")
        tokens.append(line.strip())
    if not tokens:
        raise ValueError("it has no token: write one per line, or remove the file")
    return tuple(tokens)
