"""Changing the embedder while memory answers and is written to: through a real endpoint's HTTP,
the real log, and Milvus Lite where the store matters."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.errors import (
    Conflict,
    DataError,
    DeadlineExceeded,
    InvalidInput,
    MainspringError,
    NotFound,
    Overloaded,
    Unavailable,
)
from cluster.settings import EmbedderSection, MemorySection
from memory.embed import DIMENSION, SPACE
from memory.embedders import described
from memory.endpoint import Endpoint
from memory.live import SpaceState
from memory.records import Query, Record
from tests.embedding_server import WIDE, EmbeddingServer
from tests.memories import Desk, Shelf, Words

pytestmark = pytest.mark.enable_socket


@pytest.fixture
async def server() -> AsyncIterator[EmbeddingServer]:
    server = EmbeddingServer()
    await server.start()
    yield server
    await server.stop()


def section_for(server: EmbeddingServer, **more: object) -> EmbedderSection:
    values = {"name": "wide", "kind": "endpoint", "model": "words", "url": server.url, "retries": 0}
    return EmbedderSection.model_validate(values | more)


def settings_for(server: EmbeddingServer, **more: object) -> MemorySection:
    values = {"flush_rows": 20, "flush_seconds": 0.05, "embedders": (section_for(server),)}
    return MemorySection.model_validate(values | more)


@pytest.fixture
async def desk(tmp_path: Path, server: EmbeddingServer) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path, settings_for(server), Shelf())
    yield desk
    await desk.memory.close()


def line(number: int) -> Record:
    return Record("shop", "note", f"note:{number}", f"lamp number {number} is blue", 0.0)


async def found(desk: Desk, number: int) -> bool:
    hits = await desk.memory.recall(Query("shop", f"lamp number {number} is blue", k=1))
    return [hit.record.source for hit in hits] == [f"note:{number}"]


async def until_complete(desk: Desk) -> SpaceState:
    async with asyncio.timeout(20):
        while True:
            _, other = await desk.memory.spaces()
            if other.complete:
                return other
            await asyncio.sleep(0.02)


async def names(desk: Desk) -> list[tuple[str, str]]:
    return [(s.embedder, s.state) for s in await desk.memory.spaces()]


@pytest.mark.parametrize("lite", [False, True])
async def test_the_embedder_is_changed_and_changed_back_while_memory_goes_on(
    tmp_path: Path, server: EmbeddingServer, lite: bool
) -> None:
    desk = Desk(tmp_path / "data", settings_for(server), None if lite else Shelf())
    memory = desk.memory
    await memory.remember([line(n) for n in range(60)])
    written, failures, asked, over = 60, [], 0, False

    async def reading() -> None:
        nonlocal asked
        while not over:
            asked += 1
            try:
                if not await found(desk, asked % written):
                    failures.append(f"{asked % written} was not found")
            except MainspringError as error:
                failures.append(str(error))
            await asyncio.sleep(0)

    async def writing() -> None:
        nonlocal written
        while not over:
            await memory.remember([line(written)])
            written += 1
            if not await found(desk, written - 1):
                failures.append(f"{written - 1} was acknowledged and not found")
            await asyncio.sleep(0.02)

    busy = [asyncio.create_task(reading()), asyncio.create_task(writing())]
    prepared = await memory.prepare_space("wide")
    assert (prepared.state, prepared.dimension) == ("shadow", WIDE)
    await until_complete(desk)
    found_out = await memory.measure("shop", both=True)
    assert found_out.other is not None
    assert found_out.serving.questions >= 60
    assert min(found_out.serving.hit_rate, found_out.other.hit_rate) > 0.9
    assert 0 < found_out.overlap <= 1
    switched = await memory.switch_space(prepared.name, "shop")
    assert (switched.name, switched.state, switched.complete) == (prepared.name, "serving", True)
    await asyncio.sleep(0.2)
    back = await memory.rollback_space()
    assert (back.name, back.complete) == (SPACE, True)
    await asyncio.sleep(0.1)
    await memory.switch_space(prepared.name, "shop")
    await memory.drop_space(SPACE)
    await asyncio.sleep(0.1)
    over = True
    await asyncio.gather(*busy)
    assert (failures, await names(desk)) == ([], [("wide", "serving")])
    assert asked > 50
    assert await memory.count("shop") == written > 62
    health = await memory.health("shop")
    assert (health.drift, health.chain) == (0, "whole")
    await desk.again()
    assert await found(desk, written - 1)
    await desk.memory.close()


@pytest.mark.parametrize("step", ["prepare", "halfway", "switch", "rollback", "drop"])
async def test_a_kill_at_each_step_leaves_one_space_that_serves_everything(
    tmp_path: Path, server: EmbeddingServer, step: str
) -> None:
    """The process ends between the row that decides and what follows it."""
    desk = Desk(tmp_path, settings_for(server), Shelf())
    memory, spaces = desk.memory, desk.log.spaces
    await memory.remember([line(n) for n in range(40)])
    row = await described(desk.section, "wide", "shadow")
    wide = row.space.name
    if step == "prepare":
        spaces.add(row)
    else:
        await memory.prepare_space("wide")
        if step == "halfway":
            server.fault = "error"
        else:
            await until_complete(desk)
    if step in {"switch", "rollback"}:
        spaces.set([(SPACE, "former"), (wide, "serving")])
    if step == "rollback":
        spaces.set([(SPACE, "serving"), (wide, "shadow")])
    if step == "drop":
        spaces.set([(wide, "leaving")])
    await desk.killed()
    server.fault = ""
    serving = ("wide" if step == "switch" else "minilm", "serving")
    assert [await found(desk, n) for n in range(40)] == [True] * 40
    if step == "drop":
        assert await names(desk) == [serving]
        assert desk.log.spaces.vectors(wide) == 0
        await desk.memory.prepare_space("wide")
    await until_complete(desk)
    assert (await names(desk))[0] == serving
    await desk.memory.remember([line(99)])
    assert await found(desk, 99)
    await desk.memory.close()


async def test_vectors_of_the_old_space_never_enter_the_new_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer embeds, the switch happens, and only then it is the writer's turn."""
    await desk.memory.remember([line(0)])
    wide = (await desk.memory.prepare_space("wide")).name
    await until_complete(desk)
    embedding = desk.words.embed
    embedded, go_on = asyncio.Event(), asyncio.Event()

    async def slow(texts: list[str]) -> object:
        vectors = await embedding(texts)
        embedded.set()
        await go_on.wait()
        return vectors

    monkeypatch.setattr(desk.words, "embed", slow)
    writing = asyncio.create_task(desk.memory.remember([line(1)]))
    await embedded.wait()
    await desk.memory.switch_space(wide, force=True)
    go_on.set()
    assert await writing == 1
    assert await found(desk, 1)
    (logged,) = desk.log.logged([line(1).id], wide)
    assert len(logged.vector) == WIDE


async def test_a_space_goes_only_where_everything_is_in_it(
    desk: Desk, server: EmbeddingServer
) -> None:
    memory = desk.memory
    with pytest.raises(NotFound):
        await memory.rollback_space()
    await memory.remember([line(n) for n in range(100)])
    server.refused = "number 77 "
    wide = (await memory.prepare_space("wide")).name
    async with asyncio.timeout(20):
        while not (state := (await memory.spaces())[1]).refused:
            await asyncio.sleep(0.02)
    with pytest.raises(Conflict, match="not measured"):
        await memory.switch_space(wide)
    with pytest.raises(Conflict, match="texts were refused"):
        await memory.switch_space(wide, force=True)
    for wrong in (
        memory.switch_space(SPACE, force=True),
        memory.drop_space(SPACE),
        memory.prepare_space("minilm"),
    ):
        with pytest.raises(Conflict, match="serves"):
            await wrong
    with pytest.raises(NotFound):
        await memory.switch_space("nothing", force=True)
    with pytest.raises(InvalidInput, match="wide"):
        await memory.prepare_space("unknown")
    await memory.drop_space(state.name)
    assert await names(desk) == [("minilm", "serving")]
    assert desk.log.spaces.vectors(wide) == 0


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("nan", Unavailable, "NaN"),
        ("zero", Unavailable, "zero vector"),
        ("count", Unavailable, "vectors for"),
        ("order", Unavailable, "numbered"),
        ("text", Unavailable, ""),
        ("error", Unavailable, "answered 500"),
        ("busy", Overloaded, "no"),
        ("refuse", InvalidInput, "refused"),
        ("down", Unavailable, "can't be reached"),
        ("dimension", InvalidInput, "numbers a vector"),
    ],
)
async def test_what_is_no_embedder_is_refused_and_leaves_nothing(
    tmp_path: Path, server: EmbeddingServer, fault: str, error: type[Exception], says: str
) -> None:
    section = section_for(server, dimension=WIDE)
    desk = Desk(tmp_path, settings_for(server, embedders=(section,)), Shelf())
    await desk.memory.remember([line(0)])
    server.fault = fault
    if fault == "down":
        await server.stop()
    with pytest.raises(error, match=says):
        await desk.memory.prepare_space("wide")
    assert await names(desk) == [("minilm", "serving")]
    assert await found(desk, 0)
    await desk.memory.close()


@pytest.mark.parametrize(
    "fault", ["nan", "zero", "ragged", "count", "error", "dimension", "others"]
)
async def test_a_serving_embedder_that_errs_keeps_nothing_half_written(
    tmp_path: Path, server: EmbeddingServer, fault: str
) -> None:
    section = settings_for(server, embedder="wide")
    desk = Desk(tmp_path, section, Shelf())
    await desk.memory.remember([line(0)])
    assert await names(desk) == [("wide", "serving")]
    await desk.again()
    server.fault = fault
    with pytest.raises((Unavailable, DataError)):
        await desk.memory.remember([line(1)])
    assert await desk.memory.count("shop") == 1
    server.fault = ""
    await desk.memory.remember([line(1)])
    assert await found(desk, 1)
    await desk.memory.close()


async def test_an_endpoint_that_hangs_is_given_up(server: EmbeddingServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        deaf = await asyncio.start_server(lambda r, w: asyncio.sleep(60), "127.0.0.1", 0)
        await stack.enter_async_context(deaf)
        port = deaf.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1"
        endpoint = Endpoint(section_for(server, url=url, timeout_s=0.2, retries=3))
        with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
            await endpoint.embed(["hello"])
        await endpoint.close()


async def test_texts_go_out_in_batches_of_like_length_and_come_back_in_order(
    server: EmbeddingServer,
) -> None:
    endpoint = Endpoint(section_for(server, batch=8))
    texts = [f"word{n} " * (1 + n % 5) for n in range(50)]
    together = await endpoint.embed(texts)
    assert (server.texts, server.largest) == (50, 8)
    for text, row in zip(texts, together, strict=True):
        assert (await endpoint.embed([text]) == row).all()
    await endpoint.close()


async def test_a_text_that_was_asked_before_is_not_asked_again(
    tmp_path: Path, server: EmbeddingServer
) -> None:
    desk = Desk(tmp_path, settings_for(server, embedder="wide"), Shelf())
    await desk.memory.remember([line(0)])
    before = server.asked
    for _ in range(5):
        assert await found(desk, 0)
    assert server.asked == before
    await desk.memory.close()


async def test_a_space_that_answers_worse_is_refused_unless_forced(
    desk: Desk, server: EmbeddingServer, tmp_path: Path
) -> None:
    """Two numbers a vector tell little apart; with the words' leg gone it shows."""
    server.width = 2
    texts = {n: " ".join(f"w{n}x{i}" for i in range(12)) for n in range(60)}
    records = [Record("shop", "note", f"note:{n}", text, 0.0) for n, text in texts.items()]
    await desk.memory.remember(records)
    tiny = (await desk.memory.prepare_space("wide")).name
    await until_complete(desk)
    desk.memory._searcher._lexicon.weights = lambda tenant, question: {}  # type: ignore[method-assign]
    found_out = await desk.memory.measure("shop", both=True)
    assert found_out.worse
    with pytest.raises(Conflict, match="answers worse"):
        await desk.memory.switch_space(tiny, "shop")
    assert (await desk.memory.switch_space(tiny, "shop", force=True)).state == "serving"


async def test_the_setting_alone_changes_no_memory_that_has_records(
    tmp_path: Path, server: EmbeddingServer
) -> None:
    desk = Desk(tmp_path, settings_for(server), Shelf())
    await desk.memory.remember([line(0)])
    desk.section = settings_for(server, embedder="wide")
    await desk.again()
    assert await names(desk) == [("minilm", "serving")]
    assert await found(desk, 0)
    await desk.memory.close()


async def test_a_model_of_sentence_transformers_makes_the_vectors_that_ours_does(
    tmp_path: Path,
) -> None:
    pytest.importorskip("sentence_transformers")
    from memory import minilm
    from memory.embed import MiniLM
    from memory.embedders import opened

    section = MemorySection(
        embedders=(
            EmbedderSection(
                name="torch",
                kind="sentence-transformers",
                model=str(minilm.package_folder()),
                sha256=minilm.WEIGHTS_SHA256,
            ),
        )
    )
    row = await described(section, "torch", "shadow")
    assert (row.space.dimension, row.fingerprint) == (DIMENSION, minilm.WEIGHTS_SHA256)
    theirs = await opened(section, row, Words()).embed(["where is my parcel", "hi"])
    assert abs(theirs - MiniLM().encode(["where is my parcel", "hi"])).max() < 1e-4
    other = section.embedders[0].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DataError, match="SHA-256"):
        await described(MemorySection(embedders=(other,)), "torch", "shadow")
