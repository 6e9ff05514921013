"""Keyword weights for what is remembered and for what is asked: words.py, fed from the log."""

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence

from memory.log import Log
from memory.log_rows import Logged
from memory.records import Record
from memory.store import Keywords, Row
from memory.words import REACH, Vocabulary, keywords


class Lexicon:
    """Each tenant's vocabulary, read from the log at its first question. Calls block."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: dict[str, Vocabulary] = {}
        self._lock = threading.Lock()

    def weights(self, tenant: str, question: str) -> Keywords:
        """The question's keywords, weighted by how rare they are with this tenant."""
        with self._lock:
            known = self._known.get(tenant)
            if known is None:
                known = self._known[tenant] = Vocabulary()
                for text in self._log.texts(tenant):
                    known.add(text)
            return known.weights(question)

    def learn(self, records: Iterable[Record]) -> None:
        """Count texts that came."""
        with self._lock:
            for record in records:
                if known := self._known.get(record.tenant):
                    known.add(record.text)

    def unlearn(self, records: Iterable[Record]) -> None:
        """Count texts that went no longer."""
        with self._lock:
            for record in records:
                if known := self._known.get(record.tenant):
                    known.remove(record.text)

    def rows(self, ids: Sequence[str], space: str) -> list[Row]:
        """What the space's index keeps of the records, those without a vector left out."""
        logged = list(self._log.logged(ids, space))
        near = self._passages(logged)
        return [Row(one.record, one.vector, _keywords(one.record, near)) for one in logged]

    def touched(self, records: Sequence[Record]) -> list[str]:
        """Ids of the rows that change when these records come or go: theirs and their
        neighbours'."""
        ids = dict.fromkeys(record.id for record in records)
        documents = {(r.tenant, r.document): r.number for r in records if r.number}
        for (tenant, document), _ in documents.items():
            numbers = {r.number for r in records if (r.tenant, r.document) == (tenant, document)}
            first, last = min(numbers) - REACH, max(numbers) + REACH
            for other in self._log.passages(tenant, document, first, last):
                if any(abs(other.number - n) <= REACH for n in numbers):
                    ids[other.id] = None
        return list(ids)

    def _passages(self, logged: Sequence[Logged]) -> dict[tuple[str, str, int], str]:
        spans: dict[tuple[str, str], list[int]] = defaultdict(list)
        for one in logged:
            if one.record.number:
                spans[one.record.tenant, one.record.document].append(one.record.number)
        found: dict[tuple[str, str, int], str] = {}
        for (tenant, document), numbers in spans.items():
            first, last = min(numbers) - REACH, max(numbers) + REACH
            for record in self._log.passages(tenant, document, first, last):
                found[tenant, document, record.number] = record.text
        return found


def _keywords(record: Record, near: dict[tuple[str, str, int], str]) -> Keywords:
    places = [(abs(d), record.number + d) for d in range(-REACH, REACH + 1) if d]
    neighbours = [
        (distance, near[record.tenant, record.document, number])
        for distance, number in places
        if record.number and (record.tenant, record.document, number) in near
    ]
    return keywords(record.text, neighbours)
