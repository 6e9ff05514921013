"""The routine model as a summariser of conversations (memory/summaries.py): asked with the prompt
that it is trained on, and its form put back into sentences.

The model sees references instead of values, as everywhere, so it can lose a value and not misspell
one. What it says is open is left out: that is a judgement, which rests on no sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agents.chat import Chat
from agents.references import References
from agents.workflows.prompts import summary_messages
from memory.statements import Line

MAX_ANSWER_TOKENS: Final = 256
_AGENTS: Final = frozenset({"agent", "assistant", "support", "note", "system"})
_NONE: Final = "none"
_SEPARATORS: Final = {"Orders": ", ", "Parcels": ", ", "Amounts": ", ", "Promised": "; "}


@dataclass(frozen=True)
class Summariser:
    """A `memory.asking.Complete` over `chat`, whose errors go to the caller; timeout_s in
    seconds."""

    chat: Chat
    model: str
    timeout_s: float = 30.0
    request_id: str = "summary"

    async def __call__(self, lines: Sequence[Line]) -> str:
        references = References()
        roles = {line.who: "agent" if line.who in _AGENTS else "customer" for line in lines}
        told = [(roles[line.who], references.rewrite(line.text)) for line in lines]
        said = await self.chat.complete(
            self.model, summary_messages(told), max_tokens=MAX_ANSWER_TOKENS,
            timeout_s=self.timeout_s, request_id=self.request_id,
        )  # fmt: skip
        agent = next((who for who, role in roles.items() if role == "agent"), "agent")
        return references.render(as_sentences(said.text, agent))


def as_sentences(answer: str, agent: str) -> str:
    """The fields of the model's form as sentences, the promises as the agent's own; an answer
    without the form as it is."""
    fields = dict(line.split(": ", 1) for line in answer.strip().split("\n") if ": " in line)
    if not {"Asked", *_SEPARATORS} <= set(fields):
        return answer
    rows = [f"Asked: {fields['Asked']}."]
    for name, separator in _SEPARATORS.items():
        parts = [part.strip() for part in fields[name].split(separator) if part.strip() != _NONE]
        if name == "Promised":
            rows += [f"{agent}: {part}." for part in parts]
        elif parts:
            rows.append(f"{name}: {', '.join(parts)}.")
    return "\n".join(rows)
