"""What is remembered: records, the questions asked of them, and the answers.

A record's id is a hash of tenant, kind, source and text: remembering the same thing twice is one
record, and a stored row can be checked against its id.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cluster.errors import InvalidInput

TENANT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
MAX_TEXT_BYTES: Final = 64_000
MAX_SOURCE_BYTES: Final = 1_000
MAX_META_BYTES: Final = 16_000
MAX_HITS: Final = 100


def _require_name(name: str, value: str, pattern: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidInput(name, value, f"a name that matches {pattern.pattern}")


def _require_text(name: str, value: str, limit: int) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(name, value, "a text with a visible character")
    if "\x00" in value:
        raise InvalidInput(name, value, "a text without NUL characters")
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidInput(name, value, "valid Unicode (no lone surrogates)") from None
    if size > limit:
        raise InvalidInput(name, f"{value[:40]}... ({size} bytes)", f"at most {limit} bytes")


@dataclass(frozen=True, slots=True)
class Record:
    """One remembered text and where it comes from.

    kind is what it is ("policy", "ticket"); source says where from, as "policy:returns.md#1" or
    "ticket:PT-014"; event_at is when it happened or was written, seconds since the Unix epoch,
    kept to the millisecond. Raises InvalidInput for a field that can't be stored.
    """

    tenant: str
    kind: str
    source: str
    text: str
    event_at: float
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        _require_name("tenant", self.tenant, TENANT)
        _require_name("kind", self.kind, KIND)
        _require_text("source", self.source, MAX_SOURCE_BYTES)
        _require_text("text", self.text, MAX_TEXT_BYTES)
        if not math.isfinite(self.event_at) or abs(self.event_at) > 1e11:
            raise InvalidInput("event_at", self.event_at, "seconds since the Unix epoch")
        for key, value in self.meta.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise InvalidInput("meta", self.meta, "text keys with text values")
        if sum(len(k.encode()) + len(v.encode()) for k, v in self.meta.items()) > MAX_META_BYTES:
            raise InvalidInput("meta", "...", f"at most {MAX_META_BYTES} bytes")
        object.__setattr__(self, "event_at", round(self.event_at, 3))
        object.__setattr__(self, "id", record_id(self.tenant, self.kind, self.source, self.text))

    @property
    def document(self) -> str:
        """What the record is a part of: its source without the passage number."""
        return self.source.partition("#")[0]


def record_id(tenant: str, kind: str, source: str, text: str) -> str:
    """32 hex digits, the same for the same four values on every machine."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (tenant, kind, source, text):
        raw = part.encode("utf-8")
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for, by one tenant.

    k is the most hits wanted; fewer, or none, come when less is relevant. kinds () means every
    kind. With several kinds each gets its share of k before the best of the rest fill up.
    min_score is the least cosine similarity. without names sources that must not come back, such
    as the very ticket that asks.
    """

    tenant: str
    text: str
    k: int = 4
    kinds: tuple[str, ...] = ()
    min_score: float = 0.25
    without: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _require_name("tenant", self.tenant, TENANT)
        _require_text("text", self.text, MAX_TEXT_BYTES)
        for kind in self.kinds:
            _require_name("kinds", kind, KIND)
        if not 1 <= self.k <= MAX_HITS:
            raise InvalidInput("k", self.k, f"1 to {MAX_HITS}")
        if not -1.0 <= self.min_score <= 1.0:
            raise InvalidInput("min_score", self.min_score, "a cosine between -1 and 1")


@dataclass(frozen=True, slots=True)
class Scored:
    """A record and its cosine similarity to a question, as a store finds it."""

    record: Record
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that answers a query, its cosine similarity, and why it was chosen."""

    record: Record
    score: float
    reason: str
