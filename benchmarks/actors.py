"""The actors of a stack without its models, as a stack starts them: what the benchmarks of durable
runs work on."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray

from agents.audit import Audit
from agents.facts import Thresholds
from agents.guarding import KEYS, audit, guard, mint
from agents.host import Workflow, start_host
from agents.intent_keys import ensure
from agents.journal_sql import SqlJournal
from agents.orchestrator import Names, Orchestrator
from agents.owners import orchestrator_names
from agents.policy import Policy
from agents.state import RunState
from cluster.ids import Clock, SystemClock, SystemIds
from cluster.session import NAMESPACE, start
from cluster.settings import AgentsSection, RaySection, infra_path

CONNECTOR: Final = "ledger"
LIMIT_S: Final = 600.0
_AT_ONCE: Final = 64

MakeJournal = Callable[[], SqlJournal]


@dataclass(frozen=True)
class Rules:
    """What makes an orchestrator's policy, its mint and its checkpoints."""

    policy: Callable[[], Any]
    mint: Callable[[], Any]
    audit: Callable[[SqlJournal], Audit] | None = None


def governed(folder: Path, section: AgentsSection) -> Rules:
    """Those of a stack whose data lie in `folder`."""
    return Rules(
        functools.partial(Policy.load, infra_path("policy", section.policy)),
        functools.partial(mint, folder, section.intent_s),
        functools.partial(audit, folder),
    )


@contextmanager
def ray_started() -> Iterator[None]:
    """Ray on this machine for the length of the block."""
    start(RaySection())
    try:
        yield
    finally:
        ray.shutdown()


def sql_journal(url: str, folder: Path) -> SqlJournal:
    """The journal as a stack has it."""
    return SqlJournal(url, folder, SystemClock(), SystemIds())


@contextmanager
def actors(
    make_journal: MakeJournal, connector: type, arguments: tuple[Any, ...],
    workflows: Callable[[], dict[str, Workflow]], section: AgentsSection, folder: Path,
    clock: Clock | None = None, rules: Rules | None = None,
) -> Iterator[Any]:  # fmt: skip
    """The first orchestrator's handle, with the others, hosts and a connector beside it; all of
    them restart by themselves. The keys of intents lie in `folder`."""
    ensure(folder / KEYS)
    names = named(section)
    spawn = functools.partial(start_host, workflows, section.idle_s)
    started = [
        _started(CONNECTOR, connector, functools.partial(guard, folder), *arguments, threads=8),
        *(spawn(h) for h in names.hosts),
    ]
    owners = [
        begin_orchestrator(name, make_journal, section, names, spawn, clock, number, folder, rules)
        for number, name in enumerate(names.orchestrators)
    ]
    started += owners
    try:
        ray.get([a.pid.remote() for a in started], timeout=120)
        yield owners[0]
    finally:
        for handle in reversed(started):
            ray.kill(handle)


def named(section: AgentsSection) -> Names:
    """The actors of these settings."""
    hosts = tuple(f"host-{i}" for i in range(section.hosts))
    return Names(CONNECTOR, hosts, orchestrator_names(section.orchestrators))


def begin_orchestrator(
    name: str, make_journal: MakeJournal, section: AgentsSection, names: Names, spawn: Any,
    clock: Clock | None, number: int, folder: Path, rules: Rules | None = None,
) -> Any:  # fmt: skip
    """Orchestrator `number`, under this name."""
    rules = rules or governed(folder, section)
    return _started(
        name, Orchestrator, make_journal,
        rules.policy, rules.mint, section, Thresholds(0.7, 0.5), names, spawn, clock, number,
        rules.audit,
    )  # fmt: skip


def _started(name: str, kind: type, *arguments: Any, threads: int = 1000) -> Any:
    return (
        ray.remote(kind)
        .options(
            name=name, namespace=NAMESPACE, num_cpus=0, max_restarts=-1, max_task_retries=0,
            max_concurrency=threads, lifetime="detached",
        )
        .remote(*arguments)
    )  # fmt: skip


def ended(orchestrator: Any, ids: list[str]) -> list[RunState]:
    """The states of these runs once all have ended; TimeoutError after LIMIT_S."""
    began = time.perf_counter()
    found: list[RunState] = []
    while len(found) < len(ids):
        # A few at a time: an answer holds the states of all that have ended.
        some = ids[len(found) : len(found) + _AT_ONCE]
        states = ray.get(orchestrator.wait.remote(some, 5.0), timeout=LIMIT_S)
        if len(states) == len(some):
            found += states
        elif time.perf_counter() - began > LIMIT_S:
            raise TimeoutError(f"{len(found)} of {len(ids)} runs ended in {LIMIT_S:g} s")
    return found
