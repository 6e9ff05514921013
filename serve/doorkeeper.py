"""Tells from its Authorization header whom a request comes from.

Three kinds of keys: those in the database; those whose SHA-256 the settings hold, which let the
first administrator in (a gateway beyond loopback refuses to start without one, before there is a
database to ask); and the stack's own, with which its agents come. On loopback, while no key was
ever made, everybody is the development tenant.
"""

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from cluster.errors import Unauthorized
from cluster.ids import Clock
from serve.keys import ApiKey, Keyring, Principal, digest_of, id_of, matched

FRESH_S: Final = 1.0
"""A revoked key opens the door for at most so long, and what was looked up is believed so long."""
_REMEMBERED: Final = 4_096


class Doorkeeper:
    """One a gateway process. Without `keyring` only the settings' keys count."""

    def __init__(
        self,
        tenant: str,
        digests: Sequence[str],
        keyring: Keyring | None,
        clock: Clock,
        own_digest: str | None = None,
    ) -> None:
        self._keyring, self._clock = keyring, clock
        self._known = [(d, Principal(tenant, f"settings-{d[:8]}")) for d in digests]
        if own_digest is not None:
            self._known.append((own_digest, Principal(tenant, "own", trusted=True)))
        self._development = None if digests else Principal(tenant, "development")
        self._rows: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()
        self._any = (float("-inf"), False)

    async def admit(self, authorization: str) -> Principal:
        """Raises Unauthorized unless the header holds a live key, or none is needed."""
        scheme, _, given = authorization.partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else ""
        digest = digest_of(key)
        found = [who for known, who in self._known if hmac.compare_digest(digest, known)]
        if found and key:
            return found[0]
        try:
            return matched(key, await self._row(id_of(key)), self._clock.now())
        except Unauthorized:
            if self._development is None or await self._any_key():
                raise
            return self._development

    async def _row(self, id: str) -> ApiKey | None:
        at, row = self._rows.get(id, (float("-inf"), None))
        if not id or self._keyring is None or self._clock.monotonic() - at < FRESH_S:
            return row
        row = await asyncio.to_thread(self._keyring.find, id)
        self._rows[id] = (self._clock.monotonic(), row)
        self._rows.move_to_end(id)
        if len(self._rows) > _REMEMBERED:
            self._rows.popitem(last=False)
        return row

    async def _any_key(self) -> bool:
        at, there = self._any
        # There is no way back from having keys: only their absence is looked up again.
        if self._keyring is None or there or self._clock.monotonic() - at < FRESH_S:
            return there
        there = await asyncio.to_thread(self._keyring.any)
        self._any = (self._clock.monotonic(), there)
        return there
