"""A discrete-event model of the stack, on simpy: gateways, the one database, the one directory, and
engines that batch. It decides with our own `autoscale` and places requests by the router's rule: a
conversation's own replica (a random one: conversations are many), as long as it has hardly more to
do than the least loaded one.

Not modelled: the network, prefixes that are cached, priorities, engines that fail.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import simpy

from cluster.autoscale import Bounds, Engine, Limits, autoscale
from serve.directory import RENEW_S
from serve.router import UNEVEN
from serve.watch import POLL_S

TICK_S: Final = 1.0


@dataclass(frozen=True)
class Times:
    """Service times in seconds. A decode step of an engine with b requests takes
    `step_s + b * seq_s` and gives each of them a token; a prompt counts as `prompt_steps` steps. A
    request costs its gateway `gateway_s` of one core, `routing_s` more for each replica that there
    is, and `token_s` for each token that it passes on; the database's writer is busy for
    `database_s`, the directory for `report_s + replicas * listed_s` at each report of a gateway and
    `renew_s` at each renewal of a replica."""

    step_s: float
    seq_s: float
    prompt_steps: float
    seats: int
    gateway_s: float = 0.0
    routing_s: float = 0.0
    token_s: float = 0.0
    database_s: float = 0.0
    report_s: float = 0.0
    listed_s: float = 0.0
    renew_s: float = 0.0
    cold_s: float = 0.0

    def step(self, batch: int) -> float:
        return self.step_s + batch * self.seq_s

    def per_second(self, tokens: int) -> float:
        """Requests that one engine with all seats taken answers."""
        return self.seats / (self.step(self.seats) * (tokens + self.prompt_steps))


@dataclass
class Request:
    """One request on its way; `done` is called at its end."""

    came: float
    tokens: int
    done: Callable[["Request"], None] | None = None
    first: float = 0.0
    ended: float = 0.0
    told: bool = False


class Server:
    """One after the other, in order of coming."""

    def __init__(self) -> None:
        self.free = self.busy = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When work that comes now ends."""
        self.free = max(now, self.free) + seconds
        self.busy += seconds
        return self.free


class Batching:
    """An engine. All who have a seat advance by a step at once, so each one's end is a number of
    steps; time is that of the slowest in reach, one timer an engine."""

    def __init__(self, env: simpy.Environment, times: Times) -> None:
        self._env, self._times = env, times
        self._steps = self._at = 0.0
        self._ends: list[tuple[float, int, Request]] = []
        self._waiting: deque[Request] = deque()
        self._number = self._timer = self._seated = 0
        self.busy = 0.0

    @property
    def load(self) -> int:
        return self._seated + len(self._waiting)

    def take(self, request: Request) -> None:
        """A request comes in."""
        self._advance()
        self._waiting.append(request)
        self._seat()
        self._plan()

    def _seat(self) -> None:
        while self._waiting and self._seated < self._times.seats:
            request = self._waiting.popleft()
            self._seated += 1
            self._push(request, self._times.prompt_steps + 1)

    def _push(self, request: Request, steps: float) -> None:
        self._number += 1
        heapq.heappush(self._ends, (self._steps + steps, self._number, request))

    def _advance(self) -> None:
        passed, self._at = self._env.now - self._at, self._env.now
        if self._seated:
            self._steps += passed / self._times.step(self._seated)
            self.busy += passed

    def _plan(self) -> None:
        self._timer += 1
        if not self._ends:
            return
        left = max(0.0, self._ends[0][0] - self._steps) * self._times.step(self._seated)
        event = self._env.timeout(left, self._timer)
        event.callbacks.append(self._due)

    def _due(self, event: Any) -> None:
        if event.value != self._timer:
            return
        self._advance()
        while self._ends and self._ends[0][0] <= self._steps + 1e-9:
            _, _, request = heapq.heappop(self._ends)
            self._reached(request)
        self._seat()
        self._plan()

    def _reached(self, request: Request) -> None:
        """Its first token, or its last."""
        if not request.told:
            request.told, request.first = True, self._env.now
            if request.tokens > 1:
                self._push(request, request.tokens - 1)
                return
        self._seated -= 1
        request.ended = self._env.now
        if request.done is not None:
            request.done(request)


@dataclass
class World:
    """The stack in the model. `ended` are the answered requests."""

    env: simpy.Environment
    times: Times
    gateways: list[Server]
    engines: list[Batching]
    chance: random.Random
    database: Server = field(default_factory=Server)
    directory: Server = field(default_factory=Server)
    ended: list[Request] = field(default_factory=list)
    waiting: deque[Request] = field(default_factory=deque)
    came: float = float("-inf")
    turn: int = 0
    least: int = 0

    def ask(self, request: Request) -> None:
        """A request comes: through a gateway and the database to an engine."""
        self.came = now = self.env.now
        self.turn += 1
        times, gateway = self.times, self.gateways[self.turn % len(self.gateways)]
        through = gateway.serve(now, times.gateway_s + times.routing_s * len(self.engines))
        # Its tokens come later: they keep others waiting, not its own beginning.
        gateway.serve(now, times.token_s * request.tokens)
        through = self.database.serve(through, times.database_s) if times.database_s else through
        if through <= now:
            self.place(request)
            return
        event = self.env.timeout(through - now)
        event.callbacks.append(lambda _: self.place(request))

    def place(self, request: Request) -> None:
        if not self.engines:
            self.waiting.append(request)
            return
        self.chosen().take(request)

    def chosen(self) -> Batching:
        """By the router's rule; among many engines the least load is looked up now and then."""
        if self.turn % max(1, len(self.engines) // 8) == 0:
            self.least = min(e.load for e in self.engines)
        most = self.least + self.times.seats // UNEVEN
        for _ in range(64):
            one = self.chance.choice(self.engines)
            if one.load <= most:
                return one
        return min(self.engines, key=lambda e: e.load)

    def answered(self, request: Request) -> None:
        self.ended.append(request)


def world(times: Times, engines: int, gateways: int, seed: int = 7) -> World:
    """So many engines that run, and gateways before them."""
    env = simpy.Environment()
    servers = [Server() for _ in range(gateways)]
    return World(
        env, times, servers, [Batching(env, times) for _ in range(engines)], random.Random(seed)
    )


def closed_loop(times: Times, clients: int, count: int, tokens: int) -> list[Request]:
    """`clients` who each have one request under way at one engine until `count` are answered."""
    model = world(times, 1, 1)

    def again(request: Request) -> None:
        model.answered(request)
        if len(model.ended) + clients <= count:
            model.ask(Request(model.env.now, tokens, again))

    for _ in range(clients):
        model.ask(Request(0.0, tokens, again))
    model.env.run()
    return model.ended


def open_loop(model: World, per_second: float, seconds: float, tokens: int) -> None:
    """Requests come at random times at a rate, on the present engines; lengths vary by half."""

    def come() -> Generator[Any, None, None]:
        while model.env.now < seconds:
            yield model.env.timeout(model.chance.expovariate(per_second))
            length = max(1, round(tokens * model.chance.uniform(0.5, 1.5)))
            model.ask(Request(model.env.now, length, model.answered))

    model.env.process(come())
    model.env.process(_directory(model, seconds))
    model.env.run(until=seconds)


def _directory(model: World, seconds: float) -> Generator[Any, None, None]:
    """What the directory hears: reports of gateways, and renewals of replicas, which under load
    come with every change that they look for."""
    times = model.times
    while model.env.now < seconds:
        replicas, gateways = len(model.engines), len(model.gateways)
        work = gateways * (times.report_s + replicas * times.listed_s) / POLL_S
        work += replicas * times.renew_s / RENEW_S
        model.directory.serve(model.env.now, work)
        yield model.env.timeout(1.0)


@dataclass(frozen=True)
class Moment:
    """The scaled engine at one second: replicas ordered and ready, requests in work, what is paid
    for so far, USD."""

    at: float
    target: int
    ready: int
    load: int
    usd: float


def scaled(
    model: World, rates: Iterable[tuple[float, float]], tokens: int, bounds: Bounds, limits: Limits
) -> list[Moment]:
    """Requests at rates that change (from when, so many a second; the last is the end) on engines
    that `autoscale` orders, a second a plan; a replica answers `cold_s` after its order and leaves
    when it has answered what it had."""
    steps = list(rates)
    end = steps[-1][0]
    moments: list[Moment] = []

    def come() -> Generator[Any, None, None]:
        for (since, rate), (until, _) in itertools.pairwise(steps):
            yield model.env.timeout(max(0.0, since - model.env.now))
            while rate and model.env.now < until:
                yield model.env.timeout(model.chance.expovariate(rate))
                model.ask(Request(model.env.now, tokens, model.answered))

    model.env.process(come())
    model.env.process(_scaler(model, bounds, limits, end, moments))
    model.env.run(until=end)
    return moments


def _scaler(
    model: World, bounds: Bounds, limits: Limits, end: float, moments: list[Moment]
) -> Generator[Any, None, None]:
    engine, usd = Engine("engine", bounds, 0, cold_s=model.times.cold_s), 0.0
    ordered: deque[float] = deque()
    leaving: list[Batching] = []
    while model.env.now < end:
        now = model.env.now
        while ordered and now - ordered[0] >= model.times.cold_s:
            ordered.popleft()
            model.engines.append(Batching(model.env, model.times))
        while model.engines and model.waiting:
            model.place(model.waiting.popleft())
        leaving = [one for one in leaving if one.load]
        ready, held = len(model.engines), len(model.engines) + len(ordered) + len(leaving)
        load = sum(e.load for e in model.engines) + len(model.waiting)
        engine = replace(
            engine, ready=ready, held=held, load=load, idle_s=now - model.came,
            ttft_s=_late(model, now),
        )  # fmt: skip
        step = autoscale([engine], limits, now)["engine"]
        _apply(model, step.target, ordered, leaving, now)
        engine = replace(engine, target=step.target, trend=step.trend)
        usd += held * bounds.usd_per_hour * TICK_S / 3600
        moments.append(Moment(now, step.target, ready, load, usd))
        yield model.env.timeout(TICK_S)


def _apply(
    model: World, target: int, ordered: deque[float], leaving: list[Batching], now: float
) -> None:
    while len(model.engines) + len(ordered) < target:
        ordered.append(now)
    while len(model.engines) + len(ordered) > target:
        if ordered:
            ordered.pop()
        else:
            leaving.append(model.engines.pop())


def _late(model: World, now: float) -> float:
    """What first tokens took of late: of the newest answers."""
    newest = [r for r in model.ended[-20:] if now - r.ended < 10]
    return sum(r.first - r.came for r in newest) / len(newest) if newest else 0.0


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of them lie; NaN of none."""
    found = sorted(values)
    return found[min(len(found) - 1, int(share * len(found)))] if found else math.nan


def fitted(
    low: tuple[int, float, float], high: tuple[int, float, float], tokens: int, seats: int
) -> Times:
    """The engine whose answers take what two levels of a closed loop measured: of each its clients,
    the mean time to the first token and that to the last, seconds. A level in between is then a
    forecast."""
    (few, first, whole), (many, _, whole_many) = low, high
    step_few = (whole - first) / (tokens - 1)
    prompt = max(0.0, first / step_few - 1)
    step_many = whole_many / (prompt + tokens)
    seq = max(0.0, (step_many - step_few) / (many - few))
    return Times(step_few - few * seq, seq, prompt, seats)
