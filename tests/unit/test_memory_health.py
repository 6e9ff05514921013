"""How a memory is measured: frozen probes, what must be 0, metrics."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.errors import Conflict, InvalidInput
from cluster.settings import MemorySection
from memory.embed import Vectors
from memory.measuring import Answer, compared, judged, wilson
from memory.probes import Probe, ProbeSet, made_from
from memory.records import Query, Record
from memory.scope import Filter
from tests.memories import START, Desk, Shelf, said

pytestmark = pytest.mark.enable_socket


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path, MemorySection(), Shelf())
    yield desk
    await desk.memory.close()


def notes(count: int, tenant: str = "shop") -> list[Record]:
    return [
        Record(tenant, "note", f"note:{n}", f"lamp number {n} has shade{n} and cord{n} in red", 0.0)
        for n in range(count)
    ]


def samples(text: bytes) -> dict[tuple[str, str], float]:
    return {
        (s.name.removeprefix("mainspring_memory_"), ",".join(s.labels.values())): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }


def test_probes_are_the_same_for_the_same_records_and_ask_for_those_that_say_the_same() -> None:
    records = [*notes(30), replace(notes(1)[0], source="note:twin")]
    probes = made_from(records, 100)
    assert probes == made_from(records[::-1], 100)
    wanted = [p for p in probes if p.wanted]
    assert len(wanted) == 30
    assert sorted(len(p.wanted) for p in wanted)[-2:] == [1, 2]
    assert len([p for p in probes if not p.wanted]) == 20
    told_of = made_from([*records, replace(records[0], text="why sourdough bread rises")], 100)
    assert "why does sourdough rise without yeast" not in [p.question for p in told_of]


async def test_a_frozen_set_is_measured_and_its_figures_are_kept_with_the_release(
    desk: Desk,
) -> None:
    await desk.memory.remember(notes(40))
    frozen = await desk.memory.freeze("shop", count=25)
    assert (frozen.count, frozen.erased, frozen.origin) == (45, 0, "own records")
    found = await desk.memory.measure("shop")
    assert (found.probes, found.serving.questions, found.serving.strays) == (frozen.hash, 25, 20)
    assert found.serving.hit_rate >= 0.9
    assert found.serving.stray_empty_rate == 1.0
    health = await desk.memory.health("shop")
    assert health.measured["hit_rate"] == found.serving.hit_rate
    assert health.measured["release"]
    await desk.again()
    assert (await desk.memory.measure("shop")).probes == frozen.hash
    told = samples(await desk.memory.metrics())
    assert told["hit_rate", f"{health.space},shop"] == found.serving.hit_rate


async def test_a_probe_goes_with_the_record_that_it_was_made_from(desk: Desk) -> None:
    await desk.memory.remember(notes(20))
    frozen = await desk.memory.freeze("shop")
    (gone,) = [p for p in frozen.probes if "note:7" in str(p) or p.wanted == (notes(20)[7].id,)]
    await desk.memory.forget("shop", [notes(20)[7].id])
    left = desk.log.probes.frozen("shop")
    assert left is not None
    assert (left.hash, left.erased, gone in left.probes) == (frozen.hash, 1, False)
    for path in desk.folder.rglob("*"):
        if path.is_file():
            assert gone.question.encode() not in path.read_bytes()
    assert (await desk.memory.measure("shop")).erased == 1


async def test_probes_come_from_a_file_by_ids_or_by_sources(desk: Desk, tmp_path: Path) -> None:
    records = notes(5)
    await desk.memory.remember(records)
    file = tmp_path / "probes.jsonl"
    rows = [
        {"question": "shade3 cord3", "sources": ["note:3"]},
        {"question": "shade4 cord4", "wanted": [records[4].id]},
        {"question": "something else entirely"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    frozen = await desk.memory.freeze("shop", str(file))
    assert (frozen.count, frozen.origin) == (3, "probes.jsonl")
    found = await desk.memory.measure("shop")
    assert (found.serving.hit_rate, found.serving.strays) == (1.0, 1)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"question": ""}',
        '{"question": "x", "sources": ["nothing"]}',
        '{"question": "x", "wanted": ["0000"]}',
        '{"question": "x", "wanted": "id"}',
        '{"question": "x", "answer": "y"}',
        "",
    ],
)
async def test_what_is_no_probe_is_refused_and_the_old_set_stays(
    desk: Desk, tmp_path: Path, line: str
) -> None:
    await desk.memory.remember(notes(5))
    frozen = await desk.memory.freeze("shop")
    file = tmp_path / "probes.jsonl"
    file.write_text(line)
    with pytest.raises(InvalidInput):
        await desk.memory.freeze("shop", str(file))
    assert desk.log.probes.frozen("shop") is not None
    assert (await desk.memory.measure("shop")).probes == frozen.hash


async def test_an_empty_memory_has_nothing_to_measure(desk: Desk) -> None:
    with pytest.raises(InvalidInput, match="three words"):
        await desk.memory.measure("shop")
    await desk.memory.remember(notes(3))
    with pytest.raises(Conflict, match="prepare one"):
        await desk.memory.measure("shop", both=True)


def answers(*ids: str) -> list[Answer]:
    return [Answer((id,) if id else (), (), 1.0) for id in ids]


def test_figures_count_hits_empty_answers_and_strays_apart() -> None:
    wanted: tuple[tuple[str, ...], ...] = (("a",), ("b",), ("c", "d"), ())
    probes = [Probe(f"question {ids}", ids) for ids in wanted]
    figures = judged("s", probes, answers("a", "", "c", ""), k=5)
    assert (figures.questions, figures.strays) == (3, 1)
    assert figures.hit_rate == pytest.approx(2 / 3, abs=1e-3)
    assert figures.recall == pytest.approx((1 + 0 + 0.5) / 3, abs=1e-3)
    assert (figures.precision, figures.stray_empty_rate) == (1.0, 1.0)
    assert figures.empty_rate == pytest.approx(1 / 3, abs=1e-3)
    assert figures.hit_low < figures.hit_rate < figures.hit_high
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("better", "worse"), [(50, False), (0, True), (25, False)])
def test_a_space_is_worse_only_beyond_doubt(better: int, worse: bool) -> None:
    probes = tuple(Probe(f"q{n}", (f"r{n}",)) for n in range(50))
    frozen = ProbeSet("h", "o", 0.0, 50, probes)
    first = answers(*(f"r{n}" if n < 25 else "" for n in range(50)))
    other = answers(*(f"r{n}" if n < better else "" for n in range(50)))
    found = compared(frozen, ["a", "b"], [first, other])
    assert found.worse is worse
    assert found.low <= found.difference <= found.high


@pytest.mark.parametrize("what", ["tenant", "expired"])
async def test_what_must_not_go_out_is_held_back_and_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whatever the filter would let in: the last door looks at the record itself."""
    record = said("the safe opens with 4711", expires_at=START + 10)
    await desk.memory.remember([record])
    monkeypatch.setattr(Filter, "admits", lambda self, record: True)
    monkeypatch.setattr("memory.recall._wanted", lambda found, query: True)
    if what == "expired":
        desk.clock.time += 20
    else:
        monkeypatch.setattr(desk.log, "get", lambda tenant, ids: {record.id: record})
    tenant = "other" if what == "tenant" else "shop"
    assert await desk.memory.recall(Query(tenant, "the safe opens with 4711")) == []
    health = await desk.memory.health("shop")
    assert (getattr(health, f"leaked_{what}"), health.good) == (1, False)
    assert samples(await desk.memory.metrics())["leaks_total", what] == 1


async def test_metrics_say_how_memory_stands(desk: Desk) -> None:
    fresh = samples(await desk.memory.metrics())
    assert fresh["leaks_total", "tenant"] == fresh["leaks_total", "expired"] == 0
    assert fresh["records", "session"] == fresh["recall_seconds_count", "empty"] == 0
    await desk.memory.remember(
        [*notes(3), said("one more"), said("gone soon", expires_at=START + 1)]
    )
    assert await desk.memory.recall(Query("shop", "lamp number 1"))
    assert not await desk.memory.recall(Query("shop", "zzz"))
    desk.clock.time += 60
    desk.clock.passed += 1.5
    await desk.memory.sweep()
    await desk.memory.forget("shop", [notes(1)[0].id])
    told = samples(await desk.memory.metrics())
    assert (told["records", "long_term"], told["records", "session"]) == (2, 1)
    assert (told["recall_seconds_count", "found"], told["recall_seconds_count", "empty"]) == (1, 1)
    assert told["remembered_records_total", ""] == 5
    assert told["erased_records_total", "forgotten"] == told["erased_records_total", "expired"] == 1
    assert told["newest_record_age_seconds", ""] == 60
    assert told["unflushed_rows", ""] == 0
    assert (await desk.memory.health("shop")).empty_rate == 0.5


async def test_the_condition_of_every_tenants_memory_is_a_metric(desk: Desk) -> None:
    twice = [said("twice the same words"), said("Twice  the same words", session="s2")]
    await desk.memory.remember(
        [*notes(2), *twice, said("hm"), said("quite another", tenant="other")]
    )
    await desk.memory.look_over()
    told = samples(await desk.memory.metrics())
    counted = {what: told["condition_records", f"shop,{what}"] for what in ("junk", "duplicates")}
    assert counted == {"junk": 1, "duplicates": 1}
    assert told["condition_records", "shop,stale"] == 2
    assert told["condition_records", "other,orphans"] == 0
    assert told["condition_records", "other,drift"] == 0


async def test_long_work_says_how_far_it_is_while_it_runs(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.md").write_text(f"# Text {number}\n\nIt says something.\n")
    embedding, calls, go_on = desk.words.embed, 0, asyncio.Event()

    async def slow(texts: Sequence[str]) -> Vectors:
        nonlocal calls
        calls += 1
        if calls > 1:
            await go_on.wait()
        return await embedding(texts)

    desk.words.embed = slow  # type: ignore[method-assign]
    work = asyncio.create_task(desk.memory.ingest("shop", str(folder), "policy"))
    async with asyncio.timeout(10):
        while (told := await desk.memory.progress()) != {f"ingest {folder}": (1, 3)}:
            assert told in ({}, {f"ingest {folder}": (0, 3)})
            await asyncio.sleep(0.01)
    go_on.set()
    assert (await work).added == 3
    assert await desk.memory.progress() == {}


async def test_rows_that_wait_are_told_with_their_age(desk: Desk) -> None:
    await desk.memory.remember(notes(3))
    desk.clock.passed += 1.5
    told = samples(await desk.memory.metrics())
    assert (told["unflushed_rows", ""], told["flush_lag_seconds", ""]) == (3, 1.5)
    health = await desk.memory.health("shop")
    assert (health.waiting, health.lag_s, health.newest_s) == (3, 1.5, 0.0)
