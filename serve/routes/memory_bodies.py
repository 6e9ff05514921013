"""What clients send to the routes of memory."""

from typing import Any, Literal

from pydantic import Field

from serve.schemas import Body

Trust = Literal["untrusted", "tenant", "trusted"]
Tier = Literal["session", "long_term"]


class Because(Body):
    """Who wants a change, and why; both are kept."""

    by: str = Field(min_length=1, max_length=256)
    why: str = Field(min_length=1, max_length=1_000)


class RememberRequest(Body):
    """`POST /v1/memory`. With a `session` the record belongs to it; without one it is long-term and
    needs a `promotion`. `ttl_s` counts from now. See `memory.records.Record`."""

    text: str
    kind: str = "note"
    source: str = "api"
    event_at: float | None = None
    subject: str = ""
    agent: str = ""
    session: str = ""
    ttl_s: float | None = Field(None, gt=0, le=3.2e9)
    importance: float = Field(0.5, ge=0, le=1)
    labels: list[str] = Field(default_factory=list)
    parents: list[str] = Field(default_factory=list)
    pinned: bool = False
    meta: dict[str, str] = Field(default_factory=dict)
    promotion: Because | None = None


class SearchRequest(Body):
    """`POST /v1/memory/search`; see `memory.records.Query`."""

    text: str
    k: int = 4
    kinds: list[str] = Field(default_factory=list, max_length=16)
    min_score: float = 0.25
    subject: str = ""
    agent: str = ""
    session: str = ""
    tiers: list[Tier] = Field(default_factory=list, max_length=2)
    trust: Trust = "untrusted"
    since: float | None = None
    until: float | None = None
    as_of: float | None = None
    budget_tokens: int | None = None


class ForgetRequest(Because):
    """`POST /v1/memory/forget`: everything about a subject, or records by id."""

    subject: str = ""
    ids: list[str] = Field(default_factory=list, max_length=1_000)


class UpdateRequest(Because):
    """`PATCH /v1/memory/{id}`: a new version with this text."""

    text: str


class HoldRequest(Because):
    """`POST /v1/memory/hold` and `/release`: a subject is under a legal hold, or no more."""

    subject: str = Field(min_length=1, max_length=256)


class ImportRequest(Body):
    """`POST /v1/memory/import`: the lines of an export, each as text or as its object. They are
    remembered as untrusted words of a user, whatever they say."""

    by: str = Field(min_length=1, max_length=256)
    records: list[str | dict[str, Any]] = Field(min_length=1, max_length=1_000)


class ExportRequest(Body):
    """`POST /v1/memory/export`: the file's name in the data folder, without a suffix."""

    name: str
