"""PURE: which turn is worked on next, when more wait than there are slots.

Interactive turns come before background ones, and background ones never hold all slots: some are
kept free, so that an interactive turn never waits behind long background work. Within a class
tenants take turns, and an agent has one turn at a time, in the order in which they came.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final, get_args

from agents.events import Priority

PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)

Agent = tuple[str, str]
"""A tenant and its agent."""


@dataclass(frozen=True)
class Queued:
    """A run that wants a turn since `since` (seconds of a monotonic clock)."""

    run_id: str
    tenant: str
    agent: str
    priority: Priority
    since: float

    @property
    def whose(self) -> Agent:
        return self.tenant, self.agent


class TurnQueue:
    """`slots` turns at once, at most `background` of them background ones. Its length is bounded by
    the number of open runs, each of which is in it at most once."""

    def __init__(self, slots: int, background: int) -> None:
        self._slots = slots
        self._background = background
        self._waiting: dict[str, Queued] = {}
        self._working: dict[str, Queued] = {}
        self._busy: set[Agent] = set()
        self._lanes: dict[tuple[Agent, Priority], deque[Queued]] = {}
        # Whose lane may be served, by class and tenant; who was served last stands last.
        self._ready: dict[Priority, OrderedDict[str, OrderedDict[Agent, None]]] = {
            priority: OrderedDict() for priority in PRIORITIES
        }

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._waiting or run_id in self._working

    def waiting(self, priority: Priority) -> int:
        """How many turns of a class wait."""
        return sum(q.priority == priority for q in self._waiting.values())

    def add(self, turn: Queued) -> None:
        """Let a run wait for its turn; once is enough."""
        if turn.run_id in self:
            return
        self._waiting[turn.run_id] = turn
        self._lanes.setdefault((turn.whose, turn.priority), deque()).append(turn)
        self._offer(turn.whose, turn.priority)

    def next(self) -> Queued | None:
        """The turn to begin now, or None when all slots are taken or nobody may be served."""
        if len(self._working) >= self._slots:
            return None
        for priority in PRIORITIES:
            if priority == "background" and self._in_background() >= self._background:
                continue
            if turn := self._take(priority):
                return turn
        return None

    def done(self, run_id: str) -> None:
        """The run's turn is over; its slot and its agent are free again."""
        turn = self._working.pop(run_id)
        self._busy.discard(turn.whose)
        for priority in PRIORITIES:
            if (turn.whose, priority) in self._lanes:
                self._offer(turn.whose, priority)

    def _take(self, priority: Priority) -> Queued | None:
        tenants = self._ready[priority]
        if not tenants:
            return None
        tenant, agents = tenants.popitem(last=False)
        agent, _ = agents.popitem(last=False)
        if agents:
            tenants[tenant] = agents
        lane = self._lanes[agent, priority]
        turn = lane.popleft()
        if not lane:
            del self._lanes[agent, priority]
        self._busy.add(agent)
        for other in PRIORITIES:
            self._withdraw(agent, other)
        del self._waiting[turn.run_id]
        self._working[turn.run_id] = turn
        return turn

    def _offer(self, agent: Agent, priority: Priority) -> None:
        if agent not in self._busy:
            self._ready[priority].setdefault(agent[0], OrderedDict()).setdefault(agent)

    def _withdraw(self, agent: Agent, priority: Priority) -> None:
        agents = self._ready[priority].get(agent[0])
        if agents is not None:
            agents.pop(agent, None)
            if not agents:
                del self._ready[priority][agent[0]]

    def _in_background(self) -> int:
        return sum(turn.priority == "background" for turn in self._working.values())
