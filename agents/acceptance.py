"""An operator accepts tools of an MCP server: pinned for the connector, journaled for the audit."""

from collections.abc import Iterable
from typing import Final

from agents.events import RunEnded
from agents.journal import require_line, require_name
from agents.journal_sql import SqlJournal
from agents.toolbox import Pin, Pins, require_sound
from cluster.ids import Clock

WORKFLOW: Final = "accept_tools"


def accept(
    journal: SqlJournal, clock: Clock, tenant: str, pins: Pins, said: Iterable[Pin], by: str,
    why: str,
) -> list[Pin]:  # fmt: skip
    """Pin what is new or changed of `said`; those. InvalidInput for a schema that would not be
    checked, and for nobody's word; nothing is accepted then."""
    require_name("by", by)
    require_line("why", why)
    offered = list(said)
    for pin in offered:
        require_sound(pin)
    with journal.connection():
        # Journaled first: a pin without its record can't be, a record without its pin is asked
        # for again.
        fresh = pins.fresh(offered)
        for pin in fresh:
            given = {
                "tenant": tenant, "tool": pin.name, "hash": pin.hash, "by": by, "why": why,
                "description": pin.description,
            }  # fmt: skip
            key = f"{WORKFLOW}:{pin.name}:{clock.now()!r}"
            run, _ = journal.create(tenant, key, WORKFLOW, f"{WORKFLOW}/{pin.server}", given)
            ended = RunEnded(decision="accepted", reason=why or f"by {by}", result=given)
            journal.append(run, 0, [ended])
    pins.accept(fresh, by, clock.now())
    return fresh
