"""Files of a policy store in S3. Imported only where it is used: boto3 takes 20 MB.

A folder of objects is complete once its `mark` exists, which is uploaded last and deleted first.
An object is replaced only if it is the one that was read before (`If-Match`), so that concurrent
writers do not undo each other's change.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
from botocore.exceptions import ConnectionError as NoConnectionError

from shared.errors import BadSetting, StoreAway
from shared.settings import aws_endpoint, aws_region

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEME = "s3://"
CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
ATTEMPTS = 3
CHANGES_AT_ONCE = 20
"""Attempts at a change while other writers change the same file."""
DELETED_PER_CALL = 1_000
"""S3's limit."""

_GONE = frozenset({"NoSuchKey", "404"})
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_REFUSED = frozenset({301, 400, 401, 403, 404})

_log = structlog.get_logger(__name__)


class S3Files:
    """Files under one prefix; raises `StoreAway` when S3 is unavailable or refuses."""

    def __init__(self, client: "S3Client", bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    @classmethod
    def connect(cls, location: str) -> "S3Files":
        """Files at `s3://bucket/prefix`, configured by AWS's standard variables.

        Raises `BadSetting` for permanent errors: no region, no credentials, no such bucket, access
        denied. If S3 is only unavailable, the first use raises.
        """
        setting = f"AUTOPILOT_POLICY_STORE={location}"
        bucket, _, prefix = location.removeprefix(SCHEME).partition("/")
        if not bucket:
            raise BadSetting(f"{setting} names no bucket: write s3://bucket/prefix")
        region = aws_region("s3")
        if region is None:
            raise BadSetting(f"{setting} needs a region: set AWS_REGION")
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            # Bucket names in the host name work with AWS's own hosts only.
            s3={"addressing_style": "path" if aws_endpoint("s3") else "auto"},
        )
        try:
            client = boto3.client("s3", region_name=region, config=config)
            folder = f"{prefix.strip('/')}/".lstrip("/")
            client.list_objects_v2(Bucket=bucket, Prefix=folder, MaxKeys=1)
        except ClientError as error:
            if error.response["ResponseMetadata"].get("HTTPStatusCode") in _REFUSED:
                raise BadSetting(f"{setting}: {_advice(error)}") from error
            _log.warning("policy_store_is_away", reason=_line(error))
        except NoCredentialsError as error:
            raise BadSetting(
                f"{setting}: there are no AWS credentials: give the service a role, or set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except (NoConnectionError, HTTPClientError) as error:
            _log.warning("policy_store_is_away", reason=_line(error))
        except (BotoCoreError, ValueError) as error:
            raise BadSetting(
                f"{setting}: {_line(error)}; check it and the AWS_... variables"
            ) from error
        return cls(client, bucket, folder)

    def __str__(self) -> str:
        return f"{SCHEME}{self._bucket}/{self._prefix}".rstrip("/")

    def folders(self) -> list[str]:
        """Names of the folders at the top."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
        )
        with self._s3_errors():
            found = [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ())]
        return sorted(name[len(self._prefix) : -1] for name in found)

    def complete(self, within: str, mark: str) -> list[str]:
        """Names of the folders in the folder `within` that hold the file `mark`, in order."""
        return sorted(
            parts[0]
            for name in self.names(within)
            if len(parts := name.split("/")) == 2 and parts[1] == mark
        )

    def read(self, name: str) -> bytes:
        """A file's content; raises `FileNotFoundError`."""
        return self._read(name)[0]

    def names(self, within: str) -> list[str]:
        """Relative paths of all files in a folder and below."""
        prefix = f"{self._prefix}{within}/"
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        with self._s3_errors():
            return [
                each["Key"][len(prefix) :] for page in pages for each in page.get("Contents", ())
            ]

    def change(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a file by `change` of its content (None without one); retried on a conflict."""
        for _ in range(CHANGES_AT_ONCE):
            before: bytes | None
            try:
                before, tag = self._read(name)
                only: dict[str, Any] = {"IfMatch": tag}
            except FileNotFoundError:
                before, only = None, {"IfNoneMatch": "*"}
            try:
                self._put(name, change(before), only)
            except FileExistsError:
                continue
            return
        raise StoreAway(f"{name} in {self} keeps being changed by others: try again")

    @contextmanager
    def drafting(self, name: str) -> Iterator[Path]:  # noqa: ARG002 - it has its name when it is up
        """A local folder to write in; removed with the block."""
        with tempfile.TemporaryDirectory(prefix="autopilot-") as folder:
            yield Path(folder)

    def add(self, draft: Path, name: str, mark: str) -> None:
        """Upload a drafted folder as `name`; raises `FileExistsError` if that exists."""
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        names = [path.relative_to(draft).as_posix() for path in files]
        for path, file in zip(files, names, strict=True):
            if file != mark:
                self._put_new(f"{name}/{file}", path.read_bytes())
        # After a long interruption the files may have been swept.
        if {*self.names(name), mark} != set(names):
            raise FileNotFoundError(f"{name} in {self} was swept while it was uploaded")
        self._put_new(f"{name}/{mark}", (draft / mark).read_bytes())

    def remove(self, name: str, mark: str) -> None:
        """Delete a folder; for readers it vanishes atomically."""
        self._delete([f"{name}/{mark}"])
        self._delete([f"{name}/{file}" for file in self.names(name)])

    def sweep(self, within: str, mark: str) -> None:
        """Remove what killed writers left in a folder; only while no other process writes there."""
        whole = set(self.complete(within, mark))
        self._delete(
            [
                f"{within}/{name}"
                for name in self.names(within)
                if "/" in name and not name.startswith(".") and name.split("/")[0] not in whole
            ]
        )

    def _read(self, name: str) -> tuple[bytes, str]:
        with self._s3_errors():
            response = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            return response["Body"].read(), response["ETag"]

    def _put_new(self, name: str, content: bytes) -> None:
        try:
            self._put(name, content, {"IfNoneMatch": "*"})
        except FileExistsError:
            # A call whose response was lost is retried, and then finds its own file.
            if self.read(name) != content:
                raise

    def _put(self, name: str, content: bytes, only: dict[str, Any]) -> None:
        with self._s3_errors():
            self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + name, Body=content, **only
            )

    def _delete(self, names: list[str]) -> None:
        for first in range(0, len(names), DELETED_PER_CALL):
            part = names[first : first + DELETED_PER_CALL]
            with self._s3_errors():
                response = self._client.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": self._prefix + name} for name in part]},
                )
            if refused := response.get("Errors"):
                raise StoreAway(f"{self} does not delete: S3 says {refused[0].get('Code')}")

    @contextmanager
    def _s3_errors(self) -> Iterator[None]:
        """Raise S3's errors as `StoreAway`, `FileNotFoundError` or `FileExistsError`."""
        try:
            yield
        except ClientError as error:
            code = error.response["Error"].get("Code", "")
            if code in _GONE:
                raise FileNotFoundError(f"there is no such file in {self}") from error
            if code in _TAKEN:
                raise FileExistsError(f"it exists in {self}") from error
            raise StoreAway(f"{self}: {_advice(error)}") from error
        except BotoCoreError as error:
            raise StoreAway(f"{self} does not answer: {_line(error)}") from error


def _advice(error: ClientError) -> str:
    code = error.response["Error"].get("Code", "")
    said = f"S3 says {code}, {_line(error)}"
    if code == "NoSuchBucket":
        return "there is no such bucket: make it, or correct its name"
    if error.response["ResponseMetadata"].get("HTTPStatusCode") in (401, 403):
        return f"access is denied: check the credentials and deploy/aws's policies ({said})"
    return said


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
