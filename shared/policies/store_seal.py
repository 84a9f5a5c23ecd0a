"""Sealed folders: a manifest has the digest of every file, and a signature where a key is set.

A checkpoint is a pickle, and so code: nothing in a folder is used before it is verified, and the
bytes that are used are those that were verified.
"""

import hashlib
import hmac
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from pydantic import ValidationError

from shared.errors import BadSetting, PolicyCorrupt, PolicyMissing
from shared.messages import CheckpointManifest, PolicyManifest
from shared.policies.store_folder import write_to_disk
from shared.policies.store_names import inside
from shared.redaction import keep_secret

SETTING = "AUTOPILOT_SIGNING_KEY_FILE"
CHECKPOINT_MANIFEST = "manifest.json"
"""The manifest of a checkpoint that is not part of an artefact."""
SHORTEST_KEY = 16
"""Bytes."""

Sealed = PolicyManifest | CheckpointManifest
S = TypeVar("S", PolicyManifest, CheckpointManifest)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key that the platform's manifests are signed with."""

    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, path: Path | None) -> Self | None:
        """The key in the setting's file; None without a file; raises `BadSetting`."""
        if path is None:
            return None
        try:
            secret = path.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise BadSetting(f"{SETTING}={path}: can't read it: {error.strerror}") from error
        if len(secret) < SHORTEST_KEY:
            raise BadSetting(
                f"{SETTING}={path} has {len(secret)} bytes and a key takes {SHORTEST_KEY} or more: "
                f"make one with `openssl rand -hex 32 > {path}`"
            )
        keep_secret(secret.decode(errors="replace"))
        return cls(secret)

    def signature(self, document: Mapping[str, Any]) -> str:
        """Hex HMAC-SHA256 of a manifest without its signature."""
        rest = {name: value for name, value in document.items() if name != "signature"}
        canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        return hmac.new(self.secret, canonical.encode(), hashlib.sha256).hexdigest()

    def made(self, document: Mapping[str, Any]) -> bool:
        """Whether a manifest has this key's signature."""
        signature = document.get("signature")
        # Compared as bytes: text has to be ASCII.
        given = signature.encode(errors="replace") if isinstance(signature, str) else b""
        return hmac.compare_digest(given, self.signature(document).encode())


class Files(Protocol):
    """The operations for reading files."""

    def names(self, within: str) -> list[str]: ...

    def read(self, name: str) -> bytes: ...


def content_of(manifest: Sealed) -> bytes:
    """A manifest as a file; fields that are None are left out, so that earlier releases read it."""
    return manifest.model_dump_json(indent=2, exclude_none=True).encode()


def signed(manifest: S, key: SigningKey | None) -> S:
    """The manifest with the key's signature; without one where there is no key."""
    signature = None if key is None else key.signature(json.loads(content_of(manifest)))
    return manifest.model_copy(update={"signature": signature})


def sealed(draft: S, folder: Path, mark: str, key: SigningKey | None) -> S:
    """Write a folder's manifest, the file `mark`, with the digest of every file in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    manifest = signed(draft.model_copy(update={"sha256": digests}), key)
    write_to_disk(folder / mark, content_of(manifest))
    return manifest


def opened(kind: type[S], content: bytes, where: str, key: SigningKey | None) -> S:
    """Read a manifest; raises `PolicyCorrupt` if it is invalid, or not signed with the key.

    Without a key signatures are ignored.
    """
    try:
        document = json.loads(content)
        # Not the content itself: the parsed document is what is signed, and what is used.
        manifest = kind.model_validate_json(json.dumps(document))
    except (ValueError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise PolicyCorrupt(f"{where} is not a policy manifest: {reason}") from error
    if key is None or key.made(document):
        return manifest
    if manifest.signature is None:
        raise PolicyCorrupt(
            f"{where} is not signed and {SETTING} is set: if you know where it comes from, sign it "
            "with `autopilot policies sign`"
        )
    raise PolicyCorrupt(
        f"{where} was changed after it was signed, or signed with another key than that of "
        f"{SETTING}: don't use it before you know which"
    )


def checked(manifest: Sealed, what: str, name: str, read: Callable[[], bytes]) -> bytes:
    """A file's content, verified by the digest in its manifest; raises `PolicyCorrupt`."""
    expected = manifest.sha256.get(name)
    if expected is None:
        raise PolicyCorrupt(f"{what} does not list {name} in its manifest")
    inside(name, what)
    try:
        content = read()
    except OSError as error:
        raise PolicyCorrupt(f"{what}: can't read {name}: {error}") from error
    if not hmac.compare_digest(hashlib.sha256(content).hexdigest().encode(), expected.encode()):
        raise PolicyCorrupt(f"{what}: {name} does not match its sha256; publish it again")
    return content


@contextmanager
def checked_copy(
    files: Files, folder: str, manifest: Sealed, mark: str, what: str, part: str = ""
) -> Iterator[Path]:
    """A verified private copy of a sealed folder, or of a part of it, for the block.

    Raises `PolicyCorrupt` where a file differs, is missing, is a link, or is not listed in the
    manifest.
    """
    start = f"{part}/" if part else ""
    listed = [name for name in manifest.sha256 if name.startswith(start)]
    there = [f"{start}{name}" for name in files.names("/".join(filter(None, (folder, part))))]
    for name in there:
        if name != mark and name not in manifest.sha256:
            raise PolicyCorrupt(
                f"{what} does not list {name!r} in its manifest: delete that file, and find out "
                "who wrote it"
            )
    with tempfile.TemporaryDirectory(prefix="autopilot-") as copy:
        for name in listed:
            at = "/".join(filter(None, (folder, name)))
            content = checked(manifest, what, name, partial(files.read, at))
            path = Path(copy, name.removeprefix(start))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(copy)


@contextmanager
def open_checkpoint(files: Files, folder: str, key: SigningKey | None) -> Iterator[Path]:
    """`checked_copy` of a checkpoint that has a manifest of its own.

    Raises `PolicyMissing` without one, or `PolicyCorrupt`.
    """
    where = "/".join(filter(None, (f"{files}", folder)))
    try:
        content = files.read("/".join(filter(None, (folder, CHECKPOINT_MANIFEST))))
    except FileNotFoundError:
        raise PolicyMissing(
            f"{where} has no {CHECKPOINT_MANIFEST} to check it by: the release before wrote it, or "
            "somebody else"
        ) from None
    manifest = opened(CheckpointManifest, content, f"{where}/{CHECKPOINT_MANIFEST}", key)
    with checked_copy(files, folder, manifest, CHECKPOINT_MANIFEST, where) as copy:
        yield copy
