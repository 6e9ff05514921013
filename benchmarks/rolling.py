"""A new version of everything while clients go on: `make bench-rolling`, or `make bench-autoscale
ARGS="--rolling"`.

Real Ray Serve on logical GPU nodes, our gateway as its deployment behind the proxy that a stack
has, directory, swapper and engine life-cycle; the engine is a stand-in that gives tokens by the
clock.
While `--clients` stream answers without a pause, each round does all three: the engines' code is
replaced in place by Serve, another checkpoint takes over from what serves as `distill promote` has
it, and the gateways are replaced. Every answer without its end is counted.
"""

import argparse
import asyncio
import logging
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.report import Figure, write
from cluster.environment import prepare
from cluster.ids import SystemIds, new_secret
from cluster.settings import AccountsSection, GatewaySection, ModelSection

LOAD_S: Final = 3.0
TOKEN_S: Final = 0.05
TOKENS: Final = 40
LONG: Final = 600
"""Tokens of every fourth client's answers: longer than the 20 s that Serve gives an ending replica
if nobody says otherwise."""
ROUNDS: Final = 5
AT_ONCE: Final = 12
SEATS: Final = 8
REPLICAS: Final = 2
GATEWAYS: Final = 2
NODES: Final = 2 * REPLICAS
_CALM_S: Final = 3.0
_LIMIT_S: Final = 180.0
_PLAN: Final = ("engines in place", "another checkpoint", "gateways")


@dataclass
class Seen:
    """What came of requests: `whole` ones, and of each that is not, when it began (seconds after
    the load did) and what was wrong with it. `first_s` are the times to the first token."""

    whole: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)
    first_s: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Step:
    """One replacement: how long it took from `began`, seconds, and what came of the requests that
    began meanwhile or were under way."""

    what: str
    began: float
    seconds: float
    requests: int = 0
    failed: int = 0
    slowest_first_s: float = 0.0


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.rolling")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clients", type=int, default=AT_ONCE)
    parser.add_argument("--only", choices=_PLAN, help="one of the three")
    given = parser.parse_args()
    return measured(given.rounds, given.clients, (given.only,) if given.only else _PLAN)


def measured(rounds: int, clients: int, plan: Sequence[str] = _PLAN) -> int:
    """See `main`."""
    with tempfile.TemporaryDirectory(prefix="rl-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        section = GatewaySection(
            port=_free_port(), haproxy_stats_port=_free_port(), haproxy_metrics_port=_free_port(),
            replicas=GATEWAYS, request_timeout_s=_LIMIT_S,
        )  # fmt: skip
        from serve import haproxy

        further = haproxy.environment(section, folder / "haproxy")
        prepare(folder, SystemIds().new("stack"), further)
        from benchmarks import logical_nodes

        with logical_nodes.cluster(folder, NODES, idle_minutes=1.0):
            steps, seen = asyncio.run(_rolled(folder, section, rounds, clients, plan))
            if seen.failed:
                _show_logs(folder)
    return _report(steps, seen, rounds, clients, plan)


def _show_logs(folder: Path) -> None:
    """What the gateways' replicas complained of."""
    for file in sorted(folder.glob("ray/session_2*/logs/serve/*gateway*")):
        text = file.read_text("utf-8", "replace")
        if (at := text.find("Traceback")) >= 0:
            print(f"--- {file.name}\n{text[max(0, at - 500) :][:4_000]}")


def _report(steps: list[Step], seen: Seen, rounds: int, clients: int, plan: Sequence[str]) -> int:
    for step in steps:
        print(step)
    for began, why in seen.failed:
        print(f"failed after {began:.1f} s: {why}")
    firsts = sorted(s for _, s in seen.first_s)
    figures = [
        Figure("rounds", rounds),
        Figure("requests", seen.whole + len(seen.failed)),
        Figure("failed requests", len(seen.failed), 0),
        *(
            Figure(f"failed while: {what}", sum(s.failed for s in steps if s.what == what))
            for what in plan
        ),
        *(
            Figure(f"{what}, s, most", max(s.seconds for s in steps if s.what == what))
            for what in plan
        ),
        Figure("first token, s, p50", firsts[len(firsts) // 2]),
        Figure("first token, s, most", firsts[-1]),
    ]
    return write(
        "rolling", figures,
        load=f"{clients} clients without a pause, {TOKENS} tokens of {TOKEN_S} s streamed, "
        f"{LONG} to every fourth; "
        f"{REPLICAS} engines of {SEATS} seats that start in {LOAD_S} s on logical GPU nodes, "
        f"{GATEWAYS} gateways",
        details={"steps": [asdict(step) for step in steps], "failed": seen.failed},
    )  # fmt: skip


async def _rolled(
    folder: Path, section: GatewaySection, rounds: int, clients: int, plan: Sequence[str]
) -> tuple[list[Step], Seen]:
    from ray import serve as ray_serve

    stack = await asyncio.to_thread(_Stack, folder, section)
    seen, stop, started = Seen(), asyncio.Event(), time.monotonic()
    spans: list[Step] = []
    try:
        await stack.until_answers()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LIMIT_S)) as http:
            load = [
                asyncio.create_task(
                    _keep_asking(http, section.url, seen, stop, started, TOKENS if n % 4 else LONG)
                )
                for n in range(clients)
            ]
            await asyncio.sleep(_CALM_S)
            for number in range(1, rounds + 1):
                for what, replace in stack.replacements(number).items():
                    if what not in plan:
                        continue
                    spans.append(await _step(what, replace, seen, started))
                    print(f"round {number}: {spans[-1]}", flush=True)
            stop.set()
            await asyncio.gather(*load)
    finally:
        await asyncio.to_thread(ray_serve.shutdown)
    return spans, seen


async def _step(
    what: str, replace: Callable[[], Awaitable[None]], seen: Seen, started: float
) -> Step:
    """Replace, and look at the requests of that time."""
    began, failed, whole = time.monotonic() - started, len(seen.failed), seen.whole
    first = len(seen.first_s)
    await replace()
    seconds = time.monotonic() - started - began
    await asyncio.sleep(_CALM_S)
    return Step(
        what, round(began, 1), round(seconds, 1), seen.whole - whole, len(seen.failed) - failed,
        max((s for _, s in seen.first_s[first:]), default=0.0),
    )  # fmt: skip


class _Stack:
    """Engines, swapper and gateways on Serve, and how each is replaced. The constructor blocks."""

    def __init__(self, folder: Path, section: GatewaySection) -> None:
        import ray
        from ray import serve as ray_serve

        from serve.directory import start_directory
        from serve.engines import Wiring

        self._folder, self._section = folder, section
        self._models = _models()
        self._wiring = Wiring("directory", new_secret(), drain_s=60)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        ray_serve.start(
            proxy_location="HeadOnly", http_options={"host": section.host, "port": section.port}
        )
        ray.get(start_directory("directory").snapshot.remote())
        for number in range(100):
            _checkpoint(folder, f"v{number}")
        self._version: str | None = None
        self._deploy_engine(self._models[0], 0)
        self._deploy_gateway(0)

    def replacements(self, number: int) -> dict[str, Callable[[], Awaitable[None]]]:
        """What is replaced in a round, in order; each returns once nothing old is left."""
        todo: tuple[Callable[[], None], ...] = (
            lambda: self._in_place(number), lambda: self._promoted(number),
            lambda: self._gateways(number),
        )  # fmt: skip
        return {what: _threaded(do) for what, do in zip(_PLAN, todo, strict=True)}

    async def until_answers(self) -> None:
        async with aiohttp.ClientSession() as http:
            deadline = time.monotonic() + _LIMIT_S
            while True:
                seen = Seen()
                try:
                    await _ask(http, self._section.url, seen, 0.0, TOKENS)
                except aiohttp.ClientError as error:
                    seen.failed.append((0.0, repr(error)))
                if seen.whole:
                    return
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no answer: {seen.failed}")
                await asyncio.sleep(0.5)

    def _in_place(self, number: int) -> None:
        model = self._models[0]
        served = model if self._version is None else self._registry().on(self._version)
        before = _replicas(served)
        self._deploy_engine(served, number)
        _until(lambda: not before & _replicas(served) and _settled(_name(served)), "new engines")

    def _promoted(self, number: int) -> None:
        import ray

        from serve.registry import Change
        from serve.swap import Swapper

        version, wiring = f"v{number}", self._wiring

        def deploy(models: Any, _: Any) -> Any:
            self._deploy_engine(models[0], number)
            return ray.put(None)

        swapper = Swapper(self._models, self._folder, wiring, deploy)
        change = Change(
            action="promote", version=version, base=self._models[0].source, at="now", by="bench"
        )
        swapper.swap(self._models[0].id, change, self._version, version)
        self._version = version

    def _gateways(self, number: int) -> None:
        before = _replica_ids("gateway")
        self._deploy_gateway(number)
        _until(lambda: not before & _replica_ids("gateway") and _settled("gateway"), "new gateways")

    def _registry(self) -> Any:
        from serve.registry import Registry

        return Registry(self._folder, self._models[0])

    def _deploy_engine(self, model: ModelSection, number: int) -> None:
        from ray import serve as ray_serve

        from benchmarks.standin import standin_application

        # Another argument is another version to Serve.
        engine = standin_application(model, self._wiring, LOAD_S + number / 1e6, TOKEN_S)
        target = ray_serve.RunTarget(engine, name=_name(model), route_prefix=None)
        ray_serve.run_many([target], wait_for_applications_running=False)

    def _deploy_gateway(self, number: int) -> None:
        from ray import serve as ray_serve

        from serve.gateway_server import Surroundings, gateway_application

        section = self._section.model_copy(update={"cache_entries": 1_000 + number})
        around = Surroundings("directory", self._wiring.secret, AccountsSection(), self._folder)
        gateway = gateway_application(section, self._models, around)
        target = ray_serve.RunTarget(gateway, name="gateway", route_prefix="/")
        ray_serve.run_many([target], wait_for_applications_running=False)


def _threaded(do: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    return lambda: asyncio.to_thread(do)


def _models() -> tuple[ModelSection, ...]:
    """The one that is asked, and one of the other tier that is not served."""
    common: dict[str, Any] = {
        "source": "logical", "usd_per_mtok_in": 0, "usd_per_mtok_out": 0, "device": "gpu",
        "max_num_seqs": SEATS, "max_ongoing_requests": 16, "max_queued_requests": 64,
    }  # fmt: skip
    served = {"id": "logical", "tier": "routine", "replicas": REPLICAS}
    return (
        ModelSection.model_validate(common | served),
        ModelSection.model_validate(common | {"id": "other", "tier": "planner"}),
    )


def _checkpoint(folder: Path, version: str) -> None:
    """A promoted checkpoint, as far as a swap looks at it."""
    at = folder / "checkpoints" / "logical" / version
    at.mkdir(parents=True)
    (at / "config.json").write_text("{}")


def _name(model: ModelSection) -> str:
    from serve.engines import application_name

    return application_name(model)


def _replicas(model: ModelSection) -> set[str]:
    """The ids of the engine's replicas that the directory lists."""
    import ray

    from serve.directory import find_directory

    listed = ray.get(find_directory("directory").snapshot.remote())
    return {r.id for r in listed if r.application == _name(model)}


def _replica_ids(application: str) -> set[str]:
    """The ids of an application's replicas, those that are ending too."""
    from ray.serve.context import _get_global_client

    found: dict[str, Any] = _get_global_client().get_serve_details()["applications"]
    deployments = found.get(application, {}).get("deployments", {}).values()
    return {r["replica_id"] for d in deployments for r in d["replicas"]}


def _settled(application: str) -> bool:
    from ray import serve as ray_serve

    found = ray_serve.status().applications.get(application)
    return found is not None and found.status == "RUNNING"


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_LIMIT_S:.0f} s for {what}")
        time.sleep(0.5)


async def _keep_asking(
    http: aiohttp.ClientSession, url: str, seen: Seen, stop: asyncio.Event, started: float,
    tokens: int,
) -> None:  # fmt: skip
    while not stop.is_set():
        began = time.monotonic() - started
        try:
            await _ask(http, url, seen, began, tokens)
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.failed.append((began, repr(error)[:300]))


async def _ask(
    http: aiohttp.ClientSession, url: str, seen: Seen, began: float, tokens: int
) -> None:
    """One streamed request to its end."""
    body = {
        "model": "logical", "stream": True, "max_tokens": tokens,
        "messages": [{"role": "user", "content": f"hello {time.monotonic_ns()}"}],
    }  # fmt: skip
    at, last, counts = time.monotonic(), b"", Counter[str]()
    async with http.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            seen.failed.append((began, f"{response.status} {(await response.text())[:300]}"))
            return
        async for line in response.content:
            if line.startswith(b"data: "):
                last = line.strip()
                if b'"content"' in line:
                    counts["tokens"] += 1
                    if counts["tokens"] == 1:
                        seen.first_s.append((began, round(time.monotonic() - at, 2)))
    if last == b"data: [DONE]" and counts["tokens"] == tokens:
        seen.whole += 1
    else:
        seen.failed.append((began, f"after {counts['tokens']} tokens: {last.decode()[:300]}"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
