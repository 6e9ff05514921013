"""How far a workflow is trusted: a level from 0 (it proposes) to 3, by tenant.

The settings say where it begins. A change is a run of the workflow `autonomy` that has ended, so it
stands in the same chained journal as what it changes, and `mainspring audit` covers it.
"""

from functools import partial
from typing import Final

from agents.commits import Commits
from agents.journal import Journal, require_name
from agents.journal_sql import SqlJournal
from agents.noted import note
from agents.state import fold
from cluster.errors import InvalidInput
from cluster.ids import Clock

WORKFLOW: Final = "autonomy"
HIGHEST: Final = 3
EVERY: Final = "*"
ENOUGH: Final = 20
MAX_RAISED: Final = 0.05
MIN_LOWERED: Final = 0.20
_FRESH_S: Final = 3.0


def change(
    journal: SqlJournal, clock: Clock, tenant: str, workflow: str, level: int, by: str, why: str
) -> str:
    """Set a workflow's level; the id of the run that records it. InvalidInput for no level, and
    for nobody's word."""
    if not 0 <= level <= HIGHEST:
        raise InvalidInput("level", level, f"0 to {HIGHEST}")
    require_name("workflow", workflow)
    given = {"workflow": workflow, "level": level}
    return note(journal, clock, tenant, WORKFLOW, workflow, f"level {level}", given, by, why)


def changed_to(journal: Journal, tenant: str, workflow: str) -> tuple[int | None, float]:
    """The level that was last set and when, in seconds since the epoch; None and 0 when none ever
    was."""
    rows = journal.runs(tenant, "ended", _agent(workflow), limit=1)
    if not rows:
        return None, 0.0
    state = fold(rows[0].run_id, journal.read(rows[0].run_id))
    return int(state.input["level"]), state.started_at


class Autonomy:
    """The levels as an orchestrator sees them: a change counts within three seconds."""

    def __init__(
        self, begin: dict[str, int], journal: Journal, commits: Commits, clock: Clock
    ) -> None:
        self._begin, self._journal = begin, journal
        self._commits, self._clock = commits, clock
        self._known: dict[tuple[str, str], tuple[float, int]] = {}

    async def level(self, tenant: str, workflow: str) -> int:
        """The level of a tenant's workflow; 0 for one that nobody has trusted yet."""
        now = self._clock.monotonic()
        at, level = self._known.get((tenant, workflow), (now - _FRESH_S, 0))
        if now - at >= _FRESH_S:
            found, _ = await self._commits.do(partial(changed_to, self._journal, tenant, workflow))
            begin = self._begin.get(workflow, self._begin.get(EVERY, 0))
            level = begin if found is None else found
            self._known[tenant, workflow] = (now, level)
        return level


def _agent(workflow: str) -> str:
    return f"{WORKFLOW}/{workflow}"


def shown(level: int) -> str:
    """What a level means, for people."""
    return ("proposes", "asks before money", "goes by the policy", "has the larger caps")[level]


def by_rate(level: int, counts: dict[str, int]) -> tuple[int, str]:
    """The level that is right by what people answered (`counts` by answer), and why: one higher
    where they overrode at most MAX_RAISED of at least ENOUGH questions, one lower where they
    overrode at least MIN_LOWERED of them."""
    overridden = counts.get("denied", 0) + counts.get("narrowed", 0)
    answered = overridden + counts.get("approved", 0)
    told = f"{overridden} of {answered} answers were overrides"
    if answered < ENOUGH:
        return level, f"{told}; {ENOUGH} are needed"
    if overridden >= MIN_LOWERED * answered:
        return max(0, level - 1), told
    if overridden <= MAX_RAISED * answered:
        return min(HIGHEST, level + 1), told
    return level, told
