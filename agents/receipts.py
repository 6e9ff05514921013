"""PURE: receipts: of each step its action, context, decision, outcome and identity.

They are made from the journal's events, so they are as whole as its chain; a receipt names the
event that it ends with. Nothing personal is in one: arguments and results are there as hashes,
facts as numbers and words of closed lists, and names of agents and people without what looks
personal: masked, or with pseudonyms that can be told apart (`agents/pseudonyms.py`).
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from agents.digests import digest
from agents.events import (
    ApprovalAnswered,
    ApprovalAsked,
    EffectDone,
    EffectFailed,
    EffectParked,
    EffectResolved,
    EffectStarted,
    Event,
    StepDecided,
)
from agents.pii import Vault
from agents.state import RunState, fold

_WORDS: Final = frozenset({"tenant", "intent", "order_status", "sharing"})
OUTCOMES: Final = ("waits", "not done", "started", "done", "refused", "unknown")
"""What becomes of a step, in the words of `undone` and `outcome_of`."""

Receipt = dict[str, Any]


Named = Callable[[str], str]
"""How a name of an agent or of a person is written."""


def masked_name(name: str) -> str:
    """A name without what looks personal in it; nothing brings that back."""
    return Vault().redact(name)


def receipts(run_id: str, events: Sequence[Event], named: Named = masked_name) -> list[Receipt]:
    """The receipts of a run's steps, in the order in which they were decided."""
    run = fold(run_id, events)
    made: dict[str, Receipt] = {}
    for event in events:
        match event.payload:
            case StepDecided() as decided:
                earlier = made.get(decided.step, {})
                made[decided.step] = _decided(run, event, decided, earlier, named)
            case ApprovalAsked(step=step, approval=approval, rules=rules):
                made[step]["approval"] = {"id": approval, "rules": list(rules), "answer": "open"}
            case ApprovalAnswered() as answered:
                made[answered.step]["approval"] |= {
                    "answer": "approved" if answered.approved else "denied",
                    "by": named(answered.by), "at": event.at, "at_most": answered.at_most,
                }  # fmt: skip
            case payload:
                _outcome(made, event, payload, named)
    return list(made.values())


def _decided(
    run: RunState, event: Event, decided: StepDecided, earlier: Receipt, named: Named
) -> Receipt:
    args = {**decided.args, **decided.changed}
    told: Receipt = {
        "run": run.run_id, "step": decided.step,
        "identity": {
            "tenant": run.tenant, "workflow": run.workflow, "agent": named(run.agent),
            "epoch": event.epoch,
        },
        "action": {"tool": decided.tool, "arguments": digest(decided.tool, args)},
        "context": {k: v for k, v in decided.facts.items() if _closed(k, v)},
        "decision": {
            "answer": decided.answer, "rule": decided.rule, "at": event.at,
            "changed": sorted(decided.changed),
        },
        "outcome": {"state": undone(decided)},
        "event": event.seq, "hash": event.hash,
    }  # fmt: skip
    return told | ({"approval": earlier["approval"]} if "approval" in earlier else {})


def undone(decided: StepDecided) -> str:
    """The outcome of a step of which nothing but this is known."""
    return "waits" if decided.answer in {"ask", "wait"} else "not done"


def outcome_of(payload: Any, named: Named = masked_name) -> dict[str, Any] | None:
    """The outcome of a step that an event tells, its `state` one of OUTCOMES; None when it tells
    none."""
    match payload:
        case EffectStarted():
            return {"state": "started"}
        case EffectDone(receipt=receipt):
            return {"state": "done", "receipt": digest("receipt", receipt)}
        case EffectFailed(code=code):
            return {"state": "refused", "code": code}
        case EffectParked():
            return {"state": "unknown"}
        case EffectResolved(done=done, by=by):
            return {"state": "done" if done else "not done", "by": named(by)}
    return None


def _outcome(made: dict[str, Receipt], event: Event, payload: Any, named: Named) -> None:
    told = outcome_of(payload, named)
    if told is None:
        return
    if isinstance(payload, EffectStarted):
        made[payload.step]["action"]["effect"] = payload.key
    made[payload.step] |= {
        "outcome": {**told, "at": event.at},
        "event": event.seq,
        "hash": event.hash,
    }


def _closed(name: str, value: Any) -> bool:
    return isinstance(value, bool | int | float) or name in _WORDS
