"""What is remembered: records, the questions asked of them, and the answers.

A record's id is a hash of tenant, kind, source and text: remembering the same thing twice is one
record, and a stored row can be checked against its id. Times are seconds since the Unix epoch,
kept to the millisecond.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from cluster.errors import InvalidInput

TENANT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
MAX_TEXT_BYTES: Final = 64_000
MAX_SOURCE_BYTES: Final = 1_000
MAX_META_BYTES: Final = 16_000
MAX_HITS: Final = 100
MAX_SCOPE_BYTES: Final = 256
"""Of a subject's, an agent's or a session's name."""
MAX_LABELS: Final = 16
MAX_PARENTS: Final = 256
FURTHEST: Final = 1e11
"""The last second that can be stored; times beyond it are mistakes (milliseconds, mostly)."""

Tier = Literal["session", "long_term"]
Trust = Literal["untrusted", "tenant", "trusted"]
SourceKind = Literal["user", "document", "tool", "model", "run"]

TIERS: Final = get_args(Tier)
TRUSTS: Final = get_args(Trust)
"""Rising: what anyone may have written, what the tenant's own people wrote, what was checked."""
SOURCE_KINDS: Final = get_args(SourceKind)
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9_.:-]{0,63}")
_ID: Final = re.compile(r"[0-9a-f]{32}")
_NUMBER: Final = re.compile(r"#(\d{1,9})$")


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


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(name, value, f"one of {', '.join(allowed)}")


def _require_scope(name: str, value: str) -> None:
    if value != "":
        _require_text(name, value, MAX_SCOPE_BYTES)


def _require_time(name: str, value: float) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or abs(value) > FURTHEST:
        raise InvalidInput(name, value, "seconds since the Unix epoch")


def _require_each(name: str, values: tuple[str, ...], pattern: re.Pattern[str], most: int) -> None:
    if not isinstance(values, tuple) or len(values) > most:
        raise InvalidInput(name, values, f"a tuple of at most {most}")
    for value in values:
        _require_name(name, value, pattern)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record comes from, as the runtime saw it; no model and no tool writes this.

    tool_or_model is the tool's or the model's id, run the run's, each "" where there is none.
    """

    source_kind: SourceKind = "document"
    tool_or_model: str = ""
    run: str = ""

    def __post_init__(self) -> None:
        _require_one_of("origin.source_kind", self.source_kind, SOURCE_KINDS)
        _require_scope("origin.tool_or_model", self.tool_or_model)
        _require_scope("origin.run", self.run)


@dataclass(frozen=True, slots=True)
class Record:
    """One remembered text and where it comes from.

    kind is what it is ("policy", "ticket"); source says where from, as "policy:returns.md#1" or
    "ticket:PT-014"; event_at is when it happened or was written. subject, agent and session say
    whom it is about, who keeps it and in which conversation ("" where that does not apply; a
    record of the session tier names its session). expires_at None is never. importance is 0 to 1.
    trust and labels of a record with parents are the service's to say: the least of the parents'
    trust, all of their labels. recorded_at and superseded_at are stamped by the log and are no part
    of what the record says. Raises InvalidInput for a field that can't be stored.
    """

    tenant: str
    kind: str
    source: str
    text: str
    event_at: float
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    tier: Tier = "long_term"
    subject: str = ""
    agent: str = ""
    session: str = ""
    expires_at: float | None = None
    importance: float = 0.5
    trust: Trust = "untrusted"
    labels: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    origin: Origin = Origin()
    pinned: bool = False
    recorded_at: float = field(default=0.0, compare=False)
    superseded_at: float | None = field(default=None, compare=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        _require_name("tenant", self.tenant, TENANT)
        _require_name("kind", self.kind, KIND)
        _require_text("source", self.source, MAX_SOURCE_BYTES)
        _require_text("text", self.text, MAX_TEXT_BYTES)
        self._check_meta()
        self._check_scope()
        self._check_times()
        self._check_standing()
        object.__setattr__(self, "labels", tuple(sorted(set(self.labels))))
        object.__setattr__(self, "id", record_id(self.tenant, self.kind, self.source, self.text))

    def _check_meta(self) -> None:
        for key, value in self.meta.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise InvalidInput("meta", self.meta, "text keys with text values")
        try:
            size = sum(len(k.encode()) + len(v.encode()) for k, v in self.meta.items())
        except UnicodeEncodeError:
            raise InvalidInput("meta", self.meta, "valid Unicode (no lone surrogates)") from None
        if size > MAX_META_BYTES:
            raise InvalidInput("meta", "...", f"at most {MAX_META_BYTES} bytes")
        if any("\x00" in part for pair in self.meta.items() for part in pair):
            raise InvalidInput("meta", self.meta, "texts without NUL characters")

    def _check_scope(self) -> None:
        _require_one_of("tier", self.tier, TIERS)
        for name in ("subject", "agent", "session"):
            _require_scope(name, getattr(self, name))
        if self.tier == "session" and not self.session:
            raise InvalidInput("session", "", "the name of the session, as the tier is session")

    def _check_times(self) -> None:
        for name in ("event_at", "expires_at", "recorded_at", "superseded_at"):
            value = getattr(self, name)
            if value is not None:
                _require_time(name, value)
                object.__setattr__(self, name, round(value, 3))
            elif name in {"event_at", "recorded_at"}:
                raise InvalidInput(name, value, "seconds since the Unix epoch")

    def _check_standing(self) -> None:
        if not isinstance(self.importance, int | float) or not 0 <= self.importance <= 1:
            raise InvalidInput("importance", self.importance, "a number from 0 to 1")
        _require_one_of("trust", self.trust, TRUSTS)
        _require_each("labels", self.labels, _LABEL, MAX_LABELS)
        _require_each("parents", self.parents, _ID, MAX_PARENTS)

    @property
    def document(self) -> str:
        """What the record is a part of: its source without the passage number."""
        return self.source.partition("#")[0]

    @property
    def number(self) -> int:
        """Its place in the document, from 1; 0 for a record that is no numbered part."""
        match = _NUMBER.search(self.source)
        return int(match[1]) if match else 0


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
    min_score is the least cosine similarity of a hit, unless it says most of the question's words.
    min_relevance is what the best one must reach, or nothing comes (what it lets through and what
    not: `make bench-retrieval`). without names sources that must not come back, such as the very
    ticket that asks.

    A named subject or agent finds what is its own or no one's in particular; a named session finds
    its own session records and every long-term one; "" asks for all. tiers () means both. trust is
    the least wanted. since and until bound event_at, both included; as_of asks for what was known
    at that moment. budget_tokens bounds the hits' texts together, None leaves them unbounded.
    """

    tenant: str
    text: str
    k: int = 4
    kinds: tuple[str, ...] = ()
    min_score: float = 0.25
    min_relevance: float = 0.3
    without: frozenset[str] = frozenset()
    subject: str = ""
    agent: str = ""
    session: str = ""
    tiers: tuple[Tier, ...] = ()
    trust: Trust = "untrusted"
    since: float | None = None
    until: float | None = None
    as_of: float | None = None
    budget_tokens: int | None = None

    def __post_init__(self) -> None:
        _require_name("tenant", self.tenant, TENANT)
        _require_text("text", self.text, MAX_TEXT_BYTES)
        for kind in self.kinds:
            _require_name("kinds", kind, KIND)
        if not 1 <= self.k <= MAX_HITS:
            raise InvalidInput("k", self.k, f"1 to {MAX_HITS}")
        if not -1.0 <= self.min_score <= 1.0:
            raise InvalidInput("min_score", self.min_score, "a cosine between -1 and 1")
        if not 0.0 <= self.min_relevance <= 2.0:
            raise InvalidInput("min_relevance", self.min_relevance, "0 to 2")
        if self.budget_tokens is not None and self.budget_tokens < 1:
            raise InvalidInput("budget_tokens", self.budget_tokens, "at least 1, or none")
        self._check_scope()

    def _check_scope(self) -> None:
        for name in ("subject", "agent", "session"):
            _require_scope(name, getattr(self, name))
        for tier in self.tiers:
            _require_one_of("tiers", tier, TIERS)
        _require_one_of("trust", self.trust, TRUSTS)
        for name in ("since", "until", "as_of"):
            if getattr(self, name) is not None:
                _require_time(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Found:
    """A record as the searches found it, before ranking: its cosine similarity to the question and
    its keyword score, each None where that search did not bring it."""

    record: Record
    dense: float | None
    keyword: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that answers a query, how well, and why it was chosen.

    score is what hits are ordered by: relevance, from 0 to a little over 1, weighed by freshness
    and importance. scores holds what it was made from: "dense" (the cosine), "keyword",
    "relevance", "freshness", "importance".
    """

    record: Record
    score: float
    reason: str
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)
