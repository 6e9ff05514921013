"""What governance adds to a durable effect: `make bench-governance`.

With: the policy decides, an intent is minted, verified in the connector's own process and used up,
checkpoints are sealed. Without: the same actors, journal and full sync, but everything is allowed
and no token is made or looked at. Both in one run, in turns, one effect after the other. Beside it
what each part costs by itself in one process, and forged and stolen tokens: all have to be refused.
"""

import argparse
import functools
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.intents import Call, Guard
from agents.policy import Decision, Policy, Request
from agents.policy_cases import read, tried
from benchmarks.actors import LIMIT_S, Rules, actors, governed, ray_started, sql_journal
from benchmarks.durability import Ledger, workflows
from benchmarks.report import Figure, write
from benchmarks.token_forgeries import KINDS, Office, forged
from cluster.errors import IntentRefused
from cluster.session import actor
from cluster.settings import AgentsSection, infra_path

ADDED_P50_MS: Final = 1.5
ADDED_P99_MS: Final = 5.0
_CASES: Final = 10_000
_WARM: Final = 30


class Permissive:
    """In the policy's place: everything is allowed, nothing is looked at."""

    def decide(self, request: Request, settled: Any = ()) -> Decision:
        """As `agents.policy.Policy.decide`."""
        return Decision("allow", "none", f"nobody asks about {request.tool}")


class Tokenless:
    """In the mint's place."""

    def mint(self, run: str, step: str, call: Call) -> bytes:
        """As `agents.intents.Mint.mint`."""
        return b""


class Unguarded(Ledger):
    """In the connector's place: it does what it is asked."""

    def __init__(self, make_guard: Callable[[], Guard]) -> None:
        super().__init__(make_guard)

    def call(
        self, tool: str, key: str, ticket: str, args: dict[str, Any], token: bytes,
        traceparent: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """As `agents.guarded.Guarded.call`."""
        return self.perform(tool, key, ticket, args)


class Stepped:
    """A clock that goes on when it is told."""

    def __init__(self) -> None:
        self._at = 1.8e9

    def now(self) -> float:
        """As `cluster.ids.Clock.now`."""
        return self._at

    def monotonic(self) -> float:
        """As `cluster.ids.Clock.monotonic`."""
        return self._at

    def step(self, seconds: float) -> None:
        """Go on by so many seconds."""
        self._at += seconds


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    given_ = _arguments()
    logging.disable(logging.WARNING)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given_.disk)))
        figures = _in_process(folder)
        figures += _forged(folder, given_.cases)
        stack.enter_context(ray_started())
        figures = _added(folder, given_.rounds, given_.steps) + figures
    return write(
        "governance", figures,
        load=f"{given_.rounds} rounds of {given_.steps} effects with and {given_.steps} without, "
        f"one after the other, full sync; {given_.cases} forged or stolen tokens",
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.governance")
    parser.add_argument("--rounds", type=int, default=4, help="with and without, in turns")
    parser.add_argument("--steps", type=int, default=300, help="effects of a round")
    parser.add_argument("--cases", type=int, default=_CASES, help="forged or stolen tokens")
    parser.add_argument("--disk", type=Path, help="folder on the disk to measure; default: /tmp")
    return parser.parse_args()


def _added(folder: Path, rounds: int, steps: int) -> list[Figure]:
    section = AgentsSection(concurrency=4, turn_timeout_s=LIMIT_S)
    bare = Rules(Permissive, Tokenless)
    ways = {"with": (Ledger, governed(folder, section)), "without": (Unguarded, bare)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, (connector, rules) in ways.items():
            print(f"round {number + 1} {way}", file=sys.stderr)
            journal = functools.partial(sql_journal, f"sqlite:///{folder}/{way}.db", folder)
            with actors(journal, connector, (), workflows, section, folder, rules=rules):
                seconds[way] += _effects(f"{way}-{number}", steps)
    took = {way: 1e3 * np.quantile(s, [0.5, 0.99]) for way, s in seconds.items()}
    p50, p99 = took["with"] - took["without"]
    return [
        Figure("added to a durable effect, p50 ms", float(p50), ADDED_P50_MS),
        Figure("added to a durable effect, p99 ms", float(p99), ADDED_P99_MS),
        *(
            Figure(f"a durable effect {way}, p{q} ms", float(took[way][i]))
            for way in ways
            for i, q in enumerate((50, 99))
        ),
    ]


def _effects(name: str, steps: int) -> list[float]:
    """Seconds of each of so many effects of one run."""
    owner = actor("orchestrator")
    given_ = {"steps": steps + _WARM}
    run = ray.get(owner.submit.remote("t", name, "steps", name, given_), timeout=LIMIT_S)
    (state,) = ray.get(owner.wait.remote([run], LIMIT_S), timeout=LIMIT_S)
    told: list[float] = state.ended.result["seconds"]
    return told[_WARM:]


def _in_process(folder: Path) -> list[Figure]:
    policy = Policy.load(infra_path("policy", "support.cedar"))
    cases = read(infra_path("policy", "support.cases.yaml"))
    began, count = time.perf_counter(), 0
    while count < 5_000:
        count += sum(1 for _ in tried(policy, cases))
    decisions = count / (time.perf_counter() - began)
    office = Office(folder / "timed", Stepped())
    calls = [Call("refund", f"{n:040}", "T-1", {"amount_cents": n}) for n in range(2_000)]
    began = time.perf_counter()
    tokens = [office.mint.mint("run", "step", call) for call in calls]
    minted = (time.perf_counter() - began) / len(calls)
    began = time.perf_counter()
    for token, call in zip(tokens, calls, strict=True):
        office.guard.require(token, call)
    verified = (time.perf_counter() - began) / len(calls)
    return [
        Figure("decisions/s in one process, all shipped cases", decisions, None, "at least"),
        Figure("a token minted, mean ms", 1e3 * minted),
        Figure("a token verified and used up, mean ms", 1e3 * verified),
    ]


def _forged(folder: Path, cases: int) -> list[Figure]:
    """What became of forged and stolen tokens."""
    came: Counter[str] = Counter()
    for kind in KINDS:
        office = Office(folder / kind.replace("'", ""), Stepped())
        # The file of refusals has its own tests; what counts here is the guard.
        office.guard = Guard(office.trusted, office.clock, lambda _call, _why: None)
        came += _shown(office, kind, -(-cases // len(KINDS)))
    return [
        Figure("forged or stolen tokens tried", sum(came.values()), cases, "at least"),
        Figure("of them accepted", came["accepted"], 0),
        Figure("of them refused for another reason", came["another reason"], 0),
    ]


def _shown(office: Office, kind: str, cases: int) -> Counter[str]:
    """How the guard took so many tokens of a kind."""
    came: Counter[str] = Counter()

    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        token, call = forged(office, kind, data.draw)
        try:
            office.guard.require(token, call)
            came["accepted"] += 1
        except IntentRefused as refused:
            came["refused" if refused.reason in KINDS[kind] else "another reason"] += 1

    one()
    print(f"{sum(came.values())} {kind}: {dict(came)}", file=sys.stderr)
    return came


if __name__ == "__main__":
    sys.exit(main())
