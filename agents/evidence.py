"""PURE: what a person has to see who is asked about a step: the arguments, why it is asked, what
policy looked at, and what the run had found by then."""

from typing import Any, Final

from agents.state import RunState
from cluster.errors import NotFound

MAX_TEXT: Final = 2_000
_SHOWN: Final = ("intent", "confidence", "out_of_scope", "plan", "text", "findings")


def evidence(run: RunState, step: str) -> dict[str, Any]:
    """Of a step that was asked about; texts are as models see them, with references in place of
    personal data, and cut off after MAX_TEXT characters. NotFound when nobody asked about it."""
    approval, decided = run.approvals.get(step), run.decisions.get(step)
    if approval is None or decided is None:
        raise NotFound("question about step", step)
    found = [
        {"source": p["source"], "text": _cut(p["text"])}
        for phase in run.phases.values()
        for p in phase.get("passages", ())
    ]
    return {
        "arguments": {**decided.args, **approval.asked.changed},
        "rules": list(approval.asked.rules), "reason": approval.asked.reason,
        "facts": decided.facts, "asked": approval.to, "reminders": approval.reminders,
        "input": run.input,
        "receipts": {name: _cut(receipt) for name, receipt in run.receipts.items()},
        "phases": {
            name: {key: _cut(phase[key]) for key in _SHOWN if key in phase}
            for name, phase in run.phases.items()
        },
        "passages": found,
    }  # fmt: skip


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}..."
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    return value
