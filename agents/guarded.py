"""A connector that does nothing without a token: what every connector actor is made from."""

from typing import Any

from agents.intents import LOOKUP, Call, Guard
from agents.links import LinkedThreads
from cluster import tracing
from cluster.errors import InvalidInput


class Guarded(LinkedThreads):
    """`perform` and `find` are a connector's own; both are reached through `guard` alone."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def call(
        self,
        tool: str,
        key: str,
        ticket: str,
        args: dict[str, Any],
        token: bytes,
        traceparent: str = "",
    ) -> dict[str, Any]:
        """The receipt of `tool`, done once under `key`. IntentRefused unless `token` is for just
        this; else what `perform` raises."""
        with tracing.span(
            f"connector {tool}", "server", traceparent, gen_ai__tool__name=tool,
            gen_ai__tool__call__id=key,
        ):  # fmt: skip
            self._guard.require(token, Call(tool, key, ticket, args))
            return self.perform(tool, key, ticket, args)

    def lookup(self, key: str, ticket: str, token: bytes) -> dict[str, Any] | None:
        """The receipt of what was done under `key`, or None. IntentRefused as for `call`."""
        self._guard.require(token, Call(LOOKUP, key, ticket, {}))
        return self.find(key)

    def perform(self, tool: str, key: str, ticket: str, args: dict[str, Any]) -> dict[str, Any]:
        """Do it. NotFound or Conflict when the other side refuses (nothing was done then)."""
        raise InvalidInput("tool", tool, "a tool of this connector")

    def find(self, key: str) -> dict[str, Any] | None:
        """See `lookup`."""
        return None
