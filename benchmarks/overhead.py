"""What stands between a client and its engine, and what it costs: `make bench-overhead`.

Side by side on the same tiny model, the engine on one core, everything else and the client on the
other: bare vLLM; a LiteLLM proxy before it (`--litellm-python` names a Python that has
`litellm[proxy]`; without it that row is left out, and said to be); Ray Serve LLM's own ingress as
it comes, and tuned (no batching of chunks, HAProxy, throughput-optimised); and Mainspring's local
profile with a key, a budget, `auto` and the ledger. A closed loop of 1, 8 and 32 clients streams 16
tokens a request. Beside that, with Mainspring's processes where its profile puts them: whole
answers of up to 24 tokens for 8 clients.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.overhead_load import Round, Target, closed_loop, measure, pooled, shown
from benchmarks.overhead_servers import bare, litellm, mainspring, on_core, ray_ingress
from benchmarks.report import Figure, write

SYSTEMS: Final = ("bare", "litellm", "ray", "ray-tuned", "mainspring")
PEERS: Final = ("litellm", "ray", "ray-tuned")
ADDED_MS: Final = 8.0
SHARE: Final = 0.85
ANSWER_MS: Final = (400.0, 800.0)
_ANSWER_TOKENS: Final = 24
_ANSWER_CLIENTS: Final = 8

Pools = dict[int, dict[str, float]]


class Bench:
    """The systems one after the other. `levels` has requests by concurrency."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self._given, self._folder = given, folder
        self._levels = {1: 10 * given.scale, 8: 40 * given.scale, 32: 80 * given.scale}
        self.rounds: dict[str, dict[int, list[Round]]] = {}
        self.answers: list[float] = []

    def run(self, systems: list[str]) -> None:
        """Start and measure each of `systems`."""
        given = self._given
        if {"bare", "litellm"} & set(systems):
            with bare(given.core) as engine:
                if "bare" in systems:
                    self._measure("bare", engine)
                if "litellm" in systems:
                    with litellm(given.litellm_python, engine, given.other, self._folder) as proxy:
                        self._measure("litellm", proxy)
        for name in ("ray", "ray-tuned"):
            if name in systems:
                place = self._place(name)
                with ray_ingress(name == "ray-tuned", given.core, given.other, place) as ingress:
                    self._measure(name, ingress)
        if "mainspring" in systems:
            with mainspring(given.core, given.other, self._place("mainspring")) as (ours, settle):
                self._interactive(ours)
                settle()
                self._measure("mainspring", ours)

    def pools(self) -> dict[str, Pools]:
        """The figures of each system by concurrency."""
        return {
            name: {level: pooled(rounds) for level, rounds in found.items()}
            for name, found in self.rounds.items()
        }

    def _measure(self, name: str, target: Target) -> None:
        with on_core(self._given.other):
            self.rounds[name] = measure(target, self._levels, self._given.repeats)
        for level, rounds in self.rounds[name].items():
            print(f"{name:<10} at {level:>2}: {shown(pooled(rounds))}", file=sys.stderr)

    def _interactive(self, target: Target) -> None:
        count = 20 * self._given.scale
        ask = closed_loop(target, _ANSWER_CLIENTS, _ANSWER_CLIENTS * 2, _ANSWER_TOKENS)
        asyncio.run(ask)
        ask = closed_loop(target, _ANSWER_CLIENTS, count, _ANSWER_TOKENS)
        self.answers = asyncio.run(ask).whole_s

    def _place(self, name: str) -> Path:
        place = self._folder / name
        place.mkdir()
        return place


def figures(pools: dict[str, Pools], answers: list[float]) -> list[Figure]:
    """What was promised first, then what each system came to."""
    return [*_promised(pools), *_answers(answers), *_measured(pools)]


def _promised(pools: dict[str, Pools]) -> Iterator[Figure]:
    ours, engine = pools.get("mainspring"), pools.get("bare")
    if ours is None:
        return
    if engine is not None:
        for level in ours:
            added = ours[level]["ttft_p50_ms"] - engine[level]["ttft_p50_ms"]
            target = ADDED_MS if level == 1 else None
            yield Figure(f"added TTFT p50 over bare at {level}, ms", added, target)
            share = ours[level]["per_s"] / engine[level]["per_s"]
            least = SHARE if level == 32 else None
            yield Figure(f"share of bare's requests/s at {level}", share, least, "at least")
    peers = [pools[name] for name in PEERS if name in pools]
    if peers:
        for level in ours:
            first = min(p[level]["ttft_p50_ms"] for p in peers)
            yield Figure(
                f"TTFT p50 over the best peer's at {level}", ours[level]["ttft_p50_ms"] / first, 1.0
            )
            most = max(p[level]["per_s"] for p in peers)
            yield Figure(
                f"requests/s over the best peer's at {level}",
                ours[level]["per_s"] / most,
                1.0,
                "at least",
            )


def _answers(answers: list[float]) -> Iterator[Figure]:
    if answers:
        for share, target in zip((0.5, 0.95), ANSWER_MS, strict=True):
            value = 1e3 * float(np.quantile(answers, share))
            name = (
                f"auto, {_ANSWER_TOKENS} tokens, {_ANSWER_CLIENTS} at once, p{share * 100:.0f}, ms"
            )
            yield Figure(name, value, target)


def _measured(pools: dict[str, Pools]) -> Iterator[Figure]:
    for name, found in pools.items():
        for level, pool in found.items():
            for q in (50, 95, 99):
                yield Figure(f"{name} at {level}: TTFT p{q}, ms", pool[f"ttft_p{q}_ms"])
            yield Figure(f"{name} at {level}: requests/s", pool["per_s"])


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    given = _arguments()
    systems = given.only.split(",")
    if unknown := sorted(set(systems) - set(SYSTEMS)):
        raise SystemExit(f"--only: {unknown} are none of {list(SYSTEMS)}")
    if "litellm" in systems and given.litellm_python is None:
        print("litellm: absent, since --litellm-python names no Python that has it")
        systems.remove("litellm")
    with tempfile.TemporaryDirectory(prefix="overhead-", ignore_cleanup_errors=True) as made:
        bench = Bench(given, Path(made))
        with contextlib.suppress(KeyboardInterrupt):
            bench.run(systems)
    return _written(given, bench, systems)


def _written(given: argparse.Namespace, bench: Bench, systems: list[str]) -> int:
    pools = bench.pools()
    details: dict[str, Any] = {
        name: {level: [asdict(r) for r in rounds] for level, rounds in found.items()}
        for name, found in bench.rounds.items()
    }
    peers = {name: pools.get(name, "absent") for name in ("bare", *PEERS)}
    return write(
        "overhead", figures(pools, bench.answers), peers=peers, details=details,
        load=f"{', '.join(systems)}; closed loop of 1, 8 and 32 clients, 16 tokens streamed, "
        f"{given.repeats} repeats; engine on core {given.core}, all else on core {given.other}",
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.overhead")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="some of them, by comma")
    parser.add_argument("--litellm-python", type=Path, help="a Python that has litellm[proxy]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=int, default=4, help="tens of requests of one client")
    parser.add_argument("--core", type=int, default=1, help="of the engine")
    parser.add_argument("--other", type=int, default=0, help="core of all else")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
