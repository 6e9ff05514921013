from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cluster.errors import ConfigError, InvalidInput, NotFound, Unavailable
from cluster.ids import SystemClock
from cluster.objects import S3, Folder, opened
from memory.ingest import Order, ingest
from memory.reading import Shelf
from tests.unit.test_memory_ingest import Library


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "eu-central-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(
            Bucket="shop", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        yield client


def put(client: Any, key: str, text: str) -> None:
    client.put_object(Bucket="shop", Key=key, Body=text.encode())


def test_a_folder_lists_and_reads_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_bytes(b"12345")
    (tmp_path / ".hidden").write_bytes(b"no")
    folder = opened(str(tmp_path))
    (entry,) = folder.entries()
    assert (entry.name, entry.size, entry.etag) == ("a/b.txt", 5, "")
    assert folder.read("a/b.txt", 5) == b"12345"
    with pytest.raises(InvalidInput, match="at most 4 bytes"):
        folder.read("a/b.txt", 4)
    with pytest.raises(NotFound):
        folder.read("a/c.txt", 4)


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (tmp_path / "in").mkdir()
    with pytest.raises(InvalidInput, match="below the folder"):
        Folder(tmp_path / "in").read("../secret.txt", 10)


def test_a_prefix_lists_what_lies_below_it_alone(bucket: Any) -> None:
    for key in ("docs/a.md", "docs/more/b.md", "docs/.git/x", "docs-old/c.md", "docs/more/"):
        put(bucket, key, key)
    found = opened("s3://shop/docs/")
    entries = list(found.entries())
    assert [e.name for e in entries] == ["a.md", "more/b.md"]
    assert all(e.etag and e.size == len("docs/") + len(e.name) for e in entries)
    assert found.read("more/b.md", 100) == b"docs/more/b.md"
    assert found.place == "s3://shop/docs"
    assert [e.name for e in opened("s3://shop").entries()] == [
        "docs-old/c.md", "docs/a.md", "docs/more/b.md",
    ]  # fmt: skip


def test_a_key_is_read_as_a_single_file(bucket: Any) -> None:
    put(bucket, "docs/a.md", "text")
    one = opened("s3://shop/docs/a.md")
    (entry,) = one.entries()
    assert (entry.name, one.read("a.md", 10)) == ("a.md", b"text")


def test_errors_of_s3_are_ours(bucket: Any) -> None:
    put(bucket, "docs/a.md", "text")
    with pytest.raises(NotFound):
        list(opened("s3://shop/nothing").entries())
    with pytest.raises(NotFound):
        list(opened("s3://no-such-bucket/x").entries())
    with pytest.raises(NotFound):
        opened("s3://shop/docs").read("b.md", 10)
    with pytest.raises(InvalidInput, match="at most 3 bytes"):
        opened("s3://shop/docs").read("a.md", 3)


def test_an_address_of_another_form_is_refused() -> None:
    with pytest.raises(InvalidInput, match="s3://BUCKET/PREFIX"):
        opened("http://example.org/x")


class Refusing:
    def __init__(self, code: str) -> None:
        self._code = code

    def get_object(self, **_: str) -> None:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": self._code}}, "GetObject")


@pytest.mark.parametrize(
    ("code", "expected"), [("AccessDenied", ConfigError), ("SlowDown", Unavailable)]
)
def test_what_s3_refuses_is_told_from_what_it_can_not_do_now(
    code: str, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        S3("shop", "docs", Refusing(code)).read("a.md", 10)


async def test_a_prefix_is_ingested_and_unchanged_objects_are_not_fetched_again(
    bucket: Any,
) -> None:
    put(bucket, "docs/a.md", "# A\n\nOne.")
    put(bucket, "docs/b.txt", "Two.")
    library, order = Library(), Order(Shelf("shop", "policy"), prune=True)
    await ingest(opened("s3://shop/docs"), library, order, SystemClock())
    assert library.told == {"policy:a.md#1": "A: One.", "policy:b.txt#1": "Two."}
    bucket.delete_object(Bucket="shop", Key="docs/b.txt")

    class Counting(S3):
        fetched = 0

        def read(self, name: str, most: int) -> bytes:
            self.fetched += 1
            return super().read(name, most)

    again = Counting("shop", "docs")
    report = await ingest(again, library, order, SystemClock())
    assert (again.fetched, report.unchanged, report.removed) == (0, 1, 1)
    put(bucket, "docs/a.md", "# A\n\nThree.")
    report = await ingest(again, library, order, SystemClock())
    assert (again.fetched, report.added, report.removed) == (1, 1, 1)
    assert library.told == {"policy:a.md#1": "A: Three."}
