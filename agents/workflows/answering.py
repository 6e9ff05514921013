"""How a support run ends: a reply that goes out, a hand-over to a person with all that was found, a
closed ticket. And what the workflow works with."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

from agents.chat import Chat
from agents.grounding import check
from agents.lessons import decision
from agents.memories import Recaller
from agents.offering import Offering
from agents.turn import Turn
from agents.workflows import prompts
from agents.workflows.cases import Case, from_servers, result_of, why
from agents.workflows.languages import ENGLISH, Tongues
from cluster.errors import DeadlineExceeded, Overloaded, Unavailable
from cluster.settings import SupportSection
from cluster.telemetry import logger

SHOP: Final = "Lumen & Oak"
_DRAFT_ATTEMPTS: Final = 3
_DRAFT_TOKENS: Final = 220
log = logger("support")


class Classifier(Protocol):
    async def classify(self, text: str) -> dict[str, Any]:
        """`intent`, `confidence` (calibrated, 0 to 1), `out_of_scope` (0 to 1), `gate`."""

    async def drift(self, opened: str, text: str) -> float:
        """How far a text is from what a ticket was opened with: 0 the same, 1 nothing in common."""


@dataclass(frozen=True)
class Parts:
    """What the workflow works with; all of it handed in by the host. Without `tongues` every
    ticket is taken for English."""

    chat: Chat
    classifier: Classifier
    memory: Recaller
    section: SupportSection
    planner: str
    routine: str
    model_timeout_s: float
    servers: Offering | None = None
    tongues: Tongues | None = None


async def reply(turn: Turn, parts: Parts, case: Case) -> None:
    evidence = case.evidence()
    messages = prompts.draft_messages(
        ticket=case.ticket, intent=case.intent["intent"], evidence=evidence
    )

    async def write() -> dict[str, Any]:
        usage: list[dict[str, Any]] = []
        text, findings = "", ["nothing was written"]
        for attempt in range(_DRAFT_ATTEMPTS):
            answer = await parts.chat.complete(
                parts.routine, messages, max_tokens=_DRAFT_TOKENS,
                timeout_s=parts.model_timeout_s, request_id=f"{turn.run.run_id}-draft-{attempt}",
                seed=attempt, temperature=0.4 * attempt,
            )  # fmt: skip
            usage.append(answer.usage())
            text = answer.text.strip()
            findings = [str(f) for f in check(text, evidence, case.references, SHOP)]
            if answer.truncated:
                findings.append(f"cut off: after {_DRAFT_TOKENS} tokens")
            if not findings:
                break
        return {"text": text, "findings": findings, "usage": usage}

    draft = await turn.phase("draft", write)
    case.usage += draft["usage"]

    async def ground() -> dict[str, Any]:
        cited = prompts.citations(draft["text"])
        outside = from_servers(case, cited)
        found = {"findings": draft["findings"], "cited": cited}
        return found | ({"outside": outside} if outside else {})

    grounding = await turn.phase("grounding", ground)
    said = prompts.without_citations(draft["text"])
    text = case.references.render(await _in_their_language(turn, parts, case, said))
    args = {"text": text, "message": case.message} if case.message else {"text": text}
    acted = await turn.act("reply", "reply", args)
    if acted.receipt is None:
        detail = "; ".join(grounding["findings"][:3]) or why(acted)
        return await escalate(turn, parts, case, "reply withheld", f"{why(acted)} ({detail})")
    cited = set(grounding["cited"])
    sources = [e.source for e in evidence if e.id in cited]
    result = result_of(case) | {"reply": text, "cited": sources}
    await _remember(turn, parts, case, "replied", acted.decision.reason)
    await turn.end("replied", acted.decision.reason, result)
    return None


async def _remember(turn: Turn, parts: Parts, case: Case, ended: str, reason: str) -> None:
    """Keep how the ticket was decided, once however often it is done. It is decided all the same
    when memory is away; the journal has it."""
    record = decision(turn.run, case.customer, case.intent["intent"], ended, reason)
    try:
        await parts.memory.remember([record])
    except (Unavailable, Overloaded, DeadlineExceeded) as error:
        log.warning("run %s is not remembered: %s", turn.run.run_id, error)


async def escalate(turn: Turn, parts: Parts, case: Case | None, reason: str, detail: str) -> None:
    summary = f"{reason}: {detail}"
    if case is not None:
        found = "\n".join(f"{e.id} {e.source}: {e.text}" for e in case.evidence())
        said = "".join(f"\n{m['author']}: {m['text']}" for m in case.before)
        summary = case.references.render(
            f"{summary}\nintent: {case.intent['intent']} {case.intent['confidence']:.2f}\n"
            f"plan: {case.plan or 'none'}\nfound:\n{found or 'nothing'}"
            f"{chr(10) + 'said before:' + said if said else ''}"
        )
    handed = await turn.act("escalate", "escalate", {"reason": reason, "summary": summary})
    if handed.receipt is None:
        detail = f"{detail}; the hand-over was refused too: {why(handed)}"
        return await turn.end("failed", f"{reason}: {detail}", result_of(case))
    if case is not None:
        await _remember(turn, parts, case, "escalated", reason)
    return await turn.end("escalated", f"{reason}: {detail}", result_of(case))


async def thanked(turn: Turn, case: Case) -> None:
    case.intent = {"intent": "thanks", "confidence": 1.0, "out_of_scope": 0.0}
    closed = await turn.act("close", "close_ticket", {"by": "support"})
    reason = why(closed) if closed.receipt is None else closed.decision.reason
    await turn.end("closed" if closed.receipt is not None else "failed", reason, result_of(case))


async def _in_their_language(turn: Turn, parts: Parts, case: Case, text: str) -> str:
    """The draft in the ticket's language; in English where no model could put it so."""
    language, told = case.language, turn.run.phases.get("translation")
    if told is None and language and (tongues := parts.tongues) is not None:
        told = await turn.phase(
            "translation", lambda: tongues.put(text, ENGLISH, language, turn.run.run_id)
        )
    if told is None:
        return text
    case.usage += told["usage"]
    return str(told["text"]) or text
