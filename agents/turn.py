"""One turn of a run: phases that are done once, effects that the orchestrator decides and does.

A turn holds no rules and no credentials. A workflow is a function over a Turn; when the host is
killed, the next turn gets the same journal, skips what is done and goes on.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agents.events import PhaseDone, Priority, RunEnded, WaitBegun
from agents.policy import Decision
from agents.specs import AgentSpec
from agents.state import AgentState, RunState
from agents.taint import UNKNOWN, Label
from agents.waits import Came
from cluster.ids import Clock


@dataclass(frozen=True)
class Acted:
    """What became of a step: `receipt` when it was done, `refusal` (code, reason) when the
    connector refused, neither when policy did not allow it. One that is `pending` waits for a
    person, or for its rate: the run waits with it."""

    decision: Decision
    receipt: dict[str, Any] | None = None
    refusal: tuple[str, str] | None = None
    pending: bool = False


@dataclass(frozen=True)
class Child:
    """A run that another one wants done: `workflow` on `input`, by `agent` (default: its own), in
    the class `priority` (default: that of the run that asks)."""

    workflow: str
    input: dict[str, Any] = field(default_factory=dict)
    agent: str = ""
    priority: Priority | None = None


class Suspended(BaseException):
    """The turn is over because the run waits; the next one begins when what it waits for comes.
    Not an Exception: a workflow that catches those must not go on without it."""


class Office(Protocol):
    """What a turn asks of the orchestrator."""

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        """Journal facts. Raises StaleEpoch when another owner has taken the run."""

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        """Decide a step and, when allowed, do it once. Asking again gives the same answer."""

    async def wait(self, run_id: str, epoch: int, wait: WaitBegun) -> Came | None:
        """Journal that the run waits; what came of it, or None while nothing has."""

    async def spawn(
        self, run_id: str, epoch: int, step: str, children: Sequence[Child]
    ) -> list[str]:
        """The ids of these runs, begun once however often they are asked for."""


class Turn:
    """A run being worked on under `epoch`. `spec` is how its agent was registered, if it was."""

    def __init__(
        self, run: RunState, epoch: int, agent: AgentState, office: Office, clock: Clock,
        spec: AgentSpec | None = None,
    ) -> None:  # fmt: skip
        self.run = run
        self.agent = agent
        self.spec = spec
        self._epoch = epoch
        self._office = office
        self._clock = clock

    async def phase(
        self,
        name: str,
        work: Callable[[], Awaitable[dict[str, Any]]],
        label: Callable[[dict[str, Any]], Label] = lambda _result: UNKNOWN,
    ) -> dict[str, Any]:
        """The result of `work`, which is done once in the life of the run. `label` says of the
        result what was read for it."""
        if name in self.run.phases:
            return self.run.phases[name]
        started = self._clock.monotonic()
        result = await work()
        seconds = self._clock.monotonic() - started
        done = PhaseDone(phase=name, result=result, seconds=seconds, label=str(label(result)))
        await self._office.append(self.run.run_id, self._epoch, [done])
        return result

    async def act(self, step: str, tool: str, args: dict[str, Any]) -> Acted:
        """Ask the orchestrator for one effect. `step` names it within the run, which waits for as
        long as the step has to: for a person's answer, say."""
        acted = await self._office.act(self.run.run_id, self._epoch, step, tool, args)
        if acted.pending:
            raise Suspended
        return acted

    async def sleep(self, step: str, seconds: float) -> None:
        """Go on after `seconds`, whoever lives then. No host is held meanwhile."""
        await self._wait(WaitBegun(step=step, awaited="timer", until=self._clock.now() + seconds))

    async def signal(
        self, step: str, name: str, timeout_s: float | None = None
    ) -> dict[str, Any] | None:
        """The oldest signal `name` not yet taken, as its `value` and who sent it (`by`); None when
        none came within `timeout_s` seconds."""
        wait = WaitBegun(step=step, awaited="signal", signal=name, until=self._until(timeout_s))
        told: dict[str, Any] | None = await self._wait(wait)
        return told

    async def children(
        self, step: str, children: Sequence[Child], timeout_s: float | None = None
    ) -> list[dict[str, Any]] | None:
        """Have these runs done beside each other; their `run`, `decision`, `reason` and `result` in
        the order asked for, once all have ended. None when they took longer than `timeout_s`
        seconds; they go on then."""
        if step in self.run.waited:
            known: list[dict[str, Any]] | None = self.run.waited[step]
            return known
        ids = await self._office.spawn(self.run.run_id, self._epoch, step, children)
        until = self._until(timeout_s)
        told: list[dict[str, Any]] | None = await self._wait(
            WaitBegun(step=step, awaited="runs", runs=tuple(ids), until=until)
        )
        return told

    async def begin(self, step: str, children: Sequence[Child]) -> list[str]:
        """The ids of these runs, begun once; this one goes on and does not wait for them."""
        return await self._office.spawn(self.run.run_id, self._epoch, step, children)

    def _until(self, timeout_s: float | None) -> float | None:
        return None if timeout_s is None else self._clock.now() + timeout_s

    async def _wait(self, wait: WaitBegun) -> Any:
        if wait.step in self.run.waited:
            return self.run.waited[wait.step]
        found = await self._office.wait(self.run.run_id, self._epoch, wait)
        if found is None:
            raise Suspended
        return found.value

    async def end(self, decision: str, reason: str, result: dict[str, Any]) -> None:
        """The run's outcome; nothing can be added after it."""
        ended = RunEnded(decision=decision, reason=reason, result=result)
        await self._office.append(self.run.run_id, self._epoch, [ended])
