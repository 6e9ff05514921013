"""PURE: what a person wrote instead of a draft, as the model should have written it."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Final

from agents.references import References
from agents.workflows.prompts import citations

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_CITED = re.compile(r"(\((?:E[1-9][0-9]?(?:, ?)?)+\))")
_ALIKE: Final = 0.6


def as_draft(correction: str, draft: str, values: Mapping[str, str]) -> str:
    """`correction` with references in place of `values` (reference to value; an unknown value gets
    a reference that is not among them), without empty lines, and with the citations that
    hold for the sentences of `draft` that are most like its own. One that cites by itself keeps
    its own."""
    known = {r: v for r, v in values.items() if r != v}
    # References without a value here are taken all the same: no new value may get their number.
    known |= {r: r for r in values if r not in known}
    references = References.holding(known)
    # The number of a citation is no value.
    parts = [p if _CITED.match(p) else references.rewrite(p) for p in _CITED.split(correction)]
    lines = [" ".join(line.split()) for line in "".join(parts).splitlines() if line.strip()]
    if citations("\n".join(lines)):
        return "\n".join(lines)
    cited = _cited(draft)
    return "\n".join(_cite(line, cited) for line in lines)


def _cited(draft: str) -> list[tuple[str, str]]:
    """Each sentence of `draft` that rests on a citation, after that citation."""
    found: list[tuple[str, str]] = []
    for line in draft.splitlines():
        _, *cited = _CITED.split(line)
        for citation, claims in zip(cited[::2], cited[1::2], strict=True):
            found += [(citation, s) for s in _SENTENCE.split(claims.strip())]
    return found


def _cite(line: str, cited: Sequence[tuple[str, str]]) -> str:
    """`line` with a citation before each sentence that does not rest on the one before it."""
    sentences: list[str] = []
    holding = ""
    for sentence in _SENTENCE.split(line):
        citation = _citation(sentence, cited)
        new = citation not in ("", holding)
        sentences.append(f"{citation} {sentence}" if new else sentence)
        holding = citation or holding
    return " ".join(sentences)


def _citation(sentence: str, cited: Sequence[tuple[str, str]]) -> str:
    alike = [(_likeness(sentence, s), -i) for i, (_, s) in enumerate(cited)]
    share, best = max(alike, default=(0.0, 0))
    return cited[-best][0] if share >= _ALIKE else ""


def _likeness(sentence: str, cited: str) -> float:
    words = sentence.lower().split(), cited.lower().split()
    return SequenceMatcher(None, *words, autojunk=False).ratio()
