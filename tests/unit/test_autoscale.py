"""The autoscaler's decisions: tables of single moments, traces over time, and what always holds."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.autoscale import Bounds, Engine, Limits, Plan, Trend, autoscale

BOUNDS = Bounds(min=0, max=8, seats=10, usd_per_hour=2.0, kind="H200", units=1)
FREE = Limits()


def engine(**values: object) -> Engine:
    return replace(Engine("planner", BOUNDS, 2, ready=2, held=2), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "target", "reason"),
    [
        ({"load": 16}, 2, "as it is"),
        ({"load": 17}, 3, "17 requests"),
        ({"load": 1000}, 8, "1000 requests"),
        ({"load": 12, "kv": 0.9}, 3, "KV cache"),
        ({"load": 12, "ttft_s": 1.5}, 3, "first tokens"),
        ({"load": 0, "ttft_s": 9.0, "idle_s": 1.0}, 2, "would do"),
        ({"load": 12, "ttft_s": 1.5, "ready": 1}, 2, "as it is"),
        ({"load": 1, "target": 0, "ready": 0, "held": 0}, 1, "1 requests"),
        ({"load": 0, "target": 0, "ready": 0, "held": 0}, 0, "as it is"),
        ({"load": 0, "idle_s": 900.0}, 0, "nobody asked for 900 s"),
        ({"load": 0, "idle_s": 900.0, "cold_s": 1000.0}, 2, "would do"),
        ({"load": 3, "idle_s": 900.0}, 2, "would do"),
        ({"load": 2, "trend": Trend(99.0, 2.0, 0.0, 0.0, 1)}, 2, "for 100 s"),
        ({"load": 2, "trend": Trend(99.0, 2.0, 0.0, -20.0, 1)}, 1, "did for 120 s"),
        ({"target": 4, "load": 2, "trend": Trend(99.0, 2.0, 0.0, -20.0, 3)}, 3, "3 did"),
        ({"load": 12, "trend": Trend(99.0, 2.0, 0.0)}, 6, "expected in 60 s"),
        ({"target": 9, "load": 80}, 8, "as it is"),
    ],
)
def test_a_moment_gets_its_replicas_and_the_reason(
    values: dict[str, object], target: int, reason: str
) -> None:
    step = autoscale([engine(**values)], FREE, 100.0)["planner"]
    assert (step.target, reason in step.reason) == (target, True), step


def test_a_minimum_is_kept_without_a_request() -> None:
    kept = engine(bounds=replace(BOUNDS, min=1), target=0, ready=0, held=0)
    assert autoscale([kept], FREE, 0.0)["planner"].target == 1


def test_the_ceiling_feeds_who_has_work_and_nobody_first() -> None:
    busy = engine(id="busy", load=500)
    cold = engine(id="cold", target=0, ready=0, held=0, load=1)
    plan = autoscale([busy, cold], Limits(usd_per_hour=8.0), 0.0)
    assert (plan["busy"].target, plan["cold"].target, plan.usd_per_hour) == (3, 1, 8.0)
    assert "8 USD an hour allows 3" in plan["busy"].reason


def test_a_replica_on_its_way_out_is_paid_until_it_is_gone() -> None:
    leaving = engine(id="leaving", target=0, ready=0, held=3)
    asked = engine(id="asked", target=1, ready=1, held=1, load=100)
    ceiling = Limits(usd_per_hour=8.0)
    assert autoscale([leaving, asked], ceiling, 0.0)["asked"].target == 1
    gone = replace(leaving, held=0)
    assert autoscale([gone, asked], ceiling, 0.0)["asked"].target == 4


def test_a_quota_bounds_its_kind_only() -> None:
    scarce = engine(id="scarce", load=500)
    plenty = engine(id="plenty", load=500, bounds=replace(BOUNDS, kind="L40S"))
    plan = autoscale([scarce, plenty], Limits(quotas={"H200": 3}), 0.0)
    assert (plan["scarce"].target, plan["plenty"].target) == (3, 8)


def run(load: Callable[[int], int], seconds: int, cold_s: float = 30.0) -> list[Engine]:
    """A second a step: replicas are ready `cold_s` after they are ordered, and gone at once."""
    now, asked, orders = engine(target=0, ready=0, held=0, cold_s=cold_s), -1e9, list[float]()
    seen = []
    for second in range(seconds):
        asked = second if load(second) else asked
        ready = sum(second - at >= cold_s for at in orders)
        now = replace(now, load=load(second), ready=ready, held=len(orders), idle_s=second - asked)
        step = autoscale([now], FREE, float(second))["planner"]
        orders = (orders + [float(second)] * 8)[: step.target] if step.target else []
        now = replace(now, target=step.target, trend=step.trend)
        seen.append(now)
    return seen


def changes(seen: Sequence[Engine]) -> int:
    targets = [one.target for one in seen]
    return sum(a != b for a, b in itertools.pairwise(targets))


def test_a_trace_goes_from_zero_up_and_down_to_zero_again() -> None:
    seen = run(lambda s: 5 if s < 100 else 60 if s < 400 else 5 if s < 700 else 0, 1800)
    assert seen[0].target == 1
    assert max(one.target for one in seen) == 8
    assert seen[650].target == 1
    assert seen[1590].target == 1
    assert seen[-1].target == 0
    assert changes(seen) <= 10


def test_a_ramp_is_met_ahead_of_the_cold_start() -> None:
    seen = run(lambda s: min(60, 5 + s // 4), 300)
    late = [s for s, one in enumerate(seen) if s > 40 and one.load > 10 * one.ready]
    assert late == []


def test_a_load_that_swings_around_a_threshold_does_not_flap() -> None:
    seen = run(lambda s: 8 if s % 20 < 10 else 9, 600)
    assert changes(seen[60:]) == 0


ENGINES = st.builds(
    Engine,
    id=st.just(""),
    bounds=st.builds(
        Bounds, min=st.integers(0, 2), max=st.integers(2, 12), seats=st.integers(1, 64),
        usd_per_hour=st.sampled_from([0.0, 0.7, 2.0, 9.3]), kind=st.sampled_from(["a", "b", ""]),
        units=st.integers(0, 8), calm_s=st.sampled_from([0.0, 5.0]),
        idle_s=st.sampled_from([0.0, 10.0]),
    ),
    target=st.integers(0, 14), ready=st.integers(0, 14), held=st.integers(0, 14),
    load=st.integers(0, 5_000), kv=st.floats(0, 1), ttft_s=st.floats(0, 100),
    idle_s=st.floats(0), cold_s=st.floats(0, 600),
    trend=st.builds(
        Trend, at=st.floats(-100, 100), load=st.floats(0, 5_000), growth=st.floats(-1e3, 1e3),
        calm_since=st.none() | st.floats(-100, 100), peak=st.integers(0, 14),
    ),
)  # fmt: skip
SNAPSHOTS = st.lists(ENGINES, min_size=1, max_size=4).map(
    lambda found: [replace(one, id=f"e{number}") for number, one in enumerate(found)]
)
LIMITS = st.builds(
    Limits,
    usd_per_hour=st.none() | st.floats(0, 100),
    quotas=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 40)),
)


def usd(engines: Sequence[Engine], counts: Sequence[int]) -> float:
    return sum(e.bounds.usd_per_hour * n for e, n in zip(engines, counts, strict=True))


def units(engines: Sequence[Engine], counts: Sequence[int], kind: str) -> int:
    pairs = zip(engines, counts, strict=True)
    return sum(e.bounds.units * n for e, n in pairs if e.bounds.kind == kind)


def targets(plan: Plan) -> list[int]:
    return [step.target for step in plan.steps]


@settings(max_examples=400, deadline=None)
@given(SNAPSHOTS, LIMITS, st.floats(-50, 200))
def test_no_plan_passes_a_bound(engines: list[Engine], limits: Limits, now: float) -> None:
    plan = autoscale(engines, limits, now)
    for one, step in zip(engines, plan.steps, strict=True):
        assert one.bounds.min <= step.target <= one.bounds.max
        assert step.reason
    minima = [e.bounds.min for e in engines]
    held = [e.held for e in engines]
    together = [max(pair) for pair in zip(targets(plan), held, strict=True)]
    before = [max(pair) for pair in zip(minima, held, strict=True)]
    ceiling = limits.usd_per_hour
    if ceiling is not None:
        assert usd(engines, targets(plan)) <= max(ceiling, usd(engines, minima)) + 1e-6
        assert usd(engines, together) <= max(ceiling, usd(engines, before)) + 1e-6
    for kind, quota in limits.quotas.items():
        assert units(engines, targets(plan), kind) <= max(quota, units(engines, minima, kind))
        assert units(engines, together, kind) <= max(quota, units(engines, before, kind))


@settings(max_examples=200, deadline=None)
@given(SNAPSHOTS, LIMITS, st.floats(0, 100))
def test_the_same_moment_gets_the_same_plan_in_any_order(
    engines: list[Engine], limits: Limits, now: float
) -> None:
    forth, back = autoscale(engines, limits, now), autoscale(engines[::-1], limits, now)
    assert targets(forth) == targets(back)[::-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=20, max_size=120))
def test_no_trace_of_two_engines_passes_the_ceiling(trace: list[tuple[int, int]]) -> None:
    """Replicas leave late: what is held lags the targets by five steps."""
    limits = Limits(usd_per_hour=9.0)
    now = [
        engine(id=i, target=0, ready=0, held=0, bounds=replace(BOUNDS, calm_s=3.0, idle_s=2.0))
        for i in ("one", "two")
    ]
    past: list[list[int]] = [[0, 0]]
    for second, loads in enumerate(trace):
        held = [max(column) for column in zip(*past[-5:], strict=True)]
        assert usd(now, held) <= 9.0
        now = [
            replace(e, load=load, held=h, ready=min(h, e.target), idle_s=0.0 if load else 5.0,
                    cold_s=1.0)
            for e, load, h in zip(now, loads, held, strict=True)
        ]  # fmt: skip
        plan = autoscale(now, limits, float(second))
        past.append(targets(plan))
        now = [
            replace(e, target=s.target, trend=s.trend) for e, s in zip(now, plan.steps, strict=True)
        ]
