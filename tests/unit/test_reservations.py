"""Budgets hold, the same on SQLite and on PostgreSQL; keys open what they may; the ledger sums."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest

from cluster.errors import InvalidInput, NotFound, Unauthorized
from serve.accounts import Accounts
from serve.budget_table import Budget, BudgetTable
from serve.budgets import (
    EVERY,
    NANO,
    UNLIMITED,
    BudgetExceeded,
    Caller,
    Kind,
    Limits,
    Period,
    RateLimited,
    Worst,
)
from serve.keys import Forbidden, Keyring, matched
from serve.ledger import Ledger, Used
from serve.reservations import Reservations
from tests.databases import server, url  # noqa: F401
from tests.fakes import FakeClock

ANNA = Caller("acme", "key-a")
CENT = NANO // 100


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def accounts(url: str, tmp_path: Path) -> Iterator[Accounts]:  # noqa: F811
    made = Accounts(url, tmp_path)
    yield made
    made.close()


@pytest.fixture
def held(accounts: Accounts, clock: FakeClock) -> Reservations:
    return Reservations(accounts, clock, margin_s=10.0)


def used(cost: int, **fields: object) -> Used:
    return replace(Used("req", "small", 200, 10, 5, cost), **fields)  # type: ignore[arg-type]


def budget(held: Reservations, kind: Kind, subject: str, period: Period, cents: int) -> None:
    BudgetTable(held._accounts).put(Budget("acme", kind, subject, period, cents * CENT))


def reserve(held: Reservations, id: str, cents: int, caller: Caller = ANNA) -> None:
    held.reserve(id, caller, UNLIMITED, Worst(cents * CENT, 100), 20.0)


def test_what_is_reserved_is_not_free_and_what_is_not_used_is_free_again(
    held: Reservations,
) -> None:
    budget(held, "key", "key-a", "total", 100)
    reserve(held, "a", 60)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(held, "b", 41)
    assert refused.value.retry_after_s == 1.0, "work under way may give it back soon"
    assert held.settle("a", ANNA, used(10 * CENT)) == 10 * CENT
    reserve(held, "b", 90)
    held.settle("b", ANNA, None)
    reserve(held, "c", 90)
    with pytest.raises(BudgetExceeded):
        reserve(held, "d", 1)


def test_every_budget_that_applies_must_have_room(held: Reservations) -> None:
    caller = replace(ANNA, agent="ag", run="run-1")
    budget(held, "tenant", "acme", "month", 100)
    budget(held, "agent", "ag", "day", 50)
    budget(held, "run", EVERY, "total", 20)
    budget(held, "key", "another", "total", 0)
    reserve(held, "a", 20, caller)
    with pytest.raises(BudgetExceeded, match="run run-1"):
        reserve(held, "b", 1, caller)
    reserve(held, "c", 20, replace(caller, run="run-2"))
    with pytest.raises(BudgetExceeded, match="agent ag"):
        reserve(held, "d", 20, replace(caller, run="run-3"))
    reserve(held, "e", 60)
    with pytest.raises(BudgetExceeded, match="tenant acme"):
        reserve(held, "f", 1)
    reserve(held, "g", 1_000, Caller("other", "key-z"))


def test_own_budget_takes_the_place_of_everybodys(held: Reservations) -> None:
    budget(held, "run", EVERY, "total", 20)
    budget(held, "run", "run-1", "total", 40)
    reserve(held, "a", 40, replace(ANNA, run="run-1"))
    with pytest.raises(BudgetExceeded):
        reserve(held, "b", 1, replace(ANNA, run="run-1"))
    with pytest.raises(BudgetExceeded):
        reserve(held, "c", 21, replace(ANNA, run="run-2"))


def test_period_begins_anew(held: Reservations, clock: FakeClock) -> None:
    budget(held, "key", "key-a", "hour", 10)
    reserve(held, "a", 10)
    held.settle("a", ANNA, used(10 * CENT))
    with pytest.raises(BudgetExceeded) as refused:
        reserve(held, "b", 1)
    wait = refused.value.retry_after_s
    assert wait is not None and 1 < wait <= 3_600
    clock.step(wait)
    reserve(held, "b", 10)


def test_lease_gives_back_what_a_dead_process_held(held: Reservations, clock: FakeClock) -> None:
    budget(held, "key", "key-a", "total", 10)
    reserve(held, "dead", 10)
    clock.step(29)
    with pytest.raises(BudgetExceeded):
        reserve(held, "b", 10)
    clock.step(2)
    reserve(held, "b", 10)
    # The dead one was only asleep: it is charged what is free, which is nothing.
    assert held.settle("dead", ANNA, used(8 * CENT)) == 0
    assert held.settle("b", ANNA, used(10 * CENT)) == 10 * CENT
    (balance,) = held.balances(ANNA)
    assert (balance.spent, balance.reserved) == (10 * CENT, 0)


def test_unbilled_work_stands_in_the_ledger(held: Reservations, accounts: Accounts) -> None:
    budget(held, "key", "key-a", "total", 10)
    reserve(held, "a", 4)
    held.settle("a", ANNA, used(40 * CENT))
    (total,) = Ledger(accounts).sums()
    assert (total.price_nano, total.unbilled_nano) == (10 * CENT, 30 * CENT)


def test_budget_that_is_set_late_counts_what_was_spent_before(held: Reservations) -> None:
    reserve(held, "a", 10)
    held.settle("a", ANNA, used(7 * CENT))
    budget(held, "key", "key-a", "day", 10)
    with pytest.raises(BudgetExceeded):
        reserve(held, "b", 4)
    reserve(held, "b", 3)
    budget(held, "key", "key-a", "day", 20)
    reserve(held, "c", 10)
    assert BudgetTable(held._accounts).remove(Budget("acme", "key", "key-a", "day", 0))
    assert not BudgetTable(held._accounts).remove(Budget("acme", "key", "key-a", "day", 0))
    reserve(held, "d", 1_000)


def test_rates_hold_in_every_minute(held: Reservations, clock: FakeClock) -> None:
    limits = Limits(requests_per_minute=3, tokens_per_minute=1_000)

    def ask(id: str, tokens: int) -> None:
        held.reserve(id, ANNA, limits, Worst(0, tokens), 20.0)

    for number in range(3):
        ask(f"r{number}", 100)
        clock.step(10)
    with pytest.raises(RateLimited, match="3 requests a minute") as refused:
        ask("r3", 1)
    clock.step(refused.value.retry_after)
    ask("r3", 800)
    clock.step(1)
    with pytest.raises(RateLimited):
        ask("r4", 1)
    clock.step(10)
    with pytest.raises(RateLimited, match="1000 tokens a minute"):
        ask("r4", 300)
    held.settle("r3", ANNA, used(0))
    ask("r4", 300)


def test_streams_of_a_key_are_counted(held: Reservations, clock: FakeClock) -> None:
    limits = Limits(max_streams=2)

    def ask(id: str, streaming: bool = True) -> None:
        held.reserve(id, ANNA, limits, Worst(0, 1, streaming), 20.0)

    ask("a")
    ask("b")
    ask("whole", streaming=False)
    with pytest.raises(RateLimited, match="2 streams"):
        ask("c")
    held.settle("a", ANNA, used(0))
    ask("c")
    clock.step(31)
    ask("d")


def test_a_group_is_one_transaction_and_each_gets_its_answer(
    held: Reservations, accounts: Accounts
) -> None:
    budget(held, "key", "key-a", "total", 10)
    answers = accounts.together([partial(reserve, held, f"r{n}", 4) for n in range(4)])
    assert [type(a) for a in answers] == [type(None), type(None), BudgetExceeded, BudgetExceeded]


def test_many_writers_never_exceed_and_use_it_up(
    url: str,  # noqa: F811
    tmp_path: Path,
    clock: FakeClock,
) -> None:
    own = Accounts(url, tmp_path)
    BudgetTable(own).put(Budget("acme", "key", "key-a", "total", NANO))

    def work(seed: int) -> None:
        chance, mine = Random(seed), Accounts(url, tmp_path)
        held = Reservations(mine, clock)
        for number in range(40):
            id, worst = f"{seed}-{number}", chance.randrange(CENT, 4 * CENT)
            try:
                held.reserve(id, ANNA, UNLIMITED, Worst(worst, 1), 20.0)
            except BudgetExceeded:
                continue
            held.settle(id, ANNA, used(chance.randrange(worst + 1)))
        mine.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (balance,) = Reservations(own, clock).balances(ANNA)
    (total,) = Ledger(own).sums()
    assert balance.spent == total.price_nano <= NANO
    assert balance.spent >= 0.95 * NANO
    assert (balance.reserved, total.unbilled_nano) == (0, 0)
    own.close()


def test_key_opens_until_it_is_revoked_or_expires(accounts: Accounts, clock: FakeClock) -> None:
    ring = Keyring(accounts, clock)
    assert not ring.any()
    key, full = ring.create("acme", "ci", ("models", "memory"), clock.now() + 60, Limits(5))
    assert ring.any()
    assert full not in repr(ring.all()), "only its digest is kept"
    who = matched(full, ring.find(key.id), clock.now())
    assert (who.tenant, who.key, who.limits) == ("acme", key.id, Limits(5))
    who.require("/v1/chat/completions")
    for path in ("/v1/runs", "/metrics", "/v1/not-thought-of"):
        with pytest.raises(Forbidden):
            who.require(path)
    for wrong in (full[:-1], full + "x", full.replace("ms-", "mx-"), ""):
        with pytest.raises(Unauthorized):
            matched(wrong, ring.find(key.id), clock.now())
    with pytest.raises(Unauthorized):
        matched("", None, clock.now())
    clock.step(61)
    with pytest.raises(Unauthorized):
        matched(full, ring.find(key.id), clock.now())
    with pytest.raises(NotFound):
        ring.revoke(key.id)


def test_rotated_key_has_the_same_account_and_the_old_one_ends(
    accounts: Accounts, clock: FakeClock
) -> None:
    ring = Keyring(accounts, clock)
    old, old_full = ring.create("acme", "ci")
    new, new_full = ring.rotate(old.id, grace_s=60)
    assert (new.account, new.scopes) == (old.id, old.scopes)
    assert matched(old_full, ring.find(old.id), clock.now()).key == old.id
    clock.step(61)
    assert matched(new_full, ring.find(new.id), clock.now()).key == old.id
    with pytest.raises(Unauthorized):
        matched(old_full, ring.find(old.id), clock.now())
    last, _ = ring.rotate(new.id)
    assert ring.one(new.id).revoked_at == clock.now()
    ring.revoke(last.id)
    assert {k.id for k in ring.all("acme")} == {old.id, new.id, last.id}


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("scopes", {"scopes": ("models", "root")}),
        ("scopes", {"scopes": ()}),
        ("name", {"name": ""}),
        ("expires_at", {"expires_at": 5.0}),
    ],
)
def test_a_key_with_a_mistake_is_not_made(
    accounts: Accounts, clock: FakeClock, field: str, arguments: dict[str, object]
) -> None:
    ring = Keyring(accounts, clock)
    given = {"name": "ci", **arguments}
    with pytest.raises(InvalidInput) as problem:
        ring.create("acme", **given)  # type: ignore[arg-type]
    assert problem.value.field == field
    assert ring.all() == []


def test_ledger_sums_by_what_is_asked(
    held: Reservations, accounts: Accounts, clock: FakeClock
) -> None:
    held.settle("1", replace(ANNA, agent="ag"), used(3, engine_s=0.5))
    held.settle("2", ANNA, used(4, model="big", tokens_cached=8))
    clock.step(86_400)
    held.settle("3", Caller("other", "key-z"), used(5))
    ledger = Ledger(accounts)
    assert {s.group["tenant"]: s.price_nano for s in ledger.sums(("tenant",))} == {
        "acme": 7, "other": 5,
    }  # fmt: skip
    by_model = {s.group["model"]: s for s in ledger.sums(("model",), {"tenant": "acme"})}
    assert (by_model["big"].tokens_cached, by_model["small"].engine_s) == (8, 0.5)
    days = ledger.sums(("day", "key"))
    assert sorted((s.group["day"], s.group["key"], s.requests) for s in days) == [
        ("2026-11-18", "key-a", 2), ("2026-11-19", "key-z", 1),
    ]  # fmt: skip
    (late,) = ledger.sums(since=clock.now())
    assert late.requests == 1
    assert ledger.sums(since=clock.now() + 1)[0].requests == 0
    with pytest.raises(InvalidInput):
        ledger.sums(("price",))
