"""What is forgotten is gone: from every answer at once, and from the bytes on disk."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from cluster.errors import InvalidInput, NotFound
from cluster.settings import MemorySection
from memory.log import Note
from memory.records import Origin, Query
from memory.service import Memory
from tests.databases import server as server
from tests.memories import START, Desk, Shelf, said

pytestmark = pytest.mark.enable_socket
SECRET = "Wilhelmina Quarzbrunn of 17 Nettle Lane"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "data", MemorySection(), Shelf())
    yield desk
    await desk.memory.close()


def holding(folder: Path, words: str) -> list[str]:
    """The files below the folder that hold one of the words, in any case, as UTF-8 or UTF-16."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes().lower()
        for word in words.lower().split():
            if len(word) > 4 and (word.encode() in content or word.encode("utf-16-le") in content):
                found.append(f"{path.name}: {word}")
    return found


async def recalled(memory: Memory, question: str) -> list[str]:
    hits = await memory.recall(Query("shop", question, k=20, min_score=0.1))
    return sorted(hit.record.text for hit in hits)


async def test_erased_text_is_in_no_file_of_the_data_folder(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MemorySection(flush_rows=5), None)
    memory = desk.memory
    others = [said(f"an ordinary line number {n}", subject="bob") for n in range(40)]
    hers = [
        said(f"{SECRET} asked {n} times", subject="wilhelmina", meta={"about": "Quarzbrunn"})
        for n in range(20)
    ]
    await memory.remember([*others[:20], *hers, *others[20:]])
    summary = said(
        "The customer Quarzbrunn asks often", parents=(hers[0].id, others[0].id),
        origin=Origin("model", "routine"),
    )  # fmt: skip
    await memory.remember([summary])
    version = await memory.update("shop", hers[1].id, f"{SECRET} asked once", Note("ann"))
    exported = await memory.export("shop", "monthly")
    assert await recalled(memory, SECRET)
    assert holding(tmp_path, SECRET)

    receipt = await memory.forget("shop", subject="wilhelmina", by="ann", why="GDPR art. 17")

    assert set(receipt.erased) == {*(r.id for r in hers), summary.id, version.id}
    assert receipt.derived == 1
    assert receipt.exports == ("monthly.jsonl",)
    assert receipt.complete
    assert all("quarz" not in text.lower() for text in await recalled(memory, SECRET))
    assert holding(tmp_path, SECRET) == []
    assert len(Path(exported).read_text().splitlines()) == 40
    health = await memory.health("shop")
    assert (health.records, health.drift, health.orphans) == (40, 0, 0)
    await memory.close()
    assert holding(tmp_path, SECRET) == []


async def test_the_receipt_is_kept_and_names_what_is_not_covered(desk: Desk) -> None:
    line = said("my number is 4711", subject="eve")
    await desk.memory.remember([line])
    receipt = await desk.memory.forget("shop", subject="eve", by="ann", why="asked")
    (kept,) = await desk.memory.history("shop", receipt.id)
    assert json.loads(kept["why"])["erased"] == 1
    assert any("journal" in sentence for sentence in receipt.impossible)
    events = await desk.memory.history("shop", line.id)
    assert [(e["what"], e["by"], e["why"]) for e in events][-1] == ("forgotten", "ann", "asked")
    assert (await desk.memory.health("shop")).chain == "whole"


async def test_older_versions_go_with_the_one_that_is_forgotten(desk: Desk) -> None:
    first = said("i weigh seventy kilos")
    await desk.memory.remember([first])
    second = await desk.memory.update("shop", first.id, "i weigh eighty kilos", Note("ann"))
    receipt = await desk.memory.forget("shop", [second.id])
    assert set(receipt.erased) == {first.id, second.id}


async def test_what_is_derived_goes_over_any_number_of_steps(desk: Desk) -> None:
    origin = said("the origin")
    one = said("one step", parents=(origin.id,))
    two = said("two steps", parents=(one.id,))
    for record in (origin, one, two):
        await desk.memory.remember([record])
    receipt = await desk.memory.forget("shop", [origin.id])
    assert set(receipt.erased) == {origin.id, one.id, two.id}
    assert receipt.derived == 2


async def test_a_legal_hold_keeps_its_subject_until_it_is_lifted(desk: Desk) -> None:
    line = said("the disputed order", subject="mallory", expires_at=START + 10)
    await desk.memory.remember([line, said("another line", subject="bob")])
    await desk.memory.hold("shop", "mallory", "legal", "case 12")
    refused = await desk.memory.forget("shop", subject="mallory")
    assert (refused.erased, refused.held, refused.complete) == ((), (line.id,), False)
    desk.clock.time += 20
    assert await desk.memory.sweep() == 0
    assert await recalled(desk.memory, "disputed order line") == ["another line"]
    await desk.memory.release("shop", "mallory", "legal", "case closed")
    assert await desk.memory.sweep() == 1
    with pytest.raises(NotFound):
        await desk.memory.release("shop", "mallory", "legal", "again")


async def test_the_expired_is_never_returned_on_any_path(desk: Desk) -> None:
    line = said("a code that is valid for a minute", expires_at=START + 60)
    await desk.memory.remember([line])
    assert await recalled(desk.memory, "code valid minute")
    desk.clock.time = START + 60
    assert await recalled(desk.memory, "code valid minute") == []
    assert await desk.memory.listed("shop") == []
    with pytest.raises(NotFound):
        await desk.memory.get("shop", line.id)
    exported = await desk.memory.export("shop", "now")
    assert Path(exported).read_text() == ""
    past = Query("shop", "code valid minute", as_of=START + 30, min_score=0.1)
    assert await desk.memory.recall(past) == []
    assert (await desk.memory.health("shop")).expired == 1


async def test_what_expired_is_deleted_and_then_physically_gone(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MemorySection(), None)
    await desk.memory.remember([said(SECRET, expires_at=START + 60), said("stays")])
    desk.clock.time += 100
    assert await desk.memory.sweep(purge=True) == 1
    assert holding(tmp_path, SECRET) == []
    assert await desk.memory.count("shop") == 1
    await desk.memory.close()


async def test_the_sweeper_takes_out_what_expired_and_leaves_the_rest(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MemorySection(sweep_seconds=0.01), Shelf())
    short, lasting = said("short-lived", expires_at=START + 60), said("lasting")
    await desk.memory.remember([short, lasting])
    desk.clock.time += 100
    async with asyncio.timeout(10):
        while await desk.memory.count("shop") > 1:
            await asyncio.sleep(0.01)
    events = await desk.memory.history("shop", short.id)
    assert [event["what"] for event in events] == ["remembered", "expired"]
    assert [r.id for r in await desk.memory.listed("shop")] == [lasting.id]
    await desk.memory.close()


async def test_erased_text_is_in_no_file_of_postgres_but_its_write_ahead_log(
    tmp_path: Path, server: str
) -> None:
    desk = Desk(tmp_path, MemorySection(log=server), Shelf())
    hers = [said(f"{SECRET} asked {n} times", subject="wilhelmina") for n in range(200)]
    await desk.memory.remember([*hers, said("an ordinary line", subject="bob")])
    with create_engine(server, isolation_level="AUTOCOMMIT").connect() as connection:
        data = Path(connection.execute(text("SHOW data_directory")).scalar_one())
        connection.execute(text("ANALYZE"))  # the statistics sample what the rows say
        connection.execute(text("CHECKPOINT"))
    assert _beside_the_wal(data)
    receipt = await desk.memory.forget("shop", subject="wilhelmina")
    assert _beside_the_wal(data) == []
    assert any("pg_wal" in line for line in receipt.pending)
    await desk.memory.close()


def _beside_the_wal(data: Path) -> list[str]:
    return [name for part in ("base", "global") for name in holding(data / part, SECRET)]


async def test_forgetting_needs_a_subject_or_ids_but_not_both(desk: Desk) -> None:
    with pytest.raises(InvalidInput, match="either a subject or ids"):
        await desk.memory.forget("shop")
    with pytest.raises(InvalidInput, match="either a subject or ids"):
        await desk.memory.forget("shop", ["0" * 32], "eve")


async def test_what_was_forgotten_may_be_said_again(desk: Desk) -> None:
    line = said("tea, please")
    await desk.memory.remember([line])
    await desk.memory.forget("shop", [line.id])
    assert await desk.memory.remember([line]) == 1
    assert await recalled(desk.memory, "tea please") == ["tea, please"]


async def test_an_export_comes_back_as_untrusted_records(desk: Desk, tmp_path: Path) -> None:
    origin = said("the lamp is blue", trust="trusted", labels=("pii",), meta={"a": "b"})
    await desk.memory.remember([origin])
    await desk.memory.remember([said("a summary", parents=(origin.id,))])
    exported = await desk.memory.export("shop", "all")
    other = Desk(tmp_path / "other", MemorySection(), Shelf())
    report = await other.memory.import_("shop", exported, "ann")
    assert (report.added, report.problems) == (2, ())
    (back,) = [r for r in await other.memory.listed("shop") if r.id == origin.id]
    assert (back.trust, back.labels, back.meta) == ("untrusted", ("pii",), {"a": "b"})
    await other.memory.close()


async def test_an_import_reports_the_lines_it_can_not_take(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    orphan = {"content": "x", "source": "s:1", "ext": {"tenant": "shop", "parents": ["0" * 32]}}
    file.write_text(
        '{"content": "fine", "source": "note:1"}\nnot json\n[]\n{"content": "no source"}\n'
        + json.dumps(orphan) + "\n" + '{"content": "", "source": "note:2"}\n'
    )  # fmt: skip
    report = await desk.memory.import_("shop", str(file), "ann")
    assert report.added == 1
    assert len(report.problems) == 5
    with pytest.raises(NotFound):
        await desk.memory.import_("shop", str(tmp_path / "none.jsonl"), "ann")


@pytest.mark.parametrize("name", ["../x", "", "a b", "A"])
async def test_an_export_is_named_plainly(desk: Desk, name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        await desk.memory.export("shop", name)
