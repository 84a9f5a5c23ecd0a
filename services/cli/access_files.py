"""Writes the passwords and tokens of docker-compose.yml's containers, on separate volumes.

| file | holds | who reads it |
|---|---|---|
| ``.autopilot/redis.url`` | the address of Redis, with its password | our services |
| ``.autopilot/redis.password`` | the password alone | Redis itself |
| ``/var/lib/autopilot/scraping/token`` | a token with the role read | Prometheus |

``python -m services.cli.access_files`` runs to completion before every other container starts. The
password is made once; the token is written every time.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from shared.entry import run_service
from shared.errors import BadSetting
from shared.redis_address import URL_FILE, keep_url, write_private
from shared.settings import Fleets, Settings

REDIS_HOST, REDIS_PORT = "redis", 6379
PASSWORD_FILE = URL_FILE.with_name("redis.password")
SCRAPE_TOKEN_FILE = Path("/var/lib/autopilot/scraping/token")
FOR_THE_GROUP = 0o640
"""Redis and Prometheus run as other users, in our group."""
NO_TOKEN = "none-is-wanted"  # noqa: S105
"""Prometheus always sends a token, also where none is required."""


def main(_: Settings, __: Fleets) -> None:
    write_access_files(SCRAPE_TOKEN_FILE, os.environ)


def write_access_files(scrape_token_file: Path, environment: Mapping[str, str]) -> None:
    """Write all three files; raises `BadSetting` if that fails."""
    token = scrape_token(environment)
    try:
        password = urlsplit(keep_url(REDIS_HOST, REDIS_PORT)).password or ""
        write_private(PASSWORD_FILE, password, FOR_THE_GROUP)
        write_private(scrape_token_file, token, FOR_THE_GROUP)
    except OSError as error:
        raise BadSetting(f"{error.filename}: can't write it: {error.strerror}") from error


def scrape_token(environment: Mapping[str, str]) -> str:
    """The first `read` token of the folder AUTOPILOT_TOKENS, else AUTOPILOT_API_TOKEN."""
    folder = environment.get("AUTOPILOT_TOKENS")
    lines: list[str] = []
    if folder:
        file = Path(folder) / "read"
        try:
            lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            raise BadSetting(f"AUTOPILOT_TOKENS: can't read {file}: {error}") from error
    tokens = [line for line in lines if line and not line.startswith("#")]
    return next(iter(tokens), environment.get("AUTOPILOT_API_TOKEN") or NO_TOKEN)


if __name__ == "__main__":
    run_service("access", main)
