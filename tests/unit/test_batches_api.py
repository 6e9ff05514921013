"""`/v1/files` and `/v1/batches` as the official client uses them, before made up engines."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, BatchesSection, GatewaySection
from serve.books import Books
from serve.bulk.archive import Archive
from serve.bulk.door import Door, Prompts
from serve.bulk.pacing import NOBODY
from serve.bulk.runner import Runner
from serve.directory import Online
from serve.routes.batches import archive_routes
from tests.bulk import jsonl, request
from tests.gateways import Stack, serving

pytestmark = pytest.mark.enable_socket
KEY = "the stack's own"
SECTION = BatchesSection(max_file_bytes=100_000)


@dataclass
class Served:
    client: openai.AsyncOpenAI
    stack: Stack
    books: Books

    async def upload(self, rows: list[Any]) -> str:
        given = ("in.jsonl", jsonl(rows))
        return (await self.client.files.create(file=given, purpose="batch")).id

    async def ended(self, id: str) -> Any:
        async with asyncio.timeout(20):
            while True:
                found = await self.client.batches.retrieve(id)
                if found.status in {"completed", "failed", "expired", "cancelled"}:
                    return found
                await asyncio.sleep(0.05)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    books = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    routes = partial(archive_routes, SECTION, tmp_path)
    async with serving(
        GatewaySection(), room=64, books=books, own_key=KEY, extra_routes=[routes]
    ) as s:
        archive = Archive(SECTION, tmp_path, SystemClock())
        door = Door(s.url, KEY, 10.0, 16)
        runner = Runner(
            archive.batches, archive.files, Prompts(door), _nobody, SystemClock(),
            {"model": ("auto", "big", "small")}, 16, 0.5, 3600.0,
        )  # fmt: skip
        working = asyncio.ensure_future(runner.run())
        async with openai.AsyncOpenAI(
            base_url=f"{s.url}/v1", api_key="none", max_retries=0
        ) as client:
            yield Served(client, s, books)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await runner.stop()
        await door.close()
        archive.close()
        await books.close()


async def _nobody() -> Online:
    return NOBODY


async def test_the_official_client_runs_a_batch_to_its_end(served: Served) -> None:
    asked = [request(f"r{i}", model="small") for i in range(20)]
    file = await served.upload(asked)
    made = await served.client.batches.create(
        input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h",
        metadata={"why": "test"},
    )  # fmt: skip
    assert made.status == "validating"
    done = await served.ended(made.id)
    counts = done.request_counts
    assert (done.status, counts.total, counts.completed, counts.failed) == ("completed", 20, 20, 0)
    assert done.metadata == {"why": "test"}
    text = await served.client.files.content(done.output_file_id)
    rows = [json.loads(line) for line in text.text.splitlines()]
    assert [row["custom_id"] for row in rows] == [f"r{i}" for i in range(20)]
    body = rows[0]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "I am small"


async def test_a_batch_is_in_the_ledger_of_who_asked_for_it(served: Served) -> None:
    file = await served.upload([request(f"r{i}", model="small") for i in range(3)])
    made = await served.client.batches.create(
        input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
    )
    await served.ended(made.id)
    async with asyncio.timeout(5):
        while not (sums := served.books.ledger.sums(("key", "run", "workflow"))):
            await asyncio.sleep(0.05)
    (found,) = sums
    assert found.requests == 3
    assert found.group == {"key": "development", "run": made.id, "workflow": "batch"}


async def test_files_are_listed_read_and_deleted(served: Served) -> None:
    first = await served.upload([request("a")])
    second = await served.upload([request("b")])
    page = await served.client.files.list(limit=1)
    assert [f.id for f in page.data] == [second]
    assert [f.id async for f in served.client.files.list(limit=1)] == [second, first]
    content = await served.client.files.content(first)
    assert content.content == jsonl([request("a")])
    assert (await served.client.files.delete(first)).deleted
    with pytest.raises(openai.NotFoundError):
        await served.client.files.retrieve(first)
    with pytest.raises(openai.NotFoundError):
        await served.client.files.content(first)


async def test_a_finished_batch_has_nothing_to_cancel(served: Served) -> None:
    file = await served.upload([request("a", model="small")])
    made = await served.client.batches.create(
        input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
    )
    await served.ended(made.id)
    with pytest.raises(openai.ConflictError, match="nothing to cancel"):
        await served.client.batches.cancel(made.id)
    assert [b.id async for b in served.client.batches.list()] == [made.id]


@pytest.mark.parametrize(
    ("file", "purpose", "message"),
    [
        (b"", "batch", "not empty"),
        (b"x" * 100_001, "batch", "at most 100000 bytes"),
        (b"x", "fine-tune", "one of"),
    ],
)
async def test_a_wrong_upload_is_refused(
    served: Served, file: bytes, purpose: Any, message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        await served.client.files.create(file=("in.jsonl", file), purpose=purpose)
    assert [f.id async for f in served.client.files.list()] == []


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("input_file_id", "file-none", openai.NotFoundError),
        ("endpoint", "/v1/images", openai.BadRequestError),
        ("completion_window", "99d", openai.BadRequestError),
        ("completion_window", "soon", openai.BadRequestError),
        ("metadata", {str(i): "x" for i in range(17)}, openai.BadRequestError),
    ],
)
async def test_a_wrong_batch_is_refused_by_its_field(
    served: Served, field: str, value: Any, error: type[Exception]
) -> None:
    file = await served.upload([request("a")])
    asked = {
        "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        field: value,
    }  # fmt: skip
    with pytest.raises(error):
        await served.client.batches.create(**asked)
    assert [b.id async for b in served.client.batches.list()] == []


async def test_another_tenants_files_and_batches_are_not_there(served: Served) -> None:
    file = await served.upload([request("a")])
    headers = {"authorization": f"Bearer {KEY}", "x-mainspring-tenant": "other"}
    for path in (f"/v1/files/{file}", f"/v1/files/{file}/content"):
        async with served.stack.client.get(served.stack.url + path, headers=headers) as response:
            assert response.status == 404
    asked = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "1h"}
    url = f"{served.stack.url}/v1/batches"
    async with served.stack.client.post(url, json=asked, headers=headers) as response:
        assert response.status == 404
