"""An operator accepts tools of an MCP server: pinned for the connector, journaled for the audit."""

from collections.abc import Iterable
from typing import Final

from agents.journal import require_name
from agents.journal_sql import SqlJournal
from agents.noted import note
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
    fresh = pins.fresh(said)
    for pin in fresh:
        require_sound(pin)
    # Journaled first: there is no pin without its record. A record without its pin is asked for
    # again.
    with journal.connection():
        for pin in fresh:
            given = {"tool": pin.name, "hash": pin.hash, "description": pin.description}
            note(journal, clock, tenant, WORKFLOW, pin.name, "accepted", given, by, why)
    pins.accept(fresh, by, clock.now())
    return fresh
