"""PURE: what memory keeps of a support ticket, so that the next day's tickets go better.

A decided ticket is a record of its customer's session: what it was about and how it ended. Evidence
for other tickets it becomes by a person's verdict alone: what was accepted, or what a person wrote
instead, is long-term memory, as a past ticket with its answer. Sentences that name an order, an
amount, a day or a person hold for one customer only and are left out.
"""

import re
from dataclasses import dataclass
from typing import Final

from agents.journal import Feedback, Judgement
from agents.references import PERSONAL, REFERENCE, References
from agents.state import RunState
from agents.taint import UNKNOWN, Label, for_record
from agents.workflows.prompts import without_citations
from memory.log import Note
from memory.records import Origin, Record

DECISION: Final = "decision"
LESSON: Final = "ticket"
GENERAL: Final = Label("tenant", "tenant")
"""What a person let stand, without what holds for one customer only."""
SUPPORT: Final = "support"
"""The workflow that learns so."""
_OF_ONE_CUSTOMER: Final = frozenset({*PERSONAL, "ORDER", "TRACKING", "AMOUNT", "DATE"})
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|\n+")
_GREETING: Final = re.compile(r"(?:dear|hello|hi|kind regards|best regards|regards|thank)\b", re.I)


@dataclass(frozen=True)
class Learning:
    """What a verdict changes in long-term memory: `forget` by id, then `remember` with `note`."""

    forget: tuple[str, ...] = ()
    remember: tuple[Record, ...] = ()
    note: Note | None = None


def decision(run: RunState, customer: str, intent: str, ended: str, reason: str) -> Record:
    """The record of a ticket that is decided; the same for the same run, however often it is
    worked. `reason`'s head is kept, which names nobody."""
    return Record(
        run.tenant, DECISION, f"run:{run.run_id}", f"{intent}: {ended}",
        event_at=run.started_at,
        meta={
            "intent": intent, "decision": ended, "reason": reason.partition(":")[0][:200],
            "ticket": str(run.input.get("ticket", "")),
        },
        tier="session",
        subject=customer,
        session=run.agent,
        labels=for_record(UNKNOWN),
        origin=Origin("run", run=run.run_id),
    )  # fmt: skip


def learning(run: RunState, now: Judgement, before: Judgement | None = None) -> Learning:
    """What the verdict `now` on an ended run teaches; `before` is the last one that counted."""
    new = _lesson(run, now)
    old = None if before is None else _lesson(run, before)
    if old is not None and new is not None and (old.id, old.meta) == (new.id, new.meta):
        return Learning()
    said = now.feedback
    return Learning(
        (old.id,) if old is not None else (),
        (new,) if new is not None else (),
        Note(said.by, f"{said.verdict}: run {run.run_id}"),
    )


def general(answer: str) -> str:
    """The sentences of an answer that hold for any customer."""
    references = References()
    rewritten = references.rewrite(without_citations(answer))
    kept = [
        references.render(part.strip())
        for part in _SENTENCE.split(rewritten)
        if part.strip() and not _GREETING.match(part.strip()) and not _names_one(part)
    ]
    return " ".join(kept)


def _lesson(run: RunState, judgement: Judgement) -> Record | None:
    """The past ticket with its answer; None where nothing general was said or accepted."""
    answer = general(_answer(run, judgement.feedback))
    text = str(run.receipts.get("read", {}).get("text", ""))
    if run.workflow != SUPPORT or not answer or not text.strip():
        return None
    intent = str(run.phases.get("intent", {}).get("intent", "unknown"))
    return Record(
        run.tenant, LESSON, f"ticket:{run.input.get('ticket', '')}", References().rewrite(text),
        event_at=judgement.at,
        meta={"intent": intent, "answer": answer},
        subject=str(run.receipts.get("read", {}).get("customer", "")),
        trust="tenant",
        labels=for_record(GENERAL),
        origin=Origin("user", run=run.run_id),
    )  # fmt: skip


def _answer(run: RunState, said: Feedback) -> str:
    if said.verdict == "corrected":
        return said.text
    stands = said.verdict == "accepted" and run.ended is not None
    return str(run.ended.result.get("reply", "")) if run.ended is not None and stands else ""


def _names_one(sentence: str) -> bool:
    return any(found[1] in _OF_ONE_CUSTOMER for found in REFERENCE.finditer(sentence))
