"""Which model a session is with: its prefix cache is warm there, its tool loop began there.

A session keeps its model for `KEPT_S` seconds after each answer. It is kept by one gateway process;
another one that does not know the session decides anew.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cluster.ids import Clock
from serve.features import Features

KEPT_S: Final = 300.0
MOST: Final = 20_000


@dataclass(frozen=True, slots=True)
class Kept:
    """The model that answered last, and the kind of work that was asked of it; `hard` work was
    tools or structured answers."""

    model: str
    kind: str
    hard: bool
    until: float


class Sessions:
    """The sessions of late, `most` of them; the one that is longest unused goes first."""

    def __init__(self, clock: Clock, most: int = MOST) -> None:
        self._clock, self._most = clock, most
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()

    def model(self, tenant: str, session: str, features: Features) -> str:
        """The session's model; empty without one, or for work that it was not chosen for."""
        kept = self._kept.get((tenant, session)) if session else None
        if kept is None or kept.kind != features.kind or kept.until <= self._clock.monotonic():
            return ""
        return kept.model if kept.hard or not features.hard else ""

    def answered(self, tenant: str, session: str, features: Features, model: str) -> None:
        """The model has taken a request of the session."""
        if not session:
            return
        hard = features.hard or self.model(tenant, session, features) == model
        until = self._clock.monotonic() + KEPT_S
        self._kept[tenant, session] = Kept(model, features.kind, hard, until)
        self._kept.move_to_end((tenant, session))
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
