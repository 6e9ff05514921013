import hashlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cluster.errors import ConfigError, Conflict, InvalidInput, NotFound, Unavailable
from cluster.ids import SystemClock
from cluster.objects import Folder, Objects, opened
from cluster.s3 import S3
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


class Cutting:
    """An S3 whose connections are cut: each answer of `cuts` after so many parts of it."""

    def __init__(self, client: Any, cuts: list[int]) -> None:
        self._client, self._cuts = client, cuts
        self.asked: list[str] = []

    def get_object(self, **given: str) -> Any:
        self.asked.append(given.get("Range", ""))
        answer = self._client.get_object(**given)
        if self._cuts:
            answer["Body"] = _Cut(answer["Body"], self._cuts.pop(0))
        return answer


class _Cut:
    def __init__(self, body: Any, parts: int) -> None:
        self._body, self._parts = body, parts
        self.close = body.close

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        from botocore.exceptions import ResponseStreamingError

        for _ in range(self._parts):
            yield self._body.read(size)
        raise ResponseStreamingError(error="cut")


def test_a_stream_whose_connection_is_cut_goes_on_where_it_was(bucket: Any) -> None:
    content = bytes(range(256)) * 16_384  # four parts
    bucket.put_object(Bucket="shop", Key="big", Body=content)
    cutting = Cutting(bucket, [0, 2, 1])
    assert b"".join(S3("shop", "", cutting).chunks("big")) == content
    assert cutting.asked == ["", "", f"bytes={2 << 20}-", f"bytes={3 << 20}-"]
    with pytest.raises(Unavailable, match="cut"):
        list(S3("shop", "", Cutting(bucket, [0] * 9)).chunks("big"))


def test_a_stream_is_not_made_of_two_contents(bucket: Any) -> None:
    bucket.put_object(Bucket="shop", Key="big", Body=b"a" * (2 << 20))
    chunks = S3("shop", "", Cutting(bucket, [1])).chunks("big")
    assert next(chunks) == b"a" * (1 << 20)
    bucket.put_object(Bucket="shop", Key="big", Body=b"b" * (2 << 20))
    with pytest.raises(Unavailable, match="changed while it was read"):
        next(chunks)


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


@pytest.fixture(params=["folder", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return opened(str(tmp_path / "objects"))
    request.getfixturevalue("bucket")
    return opened("s3://shop/objects")


def test_what_is_written_is_listed_and_read_back(store: Objects) -> None:
    large = bytes(range(256)) * 40_000  # more than a part of a multipart upload, and than a chunk
    digest = store.write("a/large.bin", BytesIO(large))
    assert digest == hashlib.sha256(large).hexdigest()
    assert b"".join(store.chunks("a/large.bin")) == large
    assert [(e.name, e.size) for e in store.entries()] == [("a/large.bin", len(large))]


def test_a_file_is_replaced_unless_it_has_to_be_new(store: Objects) -> None:
    store.write("a.txt", BytesIO(b"first"), new=True)
    with pytest.raises(Conflict, match=r"a\.txt"):
        store.write("a.txt", BytesIO(b"second"), new=True)
    assert store.read("a.txt", 10) == b"first"
    store.write("a.txt", BytesIO(b"second"))
    assert store.read("a.txt", 10) == b"second"


def test_a_deleted_file_is_gone_and_may_be_deleted_again(store: Objects) -> None:
    store.write("a.txt", BytesIO(b"first"))
    store.delete("a.txt")
    store.delete("a.txt")
    with pytest.raises(NotFound):
        next(store.chunks("a.txt"))


class Breaking(BytesIO):
    """Can't be read to its end."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 0:
            raise OSError(5, "Input/output error")
        return super().read(4)


def test_a_broken_write_leaves_what_was_there(tmp_path: Path, monkeypatch: Any) -> None:
    folder = opened(str(tmp_path))
    folder.write("a.txt", BytesIO(b"first"))
    monkeypatch.setattr("cluster.objects.hashed", lambda _: "")
    with pytest.raises(Unavailable, match="Input/output error"):
        folder.write("a.txt", Breaking(b"second, longer"))
    assert folder.read("a.txt", 10) == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="below the folder"):
        opened(str(tmp_path / "in")).write("../a.txt", BytesIO(b"out"))
    assert not (tmp_path / "a.txt").exists()


def test_writing_to_a_bucket_that_is_not_there_says_so(bucket: Any) -> None:
    with pytest.raises(NotFound, match="S3 object"):
        opened("s3://nobodys/objects").write("a.txt", BytesIO(b"x"))
