"""What people accepted, as chats to train on: from the journal and its feedback to JSONL.

Exported: the chats of every ended run of one tenant whose last verdict is `accepted` or
`corrected` and whose hash chain verifies. The messages are what the workflow sent
(`agents/transcripts.py`); they hold references already, and the detector of personal data goes
over each text once more. The same journal gives the same file, byte for byte.

Not covered: what `agents/pii.py` does not find. `agent` in the provenance is a hash of an id, so
that runs of one customer can be told to belong together; who knows all ids can undo it. Runs, not
customers, are divided into splits: one customer's runs may stand on both sides.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agents.journal import Journal, Judgement, RunRow
from agents.pii import Vault
from agents.references import References, references_in
from agents.transcripts import Sample, Workflow, transcribe
from agents.turn import Turn
from agents.workflows import answering, support
from cluster.errors import Conflict, DataError, InvalidInput
from cluster.settings import SupportSection
from memory.log import Note
from memory.records import Query, Record
from serve.distill.chats import Message, Provenance, TracedChat, split_of, write_chats

OPEN: Final = "run has not ended"
UNJUDGED: Final = "run was not judged"
REJECTED: Final = "run was rejected"
BROKEN: Final = "run's hash chain is broken"
FOREIGN: Final = "run began as another tenant's"
UNKNOWN: Final = "run's workflow is not known here"

_HOW: Final = (
    "at least one run that people accepted: `mainspring runs list` shows them, "
    "`mainspring feedback RUN --verdict accepted --by NAME` accepts one"
)


@dataclass
class Report:
    """What was written and what was not: chats by task, split, verdict and model, runs, personal
    data that was still found and replaced, and how often each reason left a run or chat out."""

    path: str
    chats: int = 0
    runs: int = 0
    by_task: Counter[str] = field(default_factory=Counter)
    by_split: Counter[str] = field(default_factory=Counter)
    by_verdict: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    redacted: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def count(self, chats: list[TracedChat]) -> None:
        """Add one run's chats."""
        self.runs += bool(chats)
        self.chats += len(chats)
        for chat in chats:
            self.by_task[chat.task] += 1
            self.by_split[chat.split] += 1
            if chat.provenance is not None:
                self.by_verdict[chat.provenance.verdict] += 1
                self.by_model[chat.provenance.model] += 1


def export(journal: Journal, tenant: str, out: Path, workflows: Mapping[str, Workflow]) -> Report:
    """Write the tenant's accepted chats to `out`, oldest run first. `workflows` replays them by
    name (`workflows_to_replay`).

    Raises InvalidInput, and writes nothing, when there is no chat to write; Unavailable when the
    file can't be written.
    """
    return asyncio.run(_export(journal, tenant, out, workflows))


async def _export(
    journal: Journal, tenant: str, out: Path, workflows: Mapping[str, Workflow]
) -> Report:
    report = Report(str(out))
    chats: list[TracedChat] = []
    for row in journal.runs(tenant):
        found = await _chats_of(journal, row, workflows, report)
        report.count(found)
        chats += found
    if not chats:
        left_out = ", ".join(f"{n} x {why}" for why, n in sorted(report.left_out.items()))
        raise InvalidInput("tenant", tenant, f"{_HOW} (left out: {left_out or 'no run at all'})")
    write_chats(out, chats)
    return report


async def _chats_of(
    journal: Journal, row: RunRow, workflows: Mapping[str, Workflow], report: Report
) -> list[TracedChat]:
    judged = journal.judgements(row.run_id)
    why_not = _why_not(row, judged, workflows)
    if why_not:
        report.left_out[why_not] += 1
        return []
    try:
        last = judged[-1].feedback
        found = await transcribe(journal, row.run_id, workflows[row.workflow], last.text)
    except DataError:
        report.left_out[BROKEN] += 1
        return []
    except Conflict:
        report.left_out[OPEN] += 1
        return []
    # The chain covers the tenant that the run began with; the listing's is a mere column.
    if (str(found.run.input.get("tenant")), found.run.workflow) != (row.tenant, row.workflow):
        report.left_out[FOREIGN] += 1
        return []
    report.left_out.update(found.left_out)
    return [_traced(s, row, judged[-1], found.hash, report) for s in found.samples]


def _why_not(row: RunRow, judged: list[Judgement], workflows: Mapping[str, Workflow]) -> str | None:
    if row.status != "ended":
        return OPEN
    if not judged:
        return UNJUDGED
    if judged[-1].feedback.verdict == "rejected":
        return REJECTED
    return None if row.workflow in workflows else UNKNOWN


def _traced(
    sample: Sample, row: RunRow, judged: Judgement, last_hash: str, report: Report
) -> TracedChat:
    texts = [m["content"] for m in sample.messages] + [sample.answer]
    clean = _redacted(texts)
    report.redacted += sum(a != b for a, b in zip(texts, clean, strict=True))
    roles = [m["role"] for m in sample.messages] + ["assistant"]
    said = [{"role": r, "content": c} for r, c in zip(roles, clean, strict=True)]
    return TracedChat(
        messages=tuple(Message.model_validate(m) for m in said),
        task=sample.task,
        split=split_of(row.run_id),
        provenance=Provenance(
            tenant=row.tenant,
            run_id=row.run_id,
            agent=hashlib.sha256(f"{row.tenant}/{row.agent}".encode()).hexdigest()[:16],
            workflow=row.workflow,
            model=sample.model,
            verdict=judged.feedback.verdict,
            by=judged.feedback.by,
            judged_at=judged.at,
            journal_hash=last_hash,
        ),
    )


def _redacted(texts: list[str]) -> list[str]:
    """The texts of one chat without what is personal in them. What is found here gets a reference
    of its own, behind those that the chat has."""
    held = sorted({r for text in texts for r in references_in(text)})
    vault = Vault(References.holding({r: r for r in held}))
    return [vault.redact(text) for text in texts]


def workflows_to_replay(section: SupportSection) -> dict[str, Workflow]:
    """The workflows that ask models, with nothing in them that a replay could ask by mistake.
    `section` holds the bounds that the runs were worked under."""

    async def supported(turn: Turn, chat: Any) -> None:
        never = _Never()
        parts = answering.Parts(chat, never, never, section, "planner", "routine", 1.0)
        await support.work(turn, parts)

    return {"support": supported}


class _Never:
    """Classifier and memory of a replay: their answers stand in the journal."""

    async def classify(self, text: str) -> dict[str, Any]:
        raise Conflict("replay", "the intent is not in the journal")

    async def drift(self, opened: str, text: str) -> float:
        raise Conflict("replay", "the intent is not in the journal")

    async def recall(self, query: Query) -> list[Any]:
        raise Conflict("replay", "what was recalled is not in the journal")

    async def remember(self, records: Sequence[Record], note: Note | None = None) -> int:
        return 0  # it was remembered when the run was worked
