"""A model is asked for the summary of a part of a conversation, and may do anything: be slow, fail,
answer with nothing or with megabytes. What comes back is a text of reasonable size, or `Unusable`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from cluster.errors import Unavailable
from memory.statements import Line

Complete = Callable[[Sequence[Line]], Awaitable[str]]
"""A model: a part of a conversation becomes its summary, sentence by sentence; a line that quotes a
speaker begins with "who: "."""
Count = Callable[[str], int]
"""The tokens of a text."""

_SHOWN: Final = 300
_SPARE_CHARS: Final = 1_000  # that an answer may have beyond twice what it sums up


class Unusable(Exception):
    """The model gave no answer, or none that can be used; `reached` is whether it was there."""

    def __init__(self, reason: str, reached: bool = True) -> None:
        super().__init__(reason, reached)
        self.reason, self.reached = reason, reached


def windows(
    lines: Sequence[Line], most_tokens: int, most_lines: int, count: Count
) -> list[list[Line]]:
    """The lines, in parts that one call can read; a line that is longer than that is one part."""
    parts: list[list[Line]] = []
    room = 0
    for line in lines:
        size = count(line.text)
        if not parts or size > room or len(parts[-1]) >= most_lines:
            parts.append([])
            room = most_tokens
        parts[-1].append(line)
        room -= size
    return parts


async def ask(complete: Complete, part: Sequence[Line], limit_s: float) -> str:
    """The model's answer, within `limit_s` seconds. Raises Unusable, whatever the model raises."""

    async def answered() -> Any:
        return await complete(part)

    call = asyncio.create_task(answered())
    try:
        # a model that does not let itself be cancelled is not waited for
        await asyncio.wait({call}, timeout=limit_s)
    finally:
        call.cancel()
        call.add_done_callback(lambda c: c.cancelled() or c.exception())
    if not call.done():
        raise Unusable(f"the model took longer than {limit_s:g} s")
    error = None if call.cancelled() else call.exception()
    if call.cancelled() or error is not None:
        said = f"the model failed: {type(error).__name__}: {error}"
        raise Unusable(said[:_SHOWN], not isinstance(error, Unavailable))
    return _text(call.result(), sum(len(line.text) for line in part))


def _text(answer: Any, size: int) -> str:
    if not isinstance(answer, str) or not answer.strip():
        raise Unusable("the model answered with no text")
    if len(answer) > _SPARE_CHARS + 2 * size:
        raise Unusable(f"the model answered {len(answer)} characters to {size}")
    if "\x00" in answer or any("\ud800" <= c <= "\udfff" for c in answer):
        raise Unusable("the model answered with characters that are no text")
    return answer
