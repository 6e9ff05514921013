"""What a person decided about the system itself, as a run that has ended: so it stands in the same
chained journal as what it changes, and `mainspring audit` covers it."""

from typing import Any

from agents.events import RunEnded
from agents.journal import require_line, require_name
from agents.journal_sql import SqlJournal
from cluster.ids import Clock


def note(
    journal: SqlJournal, clock: Clock, tenant: str, workflow: str, about: str, decision: str,
    given: dict[str, Any], by: str, why: str,
) -> str:  # fmt: skip
    """Write down that `by` decided so, for `why`; the id of the run, of the agent WORKFLOW/ABOUT.
    InvalidInput for nobody's word."""
    require_name("by", by)
    require_line("why", why)
    told = {"tenant": tenant, **given, "by": by, "why": why}
    key = f"{workflow}:{about}:{clock.now()!r}"
    with journal.connection():
        run_id, new = journal.create(tenant, key, workflow, f"{workflow}/{about}", told)
        if new:
            ended = RunEnded(decision=decision, reason=why or f"by {by}", result=told)
            journal.append(run_id, 0, [ended])
    return run_id
