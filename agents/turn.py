"""One turn of a run: phases that are done once, effects that the orchestrator decides and does.

A turn holds no rules and no credentials. A workflow is a function over a Turn; when the host is
killed, the next turn gets the same journal, skips what is done and goes on.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from agents.events import PhaseDone, RunEnded
from agents.policy import Decision
from agents.state import AgentState, RunState
from cluster.ids import Clock


@dataclass(frozen=True)
class Acted:
    """What became of a step: `receipt` when it was done, `refusal` (code, reason) when the
    connector refused, neither when policy did not allow it."""

    decision: Decision
    receipt: dict[str, Any] | None = None
    refusal: tuple[str, str] | None = None


class Office(Protocol):
    """What a turn asks of the orchestrator."""

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        """Journal facts. Raises StaleEpoch when another owner has taken the run."""

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        """Decide a step and, when allowed, do it once. Asking again gives the same answer."""


class Turn:
    """A run being worked on under `epoch`."""

    def __init__(
        self, run: RunState, epoch: int, agent: AgentState, office: Office, clock: Clock
    ) -> None:
        self.run = run
        self.agent = agent
        self._epoch = epoch
        self._office = office
        self._clock = clock

    async def phase(
        self, name: str, work: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """The result of `work`, which is done once in the life of the run."""
        if name in self.run.phases:
            return self.run.phases[name]
        started = self._clock.monotonic()
        result = await work()
        seconds = self._clock.monotonic() - started
        done = PhaseDone(phase=name, result=result, seconds=seconds)
        await self._office.append(self.run.run_id, self._epoch, [done])
        return result

    async def act(self, step: str, tool: str, args: dict[str, Any]) -> Acted:
        """Ask the orchestrator for one effect. `step` names it within the run."""
        return await self._office.act(self.run.run_id, self._epoch, step, tool, args)

    async def end(self, decision: str, reason: str, result: dict[str, Any]) -> None:
        """The run's outcome; nothing can be added after it."""
        ended = RunEnded(decision=decision, reason=reason, result=result)
        await self._office.append(self.run.run_id, self._epoch, [ended])
