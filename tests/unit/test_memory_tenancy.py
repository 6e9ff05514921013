"""Nothing of one tenant reaches another one, whatever is asked for and by whatever name."""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from cluster.errors import MainspringError
from cluster.settings import MemorySection
from memory.log import Note
from memory.records import Query, Record
from memory.service import Memory
from tests.memories import START, Desk, Shelf, said

CASES = 10_000
TENANTS = [f"tenant-{n}" for n in range(12)]
NAMES = [
    "", "ann", "bob", '" or tenant != "', "' OR 1=1 --", 'x" in ["', "%", "_", "\\", "};drop",
    "tenant-3", "\u202eann", "🦊", "a\nb",
]  # fmt: skip

Ask = Callable[[Memory, str, Record, random.Random], Awaitable[list[Record]]]


async def recall(memory: Memory, tenant: str, other: Record, chance: random.Random) -> list[Record]:
    query = Query(
        tenant, f"{other.text} {chance.choice(NAMES)}", k=20, min_score=-1.0,
        kinds=chance.choice([(), ("turn",), ("turn", "note")]),
        subject=chance.choice(NAMES), session=chance.choice(["", other.session]),
        agent=chance.choice(["", other.agent]), as_of=chance.choice([None, START + 1e6]),
    )  # fmt: skip
    return [hit.record for hit in await memory.recall(query)]


async def get(memory: Memory, tenant: str, other: Record, chance: random.Random) -> list[Record]:
    return [await memory.get(tenant, other.id)]


async def listed(memory: Memory, tenant: str, other: Record, chance: random.Random) -> list[Record]:
    where = {"subject": chance.choice(NAMES), "session": chance.choice(["", other.session])}
    return await memory.listed(tenant, chance.choice(["", other.id]), 50, **where)


async def history(
    memory: Memory, tenant: str, other: Record, chance: random.Random
) -> list[Record]:
    return [other for _ in await memory.history(tenant, other.id)]


async def update(memory: Memory, tenant: str, other: Record, chance: random.Random) -> list[Record]:
    return [await memory.update(tenant, other.id, "taken over", Note("eve"))]


async def promote(
    memory: Memory, tenant: str, other: Record, chance: random.Random
) -> list[Record]:
    return [await memory.promote(tenant, other.id, "eve", "why not", person=True)]


async def derive(memory: Memory, tenant: str, other: Record, chance: random.Random) -> list[Record]:
    await memory.remember([said("derived", tenant=tenant, parents=(other.id,))])
    return [other]


ASKS: list[tuple[Ask, int]] = [
    (recall, 30), (get, 30), (listed, 25), (history, 7), (update, 4), (promote, 2), (derive, 2),
]  # fmt: skip


async def test_no_case_of_ten_thousand_reads_or_changes_another_tenants_record(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, MemorySection(flush_rows=10), Shelf())
    records = [
        said(
            f"the code of {chr(97 + n)} is {n * 7919}", tenant=tenant, subject=NAMES[n],
            session=f"s{n % 3}", agent=f"a{n % 2}",
        )
        for tenant in TENANTS
        for n in range(len(NAMES))
    ]  # fmt: skip
    await desk.memory.remember(records)
    before = {tenant: await desk.memory.listed(tenant) for tenant in TENANTS}
    chance = random.Random(11)
    asks = chance.choices([ask for ask, _ in ASKS], [weight for _, weight in ASKS], k=CASES)
    answered = 0
    for ask in asks:
        other = chance.choice(records)
        tenant = chance.choice([name for name in TENANTS if name != other.tenant])
        try:
            found = await ask(desk.memory, tenant, other, chance)
        except MainspringError:
            continue
        answered += bool(found)
        assert {record.tenant for record in found} <= {tenant}, (ask, tenant, other)
    assert answered > CASES / 4
    assert {tenant: await desk.memory.listed(tenant) for tenant in TENANTS} == before
    assert (await desk.memory.health(TENANTS[0])).leaked_tenant == 0
    await desk.memory.close()


async def test_forgetting_for_one_tenant_leaves_the_same_subject_of_another(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MemorySection(), Shelf())
    both = [said("i am ann", tenant=tenant, subject="ann") for tenant in ("one", "two")]
    await desk.memory.remember(both)
    receipt = await desk.memory.forget("one", subject="ann")
    assert receipt.erased == (both[0].id,)
    assert await desk.memory.listed("two") == [both[1]]
    await desk.memory.close()
