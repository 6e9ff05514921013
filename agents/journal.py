"""What a journal promises; `journal_sql.py` keeps the promise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agents.events import Event


@dataclass(frozen=True)
class RunRow:
    """A run as listed. `status` is `open` or `ended`."""

    run_id: str
    tenant: str
    workflow: str
    agent: str
    status: str
    epoch: int
    created_at: float


class Journal(Protocol):
    """Append-only events by run; every method is one transaction, on disk when it returns."""

    def create(
        self, tenant: str, key: str, workflow: str, agent: str, given: dict[str, Any]
    ) -> tuple[str, bool]:
        """The run of (tenant, key) and whether it is new. Asking twice makes one run."""

    def claim(self, run_id: str, reason: str) -> int:
        """Take the run over: the new epoch, higher than any before. NotFound, or Conflict when
        it has ended."""

    def append(self, run_id: str, epoch: int, payloads: Sequence[Any]) -> list[Event]:
        """Add events after the last one. StaleEpoch when a later claim was made; Conflict when
        the run has ended. Adding RunEnded ends the run in the same transaction."""

    def read(self, run_id: str) -> list[Event]:
        """All events of a run in order; NotFound when there is no such run."""

    def runs(
        self, tenant: str | None = None, status: str | None = None, agent: str | None = None
    ) -> list[RunRow]:
        """Runs by tenant, status and agent, oldest first."""

    def verify(self, run_id: str) -> int:
        """How many events the run's hash chain holds; DataError at the first broken link."""
