"""What stands beside the runs: agents, their snapshots, schedules; in the journal's database.

A snapshot saves an agent's activation from reading all its runs. It is never the truth: one of
another version is left alone, and the state is folded from the runs again.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text

from agents.journal_sql import SqlJournal
from agents.specs import AgentSpec, ScheduleSpec
from agents.state import AgentState
from cluster.errors import Conflict, NotFound
from cluster.ids import Clock

SNAPSHOT_VERSION: Final = 1

_DEFINE = text("INSERT INTO agents VALUES (:t, :a, :w, 'active', :s, :at)")
_AGENTS = "SELECT agent, status, spec, created_at FROM agents WHERE tenant = :t"
_STOP = text("UPDATE agents SET status = 'stopped' WHERE tenant = :t AND agent = :a")
_SNAPSHOT = text(
    "SELECT state FROM snapshots WHERE tenant = :t AND agent = :a AND version = :v"
)  # fmt: skip
_KEEP = text(
    "INSERT INTO snapshots VALUES (:t, :a, :v, :s) ON CONFLICT (tenant, agent)"
    " DO UPDATE SET version = :v, state = :s"
)
_SCHEDULE = text(
    "INSERT INTO schedules VALUES (:t, :n, :s, :at) ON CONFLICT (tenant, name)"
    " DO UPDATE SET spec = :s, next_at = :at"
)
_SCHEDULES = text("SELECT tenant, name, spec, next_at FROM schedules ORDER BY tenant, name")
_UNSCHEDULE = text("DELETE FROM schedules WHERE tenant = :t AND name = :n")


@dataclass(frozen=True)
class AgentRow:
    """An agent as registered. `status` is active or stopped."""

    spec: AgentSpec
    status: str
    created_at: float


@dataclass(frozen=True)
class ScheduleRow:
    """A schedule and when it begins a run next, in seconds since the epoch."""

    tenant: str
    spec: ScheduleSpec
    next_at: float


class Registry:
    """Every method is one transaction, or part of the journal's when called within one."""

    def __init__(self, journal: SqlJournal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    def define(self, tenant: str, spec: AgentSpec) -> AgentRow:
        """Register an agent. Asking again with the same spec changes nothing; Conflict when there
        is another agent of that id."""
        with self._journal.connection() as connection:
            found = self._found(tenant, spec.id)
            if found is not None and found.spec != spec:
                raise Conflict(f"agent {spec.id}", "it exists already, and is another one")
            if found is not None:
                return found
            row = AgentRow(spec, "active", self._clock.now())
            connection.execute(
                _DEFINE,
                {
                    "t": tenant, "a": spec.id, "w": spec.workflow, "s": spec.model_dump_json(),
                    "at": row.created_at,
                },
            )  # fmt: skip
            return row

    def agent(self, tenant: str, agent: str) -> AgentRow:
        """A registered agent; NotFound when there is none."""
        found = self._found(tenant, agent)
        if found is None:
            raise NotFound("agent", agent)
        return found

    def agents(self, tenant: str, after: str = "", limit: int = 100) -> list[AgentRow]:
        """A tenant's agents by id, those behind `after`."""
        query = text(f"{_AGENTS} AND agent > :after ORDER BY agent LIMIT :n")
        with self._journal.connection() as connection:
            rows = connection.execute(query, {"t": tenant, "after": after, "n": limit}).all()
        return [_agent(row) for row in rows]

    def stop(self, tenant: str, agent: str) -> None:
        """Take no more messages for this agent. NotFound when there is none."""
        with self._journal.connection() as connection:
            if connection.execute(_STOP, {"t": tenant, "a": agent}).rowcount == 0:
                raise NotFound("agent", agent)

    def snapshot(self, tenant: str, agent: str) -> AgentState | None:
        """The agent's last snapshot, or None when it has none that this version can read."""
        given = {"t": tenant, "a": agent, "v": SNAPSHOT_VERSION}
        with self._journal.connection() as connection:
            row = connection.execute(_SNAPSHOT, given).first()
        return None if row is None else AgentState.from_json(str(row[0]))

    def keep_snapshot(self, tenant: str, state: AgentState) -> None:
        """Make this state the agent's snapshot."""
        given = {"t": tenant, "a": state.agent, "v": SNAPSHOT_VERSION, "s": state.as_json()}
        with self._journal.connection() as connection:
            connection.execute(_KEEP, given)

    def schedule(self, row: ScheduleRow) -> None:
        """Add a schedule, or change it."""
        given = {
            "t": row.tenant, "n": row.spec.name, "s": row.spec.model_dump_json(),
            "at": row.next_at,
        }  # fmt: skip
        with self._journal.connection() as connection:
            connection.execute(_SCHEDULE, given)

    def schedules(self) -> list[ScheduleRow]:
        """All schedules."""
        with self._journal.connection() as connection:
            rows: list[Any] = list(connection.execute(_SCHEDULES).all())
        return [ScheduleRow(t, ScheduleSpec.model_validate_json(s), at) for t, _, s, at in rows]

    def unschedule(self, tenant: str, name: str) -> None:
        """Remove a schedule; what it began goes on. NotFound when there is none."""
        with self._journal.connection() as connection:
            if connection.execute(_UNSCHEDULE, {"t": tenant, "n": name}).rowcount == 0:
                raise NotFound("schedule", name)

    def _found(self, tenant: str, agent: str) -> AgentRow | None:
        query = text(f"{_AGENTS} AND agent = :a")
        with self._journal.connection() as connection:
            row = connection.execute(query, {"t": tenant, "a": agent}).first()
        return None if row is None else _agent(row)


def _agent(row: Any) -> AgentRow:
    _, status, spec, created_at = row
    return AgentRow(AgentSpec.model_validate_json(spec), str(status), float(created_at))
