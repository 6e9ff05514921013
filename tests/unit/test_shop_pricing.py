"""The stop rule keeps its promises: simulated, it errs no more often than it says."""

import pytest
from numpy.random import default_rng

from agents.workflows.shop.pricing import ERROR, Arm, Verdict, verdict, visitors_needed
from cluster.errors import InvalidInput

OLD, NEW, RATE, LIFT, LOOKS = 3_000, 3_600, 0.05, 0.25, 4
NEEDED = visitors_needed(RATE, OLD, NEW, LIFT)
NOBODY = Arm(0, 0, OLD)


def _ended(rng_seed: int, new_rate: float) -> Verdict:
    """An experiment to its end, with as many visitors at each look as were planned."""
    rng = default_rng(rng_seed)
    control, candidate = NOBODY, Arm(0, 0, NEW)
    for look in range(1, LOOKS + 1):
        visitors = -(-NEEDED * look // LOOKS)
        more = visitors - control.visitors
        control = Arm(visitors, control.buyers + int(rng.binomial(more, RATE)), OLD)
        candidate = Arm(visitors, candidate.buyers + int(rng.binomial(more, new_rate)), NEW)
        said = verdict(control, candidate, NEEDED, LOOKS, look - 1)
        if said.ending != "go on":
            return said
    raise AssertionError("the last look ends it")


def test_a_price_that_is_no_better_is_adopted_as_rarely_as_planned() -> None:
    same = RATE * OLD / NEW
    adopted = sum(_ended(seed, same).ending == "adopt" for seed in range(2_000))
    assert 0 < adopted <= (ERROR + 0.01) * 2_000


def test_a_price_as_much_better_as_planned_for_is_found() -> None:
    better = RATE * OLD / NEW * (1 + LIFT)
    ended = [_ended(seed, better) for seed in range(1_000)]
    assert sum(e.ending == "adopt" for e in ended) >= 700
    assert any(e.look < LOOKS for e in ended)


def test_a_harmful_price_is_rolled_back_before_the_end() -> None:
    ended = [_ended(seed, RATE * OLD / NEW * 0.6) for seed in range(300)]
    assert all(e.ending == "roll back" for e in ended)
    assert sum(e.look < LOOKS for e in ended) >= 250
    assert ended[0].reason.startswith("worse: -")


def test_a_look_is_not_taken_twice_and_not_before_its_visitors() -> None:
    half = -(-NEEDED // 2)
    control, candidate = Arm(half, 200, OLD), Arm(half, 10, NEW)
    assert verdict(control, candidate, NEEDED, LOOKS, 2).ending == "go on"
    assert verdict(control, candidate, NEEDED, LOOKS, 1).ending == "roll back"
    early = verdict(Arm(5, 3, OLD), Arm(5, 0, NEW), NEEDED, LOOKS, 0)
    assert (early.ending, early.look) == ("go on", 0)
    assert "visitors in each arm" in early.reason


def test_without_buyers_nothing_is_adopted() -> None:
    few = verdict(Arm(NEEDED, 9, OLD), Arm(NEEDED, 9, NEW), NEEDED, LOOKS, 3)
    assert (few.ending, few.look) == ("roll back", LOOKS)
    assert verdict(NOBODY, Arm(0, 0, NEW), NEEDED, LOOKS, 0).ending == "go on"


@pytest.mark.parametrize(
    ("rate", "margin", "new_margin", "lift", "field"),
    [
        (0.0, OLD, NEW, LIFT, "rate"), (1.0, OLD, NEW, LIFT, "rate"),
        (RATE, 0, NEW, LIFT, "margin"), (RATE, OLD, -5, LIFT, "margin"),
        (RATE, OLD, NEW, 0.0, "lift"),
    ],
)  # fmt: skip
def test_what_can_not_be_planned_is_refused(
    rate: float, margin: int, new_margin: int, lift: float, field: str
) -> None:
    with pytest.raises(InvalidInput, match=field):
        visitors_needed(rate, margin, new_margin, lift)
