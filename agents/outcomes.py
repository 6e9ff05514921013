"""PURE: what came of a run, and of many: the numbers behind `mainspring report` and /metrics.

A run counts once it has ended and was worked on: what a person noted as a run (a level of
autonomy, an accepted tool) or did at the help-desk does not. A customer's rating counts for the
workflow whose answer was rated, and for `desk` where a person answered. A run is automated when it
was completed, no person was asked and none took it over; escalated when a person took it over. An
answer that denies or narrows what an agent wanted is an override. A recovery is the time from a
broken turn until the run got on again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from agents.journal import Verdict
from agents.lessons import SUPPORT
from agents.state import RunState
from agents.tools import DESK

Ended = Literal["automated", "assisted", "escalated", "failed", "cancelled", "declined", "rated"]
_NAMED: Final[dict[str, Ended]] = {
    "escalated": "escalated", "failed": "failed", "cancelled": "cancelled", "denied": "declined",
    "refused": "declined",
}  # fmt: skip
_DONE: Final = ("automated", "assisted", "escalated")


@dataclass(frozen=True)
class Outcome:
    """One ended run, or a customer's rating of what one answered (`score`, 1 to 5). `assisted` is a
    run that was completed after a person was asked; `declined` one that policy, a person or a
    connector did not allow. `cited` is None where no reply cites."""

    tenant: str
    workflow: str
    ended: Ended
    seconds: float
    answers: tuple[str, ...] = ()
    broken_turns: int = 0
    recoveries: tuple[float, ...] = ()
    recalled: bool | None = None
    cited: bool | None = None
    tokens: int = 0
    usd: float = 0.0
    ended_at: float = 0.0
    verdict: Verdict | None = None
    score: int | None = None


def outcome(state: RunState, verdict: Verdict | None = None) -> Outcome | None:
    """What came of a run, and what a person said of it last; None while it is open, and for one
    that nobody worked on."""
    if state.ended is None or state.claimed_at is None:
        return None
    result = state.ended.result
    if state.workflow == DESK:
        return _rating(state, result)
    usage = [u for u in result.get("usage", []) if isinstance(u, dict)]
    recalled, cited = _recall(state, result)
    return Outcome(
        state.tenant, state.workflow, _ended(state),
        max(0.0, (state.ended_at or 0.0) - state.started_at), tuple(_answers(state)),
        state.failures, state.recoveries, recalled, cited,
        sum(int(u.get("prompt_tokens", 0)) + int(u.get("completion_tokens", 0)) for u in usage),
        sum(float(u.get("cost_usd", 0.0)) for u in usage), state.ended_at or 0.0, verdict,
    )  # fmt: skip


def _rating(state: RunState, result: dict[str, Any]) -> Outcome | None:
    """What a run of a person's act counts for; None for all but ratings."""
    if "score" not in result:
        return None
    rated = SUPPORT if result.get("of") == "agent" else DESK
    at, score = state.ended_at or 0.0, int(result["score"])
    return Outcome(state.tenant, rated, "rated", 0.0, ended_at=at, score=score)


def _ended(state: RunState) -> Ended:
    assert state.ended is not None
    usual: Ended = "assisted" if state.approvals else "automated"
    return _NAMED.get(state.ended.decision, usual)


def _answers(state: RunState) -> Iterable[str]:
    for approval in state.approvals.values():
        said = approval.answered
        if said is None:
            yield "expired"
        elif not said.approved:
            yield "denied"
        else:
            cents = approval.asked.cents
            less = said.at_most is not None and cents is not None and said.at_most < cents
            yield "narrowed" if less else "approved"


def _recall(state: RunState, result: dict[str, Any]) -> tuple[bool | None, bool | None]:
    """Whether recall found something, and whether the reply rests on some of it."""
    found = state.phases.get("recall", {}).get("passages")
    if found is None:
        return None, None
    sources = {p.get("source") for p in found}
    cited = result.get("cited")
    return bool(found), None if cited is None else bool(sources & set(cited))


@dataclass
class Tally:
    """The outcomes of a tenant's workflow. `tokens` and `usd` are what models were paid."""

    tenant: str
    workflow: str
    outcomes: list[Outcome] = field(default_factory=list)
    tokens: int = 0
    usd: float = 0.0

    def told(self) -> dict[str, Any]:
        """The numbers; a rate of nothing is None."""
        all_of = [o for o in self.outcomes if o.score is None]
        scores = [o.score for o in self.outcomes if o.score is not None]
        counts = {e: sum(o.ended == e for o in all_of) for e in ("automated", *_REST)}
        completed = [o for o in all_of if o.ended in _DONE]
        seconds = sorted(o.seconds for o in completed)
        answers = [a for o in all_of for a in o.answers]
        said = [a for a in answers if a != "expired"]
        overrides = sum(a in ("denied", "narrowed") for a in said)
        recoveries = sorted(r for o in all_of for r in o.recoveries)
        recalls = [o.recalled for o in all_of if o.recalled is not None]
        cited = [o.cited for o in all_of if o.cited is not None]
        verdicts = [o.verdict for o in all_of if o.verdict is not None]
        return {
            "tenant": self.tenant, "workflow": self.workflow, "runs": len(all_of),
            "completed": len(completed), **counts,
            "automation_rate": _share(counts["automated"], len(all_of)),
            "escalation_rate": _share(counts["escalated"], len(all_of)),
            "failure_rate": _share(counts["failed"], len(all_of)),
            "asked": len(answers), "answered": len(said), "overrides": overrides,
            "override_rate": _share(overrides, len(said)),
            "seconds_mean": _mean(seconds), "seconds_p50": _quantile(seconds, 0.5),
            "seconds_p95": _quantile(seconds, 0.95),
            "broken_turns": sum(o.broken_turns for o in all_of), "recoveries": len(recoveries),
            "recovery_s_mean": _mean(recoveries), "recovery_s_p95": _quantile(recoveries, 0.95),
            "recalls": len(recalls), "recall_found_rate": _share(sum(recalls), len(recalls)),
            "recall_cited_rate": _share(sum(cited), len(cited)),
            "judged": len(verdicts),
            "accepted_rate": _share(verdicts.count("accepted"), len(verdicts)),
            "ratings": len(scores), "rating_mean": _mean(scores),
            "tokens": self.tokens, "usd": self.usd,
            "tokens_per_completed": _share(self.tokens, len(completed)),
            "usd_per_completed": _share(self.usd, len(completed)),
        }  # fmt: skip


_REST: Final = ("assisted", "escalated", "declined", "failed", "cancelled")


def tallied(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], Tally]:
    """The outcomes by tenant and workflow; what models were paid is not in them yet."""
    tallies: dict[tuple[str, str], Tally] = {}
    for told in outcomes:
        key = (told.tenant, told.workflow)
        tallies.setdefault(key, Tally(*key)).outcomes.append(told)
    return tallies


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _quantile(values: Sequence[float], share: float) -> float | None:
    """Of sorted values, the nearest rank."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None
