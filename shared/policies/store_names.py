"""Names from messages, commands, manifests and S3, which must not lead out of their folder."""

from shared.errors import PolicyCorrupt, PolicyMissing


def folder_of(fleet: str, version: str | None = None) -> str:
    """The path of a fleet or a version in a store; raises `PolicyMissing` for unsafe names."""
    named = {"fleet": fleet} if version is None else {"fleet": fleet, "version": version}
    for what, name in named.items():
        if not is_name(name):
            raise PolicyMissing(
                f"there is no policy of {what} {name!r}, which would lead to another folder: take "
                f"a {what} that `autopilot policies list` has"
            )
    return "/".join(named.values())


def inside(name: str, what: str) -> str:
    """A file's path within a folder, checked; raises `PolicyCorrupt` for one that leads outside."""
    if not all(map(is_name, name.split("/"))):
        raise PolicyCorrupt(
            f"{what} names a file outside of it, {name!r}: delete it, and find out who wrote it"
        )
    return name


def is_name(part: str) -> bool:
    """Whether this is a valid name of a file or folder on any system."""
    return (
        part not in ("", ".", "..") and part.isprintable() and "/" not in part and "\\" not in part
    )
