"""PURE: the facts of a brief: which lines they are, what kind, whether they name the topic.

Covered: lines that give orders to a model are taken out before one reads them, by the forms that
such orders have; a fact that does not name the topic is none of this brief's. Not covered: whether
a fact is true, and a fact about another thing whose name holds the whole topic.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents.references import REFERENCE
from agents.workflows.prompts import MAX_EVIDENCE_CHARS, as_data
from cluster.errors import InvalidInput

MAX_FACTS: Final = 60
_BULLET: Final = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_SOURCE: Final = re.compile(r"\s*\[(\d{1,2})\]\s*$")
_CITED: Final = re.compile(r"\(E\d[^)]{0,40}\)")
_SENTENCE: Final = re.compile(r"(?<=[.!?;])\s+")
_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_MONEY: Final = re.compile(r"[€$£]")
_LONG_WORD: Final = 4
_NAMELESS: Final = frozenset(("the", "a", "an", "our", "and"))
_ORDERS: Final = re.compile(
    r"\b(?:ignore|forget|disregard|override)\b.{0,40}\b(?:rules?|brief|evidence|instructions?"
    r"|prompt|above|previous|everything)\b"
    r"|^\s*(?:system|admin|assistant|instruction|developer|user)\s*:"
    r"|\b(?:note to|dear|hey|attention)\b.{0,8}\b(?:ai|model|assistant|bot)\b|^\s*(?:ai|model)\s*,"
    r"|\byou are now\b|\b(?:new|secret|hidden) (?:rule|instruction|order)s?\s*:"
    r"|^\s*(?:please )?(?:write|say|post|print|answer|reply|copy|output)\b.{0,60}"
    r"\b(?:that|this|only|your|yes|these)\b"
    r"|\bdo not (?:use|follow|write|mention)\b.{0,30}\b(?:brief|evidence|rules|about)\b"
    r"|^\s*stop here\b|\bsystem prompt\b",
    re.IGNORECASE,
)
_FRAMES: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^(?:new|now|soon|back|back in the shop|just in|coming soon|news)\s*:\s*",
        r"^(?:all about|news about|a post about|a story about|about|meet|discover|introducing|why"
        r"|welcome to|say hello to|how to (?:use|choose)|(?:spring|summer|autumn|winter) with"
        r"|a (?:gift|week|day|month) with)\s+",
        r"^(?:the|our|my|your|an?|this|these)\s+",
        r"^(?:new|brand-new|next)\s+(?=\S+\s+\S)",
        r"\s+(?:in|for|this|next|of|at)\s+(?:the\s+)?(?:spring|summer|autumn|winter|week|month"
        r"|year|season|holidays?|christmas|easter|weekend)$",
        r"\s+and (?:its|their|his|her) (?:story|maker|makers)$",
        r"\s+(?:is|are) (?:back|here|open)(?: again)?$",
        r"\s*[:–—|]\s.*$",
    )
)
# A kind by words that a fact of it has, the telling kinds first. A star is any end.
_WORDS: Final = {
    "guarantee": "guarante* warrant* repair* returned refund* spare",
    "delivery": "deliver* ship* arriv* courier dispatch* collected postage posted door",
    "booking": "book booked booking bookings reserv* cancel* register* places tickets",
    "care": "wash* wipe* cleaned brush* rins* dishwasher iron ironed ironing polish* descal* oiled",
    "storage": "store stored storage keep keeps fridge freez* frozen fresh shelf",
    "price": "price* cost costs pay pays save saves saving eur usd gbp euro euros discount*"
    " cheaper",
    "duration": "minute* hour* lasts lasting day-long half starts ends weeks evenings",
    "size": "cm mm metre* meter* kg gram grams litre* liter* wide high tall long weigh* measur*"
    " size sizes holds fits diameter ml",
    "ingredients": "ingredient* flour sugar butter milk egg eggs honey salt yeast vegan organic"
    " gluten nut nuts beans fruit",
    "team": "taught teach* led lead leads guide guides guided trainer* instructor* experience"
    " host hosts hosted coach* staff",
    "maker": "maker makers makes sew* woven brewed family farm sisters brothers designed handmade"
    " hand",
    "material": "made material* wood oak pine walnut steel glass wool cotton linen leather clay"
    " recycled brass cork bamboo ceramic silk copper rubber paper",
    "place": "room garden market town street studio hall meet meets home online square station"
    " library",
}
OTHER: Final = "details"
KINDS: Final = (*_WORDS, OTHER)


@dataclass(frozen=True)
class Fact:
    """A line of the brief: `line` from 1, `source` the number of the page it comes from, or 0."""

    id: str
    line: int
    text: str
    kind: str
    source: int = 0

    def as_json(self) -> dict[str, Any]:
        """As a phase's result holds it."""
        return {
            "id": self.id, "line": self.line, "text": self.text, "kind": self.kind,
            "source": self.source,
        }  # fmt: skip


@dataclass(frozen=True)
class LeftOut:
    """A line that no text is made from, and why."""

    line: int
    text: str
    why: str

    def as_json(self) -> dict[str, Any]:
        return {"line": self.line, "text": self.text[:160], "why": self.why}


def facts_of(text: str, sources: int = 0, thing: str = "") -> tuple[list[Fact], list[LeftOut]]:
    """The facts of a brief's body about `thing`, numbered F1, F2, ... in its order, and the lines
    that are none; empty ones and headings (#) do not count. InvalidInput for more than MAX_FACTS,
    and for one that names a source beyond the `sources` that there are."""
    facts: list[Fact] = []
    left: list[LeftOut] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        said, source = _with_source(_BULLET.sub("", line), number, sources)
        kept = " ".join(s for s in _SENTENCE.split(said) if not _ORDERS.search(s))
        if kept != said:
            left.append(LeftOut(number, said, "it gives orders to whoever writes"))
        for part in _parts(kept):
            if len(part) > MAX_EVIDENCE_CHARS:
                left.append(LeftOut(number, part, f"over {MAX_EVIDENCE_CHARS} characters"))
            elif part.casefold() in {fact.text.casefold() for fact in facts}:
                left.append(LeftOut(number, part, "said twice"))
            elif any(c.isalpha() for c in part):
                facts.append(Fact(f"F{len(facts) + 1}", number, part, kind_of(part, thing), source))
    if len(facts) > MAX_FACTS:
        raise InvalidInput("input.text", f"{len(facts)} facts", f"at most {MAX_FACTS}, one a line")
    return facts, left


def kind_of(text: str, thing: str = "") -> str:
    """What a fact tells, by its words other than the thing's name; OTHER when they tell nothing."""
    said = [word for word in _said(_MONEY.sub(" price ", text)) if not names(thing, word)]
    return next((kind for kind in _WORDS if _has(said, kind)), OTHER)


def about(topic: str) -> str:
    """The thing that a topic is about: "meet the oak lamp this winter" is about the oak lamp."""
    before, thing = "", " ".join(topic.split())
    while before != thing:
        before = thing
        for frame in _FRAMES:
            thing = frame.sub("", thing).strip() or thing
    return thing


def names(text: str, thing: str) -> bool:
    """Whether a text names the thing: it holds all of its words, in the singular or plural."""
    held = {form for word in _said(text) for form in _forms(word)}
    wanted = _said(thing)
    return bool(wanted) and all(_forms(word) & held for word in wanted)


def in_common(text: str, other: str) -> int:
    """How many words of a text another one holds, in the singular or plural."""
    return sum(names(other, word) for word in set(_said(text)))


def own_words(text: str, known: str) -> list[str]:
    """The longer words of a text that are not in what is `known`, in the singular or plural."""
    held = {form for word in _said(known) for form in _forms(word)}
    return [word for word in _said(text) if len(word) >= _LONG_WORD and not _forms(word) & held]


def fitting(facts: Sequence[Fact], thing: str) -> list[Fact]:
    """The facts that name the thing, in their order."""
    return [fact for fact in facts if names(fact.text, thing)]


def _has(said: Sequence[str], kind: str) -> bool:
    return any(_is(word, known) for word in said for known in _WORDS[kind].split())


def _is(word: str, known: str) -> bool:
    return word.startswith(known[:-1]) if known.endswith("*") else word == known


def _with_source(line: str, number: int, sources: int) -> tuple[str, int]:
    found = _SOURCE.search(line)
    # What reads like a citation or a reference of ours would become one.
    plain = REFERENCE.sub(" ", _CITED.sub(" ", _SOURCE.sub("", line)))
    said = as_data(plain, len(line))
    if found is None:
        return said, 0
    source = int(found[1])
    if not 1 <= source <= sources:
        expected = f"one of the {sources} sources of the brief"
        raise InvalidInput("input.text", f"[{source}] in line {number}", expected)
    return said, source


def _parts(line: str) -> list[str]:
    """A line as it is, or by its sentences when it is too long for one fact."""
    return [line] if len(line) <= MAX_EVIDENCE_CHARS else _SENTENCE.split(line)


def _said(text: str) -> list[str]:
    """The words of a text in small letters, without an owner's s and those that name nothing."""
    words = (re.sub(r"['’]s?$", "", word.lower()) for word in _WORD.findall(text))
    return [word for word in words if word not in _NAMELESS]


def _forms(word: str) -> set[str]:
    """What the word is in the singular, as far as its end can tell: boxes is boxe or box."""
    if len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return {word}
    ends = {"s": ("",), "es": ("",), "ies": ("y",), "ves": ("f", "fe")}
    return {word} | {
        word.removesuffix(end) + single
        for end, singles in ends.items()
        if word.endswith(end)
        for single in singles
    }
