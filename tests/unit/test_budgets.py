"""The arithmetic of money: exact, rounded up once, and never over a limit."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidInput
from cluster.settings import ModelSection
from serve.budgets import (
    NANO,
    PERIODS,
    Balance,
    Limits,
    Period,
    Slot,
    chargeable,
    nano_of,
    price,
    refusal,
    too_fast,
    window_end,
    window_start,
    worst_case,
)

money = st.integers(0, 10**12)


def model(usd_in: float = 0.05, usd_out: float = 0.15, room: int = 1024) -> ModelSection:
    return ModelSection(
        id="m", source="x", tier="routine", usd_per_mtok_in=usd_in, usd_per_mtok_out=usd_out,
        max_model_len=room,
    )  # fmt: skip


def balance(limit: int, spent: int = 0, reserved: int = 0, period: Period = "day") -> Balance:
    return Balance("key", "k", period, limit, spent, reserved)


def test_prices_are_exact_and_rounded_up_once() -> None:
    assert price(model(0.05, 0.15), 1_000_000, 1_000_000) == 200_000_000
    assert price(model(0.1, 0.2), 3, 3) == 900, "what floats would make 900.0000000000001"
    assert price(model(0.0001, 0.0), 1, 0) == 1
    assert price(model(0.0001, 0.0), 10, 0) == 1
    assert price(model(), 0, 0) == 0


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1_000).map(lambda p: round(p, 4)))
def test_a_request_is_never_dearer_than_its_worst_case(body: int, out: int, usd: float) -> None:
    one = model(usd, 2 * usd, room=4096)
    worst = worst_case([model(0.0, 0.0), one], body, None, 1, False)
    prompt, answer = min(body, 4096), min(out, 4096)
    assert price(one, prompt, answer) <= worst.nano
    assert prompt + answer <= worst.tokens


def test_worst_case_counts_every_choice_up_to_its_limit() -> None:
    two = worst_case([model()], 10, 100, 2, True)
    assert (two.tokens, two.streaming) == (522 + 200, True)
    assert two.nano == price(model(), 522, 200)


@given(st.lists(st.tuples(money, money, money), min_size=1, max_size=4), money)
def test_what_is_let_in_fits_every_budget(rows: list[tuple[int, int, int]], amount: int) -> None:
    balances = [balance(*row) for row in rows]
    fits = all(b.spent + b.reserved + amount <= b.limit for b in balances)
    assert (refusal(balances, amount, 1_000.0) is None) == fits


@given(st.lists(st.tuples(money, money), min_size=1, max_size=4), money, money)
def test_what_is_charged_exceeds_no_budget(
    rows: list[tuple[int, int]], held: int, cost: int
) -> None:
    # Each budget counts this request's own reservation, and others'.
    balances = [balance(spent + held + more, spent, held) for spent, more in rows]
    charged = chargeable(cost, held, balances)
    assert 0 <= charged <= cost
    assert all(b.spent + charged <= b.limit for b in balances)
    assert charged == cost or cost > held, "what was reserved is always charged"


@pytest.mark.parametrize(
    ("text", "hour", "day", "month"),
    [
        ("2026-12-31T23:59:59", "2027-01-01T00", "2027-01-01T00", "2027-01-01T00"),
        ("2026-02-10T10:30:00", "2026-02-10T11", "2026-02-11T00", "2026-03-01T00"),
    ],
)
def test_periods_are_those_of_the_calendar(text: str, hour: str, day: str, month: str) -> None:
    now = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    ends = {"hour": hour, "day": day, "month": month}
    for period in PERIODS:
        assert window_start(period, now) <= now < window_end(period, now)
        if period != "total":
            expected = datetime.fromisoformat(f"{ends[period]}:00").replace(tzinfo=UTC)
            assert window_end(period, now) == expected.timestamp()
            assert window_start(period, window_end(period, now)) == window_end(period, now)


def test_longest_wait_is_told() -> None:
    spent, busy = balance(10, 10, 0, "hour"), balance(10, 0, 10)
    assert refusal([busy], 5, 0.0).retry_after == 1.0  # type: ignore[union-attr]
    assert refusal([busy, spent], 5, 0.0).retry_after == 3_600  # type: ignore[union-attr]


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 5))
def test_rate_holds_in_every_minute(asks: list[int], limit: int) -> None:
    let_in: list[int] = []
    for at in sorted(asks):
        slots = [Slot(t, 1, 0) for t in let_in if t >= at - 60]
        if (refused := too_fast(Limits(limit), slots, 0, at + 0.5)) is None:
            let_in.append(at)
        else:
            assert 0 < refused.retry_after <= 61
    for begin in range(300):
        assert sum(begin <= t < begin + 60 for t in let_in) <= limit


@pytest.mark.parametrize("usd", ["lots", "nan", "inf", "-1", "1e10", ""])
def test_an_amount_that_is_none_is_refused(usd: str) -> None:
    with pytest.raises(InvalidInput):
        nano_of(usd)
    assert nano_of("2.50") == 5 * NANO // 2


@pytest.mark.parametrize("value", [0, -1, 2**63])
def test_a_limit_that_is_none_is_refused(value: int) -> None:
    with pytest.raises(InvalidInput, match="requests_per_minute"):
        Limits(requests_per_minute=value)
