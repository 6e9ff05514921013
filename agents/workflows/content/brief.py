"""What a run of `content` is given: a brief for a piece, or the engagement that a piece has had.

The body of a brief are facts, one a line. A fact fits the brief when it names the topic: the other
lines are left out, and the result says which.
"""

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from agents.workflows.content.evidence import facts_of
from cluster.errors import InvalidInput

MAX_TEXT: Final = 20_000
MAX_SLUG: Final = 80
_SLUG: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_WIDE: Final = ((0, 4351), (8192, 8205), (8208, 8223), (8242, 8247))
# Marks that turn the direction of what follows: a reader would see another text.
_TURNING: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Channel:
    """Where a post goes: its most characters, and how many facts a post there tells."""

    limit: int
    facts: int


SITE: Final = "site"
"""The channel of the article itself."""
# The routine reference model is taught just these channels and tones, with so many facts.
CHANNELS: Final[dict[str, Channel]] = {
    "x": Channel(280, 1), "bluesky": Channel(300, 1), "mastodon": Channel(500, 1),
    "threads": Channel(500, 1), "instagram": Channel(2_200, 1), "facebook": Channel(5_000, 2),
    "linkedin": Channel(3_000, 2), "newsletter": Channel(10_000, 2),
}  # fmt: skip
OPENINGS: Final[dict[str, str]] = {
    "warm": "Hello, dear all!",
    "friendly": "Hi there!",
    "factual": "Here is what you need to know.",
    "playful": "Oh, look at this one!",
    "excited": "See this!",
    "formal": "Dear customer.",
    "calm": "Have a look.",
    "proud": "We are happy to tell you about this.",
    "curious": "Did you know?",
    "grateful": "Thank you all!",
}
"""How a post begins, by tone; none of them claims anything."""


def cleaned(text: str) -> str:
    """`text` without control characters and marks that turn its direction."""
    kept = _TURNING.sub("", text)
    return "".join(c if c == "\n" or unicodedata.category(c) != "Cc" else " " for c in kept)


def slug_of(text: str) -> str:
    """`text` as the name of a piece: small letters, digits and single hyphens; "" when it has
    none of these."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))[:MAX_SLUG].strip("-")


def length(channel: str, text: str) -> int:
    """The characters of `text` as the channel counts them: on x most scripts beyond the Latin,
    Greek and Cyrillic ones count twice."""
    if channel != "x":
        return len(text)
    return sum(1 if any(a <= ord(c) <= b for a, b in _WIDE) else 2 for c in text)


def _line(text: str) -> str:
    return " ".join(cleaned(text).split())


def _https(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s<>\"'()\[\]]{3,400}", url):
        raise ValueError("should be the address of a page, as https://example.com/oak")
    return url


def _known_channel(name: str) -> str:
    if name not in CHANNELS:
        raise ValueError(f"should be one of {', '.join(CHANNELS)}")
    return name


def _known_tone(name: str) -> str:
    if name not in OPENINGS:
        raise ValueError(f"should be one of {', '.join(OPENINGS)}")
    return name


Url = Annotated[str, AfterValidator(_https)]
ChannelName = Annotated[str, AfterValidator(_known_channel)]


Line = Annotated[str, AfterValidator(_line)]
"""A text on one line, without what does not show."""


class Brief(BaseModel):
    """The input of a run.

    subject     name of the piece, as in its address; made from the topic when left out
    topic       what it is about; each fact names it
    about       the words of the topic that a fact has to hold; found in the topic when left out
    audience    for whom; tone: one of OPENINGS; channels: those that posts may go to
    text        the facts, one a line, in at most 20,000 characters; one that ends in [2] comes
                from the second of `sources`
    title, description, keywords, link   what search engines are shown; made when left out
    publish_at  when; at once when left out. A time without a zone is UTC

    With task "engagement": the views and clicks that the piece `subject` has had on `channel` so
    far (`site` is the article itself).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["piece", "engagement"] = "piece"
    subject: str = Field("", max_length=MAX_SLUG)
    topic: Line = Field("", max_length=120)
    about: Line = Field("", max_length=80)
    audience: Line = Field("everybody", max_length=80)
    tone: Annotated[str, AfterValidator(_known_tone)] = "factual"
    channels: tuple[ChannelName, ...] = Field(tuple(CHANNELS), max_length=len(CHANNELS))
    text: str = Field("", max_length=MAX_TEXT)
    title: Line = Field("", max_length=120)
    description: Line = Field("", max_length=300)
    keywords: tuple[Annotated[Line, Field(max_length=60)], ...] = Field((), max_length=20)
    sources: tuple[Url, ...] = Field((), max_length=20)
    link: Annotated[str, AfterValidator(lambda url: url and _https(url))] = ""
    publish_at: datetime | None = None
    channel: str = ""
    views: int = Field(0, ge=0, le=10**9)
    clicks: int = Field(0, ge=0, le=10**9)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("subject") or given.get("task") == "engagement":
            return given
        topic = given.get("topic")
        return {**given, "subject": slug_of(topic) if isinstance(topic, str) else ""}

    @field_validator("publish_at")
    @classmethod
    def _with_zone(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    @field_validator("text")
    @classmethod
    def _plain(cls, value: str) -> str:
        return cleaned(value)

    @field_validator("channels")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _whole(self) -> "Brief":
        if self.task == "engagement":
            self._require_engagement()
        elif not self.topic:
            raise InvalidInput("input.topic", self.topic, "what the piece is about")
        elif not self.text.split():
            raise InvalidInput("input.text", "0 words", "the facts of the brief, one a line")
        else:
            facts_of(self.text, len(self.sources))
        if not _SLUG.fullmatch(self.subject):
            expected = "small letters, digits and hyphens, as oak-lamp"
            raise InvalidInput("input.subject", self.subject, expected)
        return self

    def _require_engagement(self) -> None:
        known = (SITE, *CHANNELS)
        if self.channel not in known:
            raise InvalidInput("input.channel", self.channel, f"one of {', '.join(known)}")
        if self.clicks > self.views:
            raise InvalidInput("input.clicks", self.clicks, f"at most the {self.views} views")
