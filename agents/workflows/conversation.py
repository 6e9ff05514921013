"""A conversation: a message becomes an answer of the agent's model, which knows its instructions
and what was said before. It does nothing in the world and has no tools."""

from collections.abc import Sequence
from typing import Any, Final

from agents.chat import Chat
from agents.state import Turn as Earlier
from agents.turn import Turn
from agents.workflows.prompts import Message
from cluster.errors import NotFound

MAX_ANSWER_TOKENS: Final = 512
MAX_HISTORY_CHARS: Final = 4_000


async def work(turn: Turn, chat: Chat, timeout_s: float) -> None:
    """Answer `turn`'s message. NotFound for an agent that is not registered."""
    spec = turn.spec
    if spec is None:
        raise NotFound("agent", turn.run.agent)
    messages = _messages(spec.instructions, turn.agent.turns, str(turn.run.input["message"]))

    async def answer() -> dict[str, Any]:
        said = await chat.complete(
            spec.model, messages, max_tokens=MAX_ANSWER_TOKENS, timeout_s=timeout_s,
            request_id=turn.run.run_id,
        )  # fmt: skip
        return {"text": said.text, "truncated": said.truncated, "usage": [said.usage()]}

    said = await turn.phase("answer", answer)
    await turn.end("answered", "", said)


def _messages(instructions: str, earlier: Sequence[Earlier], message: str) -> list[Message]:
    """The prompt: instructions, as much of what was said before as has room, the message."""
    room = MAX_HISTORY_CHARS
    history: list[Message] = []
    for past in reversed(earlier):
        room -= len(past.message) + len(past.reply)
        if room < 0:
            break
        if past.message and past.reply:
            history += [
                {"role": "assistant", "content": past.reply},
                {"role": "user", "content": past.message},
            ]
    system: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    return [*system, *reversed(history), {"role": "user", "content": message}]
