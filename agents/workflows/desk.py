"""What people do at the help-desk, as runs: taken, answered, given back, closed, rated.

A person's act is decided by policy, journaled and receipted as an agent's is. Its words stay on the
desk: the run holds the id of a draft. What is given back while the customer waits for an answer is
worked by the support agent again, which reads the person's note.
"""

from dataclasses import dataclass
from typing import Any, Final

from agents.tools import DESK
from agents.turn import Child, Turn
from agents.workflows.cases import why
from cluster.errors import InvalidInput

__all__ = ["ACTS", "DESK", "Desk", "work"]

ACTS: Final = {
    "take": ("take", ("by",)),
    "answer": ("answer", ("by", "draft")),
    "return": ("give_back", ("by", "draft")),
    "close": ("close_ticket", ("by",)),
    "rate": ("rate", ("score", "draft")),
}
"""By name: its tool, and the tool's arguments, which the run's input holds."""


@dataclass(frozen=True)
class Desk:
    """`head` is the intent head that a ticket which is given back is worked with."""

    head: str


async def work(turn: Turn, desk: Desk) -> None:
    """Do the one act that the run's input names."""
    given = turn.run.input
    act = str(given.get("act"))
    if act not in ACTS:
        raise InvalidInput("act", act, f"one of {list(ACTS)}")
    tool, names = ACTS[act]
    args = {name: given[name] for name in names if name in given}
    done = await turn.act(act, tool, args)
    if done.receipt is None:
        code = done.refusal[0] if done.refusal is not None else "denied"
        return await turn.end("refused", why(done), {"code": code})
    result: dict[str, Any] = {"act": act}
    if act == "rate":
        result |= {"score": done.receipt["score"], "of": done.receipt["of"]}
    if act == "answer" and given.get("closes"):
        await turn.act("close", "close_ticket", {"by": given["by"]})
    if act == "return" and done.receipt["unanswered"] is not None:
        ticket = {"ticket": given["ticket"], "head": desk.head}
        if place := done.receipt["unanswered"]:
            ticket["message"] = place
        agent = f"support/{done.receipt['customer']}"
        result["runs"] = await turn.begin("work", [Child("support", ticket, agent)])
    return await turn.end("done", f"{act}: {done.decision.reason}", result)
