"""The address of Redis with its password, from `autopilot up` or from a password file."""

import os
import re
import secrets
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from shared.errors import BadSetting

URL_FILE = Path(".autopilot/redis.url")
"""Address of the Redis that `autopilot up` embeds in this folder, used without another setting."""
OWNER_ONLY = 0o600

_WRITTEN = re.compile(r"redis://:[\w-]+@[\w.-]+:\d{1,5}/0", re.ASCII)


def kept_url() -> str | None:
    """The address in `URL_FILE`, None without the file; raises `BadSetting` for any other text.

    The file's permissions are restricted to its owner first.
    """
    try:
        if URL_FILE.stat().st_mode & ~OWNER_ONLY & 0o777:
            URL_FILE.chmod(OWNER_ONLY)
        url = URL_FILE.read_text("ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadSetting(
            f"{URL_FILE}: can't read it, or keep it from others: {error.strerror}: run this as the "
            "user who ran `autopilot up`, or set AUTOPILOT_REDIS_URL"
        ) from error
    if not _WRITTEN.fullmatch(url):
        raise BadSetting(
            f"{URL_FILE} is not as `autopilot up` writes it: remove the file and start `autopilot "
            "up` again, or set AUTOPILOT_REDIS_URL"
        )
    return url


def keep_url(host: str, port: int) -> str:
    """Write this host and port to `URL_FILE`. Returns the address.

    A new file gets a random password, which is kept as long as the file exists.
    """
    kept = kept_url()
    password = secrets.token_urlsafe(32) if kept is None else urlsplit(kept).password
    url = f"redis://:{password}@{host}:{port}/0"
    if url != kept:
        URL_FILE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(URL_FILE, f"{url}\n")
    return url


def with_password_of(url: str, file: Path) -> str:
    """The address with the password in a file; raises `BadSetting` for an unusable one."""
    setting = f"AUTOPILOT_REDIS_PASSWORD_FILE={file}"
    try:
        address = urlsplit(url)
        given = address.password is not None or "password" in parse_qs(address.query)
    except ValueError:
        raise BadSetting("AUTOPILOT_REDIS_URL is no address: write redis://HOST:PORT/0") from None
    if given:
        raise BadSetting(f"{setting}: AUTOPILOT_REDIS_URL has a password too: remove one of them")
    try:
        password = file.read_text().rstrip("\r\n")
    except OSError as error:
        raise BadSetting(f"{setting}: can't read it: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadSetting(f"{setting}: it is not text: write the password as UTF-8") from None
    if not password or "\n" in password:
        found = "more than one line" if password else "no password"
        raise BadSetting(f"{setting}: it has {found}: write the password, and nothing else")
    user, _, place = address.netloc.rpartition("@")
    return urlunsplit(address._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))


def write_private(path: Path, text: str, mode: int = OWNER_ONLY) -> None:
    """Write a file atomically; its permissions are never wider than `mode`."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    partial.replace(path)
