"""PURE: what a person wrote instead of a draft, as the model should have written it."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Final

from agents.references import References
from agents.workflows.prompts import citations, without_citations

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_CITED = re.compile(r"(\((?:E[1-9][0-9]?(?:, ?)?)+\))")
_STOP = re.compile(r"([.!?]*)$")
_ALIKE: Final = 0.6


def as_draft(correction: str, draft: str, values: Mapping[str, str]) -> str:
    """`correction` with references in place of `values` (reference to value; an unknown value gets
    a reference that is not among them), without empty lines, and with the citations of the
    sentences of `draft` that are most like its own. One that cites by itself keeps its own."""
    known = {r: v for r, v in values.items() if r != v}
    # References without a value here are taken all the same: no new value may get their number.
    known |= {r: r for r in values if r not in known}
    references = References.holding(known)
    # The number of a citation is no value.
    parts = [p if _CITED.match(p) else references.rewrite(p) for p in _CITED.split(correction)]
    lines = [" ".join(line.split()) for line in "".join(parts).splitlines() if line.strip()]
    if citations("\n".join(lines)):
        return "\n".join(lines)
    cited = [s for line in draft.splitlines() for s in _SENTENCE.split(line) if citations(s)]
    return "\n".join(" ".join(_cite(s, cited) for s in _SENTENCE.split(line)) for line in lines)


def _cite(sentence: str, cited: Sequence[str]) -> str:
    alike = [(_likeness(sentence, c), i) for i, c in enumerate(cited)]
    share, best = max(alike, key=lambda a: (a[0], -a[1]), default=(0.0, -1))
    if share < _ALIKE:
        return sentence
    ids = ", ".join(citations(cited[best]))
    return _STOP.sub(rf" ({ids})\1", sentence, count=1)


def _likeness(sentence: str, cited: str) -> float:
    words = sentence.lower().split(), without_citations(cited).lower().split()
    return SequenceMatcher(None, *words, autojunk=False).ratio()
