"""PURE: would a search engine and a reader get along with the piece?

Covered: the lengths of title and description, headings, links, readability, keywords. The reading
ease is Flesch's, for English, on our own count of syllables: the well-kept library for it
(textstat) needs NLTK and a dictionary that is loaded from the network. Not covered: ranking, images
and the page that the piece stands on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from agents.workflows.content.article import (
    DESCRIPTION,
    TITLE,
    Piece,
    headings,
    links,
    plain,
)
from agents.workflows.content.evidence import names

Severity = Literal["hard", "soft"]
_EASY: Final = 50.0
"""Flesch's figure from which on a text is plain English; most posts have 60 to 80."""
_LONGEST_TITLE: Final = 75
_LONGEST_DESCRIPTION: Final = 220
_SENTENCE: Final = re.compile(r"[.!?]+(?:\s|$)")
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_VOWELS: Final = re.compile(r"[aeiouyà-ÿ]+", re.IGNORECASE)
_COVERED: Final = 0.5  # of the keywords


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a piece. With a hard one it is not published unless a person says so."""

    check: str
    severity: Severity
    detail: str

    def as_json(self) -> dict[str, str]:
        """As a phase's result holds it."""
        return {"check": self.check, "severity": self.severity, "detail": self.detail}


def checked(piece: Piece, keywords: Sequence[str]) -> dict[str, Any]:
    """The `flaws` of a piece, the hard ones first, its `ease` of reading and the share of the
    `keywords` that it holds (`coverage`, 1.0 when none are asked for)."""
    text = plain(piece)
    ease = reading_ease(text)
    shown = f"{piece['title']} {piece['description']} {text}"
    missing = [k for k in keywords if not names(shown, k)]
    coverage = 1 - len(missing) / len(keywords) if keywords else 1.0
    flaws = [
        *_length("title", piece["title"], TITLE, _LONGEST_TITLE),
        *_length("description", piece["description"], DESCRIPTION, _LONGEST_DESCRIPTION),
        *_headings(headings(piece)),
        *_links(links(piece), piece["slug"]),
        *_readable(ease),
        *_keywords(missing, coverage),
    ]
    return {
        "flaws": [f.as_json() for f in sorted(flaws, key=lambda f: f.severity)],
        "ease": round(ease, 1), "coverage": round(coverage, 2),
    }  # fmt: skip


def reading_ease(text: str) -> float:
    """Flesch's reading ease: 100 is very easy, below 30 very hard; 100 for no words."""
    words = _WORD.findall(text)
    if not words:
        return 100.0
    sentences = max(1, len(_SENTENCE.findall(text)))
    syllables = sum(syllables_of(word) for word in words)
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)


def syllables_of(word: str) -> int:
    """About how many syllables an English word has: groups of vowels, without a silent e."""
    word = word.lower().replace("'", "").replace("’", "")
    count = len(_VOWELS.findall(word))
    silent = word.endswith(("e", "es", "ed")) and not word.endswith(
        ("le", "les", "ted", "ded", "ses", "ces", "ges", "zes", "shes", "ches", "xes", "ee", "ie")
    )
    return max(1, count - silent)


def _length(name: str, text: str, bounds: tuple[int, int], longest: int) -> list[Flaw]:
    least, most = bounds
    if not text or len(text) > longest:
        return [Flaw(name, "hard", f"{len(text)} characters; 1 to {longest} can be published")]
    if not least <= len(text) <= most:
        return [Flaw(name, "soft", f"{len(text)} characters; {least} to {most} are best")]
    return []


def _headings(found: Sequence[str]) -> list[Flaw]:
    if not found:
        return [Flaw("headings", "hard", "the article has no section")]
    twice = sorted({h for h in found if found.count(h) > 1})
    return [Flaw("headings", "soft", f"{h} stands over two sections") for h in twice]


def _links(found: Sequence[tuple[str, str]], slug: str) -> list[Flaw]:
    if not found:
        return [Flaw("links", "soft", "no link to a source or an earlier piece")]
    bad = [url for _, url in found if not re.match(r"https?://|/|[\w./-]+$", url)]
    own = [url for _, url in found if url.rstrip("/").endswith(f"/{slug}")]
    return [Flaw("links", "hard", f"{url[:80]} is no address of a page") for url in bad] + [
        Flaw("links", "soft", f"{url[:80]} is the piece itself") for url in own
    ]


def _readable(ease: float) -> list[Flaw]:
    if ease >= _EASY:
        return []
    return [Flaw("readability", "soft", f"reading ease {ease:.0f}; {_EASY:.0f} and more is plain")]


def _keywords(missing: Sequence[str], coverage: float) -> list[Flaw]:
    if not missing:
        return []
    severity: Severity = "hard" if coverage < _COVERED else "soft"
    return [Flaw("keywords", severity, f"nothing holds {', '.join(missing)}")]
