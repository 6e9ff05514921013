"""Batches whose lines are about memory: a real memory, and the batches' own worker, without Ray."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.errors import Unavailable
from cluster.ids import SystemClock
from cluster.settings import BatchesSection, load
from memory.records import Query, Record
from serve.batch_cli import archive
from serve.bulk import remembering
from serve.bulk.archive import Archive
from serve.bulk.asking import Worker
from serve.bulk.kinds import INGESTION, SPACE
from serve.bulk.pacing import NOBODY
from serve.bulk.remembering import Ingestion, Reembedding
from serve.bulk.runner import Runner
from serve.bulk.table import Batch
from serve.bulk.workers import Workers
from serve.cli import app
from serve.directory import Online
from tests.embedding_server import EmbeddingServer
from tests.memories import Desk, Shelf
from tests.unit.test_memory_api import DeskOffice
from tests.unit.test_memory_spaces import settings_for

pytestmark = pytest.mark.enable_socket
TENANT = "default"


class Away(DeskOffice):
    """A memory that is away at first."""

    away = 1

    async def ask(self, method: str, *args: Any, timeout_s: float = 15.0) -> Any:
        if self.away:
            self.away -= 1
            raise Unavailable("memory", "it restarts")
        return await super().ask(method, *args, timeout_s=timeout_s)


class Shop:
    def __init__(self, folder: Path, server: EmbeddingServer) -> None:
        self.desk = Desk(folder, settings_for(server), Shelf())
        self.server = server
        office = Away(self.desk)
        self.archive = Archive(BatchesSection(), folder)
        workers: dict[str, Worker] = {
            INGESTION: Ingestion(office),
            SPACE: Reembedding(office, hold_s=0.2),
        }
        self.runner = Runner(
            self.archive.batches, self.archive.files, Workers(workers), _nobody, SystemClock(), {},
            16, 0.5, 3600.0,
        )  # fmt: skip
        self._working = asyncio.ensure_future(self.runner.run())

    async def ask(self, *words: str) -> str:
        """The id of the batch that the command makes."""
        done = await asyncio.to_thread(CliRunner().invoke, app, ["memory", *words])
        assert done.exit_code == 0, done.output + repr(done.exception)
        return done.output.split()[-1]

    async def until(self, id: str, *statuses: str, right: int = 0) -> Batch:
        async with asyncio.timeout(20):
            while True:
                found = self.archive.batches.batch(TENANT, id)
                if found.status in statuses and found.right_lines >= right:
                    return found
                await asyncio.sleep(0.05)

    async def found(self, text: str) -> list[str]:
        hits = await self.desk.memory.recall(Query(TENANT, text))
        return [hit.record.text for hit in hits]

    async def stop(self) -> None:
        self._working.cancel()
        await asyncio.gather(self._working, return_exceptions=True)
        await self.runner.stop()
        await self.desk.memory.close()
        self.archive.close()


async def _nobody() -> Online:
    return NOBODY


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("serve.bulk.asking.FIRST_PAUSE_S", 0.01)
    (tmp_path / "data").mkdir()
    server = EmbeddingServer()
    await server.start()
    made = Shop(tmp_path / "data", server)
    yield made
    await made.stop()
    await server.stop()


async def test_a_folder_is_read_in_a_line_a_file(shop: Shop, tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "a").mkdir(parents=True)
    (files / "b").mkdir()
    (files / "a/readme.md").write_text("# Lamps\n\nThe blue lamp is mended on Fridays.\n")
    (files / "b/readme.md").write_text("# Vases\n\nThe green vase is sold out.\n")
    (files / "photo.png").write_bytes(b"no text")
    (files / "broken.pdf").write_bytes(b"%PDF-1.4 no")
    id = await shop.ask("ingest", str(files), "--batch")
    done = await shop.until(id, "completed")
    assert (done.kind, done.lines, done.right_lines, done.wrong_lines) == ("ingestion", 3, 2, 1)
    assert any("mended on Fridays" in text for text in await shop.found("blue lamp mended"))
    assert any("sold out" in text for text in await shop.found("green vase sold"))
    again = await shop.until(await shop.ask("ingest", str(files), "--batch"), "completed")
    texts = b"".join(shop.archive.files.chunks(TENANT, again.output_file)).decode()
    assert texts.count('"unchanged": 1') == 2
    wrong = b"".join(shop.archive.files.chunks(TENANT, done.error_file)).decode()
    assert "broken.pdf" in wrong and "not_read" in wrong
    listed = await asyncio.to_thread(CliRunner().invoke, app, ["batch", "list"])
    assert "ingestion" in listed.output


async def test_records_get_vectors_by_another_embedder_a_share_a_line(shop: Shop) -> None:
    await _filled(shop)
    done = await shop.until(await shop.ask("space", "prepare", "wide", "--batch"), "completed")
    assert (done.kind, done.model, done.right_lines) == ("re-embedding", "wide", 100)
    other = next(s for s in await shop.desk.memory.spaces() if s.state == "shadow")
    assert (other.embedder, other.complete) == ("wide", True)


async def test_a_cancelled_re_embedding_takes_its_space_away(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembering, "SHARES", 4)
    await _filled(shop)
    shop.server.held = "lamp"
    id = await shop.ask("space", "prepare", "wide", "--batch")
    async with asyncio.timeout(20):
        while len(await shop.desk.memory.spaces()) < 2:
            await asyncio.sleep(0.05)
    with archive(load()) as kept:
        kept.cancel(TENANT, id)
    shop.server.held = ""
    done = await shop.until(id, "cancelled")
    assert done.right_lines < done.lines
    assert [s.state for s in await shop.desk.memory.spaces()] == ["serving"]


async def test_an_embedder_that_there_is_not_fails_every_line_by_its_name(shop: Shop) -> None:
    done = await shop.until(await shop.ask("space", "prepare", "nobody", "--batch"), "completed")
    assert done.wrong_lines == 100
    assert b"nobody" in b"".join(shop.archive.files.chunks(TENANT, done.error_file))


async def _filled(shop: Shop, count: int = 60) -> None:
    records = [Record(TENANT, "note", f"n:{n}", f"lamp number {n}", 0.0) for n in range(count)]
    await shop.desk.memory.remember(records)
