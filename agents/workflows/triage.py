"""Triage: a ticket goes to the queue of its intent when the calibrated gate lets it, else to a
person. No reply is written and no language model is asked: the intent head decides this well, so
it is the cheapest model that does. Similar past tickets are recalled as the evidence."""

from typing import Any

from agents.lessons import LESSON
from agents.memories import Recaller
from agents.turn import Turn
from agents.workflows.answering import Classifier
from agents.workflows.cases import evidence_for, passage
from cluster.errors import NotFound


async def work(turn: Turn, classifier: Classifier, memory: Recaller, evidence: int) -> None:
    """Bring `turn`'s ticket to a queue or to a person."""
    read = await turn.act("read", "read_ticket", {})
    if read.receipt is None:
        raise NotFound("ticket", str(turn.run.input.get("ticket")))
    text = str(read.receipt["text"])
    intent = await turn.phase("intent", lambda: classifier.classify(text))

    async def recall() -> dict[str, Any]:
        asked = evidence_for(turn, text, (LESSON,), evidence)
        return {"passages": [passage(hit) for hit in await memory.recall(asked)]}

    found = await turn.phase("recall", recall)
    result = {
        "intent": intent["intent"], "confidence": intent["confidence"],
        "out_of_scope": intent["out_of_scope"], "usage": [], "plan": "",
        "evidence": [p["source"] for p in found["passages"]],
    }  # fmt: skip
    assigned = await turn.act("assign", "assign", {"queue": intent["intent"]})
    if assigned.receipt is not None:
        return await turn.end("assigned", f"{assigned.decision.reason}: {intent['why']}", result)
    reason = "unsure intent"
    summary = f"{reason}: {intent['why']}; best guess {intent['intent']}"
    handed = await turn.act("escalate", "escalate", {"reason": reason, "summary": summary})
    return await turn.end("failed" if handed.receipt is None else "escalated", summary, result)
