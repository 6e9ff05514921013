"""Where files lie: a folder of this machine, or a prefix of an S3 bucket through boto3.

Covered is what ingestion needs: listing and reading. Nothing here writes.
"""

import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from cluster.errors import ConfigError, InvalidInput, NotFound, Unavailable

_SCHEME: Final = "s3"
_TIMEOUT_S: Final = 30.0  # to connect, and between two parts of an answer
_ATTEMPTS: Final = 4
_REFUSED: Final = frozenset(
    {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its path below the place it is listed from (parts divided by "/"), its size in
    bytes, and when it was last written, seconds since the Unix epoch. etag changes when the content
    does; it is empty where only reading can tell."""

    name: str
    size: int
    modified: float
    etag: str = ""


class Objects(Protocol):
    """Files below one place. All calls block; Unavailable when the place does not answer."""

    place: str
    """What names the place, the same for the same files: an absolute path or an S3 address."""

    def entries(self) -> Iterator[Entry]:
        """Every file, in order of its name; hidden files and folders (".name") are left out.
        Raises NotFound when the place does not exist."""

    def read(self, name: str, most: int) -> bytes:
        """The file's bytes. Raises NotFound when it is gone, InvalidInput when it has more than
        `most` bytes or can't be opened."""


def opened(place: str) -> Objects:
    """The files at `s3://BUCKET/PREFIX`, below a folder, or a single file.

    Raises InvalidInput for an address of another form, ConfigError when boto3 is not installed.
    """
    if "://" not in place:
        return Folder(Path(place))
    parts = urlsplit(place)
    if parts.scheme != _SCHEME or not parts.netloc:
        raise InvalidInput("path", place, "a folder, a file or s3://BUCKET/PREFIX")
    return S3(parts.netloc, parts.path.lstrip("/"))


class Folder:
    """A folder's files, those of its folders included; a path to a file is that file alone.

    Links that lead out of the folder are left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = str(path.resolve())

    def entries(self) -> Iterator[Entry]:
        if not self._path.exists():
            raise NotFound("file or folder", str(self._path))
        root = Path(self.place)
        files = [root] if root.is_file() else sorted(root.rglob("*"))
        for file in files:
            name = file.relative_to(root) if file != root else Path(self._path.name)
            hidden = file != root and any(part.startswith(".") for part in name.parts)
            if not hidden and (entry := _entry(file, root, name.as_posix())):
                yield entry

    def read(self, name: str, most: int) -> bytes:
        root = Path(self.place)
        file = root if root.is_file() else root / name
        if not file.resolve().is_relative_to(root):
            raise InvalidInput("file", name, "a name below the folder")
        try:
            with file.open("rb") as opened_file:
                content = opened_file.read(most + 1)
        except FileNotFoundError:
            raise NotFound("file", name) from None
        except OSError as error:
            raise InvalidInput("file", name, f"a readable file ({error.strerror})") from error
        return _bounded(content, name, most)


def _entry(file: Path, root: Path, name: str) -> Entry | None:
    """None for what is no file, is gone, or is a link out of the folder."""
    try:
        about = file.stat()
        inside = file.resolve().is_relative_to(root)
    except OSError:
        return None
    if not inside or not stat.S_ISREG(about.st_mode):
        return None
    return Entry(name, about.st_size, about.st_mtime)


def _bounded(content: bytes, name: str, most: int) -> bytes:
    if len(content) > most:
        raise InvalidInput("file", f"{name} (over {most} bytes)", f"at most {most} bytes")
    return content


class S3:
    """The objects of a bucket whose keys start with a prefix, as a folder's files.

    A prefix ends at a "/" unless it is a whole key: `docs` never means `docs-old/`. Credentials,
    region and endpoint come from where boto3 looks for them (AWS_ENDPOINT_URL_S3 for other stores).
    `client` replaces boto3's own.
    """

    def __init__(self, bucket: str, prefix: str, client: Any = None) -> None:
        self._bucket = bucket
        self._prefix = prefix.rstrip("/")
        self.place = f"{_SCHEME}://{bucket}/{self._prefix}".rstrip("/")
        self._client = client if client is not None else _client()
        self._is_key = False  # whether the prefix is itself an object; the listing tells

    def entries(self) -> Iterator[Entry]:
        found = False
        for page in self._pages():
            for about in page.get("Contents", ()):
                found = True
                name = self._name(about["Key"])
                if name and not any(part.startswith(".") for part in name.split("/")):
                    when = about["LastModified"].timestamp()
                    yield Entry(name, about["Size"], when, about["ETag"].strip('"'))
        if not found:
            raise NotFound("S3 prefix", self.place)

    def _pages(self) -> Iterator[Any]:
        with _our_errors(self.place):
            pages = self._client.get_paginator("list_objects_v2")
            yield from pages.paginate(Bucket=self._bucket, Prefix=self._prefix)

    def _name(self, key: str) -> str:
        """The key as a path below the prefix; empty for a folder's own mark and for a neighbour
        whose name only starts the same."""
        if key == self._prefix:
            self._is_key = True
            return key.rpartition("/")[2]
        start = f"{self._prefix}/" if self._prefix else ""
        return key.removeprefix(start) if key.startswith(start) and not key.endswith("/") else ""

    def _key(self, name: str) -> str:
        if self._is_key and name == self._prefix.rpartition("/")[2]:
            return self._prefix
        return f"{self._prefix}/{name}" if self._prefix else name

    def read(self, name: str, most: int) -> bytes:
        with _our_errors(f"{self.place}/{name}"):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
            with closing(answer["Body"]) as body:
                return _bounded(body.read(most + 1), name, most)


def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigError("path", f"{_SCHEME}://...", "boto3: install mainspring[s3]") from None
    limits = Config(
        connect_timeout=_TIMEOUT_S,
        read_timeout=_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    )
    with _our_errors("S3"):
        return boto3.client("s3", config=limits)


@contextmanager
def _our_errors(place: str) -> Iterator[None]:
    """botocore's errors as ours."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        NoRegionError,
    )

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in {"NoSuchKey", "NoSuchBucket", "404"}:
            raise NotFound("S3 object", place) from error
        if code in _REFUSED:
            raise ConfigError(
                "S3 credentials", code, f"credentials that may read {place}"
            ) from error
        raise Unavailable(place, str(error)) from error
    except (NoCredentialsError, NoRegionError) as error:
        raise ConfigError("S3", str(error), "what boto3 needs to reach the bucket") from error
    except BotoCoreError as error:
        raise Unavailable(place, str(error)) from error
