"""PURE: does a draft say only what its evidence says?

Covered: every number, amount, date and id, every reference, every name (a capitalised word that
is not the start of a sentence), every citation, whether each sentence after a citation shares
words with what is cited and denies nothing that it does not deny, that a sentence without a
citation claims nothing, and that the text does not go round in circles. Not covered: a claim in
the evidence's own words that says something else with them; the relevance of the evidence is the
recall's and the intent's to hold.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agents.references import REFERENCE, References
from agents.workflows.prompts import NO_ANSWER, Evidence, citations, cited, without_citations

_WORD = re.compile(r"[^\W\d_]{2,}", re.UNICODE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\[(])")
_OWN_WORDS: Final = 0.3  # of a claim's telling words, or one of them
_LONG_WORD: Final = 4
_SHOWN: Final = 80
_DOUBLED = re.compile(r"\b([^\W\d_]{2,})\s+\1\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|never|no|none|cannot)\b|n't", re.IGNORECASE)

# What a polite letter says around its facts, in words that carry no fact.
STOCK: Final = frozenset(
    """hello hi dear thank thanks you your yours for the and with best kind regards sorry please
    lumen oak team we our us have has had can may will would could let know are any that this
    here happy help hear about from into been was were there then than them they but also just
    order orders customer one which what when where who how mean means tell write back reach
    question questions getting touch contacting message writing trouble inconvenience apologise
    apologies of to in on at by is it its be do does did if so as an or all now yet still within
    next number give want like need send check look made make done see refund refunded""".split()
)


@dataclass(frozen=True)
class Finding:
    """Something in the draft that the evidence does not hold. `what` is the kind of thing."""

    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.what}: {self.text}"


def check(
    draft: str, evidence: Sequence[Evidence], references: References, shop: str
) -> list[Finding]:
    """All findings in `draft`; none means grounded. `references` are those of the conversation
    and `shop` the name that a sign-off may hold."""
    if NO_ANSWER in draft or not without_citations(draft):
        return [Finding("no answer", NO_ANSWER)]
    known = {r for e in evidence for r in _references_of(e.text)}
    findings = [
        Finding("reference not in the evidence", m.group())
        for m in REFERENCE.finditer(draft)
        if m.group() not in known
    ]
    findings += _values(draft, evidence, references)
    findings += _citations(draft, evidence)
    findings += _names(draft, evidence, shop)
    findings += _support(draft, evidence)
    findings += _garbled(draft, evidence)
    return findings


def _garbled(draft: str, evidence: Sequence[Evidence]) -> list[Finding]:
    """What a model writes when it has lost its thread: a word again and again, a sentence twice."""
    held = " ".join(e.text for e in evidence).lower()
    stuck = [m for m in _DOUBLED.finditer(draft) if m.group().lower() not in held]
    findings = [Finding("a word again and again", m.group(1).lower()) for m in stuck]
    said: set[str] = set()
    for sentence in _SENTENCE.split(without_citations(draft)):
        key = " ".join(sentence.lower().split())
        if key in said:
            findings.append(Finding("said twice", sentence.strip()[:_SHOWN]))
        said.add(key)
    return findings


def _references_of(text: str) -> set[str]:
    return {m.group() for m in REFERENCE.finditer(text)}


def _values(draft: str, evidence: Sequence[Evidence], references: References) -> list[Finding]:
    """Values that the draft spells out: rewriting both sides finds and normalises them."""
    held = {
        reference
        for e in evidence
        for reference in _references_of(references.rewrite(references.render(e.text)))
    }
    spelt = References()
    spelt.rewrite(without_citations(REFERENCE.sub(" ", draft)))
    values = {references.render(reference).lower() for reference in held}
    return [
        Finding(f"{reference[1:].split('_')[0].lower()} not in the evidence", value)
        for reference, value in spelt.items()
        if value.lower() not in values
    ]


def _citations(draft: str, evidence: Sequence[Evidence]) -> list[Finding]:
    ids = citations(draft)
    known = {e.id for e in evidence}
    if not ids:
        return [Finding("no citation", "the draft cites nothing")]
    return [Finding("citation of nothing", id) for id in ids if id not in known]


def _names(draft: str, evidence: Sequence[Evidence], shop: str) -> list[Finding]:
    allowed = _words(shop) | STOCK | {w for e in evidence for w in _words(e.text)}
    findings: list[Finding] = []
    for sentence in _SENTENCE.split(_plain(draft)):
        for word in _WORD.findall(sentence)[1:]:
            if word[0].isupper() and word.lower() not in allowed:
                findings.append(Finding("name not in the evidence", word))
    return findings


def _support(draft: str, evidence: Sequence[Evidence]) -> list[Finding]:
    """Sentences with too many words that what they cite does not hold, and those that cite
    nothing and say more than a polite letter does. A citation stands before what rests on it, and
    holds up to the next one or the end of the line."""
    texts = {e.id: e.text for e in evidence}
    findings: list[Finding] = []
    for line in draft.splitlines():
        (_, uncited), *rest = cited(line)
        findings += _uncited(_SENTENCE.split(uncited))
        for ids, claims in rest:
            held = " ".join(texts.get(id, "") for id in ids)
            for claim in _SENTENCE.split(claims):
                findings += _unsupported(claim.strip(), held)
    return findings


def _unsupported(claim: str, held: str) -> list[Finding]:
    findings: list[Finding] = []
    words = _telling(claim)
    if len(words - _words(held)) > max(1, _OWN_WORDS * len(words)):
        findings.append(Finding("claim not in what it cites", claim[:_SHOWN]))
    if _NEGATION.search(claim) and not _NEGATION.search(held):
        findings.append(Finding("denies what it cites", claim[:_SHOWN]))
    return findings


def _uncited(sentences: Sequence[str]) -> list[Finding]:
    return [
        Finding("claim without a citation", s.strip()[:_SHOWN]) for s in sentences if _telling(s)
    ]


def _telling(sentence: str) -> set[str]:
    """The long words of a sentence that a polite letter does not hold anyway."""
    return {w for w in _words(sentence) if len(w) >= _LONG_WORD} - STOCK


def _plain(text: str) -> str:
    """The words of `text`: no citations, no references, and no values, which `_values` judges."""
    return REFERENCE.sub(" ", References().rewrite(without_citations(text)))


def _words(text: str) -> set[str]:
    return {w.lower() for w in _WORD.findall(_plain(text))}
