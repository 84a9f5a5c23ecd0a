"""Names out of a message, a command, a manifest or S3: none leads out of its folder."""

from shared.errors import PolicyCorrupt, PolicyMissing


def folder_of(fleet: str, version: str | None = None) -> str:
    """A fleet's folder in a store, or a version's; raises `PolicyMissing` for names of none."""
    named = {"fleet": fleet} if version is None else {"fleet": fleet, "version": version}
    for what, name in named.items():
        if not is_name(name):
            raise PolicyMissing(
                f"there is no policy of {what} {name!r}, which would lead to another folder: take "
                f"a {what} that `autopilot policies list` has"
            )
    return "/".join(named.values())


def inside(name: str, what: str) -> str:
    """A file's path within a folder; raises `PolicyCorrupt` for one that `what` has no right to."""
    if not all(map(is_name, name.split("/"))):
        raise PolicyCorrupt(
            f"{what} names a file outside of it, {name!r}: delete it, and find out who wrote it"
        )
    return name


def is_name(part: str) -> bool:
    """Whether a file or folder can have this name, whatever the system."""
    return (
        part not in ("", ".", "..") and part.isprintable() and "/" not in part and "\\" not in part
    )
