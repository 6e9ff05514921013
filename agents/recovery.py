"""After a start or a crash: which runs are still open. The orchestrator queues them again."""

from agents.journal import Journal


def open_runs(journal: Journal) -> list[str]:
    """The ids of all runs that have not ended, oldest first."""
    return [row.run_id for row in journal.runs(status="open")]
