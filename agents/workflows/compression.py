"""A conversation is summed up in the background: a durable run of its own that delays no answer.

The routine model sums up; where its summary does not pass the probe, or it is away, the speakers'
own sentences do (`memory/summaries.py`). What is rejected leaves the conversation as it was.
"""

from dataclasses import replace
from typing import Any, Final

from agents.chat import Chat
from agents.summariser import Summariser
from agents.turn import Turn
from cluster.errors import InvalidInput
from memory.compression import Sessions, compress
from memory.summaries import POLICY, Policy

_MOST_REASON_CHARS: Final = 1_000
_CALLS: Final = 10
_CALL_S: Final = 5.0  # so that all calls fit into one turn


def policy_of(budget_tokens: int) -> Policy:
    """When a conversation is summed up, and how, for this workflow."""
    return replace(
        POLICY, budget_tokens=budget_tokens, calls=_CALLS, deadline_s=_CALL_S, fall_back=True
    )


async def work(turn: Turn, chat: Chat, memory: Sessions, model: str, policy: Policy) -> None:
    """Sum up the session `input.session` if it is over its budget: `compressed`, `rejected` with
    the reasons, or `not_due`. InvalidInput without a session."""
    session = turn.run.input.get("session")
    if not isinstance(session, str) or not session:
        raise InvalidInput("input.session", session, "the name of a session")
    complete = Summariser(chat, model, policy.deadline_s, turn.run.run_id)

    async def summarise() -> dict[str, Any]:
        outcome = await compress(
            memory, turn.run.tenant, session, complete, name=model, policy=policy
        )
        why_not = "rejected" if outcome.tokens_before else "not_due"
        return {
            "decision": "compressed" if outcome.accepted else why_not,
            "reason": "; ".join(outcome.reasons)[:_MOST_REASON_CHARS],
            "summary": outcome.record.id if outcome.record else "",
            "method": outcome.record.meta["method"] if outcome.record else "",
            "facts": outcome.facts, "tokens_before": outcome.tokens_before,
            "tokens_after": outcome.tokens_after, "tokens_saved": outcome.saved,
        }  # fmt: skip

    done = await turn.phase("summarise", summarise)
    await turn.end(done["decision"], done["reason"], done)
