"""A question becomes records with their scores: both searches, and the log's word on what they
found."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from memory import recall as ranking
from memory.lexicon import Lexicon
from memory.live import Live
from memory.log import Log
from memory.records import Found, Query
from memory.scope import Filter
from memory.store import Match


class Searcher:
    """Looks for what a query asks; what is chosen of it is recall.py's to say."""

    def __init__(self, log: Log, lexicon: Lexicon) -> None:
        self._log, self._lexicon = log, lexicon

    async def found(self, live: Live, query: Query, scope: Filter) -> list[Found]:
        """Everything that one of the searches in a space brought and the scope admits."""
        # one search a kind: ten thousand tickets must not keep four policies out of sight
        groups: list[tuple[str, ...]] = [(kind,) for kind in dict.fromkeys(query.kinds)] or [()]
        scopes = [replace(scope, kinds=kinds) for kinds in groups]
        dense, words = await asyncio.gather(
            self._similar(live, query, scopes), self._saying(live, query, scopes)
        )
        return await self._looked_up(dense, words, scope)

    async def _similar(
        self, live: Live, query: Query, scopes: Sequence[Filter]
    ) -> dict[str, float]:
        (vector,) = await live.embedder.embed([query.text])
        limit = ranking.candidates_wanted(query)
        return _scores(
            await asyncio.gather(*(live.index.nearest(vector, s, limit) for s in scopes))
        )

    async def _saying(self, live: Live, query: Query, scopes: Sequence[Filter]) -> dict[str, float]:
        weights = await asyncio.to_thread(self._lexicon.weights, query.tenant, query.text)
        limit = ranking.candidates_wanted(query)
        return _scores(
            await asyncio.gather(*(live.index.matching(weights, s, limit) for s in scopes))
        )

    async def _looked_up(
        self, dense: dict[str, float], words: dict[str, float], scope: Filter
    ) -> list[Found]:
        """What the log has of the ids: the index may be behind, the log is not."""
        ids = list(dense | words)
        records = await asyncio.to_thread(self._log.get, scope.tenant, ids)
        return [
            Found(record, dense.get(id), words.get(id))
            for id in ids
            if (record := records.get(id)) is not None and scope.admits(record)
        ]


def _scores(parts: Sequence[Sequence[Match]]) -> dict[str, float]:
    return {match.id: match.score for part in parts for match in part}
