"""PURE: how many replicas each engine should have, with the reason.

The more an engine is asked, the more replicas it gets, at once: for the load that is expected when
a replica ordered now has started. Fewer it gets late, once the load was low for a while, and none
when nobody asked for longer. Quotas and the cost ceiling bound every plan. They count machines that
are still being given back, so no moment passes them, whatever Ray does meanwhile.

Covered: queue, seats, KV cache, first tokens, growth against the time of a cold start. Not covered:
which node a replica lands on (Ray's scheduler), and times of day (nothing is learned of them).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

FULL: Final = 0.8
"""Share of the seats in use above which a replica is added."""
EMPTY: Final = 0.5
"""Share of the seats below which the rest must stay for a replica to be taken away."""
STEEPEST: Final = 4.0
"""A burst is believed to grow the load to this many times of itself at most."""
SMOOTHED_S: Final = 5.0
_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Bounds:
    """One engine's limits. `seats` are requests that a replica works on at once, `ttft_s` is the
    promised time to the first token, `kv` the share of KV cache that may be in use; a load that
    would fit fewer replicas must last `calm_s`, none at all `idle_s`. A replica costs
    `usd_per_hour` and takes `units` of the quota of `kind`. Times in seconds."""

    min: int
    max: int
    seats: int
    ttft_s: float = 1.0
    kv: float = 0.85
    calm_s: float = 120.0
    idle_s: float = 900.0
    usd_per_hour: float = 0.0
    kind: str = ""
    units: int = 0


@dataclass(frozen=True)
class Trend:
    """What one plan hands to the next: when it was made, the load then, its growth a second, since
    when fewer replicas would do, and the most that would have been needed since."""

    at: float = float("-inf")
    load: float = 0.0
    growth: float = 0.0
    calm_since: float | None = None
    peak: int = 0


@dataclass(frozen=True)
class Engine:
    """One engine now. `target` replicas are ordered, `ready` of them answer, `held` are ordered or
    still exist, those on their way out too. `load` counts requests at engines and at gateways,
    `kv` is the fullest replica's share of its cache, `ttft_s` what first tokens take of late (0:
    unknown), `idle_s` how long ago the last request came, `cold_s` how long a start takes."""

    id: str
    bounds: Bounds
    target: int
    ready: int = 0
    held: int = 0
    load: int = 0
    kv: float = 0.0
    ttft_s: float = 0.0
    idle_s: float = float("inf")
    cold_s: float = 60.0
    trend: Trend = field(default_factory=Trend)


@dataclass(frozen=True)
class Limits:
    """Of all engines together: what they may cost, USD an hour (None: anything), and how many units
    of a kind there may be."""

    usd_per_hour: float | None = None
    quotas: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What one engine gets, why, and the trend to show to the next plan."""

    id: str
    target: int
    reason: str
    trend: Trend


@dataclass(frozen=True)
class Plan:
    """A step for every engine, in the order that they were given; what it costs, USD an hour, with
    what is still being given back."""

    steps: tuple[Step, ...]
    usd_per_hour: float

    def __getitem__(self, id: str) -> Step:
        return next(step for step in self.steps if step.id == id)


def autoscale(snapshot: Iterable[Engine], limits: Limits, now: float) -> Plan:
    """Decide. `now` is a monotonic reading in seconds.

    Every target lies between its engine's min and max. The cost and the units of the targets stay
    within the limits as long as those of the minima do; with what is still held they never grow
    beyond the limits.
    """
    engines = tuple(snapshot)
    wished = tuple(_wish(engine, now) for engine in engines)
    granted = _grant(engines, wished, limits)
    steps = tuple(
        step if step.target == granted[step.id] else _cut(step, granted[step.id], limits)
        for step in wished
    )
    return Plan(steps, sum(max(granted[e.id], e.held) * e.bounds.usd_per_hour for e in engines))


def needed(engine: Engine, load: float, share: float) -> int:
    """Replicas that have a seat for `load` requests when `share` of the seats is in use."""
    return math.ceil(load / (engine.bounds.seats * share) - _ROUNDING)


def _wish(engine: Engine, now: float) -> Step:
    """What the engine would get if nothing but its own bounds counted."""
    bounds, trend = engine.bounds, _followed(engine, now)
    more, why = _most(engine, trend)
    floor, target = bounds.min, min(max(engine.target, bounds.min), bounds.max)
    if min(more, bounds.max) > target:
        return Step(engine.id, min(more, bounds.max), why, replace(trend, calm_since=None, peak=0))
    if target > floor == 0 and not engine.load and engine.idle_s >= _patience(engine):
        gone = replace(trend, calm_since=None, peak=0, growth=0.0)
        return Step(engine.id, 0, f"nobody asked for {engine.idle_s:.0f} s", gone)
    least = max(floor, min(1, target), more, needed(engine, engine.load, EMPTY))
    if least >= target:
        return Step(engine.id, target, "as it is", replace(trend, calm_since=None, peak=0))
    since = now if trend.calm_since is None else trend.calm_since
    peak = max(trend.peak, least)
    if now - since < bounds.calm_s:
        calm = replace(trend, calm_since=since, peak=peak)
        return Step(engine.id, target, f"{peak} would do, for {now - since:.0f} s", calm)
    done = replace(trend, calm_since=None, peak=0)
    return Step(engine.id, min(peak, target), f"{peak} did for {now - since:.0f} s", done)


def _most(engine: Engine, trend: Trend) -> tuple[int, str]:
    """The most that any sign asks for, and that sign."""
    bounds, ready = engine.bounds, engine.ready
    ahead = min(engine.load + trend.growth * engine.cold_s, STEEPEST * engine.load)
    signs = [(needed(engine, engine.load, FULL), f"{engine.load} requests")]
    # What half of one replica can do is no burst: one request after a pause would be a steep one.
    if ahead > engine.load > bounds.seats * EMPTY:
        what = f"{ahead:.0f} requests expected in {engine.cold_s:.0f} s"
        signs.append((needed(engine, ahead, FULL), what))
    # What has not started yet is not late: these look at the replicas that answer.
    if ready and ready >= engine.target:
        if engine.kv > bounds.kv:
            signs.append((ready + 1, f"{engine.kv:.0%} of the KV cache in use"))
        if engine.load and engine.ttft_s > bounds.ttft_s:
            late = f"first tokens after {engine.ttft_s:.2f} s, target {bounds.ttft_s:g} s"
            signs.append((ready + 1, late))
    return max(signs, key=lambda sign: sign[0])


def _followed(engine: Engine, now: float) -> Trend:
    """The trend with this moment: growth of the load, smoothed over SMOOTHED_S."""
    before, load = engine.trend, float(engine.load)
    passed = now - before.at
    if not 0 < passed < math.inf:
        return replace(before, at=now, load=load)
    weight = 1 - math.exp(-passed / SMOOTHED_S)
    growth = before.growth + weight * ((load - before.load) / passed - before.growth)
    return replace(before, at=now, load=load, growth=growth)


def _patience(engine: Engine) -> float:
    """An engine is kept idle at least as long as it takes to start again."""
    return max(engine.bounds.idle_s, engine.cold_s)


def _grant(engines: tuple[Engine, ...], wished: tuple[Step, ...], limits: Limits) -> dict[str, int]:
    """The targets within the limits: the minima, then what engines have already, then one replica
    at a time, first to those with work and none that answers, then to those with the fewest for
    their load. What is held by one that shrinks counts until it is given back."""
    wish = {step.id: step.target for step in wished}
    granted = {e.id: min(e.bounds.min, wish[e.id]) for e in engines}
    while True:
        short = [e for e in engines if granted[e.id] < wish[e.id]]
        fitting = [e for e in short if _fits(engines, granted, e, limits)]
        if not fitting:
            return granted
        granted[min(fitting, key=lambda e: _rank(e, granted[e.id])).id] += 1


def _rank(engine: Engine, granted: int) -> tuple[bool, bool, float, str]:
    """What is there before what is new, those first whose requests find nobody, then by replicas
    for each seat's worth of load."""
    new, starved = granted >= engine.target, engine.load > 0 and granted == 0
    ratio = (granted + 1) * engine.bounds.seats / max(engine.load, 0.01)
    return new, not starved, ratio, engine.id


def _fits(
    engines: tuple[Engine, ...], granted: Mapping[str, int], one: Engine, limits: Limits
) -> bool:
    """Whether one replica more for `one` keeps the limits. Up to what an engine holds, its replicas
    are paid for already: there only the sum of the targets counts."""
    after = {**granted, one.id: granted[one.id] + 1}
    grows = after[one.id] > one.held
    totals = [after]
    if grows:
        totals.append({e.id: max(after[e.id], e.held) for e in engines})
    return all(_within(engines, total, one.bounds.kind, limits) for total in totals)


def _within(
    engines: tuple[Engine, ...], counts: Mapping[str, int], kind: str, limits: Limits
) -> bool:
    if limits.usd_per_hour is not None:
        cost = sum(counts[e.id] * e.bounds.usd_per_hour for e in engines)
        if cost > limits.usd_per_hour + _ROUNDING:
            return False
    if kind not in limits.quotas:
        return True
    units = sum(counts[e.id] * e.bounds.units for e in engines if e.bounds.kind == kind)
    return units <= limits.quotas[kind]


def _cut(step: Step, target: int, limits: Limits) -> Step:
    what = f"{step.target} wished ({step.reason}), but quota or ceiling"
    if limits.usd_per_hour is not None:
        what += f" of {limits.usd_per_hour:g} USD an hour"
    return replace(step, target=target, reason=f"{what} allows {target}")
