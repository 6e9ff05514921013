"""The objects of an S3 bucket as files, through boto3: multipart, retries and checksums are its."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, Any, Final

from cluster.errors import ConfigError, Conflict, NotFound, Unavailable
from cluster.objects import CHUNK, SCHEME, Entry, bounded, hashed

_TIMEOUT_S: Final = 30.0  # to connect, and between two parts of an answer
_ATTEMPTS: Final = 4
_CHECKSUM: Final = "SHA256"
_REFUSED: Final = frozenset(
    {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
)


class S3:
    """The objects of a bucket whose keys start with a prefix, as a folder's files.

    A prefix ends at a "/" unless it is a whole key: `docs` never means `docs-old/`. Credentials,
    region and endpoint come from where boto3 looks for them (AWS_ENDPOINT_URL_S3 for other stores).
    `client` replaces boto3's own.
    """

    def __init__(self, bucket: str, prefix: str, client: Any = None) -> None:
        self._bucket = bucket
        self._prefix = prefix.rstrip("/")
        self.place = f"{SCHEME}://{bucket}/{self._prefix}".rstrip("/")
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
                return bounded(body.read(most + 1), name, most)

    def chunks(self, name: str) -> Iterator[bytes]:
        done, size, tag, cut = 0, 0, "", 0
        while True:
            answer = self._from(name, done, tag)
            size, tag = size or answer["ContentLength"], answer["ETag"]
            before = done
            try:
                with _our_errors(f"{self.place}/{name}"), closing(answer["Body"]) as body:
                    for chunk in body.iter_chunks(CHUNK):
                        done += len(chunk)
                        yield chunk
                return
            except Unavailable:  # the connection was cut: on from there, while that gets on
                cut = 1 if done > before else cut + 1
                if done >= size or cut >= _ATTEMPTS:
                    raise

    def _from(self, name: str, start: int, tag: str) -> Any:
        """The object's answer from byte `start` on; Unavailable once its content is another one
        than `tag` says."""
        where = {"Bucket": self._bucket, "Key": self._key(name)}
        given = {"Range": f"bytes={start}-", "IfMatch": tag} if start else {}
        try:
            with _our_errors(f"{self.place}/{name}"):
                return self._client.get_object(**where, **given)
        except Conflict:
            raise Unavailable(f"{self.place}/{name}", "it was changed while it was read") from None

    def write(self, name: str, content: IO[bytes], *, new: bool = False) -> str:
        digest = hashed(content)
        where = {"Bucket": self._bucket, "Key": self._key(name)}
        with _our_errors(f"{self.place}/{name}"):
            if new:
                # Only a whole object can be written on a condition: at most 5 GB.
                self._client.put_object(
                    **where, Body=content, ChecksumAlgorithm=_CHECKSUM, IfNoneMatch="*"
                )
            else:
                # In parts, several at once, each with its checksum and repeated by itself.
                given = {"ChecksumAlgorithm": _CHECKSUM}
                self._client.upload_fileobj(content, **where, ExtraArgs=given)
        return digest

    def delete(self, name: str) -> None:
        with _our_errors(f"{self.place}/{name}"):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))


def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigError("path", f"{SCHEME}://...", "boto3: install mainspring[s3]") from None
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
        if code in {"PreconditionFailed", "412"}:
            raise Conflict(f"S3 object {place}", "there is one of this name") from None
        if code in {"NoSuchKey", "NoSuchBucket", "404"}:
            raise NotFound("S3 object", place) from error
        if code in _REFUSED:
            raise ConfigError(
                "S3 credentials", code, f"credentials that may use {place}"
            ) from error
        raise Unavailable(place, str(error)) from error
    except (NoCredentialsError, NoRegionError) as error:
        raise ConfigError("S3", str(error), "what boto3 needs to reach the bucket") from error
    except BotoCoreError as error:
        raise Unavailable(place, str(error)) from error
