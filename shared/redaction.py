"""Redaction of secrets, the last processing step of every line in a log or a terminal."""

import re
import traceback
from collections.abc import Mapping
from json import dumps
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
SHORTEST_PLAIN_SECRET = 8
"""Characters. A shorter secret is hidden only as a whole word."""
SHORTEST_PART = 3
"""Least characters of a part of a password that is hidden as well."""

_PARAMETER = r"[\w.-]*(?:token|key|passw|secret|signature|credential)[\w.-]*"
_PATTERNS = (
    # Up to the last @: an unescaped password may have one, and slashes.
    (re.compile(r"(?<=://)[^\s]*@"), f"{HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)(?!<)[^\s'\"<>\\]+"), rf"\1\2{HIDDEN}"),
    (re.compile(rf"(?i)([?&;]{_PARAMETER}=)[^\s'\"&;#<>\\]+"), rf"\1{HIDDEN}"),
)


class _Known:
    """The secrets of this process, in all encodings."""

    forms: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None


def keep_secret(*secrets: str) -> None:
    """Hide these texts from now on, plain and as encoded in JSON, Python and URLs."""
    forms = _Known.forms.union(*(_forms(secret) for secret in secrets if secret))
    if forms != _Known.forms:
        # The longest first, since a secret may begin with another.
        longest_first = sorted(forms, key=len, reverse=True)
        _Known.forms, _Known.pattern = forms, re.compile("|".join(map(_alone, longest_first)))


def keep_password_of(url: str) -> None:
    """Hide the password of a URL, if it has one, and parts that an error may quote alone."""
    userinfo, at, _ = url.partition("://")[2].rpartition("@")
    password = userinfo.partition(":")[2] if ":" in userinfo else userinfo
    if at:
        parts = (part for part in re.split(r"[/?#@:\[\]]", password) if len(part) >= SHORTEST_PART)
        keep_secret(password, unquote(password), *parts)


def redact(text: str) -> str:
    """The text without secrets: known ones, passwords in URLs, credentials, secret parameters."""
    if _Known.pattern is not None:
        text = _Known.pattern.sub(HIDDEN, text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redacted(value: Any) -> Any:
    """A field of a log event without secrets; values that JSON lacks become text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(each) for each in value]
    return redact(repr(value))


def traceback_of(error: BaseException, trace: TracebackType | None) -> str:
    """A traceback without secrets and without local variables."""
    return redact("".join(traceback.format_exception(type(error), error, trace)))


def _forms(secret: str) -> set[str]:
    return {
        secret,
        dumps(secret)[1:-1],
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        quote(secret),
        quote(secret, safe=""),
    }


def _alone(secret: str) -> str:
    literal = re.escape(secret)
    return literal if len(secret) >= SHORTEST_PLAIN_SECRET else rf"(?<!\w){literal}(?!\w)"
