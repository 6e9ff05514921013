"""What lives in the process only: an agent's ephemeral memory, and what a session just heard.

The session and long-term tiers are in `service.Memory`; a record enters long-term memory by a
promotion. Nothing here is written anywhere.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cluster.errors import NotFound
from cluster.ids import Clock
from memory import recall as ranking
from memory.embed import Embedder
from memory.provenance import said
from memory.records import Found, Hit, Query, Record
from memory.scope import Filter
from memory.store import Row, checked
from memory.tail import Tail
from memory.words import Vocabulary, keywords

_SESSIONS: Final = 1_000
_TEXTS: Final = 200


class Ephemeral:
    """An agent's own memory: gone with its process, or `ttl_s` after a record came.

    The calls are `service.Memory`'s. Beyond `most` records the oldest goes. For one event loop.
    """

    def __init__(
        self, embedder: Embedder, clock: Clock, most: int = 1_000, ttl_s: float = 3_600.0
    ) -> None:
        self._embedder, self._clock = embedder, clock
        self._most, self._ttl_s = most, ttl_s
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._tail, self._vocabulary = Tail(), Vocabulary()

    async def remember(self, records: Sequence[Record]) -> int:
        """Keep the records and say how many were new."""
        self._expire()
        distinct = {record.id: record for record in records}
        new = [record for id, record in distinct.items() if id not in self._records]
        if not new:
            return 0
        vectors = checked(await self._embedder.embed([r.text for r in new]), len(new))
        now = self._clock.now()
        for record, vector in zip(new, vectors, strict=True):
            until = min(record.expires_at or now + self._ttl_s, now + self._ttl_s)
            kept = replace(record, expires_at=until, recorded_at=now)
            self._records[record.id] = kept
            self._tail.upsert([Row(kept, vector, keywords(record.text))])
            self._vocabulary.add(record.text)
        while len(self._records) > self._most:
            self._drop([next(iter(self._records))])
        return len(new)

    async def recall(self, query: Query) -> list[Hit]:
        """The most relevant records, best first."""
        self._expire()
        (vector,) = await self._embedder.embed([query.text])
        now = self._clock.now()
        limit = ranking.candidates_wanted(query)
        scope = Filter.of(query, now)
        near = {m.id: m.score for m in self._tail.nearest(vector, scope, limit)}
        weights = self._vocabulary.weights(query.text)
        said = {m.id: m.score for m in self._tail.matching(weights, scope, limit)}
        found = [Found(self._records[id], near.get(id), said.get(id)) for id in near | said]
        return ranking.rank(found, query, now)

    async def get(self, tenant: str, id: str) -> Record:
        """One record. NotFound when it is not there any more."""
        self._expire()
        record = self._records.get(id)
        if record is None or record.tenant != tenant:
            raise NotFound("memory record", id)
        return record

    async def forget(self, tenant: str, ids: Sequence[str] = (), subject: str = "") -> int:
        """Forget records by id, or all about a subject. Returns how many."""
        gone = [
            record.id
            for record in self._records.values()
            if record.tenant == tenant
            and (record.id in ids or (subject and record.subject == subject))
        ]
        self._drop(gone)
        return len(gone)

    async def listed(self, tenant: str) -> list[Record]:
        """The tenant's records, oldest first."""
        self._expire()
        return [record for record in self._records.values() if record.tenant == tenant]

    def _expire(self) -> None:
        now = self._clock.now()
        self._drop([r.id for r in self._records.values() if (r.expires_at or now) <= now])

    def _drop(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._vocabulary.remove(self._records.pop(id).text)
        self._tail.delete(ids)


class Echoes:
    """What each session was just told from memory, as fingerprints: told back, it is nothing new.

    The latest 200 texts of the latest 1,000 sessions.
    """

    def __init__(self) -> None:
        self._heard: OrderedDict[tuple[str, str], OrderedDict[str, None]] = OrderedDict()

    def hear(self, query: Query, hits: Sequence[Hit]) -> None:
        """The session of the query was told the hits."""
        if not query.session or not hits:
            return
        texts = self._heard.setdefault((query.tenant, query.session), OrderedDict())
        self._heard.move_to_end((query.tenant, query.session))
        for hit in hits:
            texts[said(hit.record.text)] = None
        while len(texts) > _TEXTS:
            texts.popitem(last=False)
        while len(self._heard) > _SESSIONS:
            self._heard.popitem(last=False)

    def heard(self, record: Record) -> bool:
        """Whether the record says what its session was told from memory."""
        texts = self._heard.get((record.tenant, record.session)) if record.session else None
        return bool(texts) and said(record.text) in (texts or {})

    def forget(self, tenant: str) -> None:
        """Forget what the tenant's sessions were told."""
        for key in [key for key in self._heard if key[0] == tenant]:
            del self._heard[key]
