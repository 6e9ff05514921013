"""`mainspring drain`: let what is begun come to its end, and begin nothing new.

Gateways turn new requests away with 503 and when to come again, `/readyz` says no, orchestrators
begin no more turns, batches send no more lines; approvals, looks and what agents themselves ask of
models go on. Runs that wait stay in the journal.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from serve.directory import NOTICED_S

_LOOK_S: Final = 0.5

Ask = Callable[..., Any]
"""What a named actor answers: its name, the method and the method's arguments."""


@dataclass(frozen=True)
class Left:
    """What is still in work: requests at the gateways, and turns of runs."""

    requests: int
    turns: int

    @property
    def nothing(self) -> bool:
        return not (self.requests or self.turns)

    def __str__(self) -> str:
        return f"{self.requests} requests and {self.turns} turns in work"


def drain(
    ask: Ask, directory: str, orchestrators: Sequence[str], deadline_s: float,
    tell: Callable[[Left], None],
) -> Left:  # fmt: skip
    """Drain, and wait until nothing is left in work or `deadline_s` seconds have passed; what is
    left then. `tell` hears of every change."""
    until = time.monotonic() + deadline_s
    ask(directory, "drain", True)
    told: Left | None = None
    began = time.monotonic()
    while True:
        turns = sum(int(ask(name, "drain", True)) for name in orchestrators)
        left = Left(int(ask(directory, "online").in_work), turns)
        if left != told:
            tell(left)
            told = left
        # Gateways hear of it within NOTICED_S, and tell what they have as late again.
        settled = time.monotonic() - began > 2 * NOTICED_S
        if (left.nothing and settled) or time.monotonic() > until:
            return left
        time.sleep(_LOOK_S)


def resume(ask: Ask, directory: str, orchestrators: Sequence[str]) -> None:
    """Begin work again."""
    for name in orchestrators:
        ask(name, "drain", False)
    ask(directory, "drain", False)
