"""One call of one tool: governed, audited and durable as any other step.

For callers that know what they want done, and for schedules: the run's `input` is
`{"tool": "SERVER/TOOL", "arguments": {...}}`. What comes back is untrusted data.
"""

from typing import Final

from agents.toolbox import of_server
from agents.turn import Turn
from cluster.errors import InvalidInput

STEP: Final = "call"


async def work(turn: Turn) -> None:
    """Call `input.tool`: `done` with its result, `refused` by the server's connector, or `denied`
    by policy or a person. InvalidInput for what names no tool of a server."""
    tool, given = turn.run.input.get("tool"), turn.run.input.get("arguments", {})
    if not isinstance(tool, str) or not of_server(tool):
        raise InvalidInput("input.tool", tool, "SERVER/TOOL, as `mainspring tools list` shows it")
    if not isinstance(given, dict):
        raise InvalidInput("input.arguments", given, "an object")
    acted = await turn.act(STEP, tool, given)
    if acted.receipt is not None:
        result = {name: acted.receipt[name] for name in ("text", "labels", "cut", "withheld")}
        return await turn.end("done", acted.decision.reason, {"tool": tool, **result})
    if acted.refusal is not None:
        code, reason = acted.refusal
        return await turn.end("refused", reason, {"tool": tool, "code": code})
    return await turn.end("denied", acted.decision.reason, {"tool": tool})
