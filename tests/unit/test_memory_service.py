import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from threading import Event, Semaphore

import numpy as np
import pytest

from cluster.errors import Conflict, InvalidInput, NotFound, Overloaded, Unavailable
from cluster.settings import MemorySection
from memory import service
from memory.embed import DIMENSION, Vectors
from memory.log import Note
from memory.records import Origin, Query, Record
from memory.scope import Filter
from memory.store import Keywords, Match, Row
from tests.memories import START, Desk, Shelf, said


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path, MemorySection(flush_rows=100, flush_seconds=600), Shelf())
    yield desk
    await desk.memory.close()


def shelf_of(desk: Desk) -> Shelf:
    assert isinstance(desk.shelf, Shelf)
    return desk.shelf


def ticket(text: str, tenant: str = "shop", source: str = "ticket:1") -> Record:
    return Record(tenant, "ticket", source, text, 0.0)


async def texts(desk: Desk, question: str, tenant: str = "shop", **scope: object) -> list[str]:
    query = Query(tenant, question, k=20, min_score=0.1, **scope)  # type: ignore[arg-type]
    return sorted(hit.record.text for hit in await desk.memory.recall(query))


async def test_what_is_remembered_is_recalled_at_once(desk: Desk) -> None:
    assert await desk.memory.remember([ticket("my lamp arrived broken")]) == 1
    (hit,) = await desk.memory.recall(Query("shop", "lamp arrived broken"))
    assert hit.record.source == "ticket:1"
    assert hit.record.recorded_at == START
    assert not shelf_of(desk).rows()


async def test_remembering_again_changes_nothing_and_embeds_nothing(desk: Desk) -> None:
    twice = [ticket("a lamp"), ticket("a lamp"), ticket("a vase")]
    assert await desk.memory.remember(twice) == 2
    assert await desk.memory.remember(twice) == 0
    assert sorted(desk.words.embedded) == ["a lamp", "a vase"]
    assert await desk.memory.count("shop") == 2


async def test_no_tenant_sees_another_ones_records(desk: Desk) -> None:
    ours = ticket("our secret lamp")
    await desk.memory.remember([ours, ticket("their lamp", tenant="other")])
    assert await texts(desk, "secret lamp", tenant="other") == ["their lamp"]
    with pytest.raises(NotFound):
        await desk.memory.get("other", ours.id)
    assert (await desk.memory.forget("other", [ours.id])).erased == ()
    assert await desk.memory.count("shop") == 1


async def test_each_asked_kind_is_searched_for_itself(desk: Desk) -> None:
    many = [ticket(f"where is my lamp number {n} please", source=f"ticket:{n}") for n in range(200)]
    policy = Record("shop", "policy", "policy:a.md#1", "a lamp travels three days", 0.0)
    await desk.memory.remember([*many, policy])
    query = Query("shop", "where is my lamp", k=4, kinds=("policy", "ticket"), min_score=0.1)
    kinds = [hit.record.kind for hit in await desk.memory.recall(query)]
    assert sorted(set(kinds)) == ["policy", "ticket"]


class Slow(Shelf):
    """Both of its searches, once `held`, answer what they found only when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.asked, self.go = False, Semaphore(0), Event()

    def _answer(self, found: list[Match]) -> list[Match]:
        if self.held:
            self.asked.release()
            assert self.go.wait(10)
        return found

    def nearest(self, vector: Vectors, scope: Filter, limit: int) -> list[Match]:
        return self._answer(super().nearest(vector, scope, limit))

    def matching(self, keywords: Keywords, scope: Filter, limit: int) -> list[Match]:
        return self._answer(super().matching(keywords, scope, limit))


async def test_what_is_put_again_during_a_question_is_not_missed_by_it(tmp_path: Path) -> None:
    slow = Slow()
    desk = Desk(tmp_path, MemorySection(flush_rows=100, flush_seconds=600), slow)
    first, second = (Record("shop", "note", f"note:a.md#{n}", t, 0.0) for n, t in (
        (1, "the lamp is blue"), (2, "the vase is red"),
    ))  # fmt: skip
    await desk.memory.remember([first])
    await desk.memory._spaces.settle()
    slow.held = True
    asking = asyncio.create_task(texts(desk, "the lamp is blue"))
    for _ in range(2):
        await asyncio.to_thread(slow.asked.acquire)
    await desk.memory.remember([second])  # a neighbour, whose words change the first one's row
    slow.go.set()
    assert await asking == ["the lamp is blue"]
    await desk.memory.close()


async def test_rows_move_to_the_index_by_number(desk: Desk) -> None:
    await desk.memory.remember([ticket(f"lamp {n}", source=f"ticket:{n}") for n in range(99)])
    assert shelf_of(desk).flushes == []
    await desk.memory.remember([ticket("the hundredth")])
    async with asyncio.timeout(10):
        while shelf_of(desk).flushes != [100]:
            await asyncio.sleep(0.005)


async def test_rows_that_stay_few_move_by_time(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MemorySection(flush_rows=100, flush_seconds=0.01), Shelf())
    await desk.memory.remember([ticket("one")])
    async with asyncio.timeout(10):
        while not shelf_of(desk).flushes:
            await asyncio.sleep(0.005)
            desk.clock.passed += 0.01
    assert shelf_of(desk).flushes == [1]
    assert await texts(desk, "one") == ["one"]
    await desk.memory.close()


async def test_many_records_are_embedded_in_short_calls(desk: Desk) -> None:
    await desk.memory.remember([ticket(f"lamp {n}") for n in range(2_500)])
    assert await desk.memory.count("shop") == 2_500
    assert desk.words.largest <= 32


async def test_a_vector_without_direction_is_refused_and_nothing_is_kept(desk: Desk) -> None:
    async def zeros(texts: Sequence[str]) -> Vectors:
        return np.zeros((len(texts), DIMENSION), np.float32)

    desk.words.embed = zeros  # type: ignore[method-assign]
    with pytest.raises(InvalidInput, match="zero vector"):
        await desk.memory.remember([ticket("one")])
    assert await desk.memory.count("shop") == 0


async def test_what_is_not_a_record_is_refused_by_its_place(desk: Desk) -> None:
    with pytest.raises(InvalidInput) as caught:
        await desk.memory.remember([ticket("fine"), "a text"])  # type: ignore[list-item]
    assert caught.value.field == "records[1]"
    assert await desk.memory.count("shop") == 0


async def test_a_document_read_again_loses_its_old_passages(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    file = folder / "returns.md"
    file.write_text("# Returns\n\nThirty days.\n\n## Cost\n\nReturns are free.\n")
    first = await desk.memory.ingest("shop", str(folder), "policy")
    assert (first.added, first.known, first.removed) == (2, 0, 0)
    file.write_text("# Returns\n\nThirty days.\n\n## Cost\n\nReturns cost 5 EUR.\n")
    second = await desk.memory.ingest("shop", str(folder), "policy")
    assert (second.added, second.known, second.removed) == (1, 1, 1)
    assert (await desk.memory.ingest("shop", str(folder), "policy")).unchanged == 1
    kept = await desk.memory.listed("shop")
    assert {r.text for r in kept} == {
        "Returns: Thirty days.",
        "Returns - Cost: Returns cost 5 EUR.",
    }
    assert {r.trust for r in kept} == {"tenant"}
    file.write_text("")
    assert (await desk.memory.ingest("shop", str(folder), "policy")).removed == 2


async def test_what_was_acknowledged_survives_an_index_that_lost_it(desk: Desk) -> None:
    await desk.memory.remember([ticket("a blue lamp")])
    desk.shelf = Shelf()
    await desk.again()
    assert await texts(desk, "blue lamp") == ["a blue lamp"]


async def test_what_the_index_has_too_much_is_taken_out_at_the_start(desk: Desk) -> None:
    await desk.memory.remember([ticket("a blue lamp")])
    await desk.memory.close()
    vector = np.ones(DIMENSION, np.float32)
    shelf_of(desk).upsert([Row(ticket("a ghost of a lamp"), vector)])
    memory = await desk.again()
    assert await memory.start() == 1
    assert await texts(desk, "ghost of a lamp") == ["a blue lamp"]
    await memory.close()
    assert len(shelf_of(desk)) == 1


async def test_rebuilding_makes_the_index_anew_and_tells_how_far_it_is(desk: Desk) -> None:
    await desk.memory.remember([ticket(f"lamp {n}") for n in range(1_200)])
    told: list[tuple[int, int]] = []
    assert await desk.memory.rebuild(lambda done, total: told.append((done, total))) == 1_200
    assert told == [(500, 1_200), (1_000, 1_200), (1_200, 1_200)]
    assert shelf_of(desk).drops == 1
    assert len(shelf_of(desk)) == 1_200
    assert (await desk.memory.health("shop")).drift == 0


async def test_the_index_may_fail_for_a_while_and_nothing_is_lost(desk: Desk) -> None:
    def down(rows: Sequence[Row]) -> None:
        raise Unavailable("memory store", "no disk")

    working = shelf_of(desk).upsert
    shelf_of(desk).upsert = down  # type: ignore[method-assign]
    await desk.memory.remember([ticket(f"lamp {n}") for n in range(150)])
    assert await texts(desk, "lamp 7")
    async with asyncio.timeout(10):
        while not (await desk.memory.health("shop")).trouble:
            await asyncio.sleep(0.005)
    shelf_of(desk).upsert = working  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        while (await desk.memory.health("shop")).waiting:
            await asyncio.sleep(0.02)
    assert len(shelf_of(desk)) == 150


async def test_writers_are_refused_when_the_index_stays_behind(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(rows: Sequence[Row]) -> None:
        raise Unavailable("memory store", "no disk")

    monkeypatch.setattr("memory.feed._ROOM_TIMEOUT_S", 0.05)
    monkeypatch.setattr(shelf_of(desk), "upsert", down)
    await desk.memory.remember([ticket(f"lamp {n}") for n in range(1_500)])
    with pytest.raises(Overloaded, match="rows wait"):
        await desk.memory.remember([ticket("one more")])
    monkeypatch.undo()


async def test_writers_that_wait_share_a_transaction(desk: Desk) -> None:
    await desk.memory.start()
    sizes: list[int] = []
    kept = desk.log.add
    desk.log.add = lambda batches: sizes.append(len(batches)) or kept(batches)  # type: ignore[method-assign, func-returns-value]
    await asyncio.gather(
        *(desk.memory.remember([ticket(f"lamp {n}", source=f"ticket:{n}")]) for n in range(50))
    )
    assert await desk.memory.count("shop") == 50
    assert len(sizes) < 50


async def test_a_second_opener_is_told_who_has_it(desk: Desk) -> None:
    import os

    with pytest.raises(Conflict, match=f"process {os.getpid()} has it open"):
        Desk(desk.folder, desk.section, Shelf())


async def test_a_new_version_hides_the_old_one_but_not_from_the_past(desk: Desk) -> None:
    await desk.memory.remember([ticket("the lamp costs ten euros")])
    (old,) = await desk.memory.listed("shop")
    desk.clock.time += 100
    new = await desk.memory.update("shop", old.id, "the lamp costs twelve euros", Note("ann"))
    assert new.parents == (old.id,)
    assert await texts(desk, "lamp costs euros") == ["the lamp costs twelve euros"]
    past = await texts(desk, "lamp costs euros", as_of=START + 50)
    assert past == ["the lamp costs ten euros"]
    assert (await desk.memory.get("shop", old.id)).superseded_at == START + 100
    with pytest.raises(Conflict, match="newer version"):
        await desk.memory.update("shop", old.id, "the lamp is free", Note("eve"))


async def test_long_term_is_entered_by_a_promotion_that_is_recorded(desk: Desk) -> None:
    line = said("i live in vienna", origin=Origin("user"), expires_at=START + 60)
    await desk.memory.remember([line])
    assert await texts(desk, "live in vienna", session="another") == []
    promoted = await desk.memory.promote("shop", line.id, "ann", "she said so")
    assert (promoted.tier, promoted.expires_at) == ("long_term", None)
    desk.clock.time += 100
    assert await texts(desk, "live in vienna", session="another") == ["i live in vienna"]
    history = await desk.memory.history("shop", line.id)
    assert [(e["what"], e["by"], e["why"]) for e in history] == [
        ("remembered", "", ""),
        ("promoted", "ann", "she said so"),
    ]
    await desk.again()
    assert await texts(desk, "live in vienna", session="another") == ["i live in vienna"]


@pytest.mark.parametrize("kind", ["user", "model", "tool", "run"])
async def test_what_somebody_said_starts_in_a_session(desk: Desk, kind: str) -> None:
    direct = Record("shop", "note", "note:1", "tea", 0.0, origin=Origin(kind))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="promotion"):
        await desk.memory.remember([direct])
    assert await desk.memory.remember([direct], Note("ann", "the operator says so")) == 1


async def test_untrusted_text_becomes_a_preference_by_a_person_only(desk: Desk) -> None:
    rule = Record(
        "shop", "preference", "chat:s1", "always refund", 0.0, tier="session", session="s1"
    )
    await desk.memory.remember([rule])
    with pytest.raises(Conflict, match="by a person"):
        await desk.memory.promote("shop", rule.id, "planner", "seems useful")
    await desk.memory.promote("shop", rule.id, "ann", "our policy", person=True)


async def test_a_derived_record_is_trusted_as_its_least_trusted_parent(desk: Desk) -> None:
    one = said("ticket says refund twice", trust="untrusted", labels=("pii",))
    two = said("policy says once", trust="trusted", labels=("legal",))
    await desk.memory.remember([one, two])
    summary = said(
        "refund once", trust="trusted", parents=(one.id, two.id), origin=Origin("model", "m")
    )
    await desk.memory.remember([summary])
    kept = await desk.memory.get("shop", summary.id)
    assert (kept.trust, kept.labels) == ("untrusted", ("legal", "pii"))


async def test_a_parent_must_be_the_tenants_own(desk: Desk) -> None:
    theirs = said("a secret", tenant="other")
    await desk.memory.remember([theirs])
    with pytest.raises(InvalidInput, match="ids of records that the tenant has"):
        await desk.memory.remember([said("derived", parents=(theirs.id,))])
    assert await desk.memory.count("shop") == 0


async def test_what_a_session_was_just_told_is_not_stored_again(desk: Desk) -> None:
    await desk.memory.remember([ticket("Lamps travel three days")])
    assert await texts(desk, "lamps travel days", session="s1")
    assert await desk.memory.remember([said("lamps  travel three days")]) == 0
    assert await desk.memory.remember([said("lamps  travel three days", session="s2")]) == 1


async def test_closing_moves_what_waits_first(desk: Desk) -> None:
    await desk.memory.remember([ticket("one")])
    await desk.memory.close()
    assert shelf_of(desk).flushes == [1]
    await desk.memory.close()


@pytest.mark.parametrize(("uri", "warned"), [("memory.db", True), ("http://milvus:19530", False)])
async def test_a_start_says_when_an_index_outgrows_milvus_lite(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    warned: bool,
) -> None:
    monkeypatch.setattr(service, "LARGE", 1)
    desk = Desk(tmp_path, MemorySection(uri=uri), Shelf())
    await desk.memory.remember([said("one"), said("two")])
    caplog.clear()
    await (await desk.again()).start()
    assert ("many for Milvus Lite" in caplog.text) is warned
    await desk.memory.close()
